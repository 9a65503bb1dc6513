"""What clients and the key-holder of a ckks session ask of the coordinator, as typed values (protocol.md §11, §13)."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeVar

from secagg.ckks.descriptor import SignedCkksDescriptor
from secagg.ckks.messages import SignedCkksApproval, SignedCkksUpload, SignedOpeningRefusal, SignedUploadSet
from secagg.ckks.opened import Opened
from secagg.errors import MalformedError
from secagg.messages import SignedReceipt
from secagg_client.calls import (
    CALL_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    STREAM_SECONDS,
    Status,
    chunks_of,
    session_state,
    translated,
    upload_call,
)
from secagg_host.tls import grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as services

T = TypeVar("T")


class CkksCalls:
    """What a client or the key-holder of a ckks session may call; the coordinator knows which of them it is."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = services.CkksServiceStub(channel)  # type: ignore[no-untyped-call]
        self._stub.UploadCkks = upload_call(channel, "/secagg.v1.CkksService/UploadCkks")

    def session(self, ctx: str | None) -> SignedCkksDescriptor:
        """The session by its name, or the one that this party is on."""
        request = pb.GetSessionRequest(ctx=bytes.fromhex(ctx) if ctx else b"")
        with translated():
            answer = self._stub.GetCkksSession(request, timeout=CALL_SECONDS)
        return SignedCkksDescriptor.parse(answer.signed_descriptor_json)

    def approve(self, approval: SignedCkksApproval) -> None:
        """Hand in the approval."""
        with translated():
            self._stub.ApproveCkks(pb.ApproveRequest(signed_approval_json=approval.to_bytes()), timeout=CALL_SECONDS)

    def approval(self, ctx: str) -> SignedCkksApproval:
        """The key-holder's approval. NotReady before it is there."""
        with translated():
            answer = self._stub.GetCkksApproval(pb.GetCkksApprovalRequest(ctx=bytes.fromhex(ctx)), timeout=CALL_SECONDS)
        return SignedCkksApproval.parse(answer.signed_approval_json)

    def begin_upload(self, signed: SignedCkksUpload) -> int | SignedReceipt:
        """Announce the upload: how many bytes of it are stored already, or the receipt."""
        with translated():
            answer = self._stub.BeginCkksUpload(
                pb.BeginUploadRequest(signed_upload_json=signed.to_bytes()), timeout=CALL_SECONDS
            )
        match answer.WhichOneof("state"):
            case "offset":
                return int(answer.offset)
            case "signed_receipt_json":
                return SignedReceipt.parse(answer.signed_receipt_json)
            case _:
                raise MalformedError("the coordinator answered an announced upload with nothing")

    def upload(self, signed: SignedCkksUpload, offset: int, chunks: Iterable[bytes | memoryview]) -> SignedReceipt:
        """Send the upload from `offset` on, in chunks of at most 1 MiB."""
        header = pb.CkksUploadHeader(signed_upload_json=signed.to_bytes(), offset=offset)
        parts = chain((pb.CkksUploadRequest(header=header),), chunks)
        with translated():
            answer = self._stub.UploadCkks(parts, timeout=_seconds(signed.statement.bytes))
        return SignedReceipt.parse(answer.signed_receipt_json)

    def chosen(self, ctx: str) -> SignedUploadSet:
        """U. NotReady while uploads are taken."""
        with translated():
            answer = self._stub.GetCkksSet(pb.GetCkksSetRequest(ctx=bytes.fromhex(ctx)), timeout=CALL_SECONDS)
        return SignedUploadSet.parse(answer.signed_set_json)

    def shown(
        self, ctx: str, client: str, most: int, keep: Callable[[Iterator[bytes]], T]
    ) -> tuple[SignedCkksUpload, T]:
        """One member's statement, and what `keep` makes of its upload, which comes in pieces; `most` bytes are usual.

        Raises MalformedError, or what `keep` raises.
        """
        request = pb.GetCkksUploadRequest(ctx=bytes.fromhex(ctx), client=bytes.fromhex(client))
        with translated():
            parts = self._stub.GetCkksUpload(request, timeout=_seconds(most))
            first = next(iter(parts), None)
            if first is None or first.WhichOneof("part") != "signed_upload_json":
                raise MalformedError(f"the coordinator shows no statement with the upload of {client[:16]}")
            signed = SignedCkksUpload.parse(first.signed_upload_json)
            try:
                return signed, keep(part.chunk for part in parts)
            finally:
                parts.cancel()

    def submit(self, opened: Opened) -> None:
        """Hand in the sums."""
        raw = opened.sums.astype("<u4").tobytes()

        def requests() -> Iterator[pb.SubmitOpeningRequest]:
            yield pb.SubmitOpeningRequest(signed_opening_json=opened.signed.to_bytes())
            for chunk in chunks_of(memoryview(raw), 0):
                yield pb.SubmitOpeningRequest(chunk=bytes(chunk))

        with translated():
            self._stub.SubmitOpening(requests(), timeout=_seconds(len(raw)))

    def refuse(self, signed: SignedOpeningRefusal) -> None:
        """Say that the set does not open."""
        with translated():
            request = pb.RefuseOpeningRequest(signed_refusal_json=signed.to_bytes())
            self._stub.RefuseOpening(request, timeout=CALL_SECONDS)

    def refusal(self, ctx: str) -> SignedOpeningRefusal:
        """What the key-holder said when it refused. NotReady when it has not."""
        request = pb.GetCkksRefusalRequest(ctx=bytes.fromhex(ctx))
        with translated():
            answer = self._stub.GetCkksRefusal(request, timeout=CALL_SECONDS)
        return SignedOpeningRefusal.parse(answer.signed_refusal_json)

    def status(self, ctx: str) -> Status:
        """Where the session is."""
        with translated():
            answer = self._stub.GetCkksStatus(pb.GetStatusRequest(ctx=bytes.fromhex(ctx)), timeout=CALL_SECONDS)
        receipt = answer.signed_receipt_json
        return Status(session_state(answer.state), answer.reason, SignedReceipt.parse(receipt) if receipt else None)


def _seconds(size: int) -> float:
    return STREAM_SECONDS + size / SLOWEST_BYTES_PER_SECOND
