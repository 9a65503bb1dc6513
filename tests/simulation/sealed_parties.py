"""The parties of a sealed session, honest ones: a liar is a subclass of one of them.

They are the state machines of `secagg`: `seal_contribution`, `KeyHolder`, the coordinator's functions. What is here
hands them what they need, and gives their answers as lists, so that a liar can give none or two.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.certificate import TimelineEvent
from secagg.contributor import SealedUpload, seal_contribution
from secagg.coordinator import (
    OpenedSum,
    SessionSpec,
    Settlement,
    check_share_answer,
    create_session,
    fix_candidate,
    open_with_shares,
    settle,
)
from secagg.degree import verify_answers
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.errors import ConflictError, HashMismatch, MalformedError, ProtocolViolation
from secagg.evidence import MemberEvidence, ShareAnswer, box_bytes
from secagg.keyholder import KeyHolder
from secagg.merkle import root
from secagg.messages import (
    Receipt,
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedReceipt,
)
from secagg.plan import Plan
from secagg.privacy import stated
from secagg.release import ReleaseParts, build_release
from secagg.run import MemoryJournal, MemoryKeys, certify, evidence, policy_for
from secagg.sealing import fresh_key
from secagg.sets import check_upload
from secagg.signing import Signer
from secagg_client.client_run import ClientRun
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from tests.small import DAY, NOW, small_plan

LENGTH = 300
N_MIN = 3
PLAN = small_plan(LENGTH)
INSTITUTIONS = [f"Hospital {i}" for i in range(1, 7)]
PARTIES = certify([*INSTITUTIONS, *(f"Sybil {i}" for i in range(1, 4))], 4, NOW)
"""The authority certifies whoever asks; what counts are the pins."""
PINNED = replace(PARTIES, clients={name: PARTIES.clients[name] for name in INSTITUTIONS})
STRANGERS = certify([f"Invented {i}" for i in range(1, 6)], 4, NOW)
"""Parties of another authority."""
POLICY = policy_for(PINNED, PLAN, N_MIN, 1).model_copy(update={"max_releases": 2})
SPEC = SessionSpec(n_min=N_MIN, n_max=10, bits=16, upload_seconds=DAY, expiry_seconds=2 * DAY)


class Recorder:
    """The operating system's randomness, which remembers what it gave."""

    def __init__(self) -> None:
        self.drawn = list[bytes]()

    def __call__(self, size: int) -> bytes:
        self.drawn.append(os.urandom(size))
        return self.drawn[-1]


