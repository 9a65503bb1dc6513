"""Arithmetic in Z_p[x]/(x^4096 + 1) for the three primes below 2^30 (protocol.md §3).

Transform order, binding for the wire: position i of a transformed polynomial holds its value at
psi^(2*brv(i) + 1), where brv reverses 12 bits and psi = g^((p-1)/8192) mod p for the smallest generator g of
the multiplicative group of F_p. This is the order of Longa and Naehrig (eprint 2016/504), whose butterflies
are used with the lazy reductions of Harvey (arXiv 1205.2926): values stay below 2p or 4p and fit 32 bits
since p < 2^30.

Layout: the inverse transform views a polynomial as a 64 x 64 matrix. Its first six layers work on the
    transposed matrix, its last six on the matrix itself, so that every inner loop runs over 64 neighbours and
    vectorises. All arithmetic is branch-free in the values: no table is indexed, no jump taken, by anything
    secret.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel

DEGREE = 4096
SIDE = 64
LOG_DEGREE = 12
PRIMES = (1073692673, 1073668097, 1073651713)

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

_HALF_WORD = np.uint64(32)


@kernel
def below(value: np.uint32, bound: np.uint32) -> np.uint32:
    """`value` mod `bound` for value < 2*bound, without a branch: the wrapped difference is larger when negative."""
    return min(value, np.uint32(value - bound))


@kernel
def times(value: np.uint32, factor: np.uint32, quotient: np.uint32, prime: np.uint32) -> np.uint32:
    """value*factor mod prime, in [0, 2*prime), with quotient = floor(factor*2^32/prime) (Shoup)."""
    high = np.uint32((np.uint64(value) * np.uint64(quotient)) >> _HALF_WORD)
    return np.uint32(value * factor - high * prime)


@kernel
def montgomery(value: np.uint64, prime: np.uint32, negated_inverse: np.uint32) -> np.uint32:
    """value/2^32 mod prime, in [0, 2*prime), for value < 2^32*prime; negated_inverse = -1/prime mod 2^32."""
    factor = np.uint32(np.uint32(value) * negated_inverse)
    return np.uint32((value + np.uint64(factor) * np.uint64(prime)) >> _HALF_WORD)


@kernel
def forward(values: U32, roots: U32, quotients: U32, prime: np.uint32) -> None:
    """Transform `values` [4096] in place: natural order in [0, p), out in transform order in [0, p)."""
    twice = np.uint32(prime + prime)
    span = DEGREE // 2
    groups = 1
    while span >= 1:
        for group in range(groups):
            root = roots[groups + group]
            quotient = quotients[groups + group]
            start = 2 * span * group
            for j in range(start, start + span):
                left = below(values[j], twice)
                right = times(values[j + span], root, quotient, prime)
                values[j] = np.uint32(left + right)
                values[j + span] = np.uint32(left + twice - right)
        span //= 2
        groups *= 2
    for j in range(DEGREE):
        values[j] = below(below(values[j], twice), prime)


@kernel
def _inverse_columns(turned: U32, roots: U32, quotients: U32, prime: np.uint32) -> None:
    """First six layers, on the transposed matrix `turned` [64*64]; one root for each column of each group."""
    twice = np.uint32(prime + prime)
    table = 0
    span = 1
    while span < SIDE:
        for group in range(SIDE // 2 // span):
            for k in range(span):
                upper = (2 * span * group + k) * SIDE
                lower = upper + span * SIDE
                for j in range(SIDE):
                    left = turned[upper + j]
                    right = turned[lower + j]
                    difference = np.uint32(left + twice - right)
                    turned[upper + j] = below(np.uint32(left + right), twice)
                    turned[lower + j] = times(difference, roots[table + j], quotients[table + j], prime)
            table += SIDE
        span *= 2


@kernel
def _inverse_rows(values: U32, roots: U32, quotients: U32, prime: np.uint32) -> None:
    """Last six layers, on the matrix `values` [64*64]; one root for each group of rows."""
    twice = np.uint32(prime + prime)
    groups = SIDE // 2
    span = 1
    while span < SIDE:
        for group in range(groups):
            root = roots[groups + group]
            quotient = quotients[groups + group]
            for k in range(span):
                upper = (2 * span * group + k) * SIDE
                lower = upper + span * SIDE
                for j in range(SIDE):
                    left = values[upper + j]
                    right = values[lower + j]
                    difference = np.uint32(left + twice - right)
                    values[upper + j] = below(np.uint32(left + right), twice)
                    values[lower + j] = times(difference, root, quotient, prime)
        span *= 2
        groups //= 2


@kernel
def inverse(values: U32, scratch: U32, columns: U32, rows: U32, prime: np.uint32) -> None:
    """4096 times the inverse transform of `values` [4096], in place: in and out in [0, 2p).

    `scratch` [4096] is overwritten. `columns` [2, 4032] and `rows` [2, 64] are `Tables.columns` and `.rows`.
    """
    for i in range(SIDE):
        for j in range(SIDE):
            scratch[j * SIDE + i] = values[i * SIDE + j]
    _inverse_columns(scratch, columns[0], columns[1], prime)
    for i in range(SIDE):
        for j in range(SIDE):
            values[j * SIDE + i] = scratch[i * SIDE + j]
    _inverse_rows(values, rows[0], rows[1], prime)


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Roots for all three primes, made once in a process. Shapes: prime first; [.., 0] factor, [.., 1]
    quotient.

    primes, negated_inverses uint32[3]; roots uint32[3, 2, 4096] for `forward`; columns uint32[3, 2, 4032] and
    rows uint32[3, 2, 64] for `inverse`.
    """

    primes: U32
    negated_inverses: U32
    roots: U32
    columns: U32
    rows: U32


