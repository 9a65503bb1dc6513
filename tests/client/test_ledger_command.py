"""`secagg client ledger`: made once, shown to people and machines, asked for by `secagg client run`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from secagg.errors import ConfigError
from secagg_app.main import cli
from secagg_client.client_config import ClientConfig
from secagg_client.client_noise_accounting import composed
from secagg_client.ledger import Ledger
from secagg_host.config import load_toml
from tests.app.test_main import TRAINING, run_without
from tests.client.ledgers import AGAIN, LEVEL, MECHANISM, ONCE, ROOT, A, B, C, quick, spend
from tests.client.support import LM, examples
from tests.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study")).make()


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(cli, [str(word) for word in words])


def ledger(study: Study, name: str, *words: str) -> Any:
    return run("client", "ledger", *words, "--config", study.folder / name / "client.toml")


def test_a_ledger_is_made_without_torch_and_once(study: Study, tmp_path: Path) -> None:
    config = study.write_client("client-1", ledger=str(tmp_path / "ledger"), witness=str(tmp_path / "witness"))
    made = run_without(TRAINING, "client", "ledger", "init", "--config", str(config))
    assert made.returncode == 0, made.stderr
    assert str(tmp_path / "witness") in made.stdout
    again = ledger(study, "client-1", "init")
    assert again.exit_code == 1
    assert "error[ledger]" in again.stderr
    assert "there already" in again.stderr


def test_another_ledger_of_the_same_identity_is_refused(study: Study, tmp_path: Path) -> None:
    """Or a fresh ledger beside the old one would forget what was spent."""
    study.write_client("client-2", ledger=str(tmp_path / "fresh"))
    for words in (["init"], ["show"]):
        assert "error[ledger]" in ledger(study, "client-2", *words).stderr


def test_ledger_and_witness_stand_apart(study: Study) -> None:
    config = study.write_client("client-2", ledger="ledger", witness="ledger/witness")
    with pytest.raises(ConfigError, match="ledger and witness must be apart"):
        load_toml(config, ClientConfig)


def test_a_run_without_a_ledger_ends_before_the_coordinator_is_asked(study: Study, tmp_path: Path) -> None:
    config = study.write_client("client-3", ledger=str(tmp_path / "ledger"), witness=str(tmp_path / "witness"))
    result = run("client", "run", "--config", config)
    assert result.exit_code == 1
    assert "`secagg client ledger init` makes it" in result.stderr
    assert not (study.folder / "client-3" / "state" / "sessions").exists()


def test_entries_spending_and_limits_are_shown(study: Study) -> None:
    limits = {"total_epsilon": 8.0, "delta": 1e-5, "allow_repeated": True}
    config = load_toml(study.write_client("client-3", limits=limits), ClientConfig)
    book, data = Ledger(config.ledger_files, lambda: 1_700_000_000), examples(5, LM)
    book.begin(spend(A, data, "ward 7"), AGAIN)
    book.mark_sealed(A, ROOT)
    book.begin(replace(spend(B, data, "ward 7", round_number=2), releases=4), AGAIN)
    text = ledger(study, "client-3", "show").stdout
    assert "3 lines, verified" in text
    assert "2023-11-14 22:13  sealed" in text
    assert "round 3 attempt 1  ward 7: 20 steps, rate 0.2, sigma 1.6, secure noise" in text
    assert text.count("secure noise, in one of up to 4 releases") == text.count("in one of up to") == 1
    assert "limits: epsilon 8 at delta 1e-05; further sessions allowed" in text
    shown = json.loads(ledger(study, "client-3", "show", "--json").stdout)
    (spent,) = shown["spent"]
    assert f"spent on ward 7: epsilon {spent['epsilon']:.3f} for a record in 2 sessions, 40 steps" in text
    assert (spent["sessions"], spent["steps"]) == (2, 2 * MECHANISM.steps)
    assert shown["entries"][1]["upload_root"] == ROOT
    assert shown["limits"] == {**limits, "count_attempts": False}
    assert "as a whole" not in text
    assert "mac" not in shown["entries"][0]


def test_what_was_spent_of_the_institution_as_a_whole_is_shown(study: Study, tmp_path: Path) -> None:
    limits = {"total_epsilon": 8.0, "delta": 1e-5, "total_client_epsilon": 6.0}
    settings: dict[str, Any] = {"limits": limits, "ledger": str(tmp_path / "book"), "witness": str(tmp_path / "seen")}
    config = load_toml(study.write_client("client-3", **settings), ClientConfig)
    config.ledger_files.make()
    book = Ledger(config.ledger_files, lambda: 1_700_000_000)
    book.begin(quick(A, 1), ONCE)
    for session, seed in ((B, 2), (C, 3)):
        book.begin(quick(session, seed, client_level=LEVEL), ONCE)
    text = ledger(study, "client-3", "show").stdout
    assert "secure noise, client-level rho 0.05" in text
    assert "; client-level epsilon 6 over all sessions" in text
    shown = json.loads(ledger(study, "client-3", "show", "--json").stdout)
    spent = shown["client_spent"]
    assert spent == {"sessions": 2, "releases": 2, "without": 1, "epsilon": composed([LEVEL] * 2, 1e-5)}
    assert f"whole: client-level epsilon {spent['epsilon']:.3f} in 2 sessions, 2 releases" in text
    assert "1 sessions had no client-level noise: nothing bounds what those show of it" in text
    assert shown["limits"]["total_client_epsilon"] == 6.0
    assert "client_level" not in shown["entries"][0]
    assert shown["entries"][1]["client_level"]["unit"] == "client"


def test_an_altered_ledger_is_not_shown(study: Study) -> None:
    study.write_client("client-2")
    path = study.folder / "client-2" / "ledger" / "ledger.jsonl"
    path.write_bytes(b"{}\n")
    result = ledger(study, "client-2", "show", "--json")
    assert result.exit_code == 1
    assert "line 1: altered" in result.stderr
    assert result.stdout == ""
