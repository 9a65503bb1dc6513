"""The probabilities behind the graph are exact (protocol.md §12.1.3)."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.masked.tails import log2_at_least, log2_below, log2_choose, log2_sum


def naive(population: int, special: int, draws: int, wanted: range) -> Fraction:
    ways = sum(math.comb(special, x) * math.comb(population - special, draws - x) for x in wanted if x <= draws)
    return Fraction(ways, math.comb(population, draws))


def log2(value: Fraction) -> float:
    return math.log2(value.numerator) - math.log2(value.denominator) if value else -math.inf


@given(st.data())
def test_tails_are_those_of_integer_arithmetic(data: st.DataObject) -> None:
    population = data.draw(st.integers(1, 2000))
    special, draws = data.draw(st.integers(0, population)), data.draw(st.integers(1, population))
    least = data.draw(st.integers(1, draws))
    at_least = log2(naive(population, special, draws, range(least, draws + 1)))
    below = log2(naive(population, special, draws, range(least)))
    assert log2_at_least(population, special, draws, least) == pytest.approx(at_least, abs=1e-6)
    assert log2_below(population, special, draws, least) == pytest.approx(below, abs=1e-6)


def test_nothing_has_no_probability() -> None:
    assert log2_choose(3, 4) == log2_sum(np.array([])) == log2_at_least(10, 2, 5, 3) == -math.inf
    assert log2_at_least(10, 2, 5, 0) == 0.0
