"""The published vectors of the arithmetic: reproduced one by one, and what is malformed is refused as stated."""

import ast
import hashlib
from collections.abc import Callable
from decimal import Decimal
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from secagg import expansion, ring, shamir
from secagg.accumulate import Accumulator
from secagg.adapter import expand_uniform
from secagg.codec import Quantiser
from secagg.digits import DigitReader
from secagg.errors import SecaggError
from secagg.gaussian import gaussian, sample, stream_bytes
from secagg.opening import open_sum
from secagg.packing import pack_bits, pack_block, unpack_block
from secagg.parameters import SealedParameters, choose
from secagg.randomness import Keystream
from secagg.sealing import Sealed, ShortKey, seal, seal_update
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors import arithmetic, generate
from tests.vectors.common import CTX, FIXED, FOLDER, Json, uniform
from tests.vectors.reading import load, of_array, title

TWINS = FOLDER.parent / "twin"
PARAMETERS = choose(16, 1000, 20_000)


@pytest.mark.parametrize("name", generate.DOCUMENTS)
def test_each_file_is_what_its_script_makes(name: str) -> None:
    path = FOLDER / f"{name}.json"
    assert generate.render(name) == path.read_text(encoding="utf-8")
    assert path.stat().st_size < 200_000


def test_no_file_is_left_out() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*generate.DOCUMENTS, FIXED.stem}


def test_twins_and_scripts_take_nothing_from_the_package() -> None:
    """Otherwise a mistake could be in both, and the vectors would say that it is right."""
    replays = {"replay.py", "masked_replay.py"}  # these are for the tests, not for the scripts
    sources = [path for path in (*FOLDER.glob("*.py"), *TWINS.glob("*.py")) if path.name not in replays]
    assert len(sources) > 20
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[0].startswith("secagg")], path.name
            assert not [name for name in names if name.endswith("replay")], path.name


def parameters_of(case: Json) -> SealedParameters:
    return SealedParameters.from_name("n4096q90", case["limbs"], case["bits"], case["n_max"], case["length"])


# -- parameters, §3 --------------------------------------------------------------------------------------------


def test_primes_and_roots() -> None:
    assert tuple(load("parameters")["primes"]) == ring.PRIMES
    assert load("parameters")["psi"] == [ring.primitive_root(prime) for prime in ring.PRIMES]


def test_chosen_sets() -> None:
    for case in load("parameters")["sets"]:
        assert choose(case["bits"], case["n_max"], case["length"]).limbs == case["limbs"], case


