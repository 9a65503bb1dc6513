"""A coordinator's clock may be wrong: what cannot be undone waits until it is of one mind (protocol.md §7.4)."""

from dataclasses import dataclass
from typing import Protocol

from secagg.errors import NotReady

ERASE_GRACE_SECONDS = 600


class Timed(Protocol):
    """A descriptor, of whichever protocol, in so far as a clock is held against it."""

    @property
    def ctx(self) -> str:
        """The session's name."""

    @property
    def created_at(self) -> int:
        """When the session began, seconds since 1970."""

    @property
    def expires_at(self) -> int:
        """When it ends."""


def check_clock(session: Timed, now: int) -> None:
    """Raise NotReady while this clock is before the session: a receipt that is dated so proves nothing (§7.2)."""
    if now < session.created_at:
        raise NotReady(
            f"the coordinator's clock is {session.created_at - now} seconds before session {session.ctx[:16]} was "
            "made: set it right; until then nothing is taken"
        )


@dataclass
class Expiry:
    """Whether a session has expired for certain: this process's clock has said nothing else for a while."""

    _since: int | None = None

    def is_certain(self, session: Timed, now: int) -> bool:
        """Call with every time of the clock. Uploads are deleted, which cannot be undone, only when it is true."""
        if now <= session.expires_at:
            self._since = None
            return False
        if self._since is None or now < self._since:
            self._since = now
        return now >= self._since + ERASE_GRACE_SECONDS
