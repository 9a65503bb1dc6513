"""The published vectors of statements, certificates, trees and boxes: reproduced, and refused as stated."""

import ast
import json
import re
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter

from secagg import merkle, messages
from secagg.boxes import BoxContext, SessionKey, open_box
from secagg.canonical import canonical_bytes, statement_hash, tagged_hash
from secagg.errors import SecaggError
from secagg.identity import Identity, Role, identify
from secagg.signing import Signed, Statement
from tests.vectors.common import Json, digest, fixed
from tests.vectors.reading import load, title

# -- canonical form, §1.1 and §1.2 -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", load("canonical")["values"], ids=lambda case: case["canonical"][:30])
def test_canonical_form(case: Json) -> None:
    value = json.loads(case["canonical"], parse_int=lambda digits: int(digits) if len(digits) < 18 else float(digits))
    found = canonical_bytes(value)
    assert found.decode() == case["canonical"]
    assert tagged_hash("tag", found).hex() == case["hash"]


def test_values_that_are_written_in_other_ways() -> None:
    wanted = load("canonical")
    for text, case in zip(wanted["value_reprs"], wanted["values"], strict=True):
        assert canonical_bytes(ast.literal_eval(text)).decode() == case["canonical"]


BROKEN: dict[str, Any] = {
    "float('nan')": float("nan"), "float('inf')": float("inf"), "2**53": 2**53, "-2**53": -(2**53),
    "'\\ud800'": "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("case", load("canonical")["malformed"], ids=lambda case: case["value_repr"])
def test_what_has_no_canonical_form(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        canonical_bytes({"value": BROKEN[case["value_repr"]]})
    assert caught.value.code == case["code"]


# -- statements, §1.3, §4, §7, §8 ------------------------------------------------------------------------------

SIGNED: dict[str, Any] = {
    "KeyOffer": messages.SignedOffer, "Approval": messages.SignedApproval, "Enrolment": messages.SignedEnrolment,
    "Upload": messages.SignedUpload, "Receipt": messages.SignedReceipt, "Candidate": messages.SignedCandidate,
    "Endorsement": messages.SignedEndorsement, "FinalSet": messages.SignedFinalSet, "ShareSum": messages.SignedShareSum,
    "DegreeAnswer": messages.SignedDegreeAnswer,
}  # fmt: skip


def signer() -> Identity:
    """Whoever signed the vectors: a made-up key under the name of a certificate."""
    wanted = load("statements")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(wanted["signing_key"])).public_key().public_bytes_raw()
    return Identity(Role.CLIENT, "Vectors", "client", wanted["signer"], key, 0, 1, "")


@pytest.mark.parametrize("case", load("statements")["cases"], ids=title)
def test_statement(case: Json) -> None:
    signed: Signed[Statement] = SIGNED[case["type"]].parse(json.dumps(case["signed"]))
    statement = signed.verify(signer())
    assert statement.purpose() == case["purpose"]
    assert digest(canonical_bytes(statement)) == case["canonical_sha256"]
    assert statement.digest == case["digest"] == statement_hash(case["purpose"], statement)
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(load("statements")["signing_key"]))
    assert key.sign(statement.to_sign()).hex() == case["signed"]["signature"]
    assert SIGNED[case["type"]].parse(signed.to_bytes()) == signed


def test_every_signed_type_of_messages_is_among_them() -> None:
    named = {name.removeprefix("Signed") for name in vars(messages) if re.fullmatch(r"Signed\w+", name)}
    assert {"Offer" if kind == "KeyOffer" else kind for kind in SIGNED} == named
    assert {case["type"] for case in load("statements")["cases"]} == set(SIGNED)


def test_upload_root() -> None:
    case = next(case for case in load("statements")["cases"] if case["type"] == "Upload")
    upload = TypeAdapter(messages.Upload).validate_json(json.dumps(case["signed"]["statement"]))
    assert upload.upload_root == load("statements")["upload_root"]


