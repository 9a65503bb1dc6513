"""Vectors of statements, Merkle trees and boxes: canonical form, hashes, signatures, what must be refused."""

import copy
from collections.abc import Callable
from typing import Any

from tests.twin import statements as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, fixed

SEED = PredictableRandomness(b"statements")(32)
HASHES = [digest(b"hash %d" % i) for i in range(6)]
PRIVACY = {
    "unit": "record", "adjacency": "add-or-remove-one", "epsilon": 8.0, "delta": 1e-05, "sampler": "poisson",
    "accountant": "vectors", "noise": "secure",
}  # fmt: skip

VALUES: tuple[Any, ...] = (
    {}, [], None, True, "", 0, -1, 2**53 - 1, -(2**53) + 1, 0.0, -0.0, 1.0, 0.1, 1e-5, 1e-6, 1e-7, 1.5e-7, 1e20, 1e21,
    1.5e21, 123456789.125, 5e-324, 1.7976931348623157e308, 333333333.3333333, 4.5, 9007199254740991.0,
    {"b": 1, "a": [1, 2.0, None], "": "x"}, {"\ufb33": 1, "\U0001f600": 2, "é": 3, "e\u0301": 4},
    'quote " and backslash \\', "\b\f\n\r\t\x00\x1f\x7f", "\u2028 € 😀", {"nested": {"z": [], "a": {}}},
)  # fmt: skip


def canonical() -> Json:
    """§1.1 and §1.2. Values travel as JSON text, so that no reader's floats come between."""
    return {
        "values": [
            {"canonical": twin.canonical(value), "hash": twin.tagged("tag", twin.canonical(value).encode()).hex()}
            for value in VALUES
        ],
        "value_reprs": [repr(value) for value in VALUES],
        "malformed": [
            {"value_repr": "float('nan')", "code": "malformed"},
            {"value_repr": "float('inf')", "code": "malformed"},
            {"value_repr": "2**53", "code": "malformed"},
            {"value_repr": "-2**53", "code": "malformed"},
            {"value_repr": "'\\ud800'", "code": "malformed"},
        ],
    }


def of_each_purpose() -> list[tuple[str, str, Json]]:
    """(type, purpose, statement) of everything that is signed but descriptors and certificates of a release."""
    ctx, client, holder, root, box, other = HASHES
    member, second = {"client": ctx, "upload_root": root}, {"client": client, "upload_root": box}
    members = sorted([member, second], key=lambda one: one["client"])
    complaint = {"client": client, "reason": "box-malformed"}
    return [
        ("KeyOffer", "key-offer", {
            "holder": holder, "public_key": "00ff" * 20, "nonce": other, "created_at": 1, "expires_at": 2,
        }),
        ("Approval", "approval", {"ctx": ctx, "holder": holder}),
        ("Enrolment", "enrolment", {"ctx": ctx, "client": client}),
        ("Upload", "upload", {
            "ctx": ctx, "client": client, "ciphertext_root": root, "boxes_root": box, "ciphertext_bytes": 46080,
            "privacy": PRIVACY,
        }),
        ("Receipt", "receipt", {"ctx": ctx, "client": client, "upload_root": root, "received_at": 1_800_000_000}),
        ("Candidate", "candidate", {"ctx": ctx, "release": 1, "members": members, "fixed_at": 1_800_000_000}),
        ("Endorsement", "endorsement", {
            "ctx": ctx, "release": 1, "stage": "candidate", "set_digest": root, "holder": holder,
            "complaints": [complaint],
        }),
        ("Endorsement", "endorsement", {
            "ctx": ctx, "release": 1, "stage": "final", "set_digest": root, "holder": holder, "complaints": [],
        }),
        ("DegreeAnswer", "degree-answer", {
            "ctx": ctx, "release": 1, "candidate_digest": root, "holder": holder, "index": 1,
            "values": "0123456789abcdef" * 2,
        }),
        ("FinalSet", "final", {
            "ctx": ctx, "release": 1, "candidate_digest": root, "members": members, "answers": sorted([box, other]),
            "degree_answers": [other],
        }),
        ("ShareSum", "share-sum", {
            "ctx": ctx, "release": 1, "final_digest": root, "holder": holder, "index": 255, "share_sha256": other,
        }),
    ]  # fmt: skip


