"""What a client or a key-holder asks of the coordinator, as typed values (protocol.md §11).

Everything that comes back is parsed here; nothing is believed: signatures are checked by whoever asked.
Errors are those of the tree. A TransportError is worth a retry; the others are answers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, TypeVar

from secagg.descriptor import SignedDescriptor
from secagg.errors import (
    MalformedError,
    OpeningError,
    SecaggError,
    SessionClosed,
    SizeLimitError,
    StorageError,
    TooFewContributions,
    TransportError,
)
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.merkle import MAX_DEPTH
from secagg.messages import (
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedEnrolment,
    SignedFinalSet,
    SignedReceipt,
    SignedUpload,
)
from secagg.releases import ReleasedSets
from secagg.signing import parse_model
from secagg_host.chunks import write_part
from secagg_host.rpc import from_rpc_error
from secagg_host.tls import MAX_CHUNK_BYTES, grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as services

CALL_SECONDS = 30.0
STREAM_SECONDS = 120.0
EVIDENCE_SECONDS = 3600.0
"""Bounds how long a coordinator that begins to answer, and stops, can keep a session key past its expiry."""
SLOWEST_BYTES_PER_SECOND = 16 * 1024

T = TypeVar("T")


class SessionState(StrEnum):
    """Where the coordinator says that a session is."""

    PROPOSED = "proposed"
    OPEN = "open"
    CLOSING = "closing"
    RELEASED = "released"
    TOO_FEW = "too-few"
    BURNT = "burnt"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in {SessionState.RELEASED, SessionState.TOO_FEW, SessionState.BURNT, SessionState.EXPIRED}


_STATES: dict[int, SessionState] = {
    pb.SESSION_STATE_PROPOSED: SessionState.PROPOSED,
    pb.SESSION_STATE_OPEN: SessionState.OPEN,
    pb.SESSION_STATE_CLOSING: SessionState.CLOSING,
    pb.SESSION_STATE_RELEASED: SessionState.RELEASED,
    pb.SESSION_STATE_TOO_FEW: SessionState.TOO_FEW,
    pb.SESSION_STATE_BURNT: SessionState.BURNT,
    pb.SESSION_STATE_EXPIRED: SessionState.EXPIRED,
}


def ending(state: SessionState, reason: str) -> SecaggError:
    """Why a session ended without a release, as an error."""
    match state:
        case SessionState.TOO_FEW:
            return TooFewContributions(reason or "too few uploads at the deadline; nothing was opened")
        case SessionState.BURNT:
            return OpeningError(reason or "the opening was refused; the session is burnt")
        case _:
            return SessionClosed(reason or "the session has expired")


@contextmanager
def translated() -> Iterator[None]:
    """gRPC's errors as ours. A full disk at the coordinator is worth a retry, unlike one here."""
    try:
        yield
    except grpc.RpcError as error:
        ours = from_rpc_error(error)
        if isinstance(ours, StorageError):
            raise TransportError(f"the coordinator cannot store anything now: {ours}") from error
        raise ours from error


def session_state(value: int) -> SessionState:
    """The state that a message names. Raises MalformedError."""
    try:
        return _STATES[value]
    except KeyError:
        raise MalformedError(f"the coordinator named an unknown session state ({value})") from None


def _many(parse: Callable[[bytes], T], items: Iterable[bytes]) -> tuple[T, ...]:
    return tuple(parse(item) for item in items)


