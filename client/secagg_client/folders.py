"""Folders that are all there or not at all, and files that are erased."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from secagg.errors import StorageError
from secagg_host.durable import PRIVATE_FILE, fsync_folder, guard, make_folder, write_atomic


def write_folder(folder: Path, files: Mapping[str, bytes], mode: int = PRIVATE_FILE) -> None:
    """Make `folder` with these files durably, in one step: after a crash it is whole, or not there.

    Raises StorageError when it exists or the disk refuses.
    """
    if folder.exists():
        raise StorageError(f"{folder} exists; move it away, or name another folder")
    make_folder(folder.parent)
    clear_leftovers(folder)
    draft = make_folder(folder.with_name(f".{folder.name}.draft"))
    for name, content in files.items():
        write_atomic(draft / name, content, mode)
    with guard(folder):
        draft.rename(folder)
        fsync_folder(folder.parent)


def clear_leftovers(folder: Path) -> None:
    """Remove what an interrupted `write_folder` left."""
    with guard(folder):
        shutil.rmtree(folder.with_name(f".{folder.name}.draft"), ignore_errors=True)


def erase_file(path: Path) -> None:
    """Overwrite, then remove durably; does nothing when it is gone."""
    with guard(path):
        if not path.exists():
            return
        with path.open("r+b") as file:
            file.write(secrets.token_bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        fsync_folder(path.parent)
