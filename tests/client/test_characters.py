"""A character LSTM, trained whole from the plan's seed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from secagg.adapter import release_tensors, start_tensors
from secagg.errors import ConfigError, DataError, ModelError
from secagg.model_card import usage_lines
from secagg.plan import Plan, TaskSpec
from secagg.release import adapter_config_file
from secagg_client.data import Examples
from secagg_client.evaluation import evaluate_change, evaluate_release
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import SeededSource
from secagg_client.planning import verify_plan
from secagg_client.tasks import make_task
from secagg_client.tasks.characters import ALPHABET
from secagg_client.training import train
from tests.client.gradients import gradient_error
from tests.client.support import plan_for, settings
from tests.tiny import sentences

CHARS = TaskSpec(kind="chars", max_length=40, options={"hidden": 24, "embedding": 8, "layers": 2})


@pytest.fixture
def base() -> LoadedBase:
    return load_base("lstm", CHARS)


def texts(count: int, seed: int = 0) -> Examples:
    return Examples("texts", sentences(count, seed=seed)[0])


def plan_of(base: LoadedBase, **changes: object) -> Plan:
    values: dict[str, object] = {"base_model": "lstm", "head_start": "seeded", **changes}
    return plan_for(base, **values)  # type: ignore[arg-type]


def test_per_sample_gradients_are_those_of_each_text_alone(base: LoadedBase) -> None:
    task = make_task(CHARS, base.tokenizer)
    rows = task.encode(Examples("texts", tuple(text[: 8 + 5 * n] for n, text in enumerate(texts(6).texts))))
    assert len({row.length for row in rows}) > 3, "some are padded"
    plan = plan_of(base)
    assert {spec.name for spec in plan.trained} == {spec.name for spec in plan.tensors}
    assert gradient_error(base, plan, task, rows) < 1e-4


def test_one_text_moves_a_step_by_no_more_than_the_clipping_norm(base: LoadedBase) -> None:
    clip, bound = 0.01, 0.5 * 0.01 / 8
    plan = plan_of(base, training=settings(steps=1, batch_size=8, max_grad_norm=clip))
    less, more = (train(plan, base, texts(count), 8, SeededSource(3)).change.astype(np.float64) for count in (7, 8))
    assert 0.5 * bound < float(np.linalg.norm(more - less)) <= bound * (1 + 1e-5)


def test_the_start_is_the_plans_and_the_same_everywhere(base: LoadedBase) -> None:
    torch.manual_seed(99)
    other = load_base("lstm", CHARS)
    assert other.model_hash == base.model_hash
    assert plan_of(other) == plan_of(base)
    verify_plan(plan_of(base), other)
    start = start_tensors(plan_of(base))
    assert all(value.any() == (value.ndim > 1) for value in start.values())
    larger = CHARS.model_copy(update={"options": {**CHARS.options, "hidden": 25}})
    assert load_base("lstm", larger).model_hash != base.model_hash
    renamed = CHARS.model_copy(update={"options": {**CHARS.options, "alphabet": "ab"}})
    assert load_base("lstm", renamed).model_hash != base.model_hash
    name = "base_model.model.network.output.weight"
    assert not np.array_equal(start_tensors(plan_of(base, a_seed="0" * 64))[name], start[name])


def test_characters_are_learnt_under_dp_and_the_release_loads(base: LoadedBase, tmp_path: Path) -> None:
    training = settings(steps=30, batch_size=150, optimizer="adamw", learning_rate=0.02, epsilon=8.0)
    plan = plan_of(base, training=training)
    test = texts(60, seed=5)
    change = train(plan, base, texts(300), 300, SeededSource(1)).change
    start, own = (evaluate_change(plan, base, c, test) for c in (np.zeros_like(change), change))
    assert start.loss == pytest.approx(math.log(len(ALPHABET) + 1), abs=0.2)
    assert own.loss < start.loss - 0.8
    assert own.perplexity == pytest.approx(math.exp(own.loss))
    save_file(release_tensors(plan, change), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").write_bytes(adapter_config_file(plan))
    assert evaluate_release(tmp_path, base, test) == own
    names: dict[str, object] = {"BASE": "lstm", "FOLDER": str(tmp_path)}
    exec("\n".join(usage_lines(plan)), names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    task = make_task(CHARS, base.tokenizer)
    assert task.metrics(model, task.encode(test)) == own


def test_characters_outside_the_alphabet_are_one(base: LoadedBase) -> None:
    task = make_task(CHARS, base.tokenizer)
    one, other = task.encode(Examples("x", ("aéb", "a€b")))
    assert one.ids == other.ids
    assert task.encode(Examples("x", ("a" * 100,)))[0].length == 40
    with pytest.raises(DataError, match="fewer than two"):
        task.encode(Examples("x", ("a",)))


def test_what_does_not_fit_is_refused(base: LoadedBase, tiny_llama_dir: Path) -> None:
    with pytest.raises(ModelError, match='the base is called "lstm"'):
        load_base(str(tiny_llama_dir), CHARS)
    with pytest.raises(ConfigError, match='head_start = "seeded"'):
        plan_of(base, head_start="zeros")
    with pytest.raises(ConfigError, match="a character stands there twice"):
        load_base("lstm", CHARS.model_copy(update={"options": {"alphabet": "aba"}}))
