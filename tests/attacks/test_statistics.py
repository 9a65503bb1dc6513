"""Intervals, ROC and lower bounds on cases whose answer is known, and against other libraries."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import ConvexHull
from sklearn.metrics import roc_auc_score, roc_curve

from secagg.errors import AuditError
from secagg_attacks import f_dp, one_run, two_sample
from secagg_attacks.intervals import Floats, clopper_pearson, paired_bootstrap, t_interval
from secagg_attacks.one_run import Guesses, guess, p_value, reach
from secagg_attacks.roc import Scores, auc, auc_of_draws, calibrated, curve, tpr_at


def normal(n: int, m: int, shift: float, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(rng.normal(shift, 1, n), rng.normal(0, 1, m))


# -- intervals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (81, 263)])
def test_clopper_pearson_is_scipys(successes: int, trials: int) -> None:
    ours, theirs = clopper_pearson(successes, trials), stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_clopper_pearson_covers_at_least_as_often_as_it_says() -> None:
    trials, rate = 40, 0.07
    weights = stats.binom.pmf(np.arange(trials + 1), trials, rate)
    inside = [clopper_pearson(k, trials).low <= rate <= clopper_pearson(k, trials).high for k in range(trials + 1)]
    assert weights[inside].sum() >= 0.95


def test_t_interval_by_hand() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.value, found.high - found.value) == pytest.approx((2.0, 4.302652730 * 1.0 / math.sqrt(3)))
    with pytest.raises(AuditError, match="1 seed"):
        t_interval([1.0])


def test_areas_of_draws_are_those_of_the_drawn_examples() -> None:
    rng = np.random.default_rng(0)
    values, is_in = rng.integers(0, 12, 60).astype(np.float64), rng.random(60) < 0.4  # with many ties
    rows = rng.integers(0, 60, (50, 60))
    counts = np.stack([np.bincount(each, minlength=60) for each in rows])
    naive = [auc(Scores(values[each][is_in[each]], values[each][~is_in[each]])) for each in rows]
    np.testing.assert_allclose(auc_of_draws(values, is_in, counts), naive)
    only_members = is_in[None].astype(np.int64)
    assert auc_of_draws(values, is_in, only_members) == [0.5]


def test_a_paired_bootstrap_is_narrower_where_pairs_agree() -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(0, 5, 400)
    a, b = common + rng.normal(0.5, 0.2, 400), common + rng.normal(0.0, 0.2, 400)
    paired = paired_bootstrap(lambda counts: counts @ (a - b) / 400, 400, seed=1)
    alone = paired_bootstrap(lambda counts: counts @ a / 400, 400, seed=1)
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 10
    with pytest.raises(AuditError, match="5 examples"):
        paired_bootstrap(lambda counts: counts.sum(axis=1) / 5, 5, seed=1)


# -- ROC -------------------------------------------------------------------------------------------------------


def test_the_check_values_of_jax_privacys_documentation() -> None:
    """Its area is that below the concave hull of the points; ours is below the points themselves, .5905."""
    scores = Scores(np.arange(100.0) + 9.5, np.arange(100.0))
    assert tpr_at(scores, 0.01, beyond=1) == pytest.approx(0.11)
    assert auc(scores) == pytest.approx(0.5905)
    found = curve(scores)
    points = np.stack([np.append(found.fpr, 1.0), np.append(found.tpr, 0.0)], axis=1)
    assert ConvexHull(points).volume == pytest.approx(0.595, abs=5e-4)


@pytest.mark.parametrize("digits", [1, 3, 12])
def test_area_and_curve_are_scikit_learns_with_ties_and_without(digits: int) -> None:
    scores = normal(700, 900, 0.6)
    scores = Scores(*(np.around(part, digits).astype(np.float64) for part in (scores.members, scores.nonmembers)))
    truth = np.concatenate([np.ones(700), np.zeros(900)])
    values = np.concatenate([scores.members, scores.nonmembers])
    assert auc(scores) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    np.testing.assert_allclose(curve(scores).fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve(scores).tpr, tpr, atol=1e-12)


def test_a_rate_at_few_false_positives_needs_many_non_members() -> None:
    with pytest.raises(AuditError, match=r"9999 non-members are too few for a rate at 0\.001 false positives: 10000"):
        tpr_at(normal(10, 9_999, 1.0), 0.001)
    assert 0 <= tpr_at(normal(100, 10_000, 1.0), 0.001) <= 1
    assert tpr_at(Scores(np.ones(5), np.ones(1000)), 0.01) == 0.0, "a threshold cannot part what is equal"


def test_a_calibrated_threshold_keeps_its_rate_on_others() -> None:
    """A known answer: members shifted by 2 have TPR Phi(2 - z) at the threshold z of the wanted FPR."""
    rng = np.random.default_rng(5)
    found = calibrated(rng.normal(0, 1, 200_000), normal(20_000, 20_000, 2.0), 0.01)
    z = stats.norm.isf(0.01)
    assert found.threshold == pytest.approx(z, abs=0.03)
    assert found.fpr.low <= 0.01 <= found.fpr.high
    assert found.tpr.low <= stats.norm.sf(z - 2) <= found.tpr.high


def test_a_threshold_from_the_same_sample_would_not_have_covered() -> None:
    """Why calibration is on others: with the threshold of the sample itself, the FPR's interval is too low."""
    covered = 0
    for seed in range(200):
        sample = np.random.default_rng(seed).normal(0, 1, 1000)
        threshold = np.sort(sample)[::-1][10] + 1e-12
        covered += clopper_pearson(int((sample >= threshold).sum()), 1000).high >= stats.norm.sf(threshold)
    fresh = [calibrated(np.random.default_rng(s).normal(0, 1, 1000), normal(10, 1000, 0, s + 999), 0.01).fpr
             for s in range(200)]  # fmt: skip
    assert covered / 200 < 1.0
    assert np.mean([one.low <= 0.012 for one in fresh]) > 0.9


