"""The gRPC services: bytes from outside become typed values here, and nothing else happens here (protocol.md §11.2)."""
# ruff: noqa: N802  (gRPC names the methods)

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from secagg.certificate import CERTIFICATE
from secagg.errors import MalformedError
from secagg.evidence import ShareAnswer
from secagg.identity import Identity
from secagg.messages import (
    SignedApproval,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedEnrolment,
    SignedShareSum,
    SignedUpload,
)
from secagg_host.chunks import chunk_of, header_of
from secagg_host.durable import guard
from secagg_host.tls import MAX_CHUNK_BYTES, grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as services
from secagg_server.authorisation import peer_identity
from secagg_server.database import SessionState
from secagg_server.directory import Directory
from secagg_server.intake import Intake
from secagg_server.session import ServedSession
from secagg_server.tasks import CandidateTask, DegreeTask, FinalTask, ShareTask, Task

MAX_WAIT_SECONDS = 20.0

STATES = {
    SessionState.PROPOSED: pb.SESSION_STATE_PROPOSED,
    SessionState.OPEN: pb.SESSION_STATE_OPEN,
    SessionState.CLOSING: pb.SESSION_STATE_CLOSING,
    SessionState.RELEASED: pb.SESSION_STATE_RELEASED,
    SessionState.TOO_FEW: pb.SESSION_STATE_TOO_FEW,
    SessionState.BURNT: pb.SESSION_STATE_BURNT,
    SessionState.EXPIRED: pb.SESSION_STATE_EXPIRED,
}
_STAGES = {pb.SET_STAGE_CANDIDATE: "candidate", pb.SET_STAGE_FINAL: "final"}


def sealed_directory(sessions: Mapping[str, ServedSession]) -> Directory[ServedSession]:
    """Of rounds that go on from one another only the latest may go unnamed."""
    continued = {one.descriptor.previous.ctx for one in sessions.values() if one.descriptor.previous is not None}
    return Directory("sealed", sessions, sessions.keys() - continued)


class Contribution(services.ContributionServiceServicer):
    """What clients call."""

    def __init__(self, directory: Directory[ServedSession], intakes: Mapping[str, Intake]) -> None:
        self._directory, self._intakes = directory, intakes

    def GetSession(self, request: pb.GetSessionRequest, context: grpc.ServicerContext) -> pb.GetSessionResponse:
        """The approved descriptor."""
        session, _ = self._directory.of(request.ctx, context)
        raw = session.signed_descriptor(approved=True).model_dump_json().encode()
        return pb.GetSessionResponse(signed_descriptor_json=raw)

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolResponse:
        """A client begins."""
        signed, peer = SignedEnrolment.parse(request.signed_enrolment_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).enrol(peer, signed)
        return pb.EnrolResponse()

    def BeginUpload(self, request: pb.BeginUploadRequest, context: grpc.ServicerContext) -> pb.BeginUploadResponse:
        """Where to go on, or the receipt."""
        signed, peer = SignedUpload.parse(request.signed_upload_json), peer_identity(context)
        found = self._intake(signed, peer).begin(peer, signed)
        if isinstance(found, int):
            return pb.BeginUploadResponse(offset=found)
        return pb.BeginUploadResponse(signed_receipt_json=found.to_bytes())

    def Upload(
        self, request_iterator: Iterator[pb.UploadRequest | memoryview], context: grpc.ServicerContext
    ) -> pb.UploadResponse:
        """Header, then chunks."""
        header, peer = header_of(next(request_iterator, None)).header, peer_identity(context)
        signed = SignedUpload.parse(header.signed_upload_json)
        intake = self._intake(signed, peer)
        stream = intake.stream(peer, signed, tuple(header.boxes), header.offset, context.cancel)
        try:
            if stream.stored.receipt is not None:
                return pb.UploadResponse(signed_receipt_json=stream.stored.receipt.to_bytes())
            with stream.writer() as writer:
                for part in request_iterator:
                    stream.receive(chunk_of(part), writer)
            return pb.UploadResponse(signed_receipt_json=stream.finish().to_bytes())
        finally:
            stream.close()

    def GetStatus(self, request: pb.GetStatusRequest, context: grpc.ServicerContext) -> pb.GetStatusResponse:
        """State, reason, receipt."""
        session, peer = self._directory.of(request.ctx, context)
        state, reason = session.status()
        receipt = session.receipt(peer.fingerprint)
        raw = b"" if receipt is None else receipt.to_bytes()
        return pb.GetStatusResponse(
            state=STATES[state],
            reason=reason,
            signed_receipt_json=raw,
            releases=session.published,
            own_release=session.places().get(peer.fingerprint, 0),
        )

    def _intake(self, signed: SignedUpload, peer: Identity) -> Intake:
        return self._intakes[self._directory.find(signed.statement.ctx, peer).ctx]


