"""`choose` over the whole range of sessions: safe, correct, and the tightest there is, or refused (protocol.md §3)."""

import math

import pytest

from secagg import gaussian, ring
from secagg.errors import ParameterError
from secagg.parameters import MAX_COHORT, MAX_LENGTH, MAX_LIMBS, RINGS, SealedParameters, choose
from tests.twin import parameters as twin

COHORTS = (
    2,
    3,
    4,
    5,
    8,
    10,
    13,
    16,
    17,
    30,
    47,
    100,
    316,
    1000,
    3000,
    10_000,
    31_623,
    65_536,
    99_999,
    MAX_COHORT,
)
LENGTHS = (1, 4096, 100_000, 1_000_000, 10**9, MAX_LENGTH)


@pytest.mark.parametrize("bits", range(2, 25))
def test_every_session_up_to_a_hundred_thousand_has_the_tightest_safe_set(bits: int) -> None:
    for n_max in COHORTS:
        for length in LENGTHS:
            chosen = choose(bits, n_max, length)
            assert chosen.security_bits >= 128
            assert chosen.failure_log2 <= -60
            assert chosen.limbs == twin.tightest(bits, n_max, length), (bits, n_max, length)


@pytest.mark.parametrize("n_max", [2, 3, 5, 16, 17, 100, 4096, 100_000])
def test_the_failure_probability_is_what_the_twin_finds(n_max: int) -> None:
    for bits in (2, 8, 16, 24):
        chosen = choose(bits, n_max, 10**6)
        for limbs in range(1, chosen.limbs + 1):
            ours = SealedParameters.from_name(chosen.name, limbs, bits, n_max, 10**6).failure_log2
            theirs = twin.failure_log2(limbs, bits, n_max, 10**6)
            if theirs > -120:  # further out the cut-off of a sample at 58 counts, which the normal twin leaves out
                assert ours == pytest.approx(theirs, abs=0.01)
            else:
                assert ours < -119


def test_the_exact_and_the_normal_twin_meet_where_they_change_over() -> None:
    for bound in (100, 150, 200, 250):
        x = (bound + 0.5) / math.sqrt(2 * 16 * 40.5)
        assert twin.tail_log2(16, bound) == pytest.approx(math.log2(math.erfc(x)), abs=0.02)


def test_no_other_number_of_limbs_is_both_safe_and_tighter() -> None:
    for bits, n_max, length in ((2, 2, 10**6), (4, 10, 10**6), (16, 1000, 10**6), (24, 100_000, 10**6)):
        chosen = choose(bits, n_max, length)
        for limbs in range(1, MAX_LIMBS + 1):
            try:
                other = SealedParameters.from_name(chosen.name, limbs, bits, n_max, length)
            except ParameterError:
                continue
            assert (other.ciphertext_bytes, other.limbs) >= (chosen.ciphertext_bytes, chosen.limbs)


def test_no_session_wants_more_limbs_than_the_limit() -> None:
    assert twin.tightest(2, 2, 29 * 4096) == MAX_LIMBS
    assert twin.failure_log2(MAX_LIMBS + 1, 2, 2, 1) > -60


WITHOUT_NOISE = ((15, 65_535), (16, 32_767), (17, 16_383))


@pytest.mark.parametrize(("bits", "n_max"), WITHOUT_NOISE)
def test_a_coordinator_that_picks_a_cohort_without_noise_is_refused(bits: int, n_max: int) -> None:
    assert any((n_max * (2**bits - 1) + 1) % prime == 0 for prime in ring.PRIMES)
    with pytest.raises(ParameterError, match="no noise"):
        choose(bits, n_max, 100)
    assert choose(bits, n_max + 1, 100).limbs == 1


def test_no_other_cohort_is_without_noise() -> None:
    found = [
        (bits, n_max)
        for bits in range(2, 25)
        for prime in ring.PRIMES
        for n_max in range(-pow(2**bits - 1, -1, prime) % prime, MAX_COHORT + 1, prime)
    ]
    assert sorted(found) == list(WITHOUT_NOISE)


@pytest.mark.parametrize(
    ("bits", "n_max", "length"),
    [
        (1, 10, 100),
        (25, 10, 100),
        (16, 1, 100),
        (16, 100_001, 10**6),
        (16, 10, 0),
        (16, 10, MAX_LENGTH + 1),
    ],
)
def test_what_is_out_of_range_is_refused(bits: int, n_max: int, length: int) -> None:
    with pytest.raises(ParameterError):
        choose(bits, n_max, length)


def test_the_largest_session_of_all_is_carried() -> None:
    chosen = choose(24, MAX_COHORT, MAX_LENGTH)
    assert chosen.limbs == twin.tightest(24, MAX_COHORT, MAX_LENGTH) == 1
    largest_key = MAX_COHORT * gaussian.gaussian(gaussian.SECRET_VARIANCE).largest
    assert largest_key < 2**29  # what key_transform and the field of the shares carry
    assert all(math.prod(row.primes) < 2**90 for row in RINGS.values())
