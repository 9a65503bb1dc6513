"""A client's process in a ckks session: accept, train, encrypt once, upload, receive the release (protocol.md §13).

What is on the disk decides what comes next, as in a sealed session: a client that is killed anywhere goes on where it
was. It does not train twice, and never sends two different uploads.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from secagg.ckks.client import accept_session, seal_ckks
from secagg.ckks.coordinator import check_refusal_word, refusal_in_words
from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor
from secagg.ckks.messages import OpeningRefusal, SignedCkksUpload
from secagg.ckks.policy import CkksPolicy
from secagg.ckks.verify import verify_ckks
from secagg.errors import (
    MalformedError,
    ProtocolViolation,
    SecaggError,
    SessionClosed,
    TransportError,
    VerificationError,
)
from secagg.keyholder import MAX_CLOCK_SKEW
from secagg.messages import SignedReceipt
from secagg.randomness import Randomness
from secagg.receipts import check_receipt
from secagg.signing import Signer
from secagg_client.calls import SessionState, Status
from secagg_client.ckks_calls import CkksCalls
from secagg_client.client_noise_accounting import announce, check_session
from secagg_client.client_state import CkksFolder, CkksShelf, Step
from secagg_client.outcome import raise_end
from secagg_client.patience import Patience
from secagg_client.published import MAX_SMALL_FILE, Publication
from secagg_client.run_steps import Checkpoint, OnlyRelease, Steps, no_checkpoint
from secagg_client.training_steps import Training


@dataclass(frozen=True, slots=True)
class CkksClientRun:
    """One client and its coordinator. `checkpoint` is called after each durable step; tests kill the process there."""

    signer: Signer
    authority: str
    policy: CkksPolicy
    shelf: CkksShelf
    calls: CkksCalls
    publication: Publication
    training: Training
    release: Path
    patience: Patience
    random: Randomness
    checkpoint: Checkpoint = no_checkpoint

    @property
    def steps(self) -> Steps:
        """What it does as in every protocol."""
        return Steps(self.signer, self.training, self.patience, self.checkpoint)

    def run(self, ctx: str | None = None, *, wait_for_release: bool = True) -> None:
        """Take part in one session: resume the unfinished one, or join the one that the coordinator has.

        Returns when the release is stored (or the receipt, unless `wait_for_release`).
        Raises the SecaggError that ended it; before training for anything outside the policy. UploadDropped, when the
        release is stored and does not list the upload for which there is a receipt (protocol.md §10.4).
        """
        descriptor, folder = self._resume(ctx, wait_for_release=wait_for_release) or self._join(ctx)
        if folder.state.next_step is Step.DONE:
            self.patience.log.emit("already", session=descriptor.ctx, outcome=folder.ended().outcome)
        while (step := folder.state.next_step) is not Step.DONE:
            match step:
                case Step.JOIN | Step.TRAIN:
                    self._train(descriptor, folder)
                case Step.SEAL:
                    self._seal(descriptor, folder)
                case Step.SEND:
                    self._send(descriptor, folder)
                case Step.AWAIT if wait_for_release:
                    self._await(descriptor, folder)
                case Step.AWAIT:
                    return
        raise_end(descriptor.ctx, folder.ended())

    def _resume(self, ctx: str | None, *, wait_for_release: bool) -> tuple[CkksDescriptor, CkksFolder] | None:
        for descriptor, folder in self.shelf.unfinished():
            if ctx not in {None, descriptor.ctx} or (folder.state.receipted and not wait_for_release):
                continue
            if not folder.state.receipted and self.patience.now > descriptor.expires_at:
                self.steps.give_up(descriptor, folder, "the session expired before this client had uploaded")
                continue
            self.patience.log.emit("resumed", session=descriptor.ctx, step=folder.state.next_step)
            return descriptor, folder
        return None

    def _join(self, ctx: str | None) -> tuple[CkksDescriptor, CkksFolder]:
        """Fetch a session and accept it if the policy allows (protocol.md §13.3)."""
        signed = self.patience.ask(lambda: self.calls.session(ctx))
        descriptor = signed.statement
        if ctx is not None and descriptor.ctx != ctx:
            raise ProtocolViolation(f"asked for session {ctx[:16]}, the coordinator showed {descriptor.ctx[:16]}")
        folder = self.shelf.of(descriptor.ctx)
        if not folder.state.accepted:
            self.check(signed)
            folder.accept(signed)
            self.checkpoint("accepted")
        self.patience.log.emit(
            "session",
            session=descriptor.ctx,
            protocol=descriptor.protocol,
            coordinator=descriptor.coordinator_identity.title,
            values=descriptor.parameters.length,
            epsilon=descriptor.plan.training.epsilon,
            roster=len(descriptor.roster),
        )
        announce(descriptor, self.patience.log)
        return descriptor, folder

    def check(self, signed: SignedCkksDescriptor) -> CkksDescriptor:
        """Everything that must hold of a session before this client trains for it; waits for the key-holder's approval.

        Raises SignatureInvalid, CertificateInvalid, PolicyViolation, EndorsementInvalid, RoleViolation,
        AccountingError (client-level noise spends more than is stated), ProtocolViolation (clocks) or SessionClosed.
        """
        ctx = signed.statement.ctx
        approval = self.patience.ask(lambda: self.calls.approval(ctx), until=signed.statement.upload_deadline)
        descriptor = accept_session(signed, approval, self.policy, self.authority, self.patience.now)
        descriptor.client(self.signer.identity.fingerprint)
        check_session(descriptor)
        if descriptor.created_at > self.patience.now + MAX_CLOCK_SKEW:
            raise ProtocolViolation("the session is dated in the future; check the clocks")
        return descriptor

    def _train(self, descriptor: CkksDescriptor, folder: CkksFolder) -> None:
        try:
            self.check(folder.session())
        except SessionClosed as error:
            self.steps.give_up(descriptor, folder, str(error))
            raise
        self.patience.log.emit("enrolled", session=descriptor.ctx)
        self.checkpoint("enrolled")
        self.steps.train(descriptor, descriptor.plan, folder)

    def _seal(self, descriptor: CkksDescriptor, folder: CkksFolder) -> None:
        """Encrypt the trained result and spool it whole. Killed before the spool is there, nothing of it is left."""
        trained = self.steps.trained_in_time(descriptor, folder)
        sealed = seal_ckks(descriptor, self.signer, trained.change, trained.privacy, self.random)
        folder.spool(sealed)
        self.checkpoint("spooled")
        self.patience.log.emit(
            "sealed", bytes=sealed.signed.statement.bytes, upload_root=sealed.signed.statement.digest
        )

    def _send(self, descriptor: CkksDescriptor, folder: CkksFolder) -> None:
        """Send the spooled upload until there is a receipt for it (protocol.md §13.4)."""
        signed, content = folder.upload()
        self.training.mark_sealed(descriptor, signed.statement.digest)
        self.checkpoint("marked")
        folder.erase_trained()
        self.checkpoint("cleared")
        try:
            receipt = self.patience.ask(lambda: self._offer(signed, content), until=descriptor.expires_at)
        except SessionClosed as error:
            self.steps.give_up(descriptor, folder, str(error))
            raise
        check_receipt(descriptor, signed.signer, signed.statement.digest, receipt, self.patience.now)
        folder.keep_receipt(receipt)
        self.patience.log.emit("uploaded", bytes=len(content), upload_root=receipt.statement.upload_root)
        self.checkpoint("receipt")

    def _offer(self, signed: SignedCkksUpload, content: bytes) -> SignedReceipt:
        return self.steps.offer(
            lambda: self.calls.begin_upload(signed),
            lambda offset, chunks: self.calls.upload(signed, offset, chunks),
            memoryview(content),
        )

    def _await(self, descriptor: CkksDescriptor, folder: CkksFolder) -> None:
        """Wait for the release, fetch it, verify it against this client's own policy, and store it."""
        status = self._burnt_before(descriptor, folder) or self._ended(descriptor, folder)
        only = OnlyRelease(
            self.steps, self.publication, self.release, lambda content: verify_ckks(content, self.policy).certificate
        )
        only.receive(descriptor, folder, status, MAX_SMALL_FILE + 16 * descriptor.parameters.length)

    def _burnt_before(self, descriptor: CkksDescriptor, folder: CkksFolder) -> Status | None:
        """The end that a word of the key-holder shows which was kept before a kill, whatever is said by now."""
        try:
            signed = folder.refusal()
            word = None if signed is None else check_refusal_word(descriptor, signed)
        except (VerificationError, ProtocolViolation, MalformedError):
            return None  # damaged: the coordinator is asked again
        return None if word is None else Status(SessionState.BURNT, self._in_words(descriptor, folder, word), None)

    def _ended(self, descriptor: CkksDescriptor, folder: CkksFolder) -> Status:
        """What the coordinator says of the end; with the key-holder's word, kept, where it burnt the session."""
        status = self.steps.wait(descriptor, lambda: self.calls.status(descriptor.ctx))
        if status.state is SessionState.BURNT:
            status = replace(status, reason=self._why_burnt(descriptor, folder, status.reason))
        return status

    def _why_burnt(self, descriptor: CkksDescriptor, folder: CkksFolder, said: str) -> str:
        """What the key-holder signed, kept; or what the coordinator `said`, when it has no such word to show (§13.5.7).

        Raises TransportError when the coordinator stays out of reach: it is asked again at the next start.
        """
        try:
            signed = self.patience.ask(lambda: self.calls.refusal(descriptor.ctx), ready_by=descriptor.created_at)
            word = check_refusal_word(descriptor, signed)
        except TransportError:
            raise
        except SecaggError as error:  # whatever else it answers: the session is burnt, and there is no word
            return f"{said} (the coordinator shows no word of the key-holder for that: {error})"
        folder.keep_refusal(signed)
        self.checkpoint("refusal")
        return self._in_words(descriptor, folder, word)

    @staticmethod
    def _in_words(descriptor: CkksDescriptor, folder: CkksFolder, word: OpeningRefusal) -> str:
        return f"{refusal_in_words(descriptor, word)}; its signed word is {folder.refusal_path}"