def changed(signed: Json, path: tuple[str | int, ...], value: Any) -> Json:
    """A copy with one place set to another value; `...` takes the place away."""
    out = copy.deepcopy(signed)
    place: Any = out
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return out


def statements() -> Json:
    """Every statement under one key, and what must be refused of it (§1.3)."""
    signer = twin.fingerprint(fixed()["certificates"]["client 0"])
    cases, malformed = list[Json](), list[Json]()
    for kind, purpose, statement in of_each_purpose():
        signed = twin.sign(purpose, statement, SEED, signer)
        cases.append(
            {
                "type": kind,
                "purpose": purpose,
                "canonical_sha256": digest(twin.canonical(statement).encode()),
                "digest": twin.statement_hash(purpose, statement),
                "signed": signed,
            }
        )
        malformed += [{"type": kind, **case} for case in refusals(signed)]
    upload = cases[3]["signed"]["statement"]
    root = twin.tagged(
        "secagg/v1/upload", bytes.fromhex(upload["ctx"] + upload["ciphertext_root"] + upload["boxes_root"])
    )
    moved = twin.sign("receipt", of_each_purpose()[1][2], SEED, signer)
    malformed.append({"type": "Approval", "change": "signed for another purpose", "signed": moved, "code": "signature"})
    malformed += [{"type": kind, **case} for kind, case in by_rule(signer)]
    return {
        "signing_key": SEED.hex(),
        "signer": signer,
        "upload_root": root.hex(),
        "cases": cases,
        "malformed": malformed,
    }


def refusals(signed: Json) -> list[Json]:
    """What must be refused of any signed statement."""
    flipped = ("0" if signed["signature"][0] != "0" else "1") + signed["signature"][1:]
    made = [
        ("signature changed", changed(signed, ("signature",), flipped), "signature"),
        ("another signer", changed(signed, ("signer",), "00" * 32), "signature"),
        ("signature too short", changed(signed, ("signature",), signed["signature"][:-2]), "malformed"),
        ("upper-case signature", changed(signed, ("signature",), "AB" + signed["signature"][2:]), "malformed"),
        ("unknown field", changed(signed, ("statement", "extra"), 1), "malformed"),
        ("unknown field beside the statement", changed(signed, ("extra",), 1), "malformed"),
        ("no statement", changed(signed, ("statement",), ...), "malformed"),
        ("statement is a list", changed(signed, ("statement",), []), "malformed"),
    ]
    first = "ctx" if "ctx" in signed["statement"] else min(signed["statement"])
    made.append((f"no {first}", changed(signed, ("statement", first), ...), "malformed"))
    if "ctx" in signed["statement"]:
        made.append(("ctx changed", changed(signed, ("statement", "ctx"), "11" * 32), "signature"))
        made.append(("ctx of 31 bytes", changed(signed, ("statement", "ctx"), "11" * 31), "malformed"))
        made.append(("ctx is a number", changed(signed, ("statement", "ctx"), 7), "malformed"))
    return [{"change": change, "signed": made_of, "code": code} for change, made_of, code in made]


def by_rule(signer: str) -> list[tuple[str, Json]]:
    """Statements that are signed as they are, and break a rule of their own type."""
    by_type: dict[str, tuple[str, Json]] = {}
    for kind, purpose, statement in of_each_purpose():
        by_type.setdefault(kind, (purpose, statement))
    edits: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("Upload", "no bytes", lambda s: s.update(ciphertext_bytes=0)),
        ("Upload", "bytes as text", lambda s: s.update(ciphertext_bytes="46080")),
        ("Upload", "a fraction of bytes", lambda s: s.update(ciphertext_bytes=46080.5)),
        ("Upload", "negative epsilon", lambda s: s["privacy"].update(epsilon=-1.0)),
        ("Receipt", "before 1970", lambda s: s.update(received_at=-1)),
        ("Candidate", "members out of order", lambda s: s["members"].reverse()),
        ("Candidate", "a member twice", lambda s: s["members"].append(s["members"][-1])),
        ("Candidate", "release 0", lambda s: s.update(release=0)),
        ("Endorsement", "unknown stage", lambda s: s.update(stage="early")),
        ("Endorsement", "complaints at the final stage", lambda s: s.update(stage="final")),
        ("Endorsement", "unknown reason", lambda s: s["complaints"][0].update(reason="dislike")),
        ("Endorsement", "a complaint twice", lambda s: s["complaints"].append(s["complaints"][0])),
        ("FinalSet", "answers out of order", lambda s: s["answers"].reverse()),
        ("FinalSet", "members out of order", lambda s: s["members"].reverse()),
        ("ShareSum", "key-holder 0", lambda s: s.update(index=0)),
        ("ShareSum", "key-holder 256", lambda s: s.update(index=256)),
        ("KeyOffer", "odd hex", lambda s: s.update(public_key="abc")),
        ("KeyOffer", "a key of 5000 bytes", lambda s: s.update(public_key="00" * 5000)),
    ]
    found = []
    for kind, change, edit in edits:
        purpose, statement = by_type[kind]
        bad = copy.deepcopy(statement)
        edit(bad)
        found.append((kind, {"change": change, "signed": twin.sign(purpose, bad, SEED, signer), "code": "malformed"}))
    return found


