"""A sealed session in memory, from the offers to the release. Any party in it can be replaced by a liar.

Honest parties are the state machines of `secagg`: `seal_contribution`, `KeyHolder`, and the coordinator's functions.
What is here only carries messages between them, keeps all of them for the invariants, and notes who refused what.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.errors import ConflictError, HashMismatch, MalformedError, OpeningError, ProtocolViolation, SecaggError
from secagg.evidence import MemberEvidence, ShareAnswer, box_bytes
from secagg.keyholder import KeyHolder, check_offers
from secagg.merkle import root
from secagg.messages import Receipt, SignedApproval, SignedCandidate, SignedEndorsement, SignedFinalSet, SignedReceipt
from secagg.policy import Anchors, Policy, check_authority
from secagg.privacy import stated
from secagg.release import ReleaseParts, build_release
from secagg.run import MemoryJournal, MemoryKeys, Parties, certify, evidence, policy_for
from secagg.sealing import fresh_key
from secagg.sets import check_upload
from secagg.signing import Signer
from secagg.verify import verify_release
from tests.small import DAY, NOW, changes, small_plan

LENGTH = 300
N_MIN = 3
PLAN = small_plan(LENGTH)
PARTIES = certify([f"Hospital {i}" for i in range(1, 6)], 4, NOW)
STRANGERS = certify([f"Invented {i}" for i in range(1, 6)], 4, NOW)
POLICY = policy_for(PARTIES, PLAN, N_MIN, 1)
SPEC = SessionSpec(n_min=N_MIN, n_max=10, bits=16, upload_seconds=DAY, expiry_seconds=2 * DAY)
LATER = DAY + 1
"""Seconds after the start at which the set is fixed: the deadline has passed."""


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

    def __init__(self, signer: Signer, change: NDArray[np.float32]) -> None:
        self.signer, self.change = signer, change
        self.random = Recorder()
        self.sent: NDArray[np.uint32] | None = None

    @property
    def fingerprint(self) -> str:
        return self.signer.identity.fingerprint

    def check(self, session: SignedDescriptor, now: int) -> Descriptor:
        """What must hold before anything is trained (protocol.md §4.3, §4.4)."""
        descriptor = session.check(approved=True)
        check_authority(descriptor, PARTIES.authority, now)
        POLICY.check(descriptor)
        check_offers(descriptor)
        descriptor.client(self.fingerprint)
        return descriptor

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
        """The seeds it drew, its change, its short key and every share of it."""
        if len(self.random.drawn) < 4:
            return
        yield from self.random.drawn
        key = fresh_key(lambda _: self.random.drawn[1])
        yield self.change.tobytes()
        yield key.coefficients.tobytes()
        yield key.coefficients.astype(np.int64).tobytes()
        shares = shamir.share_key(key, descriptor.threshold, len(descriptor.committee), lambda _: self.random.drawn[3])
        yield from (share.packed for share in shares)


@dataclass(frozen=True)
class CandidateRequest:
    """Endorse this candidate set."""

    candidate: SignedCandidate
    shown: Sequence[MemberEvidence]
    peers: tuple[SignedEndorsement, ...]


@dataclass(frozen=True)
class FinalRequest:
    """Endorse this final set."""

    candidate: SignedCandidate
    final: SignedFinalSet
    answers: tuple[SignedEndorsement, ...]
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

    def endorse_final(self, descriptor: Descriptor, ask: FinalRequest, now: int) -> list[SignedEndorsement]:
        return [self.machine.endorse_final(descriptor, ask.candidate, ask.final, ask.answers, ask.peers, now)]

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

    def final_request(self, holder: Holder) -> FinalRequest | None:
        if self.settlement is None:
            return None
        final, answers = self.settlement.final, self.settlement.answers
        return FinalRequest(self.candidate, final, answers, tuple(self.endorsed.values()))

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

    def settle(self) -> None:
        signer, answers = self.server.signer, list(self.answers.values())
        self.settlement = settle(signer, self.descriptor, self.candidate, answers)

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
        return [RosterMember(certificate=client.signer.identity.pem) for client in clients]

    def propose(self, clients: Sequence[Client], committee: Sequence[CommitteeMember]) -> None:
        roster = self.roster(clients)
        self.proposal = create_session(self.spec, PLAN, roster, committee, self.signer, self.now, os.urandom)

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


@dataclass(frozen=True)
class Refusal:
    """An honest party refused what it was shown."""

    party: str
    step: str
    error: SecaggError


@dataclass(frozen=True)
class Released:
    """Whoever verifies the release with the stored uploads at hand takes it."""

    closing: Closing
    files: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class Burnt:
    """No t share sums leave a small sum(e)."""

    error: OpeningError


@dataclass(frozen=True)
class Unopened:
    """Fewer than t share sums exist for any set."""


@dataclass(frozen=True)
class Caught:
    """A sum was opened, and the published release does not verify."""

    closing: Closing
    error: SecaggError


Outcome = Released | Burnt | Unopened | Caught
Shuffle = Callable[[list[int]], list[int]]


def in_order(places: list[int]) -> list[int]:
    return places


@dataclass
class SealedSession:
    """Runs once; after `run`, everything that was said is in `wire`, every refusal in `refusals`."""

    clients: list[Client]
    holders: list[Holder]
    server: Server
    shuffle: Shuffle = in_order
    repeats: int = 1
    now: int = NOW
    wire: list[object] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    receipts: dict[str, list[SignedReceipt]] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Unopened)

    @property
    def descriptor(self) -> Descriptor:
        return self.server.descriptor

    @contextmanager
    def refusing(self, party: str, step: str) -> Iterator[None]:
        try:
            yield
        except SecaggError as error:
            self.refusals.append(Refusal(party, step, error))

    def refused(self, step: str) -> list[SecaggError]:
        return [refusal.error for refusal in self.refusals if refusal.step == step]

    def say(self, *messages: object) -> None:
        self.wire.extend(messages)

    def places(self, parties: Sequence[object]) -> list[int]:
        """Each party so many times, in whatever order the session has."""
        return self.shuffle([place for place in range(len(parties)) for _ in range(self.repeats)])

    def run(self) -> "SealedSession":
        """The whole session. No party's refusal stops the others."""
        self.agree()
        self.upload()
        self.server.now = self.now = self.now + LATER
        with self.refusing("coordinator", "close"):
            self.server.close()
        self.endorse()
        self.share()
        self.open()
        return self

    def agree(self) -> None:
        members = [
            CommitteeMember(
                certificate=holder.signer.identity.pem, offer=holder.machine.offer(self.now, 4 * DAY, os.urandom)
            )
            for holder in self.holders
        ]
        self.server.propose(self.clients, members)
        self.say(self.server.proposal)
        for place in self.places(self.holders):
            holder = self.holders[place]
            with self.refusing(holder.name, "approve"):
                for approval in holder.approve(self.server.shown_to_holder(holder), self.now):
                    self.say(approval)
                    self.server.approvals[approval.signer] = approval

    def upload(self) -> None:
        for place in self.shuffle(list(range(len(self.clients)))):
            client = self.clients[place]
            with self.refusing(client.name, "join"):
                for sealed in client.contribute(self.server.shown_to_client(client), self.now):
                    for _ in range(self.repeats):
                        self.send(client, sealed)

    def send(self, client: Client, sealed: SealedUpload) -> None:
        self.say(sealed)
        with self.refusing("coordinator", "upload"):
            receipt = self.server.take(client.fingerprint, sealed)
            self.say(receipt)
            self.receipts.setdefault(client.fingerprint, []).append(receipt)

    def endorse(self) -> None:
        for holder, closing in self.asked():
            with self.refusing(holder.name, "candidate"):
                request = closing.candidate_request(holder)
                self.hand_in(closing, "candidate", holder.endorse_candidate(self.descriptor, request, self.now))
        for closing in self.server.closings:
            with self.refusing("coordinator", "settle"):
                closing.settle()
                self.say(closing.settlement)
        for holder, closing in self.asked():
            with self.refusing(holder.name, "final"):
                asked = closing.final_request(holder)
                if asked is not None:
                    self.hand_in(closing, "final", holder.endorse_final(self.descriptor, asked, self.now))

    def asked(self) -> Iterator[tuple[Holder, Closing]]:
        for place in self.places(self.holders):
            for closing in self.server.asked_of(self.holders[place]):
                yield self.holders[place], closing

    def hand_in(self, closing: Closing, stage: str, answers: list[SignedEndorsement]) -> None:
        for signed in answers:
            self.say(signed)
            with self.refusing("coordinator", f"take {stage}"):
                closing.take_endorsement(signed, stage)

    def share(self) -> None:
        for holder, closing in self.asked():
            with self.refusing(holder.name, "share"):
                request = closing.share_request(holder)
                for answer in [] if request is None else holder.sum_shares(self.descriptor, request, self.now):
                    self.say(answer)
                    with self.refusing("coordinator", "take share"):
                        closing.take_share(answer)

    def open(self) -> None:
        for closing in self.server.closings:
            if len(closing.shares) >= self.descriptor.threshold:
                self.outcome = self.opening(closing)
                return

    def opening(self, closing: Closing) -> Outcome:
        try:
            closing.open()
        except OpeningError as error:
            return Burnt(error)
        files = self.server.publish(closing)
        self.say(*files.values())
        try:
            verify_release(files, anchors(), self.stored)
        except SecaggError as error:
            return Caught(closing, error)
        return Released(closing, files)

    def stored(self, client: str, size: int) -> Iterator[bytes]:
        """The upload as the client sent it."""
        raw = self.server.taken[client][0].ciphertext.tobytes()
        return (raw[start : start + size] for start in range(0, len(raw), size))

    def signer_of(self, fingerprint: str) -> Client:
        return next(client for client in self.clients if client.fingerprint == fingerprint)


