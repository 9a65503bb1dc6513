"""Parameters of the sealed protocol: chosen, checked and refused here, once (protocol.md §3).

A set fixes the ring (degree N, primes, q their product), the number of limbs packed into one coefficient, and
what it is for: `bits` per value, at most `n_max` contributors, `length` values. One coefficient carries m =
sum_l v_l*base^l with base = n_max*(2^bits - 1) + 1, so that the sum over any cohort up to n_max keeps its
limbs apart; the plaintext modulus is T = base^limbs. The sum opens when |T*sum(e) + sum(m)| < q/2 in every
coefficient.

Security: core-SVP bits (ADPS16) of the cheapest attack from the lattice-estimator, rounded down, for a secret of sigma
    3.18 and an error of sigma 4.5: what two honest contributors have left of 4.5 and 4.5*sqrt(2) once sum(s) and
    sum(e) are published (docs/security-levels.md).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Self

from secagg import gaussian, ring
from secagg.errors import ParameterError

MIN_SECURITY_BITS = 128
MAX_FAILURE_LOG2 = -60.0
MIN_BITS = 2
MAX_BITS = 24
MAX_LIMBS = 29
"""What fits for the smallest values there are: 2 bits, two contributors."""
MAX_COHORT = 100_000
"""Clients of a session; rosters and sets have the same bound."""
MAX_LENGTH = 1 << 36
RESIDUE_BITS = 30
SHARE_BITS = 31


@dataclass(frozen=True, slots=True)
class Ring:
    """One row of the security table: degree, primes, and core-SVP and MATZOV bits at that modulus."""

    degree: int
    primes: tuple[int, ...]
    core_svp_bits: int
    matzov_bits: int


RINGS = MappingProxyType({"n4096q90": Ring(ring.DEGREE, ring.PRIMES, 130, 159)})
"""Rings that meet MIN_SECURITY_BITS. Names are part of the wire format.

