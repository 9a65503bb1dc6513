"""A ciphertext that arrives in pieces of any size: checked and hashed block by block (protocol.md §5.3, §7.2)."""

import numpy as np
from numpy.typing import NDArray

from secagg.errors import HashMismatch, MalformedError
from secagg.merkle import leaf_hash, root_of
from secagg.packing import bad_residues
from secagg.parameters import SealedParameters

Piece = bytes | bytearray | memoryview


class Arrival:
    """Takes a ciphertext from its first byte on; holds one block of it, and a hash a block.

    What is wrong with a block is said by `check`, when the whole is there: until then it is a prefix like any other.
    """

    __slots__ = ("_bad", "_held", "_leaves", "_primes", "_row", "_size", "size")

    def __init__(self, parameters: SealedParameters) -> None:
        self._size = parameters.block_bytes
        self._primes = np.array(parameters.primes, dtype=np.uint32)
        self._row: NDArray[np.uint32] = np.empty(parameters.degree, dtype=np.uint32)
        self._leaves = list[bytes]()
        self._held = bytearray()
        self._bad = 0
        self.size = 0

    def feed(self, piece: Piece) -> None:
        """The next bytes."""
        rest = memoryview(piece)
        self.size += len(rest)
        if self._held:
            missing = self._size - len(self._held)
            self._held += rest[:missing]
            rest = rest[missing:]
            if len(self._held) < self._size:
                return
            self._take(memoryview(bytes(self._held)))
            self._held = bytearray()
        whole = len(rest) // self._size * self._size
        if whole:
            self._take(rest[:whole])
        self._held += rest[whole:]

    def _take(self, blocks: memoryview) -> None:
        """Whole blocks: a hash each, and all residues at once."""
        self._leaves += [leaf_hash(blocks[start : start + self._size]) for start in range(0, len(blocks), self._size)]
        data = np.frombuffer(blocks, dtype=np.uint8).reshape(-1, self._size)
        if data.ctypes.data % 4:
            data = data.copy()
        self._bad += int(bad_residues(data.view(np.uint32), self._primes, self._row))

    def check(self, ciphertext_root: str) -> None:
        """The whole has arrived: raise MalformedError for a residue out of range, HashMismatch for another root."""
        if self._bad:
            raise MalformedError(f"{self._bad} residues are not below their prime; the sender is broken or lying")
        if self._held or root_of(self._leaves).hex() != ciphertext_root:
            raise HashMismatch("the ciphertext does not have the root that the client signed; send it again from 0")
