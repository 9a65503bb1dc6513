"""DP training on real (tiny) Transformers + PEFT + Opacus stacks. Each trap that voids privacy silently has a test."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secagg.adapter import flatten, release_tensors, start_tensors
from secagg.errors import ModelError, TrainingError
from secagg.plan import Plan, TensorSpec
from secagg.rounds import resumed, round_steps
from secagg_client import optimizer as optimizer_module
from secagg_client import training
from secagg_client.accounting import Mechanism, epsilon_of, epsilon_spent
from secagg_client.adapted import Adapted, attached
from secagg_client.clipping import clipped_sum
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import GRID, SecureSource, SeededSource, grid_noise, poisson_sample, rounded_to_grid
from secagg_client.per_example import PerExampleGradients, hook_trained_layers_only
from secagg_client.prefix import training_task
from secagg_client.tasks import Batch, make_task
from secagg_client.training import StepReport, TrainedUpdate, TrainOptions, mechanism_of, train
from tests.client.support import LM, MEAN, STOCK, examples, loaded, plan_for, settings

STACKS = pytest.mark.parametrize(
    "base",
    [
        pytest.param(("bert", MEAN), id="mean"),
        pytest.param(("bert", STOCK), id="stock"),
        pytest.param(("llama", LM), id="lm"),
    ],
    indirect=True,
)


def away_from_start(plan: Plan, adapted: Adapted) -> None:
    """Random B and head, so that gradients flow everywhere."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for spec in plan.trained:
            adapted.parameters[spec.name].copy_(0.3 * torch.randn(spec.shape, generator=generator))


def per_sample(adapted: Adapted, plan: Plan, losses: Tensor) -> list[Tensor]:
    torch.autograd.backward(losses.sum())
    return [adapted.parameters[spec.name].grad_sample for spec in plan.trained]  # type: ignore[attr-defined]


def gradient_errors(base: LoadedBase, *, token_mean_over_batch: bool) -> float:
    """Largest relative difference between Opacus' per-sample gradients and autograd on each example alone."""
    plan = plan_for(base)
    task = make_task(base.task, base.tokenizer)
    rows = task.encode(examples(6, base.task))
    assert len({len(row.ids) for row in rows}) > 2, "examples of different lengths, so that some are padded"
    with attached(plan, base) as adapted:
        away_from_start(plan, adapted)
        hook_trained_layers_only(adapted.model)
        wrapped = PerExampleGradients(adapted.model)
        batch = task.collate(rows)
        if token_mean_over_batch:
            ids = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
            losses = wrapped(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=ids).loss * len(
                rows
            )
        else:
            losses = task.losses(wrapped, batch)
        together = per_sample(adapted, plan, losses)
        wrapped.to_standard_module()
        parameters = [adapted.parameters[spec.name] for spec in plan.trained]
        worst = 0.0
        for number, row in enumerate(rows):
            alone = torch.autograd.grad(task.losses(adapted.model, task.collate([row])).sum(), parameters)
            scale = max(float(g.abs().max()) for g in alone)
            worst = max(
                worst, *(float((t[number] - g).abs().max()) / scale for t, g in zip(together, alone, strict=True))
            )
    return worst


@STACKS
def test_per_sample_gradients_are_those_of_each_example_alone(base: LoadedBase) -> None:
    assert gradient_errors(base, token_mean_over_batch=False) < 1e-4


def test_hugging_faces_token_mean_would_have_been_caught(tiny_llama_dir: Path) -> None:
    """The control: with `outputs.loss` an example's gradient depends on its neighbours' lengths."""
    assert gradient_errors(loaded(tiny_llama_dir, LM), token_mean_over_batch=True) > 0.05


def one_step(base: LoadedBase, count: int, **changes: object) -> TrainedUpdate:
    """One step on all of the first `count` records: sampling rate 1, fixed noise."""
    plan = plan_for(base, settings(steps=1, batch_size=8, **changes))
    return train(plan, base, examples(12, base.task).select(range(count)), 8, SeededSource(3))


@STACKS
def test_one_record_moves_a_step_by_no_more_than_the_clipping_norm(base: LoadedBase) -> None:
    """Trap 1, and dividing by the private count: with equal noise, neighbouring data differ by at most lr C / batch."""
    clip, bound = 0.05, 0.5 * 0.05 / 8
    changes = [one_step(base, count, max_grad_norm=clip).change.astype(np.float64) for count in (7, 8, 9, 10)]
    for less, more in pairwise(changes):
        distance = float(np.linalg.norm(more - less))
        assert 0.5 * bound < distance <= bound * (1 + 1e-5), "clipped to C: every example here has a longer gradient"


