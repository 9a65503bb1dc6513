"""Opening the sum with the sum of the keys (protocol.md §9).

v = sum(c_k) - A_k*sum(s) mod q, centred, is T*sum(e_k) + sum(m_k): sum(e) = floor(v/T), and sum(m) = v mod T
has the summed limbs as its digits in base beta. |sum(e)| is held to the bound that honest uploads reach but
with probability 2^-60, far below what the modulus could carry: a wrong share or ciphertext fails here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg import gaussian, ring
from secagg._numba import kernel
from secagg.accumulate import Accumulator, Packed
from secagg.errors import MalformedError, OpeningError
from secagg.expansion import Expander
from secagg.packing import unpack_block
from secagg.parameters import SealedParameters
from secagg.ring import below, times
from secagg.sealing import multiply_key

U32 = NDArray[np.uint32]
Sums = NDArray[np.uint32] | NDArray[np.uint64]


class Opening(NamedTuple):
    """`sums` [L] of the encoded vectors, uint32 when n_max*(2^bits - 1) fits and else uint64, and max |sum(e)|."""

    sums: Sums
    error_max: int


def open_sum(
    parameters: SealedParameters,
    ctx: bytes,
    total: Accumulator | Iterable[Packed],
    key_sum: NDArray[np.int64],
    contributors: int,
) -> Opening:
    """Open the sum of `contributors` ciphertexts.

    Args:
        parameters: the parameter set of the session.
        ctx: hash of the session descriptor, 32 bytes.
        total: the sum, as an accumulator or as its packed blocks in order.
        key_sum: sum of the contributors' keys, int64[N], from `shamir.reconstruct`.
        contributors: how many ciphertexts were summed, 1 to n_max.

    Raises:
        OpeningError: the key sum or sum(e) is too large for honest uploads, or a summed limb is above
            contributors*(2^bits - 1): a share or a ciphertext is wrong, and the session is burnt.
        MalformedError: too few or too many blocks, or a malformed one.
        ParameterError: contributors is out of range, or ctx is not 32 bytes.
    """
    bound = parameters.error_bound(contributors)
    _check_key_sum(parameters, key_sum, contributors)
    key = ring.key_transform(key_sum)
    expander = Expander(parameters, ctx)
    reader = _Reader(parameters)
    work = np.empty((2, len(parameters.primes), parameters.degree), dtype=np.uint32)
    sums = _empty_sums(parameters)
    error_max, limb_max, block = 0, 0, 0
    for block, residues in enumerate(_residue_blocks(parameters, total), start=1):
        if block > parameters.blocks:
            break
        expander.fill(block - 1, work[0])
        start = (block - 1) * parameters.block_values
        error, limb = reader.read(residues, key, work, sums[start : start + parameters.block_values])
        error_max, limb_max = max(error_max, error), max(limb_max, limb)
        if error_max > bound or limb_max > contributors * ((1 << parameters.bits) - 1):
            raise OpeningError(
                f"block {block - 1} of the sum does not open: max |sum(e)| is {error_max}, honest uploads stay within "
                f"{bound}. A share or a ciphertext is wrong; this session cannot be opened"
            )
    if block != parameters.blocks:
        raise MalformedError(f"the sum does not have the {parameters.blocks} blocks that these parameters make")
    return Opening(sums[: parameters.length], error_max)


def _empty_sums(parameters: SealedParameters) -> Sums:
    padded = parameters.blocks * parameters.block_values
    if parameters.base <= 1 << 32:
        return np.empty(padded, dtype=np.uint32)
    return np.empty(padded, dtype=np.uint64)


def _check_key_sum(parameters: SealedParameters, key_sum: NDArray[np.int64], contributors: int) -> None:
    if key_sum.dtype != np.int64 or key_sum.shape != (parameters.degree,):
        raise OpeningError(f"the key sum is {key_sum.dtype}{list(key_sum.shape)}, not int64[{parameters.degree}]")
    largest = int(np.abs(key_sum).max())
    bound = contributors * gaussian.gaussian(gaussian.SECRET_VARIANCE).largest
    if largest > bound:
        raise OpeningError(f"the key sum reaches {largest}; {contributors} honest keys stay within {bound}")


def _residue_blocks(parameters: SealedParameters, total: Accumulator | Iterable[Packed]) -> Iterable[U32]:
    if isinstance(total, Accumulator):
        return (total.residues(block) for block in range(parameters.blocks))
    return (unpack_block(parameters, packed) for packed in total)


class _Reader:
    """Constants of one parameter set for the reading of centred residues, and the reading itself.

    The mixed-radix digits of v give it twice: in float64 with a relative error below 2^-50, and modulo 2^64
    exactly. v is divided by cut = base^low, at most 2^58 unless one limb is wider, so that the quotient,
    |sum(e)|*base^(limbs - low), fits 62 bits as well; the float quotient is off by little and the exact
    remainder corrects it.
    """

    def __init__(self, parameters: SealedParameters) -> None:
        first, second, third = parameters.primes
        low = max(h for h in range(1, parameters.limbs + 1) if h == 1 or parameters.base**h <= 1 << 58)
        self.limbs = (np.int64(parameters.limbs), np.int64(low), np.int64(parameters.base))
        self.cut = np.int64(parameters.base**low)
        self.modulus = float(parameters.plaintext_modulus)
        inverses = (
            (pow(first, -1, second), second),
            (pow(first, -1, third), third),
            (pow(second, -1, third), third),
        )
        self.inverses = np.array([(x, (x << 32) // p) for x, p in inverses], dtype=np.uint32)
        self.tables = ring.tables()

    def read(self, residues: U32, key: U32, work: U32, out: Sums) -> tuple[int, int]:
        """Open one block into `out` [limbs*N]; returns max |sum(e)| and the largest summed limb."""
        t = self.tables
        _subtract_product(residues, key, work, (t.primes, t.negated_inverses, t.columns, t.rows))
        limbs, low, base = self.limbs
        error, largest = _read_digits(work[0], self.inverses, t.primes, limbs, low, base, self.cut, self.modulus, out)
        return int(min(error, 2.0**80)), int(largest)


@kernel
def _subtract_product(residues: U32, key: U32, work: U32, ring_tables: tuple[U32, U32, U32, U32]) -> None:
    """work[0] holds A; becomes residues - A*key mod each prime."""
    primes, negated_inverses, columns, rows = ring_tables
    for j in range(len(primes)):
        prime = primes[j]
        twice = np.uint32(prime + prime)
        row = work[0, j]
        multiply_key(row, key[j], work[1, j], columns[j], rows[j], prime, negated_inverses[j])
        source = residues[j]
        for i in range(len(row)):
            row[i] = below(below(np.uint32(source[i] + twice - row[i]), twice), prime)


@kernel
def _divide(value: np.int64, divisor: np.int64, inverse: float) -> tuple[np.int64, np.int64]:
    """Floor quotient and remainder, through a float quotient and two exact corrections."""
    quotient = np.int64(np.floor(np.float64(value) * inverse))
    rest = np.int64(value - quotient * divisor)
    step = np.int64(np.floor(np.float64(rest) * inverse))
    quotient += step
    rest -= step * divisor
    short = np.int64(rest < 0)
    quotient -= short
    rest += short * divisor
    over = np.int64(rest >= divisor)
    quotient += over
    rest -= over * divisor
    return quotient, rest


@kernel
def _read_digits(
    values: U32,
    inverses: U32,
    primes: U32,
    limbs: np.int64,
    low: np.int64,
    base: np.int64,
    cut: np.int64,
    modulus: float,
    out: Sums,
) -> tuple[float, np.int64]:
    p0, p1, p2 = primes[0], primes[1], primes[2]
    half = np.int64(p2 // np.uint32(2))
    count = values.shape[1]
    inverse_base = 1.0 / np.float64(base)
    inverse_cut = 1.0 / np.float64(cut)
    error_max = np.float64(0.0)
    limb_max = np.int64(0)
    for j in range(count):
        r0 = values[0, j]
        # Garner: v = r0 + p0*(d1 + p1*d2)
        d1 = times(np.uint32(values[1, j] + p1 - below(r0, p1)), inverses[0, 0], inverses[0, 1], p1)
        d1 = below(d1, p1)
        d2 = times(np.uint32(values[2, j] + p2 - below(r0, p2)), inverses[1, 0], inverses[1, 1], p2)
        d2 = times(np.uint32(d2 + p2 - below(d1, p2)), inverses[2, 0], inverses[2, 1], p2)
        top = np.int64(below(d2, p2))
        top -= np.int64(p2) & -np.int64(top > half)
        upper = np.int64(d1) + np.int64(p1) * top
        exact = np.int64(r0) + np.int64(p0) * upper
        real = np.float64(r0) + np.float64(p0) * np.float64(upper)
        rough = abs(np.floor(real / modulus))
        quotient = np.int64(min(max(np.floor(real / cut), -4.0e18), 4.0e18))
        step, rest = _divide(np.int64(exact - quotient * cut), cut, inverse_cut)
        quotient += step
        for limb in range(low):
            if limb + 1 < low:
                rest, digit = _divide(rest, base, inverse_base)
            else:
                digit = rest
            limb_max = max(limb_max, digit)
            out[limb * count + j] = digit
        for limb in range(low, limbs):
            quotient, digit = _divide(quotient, base, inverse_base)
            limb_max = max(limb_max, digit)
            out[limb * count + j] = digit
        # what is left is sum(e), exactly; beyond 2^20 nothing is honest and the quotient may have been cut off
        error_max = max(error_max, np.float64(abs(quotient)) if rough < 1048576.0 else rough)
    return error_max, limb_max
