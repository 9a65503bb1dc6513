"""A coordinator as it is deployed: identity folders, a signed session, configuration files, real gRPC on loopback.

Clients and key-holders here are thin: the real core (`seal_contribution`, `KeyHolder`) behind the real stubs.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from secagg.client_noise.setting import ClientNoise
from secagg.contributor import SealedUpload, seal_contribution
from secagg.coordinator import SessionSpec, create_session
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.evidence import MemberEvidence
from secagg.identity import Role, issue, new_authority, new_request
from secagg.keyholder import KeyHolder
from secagg.messages import (
    Enrolment,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedReceipt,
    SignedUpload,
)
from secagg.plan import Plan
from secagg.policy import Policy, adapter_schema_hash
from secagg.privacy import PrivacyStatement
from secagg.releases import ReleasedSets
from secagg.run import MemoryJournal, MemoryKeys
from secagg.signing import parse_model
from secagg_host.durable import write_atomic
from secagg_host.events import EventLog
from secagg_host.identity import AUTHORITY, CERTIFICATE, SIGNING_KEY, TLS_KEY, PartyFiles, load_identity
from secagg_host.rpc import from_rpc_error
from secagg_host.tls import channel, grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_protos.v1 import secagg_pb2_grpc as stubs
from secagg_server.clock import ERASE_GRACE_SECONDS
from secagg_server.config import ServerConfig
from secagg_server.server import Coordinator, Listener, listen
from secagg_server.session import DEGREE_CHECK_SECONDS, Checkpoint, Host, ServedSession, no_checkpoint
from tests.small import changes, small_plan

CHUNK = 16_384
HOUR = 3600
LENGTH = 30_000  # three blocks


def issue_party(folder: Path, authority: tuple[bytes, bytes], role: Role, name: str, institution: str) -> PartyFiles:
    """An identity folder as `secagg ca issue` leaves it."""
    hosts = ("127.0.0.1", "localhost") if role == Role.COORDINATOR else ()
    request, tls_key, signing_key = new_request(role, institution, name, hosts)
    expect = (role, institution, name)
    certificate = issue(request, *authority, int(time.time()), expect=expect, days=30)
    folder.mkdir(parents=True)
    for file, content in (
        (CERTIFICATE, certificate), (TLS_KEY, tls_key), (SIGNING_KEY, signing_key), (AUTHORITY, authority[0])
    ):  # fmt: skip
        write_atomic(folder / file, content)
    return load_identity(folder)


class Clock:
    """A clock that a test sets. When `now` is set, so much time has passed; when it jumps, none has."""

    def __init__(self) -> None:
        self.now = int(time.time())
        self._jumped = 0

    def __call__(self) -> int:
        return self.now

    def jump(self, seconds: int) -> None:
        """The clock is put forward or back."""
        self.now += seconds
        self._jumped += seconds

    def monotonic(self) -> float:
        """What a clock says that nobody puts forward or back, seconds since whenever."""
        return float(self.now - self._jumped)


@dataclass
class Deployment:
    """Certificates, keys and configuration of one session in a folder."""

    folder: Path
    clients: int = 4
    holders: int = 4
    n_min: int = 3
    close_at: int | None = None
    plan: Plan = field(default_factory=lambda: small_plan(LENGTH))
    clock: Clock = field(default_factory=Clock)
    client_noise: ClientNoise | None = None
    releases: int = 1

    @cached_property
    def authority(self) -> tuple[bytes, bytes]:
        return new_authority("test authority", int(time.time()))

    def party(self, role: Role, name: str, institution: str) -> PartyFiles:
        return issue_party(self.folder / "parties" / name, self.authority, role, name, institution)

    @cached_property
    def coordinator_files(self) -> PartyFiles:
        return self.party(Role.COORDINATOR, "server", "Coordinator")

    @cached_property
    def client_files(self) -> list[PartyFiles]:
        return [self.party(Role.CLIENT, f"client-{i}", f"Hospital {i}") for i in range(1, self.clients + 1)]

    @cached_property
    def holder_files(self) -> list[PartyFiles]:
        return [self.party(Role.KEYHOLDER, f"holder-{i}", f"Notary {i}") for i in range(1, self.holders + 1)]

    @cached_property
    def auditor_files(self) -> PartyFiles:
        return self.party(Role.AUDITOR, "auditor", "Office")

    @cached_property
    def outsiders(self) -> dict[Role, PartyFiles]:
        """Good certificates of the same authority that are on no roster and in no committee."""
        return {
            Role.CLIENT: self.party(Role.CLIENT, "stranger", "Elsewhere"),
            Role.KEYHOLDER: self.party(Role.KEYHOLDER, "strange-holder", "Elsewhere"),
            Role.COORDINATOR: self.party(Role.COORDINATOR, "strange-server", "Elsewhere"),
        }

    @cached_property
    def policy(self) -> Policy:
        training = self.plan.training
        return Policy(
            coordinator=self.coordinator_files.identity.fingerprint,
            committee={files.identity.name: files.identity.fingerprint for files in self.holder_files},
            institutions={files.identity.name: files.identity.fingerprint for files in self.client_files},
            required_institutions=self.n_min,
            n_min=self.n_min,
            base_model_hashes=(self.plan.base_model_hash,),
            adapter_schema_hashes=(adapter_schema_hash(self.plan),),
            max_epsilon=training.epsilon or 1.0,
            max_delta=training.delta,
            max_releases=self.releases,
        )

    @cached_property
    def committee(self) -> list[KeyHolder]:
        authority = self.authority[0].decode()
        return [
            KeyHolder(files.signer, self.policy, authority, MemoryJournal(), MemoryKeys())
            for files in self.holder_files
        ]

    @cached_property
    def proposal(self) -> SignedDescriptor:
        now = self.clock()
        members = [
            CommitteeMember(certificate=h.signer.identity.pem, offer=h.offer(now, 9 * HOUR, os.urandom))
            for h in self.committee
        ]
        roster = [RosterMember(certificate=files.identity.pem) for files in self.client_files]
        spec = SessionSpec(
            n_min=self.n_min,
            n_max=10,
            upload_seconds=HOUR,
            expiry_seconds=2 * HOUR,
            client_noise=self.client_noise,
            releases=self.releases,
        )
        return create_session(spec, self.plan, roster, members, self.coordinator_files.signer, now, os.urandom)

    @property
    def descriptor(self) -> Descriptor:
        return self.proposal.descriptor.statement

    @cached_property
    def uploads(self) -> list[SealedUpload]:
        """One sealed upload a client, in the order of `client_files`."""
        statement = PrivacyStatement(epsilon=7.9, delta=1e-5, accountant="test", noise="secure")
        vectors = changes(self.clients, self.plan.length).values()
        return [
            seal_contribution(self.descriptor, files.signer, vector, statement, os.urandom)
            for files, vector in zip(self.client_files, vectors, strict=True)
        ]

    def write_config(self, listen_at: str = "127.0.0.1:0") -> Path:
        """`session.json` and `server.toml`, as an operator has them."""
        write_atomic(self.folder / "session.json", self.proposal.model_dump_json().encode())
        assert self.coordinator_files
        lines = [
            f'listen = "{listen_at}"',
            'identity = "parties/server"',
            'state = "state"',
            'release = "release"',
            'sessions = ["session.json"]',
        ]
        if self.close_at is not None:
            lines.append(f"close_at_uploads = {self.close_at}")
        path = self.folder / "server.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    @property
    def config(self) -> ServerConfig:
        self.write_config()
        return ServerConfig(
            listen="127.0.0.1:0",
            identity=self.folder / "parties" / "server",
            state=self.folder / "state",
            release=self.folder / "release",
            sessions=(self.folder / "session.json",),
            close_at_uploads=self.close_at,
        )

    @contextmanager
    def running(self, checkpoint: Checkpoint = no_checkpoint) -> Iterator["Running"]:
        """The coordinator in this process, on real gRPC; the test moves it on with `advance`."""
        events = EventLog(self.folder / "state" / "events.jsonl")
        host = Host(self.coordinator_files.signer, self.clock, events, checkpoint, monotonic=self.clock.monotonic)
        coordinator = Coordinator.load(self.config, self.coordinator_files, host)
        listener = listen(coordinator, "127.0.0.1:0", self.coordinator_files)
        try:
            yield Running(self, coordinator, listener)
        finally:
            listener.server.stop(0).wait()
            coordinator.store.close()
            events.close()


@dataclass
class Running:
    """A coordinator that listens."""

    deployment: Deployment
    coordinator: Coordinator
    listener: Listener

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.port}"

    @property
    def session(self) -> ServedSession:
        return next(iter(self.coordinator.sessions.values()))

    def advance(self) -> None:
        self.coordinator.advance()

    def expire(self) -> None:
        """The clock passes the session's expiry, and says so for long enough (protocol.md §7.4)."""
        self.deployment.clock.now = self.deployment.descriptor.expires_at + 1
        self.advance()
        self.deployment.clock.now += ERASE_GRACE_SECONDS
        self.advance()

    def call(self, files: PartyFiles) -> "Caller":
        return Caller(self.address, files)

    def client(self, index: int) -> "Caller":
        return self.call(self.deployment.client_files[index])

    def holder(self, index: int) -> "Caller":
        return self.call(self.deployment.holder_files[index])

    def approve(self, count: int | None = None) -> None:
        """So many key-holders approve, and the session opens."""
        for holder, files in list(zip(self.deployment.committee, self.deployment.holder_files, strict=True))[:count]:
            with self.call(files) as caller:
                caller.approve(holder, self.deployment.clock())
        self.advance()

    def upload_all(self, count: int | None = None) -> None:
        """So many clients enrol and upload."""
        for files, sealed in list(zip(self.deployment.client_files, self.deployment.uploads, strict=True))[:count]:
            with self.call(files) as caller:
                caller.enrol()
                caller.upload(sealed)

    def work(self, holders: list[int] | None = None) -> None:
        """Key-holders do what is asked of them until nothing is asked any more."""
        committee = range(len(self.deployment.committee))
        chosen = committee if holders is None else holders
        self._work(chosen)
        if len(chosen) < len(committee):  # the others are waited for, and then not (protocol.md §8.4.6)
            self.deployment.clock.now += DEGREE_CHECK_SECONDS + 1
            self._work(chosen)

    def _work(self, chosen: Sequence[int]) -> None:
        busy = True
        while busy:
            self.advance()
            busy = False
            for index in chosen:
                with self.holder(index) as caller:
                    busy |= caller.work_once(self.deployment.committee[index], self.deployment.clock())
        self.advance()