def _session_name(ctx: str | None) -> bytes:
    """The session asked for; empty for the one that the caller belongs to."""
    return bytes.fromhex(ctx) if ctx else b""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a session, with the caller's receipt when it has uploaded.

    `releases` have been made so far; the upload is in the candidate set of `own_release`, 0 for none so far.
    """

    state: SessionState
    reason: str
    receipt: SignedReceipt | None
    releases: int = 0
    own_release: int = 0


class ContributionCalls:
    """What a client may call."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = services.ContributionServiceStub(channel)  # type: ignore[no-untyped-call]
        self._stub.Upload = upload_call(channel, "/secagg.v1.ContributionService/Upload")

    def session(self, ctx: str | None) -> SignedDescriptor:
        """The session by its name, or the one that this client is on. NotReady until it is approved."""
        with translated():
            answer = self._stub.GetSession(pb.GetSessionRequest(ctx=_session_name(ctx)), timeout=CALL_SECONDS)
        return parse_model(SignedDescriptor, answer.signed_descriptor_json)

    def enrol(self, enrolment: SignedEnrolment) -> None:
        """Say that this client has accepted the descriptor and begins."""
        with translated():
            self._stub.Enrol(pb.EnrolRequest(signed_enrolment_json=enrolment.to_bytes()), timeout=CALL_SECONDS)

    def begin_upload(self, upload: SignedUpload) -> int | SignedReceipt:
        """Announce the upload: how many bytes of it are stored already, or the receipt."""
        request = pb.BeginUploadRequest(signed_upload_json=upload.to_bytes())
        with translated():
            answer = self._stub.BeginUpload(request, timeout=CALL_SECONDS)
        match answer.WhichOneof("state"):
            case "offset":
                return int(answer.offset)
            case "signed_receipt_json":
                return SignedReceipt.parse(answer.signed_receipt_json)
            case _:
                raise MalformedError("the coordinator answered an announced upload with nothing")

    def upload(
        self, upload: SignedUpload, boxes: Sequence[bytes], offset: int, chunks: Iterable[bytes | memoryview]
    ) -> SignedReceipt:
        """Send the ciphertext from `offset` on, in chunks of at most 1 MiB."""
        header = pb.UploadHeader(signed_upload_json=upload.to_bytes(), boxes=boxes, offset=offset)
        parts = chain((pb.UploadRequest(header=header),), chunks)
        size = upload.statement.ciphertext_bytes
        with translated():
            answer = self._stub.Upload(parts, timeout=STREAM_SECONDS + size / SLOWEST_BYTES_PER_SECOND)
        return SignedReceipt.parse(answer.signed_receipt_json)

    def status(self, ctx: str) -> Status:
        """Where the session is."""
        with translated():
            answer = self._stub.GetStatus(pb.GetStatusRequest(ctx=bytes.fromhex(ctx)), timeout=CALL_SECONDS)
        receipt = answer.signed_receipt_json
        return Status(
            session_state(answer.state),
            answer.reason,
            SignedReceipt.parse(receipt) if receipt else None,
            answer.releases,
            answer.own_release,
        )


@dataclass(frozen=True, slots=True)
class CandidateTask:
    """Endorse this candidate set; `earlier` are the sets of the releases before it."""

    candidate: SignedCandidate
    peers: tuple[SignedEndorsement, ...]
    earlier: tuple[ReleasedSets, ...] = ()


@dataclass(frozen=True, slots=True)
class DegreeTask:
    """Answer the degree check over this candidate set."""

    candidate: SignedCandidate
    endorsements: tuple[SignedEndorsement, ...]


@dataclass(frozen=True, slots=True)
class FinalTask:
    """Endorse this final set."""

    candidate: SignedCandidate
    final: SignedFinalSet
    answers: tuple[SignedEndorsement, ...]
    degree_answers: tuple[SignedDegreeAnswer, ...]
    peers: tuple[SignedEndorsement, ...]


@dataclass(frozen=True, slots=True)
class ShareTask:
    """Sum the shares over this final set."""

    final: SignedFinalSet
    endorsements: tuple[SignedEndorsement, ...]


Task = CandidateTask | DegreeTask | FinalTask | ShareTask


@dataclass(frozen=True, slots=True)
class Work:
    """Where the session is, and what is asked of the key-holder now."""

    state: SessionState
    reason: str
    task: Task | None


