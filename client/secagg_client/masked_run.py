"""A client's process in a masked session: accept, train, then take every round with the others (protocol.md §12).

Until the advertisement a client may be killed and started again: it goes on where it was. From then on its secrets are
in memory alone, so that a client that is restarted takes no further round. One that had sent its vector asks for the
receipt; with a receipt it still waits for the release, in which its vector is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from secagg.errors import (
    NotReady,
    ProtocolViolation,
    SecaggError,
    SessionClosed,
    TransportError,
)
from secagg.keyholder import MAX_CLOCK_SKEW, Journal
from secagg.masked.client import MaskedClient
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor
from secagg.masked.messages import (
    Directory,
    SharedSet,
    SharingMessage,
    SignedAdvertisement,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSurvivorSet,
    SignedUnmasking,
    UnmaskRequest,
    UploadMessage,
)
from secagg.masked.policy import MaskedPolicy
from secagg.masked.unmasking import Uploaded
from secagg.masked.verify import verify_masked
from secagg.messages import SignedReceipt
from secagg.randomness import Randomness
from secagg.receipts import check_receipt
from secagg.signing import Signer
from secagg_client.calls import Status
from secagg_client.client_noise_accounting import announce, check_session
from secagg_client.client_state import MaskedFolder, MaskedShelf, Step
from secagg_client.outcome import raise_end
from secagg_client.patience import Patience
from secagg_client.published import MAX_SMALL_FILE, Publication
from secagg_client.run_steps import Checkpoint, OnlyRelease, Steps, no_checkpoint
from secagg_client.training_steps import Training

T = TypeVar("T")
VANISHED = (
    "this client was stopped after it had advertised its keys, which are in no file, and before it sent its vector: it "
    "has vanished from the session, and the others go on without it"
)
UNACKNOWLEDGED = (
    "this client was stopped while it sent its masked vector, and can take no further part: its keys are in no file. "
    "Whether the vector is in the sum it cannot say; the coordinator shows no receipt for it"
)


class MaskedContribution(Protocol):
    """The coordinator as a client sees it: `secagg_client.masked_calls.MaskedCalls`."""

    def session(self, ctx: str | None) -> SignedMaskedDescriptor:
        """The session."""

    def advertise(self, signed: SignedAdvertisement) -> None:
        """Hand in the public keys."""

    def directory(self, ctx: str) -> Directory:
        """Everybody's."""

    def share(self, message: SharingMessage) -> None:
        """Hand in the shares of the mask key."""

    def shared(self, ctx: str) -> SharedSet:
        """Who has shared, and what is for this client."""

    def begin_upload(self, signed: SignedMaskedUpload) -> int | SignedReceipt:
        """Bytes that are stored, or the receipt."""

    def upload(self, message: UploadMessage, offset: int, chunks: Iterator[bytes | memoryview]) -> SignedReceipt:
        """Send the rest."""

    def survivors(self, ctx: str) -> SignedSurvivorSet:
        """U."""

    def endorse(self, signed: SignedSetEndorsement) -> None:
        """Hand in the endorsement."""

    def unmasking(self, ctx: str) -> UnmaskRequest:
        """What is shown before shares are given."""

    def unmask(self, signed: SignedUnmasking) -> None:
        """Hand in the shares."""

    def status(self, ctx: str) -> Status:
        """Where the session is."""


