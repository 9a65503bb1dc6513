"""The one-run audit, from scores of canaries and their coins to a lower bound that says what it could have reached.

How many guesses to make (the rest abstains) decides the power, and must not be chosen for its outcome. Either several
numbers share the significance (`bonferroni`), or one half of the canaries chooses and the other half is judged
(`halved`). Canaries may each go in as a group of copies: then group privacy translates the bound back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from secagg.errors import AuditError
from secagg_attacks import f_dp, one_run
from secagg_attacks.intervals import Floats
from secagg_attacks.one_run import Guesses
from secagg_client.data import Examples

PARTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the canaries, about so many guesses are tried by default."""

DELTAS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
"""An audit may be made at any of these, whatever delta the session states."""

LowerBound = Callable[[Guesses, float, float], float]
"""Guesses, delta, significance: the largest epsilon that is refuted."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What is refuted. `rigorous`: the bound holds for any mechanism; otherwise for the kind it names only."""

    title: str
    rigorous: bool
    lower_bound: LowerBound = field(repr=False)


PAIR = Hypothesis("(epsilon, delta) alone", True, one_run.epsilon_lower_bound)
"""Steinke, Nasr & Jagielski 2023."""
GAUSSIAN = Hypothesis("the curve of a Gaussian mechanism", False, f_dp.epsilon_lower_bound)
"""Mahloujifar, Melis & Chaudhuri 2024: an estimate for anything but a Gaussian mechanism without subsampling."""

FULL_BATCH = replace(GAUSSIAN, title="the Gaussian mechanism that full batches are", rigorous=True)
"""The same, where the mechanism claimed is Gaussian: sampling rate 1. What is refuted is then the claim itself."""


def grouped(copies: int) -> Hypothesis:
    """`PAIR` for canaries of which each coin puts in so many copies: the bound is that of one record.

    Under (epsilon, delta) for one record, k of them are (k epsilon, delta (1 + e^epsilon + ... + e^((k-1) epsilon)))-
    private (Dwork & Roth 2014, §2.3). An epsilon is refuted when that pair is.
    Raises AuditError for fewer than one copy.
    """
    if copies < 1:
        raise AuditError(f"{copies} copies of a canary: there must be one at least")
    return Hypothesis(f"(epsilon, delta) of one of {copies} copies", True, partial(_grouped_bound, copies))


def _grouped_bound(copies: int, guesses: Guesses, delta: float, significance: float) -> float:
    if not 0 <= delta < 1 or not 0 < significance < 1:
        raise AuditError("delta is in [0, 1), the significance in (0, 1)")

    def refuted(epsilon: float) -> bool:
        return one_run.p_value(guesses, *group_privacy(epsilon, delta, copies)) <= significance

    return one_run.largest_refuted(refuted)


def group_privacy(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """The pair that (epsilon, delta) for one record gives for `size` of them; the delta may be above 1."""
    steps = [min(number * epsilon, 700.0) for number in range(size)]
    return size * epsilon, delta * math.fsum(map(math.exp, steps))


def with_copies(data: Examples, canaries: Examples, is_in: NDArray[np.bool_], copies: int) -> Examples:
    """A client's data with `copies` of each canary that is in: what is trained on."""
    rows = [row for row in np.flatnonzero(is_in).tolist() for _ in range(copies)]
    return data.joined(canaries.select(rows))


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound on epsilon at `delta`, or an estimate of it.

    Attributes:
        epsilon: 0 when nothing was refuted.
        reach: the highest that so many canaries could have given, every guess right.
        significance: how likely at most it is wrong, over all choices.
        guesses: those that gave it.
        rigorous: whether it holds for any mechanism.
    """

    epsilon: float
    reach: float
    delta: float
    significance: float
    guesses: Guesses
    rigorous: bool


@dataclass(frozen=True, slots=True)
class Canaries:
    """One run's canaries: scores [canaries], higher the more they are held to be in, and how the coins fell."""

    scores: Floats = field(repr=False)
    is_in: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: NDArray[np.int64]) -> "Canaries":
        """Those at `rows`."""
        return Canaries(self.scores[rows], self.is_in[rows])


def numbers_of_guesses(canaries: int) -> tuple[int, ...]:
    """The default choices for so many canaries: even, 2 at least."""
    return tuple(sorted({max(2, 2 * int(part * canaries / 2)) for part in PARTS}))


def reach(
    canaries: int, delta: float, significance: float, hypothesis: Hypothesis = PAIR, made: Sequence[int] = ()
) -> float:
    """The highest bound that `bonferroni` could give: every guess right."""
    choices = tuple(made) or numbers_of_guesses(canaries)
    return max(hypothesis.lower_bound(Guesses(canaries, n, n), delta, significance / len(choices)) for n in choices)


def strongest_delta(
    canaries: int, significance: float, accounted: Callable[[float], float], hypothesis: Hypothesis = PAIR
) -> float:
    """The delta at which the audit's reach is furthest above the accounted epsilon there; to be asked before the run.

    Theorem 5.2 adds about 2 delta e^epsilon to the chance of any guesses: at the delta of a session, and the
    significance of a report, that alone is above it, and no run could fail. An accountant gives an epsilon at every
    delta, and the run must satisfy each.
    """
    return max(DELTAS, key=lambda delta: reach(canaries, delta, significance, hypothesis) - accounted(delta))


def bonferroni(
    canaries: Canaries, delta: float, significance: float, hypothesis: Hypothesis = PAIR, made: Sequence[int] = ()
) -> Bound:
    """The best bound over several numbers of guesses, each at its share of the significance.

    `made` must have been fixed before the scores were seen; by default it follows from how many canaries there are.
    Raises AuditError as `one_run.guess`, and for a delta or significance that is none.
    """
    choices = tuple(made) or numbers_of_guesses(len(canaries))
    share = significance / len(choices)
    tried = [one_run.guess(canaries.scores, canaries.is_in, number) for number in choices]
    bounds = [hypothesis.lower_bound(guesses, delta, share) for guesses in tried]
    best = int(np.argmax(bounds))
    most = reach(len(canaries), delta, significance, hypothesis, choices)
    return Bound(bounds[best], most, delta, significance, tried[best], hypothesis.rigorous)


def halved(canaries: Canaries, delta: float, significance: float, hypothesis: Hypothesis = PAIR, *, seed: int) -> Bound:
    """The bound of a random half of the canaries, at the number of guesses that did best on the other half.

    The coins are independent, so what the first half chooses has not seen those of the second.
    Raises AuditError for fewer than four canaries, and as `bonferroni`.
    """
    if len(canaries) < 4:
        raise AuditError(f"{len(canaries)} canaries cannot be halved: there must be four at least")
    order = np.random.default_rng(seed).permutation(len(canaries))
    choosing, judged = (canaries.select(rows) for rows in np.array_split(order, 2)[::-1])
    choices = numbers_of_guesses(len(choosing))
    bounds = [
        hypothesis.lower_bound(one_run.guess(choosing.scores, choosing.is_in, n), delta, significance) for n in choices
    ]
    made = choices[int(np.argmax(bounds))]
    guesses = one_run.guess(judged.scores, judged.is_in, made)
    most = hypothesis.lower_bound(Guesses(len(judged), made, made), delta, significance)
    found = hypothesis.lower_bound(guesses, delta, significance)
    return Bound(found, most, delta, significance, guesses, hypothesis.rigorous)
