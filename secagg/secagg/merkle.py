"""Merkle trees of RFC 6962 with inclusion paths (protocol.md §1.5)."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.errors import HashMismatch
from secagg.threads import in_ranges

MAX_DEPTH = 40


def leaf_hash(data: bytes | memoryview) -> bytes:
    """Hash of a leaf: SHA-256(0x00 || data)."""
    digest = hashlib.sha256(b"\x00")
    digest.update(data)
    return digest.digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """Largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Merkle tree head over leaf hashes; SHA-256 of nothing for an empty list (RFC 6962 §2.1)."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = _split(len(leaves))
    return _node(root_of(leaves[:half]), root_of(leaves[half:]))


def root(items: Iterable[bytes | memoryview]) -> bytes:
    """Merkle root over raw items; holds one hash an item, not the items."""
    return root_of([leaf_hash(item) for item in items])


def rows_root(rows: NDArray[np.uint8], threads: int = 1) -> bytes:
    """Merkle root over the rows of `rows` [n, bytes], hashed on so many threads."""
    leaves = [b""] * len(rows)

    def work(start: int, stop: int) -> None:
        for row in range(start, stop):
            leaves[row] = leaf_hash(rows[row].data)

    in_ranges(len(rows), threads, work)
    return root_of(leaves)


def path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Audit path of leaf `index`, from the leaf upwards (RFC 6962 §2.1.1)."""
    if len(leaves) <= 1:
        return ()
    half = _split(len(leaves))
    if index < half:
        return (*path(leaves[:half], index), root_of(leaves[half:]))
    return (*path(leaves[half:], index - half), root_of(leaves[:half]))


def verify_path(data: bytes, index: int, count: int, steps: Sequence[bytes], expected: bytes) -> None:
    """Raise HashMismatch unless `data` is leaf `index` of `count` under the root `expected`."""
    if not 0 <= index < count or len(steps) > MAX_DEPTH:
        raise HashMismatch(f"Merkle path: leaf {index} of {count} with {len(steps)} steps is impossible")
    remaining = list(steps)

    def climb(position: int, width: int) -> bytes:
        if width == 1:
            return leaf_hash(data)
        if not remaining:
            raise HashMismatch("Merkle path is too short")
        half, sibling = _split(width), remaining.pop()
        if position < half:
            return _node(climb(position, half), sibling)
        return _node(sibling, climb(position - half, width - half))

    found = climb(index, count)
    if remaining or found != expected:
        raise HashMismatch(f"Merkle path of leaf {index} does not lead to the committed root")
