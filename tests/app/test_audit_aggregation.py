"""`secagg audit aggregation`: a page with a row for each attack, and exit status 1 for a hole."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from secagg.policy import Policy
from secagg_app.audit.aggregation_report import sentence
from secagg_app.main import cli


def test_the_page_has_every_attack_with_what_refuses_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["audit", "aggregation", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "colluding clients: NOT stopped" in done.output
    found = json.loads((tmp_path / "aggregation.json").read_text())
    assert found["sound"]
    assert len(found["trials"]) == 7
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    for trial in found["trials"]:
        assert f"{sentence(trial['name'])}: {trial['verdict']}" in page
        assert all(each["held"] and each["error"] in page for each in trial["attempts"])
    assert "NOBODY" not in page


def test_a_hole_is_exit_status_one_and_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEFENCE OFF: policies that check nothing."""
    monkeypatch.setattr(Policy, "check", lambda _self, _descriptor: None)
    done = CliRunner().invoke(cli, ["audit", "aggregation", "--out", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "a cohort of two: A DEFENCE FAILED" in done.output
    assert "error[audit]" in done.output
    assert "NOBODY" in (tmp_path / "report.html").read_text()
    assert not json.loads((tmp_path / "aggregation.json").read_text())["sound"]


def test_help_has_an_example() -> None:
    done = CliRunner().invoke(cli, ["audit", "aggregation", "--help"])
    assert "Example: secagg audit aggregation --out runs/audit-aggregation" in done.output
    assert "aggregation" in CliRunner().invoke(cli, ["audit", "--help"]).output
