"""One session as the coordinator keeps it: what parties hand in, and what is asked of them (protocol.md §4, §7, §8).

Every answer is checked, recorded durably, and only then acted on. `driver` moves the session on.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secagg.certificate import TimelineEvent, names
from secagg.coordinator import check_share_answer
from secagg.degree import verify_answers
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import ConflictError, MalformedError, NotReady, ProtocolViolation, RoleViolation, SessionClosed
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.identity import Identity, Role
from secagg.merkle import leaf_hash, path
from secagg.messages import (
    SetMember,
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedEnrolment,
    SignedReceipt,
)
from secagg.releases import ReleasedSets, number_in_words, release_folder
from secagg.signing import Signed, Signer
from secagg_host.events import EventLog
from secagg_server.blobs import UploadFiles
from secagg_server.clock import check_clock
from secagg_server.database import RUNNING, SessionState
from secagg_server.storage import SessionStore
from secagg_server.tasks import CandidateTask, DegreeTask, FinalTask, ShareTask, Task, Waiting, uploads_in_words

DEGREE_CHECK_SECONDS = 60
Checkpoint = Callable[[str], None]
"""Called after each durable step with the step's name. Tests stop a process here; in service it does nothing."""


def no_checkpoint(_: str) -> None:
    """Goes on."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a session needs of its surroundings. `clock` gives seconds since 1970, UTC.

    `degree_check_seconds` is how long the answers of all key-holders are waited for (protocol.md §8.4.6). `monotonic`
    gives seconds since whenever: what is waited for is measured with it, and no jump of `clock` is time.
    """

    signer: Signer
    clock: Callable[[], int]
    events: EventLog
    checkpoint: Checkpoint = no_checkpoint
    degree_check_seconds: int = DEGREE_CHECK_SECONDS
    monotonic: Callable[[], float] = time.monotonic


