"""A vector on the noisy grid (protocol.md §14.2 to §14.5)."""

import os

import numpy as np
import pytest

from secagg.client_noise import encoding
from secagg.client_noise.encoding import encode, rounded, squared_norm
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.codec import Quantiser
from secagg.errors import EncodingError
from tests.twin.predictable import PredictableRandomness

QUANTISER = Quantiser.from_groups([(600, 0.5), (400, 0.01)], 16)


def grid(quantiser: Quantiser = QUANTISER, clip: float = 3.0, z: float = 0.5) -> NoiseGrid:
    return NoiseGrid.make(ClientNoise(clip=clip, noise_multiplier=z, delta=1e-6), quantiser, 4, 8)


def update(size: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(1).normal(size=1000)
    values[600:] *= 0.02
    return (size * values).astype(np.float32)


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.05, 1.0, 1e6])
def test_no_vector_is_longer_than_what_is_accounted(size: float) -> None:
    made = grid()
    values, _ = rounded(made, update(size), os.urandom)
    assert squared_norm(values) <= made.bound
    assert abs(values).max() <= made.scale + 1


def test_zero_is_a_level() -> None:
    values, clipped = rounded(grid(), np.zeros(1000, dtype=np.float32), os.urandom)
    assert not values.any()
    assert not clipped


def test_the_mean_decodes_and_is_not_biased() -> None:
    made = grid()
    x = update(0.02)
    quantiser = made.noisy_quantiser
    vectors = [encode(made, x, PredictableRandomness(b"%d" % i)).values for i in range(8)]
    sums = np.stack(vectors).astype(np.uint64).sum(axis=0)
    error = quantiser.decode_mean(sums, 8) - x
    deviation = (float(made.variance) + 0.25) ** 0.5 * np.array(
        [part.clip / made.scale for part in QUANTISER.parts for _ in range(part.size)]
    ) / 8**0.5  # fmt: skip
    z = error / deviation
    assert abs(z.mean()) < 5 / 1000**0.5
    assert z.std() == pytest.approx(1, abs=0.1)


def test_a_long_vector_is_scaled_down_as_a_whole() -> None:
    made = grid(z=0.05)
    values, clipped = rounded(made, update(0.4), os.urandom)
    expected = np.where(np.arange(1000) < 600, 0.5, 0.01)
    inside = np.clip(update(0.4), -expected, expected) / expected
    inside *= 3.0 / np.linalg.norm(inside)
    assert abs(values / made.scale - inside).max() < 1.01 / made.scale
    assert clipped == int((abs(update(0.4)) > np.float32(expected)).sum())


def test_a_rounding_that_is_too_long_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[int]()

    def measured(values: np.ndarray) -> int:
        tried.append(squared_norm(values))
        return tried[-1] if len(tried) > 3 else 1 << 62

    monkeypatch.setattr(encoding, "squared_norm", measured)
    values, _ = rounded(grid(), update(), PredictableRandomness(b"tries"))
    assert len(tried) >= 4  # near the bound a true refusal may follow the three made-up ones
    assert len(set(tried)) > 1
    assert squared_norm(values) == tried[-1]


def test_noise_out_of_range_is_an_error_and_no_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    made = grid()
    monkeypatch.setattr(encoding, "sample", lambda *_: np.full(1000, -made.half - 1))
    with pytest.raises(EncodingError, match="nothing was encoded"):
        encode(made, np.zeros(1000, dtype=np.float32), os.urandom)


def test_values_that_are_not_finite_are_refused() -> None:
    bad = update()
    bad[3] = np.inf
    with pytest.raises(EncodingError, match="not finite"):
        encode(grid(), bad, os.urandom)


def test_the_weight_is_applied_before_the_clip() -> None:
    made = grid(z=0.05)
    half, _ = rounded(made, update(0.02), os.urandom, weight=0.5)
    assert abs(half / made.scale * np.where(np.arange(1000) < 600, 0.5, 0.01) - update(0.01)).max() < 1e-3


def test_large_squares_are_exact() -> None:
    assert squared_norm(np.full(1 << 18, (1 << 23) - 1)) == (1 << 18) * ((1 << 23) - 1) ** 2