def test_every_step_lies_on_the_public_grid(mean_base: LoadedBase) -> None:
    change = one_step(mean_base, 8, learning_rate=1.0).change.astype(np.float64)
    units = change * 8 * GRID
    assert np.abs(units - np.rint(units)).max() < 0.02 * np.abs(units).max() ** 0.5
    assert len(np.unique(np.rint(units))) > 50


def test_an_empty_sample_takes_a_noise_only_step_and_is_accounted(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, settings(steps=4, batch_size=1, epsilon=1.0, max_grad_norm=0.7))
    declared, reports = 2_000, list[StepReport]()
    update = train(plan, mean_base, examples(2, MEAN), declared, SeededSource(5), reports.append)
    assert [report.examples for report in reports] == [0, 0, 0, 0]
    assert [report.loss for report in reports] == [None] * 4
    sigma = mechanism_of(plan.training, declared).sigma
    expected = np.zeros(plan.length)
    for step in range(4):
        stream = SeededSource(5).stream(step, "noise")
        noise = [grid_noise(stream, spec.size, sigma) for spec in _in_optimizer_order(plan)]
        expected -= 0.5 * _vector(plan, noise) * 0.7 / GRID
    assert np.allclose(update.change, expected, rtol=1e-4, atol=1e-6)
    spent = epsilon_spent(Mechanism(1 / declared, sigma, 4), 1e-5)
    assert spent <= reports[-1].epsilon <= 1.02 * spent, "a bound from above, and close"  # type: ignore[operator]
    assert all(earlier.epsilon < later.epsilon for earlier, later in pairwise(reports))  # type: ignore[operator]


def _in_optimizer_order(plan: Plan) -> list[TensorSpec]:
    lora = [spec for spec in plan.trained if "lora_B" in spec.name]
    return [*lora, *(spec for spec in plan.trained if spec not in lora)]


