"""The published vectors: the package must reproduce every one, and refuse every malformed one as stated."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg import expansion, ring, shamir
from secagg.accumulate import Accumulator
from secagg.codec import Quantiser
from secagg.errors import SecaggError
from secagg.gaussian import ERROR_VARIANCE, SECRET_VARIANCE, gaussian
from secagg.opening import open_sum
from secagg.packing import pack_block, unpack_block
from secagg.parameters import SealedParameters, choose
from secagg.sealing import Sealed, seal
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors import generate

PATH = Path(__file__).parents[1] / "vectors" / "sealed.json"
VECTORS: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
CTX = bytes.fromhex(VECTORS["ctx"])


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def parameters_of(case: dict[str, Any]) -> SealedParameters:
    return SealedParameters.from_name(
        case["ring"], case["limbs"], bits=case["bits"], n_max=case["n_max"], length=case["length"]
    )


def test_the_file_is_what_its_script_makes() -> None:
    assert json.loads(json.dumps(generate.document())) == VECTORS
    assert PATH.stat().st_size < 300_000


def test_constants() -> None:
    assert tuple(VECTORS["primes"]) == ring.PRIMES
    assert VECTORS["psi"] == [ring.primitive_root(prime) for prime in ring.PRIMES]
    for name, variance in (("key", SECRET_VARIANCE), ("error", ERROR_VARIANCE)):
        assert VECTORS["thresholds"][name] == [str(t) for t in gaussian(variance).thresholds]


def test_expansion() -> None:
    parameters = choose(16, 1000, 10**6)
    for case in VECTORS["expand"]:
        values = expansion.expand_block(parameters, CTX, case["block"])[case["prime"]]
        assert values[:4].tolist() == case["head"]
        assert digest(values) == case["uint32_sha256"]


@pytest.mark.parametrize("case", VECTORS["quantise"], ids=lambda case: f"{case['bits']} bits")
def test_quantiser(case: dict[str, Any]) -> None:
    inputs = np.array(case["inputs"], dtype=np.float32)
    quantiser = Quantiser.uniform(len(inputs), case["clip"], case["bits"])
    out = np.empty(len(inputs), dtype=np.uint32)
    words = np.array(case["words"], dtype=np.uint32)
    quantiser.encode_range(inputs, case["weight"], 0, len(inputs), words, out)
    assert out.tolist() == case["outputs"]


@pytest.mark.parametrize("case", VECTORS["sessions"], ids=lambda case: case["title"])
def test_session(case: dict[str, Any]) -> None:
    parameters = parameters_of(case)
    setting = twin.Setting(case["limbs"], case["bits"], case["n_max"], case["length"])
    total, held = Accumulator(parameters), []
    for number, client in enumerate(case["clients"]):
        values = np.array(generate.vector(setting, number), dtype=np.uint32)
        assert digest(values.astype(np.uint64)) == client["vector_sha256"]
        sealed = seal(parameters, CTX, values, PredictableRandomness(b"seal %d" % number))
        assert digest(sealed.key.coefficients) == client["key_int32_sha256"]
        assert sealed.ciphertext.nbytes == client["ciphertext_bytes"]
        assert sealed.ciphertext.tobytes()[:32].hex() == client["ciphertext_head"]
        assert digest(sealed.ciphertext) == client["ciphertext_sha256"]
        random = PredictableRandomness(b"share %d" % number)
        shares = shamir.share_key(sealed.key, VECTORS["threshold"], VECTORS["holders"], random)
        assert [hashlib.sha256(share.packed).hexdigest() for share in shares] == client["share_sha256"]
        total.add(sealed.ciphertext)
        held.append(shares)
    assert hashlib.sha256(b"".join(total.blocks())).hexdigest() == case["sum_sha256"]
    sums = {share.index: shamir.sum_shares(s[share.index - 1].packed for s in held) for share in held[0]}
    key_sum = shamir.reconstruct(VECTORS["threshold"], sums)
    assert digest(key_sum) == case["key_sum_int64_sha256"]
    opening = open_sum(parameters, CTX, total, key_sum, len(held))
    assert digest(opening.sums.astype(np.uint64)) == case["opened_uint64_sha256"]
    assert (opening.sums[:8].tolist(), opening.error_max) == (case["opened_head"], case["error_max"])


PARAMETERS = choose(16, 1000, 20_000)


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


def meet(case: dict[str, str]) -> None:
    match case["what"]:
        case "block":
            Accumulator(PARAMETERS).add_block(0, change_bytes(valid().ciphertext[0].tobytes(), case["change"]))
        case "share":
            share = shamir.share_key(valid().key, 2, 3, PredictableRandomness(b""))[0].packed
            shamir.check_share(change_bytes(share, case["change"]))
        case _:
            open_changed(case["change"])


@pytest.mark.parametrize("case", VECTORS["malformed"], ids=lambda case: f"{case['what']}: {case['change']}")
def test_malformed(case: dict[str, str]) -> None:
    with pytest.raises(SecaggError) as caught:
        meet(case)
    assert caught.value.code == case["code"]
