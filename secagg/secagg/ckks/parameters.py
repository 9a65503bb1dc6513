"""The rings of `ckks`, what fits into one coefficient, and why the rounded sum is exact (protocol.md §13.1).

Nothing is multiplied, so the modulus need only hold the sum, and values may sit in coefficients: there integers stay
exact, which they do not in slots, whose transform is in doubles.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from secagg.errors import ParameterError

RingName = Literal["n8192q175", "n4096q87"]
FAILURE_LOG2 = -60
ERROR_ROOM = 0.25
"""The largest error of a coefficient that is accepted before flooding, in units of the integer grid."""
ERROR_VARIANCE = 10.5
"""Of SEAL's errors: a centred binomial of 42 coins. It covers its other sampler too, 3.2^2 and 1/12 for rounding."""
ERROR_LARGEST = 21
FOURTH_MOMENT = 3 * ERROR_VARIANCE**2
"""A bound on E e^4: a binomial has less than a Gaussian of its variance."""
MAX_SUM = (1 << 32) - 1
"""Sums are published as uint32."""
MAX_CLIENTS = 100_000
MAX_SCALE_LOG2 = 40
WRAP_BYTES = 1136
"""What sealing a ciphertext to the key-holder adds to it: an encapsulated key of 1120 bytes, a tag of 16 (§13.2.4)."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Z[x]/(x^N + 1) modulo the ciphertext primes; public keys and fresh encryptions have the special prime as well.

    SEAL divides what it has encrypted by the special prime and drops it. `security_bits` counts it.
    """

    name: RingName
    degree: int
    primes: tuple[int, ...]
    special: int
    security_bits: int

    @property
    def modulus(self) -> int:
        """Q: what a ciphertext holds."""
        return math.prod(self.primes)

    @property
    def log2_q(self) -> float:
        """Of all primes, the special one among them."""
        return math.log2(self.modulus) + math.log2(self.special)

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of a residue, for each prime of a ciphertext."""
        return tuple(prime.bit_length() for prime in self.primes)

    @property
    def block_bytes(self) -> int:
        """One ciphertext: two polynomials."""
        return 2 * self.degree * sum(self.widths) // 8

    @property
    def wire_bytes(self) -> int:
        """One ciphertext on the wire, sealed to the key-holder."""
        return self.block_bytes + WRAP_BYTES

    @property
    def key_bytes(self) -> int:
        """A public key on the wire: two polynomials, over the special prime too."""
        return 2 * self.degree * (sum(self.widths) + self.special.bit_length()) // 8


RINGS: dict[RingName, Ring] = {
    "n8192q175": Ring("n8192q175", 8192, (9007199254429697, 9007199254364161, 9007199254331393), 65_537, 129),
    "n4096q87": Ring("n4096q87", 4096, (68719403009, 68719230977), 40_961, 130),
}
"""The largest primes of 53 and 36 bits that are 1 mod 2N, and the least one above 2^15, which nothing needs but SEAL.

Levels: docs/security-levels.md. Larger rings gain little: docs/protocol.md §13.1.4 has what was measured.
"""


@dataclass(frozen=True, slots=True)
class CkksParameters:
    """The set for b bits, n_max clients and L values: ring, scale, and how many values share a coefficient.

    Of the rings the one with the shortest upload is taken. Raises ParameterError for numbers that none carries.
    """

    bits: int
    n_max: int
    length: int
    ring: Ring = field(init=False)
    scale_log2: int = field(init=False)
    limbs: int = field(init=False)

    def __post_init__(self) -> None:
        """In each ring the smallest scale whose errors stay within their room, then as many limbs as fit."""
        if not (2 <= self.bits <= 24 and 2 <= self.n_max <= MAX_CLIENTS and 1 <= self.length <= 1 << 36):
            raise ParameterError(f"ckks carries 2 to 24 bits, 2 to {MAX_CLIENTS} clients and 1 to 2^36 values")
        if self.base - 1 > MAX_SUM:
            raise ParameterError(f"sums of {self.n_max} values of {self.bits} bits exceed 32 bits: take fewer bits")
        found = [(ring, *fit(ring, self.base, self.n_max, self.length)) for ring in RINGS.values()]
        carried = [one for one in found if one[2] >= 1]
        if not carried:
            raise ParameterError(f"{self.n_max} clients of {self.bits} bits do not fit a coefficient")
        ring, scale_log2, limbs = min(carried, key=lambda one: upload_bytes(one[0], one[2], self.length))
        object.__setattr__(self, "ring", ring)
        object.__setattr__(self, "scale_log2", scale_log2)
        object.__setattr__(self, "limbs", limbs)

    @property
    def base(self) -> int:
        """beta: the base of the limbs of a coefficient, one more than a sum of values can be."""
        return self.n_max * ((1 << self.bits) - 1) + 1

    @property
    def block_values(self) -> int:
        """Values in one ciphertext."""
        return self.ring.degree * self.limbs

    @property
    def blocks(self) -> int:
        """Ciphertexts in an upload."""
        return -(-self.length // self.block_values)

    @property
    def upload_bytes(self) -> int:
        """All of an upload: ciphertexts, each sealed to the key-holder."""
        return self.blocks * self.ring.wire_bytes


def upload_bytes(ring: Ring, limbs: int, length: int) -> int:
    """An upload of `length` values in a ring."""
    return -(-length // (ring.degree * limbs)) * ring.wire_bytes


def fit(ring: Ring, base: int, clients: int, length: int) -> tuple[int, int]:
    """log2 of the scale, and limbs, for `length` values: 0 when the ring does not carry them (§13.1.2)."""
    scale_log2 = math.ceil(math.log2(noise_bound(ring, clients, length) / ERROR_ROOM))
    if scale_log2 > MAX_SCALE_LOG2:
        return scale_log2, 0
    room, limbs = ring.modulus >> (scale_log2 + 1), 0
    while base ** (limbs + 1) <= room:
        limbs += 1
    return scale_log2, limbs


def noise_bound(ring: Ring, clients: int, length: int) -> float:
    """A bound on every coefficient's error in the sum of `clients` fresh ciphertexts (protocol.md §13.1.3).

    It fails with probability at most 2^-60 for all coefficients of `length` values together. A client's error is
    (v e + e1 + s e2)/P + r0 + s r1: v and s ternary, the e binomial, the r what rounding leaves, in [-1/2, 1/2].
    """
    t = -FAILURE_LOG2 * math.log(2.0) + math.log(16.0 * (length + ring.degree))
    spread = math.sqrt(2.0 * (FOURTH_MOMENT - ERROR_VARIANCE**2) * t * ring.degree) + ERROR_LARGEST**2 * t / 3.0
    key_error = ERROR_VARIANCE * ring.degree + spread  # the squared norm of e, but with probability exp(-t): Bernstein
    fresh = sum(math.sqrt(one) for one in (key_error, ERROR_VARIANCE * ring.degree, ERROR_VARIANCE)) / ring.special
    rounding = math.sqrt(ring.degree / 12.0) + math.sqrt(1 / 12.0)
    return math.sqrt(2.0 * t * clients) * (fresh + rounding)
