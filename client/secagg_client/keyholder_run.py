"""A key-holder's process: approve, endorse, sum shares, forget (protocol.md §4, §8).

All decisions are those of `secagg.keyholder.KeyHolder`, which records before it answers. So this loop holds no state
of its own: killed at any step and started again, it asks what is to be done and gives the same answers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import (
    ConfigError,
    ProtocolViolation,
    SessionClosed,
)
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.identity import Role, check_issued_by
from secagg.keyholder import KeyHolder
from secagg.messages import SignedApproval, SignedDegreeAnswer, SignedEndorsement, SignedOffer
from secagg.policy import Policy
from secagg.randomness import Randomness
from secagg_client.calls import CandidateTask, DegreeTask, FinalTask, SessionState, ShareTask, Task, Work, ending
from secagg_client.expired_keys import erase_expired, seconds_of
from secagg_client.keyholder_config import KeyHolderConfig
from secagg_client.patience import Patience
from secagg_host.config import load_toml
from secagg_host.durable import DurableJournal, FileKeyStore, guard, make_folder, write_atomic
from secagg_host.identity import load_identity

WAIT_MILLISECONDS = 10_000
PAUSE = 0.5


class Committee(Protocol):
    """The coordinator as a key-holder sees it: `secagg_client.calls.CommitteeCalls`."""

    def proposal(self, ctx: str | None) -> SignedDescriptor:
        """The session."""

    def approve(self, approval: SignedApproval) -> None:
        """Hand in the approval."""

    def work(self, ctx: str, wait_milliseconds: int) -> Work:
        """What is to be done."""

    def evidence(self, ctx: str, stage: str, release: int = 0) -> Iterator[MemberEvidence]:
        """What is shown for every member of a set of a release."""

    def endorse(self, endorsement: SignedEndorsement) -> None:
        """Hand in an endorsement."""

    def submit_degree_answer(self, answer: SignedDegreeAnswer) -> None:
        """Hand in the answer to the degree check."""

    def submit_share(self, answer: ShareAnswer) -> None:
        """Hand in the share sum."""


class Shelf:
    """A key-holder's folder: journal, session keys, and what it offered and approved, so that all keys get erased."""

    def __init__(self, folder: Path) -> None:
        self._offers = make_folder(folder / "offers")
        self._approved = make_folder(folder / "approved")
        self.journal = DurableJournal(folder / "journal.db")
        self.keys = FileKeyStore(folder / "keys")

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def keep_offer(self, offer: SignedOffer) -> None:
        """Remember an offer until it expires."""
        write_atomic(self._offers / f"{offer.statement.digest}.json", offer.to_bytes())

    def keep_approved(self, descriptor: Descriptor, offer_digest: str) -> None:
        """Remember when the key of an approved session must go."""
        write_atomic(self._approved / f"{offer_digest}.txt", str(descriptor.expires_at).encode())

    def sweep(self, now: int) -> int:
        """Erase the keys of expired offers and of expired sessions; how many.

        Raises MalformedError that names every file that is damaged, when all the others are swept.
        """
        with guard(self._offers):
            offers = [(path, _offer_expiry) for path in sorted(self._offers.glob("*.json"))]
            approved = [(path, seconds_of) for path in sorted(self._approved.glob("*.txt"))]
        return erase_expired([*offers, *approved], self.keys.erase, now)


def _offer_expiry(raw: bytes) -> int:
    return SignedOffer.parse(raw).statement.expires_at


def load_holder(config: KeyHolderConfig, shelf: Shelf, now: int) -> KeyHolder:
    """The key-holder of a configuration. Raises ConfigError or CertificateInvalid."""
    party = load_identity(config.identity)
    if party.identity.role is not Role.KEYHOLDER:
        raise ConfigError(f"{config.identity}: holds the identity of a {party.identity.role}, not of a key-holder")
    check_issued_by(party.identity, party.authority, now)
    policy = load_toml(config.policy, Policy)
    return KeyHolder(party.signer, policy, party.authority, shelf.journal, shelf.keys)


def make_offer(holder: KeyHolder, shelf: Shelf, now: int, lifetime: int, random: Randomness) -> SignedOffer:
    """A fresh session key and its signed offer, remembered until it expires (protocol.md §4.1)."""
    offer = holder.offer(now, lifetime, random)
    shelf.keep_offer(offer)
    return offer


