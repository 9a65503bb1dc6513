"""The degree check: did a client give all key-holders points of one polynomial? (protocol.md §8.4)

Key-holder x answers, for each member, 4 random combinations of its share's 4096 elements, each blinded by an element
that the client shared beside its key. The answers are points of a polynomial of degree t - 1 when the shares are, and
say nothing else of them. A member whose answers are not is left out, or contradicted by at most f key-holders.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import comb
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from secagg import ring
from secagg.descriptor import Descriptor
from secagg.errors import EndorsementInvalid, ProtocolViolation
from secagg.evidence import BLINDINGS
from secagg.messages import Candidate, DegreeAnswer, SignedDegreeAnswer
from secagg.plan import Frozen, Hash
from secagg.randomness import Keystream
from secagg.shamir import FIELD, interpolate, uniform

CHALLENGE_PURPOSE = "secagg/v1/degree-challenge"
MAX_SEARCHED = 10_000
"""Sets of key-holders that are tried, at most, to explain one member's answers."""

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Points = Mapping[int, U64]
"""By key-holder number: its answers, [members, 4] or [4], each below 2^31 - 1."""


class Culprit(Frozen):
    """A member that is left out, and what its answers prove."""

    client: Hash
    finding: Literal["inconsistent-shares", "inconsistent-shares-or-a-lying-key-holder"]


class Contradiction(Frozen):
    """A member that stays, and the key-holders whose answers for it are off all others': one side lied."""

    client: Hash
    holders: Annotated[tuple[Hash, ...], Field(min_length=1, max_length=255)]


