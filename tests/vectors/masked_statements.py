"""Every statement that is signed in a masked session, and what must be refused of each (§1.3, §12)."""

import copy
from collections.abc import Callable
from typing import Any

from tests.twin import statements as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest
from tests.vectors.masked_certificates import name
from tests.vectors.statements import HASHES, PRIVACY, refusals

SEED = PredictableRandomness(b"statements")(32)
SIGNER = "client 0"


def of_each_purpose() -> list[tuple[str, str, Json]]:
    """(type, purpose, statement), but for descriptors and releases."""
    ctx, client, root, one, other, third = HASHES
    share = "0102" * 18
    return [
        ("Advertisement", "masked-advertisement", {"ctx": ctx, "client": client, "mask_key": one, "box_key": other}),
        ("Sharing", "masked-sharing", {"ctx": ctx, "client": client, "holders": 1024, "root": root}),
        ("MaskedUpload", "masked-upload", {
            "ctx": ctx, "client": client, "holders": 2, "root": root, "vector_root": one, "vector_bytes": 2397,
            "self_mask": third, "complaints": [3, 99_999], "privacy": PRIVACY,
        }),
        ("SurvivorSet", "masked-set", {"ctx": ctx, "members": [0, 2, 3, 99_999]}),
        ("SetEndorsement", "masked-endorsement", {"ctx": ctx, "client": client, "set_digest": root}),
        ("Unmasking", "masked-unmasking", {
            "ctx": ctx, "client": client, "set_digest": root, "self_shares": [
                {"member": 0, "share": share}, {"member": 4, "share": share}],
            "key_shares": [{"member": 2, "share": share}], "complaints": [],
        }),
    ]  # fmt: skip


EDITS: tuple[tuple[str, str, Callable[[Json], Any]], ...] = (
    ("Advertisement", "a key of 31 bytes", lambda s: s.update(mask_key="00" * 31)),
    ("Advertisement", "a key of 33 bytes", lambda s: s.update(box_key="00" * 33)),
    ("Advertisement", "an upper-case key", lambda s: s.update(box_key="AB" * 32)),
    ("Sharing", "no holder", lambda s: s.update(holders=0)),
    ("Sharing", "1025 holders", lambda s: s.update(holders=1025)),
    ("Sharing", "holders as text", lambda s: s.update(holders="2")),
    ("MaskedUpload", "no bytes", lambda s: s.update(vector_bytes=0)),
    ("MaskedUpload", "2^50 bytes and one", lambda s: s.update(vector_bytes=2**50 + 1)),
    ("MaskedUpload", "complaints out of order", lambda s: s["complaints"].reverse()),
    ("MaskedUpload", "a complaint twice", lambda s: s.update(complaints=[3, 3])),
    ("MaskedUpload", "a complaint about nobody", lambda s: s.update(complaints=[100_000])),
    ("MaskedUpload", "a negative member", lambda s: s.update(complaints=[-1])),
    ("MaskedUpload", "no privacy statement", lambda s: s.pop("privacy")),
    ("MaskedUpload", "epsilon as text", lambda s: s["privacy"].update(epsilon="8")),
    ("SurvivorSet", "members out of order", lambda s: s["members"].reverse()),
    ("SurvivorSet", "a member twice", lambda s: s["members"].insert(0, 0)),
    ("SurvivorSet", "a member that is true", lambda s: s.update(members=[True])),
    ("SurvivorSet", "a member with a fraction", lambda s: s.update(members=[0.5])),
    ("SetEndorsement", "a hash of 31 bytes", lambda s: s.update(set_digest="00" * 31)),
    ("Unmasking", "both secrets of one", lambda s: s["key_shares"].append({"member": 0, "share": "00" * 36})),
    ("Unmasking", "two shares of one", lambda s: s["self_shares"].append(s["self_shares"][0])),
    ("Unmasking", "a share of 35 bytes", lambda s: s["self_shares"][0].update(share="00" * 35)),
    ("Unmasking", "a share of 37 bytes", lambda s: s["self_shares"][0].update(share="00" * 37)),
    ("Unmasking", "a share with more beside it", lambda s: s["self_shares"][0].update(x=1)),
    ("Unmasking", "complaints out of order", lambda s: s.update(complaints=[2, 1])),
)  # fmt: skip
"""Statements that are signed as they are, and break a rule of their own type."""


def document() -> Json:
    """As in statements.json."""
    signer = name(SIGNER)
    made = {kind: (purpose, statement) for kind, purpose, statement in of_each_purpose()}
    cases, malformed = list[Json](), list[Json]()
    for kind, (purpose, statement) in made.items():
        signed = twin.sign(purpose, statement, SEED, signer)
        cases.append({
            "type": kind,
            "purpose": purpose,
            "canonical_sha256": digest(twin.canonical(statement).encode()),
            "digest": twin.statement_hash(purpose, statement),
            "signed": signed,
        })  # fmt: skip
        malformed += [{"type": kind, **case} for case in refusals(signed)]
    for kind, change, edit in EDITS:
        purpose, statement = made[kind]
        bad = copy.deepcopy(statement)
        edit(bad)
        signed = twin.sign(purpose, bad, SEED, signer)
        malformed.append({"type": kind, "change": change, "signed": signed, "code": "malformed"})
    moved = twin.sign("masked-unmasking", made["SetEndorsement"][1], SEED, signer)
    malformed.append(
        {"type": "SetEndorsement", "change": "signed for another purpose", "signed": moved, "code": "signature"}
    )
    return {"signing_key": SEED.hex(), "signer": signer, "cases": cases, "malformed": malformed}
