"""The published steps of `ckks` that are not SEAL's: reproduced one by one, and refused as stated (§13)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.boxes import SessionKey
from secagg.ckks import messages
from secagg.ckks.keys import HolderKey
from secagg.ckks.opened import sums_hash
from secagg.ckks.parameters import ERROR_ROOM, RINGS, WRAP_BYTES, CkksParameters, Ring
from secagg.ckks.residues import U64, add_residues, embed_limbs, pack, primes_of, read_block, read_sums
from secagg.ckks.scheme import PublicContext
from secagg.ckks.wrapping import BlockContext, wrap_block
from secagg.errors import SecaggError
from secagg.identity import Identity, Role
from secagg.signing import Signed, Statement
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, fixed, uniform
from tests.vectors.reading import load, of_array, title

WANTED = load("ckks")


def refused(code: str, action: Callable[[], Any]) -> None:
    """The action raises the typed error of this code."""
    with pytest.raises(SecaggError) as caught:
        action()
    assert caught.value.code == code


def session(case: Json) -> CkksParameters:
    return CkksParameters(case["bits"], case["n_max"], case["length"])


# -- parameters, §13.1 -----------------------------------------------------------------------------------------


def test_rings() -> None:
    for wanted, ring in zip(WANTED["parameters"]["rings"], RINGS.values(), strict=True):
        assert (ring.name, ring.degree, list(ring.primes)) == (wanted["name"], wanted["degree"], wanted["primes"])
        assert (ring.special, ring.security_bits) == (wanted["special"], wanted["security_bits"])
        assert (ring.block_bytes, ring.key_bytes) == (wanted["block_bytes"], wanted["key_bytes"])
        assert ring.wire_bytes == wanted["wire_bytes"]


@pytest.mark.parametrize("case", WANTED["parameters"]["chosen"], ids=str)
def test_the_set_of_a_session(case: Json) -> None:
    found = session(case)
    assert (found.ring.name, found.scale_log2, found.limbs) == (case["ring"], case["scale_log2"], case["limbs"])
    assert (found.blocks, found.upload_bytes) == (case["blocks"], case["upload_bytes"])


@pytest.mark.parametrize("case", WANTED["parameters"]["malformed"], ids=str)
def test_sessions_without_a_set(case: Json) -> None:
    refused(case["code"], lambda: session(case))


# -- coefficients and the wire, §13.1.2, §13.2.2 ---------------------------------------------------------------


def words_of(name: str, ring: Ring) -> U64:
    raw = PredictableRandomness(name.encode())(16 * ring.degree * len(ring.primes))
    words = np.frombuffer(raw, dtype="<u8").reshape(2, len(ring.primes), ring.degree)
    return np.ascontiguousarray(words % primes_of(ring)[:, None])


@pytest.mark.parametrize("case", WANTED["blocks"], ids=lambda case: case["ring"])
def test_ciphertexts_and_their_sum(case: Json) -> None:
    parameters = session(case)
    ring, total = parameters.ring, None
    for client, wanted in enumerate(case["clients"]):
        values = uniform(b"ckks values %d of %d" % (client, case["length"]), case["length"], case["bits"])
        assert values[:4] == wanted["values_head"]
        padded = np.zeros(parameters.blocks * parameters.block_values, np.uint32)
        padded[: len(values)] = values
        limbs = padded[: parameters.block_values].reshape(parameters.limbs, ring.degree)
        residues = words_of(f"zero {client} in {ring.name}", ring)
        base, scale = np.uint64(parameters.base), np.uint64(1 << parameters.scale_log2)
        embed_limbs(limbs, base, scale, primes_of(ring), residues[0])
        block = pack(residues, ring.widths)
        assert (block[:32].hex(), digest(block)) == (wanted["head"], wanted["sha256"])
        assert np.array_equal(read_block(ring, block), residues)
        if total is None:
            total = residues
        else:
            add_residues(total, residues, primes_of(ring))
    assert total is not None
    whole = pack(total, ring.widths)
    assert (whole[:32].hex(), digest(whole)) == (case["sum_head"], case["sum_sha256"])


@pytest.mark.parametrize("case", WANTED["openings"], ids=lambda case: f"{case['bits']} bits: {case['change']}")
def test_sums_that_are_read(case: Json) -> None:
    parameters = session(case)
    ring, degree, scale = parameters.ring, parameters.ring.degree, 1 << parameters.scale_log2
    sums = [value % parameters.base for value in uniform(b"ckks sums", degree * parameters.limbs, 32)]
    held = [sum(sums[j * degree + i] * parameters.base**j for j in range(parameters.limbs)) for i in range(degree)]
    errors = [word % (scale // 2 + 1) - scale // 4 for word in uniform(b"ckks errors", degree, 31)]
    flood = [word % (scale // 5 * 2) - scale // 5 for word in uniform(b"ckks flood", degree, 31)]
    held[0], errors[0] = int(case["first"]), case["first_error"]
    rows = [[(m * scale + e) % prime for m, e in zip(held, errors, strict=True)] for prime in ring.primes]
    found, error, beyond = read_sums(parameters, np.array(rows, np.uint64), np.array(flood, np.int64))
    assert found[:4].tolist() == case["sums_head"]
    assert of_array(found) == case["sums_sha256"]
    assert (error * scale, beyond) == (case["largest_error"], case["beyond"])
    assert (error > ERROR_ROOM or beyond > 0) == case["refused"]


@pytest.mark.parametrize("case", WANTED["malformed"], ids=lambda case: f"{case['ring']}: {title(case)}")
def test_what_nobody_reads(case: Json) -> None:
    ring = next(one for one in RINGS.values() if one.name == case["ring"])
    primes = (*ring.primes, ring.special) if case["what"] == "key" else ring.primes
    raw = bytes(case.get("bytes", 0))
    if "prime" in case:
        polynomials = np.ones((2, len(primes), ring.degree), np.uint64)
        polynomials[1, case["prime"], 5] = case["value"]
        raw = pack(polynomials, tuple(prime.bit_length() for prime in primes))
    reader: Callable[[], Any] = lambda: read_block(ring, raw)  # noqa: E731
    if case["what"] == "key":
        reader = lambda: PublicContext(raw, ring)  # noqa: E731
    refused(case["code"], reader)


# -- blocks that are sealed, §13.2.4 -------------------------------------------------------------------------------


def wrapped_parts() -> tuple[bytes, HolderKey, BlockContext]:
    wanted, kept = WANTED["wrapped"], fixed()["ckks_block"]
    key = HolderKey(SessionKey.from_bytes(bytes.fromhex(wanted["session_key"])), b"")
    return bytes.fromhex(kept["block"]), key, BlockContext(**wanted["context"])


def test_a_sealed_block() -> None:
    block, key, context = wrapped_parts()
    wanted = WANTED["wrapped"]
    assert digest(key.box.public_bytes) == wanted["public_key_sha256"]
    assert context.info.hex() == wanted["info"]
    assert key.unwrap(block, context) == wanted["plaintext"].encode()
    again = wrap_block(wanted["plaintext"].encode(), key.box.public_bytes, context)
    assert len(again) == len(block) == len(wanted["plaintext"]) + wanted["added_bytes"]
    assert key.unwrap(again, context) == wanted["plaintext"].encode()
    assert wanted["added_bytes"] == WRAP_BYTES


@pytest.mark.parametrize("case", WANTED["wrapped"]["malformed"], ids=title)
def test_a_sealed_block_that_does_not_open(case: Json) -> None:
    block, key, context = wrapped_parts()
    match case["change"].split():
        case ["another", "key"]:
            key = HolderKey(SessionKey.generate(), b"")
        case ["another", "index"]:
            context = context.model_copy(update={"index": context.index + 1})
        case ["another", field]:
            context = context.model_copy(update={field: "ab" * 32})
        case ["last", "byte", "changed"]:
            block = block[:-1] + bytes([block[-1] ^ 1])
        case ["first", "byte", "changed"]:
            block = bytes([block[0] ^ 1]) + block[1:]
        case ["last", "byte", "missing"]:
            block = block[:-1]
        case ["a", "byte", "more"]:
            block += b"\0"
        case _:
            block = b""
    refused(case["code"], lambda: key.unwrap(block, context))


def test_hash_of_the_sums() -> None:
    wanted = WANTED["sums_hash"]
    assert sums_hash(np.array(wanted["sums"], np.uint32)) == wanted["hash"]


# -- statements, §1.3 and §13 ----------------------------------------------------------------------------------

STATEMENTS = WANTED["statements"]
SIGNED: dict[str, Any] = {
    "KeyOffer": messages.SignedKeyOffer, "Approval": messages.SignedCkksApproval,
    "CkksUpload": messages.SignedCkksUpload, "UploadSet": messages.SignedUploadSet,
    "SumOpening": messages.SignedSumOpening, "OpeningRefusal": messages.SignedOpeningRefusal,
}  # fmt: skip


def signer() -> Identity:
    """Whoever signed the vectors: a made-up key under the name of a certificate."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(STATEMENTS["signing_key"])).public_key()
    return Identity(Role.KEYHOLDER, "Vectors", "holder", STATEMENTS["signer"], key.public_bytes_raw(), 0, 1, "")


@pytest.mark.parametrize("case", STATEMENTS["cases"], ids=title)
def test_statement(case: Json) -> None:
    signed: Signed[Statement] = SIGNED[case["type"]].parse(json.dumps(case["signed"]))
    statement = signed.verify(signer())
    assert (statement.purpose(), statement.digest) == (case["purpose"], case["digest"])
    assert json.loads(signed.to_bytes()) == case["signed"]


@pytest.mark.parametrize("case", STATEMENTS["malformed"], ids=title)
def test_statement_that_is_refused(case: Json) -> None:
    refused(case["code"], lambda: SIGNED[case["type"]].parse(json.dumps(case["signed"])).verify(signer()))
