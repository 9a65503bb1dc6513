"""The client's own step code against its accountant: the real one passes, and every mutant is caught."""

import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from secagg.errors import AuditError
from secagg_attacks import two_sample
from secagg_attacks.audit.guessing import FULL_BATCH, GAUSSIAN, Canaries, bonferroni, grouped, strongest_delta
from secagg_attacks.audit.training import audit_training, repeated
from secagg_attacks.audit.verdict import FAMILY_WISE, Claim, judge
from secagg_client import optimizer, per_example, training
from secagg_client.accounting import Mechanism, epsilon_spent
from secagg_client.clipping import clipped_sum
from secagg_client.noise import GRID, grid_noise
from secagg_client.optimizer import GridOptimizer

DELTA = 1e-5
ONE_STEP = Mechanism(1.0, 4.0, 1)
"""Epsilon 0.93: far below what a thousand canaries reach."""
SUBSAMPLED = Mechanism(0.5, 4.0, 4)
CANARIES = 1000


def verdict_on(canaries: Canaries, mechanism: Mechanism) -> tuple[bool, float, float]:
    """Whether the audit fails, its rigorous bound and the accounted epsilon."""
    delta = strongest_delta(len(canaries), FAMILY_WISE, lambda delta: epsilon_spent(mechanism, delta, 1e-3))
    accounted = epsilon_spent(mechanism, delta, 1e-3)
    claim = Claim("training", accounted, lambda level: bonferroni(canaries, delta, level).epsilon)
    verdict = judge([claim])
    return verdict.fails, verdict.findings[0].epsilon, accounted


