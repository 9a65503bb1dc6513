"""The gRPC service of masked sessions: bytes from outside become typed values here (protocol.md §11.2, §12)."""
# ruff: noqa: N802  (gRPC names the methods)

from collections.abc import Iterator

from secagg.masked.messages import SignedAdvertisement, SignedMaskedUpload, SignedSetEndorsement, SignedUnmasking
from secagg_host.chunks import chunk_of, header_of
from secagg_host.tls import grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as services
from secagg_server.authorisation import peer_identity
from secagg_server.directory import Directory
from secagg_server.masked_border import delivery, header_bytes, leaves_of, sharing_of
from secagg_server.masked_session import MaskedSession
from secagg_server.services import STATES


class Masked(services.MaskedServiceServicer):
    """What clients of a masked session call."""

    def __init__(self, directory: Directory[MaskedSession]) -> None:
        self._directory = directory

    def GetMaskedSession(self, request: pb.GetSessionRequest, context: grpc.ServicerContext) -> pb.GetSessionResponse:
        """The signed descriptor."""
        session, _ = self._directory.of(request.ctx, context)
        return pb.GetSessionResponse(signed_descriptor_json=session.signed.to_bytes())

    def Advertise(self, request: pb.AdvertiseRequest, context: grpc.ServicerContext) -> pb.AdvertiseResponse:
        """A client's public keys."""
        signed, peer = SignedAdvertisement.parse(request.signed_advertisement_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).advertise(peer, signed)
        return pb.AdvertiseResponse()

    def GetDirectory(
        self, request: pb.GetDirectoryRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetDirectoryResponse]:
        """Every advertisement."""
        session, _ = self._directory.of(request.ctx, context)
        for signed in session.directory():
            yield pb.GetDirectoryResponse(signed_advertisement_json=signed.to_bytes())

    def ShareKey(self, request: pb.ShareKeyRequest, context: grpc.ServicerContext) -> pb.ShareKeyResponse:
        """Shares of a client's mask key."""
        body, peer = request.SerializeToString(deterministic=True), peer_identity(context)
        signed = sharing_of(body).signed
        self._directory.find(signed.statement.ctx, peer).share(peer, signed.signer, body)
        return pb.ShareKeyResponse()

    def GetShared(self, request: pb.GetSharedRequest, context: grpc.ServicerContext) -> Iterator[pb.GetSharedResponse]:
        """B, and the caller's boxes."""
        session, peer = self._directory.of(request.ctx, context)
        told = session.shared_with(peer)
        yield pb.GetSharedResponse(shared=pb.MaskedMembers(members=told.members))
        for shown in told.deliveries:
            yield pb.GetSharedResponse(delivery=delivery(shown))

    def BeginMaskedUpload(
        self, request: pb.BeginUploadRequest, context: grpc.ServicerContext
    ) -> pb.BeginUploadResponse:
        """Where to go on, or the receipt."""
        signed, peer = SignedMaskedUpload.parse(request.signed_upload_json), peer_identity(context)
        found = self._directory.find(signed.statement.ctx, peer).begin_upload(peer, signed)
        if isinstance(found, int):
            return pb.BeginUploadResponse(offset=found)
        return pb.BeginUploadResponse(signed_receipt_json=found.to_bytes())

    def UploadMasked(
        self, request_iterator: Iterator[pb.MaskedUploadRequest | memoryview], context: grpc.ServicerContext
    ) -> pb.UploadResponse:
        """Header, then chunks."""
        first = header_of(next(request_iterator, None))
        header, peer = header_bytes(first.header), peer_identity(context)
        signed, _ = leaves_of(header)
        session = self._directory.find(signed.statement.ctx, peer)
        found = session.begin_upload(peer, signed)
        if not isinstance(found, int):
            return pb.UploadResponse(signed_receipt_json=found.to_bytes())
        total = session.descriptor.shape.packed_bytes
        with session.stream(peer, total, first.header.offset, context.cancel) as stream:
            with session.files.writer(peer.fingerprint) as writer:
                for part in request_iterator:
                    session.receive(stream, chunk_of(part), writer)
            return pb.UploadResponse(signed_receipt_json=session.finish_upload(stream, header).to_bytes())

    def GetSurvivors(self, request: pb.GetSurvivorsRequest, context: grpc.ServicerContext) -> pb.GetSurvivorsResponse:
        """U."""
        session, _ = self._directory.of(request.ctx, context)
        return pb.GetSurvivorsResponse(signed_set_json=session.survivors().to_bytes())

    def EndorseSurvivors(
        self, request: pb.EndorseSurvivorsRequest, context: grpc.ServicerContext
    ) -> pb.EndorseSurvivorsResponse:
        """A member's word for U."""
        signed, peer = SignedSetEndorsement.parse(request.signed_endorsement_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).endorse(peer, signed)
        return pb.EndorseSurvivorsResponse()

    def GetUnmasking(
        self, request: pb.GetUnmaskingRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetUnmaskingResponse]:
        """Endorsements by the caller's holders, and the caller's boxes."""
        session, peer = self._directory.of(request.ctx, context)
        asked = session.unmask_request(peer)
        for endorsement in asked.endorsements:
            yield pb.GetUnmaskingResponse(signed_endorsement_json=endorsement.to_bytes())
        for shown in asked.deliveries:
            yield pb.GetUnmaskingResponse(delivery=delivery(shown))

    def Unmask(self, request: pb.UnmaskRequest, context: grpc.ServicerContext) -> pb.UnmaskResponse:
        """A holder's shares."""
        signed, peer = SignedUnmasking.parse(request.signed_unmasking_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).unmask(peer, signed)
        return pb.UnmaskResponse()

    def GetMaskedStatus(self, request: pb.GetStatusRequest, context: grpc.ServicerContext) -> pb.GetStatusResponse:
        """State, reason, receipt."""
        session, peer = self._directory.of(request.ctx, context)
        state, reason = session.status()
        receipt = session.receipt(peer.fingerprint)
        raw = b"" if receipt is None else receipt.to_bytes()
        return pb.GetStatusResponse(state=STATES[state], reason=reason, signed_receipt_json=raw)
