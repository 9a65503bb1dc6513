"""A client's training in a session that reserves part of its records, and canaries, for an audit (protocol.md §4.6)."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from secagg.descriptor import AuditReserve
from secagg.errors import PolicyViolation, StorageError
from secagg.plan import Plan
from secagg_client import local_training
from secagg_client.audit_reserve import canaries_of
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.folders import write_folder
from secagg_client.local_training import LocalRun
from secagg_client.models import LoadedBase
from secagg_client.tables import read_table
from secagg_client.training import TrainedUpdate, train
from tests.client.ledgers import ROOT
from tests.client.support import MEAN, loaded, plan_for, settings
from tests.client.test_local_training import CLIENT, events, training
from tests.small import Small


@pytest.fixture(scope="module")
def audited(tiny_bert_dir: Path) -> Small:
    """A session that reserves half of the records and a few canaries."""
    small = Small(plan=plan_for(loaded(tiny_bert_dir, MEAN), settings(noise="secure")))
    small.session_spec = small.session_spec.model_copy(update={"audit": AuditReserve(hold_out=0.5, canaries=8)})
    small.policy = small.policy.model_copy(update={"max_audit_hold_out": 0.5, "max_audit_canaries": 8})
    return small


def reserved_in(folder: Path, small: Small) -> Path:
    return folder / "state" / "sessions" / small.descriptor.ctx / "audit"


def trained_on(run: LocalRun, monkeypatch: pytest.MonkeyPatch) -> Examples:
    """What `run` gives to training."""
    seen = list[Examples]()

    def record(plan: Plan, base: LoadedBase, data: Examples, *rest: Any, **more: Any) -> TrainedUpdate:
        seen.append(data)
        return train(plan, base, data, *rest, **more)

    monkeypatch.setattr(local_training, "train", record)
    run.train()
    return seen[0]


def test_what_is_held_out_is_not_trained_on(
    audited: Small, tiny_bert_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, task = training(audited, tmp_path, tiny_bert_dir), audited.plan.task
    run = local.prepare(audited.descriptor, audited.plan)
    folder = reserved_in(tmp_path, audited)
    parts = {
        name: load_examples(DataConfig(source=str(folder / f"{name}.parquet")), task)
        for name in ("members", "nonmembers", "canaries")
    }
    member = read_table(str(folder / "canaries.parquet"))["member"]
    inside = {text for text, taken in zip(parts["canaries"].texts, member, strict=True) if taken}
    whole = set(load_examples(local.config.data.to_config(), task).texts)
    given = trained_on(run, monkeypatch)
    assert set(given.texts) == whole - set(parts["nonmembers"].texts) | inside
    assert len(given) == len(whole) - len(parts["nonmembers"]) + len(inside)
    public = canaries_of(audited.descriptor.ctx, CLIENT, 8, task, run.base.tokenizer)
    assert (parts["canaries"].texts, parts["canaries"].labels) == (public.texts, public.labels)
    (event,) = events(tmp_path, "reserved")
    assert {name: event[name] for name in parts} == {name: len(part) for name, part in parts.items()}
    log = (tmp_path / "state" / "events.jsonl").read_text()
    assert not any(record in log for record in (*whole, *inside))


def test_every_attempt_takes_the_same_draw_and_all_records_are_charged(
    audited: Small, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    # killed before the charge
    first = training(audited, tmp_path, tiny_bert_dir).prepare(audited.descriptor, audited.plan)
    second = training(audited, tmp_path, tiny_bert_dir).prepare(audited.descriptor, audited.plan)
    second.charge()
    third = training(audited, tmp_path, tiny_bert_dir).prepare(audited.descriptor, audited.plan)
    third.charge()
    assert first.training == second.training == third.training
    assert [entry.attempt for entry in third.owner.ledger.entries()] == [1, 2]
    third.owner.mark_sealed(audited.descriptor, ROOT)
    other, held_out = Small(plan=audited.plan), reserved_in(tmp_path, audited) / "nonmembers.parquet"
    again = training(other, tmp_path, tiny_bert_dir, data={"path": str(held_out)}, data_name="left over")
    with pytest.raises(PolicyViolation, match="already used in session"):
        again.prepare(other.descriptor, other.plan).charge()


def test_a_damaged_draw_is_refused_before_the_ledger(audited: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    local = training(audited, tmp_path, tiny_bert_dir)
    local.prepare(audited.descriptor, audited.plan)
    path = reserved_in(tmp_path, audited) / "draw.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"draw\.json: damaged"):
        local.prepare(audited.descriptor, audited.plan)
    assert local.ledger.entries() == ()


def test_a_draw_that_an_earlier_round_was_trained_with_is_not_made_anew(
    audited: Small, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    """With a second draw, records that were trained on would be called non-members."""
    local, folder = training(audited, tmp_path, tiny_bert_dir), reserved_in(tmp_path, audited)
    local.prepare(audited.descriptor, audited.plan).charge()
    shutil.rmtree(folder)
    local.prepare(audited.descriptor, audited.plan)  # nothing has left yet
    local.mark_sealed(audited.descriptor, ROOT)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    with pytest.raises(StorageError, match=r"is gone, and an earlier round was trained.*Put the folder back"):
        local.prepare(audited.descriptor, audited.plan)
    write_folder(folder, kept)
    local.prepare(audited.descriptor, audited.plan)