@pytest.mark.parametrize(
    "mechanism", [ONE_STEP, SUBSAMPLED, Mechanism(0.05, 1.5, 10)], ids=["one step", "subsampled", "rarely sampled"]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_real_step_code_passes(mechanism: Mechanism, seed: int) -> None:
    fails, bound, accounted = verdict_on(audit_training(mechanism, CANARIES, seed), mechanism)
    assert not fails
    assert bound <= accounted


def test_the_weights_are_the_mechanism_that_is_accounted_for() -> None:
    """Each weight moves by N(coin, sigma^2) clipping norms over the batch size: clip and noise are there."""
    canaries = audit_training(ONE_STEP, 2000, seed=3)
    moved = canaries.scores * 2000  # in clipping norms, the batch size being rate x canaries
    inside, outside = moved[canaries.is_in], moved[~canaries.is_in]
    error = ONE_STEP.sigma * math.sqrt(1 / len(inside) + 1 / len(outside))
    assert inside.mean() - outside.mean() == pytest.approx(1.0, abs=4 * error)
    assert outside.std() == pytest.approx(ONE_STEP.sigma, rel=4 / math.sqrt(2 * len(outside)))


def test_a_run_repeats_with_its_seed() -> None:
    one, again, other = (audit_training(ONE_STEP, 100, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.scores, again.scores)
    assert not np.array_equal(one.scores, other.scores)


# -- mutants ---------------------------------------------------------------------------------------------------


def no_noise(_stream: Any, size: int, _sigma: float) -> NDArray[np.int64]:
    return np.zeros(size, np.int64)


def noise_of_a_mean(_stream: Any, size: int, sigma: float) -> NDArray[np.int64]:
    """Scaled as if the sum were a mean over the batch: deviation sigma C / batch size, on a sum."""
    return grid_noise(_stream, size, sigma / CANARIES)


def no_clipping(gradients: list[Tensor], clip: float) -> list[Tensor]:
    return [torch.round(rows.double() * (GRID / clip)).sum(0) for rows in gradients]


def batch_mean_loss(gradients: list[Tensor], clip: float) -> list[Tensor]:
    """The loss was averaged before clipping, and the sum multiplied afterwards to make up for it: n C an example."""
    count = len(gradients[0])
    return [count * total for total in clipped_sum([rows / count for rows in gradients], clip)]


def gradients_of_the_mean(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Each example is given what the physical batch has on average: clipping then bounds no example."""
    own = torch.einsum("ni,no->noi", inputs, gradient)
    return own.mean(0, keepdim=True).expand_as(own).contiguous()


def same_noise_each_step(self: GridOptimizer) -> None:
    """The noise of step 0 again and again, with the sign turned: over two steps it cancels."""
    sign = 1 if self.step_index % 2 == 0 else -1
    stream = self._source.stream(0, "noise")
    for parameter in self.params:
        total = sign * torch.from_numpy(grid_noise(stream, parameter.numel(), self.noise_multiplier)).double()
        total = total + (parameter.summed_grad if parameter.summed_grad is not None else 0)
        parameter.grad = (total * self.max_grad_norm / GRID).to(parameter.dtype).view_as(parameter)


Patch = Callable[[pytest.MonkeyPatch], None]

MUTANTS: dict[str, tuple[Mechanism, Patch]] = {
    "no noise": (ONE_STEP, lambda patch: patch.setattr(optimizer, "grid_noise", no_noise)),
    "noise scaled to a mean": (ONE_STEP, lambda patch: patch.setattr(optimizer, "grid_noise", noise_of_a_mean)),
    "no clipping": (ONE_STEP, lambda patch: patch.setattr(optimizer, "clipped_sum", no_clipping)),
    "batch-mean loss": (ONE_STEP, lambda patch: patch.setattr(optimizer, "clipped_sum", batch_mean_loss)),
    "per-example gradients of a mean": (
        ONE_STEP,
        lambda patch: patch.setattr(per_example, "_products", gradients_of_the_mean),
    ),
    "no sampling": (
        Mechanism(0.05, 1.5, 10),
        lambda patch: patch.setattr(training, "poisson_sample", lambda _stream, size, _rate: np.arange(size)),
    ),
    "noise that cancels": (
        Mechanism(1.0, 6.0, 2),
        lambda patch: patch.setattr(GridOptimizer, "add_noise", same_noise_each_step),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mechanism, patch = MUTANTS[name]
    patch(monkeypatch)
    fails, bound, accounted = verdict_on(audit_training(mechanism, CANARIES, seed=1), mechanism)
    assert fails
    assert bound > accounted


@pytest.mark.parametrize(("part", "caught"), [(1 / 2, False), (1 / 16, True)])
def test_what_the_audit_can_and_cannot_see(part: float, caught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without a finding says little: half of the noise is missing and a thousand canaries do not show it."""
    monkeypatch.setattr(optimizer, "grid_noise", lambda stream, size, sigma: grid_noise(stream, size, sigma * part))
    fails, _, _ = verdict_on(audit_training(ONE_STEP, CANARIES, seed=1), ONE_STEP)
    assert fails == caught


def test_for_full_batches_the_curve_is_rigorous_and_sees_more() -> None:
    """What is refuted is the very mechanism that was accounted for."""
    mechanism = Mechanism(1.0, 1.0, 1)
    run = audit_training(mechanism, CANARIES, seed=1)
    by_curve = bonferroni(run, DELTA, FAMILY_WISE, FULL_BATCH)
    assert by_curve.rigorous
    assert bonferroni(run, DELTA, FAMILY_WISE).epsilon < by_curve.epsilon <= epsilon_spent(mechanism, DELTA, 1e-3)


# -- mechanisms of known epsilon -------------------------------------------------------------------------------


def gaussian(deviation: float, seed: int, canaries: int = 5000, shift: float = 1.0) -> Canaries:
    rng = np.random.default_rng(seed)
    is_in = rng.random(canaries) < 0.5
    return Canaries(shift * is_in + rng.normal(0, deviation, canaries), is_in)


@pytest.mark.parametrize("deviation", [0.7, 1.0, 2.0])
def test_a_gaussian_mechanism_yields_half_of_its_epsilon_and_never_more(deviation: float) -> None:
    truth = dp_accounting.get_epsilon_gaussian(deviation, DELTA)
    runs = [gaussian(deviation, seed) for seed in range(3)]
    usual = [bonferroni(run, DELTA, 0.05, GAUSSIAN).epsilon for run in runs]
    strict = [bonferroni(run, DELTA, FAMILY_WISE, GAUSSIAN).epsilon for run in runs]
    assert np.median(usual) > truth / 2
    assert max(strict) <= truth


def test_repeated_runs_bound_a_gaussian_mechanism() -> None:
    """The same by running it many times with one canary and without it."""
    rng = np.random.default_rng(0)
    found = repeated(lambda present, _seed: float(present + rng.normal(0, 1.0)), 20_000, seed=0)
    bound = two_sample.epsilon_lower_bound(found.scores, found.threshold, DELTA)
    truth = dp_accounting.get_epsilon_gaussian(1.0, DELTA)
    assert truth / 3 < bound <= truth
    assert two_sample.epsilon_lower_bound(found.scores, found.threshold, DELTA, FAMILY_WISE) <= truth
    with pytest.raises(AuditError, match="too few"):
        repeated(lambda _present, _seed: 0.0, 10, seed=0)


def test_repeated_runs_of_the_real_step_code_stay_below_its_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring data: one canary, in or out. Without noise the same audit fails."""

    def run(present: bool, seed: int) -> float:
        while True:  # the coin of the only canary falls as asked for
            found = audit_training(ONE_STEP, 1, seed)
            if found.is_in[0] == present:
                return float(found.scores[0])
            seed += 1_000_003

    accounted = epsilon_spent(ONE_STEP, DELTA, 1e-3)
    honest = repeated(run, 60, seed=5)
    assert two_sample.epsilon_lower_bound(honest.scores, honest.threshold, DELTA, FAMILY_WISE) <= accounted
    monkeypatch.setattr(optimizer, "grid_noise", lambda _stream, size, _sigma: np.eye(1, size, dtype=np.int64)[0])
    broken = repeated(run, 60, seed=5)
    assert two_sample.epsilon_lower_bound(broken.scores, broken.threshold, DELTA, FAMILY_WISE) > accounted


# -- groups of canaries ----------------------------------------------------------------------------------------


def test_copies_of_a_canary_move_its_weight_as_often_and_the_bound_is_of_one() -> None:
    mechanism, copies = Mechanism(1.0, 8.0, 1), 8
    accounted = epsilon_spent(mechanism, DELTA, 1e-3)
    together = audit_training(mechanism, CANARIES, seed=2, copies=copies)
    moved = together.scores * CANARIES
    gap = moved[together.is_in].mean() - moved[~together.is_in].mean()
    assert gap == pytest.approx(copies, abs=4 * mechanism.sigma * 2 / math.sqrt(CANARIES))
    single = bonferroni(audit_training(mechanism, CANARIES, seed=2), DELTA, 0.05).epsilon
    group = bonferroni(together, DELTA, 0.05, grouped(copies)).epsilon
    untranslated = bonferroni(together, DELTA, 0.05).epsilon
    assert single <= group <= accounted, "copies show what one canary does not"
    assert group > 0
    assert untranslated > accounted, "and without translation it would have been a false alarm"