@pytest.mark.parametrize("case", load("statements")["malformed"], ids=title)
def test_statement_that_is_refused(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        SIGNED[case["type"]].parse(json.dumps(case["signed"])).verify(signer())
    assert caught.value.code == case["code"]


# -- certificates, §1.4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", load("certificates")["good"], ids=lambda case: case["institution"])
def test_certificate(case: Json) -> None:
    found = identify(case["pem"])
    assert (found.role, found.institution, found.name) == (Role(case["role"]), case["institution"], case["name"])
    assert (found.fingerprint, found.signing_key.hex()) == (case["fingerprint"], case["signing_key"])
    assert (found.not_before, found.not_after) == (case["not_before"], case["not_after"])


@pytest.mark.parametrize("case", load("certificates")["malformed"], ids=title)
def test_certificate_that_is_refused(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        identify(case["pem"])
    assert caught.value.code == case["code"]


# -- trees, §1.5 -----------------------------------------------------------------------------------------------


def items(count: int) -> list[bytes]:
    return [b"leaf %d" % i for i in range(count)]


@pytest.mark.parametrize("case", load("merkle")["trees"], ids=lambda case: f"{case['count']} leaves")
def test_tree(case: Json) -> None:
    assert merkle.root(items(case["count"])).hex() == case["root"]
    leaves = [merkle.leaf_hash(item) for item in items(case["count"])]
    for one in case["paths"]:
        path = merkle.path(leaves, one["index"])
        assert [step.hex() for step in path] == one["path"]
        root = bytes.fromhex(case["root"])
        merkle.verify_path(items(case["count"])[one["index"]], one["index"], case["count"], path, root)


@pytest.mark.parametrize("case", load("merkle")["malformed"], ids=title)
def test_path_that_is_refused(case: Json) -> None:
    tree = next(one for one in load("merkle")["trees"] if one["count"] == 9)
    data, index, count, root = b"leaf 4", 4, 9, bytes.fromhex(tree["root"])
    path = [bytes.fromhex(step) for step in next(one for one in tree["paths"] if one["index"] == index)["path"]]
    merkle.verify_path(data, index, count, path, root)
    changed: dict[str, tuple[bytes, int, int, list[bytes], bytes]] = {
        "another leaf": (b"leaf 5", index, count, path, root),
        "another index": (data, 5, count, path, root),
        "another count": (data, index, 5, path, root),
        "path too short": (data, index, count, path[:-1], root),
        "path too long": (data, index, count, [*path, path[0]], root),
        "path reversed": (data, index, count, path[::-1], root),
        "index beyond the count": (data, 9, count, path, root),
        "negative index": (data, -1, count, path, root),
        "50 steps": (data, index, count, path * 13, root),
        "another root": (data, index, count, path, bytes(32)),
    }
    with pytest.raises(SecaggError) as caught:
        merkle.verify_path(*changed[case["change"]])
    assert caught.value.code == case["code"]


# -- boxes, §6.2 -----------------------------------------------------------------------------------------------


def box_parts() -> tuple[bytes, SessionKey, BoxContext, int]:
    wanted = load("boxes")
    box = bytes.fromhex(fixed()["single_boxes"]["boxes"]["valid"])
    key = SessionKey.from_bytes(bytes.fromhex(wanted["session_key"]))
    return box, key, BoxContext(**wanted["context"]), wanted["share_bytes"]


def test_box() -> None:
    box, key, context, size = box_parts()
    wanted = load("boxes")
    assert digest(key.public_bytes) == wanted["public_key_sha256"]
    assert digest(context.info) == wanted["info_sha256"]
    found = open_box(box, key, context, size)
    plaintext = b"\x01\x04\x00" + found.share + found.blinding
    assert digest(plaintext) == wanted["cases"][0]["plaintext_sha256"]


@pytest.mark.parametrize("case", [case for case in load("boxes")["cases"] if case["code"]], ids=title)
def test_box_that_opens_and_is_not_well_formed(case: Json) -> None:
    _, key, context, size = box_parts()
    with pytest.raises(SecaggError) as caught:
        open_box(bytes.fromhex(fixed()["single_boxes"]["boxes"][case["name"]]), key, context, size)
    assert caught.value.code == case["code"]


@pytest.mark.parametrize("case", load("boxes")["malformed"], ids=title)
def test_box_that_does_not_open(case: Json) -> None:
    box, key, context, size = box_parts()
    match case["change"].removeprefix("another "):
        case "index":
            context = context.model_copy(update={"index": 2})
        case "key":
            key = SessionKey.generate()
        case "last byte changed":
            box = box[:-1] + bytes([box[-1] ^ 1])
        case "first byte changed":
            box = bytes([box[0] ^ 1]) + box[1:]
        case "last byte missing":
            box = box[:-1]
        case "a byte more":
            box += b"\0"
        case "no bytes":
            box = b""
        case field:
            assert field in BoxContext.model_fields
            context = context.model_copy(update={field: "77" * 32})
    with pytest.raises(SecaggError) as caught:
        open_box(box, key, context, size)
    assert caught.value.code == case["code"]
