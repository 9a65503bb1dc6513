"""A sealed session in memory, from the offers to the release. Any party in it can be replaced by a liar.

Honest parties are the state machines of `secagg`: `seal_contribution`, `KeyHolder`, and the coordinator's functions.
What is here only carries messages between them, keeps all of them for the invariants, and notes who refused what.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from secagg.contributor import SealedUpload
from secagg.descriptor import CommitteeMember, Descriptor
from secagg.errors import OpeningError, SecaggError
from secagg.messages import SignedEndorsement, SignedReceipt
from secagg.policy import Anchors
from secagg.verify import verify_release
from tests.simulation.sealed_parties import (
    INSTITUTIONS,
    LENGTH,
    PARTIES,
    PINNED,
    POLICY,
    Client,
    Closing,
    Holder,
    Server,
)
from tests.small import DAY, NOW, changes

LATER = DAY + 1
"""Seconds after the start at which the set is fixed: the deadline has passed."""


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
    later: int = LATER
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
        self.server.now = self.now = self.now + self.later
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
        for holder, closing in self.asked():
            with self.refusing(holder.name, "degree"):
                degree = closing.degree_request(holder)
                for answer in [] if degree is None else holder.answer_degree_check(self.descriptor, degree, self.now):
                    self.say(answer)
                    with self.refusing("coordinator", "take degree"):
                        closing.take_degree_answer(answer)
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


def honest_clients(count: int = 4) -> list[Client]:
    vectors = changes(len(INSTITUTIONS), LENGTH)
    return [Client(PINNED.clients[name], vectors[name]) for name in INSTITUTIONS[:count]]


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
    later: int = LATER,
) -> SealedSession:
    """`count` clients and four key-holders (t = 3, f = 1), some of them replaced: place -> class. Has run."""
    made = honest_clients(count)
    for place, kind in (clients or {}).items():
        made[place] = kind(made[place].signer, made[place].change)
    committee = honest_holders()
    for place, lying in (holders or {}).items():
        committee[place] = lying(committee[place].signer)
    coordinator = server(PARTIES.coordinator)
    return SealedSession(made, committee, coordinator, shuffle=shuffle, repeats=repeats, later=later).run()
