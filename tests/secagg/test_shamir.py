"""Shares of a short key (protocol.md §6)."""

import itertools
import os

import numpy as np
import pytest

from secagg import ring, shamir
from secagg.errors import ShareError
from secagg.sealing import ShortKey, fresh_key
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness


def shares_of(key: ShortKey, threshold: int, holders: int) -> dict[int, bytes]:
    return {share.index: share.packed for share in shamir.share_key(key, threshold, holders, os.urandom)}


def test_shares_agree_with_the_twin_byte_for_byte() -> None:
    key = fresh_key(os.urandom)
    shares = shamir.share_key(key, 3, 5, PredictableRandomness(b"share"))
    expected = twin.share(key.coefficients.tolist(), 3, 5, PredictableRandomness(b"share"))
    assert [share.packed for share in shares] == expected
    assert [share.index for share in shares] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("threshold", "holders"), [(1, 1), (2, 3), (3, 4), (4, 5), (5, 7)])
def test_any_threshold_of_shares_opens(threshold: int, holders: int) -> None:
    key = fresh_key(os.urandom)
    shares = shares_of(key, threshold, holders)
    for size in range(threshold, holders + 1):
        for chosen in itertools.combinations(shares, size):
            found = shamir.reconstruct(threshold, {x: shares[x] for x in chosen})
            assert np.array_equal(found, key.coefficients)


def test_the_largest_holder_number_works() -> None:
    key = fresh_key(os.urandom)
    shares = shares_of(key, 3, 255)
    assert np.array_equal(shamir.reconstruct(3, {x: shares[x] for x in (1, 128, 255)}), key.coefficients)


def test_sums_of_shares_are_shares_of_the_sum() -> None:
    keys = [fresh_key(os.urandom) for _ in range(9)]
    shared = [shares_of(key, 3, 4) for key in keys]
    sums = {x: shamir.sum_shares(held[x] for held in shared) for x in range(1, 5)}
    expected = np.sum([key.coefficients for key in keys], axis=0)
    assert np.array_equal(shamir.reconstruct(3, sums), expected)


@pytest.mark.parametrize("value", [0, 1, -1, shamir.FIELD // 2, -(shamir.FIELD // 2)])
def test_the_ends_of_the_centred_range_come_back(value: int) -> None:
    key = ShortKey(np.full(ring.DEGREE, value, dtype=np.int32))
    assert np.array_equal(shamir.reconstruct(2, shares_of(key, 2, 2)), key.coefficients)


def pack(residues: list[int]) -> bytes:
    return twin.join_bits(residues, 31).to_bytes(shamir.SHARE_BYTES, "little")


def test_fewer_shares_fit_every_key_equally() -> None:
    """For t - 1 = 2 shares and any candidate key there is exactly one third share, so they rule nothing out."""
    shares = shares_of(fresh_key(os.urandom), 3, 4)
    held = {x: shamir.unpack_share(shares[x]).tolist() for x in (1, 2)}
    for seed in range(3):
        candidate = np.random.default_rng(seed).integers(-45, 46, ring.DEGREE)
        # Lagrange through (0, candidate), (1, .), (2, .), taken at 3: c - 3a + 3b
        third = [(int(c) - 3 * a + 3 * b) % shamir.FIELD for c, a, b in zip(candidate, held[1], held[2], strict=True)]
        found = shamir.reconstruct(3, {1: shares[1], 2: shares[2], 3: pack(third)})
        assert np.array_equal(found, candidate)


@pytest.mark.parametrize("value", [0, 41])
def test_one_share_is_uniform_whatever_the_key(value: int) -> None:
    key = ShortKey(np.full(ring.DEGREE, value, dtype=np.int32))
    shares = shamir.share_key(key, 2, 3, PredictableRandomness(b"uniform"))
    for share in shares:
        counts = np.bincount(shamir.unpack_share(share.packed) >> 26, minlength=32)
        assert float(((counts - 128) ** 2).sum() / 128) < 31 + 5 * 62**0.5


def test_a_wrong_share_among_more_than_enough_is_noticed() -> None:
    key = fresh_key(os.urandom)
    shares = shares_of(key, 3, 4)
    wrong = shamir.unpack_share(shares[2]).tolist()
    wrong[4095] = (wrong[4095] + 1) % shamir.FIELD
    with pytest.raises(ShareError, match="does not agree"):
        shamir.reconstruct(3, shares | {2: pack(wrong)})


def test_too_few_shares_are_refused() -> None:
    shares = shares_of(fresh_key(os.urandom), 3, 4)
    with pytest.raises(ShareError, match="3 are needed"):
        shamir.reconstruct(3, {1: shares[1], 4: shares[4]})
    with pytest.raises(ShareError, match="no share"):
        shamir.sum_shares([])


@pytest.mark.parametrize("index", [0, -1, 256])
def test_holder_numbers_out_of_range_are_refused(index: int) -> None:
    shares = shares_of(fresh_key(os.urandom), 2, 2)
    with pytest.raises(ShareError, match="numbered"):
        shamir.reconstruct(2, {1: shares[1], index: shares[2]})


@pytest.mark.parametrize(("threshold", "holders"), [(0, 3), (4, 3), (1, 256)])
def test_impossible_thresholds_are_refused(threshold: int, holders: int) -> None:
    with pytest.raises(ShareError, match="threshold"):
        shamir.share_key(fresh_key(os.urandom), threshold, holders, os.urandom)


@pytest.mark.parametrize("packed", [b"", bytes(shamir.SHARE_BYTES - 1), bytes(shamir.SHARE_BYTES + 1)])
def test_shares_of_another_length_are_refused(packed: bytes) -> None:
    with pytest.raises(ShareError, match="bytes"):
        shamir.check_share(packed)


def test_a_residue_outside_the_field_is_refused() -> None:
    with pytest.raises(ShareError, match="below"):
        shamir.check_share(pack([shamir.FIELD] + [0] * (ring.DEGREE - 1)))


def test_shares_do_not_print() -> None:
    share = shamir.share_key(fresh_key(os.urandom), 2, 3, os.urandom)[0]
    assert repr(share) == "KeyShare(index=1, redacted)"
