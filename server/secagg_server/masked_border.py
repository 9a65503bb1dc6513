"""Messages of masked sessions between bytes and typed values (protocol.md §11.2, §12)."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from secagg.errors import MalformedError
from secagg.masked.keys import BOX_BYTES
from secagg.masked.messages import (
    DeliveredSelfShare,
    DeliveredShare,
    SharedBox,
    SharingMessage,
    SignedMaskedUpload,
    SignedSharing,
)
from secagg.masked.parameters import MAX_HOLDERS
from secagg_protos.v1 import secagg_pb2 as pb

HASH_BYTES = 32


def read_leaves(leaves: Iterable[pb.MaskedLeaf]) -> tuple[SharedBox, ...]:
    """Leaves of a tree of shares. Raises MalformedError for sizes that none has."""
    read = tuple(SharedBox(int(leaf.receiver), leaf.commitment, leaf.box) for leaf in leaves)
    if len(read) > MAX_HOLDERS:
        raise MalformedError(f"{len(read)} leaves; a client has at most {MAX_HOLDERS} holders")
    if any(len(leaf.commitment) != HASH_BYTES or len(leaf.box) != BOX_BYTES for leaf in read):
        raise MalformedError(f"a leaf has a commitment of {HASH_BYTES} bytes and a box of {BOX_BYTES}")
    return read


def sharing_of(body: bytes) -> SharingMessage:
    """A stored or received ShareKeyRequest. Raises MalformedError."""
    try:
        request = pb.ShareKeyRequest.FromString(body)
    except DecodeError as error:
        raise MalformedError("the message of shares is damaged") from error
    return SharingMessage(SignedSharing.parse(request.signed_sharing_json), read_leaves(request.leaves))


def leaves_of(header: bytes) -> tuple[SignedMaskedUpload, tuple[SharedBox, ...]]:
    """A stored or received MaskedUploadHeader. Raises MalformedError."""
    try:
        found = pb.MaskedUploadHeader.FromString(header)
    except DecodeError as error:
        raise MalformedError("the header of a masked upload is damaged") from error
    return SignedMaskedUpload.parse(found.signed_upload_json), read_leaves(found.leaves)


def header_bytes(header: pb.MaskedUploadHeader) -> bytes:
    """A header as it is stored: the same for every attempt, whatever the offset."""
    kept = pb.MaskedUploadHeader(signed_upload_json=header.signed_upload_json, leaves=header.leaves)
    return kept.SerializeToString(deterministic=True)


def delivery(shown: DeliveredShare | DeliveredSelfShare) -> pb.MaskedDelivery:
    """A leaf on its way to its holder."""
    return pb.MaskedDelivery(
        signed_json=shown.signed.to_bytes(),
        index=shown.index,
        commitment=shown.commitment,
        path=shown.path,
        box=shown.box,
    )