class Caller:
    """One party's connection. Every refusal comes out as the SecaggError that the coordinator meant."""

    def __init__(self, address: str, files: PartyFiles) -> None:
        self.files = files
        self.channel = channel(address, files)
        self.contribution = stubs.ContributionServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.committee = stubs.CommitteeServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.publication = stubs.PublicationServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def ask(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=90)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def stream(self, method: Callable[..., Any], request: Any) -> list[Any]:
        try:
            return list(method(request, timeout=90))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    # A client.

    def session(self) -> SignedDescriptor:
        answer = self.ask(self.contribution.GetSession, pb.GetSessionRequest())
        return parse_model(SignedDescriptor, answer.signed_descriptor_json)

    def enrol(self) -> None:
        enrolment = Enrolment(ctx=self.session().check(approved=True).ctx, client=self.files.identity.fingerprint)
        signed = self.files.signer.sign(enrolment)
        self.ask(self.contribution.Enrol, pb.EnrolRequest(signed_enrolment_json=signed.to_bytes()))

    def begin(self, sealed: SealedUpload) -> Any:
        request = pb.BeginUploadRequest(signed_upload_json=sealed.signed.to_bytes())
        return self.ask(self.contribution.BeginUpload, request)

    def send(self, sealed: SealedUpload, offset: int, end: int | None = None) -> SignedReceipt:
        """Stream the ciphertext from `offset` to `end`."""
        data = sealed.ciphertext.tobytes()[:end]
        answer = self.ask(self.contribution.Upload, iter(upload_messages(sealed, data, offset)))
        return SignedReceipt.parse(answer.signed_receipt_json)

    def upload(self, sealed: SealedUpload) -> SignedReceipt:
        answer = self.begin(sealed)
        if answer.WhichOneof("state") == "signed_receipt_json":
            return SignedReceipt.parse(answer.signed_receipt_json)
        return self.send(sealed, answer.offset)

    def status(self) -> Any:
        return self.ask(self.contribution.GetStatus, pb.GetStatusRequest())

    # A key-holder.

    def approve(self, holder: KeyHolder, now: int) -> None:
        answer = self.ask(self.committee.GetProposal, pb.GetProposalRequest())
        approval = holder.approve(parse_model(SignedDescriptor, answer.signed_descriptor_json), now)
        self.ask(self.committee.Approve, pb.ApproveRequest(signed_approval_json=approval.to_bytes()))

    def evidence(self, stage: pb.SetStage) -> Iterator[MemberEvidence]:
        for item in self.stream(self.committee.GetEvidence, pb.GetEvidenceRequest(stage=stage)):
            yield MemberEvidence(SignedUpload.parse(item.signed_upload_json), item.box, tuple(item.path))

    def get_work(self, wait: float = 0) -> Any:
        return self.ask(self.committee.GetWork, pb.GetWorkRequest(wait_milliseconds=int(wait * 1000)))

    def work_once(self, holder: KeyHolder, clock: int | Callable[[], int], wait: float = 0) -> bool:
        """Do what is asked; False when nothing is. A clock that a test sets meanwhile is looked at once it is asked."""
        answer = self.ask(self.committee.GetProposal, pb.GetProposalRequest())
        descriptor = parse_model(SignedDescriptor, answer.signed_descriptor_json).check(approved=False)
        work = self.get_work(wait)
        now = clock if isinstance(clock, int) else clock()
        match work.WhichOneof("work"):
            case "candidate":
                candidate = SignedCandidate.parse(work.candidate.signed_candidate_json)
                peers = endorsements(work.candidate.peer_endorsements_json)
                shown = self.evidence(pb.SET_STAGE_CANDIDATE)
                earlier = [released_sets(sets) for sets in work.candidate.earlier]
                self.endorse(holder.endorse_candidate(descriptor, candidate, shown, peers, now, earlier))
            case "degree":
                candidate = SignedCandidate.parse(work.degree.signed_candidate_json)
                given = endorsements(work.degree.endorsements_json)
                shown = self.evidence(pb.SET_STAGE_CANDIDATE)
                self.answer(holder.answer_degree_check(descriptor, candidate, given, shown, now))
            case "final":
                candidate = SignedCandidate.parse(work.final.signed_candidate_json)
                final = SignedFinalSet.parse(work.final.signed_final_json)
                answers = endorsements(work.final.answers_json)
                peers = endorsements(work.final.peer_endorsements_json)
                degree = [SignedDegreeAnswer.parse(item) for item in work.final.degree_answers_json]
                self.endorse(holder.endorse_final(descriptor, candidate, final, answers, degree, peers, now))
            case "share":
                final = SignedFinalSet.parse(work.share.signed_final_json)
                given = endorsements(work.share.endorsements_json)
                shown = self.evidence(pb.SET_STAGE_FINAL)
                answer = holder.sum_shares(descriptor, final, given, shown, now)
                self.submit(answer.signed.to_bytes(), answer.share)
            case _:
                return False
        return True

    def endorse(self, signed: SignedEndorsement) -> None:
        self.ask(self.committee.Endorse, pb.EndorseRequest(signed_endorsement_json=signed.to_bytes()))

    def answer(self, signed: SignedDegreeAnswer) -> None:
        request = pb.SubmitDegreeAnswerRequest(signed_degree_answer_json=signed.to_bytes())
        self.ask(self.committee.SubmitDegreeAnswer, request)

    def submit(self, signed: bytes, share: bytes) -> None:
        request = pb.SubmitShareSumRequest(signed_share_sum_json=signed, share=share)
        self.ask(self.committee.SubmitShareSum, request)

    # Anyone.

    def release(self, number: int = 0) -> dict[str, bytes]:
        listed = self.ask(self.publication.ListReleaseFiles, pb.ListReleaseFilesRequest(release=number)).files
        found = dict[str, bytes]()
        for file in listed:
            request = pb.GetReleaseFileRequest(name=file.name, release=number)
            chunks = self.stream(self.publication.GetReleaseFile, request)
            found[file.name] = b"".join(chunk.chunk for chunk in chunks)
            assert len(found[file.name]) == file.size
        return found


