"""What a coordinator does the same way in masked and ckks sessions, which end in one release (protocol.md §12, §13)."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from secagg.certificate import FILES, TimelineEvent
from secagg.errors import MalformedError, NotReady, RoleViolation, SizeLimitError
from secagg.identity import Identity
from secagg.messages import SignedReceipt
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server.blobs import PartWriter, UploadFiles
from secagg_server.clock import Expiry, Timed, check_clock
from secagg_server.database import RUNNING, SessionState
from secagg_server.driver import WAIT_NOTICE_AFTER, WAIT_NOTICE_EVERY
from secagg_server.masked_storage import MessageStore
from secagg_server.session import Host
from secagg_server.steps import SessionDriver
from secagg_server.streams import Progress, Turns


@dataclass(frozen=True, slots=True)
class UploadStream:
    """One stream of one client's upload of `total` bytes."""

    peer: Identity
    total: int
    turn: int
    progress: Progress


class OnlyReleaseSession(ABC):
    """A session with its store and files. `lock` guards every decision; `problem` is what holds it up."""

    def __init__(
        self, descriptor: Timed, store: MessageStore, files: UploadFiles, release_folder: Path, host: Host
    ) -> None:
        self.timed = descriptor
        self.store, self.files, self.release_folder, self.host = store, files, release_folder, host
        self.problem, self.lock = "", threading.RLock()
        self._turns: dict[str, Turns] = {}

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
        with self.lock:
            self.store.move(state, reason, self.note(self.host.signer.identity.title, what))
            self.host.checkpoint(f"state-{state}")
            self.emit("session", state=state.value, reason=reason or None)

    def receipt(self, client: str) -> SignedReceipt | None:
        """The client's receipt, if it has one."""
        return self.store.receipt(client)

    # -- the stream of an upload (protocol.md §7.2) ----------------------------------------------------------------

    @abstractmethod
    def check_takes(self) -> None:
        """Raise NotReady or SessionClosed unless uploads are taken now. The lock is held."""

    def turns(self, client: str) -> Turns:
        """Of the client's streams. The lock is held."""
        return self._turns.setdefault(client, Turns())

    @contextmanager
    def stream(
        self, peer: Identity, total: int, offset: int, cut: Callable[[], object] | None = None
    ) -> Iterator[UploadStream]:
        """A stream that starts at `offset` of the announced upload; `cut` ends it when a newer one comes.

        Raises NotReady unless it goes on where the stored part ends.
        """
        progress = Progress(
            self.host.clock, lambda have: self.emit("bytes", client=peer.title, stored=have, total=total)
        )
        with self.lock:
            turns, stored = self.turns(peer.fingerprint), self.files.stored(peer.fingerprint)
            turn = turns.take(cut)
        try:
            if offset != stored:
                raise NotReady(
                    f"the stream starts at byte {offset}, but {stored} are stored: ask again where to resume"
                )
            yield UploadStream(peer, total, turn, progress)
        finally:
            with self.lock:
                turns.leave(turn)

    def receive(self, stream: UploadStream, chunk: bytes | memoryview, writer: PartWriter) -> None:
        """Append a chunk. Raises SizeLimitError, SessionClosed, NotReady (overtaken) or StorageError."""
        check_chunk(chunk)
        client = stream.peer.fingerprint
        with self.lock:
            self.turns(client).check(stream.turn)
            self.check_takes()
            have = self.files.stored(client) + len(chunk)
            if have > stream.total:
                raise SizeLimitError(f"the stream is longer than the {stream.total} bytes that it announced")
            writer.append(chunk)
        stream.progress.at(have)
        self.host.checkpoint("chunk-stored")

    def check_whole(self, stream: UploadStream) -> None:
        """Raise NotReady when the stream was overtaken, SizeLimitError when bytes are missing. The lock is held."""
        self.turns(stream.peer.fingerprint).check(stream.turn)
        self.check_takes()
        stored = self.files.stored(stream.peer.fingerprint)
        if stored < stream.total:
            raise SizeLimitError(f"the stream ended after {stored} of {stream.total} bytes; resume from there")

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
        self._certain = self._expiry.is_certain(timed, now)
        if now <= timed.expires_at:
            return session.running and self._go_on()
        return self._end_late() or (self._certain and self._expire(state))

    def _end_late(self) -> bool:
        """Carry out the end that is recorded, though the session has expired (protocol.md §7.4); whether it was.

        What fails is tried again until the expiry is certain; it keeps no session from expiring then.
        """
        return self.session.running and bool(self._unless_certain(self._is_decided)) and self._go_on()

    @abstractmethod
    def _go_on(self) -> bool:
        """Take the next step of a session that runs, if it can be taken; whether it was.

        What takes long, to open a sum and to make a release of it, is done without the lock: calls wait for that.
        """

    @abstractmethod
    def _is_decided(self) -> bool:
        """Whether how the session ends is recorded, and only to be carried out.

        Raises StorageError when what that needs is not to be had.
        """

    @abstractmethod
    def _erase(self) -> int:
        """Delete the uploads, and all that was made of them; how many files."""

    @abstractmethod
    def _names_the_missing(self, state: SessionState) -> bool:
        """Whether somebody in particular is waited for."""

    def _expire(self, state: SessionState) -> bool:
        """Delete the uploads, at every look; a session that still runs ends, any other stays what it is.

        Whether anything but that is left to do.
        """
        session = self.session
        with session.lock:
            erased = self._erase()
            if erased:
                session.emit("erased", files=erased)
            if state not in RUNNING:
                return False
            _, reason = session.store.state()
            reason = reason or session.problem
            why = "the session expired; its uploads are deleted" + (f" ({reason})" if reason else "")
            session.move(SessionState.EXPIRED, why, "the session expired; uploads deleted")
        return True

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
