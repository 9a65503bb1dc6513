"""What a coordinator does the same way in masked and ckks sessions, which end in one release (protocol.md §12, §13)."""

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from secagg.certificate import FILES, TimelineEvent
from secagg.errors import MalformedError, NotReady, RoleViolation, SizeLimitError
from secagg.identity import Identity
from secagg.messages import SignedReceipt
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server.blobs import UploadFiles
from secagg_server.clock import Expiry, Timed, check_clock
from secagg_server.driver import WAIT_NOTICE_AFTER, WAIT_NOTICE_EVERY
from secagg_server.masked_storage import MessageStore
from secagg_server.session import Host
from secagg_server.steps import SessionDriver
from secagg_server.storage import SessionState

RUNNING = frozenset({SessionState.PROPOSED, SessionState.OPEN, SessionState.CLOSING})


class OnlyReleaseSession(ABC):
    """A session with its store and files. `lock` guards every decision; `problem` is what holds it up."""

    def __init__(
        self, descriptor: Timed, store: MessageStore, files: UploadFiles, release_folder: Path, host: Host
    ) -> None:
        self.timed = descriptor
        self.store, self.files, self.release_folder, self.host = store, files, release_folder, host
        self.problem, self.lock = "", threading.RLock()

    @property
    def ctx(self) -> str:
        """The session's name."""
        return self.timed.ctx

    @property
    def release_names(self) -> tuple[str, ...]:
        """The files of its release, but for the certificate."""
        return FILES

    @property
    def running(self) -> bool:
        """Whether the session has not ended."""
        return self.store.state()[0] in RUNNING

    @abstractmethod
    def status(self) -> tuple[SessionState, str]:
        """State and reason; while it runs, what is waited for."""

    def published_folder(self, release: int) -> Path:
        """The folder of the only release. Raises NotReady before it is written, MalformedError for another number."""
        if release not in (0, 1):
            raise MalformedError(f"this session has one release, and no release {release}")
        state, reason = self.status()
        if state != SessionState.RELEASED:
            raise NotReady(f"session {self.ctx[:16]} has no release; it is {state}{reason and f' ({reason})'}")
        return self.release_folder

    def note(self, party: str, what: str) -> TimelineEvent:
        """A line of the timeline, now."""
        return TimelineEvent(at=self.host.clock(), party=party, event=what)

    def emit(self, event: str, **fields: str | int | list[str] | None) -> None:
        """Log an event of this session."""
        self.host.events.emit(event, session=self.ctx, **fields)

    def move(self, state: SessionState, reason: str, what: str) -> None:
        """Record a new state."""
        self.store.move(state, reason, self.note(self.host.signer.identity.title, what))
        self.host.checkpoint(f"state-{state}")
        self.emit("session", state=state.value, reason=reason or None)

    def receipt(self, client: str) -> SignedReceipt | None:
        """The client's receipt, if it has one."""
        return self.store.receipt(client)

    def check_offset(self, peer: Identity, offset: int) -> None:
        """Raise NotReady unless the stream goes on where the stored part ends."""
        stored = self.files.stored(peer.fingerprint)
        if offset != stored:
            raise NotReady(f"the stream starts at byte {offset}, but {stored} are stored: ask again where to resume")

    @staticmethod
    def check_own(peer: Identity, signer: str) -> None:
        """Raise RoleViolation when `peer` hands in what another signed."""
        if signer != peer.fingerprint:
            raise RoleViolation(f"{peer.title} hands in what another party signed")


def check_chunk(chunk: bytes | memoryview) -> None:
    """Raise SizeLimitError for a chunk of another size than may be sent."""
    if not 1 <= len(chunk) <= MAX_CHUNK_BYTES:
        raise SizeLimitError(f"a chunk has {len(chunk)} bytes; it must have 1 to {MAX_CHUNK_BYTES}")


S = TypeVar("S", bound=OnlyReleaseSession)


@dataclass
class OnlyReleaseDriver(SessionDriver[S]):
    """Drives one session; called by one thread only."""

    _expiry: Expiry = field(default_factory=Expiry)
    _told: str = ""
    _due: int = 0

    def _step(self, now: int) -> bool:
        session, timed = self.session, self.session.timed
        check_clock(timed, now)
        state, _ = session.store.state()
        certain = self._expiry.is_certain(timed, now)
        if state == SessionState.EXPIRED:
            return False
        if now > timed.expires_at and not (session.running and self._must_publish()):
            return certain and self._expire(state)
        if not session.running:
            return False
        with session.lock:
            return self._go_on(now)

    @abstractmethod
    def _go_on(self, now: int) -> bool:
        """Take the next step of a session that runs, if it can be taken; whether it was. The lock is held."""

    @abstractmethod
    def _must_publish(self) -> bool:
        """Whether the sum is opened and its release still to be written."""

    @abstractmethod
    def _erase(self) -> int:
        """Delete the uploads, and all that was made of them; how many files."""

    @abstractmethod
    def _names_the_missing(self, state: SessionState) -> bool:
        """Whether somebody in particular is waited for."""

    def _expire(self, state: SessionState) -> bool:
        """Delete the uploads; a session that is not released ends. Whether anything but that is left to do."""
        session = self.session
        with session.lock:
            erased = self._erase()
            if erased:
                session.emit("erased", files=erased)
            if state != SessionState.RELEASED:
                _, reason = session.store.state()
                why = "the session expired; its uploads are deleted" + (f" ({reason})" if reason else "")
                session.move(SessionState.EXPIRED, why, "the session expired; uploads deleted")
        return state != SessionState.RELEASED

    def _tell(self, now: int) -> None:
        """Say who is missing, once they have been for a while, and again now and then."""
        if not self._names_the_missing(self.session.store.state()[0]):
            return
        waiting = self.session.status()[1]
        if waiting != self._told:
            self._told, self._due = waiting, now + WAIT_NOTICE_AFTER
        elif now >= self._due:
            self._due = now + WAIT_NOTICE_EVERY
            self.session.emit("waiting", reason=waiting)
