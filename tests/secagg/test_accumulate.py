"""The running sum: order, refusals, and that a refused block changes nothing."""

import os

import numpy as np
import pytest

from secagg import ring
from secagg.accumulate import Accumulator
from secagg.errors import EncodingError, MalformedError
from secagg.packing import pack_block, unpack_block
from secagg.parameters import choose
from secagg.sealing import seal

PARAMETERS = choose(16, 20, 40_000)
CTX = bytes(range(32))


def ciphertext() -> np.ndarray:
    return seal(PARAMETERS, CTX, np.zeros(PARAMETERS.length, np.uint32), os.urandom).ciphertext


def broken(block: np.ndarray) -> bytes:
    residues = unpack_block(PARAMETERS, block)
    residues[1, 17] = ring.PRIMES[1]
    return pack_block(PARAMETERS, residues)


def test_sums_are_residues_mod_each_prime_in_any_order() -> None:
    uploads = [ciphertext() for _ in range(5)]
    forward, backward = Accumulator(PARAMETERS), Accumulator(PARAMETERS)
    for one in uploads:
        forward.add(one)
    for one in reversed(uploads):
        for block in reversed(range(PARAMETERS.blocks)):
            backward.add_block(block, one[block].tobytes())
    assert list(forward.blocks()) == list(backward.blocks())
    for block in range(PARAMETERS.blocks):
        parts = [unpack_block(PARAMETERS, one[block]).astype(np.uint64) for one in uploads]
        expected = np.sum(parts, axis=0) % np.array(ring.PRIMES, dtype=np.uint64)[:, None]
        assert np.array_equal(forward.residues(block), expected)


def test_memory_does_not_grow_with_the_cohort() -> None:
    total = Accumulator(PARAMETERS)
    before = total._totals.nbytes
    for _ in range(3):
        total.add(ciphertext())
    assert total._totals.nbytes == before == PARAMETERS.blocks * 3 * 4096 * 4


def test_a_malformed_block_is_not_added() -> None:
    total, one = Accumulator(PARAMETERS), ciphertext()
    total.add(one)
    before = list(total.blocks())
    for bad in (broken(one[0]), one[0].tobytes()[:-1], b""):
        with pytest.raises(MalformedError):
            total.add_block(0, bad)
    with pytest.raises(MalformedError, match="residues"):
        total.add([broken(one[0]), *one[1:]])
    assert list(total.blocks()) == before
    assert total.count == 1


@pytest.mark.parametrize("block", [-1, PARAMETERS.blocks])
def test_blocks_that_do_not_exist_are_refused(block: int) -> None:
    with pytest.raises(MalformedError, match="blocks 0 to"):
        Accumulator(PARAMETERS).add_block(block, bytes(PARAMETERS.block_bytes))


def test_half_a_ciphertext_poisons_the_sum() -> None:
    one = ciphertext()
    for bad in ([one[0], broken(one[1]), *one[2:]], one[:-1], [*one, one[0]]):
        total = Accumulator(PARAMETERS)
        with pytest.raises(MalformedError):
            total.add(bad)
        with pytest.raises(MalformedError, match="start again"):
            list(total.blocks())


def test_uneven_blocks_cannot_be_exported() -> None:
    total = Accumulator(PARAMETERS)
    total.add_block(0, ciphertext()[0])
    with pytest.raises(MalformedError, match="part of a ciphertext"):
        total.residues(0)
    with pytest.raises(MalformedError):
        _ = total.count


def test_the_cohort_cannot_exceed_n_max() -> None:
    total, one = Accumulator(PARAMETERS), ciphertext()
    for _ in range(PARAMETERS.n_max):
        total.add(one)
    with pytest.raises(EncodingError, match="20 ciphertexts"):
        total.add(one)
    assert total.count == PARAMETERS.n_max


def test_exported_residues_cannot_be_changed() -> None:
    total = Accumulator(PARAMETERS)
    total.add(ciphertext())
    with pytest.raises(ValueError, match="read-only"):
        total.residues(0)[0, 0] = 1
    total.add(ciphertext())
