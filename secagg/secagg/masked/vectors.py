"""Masked vectors: encoded, masked and packed in one pass, and added up again (protocol.md §12.1.4, §12.5, §12.7.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.codec import ROUNDING_PURPOSE, Quantiser
from secagg.errors import EncodingError, MalformedError, OpeningError, SizeLimitError
from secagg.masked.masks import CHUNK, Mask, MaskAdder, add_masks, counter_block
from secagg.masked.parameters import GUARDS
from secagg.merkle import root
from secagg.randomness import SEED_BYTES, Randomness, fresh_keystream
from secagg.threads import in_ranges

LEAF_VALUES = 65_536
"""Packed values under one leaf of an upload's Merkle tree."""

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Shape:
    """A masked vector in numbers: `length` values L and GUARDS more, `width` W bits each."""

    length: int
    width: int

    @property
    def values(self) -> int:
        """Values that travel: L and the guards."""
        return self.length + GUARDS

    @property
    def packed_bytes(self) -> int:
        """Bytes of a packed vector."""
        return -(-self.values * self.width // 8)


def vector_root(shape: Shape, packed: U8) -> str:
    """Merkle root over leaves of 65,536 packed values, hex (protocol.md §12.5.4)."""
    step = LEAF_VALUES * shape.width // 8
    return root(packed[start : start + step].data for start in range(0, len(packed), step)).hex()


def mask_update(
    shape: Shape,
    quantiser: Quantiser,
    update: NDArray[np.float32],
    masks: Sequence[Mask],
    random: Randomness,
    *,
    weight: float = 1.0,
    threads: int = 1,
) -> U8:
    """Encode `update` float32 [L], append the guards, add the masks, pack: uint8 [packed_bytes].

    Memory beside the result: 768 KiB a thread. The encoded vector is never there as a whole.
    Raises EncodingError: wrong shape or dtype, a value that is not finite, a weight outside (0, 1].
    """
    if quantiser.length != shape.length:
        raise EncodingError(f"the quantiser makes {quantiser.length} values; the session carries {shape.length}")
    quantiser.check_update(update, weight)
    packed = np.zeros(-(-shape.packed_bytes // 4), dtype=np.uint32)
    seed = random(SEED_BYTES)

    def work(start: int, stop: int) -> None:
        rounding = fresh_keystream(ROUNDING_PURPOSE, lambda _: seed)
        rounding.restart(counter_block(start))
        adder = MaskAdder(masks, start)
        values, words = np.empty(CHUNK, dtype=np.uint32), np.empty(CHUNK, dtype=np.uint32)
        for low in range(start, stop, CHUNK):
            high = min(low + CHUNK, stop)
            piece = values[: high - low]
            encoded = max(0, min(high, shape.length) - low)
            rounding.fill(words[:encoded].view(np.uint8))
            quantiser.encode_range(update, weight, low, low + encoded, words[:encoded], piece[:encoded])
            piece[encoded:] = 1
            adder.add(piece)
            _pack(piece, np.int64(shape.width), packed[low * shape.width // 32 :])
        for secret in (values, words):
            secret.fill(0)
        adder.wipe()

    in_ranges(shape.values, threads, work, CHUNK)
    return packed.view(np.uint8)[: shape.packed_bytes]


def mask_encoded(shape: Shape, encoded: U32, masks: Sequence[Mask], *, threads: int = 1) -> U8:
    """The same of a vector that is encoded already, uint32 [L]: guards, masks, packed uint8 [packed_bytes].

    For vectors with client-level noise, whose length is checked before any of it is masked (protocol.md §14.3). Takes
    four bytes a value beside the result. Raises EncodingError: another length than the session's.
    """
    if encoded.shape != (shape.length,):
        raise EncodingError(f"the vector has {len(encoded)} values; the session carries {shape.length}")
    values = np.ones(shape.values, dtype=np.uint32)
    values[: shape.length] = encoded
    add_masks(values, masks, threads)
    packed = np.zeros(-(-shape.packed_bytes // 4), dtype=np.uint32)
    _pack(values, np.int64(shape.width), packed)
    return packed.view(np.uint8)[: shape.packed_bytes]


def check_packed(shape: Shape, packed: U8) -> None:
    """Raise SizeLimitError for another length than the session's, MalformedError for bits after the last value."""
    if packed.dtype != np.uint8 or packed.shape != (shape.packed_bytes,):
        raise SizeLimitError(f"a masked vector has {packed.size} bytes; this session's have {shape.packed_bytes}")
    spare = 8 * shape.packed_bytes - shape.values * shape.width
    if spare and int(packed[-1]) >> (8 - spare):
        raise MalformedError("a masked vector has bits after its last value")


class MaskedTotal:
    """The running sum of masked vectors: uint32 [L + guards], whatever the size of the cohort."""

    __slots__ = ("_values", "count", "shape")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.count = 0
        self._values = np.zeros(shape.values, dtype=np.uint32)

    def add(self, packed: U8, threads: int = 1) -> None:
        """Add one packed vector. Raises SizeLimitError or MalformedError, and then nothing was added."""
        check_packed(self.shape, packed)

        width = self.shape.width

        def work(start: int, stop: int) -> None:
            words = np.zeros(CHUNK * width // 32 + 1, dtype=np.uint32)  # aligned, and a word to spare
            for low in range(start, stop, CHUNK):
                high = min(low + CHUNK, stop)
                piece = packed[low * width // 8 : -(-high * width // 8)]
                words.view(np.uint8)[: len(piece)] = piece
                _add_packed(words, np.int64(width), self._values[low:high])

        in_ranges(self.shape.values, threads, work, CHUNK)
        self.count += 1

    @property
    def values(self) -> U32:
        """The sum so far, uint32 [L + guards], modulo 2^W."""
        return self._values & np.uint32((1 << self.shape.width) - 1)

    def take(self, values: U32, count: int) -> None:
        """Go on from the sum of `count` vectors, as a release holds it. Raises MalformedError."""
        if values.shape != (self.shape.values,) or int(values.max()) >> self.shape.width:
            raise MalformedError("the masked sum has values that are wider than the session's")
        self._values, self.count = values.astype(np.uint32), count

    def opened(self, masks: Sequence[Mask], quantiser: Quantiser, threads: int = 1) -> U32:
        """The sums uint32 [L], after `masks` (with their signs turned by the caller) are added to a copy.

        Raises OpeningError when a guard or a sum shows that masks are left (protocol.md §12.7.3).
        """
        values = self._values.copy()
        add_masks(values, masks, threads)
        values &= np.uint32((1 << self.shape.width) - 1)
        sums, guards = values[: self.shape.length], values[self.shape.length :]
        if (guards != self.count).any() or int(sums.max()) > self.count * quantiser.levels:
            raise OpeningError(
                "masks are left in the sum: a client masked with others than it was told, or was left half out. "
                "The session is burnt; start a new one"
            )
        return sums


@kernel
def _pack(values: U32, width: np.int64, out: U32) -> None:
    """The low `width` bits of each value, little-endian by bit, into words; the last one is filled with zeros."""
    mask = np.uint64((1 << width) - 1)
    step = np.uint64(width)
    word = np.uint64(32)
    buffer, held, position = np.uint64(0), np.uint64(0), 0
    for i in range(len(values)):
        buffer |= (np.uint64(values[i]) & mask) << held
        held += step
        if held >= word:
            out[position] = np.uint32(buffer)
            position += 1
            buffer >>= word
            held -= word
    if held > np.uint64(0):
        out[position] = np.uint32(buffer)


@kernel
def _add_packed(words: U32, width: np.int64, total: U32) -> None:
    """total += the packed values, as many as `total` has, modulo 2^32. `words` has a word more than they fill."""
    mask = np.uint64((1 << width) - 1)
    step = np.uint64(width)
    for i in range(len(total)):
        bit = np.uint64(i) * step
        position = np.int64(bit >> np.uint64(5))
        two = np.uint64(words[position]) | (np.uint64(words[position + 1]) << np.uint64(32))
        total[i] += np.uint32((two >> (bit & np.uint64(31))) & mask)
