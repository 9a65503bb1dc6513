"""The discrete Gaussian: thresholds, distribution, and tails of sums."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from secagg import gaussian
from secagg.randomness import Keystream
from tests.twin import sealed as twin

VARIANCES = (gaussian.SECRET_VARIANCE, gaussian.ERROR_VARIANCE)


@pytest.mark.parametrize("variance", VARIANCES)
def test_thresholds_are_the_rounded_distribution(variance: Decimal) -> None:
    table = gaussian.gaussian(variance)
    assert tuple(int(t) for t in table.thresholds) == twin.thresholds(variance)
    assert sum(table.numerators) == 2**64
    assert all(n > 0 for n in table.numerators)


def test_deviations_are_those_of_the_protocol() -> None:
    assert gaussian.gaussian(gaussian.SECRET_VARIANCE).deviation == 4.5
    assert gaussian.gaussian(gaussian.ERROR_VARIANCE).deviation == pytest.approx(4.5 * math.sqrt(2))
    assert [gaussian.gaussian(v).largest for v in VARIANCES] == [41, 58]


@pytest.mark.parametrize("variance", VARIANCES)
def test_statistical_distance_is_below_the_stated_bound(variance: Decimal) -> None:
    table = gaussian.gaussian(variance)
    exact = {x: (-Decimal(x * x) / (2 * variance)).exp() for x in range(-200, 201)}
    total = sum(exact.values())
    distance = Decimal(0)
    for x, mass in exact.items():
        numerator = table.numerators[abs(x)] if abs(x) <= table.largest else 0
        sampled = Decimal(numerator) / 2**64 / (1 if x == 0 else 2)
        distance += abs(sampled - mass / total) / 2
    assert distance < Decimal(2) ** -59


@pytest.mark.parametrize("variance", VARIANCES)
def test_samples_fit_the_exact_distribution(variance: Decimal) -> None:
    """Pearson's chi-square over values with at least 20 expected samples; fixed key, 2^20 samples."""
    count = 1 << 20
    table = gaussian.gaussian(variance)
    stream = Keystream(bytes(32)).read(gaussian.stream_bytes(count))
    found = gaussian.sample(table, stream, count)
    expected = {
        x: count * table.numerators[abs(x)] / 2.0**64 / (1 if x == 0 else 2)
        for x in range(-58, 59)
        if abs(x) <= table.largest
    }
    kept = [x for x, mass in expected.items() if mass >= 20]
    statistic = sum((int((found == x).sum()) - expected[x]) ** 2 / expected[x] for x in kept)
    freedom = len(kept) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def test_the_extreme_words_give_the_extreme_samples() -> None:
    table = gaussian.gaussian(gaussian.ERROR_VARIANCE)
    first = int(table.thresholds[0])
    words = np.array([0, first - 1, first, 2**64 - 1] * 2, dtype=np.uint64)
    stream = np.concatenate([words.view(np.uint8), np.array([0b11110000], dtype=np.uint8)])
    assert gaussian.sample(table, stream, 8).tolist() == [0, 0, 1, 58, 0, 0, -1, -58]


def exact_tail(variance: Decimal, count: int, bound: int) -> Fraction:
    table = gaussian.gaussian(variance)
    one = {
        x: Fraction(table.numerators[abs(x)], 2**64 * (1 if x == 0 else 2))
        for x in range(-table.largest, table.largest + 1)
    }
    total = dict(one)
    for _ in range(count - 1):
        larger: dict[int, Fraction] = {}
        for (x, p), (y, r) in itertools.product(total.items(), one.items()):
            larger[x + y] = larger.get(x + y, Fraction(0)) + p * r
        total = larger
    return sum((p for x, p in total.items() if abs(x) > bound), Fraction(0))


@pytest.mark.parametrize(("count", "bound"), [(1, 5), (1, 57), (2, 0), (2, 40), (2, 90), (2, 115), (3, 120)])
def test_tails_agree_with_exact_fractions(count: int, bound: int) -> None:
    found = gaussian.sum_tail_log2(gaussian.ERROR_VARIANCE, count, bound)
    exact = exact_tail(gaussian.ERROR_VARIANCE, count, bound)
    assert found == pytest.approx(math.log2(exact.numerator) - math.log2(exact.denominator), abs=1e-6)


def test_tails_of_large_cohorts_are_near_the_normal_ones_and_end() -> None:
    normal = math.log2(math.erfc(2200.5 / math.sqrt(2 * 1000 * 40.5)))
    assert gaussian.sum_tail_log2(gaussian.ERROR_VARIANCE, 1000, 2200) == pytest.approx(normal, abs=0.01)
    assert gaussian.sum_tail_log2(gaussian.ERROR_VARIANCE, 3, 174) == -math.inf
