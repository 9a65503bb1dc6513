"""At each step of `masked_session` liars: what must be refused, and what must be complained about (§12)."""

import copy

from tests.twin import masked as twin
from tests.twin.predictable import PredictableRandomness
from tests.twin.sealed import FIELD
from tests.vectors import masked_session as session
from tests.vectors.common import Json
from tests.vectors.masked import LOW_ORDER
from tests.vectors.masked_bending import Edit, again, bent, delivery, replacing, thin, thinned, with_vector
from tests.vectors.masked_certificates import certificate
from tests.vectors.masked_openings import openings
from tests.vectors.masked_session import GONE, MEMBERS, WIDTH, by, ctx, print_of, signed
from tests.vectors.session import DAY, NOW


def document() -> Json:
    """All liars."""
    makers = (descriptors, advertisements, directories, sharings, deliveries, uploads, sets, unmask_requests,
              unmaskings, openings)  # fmt: skip
    return {
        "how": "A case holds what differs from masked_session.json at the step `check`; where a list has a number, the "
        "item with that index is as it was. `code` null: the message is taken, and member 0 complains about member 1",
        "malformed": [case for make in makers for case in make()],
    }


def descriptors() -> list[Json]:
    """§12.1, §12.2.1: no party makes a descriptor of these."""
    edits: list[tuple[str, Edit]] = [
        ("threshold of 3", lambda d: d["masking"].update(threshold=3)),
        ("threshold of 5", lambda d: d["masking"].update(threshold=5)),
        ("four holders of six clients", lambda d: d["masking"].update(neighbours=4)),
        ("two dropouts", lambda d: d["masking"].update(dropouts=2)),
        ("three corrupt clients", lambda d: d["masking"].update(corrupt=3)),
        ("n_min of 2", lambda d: d.update(n_min=2)),
        ("n_min above the roster", lambda d: d.update(n_min=7)),
        ("a roster out of order", lambda d: d["roster"].reverse()),
        ("one client twice", lambda d: d["roster"].insert(0, d["roster"][0])),
        ("the coordinator on the roster", lambda d: d["roster"].append(
            {"certificate": certificate("coordinator"), "weight": 1.0})),
        ("a key-holder on the roster", lambda d: d["roster"].append(
            {"certificate": certificate("holder 0"), "weight": 1.0})),
        ("no weight of 1", lambda d: [one.update(weight=0.5) for one in d["roster"]]),
        ("times out of order", lambda d: d.update(upload_deadline=NOW)),
        ("no time for four rounds", lambda d: d.update(round_seconds=DAY // 4 + 1)),
        ("one bit", lambda d: d.update(bits=1)),
        ("25 bits", lambda d: d.update(bits=25)),
        ("two releases", lambda d: d.update(releases=2)),
        ("another protocol", lambda d: d.update(protocol="sealed")),
        ("another version", lambda d: d.update(version=2)),
        ("an unknown field", lambda d: d.update(note="hello")),
        ("no trained tensor", lambda d: d["plan"]["tensors"][1].update(clip=0.0)),
    ]  # fmt: skip
    found = []
    for change, edit in edits:
        bad = copy.deepcopy(session.descriptor())
        edit(bad)
        changes = {key: value for key, value in bad.items() if session.descriptor()[key] != value} if len(bad) == len(
            session.descriptor()) else {"note": "hello"}  # fmt: skip
        found.append({"check": "descriptor", "change": change, "changes": changes, "code": "malformed"})
    return found


def advertisements() -> list[Json]:
    """§12.3.1, at the coordinator."""
    first, purpose = session.advertisement(0), "masked-advertisement"
    other = twin.public_key(PredictableRandomness(b"another key")(32)).hex()
    low: list[tuple[str, str, Edit]] = []
    for point in LOW_ORDER:
        key = point.to_bytes(32, "little").hex()
        low.append((f"a mask key of low order, {key[:4]}..{key[-2:]}", "malformed", replacing("mask_key", key)))
    edits: list[tuple[str, str, Edit]] = [
        ("of another session", "protocol", lambda s: s.update(ctx="11" * 32)),
        ("in another member's name", "protocol", lambda s: s.update(client=print_of(1))),
        ("a box key of low order", "malformed", lambda s: s.update(box_key="00" * 32)),
        *low,
    ]
    found: list[Json] = [
        {"check": "advertise", "change": change, "advertisement": again(first, purpose, edit), "code": code}
        for change, code, edit in edits
    ]
    stranger = again(first, purpose, lambda s: None, "holder 0")
    forged = {**first, "signature": session.advertisement(1)["signature"]}
    second = again(first, purpose, lambda s: s.update(mask_key=other))
    return [
        *found,
        {"check": "advertise", "change": "by somebody off the roster", "advertisement": stranger, "code": "role"},
        {"check": "advertise", "change": "another signature", "advertisement": forged, "code": "signature"},
        {"check": "advertise", "change": "a second one", "before": True, "advertisement": second, "code": "conflict"},
    ]


def directories() -> list[Json]:
    """§12.3.2: what a lying coordinator shows to member 0."""
    right = [session.advertisement(number) for number in range(session.N)]
    purpose = "masked-advertisement"
    other = twin.public_key(PredictableRandomness(b"another key")(32)).hex()
    own = again(right[0], purpose, lambda s: s.update(mask_key=other))
    forged = {**right[1], "statement": {**right[1]["statement"], "mask_key": other}}
    moved = again(right[1], purpose, lambda s: s.update(ctx="11" * 32))
    stranger = again(right[1], purpose, lambda s: s.update(client="ff" * 32))
    cases: list[tuple[str, str, list[Json]]] = [
        ("too few", "too-few", right[:4]),
        ("without its own", "protocol", right[1:]),
        ("with another key in its name", "protocol", [own, *right[1:]]),
        ("out of order", "malformed", [*right[:4], right[5], right[4]]),
        ("one twice", "malformed", [*right, right[5]]),
        ("a key that its member did not sign", "signature", [right[0], forged, *right[2:]]),
        ("one of another session", "protocol", [right[0], moved, *right[2:]]),
        ("somebody off the roster", "role", [right[0], stranger, *right[2:]]),
    ]
    return [
        {"check": "directory", "change": a, "directory": thin(shown, right), "code": code} for a, code, shown in cases
    ]


def sharings() -> list[Json]:
    """§12.4.5, at the coordinator."""
    right, purpose = session.sharing(0), "masked-sharing"

    def statement(edit: Edit) -> Json:
        return {**right, "signed": again(right["signed"], purpose, edit)}

    cases: list[tuple[str, str, Json]] = [
        ("of another session", "protocol", statement(lambda s: s.update(ctx="11" * 32))),
        ("in another member's name", "protocol", statement(lambda s: s.update(client=print_of(1)))),
        ("of another root", "hash", statement(lambda s: s.update(root="22" * 32))),
        ("of another number of holders", "hash", statement(lambda s: s.update(holders=4))),
        ("less a box", "hash", {**right, "leaves": right["leaves"][:-1]}),
        ("to four holders", "protocol", bent(right, purpose, lambda x: x.pop())),
        ("to itself", "protocol", bent(right, purpose, lambda x: x[0].update(receiver=0))),
        ("to one twice", "protocol", bent(right, purpose, lambda x: x[1].update(receiver=1))),
        ("out of order", "protocol", bent(right, purpose, lambda x: x.reverse())),
        ("to nobody on the roster", "protocol", bent(right, purpose, lambda x: x[-1].update(receiver=6))),
        ("with a box of 63 bytes", "protocol", bent(right, purpose, lambda x: x[0].update(box=x[0]["box"][:-2]))),
    ]
    second = bent(right, purpose, lambda x: x[0].update(commitment="33" * 32))
    return [
        *({"check": "sharing", "change": a, "sharing": thinned(one, right), "code": code} for a, code, one in cases),
        {
            "check": "sharing",
            "change": "a second one",
            "before": True,
            "sharing": thinned(second, right),
            "code": "conflict",
        },
    ]


def resealed(sender: int, share: bytes, *, commit: bool = True, sealed_in: str = "share") -> Json:
    """A sharing of `sender` that holds `share` for member 0, committed to or not."""
    info = twin.box_info(ctx(), print_of(sender), print_of(0), sealed_in)
    peer = twin.public_key(session.keys(0)[1])
    box = twin.seal(share, session.keys(sender)[1], peer, info, PredictableRandomness(b"resealed")).hex()
    made = twin.commitment(ctx(), print_of(sender), print_of(0), share).hex()
    right = session.sharing(sender)
    return bent(right, "masked-sharing", lambda x: x[0].update(box=box, **({"commitment": made} if commit else {})))


def deliveries() -> list[Json]:
    """§12.5.1, at member 0: lies of the coordinator, and shares for which their sender is to blame."""
    right = delivery(session.sharing(1), 0)
    whole = list(range(session.N))
    path = [*right["path"][:-1], "44" * 32]
    moved = {**session.sharing(1), "signed": again(session.sharing(1)["signed"], "masked-sharing", lambda s: s.update(
        ctx="11" * 32))}  # fmt: skip
    lies: list[tuple[str, str, Json]] = [
        ("another path", "hash", {"delivery": {**right, "path": path}}),
        ("another place", "hash", {"delivery": {**right, "index": 1}}),
        ("a place beyond the tree", "hash", {"delivery": {**right, "index": 5}}),
        ("another box", "hash", {"delivery": {**right, "box": delivery(session.sharing(3), 0)["box"]}}),
        ("another commitment", "hash", {"delivery": {**right, "commitment": "55" * 32}}),
        ("a statement that was not signed", "signature", {"delivery": {**right, "signed": {
            **right["signed"], "signature": session.sharing(3)["signed"]["signature"]}}}),
        ("a statement of another session", "protocol", {"delivery": delivery(moved, 0)}),
        ("one share twice", "protocol", {"twice": 1}),
        ("of a member that has not shared", "protocol", {"members": [0, 2, 3, 4, 5]}),
        ("a set without this member", "protocol", {"members": whole[1:]}),
        ("a set out of order", "protocol", {"members": [0, 2, 1, 3, 4, 5]}),
        ("a set with a stranger", "protocol", {"members": [*whole, 6]}),
        ("too few holders", "too-few", {"members": [0, 1, 2, 3], "senders": [1, 2, 3]}),
    ]  # fmt: skip
    share = session.mask_shares(1)[1][0]
    wrong = twin.pack_share([(value + 1) % FIELD for value in twin.residues(share)])
    prime = twin.pack_share([FIELD, *twin.residues(share)[1:]])
    blamed: list[tuple[str, Json]] = [
        ("a box that does not open", bent(session.sharing(1), "masked-sharing", lambda x: x[0].update(box="66" * 64))),
        ("a box of the other round", resealed(1, share, sealed_in="upload")),
        ("another share than committed", resealed(1, wrong, commit=False)),
        ("a residue that is the prime", resealed(1, prime)),
    ]
    return [
        *({"check": "shared", "change": a, "code": code, **shown} for a, code, shown in lies),
        *({"check": "shared", "change": a, "code": None, "delivery": delivery(one, 0)} for a, one in blamed),
    ]


def uploads() -> list[Json]:
    """§12.5.4, at the coordinator."""
    right, purpose = session.upload(0), "masked-upload"
    packed = bytes.fromhex(right["vector"])

    def statement(edit: Edit) -> Json:
        return {"signed": again(right["signed"], purpose, edit)}

    def raw(vector: bytes) -> Json:
        edit = {"vector_root": twin.vector_root(vector, WIDTH), "vector_bytes": len(vector)}
        return {**statement(lambda s: s.update(edit)), "vector": vector.hex()}

    spare = packed[:-1] + bytes([packed[-1] | 0x80])
    cases: list[tuple[str, str, Json]] = [
        ("of another session", "protocol", statement(lambda s: s.update(ctx="11" * 32))),
        ("in another member's name", "protocol", statement(lambda s: s.update(client=print_of(1)))),
        ("a vector that is too long", "size-limit", raw(packed + b"\0")),
        ("a vector that is too short", "size-limit", raw(packed[:-1])),
        ("a bit after the last value", "malformed", raw(spare)),
        ("another vector than it signed", "hash", {"vector": (b"\0" + packed[1:]).hex()}),
        ("of another root", "hash", statement(lambda s: s.update(vector_root="22" * 32))),
        ("of another number of bytes", "hash", statement(lambda s: s.update(vector_bytes=len(packed) + 1))),
        ("boxes that it did not sign", "hash", statement(lambda s: s.update(root="22" * 32))),
        ("shares for too few", "protocol", thinned(bent(right, purpose, lambda x: x.pop()), right)),
        ("a share for itself", "protocol", thinned(bent(right, purpose, lambda x: x[0].update(receiver=0)), right)),
        ("with a larger epsilon", "policy", statement(lambda s: s["privacy"].update(epsilon=9.0))),
        ("without differential privacy", "policy", statement(lambda s: s["privacy"].update(epsilon=None))),
        ("with seeded noise", "policy", statement(lambda s: s["privacy"].update(noise="seeded"))),
        ("with another unit", "policy", statement(lambda s: s["privacy"].update(unit="user", records_per_user=3))),
        ("a second one", "conflict", {"before": True, **with_vector(0, session.vector(1)[2])}),
        ("by one who has not shared", "protocol", {"sharings": [1, 2, 3, 4, 5]}),
        ("to holders that have not shared", "protocol", {"sharings": [0, 1, 2, 3, 4]}),
    ]
    return [{"check": "upload", "change": a, "code": code, **one} for a, code, one in cases]


def sets() -> list[Json]:
    """§12.6.1: U as a lying coordinator shows it to member 0, and endorsements at the coordinator."""

    def shown(edit: Edit, party: str = "coordinator") -> Json:
        statement = copy.deepcopy(session.chosen())
        edit(statement)
        return signed(party, "masked-set", statement)

    cases: list[tuple[str, str, Json]] = [
        ("of another session", "protocol", {"set": shown(lambda s: s.update(ctx="11" * 32))}),
        ("without this member", "protocol", {"set": shown(lambda s: s["members"].remove(0))}),
        ("below n_min", "too-few", {"set": shown(lambda s: s.update(members=[0, 1, 3]))}),
        ("with a member that has not shared", "protocol", {"shared": [0, 1, 3, 4, 5], "set": shown(
            lambda s: s.update(members=[0, 1, 2, 3, 4, 5]))}),
        ("signed by a client", "signature", {"set": shown(lambda s: None, "client 1")}),
        ("a second one", "conflict", {"before": True, "set": shown(lambda s: s["members"].remove(5))}),
    ]  # fmt: skip
    found: list[Json] = [{"check": "set", "change": a, "code": code, **one} for a, code, one in cases]
    right, purpose = session.endorsement(0), "masked-endorsement"
    endorsements: list[tuple[str, str, Json]] = [
        ("of another set", "protocol", again(right, purpose, lambda s: s.update(set_digest="77" * 32))),
        ("of another session", "protocol", again(right, purpose, lambda s: s.update(ctx="11" * 32))),
        ("by one who is not in it", "protocol", session.endorsement(GONE)),
        ("in another member's name", "protocol", again(right, purpose, lambda s: s.update(client=print_of(1)))),
        ("by the coordinator", "role", again(right, purpose, lambda s: None, "coordinator")),
        ("another signature", "signature", {**right, "signature": session.endorsement(1)["signature"]}),
    ]
    return found + [
        {"check": "endorsement", "change": a, "code": code, "endorsement": x} for a, code, x in endorsements
    ]


def unmask_requests() -> list[Json]:
    """§12.6.2, §12.7.1, at member 0."""
    right = [session.endorsement(number) for number in MEMBERS if number != 0]
    other = again(right[0], "masked-endorsement", lambda s: s.update(set_digest="77" * 32))
    outside = again(right[0], "masked-endorsement", lambda s: s.update(ctx="11" * 32))
    forged = {**right[0], "signature": right[1]["signature"]}
    gone = {**session.upload(1), "signed": by(GONE, "masked-upload", {
        **session.upload(1)["signed"]["statement"], "client": print_of(GONE)})}  # fmt: skip
    path = delivery(session.upload(1), 0)
    cases: list[tuple[str, str, Json]] = [
        ("endorsements of fewer than t holders", "endorsement", {"endorsements": right[:3]}),
        ("one endorsement twice", "endorsement", {"endorsements": [*right[:3], right[0]]}),
        ("a member endorsed another set", "endorsement", {"endorsements": [other, *right[1:]]}),
        ("an endorsement of another session", "endorsement", {"endorsements": [outside, *right[1:]]}),
        ("an endorsement that was not signed", "signature", {"endorsements": [forged, *right[1:]]}),
        ("own mask of one who is not in U", "protocol", {"delivery": delivery(gone, 0)}),
        ("one share twice", "protocol", {"twice": 1}),
        ("another path", "hash", {"delivery": {**path, "path": ["44" * 32, *path["path"][1:]]}}),
    ]
    return [{"check": "unmask", "change": a, "code": code, **one} for a, code, one in cases]


def unmaskings() -> list[Json]:
    """§12.7.1, §12.7.2, at the coordinator."""
    right, purpose = session.unmasking(0), "masked-unmasking"
    wrong = twin.pack_share([(value + 1) % FIELD for value in twin.residues(session.held(0, 1))]).hex()
    prime = twin.pack_share([FIELD] * 9).hex()
    spare = {"member": 1, "share": session.mask_shares(1)[1][0].hex()}
    cases: list[tuple[str, str, Edit]] = [
        ("a wrong share of b", "protocol", lambda s: s["self_shares"][0].update(share=wrong)),
        ("a wrong share of a mask key", "protocol", lambda s: s["key_shares"][0].update(share=wrong)),
        ("a residue that is the prime", "protocol", lambda s: s["self_shares"][0].update(share=prime)),
        ("a share of another member", "protocol", lambda s: s["self_shares"][0].update(
            share=session.held(0, 3).hex())),
        ("the mask key of one in U", "protocol", lambda s: s.update(
            self_shares=s["self_shares"][1:], key_shares=[spare, *s["key_shares"]])),
        ("b of one who is not in U", "protocol", lambda s: s.update(
            self_shares=[*s["self_shares"], *s["key_shares"]], key_shares=[])),
        ("both secrets of one", "malformed", lambda s: s["key_shares"].append(spare)),
        ("a share of itself", "protocol", lambda s: s["self_shares"].append({"member": 0, "share": wrong})),
        ("for another set", "protocol", lambda s: s.update(set_digest="77" * 32)),
        ("of another session", "protocol", lambda s: s.update(ctx="11" * 32)),
        ("in another member's name", "protocol", lambda s: s.update(client=print_of(1))),
    ]  # fmt: skip
    found: list[Json] = [
        {"check": "unmasking", "change": change, "unmasking": again(right, purpose, edit), "code": code}
        for change, code, edit in cases
    ]
    outside = by(GONE, purpose, {**right["statement"], "client": print_of(GONE)})
    second = again(right, purpose, lambda s: s.update(key_shares=[]))
    return [
        *found,
        {"check": "unmasking", "change": "by one who is not in U", "unmasking": outside, "code": "protocol"},
        {"check": "unmasking", "change": "a second one", "before": True, "unmasking": second, "code": "conflict"},
    ]
