"""Masks added to a vector in place, chunk by chunk, on one or many threads (protocol.md §12.5.2).

A mask is AES-256 in counter mode, read as u32: value i is word i, so any piece of it can be made by itself. For each
chunk of the vector all masks are made and added while the chunk is in cache; a thread needs one chunk of keystream,
whatever the length and the number of masks. Sums are modulo 2^32, of which the low W bits are sent.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.masked.sharing import Secret
from secagg.threads import in_ranges

CHUNK = 65_536
"""Values handled at a time: 256 KiB each of zeros, keystream and vector, which a core's cache holds.

One call of the cipher makes them: many small ones would keep threads waiting for the interpreter.
"""
WORDS_PER_BLOCK = 4
NONCE_BYTES = 16
_ZEROS = memoryview(bytes(4 * CHUNK))

U32 = NDArray[np.uint32]


class Mask(NamedTuple):
    """One mask: the 32-byte AES key it is expanded from, and whether it is subtracted. Not for printing."""

    key: Secret
    negative: bool

    @classmethod
    def expand(cls, kind: Literal["self", "pair"], seed: Secret, *, negative: bool) -> "Mask":
        """The mask of a seed: `stream("secagg/v1/masked/mask-" || kind, seed)` of protocol.md §1.6."""
        tag = b"secagg/v1/masked/mask-" + kind.encode("ascii")
        return cls(Secret(hashlib.sha256(tag + seed.value).digest()), negative)


def counter_block(word: int) -> bytes:
    """The counter block from which word number `word`, a multiple of 4, is made."""
    return (word // WORDS_PER_BLOCK).to_bytes(NONCE_BYTES, "big")


class MaskAdder:
    """Adds masks to consecutive pieces of a vector, from value `start` (a multiple of 4). For one thread."""

    __slots__ = ("_streams", "_words")

    def __init__(self, masks: Sequence[Mask], start: int) -> None:
        counter = modes.CTR(counter_block(start))
        self._streams = [
            (Cipher(algorithms.AES256(mask.key.value), counter).encryptor(), mask.negative) for mask in masks
        ]
        self._words = np.empty(CHUNK, dtype=np.uint32)

    def add(self, values: U32) -> None:
        """Add every mask's next words to `values`, uint32 of at most CHUNK; a multiple of 4 but for the last piece."""
        words = self._words[: len(values)]
        for stream, negative in self._streams:
            stream.update_into(_ZEROS[: words.nbytes], words.data.cast("B"))
            if negative:
                _subtract(values, words)
            else:
                _add(values, words)

    def wipe(self) -> None:
        """Clear the last words of keystream."""
        self._words.fill(0)


def add_masks(values: U32, masks: Sequence[Mask], threads: int = 1) -> None:
    """Add all masks to the whole vector `values`, uint32 [length], in place, modulo 2^32."""

    def work(start: int, stop: int) -> None:
        adder = MaskAdder(masks, start)
        for low in range(start, stop, CHUNK):
            adder.add(values[low : min(low + CHUNK, stop)])
        adder.wipe()

    in_ranges(len(values), threads, work, CHUNK)


@kernel
def _add(values: U32, words: U32) -> None:
    for i in range(len(values)):
        values[i] += words[i]


@kernel
def _subtract(values: U32, words: U32) -> None:
    for i in range(len(values)):
        values[i] -= words[i]
