"""Membership scores on cases whose answer is known."""

import math
import zlib

import numpy as np
import pytest
from scipy import stats

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats
from secagg_attacks.membership import shadow, tokens
from secagg_attacks.roc import Scores, auc

# -- one model -------------------------------------------------------------------------------------------------


def test_scores_of_tokens_by_hand() -> None:
    logprobs = np.log([0.5, 0.1, 0.25, 0.9, 0.2])
    assert tokens.loss(logprobs) == pytest.approx(math.log(0.5 * 0.1 * 0.25 * 0.9 * 0.2) / 5)
    assert tokens.min_k(logprobs, 0.4) == pytest.approx((math.log(0.1) + math.log(0.2)) / 2)
    assert tokens.min_k(logprobs, 0.01) == pytest.approx(math.log(0.1)), "one token at least"
    assert tokens.zlib_ratio(logprobs, "aaaa") == pytest.approx(logprobs.sum() / len(zlib.compress(b"aaaa")))
    assert tokens.reference_difference(logprobs, logprobs - 1) == pytest.approx(1.0)


def test_min_k_plus_plus_measures_in_the_models_own_deviations() -> None:
    """A uniform model expects every token alike: deviation 0, nothing to say. A peaked one is surprised by the rest."""
    uniform = np.zeros((1, 8))
    means, deviations = tokens.expectations(uniform)
    assert (means[0], deviations[0]) == pytest.approx((-math.log(8), 0.0))
    assert tokens.min_k_plus_plus(np.array([-math.log(8)]), means, deviations) == 0.0
    peaked = np.log(np.array([[0.9, 0.1]]))
    means, deviations = tokens.expectations(peaked)
    mean = 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    deviation = math.sqrt(0.9 * (math.log(0.9) - mean) ** 2 + 0.1 * (math.log(0.1) - mean) ** 2)
    assert (means[0], deviations[0]) == pytest.approx((mean, deviation))
    assert tokens.min_k_plus_plus(peaked[0, 1:], means, deviations) == pytest.approx((math.log(0.1) - mean) / deviation)


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.1]), np.array([-np.inf]), np.zeros((2, 2))])
def test_what_are_no_log_probabilities_is_refused(bad: Floats) -> None:
    with pytest.raises(AuditError, match="log probabilities"):
        tokens.loss(bad)
    with pytest.raises(AuditError, match="must be in"):
        tokens.min_k(np.array([-1.0]), 0.0)


# -- shadows ---------------------------------------------------------------------------------------------------

EXAMPLES, MODELS, EFFECT = 4000, 64, 1.0


def sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-values))


class World:
    """Logits are normal with a mean of each example's own (deviation 3); training on it adds EFFECT, noise is 1.

    The best any attack can do is to tell N(0, 1) from N(EFFECT, 1): area Phi(EFFECT / sqrt 2). A global threshold
    cannot tell easy examples from members.
    """

    def __init__(self, models: int = MODELS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.ease = rng.normal(0, 3, EXAMPLES)
        self.is_in = rng.random((models + 1, EXAMPLES)) < 0.5
        seen = sigmoid(self.ease + EFFECT * self.is_in + rng.normal(0, 1, self.is_in.shape))
        self.target, self.truth = seen[0], self.is_in[0]
        self.shadows = shadow.Shadows(seen[1:], self.is_in[1:])
        others = rng.normal(0, 3, 2000)
        self.population = sigmoid(others + rng.normal(0, 1, 2000))
        self.population_shadows = sigmoid(others + rng.normal(0, 1, (models, 2000)))

    def area(self, scores: Floats) -> float:
        return auc(Scores(scores[self.truth], scores[~self.truth]))


BEST = float(stats.norm.cdf(EFFECT / math.sqrt(2)))


def test_lira_comes_close_to_the_best_that_is_possible() -> None:
    world = World()
    areas = {
        (mode, variance): world.area(shadow.lira(world.target, world.shadows, mode=mode, variance=variance))
        for mode in ("online", "offline")
        for variance in ("fixed", "example")
    }
    for area in areas.values():  # 32 shadows of a kind leave each mean a noise of .18, so none quite gets there
        assert BEST - 0.05 < area < BEST + 0.02
    assert world.area(world.target) < BEST - 0.1, "a global threshold"


def test_with_few_shadows_one_variance_is_better_than_one_for_each() -> None:
    world = World(models=8, seed=3)
    keep = ((world.shadows.is_in.sum(0) >= 2) & ((~world.shadows.is_in).sum(0) >= 2)).nonzero()[0]
    few = shadow.Shadows(world.shadows.probabilities[:, keep], world.shadows.is_in[:, keep])
    world.truth = world.truth[keep]
    fixed, own = (
        world.area(shadow.lira(world.target[keep], few, mode="online", variance=variance))
        for variance in ("fixed", "example")
    )
    assert fixed > own


def test_rmia_beats_a_global_threshold_and_keeps_to_the_best() -> None:
    world = World()
    for mode in ("online", "offline"):
        scores = shadow.rmia(world.target, world.shadows, world.population, world.population_shadows, mode=mode)
        assert world.area(world.target) < world.area(scores) <= BEST + 0.02
        assert ((scores >= 0) & (scores <= 1)).all()


def test_without_any_effect_there_is_nothing_to_find() -> None:
    world = World()
    shuffled = np.random.default_rng(9).permutation(world.truth)
    scores = shadow.lira(world.target, world.shadows, mode="online", variance="fixed")
    assert auc(Scores(scores[shuffled], scores[~shuffled])) == pytest.approx(0.5, abs=0.03)


def test_too_few_shadows_and_bad_shapes_are_refused() -> None:
    probabilities, none_in = np.full((3, 2), 0.5), np.zeros((3, 2), bool)
    one = none_in.copy()
    one[0, 0] = True
    with pytest.raises(AuditError, match="0 shadows with it in"):
        shadow.lira(np.full(2, 0.5), shadow.Shadows(probabilities, one), mode="online", variance="fixed")
    none = shadow.Shadows(probabilities, none_in)
    assert shadow.lira(np.full(2, 0.5), none, mode="offline", variance="fixed").shape == (2,)
    with pytest.raises(AuditError, match="models, examples"):
        shadow.Shadows(probabilities, none_in[:2])
    with pytest.raises(AuditError, match="between 0 and 1"):
        shadow.Shadows(probabilities + 1, none_in)
    with pytest.raises(AuditError, match="population"):
        shadow.rmia(np.full(2, 0.5), none, np.array([]), np.zeros((3, 0)), mode="offline")