@pytest.mark.parametrize("case", load("parameters")["malformed"], ids=str)
def test_sessions_without_a_set(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        choose(case["bits"], case["n_max"], case["length"])
    assert caught.value.code == case["code"]


# -- encoding, §2 ----------------------------------------------------------------------------------------------


def test_start_values() -> None:
    for case in load("encoding")["start"]:
        seed = bytes.fromhex(load("encoding")["a_seed"])
        values = expand_uniform(seed, case["name"], case["count"], case["bound"])
        assert values[:8].tobytes().hex() == case["head"]
        assert of_array(values) == case["float32_sha256"]


@pytest.mark.parametrize("case", load("encoding")["quantise"], ids=lambda case: f"{case['bits']} bits")
def test_quantiser(case: Json) -> None:
    inputs = np.array(case["inputs"], dtype=np.float32)
    quantiser = Quantiser.uniform(len(inputs), case["clip"], case["bits"])
    out = np.empty(len(inputs), dtype=np.uint32)
    words = np.array(case["words"], dtype=np.uint32)
    quantiser.encode_range(inputs, case["weight"], 0, len(inputs), words, out)
    assert out.tolist() == case["outputs"]


@pytest.mark.parametrize("case", load("encoding")["vectors"], ids=lambda case: f"{case['bits']} bits")
def test_vectors_and_their_mean(case: Json) -> None:
    quantiser = Quantiser.uniform(case["count"], case["clip"], case["bits"])
    total = np.zeros(case["count"], dtype=np.uint64)
    for number, weight in enumerate(case["weights"]):
        raw = np.array(uniform(b"input %d" % number, case["count"], 32), dtype=np.float64)
        values = ((raw / 2**31 - 1) * 1.2 * case["clip"]).astype(np.float32)
        assert of_array(values) == case["input_float32_sha256"][number]
        encoded = quantiser.encode(values, PredictableRandomness(b"encode %d" % number), weight)
        assert of_array(encoded.values.astype(np.uint64)) == case["level_uint64_sha256"][number]
        total += encoded.values
    assert total[:8].tolist() == case["sums_head"]
    mean = quantiser.decode_mean(total, len(case["weights"]), sum(case["weights"]))
    assert mean[:8].tobytes().hex() == case["mean_float32_head"]
    assert of_array(mean) == case["mean_float32_sha256"]


def encode_changed(change: str) -> None:
    quantiser, values, weight = Quantiser.uniform(8, 0.5, 16), np.zeros(8, dtype=np.float32), 1.0
    match change:
        case "a value is NaN":
            values[3] = np.nan
        case "a value is infinite":
            values[3] = -np.inf
        case "one value less":
            values = values[1:]
        case "float64 values":
            values = values.astype(np.float64)
        case _:
            weight = float(change.removeprefix("weight "))
    quantiser.encode(values, PredictableRandomness(b""), weight)


def decode_changed(change: str) -> None:
    quantiser, sums = Quantiser.uniform(8, 0.5, 16), np.zeros(8, dtype=np.uint64)
    match change:
        case "a sum above n times the top level":
            sums[2] = 3 * 65_535 + 1
            quantiser.decode_mean(sums, 3)
        case "one sum less":
            quantiser.decode_mean(sums[1:], 3)
        case "no contributors":
            quantiser.decode_mean(sums, 0)
        case "weights that add up to 0":
            quantiser.decode_mean(sums, 3, 0.0)
        case _:
            raise ValueError(change)


QUANTISERS: dict[str, Callable[[], Quantiser]] = {
    "25 bits": lambda: Quantiser.uniform(8, 0.5, 25),
    "clip 0": lambda: Quantiser.uniform(8, 0.0, 16),
    "no groups": lambda: Quantiser((), 16),
}


def encode_wrongly(what: str, change: str) -> None:
    match what:
        case "encode":
            encode_changed(change)
        case "decode":
            decode_changed(change)
        case "quantiser":
            QUANTISERS[change]()
        case _:
            seal(choose(16, 10, 8), CTX, np.full(8, 65_536, dtype=np.uint32), PredictableRandomness(b""))


@pytest.mark.parametrize("case", load("encoding")["malformed"], ids=title)
def test_what_cannot_be_encoded(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        encode_wrongly(case["what"], case["change"])
    assert caught.value.code == case["code"]


@pytest.mark.parametrize("case", load("limbs")["cases"], ids=lambda case: f"{case['limbs']} limbs")
def test_limbs(case: Json) -> None:
    parameters = parameters_of(case)
    assert (str(parameters.base), str(parameters.plaintext_modulus)) == (case["base"], case["T"])
    residues = np.zeros((3, parameters.degree), dtype=np.uint32)
    residues[:, : len(case["coefficients"])] = np.array([one["residues"] for one in case["coefficients"]]).T
    numbers, out = np.empty((2, parameters.degree), dtype=np.int64), np.empty(parameters.block_values, dtype=np.uint64)
    largest, _ = DigitReader.make(parameters).read(residues, numbers, out)
    limbs = out.reshape(parameters.limbs, -1).T
    for at, one in enumerate(case["coefficients"]):
        assert limbs[at].tolist() == one["limbs"]
        assert numbers[0, at] == one["error"]
    assert largest == 25


# -- sealing, §5 -----------------------------------------------------------------------------------------------


def test_expansion() -> None:
    parameters = choose(16, 1000, 10**6)
    for case in load("expansion")["expand"]:
        values = expansion.expand_block(parameters, bytes.fromhex(load("expansion")["ctx"]), case["block"])[
            case["prime"]
        ]
        assert values[:4].tolist() == case["head"]
        assert of_array(values) == case["uint32_sha256"]


@pytest.mark.parametrize("case", load("expansion")["malformed"], ids=str)
def test_what_expands_to_nothing(case: Json) -> None:
    parameters = choose(16, 1000, 10**6)
    assert parameters.blocks == 82
    with pytest.raises(SecaggError) as caught:
        expansion.expand_block(parameters, bytes(case["ctx_bytes"]), case["block"])
    assert caught.value.code == case["code"]


@pytest.mark.parametrize("case", load("gaussian")["cases"], ids=title)
def test_gaussian(case: Json) -> None:
    distribution = gaussian(Decimal(case["variance"]))
    assert [str(t) for t in distribution.thresholds] == case["thresholds"]
    stream = Keystream(bytes.fromhex(case["stream_key"])).read(stream_bytes(twin.N))
    samples = sample(distribution, stream, twin.N)
    assert samples[:32].tolist() == case["samples_head"]
    assert of_array(samples) == case["samples_int32_sha256"]


def test_packing() -> None:
    wanted = load("packing")
    residues = np.array(
        [[u % p for u in uniform(b"residues %d" % p, twin.N, 32)] for p in ring.PRIMES], dtype=np.uint32
    )
    block = pack_block(PARAMETERS, residues)
    found = {"head": block[:64].hex(), "bytes": len(block), "sha256": hashlib.sha256(block).hexdigest()}
    assert found == wanted["block"]
    assert np.array_equal(unpack_block(PARAMETERS, block), residues)
    values = np.array([u % twin.FIELD for u in uniform(b"shares", twin.N, 32)], dtype=np.uint32)
    share = np.empty(shamir.SHARE_BYTES, dtype=np.uint8)
    pack_bits(values, np.int64(31), share)
    packed = share.tobytes()
    found = {"head": packed[:64].hex(), "bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
    assert found == wanted["share"]
    assert np.array_equal(shamir.unpack_share(packed), values)


def unencoded(case: Json, number: int) -> np.ndarray:
    setting = twin.Setting(case["limbs"], case["bits"], case["n_max"], case["length"])
    return np.array(arithmetic.vector(setting, number), dtype=np.uint32)


@pytest.mark.parametrize("case", load("sealed")["sessions"], ids=title)
def test_sealed(case: Json) -> None:
    parameters, wanted = parameters_of(case), load("sealed")
    total, held = Accumulator(parameters), []
    for number, client in enumerate(case["clients"]):
        values = unencoded(case, number)
        assert of_array(values.astype(np.uint64)) == client["vector_sha256"]
        sealed = seal(parameters, CTX, values, PredictableRandomness(b"seal %d" % number))
        assert of_array(sealed.key.coefficients) == client["key_int32_sha256"]
        assert sealed.ciphertext.nbytes == client["ciphertext_bytes"]
        assert sealed.ciphertext.tobytes()[:32].hex() == client["ciphertext_head"]
        assert of_array(sealed.ciphertext) == client["ciphertext_sha256"]
        random = PredictableRandomness(b"share %d" % number)
        shares = shamir.share_key(sealed.key, wanted["threshold"], wanted["holders"], random)
        assert [hashlib.sha256(share.packed).hexdigest() for share in shares] == client["share_sha256"]
        total.add(sealed.ciphertext)
        held.append(shares)
    assert hashlib.sha256(b"".join(total.blocks())).hexdigest() == case["sum_sha256"]
    sums = {share.index: shamir.sum_shares(s[share.index - 1].packed for s in held) for share in held[0]}
    key_sum = shamir.reconstruct(wanted["threshold"], sums)
    assert of_array(key_sum) == case["key_sum_int64_sha256"]
    opening = open_sum(parameters, CTX, total, key_sum, len(held))
    assert of_array(opening.sums.astype(np.uint64)) == case["opened_uint64_sha256"]
    assert (opening.sums[:8].tolist(), opening.error_max) == (case["opened_head"], case["error_max"])


def test_sealing_an_update_is_sealing_its_levels() -> None:
    """The fused pass takes the streams in the order rounding, key, error (§5.3a)."""
    quantiser, update = Quantiser.uniform(20_000, 0.5, 16), np.linspace(-0.6, 0.6, 20_000, dtype=np.float32)
    at_once = seal_update(PARAMETERS, quantiser, CTX, update, PredictableRandomness(b"fused"))
    random = PredictableRandomness(b"fused")
    levels = quantiser.encode(update, random)
    apart = seal(PARAMETERS, CTX, levels.values, random)
    assert np.array_equal(at_once.ciphertext, apart.ciphertext)


# -- shares, §6.1 ----------------------------------------------------------------------------------------------


def keys() -> list[ShortKey]:
    raw = [uniform(b"key %d" % number, twin.N, 32) for number in range(3)]
    return [ShortKey(np.array([u % 83 - 41 for u in one], dtype=np.int32)) for one in raw]


@pytest.mark.parametrize("case", load("shares")["cases"], ids=lambda case: f"{case['threshold']} of {case['holders']}")
def test_shares(case: Json) -> None:
    wanted = load("shares")
    assert [of_array(key.coefficients) for key in keys()] == wanted["key_int32_sha256"]
    held = [
        shamir.share_key(key, case["threshold"], case["holders"], PredictableRandomness(b"share %d" % i))
        for i, key in enumerate(keys())
    ]
    assert [share.packed[:16].hex() for share in held[0]] == case["share_head"]
    assert [[hashlib.sha256(s.packed).hexdigest() for s in one] for one in held] == case["share_sha256"]
    sums = {x + 1: shamir.sum_shares(one[x].packed for one in held) for x in range(case["holders"])}
    assert [hashlib.sha256(sums[x]).hexdigest() for x in sorted(sums)] == case["sum_sha256"]
    for group in [*combinations(sums, case["threshold"]), tuple(sums)]:
        key_sum = shamir.reconstruct(case["threshold"], {x: sums[x] for x in group})
        assert key_sum[:8].tolist() == wanted["key_sum_head"]
        assert of_array(key_sum) == wanted["key_sum_int64_sha256"]


def share_changed(what: str, change: str) -> None:
    shares = {share.index: share.packed for share in shamir.share_key(keys()[0], 3, 4, PredictableRandomness(b""))}
    match change:
        case "threshold above holders":
            shamir.share_key(keys()[0], 4, 3, PredictableRandomness(b""))
        case "256 holders":
            shamir.share_key(keys()[0], 3, 256, PredictableRandomness(b""))
        case "no share":
            shamir.sum_shares([])
        case "one share too few":
            shamir.reconstruct(3, {1: shares[1], 2: shares[2]})
        case "one share of more than the threshold altered":
            shamir.reconstruct(3, shares | {4: shares[3]})
        case "key-holder 0":
            shamir.reconstruct(3, {0: shares[1], 2: shares[2], 3: shares[3]})
        case "a residue equal to the prime":
            shamir.reconstruct(3, shares | {2: change_bytes(shares[2], "set every bit")})
        case _:
            raise ValueError((what, change))


@pytest.mark.parametrize("case", load("shares")["malformed"], ids=title)
def test_shares_that_are_refused(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        share_changed(case["what"], case["change"])
    assert caught.value.code == case["code"]


# -- malformed blocks, shares, sums ----------------------------------------------------------------------------


def valid() -> Sealed:
    return seal(PARAMETERS, CTX, np.full(20_000, 7, dtype=np.uint32), PredictableRandomness(b"valid"))


def change_bytes(data: bytes, change: str) -> bytes:
    match change:
        case "drop the last byte":
            return data[:-1]
        case "append a zero byte":
            return data + b"\0"
        case "set every bit":
            return b"\xff" * len(data)
    residues = unpack_block(PARAMETERS, data)
    if change == "set the first residue of the second prime to the prime":
        residues[1, 0] = ring.PRIMES[1]
    elif change == "flip bit 20 of the first residue":
        residues[0, 0] ^= 1 << 20
    else:
        raise ValueError(change)
    return pack_block(PARAMETERS, residues)


def open_changed(change: str) -> None:
    sealed = valid()
    key_sum, blocks = sealed.key.coefficients.astype(np.int64), [block.tobytes() for block in sealed.ciphertext]
    match change:
        case "leave out the last block":
            blocks.pop()
        case "add one to the first coefficient":
            key_sum[0] += 1
        case "set the first coefficient to 2^30":
            key_sum[0] = 1 << 30
        case _:
            blocks[0] = change_bytes(blocks[0], change)
    open_sum(PARAMETERS, CTX, blocks, key_sum, 1)


def meet(case: dict[str, Any]) -> None:
    match case["what"]:
        case "block":
            Accumulator(PARAMETERS).add_block(0, change_bytes(valid().ciphertext[0].tobytes(), case["change"]))
        case "share":
            share = shamir.share_key(valid().key, 2, 3, PredictableRandomness(b""))[0].packed
            shamir.check_share(change_bytes(share, case["change"]))
        case _:
            open_changed(case["change"])


@pytest.mark.parametrize("case", load("sealed")["malformed"] + load("packing")["malformed"], ids=title)
def test_malformed(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        meet(case)
    assert caught.value.code == case["code"]