def merkle() -> Json:
    """Roots and paths (§1.5)."""
    trees = []
    for count in (0, 1, 2, 3, 4, 5, 7, 8, 9, 40):
        leaves = [twin.leaf(b"leaf %d" % i) for i in range(count)]
        at = sorted({0, count // 2, count - 1}) if count else []
        trees.append(
            {
                "count": count,
                "root": twin.tree(leaves).hex(),
                "paths": [{"index": i, "path": [step.hex() for step in twin.audit_path(leaves, i)]} for i in at],
            }
        )
    return {
        "leaves": "leaf I of a tree is the text 'leaf I'",
        "trees": trees,
        "malformed": [
            {"change": change, "code": "hash"}
            for change in (
                "another leaf", "another index", "another count", "path too short", "path too long", "path reversed",
                "index beyond the count", "negative index", "50 steps", "another root",
            )
        ],
    }  # fmt: skip


def boxes() -> Json:
    """Boxes that open, and boxes that must not (§6.2). They were sealed once (fixed.json); here is what they hold."""
    kept = fixed()["single_boxes"]
    seed = PredictableRandomness(b"single box")(96)
    context, cases = kept["context"], []
    for name, box in kept["boxes"].items():
        plaintext = twin.open_box(bytes.fromhex(box), seed, context)
        cases.append({"name": name, "bytes": len(box) // 2, "plaintext_sha256": digest(plaintext)})
    codes = dict.fromkeys(("version 2", "no blinding", "five blindings", "short", "long", "empty"), "malformed")
    return {
        "session_key": seed.hex(),
        "public_key_sha256": digest(twin.session_public(seed)),
        "context": context,
        "info_sha256": digest(twin.box_info(context)),
        "share_bytes": kept["share_bytes"],
        "cases": [case | {"code": codes.get(str(case["name"]))} for case in cases],
        "malformed": [
            {"change": change, "code": "share"}
            for change in (
                "another ctx", "another client", "another holder", "another index", "another ciphertext_root",
                "another key", "last byte changed", "first byte changed", "last byte missing", "a byte more",
                "no bytes",
            )
        ],
    }  # fmt: skip


def single_boxes() -> Json:
    """Seals what `boxes` opens: short shares, to keep the file small. Other bytes each time."""
    seed, size = PredictableRandomness(b"single box")(96), 48
    context = dict(zip(("ctx", "client", "holder", "ciphertext_root"), HASHES, strict=False)) | {"index": 1}
    share, blinding = PredictableRandomness(b"boxed share")(size), PredictableRandomness(b"boxed blinding")(16)
    plain = {
        "valid": twin.box_plaintext(share, blinding),
        "version 2": b"\x02\x04\x00" + share + blinding,
        "no blinding": b"\x01\x00\x00" + share,
        "five blindings": b"\x01\x05\x00" + share + blinding + bytes(4),
        "short": twin.box_plaintext(share, blinding[:-1]),
        "long": twin.box_plaintext(share, blinding + b"\0"),
        "empty": b"",
    }
    sealed = {name: twin.seal_box(one, seed, context).hex() for name, one in plain.items()}
    return {"context": context, "share_bytes": size, "boxes": sealed}
