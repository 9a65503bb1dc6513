"""Several releases in one session: what came before one, who came when, and the running sums (protocol.md §8.7, §9.4).

A key-holder that is asked for release r, and whoever verifies it, sees the endorsed sets of all releases before. They
need no memory of their own for that: two sets of one release cannot both have t endorsements.
"""

from collections.abc import Sequence

import numpy as np

from secagg.descriptor import Descriptor
from secagg.digits import Sums
from secagg.errors import ConflictError, MalformedError, ProtocolViolation
from secagg.messages import (
    Candidate,
    FinalSet,
    ReleaseNumber,
    Seconds,
    SignedCandidate,
    SignedEndorsement,
    SignedFinalSet,
)
from secagg.plan import Frozen, Hash
from secagg.sets import check_candidate, verify_endorsements


class ReleasedSets(Frozen):
    """Candidate and final set of a release, with final endorsements of it."""

    candidate: SignedCandidate
    final: SignedFinalSet
    endorsements: tuple[SignedEndorsement, ...]


class EarlierRelease(Frozen):
    """A release before, in a certificate: its sets, and the SHA-256 of its `opening.safetensors`."""

    sets: ReleasedSets
    opening_sha256: Hash


class Arrival(Frozen):
    """When an upload was complete, as the coordinator saw it."""

    client: Hash
    received_at: Seconds


class Progress(Frozen):
    """Which release of its session a release is, what was released before, and when the candidates arrived, in order.

    `arrivals` are the coordinator's word; the rest is endorsed.
    """

    number: ReleaseNumber
    arrivals: tuple[Arrival, ...]
    earlier: tuple[EarlierRelease, ...]


def check_disjoint(candidate: Candidate, earlier: Sequence[Candidate]) -> None:
    """Raise ConflictError when a client is in two of these candidate sets (protocol.md §8.7)."""
    seen = dict[str, int]()
    for one in (*earlier, candidate):
        for member in one.members:
            if member.client in seen:
                raise ConflictError(
                    f"client {member.client[:16]} is in the candidate sets of releases {seen[member.client]} and "
                    f"{one.release}; a client is in one, ever"
                )
            seen[member.client] = one.release


def check_earlier(descriptor: Descriptor, candidate: Candidate, earlier: Sequence[ReleasedSets]) -> None:
    """`earlier` are all releases before `candidate`, in order, each endorsed, and none shares a client (§8.7.2).

    Raises ProtocolViolation, SignatureInvalid, EndorsementInvalid or ConflictError.
    """
    if len(earlier) != candidate.release - 1:
        raise ProtocolViolation(
            f"release {candidate.release} follows {candidate.release - 1} releases, {len(earlier)} are shown"
        )
    fixed = list[Candidate]()
    for number, sets in enumerate(earlier, 1):
        before, final = _check_sets(descriptor, sets)
        if (before.release, final.release) != (number, number):
            raise ProtocolViolation(f"release {before.release} is shown in the place of release {number}")
        fixed.append(before)
    _check_times(descriptor, [*fixed, candidate])
    check_disjoint(candidate, fixed)


def _check_times(descriptor: Descriptor, candidates: Sequence[Candidate]) -> None:
    """No set was fixed before the session was made, or before the set of the release before (§8.7.2)."""
    last = descriptor.created_at
    for one in candidates:
        if one.fixed_at < last:
            raise ProtocolViolation(
                f"the candidate set of release {one.release} is dated {last - one.fixed_at} seconds before what came "
                "before it"
            )
        last = one.fixed_at


def _check_sets(descriptor: Descriptor, sets: ReleasedSets) -> tuple[Candidate, FinalSet]:
    candidate = sets.candidate.verify(descriptor.coordinator_identity)
    final = sets.final.verify(descriptor.coordinator_identity)
    check_candidate(descriptor, candidate)
    if (final.ctx, final.candidate_digest) != (descriptor.ctx, candidate.digest):
        raise ProtocolViolation("the final set of an earlier release belongs to another candidate set")
    if not set(final.members) <= set(candidate.members):
        raise ProtocolViolation("the final set of an earlier release holds a member that was no candidate")
    verify_endorsements(descriptor, sets.endorsements, stage="final", release=final.release, digest=final.digest)
    return candidate, final


def check_progress(descriptor: Descriptor, progress: Progress | None, candidate: Candidate, final: FinalSet) -> None:
    """What a certificate says of other releases, where the session may have several, and nothing where it may not.

    Raises as `check_earlier`.
    """
    if (progress is None) != (descriptor.releases == 1):
        raise ProtocolViolation("the certificate of a session with several releases, and no other, counts them")
    if progress is None:
        return
    if (candidate.release, final.release) != (progress.number, progress.number):
        raise ProtocolViolation(f"the certificate is of release {progress.number}, its sets of {final.release}")
    check_earlier(descriptor, candidate, [one.sets for one in progress.earlier])
    arrived = [arrival.client for arrival in progress.arrivals]
    if sorted(arrived) != [member.client for member in candidate.members]:
        raise ProtocolViolation("the arrivals are not those of the candidate set")
    _check_arrivals(descriptor, progress, candidate)


def _check_arrivals(descriptor: Descriptor, progress: Progress, candidate: Candidate) -> None:
    """Every member of C came before C was fixed, and not before the set of the release before was (§10.3a).

    C is fixed over all uploads that are there: one that came earlier would be in the set before.
    """
    since, what = descriptor.created_at, "the session was made"
    if progress.earlier:
        since, what = progress.earlier[-1].sets.candidate.statement.fixed_at, "an earlier set without it was fixed"
    for arrival in progress.arrivals:
        title = descriptor.client(arrival.client).title
        if arrival.received_at > candidate.fixed_at:
            raise ProtocolViolation(f"the upload of {title} came after the set that it is in was fixed, by their dates")
        if arrival.received_at < since:
            raise ProtocolViolation(f"the upload of {title} came before {what}, by their dates")


def members_so_far(progress: Progress | None, final: FinalSet) -> tuple[str, ...]:
    """Fingerprints of the members of this release and of all before it, whose mean is released (protocol.md §9.4)."""
    before = () if progress is None else tuple(one.sets.final.statement for one in progress.earlier)
    return tuple(member.client for one in (*before, final) for member in one.members)


def joined(before: Sums | None, sums: Sums) -> Sums:
    """The running sums [L]: those before, if any, plus this release's. They stay below beta (protocol.md §2.5)."""
    return sums if before is None else before + sums


def sums_before(running: Sums, sums: Sums, number: int) -> Sums | None:
    """The sums of the releases before release `number`, from the running sums and its own; None for the first.

    Raises MalformedError for another type or length, or running sums below the opened ones; ProtocolViolation when
    those of a first release are others than what was opened.
    """
    if running.dtype != sums.dtype or running.shape != sums.shape or bool((running < sums).any()):
        raise MalformedError("the running sums are not those before and the opened ones together")
    if number > 1:
        return running - sums
    if not np.array_equal(running, sums):
        raise ProtocolViolation("the running sums of the first release are not what was opened")
    return None


def release_folder(number: int) -> str:
    """What the folder of a release is called among those of its session (protocol.md §10.2a)."""
    return f"release-{number}"


def number_in_words(descriptor: Descriptor, number: int) -> str:
    """For people: which release of how many."""
    return f"release {number} of at most {descriptor.releases}"
