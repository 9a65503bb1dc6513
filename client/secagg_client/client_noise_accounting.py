"""What client-level noise spends, by dp-accounting (protocol.md §14.6).

Unit: one client, that is an institution. Adjacency: its change replaced by zero; who takes part is public. Sampler:
none. Every release is a zCDP mechanism; those of a series compose, and so do those of different sessions.
"""

import math
from collections.abc import Sequence

import dp_accounting
from dp_accounting import DpEvent
from dp_accounting.rdp import RdpAccountant

from secagg.client_noise.concentrated import ORDERS
from secagg.client_noise.session import NoisySession
from secagg.client_noise.setting import DELTA_KEPT, FAILURE, NoiseGrid
from secagg.errors import AccountingError
from secagg_client.ledger_entry import ClientLevelRecord
from secagg_host.events import EventLog

TOLERANCE = 1e-9


def event(grid: NoiseGrid, releases: int) -> DpEvent:
    """All releases, in the accountant's language."""
    return dp_accounting.SelfComposedDpEvent(dp_accounting.ZCDpEvent(grid.rho), releases)


def epsilon_of(event_: DpEvent, delta: float) -> float:
    """Epsilon of a mechanism of zCDP, by Renyi orders.

    Raises:
        AccountingError: an event that the accountant does not know.
    """
    accountant = RdpAccountant(
        orders=list(ORDERS), neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    if not accountant.supports(event_):
        raise AccountingError(f"the accountant does not know this mechanism: {type(event_).__name__}")
    accountant.compose(event_)
    return float(accountant.get_epsilon(delta))


def check_agreement(grid: NoiseGrid, releases: int) -> float:
    """Epsilon as the session states it, after dp-accounting found no more.

    Raises:
        AccountingError: dp-accounting finds a larger one.
        ParameterError: as `NoiseGrid.epsilon`.
    """
    stated = grid.epsilon(releases)
    found = epsilon_of(event(grid, releases), DELTA_KEPT * grid.noise.delta)
    if found > stated * (1 + TOLERANCE) + TOLERANCE:
        raise AccountingError(f"client-level noise: stated epsilon {stated:.6f}, dp-accounting finds {found:.6f}")
    return stated


def record_of(grid: NoiseGrid) -> ClientLevelRecord:
    """What the ledger remembers of one release (protocol.md §4.5f)."""
    return ClientLevelRecord(rho=grid.rho, failure=grid.n_max * FAILURE)


def composed(records: Sequence[ClientLevelRecord], delta: float) -> float:
    """Epsilon of all these releases together; infinite where delta does not pay for what may fail (protocol.md §4.5f).

    Raises:
        AccountingError: an event that the accountant does not know.
    """
    if not records:
        return 0.0
    together = dp_accounting.ComposedDpEvent([dp_accounting.ZCDpEvent(record.rho) for record in records])
    spent = epsilon_of(together, DELTA_KEPT * delta)
    failure = math.fsum(record.failure for record in records)
    pays = not failure or math.log1p(math.exp(-spent)) + spent + math.log(failure) <= math.log((1 - DELTA_KEPT) * delta)
    return spent if pays else math.inf


def check_session(session: NoisySession) -> None:
    """`check_agreement` for a session that has the noise; nothing for one without."""
    if session.noise_grid is not None:
        check_agreement(session.noise_grid, session.client_releases)


def announce(session: NoisySession, log: EventLog) -> None:
    """Say what the noise spends and how large it is, before anything is trained (protocol.md §14.8)."""
    if (grid := session.noise_grid) is not None:
        epsilon = grid.epsilon(session.client_releases)
        log.emit("client-noise", epsilon=epsilon, delta=grid.noise.delta, note=grid.ratio_in_words)
