"""The rules for candidate and final sets, used alike by coordinator, key-holder and auditor (protocol.md §8)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secagg.degree import DegreeCheck, verdict, verify_answers
from secagg.descriptor import Descriptor
from secagg.errors import (
    ConflictError,
    EndorsementInvalid,
    PolicyViolation,
    ProtocolViolation,
    SizeLimitError,
    TooFewContributions,
)
from secagg.identity import plain_name
from secagg.messages import (
    Candidate,
    Endorsement,
    FinalSet,
    SetMember,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedUpload,
    Upload,
)
from secagg.privacy import unit_in_words


def check_upload(descriptor: Descriptor, signed: SignedUpload, client: str) -> Upload:
    """The client's own signature, for this session and length, with the privacy that the session agreed on (§7.1).

    Raises RoleViolation, SignatureInvalid, ProtocolViolation, SizeLimitError or PolicyViolation.
    """
    identity = descriptor.client(client)
    upload = signed.verify(identity)
    if (upload.ctx, upload.client) != (descriptor.ctx, client):
        raise ProtocolViolation(f"the upload of {identity.title} is for another session or client")
    expected = descriptor.parameters.ciphertext_bytes
    if upload.ciphertext_bytes != expected:
        raise SizeLimitError(f"{identity.title} announces {upload.ciphertext_bytes} bytes; they must be {expected}")
    agreed, stated = descriptor.plan.training, upload.privacy
    if agreed.epsilon is not None and (stated.epsilon is None or stated.epsilon > agreed.epsilon):
        raise PolicyViolation(f"{identity.title} states epsilon {stated.epsilon}; the session allows {agreed.epsilon}")
    if stated.delta > agreed.delta or stated.noise != agreed.noise:
        raise PolicyViolation(f"{identity.title} states another delta or kind of noise than the session agreed on")
    if (stated.unit, stated.records_per_user) != (agreed.unit, agreed.records_per_user):
        raise PolicyViolation(
            f"{identity.title} states the unit of privacy {unit_in_words(stated.unit, stated.records_per_user)}; the "
            f"session agreed on {unit_in_words(agreed.unit, agreed.records_per_user)}"
        )
    if stated.client_level != descriptor.client_statement:
        raise PolicyViolation(f"{identity.title} states other client-level noise than the session agreed on")
    return upload


def check_members(descriptor: Descriptor, members: Sequence[SetMember]) -> None:
    """Every member on the roster, n_min <= |set| <= n_max, and at least n_min institutions (protocol.md §8.2).

    Raises RoleViolation or TooFewContributions.
    """
    institutions = {plain_name(descriptor.client(member.client).institution) for member in members}
    if len(members) < descriptor.n_min or len(institutions) < descriptor.n_min:
        raise TooFewContributions(
            f"{len(members)} uploads from {len(institutions)} institutions; the session opens nothing below "
            f"n_min = {descriptor.n_min}"
        )
    if len(members) > descriptor.n_max:
        raise ProtocolViolation(f"the set has {len(members)} members, more than n_max = {descriptor.n_max}")


def check_candidate(descriptor: Descriptor, candidate: Candidate) -> None:
    """A candidate is for this session and within its limits."""
    if candidate.ctx != descriptor.ctx:
        raise ProtocolViolation("the candidate set belongs to another session")
    if candidate.release > descriptor.releases:
        raise ProtocolViolation(f"release {candidate.release} of {descriptor.releases} allowed ones")
    check_members(descriptor, candidate.members)


def verify_endorsements(
    descriptor: Descriptor, endorsements: Iterable[SignedEndorsement], *, stage: str, release: int, digest: str
) -> tuple[Endorsement, ...]:
    """Verify signatures and content; at least t distinct key-holders. Raises EndorsementInvalid or SignatureInvalid."""
    verified = dict[str, Endorsement]()
    for signed in endorsements:
        _, holder = descriptor.holder(signed.signer)
        endorsement = signed.verify(holder)
        found = (endorsement.ctx, endorsement.release, endorsement.stage, endorsement.set_digest, endorsement.holder)
        if found != (descriptor.ctx, release, stage, digest, holder.fingerprint):
            raise EndorsementInvalid(f"the endorsement of {holder.title} is for another session, stage or set")
        if holder.fingerprint in verified:
            raise EndorsementInvalid(f"two endorsements of {holder.title} for one set")
        verified[holder.fingerprint] = endorsement
    if len(verified) < descriptor.threshold:
        raise EndorsementInvalid(f"{len(verified)} key-holders endorsed the {stage} set; {descriptor.threshold} must")
    return tuple(verified.values())


def check_peers(
    descriptor: Descriptor, peers: Iterable[SignedEndorsement], *, stage: str, release: int, digest: str
) -> None:
    """Raise ConflictError when any key-holder endorsed another set for this stage: the coordinator showed two.

    Endorsements of the other stage are passed over. A key-holder restored from a backup finds its own here.
    """
    for signed in peers:
        _, holder = descriptor.holder(signed.signer)
        endorsement = signed.verify(holder)
        if (endorsement.ctx, endorsement.release, endorsement.stage) != (descriptor.ctx, release, stage):
            continue
        if endorsement.set_digest != digest:
            raise ConflictError(f"{holder.title} endorsed another {stage} set; the coordinator showed two")


def complaints_by_client(answers: Iterable[Endorsement]) -> dict[str, dict[str, str]]:
    """client -> {key-holder: reason} over the attached answers."""
    found = dict[str, dict[str, str]]()
    for answer in answers:
        for complaint in answer.complaints:
            found.setdefault(complaint.client, {})[answer.holder] = complaint.reason
    return found


@dataclass(frozen=True, slots=True)
class Remaining:
    """U as it follows from C and what is attached, with the verdict of the degree check."""

    members: tuple[SetMember, ...]
    degree: DegreeCheck


def remaining_members(
    descriptor: Descriptor,
    candidate: Candidate,
    answers: Sequence[SignedEndorsement],
    degree_answers: Sequence[SignedDegreeAnswer],
) -> Remaining:
    """U = C less every member that an attached endorsement complains about, less culprits (protocol.md §8.3).

    Raises EndorsementInvalid, SignatureInvalid or ProtocolViolation for anything attached that does not belong.
    """
    endorsed = verify_endorsements(
        descriptor, answers, stage="candidate", release=candidate.release, digest=candidate.digest
    )
    given = verify_answers(descriptor, candidate, degree_answers)
    strangers = {one.holder for one in given} - {one.holder for one in endorsed}
    if strangers:
        raise EndorsementInvalid(f"the degree answer of {min(strangers)[:16]} comes without its endorsement")
    accused = complaints_by_client(endorsed)
    degree = verdict(descriptor, candidate, given, accused)
    members = (m for m in candidate.members if m.client not in accused and m.client not in degree.left_out)
    return Remaining(tuple(members), degree)


def check_final(
    descriptor: Descriptor,
    candidate: Candidate,
    final: FinalSet,
    answers: Sequence[SignedEndorsement],
    degree_answers: Sequence[SignedDegreeAnswer],
) -> DegreeCheck:
    """The final set follows from the candidate and what is attached, and is within the limits; the verdict."""
    if (final.ctx, final.release) != (descriptor.ctx, candidate.release):
        raise ProtocolViolation("the final set belongs to another session or release")
    if final.candidate_digest != candidate.digest:
        raise ProtocolViolation("the final set belongs to another candidate set")
    remaining = remaining_members(descriptor, candidate, answers, degree_answers)
    if sorted(answer.statement.digest for answer in answers) != list(final.answers):
        raise EndorsementInvalid("the attached answers are not those that the final set names")
    if sorted(answer.statement.digest for answer in degree_answers) != list(final.degree_answers):
        raise EndorsementInvalid("the attached degree answers are not those that the final set names")
    if final.members != remaining.members:
        raise ProtocolViolation("the final set is not the candidate set less those complained about and culprits")
    check_members(descriptor, final.members)
    return remaining.degree
