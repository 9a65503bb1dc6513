"""Uploads as files: `<client>.part` while it comes in, `<client>.ct` when it is whole and verified, `<client>.boxes`.

Clients are named by the fingerprints of their certificates. A part is always a prefix of what the client sent. What a
process that was killed left half written beside them (`.NAME.HEX.tmp`) is read by nobody, and goes at the next start.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secagg.errors import StorageError
from secagg_host.durable import (
    PRIVATE_FILE,
    fsync_file,
    fsync_folder,
    guard,
    make_folder,
    read_file,
    storage_error,
    write_synced,
)

PART, WHOLE, BOXES = ".part", ".ct", ".boxes"
TEMPORARY = ".tmp"
"""What `write_synced` had not yet given its name when the process was killed."""


class PartWriter:
    """Appends to a partial upload; what was appended is durable when the writer is closed.

    The file is opened by the first chunk: a stream that brings none leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def append(self, chunk: bytes | memoryview) -> None:
        """Write a chunk. Raises StorageError; what fitted stays and can be resumed after."""
        view = memoryview(chunk)
        with guard(self._path):
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is None:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as failure:
            if error is None:
                raise storage_error(self._path, failure) from failure
        finally:
            os.close(self._descriptor)


class UploadFiles:
    """The uploads of one session."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)

    def _path(self, client: str, suffix: str) -> Path:
        return self.folder / f"{client}{suffix}"

    def path(self, client: str) -> Path:
        """Where the client's upload is: whole, or as far as it has come."""
        whole = self._path(client, WHOLE)
        return whole if whole.exists() else self._path(client, PART)

    def stored(self, client: str) -> int:
        """How many bytes of the client's ciphertext are here."""
        path = self.path(client)
        with guard(path):
            return path.stat().st_size if path.exists() else 0

    def any_stored(self) -> bool:
        """Whether there is anything of any client."""
        with guard(self.folder):
            return any(self.folder.iterdir())

    def writer(self, client: str) -> PartWriter:
        """Open the client's partial upload for appending."""
        return PartWriter(self._path(client, PART))

    def blocks(self, client: str, block_bytes: int) -> Iterator[bytes]:
        """The client's ciphertext in blocks; the last may be shorter when the file is. Raises StorageError."""
        path = self.path(client)
        with guard(path), path.open("rb") as file:
            while block := file.read(block_bytes):
                yield block

    def read_into(self, client: str, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill the contiguous `out` with the client's ciphertext from `offset` on. Raises StorageError."""
        path = self.path(client)
        with guard(path), path.open("rb", buffering=0) as file:
            file.seek(offset)
            view = out.data.cast("B")
            while view:
                if not (size := file.readinto(view)):
                    raise StorageError(f"{path}: is damaged: it ends {len(view)} bytes too early")
                view = view[size:]

    def vector(self, client: str) -> NDArray[np.uint8]:
        """All that is stored of the client's upload, uint8. Raises StorageError."""
        return np.frombuffer(read_file(self.path(client)), np.uint8)

    def boxes(self, client: str, count: int) -> tuple[bytes, ...]:
        """The client's boxes in order of index. Raises StorageError."""
        path = self._path(client, BOXES)
        raw = read_file(path)
        size, rest = divmod(len(raw), count)
        if rest:
            raise StorageError(f"{path}: is damaged: {len(raw)} bytes are not {count} boxes")
        return tuple(raw[index * size : (index + 1) * size] for index in range(count))

    def erase_boxes(self, client: str) -> None:
        """Remove the client's boxes."""
        self._remove(self._path(client, BOXES))

    def seal(self, client: str, boxes: tuple[bytes, ...] = ()) -> None:
        """The upload is whole and verified: store its boxes, all of one size, and give it its final name, durably.

        The part is synced here whoever wrote it: a server that was killed may have left bytes that no writer synced,
        and a client that resumes at the end sends none. May be done again, for an upload that has its name already.
        """
        part, whole = self._path(client, PART), self._path(client, WHOLE)
        with guard(whole):
            if boxes:
                write_synced(self._path(client, BOXES), b"".join(boxes))
            if not whole.exists():
                fsync_file(part)
                part.rename(whole)
            fsync_folder(self.folder)

    def discard(self, client: str) -> None:
        """Remove a refused upload."""
        for suffix in (PART, WHOLE, BOXES):
            self._remove(self._path(client, suffix))

    def erase(self, suffixes: tuple[str, ...] = (PART, WHOLE, BOXES, TEMPORARY)) -> int:
        """Remove all files of these kinds; returns how many there were."""
        with guard(self.folder):
            found = [path for path in self.folder.iterdir() if path.suffix in suffixes]
        for path in found:
            self._remove(path)
        if found:
            with guard(self.folder):
                fsync_folder(self.folder)
        return len(found)

    @staticmethod
    def _remove(path: Path) -> None:
        with guard(path):
            path.unlink(missing_ok=True)
