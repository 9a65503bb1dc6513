"""The coordinator's database: SQLite through SQLAlchemy, and what every session has in it, a state and a timeline.

A method that writes returns when the write is on the disk (WAL with synchronous=FULL).
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine, event, select, update
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from secagg.certificate import TimelineEvent
from secagg.errors import StorageError, UnknownSession
from secagg_host.durable import PRIVATE_FILE, fsync_folder, guard, make_folder
from secagg_server.tables import Base, EventRow, SessionRow


class SessionState(StrEnum):
    """Where a session stands. The last four are final; one that ended before its expiry stays what it is after it."""

    PROPOSED = "proposed"
    OPEN = "open"
    CLOSING = "closing"
    RELEASED = "released"
    TOO_FEW = "too-few"
    BURNT = "burnt"
    EXPIRED = "expired"


RUNNING = frozenset({SessionState.PROPOSED, SessionState.OPEN, SessionState.CLOSING})
"""Of a session that has not ended."""


def _set_pragmas(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Store:
    """The database file. Writes are serialised; readers do not wait."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._path, self._lock = path, threading.Lock()
        with guard(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))
            fsync_folder(path.parent)
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _set_pragmas)
        with self._guard():
            Base.metadata.create_all(self._engine)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StorageError(f"{self._path}: {cause}") from error

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed durably at the end. Raises StorageError."""
        with self._lock, self._guard(), Session(self._engine) as db, db.begin():
            yield db

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view. Raises StorageError."""
        with self._guard(), Session(self._engine) as db:
            yield db

    def add_row(self, ctx: str, descriptor: bytes, state: SessionState) -> None:
        """Take a session on, in a first state. Does nothing when it is known."""
        with self.write() as db:
            if db.get(SessionRow, ctx) is None:
                db.add(SessionRow(ctx=ctx, descriptor=descriptor, state=state, reason=""))

    def has_session(self, ctx: str) -> bool:
        """Whether the session was taken on before."""
        with self.read() as db:
            return db.get(SessionRow, ctx) is not None

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class StateStore:
    """State and timeline of one session, of whichever protocol."""

    def __init__(self, store: Store, ctx: str) -> None:
        self._store, self.ctx = store, ctx
        self._writes = count(1)
        self.recorded = 0
        self._state: tuple[int, tuple[SessionState, str]] | None = None

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed durably at the end; `recorded` is another number after it. Raises StorageError.

        Also after one that failed: a commit that raised may be there all the same.
        """
        try:
            with self._store.write() as db:
                yield db
        finally:
            self.recorded = next(self._writes)

    def _add(self, row: Base, note: TimelineEvent | None = None) -> None:
        with self.write() as db:
            db.add(row)
            self._note(db, note)

    def _note(self, db: Session, note: TimelineEvent | None) -> None:
        if note is not None:
            db.add(EventRow(ctx=self.ctx, at=note.at, party=note.party, event=note.event))

    def _set_state(self, db: Session, state: SessionState, reason: str) -> None:
        db.execute(update(SessionRow).where(SessionRow.ctx == self.ctx).values(state=state.value, reason=reason))

    def state(self) -> tuple[SessionState, str]:
        """State and reason. Asked at every call and every look, so read again only after a write."""
        recorded = self.recorded  # before reading: a write meanwhile makes what was read old, not new
        if self._state is None or self._state[0] != recorded:
            self._state = (recorded, self._read_state())
        return self._state[1]

    def _read_state(self) -> tuple[SessionState, str]:
        with self._store.read() as db:
            row = db.get(SessionRow, self.ctx)
            if row is None:
                raise UnknownSession(f"session {self.ctx[:16]} is not stored here")
            return SessionState(row.state), row.reason

    def move(self, state: SessionState, reason: str, note: TimelineEvent) -> None:
        """Record a new state."""
        with self.write() as db:
            self._set_state(db, state, reason)
            self._note(db, note)

    def timeline(self) -> tuple[TimelineEvent, ...]:
        """The timeline so far."""
        with self._store.read() as db:
            rows = db.scalars(select(EventRow).where(EventRow.ctx == self.ctx).order_by(EventRow.number))
            return tuple(TimelineEvent(at=row.at, party=row.party, event=row.event) for row in rows)