class ServedSession:
    """A session with its store and files. `lock` guards every decision; `changed` tells those who wait.

    `start` is the adapter of the round before, when there is one.
    """

    def __init__(
        self,
        proposal: Signed[Descriptor],
        store: SessionStore,
        files: UploadFiles,
        release_folder: Path,
        host: Host,
        close_at: int | None,
        start: bytes | None = None,
    ) -> None:
        self.proposal, self.descriptor = proposal, proposal.statement
        self.store, self.files, self.release_folder = store, files, release_folder
        self.host, self.close_at, self.start = host, close_at, start
        self.problem = ""
        self._places: tuple[int, dict[str, int]] = (0, {})
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)

    @property
    def ctx(self) -> str:
        """The session's name."""
        return self.descriptor.ctx

    @property
    def release_names(self) -> tuple[str, ...]:
        """The files of its release, but for the certificate."""
        return names(self.descriptor)

    @property
    def published(self) -> int:
        """How many releases are written and can be fetched."""
        if self.descriptor.releases > 1:
            return self.store.published()
        return int(self.store.state()[0] == SessionState.RELEASED)

    def folder_of(self, release: int) -> Path:
        """Where a release goes: a folder of its own, if the session may have several (protocol.md §10.2a)."""
        if self.descriptor.releases == 1:
            return self.release_folder
        return self.release_folder / release_folder(release)

    def published_folder(self, release: int) -> Path:
        """The folder of a release that is written; 0 means the last one.

        Raises NotReady before it is, MalformedError for one that the session will never have.
        """
        made = self.published
        if release > self.descriptor.releases:
            raise MalformedError(f"this session has at most {self.descriptor.releases} releases, and no {release}")
        if not 1 <= (release or made) <= made:
            state, reason = self.status()
            which = f"no release {release}" if release else "no release"
            raise NotReady(f"session {self.ctx[:16]} has {which}; it is {state}{reason and f' ({reason})'}")
        return self.folder_of(release or made)

    def places(self) -> dict[str, int]:
        """In the candidate set of which release each client is, by fingerprint."""
        with self.lock:
            release = self.store.release
            if self._places[0] != release:
                self._places = (release, self.store.places())
            return self._places[1]

    def waiting_uploads(self) -> int:
        """How many complete uploads are in no candidate set yet."""
        return self.store.count_complete() - len(self.places())

    @property
    def running(self) -> bool:
        """Whether the session has not ended."""
        return self.store.state()[0] in RUNNING

    def admit(self, peer: Identity) -> None:
        """Raise RoleViolation unless `peer` belongs to this session; auditors may read what is published."""
        if peer.role == Role.CLIENT:
            self.descriptor.client(peer.fingerprint)
        elif peer.role == Role.KEYHOLDER:
            self.descriptor.holder(peer.fingerprint)
        elif peer.role == Role.COORDINATOR and peer.fingerprint != self.host.signer.identity.fingerprint:
            raise RoleViolation(f"{peer.title} is not the coordinator of session {self.ctx[:16]}")

    def note(self, party: str, what: str) -> TimelineEvent:
        """A line of the timeline, now."""
        return TimelineEvent(at=self.host.clock(), party=party, event=what)

    def emit(self, event: str, **fields: str | int | list[str] | None) -> None:
        """Log an event of this session."""
        self.host.events.emit(event, session=self.ctx, **fields)

    def announce_change(self) -> None:
        """Wake everyone who waits for this session. The caller holds the lock."""
        self.changed.notify_all()

    # What every party may ask.

    def status(self) -> tuple[SessionState, str]:
        """State and reason; while closing, what is waited for."""
        state, reason = self.store.state()
        if state in (SessionState.PROPOSED, SessionState.CLOSING):
            waiting = self.waiting()
            reason = self.problem or (waiting.reason if waiting else reason)
        if self.descriptor.releases > 1 and state in (SessionState.OPEN, SessionState.CLOSING):
            reason = self._progress_reason(state, reason)
        elif state == SessionState.OPEN:
            reason = uploads_in_words(
                self.store.count_complete(), self.close_at, self.descriptor.n_min, self.descriptor.upload_deadline
            )
        return state, reason

    def _progress_reason(self, state: SessionState, reason: str) -> str:
        """The same with which release it is about."""
        if state == SessionState.CLOSING:
            return f"{number_in_words(self.descriptor, self.store.release)}: {reason or 'being closed'}"
        which = number_in_words(self.descriptor, self.store.release + 1)
        return f"{which} takes uploads: {self.waiting_uploads()} have come, {self.target} are waited for"

    @property
    def target(self) -> int:
        """How many uploads close a release before the deadline."""
        return self.close_at or self.descriptor.n_min

    def signed_descriptor(self, *, approved: bool) -> SignedDescriptor:
        """The descriptor with its approvals. Raises NotReady when `approved` and fewer than t are there."""
        approvals = self.store.approvals()
        if approved and len(approvals) < self.descriptor.threshold:
            waiting = self.waiting()
            raise NotReady(f"the session is not approved yet: {waiting.reason if waiting else 'ask again'}")
        return SignedDescriptor(descriptor=self.proposal, approvals=tuple(approvals.values()))

    def receipt(self, client: str) -> SignedReceipt | None:
        """The client's receipt, if it has one."""
        stored = self.store.upload(client)
        return None if stored is None else stored.receipt

    def check_takes_uploads(self) -> None:
        """Raise NotReady or SessionClosed unless uploads are taken now."""
        check_clock(self.descriptor, self.host.clock())
        state, reason = self.store.state()
        if state == SessionState.PROPOSED:
            raise NotReady(f"session {self.ctx[:16]} is not approved yet; ask again")
        late = self.host.clock() > self.descriptor.upload_deadline
        taken = state == SessionState.OPEN
        taken |= state == SessionState.CLOSING and self.store.release < self.descriptor.releases
        if not taken or late:
            why = reason or ("the upload deadline has passed" if late else "its set of uploads is fixed")
            raise SessionClosed(f"session {self.ctx[:16]} takes no more uploads: {why}")

    def enrol(self, peer: Identity, signed: SignedEnrolment) -> None:
        """A client begins (protocol.md §7.3). Doing it again changes nothing."""
        enrolment = signed.verify(self.descriptor.client(peer.fingerprint))
        if (enrolment.ctx, enrolment.client) != (self.ctx, peer.fingerprint):
            raise ProtocolViolation("the enrolment is for another session or client")
        with self.lock:
            if self.store.enrolled(peer.fingerprint):
                return
            self.check_takes_uploads()
            self.store.add_enrolment(signed, self.note(peer.title, "enrolled"))
            self.emit("enrolled", client=peer.title, institution=peer.institution)

    # What key-holders hand in.

    def approve(self, peer: Identity, signed: SignedApproval) -> None:
        """A key-holder accepts the descriptor (protocol.md §4.3). Doing it again changes nothing."""
        _, holder = self.descriptor.holder(peer.fingerprint)
        approval = signed.verify(holder)
        if (approval.ctx, approval.holder) != (self.ctx, peer.fingerprint):
            raise ProtocolViolation("the approval is for another session or key-holder")
        with self.lock:
            known = self.store.approvals()
            if peer.fingerprint in known:
                return
            self._check_alive(SessionState.PROPOSED, SessionState.OPEN)
            self.store.add_approval(signed, self.note(peer.title, "approved the session"))
            self.host.checkpoint("approval-stored")
            self.emit("approved", holder=peer.title, count=len(known) + 1, needed=self.descriptor.threshold)
            self.announce_change()

    def endorse(self, peer: Identity, signed: SignedEndorsement) -> None:
        """A key-holder endorses a set (protocol.md §8.2, §8.3). The same again changes nothing."""
        _, holder = self.descriptor.holder(peer.fingerprint)
        endorsement = signed.verify(holder)
        stage = endorsement.stage
        with self.lock:
            if self._is_over(endorsement.ctx, endorsement.release):
                return
            members, digest = self._set(stage)
            if (endorsement.ctx, endorsement.holder) != (self.ctx, peer.fingerprint):
                raise ProtocolViolation("the endorsement is for another session or key-holder")
            if endorsement.set_digest != digest or endorsement.release != self.store.release:
                raise ConflictError(f"the endorsement is for another {stage} set than the one that is fixed")
            if not {complaint.client for complaint in endorsement.complaints} <= {m.client for m in members}:
                raise ProtocolViolation("a complaint names a client that is not in the set")
            known = self.store.endorsements(stage)
            if peer.fingerprint in known:
                self._check_same(known[peer.fingerprint].to_bytes(), signed.to_bytes(), "endorsement")
                return
            self._check_alive(SessionState.CLOSING)
            self.store.add_endorsement(signed, self.note(peer.title, f"endorsed the {stage} set"))
            self.host.checkpoint(f"{stage}-endorsed")
            self.emit(
                "endorsed",
                holder=peer.title,
                stage=stage,
                count=len(known) + 1,
                needed=self.descriptor.threshold,
                complaints=[self.descriptor.client(c.client).title for c in endorsement.complaints],
            )
            self.announce_change()

    def submit_degree_answer(self, peer: Identity, signed: SignedDegreeAnswer) -> None:
        """A key-holder's answer to the degree check (protocol.md §8.4.2). The same again changes nothing."""
        if signed.signer != peer.fingerprint:
            raise ProtocolViolation("the degree answer is signed by another key-holder")
        with self.lock:
            if self._is_over(signed.statement.ctx, signed.statement.release):
                return
            candidate = self.store.candidate()
            if candidate is None:
                raise NotReady("the candidate set is not fixed yet")
            verify_answers(self.descriptor, candidate.statement, (signed,))
            known = self.store.degree_answers()
            if peer.fingerprint in known:
                self._check_same(known[peer.fingerprint].to_bytes(), signed.to_bytes(), "degree answer")
                return
            self._check_alive(SessionState.CLOSING)
            if len(self.store.endorsements("candidate")) < self.descriptor.threshold:
                raise ProtocolViolation("the candidate set is not endorsed yet; no degree answer should exist")
            self.store.add_degree_answer(signed, self.note(peer.title, "answered the degree check"))
            self.host.checkpoint("degree-answered")
            self.emit("degree", holder=peer.title, count=len(known) + 1, needed=self.descriptor.threshold + 1)
            self.announce_change()

    def submit_share(self, peer: Identity, answer: ShareAnswer) -> None:
        """A key-holder's share sum over U (protocol.md §8.5). The same again changes nothing."""
        with self.lock:
            if self._is_over(answer.signed.statement.ctx, answer.signed.statement.release):
                return
            settlement = self.store.settlement()
            if settlement is None:
                raise NotReady("the final set is not fixed yet")
            if answer.signed.signer != peer.fingerprint:
                raise ProtocolViolation("the share sum is signed by another key-holder")
            check_share_answer(self.descriptor, settlement.final.statement, answer)
            known = self.store.shares()
            if peer.fingerprint in known:
                self._check_same(known[peer.fingerprint].share, answer.share, "share sum")
                return
            self._check_alive(SessionState.CLOSING)
            if len(self.store.endorsements("final")) < self.descriptor.threshold:
                raise ProtocolViolation("the final set is not endorsed yet; no share sum should exist")
            self.store.add_share(answer, self.note(peer.title, "gave its share sum"))
            self.host.checkpoint("share-stored")
            self.emit("share", holder=peer.title, count=len(known) + 1, needed=self.descriptor.threshold)
            self.announce_change()

    def _is_over(self, ctx: str, release: int) -> bool:
        """Whether an answer is for a release that was written without it: nobody needs it, and nobody is to blame."""
        return self.descriptor.releases > 1 and ctx == self.ctx and release <= self.published

    @staticmethod
    def _check_same(known: bytes, given: bytes, what: str) -> None:
        if known != given:
            raise ConflictError(f"another {what} of this key-holder is recorded; only one is ever taken")

    def _check_alive(self, *states: SessionState) -> None:
        check_clock(self.descriptor, self.host.clock())
        state, reason = self.store.state()
        if state not in states:
            raise SessionClosed(f"session {self.ctx[:16]} is {state}: {reason or 'nothing more is taken'}")

    # What is asked of key-holders.

    def _set(self, stage: str) -> tuple[tuple[SetMember, ...], str]:
        """Members and digest of the set of a stage. Raises NotReady."""
        if stage == "candidate":
            candidate = self.store.candidate()
            if candidate is not None:
                return candidate.statement.members, candidate.statement.digest
        elif stage == "final":
            settlement = self.store.settlement()
            if settlement is not None:
                return settlement.final.statement.members, settlement.final.statement.digest
        else:
            raise MalformedError("the stage must be candidate or final")
        raise NotReady(f"the {stage} set is not fixed yet")

    def task_for(self, holder: str) -> Task | None:
        """What this key-holder is to do now, or None."""
        candidate = self.store.candidate()
        state, _ = self.store.state()
        if state != SessionState.CLOSING or candidate is None or self.store.release_inputs() is not None:
            return None
        settlement = self.store.settlement()
        if settlement is None:
            return self._task_over_candidate(holder, candidate)
        given = self.store.endorsements("final")
        if holder not in given:
            return FinalTask(candidate, settlement, tuple(given.values()))
        if len(given) < self.descriptor.threshold or holder in self.store.shares():
            return None
        return ShareTask(settlement.final, tuple(given.values()))

    def _earlier(self, release: int) -> tuple[ReleasedSets, ...]:
        """The sets of all releases before `release` (protocol.md §8.7.2)."""
        found = [self.store.released_sets(number) for number in range(1, release)]
        return tuple(sets for sets in found if sets is not None)

    def _task_over_candidate(self, holder: str, candidate: SignedCandidate) -> CandidateTask | DegreeTask | None:
        given = self.store.endorsements("candidate")
        if holder not in given:
            return CandidateTask(candidate, tuple(given.values()), self._earlier(candidate.statement.release))
        if len(given) < self.descriptor.threshold or holder in self.store.degree_answers():
            return None
        return DegreeTask(candidate, tuple(given.values()))

    def await_task(self, holder: str, seconds: float) -> Task | None:
        """The key-holder's task, as soon as there is one; None when the session ends or the time is up."""
        task: Task | None = None

        def ready() -> bool:
            nonlocal task
            task = self.task_for(holder)
            return task is not None or self.store.state()[0] not in RUNNING

        with self.changed:
            self.changed.wait_for(ready, seconds)
        return task

    def evidence(self, holder: str, stage: str, release: int = 0) -> Iterator[MemberEvidence]:
        """For every member of the set, what the key-holder checks itself (protocol.md §8.1).

        Raises SessionClosed when `release`, if not 0, is no longer the one that is being closed.
        """
        index, _ = self.descriptor.holder(holder)
        if release not in (0, self.store.release):
            raise SessionClosed(f"release {release} of session {self.ctx[:16]} is not being closed now")
        members, _ = self._set(stage)
        self._check_alive(SessionState.CLOSING)
        for member in members:
            stored = self.store.upload(member.client)
            if stored is None:
                raise NotReady(f"the upload of {member.client[:16]} is not here any more")
            boxes = self.files.boxes(member.client, len(self.descriptor.committee))
            leaves = [leaf_hash(box) for box in boxes]
            yield MemberEvidence(stored.signed, boxes[index - 1], path(leaves, index - 1))

    def waiting(self) -> Waiting | None:
        """What the session waits for, if it waits for key-holders."""
        state, _ = self.store.state()
        if state == SessionState.PROPOSED:
            return self._missing("approvals of the session", set(self.store.approvals()))
        if state != SessionState.CLOSING:
            return None
        if self.store.settlement() is None:
            endorsed = set(self.store.endorsements("candidate"))
            if len(endorsed) < self.descriptor.threshold:
                return self._missing("endorsements of the candidate set", endorsed)
            return self._missing("answers to the degree check", set(self.store.degree_answers()), over=1)
        endorsed = set(self.store.endorsements("final"))
        if len(endorsed) < self.descriptor.threshold:
            return self._missing("endorsements of the final set", endorsed)
        return self._missing("share sums", set(self.store.shares()))

    def _missing(self, what: str, given: set[str], over: int = 0) -> Waiting | None:
        missing = tuple(h.title for h in self.descriptor.holders if h.fingerprint not in given)
        return Waiting(what, len(given), self.descriptor.threshold + over, missing) if missing else None
