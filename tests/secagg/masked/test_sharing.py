"""Shares of a 32-byte secret (protocol.md §12.4.3)."""

import os
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ShareError
from secagg.masked.sharing import FIELD, Secret, Share, combine, split


@given(st.binary(min_size=32, max_size=32))
def test_any_threshold_of_them_give_it_back(raw: bytes) -> None:
    shares = split(Secret(raw), 3, 5, os.urandom)
    for chosen in combinations(range(5), 3):
        assert combine({x + 1: shares[x] for x in chosen}, 3).value == raw


def test_shares_are_the_values_of_a_polynomial_at_1_2_3() -> None:
    """The naive twin: differences of order t vanish, limb by limb, and the value at 0 is the limb."""
    raw = os.urandom(32)
    points = [[int.from_bytes(s.value[i : i + 4], "little") for s in split_once(raw)] for i in range(0, 36, 4)]
    for position, (one, two, three) in enumerate(points):
        limb = (int.from_bytes(raw, "little") >> (30 * position)) & (2**30 - 1)
        assert (3 * one - 3 * two + three - limb) % FIELD == 0


def split_once(raw: bytes) -> tuple[Share, ...]:
    return split(Secret(raw), 3, 3, os.urandom)


def test_many_holders() -> None:
    raw = os.urandom(32)
    shares = split(Secret(raw), 700, 1024, os.urandom)
    assert combine({x: shares[x - 1] for x in range(325, 1025)}, 700).value == raw


def test_too_few_malformed_and_contradicting_shares_are_refused() -> None:
    shares = dict(enumerate(split(Secret(bytes(32)), 2, 3, os.urandom), start=1))
    with pytest.raises(ShareError, match="2 are needed"):
        combine({1: shares[1]}, 2)
    with pytest.raises(ShareError, match="35 bytes"):
        combine({1: Share(bytes(35)), 2: shares[2]}, 2)
    with pytest.raises(ShareError, match="not below"):
        combine({1: Share(b"\xff" * 36), 2: shares[2]}, 2)
    with pytest.raises(ShareError, match="lied"):
        combine({1: Share(bytes(36)), 2: Share((1).to_bytes(4, "little") * 9)}, 2)
    with pytest.raises(ShareError, match="cannot be made"):
        split(Secret(bytes(31)), 2, 3, os.urandom)


def test_secrets_and_shares_do_not_print() -> None:
    text = repr([Secret(b"\x41" * 32), *split(Secret(b"\x41" * 32), 2, 2, os.urandom)])
    assert "41" not in text
    assert "AAAA" not in text