@dataclass(frozen=True, slots=True)
class MaskedClientRun:
    """One client and its coordinator. `journal` is durable and write-once; `checkpoint` is for tests that kill."""

    signer: Signer
    authority: str
    policy: MaskedPolicy
    shelf: MaskedShelf
    journal: Journal
    contribution: MaskedContribution
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

    def run(self, ctx: str | None = None, *, wait_for_release: bool = True) -> None:
        """Take part in one session: resume the unfinished one, or join the one that the coordinator has.

        Returns when the release is stored (or its shares are given, unless `wait_for_release`).
        Raises the SecaggError that ended it; before training for anything outside the policy. UploadDropped, when the
        release is stored and does not list the upload for which there is a receipt (protocol.md §10.4).
        """
        descriptor, folder = self._resume(ctx, wait_for_release=wait_for_release) or self._join(ctx)
        if folder.state.next_step is Step.DONE:
            self.patience.log.emit("already", session=descriptor.ctx, outcome=folder.ended().outcome)
        if folder.state.next_step in {Step.JOIN, Step.TRAIN}:
            self._train(descriptor, folder)
        if folder.state.next_step is Step.SEAL:
            self._take_rounds(descriptor, folder)
        if folder.state.next_step is Step.AWAIT:
            if not wait_for_release:
                return
            self._await(descriptor, folder)
        raise_end(descriptor.ctx, folder.ended())

    # -- joining and training --------------------------------------------------------------------------------------

    def _resume(self, ctx: str | None, *, wait_for_release: bool) -> tuple[MaskedDescriptor, MaskedFolder] | None:
        """The session that was accepted earlier and is not over. Those that were left half-way are closed."""
        for descriptor, folder in self.shelf.unfinished():
            if ctx not in {None, descriptor.ctx}:
                continue
            if not folder.state.receipted:
                self._close_if_left(descriptor, folder, wait=wait_for_release)
            only_waits = folder.state.receipted or self._recorded(descriptor, "uploaded") is not None
            if (folder.state.ended and ctx is None) or (only_waits and not wait_for_release):
                continue
            self.patience.log.emit("resumed", session=descriptor.ctx, step=folder.state.next_step)
            return descriptor, folder
        return None

    def _recorded(self, descriptor: MaskedDescriptor, step: str) -> bytes | None:
        """What an earlier run has recorded of a step, before it was answered (protocol.md §12.2.2)."""
        return self.journal.get(MaskedClient(descriptor, self.signer, self.policy, self.journal).slot(step))

    def _close_if_left(self, descriptor: MaskedDescriptor, folder: MaskedFolder, *, wait: bool) -> None:
        """End what cannot be gone on with; but a vector that was on its way may be in the sum."""
        sent = self._recorded(descriptor, "uploaded")
        if sent is not None:
            self._look_for_receipt(descriptor, folder, sent.decode(), wait=wait)
        elif self._recorded(descriptor, "advertised") is not None:
            self.steps.give_up(descriptor, folder, VANISHED)
        elif self.patience.now > descriptor.expires_at:
            self.steps.give_up(descriptor, folder, "the session expired before this client had uploaded")

    def _look_for_receipt(self, descriptor: MaskedDescriptor, folder: MaskedFolder, root: str, *, wait: bool) -> None:
        """Keep the receipt for the upload `root` that this client has recorded, if the coordinator has signed it.

        The coordinator may still be looking at the vector: asked again until the session is over, if it is to `wait`.
        Raises TransportError when it stays out of reach.
        """
        try:
            status = self.steps.wait(
                descriptor,
                lambda: self.contribution.status(descriptor.ctx),
                lambda status: status.receipt is not None or not wait,
            )
            if status.receipt is not None:
                client = self.signer.identity.fingerprint
                check_receipt(descriptor, client, root, status.receipt, self.patience.now)
        except TransportError:
            raise
        except SecaggError as error:
            self.steps.give_up(descriptor, folder, f"{UNACKNOWLEDGED}: {error}")
            return
        if status.receipt is not None:
            folder.keep_receipt(status.receipt)
            self.patience.log.emit("receipt", session=descriptor.ctx, upload_root=root)
            self.checkpoint("receipt")
        elif status.state.ended:
            self.steps.give_up(descriptor, folder, f"{UNACKNOWLEDGED}; the session is {status.state}")

    def _join(self, ctx: str | None) -> tuple[MaskedDescriptor, MaskedFolder]:
        """Fetch a session and accept it if the policy allows (protocol.md §12.1.5, §12.2)."""
        signed = self.patience.ask(lambda: self.contribution.session(ctx))
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
            values=descriptor.shape.length,
            epsilon=descriptor.plan.training.epsilon,
            roster=len(descriptor.roster),
        )
        announce(descriptor, self.patience.log)
        return descriptor, folder

    def check(self, signed: SignedMaskedDescriptor) -> MaskedClient:
        """Everything that must hold of a session before this client trains for it.

        Raises SignatureInvalid, CertificateInvalid, PolicyViolation, RoleViolation, AccountingError (client-level
        noise spends more than is stated), ProtocolViolation (clocks) or SessionClosed.
        """
        client = self._client(signed)
        check_session(client.descriptor)
        if client.descriptor.created_at > self.patience.now + MAX_CLOCK_SKEW:
            raise ProtocolViolation("the session is dated in the future; check the clocks")
        if self.patience.now > client.descriptor.upload_deadline:
            raise SessionClosed(f"session {client.descriptor.ctx[:16]} takes nobody any more: its deadline has passed")
        return client

    def _client(self, signed: SignedMaskedDescriptor) -> MaskedClient:
        return MaskedClient.join(signed, self.signer, self.policy, self.authority, self.journal, self.patience.now)

    def _train(self, descriptor: MaskedDescriptor, folder: MaskedFolder) -> None:
        try:
            self.check(folder.session())
        except SessionClosed as error:
            self.steps.give_up(descriptor, folder, str(error))
            raise
        self.steps.train(descriptor, descriptor.plan, folder)

    # -- the rounds ------------------------------------------------------------------------------------------------

    def _take_rounds(self, descriptor: MaskedDescriptor, folder: MaskedFolder) -> None:
        """Advertise, share, upload, endorse, unmask, in one go."""
        try:
            uploaded = self._until_receipt(descriptor, folder)
        except SecaggError as error:
            if not isinstance(error, TransportError | NotReady):
                self.steps.give_up(descriptor, folder, str(error))
            raise
        try:
            self._until_unmasked(descriptor, uploaded)
        except SessionClosed as error:
            # The vector is there, and the others may open the sum without this client's shares.
            self.patience.log.emit("late", session=descriptor.ctx, reason=str(error))

    def _until_receipt(self, descriptor: MaskedDescriptor, folder: MaskedFolder) -> Uploaded:
        trained, ctx, log = folder.trained(descriptor.ctx), descriptor.ctx, self.patience.log
        advertised, advertisement = self.check(folder.session()).advertise(self.random, self.patience.now)
        self.checkpoint("advertised")
        self._ask(descriptor, lambda: self.contribution.advertise(advertisement))
        log.emit("advertised", session=ctx)
        directory = self._ask(descriptor, lambda: self.contribution.directory(ctx))
        shared, sharing = advertised.share(directory, self.random, self.patience.now)
        self._ask(descriptor, lambda: self.contribution.share(sharing))
        log.emit("key-shared", session=ctx, advertised=len(directory), holders=len(sharing.leaves))
        self.checkpoint("shared")
        told = self._ask(descriptor, lambda: self.contribution.shared(ctx))
        uploaded, message = shared.upload(
            told, trained.change, trained.privacy, self.random, self.patience.now, self.threads
        )
        self.training.mark_sealed(descriptor, message.signed.statement.digest)
        self.checkpoint("marked")
        folder.erase_trained()
        receipt = self._ask(descriptor, lambda: self._offer(message))
        signed = message.signed
        check_receipt(descriptor, signed.signer, signed.statement.digest, receipt, self.patience.now)
        folder.keep_receipt(receipt)
        log.emit("uploaded", bytes=message.vector.nbytes, upload_root=receipt.statement.upload_root)
        self.checkpoint("receipt")
        return uploaded

    def _until_unmasked(self, descriptor: MaskedDescriptor, uploaded: Uploaded) -> None:
        chosen = self._ask(descriptor, lambda: self.contribution.survivors(descriptor.ctx))
        endorsed, endorsement = uploaded.endorse(chosen, self.patience.now)
        self._ask(descriptor, lambda: self.contribution.endorse(endorsement))
        self.patience.log.emit("endorsed", session=descriptor.ctx, stage="final", members=len(chosen.statement.members))
        self.checkpoint("endorsed")
        request = self._ask(descriptor, lambda: self.contribution.unmasking(descriptor.ctx))
        answer = endorsed.unmask(request, self.patience.now)
        self._ask(descriptor, lambda: self.contribution.unmask(answer))
        given = len(answer.statement.self_shares) + len(answer.statement.key_shares)
        self.patience.log.emit("unmasked", session=descriptor.ctx, shares=given)
        self.checkpoint("unmasked")

    def _ask(self, descriptor: MaskedDescriptor, call: Callable[[], T]) -> T:
        return self.patience.ask(call, until=descriptor.expires_at)

    def _offer(self, message: UploadMessage) -> SignedReceipt:
        """One attempt: always the same bytes (protocol.md §12.5.4)."""
        return self.steps.offer(
            lambda: self.contribution.begin_upload(message.signed),
            lambda offset, chunks: self.contribution.upload(message, offset, chunks),
            message.vector.data.cast("B"),
        )

    # -- the release -----------------------------------------------------------------------------------------------

    def _await(self, descriptor: MaskedDescriptor, folder: MaskedFolder) -> None:
        """Wait for the release, fetch it, verify it against this client's own policy, and store it."""
        status = self.steps.wait(descriptor, lambda: self.contribution.status(descriptor.ctx))
        only = OnlyRelease(
            self.steps, self.publication, self.release, lambda content: verify_masked(content, self.policy).certificate
        )
        only.receive(descriptor, folder, status, MAX_SMALL_FILE + 16 * descriptor.shape.packed_bytes)
