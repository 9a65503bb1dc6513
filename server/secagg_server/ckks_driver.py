"""What moves a ckks session on: approval, deadline, set, the key-holder's sums, release, expiry (protocol.md §13).

Called again and again with the clock's time, as `driver.Driver` is.
"""

from dataclasses import dataclass, field

from secagg.ckks.coordinator import fix_set
from secagg.ckks.release import CkksParts, build_ckks_release
from secagg.errors import SecaggError, TooFewContributions
from secagg_server import ckks_report
from secagg_server.ckks_session import SUMS, CkksSession
from secagg_server.clock import Expiry, check_clock
from secagg_server.driver import RETRY_AFTER, WAIT_NOTICE_AFTER, WAIT_NOTICE_EVERY
from secagg_server.masked_storage import MaskedInputs
from secagg_server.publish import software_versions, write_folder
from secagg_server.storage import SessionState


@dataclass
class CkksDriver:
    """Drives one ckks session; called by one thread only."""

    session: CkksSession
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
        with session.lock:
            match state:
                case SessionState.PROPOSED:
                    return session.open_if_approved() or self._give_up(now)
                case SessionState.OPEN:
                    return self._close(now)
                case SessionState.CLOSING:
                    return session.burn_if_refused() or self._publish(now)
        return False

    def _give_up(self, now: int) -> bool:
        if now <= self.session.descriptor.upload_deadline:
            return False
        reason = "the key-holder did not approve the session before its upload deadline"
        self.session.move(SessionState.TOO_FEW, reason, "no approval at the deadline; nothing was sent")
        return True

    def _close(self, now: int) -> bool:
        session = self.session
        late = now > session.descriptor.upload_deadline
        full = session.close_at is not None and session.store.count("upload") >= session.close_at
        if not (late or full):
            return False
        try:
            chosen = fix_set(session.descriptor, session.uploads(), session.host.signer)
        except TooFewContributions as error:
            if late:
                session.move(SessionState.TOO_FEW, f"{error}. Nothing was opened", "too few uploads; nothing is opened")
            return late
        members = len(chosen.statement.members)
        note = session.note(session.host.signer.identity.title, f"closed the session with {members} uploads")
        session.store.close_round("upload", now, note, chosen.to_bytes(), closing=True)
        session.host.checkpoint("upload-closed")
        session.emit("closing", members=members)
        return True

    def _publish(self, now: int) -> bool:
        session, opened = self.session, self.session.opened()
        if opened is None:
            return False
        inputs = session.store.release_inputs()
        if inputs is None:
            note = session.note(session.host.signer.identity.title, "released the adapter")
            inputs = MaskedInputs(
                timeline=(*session.store.timeline(), note), software=software_versions(), released_at=now
            )
            session.store.fix_release(inputs)
            session.host.checkpoint("release-fixed")
        uploads, chosen = session.uploads(), session.chosen()
        parts = CkksParts(
            session=session.signed,
            approval=session.approval(),
            uploads=tuple(uploads[member.client] for member in chosen.statement.members),
            final=chosen,
            opened=opened,
            timeline=inputs.timeline,
            released_at=inputs.released_at,
        )
        files = build_ckks_release(parts, session.host.signer, inputs.software, ckks_report.render)
        session.host.checkpoint("release-built")
        write_folder(session.release_folder, files)
        session.host.checkpoint("release-written")
        session.move(SessionState.RELEASED, "", "wrote the release")
        session.emit("released", folder=str(session.release_folder), files=len(files))
        return True

    def _must_publish(self) -> bool:
        """Whether the sum is opened and its release still to be written."""
        return self.session.running and self.session.opened() is not None

    def _expire(self, state: SessionState) -> bool:
        """Delete the uploads; a session that is not released ends. Whether anything but that is left to do."""
        session = self.session
        with session.lock:
            erased = session.files.erase() + session.files.erase((SUMS[SUMS.index(".") :],))
            if erased:
                session.emit("erased", files=erased)
            if state != SessionState.RELEASED:
                _, reason = session.store.state()
                why = "the session expired; its uploads are deleted" + (f" ({reason})" if reason else "")
                session.move(SessionState.EXPIRED, why, "the session expired; uploads deleted")
        return state != SessionState.RELEASED

    def _tell(self, now: int) -> None:
        """Say that the key-holder is missing, once it has been for a while, and again now and then."""
        state, waiting = self.session.status()
        if state not in {SessionState.PROPOSED, SessionState.CLOSING}:
            return
        if waiting != self._told:
            self._told, self._due = waiting, now + WAIT_NOTICE_AFTER
        elif now >= self._due:
            self._due = now + WAIT_NOTICE_EVERY
            self.session.emit("waiting", reason=waiting)
