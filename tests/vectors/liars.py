"""The session of `session`, and at each of its steps liars who must be refused (§4.2, §7.1, §8)."""

import copy
from collections.abc import Callable
from typing import Any

from tests.vectors.common import Json
from tests.vectors.session import DAY, NOW, certificate, descriptor, endorsement, name, signed
from tests.vectors.session import document as session


def document() -> Json:
    """The session and its liars."""
    whole = session()
    return whole | {"malformed": liars(whole)}


def liars(whole: Json) -> list[Json]:
    """At each step, statements that are signed by the right party and must be refused."""

    def again(title: str, purpose: str, one: Json, edit: Callable[[Json], Any]) -> Json:
        statement = copy.deepcopy(one["statement"])
        edit(statement)
        return signed(title, purpose, statement)

    uploads = [client["upload"] for client in whole["clients"]]
    candidate, final, answers = whole["candidate"], whole["final"], whole["answers"]
    found: list[Json] = []

    def add(check: str, change: str, code: str, **given: Any) -> None:
        found.append({"check": check, "change": change, "code": code, **given})

    bad_uploads: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("of another session", "protocol", lambda s: s.update(ctx="11" * 32)),
        ("in another client's name", "protocol", lambda s: s.update(client=name("client 1"))),
        ("of another length", "size-limit", lambda s: s.update(ciphertext_bytes=46080)),
        ("with a larger epsilon", "policy", lambda s: s["privacy"].update(epsilon=9.0)),
        ("without differential privacy", "policy", lambda s: s["privacy"].update(epsilon=None)),
        ("with seeded noise", "policy", lambda s: s["privacy"].update(noise="seeded")),
        ("with another unit", "policy", lambda s: s["privacy"].update(unit="user", records_per_user=3)),
    ]
    for change_, code, edit in bad_uploads:
        add("upload", change_, code, upload=again("client 0", "upload", uploads[0], edit), client=name("client 0"))
    add("upload", "signed by another client", "signature", upload=uploads[1], client=name("client 0"))
    add("upload", "of a client off the roster", "role", upload=uploads[0], client="22" * 32)

    bad_candidates: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("below n_min", "too-few", lambda s: s.update(members=s["members"][:2])),
        (
            "a stranger among the members",
            "role",
            lambda s: s["members"].append({"client": "ff" * 32, "upload_root": "00" * 32}),
        ),
        ("of another session", "protocol", lambda s: s.update(ctx="11" * 32)),
        ("a second release", "protocol", lambda s: s.update(release=2)),
    ]
    for change_, code, edit in bad_candidates:
        add("candidate", change_, code, candidate=again("coordinator", "candidate", candidate, edit))
    add(
        "candidate",
        "signed by a key-holder",
        "signature",
        candidate=again("holder 0", "candidate", candidate, lambda s: None),
    )

    other = endorsement(0, "candidate", "33" * 32, [])
    add("answers", "one for another set", "endorsement", answers=[other, *answers[1:]])
    add("answers", "two of one key-holder", "endorsement", answers=[answers[0], *answers])
    add("answers", "too few", "endorsement", answers=answers[:2])
    add("answers", "of the final stage", "endorsement", answers=[*whole["endorsements"][:1], *answers[1:]])
    add("answers", "by a client", "role", answers=[
        signed("client 0", "endorsement", answers[0]["statement"]), *answers[1:]
    ])  # fmt: skip

    kept = {one["client"] for one in final["statement"]["members"]}
    accused = [one for one in candidate["statement"]["members"] if one["client"] not in kept]
    everyone = sorted([*final["statement"]["members"], *accused], key=lambda one: str(one["client"]))
    bad_finals: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("with the member complained about", "protocol", lambda s: s.update(members=everyone)),
        ("less one member more", "protocol", lambda s: s.update(members=s["members"][1:])),
        ("of another candidate set", "protocol", lambda s: s.update(candidate_digest="44" * 32)),
        ("of another session", "protocol", lambda s: s.update(ctx="11" * 32)),
        ("naming other answers", "endorsement", lambda s: s.update(answers=s["answers"][:-1])),
        ("naming other degree answers", "endorsement", lambda s: s.update(degree_answers=s["degree_answers"][:-1])),
    ]
    for change_, code, edit in bad_finals:
        add("final", change_, code, final=again("coordinator", "final", final, edit))

    degree = whole["degree_answers"]
    bad_degrees: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("for another set", "endorsement", lambda s: s.update(candidate_digest="44" * 32)),
        ("of another session", "endorsement", lambda s: s.update(ctx="11" * 32)),
        ("of another release", "endorsement", lambda s: s.update(release=2)),
        ("under another index", "endorsement", lambda s: s.update(index=2)),
        ("less a member", "protocol", lambda s: s.update(values=s["values"][32:])),
        ("a value equal to the prime", "protocol", lambda s: s.update(values="ffffff7f" + s["values"][8:])),
    ]
    for change_, code, edit in bad_degrees:
        add("degree", change_, code, degree_answers=[again("holder 0", "degree-answer", degree[0], edit), *degree[1:]])
    add("degree", "two of one key-holder", "endorsement", degree_answers=[degree[0], *degree])
    add("degree", "by a client", "role", degree_answers=[
        signed("client 0", "degree-answer", degree[0]["statement"]), *degree[1:]
    ])  # fmt: skip

    bad_sums: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("for another set", "protocol", lambda s: s.update(final_digest="55" * 32)),
        ("of another session", "protocol", lambda s: s.update(ctx="11" * 32)),
        ("under another index", "protocol", lambda s: s.update(index=2)),
        ("with another hash", "hash", lambda s: s.update(share_sha256="66" * 32)),
    ]
    for change_, code, edit in bad_sums:
        add("share-sum", change_, code, share_sum=again("holder 0", "share-sum", whole["share_sums"][0], edit))
    add(
        "share-sum",
        "signed by a client",
        "role",
        share_sum=signed("client 0", "share-sum", whole["share_sums"][0]["statement"]),
    )
    return found + descriptor_liars()


