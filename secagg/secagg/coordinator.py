"""The coordinator: makes the session, fixes sets, opens the sum (protocol.md §4, §8, §9).

It holds no share and no session key: without t key-holders it opens nothing.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.client_noise.setting import ClientNoise
from secagg.descriptor import (
    AuditReserve,
    CommitteeMember,
    Descriptor,
    RingChoice,
    RosterMember,
    SignedDescriptor,
    quorum,
)
from secagg.digits import Sums
from secagg.encodings.registry import encoding_of
from secagg.errors import (
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    OpeningError,
    ProtocolViolation,
    ShareError,
    TooFewContributions,
)
from secagg.evidence import ShareAnswer
from secagg.messages import (
    MAX_RELEASES,
    Candidate,
    FinalSet,
    SetMember,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedUpload,
)
from secagg.opening import Opening, open_sum
from secagg.parameters import MAX_BITS, MAX_COHORT, MIN_BITS, choose
from secagg.plan import Frozen, Plan
from secagg.randomness import Randomness
from secagg.rounds import Round
from secagg.sets import check_members, complaints_by_client, remaining_members
from secagg.signing import Signer
from secagg.validation import first_problem

MAX_SUBSETS = 10_000
"""Groups of share sums that are tried, at most, to open the sum (protocol.md §9.1)."""


class SessionSpec(Frozen):
    """What the coordinator's operator decides; times in seconds from creation."""

    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2, le=MAX_COHORT)
    bits: int = Field(ge=MIN_BITS, le=MAX_BITS, default=16)
    corrupt_keyholders: int = Field(ge=0, default=1)
    upload_seconds: int = Field(ge=1)
    expiry_seconds: int = Field(ge=2)
    releases: int = Field(ge=1, le=MAX_RELEASES, default=1)
    audit: AuditReserve | None = None
    client_noise: ClientNoise | None = None


def create_session(
    spec: SessionSpec,
    plan: Plan,
    roster: Sequence[RosterMember],
    committee: Sequence[CommitteeMember],
    signer: Signer,
    now: int,
    random: Randomness,
    round_: Round | None = None,
) -> SignedDescriptor:
    """Choose the parameter set, put the descriptor together and sign it (protocol.md §4.2); `round_` is for a series.

    Raises ParameterError when no safe set fits, EncodingError when the plan's encoding does not fit the session,
    MalformedError when the parts contradict each other.
    """
    encoding = encoding_of(plan)
    encoding.check_session(plan, bits=spec.bits, weights=[member.weight for member in roster])
    parameters = choose(spec.bits, spec.n_max, encoding.layout(plan).length)
    ring = RingChoice(
        name=parameters.name, limbs=parameters.limbs, bits=spec.bits, security_bits=parameters.security_bits
    )
    try:
        descriptor = Descriptor(
            nonce=random(32).hex(),
            plan=plan,
            ring=ring,
            n_min=spec.n_min,
            n_max=spec.n_max,
            roster=tuple(roster),
            committee=tuple(committee),
            corrupt_keyholders=spec.corrupt_keyholders,
            threshold=quorum(len(committee), spec.corrupt_keyholders),
            coordinator=signer.identity.pem,
            releases=spec.releases,
            round=round_,
            created_at=now,
            upload_deadline=now + spec.upload_seconds,
            expires_at=now + spec.expiry_seconds,
            audit=spec.audit,
            client_noise=spec.client_noise,
        )
    except ValidationError as error:
        raise MalformedError(f"the session does not hold together: {first_problem(error, '')}") from None
    return SignedDescriptor(descriptor=signer.sign(descriptor))


def fix_candidate(
    signer: Signer, descriptor: Descriptor, uploads: Sequence[SignedUpload], now: int, release: int = 1
) -> SignedCandidate:
    """The candidate set of a release over these uploads (protocol.md §8.1). Raises TooFewContributions below n_min."""
    members = sorted(
        (SetMember(client=upload.statement.client, upload_root=upload.statement.upload_root) for upload in uploads),
        key=lambda member: member.client,
    )
    check_members(descriptor, members)
    return signer.sign(Candidate(ctx=descriptor.ctx, release=release, members=tuple(members), fixed_at=now))


@dataclass(frozen=True, slots=True)
class Settlement:
    """The final set with what it follows from: candidate endorsements and degree answers."""

    final: SignedFinalSet
    answers: tuple[SignedEndorsement, ...]
    degree_answers: tuple[SignedDegreeAnswer, ...]


