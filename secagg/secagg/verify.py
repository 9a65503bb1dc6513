"""Offline verification of a release against anchors that come from elsewhere (protocol.md §10.3).

Everything is recomputed: signatures, sets, the key sum from the signed shares, the opening, the adapter. Only the
prose of README.md and report.html is taken as the coordinator's word, bound by hash.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import certificate as files
from secagg import release
from secagg.accumulate import Accumulator
from secagg.canonical import pretty_bytes
from secagg.certificate import ReleaseCertificate
from secagg.client_noise.session import verified_in_words
from secagg.coordinator import OpenedSum, Settlement, open_with_shares
from secagg.descriptor import Descriptor
from secagg.digits import Sums
from secagg.errors import (
    HashMismatch,
    MalformedError,
    PolicyViolation,
    ProtocolViolation,
    SecaggError,
    VerificationError,
)
from secagg.evidence import ShareAnswer
from secagg.merkle import leaf_hash, root_of
from secagg.messages import Upload
from secagg.policy import Anchors
from secagg.releases import check_progress, members_so_far, number_in_words, sums_before
from secagg.rounds import check_follows
from secagg.sets import check_candidate, check_final, check_upload, verify_endorsements

ReadUpload = Callable[[str, int], Iterable[bytes]]

NOT_LINKED = "the sum is NOT linked to the uploads: run again with the stored uploads to add them"
NOT_CHAINED = "the rounds before are NOT checked: run again with their releases to follow the series from its start"
NOT_JOINED = (
    "the releases before are NOT checked: run again with them (--earlier) to see that the running mean is made of them"
)
CARD_HOLDS = "the model card says what the certificate gives, word for word"
PAGE_NOTE = "report.html is the coordinator's page: its hash holds, its words are its own; release.json is what counts"
NOTES = frozenset({NOT_LINKED, NOT_CHAINED, NOT_JOINED, PAGE_NOTE})
"""Among the checks of a report: not those that held, but those that could not be made."""


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What was checked, in order, in words; `linked` says whether the uploads were added again.

    `before` [L] are the sums that the adapter holds beside those opened here: of the session's releases before.
    """

    certificate: ReleaseCertificate
    checks: tuple[str, ...]
    linked: bool
    before: Sums | None = field(default=None, repr=False)


def verify_release(
    content: Mapping[str, bytes],
    anchors: Anchors,
    read_upload: ReadUpload | None = None,
    earlier: Sequence[Mapping[str, bytes]] = (),
) -> VerificationReport:
    """Verify a release given as name -> bytes of every file in its folder.

    `earlier` holds the releases of all rounds before it, or those of the same session before it, in order: to be
    verified as well, and to follow each other.

    `read_upload(client fingerprint, block size)` yields the stored ciphertext of a member block by block, or raises.
    Raises a SecaggError that names the first thing that is wrong.
    """
    certificate = _certificate(content)
    checks = ["release.json is whole, and signed by the coordinator that the anchors pin"]
    descriptor = certificate.session.check(approved=True)
    _check_anchors(certificate, descriptor, anchors)
    checks.append(f"the session was approved by {descriptor.threshold} or more pinned key-holders")
    check_files(content, certificate.files, set(files.names(descriptor)))
    checks.append(f"{len(certificate.files)} files have the hashes that the certificate states")
    uploads = _check_uploads(certificate, descriptor)
    _check_sets(certificate, descriptor, anchors)
    checks.append(f"candidate and final set were each endorsed by {descriptor.threshold} or more key-holders")
    checks.append(certificate.degree_check.in_words(descriptor))
    checks += verified_in_words(descriptor)
    total, before = _check_opening(content, certificate, descriptor)
    checks.append("the key sum, the opening and the adapter were recomputed and are the same, bit for bit")
    check_card(content, release.sealed_card(certificate))
    checks += [CARD_HOLDS, PAGE_NOTE]
    checks += _progress_in_words(certificate, descriptor)
    if descriptor.releases > 1 and earlier:
        checks.append(_check_releases(certificate, anchors, before, earlier))
    elif earlier:
        checks.append(_check_series(descriptor, anchors, earlier))
    elif descriptor.previous is not None:
        checks.append(NOT_CHAINED)
    elif before is not None:
        checks.append(NOT_JOINED)
    if certificate.evaluation is not None:
        checks.append("the evaluation on public data is the coordinator's word; run `secagg evaluate` to repeat it")
    if read_upload is None:
        checks.append(NOT_LINKED)
    else:
        _check_link(certificate, descriptor, uploads, total, read_upload)
        checks.append(f"{len(certificate.final.statement.members)} uploads were hashed and added again")
    return VerificationReport(
        certificate=certificate, checks=tuple(checks), linked=read_upload is not None, before=before
    )


