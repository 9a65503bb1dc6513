"""Making a release: an adapter in PEFT's format, what proves it, and the signed certificate (protocol.md §10)."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from secagg.accumulate import Accumulator
from secagg.certificate import (
    ADAPTER,
    ADAPTER_CONFIG,
    CERTIFICATE,
    MODEL_CARD,
    OPENING,
    REPORT,
    START,
    Certificate,
    Evaluation,
    Excluded,
    HolderFault,
    ReleaseCertificate,
    TimelineEvent,
    certificate_file,
    names,
    parse_certificate,
)
from secagg.client_noise.session import privacy_note as session_note
from secagg.coordinator import OpenedSum, Settlement, mean_of
from secagg.degree import DegreeCheck
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.digits import Sums
from secagg.encodings.registry import encoding_of
from secagg.errors import MalformedError
from secagg.messages import SignedCandidate, SignedEndorsement, SignedUpload
from secagg.model_card import model_card
from secagg.plan import Plan
from secagg.releases import Progress, joined, members_so_far, number_in_words
from secagg.rounds import check_start, resumed
from secagg.sets import complaints_by_client, remaining_members
from secagg.signing import Signer

RUNNING_SUMS = "running_sums"


@dataclass(frozen=True, slots=True)
class ReleaseParts:
    """What the coordinator has when the sum is open.

    In a session of several releases, `progress` says which this is, and `before` [L] holds the sums of those before it.
    """

    session: SignedDescriptor
    uploads: tuple[SignedUpload, ...]
    candidate: SignedCandidate
    settlement: Settlement
    final_endorsements: tuple[SignedEndorsement, ...]
    opened: OpenedSum
    total: Accumulator
    start: bytes | None
    timeline: tuple[TimelineEvent, ...]
    released_at: int
    progress: Progress | None = None
    before: Sums | None = None

    @property
    def running_sums(self) -> Sums:
        """The integer sums [L] of all releases of the session so far (protocol.md §9.4)."""
        return joined(self.before, self.opened.opening.sums)


def adapter_file(descriptor: Descriptor, parts: ReleaseParts) -> bytes:
    """`adapter_model.safetensors`: what the plan's encoding makes of the mean vector, float32, by PEFT key.

    With several releases, the mean over the members of all so far, decoded once from the sum of their sums (§9.4).
    """
    clients = members_so_far(parts.progress, parts.settlement.final.statement)
    plan = plan_of(descriptor, parts.start)
    return save_adapter(plan, mean_of(descriptor, clients, parts.running_sums), len(clients))


def plan_of(descriptor: Descriptor, start: bytes | None) -> Plan:
    """The plan as this round sees it; `start`: the adapter of the round before. Raises HashMismatch, EncodingError."""
    check_start(descriptor, start)
    return descriptor.plan if start is None else resumed(descriptor.plan, load_tensors(start, START))


def save_adapter(plan: Plan, mean: NDArray[np.float32], contributors: int) -> bytes:
    """Decode and serialise; the bytes depend on nothing but the plan, the mean vector [L] and how many made it."""
    decoded = encoding_of(plan).decode(plan, mean, contributors)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in decoded.items()}
    return save(tensors, metadata={"format": "pt"})


def opening_file(parts: ReleaseParts) -> bytes:
    """`opening.safetensors`: ciphertext_sum uint8 [blocks, block_bytes], key_sum int64 [N], share_<index> uint8.

    And `running_sums` [L], in a session of several releases.
    """
    tensors: dict[str, NDArray[Any]] = {
        "ciphertext_sum": np.stack([np.frombuffer(block, np.uint8) for block in parts.total.blocks()]),
        "key_sum": parts.opened.key_sum.astype(np.int64),
    }
    for share in parts.opened.shares:
        index = share.signed.statement.index
        tensors[f"share_{index:03d}"] = np.frombuffer(share.share, np.uint8)
    if parts.progress is not None:
        tensors[RUNNING_SUMS] = np.ascontiguousarray(parts.running_sums)
    return save(tensors)


def load_tensors(raw: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Parse a safetensors file from outside. Raises MalformedError."""
    try:
        return load(raw)
    except Exception as error:
        raise MalformedError(f"{name} is not a safetensors file: {type(error).__name__}") from error


def running_sums(opening: bytes) -> Sums:
    """`running_sums` of an `opening.safetensors` (protocol.md §10.2a). Raises MalformedError."""
    found = load_tensors(opening, OPENING).get(RUNNING_SUMS)
    if found is None or found.dtype not in (np.uint32, np.uint64) or found.ndim != 1:
        raise MalformedError(f"{OPENING}: tensor {RUNNING_SUMS} is missing or of another type or shape")
    return found


