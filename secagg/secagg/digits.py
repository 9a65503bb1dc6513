"""Centred residues back to summed limbs and sum(e) (protocol.md §9).

v = T*sum(e) + sum(m) is known mod the three primes and is small next to q. Its mixed-radix digits (Garner) give it
twice: in float64 with a relative error below 2^-50, and modulo 2^64 exactly. v is first divided by cut = base^low,
at most 2^58 unless a single limb is wider: the float quotient is off by little, and the exact remainder corrects it.
What is left are 62-bit integers, from which limbs are split off one by one; after the last one sum(e) remains.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.parameters import SealedParameters
from secagg.ring import below, times

U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
Sums = NDArray[np.uint32] | NDArray[np.uint64]

MAX_CUT = 1 << 58
ROUGH_LIMIT = 1 << 20
"""Nothing honest has |sum(e)| this large; beyond it the quotient may have been cut off and is not used."""


@dataclass(frozen=True, slots=True, eq=False)
class DigitReader:
    """Constants of one parameter set.

    `inverses` uint32[3, 2]: p0^-1 mod p1, p0^-1 mod p2, p1^-1 mod p2, each with its Shoup quotient.
    """

    limbs: int
    low: int
    base: np.int64
    cut: np.int64
    modulus: float
    primes: U32
    inverses: U32

    @classmethod
    def make(cls, parameters: SealedParameters) -> Self:
        """The reader for `parameters`."""
        first, second, third = parameters.primes
        pairs = ((first, second), (first, third), (second, third))
        inverses = [(pow(a, -1, p), p) for a, p in pairs]
        low = max(h for h in range(1, parameters.limbs + 1) if h == 1 or parameters.base**h <= MAX_CUT)
        return cls(
            limbs=parameters.limbs,
            low=low,
            base=np.int64(parameters.base),
            cut=np.int64(parameters.base**low),
            modulus=float(parameters.plaintext_modulus),
            primes=np.array(parameters.primes, dtype=np.uint32),
            inverses=np.array([(x, (x << 32) // p) for x, p in inverses], dtype=np.uint32),
        )

    def read(self, residues: U32, numbers: I64, out: Sums) -> tuple[int, int]:
        """Read one block.

        Args:
            residues: uint32[3, N], v mod each prime.
            numbers: int64[2, N], overwritten.
            out: [limbs*N], the summed limbs.

        Returns:
            The largest |sum(e)| and the largest summed limb; both mean nothing when v was not small.
        """
        count = residues.shape[1]
        upper, lower = numbers
        rough = _lift(residues, self.inverses, self.primes, self.modulus, self.cut, upper, lower)
        largest = 0
        for limb in range(self.limbs):
            source = lower if limb < self.low else upper
            largest = max(largest, int(_split_limb(source, self.base, out[limb * count : (limb + 1) * count])))
        error = int(np.abs(upper).max()) if rough < ROUGH_LIMIT else int(min(rough, 2.0**80))
        return error, largest


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
def _split_limb(numbers: I64, base: np.int64, out: Sums) -> np.int64:
    """numbers -> floor(numbers/base), remainders into `out`; returns the largest remainder."""
    inverse = 1.0 / np.float64(base)
    largest = np.int64(0)
    for j in range(len(numbers)):
        numbers[j], digit = _divide(numbers[j], base, inverse)
        out[j] = digit
        largest = max(largest, digit)
    return largest


@kernel
def _lift(values: U32, inverses: U32, primes: U32, modulus: float, cut: np.int64, upper: I64, lower: I64) -> np.float64:
    """upper = floor(v/cut), lower = v mod cut, for v centred; returns the largest |v|/modulus, roughly."""
    p0, p1, p2 = primes[0], primes[1], primes[2]
    first, second, third = values[0], values[1], values[2]
    i01, i02, i12 = inverses[0], inverses[1], inverses[2]
    a, aq, b, bq, c, cq = i01[0], i01[1], i02[0], i02[1], i12[0], i12[1]
    half = np.int64(p2 >> np.uint32(1))
    wide0, wide1, wide2 = np.int64(p0), np.int64(p1), np.int64(p2)
    inverse_cut = 1.0 / np.float64(cut)
    inverse_modulus = 1.0 / modulus
    rough = np.float64(0.0)
    for j in range(len(upper)):
        # Garner: v = r0 + p0*(d1 + p1*d2)
        r0 = first[j]
        d1 = below(times(np.uint32(second[j] + p1 - below(r0, p1)), a, aq, p1), p1)
        d2 = times(np.uint32(third[j] + p2 - below(r0, p2)), b, bq, p2)
        d2 = below(times(np.uint32(d2 + p2 - below(d1, p2)), c, cq, p2), p2)
        top = np.int64(d2)
        top -= wide2 & -np.int64(top > half)
        high = np.int64(d1) + wide1 * top
        real = np.float64(np.int64(r0)) + np.float64(wide0) * np.float64(high)
        rough = max(rough, abs(real * inverse_modulus))
        quotient = np.int64(min(max(np.floor(real * inverse_cut), -4.0e18), 4.0e18))
        step, rest = _divide(np.int64(np.int64(r0) + wide0 * high - quotient * cut), cut, inverse_cut)
        upper[j] = quotient + step
        lower[j] = rest
    return rough
