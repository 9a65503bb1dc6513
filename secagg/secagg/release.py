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
from secagg.coordinator import OpenedSum, Settlement, mean_change
from secagg.degree import DegreeCheck
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.encodings.registry import encoding_of
from secagg.errors import MalformedError
from secagg.messages import SignedCandidate, SignedEndorsement, SignedUpload
from secagg.model_card import model_card
from secagg.plan import Plan
from secagg.privacy import guarantee_in_words
from secagg.rounds import check_start, resumed
from secagg.sets import complaints_by_client, remaining_members
from secagg.signing import Signer


@dataclass(frozen=True, slots=True)
class ReleaseParts:
    """What the coordinator has when the sum is open."""

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


def adapter_file(descriptor: Descriptor, parts: ReleaseParts) -> bytes:
    """`adapter_model.safetensors`: what the plan's encoding makes of the mean vector, float32, by PEFT key."""
    final = parts.settlement.final.statement
    plan = plan_of(descriptor, parts.start)
    return save_adapter(plan, mean_change(descriptor, final, parts.opened.opening), len(final.members))


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
    """`opening.safetensors`: ciphertext_sum uint8 [blocks, block_bytes], key_sum int64 [N], share_<index> uint8."""
    tensors: dict[str, NDArray[Any]] = {
        "ciphertext_sum": np.stack([np.frombuffer(block, np.uint8) for block in parts.total.blocks()]),
        "key_sum": parts.opened.key_sum.astype(np.int64),
    }
    for share in parts.opened.shares:
        index = share.signed.statement.index
        tensors[f"share_{index:03d}"] = np.frombuffer(share.share, np.uint8)
    return save(tensors)


def load_tensors(raw: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Parse a safetensors file from outside. Raises MalformedError."""
    try:
        return load(raw)
    except Exception as error:
        raise MalformedError(f"{name} is not a safetensors file: {type(error).__name__}") from error


def adapter_config_file(plan: Plan) -> bytes:
    """`adapter_config.json`: the plan's, at the rank that its encoding releases."""
    config = encoding_of(plan).adapter_config(plan)
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def degree_check(descriptor: Descriptor, parts: ReleaseParts) -> DegreeCheck:
    """The verdict over C from what is attached to U (protocol.md §8.4.4)."""
    settled = parts.settlement
    return remaining_members(descriptor, parts.candidate.statement, settled.answers, settled.degree_answers).degree


def holder_faults(descriptor: Descriptor, parts: ReleaseParts) -> tuple[HolderFault, ...]:
    """Key-holders whose share sums are off, and whether that is certainly their doing (protocol.md §9.1a)."""
    check, settled = degree_check(descriptor, parts), parts.settlement
    answered = {answer.signer for answer in settled.degree_answers}
    enough = check.answers > descriptor.threshold + descriptor.corrupt_keyholders and not check.contradictions
    return tuple(
        HolderFault(
            holder=share.signed.signer,
            finding="lied" if enough and share.signed.signer in answered else "lied-or-was-given-a-wrong-share",
        )
        for share in parts.opened.disagreeing
    )


_CULPRITS = {
    "inconsistent-shares": "the shares that it gave to key-holders are inconsistent",
    "inconsistent-shares-or-a-lying-key-holder": "the shares that it gave to key-holders are inconsistent, or a "
    "key-holder lied about them",
}


def excluded_members(descriptor: Descriptor, parts: ReleaseParts) -> tuple[Excluded, ...]:
    """Every roster member that is not in U, with the reason."""
    final = {member.client for member in parts.settlement.final.statement.members}
    uploaded = {upload.statement.client for upload in parts.uploads}
    accused = complaints_by_client(answer.statement for answer in parts.settlement.answers)
    culprits = degree_check(descriptor, parts).left_out
    reasons = list[Excluded]()
    for fingerprint, identity in sorted(descriptor.clients.items()):
        if fingerprint in final:
            continue
        if fingerprint in accused:
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


def committee_note(descriptor: Descriptor) -> str:
    """What the committee's size assumes, in words."""
    m, t, f = len(descriptor.committee), descriptor.threshold, descriptor.corrupt_keyholders
    if f == 0:
        return f"{t} of {m} key-holders; every key-holder is assumed honest (f=0)"
    return f"{t} of {m} key-holders; holds with up to {f} corrupt"


def privacy_note(descriptor: Descriptor, uploads: tuple[SignedUpload, ...]) -> str:
    """The guarantee in words, by the weakest of the members' statements; it is that of all rounds together."""
    note = guarantee_in_words([upload.statement.privacy for upload in uploads], descriptor.rounds)
    grid = descriptor.noise_grid
    return note if grid is None else f"{note} {grid.guarantee_in_words(descriptor.rounds * descriptor.releases)}"


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
    parameters = descriptor.parameters
    return ReleaseCertificate(
        session=parts.session,
        ctx=descriptor.ctx,
        uploads=tuple(uploads),
        excluded=excluded_members(descriptor, parts),
        candidate=parts.candidate,
        candidate_endorsements=parts.settlement.answers,
        degree_answers=parts.settlement.degree_answers,
        degree_check=degree_check(descriptor, parts),
        holder_faults=holder_faults(descriptor, parts),
        final=parts.settlement.final,
        final_endorsements=parts.final_endorsements,
        share_sums=tuple(share.signed for share in parts.opened.shares),
        committee_note=committee_note(descriptor),
        security_bits=parameters.security_bits,
        security_note=parameters.security_note,
        error_max=int(parts.opened.opening.error_max),
        error_bound=parameters.error_bound(len(final.members)),
        privacy_note=privacy_note(descriptor, kept),
        timeline=parts.timeline,
        software=software,
        files={},
        released_at=parts.released_at,
    )


def sealed_card(certificate: ReleaseCertificate) -> bytes:
    """The model card of a `sealed` release."""
    descriptor = certificate.session.descriptor.statement
    rounds = "one round" if descriptor.round is None else descriptor.round.title
    audit = descriptor.audit.summary if descriptor.audit is not None else ""
    return model_card(certificate, f"under encryption in {rounds}", audit)


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