def adapter_config_file(plan: Plan) -> bytes:
    """`adapter_config.json`: the plan's, at the rank that its encoding releases."""
    config = encoding_of(plan).adapter_config(plan)
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def degree_check(descriptor: Descriptor, parts: ReleaseParts) -> DegreeCheck:
    """The verdict over C from what is attached to U (protocol.md §8.4.4)."""
    settled = parts.settlement
    return remaining_members(descriptor, parts.candidate.statement, settled.answers, settled.degree_answers).degree


def holder_faults(descriptor: Descriptor, parts: ReleaseParts, check: DegreeCheck) -> tuple[HolderFault, ...]:
    """Key-holders whose share sums are off, and whether that is certainly their doing (protocol.md §9.1a).

    `check`: what `degree_check` gives.
    """
    settled, opened = parts.settlement, parts.opened
    answered = {answer.signer for answer in settled.degree_answers}
    agreeing = sum(share.signed.signer in answered for share in opened.used)
    needed = descriptor.threshold + descriptor.corrupt_keyholders
    sure = check.answers > needed and agreeing >= needed and not check.contradictions
    return tuple(
        HolderFault(holder=one.signed.signer, finding="lied" if sure and one.signed.signer in answered else "disagrees")
        for one in opened.disagreeing
    )


_CULPRITS = {
    "inconsistent-shares": "the shares that it gave to key-holders are inconsistent",
    "inconsistent-shares-or-a-lying-key-holder": "the shares that it gave to key-holders are inconsistent, or a "
    "key-holder lied about them",
}


def excluded_members(descriptor: Descriptor, parts: ReleaseParts, check: DegreeCheck) -> tuple[Excluded, ...]:
    """Every roster member that is not in U, with the reason; `check`: what `degree_check` gives."""
    final = {member.client for member in parts.settlement.final.statement.members}
    uploaded = {upload.statement.client for upload in parts.uploads}
    accused = complaints_by_client(answer.statement for answer in parts.settlement.answers)
    earlier = _earlier_places(parts.progress)
    culprits = check.left_out
    reasons = list[Excluded]()
    for fingerprint, identity in sorted(descriptor.clients.items()):
        if fingerprint in final:
            continue
        if fingerprint in earlier:
            reason = earlier[fingerprint]
        elif fingerprint in accused:
            why = ", ".join(
                f"{descriptor.holder(holder)[1].title}: {reason}" for holder, reason in accused[fingerprint].items()
            )
            reason = f"complaints of key-holders ({why})"
        elif fingerprint in culprits:
            reason = f"degree check: {_CULPRITS[culprits[fingerprint]]}"
        elif fingerprint in uploaded:
            reason = "uploaded after the set was fixed"
        else:
            reason = "no upload before the set was fixed"
        reasons.append(Excluded(client=fingerprint, title=identity.title, reason=reason[:300]))
    return tuple(reasons)


def _earlier_places(progress: Progress | None) -> dict[str, str]:
    """Where those are who were candidates of an earlier release, by fingerprint."""
    places = dict[str, str]()
    for one in progress.earlier if progress is not None else ():
        number = one.sets.candidate.statement.release
        places |= {member.client: f"left out of release {number}" for member in one.sets.candidate.statement.members}
        places |= {member.client: f"in release {number}" for member in one.sets.final.statement.members}
    return places


def committee_note(descriptor: Descriptor) -> str:
    """What the committee's size assumes, in words."""
    m, t, f = len(descriptor.committee), descriptor.threshold, descriptor.corrupt_keyholders
    if f == 0:
        return f"{t} of {m} key-holders; every key-holder is assumed honest (f=0)"
    return f"{t} of {m} key-holders; holds with up to {f} corrupt"


def privacy_note(descriptor: Descriptor, uploads: tuple[SignedUpload, ...], progress: Progress | None = None) -> str:
    """The guarantee in words, by the weakest of the members' statements; it is that of all rounds together."""
    note = session_note(descriptor, [upload.statement.privacy for upload in uploads])
    return note if progress is None else f"{note} {_releases_note(descriptor, progress)}"


def _releases_note(descriptor: Descriptor, progress: Progress) -> str:
    """What several releases mean for the guarantee (protocol.md §8.7.5)."""
    return (
        f"This is {number_in_words(descriptor, progress.number)}: each institution is in one of them at most, so their "
        "epsilons do not add up. The adapter is the mean over the members of all releases so far; the sum of each "
        "cohort is published by itself, and who was in which cohort is public. The guarantee above is by the "
        "statements of this release's members."
    )


