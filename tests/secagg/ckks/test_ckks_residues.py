"""Kernels of ckks against big integers in Python (protocol.md §13.1.2, §13.2.2, §13.5.4)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.ckks.parameters import RINGS, CkksParameters
from secagg.ckks.residues import U64, add_residues, embed_limbs, pack, primes_of, read_block, read_sums, unpack
from secagg.errors import MalformedError, SizeLimitError

SETS = [CkksParameters(16, 1000, 10**6), CkksParameters(16, 4, 300), CkksParameters(24, 256, 10**6),
        CkksParameters(2, 2, 300), CkksParameters(16, 20, 10**6)]  # fmt: skip


def residues_of(values: list[int], primes: tuple[int, ...]) -> U64:
    return np.array([[value % prime for value in values] for prime in primes], dtype=np.uint64)


def padded(values: list[int], degree: int) -> list[int]:
    return values + [0] * (degree - len(values))


@pytest.mark.parametrize("parameters", SETS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_limbs_go_in_as_one_integer(parameters: CkksParameters, data: st.DataObject) -> None:
    ring, top = parameters.ring, (1 << parameters.bits) - 1
    rows = data.draw(st.lists(st.lists(st.integers(0, top), min_size=4, max_size=4), min_size=parameters.limbs,
                              max_size=parameters.limbs))  # fmt: skip
    before = data.draw(st.lists(st.integers(0, ring.modulus - 1), min_size=4, max_size=4))
    limbs = np.zeros((parameters.limbs, ring.degree), np.uint32)
    limbs[:, :4] = rows
    out = residues_of(padded(before, ring.degree), ring.primes)
    embed_limbs(limbs, np.uint64(parameters.base), np.uint64(1 << parameters.scale_log2), primes_of(ring), out)
    for i in range(4):
        whole = sum(rows[j][i] * parameters.base**j for j in range(parameters.limbs)) << parameters.scale_log2
        assert [int(one) for one in out[:, i]] == [(before[i] + whole) % prime for prime in ring.primes]


@pytest.mark.parametrize("parameters", SETS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_sums_come_out_of_a_coefficient_with_its_error_and_noise(
    parameters: CkksParameters, data: st.DataObject
) -> None:
    ring, scale = parameters.ring, 1 << parameters.scale_log2
    sums = data.draw(st.lists(st.integers(0, parameters.base - 1), min_size=parameters.limbs,
                              max_size=parameters.limbs))  # fmt: skip
    error = data.draw(st.integers(-scale // 4, scale // 4))
    noise = data.draw(st.integers(-scale // 4 + 1, scale // 4 - 1))
    whole = sum(value * parameters.base**j for j, value in enumerate(sums)) * scale + error
    residues = residues_of(padded([whole], ring.degree), ring.primes)
    drawn = np.zeros(ring.degree, np.int64)
    drawn[0] = noise
    found, largest, beyond = read_sums(parameters, residues, drawn)
    assert [int(found[j * ring.degree]) for j in range(parameters.limbs)] == sums
    assert (largest, beyond) == (abs(error) / scale, 0)


@pytest.mark.parametrize("parameters", SETS)
def test_what_leaves_its_limbs_is_seen(parameters: CkksParameters) -> None:
    ring, scale, top = parameters.ring, 1 << parameters.scale_log2, parameters.base**parameters.limbs
    quiet = np.zeros(ring.degree, np.int64)
    for value, seen in ((top - 1, 0), (top, 1), (-1, 1), (-top, 1), (ring.modulus // 2 // scale, 1), (0, 0)):
        _, _, beyond = read_sums(parameters, residues_of(padded([value * scale], ring.degree), ring.primes), quiet)
        assert bool(beyond) == bool(seen), value
    half = residues_of(padded([scale // 2], ring.degree), ring.primes)
    assert read_sums(parameters, half, quiet)[1] == 0.5


@pytest.mark.parametrize("name", RINGS)
def test_packing_is_that_of_one_long_number(name: str) -> None:
    """Residue i of a prime of w bits occupies bits w i to w (i+1) - 1, least first; polynomials and primes in order."""
    ring = next(one for one in RINGS.values() if one.name == name)
    generator = np.random.default_rng(5)
    found = np.stack([generator.integers(0, prime, (2, ring.degree), dtype=np.uint64) for prime in ring.primes], axis=1)
    raw = pack(found, ring.widths)
    expected = b"".join(
        sum(int(one) << (width * i) for i, one in enumerate(found[half, p])).to_bytes(
            ring.degree * width // 8, "little"
        )
        for half in range(2)
        for p, width in enumerate(ring.widths)
    )
    assert raw == expected
    assert np.array_equal(read_block(ring, raw), found)


def test_what_is_no_ciphertext_is_refused() -> None:
    ring = RINGS["n4096q87"]
    zeros = bytes(ring.block_bytes)
    with pytest.raises(MalformedError, match="hides nothing"):
        read_block(ring, zeros)
    with pytest.raises(MalformedError, match="below its prime"):
        read_block(ring, b"\xff" * ring.block_bytes)
    for size in (0, 1, ring.block_bytes - 1, ring.block_bytes + 8):
        with pytest.raises(SizeLimitError, match="in this session"):
            read_block(ring, bytes(size))
    for p, prime in enumerate(ring.primes):
        found = np.ones((2, 2, ring.degree), np.uint64)
        found[1, p, 7] = prime
        with pytest.raises(MalformedError, match="below its prime"):
            unpack(pack(found, ring.widths), ring.degree, ring.primes, "a ciphertext")


def test_sums_of_ciphertexts_wrap_at_each_prime() -> None:
    ring = RINGS["n8192q175"]
    primes = primes_of(ring)
    last = np.broadcast_to((primes - np.uint64(1))[:, None], (2, 3, ring.degree)).copy()
    total = last.copy()
    add_residues(total, last, primes)
    assert np.array_equal(total, last - np.uint64(1))
    assert math.log2(ring.modulus) > 158
