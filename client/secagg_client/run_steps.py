"""What a client does the same way whichever protocol carries its vector (protocol.md §7.2, §10.3, §12.5.4, §13.4)."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from secagg.agreed import Agreed
from secagg.certificate import CERTIFICATE, Certificate
from secagg.errors import HashMismatch, MalformedError, ProtocolViolation, SessionClosed, TransportError
from secagg.keyholder import MAX_CLOCK_SKEW
from secagg.messages import SignedReceipt
from secagg.plan import Plan
from secagg.receipts import judge_receipt
from secagg.signing import Signer
from secagg_client.calls import SessionState, Status, chunks_of, ending
from secagg_client.client_state import PartyFolder, Trained
from secagg_client.folders import write_folder
from secagg_client.outcome import RELEASED, end_with_release
from secagg_client.patience import Patience
from secagg_client.published import PUBLIC_FILE, Publication, fetch_release
from secagg_client.training_steps import Training
from secagg_host.durable import read_file

POLL = 1.0
PROGRESS_STEPS = 20
Checkpoint = Callable[[str], None]


class Session(Agreed, Protocol):
    """A descriptor, of whichever protocol, in so far as its times matter here."""

    @property
    def upload_deadline(self) -> int:
        """Until when uploads are taken, seconds since 1970."""

    @property
    def expires_at(self) -> int:
        """When it is over, seconds since 1970."""


def no_checkpoint(_: str) -> None:
    """Goes on."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one client in any protocol. `checkpoint` is called after each that is durable."""

    signer: Signer
    training: Training
    patience: Patience
    checkpoint: Checkpoint

    def train(self, session: Session, plan: Plan, folder: PartyFolder) -> None:
        """Charge the ledger, train from the plan's start, and keep the result."""
        prepared = self.training.prepare(session, plan)
        prepared.charge()
        self.checkpoint("charged")
        settings, taken, log = session.plan.training, session.steps, self.patience.log
        span = {"first_step": taken.start + 1, "last_step": taken.stop} if len(taken) < settings.steps else {}
        log.emit("training", steps=settings.steps, **span, epsilon=settings.epsilon, delta=settings.delta)
        trained = prepared.train()
        folder.keep_trained(session.ctx, trained)
        log.emit("trained", epsilon=trained.privacy.epsilon, delta=trained.privacy.delta)
        self.checkpoint("trained")

    def trained_in_time(self, session: Session, folder: PartyFolder) -> Trained:
        """What was trained. Raises SessionClosed when the upload deadline has passed; the session is then given up."""
        if self.patience.now > session.upload_deadline:
            reason = "training was not done before the upload deadline; nothing was sent, and nothing is spent"
            self.give_up(session, folder, reason)
            raise SessionClosed(f"session {session.ctx[:16]}: {reason}")
        return folder.trained(session.ctx)

    def give_up(self, session: Session, folder: PartyFolder, reason: str) -> None:
        """The session is over for this client before it had a receipt."""
        if not folder.state.spooled:
            self.training.abandon(session)
        folder.erase_trained()
        folder.end("closed", reason)
        self.patience.log.emit("closed", session=session.ctx, reason=reason)

    def offer(
        self,
        begin: Callable[[], int | SignedReceipt],
        send: Callable[[int, Iterator[memoryview]], SignedReceipt],
        content: memoryview,
    ) -> SignedReceipt:
        """One attempt to send the upload, from where the last one stopped: always the same bytes."""
        answer = begin()
        if not isinstance(answer, int):
            return answer
        if answer > len(content):
            raise ProtocolViolation(f"the coordinator claims {answer} stored bytes of {len(content)}")
        try:
            return send(answer, self._counted(content, answer))
        except (HashMismatch, MalformedError) as error:
            # What is sent is what was signed (it was just checked): the copy there is bad, and was discarded.
            raise TransportError(f"the coordinator's copy of the upload is damaged: {error}") from error

    def _counted(self, content: memoryview, offset: int) -> Iterator[memoryview]:
        """The chunks from `offset`, with progress."""
        sent, total = offset, len(content)
        for chunk in chunks_of(content, offset):
            yield chunk
            before, sent = sent, sent + len(chunk)
            if sent == total or sent * PROGRESS_STEPS // total > before * PROGRESS_STEPS // total:
                self.patience.log.emit("uploading", sent=sent, total=total)

    def wait(
        self, session: Session, status_of: Callable[[], Status], made: Callable[[Status], object] = lambda _: False
    ) -> Status:
        """How the session ended, or that the release waited for is `made`; what is waited for is logged once."""
        said, late = "", session.expires_at + MAX_CLOCK_SKEW
        while True:
            try:
                status = self.patience.ask(status_of, ready_by=late)
            except SessionClosed as error:
                return Status(SessionState.EXPIRED, str(error), None)
            if status.state.ended or made(status):
                return status
            if self.patience.now > late:
                return replace(status, state=SessionState.EXPIRED, reason="the session has expired without a release")
            if (shown := f"{status.state}: {status.reason}") != said:
                self.patience.log.emit("status", state=status.state, reason=status.reason)
                said = shown
            self.patience.sleep(POLL)


@dataclass(frozen=True, slots=True)
class OnlyRelease:
    """The release of a session that has one, below `folder`; `verify` holds it against this client's own policy."""

    steps: Steps
    publication: Publication
    folder: Path
    verify: Callable[[dict[str, bytes]], Certificate]

    def receive(self, session: Session, own: PartyFolder, status: Status, limit: int) -> None:
        """Fetch, verify and store the release of a session that ended so; its files have `limit` bytes at most.

        Raises what `status` ended with, if not with a release, and what shows a lie.
        """
        steps = self.steps
        if status.state is not SessionState.RELEASED:
            error = ending(status.state, status.reason)
            own.end(status.state, str(error))
            raise error
        late = session.expires_at + MAX_CLOCK_SKEW
        content = steps.patience.ask(lambda: fetch_release(self.publication, session.ctx, limit), ready_by=late)
        certificate = self.verify(content)
        if certificate.ctx != session.ctx:
            raise ProtocolViolation(f"the release is of session {certificate.ctx[:16]}, not of {session.ctx[:16]}")
        uploads, client, receipt = certificate.acknowledged, steps.signer.identity, own.receipt()
        stored = self.folder / CERTIFICATE
        if not (stored.exists() and read_file(stored) == content[CERTIFICATE]):
            write_folder(self.folder, content, PUBLIC_FILE)
        steps.checkpoint("release")
        verdict = judge_receipt(certificate, receipt)
        steps.patience.log.emit(
            RELEASED,
            folder=str(self.folder),
            members=len(uploads),
            included=client.fingerprint in uploads,
            receipt=verdict.fate,
            reason=next((item.reason for item in certificate.excluded if item.client == client.fingerprint), None),
            certificate=hashlib.sha256(content[CERTIFICATE]).hexdigest(),
        )
        steps.training.after_release(self.folder, session)
        end_with_release(own, verdict, client.title, self.folder)
        steps.checkpoint("ended")
