"""Noise, clipping and sampling on the grid."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from secagg.errors import TrainingError
from secagg_client.noise import (
    GRID,
    NoiseSource,
    SecureSource,
    SeededSource,
    clip_radius,
    grid_noise,
    poisson_sample,
    rounded_to_grid,
    standard_normal,
)

SOURCES = pytest.mark.parametrize("source", [SecureSource(), SeededSource(11)], ids=["secure", "seeded"])


@SOURCES
def test_noise_is_gaussian_with_the_stated_deviation(source: NoiseSource) -> None:
    sigma, size = 0.8, 400_000
    noise = grid_noise(source.stream(0, "noise"), size, sigma)
    assert noise.dtype == np.int64
    scaled = noise / (sigma * GRID)
    # the secure source is drawn anew in each run: six standard errors and more, exceeded once in 10^8
    assert abs(scaled.mean()) < 6 / math.sqrt(size)
    assert abs(scaled.var() - 1) < 6 * math.sqrt(2 / size)
    assert abs(stats.kurtosis(scaled)) < 7 * math.sqrt(24 / size)
    assert stats.kstest(scaled[:50_000], "norm").pvalue > 1e-9
    assert abs(np.corrcoef(scaled[:-1], scaled[1:])[0, 1]) < 6 / math.sqrt(size)
    assert 4.0 < np.abs(scaled).max() < 8.0


def test_low_bits_of_the_noise_are_uniform() -> None:
    """Mironov's attack reads them: every residue of the grid must be as likely as any other."""
    noise = grid_noise(SeededSource(1).stream(0, "noise"), 256_000, 0.7)
    counts = np.bincount(noise & 0xFF, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-5


def test_sum_plus_noise_of_neighbours_have_the_same_outputs() -> None:
    """Outputs are whole numbers whatever the data, so no output can belong to one of two neighbours only."""
    small = SeededSource(2)
    outputs = [
        set((shift + grid_noise(small.stream(i, "noise"), 200_000, 2.0**-14)).tolist())
        for i, shift in enumerate((0, 3))
    ]
    assert {value for value in outputs[0] if abs(value) < 8} == {value for value in outputs[1] if abs(value) < 8}


def test_chunks_and_odd_sizes() -> None:
    for size in (0, 1, 5, (1 << 17) + 3):
        values = standard_normal(SeededSource(1).stream(0, "noise"), size)
        assert values.shape == (size,)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, 1e9])
def test_noise_multiplier_is_checked(sigma: float) -> None:
    with pytest.raises(TrainingError, match="noise multiplier"):
        grid_noise(SeededSource(1).stream(0, "noise"), 3, sigma)


def test_streams_of_a_seed_repeat_and_differ_by_step_and_purpose() -> None:
    def words(source: NoiseSource, step: int, purpose: str) -> bytes:
        return source.stream(step, purpose).read(32).tobytes()  # type: ignore[arg-type]

    assert words(SeededSource(1), 0, "noise") == words(SeededSource(1), 0, "noise")
    different = {words(SeededSource(s), t, p) for s in (1, 2) for t in (0, 1) for p in ("noise", "sampling")}
    assert len(different) == 8
    source = SecureSource()
    assert words(source, 0, "noise") != words(source, 0, "noise"), "a fresh key for each use"


def test_secure_source_takes_its_keys_from_the_operating_system() -> None:
    asked = list[int]()

    def counting(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    SecureSource(counting).stream(0, "noise")
    SecureSource(counting).stream(1, "sampling")
    assert asked == [32, 32]
    assert "0" * 8 not in repr(SecureSource(counting).stream(0, "noise"))


def test_poisson_sample_takes_each_record_independently_at_the_rate() -> None:
    rate, size, steps = 0.13, 400, 2000
    counts, sizes, both = np.zeros(size), list[int](), 0
    for step in range(steps):
        taken = poisson_sample(SeededSource(9).stream(step, "sampling"), size, rate)
        assert (np.diff(taken) > 0).all()
        counts[taken] += 1
        sizes.append(len(taken))
        both += int(0 in taken and 1 in taken)
    expected = steps * rate
    assert np.abs(counts - expected).max() < 6 * math.sqrt(expected * (1 - rate))
    assert np.var(sizes) == pytest.approx(size * rate * (1 - rate), rel=0.2), "not a fixed batch size"
    assert both == pytest.approx(steps * rate**2, abs=6 * math.sqrt(steps) * rate)


def test_rate_of_one_takes_all_and_other_rates_are_refused() -> None:
    stream = SeededSource(1).stream(0, "sampling")
    assert poisson_sample(stream, 5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert poisson_sample(stream, 0, 0.5).tolist() == []
    for rate in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(TrainingError, match="sampling rate"):
            poisson_sample(stream, 5, rate)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e30])
def test_clipping_bounds_every_example_over_all_parameters(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = [scale * torch.randn(9, size, generator=generator) for size in (1, 17, 4000)]
    whole = rounded_to_grid(rows, clip=0.01)
    norms = torch.cat(whole, dim=1).norm(dim=1)
    assert float(norms.max()) <= GRID
    assert all(torch.equal(part, part.round()) for part in whole)
    if scale >= 1:
        assert float(norms.min()) > GRID * 0.99


def test_short_gradients_are_only_rounded() -> None:
    rows = torch.tensor([[0.25, -0.125, 1e-9], [0.0, 0.0, 0.0]])
    (whole,) = rounded_to_grid([rows], clip=1.0)
    assert whole.tolist() == [[GRID / 4, -GRID / 8, 0.0], [0.0, 0.0, 0.0]]


def test_gradients_that_are_not_finite_count_as_zero() -> None:
    rows = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [3e38, 3e38], [1.0, 0.0]])
    (whole,) = rounded_to_grid([rows], clip=1.0)
    assert whole[:2].abs().max() == 0
    assert whole.norm(dim=1).max() <= GRID


def test_rounding_cannot_lift_a_norm_above_the_bound() -> None:
    """The worst case: every coordinate is rounded up by one half."""
    dimension = 40_000
    radius = clip_radius(dimension)
    assert radius + math.sqrt(dimension) / 2 < GRID
    (whole,) = rounded_to_grid([torch.full((1, dimension), 1.0)], clip=1e-3)
    assert float(whole.norm()) <= GRID


def test_too_many_values_for_the_grid() -> None:
    with pytest.raises(TrainingError, match="too many"):
        clip_radius(1 << 33)
