"""What a client of a masked session asks of the coordinator, as typed values (protocol.md §11, §12).

Everything that comes back is parsed here; nothing is believed: signatures, paths and boxes are checked by who asked.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

from secagg.errors import MalformedError, SizeLimitError
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg.masked.messages import (
    DeliveredSelfShare,
    DeliveredShare,
    Directory,
    SharedBox,
    SharedSet,
    SharingMessage,
    SignedAdvertisement,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSharing,
    SignedSurvivorSet,
    SignedUnmasking,
    UnmaskRequest,
    UploadMessage,
)
from secagg.masked.parameters import MAX_CLIENTS
from secagg.merkle import MAX_DEPTH
from secagg.messages import SignedReceipt
from secagg_client.calls import (
    CALL_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    STREAM_SECONDS,
    Status,
    session_state,
    translated,
    upload_call,
)
from secagg_host.tls import grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as services

T = TypeVar("T")


class MaskedCalls:
    """What a client of a masked session may call."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = services.MaskedServiceStub(channel)  # type: ignore[no-untyped-call]
        self._stub.UploadMasked = upload_call(channel, "/secagg.v1.MaskedService/UploadMasked")

    def session(self, ctx: str | None) -> SignedMaskedDescriptor:
        """The session by its name, or the one that this client is on."""
        request = pb.GetSessionRequest(ctx=bytes.fromhex(ctx) if ctx else b"")
        with translated():
            answer = self._stub.GetMaskedSession(request, timeout=CALL_SECONDS)
        return SignedMaskedDescriptor.parse(answer.signed_descriptor_json)

    def advertise(self, signed: SignedAdvertisement) -> None:
        """Hand in the public keys."""
        with translated():
            self._stub.Advertise(pb.AdvertiseRequest(signed_advertisement_json=signed.to_bytes()), timeout=CALL_SECONDS)

    def directory(self, ctx: str) -> Directory:
        """Everybody's advertisement. NotReady while advertisements are taken."""
        with translated():
            answers = self._stub.GetDirectory(pb.GetDirectoryRequest(ctx=bytes.fromhex(ctx)), timeout=STREAM_SECONDS)
            return tuple(SignedAdvertisement.parse(one.signed_advertisement_json) for one in _bounded(answers))

    def share(self, message: SharingMessage) -> None:
        """Hand in the shares of the mask key."""
        request = pb.ShareKeyRequest(signed_sharing_json=message.signed.to_bytes(), leaves=_leaves(message.leaves))
        with translated():
            self._stub.ShareKey(request, timeout=STREAM_SECONDS)

    def shared(self, ctx: str) -> SharedSet:
        """Who has shared, and the boxes for this client. NotReady while shares are taken."""
        members, deliveries = None, list[DeliveredShare]()
        with translated():
            for part in _bounded(
                self._stub.GetShared(pb.GetSharedRequest(ctx=bytes.fromhex(ctx)), timeout=STREAM_SECONDS)
            ):
                if part.WhichOneof("part") == "shared" and members is None:
                    members = tuple(int(number) for number in part.shared.members)
                elif part.WhichOneof("part") == "delivery":
                    signed = SignedSharing.parse(part.delivery.signed_json)
                    deliveries.append(DeliveredShare(signed, *_place(part.delivery)))
        if members is None:
            raise MalformedError("the coordinator did not say who has shared")
        return SharedSet(members, tuple(deliveries))

    def begin_upload(self, signed: SignedMaskedUpload) -> int | SignedReceipt:
        """Announce the vector: how many bytes of it are stored already, or the receipt."""
        with translated():
            answer = self._stub.BeginMaskedUpload(
                pb.BeginUploadRequest(signed_upload_json=signed.to_bytes()), timeout=CALL_SECONDS
            )
        match answer.WhichOneof("state"):
            case "offset":
                return int(answer.offset)
            case "signed_receipt_json":
                return SignedReceipt.parse(answer.signed_receipt_json)
            case _:
                raise MalformedError("the coordinator answered an announced upload with nothing")

    def upload(self, message: UploadMessage, offset: int, chunks: Iterable[bytes | memoryview]) -> SignedReceipt:
        """Send the vector from `offset` on, in chunks of at most 1 MiB."""
        header = pb.MaskedUploadHeader(
            signed_upload_json=message.signed.to_bytes(), leaves=_leaves(message.leaves), offset=offset
        )
        parts = chain((pb.MaskedUploadRequest(header=header),), chunks)
        seconds = STREAM_SECONDS + message.vector.nbytes / SLOWEST_BYTES_PER_SECOND
        with translated():
            answer = self._stub.UploadMasked(parts, timeout=seconds)
        return SignedReceipt.parse(answer.signed_receipt_json)

    def survivors(self, ctx: str) -> SignedSurvivorSet:
        """U. NotReady while vectors are taken."""
        with translated():
            answer = self._stub.GetSurvivors(pb.GetSurvivorsRequest(ctx=bytes.fromhex(ctx)), timeout=CALL_SECONDS)
        return SignedSurvivorSet.parse(answer.signed_set_json)

    def endorse(self, signed: SignedSetEndorsement) -> None:
        """Hand in the endorsement of U."""
        with translated():
            self._stub.EndorseSurvivors(
                pb.EndorseSurvivorsRequest(signed_endorsement_json=signed.to_bytes()), timeout=CALL_SECONDS
            )

    def unmasking(self, ctx: str) -> UnmaskRequest:
        """What is shown before shares are given. NotReady while endorsements are taken."""
        endorsements, deliveries = list[SignedSetEndorsement](), list[DeliveredSelfShare]()
        with translated():
            for part in _bounded(
                self._stub.GetUnmasking(pb.GetUnmaskingRequest(ctx=bytes.fromhex(ctx)), timeout=STREAM_SECONDS)
            ):
                if part.WhichOneof("part") == "delivery":
                    signed = SignedMaskedUpload.parse(part.delivery.signed_json)
                    deliveries.append(DeliveredSelfShare(signed, *_place(part.delivery)))
                else:
                    endorsements.append(SignedSetEndorsement.parse(part.signed_endorsement_json))
        return UnmaskRequest(tuple(endorsements), tuple(deliveries))

    def unmask(self, signed: SignedUnmasking) -> None:
        """Hand in the shares."""
        with translated():
            self._stub.Unmask(pb.UnmaskRequest(signed_unmasking_json=signed.to_bytes()), timeout=STREAM_SECONDS)

    def status(self, ctx: str) -> Status:
        """Where the session is."""
        with translated():
            answer = self._stub.GetMaskedStatus(pb.GetStatusRequest(ctx=bytes.fromhex(ctx)), timeout=CALL_SECONDS)
        receipt = answer.signed_receipt_json
        return Status(session_state(answer.state), answer.reason, SignedReceipt.parse(receipt) if receipt else None)


def _bounded(parts: Iterable[T]) -> Iterator[T]:
    """No more messages than a session can have. Raises SizeLimitError."""
    for count, part in enumerate(parts):
        if count > 2 * MAX_CLIENTS:
            raise SizeLimitError("the coordinator sends more than a session can have")
        yield part


def _leaves(leaves: tuple[SharedBox, ...]) -> list[pb.MaskedLeaf]:
    return [pb.MaskedLeaf(receiver=leaf.receiver, commitment=leaf.commitment, box=leaf.box) for leaf in leaves]


def _place(shown: pb.MaskedDelivery) -> tuple[int, bytes, tuple[bytes, ...], bytes]:
    """Index, commitment, path and box of a delivery."""
    if len(shown.path) > MAX_DEPTH:
        raise MalformedError(f"a Merkle path of {len(shown.path)} steps")
    return int(shown.index), shown.commitment, tuple(shown.path), shown.box
