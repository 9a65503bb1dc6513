"""Bulk data and what comes with it: blocks, shares, boxes, evidence, share sums, paths (protocol.md §5, §6, §8)."""

from functools import cache

import numpy as np

from secagg import merkle, shamir
from secagg.accumulate import Accumulator
from secagg.boxes import BoxContext, SessionKey, open_box
from secagg.coordinator import check_share_answer
from secagg.evidence import BLINDING_BYTES, MemberEvidence, ShareAnswer
from secagg.keyholder import HeldShare
from secagg.messages import (
    FinalSet,
    SetMember,
    SignedFinalSet,
    SignedShareSum,
    SignedUpload,
)
from secagg.parameters import choose
from secagg.sealing import seal
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.statements import liar
from tests.fuzz.target import Target, genuine, one_seed, text
from tests.twin.predictable import PredictableRandomness
from tests.vectors import session
from tests.vectors.common import CTX, fixed
from tests.vectors.reading import load
from tests.vectors.replay import descriptor, evidence, key_holder, published

PARAMETERS = choose(16, 10, 100)


# -- bulk data: blocks, shares, boxes, evidence ----------------------------------------------------------------


@cache
def sealed_block() -> bytes:
    """A packed ciphertext of one block."""
    values = np.arange(100, dtype=np.uint32)
    return bytes(seal(PARAMETERS, CTX, values, PredictableRandomness(b"fuzz")).ciphertext[0])


def run_block(data: bytes) -> None:
    """Add a block."""
    Accumulator(PARAMETERS).add_block(0, parts_of(data, 1)[0])


@cache
def packed_shares() -> list[bytes]:
    """Shares that fit together."""
    key = seal(PARAMETERS, CTX, np.zeros(100, dtype=np.uint32), PredictableRandomness(b"fuzz")).key
    return [share.packed for share in shamir.share_key(key, 3, 4, PredictableRandomness(b"fuzz shares"))]


def run_share(data: bytes) -> object:
    """A share, alone; with others when it is well formed."""
    share = parts_of(data, 1)[0]
    shamir.check_share(share)
    shamir.sum_shares([packed_shares()[0], share])
    return shamir.reconstruct(3, dict(enumerate([*packed_shares()[:2], share], start=1)))


@cache
def box_parts() -> tuple[SessionKey, BoxContext]:
    """The key and context of the boxes of boxes.json."""
    wanted = load("boxes")
    return SessionKey.from_bytes(bytes.fromhex(wanted["session_key"])), BoxContext(**wanted["context"])


def run_box(data: bytes) -> object:
    """A box."""
    key, context = box_parts()
    found = open_box(parts_of(data, 1)[0], key, context, load_box_size())
    genuine(found.share, PredictableRandomness(b"boxed share")(load_box_size()))
    genuine(found.blinding, PredictableRandomness(b"boxed blinding")(BLINDING_BYTES))
    return found


@cache
def load_box_size() -> int:
    """Bytes of the share in them."""
    return int(load("boxes")["share_bytes"])


def box_seeds() -> list[bytes]:
    """Boxes that open, well formed and not."""
    return [frame([bytes.fromhex(box)]) for box in fixed()["single_boxes"]["boxes"].values()]


HOLDER = key_holder()


def evidence_seeds() -> list[bytes]:
    """What key-holder 0 is shown."""
    shown = evidence([one["upload"]["signer"] for one in published()["clients"]])
    return [frame([how, one.upload.to_bytes(), one.box, b"".join(one.path)]) for one in shown for how in (b"\0", b"\1")]


def run_evidence(data: bytes) -> object:
    """One member's evidence, as a key-holder checks it: an error, a complaint or a share."""
    how, raw, box, joined = parts_of(data, 4)
    upload = liar(SignedUpload.parse(raw), "client 0" if how[:1] == b"\1" else None)
    steps = tuple(joined[at : at + 32] for at in range(0, len(joined), 32))
    statement = upload.statement
    members = (SetMember(client=statement.client, upload_root=statement.upload_root),)
    found = list(HOLDER._shares(descriptor(), members, [MemberEvidence(upload, box, steps)]))
    if how[:1] != b"\1":
        held = found[0][1]
        genuine((statement.digest, held.packed if isinstance(held, HeldShare) else held), first_shares())
    return found


@cache
def first_shares() -> frozenset[tuple[str, bytes]]:
    """Every client's upload with its share for key-holder 0."""
    signed = [SignedUpload.parse(text(one["upload"])).statement.digest for one in published()["clients"]]
    return frozenset((digest, session.sealed(client)[2][0]) for client, digest in enumerate(signed))


@cache
def share_sums() -> list[bytes]:
    """Key-holders' sums over the final set."""
    chosen = [client for client in range(session.CLIENTS) if client != session.COMPLAINED_ABOUT]
    return [
        shamir.sum_shares(session.sealed(client)[2][holder] for client in chosen) for holder in range(session.HOLDERS)
    ]


def share_answer_seeds() -> list[bytes]:
    """Share sums with their statements."""
    pairs = list(zip(published()["share_sums"], share_sums(), strict=True))
    return [frame([how, text(signed), packed]) for signed, packed in pairs for how in (b"\0", b"\1")]


def run_share_answer(data: bytes) -> None:
    """A key-holder's answer."""
    how, raw, share = parts_of(data, 3)
    signed = liar(SignedShareSum.parse(raw), "holder 0" if how[:1] == b"\1" else None)
    check_share_answer(descriptor(), final_set(), ShareAnswer(signed, share))
    if how[:1] != b"\1":
        genuine(share, frozenset(share_sums()))


@cache
def final_set() -> FinalSet:
    """U of the session."""
    return SignedFinalSet.parse(text(published()["final"])).statement


def run_merkle(data: bytes) -> None:
    """An audit path."""
    leaf, numbers, joined, root = parts_of(data, 4)
    index, count = (int.from_bytes(numbers[at : at + 8], "little", signed=True) for at in (0, 8))
    steps = [joined[at : at + 32] for at in range(0, len(joined), 32)]
    merkle.verify_path(leaf, index, min(count, 1 << 62), steps, root)
    if root in merkle_leaves():  # under another number of leaves a path may hold at another index: see §1.5
        genuine(leaf, merkle_leaves()[root])


@cache
def merkle_leaves() -> dict[bytes, frozenset[bytes]]:
    """What each root was made of."""
    trees = load("merkle")["trees"]
    return {bytes.fromhex(one["root"]): frozenset(b"leaf %d" % i for i in range(one["count"])) for one in trees}


def merkle_seeds() -> list[bytes]:
    """Paths of merkle.json."""
    seeds = []
    for tree in load("merkle")["trees"]:
        for one in tree["paths"]:
            numbers = one["index"].to_bytes(8, "little") + tree["count"].to_bytes(8, "little")
            leaf, path = b"leaf %d" % one["index"], b"".join(map(bytes.fromhex, one["path"]))
            seeds.append(frame([leaf, numbers, path, bytes.fromhex(tree["root"])]))
    return seeds


TARGETS: tuple[Target, ...] = (
    Target("block", one_seed(sealed_block), run_block),
    Target("share", lambda: [frame([share]) for share in packed_shares()], run_share),
    Target("box", box_seeds, run_box),
    Target("evidence", evidence_seeds, run_evidence),
    Target("share-answer", share_answer_seeds, run_share_answer),
    Target("merkle", merkle_seeds, run_merkle),
)
