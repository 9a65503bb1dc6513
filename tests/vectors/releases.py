"""Two releases in one session: the sets that are shown before the second, liars, and the running mean (§8.7, §9.4)."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tests.twin import encoding
from tests.twin import statements as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, words
from tests.vectors.session import (
    CLIP,
    NOW,
    SETTING,
    THRESHOLD,
    change,
    name,
    signed,
)
from tests.vectors.session import descriptor as single

COHORTS = ((0, 2), (1, 3))
WEIGHTS = (1.0, 0.5, 0.75, 1.0)


@cache
def changed() -> Json:
    """What the descriptor has other than that of session.json."""
    roster = [{**one, "weight": weight} for one, weight in zip(single()["roster"], WEIGHTS, strict=True)]
    return {"nonce": digest(b"nonce of two releases"), "n_min": 2, "releases": 2, "roster": roster}


@cache
def descriptor() -> Json:
    """§4.2, with two releases of at least two clients."""
    return {**single(), **changed()}


@cache
def ctx() -> str:
    """§4.2."""
    return twin.tagged("secagg/v1/ctx", twin.canonical(descriptor()).encode()).hex()


@cache
def levels(client: int) -> list[int]:
    """§2.3 of the change of session.json, with the client's weight."""
    random = PredictableRandomness(b"rounding of client %d in two releases" % client)
    return encoding.encode(change(client), CLIP, SETTING.bits, WEIGHTS[client], random)


def total(clients: Sequence[int]) -> list[int]:
    """The whole-number sums over these clients."""
    return [sum(column) for column in zip(*map(levels, clients), strict=True)]


def mean(clients: Sequence[int]) -> list[float]:
    """The weighted mean over these clients, decoded once (§2.4)."""
    return encoding.decode_mean(total(clients), CLIP, SETTING.bits, [WEIGHTS[client] for client in clients])


def members(clients: Sequence[int]) -> list[Json]:
    """§8.1; the uploads themselves are of no account here."""
    return sorted(
        ({"client": name(f"client {one}"), "upload_root": digest(b"upload of %d" % one)} for one in clients),
        key=lambda one: str(one["client"]),
    )


def candidate(release: int, clients: Sequence[int]) -> Json:
    """§8.1."""
    return {"ctx": ctx(), "release": release, "members": members(clients), "fixed_at": NOW + release * 3600}


def final(release: int, of: Json, chosen: list[Json]) -> Json:
    """§8.3; the answers are named by hashes alone."""
    return {
        "ctx": ctx(),
        "release": release,
        "candidate_digest": twin.statement_hash("candidate", of),
        "members": chosen,
        "answers": sorted(digest(b"answer %d" % holder) for holder in range(THRESHOLD)),
        "degree_answers": [],
    }


def endorsements(release: int, of: Json, stage: str = "final", count: int = THRESHOLD) -> list[Json]:
    """§8.3."""
    purpose = "final" if stage == "final" else "candidate"
    return [
        signed(f"holder {holder}", "endorsement", {
            "ctx": ctx(), "release": release, "stage": stage, "set_digest": twin.statement_hash(purpose, of),
            "holder": name(f"holder {holder}"), "complaints": [],
        })
        for holder in range(count)
    ]  # fmt: skip


def released(first: Json, last: Json, endorsed: list[Json], coordinator: str = "coordinator") -> Json:
    """§8.7.2: the sets of a release, as they are shown."""
    return {
        "candidate": signed(coordinator, "candidate", first),
        "final": signed("coordinator", "final", last),
        "endorsements": endorsed,
    }


def honest() -> tuple[Json, Json, Json]:
    """Candidate and final set of the first release, and candidate of the second."""
    first = candidate(1, COHORTS[0])
    return first, final(1, first, first["members"]), candidate(2, COHORTS[1])


def liars() -> list[Json]:
    """What a key-holder is shown before it endorses the second release, and must refuse."""
    first, last, second = honest()
    shown = released(first, last, endorsements(1, last))
    found: list[Json] = []

    def add(change_: str, code: str, earlier: list[Json], asked: Json = second) -> None:
        found.append({"change": change_, "code": code, "earlier": earlier, "candidate": asked})

    def edited(change_: str, code: str, edit: Callable[[Json, Json], Any]) -> None:
        one, two = copy.deepcopy(first), copy.deepcopy(last)
        edit(one, two)
        add(change_, code, [released(one, two, endorsements(1, two))])

    add("nothing of the release before", "protocol", [])
    add("the release before twice", "protocol", [shown, shown])
    add("a client in both", "conflict", [shown], candidate(2, (0, 1, 3)))
    add("the same cohort again", "conflict", [shown], candidate(2, COHORTS[0]))
    add("too few endorsements", "endorsement", [released(first, last, endorsements(1, last, count=THRESHOLD - 1))])
    add("one key-holder twice", "endorsement", [released(first, last, [*endorsements(1, last, count=2)[:1]] * 3)])
    add(
        "endorsements of the candidate set", "endorsement", [released(first, last, endorsements(1, first, "candidate"))]
    )
    add("endorsements of another release", "endorsement", [released(first, last, endorsements(2, last))])
    add("a candidate set signed by a key-holder", "signature", [
        released(first, last, endorsements(1, last), coordinator="holder 0")
    ])  # fmt: skip
    edited("sets of another session", "protocol", lambda one, two: one.update(ctx="11" * 32))
    edited("a final set of another candidate set", "protocol", lambda one, two: two.update(candidate_digest="44" * 32))
    edited("a member that was no candidate", "protocol", lambda one, two: two.update(members=members((0, 1))))
    edited("a candidate set below n_min", "too-few", lambda one, two: one.update(members=members((0,))))
    add("dated before the set before", "protocol", [shown], {**second, "fixed_at": first["fixed_at"] - 1})
    old = {**first, "fixed_at": single()["created_at"] - 1}
    followed = final(1, old, old["members"])
    add("a first set dated before the session", "protocol", [released(old, followed, endorsements(1, followed))])
    later = candidate(2, COHORTS[0])
    ahead = final(2, later, later["members"])
    add("the second release in the place of the first", "protocol", [released(later, ahead, endorsements(2, ahead))])
    return found


def running() -> list[Json]:
    """After each release: its own sums, the running ones, and the mean that is released."""
    so_far: tuple[int, ...] = ()
    rows = list[Json]()
    for cohort in COHORTS:
        so_far += cohort
        decoded = mean(so_far)
        rows.append(
            {
                "clients": list(cohort),
                "sums_uint64_sha256": digest(words(total(cohort), 8)),
                "running_sums_head": total(so_far)[:8],
                "running_sums_uint64_sha256": digest(words(total(so_far), 8)),
                "mean_float32_head": encoding.single_bytes(decoded[:8]).hex(),
                "mean_float32_sha256": digest(encoding.single_bytes(decoded)),
            }
        )
    return rows


def document() -> Json:
    """The session, what is shown before its second release, and the running mean."""
    first, last, second = honest()
    return {
        "randomness": "seeds: 'rounding of client I in two releases'; changes and keys are those of session.json",
        "changes": changed(),
        "ctx": ctx(),
        "descriptor": signed("coordinator", "descriptor", descriptor()),
        "earlier": released(first, last, endorsements(1, last)),
        "candidate": second,
        "malformed": liars(),
        "levels_uint64_sha256": [digest(words(levels(client), 8)) for client in range(len(WEIGHTS))],
        "releases": running(),
        "union_mean_float32_sha256": digest(encoding.single_bytes(mean((0, 1, 2, 3)))),
    }
