"""What moves a session on: approvals, deadline, sets, shares, opening, release, expiry (protocol.md §8 to §10).

`advance` is called again and again with the clock's time. Each step reads what is stored, decides, and records the
decision before anything follows from it; so it may be cut off anywhere and called again.
"""

from dataclasses import dataclass, field

from secagg.coordinator import fix_candidate, settle
from secagg.errors import OpeningError, SecaggError, TooFewContributions
from secagg_server.blobs import BOXES
from secagg_server.publish import choose_inputs, open_shares, release_files, write_folder
from secagg_server.session import ServedSession, Waiting
from secagg_server.storage import SessionState

WAIT_NOTICE_AFTER, WAIT_NOTICE_EVERY = 5, 60
RETRY_AFTER = 5


@dataclass
class Driver:
    """Drives one session; called by one thread only."""

    session: ServedSession
    _tried: frozenset[str] = frozenset()
    _retry_at: int = 0
    _degree_since: int | None = None
    _notice: "_WaitingNotice" = field(init=False)

    def __post_init__(self) -> None:
        self._notice = _WaitingNotice()

    def advance(self, now: int) -> None:
        """Take every step that can be taken at `now` (seconds since 1970).

        A step that fails, as when the disk is full, is logged and tried again after a while.
        """
        if now < self._retry_at:
            return
        try:
            while self._step(now):
                pass
        except SecaggError as error:
            self.session.problem = str(error)
            self._retry_at = now + RETRY_AFTER
            self.session.emit("problem", code=error.code, message=str(error))
            return
        self.session.problem = ""
        self._notice.tell(self.session, now)

    def _step(self, now: int) -> bool:
        session = self.session
        state, _ = session.store.state()
        if state == SessionState.EXPIRED:
            return False
        if now > session.descriptor.expires_at and self._expire(state):
            return state != SessionState.RELEASED
        match state:
            case SessionState.PROPOSED:
                return self._open_session(now)
            case SessionState.OPEN:
                return self._close(now)
            case SessionState.CLOSING:
                return self._settle(now) if session.store.settlement() is None else self._publish()
            case SessionState.RELEASED:
                # Boxes hold shares of single keys; nobody needs them any more.
                session.files.erase((BOXES,))
        return False

    def _expire(self, state: SessionState) -> bool:
        """Delete the uploads; a session that is not released ends. False when a release is still to be written."""
        session = self.session
        if state != SessionState.RELEASED and session.store.release_inputs() is not None:
            return False
        with session.lock:
            erased = session.files.erase()
            if erased:
                session.emit("erased", files=erased)
            if state == SessionState.RELEASED:
                return True
            _, reason = session.store.state()
            why = "the session expired; its uploads are deleted" + (f" ({reason})" if reason else "")
            self._move(SessionState.EXPIRED, why, "the session expired; uploads deleted")
        return True

    def _move(self, state: SessionState, reason: str, what: str) -> None:
        session = self.session
        with session.lock:
            session.store.move(state, reason, session.note(session.host.signer.identity.title, what))
            session.host.checkpoint(f"state-{state}")
            session.emit("session", state=state.value, reason=reason or None)
            session.announce_change()

    def _open_session(self, now: int) -> bool:
        session = self.session
        approvals, needed = len(session.store.approvals()), session.descriptor.threshold
        if approvals >= needed:
            self._move(SessionState.OPEN, "", f"the session is open: {approvals} key-holders approved it")
            return True
        if now > session.descriptor.upload_deadline:
            reason = f"{approvals} of {needed} key-holders approved the session before its upload deadline"
            self._move(SessionState.TOO_FEW, reason, "not enough approvals at the deadline; nothing was sent")
            return True
        return False

    def _close(self, now: int) -> bool:
        session = self.session
        late = now > session.descriptor.upload_deadline
        with session.lock:
            full = session.close_at is not None and session.store.count_complete() >= session.close_at
            if not (late or full):
                return False
            try:
                candidate = fix_candidate(
                    session.host.signer, session.descriptor, session.store.complete_uploads(), now
                )
            except TooFewContributions as error:
                if late:
                    reason = f"{error}. Nothing was opened; uploads are kept until expiry, then deleted"
                    self._move(SessionState.TOO_FEW, reason, "too few uploads at the deadline; nothing is opened")
                return late
            members = len(candidate.statement.members)
            note = session.note(session.host.signer.identity.title, f"closed the session with {members} uploads")
            session.store.fix_candidate(candidate, note)
            session.host.checkpoint("candidate-fixed")
            session.emit("closing", members=members)
            session.announce_change()
        return True

    def _settle(self, now: int) -> bool:
        session, committee = self.session, len(self.session.descriptor.committee)
        with session.lock:
            candidate, answers = session.store.candidate(), session.store.endorsements("candidate")
            if candidate is None or len(answers) < session.descriptor.threshold:
                return False
            degree = session.store.degree_answers()
            if len(degree) < committee and not self._waited_for_degree_check(now):
                return False
            try:
                settlement = settle(
                    session.host.signer,
                    session.descriptor,
                    candidate,
                    tuple(answers.values()),
                    tuple(degree.values()),
                )
            except TooFewContributions as error:
                if len(answers) < committee:
                    return False  # another key-holder's answer can still outvote one that complains about everybody
                self._move(SessionState.TOO_FEW, f"{error}. Nothing was opened", "too few members without complaint")
                return True
            members = len(settlement.final.statement.members)
            note = session.note(session.host.signer.identity.title, f"fixed the final set of {members} members")
            session.store.fix_final(settlement, note)
            session.host.checkpoint("final-fixed")
            session.emit("final", members=members)
            session.announce_change()
        return True

    def _waited_for_degree_check(self, now: int) -> bool:
        """Whether late answers have had their time, which starts anew with the process (protocol.md §8.4.6)."""
        if self._degree_since is None:
            self._degree_since = now
        return now >= self._degree_since + self.session.host.degree_check_seconds

    def _publish(self) -> bool:
        session, store = self.session, self.session.store
        inputs = store.release_inputs()
        if inputs is None:
            shares = store.shares()
            ready = len(shares) >= session.descriptor.threshold
            if not ready or frozenset(shares) == self._tried:
                return False
            try:
                opened, _ = open_shares(session, tuple(shares.values()))
            except OpeningError as error:
                return self._burn(error, frozenset(shares))
            session.host.checkpoint("sum-opened")
            inputs = choose_inputs(session, opened)
            store.fix_release(inputs)
            session.host.checkpoint("release-fixed")
        files = release_files(session, inputs)
        session.host.checkpoint("release-built")
        write_folder(session.release_folder, files)
        session.host.checkpoint("release-written")
        self._move(SessionState.RELEASED, "", "wrote the release")
        session.emit("released", folder=str(session.release_folder), files=len(files))
        return True

    def _burn(self, error: OpeningError, tried: frozenset[str]) -> bool:
        """With every share at hand there is nothing left to try; before that, one more share may name the liar."""
        self._tried = tried
        if len(tried) < len(self.session.descriptor.committee):
            self.session.emit("problem", code=error.code, message=f"{error}; waiting for the other share sums")
            return False
        self._move(SessionState.BURNT, str(error), "the sum does not open; the session is burnt")
        return True


class _WaitingNotice:
    """Says which key-holders are missing, once they have been for a while, and again now and then."""

    def __init__(self) -> None:
        self._waiting: Waiting | None = None
        self._due = 0

    def tell(self, session: ServedSession, now: int) -> None:
        """Log `waiting` when it is due."""
        waiting = session.waiting()
        if waiting != self._waiting:
            self._waiting, self._due = waiting, now + WAIT_NOTICE_AFTER
        elif waiting is not None and now >= self._due:
            self._due = now + WAIT_NOTICE_EVERY
            session.emit("waiting", what=waiting.what, missing=list(waiting.missing))