def _progress_in_words(certificate: ReleaseCertificate, descriptor: Descriptor) -> list[str]:
    """What was checked of the releases of one session."""
    progress = certificate.progress
    if progress is None:
        return []
    members = members_so_far(progress, certificate.final.statement)
    return [
        f"{number_in_words(descriptor, progress.number)}; no client is in two of them, and each was endorsed by "
        f"{descriptor.threshold} or more key-holders: {len(members)} members so far",
        "the order of arrival is the coordinator's word",
    ]


def _check_releases(
    certificate: ReleaseCertificate, anchors: Anchors, before: Sums | None, earlier: Sequence[Mapping[str, bytes]]
) -> str:
    """Verify the releases of the same session before this one, and that the running sums are made of theirs (§10.3a).

    Raises what `verify_release` raises of one of them, ProtocolViolation or VerificationError.
    """
    listed = () if certificate.progress is None else certificate.progress.earlier
    if len(earlier) != len(listed):
        raise ProtocolViolation(f"{len(earlier)} earlier releases are given, {len(listed)} were before")
    running: Sums | None = None
    for place, (content, named) in enumerate(zip(earlier, listed, strict=True), 1):
        try:
            report = verify_release(content, anchors)
        except SecaggError as error:
            raise type(error)(f"earlier release {place} of {len(earlier)}: {error}") from error
        found = report.certificate
        if found.ctx != certificate.ctx or found.final.statement.digest != named.sets.final.statement.digest:
            raise ProtocolViolation(f"earlier release {place} of {len(earlier)} is not the one that was before")
        if hashlib.sha256(content[files.OPENING]).hexdigest() != named.opening_sha256:
            raise HashMismatch(f"earlier release {place} was opened in another way than the certificate says")
        _check_joined(report.before, running, place)
        running = release.running_sums(content[files.OPENING])
    _check_joined(before, running, len(earlier) + 1)
    return f"{len(earlier)} earlier releases hold as well, and the running mean is made of them and this one, exactly"


def _check_joined(before: Sums | None, running: Sums | None, place: int) -> None:
    """The sums that release `place` says were before it are those that the one before it ended with."""
    same = before is running if before is None or running is None else np.array_equal(before, running)
    if not same:
        raise VerificationError(f"the running sums of release {place} are not those of the release before and its own")


def _check_series(descriptor: Descriptor, anchors: Anchors, earlier: Sequence[Mapping[str, bytes]]) -> str:
    """Verify the rounds before `descriptor`, and that each starts where the last one ended; in words."""
    if len(earlier) != descriptor.number:
        raise ProtocolViolation(f"{len(earlier)} earlier releases are given, {descriptor.number} rounds were before")
    last, adapter = None, b""
    for place, content in enumerate(earlier, 1):
        try:
            found = verify_release(content, anchors).certificate.session.descriptor.statement
        except SecaggError as error:
            raise type(error)(f"earlier release {place} of {len(earlier)}: {error}") from error
        if last is not None:
            check_follows(last, adapter, found)
        last, adapter = found, content[files.ADAPTER]
    if last is not None:
        check_follows(last, adapter, descriptor)
    return f"{len(earlier)} earlier rounds hold as well, and each starts from the release before it"


def _certificate(content: Mapping[str, bytes]) -> ReleaseCertificate:
    raw = content.get(files.CERTIFICATE)
    if raw is None:
        raise HashMismatch(f"{files.CERTIFICATE} is missing: this folder is not a release")
    signed = files.parse_certificate(raw)
    if pretty_bytes(signed) != raw:
        raise HashMismatch(f"{files.CERTIFICATE} is not in its canonical form: it was altered")
    return signed.verify(signed.statement.session.descriptor.statement.coordinator_identity)


