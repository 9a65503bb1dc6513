"""What is ours of `ckks`, written from docs/protocol.md §13 in plain Python. Shares no code with the package.

Keys, encryption and decryption are SEAL's. Here are rings (found, not copied), the choice of ring, scale and limbs with
forty digits, values in coefficients as big integers, the wire, and sums read out of decrypted residues by the Chinese
remainder theorem as it stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, getcontext
from functools import cache

from tests.twin.sealed import join_bits, split_bits
from tests.twin.statements import canonical

MOST_CLIENTS = 100_000
MOST_SCALE = 40
WRAPPING = 1120 + 16
"""§13.2.4: an encapsulated key of X25519 and ML-KEM-768, and a tag."""
LEVELS = {"n8192q175": 129, "n4096q87": 130}


def is_prime(number: int) -> bool:
    """Miller and Rabin with the first twelve primes: no composite below 2^64 passes."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 41:
        return number in bases
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        value = pow(base, odd, number)
        powers = [pow(value, 2**i, number) for i in range(twos)]
        if value != 1 and number - 1 not in powers:
            return False
    return True


def largest(degree: int, bits: int, count: int) -> list[int]:
    """The largest primes of so many bits that are 1 mod 2N."""
    found, candidate = list[int](), (2**bits - 2) // (2 * degree) * 2 * degree + 1
    while len(found) < count:
        if is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * degree
    return found


@dataclass(frozen=True)
class Ring:
    """§13.1.1."""

    name: str
    degree: int
    primes: tuple[int, ...]
    special: int

    @property
    def modulus(self) -> int:
        return math.prod(self.primes)

    def bytes_of(self, primes: Sequence[int]) -> int:
        """Two polynomials over these primes, on the wire."""
        return 2 * self.degree * sum(prime.bit_length() for prime in primes) // 8


@cache
def rings() -> tuple[Ring, ...]:
    """The table."""
    made = []
    for name, degree, bits, count in (("n8192q175", 8192, 53, 3), ("n4096q87", 4096, 36, 2)):
        special = next(p for p in range(2**15 // (2 * degree) * 2 * degree + 1, 2**20, 2 * degree)
                       if p > 2**15 and is_prime(p))  # fmt: skip
        made.append(Ring(name, degree, tuple(largest(degree, bits, count)), special))
    return tuple(made)


def error_bound(ring: Ring, clients: int, length: int) -> Decimal:
    """§13.1.3: every coefficient's error in a sum, but for 2^-60."""
    getcontext().prec = 40
    n, k = Decimal(ring.degree), Decimal(clients)
    t = 60 * Decimal(2).ln() + (16 * (Decimal(length) + n)).ln()
    variance, most = Decimal("10.5"), Decimal(21)
    fourth = 3 * variance**2
    norm = variance * n + (2 * (fourth - variance**2) * t * n).sqrt() + most**2 * t / 3
    over_p = sum(((2 * t * k * one).sqrt() for one in (norm, variance * n, variance)), Decimal(0))
    return over_p / ring.special + (2 * t * k * n / 12).sqrt() + (2 * t * k / 12).sqrt()


@dataclass(frozen=True)
class Setting:
    """What a session gets."""

    ring: Ring
    scale_log2: int
    limbs: int
    base: int
    length: int

    @property
    def blocks(self) -> int:
        return -(-self.length // (self.ring.degree * self.limbs))

    @property
    def upload_bytes(self) -> int:
        return self.blocks * (self.ring.bytes_of(self.ring.primes) + WRAPPING)


def fitted(ring: Ring, base: int, n_max: int, length: int) -> Setting | None:
    """The least scale with errors of a quarter at most, and as many limbs as half the modulus holds."""
    wanted = (4 * error_bound(ring, n_max, length)).to_integral_value(ROUND_CEILING)
    scale = next(i for i in range(64) if 2**i >= wanted)
    limbs = 0
    while base ** (limbs + 1) * 2 ** (scale + 1) <= ring.modulus:
        limbs += 1
    return Setting(ring, scale, limbs, base, length) if limbs and scale <= MOST_SCALE else None


def choose(bits: int, n_max: int, length: int) -> Setting | None:
    """§13.1.2: the ring with the shortest upload, the first one of equal ones; None where none carries the numbers."""
    base = n_max * (2**bits - 1) + 1
    if not (2 <= bits <= 24 and 2 <= n_max <= MOST_CLIENTS and 1 <= length <= 2**36 and base <= 2**32):
        return None
    found = [made for ring in rings() if (made := fitted(ring, base, n_max, length))]
    return min(found, key=lambda made: made.upload_bytes, default=None)


Residues = list[list[int]]
"""One list for each prime."""


def messages(setting: Setting, values: Sequence[int]) -> list[list[int]]:
    """§13.1.2: for each block the integers in its coefficients, not yet scaled."""
    degree, each = setting.ring.degree, setting.ring.degree * setting.limbs
    padded = [*values, *[0] * (setting.blocks * each - len(values))]
    return [
        [sum(padded[k * each + j * degree + i] * setting.base**j for j in range(setting.limbs)) for i in range(degree)]
        for k in range(setting.blocks)
    ]


def embedded(setting: Setting, message: Sequence[int], zero: Residues) -> Residues:
    """An encryption's first polynomial, with a message added to it."""
    scale = 2**setting.scale_log2
    return [
        [(z + m * scale) % prime for z, m in zip(row, message, strict=True)]
        for row, prime in zip(zero, setting.ring.primes, strict=True)
    ]


def pack(polynomials: Sequence[Residues], primes: Sequence[int]) -> bytes:
    """§13.2.1, §13.2.2."""
    out = b""
    for polynomial in polynomials:
        for row, prime in zip(polynomial, primes, strict=True):
            width = prime.bit_length()
            out += join_bits(row, width).to_bytes(len(row) * width // 8, "little")
    return out


def unpack(raw: bytes, degree: int, primes: Sequence[int]) -> list[Residues]:
    """Inverse of `pack`, for two polynomials."""
    found, at = list[Residues](), 0
    for _ in range(2):
        rows = list[list[int]]()
        for prime in primes:
            size = degree * prime.bit_length() // 8
            rows.append(split_bits(int.from_bytes(raw[at : at + size], "little"), prime.bit_length(), degree))
            at += size
        found.append(rows)
    return found


def block_info(context: dict[str, object]) -> bytes:
    """§13.2.4: what HPKE binds a ciphertext to."""
    return b"secagg/v1/ckks/block\0" + canonical(context).encode()


def added(parts: Sequence[Residues], primes: Sequence[int]) -> Residues:
    """The sum of polynomials."""
    return [[sum(column) % p for column in zip(*rows, strict=True)] for p, *rows in zip(primes, *parts, strict=True)]


def read(setting: Setting, residues: Residues, noise: Sequence[int]) -> tuple[list[int], int, int]:
    """§13.5.4: sums limb by limb; the largest error in units of 2^-scale; coefficients that their limbs cannot hold."""
    modulus, scale = setting.ring.modulus, 2**setting.scale_log2
    lift = [modulus // p * pow(modulus // p, -1, p) for p in setting.ring.primes]
    rows, worst, beyond = [list[int]() for _ in range(setting.limbs)], 0, 0
    for column, flood in zip(zip(*residues, strict=True), noise, strict=True):
        value = (sum(r * x for r, x in zip(column, lift, strict=True)) + scale // 2) % modulus
        worst = max(worst, abs(value % scale - scale // 2))
        left = (value + flood) // scale
        for row in rows:
            row.append(left % setting.base)
            left //= setting.base
        beyond += left != 0
    return [value for row in rows for value in row], worst, beyond
