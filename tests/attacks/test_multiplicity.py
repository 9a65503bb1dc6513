"""Holm's correction, against its definition and SciPy's tests."""

import numpy as np
import pytest
from scipy import stats

from secagg_attacks.intervals import Interval, t_interval
from secagg_attacks.multiplicity import holm, p_above, p_not_zero


def naive_holm(p_values: list[float], level: float) -> list[bool]:
    """By adjusted p-values: each the largest of those up to it, times how many are left."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [
        max(min(1.0, p_values[order[j]] * (len(order) - j)) for j in range(order.index(i) + 1))
        for i in range(len(p_values))
    ]
    return [value <= level for value in adjusted]


def test_holm_is_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]  # a textbook's example
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = (rng.random(7) ** 3).tolist()
        assert holm(p_values) == naive_holm(p_values, 0.05)
    assert holm([]) == []


def test_holm_rarely_rejects_where_nothing_is_true() -> None:
    rng = np.random.default_rng(1)
    false = sum(any(holm(rng.random(40).tolist())) for _ in range(2000))
    assert false / 2000 < 0.07


def test_p_values_are_scipys() -> None:
    values = [0.52, 0.57, 0.49, 0.55, 0.51]
    assert p_above(values, 0.5) == pytest.approx(stats.ttest_1samp(values, 0.5, alternative="greater").pvalue)
    moved = [value - 0.5 for value in values]
    assert p_not_zero(t_interval(moved)) == pytest.approx(stats.ttest_1samp(moved, 0).pvalue)


def test_no_spread_is_no_evidence() -> None:
    assert p_above([0.9, 0.9], 0.5) == 1.0
    assert p_not_zero(Interval(0.4, 0.4, 0.4, 3)) == 1.0
