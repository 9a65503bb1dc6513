"""Residues of ckks: on the wire, limbs into coefficients, coefficients back into sums (protocol.md §13.1, §13.2).

Primes are below 2^54. A polynomial is uint64 [primes, N], in coefficient form, each residue below its prime.
"""

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.ckks.parameters import CkksParameters, Ring
from secagg.errors import MalformedError, SizeLimitError

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@kernel
def pack_words(residues: U64, width: np.int64, out: U64) -> None:
    """Residues of `width` bits one after the other, from the low end of the first word on."""
    held, buffer, at = np.uint64(0), np.uint64(0), 0
    bits = np.uint64(width)
    for i in range(len(residues)):
        value = residues[i]
        buffer |= value << held
        held += bits
        if held >= np.uint64(64):
            out[at] = buffer
            at += 1
            held -= np.uint64(64)
            buffer = value >> (bits - held) if held > np.uint64(0) else np.uint64(0)


@kernel
def unpack_words(words: U64, width: np.int64, out: U64) -> None:
    """The residues again."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for i in range(len(out)):
        at = i * width
        word, shift = at >> 6, np.uint64(at & 63)
        value = words[word] >> shift
        if shift + np.uint64(width) > np.uint64(64):
            value |= words[word + 1] << (np.uint64(64) - shift)
        out[i] = value & mask


@kernel
def _mul(a: np.uint64, b: np.uint64, prime: np.uint64, inverse: np.float64) -> np.uint64:
    """a*b mod prime, for a and b below it: the quotient in doubles is off by a few, the remainder exact mod 2^64."""
    quotient = np.uint64(np.float64(a) * np.float64(b) * inverse)
    left = np.int64(a * b - quotient * prime)
    while left < 0:
        left += np.int64(prime)
    while left >= np.int64(prime):
        left -= np.int64(prime)
    return np.uint64(left)


@kernel
def embed_limbs(limbs: U32, base: np.uint64, scale: np.uint64, primes: U64, out: U64) -> None:
    """out += scale * sum_j limbs[j] base^j, coefficient by coefficient, modulo each prime (§13.1.2)."""
    count, degree = limbs.shape
    for p in range(len(primes)):
        prime = primes[p]
        inverse = 1.0 / np.float64(prime)
        beta, delta = base % prime, scale % prime
        for i in range(degree):
            value = np.uint64(limbs[count - 1, i]) % prime
            for j in range(count - 2, -1, -1):
                value = _mul(value, beta, prime, inverse) + np.uint64(limbs[j, i])
                if value >= prime:
                    value -= prime
            value = _mul(value, delta, prime, inverse) + out[p, i]
            out[p, i] = value - prime if value >= prime else value


@kernel
def add_residues(total: U64, other: U64, primes: U64) -> None:
    """total += other, [2, primes, N]."""
    for half in range(total.shape[0]):
        for p in range(total.shape[1]):
            prime = primes[p]
            for i in range(total.shape[2]):
                value = total[half, p, i] + other[half, p, i]
                total[half, p, i] = value - prime if value >= prime else value


@kernel
def _compose(digits: U64, primes: U64, words: U64) -> None:
    """Mixed-radix digits into 32-bit words: digits[0] + primes[0] (digits[1] + primes[1] (...))."""
    low = np.uint64(0xFFFFFFFF)
    words[:] = np.uint64(0)
    for j in range(len(digits) - 1, -1, -1):
        below, above = primes[j] & low, primes[j] >> np.uint64(32)
        carry, before = digits[j], np.uint64(0)
        for w in range(len(words)):
            first, second = words[w] * below, before * above
            before = words[w]
            part = (carry & low) + (first & low) + (second & low)
            words[w] = part & low
            carry = (carry >> np.uint64(32)) + (first >> np.uint64(32)) + (second >> np.uint64(32))
            carry += part >> np.uint64(32)


@kernel
def _add_signed(words: U64, value: np.int64) -> None:
    """words += value, for a result that is not negative."""
    low = np.uint64(0xFFFFFFFF)
    extended = np.uint64(low) if value < 0 else np.uint64(0)
    addend, carry = np.uint64(value), np.uint64(0)
    for w in range(len(words)):
        part = (addend >> np.uint64(32 * w)) & low if w < 2 else extended
        carry += words[w] + part
        words[w] = carry & low
        carry >>= np.uint64(32)


@kernel
def _shift_right(words: U64, bits: np.int64) -> None:
    """words >>= bits."""
    low, skip, small = np.uint64(0xFFFFFFFF), bits >> 5, np.uint64(bits & 31)
    for w in range(len(words)):
        here = words[w + skip] if w + skip < len(words) else np.uint64(0)
        above = words[w + skip + 1] if w + skip + 1 < len(words) else np.uint64(0)
        words[w] = ((here | (above << np.uint64(32))) >> small) & low


@kernel
def _divide(words: U64, base: np.uint64) -> np.uint64:
    """words //= base; the remainder. `base` is below 2^32 or 2^32 itself."""
    left = np.uint64(0)
    for w in range(len(words) - 1, -1, -1):
        part = (left << np.uint64(32)) | words[w]
        words[w] = part // base
        left = part - words[w] * base
    return left