def _check_anchors(certificate: ReleaseCertificate, descriptor: Descriptor, anchors: Anchors) -> None:
    if certificate.ctx != descriptor.ctx:
        raise ProtocolViolation("the certificate names another session than its descriptor")
    anchors.check_parties(descriptor)
    for identity in (descriptor.coordinator_identity, *descriptor.holders, *descriptor.clients.values()):
        identity.check_clock(descriptor.created_at)
    if not descriptor.created_at <= certificate.released_at:
        raise ProtocolViolation("the release is dated before its session")


def check_files(content: Mapping[str, bytes], hashes: Mapping[str, str], listed: set[str]) -> None:
    """The folder holds the `listed` files, with the hashes that the certificate states, and no other.

    Raises VerificationError or HashMismatch.
    """
    if set(hashes) != listed:
        raise VerificationError("the certificate does not list the files of a release")
    strangers = set(content) - listed - {files.CERTIFICATE}
    if strangers:
        raise VerificationError(f"{min(strangers)} does not belong to the release; remove it")
    for name, expected in hashes.items():
        if name not in content:
            raise HashMismatch(f"{name} is missing")
        if hashlib.sha256(content[name]).hexdigest() != expected:
            raise HashMismatch(f"{name} does not have the hash in the certificate: it was altered")


def _check_uploads(certificate: ReleaseCertificate, descriptor: Descriptor) -> dict[str, Upload]:
    uploads = {signed.signer: check_upload(descriptor, signed, signed.signer) for signed in certificate.uploads}
    listed = {member.client: member.upload_root for member in certificate.candidate.statement.members}
    if {client: upload.upload_root for client, upload in uploads.items()} != listed:
        raise ProtocolViolation("the signed uploads are not those of the candidate set")
    return uploads


def _check_sets(certificate: ReleaseCertificate, descriptor: Descriptor, anchors: Anchors) -> None:
    candidate = certificate.candidate.verify(descriptor.coordinator_identity)
    final = certificate.final.verify(descriptor.coordinator_identity)
    check_candidate(descriptor, candidate)
    check_final(descriptor, candidate, final, certificate.candidate_endorsements, certificate.degree_answers)
    check_progress(descriptor, certificate.progress, candidate, final)
    verify_endorsements(
        descriptor, certificate.final_endorsements, stage="final", release=final.release, digest=final.digest
    )
    members = [member.client for member in final.members]
    anchors.check_institutions(members, "final set")
    if len(members) < anchors.n_min:
        raise PolicyViolation(f"{len(members)} members, the anchors ask for at least {anchors.n_min}")


def _check_opening(
    content: Mapping[str, bytes], certificate: ReleaseCertificate, descriptor: Descriptor
) -> tuple[Accumulator, Sums | None]:
    """The published sum, and the sums of the releases before this one."""
    opened, total = read_opening(content[files.OPENING], certificate)
    before = None
    if certificate.progress is not None:
        running = release.running_sums(content[files.OPENING])
        before = sums_before(running, opened.opening.sums, certificate.progress.number)
    parts = release.ReleaseParts(
        session=certificate.session,
        uploads=certificate.uploads,
        candidate=certificate.candidate,
        settlement=Settlement(certificate.final, certificate.candidate_endorsements, certificate.degree_answers),
        final_endorsements=certificate.final_endorsements,
        opened=opened,
        total=total,
        start=content.get(files.START),
        timeline=certificate.timeline,
        released_at=certificate.released_at,
        progress=certificate.progress,
        before=before,
    )
    _check_statements(content, certificate, descriptor, parts)
    return total, before


def check_card(content: Mapping[str, bytes], card: bytes) -> None:
    """Raise VerificationError unless the model card is the one that the certificate gives (protocol.md §10.3)."""
    if content[files.MODEL_CARD] != card:
        raise VerificationError(f"{files.MODEL_CARD} is not the model card that the certificate gives")


