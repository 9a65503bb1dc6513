"""How much of what many intervals say is chance: Holm's correction over all of them."""

from collections.abc import Sequence

from scipy import stats

from secagg_attacks.intervals import Interval


def p_above(values: Sequence[float], null: float) -> float:
    """One-sided p of Student's test that the mean of `values` over seeds is not above `null`.

    Equal values have no spread to test with: they count as 1.
    """
    if min(values) == max(values):
        return 1.0
    return float(stats.ttest_1samp(values, null, alternative="greater").pvalue)


def p_not_zero(found: Interval) -> float:
    """Two-sided p that belongs to a t-interval: that of a true value of 0. An interval without width counts as 1."""
    half = (found.high - found.low) / 2
    if half <= 0:
        return 1.0
    error = half / float(stats.t.ppf((1 + found.confidence) / 2, found.count - 1))
    return float(2 * stats.t.sf(abs(found.value) / error, found.count - 1))


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected with a chance up to `level` that any true one is (Holm 1979), in their order."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - rank) > level:
            break
        rejected[index] = True
    return rejected
