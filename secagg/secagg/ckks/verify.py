"""Offline verification of a ckks release against anchors that come from elsewhere (protocol.md §13.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from secagg import certificate as files
from secagg.canonical import pretty_bytes
from secagg.ckks import release
from secagg.ckks.certificate import TRUST_NOTE, CkksCertificate, SignedCkksRelease, security_note
from secagg.ckks.client import blocks_root, check_ckks_upload
from secagg.ckks.descriptor import CkksDescriptor
from secagg.ckks.opened import Opened
from secagg.ckks.policy import CkksAnchors
from secagg.client_noise.session import privacy_note, verified_in_words
from secagg.errors import EndorsementInvalid, HashMismatch, MalformedError, ProtocolViolation, VerificationError
from secagg.release import adapter_config_file, load_tensors
from secagg.verify import CARD_HOLDS, PAGE_NOTE, ReadUpload, check_card, check_files

NOT_PROVED = "that the sums are those of the uploads is the key-holder's word: nothing in this protocol proves it"
NOT_LINKED = "the uploads were NOT looked at: run again with the stored uploads to hash them"


@dataclass(frozen=True, slots=True)
class CkksReport:
    """What was checked, in order, in words; `linked` says whether the stored uploads were hashed again."""

    certificate: CkksCertificate
    checks: tuple[str, ...]
    linked: bool


def verify_ckks(
    content: Mapping[str, bytes], anchors: CkksAnchors, read_upload: ReadUpload | None = None
) -> CkksReport:
    """Verify a release given as name -> bytes of every file in its folder.

    `read_upload(client fingerprint, block size)` yields the stored upload of a member in pieces, or raises.
    Raises a SecaggError that names the first thing that is wrong.
    """
    certificate = _certificate(content)
    checks = ["release.json is whole, and signed by the coordinator that the anchors pin"]
    descriptor = certificate.session.verify(certificate.session.statement.coordinator_identity)
    _check_session(certificate, descriptor, anchors)
    checks.append("the session has the pinned institutions, key-holder, model and numbers; the key-holder approved it")
    check_files(content, certificate.files, set(files.FILES))
    checks.append(f"{len(certificate.files)} files have the hashes that the certificate states")
    members = _check_members(certificate, descriptor, anchors)
    checks.append(f"{len(members)} members signed their uploads; the key-holder signed the sums of this set")
    checks += verified_in_words(descriptor)
    _check_adapter(content, certificate, descriptor)
    checks.append("the adapter was recomputed from the signed sums and is the same, bit for bit")
    check_card(content, release.ckks_card(certificate))
    checks += [CARD_HOLDS, PAGE_NOTE, NOT_PROVED]
    if certificate.evaluation is not None:
        checks.append("the evaluation on public data is the coordinator's word; run `secagg evaluate` to repeat it")
    if read_upload is None:
        checks.append(NOT_LINKED)
    else:
        _check_uploads(certificate, read_upload)
        checks.append(f"{len(members)} uploads were hashed again: they are what the clients signed")
    return CkksReport(certificate, tuple(checks), linked=read_upload is not None)


def _certificate(content: Mapping[str, bytes]) -> CkksCertificate:
    raw = content.get(files.CERTIFICATE)
    if raw is None:
        raise HashMismatch(f"{files.CERTIFICATE} is missing: this folder is not a release")
    signed = SignedCkksRelease.parse(raw)
    if pretty_bytes(signed) != raw:
        raise HashMismatch(f"{files.CERTIFICATE} is not in its canonical form: it was altered")
    return signed.verify(signed.statement.session.statement.coordinator_identity)


def _check_session(certificate: CkksCertificate, descriptor: CkksDescriptor, anchors: CkksAnchors) -> None:
    if certificate.ctx != descriptor.ctx:
        raise ProtocolViolation("the certificate names another session than its descriptor")
    anchors.check_parties(descriptor)
    for identity in (descriptor.coordinator_identity, descriptor.holder, *descriptor.clients.values()):
        identity.check_clock(descriptor.created_at)
    if not descriptor.created_at <= certificate.released_at:
        raise ProtocolViolation("the release is dated before its session")
    word = certificate.approval.verify(descriptor.holder)
    if (word.ctx, word.holder) != (descriptor.ctx, descriptor.holder.fingerprint):
        raise EndorsementInvalid("the key-holder's approval is for another session")
    _ = descriptor.public


def _check_members(certificate: CkksCertificate, descriptor: CkksDescriptor, anchors: CkksAnchors) -> tuple[str, ...]:
    chosen = certificate.final.verify(descriptor.coordinator_identity)
    if chosen.ctx != descriptor.ctx:
        raise ProtocolViolation("the set is of another session")
    signed = {upload.signer: check_ckks_upload(descriptor, upload).digest for upload in certificate.uploads}
    if {member.client: member.upload for member in chosen.members} != signed:
        raise ProtocolViolation("the signed uploads are not those of the set")
    anchors.check_set(descriptor, certificate.members)
    return certificate.members


def opened_of(raw: bytes, certificate: CkksCertificate) -> Opened:
    """The published sums with the key-holder's word. Raises MalformedError."""
    tensors = load_tensors(raw, files.OPENING)
    sums = tensors.get("sums")
    if set(tensors) != {"sums"} or sums is None or sums.dtype != np.uint32 or sums.ndim != 1 or not sums.size:
        raise MalformedError(f"{files.OPENING} must hold `sums` and nothing else")
    return Opened(certificate.opening, sums)


def _check_adapter(content: Mapping[str, bytes], certificate: CkksCertificate, descriptor: CkksDescriptor) -> None:
    parts = release.CkksParts(
        session=certificate.session,
        approval=certificate.approval,
        uploads=certificate.uploads,
        final=certificate.final,
        opened=opened_of(content[files.OPENING], certificate),
        timeline=certificate.timeline,
        released_at=certificate.released_at,
    )
    if content[files.ADAPTER] != release.adapter_file(parts):
        raise VerificationError(f"{files.ADAPTER} is not the decoded mean of the signed sums")
    if content[files.ADAPTER_CONFIG] != adapter_config_file(descriptor.plan):
        raise VerificationError(f"{files.ADAPTER_CONFIG} is not the one that the session agreed on")
    statements = [upload.statement.privacy for upload in certificate.uploads]
    derived = (
        ("excluded", certificate.excluded, release.excluded_members(descriptor, certificate.members)),
        ("keyholder_note", certificate.keyholder_note, TRUST_NOTE),
        ("security_bits", certificate.security_bits, descriptor.parameters.ring.security_bits),
        ("security_note", certificate.security_note, security_note(descriptor.parameters.ring)),
        ("privacy_note", certificate.privacy_note, privacy_note(descriptor, statements)),
    )
    for name, stated, found in derived:
        if stated != found:
            raise VerificationError(f"the certificate's {name} does not follow from its parts")


def _check_uploads(certificate: CkksCertificate, read_upload: ReadUpload) -> None:
    """Hash them again, a block at a time: what is in one only the key-holder saw."""
    size = certificate.session.statement.parameters.ring.wire_bytes
    for signed in certificate.uploads:
        most = signed.statement.blocks + 1  # one more, and the root is another
        if blocks_root(islice(read_upload(signed.signer, size), most)) != signed.statement.root:
            raise HashMismatch(f"the stored upload of {signed.signer[:16]} is not what the client signed")