def settle(
    signer: Signer,
    descriptor: Descriptor,
    candidate: SignedCandidate,
    answers: Sequence[SignedEndorsement],
    degree_answers: Sequence[SignedDegreeAnswer],
) -> Settlement:
    """U = C less the members complained about and the culprits of the degree check (protocol.md §8.3).

    When all that key-holders say leaves fewer than n_min, those with most complaints are left out while t remain, and
    their degree answers with them: one key-holder that speaks against everybody stops nothing.
    Raises EndorsementInvalid for fewer than t endorsements, TooFewContributions.
    """
    fixed = candidate.statement
    if len(answers) < descriptor.threshold:
        raise EndorsementInvalid(f"{len(answers)} key-holders endorsed the candidate set; {descriptor.threshold} must")
    ordered = sorted(answers, key=lambda answer: (len(answer.statement.complaints), answer.signer))
    for count in range(len(ordered), descriptor.threshold - 1, -1):
        attached = ordered[:count]
        holders = {answer.signer for answer in attached}
        degree = [answer for answer in degree_answers if answer.signer in holders]
        members = remaining_members(descriptor, fixed, attached, degree).members
        try:
            check_members(descriptor, members)
        except TooFewContributions:
            continue
        final = FinalSet(
            ctx=descriptor.ctx,
            release=fixed.release,
            candidate_digest=fixed.digest,
            members=members,
            answers=tuple(sorted(answer.statement.digest for answer in attached)),
            degree_answers=tuple(sorted(answer.statement.digest for answer in degree)),
        )
        return Settlement(signer.sign(final), tuple(attached), tuple(degree))
    accused = complaints_by_client(answer.statement for answer in ordered)
    raise TooFewContributions(
        f"key-holders speak against {len(accused)} or more of {len(fixed.members)} members; fewer than n_min remain"
    )


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """The opened sum [L] and what proves it: `key_sum` int64 [N], centred, and the shares it came from.

    `disagreeing` shares are off the polynomials of those used: their key-holders are named (protocol.md §9.1a).
    """

    opening: Opening
    key_sum: NDArray[np.int64]
    used: tuple[ShareAnswer, ...]
    disagreeing: tuple[ShareAnswer, ...] = ()

    @property
    def shares(self) -> tuple[ShareAnswer, ...]:
        """All that were given, by key-holder number."""
        return tuple(sorted((*self.used, *self.disagreeing), key=lambda share: share.signed.statement.index))


def check_share_answer(descriptor: Descriptor, final: FinalSet, answer: ShareAnswer) -> None:
    """A share sum is signed by the committee member it names, for this U, with these bytes (protocol.md §8.5)."""
    index, holder = descriptor.holder(answer.signed.signer)
    statement = answer.signed.verify(holder)
    found = (statement.ctx, statement.release, statement.final_digest, statement.holder, statement.index)
    if found != (descriptor.ctx, final.release, final.digest, holder.fingerprint, index):
        raise ProtocolViolation(f"the share sum of {holder.title} is for another session, release or set")
    if hashlib.sha256(answer.share).hexdigest() != statement.share_sha256:
        raise HashMismatch(f"the share sum of {holder.title} does not have the hash it was signed with")
    shamir.unpack_share(answer.share)


def open_with_shares(
    descriptor: Descriptor, final: FinalSet, shares: Sequence[ShareAnswer], total: Accumulator
) -> OpenedSum:
    """Interpolate sum(s) and open (protocol.md §9). Tries groups of at least t when the shares do not agree.

    Raises ShareError with fewer than t shares, OpeningError when none of the first MAX_SUBSETS groups opens the sum.
    """
    for share in shares:
        check_share_answer(descriptor, final, share)
    t = descriptor.threshold
    if len(shares) < t:
        raise ShareError(f"{len(shares)} share sums are at hand; {t} are needed")
    ordered = sorted(shares, key=lambda share: share.signed.statement.index)
    groups = _groups(ordered, t, descriptor.corrupt_keyholders)
    for group in islice(groups, MAX_SUBSETS):
        try:
            points = {share.signed.statement.index: share.share for share in group}
            key_sum = shamir.reconstruct(t, points)
            ctx = bytes.fromhex(descriptor.ctx)
            opening = open_sum(descriptor.parameters, ctx, total, key_sum, len(final.members))
        except (ShareError, OpeningError):
            continue
        others = tuple(share for share in ordered if share.signed.statement.index not in points)
        agreeing = tuple(share for share in others if _agrees(t, points, share))
        used = tuple(share for share in ordered if share in group or share in agreeing)
        return OpenedSum(opening, key_sum, used, tuple(share for share in others if share not in agreeing))
    tried = (
        "no t share sums leave" if next(groups, None) is None else f"none of {MAX_SUBSETS} groups of share sums leaves"
    )
    raise OpeningError(
        f"{tried} a small sum(e): a client shared another key than it used, or a share or ciphertext "
        "is wrong. The session is burnt; start a new one"
    )


def _groups(shares: Sequence[ShareAnswer], threshold: int, faulty: int) -> Iterator[tuple[ShareAnswer, ...]]:
    """All shares, then all but one, ... but `faulty`, then every `threshold` of them (protocol.md §9.1)."""
    for away in range(min(faulty, len(shares) - threshold) + 1):
        yield from combinations(shares, len(shares) - away)
    if len(shares) - faulty > threshold:
        yield from combinations(shares, threshold)


def _agrees(threshold: int, points: Mapping[int, bytes], share: ShareAnswer) -> bool:
    try:
        shamir.reconstruct(threshold, {**points, share.signed.statement.index: share.share})
    except ShareError:
        return False
    return True


def mean_change(descriptor: Descriptor, final: FinalSet, opening: Opening) -> NDArray[np.float32]:
    """The decoded weighted mean of the members' vectors, shape [L] (protocol.md §2.4, §9.3)."""
    return mean_of(descriptor, [member.client for member in final.members], opening.sums)


def mean_of(descriptor: Descriptor, clients: Sequence[str], sums: Sums) -> NDArray[np.float32]:
    """The same from the integer sums [L] over `clients`, by fingerprint; their order changes nothing."""
    weights = [descriptor.weights[client] for client in clients]
    weight_sum = None if all(weight == 1.0 for weight in weights) else math.fsum(weights)
    return descriptor.quantiser.decode_mean(sums, len(weights), weight_sum)
