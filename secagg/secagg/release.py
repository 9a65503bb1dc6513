"""The release: an adapter in PEFT's format, what proves it, and the signed certificate (protocol.md §10)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load, save

from secagg.accumulate import Accumulator
from secagg.adapter import release_tensors
from secagg.canonical import pretty_bytes
from secagg.coordinator import OpenedSum, Settlement, mean_change
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import MalformedError
from secagg.messages import (
    Seconds,
    SignedCandidate,
    SignedEndorsement,
    SignedFinalSet,
    SignedShareSum,
    SignedUpload,
)
from secagg.plan import Frozen, Hash, Plan
from secagg.sets import complaints_by_client
from secagg.signing import Signed, Signer, Statement

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_CARD = "README.md"
REPORT = "report.html"
OPENING = "opening.safetensors"
CERTIFICATE = "release.json"
FILES = (ADAPTER, ADAPTER_CONFIG, MODEL_CARD, REPORT, OPENING)

Short = Annotated[str, Field(min_length=1, max_length=300)]


class TimelineEvent(Frozen):
    """Who did what when, as the coordinator saw it. Holds no figure about data."""

    at: Seconds
    party: Short
    event: Short


class Excluded(Frozen):
    """A roster member that is not in the release, and why."""

    client: Hash
    title: Short
    reason: Short


class Metric(Frozen):
    """One figure on held-out data."""

    name: Short
    value: float


class Evaluation(Frozen):
    """Quality of the released adapter on data whose holder declares it public (protocol.md §10.2)."""

    data_sha256: Hash
    data_is_public: Literal[True]
    description: Short
    metrics: tuple[Metric, ...] = Field(min_length=1, max_length=100)


class ReleaseCertificate(Statement):
    """All that the coordinator states about a release; every part is checked again by `secagg verify`."""

    version: Literal[1] = 1
    session: SignedDescriptor
    ctx: Hash
    uploads: tuple[SignedUpload, ...]
    excluded: tuple[Excluded, ...]
    candidate: SignedCandidate
    candidate_endorsements: tuple[SignedEndorsement, ...]
    final: SignedFinalSet
    final_endorsements: tuple[SignedEndorsement, ...]
    share_sums: tuple[SignedShareSum, ...]
    degree_check: Literal["unchecked"] = "unchecked"
    committee_note: Short
    security_bits: int
    security_note: Annotated[str, Field(max_length=1000)]
    error_max: int
    error_bound: int
    privacy_note: Annotated[str, Field(max_length=2000)]
    timeline: tuple[TimelineEvent, ...]
    software: dict[str, str]
    files: dict[str, Hash]
    evaluation: Evaluation | None = None
    released_at: Seconds

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "release"


SignedRelease = Signed[ReleaseCertificate]


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
    timeline: tuple[TimelineEvent, ...]
    released_at: int


def adapter_file(descriptor: Descriptor, parts: ReleaseParts) -> bytes:
    """`adapter_model.safetensors`: start values plus the decoded mean change, float32, by PEFT key."""
    change = mean_change(descriptor, parts.settlement.final.statement, parts.opened.opening)
    return save_adapter(descriptor.plan, change)


def save_adapter(plan: Plan, change: NDArray[np.float32]) -> bytes:
    """Serialise the adapter; the bytes depend on nothing but the plan and the change."""
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in release_tensors(plan, change).items()}
    return save(tensors, metadata={"format": "pt"})


def opening_file(parts: ReleaseParts) -> bytes:
    """`opening.safetensors`: ciphertext_sum uint8 [blocks, block_bytes], key_sum int64 [N], share_<index> uint8."""
    tensors: dict[str, NDArray[Any]] = {
        "ciphertext_sum": np.stack([np.frombuffer(block, np.uint8) for block in parts.total.blocks()]),
        "key_sum": parts.opened.key_sum.astype(np.int64),
    }
    for share in parts.opened.used:
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
    """`adapter_config.json`, word for word from the plan."""
    return json.dumps(plan.adapter_config, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def excluded_members(descriptor: Descriptor, parts: ReleaseParts) -> tuple[Excluded, ...]:
    """Every roster member that is not in U, with the reason."""
    final = {member.client for member in parts.settlement.final.statement.members}
    uploaded = {upload.statement.client for upload in parts.uploads}
    accused = complaints_by_client(answer.statement for answer in parts.settlement.answers)
    reasons = list[Excluded]()
    for fingerprint, identity in sorted(descriptor.clients.items()):
        if fingerprint in final:
            continue
        if fingerprint in accused:
            why = ", ".join(
                f"{descriptor.holder(holder)[1].title}: {reason}" for holder, reason in accused[fingerprint].items()
            )
            reason = f"complaints of key-holders ({why})"
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
    """The guarantee in words, by the weakest of the members' statements."""
    statements = [upload.statement.privacy for upload in uploads]
    if any(statement.epsilon is None for statement in statements):
        return "NO differential privacy: at least one member trained without it. An experiment, not for private data."
    epsilon = max(statement.epsilon or 0.0 for statement in statements)
    delta = max(statement.delta for statement in statements)
    seeded = any(statement.noise == "seeded" for statement in statements)
    text = (
        f"Adding or removing one record of a member changes the probability of any release by at most a factor "
        f"exp({epsilon:.4g}), but for probability {delta:.3g} (record-level differential privacy, Poisson sampling). "
        f"Others' noise is not credited."
    )
    if seeded:
        text += " The noise came from a seeded generator: reproducible, for experiments only; no protection."
    return text


def build_certificate(
    parts: ReleaseParts, signer: Signer, files: Mapping[str, bytes], software: dict[str, str]
) -> SignedRelease:
    """State everything and sign. `files` are all files but the certificate itself."""
    descriptor = parts.session.descriptor.statement
    final = parts.settlement.final.statement
    chosen = {member.client for member in final.members}
    uploads = tuple(
        sorted((u for u in parts.uploads if u.statement.client in chosen), key=lambda u: u.statement.client)
    )
    candidates = {member.client for member in parts.candidate.statement.members}
    shown = tuple(
        sorted((u for u in parts.uploads if u.statement.client in candidates), key=lambda u: u.statement.client)
    )
    parameters = descriptor.parameters
    certificate = ReleaseCertificate(
        session=parts.session,
        ctx=descriptor.ctx,
        uploads=shown,
        excluded=excluded_members(descriptor, parts),
        candidate=parts.candidate,
        candidate_endorsements=parts.settlement.answers,
        final=parts.settlement.final,
        final_endorsements=parts.final_endorsements,
        share_sums=tuple(share.signed for share in parts.opened.used),
        committee_note=committee_note(descriptor),
        security_bits=parameters.security_bits,
        security_note=parameters.security_note,
        error_max=int(parts.opened.opening.error_max),
        error_bound=parameters.error_bound(len(final.members)),
        privacy_note=privacy_note(descriptor, uploads),
        timeline=parts.timeline,
        software=software,
        files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        released_at=parts.released_at,
    )
    return signer.sign(certificate)


def certificate_file(signed: SignedRelease) -> bytes:
    """`release.json`, in its one form."""
    return pretty_bytes(signed)
