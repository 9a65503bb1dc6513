"""A client's process: accept, train, seal once, upload, receive the release (protocol.md §4.3 to §7, §10.3).

`client_state` says what is on the disk and so what comes next; this module does it. Training is an argument, so
nothing here needs torch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from secagg import certificate as files
from secagg.contributor import SealedUpload, seal_contribution
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import (
    ProtocolViolation,
    SessionClosed,
)
from secagg.keyholder import MAX_CLOCK_SKEW, check_offers
from secagg.messages import Enrolment, SignedEnrolment, SignedReceipt, SignedUpload
from secagg.policy import Policy, check_authority
from secagg.randomness import Randomness
from secagg.receipts import check_receipt
from secagg.releases import number_in_words
from secagg.signing import Signer
from secagg_client.calls import SessionState, Status, ending
from secagg_client.client_noise_accounting import announce, check_session
from secagg_client.client_state import SessionFolder, SessionShelf, Step
from secagg_client.outcome import RELEASED, end_with_release, raise_end
from secagg_client.patience import Patience
from secagg_client.published import Found, Publication, Releases
from secagg_client.run_steps import Checkpoint, Steps, no_checkpoint
from secagg_client.training_steps import Training

LEFT_OVER = (
    "the session ended, and this upload is in none of the releases that its coordinator shows, each of which was "
    "verified; the receipt says that it came"
)
NONE_SHOWN = "the session ended, and its coordinator shows no release; the receipt says that this upload came"


class Contribution(Protocol):
    """The coordinator as a client sees it: `secagg_client.calls.ContributionCalls`."""

    def session(self, ctx: str | None) -> SignedDescriptor:
        """The session."""

    def enrol(self, enrolment: SignedEnrolment) -> None:
        """Say that the client begins."""

    def begin_upload(self, upload: SignedUpload) -> int | SignedReceipt:
        """Bytes that are stored, or the receipt."""

    def upload(
        self, upload: SignedUpload, boxes: tuple[bytes, ...], offset: int, chunks: Iterator[bytes | memoryview]
    ) -> SignedReceipt:
        """Send the rest."""

    def status(self, ctx: str) -> Status:
        """Where the session is."""


@dataclass(frozen=True, slots=True)
class ClientRun:
    """One client and its coordinator. `checkpoint` is called after each durable step; tests kill the process there."""

    signer: Signer
    authority: str
    policy: Policy
    shelf: SessionShelf
    contribution: Contribution
    publication: Publication
    training: Training
    release: Path
    patience: Patience
    random: Randomness
    checkpoint: Checkpoint = no_checkpoint
    threads: int = 1

    @property
    def steps(self) -> Steps:
        """What it does as in every protocol."""
        return Steps(self.signer, self.training, self.patience, self.checkpoint)

    @property
    def releases(self) -> Releases:
        """What this client has received, and can."""
        return Releases(self.publication, self.policy, self.patience, self.release)

    def run(self, ctx: str | None = None, *, wait_for_release: bool = True) -> None:
        """Take part in one session: resume the unfinished one, or join the one that the coordinator has.

        Returns when the release is stored (or the receipt, unless `wait_for_release`).
        Raises the SecaggError that ended it; before training for anything outside the policy. UploadDropped, when the
        release is stored and does not list the upload for which there is a receipt; ReceiptContradicted, when it says
        that it came at another time (protocol.md §10.4).
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

    # -- joining -----------------------------------------------------------------------------------------------

    def _resume(self, ctx: str | None, *, wait_for_release: bool) -> tuple[Descriptor, SessionFolder] | None:
        """The session that was accepted earlier and is not over. Those that ran out of time are closed."""
        for descriptor, folder in self.shelf.unfinished():
            if ctx not in {None, descriptor.ctx} or (folder.state.receipted and not wait_for_release):
                continue
            if not folder.state.receipted and self.patience.now > descriptor.expires_at:
                self.steps.give_up(descriptor, folder, "the session expired before this client had uploaded")
                continue
            self.patience.log.emit("resumed", session=descriptor.ctx, step=folder.state.next_step)
            return descriptor, folder
        return None

    def _join(self, ctx: str | None) -> tuple[Descriptor, SessionFolder]:
        """Fetch a session and accept it if the policy allows (protocol.md §4.3, §4.4)."""
        signed = self.patience.ask(lambda: self.contribution.session(ctx))
        descriptor = signed.check(approved=True)
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
            coordinator=descriptor.coordinator_identity.title,
            values=descriptor.parameters.length,
            epsilon=descriptor.plan.training.epsilon,
            roster=len(descriptor.roster),
            **({"round": descriptor.round.title} if descriptor.round is not None else {}),
        )
        announce(descriptor, self.patience.log)
        return descriptor, folder

    def check(self, signed: SignedDescriptor) -> Descriptor:
        """Everything that must hold of a session before this client trains for it.

        Raises SignatureInvalid, EndorsementInvalid, CertificateInvalid, PolicyViolation, RoleViolation,
        MalformedError (a session key that seals nothing), AccountingError (client-level noise spends more than is
        stated), ProtocolViolation (clocks) or SessionClosed.
        """
        descriptor = signed.check(approved=True)
        now = self.patience.now
        check_authority(descriptor, self.authority, now)
        self.policy.check(descriptor)
        check_offers(descriptor)
        check_session(descriptor)
        descriptor.client(self.signer.identity.fingerprint)
        if descriptor.created_at > now + MAX_CLOCK_SKEW:
            raise ProtocolViolation("the session is dated in the future; check the clocks")
        if now > descriptor.upload_deadline:
            raise SessionClosed(f"session {descriptor.ctx[:16]} takes no more uploads: its deadline has passed")
        return descriptor

    # -- training and sealing ----------------------------------------------------------------------------------

    def _train(self, descriptor: Descriptor, folder: SessionFolder) -> None:
        try:
            self.check(folder.session())
            enrolment = self.signer.sign(Enrolment(ctx=descriptor.ctx, client=self.signer.identity.fingerprint))
            self.patience.ask(lambda: self.contribution.enrol(enrolment), until=descriptor.upload_deadline)
        except SessionClosed as error:
            self.steps.give_up(descriptor, folder, str(error))
            raise
        self.patience.log.emit("enrolled", session=descriptor.ctx)
        self.checkpoint("enrolled")
        self.steps.train(descriptor, self.releases.plan_of(descriptor), folder)

    def _seal(self, descriptor: Descriptor, folder: SessionFolder) -> None:
        """Seal the trained result and spool it whole. Killed before the spool is there, nothing of it is left."""
        trained = self.steps.trained_in_time(descriptor, folder)
        sealed = seal_contribution(
            descriptor, self.signer, trained.change, trained.privacy, self.random, threads=self.threads
        )
        folder.spool(sealed)
        self.checkpoint("spooled")
        self.patience.log.emit("sealed", bytes=_size(sealed), upload_root=sealed.signed.statement.upload_root)

    # -- uploading ---------------------------------------------------------------------------------------------

    def _send(self, descriptor: Descriptor, folder: SessionFolder) -> None:
        """Send the spooled upload until there is a receipt for it (protocol.md §7.2)."""
        upload = folder.upload(descriptor)
        self.training.mark_sealed(descriptor, upload.signed.statement.upload_root)
        self.checkpoint("marked")
        folder.erase_trained()
        self.checkpoint("cleared")
        try:
            receipt = self.patience.ask(lambda: self._offer(upload), until=descriptor.expires_at)
        except SessionClosed as error:
            self.steps.give_up(descriptor, folder, str(error))
            raise
        signed = upload.signed
        check_receipt(descriptor, signed.signer, signed.statement.upload_root, receipt, self.patience.now)
        folder.keep_receipt(receipt)
        self.patience.log.emit("uploaded", bytes=_size(upload), upload_root=receipt.statement.upload_root)
        self.checkpoint("receipt")

    def _offer(self, upload: SealedUpload) -> SignedReceipt:
        return self.steps.offer(
            lambda: self.contribution.begin_upload(upload.signed),
            lambda offset, chunks: self.contribution.upload(upload.signed, upload.boxes, offset, chunks),
            upload.ciphertext.data.cast("B"),
        )

    # -- the release -------------------------------------------------------------------------------------------

    def _await(self, descriptor: Descriptor, folder: SessionFolder) -> None:
        """Wait for the release that tells of this upload, verify it against this client's own policy, and store it.

        Of several, the coordinator says where to look first, and no more than that: one that does not tell of the
        upload ends nothing, and at the end all are looked at (protocol.md §10.4).
        """
        looked = 0
        while True:
            until_of = partial(_to_look_at, descriptor, looked)
            status = self.steps.wait(descriptor, lambda: self._status(descriptor), until_of)
            if not (until := until_of(status)):
                self._end_without(descriptor, folder, status, looked)
            if found := self.releases.find(descriptor, until, folder.receipt()):
                self._end_with(descriptor, folder, found)
                return
            looked = until

    def _status(self, descriptor: Descriptor) -> Status:
        """What the coordinator says. Raises ProtocolViolation for more releases than the session can have."""
        status = self.contribution.status(descriptor.ctx)
        if max(status.releases, status.own_release) > descriptor.releases:
            raise ProtocolViolation(
                f"the coordinator tells of release {max(status.releases, status.own_release)} of a session that has "
                f"{descriptor.releases} at most"
            )
        return status

    def _end_with(self, descriptor: Descriptor, folder: SessionFolder, found: Found) -> None:
        stored = self.releases.store(descriptor, found.release)
        self.checkpoint("release")
        self._report(descriptor, found, stored)
        self.training.after_release(stored, descriptor)
        end_with_release(folder, found.verdict, self.signer.identity.title, stored)
        self.checkpoint("ended")

    @staticmethod
    def _end_without(descriptor: Descriptor, folder: SessionFolder, status: Status, looked: int) -> NoReturn:
        """The session has ended, and none of its releases, all `looked` at, tells of this client's upload."""
        state, reason = status.state, status.reason
        if descriptor.releases > 1:
            state = SessionState.EXPIRED if state is SessionState.RELEASED else state
            reason = f"{LEFT_OVER if looked else NONE_SHOWN}: {reason}"
        error = ending(state, reason)
        folder.end(state, str(error))
        raise error

    def _report(self, descriptor: Descriptor, found: Found, folder: Path) -> None:
        certificate, own = found.release.certificate, self.signer.identity.fingerprint
        reasons = [item.reason for item in certificate.excluded if item.client == own]
        number = found.release.number
        self.patience.log.emit(
            RELEASED,
            folder=str(folder),
            members=len(certificate.members),
            included=own in certificate.members,
            receipt=found.verdict.fate,
            reason=reasons[0] if reasons else None,
            certificate=hashlib.sha256(found.release.content[files.CERTIFICATE]).hexdigest(),
            **({"release": number_in_words(descriptor, number)} if descriptor.releases > 1 else {}),
        )


def _to_look_at(descriptor: Descriptor, looked: int, status: Status) -> int:
    """Up to which release the client looks now, when it has looked at so many; 0 if at no more of them."""
    if descriptor.releases == 1:
        return int(status.state is SessionState.RELEASED and not looked)
    if looked < status.own_release <= status.releases:
        return status.own_release
    return status.releases if status.state.ended and status.releases > looked else 0


def _size(upload: SealedUpload) -> int:
    """Bytes that leave: ciphertext and boxes."""
    return upload.ciphertext.nbytes + sum(len(box) for box in upload.boxes)
