"""What the documents say of installing: the wheel that they build and name, and no package of an index."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILD = "python -m build --wheel"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_nothing_is_installed_from_an_index_by_our_name(page: Path) -> None:
    assert not re.search(r"pip install[^\n]*['\" ]secagg(\[|['\"\s])", page.read_text("utf-8"))


def test_the_wheel_that_is_built_is_the_one_that_is_installed(tmp_path: Path) -> None:
    readme, deploy = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/deploy.md"))
    assert BUILD in readme
    assert f"\n{BUILD}\n" in deploy
    command = [sys.executable, *shlex.split(BUILD)[1:], "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for text in (readme, deploy):
        named = re.findall(r"pip install '(?:dist/)?([^'\[]+)\[([^\]]+)\]'", text)
        assert named
        for name, chosen in named:
            assert name == wheel.name
            assert set(chosen.split(",")) <= extras.keys()
