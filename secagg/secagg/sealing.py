"""One upload: seal a vector under a fresh short key (protocol.md §5).

Block k of values v: limb l of coefficient j is v[k*limbs*N + l*N + j] and m_k[j] = sum_l limb_l*base^l. Then
c_k = A_k*s + T*e_k + m_k in Z_q[x]/(x^N + 1), coefficients mod each prime, packed by `packing`.
s has sigma 4.5, e_k has sigma 4.5*sqrt(2), both from `gaussian`; e_k takes consecutive pieces of one
keystream. The key is fresh for every call: two vectors under one key would leak their difference.
Seeds are drawn in this order: rounding (`seal_update` only), key, error. No secret indexes a table or decides a branch.
Given the key, blocks are independent, and each begins at a whole counter block of both keystreams: threads seal ranges
of blocks, and the bytes are the same however many there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from secagg import gaussian, ring
from secagg._numba import kernel
from secagg.codec import ROUNDING_PURPOSE, Quantiser
from secagg.errors import EncodingError
from secagg.expansion import Expander
from secagg.packing import pack30
from secagg.parameters import SealedParameters
from secagg.randomness import Keystream, Randomness, fresh_keystream
from secagg.randomness import fresh_key as keystream_key
from secagg.ring import below, inverse, montgomery
from secagg.threads import in_ranges

KEY_PURPOSE = "secagg/v1/key"
ERROR_PURPOSE = "secagg/v1/error"

U32 = NDArray[np.uint32]


@dataclass(slots=True, eq=False, repr=False)
class ShortKey:
    """The secret polynomial s of one upload, int32[4096]. Share it, then `wipe` it. Never printed, never stored."""

    coefficients: NDArray[np.int32]

    def __repr__(self) -> str:
        return "ShortKey(redacted)"

    def wipe(self) -> None:
        """Overwrite the coefficients with zeros."""
        self.coefficients.fill(0)


Load = Callable[[int, int, "_Workspace"], int]
"""Puts values start..stop into the workspace and counts the clipped ones."""


class Sealed(NamedTuple):
    """A ciphertext uint8[blocks, block_bytes], its key, and how many inputs lay beyond their clip."""

    ciphertext: NDArray[np.uint8]
    key: ShortKey
    clipped: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Workspace:
    """Buffers of one seal, reused for every block; `wipe` clears those that held secrets."""

    values: U32
    words: U32
    noise: NDArray[np.uint8]
    errors: NDArray[np.int32]
    polynomial: U32
    scratch: U32
    sums: NDArray[np.uint64]

    @classmethod
    def make(cls, parameters: SealedParameters) -> Self:
        n = parameters.degree
        return cls(
            np.zeros(parameters.block_values, dtype=np.uint32),
            np.empty(parameters.block_values, dtype=np.uint32),
            np.empty(gaussian.stream_bytes(n), dtype=np.uint8),
            np.empty(n, dtype=np.int32),
            np.empty((len(parameters.primes), n), dtype=np.uint32),
            np.empty(n, dtype=np.uint32),
            np.empty(n, dtype=np.uint64),
        )

    def __repr__(self) -> str:
        return "_Workspace(redacted)"

    def wipe(self) -> None:
        for array in (self.values, self.words, self.noise, self.errors, self.polynomial, self.scratch, self.sums):
            array.fill(0)


@kernel
def add_message(
    polynomial: U32,
    sums: NDArray[np.uint64],
    errors: NDArray[np.int32],
    values: U32,
    factors: U32,
    prime: np.uint32,
    negated_inverse: np.uint32,
) -> None:
    """polynomial += T*e + m mod prime, from [0, 2p) into [0, p).

    `factors` [limbs + 1]: T, then base^l, all times 2^32 mod p; the sums stay below 2^32*p, as `montgomery`
    asks, since |e| counts as a residue below 2^30 and limbs*2^bits is below 2^30.
    """
    twice = np.uint32(prime + prime)
    error_factor = np.uint64(factors[0])
    for j in range(len(sums)):
        residue = np.uint32(errors[j] + (np.int32(prime) & (errors[j] >> np.int32(31))))
        sums[j] = np.uint64(residue) * error_factor
    for limb in range(len(factors) - 1):
        limb_factor = np.uint64(factors[limb + 1])
        row = values[limb * len(sums) : (limb + 1) * len(sums)]
        for j in range(len(sums)):
            sums[j] += np.uint64(row[j]) * limb_factor
    for j in range(len(sums)):
        message = montgomery(sums[j], prime, negated_inverse)
        polynomial[j] = below(below(np.uint32(polynomial[j] + message), twice), prime)


@kernel
def multiply_key(
    polynomial: U32, key: U32, scratch: U32, columns: U32, rows: U32, prime: np.uint32, negated_inverse: np.uint32
) -> None:
    """Turn A in transform order into A*s in natural order, in [0, 2p); `key` from `ring.key_transform`."""
    for j in range(len(polynomial)):
        polynomial[j] = montgomery(np.uint64(polynomial[j]) * np.uint64(key[j]), prime, negated_inverse)
    inverse(polynomial, scratch, columns, rows, prime)


@kernel
def _seal_block(
    work: tuple[U32, U32, NDArray[np.uint64], NDArray[np.int32], U32],
    key: U32,
    factors: U32,
    ring_tables: tuple[U32, U32, U32, U32],
    packed: U32,
) -> None:
    """Seal one block: work = (A then ciphertext, scratch, sums, errors, values), into `packed` words."""
    polynomial, scratch, sums, errors, values = work
    primes, negated_inverses, columns, rows = ring_tables
    share = len(packed) // len(primes)
    for j in range(len(primes)):
        row = polynomial[j]
        multiply_key(row, key[j], scratch, columns[j], rows[j], primes[j], negated_inverses[j])
        add_message(row, sums, errors, values, factors[j], primes[j], negated_inverses[j])
        pack30(row, packed[j * share : (j + 1) * share])


def message_factors(parameters: SealedParameters) -> U32:
    """uint32[primes, limbs + 1]: T and then base^l for each limb l, times 2^32 mod each prime."""
    weights = [parameters.plaintext_modulus, *(parameters.base**limb for limb in range(parameters.limbs))]
    return np.array([[(weight << 32) % prime for weight in weights] for prime in parameters.primes], dtype=np.uint32)


def fresh_key(random: Randomness) -> ShortKey:
    """A new short key from fresh randomness."""
    count = ring.DEGREE
    stream = fresh_keystream(KEY_PURPOSE, random).read(gaussian.stream_bytes(count))
    key = ShortKey(gaussian.sample(gaussian.gaussian(gaussian.SECRET_VARIANCE), stream, count))
    stream.fill(0)
    return key


def seal(parameters: SealedParameters, ctx: bytes, values: U32, random: Randomness, *, threads: int = 1) -> Sealed:
    """Seal an encoded vector `values` uint32[L] under a fresh key, on so many threads.

    Raises:
        EncodingError: wrong dtype or length, or a value of more than `bits` bits.
        ParameterError: ctx is not 32 bytes.
    """
    if values.dtype != np.uint32 or values.shape != (parameters.length,):
        raise EncodingError(f"the vector is {values.dtype}{list(values.shape)}, not uint32[{parameters.length}]")
    largest = int(values.max())
    if largest >> parameters.bits:
        raise EncodingError(f"a value is {largest}; these parameters carry values below 2^{parameters.bits}")

    def loader() -> Load:
        def load(start: int, stop: int, work: _Workspace) -> int:
            work.values[: stop - start] = values[start:stop]
            return 0

        return load

    return _seal(parameters, ctx, loader, random, threads)


def seal_update(
    parameters: SealedParameters,
    quantiser: Quantiser,
    ctx: bytes,
    update: NDArray[np.float32],
    random: Randomness,
    weight: float = 1.0,
    *,
    threads: int = 1,
) -> Sealed:
    """Encode and seal `update` float32[L] in one pass, without the whole encoded vector in memory, on so many threads.

    Raises:
        EncodingError: the update or the quantiser does not fit the parameters, or a value is not finite.
        ParameterError: ctx is not 32 bytes.
    """
    quantiser.check(parameters)
    quantiser.check_update(update, weight)
    key = keystream_key(ROUNDING_PURPOSE, random)

    def loader() -> Load:
        rounding = Keystream(key)

        def load(start: int, stop: int, work: _Workspace) -> int:
            words = work.words[: stop - start]
            rounding.seek(4 * start)
            rounding.fill(words.view(np.uint8))
            return quantiser.encode_range(update, weight, start, stop, words, work.values)

        return load

    return _seal(parameters, ctx, loader, random, threads)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Job:
    """What all threads of one seal share: the key's transform and the key of the error stream are secret."""

    parameters: SealedParameters
    ctx: bytes
    transformed: U32
    noise_key: bytes
    loader: Callable[[], "Load"]
    words: U32
    clipped: NDArray[np.int64]

    def __repr__(self) -> str:
        return "_Job(redacted)"

    def run(self, first: int, stop: int) -> None:
        """Seal blocks first..stop into `words` [blocks, block words]; `clipped` [blocks] counts."""
        work = _Workspace.make(self.parameters)
        try:
            self._run(first, stop, work)
        finally:
            work.wipe()

    def _run(self, first: int, stop: int, work: _Workspace) -> None:
        parameters, load = self.parameters, self.loader()
        expander, noise = Expander(parameters, self.ctx), Keystream(self.noise_key)
        noise.seek(first * len(work.noise))
        distribution, factors = gaussian.gaussian(gaussian.ERROR_VARIANCE), message_factors(parameters)
        shared = ring.tables()
        tables = (shared.primes, shared.negated_inverses, shared.columns, shared.rows)
        kernel_work = (work.polynomial, work.scratch, work.sums, work.errors, work.values)
        for block in range(first, stop):
            start = block * parameters.block_values
            end = min(start + parameters.block_values, parameters.length)
            work.values[end - start :] = 0
            self.clipped[block] = load(start, end, work)
            noise.fill(work.noise)
            gaussian.sample_into(distribution, work.noise, work.scratch, work.errors)
            expander.fill(block, work.polynomial)
            _seal_block(kernel_work, self.transformed, factors, tables, self.words[block])


def _seal(
    parameters: SealedParameters, ctx: bytes, loader: Callable[[], "Load"], random: Randomness, threads: int
) -> Sealed:
    """Seal block by block. Each thread has a `load` of its own from `loader`.

    When a thread fails, the key is wiped with everything that was made from it, and the error is raised.
    """
    Expander(parameters, ctx)  # a wrong ctx is refused before randomness is drawn
    key = fresh_key(random)
    wide = key.coefficients.astype(np.int64)
    transformed = ring.key_transform(wide)
    wide.fill(0)
    try:
        noise_key = keystream_key(ERROR_PURPOSE, random)
        ciphertext = np.empty((parameters.blocks, parameters.block_bytes), dtype=np.uint8)
        clipped = np.zeros(parameters.blocks, dtype=np.int64)
        job = _Job(parameters, ctx, transformed, noise_key, loader, ciphertext.view(np.uint32), clipped)
        in_ranges(parameters.blocks, threads, job.run)
    except BaseException:
        key.wipe()
        raise
    finally:
        transformed.fill(0)
    return Sealed(ciphertext, key, int(clipped.sum()))
