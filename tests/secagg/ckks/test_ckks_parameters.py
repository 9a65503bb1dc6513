"""Rings, scales, limbs, and the bound that makes the rounded sum exact (protocol.md §13.1)."""

import math

import numpy as np
import pytest

from secagg.ckks.parameters import (
    ERROR_ROOM,
    FAILURE_LOG2,
    RINGS,
    CkksParameters,
    Ring,
    RingName,
    noise_bound,
    upload_bytes,
)
from secagg.ckks.residues import add_residues, primes_of, read_sums
from secagg.ckks.scheme import SecretContext
from secagg.errors import ParameterError

SECURITY = 128


def is_prime(number: int) -> bool:
    """Miller and Rabin, with bases that decide it below 2^64."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        value = pow(base, odd, number)
        if value not in (1, number - 1) and all((value := value * value % number) != number - 1 for _ in range(twos)):
            return False
    return True


@pytest.mark.parametrize("name", RINGS)
def test_a_ring_of_the_table_is_sound(name: RingName) -> None:
    """Distinct primes that are 1 mod 2N, and the level with the special prime counted."""
    ring = RINGS[name]
    primes = (*ring.primes, ring.special)
    assert len(set(primes)) == len(primes)
    assert all(prime % (2 * ring.degree) == 1 and is_prime(prime) for prime in primes)
    assert max(ring.primes) < 1 << 53, "doubles hold a residue exactly"
    assert ring.modulus < 1 << 160
    assert ring.security_bits >= SECURITY
    assert 2 * ring.degree * sum(ring.widths) // 8 == ring.block_bytes


def test_the_ring_with_the_shortest_upload_is_taken() -> None:
    for bits in (2, 8, 16, 24):
        for n_max in (2, 10, 20, 100, 256):
            for length in (1, 4096, 12_289, 10**5, 10**6):
                made = CkksParameters(bits, n_max, length)
                limbs = {name: _most_limbs(ring, bits, n_max, length) for name, ring in RINGS.items()}
                assert made.limbs == limbs[made.ring.name]
                assert made.upload_bytes == min(upload_bytes(RINGS[name], limbs[name], length) for name in RINGS)


def _most_limbs(ring: Ring, bits: int, n_max: int, length: int) -> int:
    """By brute force, from the definitions alone."""
    scale = next(s for s in range(41) if noise_bound(ring, n_max, length) <= ERROR_ROOM * 2**s)
    top = n_max * (2**bits - 1)
    return max(k for k in range(120) if ((top + 1) ** k) * 2 ** (scale + 1) <= ring.modulus)


def test_parameters_that_could_change_the_sum_are_refused() -> None:
    """Outside the table's range; sums that do not fit their 32 bits; and there is no way to ask for another scale."""
    for bits, n_max, length in ((1, 4, 1), (25, 4, 1), (16, 1, 1), (16, 100_001, 1), (16, 4, 0), (16, 4, 2**37)):
        with pytest.raises(ParameterError, match="ckks carries"):
            CkksParameters(bits, n_max, length)
    for bits, n_max in ((24, 257), (24, 100_000), (17, 40_000)):
        with pytest.raises(ParameterError, match="exceed 32 bits"):
            CkksParameters(bits, n_max, 10**6)
    assert CkksParameters(24, 256, 10**6).base - 1 < 1 << 32
    with pytest.raises(TypeError):
        CkksParameters(16, 4, 100, scale_log2=5)  # type: ignore[call-arg]


def test_what_no_ring_carries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tight = Ring("n4096q87", 4096, (40_961,), 65_537, 128)
    monkeypatch.setattr("secagg.ckks.parameters.RINGS", {"n4096q87": tight})
    with pytest.raises(ParameterError, match="do not fit a coefficient"):
        CkksParameters(16, 100, 1000)


def binomial_tail(size: int, above: float) -> float:
    """P(|X| > above) for a centred binomial of `size` coins, exactly."""
    half = size // 2
    return float(sum(math.comb(size, half + k) for k in range(-half, half + 1) if abs(k) > above) / 2**size)


def test_the_bound_holds_for_the_failure_that_is_stated() -> None:
    """Its t makes each of its events as rare as it says: counted here for one of them, exactly."""
    assert FAILURE_LOG2 == -60
    ring, length = RINGS["n4096q87"], 1000
    t = 60 * math.log(2) + math.log(16 * (length + ring.degree))
    size = 42 * 400  # 400 errors of SEAL's sampler, added up
    bound = math.sqrt(2 * t * 400 * 10.5)
    assert binomial_tail(size, bound) <= 2 * math.exp(-t)


@pytest.mark.parametrize("name", RINGS)
def test_measured_errors_are_below_the_bound_and_not_absurdly_so(name: RingName) -> None:
    """The bound is for the worst coefficient of all at 2^-60; what is seen is a few powers of two smaller."""
    ring, clients = RINGS[name], 16
    parameters = CkksParameters(16, clients, ring.degree if ring.degree == 4096 else 10**6)
    assert parameters.ring == ring
    secret = SecretContext.generate(ring)
    public, zeros = secret.public, np.zeros((parameters.limbs, ring.degree), np.uint32)
    total = public.read(public.encrypt(parameters, zeros))
    for _ in range(clients - 1):
        add_residues(total, public.read(public.encrypt(parameters, zeros)), primes_of(ring))
    _, error, beyond = read_sums(parameters, secret.decrypt(total), np.zeros(ring.degree, np.int64))
    bound = noise_bound(ring, clients, parameters.length) / 2**parameters.scale_log2
    assert beyond == 0
    assert bound / 2**5 < error < bound <= ERROR_ROOM


@pytest.mark.parametrize(
    ("bits", "n_max", "length"), [(2, 2, 300), (8, 4, 300), (16, 4, 10**6), (16, 1000, 10**6), (24, 256, 10**6)]
)
def test_integers_survive_at_the_edges_of_the_parameters(bits: int, n_max: int, length: int) -> None:
    """Largest values, as many of them as a cohort can have, in a few fresh ciphertexts: exact."""
    parameters = CkksParameters(bits, n_max, length)
    ring, secret = parameters.ring, SecretContext.generate(parameters.ring)
    public, primes = secret.public, primes_of(parameters.ring)
    top = np.full((parameters.limbs, ring.degree), (1 << bits) - 1, dtype=np.uint32)
    top[:, ::3] = 0
    shares = [len(part) for part in np.array_split(np.arange(n_max), min(n_max, 8))]
    total = np.zeros((2, len(primes), ring.degree), np.uint64)
    for share in shares:
        add_residues(total, public.read(public.encrypt(parameters, top * np.uint32(share))), primes)
    sums, error, beyond = read_sums(parameters, secret.decrypt(total), np.zeros(ring.degree, np.int64))
    assert beyond == 0
    assert np.array_equal(sums, (n_max * top.astype(np.uint64)).reshape(-1))
    assert error < ERROR_ROOM