def endorsements(raw: Any) -> list[SignedEndorsement]:
    return [SignedEndorsement.parse(item) for item in raw]


def released_sets(shown: Any) -> ReleasedSets:
    return ReleasedSets(
        candidate=SignedCandidate.parse(shown.signed_candidate_json),
        final=SignedFinalSet.parse(shown.signed_final_json),
        endorsements=tuple(endorsements(shown.endorsements_json)),
    )


def upload_messages(sealed: SealedUpload, data: bytes, offset: int, chunk: int = CHUNK) -> Iterator[Any]:
    """Header and chunks of an upload stream."""
    header = pb.UploadHeader(signed_upload_json=sealed.signed.to_bytes(), boxes=sealed.boxes, offset=offset)
    yield pb.UploadRequest(header=header)
    for start in range(offset, len(data), chunk):
        yield pb.UploadRequest(chunk=data[start : start + chunk])


def cut_stream(running: Running, index: int, end: int) -> None:
    """Client `index` sends up to `end`, then its connection is lost."""
    sealed = running.deployment.uploads[index]
    hold = threading.Event()

    def messages() -> Iterator[Any]:
        yield from upload_messages(sealed, sealed.ciphertext.tobytes()[:end], 0)
        hold.wait(60)

    with running.client(index) as caller:
        call = caller.contribution.Upload.future(messages(), timeout=90)
        deadline = time.monotonic() + 60
        while running.session.files.stored(caller.files.identity.fingerprint) < end:
            assert time.monotonic() < deadline, "the server did not store what was sent"
            time.sleep(0.01)
        call.cancel()
        hold.set()
