"""A series of two rounds with the commands that a user types, in real processes (protocol.md §4.7)."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from secagg.certificate import ADAPTER, START
from secagg.plan import Plan
from secagg.signing import parse_model
from secagg_app.audit.release import NOTHING_LEARNT
from secagg_app.main import cli
from secagg_attacks.audit.verdict import HOLDS, LEAK
from secagg_client.client_config import ClientConfig
from secagg_client.ledger import Ledger
from secagg_client.ledger_entry import LedgerLimits
from secagg_host.config import load_toml
from tests.client.test_local_training import write_data
from tests.study import Study, secagg
from tests.tiny import LABELS, make_bert

HERE, ABSENT = "client-1", "client-4"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two rounds, both run; one client is away in the first, and all training is real."""
    root = tmp_path_factory.mktemp("rounds")
    make_bert(root / "model")
    labels = [word for label in LABELS for word in ("--label", label)]
    where = ("--model", root / "model", "--out", root / "plan.json")
    secagg("client", "plan", *where, "--task", "classify", *labels, "--steps", "6", "--batch-size", "16")
    plan = parse_model(Plan, (root / "plan.json").read_bytes())
    study = Study(root, clients=4, rounds=2, closes_at=3, plan=plan)
    study.policy_changes = {"max_rounds": 2, "max_audit_hold_out": 0.5, "max_audit_canaries": 100}
    study.session_changes = {"audit": {"hold_out": 0.5, "canaries": 100}}
    study.client_settings = {"training": {"threads": 1}}
    for index, name in enumerate(study.client_names):
        (root / name).mkdir()
        # a quarter of them on each side of the audit's coins: fewer than the 25 that it needs once in 10^9
        write_data(root / name / "data.jsonl", 280, seed=index)
    study.make()
    run_round(study, *(name for name in study.client_names if name != ABSENT))
    for name in study.holder_names:
        (root / name / "offer.json").unlink()
        study.offer(name)
    study.create_session("session-2.json", "--continue", root / "release" / "round-1")
    study.closes_at = 4
    study.write_server("session.json", "session-2.json")
    run_round(study, *study.client_names)
    return study


def run_round(study: Study, *clients: str) -> None:
    """One round, until everybody is done."""
    with study.running("server", *study.holder_names, *clients) as processes:
        for name in (*clients, *study.holder_names):
            assert processes[name].wait() == 0, processes[name].errors


def release(study: Study, number: int, party: str = ".") -> Path:
    return study.folder / party / "release" / f"round-{number}"


def test_the_second_round_goes_on_from_the_first(study: Study) -> None:
    first, start, second = (
        load_file(release(study, number) / name) for number, name in ((1, ADAPTER), (2, START), (2, ADAPTER))
    )
    assert all(np.array_equal(first[name], start[name]) for name in first)
    trained = [spec.name for spec in study.plan.trained]
    assert all(not np.array_equal(first[name], second[name]) for name in trained)


def test_everybody_holds_every_round_also_who_was_away(study: Study) -> None:
    for name in study.client_names:
        for number in (1, 2):
            for path in release(study, number).iterdir():
                assert (release(study, number, name) / path.name).read_bytes() == path.read_bytes()


def test_a_round_is_verified_with_the_rounds_before(study: Study) -> None:
    trust = ("--trust", study.folder / "policy.toml", "--json")
    uploads = ("--uploads", study.folder / "server" / "state" / "uploads")
    earlier = ("--earlier", release(study, 1))
    report = json.loads(secagg("verify", release(study, 2), *earlier, *uploads, *trust))
    assert report["linked"]
    assert any("1 earlier rounds hold as well" in check for check in report["checks"])


def test_the_ledger_counts_rounds_of_one_series(study: Study) -> None:
    def book(name: str) -> Ledger:
        return Ledger(load_toml(study.folder / name / "client.toml", ClientConfig).ledger_files, lambda: 0)

    entries = book(HERE).entries()
    assert [(entry.kind, entry.round_number) for entry in entries] == [
        ("begun", 0), ("sealed", 0), ("begun", 1), ("sealed", 1),
    ]  # fmt: skip
    assert len({entry.session for entry in entries}) == 1
    assert [entry.round_number for entry in book(ABSENT).entries()] == [1, 1]
    limits = LedgerLimits(total_epsilon=100.0, delta=1e-5)
    both, one = book(HERE).spent(limits)[0], book(ABSENT).spent(limits)[0]
    assert (both.steps, one.steps) == (6, 3)
    assert one.epsilon < both.epsilon <= study.plan.training.epsilon  # type: ignore[operator]


