"""Making a ckks release: adapter, the signed sums, and the certificate (protocol.md §13.6)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from safetensors.numpy import save

from secagg.certificate import (
    ADAPTER,
    ADAPTER_CONFIG,
    CERTIFICATE,
    FILES,
    MODEL_CARD,
    OPENING,
    REPORT,
    Evaluation,
    Excluded,
    TimelineEvent,
)
from secagg.ckks.certificate import CkksCertificate, SignedCkksRelease, security_note
from secagg.ckks.coordinator import check_opening
from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor
from secagg.ckks.messages import SignedCkksApproval, SignedCkksUpload, SignedUploadSet
from secagg.ckks.opened import Opened
from secagg.client_noise.session import privacy_note
from secagg.model_card import model_card
from secagg.release import adapter_config_file, save_adapter, sign_files
from secagg.signing import Signer

Render = Callable[[CkksCertificate], bytes]


@dataclass(frozen=True, slots=True)
class CkksParts:
    """What the coordinator has when the key-holder has opened the sum; `uploads` are those of U, in its order."""

    session: SignedCkksDescriptor
    approval: SignedCkksApproval
    uploads: tuple[SignedCkksUpload, ...]
    final: SignedUploadSet
    opened: Opened = field(repr=False)
    timeline: tuple[TimelineEvent, ...]
    released_at: int


def adapter_file(parts: CkksParts) -> bytes:
    """`adapter_model.safetensors`: what the plan's encoding makes of the mean. Raises what `check_opening` raises."""
    descriptor, chosen = parts.session.statement, parts.final.statement
    return save_adapter(descriptor.plan, check_opening(descriptor, chosen, parts.opened), len(chosen.members))


def excluded_members(descriptor: CkksDescriptor, members: tuple[str, ...]) -> tuple[Excluded, ...]:
    """Every roster member that is not in U."""
    reason = "no upload before the set was fixed"
    return tuple(
        Excluded(client=name, title=identity.title, reason=reason)
        for name, identity in sorted(descriptor.clients.items())
        if name not in members
    )


def draft_certificate(parts: CkksParts, software: dict[str, str]) -> CkksCertificate:
    """Everything that the certificate states, but for the hashes of the files."""
    descriptor = parts.session.statement
    members = tuple(member.client for member in parts.final.statement.members)
    return CkksCertificate(
        session=parts.session,
        ctx=descriptor.ctx,
        approval=parts.approval,
        uploads=parts.uploads,
        excluded=excluded_members(descriptor, members),
        final=parts.final,
        opening=parts.opened.signed,
        security_bits=descriptor.parameters.ring.security_bits,
        security_note=security_note(descriptor.parameters.ring),
        privacy_note=privacy_note(descriptor, [upload.statement.privacy for upload in parts.uploads]),
        timeline=parts.timeline,
        software=software,
        files={},
        released_at=parts.released_at,
    )


def build_ckks_release(parts: CkksParts, signer: Signer, software: dict[str, str], render: Render) -> dict[str, bytes]:
    """Every file of the release by name; the same arguments give the same bytes."""
    draft = draft_certificate(parts, software)
    contents = {
        ADAPTER: adapter_file(parts),
        ADAPTER_CONFIG: adapter_config_file(parts.session.statement.plan),
        MODEL_CARD: ckks_card(draft),
        OPENING: save({"sums": parts.opened.sums}),
        REPORT: render(draft),
    }
    return sign_files(draft, signer, contents)


def ckks_card(certificate: CkksCertificate) -> bytes:
    """The model card of a ckks release."""
    return model_card(certificate, "under homomorphic encryption, in one round")


def annotate_ckks(
    content: Mapping[str, bytes], signer: Signer, evaluation: Evaluation, render: Render
) -> dict[str, bytes]:
    """The same release with an evaluation on public data attached, and signed again.

    Call it on a release that was just verified. Raises SignatureInvalid when `signer` is not its coordinator.
    """
    certificate = SignedCkksRelease.parse(content[CERTIFICATE]).verify(signer.identity)
    draft = certificate.model_copy(update={"evaluation": evaluation})
    contents = {name: content[name] for name in FILES if name not in (MODEL_CARD, REPORT)}
    contents |= {MODEL_CARD: ckks_card(draft), REPORT: render(draft)}
    return sign_files(draft, signer, contents)
