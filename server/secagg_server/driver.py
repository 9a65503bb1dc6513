"""What moves a session on: approvals, deadline, sets, shares, opening, release, expiry (protocol.md §8 to §10).

`advance` is called again and again. Each step reads what is stored, decides, and records the
decision before anything follows from it; so it may be cut off anywhere and called again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from secagg.coordinator import fix_candidate, settle
from secagg.errors import OpeningError, TooFewContributions
from secagg_server.blobs import BOXES, TEMPORARY
from secagg_server.clock import Expiry, check_clock
from secagg_server.database import RUNNING, SessionState
from secagg_server.dates import time_of_set
from secagg_server.publish import choose_inputs, open_shares, release_files, write_folder
from secagg_server.session import ServedSession
from secagg_server.steps import SessionDriver
from secagg_server.storage import ReleaseInputs
from secagg_server.tasks import Waiting

WAIT_NOTICE_AFTER, WAIT_NOTICE_EVERY = 5, 60


@dataclass
class Driver(SessionDriver[ServedSession]):
    """Drives one session; called by one thread only."""

    _tried: frozenset[str] = frozenset()
    _degree_since: float | None = None
    _expiry: Expiry = field(default_factory=Expiry)
    _notice: "_WaitingNotice" = field(init=False)

    def __post_init__(self) -> None:
        self._notice = _WaitingNotice()

    def _step(self, now: int) -> bool:
        session = self.session
        check_clock(session.descriptor, now)
        state, _ = session.store.state()
        self._certain = self._expiry.is_certain(session.descriptor, now)
        if now > session.descriptor.expires_at:
            return self._end_late(state) or (self._certain and self._expire(state))
        match state:
            case SessionState.PROPOSED:
                return self._open_session(now)
            case SessionState.OPEN:
                return self._close(now)
            case SessionState.CLOSING:
                return self._settle() if session.store.settlement() is None else self._publish()
            case SessionState.RELEASED:
                # Boxes hold shares of single keys; nobody needs them any more.
                session.files.erase((BOXES, TEMPORARY))
        return False

    def _tell(self, now: int) -> None:
        self._notice.tell(self.session, now)

    def _end_late(self, state: SessionState) -> bool:
        """Write a release that is fixed, though the session has expired (protocol.md §7.4); whether it was.

        One that cannot be made is tried again until the expiry is certain; it keeps no session from expiring then.
        """
        is_fixed = state == SessionState.CLOSING and self._unless_certain(self.session.store.release_inputs) is not None
        return is_fixed and self._publish()

    def _expire(self, state: SessionState) -> bool:
        """Delete the uploads, at every look; a session that still runs ends, any other stays what it is.

        Whether anything but that is left to do.
        """
        session = self.session
        with session.lock:
            erased = session.files.erase()
            if erased:
                session.emit("erased", files=erased)
            if state not in RUNNING:
                return False
            _, reason = session.store.state()
            reason = reason or session.problem
            why = "the session expired; its uploads are deleted" + (f" ({reason})" if reason else "")
            end = SessionState.RELEASED if session.published else SessionState.EXPIRED
            self._move(end, why, "the session expired; uploads deleted")
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
        """Fix the candidate set of the next release, when it is time (protocol.md §8.1, §8.7.1)."""
        session = self.session
        with session.lock:
            last = now > session.descriptor.upload_deadline or self._nobody_is_left()
            if not (last or self._is_full()):
                return False
            number, placed, when = session.store.release + 1, session.places(), time_of_set(session, now)
            uploads = [one for one in session.store.complete_uploads() if one.statement.client not in placed]
            try:
                candidate = fix_candidate(session.host.signer, session.descriptor, uploads, when, number)
            except TooFewContributions as error:
                if last:
                    self._end_without(error, [one.statement.client for one in uploads])
                return last
            members = len(candidate.statement.members)
            which = f"release {number}" if session.descriptor.releases > 1 else "the session"
            note = session.note(session.host.signer.identity.title, f"closed {which} with {members} uploads")
            session.store.fix_candidate(candidate, note)
            self._tried, self._degree_since = frozenset(), None
            session.host.checkpoint("candidate-fixed")
            session.emit("closing", members=members, **self._which(number))
            session.announce_change()
        return True

    def _is_full(self) -> bool:
        """Whether what has come is closed now. The last of several releases takes all that still come (§8.7.1)."""
        session = self.session
        if session.descriptor.releases == 1:
            return session.close_at is not None and session.store.count_complete() >= session.close_at
        return session.store.release + 1 < session.descriptor.releases and session.waiting_uploads() >= session.target

    def _nobody_is_left(self) -> bool:
        """Whether, with several releases, all of the roster have uploaded: then nothing is waited for."""
        session = self.session
        return session.descriptor.releases > 1 and session.store.count_complete() == len(session.descriptor.roster)

    def _which(self, number: int) -> dict[str, int]:
        """The number of a release for the log, where there are several."""
        return {"release": number} if self.session.descriptor.releases > 1 else {}

    def _end_without(self, error: TooFewContributions, left: list[str]) -> None:
        """No further release: the session ends with those before, or with nothing. Who is left over is named."""
        session = self.session
        if not session.published:
            reason = f"{error}. Nothing was opened; uploads are kept until expiry, then deleted"
            self._move(SessionState.TOO_FEW, reason, "too few uploads at the deadline; nothing is opened")
            return
        titles = sorted(session.descriptor.client(client).title for client in left)
        reason = f"{session.published} of at most {session.descriptor.releases} releases were made"
        if titles:
            reason += f"; left over, in none of them: {', '.join(titles)}"
            session.emit("left-over", clients=titles)
        self._move(SessionState.RELEASED, reason, f"ended the session with {len(titles)} uploads left over")

    def _settle(self) -> bool:
        session, committee = self.session, len(self.session.descriptor.committee)
        with session.lock:
            candidate, answers = session.store.candidate(), session.store.endorsements("candidate")
            if candidate is None or len(answers) < session.descriptor.threshold:
                return False
            degree = session.store.degree_answers()
            if len(degree) < committee and not self._waited_for_degree_check():
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
                end = SessionState.RELEASED if session.published else SessionState.TOO_FEW
                self._move(end, f"{error}. Nothing more was opened", "too few members without complaint")
                return True
            members = len(settlement.final.statement.members)
            note = session.note(session.host.signer.identity.title, f"fixed the final set of {members} members")
            session.store.fix_final(settlement, note)
            session.host.checkpoint("final-fixed")
            session.emit("final", members=members, **self._which(settlement.final.statement.release))
            session.announce_change()
        return True

    def _waited_for_degree_check(self) -> bool:
        """Whether late answers have had their time, which starts anew with the process (protocol.md §8.4.6)."""
        now = self.session.host.monotonic()
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
        number = store.release
        folder = session.folder_of(number)
        written = self._unless_certain(lambda: self._write(inputs, folder))
        if written is None:
            return False
        if session.descriptor.releases == 1:
            self._move(SessionState.RELEASED, "", "wrote the release")
        else:
            self._go_on(number)
        session.emit("released", folder=str(folder), files=written, **self._which(number))
        return True

    def _write(self, inputs: ReleaseInputs, folder: Path) -> int:
        """Make a release, and write its folder; how many files."""
        files = release_files(self.session, inputs)
        self.session.host.checkpoint("release-built")
        write_folder(folder, files)
        self.session.host.checkpoint("release-written")
        return len(files)

    def _go_on(self, number: int) -> None:
        """One of several releases is written: take uploads for the next, if there is one (protocol.md §8.7.1)."""
        session = self.session
        # Boxes hold shares of single keys; those of this release are needed by nobody any more.
        for client, release in session.places().items():
            if release == number:
                session.files.erase_boxes(client)
        with session.lock:
            last = number == session.descriptor.releases
            state = SessionState.RELEASED if last else SessionState.OPEN
            title = session.host.signer.identity.title
            session.store.publish(number, state, session.note(title, f"wrote release {number}"))
            session.host.checkpoint(f"state-{state}")
            session.emit("session", state=state.value, reason=None)
            session.announce_change()

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
