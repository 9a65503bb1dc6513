"""The public polynomials A_k, expanded from the session context (protocol.md §5).

A_k is defined in the transform domain. For block k and prime number j (0, 1, 2): the AES-256-CTR keystream
under key SHA-256("secagg/v1/expand-A" || ctx), initial counter block k (4 bytes, big-endian) || j (4 bytes,
big-endian) || 8 zero bytes, read as little-endian 32-bit words; of each word the low 30 bits; those not below
the prime are skipped; the first 4096 that remain are A_k mod p_j in the order of `ring`.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from secagg import ring
from secagg._numba import kernel
from secagg.errors import ParameterError
from secagg.parameters import SealedParameters
from secagg.randomness import Keystream

PURPOSE = b"secagg/v1/expand-A"
CONTEXT_BYTES = 32
SPARE_WORDS = 64
WORDS = ring.DEGREE + SPARE_WORDS
_CHUNK = 64


@kernel
def accept(words: NDArray[np.uint32], prime: np.uint32, out: NDArray[np.uint32], have: np.int64) -> np.int64:
    """Append the acceptable words to `out` from position `have` until it is full; returns the new position."""
    mask = np.uint32((1 << 30) - 1)
    position = 0
    while position + _CHUNK <= len(words) and have + _CHUNK <= len(out):
        largest = np.uint32(0)
        for i in range(_CHUNK):
            value = np.uint32(words[position + i] & mask)
            out[have + i] = value
            largest = max(largest, value)
        if largest < prime:
            have += _CHUNK
        else:
            for i in range(_CHUNK):
                value = np.uint32(words[position + i] & mask)
                if value < prime:
                    out[have] = value
                    have += 1
        position += _CHUNK
    while position < len(words) and have < len(out):
        value = np.uint32(words[position] & mask)
        if value < prime:
            out[have] = value
            have += 1
        position += 1
    return have


class Expander:
    """Makes A_k for one session. Public: holds no secret.

    Args:
        parameters: the parameter set.
        ctx: hash of the session descriptor, 32 bytes.

    Raises:
        ParameterError: ctx is not 32 bytes.
    """

    __slots__ = ("_primes", "_stream", "_words")

    def __init__(self, parameters: SealedParameters, ctx: bytes) -> None:
        if len(ctx) != CONTEXT_BYTES:
            raise ParameterError(f"ctx has {len(ctx)} bytes; it is the {CONTEXT_BYTES}-byte hash of the descriptor")
        self._stream = Keystream(hashlib.sha256(PURPOSE + ctx).digest())
        self._primes = [np.uint32(prime) for prime in parameters.primes]
        self._words = np.empty(WORDS, dtype=np.uint32)

    def fill(self, block: int, out: NDArray[np.uint32]) -> None:
        """Write A_block, transform order, into `out` uint32[primes, N]."""
        for j, prime in enumerate(self._primes):
            self._stream.restart(block.to_bytes(4, "big") + j.to_bytes(4, "big") + bytes(8))
            have = 0
            while have < out.shape[1]:
                self._stream.fill(self._words.view(np.uint8))
                have = int(accept(self._words, prime, out[j], np.int64(have)))


def expand_block(parameters: SealedParameters, ctx: bytes, block: int) -> NDArray[np.uint32]:
    """A_block in transform order, uint32[primes, N].

    Raises:
        ParameterError: ctx is not 32 bytes, or there is no such block.
    """
    if not 0 <= block < parameters.blocks:
        raise ParameterError(f"block {block} of {parameters.blocks}")
    out = np.empty((len(parameters.primes), parameters.degree), dtype=np.uint32)
    Expander(parameters, ctx).fill(block, out)
    return out
