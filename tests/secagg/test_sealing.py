"""One upload: bytes against the twin, refusals, and what a reused key gives away (protocol.md §5)."""

import math
import os
from collections.abc import Callable

import numpy as np
import pytest

from secagg import ring, sealing
from secagg.codec import Quantiser
from secagg.errors import EncodingError, ParameterError
from secagg.gaussian import ERROR_VARIANCE, gaussian
from secagg.packing import unpack_block
from secagg.parameters import SealedParameters, choose
from secagg.randomness import Randomness
from secagg.sealing import Sealed, ShortKey, fresh_key, seal, seal_update
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness

CTX = bytes(range(32))


def setting(parameters: SealedParameters) -> twin.Setting:
    return twin.Setting(parameters.limbs, parameters.bits, parameters.n_max, parameters.length)


def vector(parameters: SealedParameters, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << parameters.bits, parameters.length).astype(np.uint32)


@pytest.mark.parametrize(
    ("bits", "n_max", "length"),
    [
        (16, 1000, 13_000),
        (16, 10, 4096 * 4),
        (8, 10, 1),
        (24, 4096, 8193),
        (2, 2, 4096 * 29),
        (24, 100_000, 100),
    ],
)
def test_ciphertexts_agree_with_the_twin_byte_for_byte(bits: int, n_max: int, length: int) -> None:
    parameters = choose(bits, n_max, length)
    values = vector(parameters)
    sealed = seal(parameters, CTX, values, PredictableRandomness(b"seal"))
    expected, key = twin.seal(setting(parameters), CTX, values.tolist(), PredictableRandomness(b"seal"))
    assert sealed.key.coefficients.tolist() == key
    assert sealed.ciphertext.tobytes() == expected
    assert sealed.ciphertext.shape == (parameters.blocks, parameters.block_bytes)


def test_the_largest_vector_seals_like_the_twin() -> None:
    parameters = choose(24, 4096, 8192)
    values = np.full(8192, 2**24 - 1, dtype=np.uint32)
    sealed = seal(parameters, CTX, values, PredictableRandomness(b"max"))
    expected, _ = twin.seal(setting(parameters), CTX, values.tolist(), PredictableRandomness(b"max"))
    assert sealed.ciphertext.tobytes() == expected


def test_the_fused_path_seals_what_the_codec_encodes() -> None:
    parameters = choose(16, 100, 30_000)
    quantiser = Quantiser.from_groups([(9_000, 0.1), (20_000, 0.2), (1_000, 0.01)], 16)
    update = np.random.default_rng(2).normal(0, 0.1, 30_000).astype(np.float32)
    fused = seal_update(parameters, quantiser, CTX, update, PredictableRandomness(b"fused"), 0.5)
    later = PredictableRandomness(b"fused")
    encoded = quantiser.encode(update, later, 0.5)
    apart = seal(parameters, CTX, encoded.values, later)
    assert np.array_equal(fused.ciphertext, apart.ciphertext)
    assert fused.clipped == encoded.clipped > 0


def test_every_upload_has_a_key_of_its_own() -> None:
    parameters = choose(16, 100, 100)
    values = vector(parameters)
    one, two = (seal(parameters, CTX, values, os.urandom) for _ in range(2))
    assert not np.array_equal(one.key.coefficients, two.key.coefficients)
    assert not np.array_equal(one.ciphertext, two.ciphertext)


def test_keys_do_not_print_and_can_be_wiped() -> None:
    key = seal(choose(16, 100, 100), CTX, np.zeros(100, np.uint32), os.urandom).key
    assert repr(key) == str(key) == "ShortKey(redacted)"
    assert "ShortKey(redacted)" in f"{Sealed(np.zeros(1, np.uint8), key)}"
    key.wipe()
    assert not key.coefficients.any()


def test_a_value_of_too_many_bits_is_refused() -> None:
    parameters = choose(16, 100, 100)
    values = np.zeros(100, dtype=np.uint32)
    values[99] = 1 << 16
    with pytest.raises(EncodingError, match="65536"):
        seal(parameters, CTX, values, os.urandom)


@pytest.mark.parametrize("values", [np.zeros(99, np.uint32), np.zeros(101, np.uint32), np.zeros(100, np.int64)])
def test_another_length_or_type_is_refused(values: np.ndarray) -> None:
    with pytest.raises(EncodingError, match="not uint32"):
        seal(choose(16, 100, 100), CTX, values, os.urandom)


def test_a_context_of_another_size_is_refused() -> None:
    with pytest.raises(ParameterError, match="ctx"):
        seal(choose(16, 100, 100), b"short", np.zeros(100, np.uint32), os.urandom)


