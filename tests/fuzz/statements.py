"""Statements, sessions and sets, as any party gets them (protocol.md §4, §7, §8)."""

from functools import cache
from typing import Any

from secagg import messages
from secagg.descriptor import SignedDescriptor
from secagg.keyholder import check_offers
from secagg.messages import (
    Candidate,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
)
from secagg.policy import check_authority
from secagg.releases import ReleasedSets, check_earlier
from secagg.sets import check_candidate, check_final, check_peers
from secagg.signing import Signer, parse_model
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.target import Target, genuine, text
from tests.vectors import session
from tests.vectors.common import fixed
from tests.vectors.reading import load
from tests.vectors.replay import descriptor, policy, published, signer

SIGNED: tuple[Any, ...] = (
    messages.SignedOffer, messages.SignedApproval, messages.SignedEnrolment, messages.SignedUpload,
    messages.SignedReceipt, messages.SignedCandidate, messages.SignedEndorsement, messages.SignedFinalSet,
    messages.SignedShareSum, messages.SignedDegreeAnswer,
)  # fmt: skip


# -- statements, §4, §7, §8 ------------------------------------------------------------------------------------


def statement_seeds() -> list[bytes]:
    """Every signed statement of the session."""
    whole = published()
    of_kind: list[tuple[int, list[Any]]] = [
        (0, [one["offer"] for one in whole["session"]["descriptor"]["statement"]["committee"]]),
        (1, whole["session"]["approvals"]),
        (3, [one["upload"] for one in whole["clients"]]),
        (5, [whole["candidate"]]),
        (6, [*whole["answers"], *whole["endorsements"]]),
        (7, [whole["final"]]),
        (8, whole["share_sums"]),
        (9, whole["degree_answers"]),
    ]
    others = [case["signed"] for case in load("statements")["cases"] if case["type"] in ("Enrolment", "Receipt")]
    seeds = [frame([bytes([kind]), text(one)]) for kind, some in of_kind for one in some]
    return seeds + [frame([bytes([kind]), text(one)]) for kind, one in zip((2, 4), others, strict=True)]


@cache
def everyone() -> dict[str, Any]:
    """The parties by fingerprint."""
    mine = descriptor()
    parties = (mine.coordinator_identity, *mine.holders, *mine.clients.values())
    return {one.fingerprint: one for one in parties}


def run_statement(data: bytes) -> object:
    """Parse, and verify under whoever claims to have signed."""
    kind, raw = parts_of(data, 2)
    signed = SIGNED[kind[0] % len(SIGNED) if kind else 0].parse(raw)
    statement = signed.verify(everyone().get(signed.signer, descriptor().coordinator_identity))
    genuine(statement.digest, digests())
    return statement


@cache
def digests() -> frozenset[str]:
    """Of every statement that was signed."""
    found = (parts_of(seed, 2) for seed in statement_seeds())
    return frozenset(SIGNED[kind[0]].parse(raw).statement.digest for kind, raw in found)


CLIENT_NOISE = {"clip": 4.0, "noise_multiplier": 1.0, "colluders": 1, "delta": 1e-6}


def descriptor_seeds() -> list[bytes]:
    """The session; and as one of a series, with an audit reserve, or noise, whose signature is then no longer right."""
    whole = published()["session"]
    previous = {"series": "11" * 32, "ctx": "22" * 32, "adapter": "33" * 32}
    others: list[dict[str, Any]] = [
        {"round": {"number": 0, "rounds": 2, "previous": None}},
        {"round": {"number": 1, "rounds": 2, "previous": previous}, "audit": {"hold_out": 0.1, "canaries": 5}},
        {"client_noise": {**CLIENT_NOISE, "accept_noise_over_signal": True}},
    ]
    seeds = [text(whole)]
    for other in others:
        statement = {**whole["descriptor"]["statement"], **other}
        seeds.append(text({**whole, "descriptor": {**whole["descriptor"], "statement": statement}}))
    return [frame([seed]) for seed in seeds]


