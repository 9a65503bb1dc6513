"""The grid of client-level noise, its accounting and its refusals (protocol.md §14.1 to §14.3, §14.6)."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secagg.client_noise import concentrated
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.codec import Quantiser
from secagg.errors import ParameterError

MILLION = Quantiser.uniform(1_000_000, 0.1, 16)


def setting(**changes: object) -> ClientNoise:
    values = {"clip": 4.0, "noise_multiplier": 1.0, "colluders": 1, "delta": 1e-6, "accept_noise_over_signal": True}
    return ClientNoise.model_validate(values | changes)


def grid(length: int = 1000, bits: int = 16, n_min: int = 5, **changes: object) -> NoiseGrid:
    return NoiseGrid.make(setting(**changes), Quantiser.uniform(length, 0.5, bits), n_min, 10)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 10**7), st.integers(2, 24), st.integers(2, 50), st.integers(0, 3),
    st.floats(0.05, 50), st.floats(0.01, 100),
)  # fmt: skip
def test_every_grid_that_is_made_has_room(
    length: int, bits: int, n_min: int, colluders: int, z: float, clip: float
) -> None:
    try:
        made = grid(length, bits, n_min, colluders=colluders, noise_multiplier=z, clip=clip)
    except ParameterError:
        assume(False)
    tail = math.log2(2 * length) - (made.reach + 1) ** 2 / (2 * float(made.variance)) * math.log2(math.e)
    assert tail <= -60 + 1e-6
    assert made.scale + 1 + made.reach <= made.half
    assert made.variance * (n_min - colluders) >= Fraction(z) ** 2 * made.bound
    finer = NoiseGrid(made.noise, made.quantiser, made.honest, made.n_min, made.n_max, made.scale + 1)
    assert not finer.fits


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1e-6, 1e6), st.floats(1e-3, 1000), st.integers(0, 40), st.floats(1e-15, 9e-3), st.integers(1, 2**36),
    st.integers(2, 24), st.integers(2, 100), st.integers(1, 1000),
)  # fmt: skip
def test_any_setting_is_accounted_or_refused(
    clip: float, z: float, colluders: int, delta: float, length: int, bits: int, n_min: int, releases: int
) -> None:
    noise = setting(clip=clip, noise_multiplier=z, colluders=colluders, delta=delta)
    try:
        made = NoiseGrid.make(noise, Quantiser.uniform(length, 0.5, bits), n_min, n_min + 5)
        made.check_ratio()
        spent = made.epsilon(releases)
    except ParameterError:
        return
    assert 0 <= spent < 45
    assert made.noise_over_signal(n_min) > 0
    assert str(made.honest) in made.guarantee_in_words(releases)


def test_the_sensitivity_counts_the_rounding() -> None:
    made = grid()
    d, c = made.length, made.noise.clip * made.scale
    assert made.bound >= c**2 + d / 4 + c + math.sqrt(d) / 2  # Kairouz, Liu, Steinke 2021, beta = exp(-1/2)
    assert made.bound <= 1.001 * (c**2 + d / 4 + c + math.sqrt(d) / 2) + 4 * c


@pytest.mark.parametrize(("z", "expected"), [(1.0, 5.22), (4.0, 1.14)])
def test_the_oracle(z: float, expected: float) -> None:
    made = grid(noise_multiplier=z, n_min=21, length=100)
    assert made.epsilon(1) == pytest.approx(expected, abs=0.006)


def sum_of_gaussians(variance: Fraction, clients: int, reach: int) -> np.ndarray:
    """Exact probabilities of a sum of discrete Gaussians on [-clients*reach, clients*reach]."""
    one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * float(variance)))
    one /= one.sum()
    total = one
    for _ in range(clients - 1):
        total = np.convolve(total, one)
    return total


@pytest.mark.parametrize(("z", "honest"), [(0.8, 2), (1.0, 4), (3.0, 2), (0.9, 9)])
def test_the_stated_epsilon_holds_exactly_for_one_value(z: float, honest: int) -> None:
    """The hockey-stick divergence of the released sum with a client and without it, from exact probabilities."""
    made = grid(length=1, bits=9, n_min=honest + 1, noise_multiplier=z, clip=1.0)
    shift = math.isqrt(made.bound)
    with_client = sum_of_gaussians(made.variance, honest, made.reach)
    without = np.concatenate([np.zeros(shift), with_client])
    padded = np.concatenate([with_client, np.zeros(shift)])
    epsilon = made.epsilon(1)
    for p, q in ((padded, without), (without, padded)):
        spent = np.maximum(p - math.exp(epsilon) * q, 0).sum()
        assert spent <= made.noise.delta
        assert np.maximum(p - math.exp(0.75 * epsilon) * q, 0).sum() > made.noise.delta  # not far from tight either


def test_rho_is_that_of_a_gaussian_where_the_noise_is_wide() -> None:
    assert concentrated.rho(100, Fraction(400, 5), 5, 1000) == pytest.approx(100 / 400 / 2, rel=1e-6)


def test_narrow_noise_pays_for_its_lattice() -> None:
    wide = concentrated.rho(100, Fraction(100), 4, 1000)
    narrow = concentrated.rho(1, Fraction(1), 4, 1000)
    gap = 10 * sum(math.exp(-2 * math.pi**2 * k / (k + 1)) for k in (1, 2, 3))
    assert concentrated.tau(Fraction(1), 4) == pytest.approx(gap)
    root = min(math.sqrt(0.25 + gap * 500), 0.5 + gap * math.sqrt(1000))
    assert narrow == pytest.approx(root**2 / 2)
    assert narrow > wide


def test_more_releases_cost_more() -> None:
    made = grid(noise_multiplier=4.0)
    assert made.epsilon(1) < made.epsilon(2) < 2 * made.epsilon(1)


def test_noise_over_signal_is_about_z_root_d_over_n() -> None:
    made = NoiseGrid.make(setting(clip=10.0), Quantiser.uniform(100_000, 0.5, 24), 20, 20)
    assert made.noise_over_signal(20) == pytest.approx(math.sqrt(1e5) / 20, rel=0.05)


def test_a_session_that_would_be_mostly_noise_is_refused_unless_told() -> None:
    with pytest.raises(ParameterError, match="mostly noise"):
        NoiseGrid.make(setting(accept_noise_over_signal=False), MILLION, 20, 30).check_ratio()
    NoiseGrid.make(setting(), MILLION, 20, 30).check_ratio()
    grid(length=20, n_min=20, clip=1.0, accept_noise_over_signal=False).check_ratio()


def test_noise_that_does_not_fit_the_bits_is_refused() -> None:
    with pytest.raises(ParameterError, match="does not fit 8 bits"):
        grid(bits=8, noise_multiplier=100.0)


def test_colluders_that_leave_nobody_are_refused() -> None:
    with pytest.raises(ParameterError, match="nobody is left"):
        grid(n_min=3, colluders=3)


def test_an_epsilon_that_delta_cannot_pay_for_is_refused() -> None:
    with pytest.raises(ParameterError, match="not accounted"):
        grid(noise_multiplier=0.1).epsilon(1)


def test_colluders_raise_the_share_of_the_others() -> None:
    assert grid(n_min=5, colluders=3).variance > grid(n_min=5, colluders=1).variance / 2
    one, three = (grid(n_min=5, colluders=c) for c in (1, 3))
    assert float(three.variance / three.bound) == pytest.approx(2 * float(one.variance / one.bound), rel=1e-3)