def test_an_update_that_is_not_finite_is_refused_before_anything_is_drawn() -> None:
    random = PredictableRandomness(b"")
    update = np.full(100, np.nan, dtype=np.float32)
    with pytest.raises(EncodingError, match="finite"):
        seal_update(choose(16, 100, 100), Quantiser.uniform(100, 1.0, 16), CTX, update, random)
    assert random.calls == 0


class RepeatsItsFirstSeed:
    """A broken generator: every process it starts in begins with the same seed, which becomes the key."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, size: int, /) -> bytes:
        self.calls += 1
        return bytes(size) if self.calls == 1 else os.urandom(size)


def shares_a_key(parameters: SealedParameters, one: Sealed, two: Sealed) -> bool:
    """The distinguisher: with one key, A*s cancels, and the difference of one vector's uploads is T*(e1 - e2)."""
    q = parameters.modulus
    lifts = [q // p * pow(q // p, -1, p) for p in ring.PRIMES]
    limit = 2 * gaussian(ERROR_VARIANCE).largest * parameters.plaintext_modulus
    first, second = (unpack_block(parameters, sealed.ciphertext[0]).astype(object) for sealed in (one, two))
    mixed = sum((first[j] - second[j]) * lifts[j] for j in range(3)) % q
    assert limit < q // 4
    return all(min(int(v), q - int(v)) <= limit for v in mixed)


@pytest.mark.parametrize(("make", "found"), [(RepeatsItsFirstSeed, True), (lambda: os.urandom, False)])
def test_a_reused_key_is_caught_and_fresh_keys_are_not(make: Callable[[], Randomness], found: bool) -> None:
    parameters = choose(16, 1000, 5_000)
    values = vector(parameters)
    one, two = (seal(parameters, CTX, values, make()) for _ in range(2))
    assert shares_a_key(parameters, one, two) is found


def test_bits_of_a_ciphertext_look_uniform() -> None:
    """Residues of a constant vector fill 64 equal bins like uniform ones (chi-square, 63 degrees of freedom)."""
    parameters = choose(16, 1000, 12_288 * 4)
    sealed = seal(parameters, CTX, np.zeros(parameters.length, np.uint32), PredictableRandomness(b"uniform"))
    for number, prime in enumerate(ring.PRIMES):
        residues = np.concatenate([unpack_block(parameters, block)[number] for block in sealed.ciphertext])
        counts = np.bincount((residues.astype(np.uint64) * 64 // prime).astype(np.int64), minlength=64)
        statistic = float(((counts - len(residues) / 64) ** 2).sum() / (len(residues) / 64))
        assert abs(statistic - 63) < 5 * math.sqrt(2 * 63)


class Broken(Exception):
    """What a thread of a test dies of."""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_seal_that_fails_in_one_thread_leaves_no_key_and_no_transform(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    parameters = choose(16, 10, 4096 * 12)
    keys, jobs, spaces, run = list[ShortKey](), list[sealing._Job](), list[sealing._Workspace](), sealing._Job._run

    def kept(random: Randomness) -> ShortKey:
        keys.append(fresh_key(random))
        return keys[-1]

    def broken(job: sealing._Job, first: int, stop: int, work: sealing._Workspace) -> None:
        jobs.append(job)
        spaces.append(work)
        run(job, first, stop, work)
        assert work.errors.any(), "the workspace held secrets"
        if stop == parameters.blocks:
            raise Broken

    monkeypatch.setattr(sealing, "fresh_key", kept)
    monkeypatch.setattr(sealing._Job, "_run", broken)
    with pytest.raises(Broken):
        seal(parameters, CTX, vector(parameters), os.urandom, threads=threads)
    assert not keys[0].coefficients.any()
    assert not jobs[0].transformed.any()
    assert not any(space.errors.any() or space.values.any() or space.noise.any() for space in spaces)


def test_what_holds_the_key_while_it_seals_prints_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, run = choose(16, 10, 100), sealing._Job._run
    printed = list[str]()

    def printing(job: sealing._Job, first: int, stop: int, work: sealing._Workspace) -> None:
        run(job, first, stop, work)
        printed.extend([repr(job), str(job), repr(work), str(work)])

    monkeypatch.setattr(sealing._Job, "_run", printing)
    sealed = seal(parameters, CTX, vector(parameters), os.urandom)
    assert printed == ["_Job(redacted)"] * 2 + ["_Workspace(redacted)"] * 2
    assert "ShortKey(redacted)" in repr(sealed)