@dataclass(frozen=True, slots=True)
class KeyHolderRun:
    """Serves one session to its end."""

    holder: KeyHolder
    shelf: Shelf
    committee: Committee
    patience: Patience

    def run(self, ctx: str | None = None) -> None:
        """Returns when the session was released. Raises the SecaggError that ended it otherwise.

        A refusal (PolicyViolation, ProtocolViolation, ConflictError, VerificationError) keeps the key: nothing was
        answered, and the owner decides what to do.
        """
        self.shelf.sweep(self.patience.now)
        signed = self.patience.ask(lambda: self.committee.proposal(ctx))
        descriptor = signed.check(approved=False)
        if ctx is not None and descriptor.ctx != ctx:
            raise ProtocolViolation(f"asked for session {ctx[:16]}, the coordinator showed {descriptor.ctx[:16]}")
        if self.shelf.journal.get(_ended(descriptor)) is None:
            self._serve(signed, descriptor)
        self._finish(descriptor)

    def _serve(self, signed: SignedDescriptor, descriptor: Descriptor) -> None:
        log, now = self.patience.log, self.patience.now
        log.emit("session", session=descriptor.ctx, coordinator=descriptor.coordinator_identity.title)
        approval = self.holder.approve(signed, now)
        index, _ = descriptor.holder(self.holder.signer.identity.fingerprint)
        self.shelf.keep_approved(descriptor, descriptor.committee[index - 1].offer.statement.digest)
        with self._until_expiry(descriptor):
            try:
                self.patience.ask(lambda: self.committee.approve(approval), until=descriptor.expires_at)
                log.emit("approved", session=descriptor.ctx, index=index)
            except SessionClosed:  # too late: learn how it ended, so that the key goes now and not at expiry
                if not self._look(descriptor).state.ended:
                    raise
            self._work(descriptor)

    def _work(self, descriptor: Descriptor) -> None:
        """Do what is asked until the session has ended."""
        done: object = None
        while True:
            started = self.patience.clock()
            work = self.patience.ask(
                lambda: self.committee.work(descriptor.ctx, WAIT_MILLISECONDS), until=descriptor.expires_at
            )
            if work.state.ended:
                self.shelf.journal.record(_ended(descriptor), f"{work.state}\n{work.reason}".encode())
                return
            if work.task is not None and work.task != done:
                self._do(descriptor, work.task)
                done = work.task
            elif self.patience.clock() - started < PAUSE:
                self.patience.sleep(PAUSE)

    def _do(self, descriptor: Descriptor, task: Task) -> None:
        """Answer what is asked. A release that was closed meanwhile needs no answer; then another thing is asked."""
        try:
            self.patience.ask(partial(self._answer, descriptor, task), until=descriptor.expires_at)
        except SessionClosed:
            if self.patience.clock() > descriptor.expires_at or self._look(descriptor).task == task:
                raise

    def _look(self, descriptor: Descriptor) -> Work:
        """Where the session is now, without waiting for more."""
        return self.patience.ask(lambda: self.committee.work(descriptor.ctx, 0), until=descriptor.expires_at)

    def _answer(self, descriptor: Descriptor, task: Task) -> None:
        now = self.patience.now
        match task:
            case CandidateTask(candidate, peers, earlier):
                evidence = self.committee.evidence(descriptor.ctx, "candidate", candidate.statement.release)
                answer = self.holder.endorse_candidate(descriptor, candidate, evidence, peers, now, earlier)
                self._endorse(answer, len(candidate.statement.members))
            case DegreeTask(candidate, endorsements):
                evidence = self.committee.evidence(descriptor.ctx, "candidate", candidate.statement.release)
                given = self.holder.answer_degree_check(descriptor, candidate, endorsements, evidence, now)
                self.committee.submit_degree_answer(given)
                self.patience.log.emit("degree", members=len(candidate.statement.members))
            case FinalTask(candidate, final, answers, degree, peers):
                answer = self.holder.endorse_final(descriptor, candidate, final, answers, degree, peers, now)
                self._endorse(answer, len(final.statement.members))
            case ShareTask(final, endorsements):
                number = final.statement.release
                evidence = self.committee.evidence(descriptor.ctx, "final", number)
                shares = self.holder.sum_shares(descriptor, final, endorsements, evidence, now)
                self.committee.submit_share(shares)
                members = len(final.statement.members)
                self.patience.log.emit("shared", release=number, members=members, bytes=len(shares.share))

    def _endorse(self, answer: SignedEndorsement, members: int) -> None:
        self.committee.endorse(answer)
        statement = answer.statement
        complaints = [f"{complaint.client}: {complaint.reason}" for complaint in statement.complaints]
        self.patience.log.emit(
            "endorsed", release=statement.release, stage=statement.stage, members=members, complaints=complaints
        )

    @contextmanager
    def _until_expiry(self, descriptor: Descriptor) -> Iterator[None]:
        """Erase the key when the session's time is over, whatever the coordinator says."""
        try:
            yield
        except SessionClosed:
            if self.patience.clock() > descriptor.expires_at:
                self.shelf.journal.record(_ended(descriptor), f"{SessionState.EXPIRED}\nby this clock".encode())
                self.holder.erase(descriptor)
                self.patience.log.emit("erased", session=descriptor.ctx)
            raise

    def _finish(self, descriptor: Descriptor) -> None:
        """Erase the key and say how it ended."""
        recorded = self.shelf.journal.get(_ended(descriptor)) or b""
        state, _, reason = recorded.decode().partition("\n")
        self.holder.erase(descriptor)
        self.patience.log.emit("erased", session=descriptor.ctx)
        if state != SessionState.RELEASED:
            raise ending(SessionState(state), reason)
        self.patience.log.emit("released", session=descriptor.ctx)


def _ended(descriptor: Descriptor) -> str:
    return f"ended/{descriptor.ctx}"


def load_config(path: Path) -> KeyHolderConfig:
    """Read `keyholder.toml`. Raises ConfigError."""
    return load_toml(path, KeyHolderConfig)
