"""A ciphertext that arrives in pieces of any size: checked and hashed block by block (protocol.md §5.3, §7.2)."""

import numpy as np
from numpy.typing import NDArray

from secagg.errors import HashMismatch, MalformedError
from secagg.merkle import leaf_hash, root_of
from secagg.packing import unpack_block
from secagg.parameters import SealedParameters

Piece = bytes | bytearray | memoryview


class Arrival:
    """Takes a ciphertext from its first byte on; holds one block of it, and a hash a block.

    What is wrong with a block is said by `check`, when the whole is there: until then it is a prefix like any other.
    """

    __slots__ = ("_held", "_leaves", "_parameters", "_residues", "_wrong", "size")

    def __init__(self, parameters: SealedParameters) -> None:
        self._parameters = parameters
        self._residues: NDArray[np.uint32] = np.empty((len(parameters.primes), parameters.degree), dtype=np.uint32)
        self._leaves = list[bytes]()
        self._held = bytearray()
        self._wrong: MalformedError | None = None
        self.size = 0

    def feed(self, piece: Piece) -> None:
        """The next bytes."""
        rest, size = memoryview(piece), self._parameters.block_bytes
        self.size += len(rest)
        if self._held:
            missing = size - len(self._held)
            self._held += rest[:missing]
            rest = rest[missing:]
            if len(self._held) < size:
                return
            self._take(self._held)
            self._held = bytearray()
        whole = len(rest) // size * size
        for start in range(0, whole, size):
            self._take(rest[start : start + size])
        self._held += rest[whole:]

    def _take(self, block: Piece) -> None:
        self._leaves.append(leaf_hash(memoryview(block)))
        if self._wrong is None:
            try:
                unpack_block(self._parameters, block, self._residues)
            except MalformedError as error:
                self._wrong = error

    def check(self, ciphertext_root: str) -> None:
        """The whole has arrived: raise MalformedError for a residue out of range, HashMismatch for another root."""
        if self._wrong is not None:
            raise self._wrong
        if self._held or root_of(self._leaves).hex() != ciphertext_root:
            raise HashMismatch("the ciphertext does not have the root that the client signed; send it again from 0")