class DegreeCheck(Frozen):
    """The verdict over a candidate set, from `answers` answers; a function of what key-holders signed."""

    outcome: Literal["checked", "unchecked"] = "unchecked"
    answers: int = Field(ge=0, le=255, default=0)
    culprits: tuple[Culprit, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()

    def holds_against_liars(self, descriptor: Descriptor) -> bool:
        """Whether what it found stands whatever up to f of those who answered did (protocol.md §8.4.5)."""
        return self.outcome == "checked" and self.answers > descriptor.threshold + descriptor.corrupt_keyholders

    def in_words(self, descriptor: Descriptor) -> str:
        """What was checked, what came of it, and what it takes for granted (protocol.md §8.4.5)."""
        if self.outcome == "unchecked":
            return (
                f"degree check: UNCHECKED, {self.answers} answers are too few; a member with inconsistent shares would "
                "have burnt the session"
            )
        found = f"degree check: the shares of every member are consistent by {self.answers} answers"
        if not self.holds_against_liars(descriptor):
            found += ", if all who answered are honest"
        if self.culprits:
            found += f"; {len(self.culprits)} uploads with inconsistent ones were left out and are named"
        if self.contradictions:
            found += f"; {len(self.contradictions)} members and key-holders contradict each other and are named"
        return found

    @property
    def left_out(self) -> dict[str, str]:
        """Finding by fingerprint of the member that is left out."""
        return {culprit.client: culprit.finding for culprit in self.culprits}


def challenge(candidate: Candidate) -> U32:
    """The public coefficients r for C, uint32 [4, 4096], below 2^31 - 1 (protocol.md §8.4.1)."""
    return challenge_from(candidate.ctx, candidate.release, candidate.digest)


def challenge_from(ctx: str, release: int, candidate_digest: str) -> U32:
    """The same from what it depends on."""
    seed = bytes.fromhex(ctx) + release.to_bytes(4, "little") + bytes.fromhex(candidate_digest)
    stream = Keystream(hashlib.sha256(CHALLENGE_PURPOSE.encode() + seed).digest())
    return uniform(stream, BLINDINGS * ring.DEGREE).reshape(BLINDINGS, ring.DEGREE)


def answer(coefficients: U32, share: U32, blinding: U32) -> U32:
    """y_k = sum_j r_k,j share_j + g_k, uint32 [4], from one share [4096] and its blinding [4] (protocol.md §8.4.2)."""
    products = coefficients.astype(np.uint64) * share % np.uint64(FIELD)
    sums: U64 = products.sum(axis=1)
    return ((sums + blinding) % np.uint64(FIELD)).astype(np.uint32)


def verify_answers(
    descriptor: Descriptor, candidate: Candidate, answers: Iterable[SignedDegreeAnswer]
) -> tuple[DegreeAnswer, ...]:
    """Signatures and form, one answer a key-holder; in order of key-holder number.

    Raises EndorsementInvalid, SignatureInvalid or ProtocolViolation.
    """
    verified = dict[int, DegreeAnswer]()
    for signed in answers:
        index, holder = descriptor.holder(signed.signer)
        given = signed.verify(holder)
        found = (given.ctx, given.release, given.candidate_digest, given.holder, given.index)
        if found != (descriptor.ctx, candidate.release, candidate.digest, holder.fingerprint, index):
            raise EndorsementInvalid(f"the degree answer of {holder.title} is for another session, set or key-holder")
        if index in verified:
            raise EndorsementInvalid(f"two degree answers of {holder.title} for one set")
        _points(given, len(candidate.members))
        verified[index] = given
    return tuple(verified[index] for index in sorted(verified))


def verdict(
    descriptor: Descriptor, candidate: Candidate, answers: Sequence[DegreeAnswer], complained: Collection[str]
) -> DegreeCheck:
    """Who is left out, and who contradicts whom (protocol.md §8.4.4).

    `answers` as `verify_answers` gives them; members in `complained` (fingerprints) are out already.
    """
    threshold, faulty = descriptor.threshold, descriptor.corrupt_keyholders
    if len(answers) <= threshold:
        return DegreeCheck(answers=len(answers))
    points: Points = {given.index: _points(given, len(candidate.members)) for given in answers}
    fingerprints = {given.index: given.holder for given in answers}
    rows = [row for row, member in enumerate(candidate.members) if member.client not in complained]
    culprits, contradictions = list[Culprit](), list[Contradiction]()
    for row, failing in verdict_over(points, rows, threshold, faulty).items():
        client = candidate.members[row].client
        if not failing.left_out:
            holders = tuple(sorted(fingerprints[x] for x in failing.contested))
            contradictions.append(Contradiction(client=client, holders=holders))
        elif failing.certain:
            culprits.append(Culprit(client=client, finding="inconsistent-shares"))
        else:
            culprits.append(Culprit(client=client, finding="inconsistent-shares-or-a-lying-key-holder"))
    return DegreeCheck(
        outcome="checked", answers=len(answers), culprits=tuple(culprits), contradictions=tuple(contradictions)
    )


@dataclass(frozen=True, slots=True)
class Failing:
    """A member whose answers are not on polynomials of degree t - 1: the key-holders it contests, and what follows."""

    contested: frozenset[int]
    left_out: bool
    certain: bool


def verdict_over(points: Points, rows: Iterable[int], threshold: int, faulty: int) -> dict[int, Failing]:
    """The members among `rows` that fail, from more than `threshold` answers [members, 4] (protocol.md §8.4.4)."""
    failing = np.array(list(rows), dtype=np.int64)
    failing = failing[~_agreeing(_of_rows(points, failing), threshold)]
    found = _contested(points, failing, threshold, faulty)
    excused = _excused(Counter(contested for contested in found.values() if contested), faulty)
    searched = _searched(len(points), threshold, faulty)
    return {
        row: Failing(contested, not contested or not contested <= excused, searched and not contested)
        for row, contested in found.items()
    }


def _points(given: DegreeAnswer, members: int) -> U64:
    """uint64 [members, 4]. Raises ProtocolViolation."""
    values = np.frombuffer(bytes.fromhex(given.values), dtype="<u4").astype(np.uint64)
    if values.size != members * BLINDINGS or (values >= FIELD).any():
        raise ProtocolViolation(
            f"the degree answer of key-holder {given.index} does not hold {BLINDINGS} field elements for each of "
            f"{members} members"
        )
    return values.reshape(members, BLINDINGS)


def _of_rows(points: Points, rows: NDArray[np.int64]) -> Points:
    return {x: values[rows] for x, values in points.items()}


def _agreeing(points: Points, threshold: int) -> NDArray[np.bool_]:
    """For each member, whether all its points lie on polynomials of degree threshold - 1."""
    numbers = sorted(points)
    basis = numbers[:threshold]
    agree = np.ones(len(points[numbers[0]]), dtype=np.bool_)
    for x in numbers[threshold:]:
        agree &= (interpolate(points, basis, x) == points[x]).all(axis=1)
    return agree


def _searched(count: int, threshold: int, faulty: int) -> bool:
    """Whether at most `faulty` wrong answers among `count` can be told from the right ones, and are looked for."""
    return count >= threshold + 2 * faulty and sum(comb(count, e) for e in range(1, faulty + 1)) <= MAX_SEARCHED


def _contested(points: Points, failing: NDArray[np.int64], threshold: int, faulty: int) -> dict[int, frozenset[int]]:
    """For each failing member, the least set of at most `faulty` key-holders without which the rest agree, or none.

    Each set is tried on all members that are left at once: a key-holder that lies about everybody costs one pass.
    """
    found: dict[int, frozenset[int]] = {int(row): frozenset() for row in failing}
    if not _searched(len(points), threshold, faulty):
        return found
    sizes = range(1, faulty + 1)
    for away in chain.from_iterable(combinations(sorted(points), size) for size in sizes):
        if not len(failing):
            break
        rest = {x: values for x, values in points.items() if x not in away}
        explained = _agreeing(_of_rows(rest, failing), threshold)
        found |= {int(row): frozenset(away) for row in failing[explained]}
        failing = failing[~explained]
    return found


def _excused(sets: Mapping[frozenset[int], int], faulty: int) -> frozenset[int]:
    """The `faulty` key-holders that explain most members, lower numbers first among equals.

    `sets`: contested key-holders, and how many members contest just those.
    """
    holders = sorted(frozenset[int]().union(*sets))
    groups = (frozenset(group) for group in combinations(holders, min(faulty, len(holders))))
    return max(groups, key=lambda group: sum(count for one, count in sets.items() if one <= group))
