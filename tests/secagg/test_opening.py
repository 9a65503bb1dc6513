"""Adding and opening: exact sums, and everything that must not open (protocol.md §9)."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import gaussian, ring
from secagg.accumulate import Accumulator
from secagg.errors import EncodingError, MalformedError, OpeningError, ParameterError
from secagg.opening import open_sum
from secagg.packing import pack_block, unpack_block
from secagg.parameters import SealedParameters, choose
from secagg.sealing import Sealed, seal
from tests.twin import sealed as twin

CTX = bytes(range(32))


def upload(parameters: SealedParameters, values: np.ndarray) -> Sealed:
    return seal(parameters, CTX, values.astype(np.uint32), os.urandom)


def add_all(parameters: SealedParameters, uploads: list[Sealed]) -> tuple[Accumulator, np.ndarray]:
    total = Accumulator(parameters)
    for one in uploads:
        total.add(one.ciphertext)
    return total, np.stack([one.key.coefficients for one in uploads]).sum(axis=0, dtype=np.int64)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(
        [(16, 1000), (16, 1030), (16, 10), (8, 10), (8, 300), (4, 3), (2, 2), (24, 4096), (24, 100_000), (20, 64)]
    ),
    st.integers(1, 4),
    st.integers(1, 20_000),
    st.sampled_from(["random", "zero", "largest"]),
    st.integers(0, 2**32),
)
def test_the_opened_sum_is_the_sum_of_the_vectors(
    numbers: tuple[int, int], clients: int, length: int, kind: str, seed: int
) -> None:
    bits, n_max = numbers
    clients = min(clients, n_max)
    parameters = choose(bits, n_max, length)
    generator = np.random.default_rng(seed)
    top = (1 << bits) - 1
    vectors = [
        generator.integers(0, top + 1, length) if kind == "random" else np.full(length, 0 if kind == "zero" else top)
        for _ in range(clients)
    ]
    total, key_sum = add_all(parameters, [upload(parameters, v) for v in vectors])
    opening = open_sum(parameters, CTX, total, key_sum, clients)
    assert np.array_equal(opening.sums, np.sum(vectors, axis=0).astype(np.uint64))
    assert 0 < opening.error_max <= parameters.error_bound(clients)
    assert opening.sums.dtype == (np.uint32 if parameters.base <= 2**32 else np.uint64)


def test_opening_agrees_with_the_twin_on_the_packed_sum() -> None:
    parameters = choose(16, 1000, 13_000)
    setting = twin.Setting(parameters.limbs, 16, 1000, 13_000)
    vectors = [np.random.default_rng(seed).integers(0, 1 << 16, 13_000) for seed in range(3)]
    uploads = [upload(parameters, v) for v in vectors]
    total, key_sum = add_all(parameters, uploads)
    packed = b"".join(total.blocks())
    assert packed == twin.add([one.ciphertext.tobytes() for one in uploads])
    sums, error_max = twin.open_sum(setting, CTX, packed, key_sum.tolist())
    for source in (total, total.blocks(), np.frombuffer(packed, np.uint8).reshape(parameters.blocks, -1)):
        opening = open_sum(parameters, CTX, source, key_sum, 3)
        assert opening.sums.tolist() == sums
        assert opening.error_max == error_max
    assert total.count == 3


def test_a_full_cohort_at_the_largest_value_does_not_wrap() -> None:
    parameters = choose(16, 16, 100)
    values = np.full(100, 65535)
    total, key_sum = add_all(parameters, [upload(parameters, values) for _ in range(16)])
    assert open_sum(parameters, CTX, total, key_sum, 16).sums.tolist() == [16 * 65535] * 100
    with pytest.raises(EncodingError, match="wrap"):
        total.add(upload(parameters, values).ciphertext)


@pytest.mark.parametrize("contributors", [0, 17])
def test_a_cohort_outside_the_parameters_is_refused(contributors: int) -> None:
    parameters = choose(16, 16, 100)
    total, key_sum = add_all(parameters, [upload(parameters, np.zeros(100))])
    with pytest.raises(ParameterError, match="contributors"):
        open_sum(parameters, CTX, total, key_sum, contributors)


def opened_wrongly() -> tuple[SealedParameters, Accumulator, np.ndarray]:
    parameters = choose(16, 1000, 20_000)
    total, key_sum = add_all(parameters, [upload(parameters, np.arange(20_000)) for _ in range(2)])
    return parameters, total, key_sum


def test_a_key_sum_that_is_off_by_one_does_not_open() -> None:
    parameters, total, key_sum = opened_wrongly()
    key_sum[1234] += 1
    with pytest.raises(OpeningError, match="does not open"):
        open_sum(parameters, CTX, total, key_sum, 2)


def test_another_context_does_not_open() -> None:
    parameters, total, key_sum = opened_wrongly()
    with pytest.raises(OpeningError, match="does not open"):
        open_sum(parameters, bytes(32), total, key_sum, 2)


def test_a_missing_ciphertext_does_not_open() -> None:
    parameters = choose(16, 1000, 20_000)
    uploads = [upload(parameters, np.arange(20_000)) for _ in range(2)]
    _, key_sum = add_all(parameters, uploads)
    total, _ = add_all(parameters, uploads[:1])
    with pytest.raises(OpeningError):
        open_sum(parameters, CTX, total, key_sum, 2)


def test_one_changed_residue_does_not_open() -> None:
    parameters, total, key_sum = opened_wrongly()
    blocks = list(total.blocks())
    residues = unpack_block(parameters, blocks[1])
    residues[2, 4000] = (int(residues[2, 4000]) + (1 << 20)) % ring.PRIMES[2]  # stays a residue, whatever it was
    blocks[1] = pack_block(parameters, residues)
    with pytest.raises(OpeningError, match="block 1"):
        open_sum(parameters, CTX, blocks, key_sum, 2)


def test_sum_e_is_held_to_the_honest_bound_not_to_the_modulus() -> None:
    """An error of T*(bound + 200) in one coefficient would still decode; it is refused."""
    parameters, total, key_sum = opened_wrongly()
    added = parameters.plaintext_modulus * (parameters.error_bound(2) + 200)
    assert added < parameters.modulus // 4
    residues = unpack_block(parameters, total.packed_block(0)).astype(np.int64)
    for number, prime in enumerate(ring.PRIMES):
        residues[number, 7] = (residues[number, 7] + added % prime) % prime
    blocks = [pack_block(parameters, residues.astype(np.uint32)), total.packed_block(1)]
    with pytest.raises(OpeningError, match="honest uploads stay within"):
        open_sum(parameters, CTX, blocks, key_sum, 2)


def test_a_limb_above_what_the_contributors_can_sum_to_is_refused() -> None:
    parameters, total, key_sum = opened_wrongly()
    residues = unpack_block(parameters, total.packed_block(0)).astype(np.int64)
    for number, prime in enumerate(ring.PRIMES):
        residues[number, 0] = (residues[number, 0] + 200_000) % prime
    blocks = [pack_block(parameters, residues.astype(np.uint32)), total.packed_block(1)]
    with pytest.raises(OpeningError):
        open_sum(parameters, CTX, blocks, key_sum, 2)


def test_an_impossible_key_sum_is_refused() -> None:
    parameters, total, key_sum = opened_wrongly()
    key_sum[0] = 2 * gaussian.gaussian(gaussian.SECRET_VARIANCE).largest + 1
    with pytest.raises(OpeningError, match="key sum reaches"):
        open_sum(parameters, CTX, total, key_sum, 2)
    others: list[np.ndarray] = [key_sum[:-1], key_sum.astype(np.int32)]
    for other in others:
        with pytest.raises(OpeningError, match="not int64"):
            open_sum(parameters, CTX, total, other, 2)


@pytest.mark.parametrize("change", [lambda blocks: blocks[:-1], lambda blocks: [*blocks, blocks[0]], lambda _: []])
def test_a_sum_with_another_number_of_blocks_is_refused(change: Callable[[list[bytes]], list[bytes]]) -> None:
    parameters, total, key_sum = opened_wrongly()
    with pytest.raises(MalformedError):
        open_sum(parameters, CTX, change(list(total.blocks())), key_sum, 2)
