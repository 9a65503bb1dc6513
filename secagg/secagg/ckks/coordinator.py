"""What the coordinator of a ckks session decides (protocol.md §13.5.1, §13.6). It holds no key and opens nothing."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import check_blocks, check_ckks_upload
from secagg.ckks.descriptor import CkksDescriptor
from secagg.ckks.messages import (
    Chosen,
    Finding,
    OpeningRefusal,
    SignedCkksUpload,
    SignedOpeningRefusal,
    SignedSumOpening,
    SignedUploadSet,
    SumOpening,
    UploadSet,
)
from secagg.ckks.opened import Opened, sums_hash
from secagg.errors import HashMismatch, OpeningError, ProtocolViolation, TooFewContributions
from secagg.signing import Signer

_FINDINGS: dict[Finding, str] = {
    "no-ciphertext": "{client} sent ciphertexts that are none",
    "error": "the error of the sum is larger than honest ciphertexts can make it; some client encrypted otherwise",
    "limbs": "coefficients of the sum hold more than their limbs; some client encrypted otherwise",
    "sum": "a sum is larger than its members can make it; some client sent values that are none",
}


def check_arrived(descriptor: CkksDescriptor, signed: SignedCkksUpload, blocks: Iterable[bytes]) -> None:
    """An upload as it comes in: signed by its client, whole, and of this session's sizes (§13.4.3).

    Its blocks are sealed to the key-holder: whether they hold ciphertexts is for that one to see.

    Raises what `check_ckks_upload` raises, HashMismatch or SizeLimitError.
    """
    check_blocks(descriptor, check_ckks_upload(descriptor, signed), blocks)


def fix_set(descriptor: CkksDescriptor, uploads: Mapping[str, SignedCkksUpload], signer: Signer) -> SignedUploadSet:
    """U over all uploads that have arrived. Raises TooFewContributions below n_min members or institutions."""
    institutions = descriptor.institutions(tuple(uploads))
    if min(len(uploads), institutions) < descriptor.n_min:
        raise TooFewContributions(
            f"{len(uploads)} uploads of {institutions} institutions; the session opens nothing below "
            f"n_min = {descriptor.n_min}"
        )
    members = tuple(Chosen(client=name, upload=uploads[name].statement.digest) for name in sorted(uploads))
    return signer.sign(UploadSet(ctx=descriptor.ctx, members=members))


def check_refusal_word(descriptor: CkksDescriptor, signed: SignedOpeningRefusal) -> OpeningRefusal:
    """The key-holder's word that its set does not open, as far as it can be checked without the set (§13.5.7).

    Raises SignatureInvalid or ProtocolViolation.
    """
    word = signed.verify(descriptor.holder)
    if (word.ctx, word.holder) != (descriptor.ctx, descriptor.holder.fingerprint):
        raise ProtocolViolation("the refusal is for another session or key-holder")
    if word.client and word.client not in descriptor.clients:
        raise ProtocolViolation("the refusal names a client that is not on the roster")
    return word


def check_refusal(descriptor: CkksDescriptor, chosen: UploadSet, signed: SignedOpeningRefusal) -> OpeningRefusal:
    """The same, for this set. Raises SignatureInvalid or ProtocolViolation."""
    word = check_refusal_word(descriptor, signed)
    if word.set_digest != chosen.digest:
        raise ProtocolViolation("the refusal is for another set")
    if word.client and word.client not in {member.client for member in chosen.members}:
        raise ProtocolViolation("the refusal names a client that is not in the set")
    return word


def refusal_in_words(descriptor: CkksDescriptor, word: OpeningRefusal) -> str:
    """Why the session is burnt."""
    client = descriptor.client(word.client).title if word.client else ""
    found = _FINDINGS[word.finding].format(client=client)
    return f"{descriptor.holder.title} finds that the sum does not open: {found}. The session is burnt"


def check_opening_word(descriptor: CkksDescriptor, chosen: UploadSet, signed: SignedSumOpening) -> SumOpening:
    """The key-holder's word for sums of this set, without them. Raises SignatureInvalid or ProtocolViolation."""
    word = signed.verify(descriptor.holder)
    if (word.ctx, word.holder, word.set_digest) != (descriptor.ctx, descriptor.holder.fingerprint, chosen.digest):
        raise ProtocolViolation("the opening is for another session or set")
    return word


def check_opening(descriptor: CkksDescriptor, chosen: UploadSet, opened: Opened) -> NDArray[np.float32]:
    """The decoded weighted mean, float32 [L], of sums that the key-holder signed for this set (§13.6.1).

    Raises SignatureInvalid, ProtocolViolation, HashMismatch or OpeningError.
    """
    word = check_opening_word(descriptor, chosen, opened.signed)
    if opened.sums.shape != (descriptor.parameters.length,) or sums_hash(opened.sums) != word.sums:
        raise HashMismatch("the sums are not those that the key-holder signed")
    if int(opened.sums.max()) > len(chosen.members) * descriptor.quantiser.levels:
        raise OpeningError("a sum is larger than its members can make it")
    weights = [descriptor.weights[member.client] for member in chosen.members]
    weight_sum = None if all(weight == 1.0 for weight in weights) else math.fsum(weights)
    return descriptor.quantiser.decode_mean(opened.sums, len(weights), weight_sum)
