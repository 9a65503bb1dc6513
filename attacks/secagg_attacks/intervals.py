"""Intervals: exact for proportions, by Student's t over seeds, by the bootstrap over examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, its interval, and how many independent observations it rests on."""

    value: float
    low: float
    high: float
    count: int
    confidence: float = 0.95

    def within(self, low: float, high: float) -> "Interval":
        """Cut to what the figure can be: no area is above 1, however few runs it rests on."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact two-sided interval of a proportion (Clopper & Pearson 1934): it covers at least as often as it says.

    Valid only where what counts as a success was fixed without these trials: a threshold comes from others.
    Raises AuditError without trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise AuditError(f"{successes} of {trials}: there is no proportion of that")
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return Interval(successes / trials, low, high, trials, confidence)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean over seeds. Raises AuditError for fewer than two, of which nothing can be said."""
    count = len(values)
    if count < 2:
        raise AuditError(f"{count} seed: an interval over seeds needs two or more")
    mean = math.fsum(values) / count
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half, count, confidence)


def paired_bootstrap(
    statistic: Callable[[NDArray[np.int64]], Floats], examples: int, *, seed: int, draws: int = 2000,
    confidence: float = 0.95,
) -> Interval:  # fmt: skip
    """The percentile interval of a statistic of examples, which are drawn again together.

    `statistic` takes how often each example is in each draw, [draws, examples], and gives a figure for each, [draws];
    for a difference it looks both sides up in the same draws, which is what makes it paired. Raises AuditError for
    fewer than twenty examples.
    """
    if examples < 20:
        raise AuditError(f"{examples} examples: a bootstrap over so few says nothing")
    counts = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), size=draws)
    low, high = np.quantile(statistic(counts), [(1 - confidence) / 2, (1 + confidence) / 2])
    value = statistic(np.ones((1, examples), dtype=np.int64))[0]
    return Interval(float(value), float(low), float(high), examples, confidence)
