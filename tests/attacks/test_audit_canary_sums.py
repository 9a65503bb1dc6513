"""Random-direction canaries on sums of known noise, and the epsilon between two Gaussians in closed form."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy import integrate, stats

from secagg.errors import AuditError
from secagg_attacks.audit.canary_sums import (
    Estimate,
    Normal,
    all_rounds,
    cosines,
    final_only,
    gaussian_epsilon,
    random_directions,
)
from secagg_attacks.audit.verdict import Claim, judge

DELTA = 1e-5
DIMENSION, COUNT = 20_000, 100


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_gaussians_of_one_deviation_have_the_epsilon_of_the_gaussian_mechanism(sigma: float) -> None:
    found = gaussian_epsilon(Normal(0.0, sigma), Normal(1.0, sigma), DELTA)
    assert found == pytest.approx(dp_accounting.get_epsilon_gaussian(sigma, DELTA), abs=1e-3)


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 1.3), (1.0, 0.8), (0.2, 0.5), (0.0, 2.0)])
def test_gaussians_of_two_deviations_are_apart_by_delta_there(mean: float, deviation: float) -> None:
    """By integration: the larger of both hockey-stick divergences at that epsilon is delta."""
    delta = 1e-3
    epsilon = gaussian_epsilon(Normal(0.0, 1.0), Normal(mean, deviation), delta)
    one, other = stats.norm(0, 1), stats.norm(mean, deviation)
    grid = np.linspace(-25, 25, 2_000_001)
    sticks = [
        integrate.trapezoid(np.maximum(p.pdf(grid) - np.exp(epsilon) * q.pdf(grid), 0), grid)
        for p, q in ((one, other), (other, one))
    ]
    assert max(sticks) == pytest.approx(delta, rel=1e-3)


def test_equal_distributions_have_no_epsilon_and_those_far_apart_the_largest() -> None:
    assert gaussian_epsilon(Normal(0.0, 1.0), Normal(0.0, 1.0), DELTA) == 0.0
    assert gaussian_epsilon(Normal(0.0, 1e-4), Normal(1.0, 1e-4), DELTA) == pytest.approx(50.0, abs=1e-6)
    with pytest.raises(AuditError, match="between 0 and 1"):
        gaussian_epsilon(Normal(0.0, 1.0), Normal(1.0, 1.0), 0.0)


def one_release(sigma: float, seed: int, count: int = COUNT, dimension: int = DIMENSION) -> Estimate:
    """A sum of canaries with noise of deviation sigma in each value: the Gaussian mechanism for each of them."""
    canaries = random_directions(count, dimension, seed)
    noise = np.random.default_rng(1000 + seed).normal(0, sigma, dimension)
    return final_only(canaries, canaries.sum(0) + noise, DELTA)


@pytest.mark.parametrize(("sigma", "bias", "deviation"), [(1.0, 0.38, 0.33), (3.0, 0.29, 0.26)])
def test_the_final_sum_gives_about_the_epsilon_of_its_noise(sigma: float, bias: float, deviation: float) -> None:
    """Other canaries are noise too: k/d of variance. Bias and deviation of 1,000 canaries are those of a simulation."""
    count, dimension = 1000, 8000
    truth = dp_accounting.get_epsilon_gaussian(math.sqrt(sigma**2 + count / dimension), DELTA)
    found = [one_release(sigma, seed, count, dimension).epsilon for seed in range(3)]
    assert np.mean(found) == pytest.approx(truth + bias, abs=4 * deviation / math.sqrt(3))


def test_without_noise_to_speak_of_it_is_large() -> None:
    assert one_release(0.1, 0).epsilon > 20


def test_the_null_is_that_of_canaries_that_are_not_in() -> None:
    canaries, outside = random_directions(COUNT, DIMENSION, 1), random_directions(COUNT, DIMENSION, 2)
    total = canaries.sum(0) + np.random.default_rng(3).normal(0, 1, DIMENSION)
    found = cosines(outside, total)
    error = 1 / np.sqrt(DIMENSION)
    assert abs(found.mean()) < 4 * error / np.sqrt(COUNT)
    assert found.std() == pytest.approx(error, rel=4 / np.sqrt(2 * COUNT))


def test_all_rounds_see_what_the_final_sum_cancels() -> None:
    """Two rounds, of which the second takes the first back: nothing is left in the end, but all rounds show it."""
    canaries, outside = random_directions(COUNT, DIMENSION, 1), random_directions(COUNT, DIMENSION, 2)
    rng = np.random.default_rng(4)
    first, second = (sign * canaries.sum(0) + rng.normal(0, 1, DIMENSION) for sign in (1, -1))
    final, every = (
        final_only(canaries, first + second, DELTA),
        all_rounds(canaries, outside, np.stack([first, second]), DELTA),
    )
    assert final.epsilon < 1
    assert every.epsilon > 2
    assert every.null.mean > 0, "the larger of two cosines is not centred: why this null is fitted"


def test_one_round_of_all_rounds_is_the_final_sum() -> None:
    canaries, outside = random_directions(COUNT, DIMENSION, 1), random_directions(2000, DIMENSION, 2)
    total = canaries.sum(0) + np.random.default_rng(3).normal(0, 1, DIMENSION)
    every, final = all_rounds(canaries, outside, total[None], DELTA), final_only(canaries, total, DELTA)
    assert every.inside == final.inside
    assert every.epsilon == pytest.approx(final.epsilon, rel=0.1)


def test_an_estimate_never_fails_an_audit() -> None:
    found = one_release(0.1, 0)
    assert not found.rigorous
    claim = Claim("canaries on the sum", 1.0, lambda _level: found.epsilon, rigorous=found.rigorous)
    assert not judge([claim]).fails


def test_what_gives_no_distribution_is_refused() -> None:
    with pytest.raises(AuditError, match="1 cosines"):
        final_only(random_directions(1, 10, 0), np.ones(10), DELTA)
    with pytest.raises(AuditError, match="no direction"):
        cosines(random_directions(2, 10, 0), np.zeros(10))
