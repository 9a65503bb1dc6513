"""What moves a ckks session on: approval, deadline, set, the key-holder's sums, release, expiry (protocol.md §13).

Called again and again, as `driver.Driver` is.
"""

from secagg.ckks.coordinator import fix_set
from secagg.ckks.opened import Opened
from secagg.ckks.release import CkksParts, build_ckks_release
from secagg.errors import TooFewContributions
from secagg_server import ckks_report
from secagg_server.ckks_session import SUMS, CkksSession
from secagg_server.database import SessionState
from secagg_server.masked_storage import MaskedInputs
from secagg_server.only_release import OnlyReleaseDriver
from secagg_server.publish import software_versions, write_folder


class CkksDriver(OnlyReleaseDriver[CkksSession]):
    """Drives one ckks session."""

    def _go_on(self) -> bool:
        with self.session.lock:
            match self.session.store.state()[0]:
                case SessionState.PROPOSED:
                    return self.session.open_if_approved() or self._give_up()
                case SessionState.OPEN:
                    return self._close()
                case SessionState.CLOSING:
                    if self.session.burn_if_refused():
                        return True
                case _:
                    return False
        return self._publish()

    def _give_up(self) -> bool:
        if not self._is_late():
            return False
        reason = "the key-holder did not approve the session before its upload deadline"
        self.session.move(SessionState.TOO_FEW, reason, "no approval at the deadline; nothing was sent")
        return True

    def _close(self) -> bool:
        session, late = self.session, self._is_late()
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
        session.store.close_round("upload", note, chosen.to_bytes(), closing=True)
        session.host.checkpoint("upload-closed")
        session.emit("closing", members=members)
        return True

    def _is_late(self) -> bool:
        return self.session.host.clock() > self.session.descriptor.upload_deadline

    def _publish(self) -> bool:
        """Make the release of what was opened, if it was: neither that nor the set changes any more."""
        session, opened = self.session, self.session.opened()
        if opened is None:
            return False
        inputs = session.store.release_inputs()
        if inputs is None:
            note = session.note(session.host.signer.identity.title, "released the adapter")
            inputs = MaskedInputs(
                timeline=(*session.store.timeline(), note), software=software_versions(), released_at=note.at
            )
            session.store.fix_release(inputs)
            session.host.checkpoint("release-fixed")
        written = self._unless_certain(lambda: self._write(opened, inputs))
        if written is None:
            return False
        session.move(SessionState.RELEASED, "", "wrote the release")
        session.emit("released", folder=str(session.release_folder), files=written)
        return True

    def _write(self, opened: Opened, inputs: MaskedInputs) -> int:
        """Make the release, and write its folder; how many files."""
        session = self.session
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
        return len(files)

    def _is_decided(self) -> bool:
        return self.session.refusal() is not None or self.session.opened() is not None

    def _erase(self) -> int:
        return self.session.files.erase() + self.session.files.erase((SUMS[SUMS.index(".") :],))

    def _names_the_missing(self, state: SessionState) -> bool:
        return state in {SessionState.PROPOSED, SessionState.CLOSING}
