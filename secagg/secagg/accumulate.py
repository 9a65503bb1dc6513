"""The running sum of ciphertexts, block by block (protocol.md §5, §9).

Holds uint32[blocks, primes, N], about 4.3 bytes per packed value of three limbs, whatever the size of the
cohort.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.errors import EncodingError, MalformedError
from secagg.packing import block_words, pack_block, unpack30
from secagg.parameters import SealedParameters
from secagg.ring import below
from secagg.threads import in_ranges

U32 = NDArray[np.uint32]
Packed = bytes | bytearray | memoryview | NDArray[np.uint8]


@kernel
def _add_checked(words: U32, primes: U32, scratch: U32, total: U32) -> np.int64:
    """total [primes, N] += the block in `words`; returns the count of bad residues, and adds nothing if any."""
    bad = np.int64(0)
    share = len(words) // len(primes)
    for j in range(len(primes)):
        prime = primes[j]
        row = scratch[j]
        unpack30(words[j * share : (j + 1) * share], row)
        for i in range(len(row)):
            bad += np.int64(row[i] >= prime)
    if bad == 0:
        for j in range(len(primes)):
            prime = primes[j]
            row = scratch[j]
            target = total[j]
            for i in range(len(row)):
                target[i] = below(np.uint32(target[i] + row[i]), prime)
    return bad


class Accumulator:
    """Sum of up to `n_max` ciphertexts. A refused block is not added; a half-added ciphertext poisons the
    sum.

    Args:
        parameters: the parameter set every ciphertext was made with.
    """

    __slots__ = ("_added", "_poisoned", "_primes", "_scratch", "_totals", "parameters")

    def __init__(self, parameters: SealedParameters) -> None:
        self.parameters = parameters
        shape = (len(parameters.primes), parameters.degree)
        self._totals = np.zeros((parameters.blocks, *shape), dtype=np.uint32)
        self._scratch = np.empty(shape, dtype=np.uint32)
        self._primes = np.array(parameters.primes, dtype=np.uint32)
        self._added = np.zeros(parameters.blocks, dtype=np.int64)
        self._poisoned = False

    @property
    def count(self) -> int:
        """Ciphertexts in the sum.

        Raises:
            MalformedError: blocks hold different numbers of ciphertexts.
        """
        self._check()
        return int(self._added[0])

    def add_block(self, block: int, packed: Packed) -> None:
        """Add one packed block of one ciphertext.

        Raises:
            MalformedError: no such block, wrong length, or a residue not below its prime. The sum is
                unchanged.
            EncodingError: the block already holds n_max ciphertexts.
        """
        if not 0 <= block < self.parameters.blocks:
            raise MalformedError(f"block {block}; a ciphertext has blocks 0 to {self.parameters.blocks - 1}")
        self._add_block(block, packed, self._scratch)

    def _add_block(self, block: int, packed: Packed, scratch: U32) -> None:
        if self._added[block] >= self.parameters.n_max:
            raise EncodingError(f"block {block} holds {self.parameters.n_max} ciphertexts; one more could wrap the sum")
        bad = _add_checked(block_words(self.parameters, packed), self._primes, scratch, self._totals[block])
        if bad:
            raise MalformedError(f"block {block}: {bad} residues are not below their prime; nothing was added")
        self._added[block] += 1

    def add(self, ciphertext: Iterable[Packed]) -> None:
        """Add one whole ciphertext, given as its blocks in order.

        Raises:
            MalformedError: too few or too many blocks, or a malformed one. If blocks had already been added,
                this accumulator refuses all further use: start again without that ciphertext.
            EncodingError: the sum already holds n_max ciphertexts.
        """
        added = 0
        complete = False
        try:
            for packed in ciphertext:
                self.add_block(added, packed)
                added += 1
            complete = added == self.parameters.blocks
        finally:
            self._poisoned |= added > 0 and not complete
        if not complete:
            raise MalformedError(f"a ciphertext of {added} blocks; these parameters make {self.parameters.blocks}")

    def add_range(self, first: int, rows: NDArray[np.uint8]) -> None:
        """Add consecutive blocks of one ciphertext, uint8[n, block_bytes], the first of them number `first`.

        Threads may do so at the same time for blocks of their own; the sum is whole when all have done it.

        Raises:
            MalformedError: no such blocks, or a malformed one.
            EncodingError: a block already holds n_max ciphertexts.
        """
        if not 0 <= first <= first + len(rows) <= self.parameters.blocks:
            raise MalformedError(f"blocks {first} to {first + len(rows) - 1} of {self.parameters.blocks}")
        scratch = np.empty_like(self._scratch)
        for block, packed in enumerate(rows, start=first):
            self._add_block(block, packed, scratch)

    def add_rows(self, ciphertext: NDArray[np.uint8], threads: int = 1) -> None:
        """Add one whole ciphertext uint8[blocks, block_bytes], on so many threads.

        Raises:
            MalformedError: another shape, or a malformed block. This accumulator then refuses all further use.
            EncodingError: the sum already holds n_max ciphertexts.
        """
        shape = (self.parameters.blocks, self.parameters.block_bytes)
        if ciphertext.dtype != np.uint8 or ciphertext.shape != shape:
            raise MalformedError(f"a ciphertext {list(ciphertext.shape)}; these parameters make {list(shape)}")

        before = int(self._added.max())
        try:
            in_ranges(
                self.parameters.blocks, threads, lambda start, stop: self.add_range(start, ciphertext[start:stop])
            )
        finally:
            self._poisoned |= int(self._added.max()) != before and int(self._added.min()) != before + 1

    def residues(self, block: int) -> U32:
        """The sum of block number `block`: a read-only view uint32[primes, N].

        Raises:
            MalformedError: blocks hold different numbers of ciphertexts.
        """
        self._check()
        view: U32 = self._totals[block]
        view.setflags(write=False)
        return view

    def packed_block(self, block: int) -> bytes:
        """The sum of block number `block`, packed like a ciphertext block.

        Raises:
            MalformedError: blocks hold different numbers of ciphertexts.
        """
        return pack_block(self.parameters, self.residues(block))

    def blocks(self) -> Iterator[bytes]:
        """All packed blocks of the sum, in order.

        Raises:
            MalformedError: blocks hold different numbers of ciphertexts.
        """
        return (self.packed_block(block) for block in range(self.parameters.blocks))

    def _check(self) -> None:
        if self._poisoned or int(self._added.min()) != int(self._added.max()):
            raise MalformedError("the sum holds part of a ciphertext; start again without the one that was refused")