def test_all_rounds_train_on_one_draw_of_the_audit(study: Study) -> None:
    series = json.loads((release(study, 1) / "release.json").read_text())["statement"]["ctx"]
    for name in study.client_names:
        found = sorted((study.folder / name / "state" / "sessions").glob("*/audit/draw.json"))
        assert [path.parent.parent.name for path in found] == [series]


def test_there_is_no_third_round_of_two(study: Study) -> None:
    words = ["session", "create", study.folder / "session.toml", "--identity", study.identity("server")]
    words += ["--out", study.folder / "session-3.json", "--continue", release(study, 2)]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 1
    assert "is the last round of 2" in result.output


def test_a_next_round_of_another_number_of_rounds_is_refused(study: Study, tmp_path: Path) -> None:
    text = (study.folder / "session.toml").read_text()
    config = study.folder / "alone.toml"
    config.write_text(text.replace("rounds = 2", "rounds = 1"))
    words = ["session", "create", config, "--identity", study.identity("server")]
    words += ["--out", tmp_path / "session.json", "--continue", release(study, 1)]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 1
    assert "is of a series of 2 rounds: set rounds to that, not to 1" in result.output


def test_a_coordinator_without_the_round_before_says_so(study: Study) -> None:
    study.write_server("session-2.json")
    result = CliRunner().invoke(cli, ["server", "run", "--config", str(study.folder / "server" / "server.toml")])
    assert result.exit_code == 1
    assert "keep the session files of all earlier rounds" in result.output
    study.create_session("other.json")
    study.write_server("session.json", "session-2.json", "other.json")
    result = CliRunner().invoke(cli, ["server", "run", "--config", str(study.folder / "server" / "server.toml")])
    assert result.exit_code == 1
    series = json.loads((release(study, 1) / "release.json").read_text())["statement"]["ctx"]
    assert f"which is not in {study.folder / 'release' / series / 'round-1'}" in result.output


def audit(study: Study, *words: object) -> Result:
    base = ("--base", study.folder / "model")
    return CliRunner().invoke(cli, [str(word) for word in (*words, *base)])


def drawn(study: Study, name: str = HERE) -> Path:
    (folder,) = (study.folder / name / "state" / "sessions").glob("*/audit")
    return folder


def tables(study: Study) -> tuple[object, ...]:
    folder = drawn(study)
    return ("--members", folder / "members.parquet", "--nonmembers", folder / "nonmembers.parquet")


def test_the_finished_run_is_audited_on_what_a_client_reserved(study: Study, tmp_path: Path) -> None:
    rounds = (release(study, 2), "--earlier", release(study, 1))
    canaries = ("--canaries", drawn(study) / "canaries.parquet", "--declared-size", 160)
    done = audit(study, "audit", "release", *rounds, *tables(study), *canaries, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "exposure.json").read_text())
    assert found["by_coin"]
    assert [each["view"] for each in found["views"]] == ["v2", "v3"]
    learnt = found["learnt"]["low"] > 0  # noise is drawn anew in each run
    assert found["reading"] in ((HOLDS, LEAK) if learnt else (NOTHING_LEARNT, LEAK))
    assert not found["canaries"]["fails"]
    assert found["canaries"]["findings"][0]["reach"] < 8
    assert set(found["views"][0]["by_attack"]) > {"loss", "update-cosine", "trajectory"}
    assert "100 canaries, one run" in done.output
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "refused: " in page, "a rate at 1% false positives, of so few"


