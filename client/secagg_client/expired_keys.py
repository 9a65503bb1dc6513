"""The sweep of expired session keys, at every start of a key-holder (protocol.md §4.1, §13.5.6)."""

from collections.abc import Callable, Iterable
from pathlib import Path

from secagg.errors import MalformedError, StorageError
from secagg_host.durable import guard, read_file

MAX_DIGITS = 19

Reading = tuple[Path, Callable[[bytes], int]]
"""A file named by the hash of an offer, and how its content says when that key must go (seconds since 1970)."""


def seconds_of(raw: bytes) -> int:
    """A time that was written down, seconds since 1970. Raises MalformedError."""
    if not raw.isdigit() or len(raw) > MAX_DIGITS:
        raise MalformedError("does not hold a time in seconds since 1970")
    return int(raw)


def erase_expired(found: Iterable[Reading], erase: Callable[[str], None], now: int) -> int:
    """Erase every key whose time is over, and the files that say so; how many keys.

    A damaged file does not keep the keys of the others. Raises MalformedError that names each, after the sweep.
    """
    damaged, erased = list[str](), set[str]()
    for path, expiry in found:
        try:
            if expiry(read_file(path)) < now:
                erase(path.stem)
                erased.add(path.stem)
                with guard(path):
                    path.unlink()
        except (MalformedError, StorageError) as error:
            damaged.append(f"{path} ({str(error).removeprefix(f'{path}: ')})")
    if damaged:
        raise MalformedError(
            f"cannot tell when these session keys must be erased: {'; '.join(damaged)}. All others that have expired "
            "are erased. Put each file back; or, when its session is over, remove it with the key of that name"
        )
    return len(erased)
