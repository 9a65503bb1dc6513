"""Asking again: exponential backoff while the coordinator is away, or says that it is not yet time."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from secagg.errors import NotReady, SecaggError, SessionClosed, TransportError
from secagg_host.events import EventLog

FIRST_WAIT = 0.2
LONGEST_WAIT = 15.0
POLL = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How a process waits. `minutes` is how long a coordinator may be out of reach at a stretch.

    `clock` gives seconds since 1970; `sleep` takes seconds. Both are arguments so that tests need not wait.
    """

    log: EventLog
    minutes: float = 60.0
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    @property
    def now(self) -> int:
        """Whole seconds since 1970, UTC."""
        return int(self.clock())

    def ask(self, call: Callable[[], T], *, until: int | None = None, ready_by: int | None = None) -> T:
        """Call until it answers. `until` is when waiting is over (session time, seconds since 1970).

        After `ready_by` it is asked all the same, but "not yet" is believed no more: what was to be there by then
        will not come.
        Raises SessionClosed after `until` or for "not yet" after `ready_by`, TransportError when the coordinator stays
        out of reach for too long, and at once whatever else the call raises.
        """
        attempt, said, lost_at = 0, "", None
        while True:
            if until is not None and self.clock() > until:
                raise SessionClosed(f"the session's time is over{f' ({said})' if said else ''}")
            try:
                return call()
            except NotReady as error:
                if ready_by is not None and self.clock() > ready_by:
                    raise SessionClosed(f"it will not come any more, and the coordinator says: {error}") from error
                attempt, lost_at = 0, None
                said = self._say(error, said)
                self.sleep(POLL)
            except TransportError as error:
                lost_at = self.clock() if lost_at is None else lost_at
                if self.clock() - lost_at > 60 * self.minutes:
                    raise
                said = self._say(error, said)
                self.sleep(backoff(attempt))
                attempt += 1

    def _say(self, error: SecaggError, said: str) -> str:
        """Log a reason once, not at each attempt."""
        reason = str(error)
        if reason != said:
            self.log.emit("waiting", reason=reason, code=error.code)
        return reason


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt: doubling, capped, with jitter so that clients do not march in step."""
    ceiling = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt, 16))
    return ceiling * (0.5 + secrets.randbelow(1000) / 2000)