def test_tables_that_are_not_where_their_coins_put_them_are_refused(study: Study, tmp_path: Path) -> None:
    rounds = (release(study, 2), "--earlier", release(study, 1), "--out", tmp_path)
    folder = drawn(study)
    exchanged = ("--members", folder / "nonmembers.parquet", "--nonmembers", folder / "members.parquet")
    done = audit(study, "audit", "release", *rounds, *exchanged)
    assert done.exit_code == 1
    assert "records are not where the coins of" in done.output
    alone = tmp_path / "canaries.parquet"
    alone.write_bytes((folder / "canaries.parquet").read_bytes())
    done = audit(study, "audit", "release", *rounds, "--canaries", alone)
    assert "there is no draw.json of this run's session beside it" in done.output
    (tmp_path / "draw.json").write_bytes((folder / "draw.json").read_bytes())
    table = pyarrow.parquet.read_table(alone)
    turned = [not value for value in table.column("member").to_pylist()]
    pyarrow.parquet.write_table(table.set_column(table.column_names.index("member"), "member", [turned]), alone)
    done = audit(study, "audit", "release", *rounds, "--canaries", alone)
    assert "canaries are not as the coins of draw.json fell" in done.output


def test_other_records_get_scores_and_no_claim(study: Study, tmp_path: Path) -> None:
    for name, seed in (("in", 0), ("out", 77)):
        write_data(tmp_path / f"{name}.jsonl", 60, seed=seed)
    words = ("--members", tmp_path / "in.jsonl", "--nonmembers", tmp_path / "out.jsonl", "--out", tmp_path / "a")
    rounds = (release(study, 2), "--earlier", release(study, 1))
    done = audit(study, "audit", "release", *rounds, *words)
    assert done.exit_code == 0, done.output
    assert "no claim on membership" in done.output
    (tmp_path / "plain").mkdir()
    for file in ("adapter_config.json", ADAPTER):
        (tmp_path / "plain" / file).write_bytes((release(study, 2) / file).read_bytes())
    task = ("--task", "classify", "--labels", ",".join(LABELS))
    done = audit(study, "audit", "release", tmp_path / "plain", *words, *task)
    assert done.exit_code == 0, done.output
    assert "v3: area" in done.output
    assert "v2" not in done.output


def test_rounds_of_which_a_client_missed_one_isolate_it(study: Study, tmp_path: Path) -> None:
    """Of real releases, from their certificates: no model is named."""
    words = ["audit", "release", release(study, 1), "--other", release(study, 2), "--out", tmp_path]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "isolated: Hospital 4 by releases 1 and 2" in done.output
    assert "start from different adapters (they are rounds)" in done.output


def test_one_attack_prints_what_it_came_to(study: Study, tmp_path: Path) -> None:
    rounds = ("--run", release(study, 2), "--earlier", release(study, 1), "--out", tmp_path / "guess.parquet")
    done = audit(study, "attack", "trajectory", "--view", "v2", *rounds, *tables(study))
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["by_coin"]
    assert len(found["area"]) == 3
    assert (tmp_path / "guess.parquet").exists()
    done = audit(study, "attack", "label-inference", "--view", "v2", *rounds)
    assert len(json.loads(done.output)["guess"]) == 2, "a guess for each round's sum"


def test_what_cannot_be_audited_is_said(study: Study, tmp_path: Path) -> None:
    last, both = (release(study, 2),), (release(study, 2), "--earlier", release(study, 1))
    members, foreign = drawn(study) / "members.parquet", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "adapter_config.json").write_text("{}")
    cases = [
        ((*last, *tables(study)), "give every round of the run from the first on"),
        (both, "nothing to ask: give --members and --nonmembers, or --canaries"),
        ((*both, "--members", members, "--nonmembers", members), "records are among members and non-members"),
        ((*both, "--canaries", members), "has no column `member`"),
        ((tmp_path, *tables(study)), "holds neither a release nor a PEFT adapter"),
        ((tmp_path / "nowhere", *tables(study)), "there is no such folder"),
        ((foreign, *tables(study)), "say what it does with --task"),
    ]  # fmt: skip
    for words, said in cases:
        done = audit(study, "audit", "release", *words, "--out", tmp_path / "out")
        assert done.exit_code == 1, done.output
        assert said in done.output
        assert not (tmp_path / "out").exists(), "nothing is half-written"
    done = audit(study, "attack", "loss", "--view", "v1", "--run", *both, *tables(study))
    assert "plain updates are written nowhere" in done.output