def read_opening(raw: bytes, certificate: ReleaseCertificate) -> tuple[OpenedSum, Accumulator]:
    """Open the published sum once more with the published shares (protocol.md §9), and the sum itself.

    Raises MalformedError, ShareError, OpeningError; VerificationError when the key sum is not that of the shares.
    """
    descriptor = certificate.session.descriptor.statement
    tensors = release.load_tensors(raw, files.OPENING)
    shares = tuple(
        ShareAnswer(signed=signed, share=_array(tensors, f"share_{signed.statement.index:03d}", np.uint8, 1).tobytes())
        for signed in certificate.share_sums
    )
    expected = {"ciphertext_sum", "key_sum", *(f"share_{s.signed.statement.index:03d}" for s in shares)}
    if certificate.progress is not None:
        expected.add(release.RUNNING_SUMS)
    if set(tensors) != expected:
        raise MalformedError(f"{files.OPENING} holds other tensors than the certificate's share sums need")
    total = Accumulator(descriptor.parameters)
    total.add([block.tobytes() for block in _array(tensors, "ciphertext_sum", np.uint8, 2)])
    opened = open_with_shares(descriptor, certificate.final.statement, shares, total)
    if not np.array_equal(opened.key_sum, _array(tensors, "key_sum", np.int64, 1)):
        raise VerificationError("the published key sum is not what the share sums give")
    return opened, total


def _check_statements(
    content: Mapping[str, bytes], certificate: ReleaseCertificate, descriptor: Descriptor, parts: release.ReleaseParts
) -> None:
    """Everything that the certificate derives is derived again."""
    if content[files.ADAPTER] != release.adapter_file(descriptor, parts):
        raise VerificationError(f"{files.ADAPTER} is not the decoded mean of the opened sum")
    if content[files.ADAPTER_CONFIG] != release.adapter_config_file(descriptor.plan):
        raise VerificationError(f"{files.ADAPTER_CONFIG} is not the one that the session agreed on")
    final = parts.settlement.final.statement
    members = {member.client for member in final.members}
    kept = tuple(upload for upload in certificate.uploads if upload.statement.client in members)
    parameters, check = descriptor.parameters, release.degree_check(descriptor, parts)
    derived = (
        ("degree_check", certificate.degree_check, check),
        ("holder_faults", certificate.holder_faults, release.holder_faults(descriptor, parts, check)),
        ("excluded", certificate.excluded, release.excluded_members(descriptor, parts, check)),
        ("committee_note", certificate.committee_note, release.committee_note(descriptor)),
        ("security_bits", certificate.security_bits, parameters.security_bits),
        ("security_note", certificate.security_note, parameters.security_note),
        ("error_max", certificate.error_max, int(parts.opened.opening.error_max)),
        ("error_bound", certificate.error_bound, parameters.error_bound(len(final.members))),
        ("privacy_note", certificate.privacy_note, release.privacy_note(descriptor, kept, parts.progress)),
    )
    for name, stated, found in derived:
        if stated != found:
            raise VerificationError(f"the certificate's {name} does not follow from its parts")


def _check_link(
    certificate: ReleaseCertificate,
    descriptor: Descriptor,
    uploads: Mapping[str, Upload],
    published: Accumulator,
    read_upload: ReadUpload,
) -> None:
    total = Accumulator(descriptor.parameters)
    size = descriptor.parameters.block_bytes
    for member in certificate.final.statement.members:
        leaves = list[bytes]()
        for index, block in enumerate(read_upload(member.client, size)):
            if index >= descriptor.parameters.blocks or len(block) != size:
                raise HashMismatch(f"the stored upload of {member.client[:16]} has another length")
            leaves.append(leaf_hash(block))
            total.add_block(index, block)
        if root_of(leaves).hex() != uploads[member.client].ciphertext_root:
            raise HashMismatch(f"the stored upload of {member.client[:16]} is not what the client signed")
    for index, (ours, theirs) in enumerate(zip(total.blocks(), published.blocks(), strict=True)):
        if bytes(ours) != bytes(theirs):
            raise VerificationError(f"block {index} of the published sum is not the sum of the uploads")


def _array(
    tensors: Mapping[str, NDArray[Any]], name: str, kind: type[np.uint8] | type[np.int64], dimensions: int
) -> NDArray[Any]:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != kind or tensor.ndim != dimensions:
        raise MalformedError(f"{files.OPENING}: tensor {name} is missing or of another type or shape")
    return tensor