class CommitteeCalls:
    """What a key-holder may call."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = services.CommitteeServiceStub(channel)  # type: ignore[no-untyped-call]

    def proposal(self, ctx: str | None) -> SignedDescriptor:
        """The session by its name, or the one that this key-holder is on, approved or not."""
        with translated():
            answer = self._stub.GetProposal(pb.GetProposalRequest(ctx=_session_name(ctx)), timeout=CALL_SECONDS)
        return parse_model(SignedDescriptor, answer.signed_descriptor_json)

    def approve(self, approval: SignedApproval) -> None:
        """Hand in the approval."""
        with translated():
            self._stub.Approve(pb.ApproveRequest(signed_approval_json=approval.to_bytes()), timeout=CALL_SECONDS)

    def work(self, ctx: str, wait_milliseconds: int) -> Work:
        """What is to be done; answers when there is something, or when the wait is over."""
        request = pb.GetWorkRequest(ctx=bytes.fromhex(ctx), wait_milliseconds=wait_milliseconds)
        with translated():
            answer = self._stub.GetWork(request, timeout=CALL_SECONDS + wait_milliseconds / 1000)
        return Work(session_state(answer.state), answer.reason, _task(answer))

    def evidence(self, ctx: str, stage: str, release: int = 0) -> Iterator[MemberEvidence]:
        """What the coordinator shows for every member of the `candidate` or `final` set, in the set's order.

        `release` says of which; 0 means the one that is being closed.
        """
        which = pb.SET_STAGE_CANDIDATE if stage == "candidate" else pb.SET_STAGE_FINAL
        request = pb.GetEvidenceRequest(ctx=bytes.fromhex(ctx), stage=which, release=release)
        with translated():
            for item in self._stub.GetEvidence(request, timeout=EVIDENCE_SECONDS):
                if len(item.path) > MAX_DEPTH:
                    raise MalformedError(f"a Merkle path of {len(item.path)} steps")
                yield MemberEvidence(SignedUpload.parse(item.signed_upload_json), item.box, tuple(item.path))

    def endorse(self, endorsement: SignedEndorsement) -> None:
        """Hand in an endorsement."""
        with translated():
            self._stub.Endorse(pb.EndorseRequest(signed_endorsement_json=endorsement.to_bytes()), timeout=CALL_SECONDS)

    def submit_degree_answer(self, answer: SignedDegreeAnswer) -> None:
        """Hand in the answer to the degree check."""
        request = pb.SubmitDegreeAnswerRequest(signed_degree_answer_json=answer.to_bytes())
        with translated():
            self._stub.SubmitDegreeAnswer(request, timeout=CALL_SECONDS)

    def submit_share(self, answer: ShareAnswer) -> None:
        """Hand in the share sum."""
        request = pb.SubmitShareSumRequest(signed_share_sum_json=answer.signed.to_bytes(), share=answer.share)
        with translated():
            self._stub.SubmitShareSum(request, timeout=CALL_SECONDS)


def _task(answer: pb.GetWorkResponse) -> Task | None:
    endorsements = SignedEndorsement.parse
    match answer.WhichOneof("work"):
        case "candidate":
            work = answer.candidate
            return CandidateTask(
                SignedCandidate.parse(work.signed_candidate_json),
                _many(endorsements, work.peer_endorsements_json),
                tuple(map(_released_sets, work.earlier)),
            )
        case "degree":
            degree = answer.degree
            return DegreeTask(
                SignedCandidate.parse(degree.signed_candidate_json), _many(endorsements, degree.endorsements_json)
            )
        case "final":
            final = answer.final
            return FinalTask(
                SignedCandidate.parse(final.signed_candidate_json),
                SignedFinalSet.parse(final.signed_final_json),
                _many(endorsements, final.answers_json),
                _many(SignedDegreeAnswer.parse, final.degree_answers_json),
                _many(endorsements, final.peer_endorsements_json),
            )
        case "share":
            share = answer.share
            return ShareTask(
                SignedFinalSet.parse(share.signed_final_json), _many(endorsements, share.endorsements_json)
            )
        case _:
            return None


def _released_sets(shown: pb.ReleasedSets) -> ReleasedSets:
    return ReleasedSets(
        candidate=SignedCandidate.parse(shown.signed_candidate_json),
        final=SignedFinalSet.parse(shown.signed_final_json),
        endorsements=_many(SignedEndorsement.parse, shown.endorsements_json),
    )


class PublicationCalls:
    """What every party of a session may call."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = services.PublicationServiceStub(channel)  # type: ignore[no-untyped-call]

    def release_files(self, ctx: str, release: int = 0) -> dict[str, int]:
        """Name and size of each file of a release of the session, 0 for the last one. NotReady before it is there."""
        request = pb.ListReleaseFilesRequest(ctx=bytes.fromhex(ctx), release=release)
        with translated():
            answer = self._stub.ListReleaseFiles(request, timeout=CALL_SECONDS)
        return {file.name: int(file.size) for file in answer.files}

    def release_file(self, ctx: str, name: str, size: int, release: int = 0) -> bytes:
        """One file, of exactly `size` bytes. Raises SizeLimitError for more or less."""
        request = pb.GetReleaseFileRequest(ctx=bytes.fromhex(ctx), name=name, release=release)
        content = bytearray()
        with translated():
            for part in self._stub.GetReleaseFile(request, timeout=STREAM_SECONDS + size / SLOWEST_BYTES_PER_SECOND):
                content += part.chunk
                if len(content) > size:
                    break
        if len(content) != size:
            raise SizeLimitError(f"{name}: {len(content)} bytes came, {size} were announced")
        return bytes(content)


def upload_call(channel: grpc.Channel, method: str) -> "grpc.StreamUnaryMultiCallable[Any, pb.UploadResponse]":
    """A method that takes an upload: its header as a message, then chunks as bytes, which are copied once."""
    return channel.stream_unary(
        method, request_serializer=write_part, response_deserializer=pb.UploadResponse.FromString
    )


def chunks_of(content: memoryview, offset: int) -> Iterator[memoryview]:
    """The bytes from `offset` on, in chunks of at most 1 MiB."""
    for start in range(offset, len(content), MAX_CHUNK_BYTES):
        yield content[start : start + MAX_CHUNK_BYTES]