class Committee(services.CommitteeServiceServicer):
    """What key-holders call."""

    def __init__(self, directory: Directory[ServedSession]) -> None:
        self._directory = directory

    def GetProposal(self, request: pb.GetProposalRequest, context: grpc.ServicerContext) -> pb.GetProposalResponse:
        """The descriptor with the approvals so far."""
        session, _ = self._directory.of(request.ctx, context)
        raw = session.signed_descriptor(approved=False).model_dump_json().encode()
        return pb.GetProposalResponse(signed_descriptor_json=raw)

    def Approve(self, request: pb.ApproveRequest, context: grpc.ServicerContext) -> pb.ApproveResponse:
        """A key-holder accepts the descriptor."""
        signed, peer = SignedApproval.parse(request.signed_approval_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).approve(peer, signed)
        return pb.ApproveResponse()

    def GetWork(self, request: pb.GetWorkRequest, context: grpc.ServicerContext) -> pb.GetWorkResponse:
        """What is asked of the caller; waits for it, but not for ever."""
        session, peer = self._directory.of(request.ctx, context)
        seconds = min(request.wait_milliseconds / 1000, MAX_WAIT_SECONDS)
        task = session.await_task(peer.fingerprint, seconds)
        state, reason = session.status()
        response = pb.GetWorkResponse(state=STATES[state], reason=reason)
        _put_task(response, task)
        return response

    def GetEvidence(
        self, request: pb.GetEvidenceRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetEvidenceResponse]:
        """Every member's signed upload with the caller's own box."""
        session, peer = self._directory.of(request.ctx, context)
        for item in session.evidence(peer.fingerprint, _STAGES.get(request.stage, ""), request.release):
            yield pb.GetEvidenceResponse(signed_upload_json=item.upload.to_bytes(), box=item.box, path=item.path)

    def Endorse(self, request: pb.EndorseRequest, context: grpc.ServicerContext) -> pb.EndorseResponse:
        """A key-holder's word for a set."""
        signed, peer = SignedEndorsement.parse(request.signed_endorsement_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).endorse(peer, signed)
        return pb.EndorseResponse()

    def SubmitDegreeAnswer(
        self, request: pb.SubmitDegreeAnswerRequest, context: grpc.ServicerContext
    ) -> pb.SubmitDegreeAnswerResponse:
        """A key-holder's answer to the degree check."""
        signed, peer = SignedDegreeAnswer.parse(request.signed_degree_answer_json), peer_identity(context)
        self._directory.find(signed.statement.ctx, peer).submit_degree_answer(peer, signed)
        return pb.SubmitDegreeAnswerResponse()

    def SubmitShareSum(
        self, request: pb.SubmitShareSumRequest, context: grpc.ServicerContext
    ) -> pb.SubmitShareSumResponse:
        """A key-holder's share sum."""
        signed, peer = SignedShareSum.parse(request.signed_share_sum_json), peer_identity(context)
        session = self._directory.find(signed.statement.ctx, peer)
        session.submit_share(peer, ShareAnswer(signed, request.share))
        return pb.SubmitShareSumResponse()


def _put_task(response: pb.GetWorkResponse, task: Task | None) -> None:
    match task:
        case CandidateTask(candidate, peers, earlier):
            response.candidate.signed_candidate_json = candidate.to_bytes()
            response.candidate.peer_endorsements_json.extend(peer.to_bytes() for peer in peers)
            for sets in earlier:
                shown = response.candidate.earlier.add()
                shown.signed_candidate_json, shown.signed_final_json = sets.candidate.to_bytes(), sets.final.to_bytes()
                shown.endorsements_json.extend(endorsement.to_bytes() for endorsement in sets.endorsements)
        case DegreeTask(candidate, endorsements):
            response.degree.signed_candidate_json = candidate.to_bytes()
            response.degree.endorsements_json.extend(endorsement.to_bytes() for endorsement in endorsements)
        case FinalTask(candidate, settlement, peers):
            response.final.signed_candidate_json = candidate.to_bytes()
            response.final.signed_final_json = settlement.final.to_bytes()
            response.final.answers_json.extend(answer.to_bytes() for answer in settlement.answers)
            response.final.degree_answers_json.extend(answer.to_bytes() for answer in settlement.degree_answers)
            response.final.peer_endorsements_json.extend(peer.to_bytes() for peer in peers)
        case ShareTask(final, endorsements):
            response.share.signed_final_json = final.to_bytes()
            response.share.endorsements_json.extend(endorsement.to_bytes() for endorsement in endorsements)
        case None:
            pass


class Published(Protocol):
    """A session of whichever protocol, in so far as it has a release."""

    @property
    def ctx(self) -> str:
        """Its name."""

    @property
    def release_names(self) -> tuple[str, ...]:
        """The files of its release, but for the certificate."""

    def admit(self, peer: Identity) -> None:
        """Raise RoleViolation unless `peer` belongs to it."""

    def published_folder(self, release: int) -> Path:
        """The folder of a release that is there; 0 means the last one. Raises NotReady."""


class Publication(services.PublicationServiceServicer):
    """What every party of a session, and auditors, may read."""

    def __init__(self, directory: Directory[ServedSession], others: Mapping[str, Published] | None = None) -> None:
        self._directory, self._others = directory, others or {}

    def ListReleaseFiles(
        self, request: pb.ListReleaseFilesRequest, context: grpc.ServicerContext
    ) -> pb.ListReleaseFilesResponse:
        """Names and sizes."""
        session, folder = self._released(request.ctx, request.release, context)
        with guard(folder):
            listed = (*session.release_names, CERTIFICATE)
            files = [pb.ReleaseFile(name=name, size=(folder / name).stat().st_size) for name in listed]
        return pb.ListReleaseFilesResponse(files=files)

    def GetReleaseFile(
        self, request: pb.GetReleaseFileRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetReleaseFileResponse]:
        """One file in chunks."""
        session, folder = self._released(request.ctx, request.release, context)
        if request.name not in (*session.release_names, CERTIFICATE):
            raise MalformedError(f"this release has no file {request.name[:100]!r}")
        path = folder / request.name
        with guard(path), path.open("rb") as file:
            while chunk := file.read(MAX_CHUNK_BYTES):
                yield pb.GetReleaseFileResponse(chunk=chunk)

    def _released(self, ctx: bytes, release: int, context: grpc.ServicerContext) -> tuple[Published, Path]:
        session: Published
        if ctx.hex() in self._others:
            session = self._others[ctx.hex()]
            session.admit(peer_identity(context))
        else:
            session, _ = self._directory.of(ctx, context)
        return session, session.published_folder(release)
