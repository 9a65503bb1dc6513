"""Shamir shares of a short key, coefficient by coefficient over F_p, p = 2^31 - 1 (protocol.md §6).

Key-holder x = 1..m gets, for each of the 4096 coefficients, the value at x of a random polynomial of degree
threshold - 1 whose constant term is that coefficient mod p. A packed share is 4096 residues of 31 bits,
little-endian by bit as in `packing`: 15872 bytes. Shares add: the sum of many clients' shares is a share of
the sum of their keys.

Random coefficients come from one keystream: little-endian 32-bit words, low 31 bits, words equal to p
skipped; first all 4096 coefficients of x^1, then of x^2, and so on. The 4 blinding elements of the degree check (§6.1a)
come from another: first the elements, then their coefficients of x^1, and so on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg import ring
from secagg._numba import kernel
from secagg.errors import ShareError
from secagg.evidence import BLINDING_BYTES, BLINDINGS
from secagg.packing import pack_bits, unpack_bits
from secagg.parameters import SHARE_BITS
from secagg.randomness import Keystream, Randomness, fresh_keystream
from secagg.sealing import ShortKey

__all__ = [
    "FIELD", "KeyShare", "ShortKey", "check_share", "interpolate", "pack_share", "reconstruct", "share_key",
    "sum_shares", "uniform", "unpack_blinding", "unpack_share",
]  # fmt: skip

FIELD = (1 << 31) - 1
SHARE_PURPOSE = "secagg/v1/share"
BLINDING_PURPOSE = "secagg/v1/blinding"
SHARE_BYTES = ring.DEGREE * SHARE_BITS // 8
MAX_HOLDERS = 255

U32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, repr=False)
class KeyShare:
    """The share of key-holder number `index` (from 1): `packed`, 15872 secret bytes, and 16 of blinding. Redacted."""

    index: int
    packed: bytes
    blinding: bytes

    def __repr__(self) -> str:
        return f"KeyShare(index={self.index}, redacted)"


def share_key(key: ShortKey, threshold: int, holders: int, random: Randomness) -> tuple[KeyShare, ...]:
    """Split `key` into one share for each of `holders` key-holders; any `threshold` of them give it back.

    Raises:
        ShareError: not 1 <= threshold <= holders <= 255.
    """
    if not 1 <= threshold <= holders <= MAX_HOLDERS:
        raise ShareError(f"threshold {threshold} of {holders} holders; need 1 <= threshold <= holders <= {MAX_HOLDERS}")
    signed = key.coefficients.astype(np.int64)
    constant = signed + (FIELD & (signed >> 63))
    stream = fresh_keystream(SHARE_PURPOSE, random)
    polynomials = np.empty((threshold, ring.DEGREE), dtype=np.uint32)
    polynomials[0] = constant
    polynomials[1:] = uniform(stream, (threshold - 1) * ring.DEGREE).reshape(threshold - 1, ring.DEGREE)
    blinds = uniform(fresh_keystream(BLINDING_PURPOSE, random), threshold * BLINDINGS).reshape(threshold, BLINDINGS)
    values, blinding = np.empty(ring.DEGREE, dtype=np.uint32), np.empty(BLINDINGS, dtype=np.uint32)
    shares = []
    for index in range(1, holders + 1):
        _evaluate(polynomials, np.uint64(index), values)
        _evaluate(blinds, np.uint64(index), blinding)
        shares.append(KeyShare(index, pack_share(values), blinding.astype("<u4").tobytes()))
    for array in (signed, constant, polynomials, blinds, values, blinding):
        array.fill(0)
    return tuple(shares)


def sum_shares(shares: Iterable[bytes]) -> bytes:
    """The packed sum mod p of packed shares of one key-holder.

    Raises:
        ShareError: no share, or one that is malformed.
    """
    total = np.zeros(ring.DEGREE, dtype=np.uint64)
    count = 0
    for packed in shares:
        total += unpack_share(packed)
        count += 1
    if not count:
        raise ShareError("no share to sum")
    return pack_share((total % FIELD).astype(np.uint32))


def reconstruct(threshold: int, shares: Mapping[int, bytes]) -> NDArray[np.int64]:
    """The shared polynomial int64[4096], centred in [-(p-1)/2, (p-1)/2], from packed shares by key-holder
    number.

    With more than `threshold` shares, all must lie on one polynomial of degree threshold - 1.

    Raises:
        ShareError: fewer than `threshold` shares, a malformed one, or shares that contradict each other.
    """
    if threshold < 1 or len(shares) < threshold:
        raise ShareError(f"{len(shares)} shares; {threshold} are needed")
    if any(not 1 <= index <= MAX_HOLDERS for index in shares):
        raise ShareError(f"key-holders are numbered 1 to {MAX_HOLDERS}; got {sorted(shares)}")
    values = {index: unpack_share(packed).astype(np.uint64) for index, packed in sorted(shares.items())}
    basis = list(values)[:threshold]
    for extra in list(values)[threshold:]:
        if not np.array_equal(interpolate(values, basis, extra), values[extra]):
            raise ShareError(
                f"the share of key-holder {extra} does not agree with those of {basis}: one of them is wrong"
            )
    constant = interpolate(values, basis, 0).astype(np.int64)
    return np.where(constant > FIELD // 2, constant - FIELD, constant)


def check_share(packed: bytes) -> None:
    """Refuse a share that is not 4096 residues below p.

    Raises:
        ShareError: wrong length, or a residue equal to p.
    """
    unpack_share(packed)


def unpack_share(packed: bytes) -> U32:
    """The residues of a packed share, uint32[4096].

    Raises:
        ShareError: wrong length, or a residue equal to p.
    """
    if len(packed) != SHARE_BYTES:
        raise ShareError(f"a share has {len(packed)} bytes, not {SHARE_BYTES}")
    values = np.empty(ring.DEGREE, dtype=np.uint32)
    unpack_bits(np.frombuffer(packed, dtype=np.uint8), np.int64(SHARE_BITS), values)
    if int(values.max()) >= FIELD:
        raise ShareError("a share holds a residue that is not below 2^31 - 1")
    return values


def unpack_blinding(blinding: bytes) -> U32:
    """The 4 blinding values of a share, uint32[4].

    Raises:
        ShareError: wrong length, or a value not below p.
    """
    if len(blinding) != BLINDING_BYTES:
        raise ShareError(f"{len(blinding)} bytes of blinding, not {BLINDING_BYTES}")
    values = np.frombuffer(blinding, dtype="<u4").astype(np.uint32)
    if int(values.max()) >= FIELD:
        raise ShareError("a blinding value is not below 2^31 - 1")
    return values


def pack_share(values: U32) -> bytes:
    """Residues uint32[4096] in 31 bits each, 15872 bytes."""
    packed = np.empty(SHARE_BYTES, dtype=np.uint8)
    pack_bits(values, np.int64(SHARE_BITS), packed)
    return packed.tobytes()


def uniform(stream: Keystream, count: int) -> U32:
    """`count` uniform residues mod p from `stream`."""
    kept = np.empty(0, dtype=np.uint32)
    while len(kept) < count:
        words = stream.read(4 * (count - len(kept))).view(np.uint32) & np.uint32(FIELD)
        kept = np.concatenate([kept, words[words != FIELD]])
    return kept


def interpolate(values: Mapping[int, NDArray[np.uint64]], basis: Sequence[int], at: int) -> NDArray[np.uint64]:
    """Value at `at` of the polynomials through the points of `basis` (Lagrange); all arrays of one shape, below p."""
    result = np.zeros_like(values[basis[0]])
    for x in basis:
        numerator, denominator = 1, 1
        for other in basis:
            if other != x:
                numerator = numerator * (at - other) % FIELD
                denominator = denominator * (x - other) % FIELD
        weight = np.uint64(numerator * pow(denominator, -1, FIELD) % FIELD)
        result = (result + values[x] * weight) % np.uint64(FIELD)
    return result


@kernel
def _evaluate(polynomials: U32, x: np.uint64, out: U32) -> None:
    """out = sum_d polynomials[d]*x^d mod p, by Horner and the folding of Mersenne primes; x < 2^8."""
    prime = np.uint64((1 << 31) - 1)
    shift = np.uint64(31)
    for i in range(len(out)):
        value = np.uint64(0)
        for d in range(len(polynomials) - 1, -1, -1):
            value = value * x + np.uint64(polynomials[d, i])
            value = (value & prime) + (value >> shift)
            value = (value & prime) + (value >> shift)
        out[i] = np.uint32(min(value, value - prime))