One ring carries every (bits, n_max, length) within the limits above; docs/security-levels.md has the table of limbs,
what a second ring would save, and how the levels were computed (benchmarks/security_levels.py).
"""


@dataclass(frozen=True, slots=True)
class SealedParameters:
    """A checked parameter set. Construction re-checks everything, so a value of this type is safe to use.

    Args:
        name: key of `RINGS`.
        degree: N, coefficients in a polynomial.
        primes: moduli whose product is q, each below 2^30.
        limbs: values packed in one coefficient.
        bits: b; a value lies in [0, 2^b).
        n_max: largest number of contributors whose sum keeps its limbs apart.
        length: L, values in a vector.

    Raises:
        ParameterError: unknown or altered ring, a number out of range, a base that is not invertible modulo every
            prime, or a failure probability above 2^-60.
    """

    name: str
    degree: int
    primes: tuple[int, ...]
    limbs: int
    bits: int
    n_max: int
    length: int

    def __post_init__(self) -> None:
        row = RINGS.get(self.name)
        if row is None or (self.degree, self.primes) != (row.degree, row.primes):
            raise ParameterError(f"{self.name!r} with these primes is in no table; known rings: {', '.join(RINGS)}")
        for field, low, high in (
            ("limbs", 1, MAX_LIMBS),
            ("bits", MIN_BITS, MAX_BITS),
            ("n_max", 2, MAX_COHORT),
            ("length", 1, MAX_LENGTH),
        ):
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise ParameterError(f"{field} is {value!r}; it must be an integer from {low} to {high}")
        if row.core_svp_bits < MIN_SECURITY_BITS:
            raise ParameterError(f"{self.name}: {row.core_svp_bits} bits of security, below {MIN_SECURITY_BITS}")
        if math.gcd(self.base, self.modulus) != 1:
            raise ParameterError(
                f"n_max {self.n_max} with {self.bits} bits makes the limb base {self.base}, a multiple of a prime of "
                f"{self.name}: modulo that prime a ciphertext would carry no noise (§3.2a). Take another n_max"
            )
        if self.failure_log2 > MAX_FAILURE_LOG2:
            raise ParameterError(
                f"{self.name} with {self.limbs} limbs fails to open {self.n_max} contributors of {self.bits} bits "
                f"with probability 2^{self.failure_log2:.1f}, above 2^{MAX_FAILURE_LOG2:.0f}: use fewer limbs"
            )

    @property
    def base(self) -> int:
        """beta = n_max*(2^bits - 1) + 1: one more than the largest sum of one value."""
        return self.n_max * ((1 << self.bits) - 1) + 1

    @property
    def plaintext_modulus(self) -> int:
        """T = base^limbs."""
        return int(self.base**self.limbs)

    @property
    def modulus(self) -> int:
        """q, the product of the primes."""
        return math.prod(self.primes)

    @property
    def block_values(self) -> int:
        """Values in one block: limbs*N."""
        return self.limbs * self.degree

    @property
    def blocks(self) -> int:
        """Blocks in a ciphertext; the last is padded with zeros."""
        return -(-self.length // self.block_values)

    @property
    def block_bytes(self) -> int:
        """Bytes of one packed block: N residues of 30 bits for each prime."""
        return len(self.primes) * self.degree * RESIDUE_BITS // 8

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of a ciphertext without boxes."""
        return self.blocks * self.block_bytes

    @property
    def share_bytes(self) -> int:
        """Bytes of one packed key share: N residues of 31 bits (protocol.md §6)."""
        return self.degree * SHARE_BITS // 8

    @property
    def security_bits(self) -> int:
        """Core-SVP bits, two honest contributors assumed."""
        return RINGS[self.name].core_svp_bits

    @property
    def security_note(self) -> str:
        """What the number of bits assumes, for a certificate or a report."""
        row = RINGS[self.name]
        return (
            f"{row.core_svp_bits} bits under ADPS16 core-SVP, {row.matzov_bits} in MATZOV's cost model "
            "(lattice-estimator; primal uSVP, the cheapest of primal and dual attacks), for a secret of sigma 3.18 "
            "and an error of sigma 4.5: at least two honest contributors, with the sums of keys and errors published"
        )

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that any coefficient of a sum of n_max contributors fails to open."""
        return self._tail_log2(self.n_max, self.modulus // 2 // self.plaintext_modulus - 1)

    def error_bound(self, contributors: int) -> int:
        """Largest |sum(e)| that `contributors` honest uploads reach but with probability 2^-60 over all
        coefficients.

        Raises:
            ParameterError: contributors is not from 1 to n_max.
        """
        if not 1 <= contributors <= self.n_max:
            raise ParameterError(f"{contributors} contributors; these parameters carry 1 to {self.n_max}")
        return _smallest_bound(contributors, self.blocks * self.degree)

    def _tail_log2(self, contributors: int, bound: int) -> float:
        if bound < 1:
            return math.inf
        tail = gaussian.sum_tail_log2(gaussian.ERROR_VARIANCE, contributors, bound)
        return tail + math.log2(self.blocks * self.degree)

    @classmethod
    def from_name(cls, name: str, limbs: int, bits: int, n_max: int, length: int) -> Self:
        """The set on the ring `name` (a key of `RINGS`).

        Raises:
            ParameterError: as for the constructor.
        """
        row = RINGS.get(name)
        if row is None:
            raise ParameterError(f"no ring is called {name!r}; known rings: {', '.join(RINGS)}")
        return cls(name, row.degree, row.primes, limbs, bits, n_max, length)


@lru_cache(maxsize=1024)
def _smallest_bound(contributors: int, coefficients: int) -> int:
    low, high = 0, contributors * gaussian.gaussian(gaussian.ERROR_VARIANCE).largest
    while low < high:
        middle = (low + high) // 2
        tail = gaussian.sum_tail_log2(gaussian.ERROR_VARIANCE, contributors, middle)
        if tail + math.log2(coefficients) <= MAX_FAILURE_LOG2:
            high = middle
        else:
            low = middle + 1
    return low


def choose(bits: int, n_max: int, length: int) -> SealedParameters:
    """The safe set with the fewest bytes a value for `bits`, `n_max` and `length` (protocol.md §3).

    Raises:
        ParameterError: out of range, or no set has 128 bits of security and a failure probability up to
            2^-60.
    """
    candidates: list[SealedParameters] = []
    refusal: ParameterError | None = None
    for name in RINGS:
        for limbs in range(MAX_LIMBS, 0, -1):
            try:
                candidates.append(SealedParameters.from_name(name, limbs, bits, n_max, length))
            except ParameterError as error:
                refusal = error
    if not candidates:
        raise ParameterError(f"no set carries {n_max} contributors of {bits} bits, {length} values: {refusal}")
    return min(candidates, key=lambda p: (p.ciphertext_bytes, p.degree, p.limbs))