@pytest.mark.parametrize("bad", [np.array([]), np.array([np.nan]), np.ones((2, 2))])
def test_scores_that_are_none_are_refused(bad: Floats) -> None:
    with pytest.raises(AuditError):
        Scores(bad, np.ones(3))
    with pytest.raises(AuditError):
        Scores(np.ones(3), bad)


# -- lower bounds ----------------------------------------------------------------------------------------------


def test_what_canaries_can_reach_at_most() -> None:
    assert reach(1000, 0.0) == pytest.approx(5.8, abs=0.05)
    assert reach(9000, 0.0) == pytest.approx(8.0, abs=0.05)
    assert reach(1000, 1e-5) < reach(1000, 0.0)


def test_the_p_value_is_the_theorems() -> None:
    """By the definition, term by term."""
    guesses, epsilon, delta = Guesses(40, 20, 15), 0.7, 1e-3
    w = stats.binom(20, math.exp(epsilon) / (1 + math.exp(epsilon)))
    beta = sum(w.pmf(k) for k in range(15, 21))
    alpha = max(sum(w.pmf(k) for k in range(15 - i, 15)) / i for i in range(1, 16))
    assert p_value(guesses, epsilon, delta) == pytest.approx(beta + 2 * 40 * delta * alpha, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_randomised_response_is_bounded_from_below_and_nearly_met(epsilon: float) -> None:
    """A pure mechanism of known epsilon, whose best guess is what it says."""
    rng, bounds = np.random.default_rng(1), list[float]()
    for _ in range(100):
        coins = rng.random(4000) < 0.5
        said = np.where(rng.random(4000) < 1 / (1 + math.exp(-epsilon)), coins, ~coins)
        bounds.append(one_run.epsilon_lower_bound(Guesses(4000, 4000, int((said == coins).sum())), 0.0))
    assert np.mean(np.array(bounds) <= epsilon) >= 0.9
    assert np.median(bounds) > 0.8 * epsilon


def test_guesses_are_the_highest_and_the_lowest() -> None:
    scores, coins = np.array([5.0, 1.0, 3.0, 4.0, 2.0]), np.array([True, False, True, False, True])
    assert guess(scores, coins, 2) == Guesses(5, 2, 2)
    assert guess(scores, coins, 4) == Guesses(5, 4, 2)
    for made in (0, 1, 3, 6):
        with pytest.raises(AuditError, match="guesses"):
            guess(scores, coins, made)
    with pytest.raises(AuditError, match="not of the same canaries"):
        guess(scores, coins[:3], 2)


def test_coins_that_have_nothing_to_do_with_the_scores_refute_nothing() -> None:
    rng = np.random.default_rng(2)
    found = [
        one_run.epsilon_lower_bound(guess(rng.normal(size=1000), rng.random(1000) < 0.5, 200), 1e-5)
        for _ in range(200)
    ]  # fmt: skip
    assert np.mean(np.array(found) > 0) <= 0.1


def test_two_samples_bound_a_gaussian_mechanism_of_known_epsilon() -> None:
    """One Gaussian release with sensitivity 1 and deviation 1 is exactly (4.377, 1e-5)-private (Balle & Wang 2018)."""
    scores = normal(50_000, 50_000, 1.0, seed=4)
    found = two_sample.epsilon_lower_bound(scores, 2.8, 1e-5)
    assert 4.377 / 2 < found < 4.377
    assert two_sample.epsilon_lower_bound(normal(2000, 2000, 0.0), 1.0, 1e-5) == 0.0
    assert two_sample.epsilon_lower_bound(Scores(np.ones(500), np.zeros(500)), 0.5, 0.0) == pytest.approx(
        math.log(clopper_pearson(500, 500).low / clopper_pearson(0, 500).high)
    )


@pytest.mark.parametrize("deviation", [0.6, 1.0, 2.0])
def test_one_run_against_a_gaussian_mechanism_of_known_epsilon(deviation: float) -> None:
    """Each canary in a release of its own, N(coin, deviation): the curve's bound yields at least half, and holds."""
    truth = dp_accounting.get_epsilon_gaussian(deviation, 1e-5)
    rng, by_curve, by_pair = np.random.default_rng(7), list[float](), list[float]()
    for _ in range(20):
        coins = rng.random(5000) < 0.5
        guesses = guess(coins + rng.normal(0, deviation, 5000), coins, 1000)
        by_curve.append(f_dp.epsilon_lower_bound(guesses, 1e-5))
        by_pair.append(one_run.epsilon_lower_bound(guesses, 1e-5))
    assert np.mean(np.array(by_curve) <= truth) >= 0.9
    assert np.median(by_curve) > truth / 2
    assert np.median(by_curve) > np.median(by_pair)
