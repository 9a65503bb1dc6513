"""Files that survive a crash: atomic writes, write-once journals, private keys, folder locks.

What a function of this module returned from is on the disk, not in a cache.
"""

import errno
import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from secagg.boxes import SessionKey
from secagg.errors import MalformedError, SessionClosed, StorageError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and start again, nothing is lost",
    errno.EDQUOT: "the disk quota is used up; free some space and start again, nothing is lost",
    errno.EACCES: "permission denied; check owner and mode",
    errno.EPERM: "permission denied; check owner and mode",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "it does not exist",
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """The disk's refusal as a StorageError that names the path and the reason."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"{path}: {reason}")


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries (creations, renames, removals) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the bytes of a file durable, whichever descriptor or process wrote them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> Path:
    """Create a folder for this party alone, and so its missing parents. Raises StorageError."""
    with guard(folder):
        if not folder.parent.exists():
            make_folder(folder.parent)
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def open_private(path: str, flags: int) -> int:
    """An `opener` for `open`: what it makes can be read by this party alone."""
    return os.open(path, flags, PRIVATE_FILE)


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises StorageError."""
    with guard(path):
        return path.read_bytes()


def write_synced(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` by `data`: there is the old content or the new, never a mixture; the bytes are on the disk.

    The name is durable when its folder is synced (`fsync_folder`), which the caller does, for several files at once.
    Raises StorageError, and leaves no temporary file behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with guard(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_atomic(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` by `data` durably: after a crash there is the old content or the new, never a mixture.

    Raises StorageError, and leaves no temporary file behind.
    """
    write_synced(path, data, mode)
    with guard(path):
        fsync_folder(path.parent)


class DurableJournal:
    """Write-once records in SQLite: `secagg.keyholder.Journal`, safe to share between threads."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._path = path
        self._lock = threading.Lock()
        with guard(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))
        with self._guard():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # A rolled-back journal file could come back after a power cut; a synced write-ahead log cannot.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("CREATE TABLE IF NOT EXISTS journal (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        fsync_folder(path.parent)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error

    def get(self, key: str) -> bytes | None:
        """What was recorded, or None. Raises StorageError."""
        with self._lock, self._guard():
            row = self._db.execute("SELECT value FROM journal WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def record(self, key: str, value: bytes) -> bytes:
        """Record `value` unless something is there; return what is there now. Raises StorageError."""
        with self._lock, self._guard():
            self._db.execute("INSERT OR IGNORE INTO journal (key, value) VALUES (?, ?)", (key, value))
            row = self._db.execute("SELECT value FROM journal WHERE key = ?", (key,)).fetchone()
        return bytes(row[0])

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


class SecretFiles:
    """Private keys as files of mode 0600, by the hash of the offer they were made for."""

    def __init__(self, folder: Path) -> None:
        self._folder = make_folder(folder)

    def _path(self, offer_digest: str) -> Path:
        if len(offer_digest) != 64 or not set(offer_digest) <= set("0123456789abcdef"):
            raise MalformedError("a session key is named by the hash of its offer, 64 hex digits")
        return self._folder / f"{offer_digest}.key"

    def put_raw(self, offer_digest: str, raw: bytes) -> None:
        """Store durably. Raises StorageError."""
        write_atomic(self._path(offer_digest), raw)

    def get_raw(self, offer_digest: str) -> bytes:
        """Load. Raises SessionClosed when the key was erased."""
        path = self._path(offer_digest)
        with guard(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                raise SessionClosed("the session key is erased: its session was released or expired") from None

    def erase(self, offer_digest: str) -> None:
        """Overwrite, then remove durably; does nothing when it is gone.

        A copying file system or a solid-state disk may keep old blocks: put the state on an encrypted disk.
        """
        path = self._path(offer_digest)
        with guard(path):
            try:
                descriptor = os.open(path, os.O_WRONLY)
            except FileNotFoundError:
                return
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            fsync_folder(self._folder)


class FileKeyStore(SecretFiles):
    """Private session keys of `sealed`: `secagg.keyholder.KeyStore`."""

    def put(self, offer_digest: str, key: SessionKey) -> None:
        """Store durably. Raises StorageError."""
        self.put_raw(offer_digest, key.to_bytes())

    def get(self, offer_digest: str) -> SessionKey:
        """Load. Raises SessionClosed when the key was erased, MalformedError when it is damaged."""
        return SessionKey.from_bytes(self.get_raw(offer_digest))


class FolderLock:
    """Holds a folder for one process at a time; the lock goes with the process, also when it is killed.

    `with FolderLock(folder): ...` raises StorageError when another run holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        path = make_folder(self._folder) / ".lock"
        with guard(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise StorageError(f"{self._folder}: in use by another run (pid {holder}); stop it first") from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
