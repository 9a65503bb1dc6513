"""Epsilon against known values, and the accountants against each other."""

import dp_accounting
import pytest

from secagg.errors import AccountingError, TrainingError
from secagg_client.accounting import (
    Account,
    Mechanism,
    check_agreement,
    cross_check,
    epsilon_of,
    epsilon_spent,
    sampling_rate,
    solve_sigma,
)
from secagg_client.training import mechanism_of
from tests.client.support import settings


def test_known_values() -> None:
    """2,000 records, batches of 64, three epochs of 32 steps, sigma 0.8, delta 5e-5."""
    account = cross_check(Mechanism(64 / 2000, 0.8, 96), 5e-5)
    assert account.pld == pytest.approx(3.27, abs=0.01)
    assert account.prv == pytest.approx(3.28, abs=0.01)
    assert account.rdp == pytest.approx(4.00, abs=0.05)


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"),
    [(8.0, 0.16, 40), (0.35, 0.05, 100), (0.06, 0.05, 20), (3.0, 1.0, 10), (8.0, 0.001, 5)],
)
def test_solved_noise_spends_what_was_asked_and_hardly_less(epsilon: float, rate: float, steps: int) -> None:
    sigma = solve_sigma(epsilon, 1e-5, rate, steps)
    account = cross_check(Mechanism(rate, sigma, steps), 1e-5)
    assert 0.98 * epsilon < account.pld <= epsilon
    assert account.pld <= account.rdp


def test_epsilon_grows_with_every_step_and_a_client_draw_does_not_enter() -> None:
    one, many = (epsilon_spent(Mechanism(0.1, 1.0, steps), 1e-5) for steps in (1, 50))
    assert 0 < one < many
    assert set(Mechanism.__dataclass_fields__) == {"rate", "sigma", "steps"}


def test_composition_across_sessions_is_below_the_sum() -> None:
    events = [Mechanism(0.16, 1.2, 40).event(), Mechanism(0.05, 0.9, 60).event()]
    each = [epsilon_of([event], 1e-5) for event in events]
    assert max(each) < epsilon_of(events, 1e-5) < sum(each)


def test_unknown_mechanisms_are_refused() -> None:
    with pytest.raises(AccountingError, match="does not know this mechanism: UnsupportedDpEvent"):
        epsilon_of([dp_accounting.UnsupportedDpEvent()], 1e-5)
    composed = dp_accounting.ComposedDpEvent([Mechanism(0.1, 1, 1).event(), dp_accounting.NonPrivateDpEvent()])
    assert epsilon_of([composed], 1e-5) == float("inf")


def test_an_epsilon_that_protects_nobody_is_refused() -> None:
    with pytest.raises(AccountingError, match="epsilon 1e\\+06 protects nobody: choose one up to 1000"):
        solve_sigma(1e6, 1e-5, 0.2, 30)
    with pytest.raises(AccountingError, match=r"sigma 0\.01 over 1 steps at rate 1 spends an epsilon of up to 1e\+04"):
        epsilon_spent(Mechanism(1.0, 0.01, 1), 1e-5)


def test_accountants_that_disagree_are_an_error() -> None:
    check_agreement(Account(pld=3.27, prv=3.28, rdp=4.0))
    with pytest.raises(AccountingError, match="PRV"):
        check_agreement(Account(pld=3.27, prv=3.40, rdp=4.0))
    with pytest.raises(AccountingError, match="above the RDP bound"):
        check_agreement(Account(pld=4.1, prv=4.1, rdp=4.0))


def test_unreachable_epsilon() -> None:
    """Settings from outside, however absurd, cost neither memory nor minutes."""
    with pytest.raises(AccountingError, match="no noise up to"):
        solve_sigma(0.01, 1e-9, 1.0, 100_000)
    with pytest.raises(AccountingError, match="1000000 steps"):
        solve_sigma(8.0, 1e-5, 0.001, 1_000_000)


def test_the_rate_is_that_of_the_declared_size() -> None:
    assert sampling_rate(64, 2000) == 0.032
    with pytest.raises(TrainingError, match="smaller than the session's batch size"):
        sampling_rate(64, 63)
    assert mechanism_of(settings(), 32).rate == 0.5
    with pytest.raises(TrainingError, match="no epsilon"):
        mechanism_of(settings(epsilon=None), 32)