def anchors() -> Anchors:
    """What an auditor pins."""
    names = set(Anchors.model_fields)
    return Anchors(**{name: value for name, value in POLICY if name in names})


def policy() -> Policy:
    """What every honest party pins."""
    return POLICY


def honest_clients(count: int = 4, parties: Parties = PARTIES) -> list[Client]:
    vectors = changes(5, LENGTH)
    return [Client(signer, vectors[name]) for name, signer in parties.clients.items() if name in vectors][:count]


def honest_holders() -> list[Holder]:
    return [Holder(signer) for signer in PARTIES.holders]


def session(
    *,
    clients: dict[int, type[Client]] | None = None,
    holders: dict[int, type[Holder]] | None = None,
    server: type[Server] = Server,
    count: int = 4,
    shuffle: Shuffle = in_order,
    repeats: int = 1,
) -> SealedSession:
    """`count` clients and four key-holders (t = 3, f = 1), some of them replaced: place -> class. Has run."""
    made = honest_clients(count)
    for place, kind in (clients or {}).items():
        made[place] = kind(made[place].signer, made[place].change)
    committee = honest_holders()
    for place, lying in (holders or {}).items():
        committee[place] = lying(committee[place].signer)
    return SealedSession(made, committee, server(PARTIES.coordinator), shuffle=shuffle, repeats=repeats).run()
