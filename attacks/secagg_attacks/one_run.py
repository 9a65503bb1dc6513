"""A lower bound on epsilon from one training run with canaries (Steinke, Nasr & Jagielski, NeurIPS 2023).

m canaries were each put into training by a fair coin. An auditor guesses r of the coins and is right v times. Under
(epsilon, delta)-differential privacy, being right so often has a probability that Theorem 5.2 bounds; the largest
epsilon that the guesses refute is the lower bound. It is rigorous: what chose the guesses must not have seen the coins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError

MAX_EPSILON = 50.0
_STEPS = 40
"""Of halving: to within 1e-10."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """How `right` of `made` guesses about the coins of `canaries` canaries were."""

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries or self.canaries == 0:
            raise AuditError(f"{self.right} right of {self.made} guesses about {self.canaries} canaries cannot be")


def guess(scores: NDArray[np.float64], is_in: NDArray[np.bool_], made: int) -> Guesses:
    """Guess "in" of the half of `made` with the highest scores and "out" of the other half, lowest; nothing between.

    Args:
        scores: higher where the attack holds the canary for a member, [m].
        is_in: how the coins fell, [m].
        made: how many guesses, even; fixed before the scores are seen.

    Raises:
        AuditError: sizes that do not fit, or a score that is not a number.
    """
    count = len(scores)
    if scores.shape != is_in.shape or scores.ndim != 1:
        raise AuditError("scores and coins are not of the same canaries")
    if not np.isfinite(scores).all():
        raise AuditError("a canary's score is not a finite number")
    if made % 2 or not 2 <= made <= count:
        raise AuditError(f"{made} guesses: an even number of 2 to {count} can be made about {count} canaries")
    order = np.argsort(scores, kind="stable")
    half = made // 2
    right = int(is_in[order[count - half :]].sum()) + int((~is_in[order[:half]]).sum())
    return Guesses(count, made, right)


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """At most how likely so many right guesses are under (epsilon, delta) (Theorem 5.2).

    beta = P[W >= v] for W ~ Binomial(r, e^eps / (1 + e^eps)); to it comes 2 m delta max_i P[v > W >= v - i] / i.
    """
    r, v = guesses.made, guesses.right
    chance = 1.0 / (1.0 + np.exp(-epsilon))
    beta = float(stats.binom.sf(v - 1, r, chance))
    if not delta:
        return beta
    below = np.cumsum(stats.binom.pmf(np.arange(v - 1, -1, -1), r, chance))  # P[v > W >= v - i] for i = 1, 2, ...
    alpha = float((below / np.arange(1, v + 1)).max()) if v else 0.0
    return min(1.0, beta + 2.0 * guesses.canaries * delta * alpha)


def epsilon_lower_bound(guesses: Guesses, delta: float, significance: float = 0.05) -> float:
    """The largest epsilon that the guesses refute at this significance; 0 when they refute none.

    Raises AuditError for a delta or significance that is none.
    """
    if not 0 <= delta < 1 or not 0 < significance < 1:
        raise AuditError("delta is in [0, 1), the significance in (0, 1)")
    return largest_refuted(lambda epsilon: p_value(guesses, epsilon, delta) <= significance)


def largest_refuted(refuted: Callable[[float], bool], least: float = 0.0) -> float:
    """The largest epsilon from `least` on that is refuted, when every smaller one is too; 0 when `least` is not."""
    if not refuted(least):
        return 0.0
    low, high = least, MAX_EPSILON
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def reach(canaries: int, delta: float, significance: float = 0.05) -> float:
    """The highest bound that this many canaries could give: every guess right. To be printed beside any bound."""
    return epsilon_lower_bound(Guesses(canaries, canaries, canaries), delta, significance)
