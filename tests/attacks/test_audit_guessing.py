"""The one-run driver and the verdict: choices that cost what they should, a report that fails for one reason."""

import math

import numpy as np
import pytest

from secagg.errors import AuditError
from secagg_attacks import one_run
from secagg_attacks.audit.guessing import (
    FULL_BATCH,
    GAUSSIAN,
    PAIR,
    Canaries,
    bonferroni,
    group_privacy,
    grouped,
    halved,
    numbers_of_guesses,
    reach,
    strongest_delta,
    with_copies,
)
from secagg_attacks.audit.verdict import FAILS, FAMILY_WISE, HOLDS, POWERLESS, Claim, Verdict, judge
from secagg_attacks.one_run import Guesses
from secagg_client.accounting import Mechanism, epsilon_spent
from tests.client.support import MEAN, examples


def randomised_response(epsilon: float, seed: int, canaries: int = 2000) -> Canaries:
    """Says each coin as it fell with probability e^eps / (1 + e^eps); ties are broken at random."""
    rng = np.random.default_rng(seed)
    is_in = rng.random(canaries) < 0.5
    said = np.where(rng.random(canaries) < 1 / (1 + math.exp(-epsilon)), is_in, ~is_in)
    return Canaries(said + rng.uniform(0, 0.5, canaries), is_in)


def test_the_choices_share_the_significance() -> None:
    canaries = randomised_response(1.0, seed=1)
    found = bonferroni(canaries, 0.0, 0.05)
    choices = numbers_of_guesses(2000)
    alone = [
        one_run.epsilon_lower_bound(one_run.guess(canaries.scores, canaries.is_in, made), 0.0, 0.05 / len(choices))
        for made in choices
    ]
    assert found.epsilon == max(alone)
    assert found.guesses.made in choices
    assert found.rigorous
    assert 0 < found.epsilon <= 1.0 < found.reach


def test_numbers_of_guesses_are_even_and_fixed_by_the_count_alone() -> None:
    assert numbers_of_guesses(1000) == (20, 50, 100, 200, 500, 1000)
    assert numbers_of_guesses(7) == (2, 6)
    assert numbers_of_guesses(2) == (2,)


@pytest.mark.parametrize("how", ["bonferroni", "halved"])
def test_a_bound_is_wrong_as_seldom_as_it_says(how: str) -> None:
    """Coins that have nothing to do with the scores, where any bound above 0 is wrong; and one of known epsilon."""

    def bound(canaries: Canaries) -> float:
        if how == "halved":
            return halved(canaries, 0.0, 0.1, seed=0).epsilon
        return bonferroni(canaries, 0.0, 0.1).epsilon

    rng = np.random.default_rng(2)
    nothing = [bound(Canaries(rng.normal(size=300), rng.random(300) < 0.5)) for _ in range(150)]
    known = [bound(randomised_response(0.5, seed, 300)) for seed in range(150)]
    allowed = 0.1 + 3 * math.sqrt(0.1 * 0.9 / 150)
    assert np.mean(np.array(nothing) > 0) <= allowed
    assert np.mean(np.array(known) > 0.5) <= allowed


def test_what_is_chosen_on_one_half_is_judged_on_the_other() -> None:
    canaries = randomised_response(2.0, seed=3)
    found = halved(canaries, 0.0, 0.05, seed=1)
    assert found.guesses.canaries == 1000
    assert 1.0 < found.epsilon <= 2.0
    assert halved(canaries, 0.0, 0.05, seed=1) == found
    with pytest.raises(AuditError, match="cannot be halved"):
        halved(canaries.select(np.arange(3)), 0.0, 0.05, seed=1)


def test_a_pair_is_rigorous_and_a_curve_is_not() -> None:
    canaries = randomised_response(1.0, seed=1)
    assert bonferroni(canaries, 1e-5, 0.05, PAIR).rigorous
    assert bonferroni(canaries, 1e-5, 0.05, grouped(2)).rigorous
    assert not bonferroni(canaries, 1e-5, 0.05, GAUSSIAN).rigorous
    assert bonferroni(canaries, 1e-5, 0.05, FULL_BATCH).rigorous, "to be used for sampling rate 1 alone"


def test_reach_is_what_right_guesses_alone_would_give() -> None:
    perfect = Canaries(np.arange(1000.0), np.arange(1000) >= 500)
    found = bonferroni(perfect, 1e-8, 0.05)
    assert found.epsilon == found.reach == reach(1000, 1e-8, 0.05)
    assert found.reach < one_run.reach(1000, 1e-8, 0.05), "six choices cost a little"


def test_at_the_delta_of_a_session_a_report_could_never_fail() -> None:
    """With six choices at a family-wise 1e-4: no power at 1e-5, almost all of it at 1e-8."""
    assert reach(1000, 1e-5, FAMILY_WISE) == 0.0
    assert reach(1000, 1e-8, FAMILY_WISE) == pytest.approx(4.5, abs=0.05)
    mechanism = Mechanism(1.0, 4.0, 1)
    chosen = strongest_delta(1000, FAMILY_WISE, lambda delta: epsilon_spent(mechanism, delta, 1e-3))
    assert 1e-9 <= chosen <= 1e-7


