"""Training as the client's process does it, on a tiny model: checks, ledger, progress, evaluation."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from secagg.certificate import Evaluation
from secagg.client_noise.setting import ClientNoise
from secagg.coordinator import SessionSpec
from secagg.encodings.registry import encoding_of, encodings
from secagg.errors import ConfigError, DataError, LedgerError, ModelError, PolicyViolation
from secagg.plan import Plan
from secagg.signing import parse_model
from secagg_app.main import cli
from secagg_client.client_config import ClientConfig
from secagg_client.client_noise_accounting import record_of
from secagg_client.local_training import LocalTraining, figures, noise_source
from secagg_client.plan_options import plan_config
from secagg_client.tasks import Metrics
from secagg_host.config import load_toml
from secagg_host.events import EventLog
from tests.client.ledgers import OTHER_ROOT, ROOT
from tests.client.support import MEAN, loaded, plan_for, settings
from tests.small import DAY, Small
from tests.study import toml
from tests.tiny import LABELS, sentences

CLIENT = "c1" * 32


def write_data(path: Path, count: int, seed: int = 0) -> Path:
    rows = zip(*sentences(count, seed=seed), strict=True)
    path.write_text("".join(json.dumps({"text": text, "label": LABELS[label]}) + "\n" for text, label in rows))
    return path


@pytest.fixture(scope="module")
def plan(tiny_bert_dir: Path) -> Plan:
    return plan_for(loaded(tiny_bert_dir, MEAN), settings(noise="secure"))


@pytest.fixture(scope="module")
def small(plan: Plan) -> Small:
    return Small(plan=plan)


def config(folder: Path, model: Path, **changes: Any) -> ClientConfig:
    write_data(folder / "data.jsonl", 60)
    content: dict[str, Any] = {
        "coordinator": "localhost:1", "identity": "identity", "state": "state", "policy": "policy.toml",
        "ledger": "ledger", "release": "release", "declared_size": 64, "model": {"path": str(model)},
        "data": {"path": "data.jsonl"}, **changes,
    }  # fmt: skip
    (folder / "client.toml").write_text(toml(content))
    made = load_toml(folder / "client.toml", ClientConfig)
    if not made.ledger.exists():
        made.ledger_files.make()
    return made


def training(small: Small, folder: Path, model: Path, **changes: Any) -> LocalTraining:
    log = EventLog(folder / "state" / "events.jsonl")
    return LocalTraining(config(folder, model, **changes), small.policy, log, CLIENT, os.urandom)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "state" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_a_run_is_charged_and_trained(small: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    local = training(small, tmp_path, tiny_bert_dir)
    run = local.prepare(small.descriptor, small.plan)
    run.charge()
    assert [entry.kind for entry in local.ledger.entries()] == ["begun"]
    trained = run.train()
    assert trained.change.shape == (small.plan.length,)
    assert np.abs(trained.change).max() > 0
    assert trained.privacy.epsilon == small.plan.training.epsilon
    last = events(tmp_path, "step")[-1]
    assert last["step"] == last["steps"] == small.plan.training.steps


def test_a_client_takes_as_many_threads_as_it_is_given(small: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        training(small, tmp_path, tiny_bert_dir, training={"threads": 3}).prepare(small.descriptor, small.plan)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_second_attempt_is_entered_and_marks_are_made_once(small: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    local = training(small, tmp_path, tiny_bert_dir)
    run = local.prepare(small.descriptor, small.plan)
    run.charge()
    run.charge()
    local.mark_sealed(small.descriptor, ROOT)
    local.mark_sealed(small.descriptor, ROOT)
    local.abandon(small.descriptor)
    assert [(entry.kind, entry.attempt) for entry in local.ledger.entries()] == [
        ("begun", 1), ("begun", 2), ("sealed", 2),
    ]  # fmt: skip
    with pytest.raises(LedgerError, match="already sealed"):
        run.charge()
    with pytest.raises(LedgerError, match="this one must not leave"):
        local.mark_sealed(small.descriptor, OTHER_ROOT)


def test_the_same_data_are_not_used_for_a_second_session(small: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    local = training(small, tmp_path, tiny_bert_dir)
    local.prepare(small.descriptor, small.plan).charge()
    local.mark_sealed(small.descriptor, ROOT)
    second = Small(plan=small.plan)
    with pytest.raises(PolicyViolation, match="already used in session"):
        local.prepare(second.descriptor, second.plan).charge()


def test_the_ledger_says_how_many_releases_the_session_may_have(
    plan: Plan, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    spec = SessionSpec(n_min=3, n_max=10, upload_seconds=DAY, expiry_seconds=2 * DAY, releases=2)
    several = Small(clients=6, plan=plan, spec=spec)
    several.policy = several.policy.model_copy(update={"max_releases": 2})
    local = training(several, tmp_path, tiny_bert_dir)
    local.prepare(several.descriptor, plan).charge()
    assert [entry.releases for entry in local.ledger.entries()] == [2]


def test_an_abandoned_session_has_spent_nothing(small: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    local = training(small, tmp_path, tiny_bert_dir)
    local.prepare(small.descriptor, small.plan).charge()
    local.abandon(small.descriptor)
    local.abandon(small.descriptor)
    local.prepare(Small(plan=small.plan).descriptor, small.plan).charge()
    assert [entry.kind for entry in local.ledger.entries()] == ["begun", "abandoned", "begun"]


@pytest.fixture(scope="module")
def of_users(tiny_bert_dir: Path) -> Small:
    training = settings(noise="secure", unit="user", records_per_user=3, batch_size=4)
    return Small(plan=plan_for(loaded(tiny_bert_dir, MEAN), training))


def write_users(folder: Path, users: int) -> None:
    """Sixty records of so many users, in the place of the data that `config` wrote."""
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    named = [{**row, "who": f"patient {number % users}"} for number, row in enumerate(rows)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))


def test_a_run_with_the_user_as_the_unit(of_users: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    data = {"path": "data.jsonl", "user_column": "who"}
    local = training(of_users, tmp_path, tiny_bert_dir, data=data, declared_size=16)
    write_users(tmp_path, 12)
    run = local.prepare(of_users.descriptor, of_users.plan)
    prepared = events(tmp_path, "prepared")[0]
    assert (prepared["records"], prepared["users"], prepared["records_left_out"]) == (36, 12, 24)
    run.charge()
    (entry,) = local.ledger.entries()
    assert (entry.unit, entry.users, entry.mechanism.rate) == ("user", True, 0.25)
    (remembered,) = (tmp_path / "ledger" / "records").iterdir()
    assert remembered.stat().st_size == 16 * len(set(run.data.texts)) + 32, "also records that are left out"
    assert len(run.data) == 60
    trained = run.train()
    assert (trained.privacy.unit, trained.privacy.records_per_user) == ("user", 3)
    assert np.abs(trained.change).max() > 0
    assert "patient" not in (tmp_path / "state" / "events.jsonl").read_text()
    by_record = Small(plan=records_of(of_users.plan))
    again = training(of_users, tmp_path, tiny_bert_dir).prepare(by_record.descriptor, by_record.plan)
    with pytest.raises(PolicyViolation, match="neither epsilon says anything for the other"):
        again.charge()


def records_of(plan: Plan) -> Plan:
    return plan.model_copy(update={"training": settings(noise="secure")})


def test_users_must_be_known_and_none_cut_off_by_others(of_users: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    unknown = training(of_users, tmp_path, tiny_bert_dir, declared_size=16)
    with pytest.raises(DataError, match=r"Name the column that says it: user_column in \[data\]"):
        unknown.prepare(of_users.descriptor, of_users.plan)
    for rows in ({"limit": 30}, {"split": "train[:50%]"}):
        data = {"path": "data.jsonl", "user_column": "who", **rows}
        limited = training(of_users, tmp_path, tiny_bert_dir, data=data, declared_size=16)
        write_users(tmp_path, 12)
        with pytest.raises(ConfigError, match=r"\[data\] limit, or a slice in split, takes rows by their place"):
            limited.prepare(of_users.descriptor, of_users.plan)
        assert limited.ledger.entries() == ()


def test_records_are_not_taken_by_their_place(small: Small, tiny_bert_dir: Path, tmp_path: Path) -> None:
    """Without one record of the file the next one would slide in: two would change, and epsilon is for one."""
    for rows in ({"limit": 30}, {"split": "train[:50%]"}):
        limited = training(small, tmp_path, tiny_bert_dir, data={"path": "data.jsonl", **rows})
        with pytest.raises(ConfigError, match="takes rows by their place, so that one record's rows"):
            limited.prepare(small.descriptor, small.plan)


def test_limits_are_the_policy_s_unless_the_institution_sets_its_own(
    small: Small, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    limits = config(tmp_path, tiny_bert_dir).ledger_limits(small.policy)
    assert (limits.total_epsilon, limits.delta) == (small.policy.max_epsilon, small.policy.max_delta)
    assert not limits.allow_repeated
    own = {"total_epsilon": 20.0, "delta": 1e-6, "allow_repeated": True, "count_attempts": True}
    assert config(tmp_path, tiny_bert_dir, limits=own).ledger_limits(small.policy).model_dump() == own


def test_the_institution_as_a_whole_is_bounded_where_the_policy_takes_no_session_without_such_noise(
    small: Small, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    def total(**rules: object) -> float | None:
        policy = small.policy.model_copy(update=rules)
        return config(tmp_path, tiny_bert_dir).ledger_limits(policy).total_client_epsilon

    assert total() is None
    assert total(max_client_epsilon=6.0) is None, "sessions without it are accepted, and nothing bounds those"
    assert total(client_noise="required", max_client_epsilon=6.0) == 6.0


def test_a_session_with_client_level_noise_is_charged_for_the_institution_as_a_whole(
    small: Small, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    noise = ClientNoise(clip=4.0, noise_multiplier=1.0, delta=1e-6, accept_noise_over_signal=True)
    spec = SessionSpec(n_min=3, n_max=10, upload_seconds=DAY, expiry_seconds=2 * DAY, client_noise=noise)
    noisy = Small(plan=small.plan, spec=spec).proposal.descriptor.statement
    own = {"total_epsilon": 50.0, "delta": 1e-6, "allow_repeated": True, "total_client_epsilon": 6.0}
    local = training(small, tmp_path, tiny_bert_dir, limits=own)
    local.prepare(noisy, small.plan).charge()
    (entry,) = local.ledger.entries()
    assert noisy.noise_grid is not None
    assert entry.client_level == record_of(noisy.noise_grid)
    second = Small(plan=small.plan, spec=spec).proposal.descriptor.statement
    with pytest.raises(PolicyViolation, match="the institution as a whole would have spent"):
        local.prepare(second, small.plan).charge()
    with pytest.raises(PolicyViolation, match="nothing bounds what it spends of this institution"):
        local.prepare(small.descriptor, small.plan).charge()
    assert local.ledger.entries() == (entry,)


def test_another_model_than_the_plan_s_is_refused_before_the_ledger(
    small: Small, tmp_path: Path, tiny_bert_dir: Path
) -> None:
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_bert_dir)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1e-3
    other = tmp_path / "other"
    model.save_pretrained(other)
    for path in tiny_bert_dir.iterdir():
        if not (other / path.name).exists():
            (other / path.name).write_bytes(path.read_bytes())
    local = training(small, tmp_path, other)
    with pytest.raises(ModelError):
        local.prepare(small.descriptor, small.plan)
    assert local.ledger.entries() == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"words": "good film", "label": "positive"}\n', "text_column"),
        ('{"text": " ", "label": "positive"}\n', "row 1: the text is empty"),
        ('{"text": "good film", "label": "odd"}\n', "row 1: the label"),
    ],
)
def test_bad_data_are_refused_before_the_ledger(
    small: Small, tiny_bert_dir: Path, tmp_path: Path, content: str, reason: str
) -> None:
    local = training(small, tmp_path, tiny_bert_dir)
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(DataError, match=reason):
        local.prepare(small.descriptor, small.plan)
    assert local.ledger.entries() == ()


def test_seeds_belong_to_seeded_sessions_only(plan: Plan, tiny_bert_dir: Path, tmp_path: Path) -> None:
    seeded = plan.model_copy(update={"training": settings(noise="seeded")})
    without = config(tmp_path, tiny_bert_dir)
    with_seed = config(tmp_path, tiny_bert_dir, training={"seed": 7})
    assert noise_source(plan, without).kind == "secure"
    assert noise_source(seeded, with_seed).kind == "seeded"
    with pytest.raises(ConfigError, match="experiments only"):
        noise_source(seeded, without)
    with pytest.raises(ConfigError, match="remove it"):
        noise_source(plan, with_seed)


def test_figures_leave_out_what_the_task_does_not_have() -> None:
    assert figures(Metrics(examples=3, loss=0.5, perplexity=1.6)) == {"examples": 3, "loss": 0.5, "perplexity": 1.6}


@pytest.fixture(scope="module")
def release(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    for name, content in small.release.items():
        (folder / name).write_bytes(content)
    return folder


def test_after_the_release_the_institution_measures_for_itself(
    small: Small, release: Path, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    write_data(tmp_path / "heldout.jsonl", 30, seed=9)
    local = training(small, tmp_path, tiny_bert_dir, evaluation={"path": "heldout.jsonl"})
    local.after_release(release, small.descriptor)
    start, released = events(tmp_path, "evaluated")
    assert (start["model"], released["model"]) == ("start", "release")
    assert start["examples"] == released["examples"] == 30
    assert start["loss"] != released["loss"]


def evaluate(release: Path, data: Path, base: Path, *args: str) -> Any:
    words = ["evaluate", str(release), "--data", str(data), "--base", str(base), *args]
    return CliRunner().invoke(cli, words)


def test_evaluate_writes_what_annotate_takes(release: Path, tiny_bert_dir: Path, tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "heldout.jsonl", 30, seed=9), tmp_path / "evaluation.json"
    result = evaluate(release, data, tiny_bert_dir, "--json", "--public", "Made-up sentences", "--out", str(out))
    assert result.exit_code == 0, result.output
    shown, found = json.loads(result.stdout), parse_model(Evaluation, out.read_bytes())
    assert shown["data_sha256"] == found.data_sha256
    metrics = {metric.name: metric.value for metric in found.metrics}
    assert metrics["released adapter"] == shown["release"]["accuracy"]
    assert metrics["starting model"] == shown["start"]["accuracy"]


def test_figures_of_private_data_are_not_written(release: Path, tiny_bert_dir: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "heldout.jsonl", 30, seed=9)
    result = evaluate(release, data, tiny_bert_dir, "--out", str(tmp_path / "evaluation.json"))
    assert result.exit_code == 2
    assert "--public and --out go together" in result.stderr
    assert not (tmp_path / "evaluation.json").exists()


def test_evaluate_refuses_an_altered_adapter(release: Path, tiny_bert_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "release"
    copy.mkdir()
    for path in release.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    raw = bytearray((copy / "adapter_model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "adapter_model.safetensors").write_bytes(bytes(raw))
    result = evaluate(copy, write_data(tmp_path / "heldout.jsonl", 10), tiny_bert_dir)
    assert result.exit_code == 1
    assert "error[hash]" in result.stderr


def test_plan_from_options_and_from_a_file_agree(tiny_bert_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    options = ["--task", "classify", "--label", "negative", "--label", "positive", "--epsilon", "3", "--rank", "2"]
    result = CliRunner().invoke(cli, ["client", "plan", "--model", str(tiny_bert_dir), *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    made = parse_model(Plan, out.read_bytes())
    assert made.base_model_hash in result.output
    (tmp_path / "plan.toml").write_text(
        f'base_model = "{tiny_bert_dir}"\nrank = 2\n[task]\nkind = "classify"\nlabels = ["negative", "positive"]\n'
        "[training]\nepsilon = 3.0\n"
    )
    assert plan_config(tmp_path / "plan.toml", {}).training == made.training
    again = CliRunner().invoke(cli, ["client", "plan", "--config", str(tmp_path / "plan.toml"), "--out", str(out)])
    assert again.exit_code == 0, again.output
    assert parse_model(Plan, out.read_bytes()) == made


def test_a_plan_for_another_method_says_what_it_reveals(tiny_bert_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    words = ["client", "plan", "--model", str(tiny_bert_dir), "--task", "classify", "--label", "no", "--label", "yes"]
    words += ["--rank", "2", "--method", "sketch", "--out", str(out)]
    result = CliRunner().invoke(cli, [*words, "--option", "size=8"])
    assert result.exit_code == 0, result.output
    made = parse_model(Plan, out.read_bytes())
    assert (made.method, made.options) == ("sketch", {"size": 8})
    assert encoding_of(made).reveals in result.output
    assert f"{encoding_of(made).layout(made).length} values" in result.output
    (tmp_path / "plan.toml").write_text(
        f'base_model = "{tiny_bert_dir}"\nrank = 2\nmethod = "sketch"\n[options]\nsize = 4\n'
        '[task]\nkind = "classify"\nlabels = ["no", "yes"]\n'
    )
    config = plan_config(tmp_path / "plan.toml", {"method_options": ("size=8",)})
    assert (config.method, config.options) == ("sketch", {"size": 8})
    with pytest.raises(ConfigError, match=r"--option size: write NAME=VALUE"):
        plan_config(tmp_path / "plan.toml", {"method_options": ("size",)})
    with pytest.raises(ConfigError, match=r"^plan: no base model is named: give --model"):
        plan_config(None, {"task": "classify"})
    with pytest.raises(ConfigError, match=r"^plan: no task is named: give --task"):
        plan_config(None, {"model": "a"})
    help_text = "".join(CliRunner().invoke(cli, ["client", "plan", "--help"]).output.split())
    assert all("".join(encoding.reveals.split()) in help_text for encoding in encodings().values())


def test_a_plan_with_the_user_as_the_unit(tiny_bert_dir: Path, tmp_path: Path) -> None:
    """Also with clips from public examples, of which each stands for a user."""
    out = tmp_path / "plan.json"
    write_data(tmp_path / "public.jsonl", 60)
    words = ["client", "plan", "--model", str(tiny_bert_dir), "--task", "classify", "--label", LABELS[0], "--label",
             LABELS[1], "--steps", "2", "--batch-size", "10", "--unit", "user", "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "unit user needs records_per_user" in result.output
    calibrate = ["--calibrate", str(tmp_path / "public.jsonl"), "--calibrate-size", "50"]
    result = CliRunner().invoke(cli, [*words, "--records-per-user", "3", *calibrate])
    assert result.exit_code == 0, result.output
    made = parse_model(Plan, out.read_bytes())
    assert (made.training.unit, made.training.records_per_user) == ("user", 3)
    assert all(spec.clip != 1.0 for spec in made.trained)
    (tmp_path / "plan.toml").write_text(
        f'base_model = "{tiny_bert_dir}"\n[task]\nkind = "lm"\n[training]\nunit = "user"\nrecords_per_user = 3\n'
    )
    assert plan_config(tmp_path / "plan.toml", {}).training.records_per_user == 3
    with pytest.raises(ConfigError, match="records_per_user needs unit user"):
        plan_config(tmp_path / "plan.toml", {"unit": "record"})


def test_clips_from_public_examples(tiny_bert_dir: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "public.jsonl", 60)
    plain = ["client", "plan", "--model", str(tiny_bert_dir), "--task", "classify", "--label", LABELS[0], "--label",
             LABELS[1], "--steps", "2", "--batch-size", "10"]  # fmt: skip
    calibrate = ["--calibrate", str(tmp_path / "public.jsonl"), "--calibrate-size", "50"]
    for name, more in (("plain", []), ("made", calibrate)):
        run = CliRunner().invoke(cli, [*plain, *more, "--out", str(tmp_path / f"{name}.json")])
        assert run.exit_code == 0, run.output
    before, after = (parse_model(Plan, (tmp_path / f"{name}.json").read_bytes()) for name in ("plain", "made"))
    assert {spec.clip for spec in before.trained} == {0.2, 1.0}
    assert all(spec.clip != 1.0 for spec in after.trained)


def test_a_plan_file_with_an_unknown_setting(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('base_model = "m"\nrnak = 2\n[task]\nkind = "lm"\n')
    with pytest.raises(ConfigError, match="rnak"):
        plan_config(tmp_path / "plan.toml", {})
