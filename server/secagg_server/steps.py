"""What every driver does the same way: it takes steps while there are any, and outlives one that fails.

One process serves many sessions. Whatever fails in a step of one, a fault of this program and a machine that has run
out of something included, is that session's trouble alone: it is logged, told as what holds the session up, and tried
again after a while.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from secagg.errors import SecaggError

RETRY_AFTER = 5
MAX_REASON = 200
"""Characters of an unexpected error's message. Such a message is not ours, and may quote what it choked on."""


class Timekeeper(Protocol):
    """A session's surroundings, in so far as they tell the time."""

    @property
    def clock(self) -> Callable[[], int]:
        """Gives seconds since 1970, UTC."""


class Driven(Protocol):
    """What a driver needs of its session: the time, and to say what holds it up."""

    problem: str

    @property
    def host(self) -> Timekeeper:
        """Where it is served."""

    def emit(self, event: str, **fields: str | int | list[str] | None) -> None:
        """Log an event of this session."""


S = TypeVar("S", bound=Driven)
T = TypeVar("T")


@dataclass
class SessionDriver(ABC, Generic[S]):
    """Drives one session; called by one thread only."""

    session: S
    _retry_at: int = 0
    _certain: bool = False
    """Whether the session has expired, and its uploads are to be deleted."""

    def advance(self) -> None:
        """Take every step that can be taken, each at the time it is then. Raises nothing.

        A step may take long, and so may another session's before it: the clock is read for each. A step that fails,
        as when the disk is full, is logged and tried again after a while.
        """
        clock = self.session.host.clock
        if self._retry_at - RETRY_AFTER <= clock() < self._retry_at:
            return  # a clock that was set back does not wait for what it said before
        try:
            while self._step(clock()):
                pass
            self.session.problem = ""
            self._tell(clock())
        except Exception as error:  # noqa: BLE001 - the other sessions of this process go on
            self._retry_at = clock() + RETRY_AFTER
            self._hold_up(error)

    @abstractmethod
    def _step(self, now: int) -> bool:
        """Take one step, if one can be taken at `now` (seconds since 1970); whether to look for another."""

    @abstractmethod
    def _tell(self, now: int) -> None:
        """Log who is waited for, when it is due."""

    def _unless_certain(self, work: Callable[[], T]) -> T | None:
        """What `work`, which ends a session, gives. When it has expired for certain, a failure is told and gives None.

        Of whatever kind: it is not tried again, and keeps no upload any longer (protocol.md §7.4). Raises it before.
        """
        try:
            return work()
        except Exception as error:
            if not self._certain:
                raise
            self._hold_up(error)
            return None

    def _hold_up(self, error: Exception) -> None:
        """Say what holds the session up."""
        if isinstance(error, SecaggError):
            self.session.problem = str(error)
            self.session.emit("problem", code=error.code, message=self.session.problem)
        else:
            self.session.problem = unexpected(error)
            self.session.emit("problem", code="unexpected", message=self.session.problem, at=place_of(error))


def unexpected(error: Exception) -> str:
    """An error that none of our checks raised, in words: its type, and the beginning of what it says."""
    said = " ".join(str(error).split())[:MAX_REASON]
    return (
        f"{type(error).__name__}{said and f': {said}'} (a fault of this program, or the machine has run out of "
        "something; it is tried again while the session lasts)"
    )


def place_of(error: Exception) -> str:
    """The file, line and function that raised it. No values: they might be anybody's."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