def run_descriptor(data: bytes) -> object:
    """A session from the coordinator, with all that a party checks or derives before it believes the signatures."""
    signed = parse_model(SignedDescriptor, parts_of(data, 1)[0])
    shown = signed.descriptor.statement
    made = (shown.parameters, shown.layout, shown.quantiser, shown.weights, shown.series, shown.steps)
    check_authority(shown, fixed()["authority"], session.NOW)
    check_offers(shown)
    policy().check(shown)
    genuine(signed.check(approved=True).ctx, published()["ctx"])
    return made


def liar(signed: Any, title: str | None) -> Any:
    """The same statement, signed by the party itself: lies have valid signatures. As it is when there is no title."""
    return signed if title is None else party(title).sign(signed.statement)


@cache
def party(title: str) -> Signer:
    """A party of the session."""
    return signer(title)


def run_sets(data: bytes) -> object:
    """Candidate, final set and answers, as a key-holder or a verifier gets them."""
    how, candidate, final, *rest = parts_of(data, 11)
    lies = how[:1] == b"\1"
    parsed = (SignedCandidate.parse(candidate), SignedFinalSet.parse(final))  # before anything is signed: it costs more
    replies = [SignedEndorsement.parse(one) for one in rest[:4]]
    replied = [SignedDegreeAnswer.parse(one) for one in rest[4:]]
    fixed_set, chosen = (
        liar(signed, "coordinator" if lies else None).verify(descriptor().coordinator_identity) for signed in parsed
    )
    answers = [liar(one, f"holder {number}" if lies else None) for number, one in enumerate(replies)]
    degree = [liar(one, f"holder {number}" if lies else None) for number, one in enumerate(replied)]
    check_candidate(descriptor(), fixed_set)
    check_peers(descriptor(), answers, stage="candidate", release=1, digest=fixed_set.digest)
    found = check_final(descriptor(), fixed_set, chosen, answers, degree)
    if not lies:
        genuine((fixed_set.digest, chosen.digest), (published()["candidate_digest"], published()["final_digest"]))
    return found


def set_seeds() -> list[bytes]:
    """The sets of the session."""
    whole = published()
    statements = [whole["candidate"], whole["final"], *whole["answers"], *whole["degree_answers"]]
    return [frame([how, *map(text, statements)]) for how in (b"\0", b"\1")]


def run_earlier(data: bytes) -> object:
    """The sets of a release before a second one, as a key-holder or a verifier gets them (protocol.md §8.7.2)."""
    how, candidate, final, *rest = parts_of(data, 7)
    lies = how[:1] == b"\1"
    coordinator = "coordinator" if lies else None
    endorsed = [
        liar(SignedEndorsement.parse(one), f"holder {number}" if lies else None) for number, one in enumerate(rest)
    ]
    sets = ReleasedSets(
        candidate=liar(SignedCandidate.parse(candidate), coordinator),
        final=liar(SignedFinalSet.parse(final), coordinator),
        endorsements=tuple(endorsed),
    )
    second = Candidate(ctx=descriptor().ctx, release=2, members=(), fixed_at=descriptor().upload_deadline)
    check_earlier(descriptor(), second, [sets])
    if not lies:
        genuine(sets.final.statement.digest, published()["final_digest"])
    return sets


def earlier_seeds() -> list[bytes]:
    """Those of the session."""
    whole = published()
    statements = [whole["candidate"], whole["final"], *whole["endorsements"]]
    return [frame([how, *map(text, statements)]) for how in (b"\0", b"\1")]


TARGETS: tuple[Target, ...] = (
    Target("earlier-sets", earlier_seeds, run_earlier),
    Target("statements", statement_seeds, run_statement),
    Target("descriptor", descriptor_seeds, run_descriptor),
    Target("sets", set_seeds, run_sets),
)