def draft_certificate(parts: ReleaseParts, software: dict[str, str]) -> ReleaseCertificate:
    """Everything that the certificate states, but for the hashes of the files."""
    descriptor = parts.session.descriptor.statement
    final = parts.settlement.final.statement
    chosen = {member.client for member in final.members}
    candidates = {member.client for member in parts.candidate.statement.members}
    uploads = sorted(
        (upload for upload in parts.uploads if upload.statement.client in candidates),
        key=lambda upload: upload.statement.client,
    )
    kept = tuple(upload for upload in uploads if upload.statement.client in chosen)
    parameters, check = descriptor.parameters, degree_check(descriptor, parts)
    return ReleaseCertificate(
        session=parts.session,
        ctx=descriptor.ctx,
        uploads=tuple(uploads),
        excluded=excluded_members(descriptor, parts, check),
        candidate=parts.candidate,
        candidate_endorsements=parts.settlement.answers,
        degree_answers=parts.settlement.degree_answers,
        degree_check=check,
        holder_faults=holder_faults(descriptor, parts, check),
        final=parts.settlement.final,
        final_endorsements=parts.final_endorsements,
        share_sums=tuple(share.signed for share in parts.opened.shares),
        committee_note=committee_note(descriptor),
        security_bits=parameters.security_bits,
        security_note=parameters.security_note,
        error_max=int(parts.opened.opening.error_max),
        error_bound=parameters.error_bound(len(final.members)),
        privacy_note=privacy_note(descriptor, kept, parts.progress),
        timeline=parts.timeline,
        software=software,
        files={},
        released_at=parts.released_at,
        progress=parts.progress,
    )


def sealed_card(certificate: ReleaseCertificate) -> bytes:
    """The model card of a `sealed` release."""
    descriptor = certificate.session.descriptor.statement
    rounds = "one round" if descriptor.round is None else descriptor.round.title
    how = f"under encryption in {rounds}"
    if (progress := certificate.progress) is not None:
        total = len(members_so_far(progress, certificate.final.statement))
        how = (
            f"under encryption in {number_in_words(descriptor, progress.number)} of its session, and averaged with "
            f"those of the releases before it: {total} institutions in all"
        )
    audit = descriptor.audit.summary if descriptor.audit is not None else ""
    checked = certificate.degree_check.in_words(descriptor)
    return model_card(certificate, how, audit, checked[0].upper() + checked[1:])


def build_release(
    parts: ReleaseParts, signer: Signer, software: dict[str, str], render: Callable[[ReleaseCertificate], bytes]
) -> dict[str, bytes]:
    """Every file of the release by name; `render` makes report.html from the certificate's content.

    Depends on nothing but its arguments: called again with the same records it gives the same bytes.
    """
    descriptor = parts.session.descriptor.statement
    draft = draft_certificate(parts, software)
    contents = {
        ADAPTER: adapter_file(descriptor, parts),
        ADAPTER_CONFIG: adapter_config_file(descriptor.plan),
        MODEL_CARD: sealed_card(draft),
        OPENING: opening_file(parts),
        REPORT: render(draft),
    }
    if parts.start is not None:
        contents[START] = parts.start
    return sign_files(draft, signer, contents)


def annotate_release(
    content: Mapping[str, bytes],
    signer: Signer,
    evaluation: Evaluation,
    render: Callable[[ReleaseCertificate], bytes],
) -> dict[str, bytes]:
    """The same release with an evaluation on public data attached, model card and report made anew, signed again.

    Call it on a release that was just verified. Raises SignatureInvalid when `signer` is not its coordinator.
    """
    signed = parse_certificate(content[CERTIFICATE])
    certificate = signed.verify(signer.identity)
    draft = certificate.model_copy(update={"evaluation": evaluation})
    listed = names(certificate.session.descriptor.statement)
    contents = {name: content[name] for name in listed if name not in (MODEL_CARD, REPORT)}
    contents[MODEL_CARD] = sealed_card(draft)
    contents[REPORT] = render(draft)
    return sign_files(draft, signer, contents)


def sign_files(draft: Certificate, signer: Signer, contents: dict[str, bytes]) -> dict[str, bytes]:
    """The files with their certificate, which states their hashes."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    signed = signer.sign(draft.model_copy(update={"files": hashes}))
    return {**contents, CERTIFICATE: certificate_file(signed)}
