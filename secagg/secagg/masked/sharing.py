"""Shamir shares of a 32-byte secret, limb by limb over F_p, p = 2^31 - 1 (protocol.md §12.4.3).

The secret is 9 limbs of 30 bits, little-endian. Holder x = 1, 2, ... gets, for each limb, the value at x of a random
polynomial of degree threshold - 1 whose constant term is the limb: 9 residues as u32, 36 bytes. Kernels neither branch
on a secret nor index by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.errors import ShareError
from secagg.randomness import Keystream, Randomness, fresh_keystream

FIELD = (1 << 31) - 1
LIMB_BITS = 30
LIMBS = 9
SECRET_BYTES = 32
SHARE_BYTES = 4 * LIMBS
SHARE_PURPOSE = "secagg/v1/masked/share"

U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """32 bytes that must stay secret: a mask key or the seed of a self-mask. Never printed."""

    value: bytes

    def __repr__(self) -> str:
        return "Secret(<redacted>)"


@dataclass(frozen=True, slots=True, repr=False)
class Share:
    """What one holder gets of one secret, 36 bytes. Never printed."""

    value: bytes

    def __repr__(self) -> str:
        return "Share(<redacted>)"


def split(secret: Secret, threshold: int, holders: int, random: Randomness) -> tuple[Share, ...]:
    """One share for each of `holders`, of whom any `threshold` give the secret back.

    Raises ShareError unless the secret has 32 bytes and 1 <= threshold <= holders.
    """
    if len(secret.value) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise ShareError(f"{threshold} of {holders} shares of a secret of {len(secret.value)} bytes cannot be made")
    polynomials = np.empty((threshold, LIMBS), dtype=np.uint64)
    polynomials[0] = _limbs(secret.value)
    stream = fresh_keystream(SHARE_PURPOSE, random)
    polynomials[1:] = _uniform(stream, (threshold - 1) * LIMBS).reshape(threshold - 1, LIMBS)
    values = np.empty((holders, LIMBS), dtype=np.uint32)
    _evaluate(polynomials, values)
    shares = tuple(Share(row.tobytes()) for row in values)
    polynomials.fill(0)
    values.fill(0)
    return shares


def combine(shares: Mapping[int, Share], threshold: int) -> Secret:
    """The secret, from the first `threshold` of the shares by holder number (from 1).

    Raises ShareError: too few shares, a malformed one, or shares that do not come from one secret of 32 bytes.
    """
    if len(shares) < threshold:
        raise ShareError(f"{len(shares)} shares; {threshold} are needed")
    points = sorted(shares)[:threshold]
    values = np.stack([residues(shares[x]) for x in points])
    limbs = np.zeros(LIMBS, dtype=np.uint64)
    _interpolate(np.array(points, dtype=np.uint64), values, limbs)
    number = 0
    for position, limb in enumerate(limbs.tolist()):
        if limb >> LIMB_BITS:
            raise ShareError("the shares do not come from one secret: whoever dealt them lied")
        number |= limb << (LIMB_BITS * position)
    if number >> (8 * SECRET_BYTES):
        raise ShareError("the shares do not come from a secret of 32 bytes: whoever dealt them lied")
    return Secret(number.to_bytes(SECRET_BYTES, "little"))


def residues(share: Share) -> U64:
    """The residues of a share, uint64 [9]. Raises ShareError for a wrong length or a residue not below p."""
    if len(share.value) != SHARE_BYTES:
        raise ShareError(f"a share has {len(share.value)} bytes, not {SHARE_BYTES}")
    values = np.frombuffer(share.value, dtype="<u4").astype(np.uint64)
    if int(values.max()) >= FIELD:
        raise ShareError("a share holds a residue that is not below 2^31 - 1")
    return values


def _limbs(secret: bytes) -> U64:
    number, mask = int.from_bytes(secret, "little"), (1 << LIMB_BITS) - 1
    return np.array([(number >> (LIMB_BITS * i)) & mask for i in range(LIMBS)], dtype=np.uint64)


def _uniform(stream: Keystream, count: int) -> NDArray[np.uint32]:
    """`count` uniform residues from `stream`: words of 31 bits, those equal to p skipped."""
    kept = np.empty(0, dtype=np.uint32)
    while len(kept) < count:
        words = stream.read(4 * (count - len(kept))).view(np.uint32) & np.uint32(FIELD)
        kept = np.concatenate([kept, words[words != FIELD]])
    return kept


@kernel
def _evaluate(polynomials: U64, out: NDArray[np.uint32]) -> None:
    """out[x - 1] = the polynomials at x, by Horner; x below 2^31."""
    prime = np.uint64((1 << 31) - 1)
    for row in range(len(out)):
        x = np.uint64(row + 1)
        for limb in range(polynomials.shape[1]):
            value = np.uint64(0)
            for d in range(len(polynomials) - 1, -1, -1):
                value = (value * x + polynomials[d, limb]) % prime
            out[row, limb] = np.uint32(value)


@kernel
def _interpolate(points: U64, values: U64, out: U64) -> None:
    """out = the value at 0 of the polynomials through (points, values); an inverse is a power of p - 2."""
    prime = np.uint64((1 << 31) - 1)
    for i in range(len(points)):
        above, below = np.uint64(1), np.uint64(1)
        for j in range(len(points)):
            if j != i:
                above = above * points[j] % prime
                below = below * ((points[j] + prime - points[i]) % prime) % prime
        weight, power = above, below
        for bit in range(31):
            if ((((1 << 31) - 3) >> bit) & 1) == 1:
                weight = weight * power % prime
            power = power * power % prime
        for limb in range(len(out)):
            out[limb] = (out[limb] + values[i, limb] * weight) % prime
