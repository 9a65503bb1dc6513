"""Each encoding from the model to the release: what is trained, per-example gradients, what PEFT loads."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from secagg.adapter import start_tensors
from secagg.encodings.registry import encoding_of
from secagg.errors import EncodingError, ModelError
from secagg.plan import Plan
from secagg.release import adapter_config_file
from secagg_client.adapted import Adapted, attached
from secagg_client.baselines import head_plan
from secagg_client.evaluation import evaluate_change, evaluate_release
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.per_example import PerExampleGradients, hook_trained_layers_only
from secagg_client.planning import verify_plan
from secagg_client.tasks import make_task
from secagg_client.training import train
from tests.client.support import LM, MEAN, STOCK, examples, loaded, plan_for, settings
from tests.twin.predictable import PredictableRandomness

METHODS: dict[str, dict[str, Any]] = {
    "ffa-lora": {}, "fed-sb": {}, "fedit": {}, "task-arithmetic": {}, "dare": {"drop": 0.5}, "ties": {"keep": 0.5},
    "sketch": {"size": 16}, "flexlora": {}, "fedex": {"release_rank": 16},
}  # fmt: skip
TRAINED_ALIKE = {"ffa-lora": "B", "fed-sb": "R", "fedit": "AB"}
"""One method for each set of trained factors."""


@pytest.fixture(params=["mean", "stock", "lm"])
def base(request: pytest.FixtureRequest, tiny_bert_dir: Path, tiny_llama_dir: Path) -> LoadedBase:
    folder, task = {"mean": (tiny_bert_dir, MEAN), "stock": (tiny_bert_dir, STOCK), "lm": (tiny_llama_dir, LM)}[
        request.param
    ]
    return loaded(folder, task)


@pytest.fixture
def mean_base(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


def away_from_start(plan: Plan, adapted: Adapted) -> None:
    """Random factors and head, so that gradients flow everywhere."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapted.parameters.values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("method", TRAINED_ALIKE)
def test_per_sample_gradients_are_those_of_each_example_alone(base: LoadedBase, method: str) -> None:
    plan = plan_for(base, method=method)
    assert {s.name.split("lora_")[1][0] for s in plan.trained if "lora_" in s.name} == set(TRAINED_ALIKE[method])
    task = make_task(base.task, base.tokenizer)
    rows = task.encode(examples(6, base.task))
    with attached(plan, base) as adapted:
        away_from_start(plan, adapted)
        hook_trained_layers_only(adapted.model)
        wrapped = PerExampleGradients(adapted.model)
        parameters = [adapted.parameters[spec.name] for spec in plan.trained]
        torch.autograd.backward(task.losses(wrapped, task.collate(rows)).sum())
        together: list[torch.Tensor] = [parameter.grad_sample for parameter in parameters]  # type: ignore[attr-defined]
        wrapped.to_standard_module()
        for number, row in enumerate(rows):
            alone = torch.autograd.grad(task.losses(adapted.model, task.collate([row])).sum(), parameters)
            scale = max(float(gradient.abs().max()) for gradient in alone)
            assert scale > 0
            for spec, gradient, sample in zip(plan.trained, alone, together, strict=True):
                assert float((sample[number] - gradient).abs().max()) < 1e-4 * scale, spec.name