def reverse_bits(index: int, width: int = LOG_DEGREE) -> int:
    """`index` with its lowest `width` bits in reverse order."""
    return int(format(index, f"0{width}b")[::-1], 2)


def smallest_generator(prime: int) -> int:
    """The smallest generator of the multiplicative group of F_prime."""
    factors, rest, divisor = set[int](), prime - 1, 2
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            factors.add(divisor)
            rest //= divisor
        divisor += 1
    if rest > 1:
        factors.add(rest)
    return next(g for g in range(2, prime) if all(pow(g, (prime - 1) // f, prime) != 1 for f in factors))


def primitive_root(prime: int) -> int:
    """psi of protocol.md §3: g^((p-1)/8192) mod p."""
    return pow(smallest_generator(prime), (prime - 1) // (2 * DEGREE), prime)


def _powers(base: int, prime: int) -> list[int]:
    """base^brv(i) mod prime for i in 0..4095."""
    natural = [1] * DEGREE
    for i in range(1, DEGREE):
        natural[i] = natural[i - 1] * base % prime
    return [natural[reverse_bits(i)] for i in range(DEGREE)]


def _with_quotients(factors: list[int], prime: int) -> list[list[int]]:
    return [factors, [(factor << 32) // prime for factor in factors]]


def _column_roots(inverse_powers: list[int]) -> list[int]:
    """Roots of the first six inverse layers in the order in which `_inverse_columns` walks them."""
    ordered: list[int] = []
    span = 1
    while span < SIDE:
        groups_per_row = SIDE // 2 // span
        first = groups_per_row * SIDE
        for group in range(groups_per_row):
            ordered += [inverse_powers[first + row * groups_per_row + group] for row in range(SIDE)]
        span *= 2
    return ordered


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables for `PRIMES`."""
    roots, columns, rows = [], [], []
    for prime in PRIMES:
        psi = primitive_root(prime)
        roots.append(_with_quotients(_powers(psi, prime), prime))
        inverse_powers = _powers(pow(psi, -1, prime), prime)
        columns.append(_with_quotients(_column_roots(inverse_powers), prime))
        rows.append(_with_quotients(inverse_powers[:SIDE], prime))
    negated = [-pow(prime, -1, 1 << 32) % (1 << 32) for prime in PRIMES]
    arrays = [np.array(x, dtype=np.uint32) for x in (PRIMES, negated, roots, columns, rows)]
    for array in arrays:
        array.setflags(write=False)
    return Tables(*arrays)


@kernel
def _key_transforms(key: NDArray[np.int64], table: U32, primes: U32, out: U32) -> None:
    """Transforms of `key` times 2^32/4096 mod p, so that `montgomery` and `inverse` undo both factors."""
    for j in range(len(primes)):
        prime = primes[j]
        row = out[j]
        for i in range(DEGREE):
            row[i] = np.uint32(key[i] + (np.int64(prime) & (key[i] >> np.int64(63))))
        forward(row, table[j, 0], table[j, 1], prime)


def key_transform(key: NDArray[np.int64]) -> U32:
    """Transform of a short polynomial `key` int64[4096], |key| < 2^29, ready for `montgomery` and `inverse`.

    Returns uint32[3, 4096] in [0, p): the transform of key, times 2^32/4096 mod p.
    """
    ring = tables()
    out = np.empty((len(PRIMES), DEGREE), dtype=np.uint32)
    _key_transforms(key, ring.roots, ring.primes, out)
    for j, prime in enumerate(PRIMES):
        scale = (1 << 32) * pow(DEGREE, -1, prime) % prime
        _scale(out[j], np.uint32(scale), np.uint32((scale << 32) // prime), np.uint32(prime))
    return out


@kernel
def _scale(values: U32, factor: np.uint32, quotient: np.uint32, prime: np.uint32) -> None:
    for i in range(len(values)):
        values[i] = below(times(values[i], factor, quotient, prime), prime)
