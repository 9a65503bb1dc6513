"""gRPC messages as they reach the server's services, and answers as they reach clients and key-holders."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from google.protobuf.message import DecodeError, Message

from secagg.coordinator import Settlement
from secagg.descriptor import SignedDescriptor
from secagg.identity import Identity
from secagg.messages import (
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedUpload,
)
from secagg.signing import parse_model
from secagg_client.calls import CommitteeCalls, ContributionCalls, PublicationCalls
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.database import SessionState
from secagg_server.intake import Intake
from secagg_server.services import Committee, Contribution, Publication, sealed_directory
from secagg_server.session import ServedSession
from secagg_server.storage import StoredUpload
from tests.fuzz.bulk import share_sums
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.target import Target, text
from tests.vectors import session
from tests.vectors.reading import load
from tests.vectors.replay import descriptor, evidence, published, signer


def leaves(message: Message) -> list[bytes]:
    """Every value of bytes in a message, in order."""
    found = list[bytes]()
    for field, value in message.ListFields():
        several = value if field.is_repeated else [value]
        for one in several:
            if isinstance(one, Message):
                found += leaves(one)
            elif isinstance(one, bytes):
                found.append(one)
    return found


def fill(message: Message, parts: Iterator[bytes]) -> None:
    """Other values of bytes into their places."""
    for field, value in message.ListFields():
        if not field.is_repeated:
            if isinstance(value, Message):
                fill(value, parts)
            elif isinstance(value, bytes):
                setattr(message, field.name, next(parts, b""))
        elif value and isinstance(value[0], bytes):
            value[:] = [next(parts, b"") for _ in value]
        else:
            for one in value:
                if isinstance(one, Message):
                    fill(one, parts)


WHOLE: dict[type[Message], bytes] = {}
"""A valid message of each type, for parts whose own message is broken."""


def seeds_of(how: bytes, message: Message) -> list[bytes]:
    """The message as bytes, to be bent as bytes; and beside it its parts, to be bent each by itself."""
    raw = message.SerializeToString()
    WHOLE.setdefault(type(message), raw)
    return [frame([how + b"\0", raw]), frame([how + b"\1", raw, *leaves(message)])]


def message_of(kind: type[Message], parted: bool, parts: list[bytes]) -> Message:
    """What `seeds_of` put into a frame. Raises DecodeError for one that comes as bytes."""
    raw = parts[0] if parts else b""
    if not parted:
        return kind.FromString(raw)
    try:
        message = kind.FromString(raw)
    except DecodeError:
        message = kind.FromString(WHOLE.get(kind, b""))
    fill(message, iter(parts[1:]))
    return message


class ForgetfulStore:
    """A store that says what a running session has, and keeps nothing."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    release = 1

    def state(self) -> tuple[SessionState, str]:
        return self._state, ""

    def places(self) -> dict[str, int]:
        return {}

    def upload(self, client: str) -> StoredUpload | None:
        return None

    def approvals(self) -> dict[str, SignedApproval]:
        found = [SignedApproval.parse(text(one)) for one in published()["session"]["approvals"]]
        return {one.signer: one for one in found}

    def enrolled(self, client: str) -> bool:
        return False

    def candidate(self) -> SignedCandidate:
        return SignedCandidate.parse(text(published()["candidate"]))

    def settlement(self) -> Settlement:
        answers = tuple(SignedEndorsement.parse(text(one)) for one in published()["answers"])
        degree = tuple(SignedDegreeAnswer.parse(text(one)) for one in published()["degree_answers"])
        return Settlement(SignedFinalSet.parse(text(published()["final"])), answers, degree)

    def degree_answers(self) -> dict[str, SignedDegreeAnswer]:
        found = [SignedDegreeAnswer.parse(text(one)) for one in published()["degree_answers"]]
        return {one.signer: one for one in found[1:]}

    def endorsements(self, stage: str) -> dict[str, SignedEndorsement]:
        found = [SignedEndorsement.parse(text(one)) for one in published()["endorsements"]]
        return {one.signer: one for one in found[1:]}

    def shares(self) -> dict[str, Any]:
        return {}

    def release_inputs(self) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class ForgetfulFiles:
    """Files of uploads, none kept."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def stored(self, client: str) -> int:
        return 0

    def blocks(self, client: str, size: int) -> Iterator[bytes]:
        yield b""

    def writer(self, client: str) -> "ForgetfulFiles":
        return self

    def __enter__(self) -> "ForgetfulFiles":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@cache
def served(state: SessionState) -> tuple[Contribution, Committee, Publication]:
    """The services of a coordinator with one session."""
    proposal = load_proposal()
    host = SimpleNamespace(
        clock=lambda: session.NOW + 10,
        signer=signer("coordinator"),
        checkpoint=lambda *_: None,
        events=SimpleNamespace(emit=lambda *_, **__: None),
    )
    one = ServedSession(
        proposal, cast(Any, ForgetfulStore(state)), cast(Any, ForgetfulFiles()), cast(Any, None), cast(Any, host), None
    )
    directory = sealed_directory({descriptor().ctx: one})
    return Contribution(directory, {descriptor().ctx: Intake(one)}), Committee(directory), Publication(directory)


def load_proposal() -> Any:
    """The signed descriptor of the published session."""
    return parse_model(SignedDescriptor, json.dumps(published()["session"])).descriptor


class Context:
    """A call by a party that TLS let in."""

    def __init__(self, peer: Identity) -> None:
        self._peer = peer

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        """What gRPC tells of the certificate."""
        return {"x509_pem_cert": (self._peer.pem.encode(),)}

    def cancel(self) -> None:
        """Nothing to cancel."""


METHODS: tuple[tuple[str, type[Message], int], ...] = (
    ("GetSession", pb.GetSessionRequest, 0),
    ("Enrol", pb.EnrolRequest, 0),
    ("BeginUpload", pb.BeginUploadRequest, 0),
    ("Upload", pb.UploadRequest, 0),
    ("GetStatus", pb.GetStatusRequest, 0),
    ("GetProposal", pb.GetProposalRequest, 1),
    ("Approve", pb.ApproveRequest, 1),
    ("GetWork", pb.GetWorkRequest, 1),
    ("GetEvidence", pb.GetEvidenceRequest, 1),
    ("Endorse", pb.EndorseRequest, 1),
    ("SubmitDegreeAnswer", pb.SubmitDegreeAnswerRequest, 1),
    ("SubmitShareSum", pb.SubmitShareSumRequest, 1),
    ("ListReleaseFiles", pb.ListReleaseFilesRequest, 2),
    ("GetReleaseFile", pb.GetReleaseFileRequest, 2),
)
"""Name, request, and the service (0 clients', 1 key-holders', 2 everybody's)."""
STATES = (SessionState.OPEN, SessionState.CLOSING, SessionState.PROPOSED)


def request_seeds() -> list[bytes]:
    """A valid request of each kind: which method and state, then the messages."""
    whole, ctx = published(), bytes.fromhex(published()["ctx"])
    upload, boxes = text(whole["clients"][0]["upload"]), [bytes(17_027)] * session.HOLDERS
    enrolment = next(case["signed"] for case in load("statements")["cases"] if case["type"] == "Enrolment")
    made: dict[str, list[Message]] = {
        "GetSession": [pb.GetSessionRequest(ctx=ctx), pb.GetSessionRequest()],
        "Enrol": [pb.EnrolRequest(signed_enrolment_json=text(enrolment))],
        "BeginUpload": [pb.BeginUploadRequest(signed_upload_json=upload)],
        "GetStatus": [pb.GetStatusRequest(ctx=ctx)],
        "GetProposal": [pb.GetProposalRequest(ctx=ctx)],
        "Approve": [pb.ApproveRequest(signed_approval_json=text(one)) for one in whole["session"]["approvals"][:1]],
        "GetWork": [pb.GetWorkRequest(ctx=ctx, wait_milliseconds=0)],
        "GetEvidence": [pb.GetEvidenceRequest(ctx=ctx, stage=pb.SET_STAGE_CANDIDATE)],
        "Endorse": [pb.EndorseRequest(signed_endorsement_json=text(whole["answers"][0]))],
        "SubmitDegreeAnswer": [
            pb.SubmitDegreeAnswerRequest(signed_degree_answer_json=text(whole["degree_answers"][0]))
        ],
        "SubmitShareSum": [
            pb.SubmitShareSumRequest(signed_share_sum_json=text(whole["share_sums"][0]), share=share_sums()[0])
        ],
        "ListReleaseFiles": [pb.ListReleaseFilesRequest(ctx=ctx)],
        "GetReleaseFile": [pb.GetReleaseFileRequest(ctx=ctx, name="release.json")],
    }
    header = pb.UploadRequest(header=pb.UploadHeader(signed_upload_json=upload, boxes=boxes, offset=0))
    stream = [header.SerializeToString(), pb.UploadRequest(chunk=b"abc").SerializeToString()]
    seeds = []
    for number, (name, _, _) in enumerate(METHODS):
        for state in range(len(STATES)):
            how = bytes([number, state])
            if name == "Upload":
                seeds += [frame([how + b"\0", *stream]), *seeds_of(how, header)]
            else:
                seeds += [seed for one in made[name] for seed in seeds_of(how, one)]
    return seeds


@cache
def callers() -> tuple[Context, Context]:
    """Client 0 and key-holder 0."""
    client = descriptor().clients[session.name("client 0")]
    return Context(client), Context(descriptor().holders[0])


def run_request(data: bytes) -> object:
    """Decode as gRPC does, and call the service. Raises DecodeError for what gRPC itself refuses."""
    how, *rest = parts_of(data) or [b""]
    method, kind, service = METHODS[(how[0] if how else 0) % len(METHODS)]
    state = STATES[(how[1] if len(how) > 1 else 0) % len(STATES)]
    if how[2:3] == b"\1":
        requests = [message_of(kind, True, rest), kind()]
    else:
        requests = [kind.FromString(part) for part in rest or [b""]]
    for one in requests:
        if isinstance(one, pb.GetWorkRequest):
            one.wait_milliseconds = min(one.wait_milliseconds, 1)
    call = getattr(served(state)[service], method)
    context = callers()[int(service == 1)]
    answer = call(iter(requests) if method == "Upload" else requests[0], context)
    return list(answer) if method in ("GetEvidence", "GetReleaseFile") else answer


# -- answers of a coordinator ----------------------------------------------------------------------------------


@cache
def _upload() -> SignedUpload:
    """What a client would send."""
    return SignedUpload.parse(text(published()["clients"][0]["upload"]))


ANSWERS: tuple[tuple[str, type[Message], Callable[[Any], object]], ...] = (
    ("GetSession", pb.GetSessionResponse, lambda stub: _calls(ContributionCalls, stub).session(None)),
    ("BeginUpload", pb.BeginUploadResponse, lambda stub: _calls(ContributionCalls, stub).begin_upload(_upload())),
    ("Upload", pb.UploadResponse, lambda stub: _calls(ContributionCalls, stub).upload(_upload(), [], 0, [])),
    ("GetStatus", pb.GetStatusResponse, lambda stub: _calls(ContributionCalls, stub).status("00" * 32)),
    ("GetProposal", pb.GetProposalResponse, lambda stub: _calls(CommitteeCalls, stub).proposal(None)),
    ("GetWork", pb.GetWorkResponse, lambda stub: _calls(CommitteeCalls, stub).work("00" * 32, 0)),
    (
        "GetEvidence",
        pb.GetEvidenceResponse,
        lambda stub: list(_calls(CommitteeCalls, stub).evidence("00" * 32, "final")),
    ),
    (
        "ListReleaseFiles",
        pb.ListReleaseFilesResponse,
        lambda stub: _calls(PublicationCalls, stub).release_files("00" * 32),
    ),
    (
        "GetReleaseFile",
        pb.GetReleaseFileResponse,
        lambda stub: _calls(PublicationCalls, stub).release_file("00" * 32, "a", 3),
    ),
)


def _calls(kind: type[Any], stub: Any) -> Any:
    calls: Any = object.__new__(kind)
    calls._stub = stub
    return calls


def answer_seeds() -> list[bytes]:
    """A valid answer of each kind."""
    whole = published()
    receipt = text(next(case["signed"] for case in load("statements")["cases"] if case["type"] == "Receipt"))
    candidate, final = text(whole["candidate"]), text(whole["final"])
    answers, endorsed = [[text(one) for one in whole[key]] for key in ("answers", "endorsements")]
    shown = evidence([whole["clients"][0]["upload"]["signer"]])[0]
    made: list[list[Message]] = [
        [pb.GetSessionResponse(signed_descriptor_json=text(whole["session"]))],
        [pb.BeginUploadResponse(offset=5), pb.BeginUploadResponse(signed_receipt_json=receipt)],
        [pb.UploadResponse(signed_receipt_json=receipt)],
        [pb.GetStatusResponse(state=pb.SESSION_STATE_OPEN, reason="x", signed_receipt_json=receipt)],
        [pb.GetProposalResponse(signed_descriptor_json=text(whole["session"]))],
        [
            pb.GetWorkResponse(state=pb.SESSION_STATE_CLOSING, candidate=pb.CandidateWork(
                signed_candidate_json=candidate, peer_endorsements_json=answers, earlier=[pb.ReleasedSets(
                    signed_candidate_json=candidate, signed_final_json=final, endorsements_json=endorsed)])),
            pb.GetWorkResponse(state=pb.SESSION_STATE_CLOSING, final=pb.FinalWork(
                signed_candidate_json=candidate, signed_final_json=final, answers_json=answers,
                peer_endorsements_json=endorsed)),
            pb.GetWorkResponse(state=pb.SESSION_STATE_CLOSING, share=pb.ShareWork(
                signed_final_json=final, endorsements_json=endorsed)),
        ],
        [pb.GetEvidenceResponse(signed_upload_json=shown.upload.to_bytes(), box=shown.box, path=shown.path)],
        [pb.ListReleaseFilesResponse(files=[pb.ReleaseFile(name="release.json", size=12)])],
        [pb.GetReleaseFileResponse(chunk=b"abc")],
    ]  # fmt: skip
    return [seed for number, some in enumerate(made) for one in some for seed in seeds_of(bytes([number]), one)]


def run_answer(data: bytes) -> object:
    """An answer of the coordinator, at a client or key-holder."""
    how, *rest = parts_of(data) or [b""]
    method, kind, ask = ANSWERS[(how[0] if how else 0) % len(ANSWERS)]
    answer = message_of(kind, how[1:2] == b"\1", rest)
    streamed = method in ("GetEvidence", "GetReleaseFile")
    return ask(SimpleNamespace(**{method: lambda *_, **__: [answer] if streamed else answer}))


TARGETS: tuple[Target, ...] = (
    Target("grpc-requests", request_seeds, run_request),
    Target("grpc-answers", answer_seeds, run_answer),
)