@pytest.mark.parametrize("method", TRAINED_ALIKE)
def test_a_run_moves_exactly_what_the_method_trains_and_leaves_the_base(base: LoadedBase, method: str) -> None:
    plan = plan_for(base, method=method)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    update = train(plan, base, examples(30, base.task), 32, SeededSource(1))
    assert update.change.shape == (plan.length,)
    start = 0
    for spec in plan.trained:
        assert np.abs(update.change[start : start + spec.size]).max() > 0, spec.name
        start += spec.size
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["fed-sb", "fedit"])
def test_one_record_moves_a_step_by_no_more_than_the_clipping_norm(mean_base: LoadedBase, method: str) -> None:
    """One norm over all trained tensors together, A and B among them."""
    clip, bound = 0.05, 0.5 * 0.05 / 8
    plan = plan_for(mean_base, settings(steps=1, batch_size=8, max_grad_norm=clip), method=method)
    data = examples(12, MEAN)
    steps = [
        train(plan, mean_base, data.select(range(count)), 8, SeededSource(3)).change.astype(np.float64)
        for count in (7, 8, 9)
    ]
    for less, more in pairwise(steps):
        assert 0.5 * bound < float(np.linalg.norm(more - less)) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_release_of_one_client_is_its_own_model(
    tiny_bert_dir: Path, tiny_llama_dir: Path, tmp_path: Path, method: str
) -> None:
    """Loaded by PEFT from the released files: the loss is that of the trained model, where the method is exact."""
    for folder, task in ((tiny_bert_dir, MEAN), (tiny_llama_dir, LM)):
        base = loaded(folder, task)
        plan = plan_for(base, method=method, options=METHODS[method])
        rng = np.random.default_rng(3)
        change = np.concatenate([rng.uniform(-spec.clip, spec.clip, spec.size) for spec in plan.trained])
        change = change.astype(np.float32)
        encoding = encoding_of(plan)
        encoding.check_session(plan, bits=24, weights=(1.0,) * 4)
        vector = encoding.encode(plan, change, PredictableRandomness(b"client"))
        release = tmp_path / task.kind
        release.mkdir()
        (release / "adapter_config.json").write_bytes(adapter_config_file(plan))
        save_file(encoding.decode(plan, vector, 1), release / "adapter_model.safetensors", metadata={"format": "pt"})
        test = examples(20, task, seed=5)
        own, start = (evaluate_change(plan, base, c, test).loss for c in (change, np.zeros_like(change)))
        found = evaluate_release(release, base, test).loss
        moved = abs(own - start)
        assert moved > 1e-4
        if method in {"dare", "ties"}:
            assert np.isfinite(found)
            assert found != pytest.approx(start, abs=1e-6)
        else:
            assert abs(found - own) < 0.01 * moved + 1e-6


def test_fed_sb_starts_as_the_base_model(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, method="fed-sb")
    start = start_tensors(plan)
    assert all(np.abs(start[spec.name]).max() > 0 for spec in plan.tensors if "lora_B" in spec.name)
    assert not any(start[spec.name].any() for spec in plan.tensors if "lora_R" in spec.name)
    assert len([spec for spec in plan.trained if "lora_R" in spec.name]) == 4
    plain = plan_for(mean_base)
    test = examples(20, MEAN, seed=5)
    losses = [evaluate_change(p, mean_base, np.zeros(p.length, np.float32), test).loss for p in (plan, plain)]
    assert losses[0] == losses[1]


def test_plans_from_outside_that_train_other_tensors_are_refused(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, method="fedit")
    with pytest.raises(ModelError, match="ffa-lora trains every tensor but LoRA's A"):
        verify_plan(plan.model_copy(update={"method": "ffa-lora"}), mean_base)
    with pytest.raises(ModelError, match="fedit trains every tensor, LoRA's A and B among them"):
        verify_plan(plan_for(mean_base).model_copy(update={"method": "fedit"}), mean_base)
    with pytest.raises(ModelError, match="no encoding is called 'fedavg'"):
        verify_plan(plan.model_copy(update={"method": "fedavg"}), mean_base)
    squares = plan_for(mean_base, method="fed-sb")
    with pytest.raises(ModelError, match=r"lora_R.weight: the plan has shape"):
        verify_plan(squares.model_copy(update={"tensors": squares.tensors[:-1]}), mean_base)


def test_a_plan_that_its_method_cannot_carry_is_not_made(mean_base: LoadedBase) -> None:
    with pytest.raises(EncodingError, match="flora stacks"):
        plan_for(mean_base, method="flora")
    with pytest.raises(EncodingError, match=r"size 64 is larger than the layer \(32 x 32\)"):
        plan_for(mean_base, method="sketch", options={"size": 64})
    with pytest.raises(EncodingError, match="options of ties: keep"):
        plan_for(mean_base, method="ties", options={"keep": 0})


def test_a_head_alone_is_summed_as_it_is(mean_base: LoadedBase) -> None:
    plan = head_plan(plan_for(mean_base, method="sketch", options={"size": 16}))
    assert (plan.method, plan.options) == ("ffa-lora", {})
    verify_plan(plan, mean_base)
