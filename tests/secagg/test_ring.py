"""Transforms against their definition, and products against the schoolbook."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import ring
from tests.twin import sealed as twin

PRIME_NUMBERS = range(3)


def uniform(seed: int, prime: int) -> ring.U32:
    return np.random.default_rng(seed).integers(0, prime, ring.DEGREE).astype(np.uint32)


def inverse_transform(values: ring.U32, number: int) -> list[int]:
    tables = ring.tables()
    out, scratch = values.copy(), np.empty_like(values)
    ring.inverse(out, scratch, tables.columns[number], tables.rows[number], tables.primes[number])
    prime = ring.PRIMES[number]
    return [int(value) * pow(ring.DEGREE, -1, prime) % prime for value in out]


def test_the_primes_are_the_three_largest_that_fit() -> None:
    assert twin.primes() == ring.PRIMES
    assert all(ring.primitive_root(prime) == twin.psi(prime) for prime in ring.PRIMES)


@pytest.mark.parametrize("number", PRIME_NUMBERS)
def test_forward_gives_evaluations_in_the_stated_order(number: int) -> None:
    prime, tables = ring.PRIMES[number], ring.tables()
    polynomial = uniform(number, prime)
    values = polynomial.copy()
    ring.forward(values, tables.roots[number, 0], tables.roots[number, 1], tables.primes[number])
    psi = twin.psi(prime)
    for i in (0, 1, 2, 63, 64, 1000, 4095):
        assert values[i] == twin.evaluate(polynomial.tolist(), pow(psi, 2 * twin.brv(i) + 1, prime), prime)


@pytest.mark.parametrize("number", PRIME_NUMBERS)
def test_inverse_interpolates(number: int) -> None:
    values = uniform(10 + number, ring.PRIMES[number])
    assert inverse_transform(values, number) == twin.interpolate(values.tolist(), ring.PRIMES[number])


@pytest.mark.parametrize("number", PRIME_NUMBERS)
@pytest.mark.parametrize("fill", ["zero", "largest", "lazy"])
def test_inverse_at_the_edges_of_the_lazy_range(number: int, fill: str) -> None:
    prime = ring.PRIMES[number]
    value = {"zero": 0, "largest": prime - 1, "lazy": 2 * prime - 1}[fill]
    values = np.full(ring.DEGREE, value, dtype=np.uint32)
    assert inverse_transform(values, number) == twin.interpolate([value % prime] * ring.DEGREE, prime)


def test_twin_interpolates_what_it_transforms() -> None:
    prime = ring.PRIMES[0]
    polynomial = [int(x) for x in uniform(3, prime)[:16]]
    assert twin.interpolate(twin.transform(polynomial, prime), prime) == polynomial


def test_twin_products_agree_with_the_schoolbook() -> None:
    prime = ring.PRIMES[1]
    a, b = ([int(x) for x in uniform(seed, prime)[:32]] for seed in (4, 5))
    assert twin.multiply(a, b, prime) == twin.multiply_schoolbook(a, b, prime)


@given(st.integers(0, 2**62 - 2**50))
@settings(deadline=None)
def test_montgomery_divides_by_a_word(value: int) -> None:
    tables = ring.tables()
    for number in PRIME_NUMBERS:
        prime = ring.PRIMES[number]
        if value >= prime << 32:
            continue
        found = int(ring.montgomery(np.uint64(value), tables.primes[number], tables.negated_inverses[number]))
        assert found < 2 * prime
        assert (found << 32) % prime == value % prime


@given(st.integers(0, 2**32 - 1), st.integers(0, ring.PRIMES[2] - 1))
@settings(max_examples=200, deadline=None)
def test_times_multiplies_any_word(value: int, factor: int) -> None:
    for prime in ring.PRIMES:
        quotient = np.uint32((factor << 32) // prime)
        found = int(ring.times(np.uint32(value), np.uint32(factor), quotient, np.uint32(prime)))
        assert found < 2 * prime
        assert found % prime == value * factor % prime


def test_key_transform_handles_negative_coefficients() -> None:
    key = np.random.default_rng(6).integers(-40_000, 40_000, ring.DEGREE)
    hat = ring.key_transform(key)
    for number, prime in enumerate(ring.PRIMES):
        scale = pow(2**32, -1, prime) * ring.DEGREE % prime
        point = pow(twin.psi(prime), 2 * twin.brv(77) + 1, prime)
        assert int(hat[number, 77]) * scale % prime == twin.evaluate(key.tolist(), point, prime)
