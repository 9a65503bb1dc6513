"""`secagg audit dp`: a bound beside what is accounted, on a page and in files, and no verdict without power."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from secagg_app.main import cli
from secagg_attacks.audit.verdict import HOLDS, POWERLESS


def audit(folder: Path, content: str) -> Result:
    config = folder / "audit.toml"
    config.write_text(content)
    return CliRunner().invoke(cli, ["audit", "dp", "--config", str(config), "--out", str(folder / "out")])


def test_honest_code_holds_and_every_figure_is_kept(tmp_path: Path) -> None:
    done = audit(tmp_path, "canaries = 1000\n[mechanism]\nrate = 1.0\nsteps = 1\nsigma = 4.0\n")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-2] == HOLDS
    plain = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert [each["could_fail"] for each in plain["findings"]] == [True, True]
    assert all(each["epsilon"] < each["accounted"] < each["reach"] for each in plain["findings"])
    scores = pyarrow.parquet.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert len(scores["score"]) == 1000
    assert 400 < sum(scores["member"]) < 600
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert all(f"{each['epsilon']:.2f}" in page and f"{each['reach']:.2f}" in page for each in plain["findings"])


def test_what_could_not_have_failed_is_no_good_news(tmp_path: Path) -> None:
    done = audit(tmp_path, "canaries = 100\n[mechanism]\nrate = 1.0\nsteps = 1\nepsilon = 8.0\n")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-2] == POWERLESS
    page = (tmp_path / "out" / "report.html").read_text()
    assert f'class="warn"><b>{POWERLESS.capitalize()}' in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[mechanism]\nrate = 1.0\nsteps = 1\nsigma = 0.01\n", "protects nobody"),
        ("[mechanism]\nrate = 1.0\nsteps = 1\n", "give either sigma or epsilon"),
        ("canaries = 10\n[mechanism]\nrate = 1.0\nsteps = 1\nsigma = 1.0\n", "canaries"),
    ],
)
def test_what_cannot_be_audited_is_said(tmp_path: Path, content: str, message: str) -> None:
    done = audit(tmp_path, content)
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)
    assert not (tmp_path / "out").exists()
