"""The gRPC service of ckks sessions: bytes from outside become typed values here (protocol.md §11.2, §13)."""
# ruff: noqa: N802  (gRPC names the methods)

from collections.abc import Iterator

from secagg.ckks.messages import SignedCkksApproval, SignedCkksUpload, SignedOpeningRefusal, SignedSumOpening
from secagg.errors import MalformedError, NotReady, SizeLimitError
from secagg_host.chunks import chunk_of, header_of
from secagg_host.tls import grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as services
from secagg_server.authorisation import peer_identity
from secagg_server.ckks_session import CkksSession
from secagg_server.directory import Directory
from secagg_server.services import STATES


class Ckks(services.CkksServiceServicer):
    """What clients and the key-holder of a ckks session call."""

    def __init__(self, directory: Directory[CkksSession]) -> None:
        self._directory = directory

    def GetCkksSession(self, request: pb.GetSessionRequest, context: grpc.ServicerContext) -> pb.GetSessionResponse:
        """The signed descriptor."""
        session, _ = self._directory.of(request.ctx, context)
        return pb.GetSessionResponse(signed_descriptor_json=session.signed.to_bytes())

    def ApproveCkks(self, request: pb.ApproveRequest, context: grpc.ServicerContext) -> pb.ApproveResponse:
        """The key-holder accepts the session."""
        signed, peer = SignedCkksApproval.parse(request.signed_approval_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).approve(peer, signed)
        return pb.ApproveResponse()

    def GetCkksApproval(
        self, request: pb.GetCkksApprovalRequest, context: grpc.ServicerContext
    ) -> pb.GetCkksApprovalResponse:
        """The key-holder's word."""
        session, _ = self._directory.of(request.ctx, context)
        return pb.GetCkksApprovalResponse(signed_approval_json=session.approval().to_bytes())

    def BeginCkksUpload(self, request: pb.BeginUploadRequest, context: grpc.ServicerContext) -> pb.BeginUploadResponse:
        """Where to go on, or the receipt."""
        signed, peer = SignedCkksUpload.parse(request.signed_upload_json), peer_identity(context)
        found = self._directory.find(signed.statement.ctx, peer).begin_upload(peer, signed)
        if isinstance(found, int):
            return pb.BeginUploadResponse(offset=found)
        return pb.BeginUploadResponse(signed_receipt_json=found.to_bytes())

    def UploadCkks(
        self, request_iterator: Iterator[pb.CkksUploadRequest | memoryview], context: grpc.ServicerContext
    ) -> pb.UploadResponse:
        """Header, then chunks."""
        first = header_of(next(request_iterator, None))
        signed, peer = SignedCkksUpload.parse(first.header.signed_upload_json), peer_identity(context)
        session = self._directory.find(signed.statement.ctx, peer)
        found = session.begin_upload(peer, signed)
        if not isinstance(found, int):
            return pb.UploadResponse(signed_receipt_json=found.to_bytes())
        with session.stream(peer, signed.statement.bytes, first.header.offset, context.cancel) as stream:
            with session.files.writer(peer.fingerprint) as writer:
                for part in request_iterator:
                    session.receive(stream, chunk_of(part), writer)
            return pb.UploadResponse(signed_receipt_json=session.finish_upload(stream, signed).to_bytes())

    def GetCkksSet(self, request: pb.GetCkksSetRequest, context: grpc.ServicerContext) -> pb.GetCkksSetResponse:
        """U."""
        session, _ = self._directory.of(request.ctx, context)
        return pb.GetCkksSetResponse(signed_set_json=session.chosen().to_bytes())

    def GetCkksUpload(
        self, request: pb.GetCkksUploadRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetCkksUploadResponse]:
        """One member's upload."""
        session, _ = self._directory.of(request.ctx, context)
        signed, pieces = session.shown(request.client.hex())
        yield pb.GetCkksUploadResponse(signed_upload_json=signed.to_bytes())
        for piece in pieces:
            yield pb.GetCkksUploadResponse(chunk=piece)

    def SubmitOpening(
        self, request_iterator: Iterator[pb.SubmitOpeningRequest], context: grpc.ServicerContext
    ) -> pb.SubmitOpeningResponse:
        """Statement, then the sums."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "signed_opening_json":
            raise MalformedError("an opening begins with its statement")
        signed, peer = SignedSumOpening.parse(first.signed_opening_json), peer_identity(context)
        session = self._directory.find(signed.statement.ctx, peer)
        if not session.wants_sums(peer, signed):
            return pb.SubmitOpeningResponse()
        most, sums = 4 * session.descriptor.parameters.length, bytearray()
        for message in request_iterator:
            sums += message.chunk
            if len(sums) > most:
                raise SizeLimitError(f"more than the {most} bytes of this session's sums")
        session.submit(peer, signed, bytes(sums))
        return pb.SubmitOpeningResponse()

    def RefuseOpening(
        self, request: pb.RefuseOpeningRequest, context: grpc.ServicerContext
    ) -> pb.RefuseOpeningResponse:
        """The key-holder's word that U does not open."""
        signed, peer = SignedOpeningRefusal.parse(request.signed_refusal_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).refuse(peer, signed)
        return pb.RefuseOpeningResponse()

    def GetCkksRefusal(
        self, request: pb.GetCkksRefusalRequest, context: grpc.ServicerContext
    ) -> pb.GetCkksRefusalResponse:
        """What the key-holder said when it refused."""
        session, _ = self._directory.of(request.ctx, context)
        refusal = session.refusal()
        if refusal is None:
            raise NotReady(f"{session.descriptor.holder.title} has not refused to open the sum")
        return pb.GetCkksRefusalResponse(signed_refusal_json=refusal.to_bytes())

    def GetCkksStatus(self, request: pb.GetStatusRequest, context: grpc.ServicerContext) -> pb.GetStatusResponse:
        """State, reason, receipt."""
        session, peer = self._directory.of(request.ctx, context)
        state, reason = session.status()
        receipt = session.receipt(peer.fingerprint)
        raw = b"" if receipt is None else receipt.to_bytes()
        return pb.GetStatusResponse(state=STATES[state], reason=reason, signed_receipt_json=raw)
