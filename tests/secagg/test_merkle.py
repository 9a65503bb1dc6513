"""Merkle trees against RFC 6962 and a naive twin (protocol.md §1.5)."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import HashMismatch
from secagg.merkle import leaf_hash, path, root, verify_path

ITEMS = st.lists(st.binary(max_size=5), min_size=1, max_size=20)


def twin(items: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if len(items) == 1:
        return hashlib.sha256(b"\x00" + items[0]).digest()
    k = 1
    while k * 2 < len(items):
        k *= 2
    return hashlib.sha256(b"\x01" + twin(items[:k]) + twin(items[k:])).digest()


def test_known_roots_of_the_certificate_transparency_test_tree() -> None:
    """The reference data of RFC 6962 implementations: eight leaves, heads after one, two and all."""
    leaves = [bytes.fromhex(h) for h in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )]  # fmt: skip
    heads = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for count, head in heads.items():
        assert root(leaves[:count]).hex() == head


@given(ITEMS)
def test_root_is_the_twins(items: list[bytes]) -> None:
    assert root(items) == twin(items)


@given(ITEMS, st.data())
def test_every_path_verifies_for_its_leaf_only(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    steps = path([leaf_hash(item) for item in items], index)
    verify_path(items[index], index, len(items), steps, root(items))
    with pytest.raises(HashMismatch):
        verify_path(items[index] + b"x", index, len(items), steps, root(items))
    with pytest.raises(HashMismatch):
        verify_path(items[index], index, len(items), (*steps, bytes(32)), root(items))
    with pytest.raises(HashMismatch):
        verify_path(items[index], len(items), len(items), steps, root(items))
    if steps:
        with pytest.raises(HashMismatch):
            verify_path(items[index], index, len(items), steps[1:], root(items))
