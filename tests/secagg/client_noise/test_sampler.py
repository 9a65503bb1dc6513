"""The discrete Gaussian of protocol.md §14.4: the fast path against its twin, and its distribution."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.client_noise import sampler
from secagg.client_noise.sampler import PURPOSE, REFINE_PURPOSE, Words, sample, sample_words
from secagg.errors import ParameterError
from secagg.randomness import Keystream
from tests.twin import client_noise as twin
from tests.twin.predictable import PredictableRandomness
from tests.twin.sealed import fresh, take

VARIANCES = [Fraction(1, 100), Fraction(1, 3), Fraction(1), Fraction(81, 4), Fraction(10**9, 7), Fraction(2**47 + 1, 3)]


def word_by_word(stream: Iterator[int]) -> twin.Next:
    return lambda: int.from_bytes(take(stream, 4), "little")


def twin_samples(variance: Fraction, count: int, seed: bytes) -> list[int]:
    random = PredictableRandomness(seed)
    word, more = (word_by_word(fresh(purpose, random)) for purpose in (PURPOSE, REFINE_PURPOSE))
    return [twin.gaussian(variance, word, more) for _ in range(count)]


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_fast_sampler_equals_its_twin(variance: Fraction) -> None:
    assert sample(variance, 800, PredictableRandomness(b"equal")).tolist() == twin_samples(variance, 800, b"equal")


@settings(max_examples=30, deadline=None)
@given(st.fractions(min_value=Fraction(1, 50), max_value=10**10), st.binary(max_size=8))
def test_they_are_equal_at_any_variance(variance: Fraction, seed: bytes) -> None:
    assert sample(variance, 40, PredictableRandomness(seed)).tolist() == twin_samples(variance, 40, seed)


class Scripted(Keystream):
    """Words of a script, then those of a true stream: so that a comparison stays open as long as the script says."""

    def __init__(self, script: list[int]) -> None:
        super().__init__(bytes(32))
        self._script = b"".join(word.to_bytes(4, "little") for word in script)

    def fill(self, out: np.ndarray) -> None:
        super().fill(out)
        head = min(len(self._script), len(out))
        out[:head] = np.frombuffer(self._script[:head], np.uint8)
        self._script = self._script[head:]


@pytest.mark.parametrize("last", [0, 0x55555555, 0x55555556, 0xFFFFFFFF])
def test_an_open_comparison_is_settled_by_more_bits(last: int) -> None:
    # variance 4 has t = 3: u = 1 asks for U < 1/3 = 0.01010..., whose first bits the script repeats.
    def streams() -> tuple[Scripted, Scripted]:
        return Scripted([1, 0x55555555]), Scripted([0x55555555, 0x55555555, last])

    found = sample_words(Fraction(4), 50, Words(*streams()))
    main, refine = streams()
    word, more = (lambda s=s: int.from_bytes(s.read(4).tobytes(), "little") for s in (main, refine))
    assert found.tolist() == [twin.gaussian(Fraction(4), word, more) for _ in range(50)]


def test_the_slow_path_takes_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = sample(Fraction(1000, 3), 30_000, PredictableRandomness(b"path"))
    monkeypatch.setattr(sampler, "_table", lambda _: None)
    assert (sample(Fraction(1000, 3), 30_000, PredictableRandomness(b"path")) == fast).all()


def probabilities(variance: Fraction, largest: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-largest, largest + 1) ** 2) / (2 * float(variance)))
    total: np.ndarray = weights / weights.sum()
    return total


@pytest.mark.parametrize("variance", [Fraction(1, 3), Fraction(2), Fraction(81, 4), Fraction(900)])
def test_frequencies_fit(variance: Fraction) -> None:
    count, largest = 400_000, 12 * (math.isqrt(math.ceil(variance)) + 1)
    drawn = sample(variance, count, PredictableRandomness(b"chi-square"))
    expected = count * probabilities(variance, largest)
    found = np.bincount(drawn + largest, minlength=2 * largest + 1)
    kept = expected >= 20
    statistic = float((((found - expected) ** 2) / np.where(kept, expected, 1))[kept].sum())
    freedom = int(kept.sum()) - 1
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)  # a normal approximation, the seed being fixed
    assert found[~kept].sum() < expected[~kept].sum() + 6 * math.sqrt(expected[~kept].sum() + 1)


@pytest.mark.parametrize("variance", [Fraction(81, 4), Fraction(10**8), Fraction(10**13, 3)])
def test_moments_and_tails_are_those_of_a_gaussian(variance: Fraction) -> None:
    count = 1_000_000
    z = sample(variance, count, PredictableRandomness(b"moments")) / math.sqrt(variance)
    assert abs(z.mean()) < 5 / math.sqrt(count)
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs((z**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / count)
    for k in (2, 3, 4):
        tail = math.erfc(k / math.sqrt(2))  # a lattice of sigma >= 4.5 shifts it by half a step
        assert (abs(z) >= k).mean() == pytest.approx(tail, rel=0.5 if k < 4 else 0.9)
    assert abs(z).max() < 7


def test_neighbours_are_not_correlated() -> None:
    x = sample(Fraction(50), 500_000, PredictableRandomness(b"lag")).astype(np.float64)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / math.sqrt(len(x))


@pytest.mark.parametrize("variance", [Fraction(0), Fraction(-1), Fraction(2**48)])
def test_a_variance_out_of_range_is_refused(variance: Fraction) -> None:
    with pytest.raises(ParameterError, match="variance"):
        sample(variance, 1, PredictableRandomness(b""))


def test_streams_are_redacted() -> None:
    assert repr(Words(Keystream(bytes(32)), Keystream(bytes(32)))) == "Words(redacted)"
