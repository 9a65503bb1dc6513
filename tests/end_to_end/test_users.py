"""A session with the user as the unit of privacy, by the commands that people type (protocol.md §2.6a)."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from secagg.adapter import flatten, start_tensors
from secagg.certificate import CERTIFICATE, MODEL_CARD, REPORT
from secagg.plan import Plan
from secagg.signing import parse_model
from secagg_client.data import DataConfig, load_examples
from secagg_client.models import load_base
from secagg_client.noise import SeededSource
from secagg_client.training import train
from tests.client.test_local_training import write_data
from tests.study import Study, secagg, toml
from tests.tiny import LABELS, make_bert

SEED, USERS, RECORDS, MOST = 11, 20, 60, 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    make_bert(root / "model")
    plan = {
        "base_model": str(root / "model"), "rank": 4, "task": {"kind": "classify", "labels": list(LABELS)},
        "training": {"noise": "seeded", "steps": 5, "batch_size": 8, "unit": "user", "records_per_user": MOST},
    }  # fmt: skip
    (root / "plan.toml").write_text(toml(plan))
    secagg("client", "plan", "--config", root / "plan.toml", "--out", root / "plan.json")
    study = Study(root, plan=parse_model(Plan, (root / "plan.json").read_bytes()))
    study.policy_changes = {"noise": ["seeded"], "units": ["user"]}
    study.client_settings = {
        "training": {"seed": SEED}, "declared_size": USERS, "data": {"path": "data.jsonl", "user_column": "who"},
    }  # fmt: skip
    for index, name in enumerate(study.client_names):
        (root / name).mkdir()
        write_owned(root / name / "data.jsonl", index)
    study.make()
    with study.running("server", *study.holder_names, *study.client_names) as processes:
        for name in (*study.client_names, *study.holder_names):
            assert processes[name].wait() == 0, processes[name].errors
    return study


def write_owned(path: Path, seed: int) -> None:
    rows = [json.loads(line) for line in write_data(path, RECORDS, seed=seed).read_text().splitlines()]
    owned = [{**row, "who": f"patient-{number % USERS}"} for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in owned))


def test_the_release_is_the_mean_of_what_users_gave(finished: Study) -> None:
    """Each client trained the same here, with the same seed and data."""
    trained = list[np.ndarray]()
    for name in finished.client_names:
        base = load_base(str(finished.folder / "model"), finished.plan.task)
        config = DataConfig(source=str(finished.folder / name / "data.jsonl"), user_column="who")
        data = load_examples(config, finished.plan.task)
        trained.append(train(finished.plan, base, data, USERS, SeededSource(SEED)).change)
    released = flatten(finished.plan, load_file(finished.folder / "release" / "adapter_model.safetensors"))
    step = max(2 * spec.clip / (2**16 - 1) for spec in finished.plan.trained)
    assert (
        np.abs(released - flatten(finished.plan, start_tensors(finished.plan)) - np.mean(trained, axis=0)).max() <= step
    )


def test_everything_that_people_read_says_user(finished: Study) -> None:
    shown = secagg("session", "show", finished.folder / "session.json")
    assert "user, at most 2 records of each" in shown
    verified = secagg("verify", finished.folder / "release", "--trust", finished.folder / "policy.toml")
    assert "removing one user of a member, with all records there," in verified
    release = finished.folder / "release"
    assert "user-level differential privacy" in (release / MODEL_CARD).read_text()
    assert "It is about users." in (release / REPORT).read_text()
    statement = json.loads((release / CERTIFICATE).read_text())["statement"]["uploads"][0]["statement"]["privacy"]
    assert (statement["unit"], statement["records_per_user"]) == ("user", MOST)


def test_what_was_left_out_stays_in_the_institution_s_own_log(finished: Study) -> None:
    for name in finished.client_names:
        lines = (finished.folder / name / "state" / "events.jsonl").read_text().splitlines()
        (prepared,) = (event for event in map(json.loads, lines) if event["event"] == "prepared")
        assert (prepared["users"], prepared["records"], prepared["records_left_out"]) == (USERS, 40, 20)
        spent = secagg("client", "ledger", "show", "--config", finished.folder / name / "client.toml")
        assert "for a user in 1 sessions" in spent
    others = (path for folder in ("server", "release") for path in (finished.folder / folder).rglob("*"))
    assert not any(b"patient-" in path.read_bytes() for path in others if path.is_file())
