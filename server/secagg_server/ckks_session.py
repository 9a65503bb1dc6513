"""A ckks session as the coordinator keeps it (protocol.md §13.3 to §13.6). It holds no key and adds nothing.

Every answer is checked, recorded durably, and only then acted on. `ckks_driver` moves the session on.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from secagg.ckks.client import check_ckks_upload, split_blocks
from secagg.ckks.coordinator import (
    check_arrived,
    check_opening,
    check_opening_word,
    check_refusal,
    refusal_in_words,
)
from secagg.ckks.descriptor import SignedCkksDescriptor
from secagg.ckks.messages import (
    SignedCkksApproval,
    SignedCkksUpload,
    SignedOpeningRefusal,
    SignedSumOpening,
    SignedUploadSet,
)
from secagg.ckks.opened import Opened
from secagg.errors import (
    ConflictError,
    NotReady,
    ProtocolViolation,
    RoleViolation,
    SecaggError,
    SessionClosed,
    SizeLimitError,
    StorageError,
)
from secagg.identity import Identity, Role
from secagg.messages import Receipt, SignedReceipt
from secagg_host.durable import guard, read_file, write_atomic
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server.blobs import UploadFiles
from secagg_server.clock import check_clock
from secagg_server.database import RUNNING, SessionState
from secagg_server.masked_storage import CkksStore
from secagg_server.only_release import OnlyReleaseSession, UploadStream
from secagg_server.session import Host
from secagg_server.tasks import uploads_in_words

SUMS = "sums.bin"
ONCE_MORE = "Start the key-holder again: it hands the same sums in once more, and the session goes on"


class CkksSession(OnlyReleaseSession):
    """A ckks session. With `close_at` uploads it closes before its deadline."""

    def __init__(
        self,
        signed: SignedCkksDescriptor,
        store: CkksStore,
        files: UploadFiles,
        release_folder: Path,
        host: Host,
        close_at: int | None,
    ) -> None:
        super().__init__(signed.statement, store, files, release_folder, host)
        self.signed, self.descriptor, self.close_at = signed, signed.statement, close_at

    def admit(self, peer: Identity) -> None:
        """Raise RoleViolation unless `peer` belongs to this session; auditors may read what is published."""
        if peer.role == Role.CLIENT:
            self.descriptor.client(peer.fingerprint)
        elif peer.role == Role.KEYHOLDER and peer.fingerprint != self.descriptor.holder.fingerprint:
            raise RoleViolation(f"{peer.title} is not the key-holder of session {self.ctx[:16]}")
        elif peer.role == Role.COORDINATOR and peer.fingerprint != self.host.signer.identity.fingerprint:
            raise RoleViolation(f"{peer.title} is not the coordinator of session {self.ctx[:16]}")

    def status(self) -> tuple[SessionState, str]:
        """State and reason; while it runs, what is waited for."""
        state, reason = self.store.state()
        if state == SessionState.PROPOSED:
            reason = f"waiting for the approval of {self.descriptor.holder.title}"
        elif state == SessionState.OPEN:
            come, descriptor = self.store.count("upload"), self.descriptor
            reason = uploads_in_words(come, self.close_at, descriptor.n_min, descriptor.upload_deadline)
        elif state == SessionState.CLOSING:
            reason = self.problem or f"waiting for {self.descriptor.holder.title} to open the sum"
        return state, reason

    # -- the key-holder --------------------------------------------------------------------------------------------

    def approve(self, peer: Identity, signed: SignedCkksApproval) -> None:
        """The key-holder accepts the session (protocol.md §13.3.3). Doing it again changes nothing."""
        word = signed.verify(self.descriptor.holder)
        if (word.ctx, word.holder) != (self.ctx, peer.fingerprint):
            raise ProtocolViolation("the approval is for another session or key-holder")
        with self.lock:
            if self.store.message("approve", peer.fingerprint) is None:
                self._check_state(SessionState.PROPOSED)
                note = self.note(peer.title, "approved the session")
                self.store.add_message("approve", peer.fingerprint, signed.to_bytes(), note)
                self.host.checkpoint("approve-stored")
                self.emit("approved", holder=peer.title, count=1, needed=1)
            self.open_if_approved()

    def open_if_approved(self) -> bool:
        """Take the step that an approval leads to; whether it was still to be taken. A crash may have come between."""
        approved = self.store.message("approve", self.descriptor.holder.fingerprint) is not None
        if not approved or self.store.state()[0] != SessionState.PROPOSED:
            return False
        self.move(SessionState.OPEN, "", "the session is open")
        return True

    def approval(self) -> SignedCkksApproval:
        """The key-holder's approval. Raises NotReady before it is there."""
        raw = self.store.message("approve", self.descriptor.holder.fingerprint)
        if raw is None:
            raise NotReady(f"the session is not approved yet: {self.status()[1]}")
        return SignedCkksApproval.parse(raw)

    def chosen(self) -> SignedUploadSet:
        """U. Raises NotReady before it is fixed, SessionClosed when it never will be."""
        raw = self.store.signed_at("upload")
        if raw is not None:
            return SignedUploadSet.parse(raw)
        state, reason = self.store.state()
        if state not in RUNNING:
            raise SessionClosed(f"session {self.ctx[:16]} is {state}: {reason or 'nothing is asked'}")
        raise NotReady("uploads are still taken")

    def shown(self, client: str) -> tuple[SignedCkksUpload, Iterator[bytes]]:
        """One member's upload for the key-holder: statement, and the bytes in pieces. Raises ProtocolViolation."""
        if client not in {member.client for member in self.chosen().statement.members}:
            raise ProtocolViolation(f"client {client[:16]} is not in the set")
        raw = self.store.message("upload", client)
        if raw is None:
            raise NotReady(f"the upload of {client[:16]} is not here any more")
        return SignedCkksUpload.parse(raw), self.files.blocks(client, MAX_CHUNK_BYTES)

    def wants_sums(self, peer: Identity, signed: SignedSumOpening) -> bool:
        """Whether the sums of this opening are to be sent; looked at before they are, for there are many of them.

        Not when they are here, or the session has ended with them. Raises what `submit` raises of the statement alone.
        """
        self.check_own(peer, signed.signer)
        with self.lock:
            known = self.store.message("open", peer.fingerprint)
            if known is not None:
                if known != signed.to_bytes():
                    raise ConflictError("another opening of this session is recorded; only one is ever taken")
                return self.running and not self._has_sums()
            self._check_state(SessionState.CLOSING)
            if self.refusal() is not None:
                raise ConflictError("this key-holder has refused the opening; that is final")
            check_opening_word(self.descriptor, self.chosen().statement, signed)
        return True

    def submit(self, peer: Identity, signed: SignedSumOpening, sums: bytes) -> None:
        """The sums that the key-holder opened (protocol.md §13.5.5). The same again changes nothing.

        But for sums that the disk has lost since: they are written again.
        """
        self.check_own(peer, signed.signer)
        if len(sums) != 4 * self.descriptor.parameters.length:
            raise SizeLimitError(f"{len(sums)} bytes of sums; they are {4 * self.descriptor.parameters.length}")
        with self.lock:
            if not self.wants_sums(peer, signed):
                return
            opened = Opened(signed, np.frombuffer(sums, "<u4").astype(np.uint32))
            check_opening(self.descriptor, self.chosen().statement, opened)
            write_atomic(self._sums, sums)
            if self.store.message("open", peer.fingerprint) is not None:
                return
            note = self.note(peer.title, "gave the sums that it opened")
            self.store.add_message("open", peer.fingerprint, signed.to_bytes(), note)
            self.host.checkpoint("open-stored")
            self.emit("sums", holder=peer.title)

    def refuse(self, peer: Identity, signed: SignedOpeningRefusal) -> None:
        """The key-holder finds that U does not open (protocol.md §13.5.7). The same again changes nothing."""
        self.check_own(peer, signed.signer)
        with self.lock:
            known = self.refusal()
            if known is None:
                self._check_state(SessionState.CLOSING)
                check_refusal(self.descriptor, self.chosen().statement, signed)
                if self.store.message("open", peer.fingerprint) is not None:
                    raise ConflictError("this key-holder has opened the sum; that is final")
                note = self.note(peer.title, "refused to open the sum")
                self.store.add_message("refuse", peer.fingerprint, signed.to_bytes(), note)
                self.host.checkpoint("refuse-stored")
            elif known != signed:
                raise ConflictError("another refusal of this session is recorded; only one is ever taken")
            self.burn_if_refused()

    def refusal(self) -> SignedOpeningRefusal | None:
        """What the key-holder said when the set did not open, if it did."""
        raw = self.store.message("refuse", self.descriptor.holder.fingerprint)
        return None if raw is None else SignedOpeningRefusal.parse(raw)

    def burn_if_refused(self) -> bool:
        """Take the step that a refusal leads to; whether it was still to be taken. A crash may have come between."""
        refusal = self.refusal()
        if refusal is None or self.store.state()[0] != SessionState.CLOSING:
            return False
        reason = refusal_in_words(self.descriptor, refusal.statement)
        self.move(SessionState.BURNT, reason, "the sum does not open; the session is burnt")
        return True

    def opened(self) -> Opened | None:
        """What the key-holder handed in, if it has. Raises StorageError when the disk has lost the sums."""
        raw = self.store.message("open", self.descriptor.holder.fingerprint)
        if raw is None:
            return None
        signed = SignedSumOpening.parse(raw)
        try:
            found = read_file(self._sums)
        except StorageError as error:
            raise StorageError(f"{error}. {ONCE_MORE}") from error
        if hashlib.sha256(found).hexdigest() != signed.statement.sums:
            raise StorageError(f"{self._sums}: is damaged: it holds other sums than were signed. {ONCE_MORE}")
        return Opened(signed, np.frombuffer(found, "<u4").astype(np.uint32))

    @property
    def _sums(self) -> Path:
        return self.files.folder / SUMS

    def _has_sums(self) -> bool:
        try:
            return self.opened() is not None
        except StorageError:
            return False

    def _check_state(self, wanted: SessionState) -> None:
        check_clock(self.descriptor, self.host.clock())
        state, reason = self.store.state()
        if state != wanted:
            raise SessionClosed(f"session {self.ctx[:16]} is {state}: {reason or 'nothing more is taken'}")

    # -- clients ---------------------------------------------------------------------------------------------------

    def uploads(self) -> dict[str, SignedCkksUpload]:
        """Every upload with a receipt, by client."""
        return {client: SignedCkksUpload.parse(raw) for client, raw in self.store.messages("upload")}

    def check_takes(self) -> None:
        """Raise NotReady before the approval, SessionClosed after the deadline or the close. The lock is held."""
        check_clock(self.descriptor, self.host.clock())
        state, reason = self.store.state()
        if state == SessionState.PROPOSED:
            raise NotReady(f"session {self.ctx[:16]} is not approved yet; ask again")
        late = self.host.clock() > self.descriptor.upload_deadline
        if state != SessionState.OPEN or late:
            why = reason or ("the upload deadline has passed" if late else "its set of uploads is fixed")
            raise SessionClosed(f"session {self.ctx[:16]} takes no more uploads: {why}")

    def begin_upload(self, peer: Identity, signed: SignedCkksUpload) -> int | SignedReceipt:
        """How much of the upload is stored, or the receipt. Raises ConflictError for another upload than before."""
        self.check_own(peer, signed.signer)
        check_ckks_upload(self.descriptor, signed)
        with self.lock:
            known = self.store.message("announced", peer.fingerprint)
            if known is not None and SignedCkksUpload.parse(known) != signed:
                raise ConflictError(
                    f"{peer.title} announced another upload before; a client has one, and resends the same bytes"
                )
            receipt = self.store.receipt(peer.fingerprint)
            if receipt is not None:
                return receipt
            self.check_takes()
            self.turns(peer.fingerprint).take()
            if known is None:
                self.files.discard(peer.fingerprint)
                self.store.add_message("announced", peer.fingerprint, signed.to_bytes(), None)
                self.host.checkpoint("upload-announced")
            return self.files.stored(peer.fingerprint)

    def finish_upload(self, stream: UploadStream, signed: SignedCkksUpload) -> SignedReceipt:
        """Verify the whole, make it durable, and sign for it. What is not as signed is discarded, and raised."""
        peer, client = stream.peer, stream.peer.fingerprint
        with self.lock:
            known = self.store.receipt(client)
            if known is not None:
                return known
            self.check_whole(stream)
            try:
                self._check_content(client, signed)
            except StorageError:
                raise  # that is not the client's fault, and says nothing of its upload
            except SecaggError as error:
                self.files.discard(client)
                self.store.forget("announced", client)
                self.emit("refused", client=peer.title, code=error.code, message=str(error))
                raise
            self.files.seal(client)
            self.host.checkpoint("upload-sealed")
            return self._sign(peer, signed)

    def _check_content(self, client: str, signed: SignedCkksUpload) -> None:
        path = self.files.path(client)
        with guard(path), path.open("rb") as file:
            size = self.descriptor.parameters.ring.wire_bytes
            check_arrived(self.descriptor, signed, split_blocks(file.read, size))

    def _sign(self, peer: Identity, signed: SignedCkksUpload) -> SignedReceipt:
        receipt = self.host.signer.sign(
            Receipt(
                ctx=self.ctx,
                client=peer.fingerprint,
                upload_root=signed.statement.digest,
                received_at=self.host.clock(),
            )
        )
        self.store.add_message(
            "upload", peer.fingerprint, signed.to_bytes(), self.note(peer.title, "uploaded"), receipt
        )
        self.host.checkpoint("receipt-stored")
        have, roster = self.store.count("upload"), len(self.descriptor.roster)
        self.emit("receipt", client=peer.title, bytes=signed.statement.bytes, uploads=have, roster=roster)
        return receipt