def descriptor_liars() -> list[Json]:
    """Descriptors that no party accepts, each signed by the coordinator."""
    edits: list[tuple[str, str, Callable[[Json], Any]]] = [
        ("threshold of 2", "malformed", lambda d: d.update(threshold=2)),
        ("n_min of 1", "malformed", lambda d: d.update(n_min=1)),
        ("n_min above the roster", "malformed", lambda d: d.update(n_min=5)),
        ("one client twice", "malformed", lambda d: d["roster"].append(d["roster"][0])),
        ("a key-holder on the roster", "malformed", lambda d: d["roster"].append(
            {"certificate": certificate("holder 0"), "weight": 1.0})),
        ("times out of order", "malformed", lambda d: d.update(upload_deadline=NOW)),
        ("an offer that ends early", "malformed", lambda d: d.update(expires_at=NOW + 4 * DAY)),
        ("an offer of another key-holder", "malformed", lambda d: d["committee"][0].update(
            offer=d["committee"][1]["offer"])),
        ("more limbs than are safe", "malformed", lambda d: d["ring"].update(limbs=5)),
        ("an unknown ring", "malformed", lambda d: d["ring"].update(name="n2048q60")),
        ("a cohort without noise", "malformed", lambda d: (d["ring"].update(limbs=1), d.update(n_max=32_767))),
        ("other security bits", "malformed", lambda d: d["ring"].update(security_bits=256)),
        ("weights above 1", "malformed", lambda d: d["roster"][0].update(weight=1.5)),
        ("no weight of 1", "malformed", lambda d: [one.update(weight=0.5) for one in d["roster"]]),
        ("another version", "malformed", lambda d: d.update(version=2)),
        ("an unknown field", "malformed", lambda d: d.update(note="hello")),
        ("no trained tensor", "malformed", lambda d: d["plan"]["tensors"][1].update(clip=0.0)),
    ]  # fmt: skip
    found = []
    for change_, code, edit in edits:
        bad = copy.deepcopy(descriptor())
        edit(bad)
        found.append({"check": "descriptor", "change": change_, "code": code, "changes": difference(descriptor(), bad)})
    return found


def difference(old: Json, new: Json) -> Json:
    """The top-level fields that differ, as they are in `new`."""
    return {key: value for key, value in new.items() if old.get(key) != value}
