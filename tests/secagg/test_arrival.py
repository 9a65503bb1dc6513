"""Ciphertexts in pieces (secagg.arrival): the same verdict however they were cut."""

import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.arrival import Arrival
from secagg.errors import HashMismatch, MalformedError
from secagg.merkle import root, rows_root
from secagg.packing import bad_residues, unpack_block
from secagg.parameters import choose
from secagg.sealing import seal

PARAMETERS = choose(16, 10, 30_000)
CIPHERTEXT = seal(PARAMETERS, bytes(32), np.arange(30_000, dtype=np.uint32), os.urandom).ciphertext
RAW, ROOT = CIPHERTEXT.tobytes(), root(memoryview(block) for block in CIPHERTEXT).hex()


def arrived(raw: bytes, cuts: list[int]) -> Arrival:
    arrival, edges = Arrival(PARAMETERS), [0, *sorted(cuts), len(raw)]
    for start, stop in pairwise(edges):
        arrival.feed(memoryview(raw)[start:stop])
    return arrival


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(RAW)), max_size=8))
def test_pieces_of_any_size_make_the_same_whole(cuts: list[int]) -> None:
    arrival = arrived(RAW, cuts)
    assert arrival.size == len(RAW)
    arrival.check(ROOT)


def test_the_root_is_that_of_the_rows_on_any_number_of_threads() -> None:
    assert {rows_root(CIPHERTEXT, threads).hex() for threads in (1, 2, 3, 50)} == {ROOT}


@pytest.mark.parametrize("position", [0, 46_079, 46_080, len(RAW) - 1])
def test_a_flipped_bit_is_another_root(position: int) -> None:
    raw = bytearray(RAW)
    raw[position] ^= 1
    with pytest.raises((HashMismatch, MalformedError)):
        arrived(bytes(raw), [50_000]).check(ROOT)


@pytest.mark.parametrize("raw", [RAW[:-1], RAW + b"x", RAW[46_080:], b""])
def test_another_length_is_another_root(raw: bytes) -> None:
    with pytest.raises(HashMismatch):
        arrived(raw, []).check(ROOT)


@pytest.mark.parametrize("block", [0, 1])
def test_a_residue_out_of_range_is_refused_even_under_its_own_root(block: int) -> None:
    bent = CIPHERTEXT.copy()
    bent[block, :4] = 255
    with pytest.raises(MalformedError, match="not below their prime"):
        arrived(bent.tobytes(), [1000, 60_000]).check(rows_root(bent).hex())


def test_residues_are_counted_as_they_are_unpacked() -> None:
    primes, row = np.array(PARAMETERS.primes, dtype=np.uint32), np.empty(PARAMETERS.degree, dtype=np.uint32)
    assert bad_residues(CIPHERTEXT.view(np.uint32), primes, row) == 0
    bent = np.full((2, PARAMETERS.block_bytes), 255, dtype=np.uint8)
    assert bad_residues(bent.view(np.uint32), primes, row) == 2 * 3 * PARAMETERS.degree
    with pytest.raises(MalformedError, match=f"^{3 * PARAMETERS.degree} residues"):
        unpack_block(PARAMETERS, bent[0])
