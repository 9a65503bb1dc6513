"""Offline verification of a masked release against anchors that come from elsewhere (protocol.md §12.9.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import certificate as files
from secagg.canonical import pretty_bytes
from secagg.client_noise.session import privacy_note, verified_in_words
from secagg.errors import (
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    ProtocolViolation,
    VerificationError,
)
from secagg.masked import release
from secagg.masked.certificate import SECURITY_BITS, SECURITY_NOTE, MaskedCertificate, SignedMaskedRelease
from secagg.masked.closing import MaskedSum, check_statement
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.policy import MaskedAnchors
from secagg.masked.receiving import check_advertisement, read_directory
from secagg.masked.recovered import Recovered, check_mask_key, check_seed
from secagg.masked.server import check_privacy
from secagg.masked.sharing import SECRET_BYTES, Secret
from secagg.masked.vectors import LEAF_VALUES, MaskedTotal, vector_root
from secagg.release import adapter_config_file, load_tensors
from secagg.verify import CARD_HOLDS, NOT_LINKED, PAGE_NOTE, ReadUpload, check_card, check_files

U32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class MaskedReport:
    """What was checked, in order, in words; `linked` says whether the masked vectors were added again."""

    certificate: MaskedCertificate
    checks: tuple[str, ...]
    linked: bool


def verify_masked(
    content: Mapping[str, bytes], anchors: MaskedAnchors, read_upload: ReadUpload | None = None
) -> MaskedReport:
    """Verify a release given as name -> bytes of every file in its folder.

    `read_upload(client fingerprint, block size)` yields the stored masked vector of a member in blocks, or raises.
    Raises a SecaggError that names the first thing that is wrong.
    """
    certificate = _certificate(content)
    checks = ["release.json is whole, and signed by the coordinator that the anchors pin"]
    descriptor = certificate.session.verify(certificate.session.statement.coordinator_identity)
    _check_session(certificate, descriptor, anchors)
    checks.append("the session has the pinned institutions, model and numbers")
    check_files(content, certificate.files, set(files.FILES))
    checks.append(f"{len(certificate.files)} files have the hashes that the certificate states")
    _check_members(certificate, descriptor, anchors)
    members = certificate.final.statement.members
    checks.append(f"{len(members)} members signed their uploads, {len(certificate.endorsements)} endorsed the set")
    checks += verified_in_words(descriptor)
    total = _check_opening(content, certificate, descriptor)
    checks.append("every mask was made again from the signed commitments, and the opened sum gives this adapter")
    check_card(content, release.masked_card(certificate))
    checks += [CARD_HOLDS, PAGE_NOTE]
    if certificate.evaluation is not None:
        checks.append("the evaluation on public data is the coordinator's word; run `secagg evaluate` to repeat it")
    if read_upload is None:
        checks.append(NOT_LINKED)
    else:
        _check_link(certificate, descriptor, total, read_upload)
        checks.append(f"{len(members)} uploads were hashed and added again")
    return MaskedReport(certificate, tuple(checks), linked=read_upload is not None)


def _certificate(content: Mapping[str, bytes]) -> MaskedCertificate:
    raw = content.get(files.CERTIFICATE)
    if raw is None:
        raise HashMismatch(f"{files.CERTIFICATE} is missing: this folder is not a release")
    signed = SignedMaskedRelease.parse(raw)
    if pretty_bytes(signed) != raw:
        raise HashMismatch(f"{files.CERTIFICATE} is not in its canonical form: it was altered")
    return signed.verify(signed.statement.session.statement.coordinator_identity)


def _check_session(certificate: MaskedCertificate, descriptor: MaskedDescriptor, anchors: MaskedAnchors) -> None:
    if certificate.ctx != descriptor.ctx:
        raise ProtocolViolation("the certificate names another session than its descriptor")
    anchors.check_parties(descriptor)
    for identity in (descriptor.coordinator_identity, *descriptor.clients):
        identity.check_clock(descriptor.created_at)
    if not descriptor.created_at <= certificate.released_at:
        raise ProtocolViolation("the release is dated before its session")


def _check_members(certificate: MaskedCertificate, descriptor: MaskedDescriptor, anchors: MaskedAnchors) -> None:
    """Every signature, and the set that they agree on."""
    for number, advertised in read_directory(descriptor, certificate.advertisements).items():
        check_advertisement(descriptor, advertised, number)
    shared = _numbers(descriptor, certificate.sharings)
    uploaded = _numbers(descriptor, certificate.uploads)
    chosen = certificate.final.verify(descriptor.coordinator_identity)
    if chosen.ctx != descriptor.ctx or chosen.members != uploaded:
        raise ProtocolViolation("the set is of another session, or not that of the signed uploads")
    listed = {descriptor.number_of(signed.signer) for signed in certificate.advertisements}
    if not set(uploaded) <= set(shared) <= listed:
        raise ProtocolViolation("a member uploaded without having shared, or shared without having advertised")
    for upload in certificate.uploads:
        check_privacy(descriptor, upload)
    anchors.check_set(descriptor, chosen.members)
    endorsed = _numbers(descriptor, certificate.endorsements)
    if any(signed.statement.set_digest != chosen.digest for signed in certificate.endorsements):
        raise EndorsementInvalid("a member endorsed another set than the one that was opened")
    if len(endorsed) < descriptor.graph.threshold or not set(endorsed) <= set(uploaded):
        raise EndorsementInvalid(
            f"{len(endorsed)} members endorsed the set; at least {descriptor.graph.threshold} of it must"
        )


def _numbers(descriptor: MaskedDescriptor, signed: Any) -> tuple[int, ...]:
    """Member numbers of verified statements. Raises MalformedError unless distinct and in order."""
    numbers = tuple(
        check_statement(descriptor, one, one.statement.ctx, one.statement.client) for one in signed
    )  # fmt: skip
    if list(numbers) != sorted(set(numbers)):
        raise MalformedError("statements in the certificate must be of distinct members, in order")
    return numbers


def read_masked_opening(raw: bytes, certificate: MaskedCertificate) -> tuple[MaskedSum, MaskedTotal]:
    """Open the published sum once more with the published secrets (protocol.md §12.9.2), and the masked sum itself.

    Raises MalformedError, or OpeningError when a secret is not the one that was signed or masks are left.
    """
    descriptor, members = certificate.session.statement, certificate.final.statement.members
    tensors = load_tensors(raw, files.OPENING)
    if set(tensors) != {"masked_sum", "seeds", "gone", "keys", "pairs"}:
        raise MalformedError(f"{files.OPENING} holds other tensors than a masked release has")
    total = MaskedTotal(descriptor.shape)
    total.take(_array(tensors, "masked_sum", np.uint32, (descriptor.shape.values,)), len(members))
    gone = [int(number) for number in _array(tensors, "gone", np.int64, (None,))]
    seeds = _array(tensors, "seeds", np.uint8, (len(members), SECRET_BYTES))
    keys = _array(tensors, "keys", np.uint8, (len(gone), SECRET_BYTES))
    pairs = tuple((int(low), int(high)) for low, high in _array(tensors, "pairs", np.int64, (None, 2)))
    _check_gone(certificate, gone, pairs)
    found = Recovered(
        {number: Secret(row.tobytes()) for number, row in zip(members, seeds, strict=True)},
        {number: Secret(row.tobytes()) for number, row in zip(gone, keys, strict=True)},
        pairs,
    )
    for upload in certificate.uploads:
        check_seed(descriptor, upload.statement, found.seeds[descriptor.number_of(upload.signer)])
    advertised = {descriptor.number_of(signed.signer): signed.statement for signed in certificate.advertisements}
    for number, key in found.keys.items():
        check_mask_key(descriptor, advertised[number], key)
    sums = total.opened(found.masks(descriptor, certificate.advertisements), descriptor.quantiser)
    return MaskedSum(sums, members), total


def _check_gone(certificate: MaskedCertificate, gone: list[int], pairs: tuple[tuple[int, int], ...]) -> None:
    """The secrets are of those who shared and are not in U; each pair joins one of them with one of U, once."""
    descriptor, members = certificate.session.statement, set(certificate.final.statement.members)
    shared = {descriptor.number_of(signed.signer) for signed in certificate.sharings}
    if gone != sorted(shared - members):
        raise MalformedError(f"{files.OPENING}: mask keys must be those of the members that shared and are not in U")
    if list(pairs) != sorted(set(pairs)) or any(left not in set(gone) or right not in members for left, right in pairs):
        raise MalformedError(f"{files.OPENING}: pairs must be of one who is gone and one of U, each once, in order")


def _check_opening(
    content: Mapping[str, bytes], certificate: MaskedCertificate, descriptor: MaskedDescriptor
) -> MaskedTotal:
    opened, total = read_masked_opening(content[files.OPENING], certificate)
    if content[files.ADAPTER] != release.adapter_file(descriptor, opened):
        raise VerificationError(f"{files.ADAPTER} is not the decoded mean of the opened sum")
    if content[files.ADAPTER_CONFIG] != adapter_config_file(descriptor.plan):
        raise VerificationError(f"{files.ADAPTER_CONFIG} is not the one that the session agreed on")
    statements = [upload.statement.privacy for upload in certificate.uploads]
    excluded = release.excluded_members(descriptor, certificate.advertisements, certificate.sharings, opened.members)
    derived = (
        ("excluded", certificate.excluded, excluded),
        ("masking_note", certificate.masking_note, release.masking_note(descriptor.graph)),
        ("security_bits", certificate.security_bits, SECURITY_BITS),
        ("security_note", certificate.security_note, SECURITY_NOTE),
        ("privacy_note", certificate.privacy_note, privacy_note(descriptor, statements)),
    )
    for name, stated, found in derived:
        if stated != found:
            raise VerificationError(f"the certificate's {name} does not follow from its parts")
    return total


def _check_link(
    certificate: MaskedCertificate, descriptor: MaskedDescriptor, published: MaskedTotal, read_upload: ReadUpload
) -> None:
    shape, total = descriptor.shape, MaskedTotal(descriptor.shape)
    size = LEAF_VALUES * shape.width // 8
    for upload in certificate.uploads:
        raw = bytearray()
        for block in read_upload(upload.signer, size):
            raw += block
            if len(raw) > shape.packed_bytes:
                break
        vector = np.frombuffer(bytes(raw), np.uint8)
        if len(vector) != shape.packed_bytes or vector_root(shape, vector) != upload.statement.vector_root:
            raise HashMismatch(f"the stored upload of {upload.signer[:16]} is not what the client signed")
        total.add(vector)
    if not np.array_equal(total.values, published.values):
        raise VerificationError("the published sum is not the sum of the uploads")


def _array(
    tensors: Mapping[str, NDArray[Any]], name: str, kind: type[np.generic], shape: tuple[int | None, ...]
) -> NDArray[Any]:
    tensor = tensors[name]
    fits = len(tensor.shape) == len(shape) and all(
        want in {None, have} for have, want in zip(tensor.shape, shape, strict=True)
    )
    if tensor.dtype != kind or not fits:
        raise MalformedError(f"{files.OPENING}: tensor {name} is of another type or shape than the session's")
    return tensor
