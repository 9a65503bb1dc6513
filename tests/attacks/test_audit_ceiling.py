"""The accountant's ceiling of a ROC: the closed form where there is one, and above every attack."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from secagg_attacks.audit.ceiling import RATES, ceiling, profile
from secagg_attacks.audit.training import audit_training
from secagg_attacks.intervals import Floats
from secagg_attacks.roc import Scores, curve
from secagg_client.accounting import Mechanism, epsilon_spent


def gaussian(sigma: float, steps: int) -> Floats:
    """Phi(Phi^-1(fpr) + sqrt(steps) / sigma), the trade-off of the Gaussian mechanism (Dong, Roth & Su 2022)."""
    found: Floats = norm.cdf(norm.ppf(RATES) + math.sqrt(steps) / sigma)
    return found


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (2.0, 1), (4.0, 9), (0.7, 1)])
def test_without_sampling_it_is_the_closed_form_of_the_gaussian_mechanism(sigma: float, steps: int) -> None:
    found = ceiling(Mechanism(1.0, sigma, steps))
    exact = gaussian(sigma, steps)
    assert (found.tpr >= exact - 1e-9).all(), "never below: rounded to the safe side"
    assert np.abs(found.tpr - exact).max() < 0.01 * steps
    small = RATES == 0.01
    assert found.tpr[small] == pytest.approx(exact[small], rel=0.02)


def test_sampling_lowers_the_ceiling_and_steps_raise_it() -> None:
    whole, part, more = (ceiling(Mechanism(*m)).tpr for m in ((1.0, 1.0, 1), (0.1, 1.0, 1), (0.1, 1.0, 20)))
    middle = (RATES > 0) & (RATES < 0.9)
    assert (part[middle] < whole[middle]).all()
    assert (part[middle] <= more[middle]).all()
    assert (part >= RATES - 1e-12).all()
    assert (np.diff(part) >= -1e-12).all()


def test_it_is_the_curve_that_the_accountant_states() -> None:
    mechanism = Mechanism(0.2, 1.2, 10)
    epsilon = epsilon_spent(mechanism, 1e-5, 1e-3)
    assert profile(mechanism, [epsilon])[0] == pytest.approx(1e-5, rel=0.05)


def test_the_training_codes_own_roc_is_below_it() -> None:
    """Of canaries that meet the worst case nearly: four standard errors are allowed, and half the gap is reached."""
    mechanism, count = Mechanism(0.5, 1.0, 2), 2000
    run = audit_training(mechanism, count, seed=5)
    found = curve(Scores(run.scores[run.is_in], run.scores[~run.is_in]))
    allowed = ceiling(mechanism)
    permitted = np.interp(found.fpr, allowed.fpr, allowed.tpr)
    error = 4 * np.sqrt(0.25 / (count / 2)) * 2
    assert (found.tpr <= permitted + error).all()
    at = np.searchsorted(found.fpr, 0.1)
    assert found.tpr[at] - 0.1 > (permitted[at] - 0.1) / 2
