"""A study run with the commands that a user types: real training of a tiny model, processes killed on the way."""

import json
from pathlib import Path

import pytest

from secagg.plan import Plan
from secagg.signing import parse_model
from secagg_client.client_config import ClientConfig
from secagg_client.data import DataConfig, load_examples
from secagg_client.ledger import Ledger
from secagg_host.config import load_toml
from tests.client.test_local_training import write_data
from tests.study import Process, Study, secagg
from tests.tiny import LABELS, make_bert


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    make_bert(root / "model")
    labels = [word for label in LABELS for word in ("--label", label)]
    size = ("--steps", "80", "--batch-size", "16")  # seconds, in which a client can be killed
    where = ("--model", root / "model", "--out", root / "plan.json")
    secagg("client", "plan", *where, "--task", "classify", *labels, *size)
    study = Study(root, plan=parse_model(Plan, (root / "plan.json").read_bytes()))
    study.client_settings = {"evaluation": {"path": "../heldout.jsonl"}}
    study.session_changes = {"audit": {"hold_out": 0.4, "canaries": 6}}
    study.policy_changes = {"max_audit_hold_out": 0.4, "max_audit_canaries": 6}
    write_data(root / "heldout.jsonl", 40, seed=9)
    for index, name in enumerate(study.client_names):
        (root / name).mkdir()
        write_data(root / name / "data.jsonl", 80, seed=index)
    return study.make()


def again(study: Study, name: str) -> Process:
    """The same command once more."""
    return Process(study.command(name), study.folder / name)


def test_the_whole_road_with_a_client_and_a_key_holder_killed(study: Study) -> None:
    folder, last = study.folder, study.client_names[-1]
    with study.running("server", *study.holder_names, *study.client_names) as processes:
        processes["holder-1"].wait_for("approved")
        processes["holder-1"].kill()
        processes[last].wait_for("step")
        processes[last].kill()
        processes["holder-1"], processes[last] = again(study, "holder-1"), again(study, last)
        for name in (*study.client_names, *study.holder_names):
            assert processes[name].wait() == 0, processes[name].errors
        files = load_toml(folder / last / "client.toml", ClientConfig).ledger_files
        entries = Ledger(files, lambda: 0).entries()
        assert [(entry.kind, entry.attempt) for entry in entries] == [("begun", 1), ("begun", 2), ("sealed", 2)]
        found = [event["model"] for event in processes[last].events if event["event"] == "evaluated"]
        assert found == ["own", "start", "release"], "the run that was killed scored nothing"
    check_release(study, folder)
    check_reserve(study, last)


def check_release(study: Study, folder: Path) -> None:
    """What everybody got is the same, verifies with the uploads, and can be measured."""
    uploads = folder / "server" / "state" / "uploads"
    words = ("verify", folder / "release", "--trust", folder / "policy.toml", "--uploads", uploads, "--json")
    assert json.loads(secagg(*words))["linked"] is True
    for name in study.client_names:
        for path in (folder / "release").iterdir():
            assert (folder / name / "release" / path.name).read_bytes() == path.read_bytes()
    shown = json.loads(secagg("evaluate", folder / "release", "--data", folder / "heldout.jsonl", "--json"))
    assert shown["release"]["loss"] != shown["start"]["loss"]


def check_reserve(study: Study, killed: str) -> None:
    """Each client has what its auditor needs; the one that was killed went on with the draw it had made."""
    task, tables = study.plan.task, ("members", "nonmembers", "canaries")
    canaries = list[str]()
    for name in study.client_names:
        (folder,) = (study.folder / name / "state" / "sessions").glob("*/audit")
        found = {part: load_examples(DataConfig(source=str(folder / f"{part}.parquet")), task) for part in tables}
        lines = (study.folder / name / "state" / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        reserved = [{part: event[part] for part in tables} for event in events if event["event"] == "reserved"]
        assert reserved == [{part: len(found[part]) for part in tables}] * (2 if name == killed else 1)
        canaries += found["canaries"].texts
    assert len(set(canaries)) == 6 * len(study.client_names)
    card = (study.folder / "release" / "README.md").read_text()
    assert "Reserved for an audit: each record with probability 0.4 and 6 canaries at each client" in card
