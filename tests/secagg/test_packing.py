"""Residues as bytes."""

import numpy as np
import pytest

from secagg import packing, ring
from secagg.errors import MalformedError
from secagg.parameters import choose
from tests.twin import sealed as twin

PARAMETERS = choose(16, 100, 20_000)


def block(seed: int) -> ring.U32:
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(0, p, ring.DEGREE) for p in ring.PRIMES]).astype(np.uint32)


def test_blocks_pack_by_bit_and_come_back() -> None:
    residues = block(1)
    packed = packing.pack_block(PARAMETERS, residues)
    assert len(packed) == PARAMETERS.block_bytes == 46080
    assert packed == twin.join_bits(residues.reshape(-1).tolist(), 30).to_bytes(46080, "little")
    assert np.array_equal(packing.unpack_block(PARAMETERS, packed), residues)


def test_unaligned_and_writable_buffers_are_read() -> None:
    residues = block(2)
    packed = packing.pack_block(PARAMETERS, residues)
    shifted = memoryview(bytearray(b"x" + packed))[1:]
    assert np.array_equal(packing.unpack_block(PARAMETERS, shifted), residues)


@pytest.mark.parametrize("width", [1, 7, 8, 29, 30, 31])
def test_any_width_packs_and_comes_back(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 1 << width, 64).astype(np.uint32)
    out = np.empty(8 * width, dtype=np.uint8)
    packing.pack_bits(values, np.int64(width), out)
    assert out.tobytes() == twin.join_bits(values.tolist(), width).to_bytes(8 * width, "little")
    back = np.empty(64, dtype=np.uint32)
    packing.unpack_bits(out, np.int64(width), back)
    assert np.array_equal(back, values)


@pytest.mark.parametrize("size", [0, 1, 46079, 46081])
def test_another_length_is_refused(size: int) -> None:
    with pytest.raises(MalformedError, match="bytes"):
        packing.unpack_block(PARAMETERS, bytes(size))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("position", [0, 15, 4095])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_residue_that_is_not_below_its_prime_is_refused(number: int, position: int, excess: int) -> None:
    residues = block(3)
    residues[number, position] = ring.PRIMES[number] + excess
    with pytest.raises(MalformedError, match="1 residues"):
        packing.unpack_block(PARAMETERS, packing.pack_block(PARAMETERS, residues))
