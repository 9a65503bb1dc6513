"""How much privacy a run of DP-SGD spends. PLD is what we state; RDP and PRV check it.

Unit: one record. Adjacency: add or remove one. Sampler: Poisson, at rate batch_size / declared size; a random draw of
clients would multiply that rate only if it were secret, and it is not. PLD: Doroshenko et al. 2022 (dp-accounting);
PRV: Gopi et al. 2021 (Opacus); RDP: Mironov 2017.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import dp_accounting
from dp_accounting import DpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from secagg.errors import AccountingError, TrainingError

PRV_EPS_ERROR = 0.01
PRV_TOLERANCE = 0.02
MIN_SIGMA, MAX_SIGMA = 0.05, 5000.0
_RDP_ORDERS = [*range(2, 64), 80, 96, 128, 192, 256, 512]

ACCOUNTANT = f"pld (dp-accounting {version('dp-accounting')})"
"""How the privacy statement names the accountant."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """DP-SGD as the accountant sees it: `steps` Poisson-sampled Gaussian mechanisms with noise multiplier sigma."""

    rate: float
    sigma: float
    steps: int

    def event(self) -> DpEvent:
        """The mechanism in the accountant's language."""
        step = dp_accounting.PoissonSampledDpEvent(self.rate, dp_accounting.GaussianDpEvent(self.sigma))
        return dp_accounting.SelfComposedDpEvent(step, self.steps)


@dataclass(frozen=True, slots=True)
class Account:
    """Epsilon at one delta by each accountant. `prv` is an upper estimate with error PRV_EPS_ERROR."""

    pld: float
    prv: float | None
    rdp: float


def sampling_rate(batch_size: int, declared_size: int) -> float:
    """The Poisson rate. `declared_size` is public and fixed beforehand, never fitted to the private count.

    Raises:
        TrainingError: the declared size is smaller than the batch size.
    """
    if declared_size < batch_size:
        raise TrainingError(
            f"the declared size {declared_size} is smaller than the session's batch size {batch_size}: "
            "sampling would not hide anybody. Declare the true order of magnitude, or do not take part"
        )
    return batch_size / declared_size


def epsilon_of(events: Sequence[DpEvent], delta: float, *, interval: float = 1e-4) -> float:
    """Epsilon of all `events` one after the other, by PLD. `interval` is the grid of privacy losses (rounded up).

    Raises:
        AccountingError: an event that the accountant does not know.
    """
    accountant = PLDAccountant(value_discretization_interval=interval)
    for event in events:
        if not accountant.supports(event):
            raise AccountingError(f"the accountant does not know this mechanism: {type(event).__name__}")
        accountant.compose(event)
    return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=256)
def epsilon_spent(mechanism: Mechanism, delta: float, interval: float = 1e-3) -> float:
    """Epsilon of one run by PLD."""
    return epsilon_of([mechanism.event()], delta, interval=interval)


def _interval(epsilon: float) -> float:
    """A grid fine enough that rounding privacy losses up costs well below one percent of `epsilon`."""
    return min(1e-3, max(epsilon / 1000, 1e-5))


@functools.lru_cache(maxsize=64)
def solve_sigma(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier, to one part in a thousand, with which a run spends at most `epsilon`.

    Raises:
        AccountingError: no multiplier up to MAX_SIGMA reaches it.
    """
    interval = _interval(epsilon)

    def spent(sigma: float) -> float:
        return epsilon_spent(Mechanism(rate, sigma, steps), delta, interval)

    high = 1.0
    while spent(high) > epsilon:
        high *= 2
        if high > MAX_SIGMA:
            raise AccountingError(f"no noise up to {MAX_SIGMA} reaches epsilon {epsilon} at delta {delta}")
    low = high / 2
    while low > MIN_SIGMA and spent(low) <= epsilon:
        low, high = low / 2, low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if spent(middle) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def _prv(mechanism: Mechanism, delta: float) -> float | None:
    if mechanism.rate == 1:
        return None  # Opacus accounts for subsampled mechanisms only
    accountant = PRVAccountant()
    accountant.history = [(mechanism.sigma, mechanism.rate, mechanism.steps)]
    try:
        return float(accountant.get_epsilon(delta, eps_error=PRV_EPS_ERROR, delta_error=delta / 1000))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise AccountingError(f"the PRV accountant cannot check this mechanism: {error}") from error


def cross_check(mechanism: Mechanism, delta: float) -> Account:
    """Epsilon by all three accountants.

    Raises:
        AccountingError: PLD is off PRV by more than two percent and PRV's own error, or above RDP.
    """
    rdp = RdpAccountant(orders=_RDP_ORDERS)
    rdp.compose(mechanism.event())
    rough = float(rdp.get_epsilon(delta))
    account = Account(epsilon_spent(mechanism, delta, _interval(rough)), _prv(mechanism, delta), rough)
    check_agreement(account)
    return account


def check_agreement(account: Account) -> None:
    """Raise AccountingError when the accountants disagree beyond their errors."""
    if account.pld > account.rdp * 1.001 + 1e-3:
        raise AccountingError(f"PLD gives epsilon {account.pld:.4f}, above the RDP bound {account.rdp:.4f}")
    if account.prv is not None:
        allowed = PRV_TOLERANCE * account.prv + PRV_EPS_ERROR
        if abs(account.pld - account.prv) > allowed:
            raise AccountingError(
                f"PLD gives epsilon {account.pld:.4f}, PRV {account.prv:.4f}: further apart than {allowed:.4f}"
            )
