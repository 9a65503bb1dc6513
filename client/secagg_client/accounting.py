"""How much privacy a run of DP-SGD spends. PLD is what we state; RDP and PRV check it.

Unit: one record or one user, as the plan says. Adjacency: add or remove one. Sampler: Poisson, at rate batch_size /
declared size, both in units; a random draw of clients would multiply that rate only if it were secret, and it is not.
To the accountant both units are alike: clipping bounds what one moves the sum by (protocol.md §2.6a). PLD: Doroshenko
et al. 2022 (dp-accounting); PRV: Gopi et al. 2021 (Opacus); RDP: Mironov 2017.
"""

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import dp_accounting
from dp_accounting import DpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant

from secagg.errors import AccountingError, TrainingError
from secagg.plan import Unit

PRV_EPS_ERROR = 0.01
PRV_TOLERANCE = 0.02
MIN_SIGMA, MAX_SIGMA = 0.05, 5000.0
MAX_STEPS = 100_000
MAX_EPSILON = 1000.0
"""What exp(epsilon) bounds means nothing long before, and the distribution of the loss takes memory in proportion."""
_COARSE_ORDERS = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024, 4096]
_RDP_ORDERS = [*range(2, 64), 80, 96, 128, 192, 256, 512, 1024]

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
    """Epsilon at one delta by each accountant.

    `prv` is an upper estimate with error PRV_EPS_ERROR; None for full batches and for epsilons in the hundreds, of
    which it cannot say anything.
    """

    pld: float
    prv: float | None
    rdp: float


def sampling_rate(batch_size: int, declared_size: int, unit: Unit = "record") -> float:
    """The Poisson rate of each unit. `declared_size` is public and fixed beforehand, never fitted to the private count.

    Raises:
        TrainingError: the declared size is smaller than the batch size.
    """
    if declared_size < batch_size:
        raise TrainingError(
            f"the declared size {declared_size} is smaller than the session's batch size {batch_size} "
            f"(both count {unit}s): sampling would not hide anybody. Declare the true order of magnitude, or do not "
            "take part"
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


def merged(mechanisms: Iterable[Mechanism]) -> list[Mechanism]:
    """The same one after the other, with those of equal rate and sigma as one that has all their steps.

    Composition does not ask how steps were grouped: R rounds of T/R steps are one round of T steps, to the last digit.
    """
    steps = dict[tuple[float, float], int]()
    for each in mechanisms:
        kind = (each.rate, each.sigma)
        steps[kind] = steps.get(kind, 0) + each.steps
    return [Mechanism(rate, sigma, count) for (rate, sigma), count in steps.items()]


def loss_interval(epsilon: float, steps: int) -> float:
    """A grid fine enough that rounding privacy losses up, in every step, costs well below a percent of `epsilon`."""
    return max(min(1e-3, epsilon / 1000, 1 / steps), 1e-5)


@functools.lru_cache(maxsize=256)
def epsilon_spent(mechanism: Mechanism, delta: float, interval: float = 1e-4) -> float:
    """Of one mechanism, by PLD. Raises AccountingError where it is so large that memory would not do."""
    rough = _rdp_epsilon(mechanism, delta, _COARSE_ORDERS)  # up to twice as much, where epsilon is large
    if rough > 5 * MAX_EPSILON:
        raise AccountingError(
            f"sigma {mechanism.sigma:g} over {mechanism.steps} steps at rate {mechanism.rate:g} spends an epsilon of "
            f"up to {rough:.3g}: that protects nobody, and more than {MAX_EPSILON:g} is not accounted. Choose a larger "
            "sigma"
        )
    return epsilon_of([mechanism.event()], delta, interval=interval)


def _rdp_epsilon(mechanism: Mechanism, delta: float, orders: Sequence[float]) -> float:
    accountant = RdpAccountant(orders=list(orders))
    accountant.compose(mechanism.event())
    return float(accountant.get_epsilon(delta))


def _sigma_by_rdp(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """A noise multiplier that suffices by RDP, at a cost that does not grow with the number of steps.

    PLD would need memory in proportion to the loss of a run with far too little noise, so it starts from here.
    """
    low, high = MIN_SIGMA, MAX_SIGMA
    if _rdp_epsilon(Mechanism(rate, high, steps), delta, _COARSE_ORDERS) > epsilon:
        raise AccountingError(f"no noise up to {MAX_SIGMA} times the clip reaches epsilon {epsilon} at delta {delta}")
    while high / low > 1.1:
        middle = math.sqrt(low * high)
        if _rdp_epsilon(Mechanism(rate, middle, steps), delta, _COARSE_ORDERS) <= epsilon:
            high = middle
        else:
            low = middle
    return high


@functools.lru_cache(maxsize=64)
def solve_sigma(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier, to one part in a thousand, with which a run spends at most `epsilon`.

    Raises:
        AccountingError: no multiplier up to MAX_SIGMA reaches it, or more steps or a larger epsilon than can be
            accounted in memory.
    """
    if epsilon > MAX_EPSILON:
        raise AccountingError(
            f"epsilon {epsilon:g} protects nobody: choose one up to {MAX_EPSILON:g}, or none for an experiment without "
            "differential privacy"
        )
    if steps > MAX_STEPS:
        raise AccountingError(f"{steps} steps are more than the {MAX_STEPS} that can be accounted")
    interval = loss_interval(epsilon, steps)

    def spent(sigma: float) -> float:
        return epsilon_spent(Mechanism(rate, sigma, steps), delta, interval)

    high = _sigma_by_rdp(epsilon, delta, rate, steps)
    low = high / 1.25
    while low > MIN_SIGMA and spent(low) <= epsilon:
        low, high = low / 1.25, low
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the rough RDP bound that sizes its grid, and overflows
            epsilon = float(accountant.get_epsilon(delta, eps_error=PRV_EPS_ERROR, delta_error=delta / 1000))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise AccountingError(f"the PRV accountant cannot check this mechanism: {error}") from error
    return epsilon if math.isfinite(epsilon) else None


def cross_check(mechanism: Mechanism, delta: float) -> Account:
    """Epsilon by all three accountants.

    Raises:
        AccountingError: PLD is off PRV by more than two percent and PRV's own error, or above RDP.
    """
    rough = _rdp_epsilon(mechanism, delta, _RDP_ORDERS)
    account = Account(
        epsilon_spent(mechanism, delta, loss_interval(rough, mechanism.steps)), _prv(mechanism, delta), rough
    )
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