def _vector(plan: Plan, noise: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    by_name = {spec.name: part for spec, part in zip(_in_optimizer_order(plan), noise, strict=True)}
    return np.concatenate([by_name[spec.name] for spec in plan.trained]).astype(np.float64)


@STACKS
def test_every_trained_tensor_changes_and_the_rest_stays(base: LoadedBase) -> None:
    plan = plan_for(base)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    update = train(plan, base, examples(30, base.task), 32, SeededSource(1))
    start = 0
    for spec in plan.trained:
        assert np.abs(update.change[start : start + spec.size]).max() > 0, spec.name
        start += spec.size
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "the base is as it was"


def test_an_optimiser_of_another_copy_is_refused(mean_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 3: parameters replaced after the optimiser got them; loss and epsilon look normal, updates are zero."""

    def stale(_settings: object, trained: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([nn.Parameter(p.detach().clone()) for p in trained.values()], lr=1.0)

    monkeypatch.setattr(training, "_optimizer", stale)
    with pytest.raises(TrainingError, match="changed no weight"):
        train(plan_for(mean_base), mean_base, examples(1, MEAN), 90_000, SeededSource(1))
    with pytest.raises(TrainingError, match="no per-example gradient"):
        train(plan_for(mean_base), mean_base, examples(30, MEAN), 16, SeededSource(1))


def test_the_sampler_is_poisson_at_the_accounted_rate(mean_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 4. The rate comes from the declared size, not from the count, and sizes vary as a binomial does."""
    rates, real = set[float](), poisson_sample

    def recording(stream: object, size: int, rate: float) -> object:
        rates.add(rate)
        return real(stream, size, rate)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "poisson_sample", recording)
    plan = plan_for(mean_base, settings(steps=60, batch_size=10))
    reports = list[StepReport]()
    train(plan, mean_base, examples(60, MEAN), 40, SeededSource(2), reports.append)
    assert rates == {0.25} == {mechanism_of(plan.training, 40).rate}
    sizes = np.array([report.examples for report in reports])
    assert abs(sizes.mean() - 15) < 5 * math.sqrt(60 * 0.25 * 0.75 / 60)
    assert 4 < sizes.var() < 25


def test_noise_and_clipping_are_those_that_are_accounted(
    mean_base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[float, float]]()

    def clip(rows: list[Tensor], norm: float) -> list[Tensor]:
        whole = rounded_to_grid(rows, norm)
        longest = float(torch.stack([part.square().sum(1) for part in whole]).sum(0).sqrt().max())
        seen.append((norm, longest / GRID))
        return clipped_sum(rows, norm)

    def noise(stream: object, size: int, sigma: float) -> object:
        sigmas.add(sigma)
        return grid_noise(stream, size, sigma)  # type: ignore[arg-type]

    sigmas = set[float]()
    monkeypatch.setattr(optimizer_module, "clipped_sum", clip)
    monkeypatch.setattr(optimizer_module, "grid_noise", noise)
    plan = plan_for(mean_base, settings(max_grad_norm=0.3))
    train(plan, mean_base, examples(30, MEAN), 32, SeededSource(1))
    assert sigmas == {mechanism_of(plan.training, 32).sigma}
    assert {norm for norm, _ in seen} == {0.3}
    assert all(longest <= 1 for _, longest in seen)


def test_secure_runs_differ_and_seeded_runs_repeat(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, settings(noise="secure"))
    data = examples(30, MEAN)
    first, second = (train(plan, mean_base, data, 32, SecureSource()) for _ in range(2))
    assert not np.array_equal(first.change, second.change)
    assert first.statement.noise == "secure"
    plan = plan_for(mean_base)
    first, second = (train(plan, mean_base, data, 32, SeededSource(1)) for _ in range(2))
    assert np.array_equal(first.change, second.change)
    assert first.statement.noise == "seeded"


def test_the_source_must_be_of_the_kind_that_the_plan_says(mean_base: LoadedBase) -> None:
    with pytest.raises(TrainingError, match="asks for secure noise, the source is seeded"):
        train(plan_for(mean_base, settings(noise="secure")), mean_base, examples(30, MEAN), 32, SeededSource(1))
    with pytest.raises(TrainingError, match="asks for seeded noise, the source is secure"):
        train(plan_for(mean_base), mean_base, examples(30, MEAN), 32, SecureSource())


def test_nothing_of_the_private_count_is_said_or_used(mean_base: LoadedBase) -> None:
    """Trap 7: sigma, rate and statement are the same whatever the count is, and results do not print."""
    plan = plan_for(mean_base)
    updates = [train(plan, mean_base, examples(count, MEAN), 32, SeededSource(1)) for count in (20, 45)]
    assert updates[0].statement == updates[1].statement
    assert set(updates[0].statement.model_dump()) == {
        "unit", "adjacency", "epsilon", "delta", "sampler", "accountant", "noise"
    }  # fmt: skip
    assert updates[0].statement.epsilon == 4.0
    assert "change" not in repr(updates[0])
    assert not [name for name in dir(TrainedUpdate) if name.startswith(("save", "write", "to_", "dump"))]
    assert "loss" not in repr(StepReport(1, 2, 0.5, 1.0, 3))


def test_a_declared_size_below_the_batch_is_refused(mean_base: LoadedBase) -> None:
    with pytest.raises(TrainingError, match="declared size 8 is smaller than the session's batch size 16"):
        train(plan_for(mean_base), mean_base, examples(30, MEAN), 8, SeededSource(1))


def test_a_delta_that_pays_for_a_record_without_noise_is_refused() -> None:
    """One draw in a million steps' worth of records: delta alone would allow it, and sigma would be .04."""
    few = settings(batch_size=1, steps=5, epsilon=1.0)
    with pytest.raises(TrainingError, match="delta 1e-05 is not below 1/1000000"):
        mechanism_of(few, 1_000_000)
    assert mechanism_of(few.model_copy(update={"delta": 1e-7}), 1_000_000).sigma > 0.2


def test_no_privacy_only_on_demand(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, settings(epsilon=None, steps=25, learning_rate=0.02, optimizer="adamw"))
    data = examples(60, MEAN)
    with pytest.raises(TrainingError, match="without differential privacy"):
        train(plan, mean_base, data, 60, SeededSource(1))
    reports = list[StepReport]()
    update = train(plan, mean_base, data, 60, SeededSource(1), reports.append, TrainOptions(allow_no_dp=True))
    assert update.statement.epsilon is None
    assert reports[-1].epsilon is None
    losses = [report.loss for report in reports if report.loss is not None]
    assert losses[-1] < losses[0] - 0.2


def test_micro_batches_do_not_change_the_result(mean_base: LoadedBase) -> None:
    plan, data = plan_for(mean_base), examples(40, MEAN)
    one, other = (
        train(plan, mean_base, data, 40, SeededSource(4), options=TrainOptions(micro_batch=size)).change
        for size in (3, 64)
    )
    assert np.abs(one - other).max() < 1e-4


def test_learns_under_noise_with_adam_warmup_and_decay_in_bf16(tiny_bert_dir: Path) -> None:
    base = load_base(str(tiny_bert_dir), MEAN, precision="bf16")
    plan = plan_for(
        base,
        settings(
            steps=30, batch_size=64, optimizer="adamw", learning_rate=0.01, head_learning_rate=0.05, warmup_steps=3,
            schedule="linear", epsilon=8.0, precision="bf16",
        ),
    )  # fmt: skip
    reports = list[StepReport]()
    train(plan, base, examples(300, MEAN), 300, SeededSource(1), reports.append)
    losses = [report.loss for report in reports if report.loss is not None]
    assert losses[0] == pytest.approx(math.log(2), abs=0.01)
    assert np.mean(losses[-5:]) < 0.5
    assert reports[-1].epsilon is not None
    assert 7.8 < reports[-1].epsilon <= 8.0


def test_schedules() -> None:
    flat = [training.learning_rate_factor(settings(steps=4, warmup_steps=2), step) for step in range(4)]
    assert flat == [0.5, 1.0, 1.0, 1.0]
    linear = [training.learning_rate_factor(settings(steps=4, schedule="linear"), step) for step in range(4)]
    assert linear == [1.0, 0.75, 0.5, 0.25]
    cosine = [training.learning_rate_factor(settings(steps=4, schedule="cosine"), step) for step in range(4)]
    assert cosine == pytest.approx([1.0, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2)])


