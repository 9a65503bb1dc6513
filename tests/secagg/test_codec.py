"""Real vectors to integers and back (protocol.md §2)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secagg.codec import ROUNDING_PURPOSE, Group, Quantiser
from secagg.errors import EncodingError
from secagg.parameters import choose
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness

finite = st.floats(-2, 2, width=32, allow_nan=False)


@given(arrays(np.float32, 40, elements=finite), st.integers(1, 24), st.binary(max_size=8))
@settings(deadline=None)
def test_one_vector_comes_back_within_a_step(update: np.ndarray, bits: int, seed: bytes) -> None:
    quantiser = Quantiser.from_groups([(10, 0.5), (30, 1.5)], bits)
    encoded = quantiser.encode(update, PredictableRandomness(seed))
    mean = quantiser.decode_mean(encoded.values, 1)
    clip = np.array([0.5] * 10 + [1.5] * 30)
    inside = np.clip(update.astype(np.float64), -clip, clip)
    assert encoded.clipped == int((np.abs(update) > clip).sum())
    assert np.all(np.abs(mean - inside) <= 2 * clip / (2**bits - 1) * (1 + 1e-6) + 1e-6 * clip)


@given(arrays(np.float32, 24, elements=finite), st.integers(1, 24), st.sampled_from([1.0, 0.5, 0.123]))
@settings(max_examples=30, deadline=None)
def test_encoding_agrees_with_the_twin(update: np.ndarray, bits: int, weight: float) -> None:
    encoded = Quantiser.uniform(24, 0.7, bits).encode(update, PredictableRandomness(b"twin"), weight)
    stream = twin.fresh(ROUNDING_PURPOSE, PredictableRandomness(b"twin"))
    words = [int.from_bytes(twin.take(stream, 4), "little") for _ in range(24)]
    assert encoded.values.tolist() == [
        twin.quantise(float(x), 0.7, bits, word, weight) for x, word in zip(update, words, strict=True)
    ]


def test_rounding_is_unbiased() -> None:
    """The mean of 2^18 encodings of one value is within five standard errors of it, at every fraction of a step."""
    count = 1 << 18
    quantiser = Quantiser.uniform(count, 1.0, 4)
    step = quantiser.step(quantiser.parts[0])
    for fraction in (0.0, 0.1, 0.5, 0.9):
        value = np.float32(-1.0 + (3 + fraction) * step)
        update = np.full(count, value, dtype=np.float32)
        values = quantiser.encode(update, PredictableRandomness(b"unbiased")).values
        mean = values.mean() * step - 1.0
        assert abs(mean - float(value)) < 5 * step / 2 / math.sqrt(count)


def test_the_ends_of_the_range_are_exact() -> None:
    quantiser = Quantiser.uniform(5, 0.3, 16)
    update = np.array([-0.3, 0.3, -9.0, 9.0, 3.0e38], dtype=np.float32)
    encoded = quantiser.encode(update, PredictableRandomness(b"ends"))
    assert encoded.values.tolist() == [0, 65535, 0, 65535, 65535]
    assert encoded.clipped == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    update = np.zeros(33, dtype=np.float32)
    update[17] = value
    with pytest.raises(EncodingError, match="1 of 33"):
        Quantiser.uniform(33, 1.0, 8).encode(update, PredictableRandomness(b""))


@pytest.mark.parametrize("update", [np.zeros(3, np.float32), np.zeros(4), np.zeros((2, 2), np.float32)])
def test_another_shape_or_type_is_refused(update: np.ndarray) -> None:
    with pytest.raises(EncodingError, match="float32"):
        Quantiser.uniform(4, 1.0, 8).encode(update, PredictableRandomness(b""))


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.5, math.nan])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(EncodingError, match="weight"):
        Quantiser.uniform(4, 1.0, 8).encode(np.zeros(4, np.float32), PredictableRandomness(b""), weight)


@pytest.mark.parametrize(
    "groups", [(), (Group(1, 2, 1.0),), (Group(0, 2, 1.0), Group(3, 1, 1.0)), (Group(0, 0, 1.0),), (Group(0, 2, 0.0),),
               (Group(0, 2, math.inf),), (Group(0, 2, math.nan),)]
)  # fmt: skip
def test_groups_must_cover_the_vector_with_positive_clips(groups: tuple[Group, ...]) -> None:
    with pytest.raises(EncodingError):
        Quantiser(groups, 8)


@pytest.mark.parametrize("bits", [0, 25])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(EncodingError, match="bits"):
        Quantiser.uniform(4, 1.0, bits)


def test_the_weighted_mean_is_that_of_the_declared_weights() -> None:
    quantiser = Quantiser.uniform(1000, 1.0, 16)
    generator = np.random.default_rng(5)
    updates = [generator.uniform(-1, 1, 1000).astype(np.float32) for _ in range(3)]
    weights = [1.0, 0.25, 0.5]
    sums = np.zeros(1000, dtype=np.uint64)
    for number, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        sums += quantiser.encode(update, PredictableRandomness(bytes([number])), weight).values
    mean = quantiser.decode_mean(sums, 3, weight_sum=sum(weights))
    expected = sum(w * u.astype(np.float64) for w, u in zip(weights, updates, strict=True)) / sum(weights)
    assert np.abs(mean - expected).max() <= 3 * quantiser.step(quantiser.parts[0]) / sum(weights)


def test_decoding_is_the_stated_float64_formula() -> None:
    quantiser = Quantiser.from_groups([(2, 0.1), (2, 0.7)], 16)
    sums = np.array([0, 1, 70_000, 131_070], dtype=np.uint32)
    expected = [(int(s) * (2.0 * c / 65535) - 2.0 * c) / 2.0 for s, c in zip(sums, (0.1, 0.1, 0.7, 0.7), strict=True)]
    assert quantiser.decode_mean(sums, 2).tolist() == [float(np.float32(x)) for x in expected]


@pytest.mark.parametrize(
    ("sums", "contributors", "weight_sum"),
    [([0, 0, 0], 2, None), ([0, 511], 2, None), ([0, 0], 0, None), ([0, 0], 2, 0.0), ([0, 0], 2, 2.5)],
)
def test_impossible_sums_are_refused(sums: list[int], contributors: int, weight_sum: float | None) -> None:
    with pytest.raises(EncodingError):
        Quantiser.uniform(2, 1.0, 8).decode_mean(np.array(sums, dtype=np.uint32), contributors, weight_sum)


def test_a_quantiser_and_parameters_must_agree() -> None:
    with pytest.raises(EncodingError, match="carry"):
        Quantiser.uniform(10, 1.0, 8).check(choose(16, 10, 10))