@kernel
def extract_limbs(
    residues: U64,
    primes: U64,
    inverses: U64,
    width: int,
    base: np.uint64,
    scale_log2: np.int64,
    noise: I64,
    out: U32,
) -> tuple[int, int]:
    """Sums [limbs, N] out of decrypted coefficients; (largest |error|, coefficients that hold more than their limbs).

    The error is what is off the grid, before `noise` [N] is added; then it is rounded (§13.5.4). inverses[j, i] is
    1/primes[j] mod primes[i]; `width` 32-bit words hold the modulus. Errors are in units of 2^-scale_log2 of the grid.
    """
    low, count = np.uint64(0xFFFFFFFF), len(primes)
    half = np.int64(1) << (scale_log2 - 1)
    digits, words = np.zeros(count, np.uint64), np.zeros(width, np.uint64)
    largest, beyond = np.int64(0), 0
    for i in range(residues.shape[1]):
        for p in range(count):
            prime = primes[p]
            inverse = 1.0 / np.float64(prime)
            value = (residues[p, i] + np.uint64(half)) % prime
            for j in range(p):
                value = _mul((value + prime - digits[j] % prime) % prime, inverses[j, p], prime, inverse)
            digits[p] = value
        _compose(digits, primes, words)
        rest = np.int64(
            (words[0] | (words[1] << np.uint64(32))) & ((np.uint64(1) << np.uint64(scale_log2)) - np.uint64(1))
        )
        largest = max(largest, abs(rest - half))
        _add_signed(words, noise[i])
        _shift_right(words, scale_log2)
        for j in range(out.shape[0]):
            out[j, i] = np.uint32(_divide(words, base) & low)
        for w in range(len(words)):
            if words[w] != np.uint64(0):
                beyond += 1
                break
    return int(largest), int(beyond)


def primes_of(ring: Ring) -> U64:
    """The ciphertext primes, uint64 [k]."""
    return np.array(ring.primes, dtype=np.uint64)


def inverses_of(ring: Ring) -> U64:
    """[j, i]: 1/primes[j] mod primes[i], for j < i; 0 elsewhere."""
    table = np.zeros((len(ring.primes), len(ring.primes)), dtype=np.uint64)
    for i, prime in enumerate(ring.primes):
        for j in range(i):
            table[j, i] = pow(ring.primes[j], -1, prime)
    return table


def pack(polynomials: U64, widths: tuple[int, ...]) -> bytes:
    """Polynomials [m, k, N] as bytes: one after the other, each prime by prime, each residue in its width."""
    packed = list[bytes]()
    for polynomial in polynomials:
        for residues, width in zip(polynomial, widths, strict=True):
            words = np.empty(len(residues) * width // 64, dtype=np.uint64)
            pack_words(np.ascontiguousarray(residues), np.int64(width), words)
            packed.append(words.tobytes())
    return b"".join(packed)


def unpack(raw: bytes, degree: int, primes: tuple[int, ...], what: str) -> U64:
    """Two polynomials [2, k, N] from outside. Raises SizeLimitError or MalformedError (a residue above its prime)."""
    widths = [prime.bit_length() for prime in primes]
    size = 2 * degree * sum(widths) // 8
    if len(raw) != size:
        raise SizeLimitError(f"{what} has {len(raw)} bytes; in this session it has {size}")
    found = np.empty((2, len(primes), degree), dtype=np.uint64)
    words, at = np.frombuffer(raw, dtype=np.uint64), 0
    for half in found:
        for residues, width, prime in zip(half, widths, primes, strict=True):
            count = degree * width // 64
            unpack_words(words[at : at + count], np.int64(width), residues)
            at += count
            if int(residues.max()) >= prime:
                raise MalformedError(f"{what} holds a residue that is not below its prime")
    return found


def read_block(ring: Ring, raw: bytes) -> U64:
    """A ciphertext from outside, [2, k, N] (§13.2.2). Raises SizeLimitError or MalformedError."""
    found = unpack(raw, ring.degree, ring.primes, "a ciphertext")
    if not found[1].any():
        raise MalformedError("a ciphertext hides nothing: its second polynomial is zero")
    return found


def read_sums(parameters: CkksParameters, residues: U64, noise: I64) -> tuple[U32, float, int]:
    """Sums of one block, uint32 [block_values]; the largest error in units of the grid; coefficients out of range."""
    out = np.empty((parameters.limbs, parameters.ring.degree), dtype=np.uint32)
    ring = parameters.ring
    width = ring.modulus.bit_length() // 32 + 1
    base, scale = np.uint64(parameters.base), np.int64(parameters.scale_log2)
    largest, beyond = extract_limbs(residues, primes_of(ring), inverses_of(ring), width, base, scale, noise, out)
    return out.reshape(-1), int(largest) / 2.0**parameters.scale_log2, int(beyond)
