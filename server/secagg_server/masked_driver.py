"""What moves a masked session on: who is there, deadlines, opening, release, expiry (protocol.md §12.3 to §12.9).

Called again and again with the clock's time, as `driver.Driver` is. A round is closed as soon as everybody whom it
waits for has answered, or when its time is up: whoever is silent then has vanished.
"""

from dataclasses import dataclass, field

from secagg.errors import OpeningError, SecaggError, TooFewContributions
from secagg.masked.closing import UnmaskRound
from secagg.masked.release import MaskedParts, build_masked_release
from secagg_server import masked_report
from secagg_server.clock import Expiry, check_clock
from secagg_server.driver import RETRY_AFTER, WAIT_NOTICE_AFTER, WAIT_NOTICE_EVERY
from secagg_server.masked_session import MaskedSession, deadline
from secagg_server.masked_storage import MaskedInputs
from secagg_server.publish import software_versions, write_folder
from secagg_server.storage import SessionState


@dataclass
class MaskedDriver:
    """Drives one masked session; called by one thread only."""

    session: MaskedSession
    _retry_at: int = 0
    _expiry: Expiry = field(default_factory=Expiry)
    _told: str = ""
    _due: int = 0

    def advance(self, now: int) -> None:
        """Take every step that can be taken at `now` (seconds since 1970).

        A step that fails, as when the disk is full, is logged and tried again after a while.
        """
        if self._retry_at - RETRY_AFTER <= now < self._retry_at:
            return  # a clock that was set back does not wait for what it said before
        try:
            while self._step(now):
                pass
        except SecaggError as error:
            self.session.problem = str(error)
            self._retry_at = now + RETRY_AFTER
            self.session.emit("problem", code=error.code, message=str(error))
            return
        self.session.problem = ""
        self._tell(now)

    def _step(self, now: int) -> bool:
        session = self.session
        check_clock(session.descriptor, now)
        state, _ = session.store.state()
        certain = self._expiry.is_certain(session.descriptor, now)
        if state == SessionState.EXPIRED:
            return False
        if now > session.descriptor.expires_at and not self._must_publish():
            return certain and self._expire(state)
        if not session.running:
            return False
        with session.lock:
            session.settle()
            if session.store.release_inputs() is not None:
                return self._publish()
            if isinstance(session.stage, UnmaskRound):
                return self._open(session.stage, now)
            return self._close(now)

    def _close(self, now: int) -> bool:
        session, step = self.session, self.session.step
        late = now > deadline(session.descriptor, step, session.store.closed_at)
        if session.missing() and not late:
            return False
        try:
            session.close_round(now)
        except TooFewContributions as error:
            self._end(SessionState.TOO_FEW, f"{error}. Nothing was opened", "too few clients; nothing is opened")
        return True

    def _open(self, stage: UnmaskRound, now: int) -> bool:
        session = self.session
        if stage.missing:
            answered = not session.missing()
            if not answered and now <= deadline(session.descriptor, "unmask", session.store.closed_at):
                return False
            reason = (
                f"{len(stage.taken)} clients gave their shares; too few are there of {len(stage.missing)} members. "
                "Nothing was opened"
            )
            return self._end(SessionState.TOO_FEW, reason, "too few shares; nothing is opened")
        try:
            stage.open()
        except OpeningError as error:
            return self._end(SessionState.BURNT, str(error), "the sum does not open; the session is burnt")
        session.host.checkpoint("sum-opened")
        note = session.note(session.host.signer.identity.title, "opened the sum and released the adapter")
        inputs = MaskedInputs(
            timeline=(*session.store.timeline(), note.model_copy(update={"at": now})),
            software=software_versions(),
            released_at=now,
        )
        session.store.fix_release(inputs)
        session.host.checkpoint("release-fixed")
        return True

    def _publish(self) -> bool:
        session, stage, inputs = self.session, self.session.stage, self.session.store.release_inputs()
        if inputs is None or not isinstance(stage, UnmaskRound):
            return False
        parts = MaskedParts.of(session.signed, stage, inputs.timeline, inputs.released_at)
        files = build_masked_release(parts, session.host.signer, inputs.software, masked_report.render)
        session.host.checkpoint("release-built")
        write_folder(session.release_folder, files)
        session.host.checkpoint("release-written")
        self._end(SessionState.RELEASED, "", "wrote the release")
        session.emit("released", folder=str(session.release_folder), files=len(files))
        return True

    def _must_publish(self) -> bool:
        """Whether a release is fixed and still to be written."""
        return self.session.running and self.session.store.release_inputs() is not None

    def _expire(self, state: SessionState) -> bool:
        """Delete the uploads; a session that is not released ends. Whether anything but that is left to do."""
        session = self.session
        with session.lock:
            erased = session.files.erase()
            if erased:
                session.emit("erased", files=erased)
            if state != SessionState.RELEASED:
                _, reason = session.store.state()
                why = "the session expired; its uploads are deleted" + (f" ({reason})" if reason else "")
                self._end(SessionState.EXPIRED, why, "the session expired; uploads deleted")
        return state != SessionState.RELEASED

    def _end(self, state: SessionState, reason: str, what: str) -> bool:
        session = self.session
        session.store.move(state, reason, session.note(session.host.signer.identity.title, what))
        session.host.checkpoint(f"state-{state}")
        session.emit("session", state=state.value, reason=reason or None)
        return True

    def _tell(self, now: int) -> None:
        """Say which clients are missing, once they have been for a while, and again now and then."""
        session = self.session
        if not session.running:
            return
        waiting = session.status()[1]
        if waiting != self._told:
            self._told, self._due = waiting, now + WAIT_NOTICE_AFTER
        elif now >= self._due:
            self._due = now + WAIT_NOTICE_EVERY
            session.emit("waiting", reason=waiting)