class Client:
    """An honest institution. `sent` is what it encoded, uint32 [L], once it has contributed."""

    name = "an honest client"
    honest = True
    bad_boxes: tuple[int, ...] = ()
    """The places of the key-holders who find no share in its box."""
    inconsistent = False
    """Its shares or blindings are on no polynomial."""

    def __init__(self, signer: Signer, change: NDArray[np.float32]) -> None:
        self.signer, self.change = signer, change
        self.random = Recorder()
        self.sent: NDArray[np.uint32] | None = None

    @property
    def fingerprint(self) -> str:
        return self.signer.identity.fingerprint

    def check(self, session: SignedDescriptor, now: int) -> Descriptor:
        """What must hold before anything is trained (protocol.md §4.3, §4.4): the check of `secagg client run`."""
        unused = cast(Any, None)
        run = ClientRun(
            signer=self.signer, authority=PARTIES.authority, policy=POLICY, shelf=unused, contribution=unused,
            publication=unused, training=unused, release=unused, random=os.urandom,
            patience=Patience(EventLog(), clock=lambda: float(now)),
        )  # fmt: skip
        return run.check(session)

    def seal(self, descriptor: Descriptor) -> SealedUpload:
        """An honest upload; what was encoded is made once more from the first seed that was drawn (§5.3a)."""
        self.random = Recorder()
        privacy = stated(descriptor.plan.training, "test")
        sealed = seal_contribution(descriptor, self.signer, self.change, privacy, self.random)
        rounding = self.random.drawn[0]
        self.sent = descriptor.quantiser.encode(self.change, lambda _: rounding).values
        return sealed

    def contribute(self, session: SignedDescriptor, now: int) -> list[SealedUpload]:
        """What it uploads, one after the other."""
        return [self.seal(self.check(session, now))]

    def secrets(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The seeds it drew, its change, its short key, every share of it and its blinding."""
        if len(self.random.drawn) < 5:
            return
        yield from self.random.drawn
        key = fresh_key(lambda _: self.random.drawn[1])
        yield self.change.tobytes()
        yield key.coefficients.tobytes()
        yield key.coefficients.astype(np.int64).tobytes()
        seeds = iter(self.random.drawn[3:5])
        shares = shamir.share_key(key, descriptor.threshold, len(descriptor.committee), lambda _: next(seeds))
        for share in shares:
            yield share.packed
            yield share.blinding


@dataclass(frozen=True)
class CandidateRequest:
    """Endorse this candidate set."""

    candidate: SignedCandidate
    shown: Sequence[MemberEvidence]
    peers: tuple[SignedEndorsement, ...]


@dataclass(frozen=True)
class DegreeRequest:
    """Answer the degree check over this candidate set."""

    candidate: SignedCandidate
    endorsed: tuple[SignedEndorsement, ...]
    shown: Sequence[MemberEvidence]


@dataclass(frozen=True)
class FinalRequest:
    """Endorse this final set."""

    candidate: SignedCandidate
    final: SignedFinalSet
    answers: tuple[SignedEndorsement, ...]
    degree_answers: tuple[SignedDegreeAnswer, ...]
    peers: tuple[SignedEndorsement, ...]


@dataclass(frozen=True)
class ShareRequest:
    """Sum the shares over this final set."""

    final: SignedFinalSet
    endorsed: tuple[SignedEndorsement, ...]
    shown: Sequence[MemberEvidence]


class Holder:
    """An honest key-holder. Every answer is a list, so that a liar can give none or two."""

    name = "an honest key-holder"
    honest = True
    wrong_share_sum = False

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.machine = KeyHolder(signer, POLICY, PARTIES.authority, MemoryJournal(), MemoryKeys())

    @property
    def fingerprint(self) -> str:
        return self.signer.identity.fingerprint

    def approve(self, proposal: SignedDescriptor, now: int) -> list[SignedApproval]:
        return [self.machine.approve(proposal, now)]

    def endorse_candidate(self, descriptor: Descriptor, ask: CandidateRequest, now: int) -> list[SignedEndorsement]:
        return [self.machine.endorse_candidate(descriptor, ask.candidate, ask.shown, ask.peers, now)]

    def answer_degree_check(self, descriptor: Descriptor, ask: DegreeRequest, now: int) -> list[SignedDegreeAnswer]:
        return [self.machine.answer_degree_check(descriptor, ask.candidate, ask.endorsed, ask.shown, now)]

    def endorse_final(self, descriptor: Descriptor, ask: FinalRequest, now: int) -> list[SignedEndorsement]:
        attached = ask.answers, ask.degree_answers
        return [self.machine.endorse_final(descriptor, ask.candidate, ask.final, *attached, ask.peers, now)]

    def sum_shares(self, descriptor: Descriptor, ask: ShareRequest, now: int) -> list[ShareAnswer]:
        return [self.machine.sum_shares(descriptor, ask.final, ask.endorsed, ask.shown, now)]

    def secrets(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Its session key."""
        index, _ = descriptor.holder(self.fingerprint)
        yield self.machine.keys.get(descriptor.committee[index - 1].offer.statement.digest).to_bytes()


class Closing:
    """One set on its way to being opened: what the coordinator asks for it, and what came (protocol.md §8, §9)."""

    def __init__(self, server: "Server", candidate: SignedCandidate, uploads: Sequence[SealedUpload]) -> None:
        self.server, self.candidate = server, candidate
        self.uploads = {upload.signed.statement.client: upload for upload in uploads}
        self.answers = dict[str, SignedEndorsement]()
        self.degree_answers = dict[str, SignedDegreeAnswer]()
        self.settlement: Settlement | None = None
        self.endorsed = dict[str, SignedEndorsement]()
        self.shares = dict[str, ShareAnswer]()
        self.opened: OpenedSum | None = None

    @property
    def descriptor(self) -> Descriptor:
        return self.server.descriptor

    def shown(self, holder: Holder, members: Sequence[str]) -> Sequence[MemberEvidence]:
        return evidence(self.descriptor, holder.signer.identity, [self.uploads[member] for member in members])

    def candidate_request(self, holder: Holder) -> CandidateRequest:
        members = [member.client for member in self.candidate.statement.members]
        return CandidateRequest(self.candidate, self.shown(holder, members), tuple(self.answers.values()))

    def degree_request(self, holder: Holder) -> DegreeRequest | None:
        if len(self.answers) < self.descriptor.threshold:
            return None
        members = [member.client for member in self.candidate.statement.members]
        return DegreeRequest(self.candidate, tuple(self.answers.values()), self.shown(holder, members))

    def final_request(self, holder: Holder) -> FinalRequest | None:
        if self.settlement is None:
            return None
        found = self.settlement
        peers = tuple(self.endorsed.values())
        return FinalRequest(self.candidate, found.final, found.answers, found.degree_answers, peers)

    def share_request(self, holder: Holder) -> ShareRequest | None:
        if self.settlement is None or len(self.endorsed) < self.descriptor.threshold:
            return None
        members = [member.client for member in self.settlement.final.statement.members]
        return ShareRequest(self.settlement.final, tuple(self.endorsed.values()), self.shown(holder, members))

    def take_endorsement(self, signed: SignedEndorsement, stage: str) -> None:
        """One of each key-holder, for the set that is fixed."""
        known = self.answers if stage == "candidate" else self.endorsed
        _, holder = self.descriptor.holder(signed.signer)
        word = signed.verify(holder)
        digest = self.candidate.statement.digest
        if stage == "final":
            assert self.settlement is not None
            digest = self.settlement.final.statement.digest
        if (word.stage, word.set_digest) != (stage, digest):
            raise ConflictError(f"the endorsement of {holder.title} is for another {stage} set")
        if known.setdefault(signed.signer, signed) != signed:
            raise ConflictError(f"another endorsement of {holder.title} is recorded")

    def take_degree_answer(self, signed: SignedDegreeAnswer) -> None:
        """One of each key-holder, over C."""
        verify_answers(self.descriptor, self.candidate.statement, [signed])
        if self.degree_answers.setdefault(signed.signer, signed) != signed:
            raise ConflictError("another degree answer of this key-holder is recorded")

    def settle(self) -> None:
        answers, degree = list(self.answers.values()), list(self.degree_answers.values())
        self.settlement = settle(self.server.signer, self.descriptor, self.candidate, answers, degree)

    def take_share(self, answer: ShareAnswer) -> None:
        """One of each key-holder, signed, for U."""
        assert self.settlement is not None
        check_share_answer(self.descriptor, self.settlement.final.statement, answer)
        if self.shares.setdefault(answer.signed.signer, answer) != answer:
            raise ConflictError("another share sum of this key-holder is recorded")

    def total(self) -> Accumulator:
        """The sum of the stored ciphertexts of U."""
        assert self.settlement is not None
        total = Accumulator(self.descriptor.parameters)
        for member in self.settlement.final.statement.members:
            total.add(self.server.stored_ciphertext(self.uploads[member.client]))
        return total

    def open(self) -> None:
        assert self.settlement is not None
        final = self.settlement.final.statement
        self.opened = open_with_shares(self.descriptor, final, list(self.shares.values()), self.total())


class Server:
    """An honest coordinator, without its disk and its network."""

    name = "an honest coordinator"
    honest = True

    def __init__(self, signer: Signer, spec: SessionSpec = SPEC) -> None:
        self.signer, self.spec = signer, spec
        self.now = NOW
        self.taken = dict[str, tuple[SealedUpload, SignedReceipt]]()
        self.closings = list[Closing]()
        self.proposal: SignedDescriptor
        self.approvals = dict[str, SignedApproval]()

    @property
    def descriptor(self) -> Descriptor:
        return self.proposal.descriptor.statement

    def roster(self, clients: Sequence[Client]) -> list[RosterMember]:
        distinct = dict.fromkeys(client.signer.identity.pem for client in clients)
        return [RosterMember(certificate=pem) for pem in distinct]

    def propose(self, clients: Sequence[Client], committee: Sequence[CommitteeMember]) -> None:
        self.proposal = self.descriptor_of(self.roster(clients), committee)

    def descriptor_of(
        self, roster: Sequence[RosterMember], committee: Sequence[CommitteeMember], plan: Plan = PLAN
    ) -> SignedDescriptor:
        return create_session(self.spec, plan, roster, committee, self.signer, self.now, os.urandom)

    def shown_to_holder(self, holder: Holder) -> SignedDescriptor:
        return self.proposal

    def shown_to_client(self, client: Client) -> SignedDescriptor:
        return SignedDescriptor(descriptor=self.proposal.descriptor, approvals=tuple(self.approvals.values()))

    def take(self, peer: str, sealed: SealedUpload) -> SignedReceipt:
        """The checks of §7.2; `tests/server/test_intake.py` has those of the server itself, and test_network.py too."""
        upload = check_upload(self.descriptor, sealed.signed, peer)
        if upload.client in self.taken:
            stored, receipt = self.taken[upload.client]
            if stored.signed != sealed.signed:
                raise ConflictError("another upload of this client is recorded")
            return receipt
        if self.now > self.descriptor.upload_deadline:
            raise ProtocolViolation("the upload deadline has passed")
        boxes = box_bytes(self.descriptor.parameters.share_bytes)
        if len(sealed.boxes) != len(self.descriptor.committee) or any(len(box) != boxes for box in sealed.boxes):
            raise MalformedError("the boxes have another number or length")
        roots = root(memoryview(block) for block in sealed.ciphertext).hex(), root(sealed.boxes).hex()
        if roots != (upload.ciphertext_root, upload.boxes_root):
            raise HashMismatch("the upload does not have the roots that the client signed")
        Accumulator(self.descriptor.parameters).add(sealed.ciphertext)
        receipt = self.receipt(sealed)
        self.taken[upload.client] = sealed, receipt
        return receipt

    def receipt(self, sealed: SealedUpload) -> SignedReceipt:
        upload = sealed.signed.statement
        return self.signer.sign(
            Receipt(ctx=upload.ctx, client=upload.client, upload_root=upload.upload_root, received_at=self.now)
        )

    def stored_ciphertext(self, upload: SealedUpload) -> NDArray[np.uint8]:
        return upload.ciphertext

    @property
    def uploads(self) -> list[SealedUpload]:
        return [upload for upload, _ in self.taken.values()]

    def close(self) -> None:
        """Fix what is to be opened."""
        self.closings = [self.closing(self.uploads)]

    def closing(self, uploads: Sequence[SealedUpload]) -> Closing:
        candidate = fix_candidate(self.signer, self.descriptor, [upload.signed for upload in uploads], self.now)
        return Closing(self, candidate, uploads)

    def asked_of(self, holder: Holder) -> list[Closing]:
        """The sets that this key-holder is asked about, in order."""
        return self.closings

    def publish(self, closing: Closing) -> dict[str, bytes]:
        return build_release(self.parts(closing), self.signer, {"secagg": "0.1.0"}, lambda _: b"<html></html>")

    def parts(self, closing: Closing) -> ReleaseParts:
        assert closing.settlement is not None
        assert closing.opened is not None
        return ReleaseParts(
            session=SignedDescriptor(descriptor=self.proposal.descriptor, approvals=tuple(self.approvals.values())),
            uploads=tuple(upload.signed for upload in closing.uploads.values()),
            candidate=closing.candidate,
            settlement=closing.settlement,
            final_endorsements=tuple(closing.endorsed.values()),
            opened=closing.opened,
            total=closing.total(),
            start=None,
            timeline=(TimelineEvent(at=self.now, party="Coordinator/server", event="released"),),
            released_at=self.now,
        )
