"""Where the key-holder of a ckks session keeps the one upload that it is checking (protocol.md §13.5.3)."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secagg.ckks.client import split_blocks
from secagg.errors import SizeLimitError
from secagg_host.durable import PRIVATE_FILE, guard, make_folder

NAME = "upload.bin"


@dataclass(frozen=True, slots=True)
class SpooledBlocks:
    """The blocks of an upload, each of `size` bytes, read from a file as often as wanted, one at a time."""

    path: Path
    size: int

    def __iter__(self) -> Iterator[bytes]:
        """Raises HashMismatch when the last one is cut short, StorageError."""
        with guard(self.path), self.path.open("rb") as file:
            yield from split_blocks(file.read, self.size)


class Spool:
    """A folder for one upload at a time; nothing in it outlives the opening. A new one begins empty."""

    def __init__(self, folder: Path) -> None:
        self._path = make_folder(folder) / NAME
        self.clear()

    def keep(self, pieces: Iterable[bytes], total: int, size: int) -> SpooledBlocks:
        """Write what comes in place of the upload before. Raises SizeLimitError above `total` bytes, StorageError."""
        with guard(self._path):
            self._path.unlink(missing_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        written = 0
        with guard(self._path), os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                written += len(piece)
                if written > total:
                    raise SizeLimitError(f"an upload is longer than the {total} bytes of this session's")
                file.write(piece)
        return SpooledBlocks(self._path, size)

    def clear(self) -> None:
        """Remove the upload."""
        with guard(self._path):
            self._path.unlink(missing_ok=True)
