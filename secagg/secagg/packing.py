"""Residues as bytes: 30 bits each on the wire, 31 bits in a key share (protocol.md §5, §6).

Packing is little-endian by bit: residue i occupies bits 30i..30i+29 of the bit string whose bit n is bit n%8
of byte n//8. Sixteen residues of 30 bits fill fifteen 32-bit words exactly, so a group needs only shifts. A
block is the residues of the first prime, then of the second, then of the third.
"""

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.errors import MalformedError
from secagg.parameters import SealedParameters

U32 = NDArray[np.uint32]

GROUP = 16
GROUP_WORDS = 15
MASK = np.uint32((1 << 30) - 1)

_LOW = np.array([2 * i for i in range(15)] + [0], dtype=np.uint32)
_HIGH = np.array([30 - 2 * i for i in range(15)] + [0], dtype=np.uint32)
_BACK = np.array([0] + [32 - 2 * i for i in range(1, 16)], dtype=np.uint32)
_BACK_MASK = np.array([0] + [(1 << (2 * i)) - 1 for i in range(1, 16)], dtype=np.uint32)
_AHEAD_MASK = np.array([0xFFFFFFFF] * 15 + [0], dtype=np.uint32)


@kernel
def pack30(residues: U32, words: U32) -> None:
    """Residues [16*g] below 2^30 into words [15*g]."""
    for group in range(len(residues) // GROUP):
        source = group * GROUP
        target = group * GROUP_WORDS
        for i in range(GROUP_WORDS):
            low = np.uint32(residues[source + i] >> _LOW[i])
            high = np.uint32(residues[source + i + 1] << _HIGH[i])
            words[target + i] = np.uint32(low | high)


@kernel
def unpack30(words: U32, residues: U32) -> None:
    """Words [15*g] into residues [16*g] below 2^30."""
    groups = len(residues) // GROUP
    for group in range(groups):
        source = group * GROUP_WORDS
        target = group * GROUP
        residues[target] = np.uint32(words[source] & MASK)
        for i in range(1, GROUP_WORDS):
            low = np.uint32((words[source + i - 1] >> _BACK[i]) & _BACK_MASK[i])
            high = np.uint32(words[source + i] << _LOW[i])
            residues[target + i] = np.uint32((low | high) & MASK)
        residues[target + GROUP_WORDS] = np.uint32(words[source + GROUP_WORDS - 1] >> np.uint32(2))


@kernel
def pack_bits(values: U32, width: np.int64, out: NDArray[np.uint8]) -> None:
    """Values of `width` bits into bytes; the total number of bits is a multiple of 8."""
    buffer = np.uint64(0)
    held = np.int64(0)
    position = 0
    for i in range(len(values)):
        buffer |= np.uint64(values[i]) << np.uint64(held)
        held += width
        while held >= 8:
            out[position] = np.uint8(buffer & np.uint64(255))
            position += 1
            buffer >>= np.uint64(8)
            held -= 8


@kernel
def unpack_bits(data: NDArray[np.uint8], width: np.int64, out: U32) -> None:
    """Bytes into values of `width` bits, as many as `out` holds."""
    mask = np.uint64((1 << width) - 1)
    buffer = np.uint64(0)
    held = np.int64(0)
    position = 0
    for i in range(len(out)):
        while held < width:
            buffer |= np.uint64(data[position]) << np.uint64(held)
            position += 1
            held += 8
        out[i] = np.uint32(buffer & mask)
        buffer >>= np.uint64(width)
        held -= width


def block_words(parameters: SealedParameters, packed: bytes | bytearray | memoryview | NDArray[np.uint8]) -> U32:
    """The bytes of one block as 32-bit words, copied only when they are not aligned.

    Raises:
        MalformedError: another number of bytes than `block_bytes`.
    """
    data = np.frombuffer(packed, dtype=np.uint8)
    if len(data) != parameters.block_bytes:
        raise MalformedError(f"a block has {len(data)} bytes; these parameters make blocks of {parameters.block_bytes}")
    if data.ctypes.data % 4:
        data = data.copy()
    return data.view(np.uint32)


@kernel
def _unpack_checked(words: U32, primes: U32, out: U32) -> np.int64:
    """Unpack a block into out [primes, N]; returns the number of residues that are not below their prime."""
    bad = np.int64(0)
    share = len(words) // len(primes)
    for j in range(len(primes)):
        row = out[j]
        unpack30(words[j * share : (j + 1) * share], row)
        prime = primes[j]
        for i in range(len(row)):
            bad += np.int64(row[i] >= prime)
    return bad


@kernel
def bad_residues(blocks: U32, primes: U32, row: U32) -> np.int64:
    """How many residues of packed `blocks` [n, words] are not below their prime; `row` [N] is overwritten."""
    bad = np.int64(0)
    share = blocks.shape[1] // len(primes)
    for block in range(blocks.shape[0]):
        for j in range(len(primes)):
            unpack30(blocks[block, j * share : (j + 1) * share], row)
            largest = np.uint32(0)
            for i in range(len(row)):
                largest = max(largest, row[i])
            if largest >= primes[j]:
                for i in range(len(row)):
                    bad += np.int64(row[i] >= primes[j])
    return bad


def unpack_block(
    parameters: SealedParameters, packed: bytes | bytearray | memoryview | NDArray[np.uint8], out: U32 | None = None
) -> U32:
    """The residues of one packed block, uint32[primes, N], each checked to lie below its prime.

    Raises:
        MalformedError: wrong length, or a residue that is not below its prime.
    """
    words = block_words(parameters, packed)
    residues = np.empty((len(parameters.primes), parameters.degree), dtype=np.uint32) if out is None else out
    bad = _unpack_checked(words, np.array(parameters.primes, dtype=np.uint32), residues)
    if bad:
        raise MalformedError(f"{bad} residues of a block are not below their prime; the sender is broken or lying")
    return residues


def pack_block(parameters: SealedParameters, residues: U32) -> bytes:
    """Pack residues uint32[primes, N], each below its prime, into `block_bytes` bytes."""
    words = np.empty(parameters.block_bytes // 4, dtype=np.uint32)
    pack30(np.ascontiguousarray(residues).reshape(-1), words)
    return words.tobytes()
