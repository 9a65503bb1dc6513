"""The page of figures follows from the results that lie beside it (benchmarks/performance_page.py)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT, PAGE, RESULTS = (
    ROOT / "benchmarks/performance_page.py",
    ROOT / "docs/performance.md",
    ROOT / "benchmarks/results",
)


def test_the_page_holds_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(PAGE, page)
    subprocess.run([sys.executable, str(SCRIPT), "--page", str(page)], check=True)
    assert page.read_text() == PAGE.read_text(), "run benchmarks/performance_page.py after a measurement"
    assert not re.search(r"-->\n\n?<!-- end", page.read_text()), "every table is filled"


def test_a_page_without_a_place_is_said(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("nothing\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--page", str(page)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no place for protocols" in done.stderr