# -- groups ----------------------------------------------------------------------------------------------------


def test_group_privacy_is_the_known_one() -> None:
    epsilon, delta = group_privacy(0.5, 1e-6, 3)
    assert epsilon == 1.5
    assert delta == pytest.approx(1e-6 * (math.exp(1.5) - 1) / (math.exp(0.5) - 1))
    assert group_privacy(0.5, 1e-6, 1) == (0.5, 1e-6)


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_a_group_bound_is_a_pure_bound_by_its_size(copies: int) -> None:
    guesses = Guesses(1000, 200, 170)
    found = grouped(copies).lower_bound(guesses, 0.0, 0.05)
    assert found == pytest.approx(one_run.epsilon_lower_bound(guesses, 0.0, 0.05) / copies, abs=1e-8)
    with pytest.raises(AuditError, match="one at least"):
        grouped(0)
    with pytest.raises(AuditError, match="significance"):
        grouped(copies).lower_bound(guesses, 0.0, 1.0)


def test_copies_go_into_the_clients_data_behind_its_own_records() -> None:
    data, canaries = examples(5, MEAN), examples(3, MEAN, seed=9)
    made = with_copies(data, canaries, np.array([True, False, True]), 2)
    first, _, third = canaries.texts
    assert made.texts == (*data.texts, first, first, third, third)
    assert len(made.labels) == 9


# -- the verdict -----------------------------------------------------------------------------------------------


def claim(name: str, bound: float, accounted: float = 1.0, **changes: object) -> Claim:
    return Claim(name, accounted, lambda _level: bound, **changes)  # type: ignore[arg-type]


def test_a_rigorous_bound_above_the_accounted_epsilon_fails_and_nothing_else_does() -> None:
    assert judge([claim("a", 1.01)]).summary == FAILS
    assert judge([claim("a", 1.0), claim("b", 0.0)]).summary == HOLDS
    estimate = judge([claim("a", 0.5), claim("estimate", 40.0, rigorous=False)])
    assert not estimate.fails
    assert estimate.findings[1].significance is None
    assert "private" not in HOLDS


def test_all_rigorous_audits_of_a_report_share_its_error_and_estimates_take_none() -> None:
    asked = list[float]()

    def bound(level: float) -> float:
        asked.append(level)
        return 0.0

    claims = [Claim(name, 1.0, bound) for name in "abcd"] + [claim("estimate", 3.0, rigorous=False)]
    verdict = judge(claims)
    assert asked == [FAMILY_WISE / 4] * 4
    assert [finding.significance for finding in verdict.findings] == [FAMILY_WISE / 4] * 4 + [None]


def test_an_audit_without_power_says_so() -> None:
    weak, strong, unknown = judge(
        [claim("weak", 0.0, reach=lambda _level: 0.9), claim("strong", 0.0, reach=lambda _level: 4.0), claim("c", 0.0)]
    ).findings
    assert (weak.could_fail, strong.could_fail, unknown.could_fail) == (False, True, True)
    assert Verdict((weak,)).summary == POWERLESS
    assert Verdict((weak, strong)).summary == HOLDS


def test_a_verdict_needs_audits_with_names() -> None:
    for claims in ([], [claim("a", 0.0), claim("a", 0.0)]):
        with pytest.raises(AuditError, match="a name of its own"):
            judge(claims)


def test_an_honest_report_fails_seldom_and_a_leaking_one_does() -> None:
    """Three audits of randomised response: at the epsilon it has, and at half of it."""
    runs = [randomised_response(2.0, seed) for seed in range(3)]

    def report(accounted: float) -> bool:
        return judge(
            [
                Claim(str(number), accounted, lambda level, run=run: bonferroni(run, 0.0, level).epsilon)  # type: ignore[misc]
                for number, run in enumerate(runs)
            ]
        ).fails

    assert not report(2.0)
    assert report(1.0)


def test_jax_privacys_auditor_agrees() -> None:
    """Optional: the check values of its documentation, and its p-values of the one-run audit."""
    auditing = pytest.importorskip("jax_privacy.auditing")
    auditor = auditing.CanaryScoreAuditor(np.arange(100) + 9.5, np.arange(100.0))
    assert auditor.attack_auroc() == pytest.approx(0.595, abs=5e-4)
    assert auditor.tpr_at_given_fpr(0.01) == pytest.approx(0.11, abs=5e-3)
    for made, right, epsilon, delta in ((200, 170, 0.5, 1e-5), (20, 20, 2.0, 1e-8), (1000, 700, 0.8, 0.0)):
        theirs = auditing._one_run_p_value(1000, made, right, epsilon, delta)
        assert one_run.p_value(Guesses(1000, made, right), epsilon, delta) == pytest.approx(theirs, rel=1e-6)
