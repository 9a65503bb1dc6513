"""Client-level noise as dp-accounting sees it (protocol.md §14.6)."""

import dp_accounting
import pytest

from secagg.client_noise import concentrated, setting
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.codec import Quantiser
from secagg.errors import AccountingError
from secagg_client.client_noise_accounting import check_agreement, epsilon_of, event


def grid(z: float) -> NoiseGrid:
    noise = ClientNoise(clip=4.0, noise_multiplier=z, delta=1e-6)
    return NoiseGrid.make(noise, Quantiser.uniform(500, 0.5, 20), 10, 20)


@pytest.mark.parametrize(("z", "expected"), [(1.0, 5.22), (4.0, 1.14)])
def test_one_release(z: float, expected: float) -> None:
    assert epsilon_of(event(grid(z), 1), 1e-6) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("z", "releases"), [(0.8, 1), (1.0, 2), (4.0, 1), (4.0, 7), (30.0, 7)])
def test_the_core_and_dp_accounting_agree(z: float, releases: int) -> None:
    made = grid(z)
    stated = check_agreement(made, releases)
    assert epsilon_of(event(made, releases), 1e-6 * setting.DELTA_KEPT) == pytest.approx(stated, rel=1e-6, abs=1e-9)


def test_a_core_that_states_too_little_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concentrated, "epsilon", lambda *_: 5.0)
    with pytest.raises(AccountingError, match="dp-accounting finds"):
        check_agreement(grid(1.0), 1)


def test_what_the_accountant_does_not_know_is_refused() -> None:
    with pytest.raises(AccountingError, match="does not know"):
        epsilon_of(dp_accounting.UnsupportedDpEvent(), 1e-6)
    with pytest.raises(AccountingError, match="does not know"):
        epsilon_of(dp_accounting.ComposedDpEvent([event(grid(1.0), 1), dp_accounting.UnsupportedDpEvent()]), 1e-6)