def test_divergence_is_an_error(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, settings(learning_rate=3e38, batch_size=1))
    with pytest.raises(TrainingError, match="not finite"):
        train(plan, mean_base, examples(30, MEAN), 32, SeededSource(1))


def test_an_example_with_a_gradient_that_is_not_finite_counts_as_zero(
    mean_base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training_task

    def poisoned(plan: Plan, base: LoadedBase, device: torch.device) -> object:
        task = real(plan, base, device)
        losses = task.losses
        task.losses = lambda model, batch: _times_nan(losses(model, batch))  # type: ignore[method-assign]
        return task

    monkeypatch.setattr(training, "training_task", poisoned)
    plan = plan_for(mean_base, settings(steps=1))
    update = train(plan, mean_base, examples(30, MEAN), 32, SeededSource(1))
    assert np.isfinite(update.change).all()


def _times_nan(losses: Tensor) -> Tensor:
    factors = torch.ones_like(losses)
    factors[0] = math.nan
    return losses * factors


def test_another_base_is_refused_before_training(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base).model_copy(update={"base_model_hash": "0" * 64})
    with pytest.raises(ModelError, match="session asks for 0000000000000000"):
        train(plan, mean_base, examples(30, MEAN), 32, SeededSource(1))


def test_change_is_relative_to_the_start_values(mean_base: LoadedBase) -> None:
    """A head that starts elsewhere than zero: the vector holds the change alone."""
    plan = plan_for(
        mean_base,
        settings(learning_rate=1e-6),
        head_start="descriptions",
        label_descriptions={"negative": ("bad",), "positive": ("good",)},
    )
    assert np.abs(flatten(plan, start_tensors(plan))).max() > 0.1
    update = train(plan, mean_base, examples(30, MEAN), 32, SeededSource(1))
    assert np.abs(update.change).max() < 1e-4


def test_padding_does_not_reach_the_loss(tiny_llama_dir: Path) -> None:
    base = loaded(tiny_llama_dir, LM)
    task = make_task(LM, base.tokenizer)
    row = task.encode(examples(1, LM))[0]
    short = task.collate([row])
    ids, mask, counted = (
        torch.nn.functional.pad(tensor, (0, 9)) for tensor in (short.input_ids, short.attention_mask, short.counted)
    )
    padded = Batch(ids, mask, counted, short.labels)
    assert torch.allclose(task.losses(base.model, short), task.losses(base.model, padded), atol=1e-5)


def test_training_inside_an_autocast_region_is_refused(mean_base: LoadedBase) -> None:
    """Its cache would keep the bfloat16 copy of the first step's weights: every later gradient would be stale."""
    plan = plan_for(mean_base, settings(steps=1))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TrainingError, match="outside torch"):
        train(plan, mean_base, examples(30, MEAN), 32, SeededSource(1))


def test_rounds_take_the_same_steps_with_the_same_noise_as_one_shot(mean_base: LoadedBase) -> None:
    """SGD without momentum has no state, so the rounds of one client are one run, cut."""
    plan = plan_for(mean_base, settings(steps=6))
    data = examples(30, MEAN)
    whole = train(plan, mean_base, data, 32, SeededSource(1)).change
    for rounds in (2, 3):
        current = plan
        for number in range(rounds):
            steps = round_steps(6, number, rounds)
            change = train(current, mean_base, data, 32, SeededSource(1), steps=steps).change
            ended = release_tensors(current, change)
            current = resumed(plan, ended)
        np.testing.assert_allclose(flatten(plan, ended) - flatten(plan, start_tensors(plan)), whole, atol=1e-6)


@pytest.mark.parametrize("rounds", [1, 2, 5, 10])
def test_at_equal_steps_rate_and_sigma_epsilon_is_the_same_whatever_the_rounds(rounds: int) -> None:
    plan_settings = settings(steps=20)
    whole = mechanism_of(plan_settings, 400)
    parts = [
        Mechanism(whole.rate, whole.sigma, len(round_steps(plan_settings.steps, number, rounds))).event()
        for number in range(rounds)
    ]
    assert epsilon_of(parts, 1e-5) == pytest.approx(epsilon_of([whole.event()], 1e-5), rel=1e-6)
