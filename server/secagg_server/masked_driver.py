"""What moves a masked session on: who is there, deadlines, opening, release, expiry (protocol.md §12.3 to §12.9).

Called again and again, as `driver.Driver` is. A round is closed as soon as everybody whom it waits for has answered,
or when its time is up: whoever is silent then has vanished.
"""

from secagg.errors import OpeningError, TooFewContributions
from secagg.masked.closing import UnmaskRound
from secagg.masked.release import MaskedParts, build_masked_release
from secagg_server import masked_report
from secagg_server.database import RUNNING, SessionState
from secagg_server.masked_session import MaskedSession
from secagg_server.masked_storage import MaskedInputs
from secagg_server.only_release import OnlyReleaseDriver
from secagg_server.publish import software_versions, write_folder


class MaskedDriver(OnlyReleaseDriver[MaskedSession]):
    """Drives one masked session."""

    def _step(self, now: int) -> bool:
        if now < self.session.descriptor.created_at:
            self.session.begin_round()  # nothing is taken then (protocol.md §7.4), so it is no time to answer in
        return super()._step(now)

    def _go_on(self) -> bool:
        session = self.session
        with session.lock:
            session.settle()
            stage, inputs = session.stage, session.store.release_inputs()
            if not isinstance(stage, UnmaskRound):
                return self._close()
            if inputs is None and stage.missing:
                return self._give_up(stage)
            session.opening = True
        return self._open(stage) if inputs is None else self._publish(stage, inputs)

    def _close(self) -> bool:
        session = self.session
        if session.missing() and not session.is_over():
            return False
        try:
            session.close_round()
        except TooFewContributions as error:
            self._end(SessionState.TOO_FEW, f"{error}. Nothing was opened", "too few clients; nothing is opened")
        return True

    def _give_up(self, stage: UnmaskRound) -> bool:
        """End the session if nobody is left who could give the shares that are missing."""
        if self.session.missing() and not self.session.is_over():
            return False
        reason = (
            f"{len(stage.taken)} clients gave their shares; too few are there of {len(stage.missing)} members. "
            "Nothing was opened"
        )
        return self._end(SessionState.TOO_FEW, reason, "too few shares; nothing is opened")

    def _open(self, stage: UnmaskRound) -> bool:
        """Open the sum, and fix what its release is made from; no share comes into the round any more."""
        session = self.session
        try:
            stage.open()
        except OpeningError as error:
            return self._end(SessionState.BURNT, str(error), "the sum does not open; the session is burnt")
        session.host.checkpoint("sum-opened")
        note = session.note(session.host.signer.identity.title, "opened the sum and released the adapter")
        inputs = MaskedInputs(
            timeline=(*session.store.timeline(), note), software=software_versions(), released_at=note.at
        )
        session.store.fix_release(inputs)
        session.host.checkpoint("release-fixed")
        return True

    def _publish(self, stage: UnmaskRound, inputs: MaskedInputs) -> bool:
        written = self._unless_certain(lambda: self._write(stage, inputs))
        if written is None:
            return False
        self._end(SessionState.RELEASED, "", "wrote the release")
        self.session.emit("released", folder=str(self.session.release_folder), files=written)
        return True

    def _write(self, stage: UnmaskRound, inputs: MaskedInputs) -> int:
        """Make the release, and write its folder; how many files."""
        session = self.session
        parts = MaskedParts.of(session.signed, stage, inputs.timeline, inputs.released_at)
        files = build_masked_release(parts, session.host.signer, inputs.software, masked_report.render)
        session.host.checkpoint("release-built")
        write_folder(session.release_folder, files)
        session.host.checkpoint("release-written")
        return len(files)

    def _is_decided(self) -> bool:
        if self.session.store.release_inputs() is None:
            return False
        self.session.settle()
        return True

    def _erase(self) -> int:
        return self.session.files.erase()

    def _names_the_missing(self, state: SessionState) -> bool:
        return state in RUNNING

    def _end(self, state: SessionState, reason: str, what: str) -> bool:
        self.session.move(state, reason, what)
        return True
