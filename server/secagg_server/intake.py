"""Uploads: announced, streamed, resumed, verified, made durable, receipted (protocol.md §7)."""

import threading
from collections.abc import Callable, Sequence

from secagg.arrival import Arrival
from secagg.errors import (
    ConflictError,
    HashMismatch,
    MalformedError,
    NotReady,
    SecaggError,
    SizeLimitError,
)
from secagg.evidence import box_bytes
from secagg.identity import Identity
from secagg.merkle import root
from secagg.messages import Receipt, SignedReceipt, SignedUpload, Upload
from secagg.sets import check_upload
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server.blobs import PartWriter
from secagg_server.dates import time_of_receipt
from secagg_server.session import ServedSession
from secagg_server.storage import StoredUpload
from secagg_server.streams import Progress, Turns
from secagg_server.together import Together


class _Slot(Turns):
    """One client's place; its lock is held by whoever takes, leaves or checks a turn."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        # What is recorded of the client's upload, as far as this process has seen; None to look it up.
        self.announced: StoredUpload | None = None


class Intake:
    """Takes the uploads of one session."""

    def __init__(self, session: ServedSession) -> None:
        self._session = session
        self._slots: dict[str, _Slot] = {client: _Slot() for client in session.descriptor.clients}
        self._announcements = Together(self._announce_all)
        self._receipts = Together(self._sign_all)

    def begin(self, peer: Identity, signed: SignedUpload) -> int | SignedReceipt:
        """Announce an upload: the number of bytes that are stored, or the receipt when it is complete.

        Raises ConflictError for another upload than the one announced before.
        """
        session, slot = self._session, self._slots[peer.fingerprint]
        check_upload(self._session.descriptor, signed, peer.fingerprint)
        with slot.lock:
            slot.take()
            stored = self._announce(slot, signed)
            if stored.receipt is not None:
                return stored.receipt
            return session.files.stored(peer.fingerprint)

    def stream(
        self,
        peer: Identity,
        signed: SignedUpload,
        boxes: tuple[bytes, ...],
        offset: int,
        cut: Callable[[], object] | None = None,
    ) -> "UploadStream":
        """Open a stream that starts at `offset` of the ciphertext; `cut` ends it when a newer one comes.

        Raises what `begin` raises, HashMismatch or SizeLimitError for boxes that are not the signed ones, and
        NotReady for an offset that is not where the stored part ends.
        """
        session, slot, client = self._session, self._slots[peer.fingerprint], peer.fingerprint
        upload = check_upload(self._session.descriptor, signed, peer.fingerprint)
        self._check_boxes(upload, boxes)
        with slot.lock:
            turn = slot.take(cut)
            stored, arrival = self._announce(slot, signed), Arrival(session.descriptor.parameters)
            if stored.receipt is None:
                size = session.files.stored(client)
                if offset != size:
                    raise NotReady(
                        f"the stream starts at byte {offset}, but {size} are stored: ask again where to resume"
                    )
                for piece in session.files.blocks(client, MAX_CHUNK_BYTES) if size else ():
                    arrival.feed(piece)
        return UploadStream(session, peer, stored, boxes, arrival, (slot, turn), self._receipts.do)

    def _announce(self, slot: _Slot, signed: SignedUpload) -> StoredUpload:
        """What is recorded of this upload; now, if nothing was before. The caller holds the slot."""
        stored = slot.announced or self._session.store.upload(signed.signer)
        if stored is None:
            stored = self._announcements.do(signed)
        elif stored.signed.statement != signed.statement:
            raise ConflictError(
                f"another upload of client {signed.signer[:16]} is recorded for this session; a client has one, "
                "and resends the same bytes"
            )
        elif stored.receipt is None:
            self._session.check_takes_uploads()
        slot.announced = stored
        return stored

    def _announce_all(self, uploads: Sequence[SignedUpload]) -> list[StoredUpload]:
        """Record uploads of different clients, in one transaction. A client's slot lets one through at a time."""
        session = self._session
        with session.lock:
            session.check_takes_uploads()
            for signed in uploads:
                # What a refused or unannounced upload left behind does not belong to this one.
                session.files.discard(signed.signer)
            session.store.announce(uploads)
            session.host.checkpoint("upload-announced")
        return [StoredUpload(signed, None) for signed in uploads]

    def _sign_all(self, uploads: Sequence[tuple[Identity, Upload]]) -> list[SignedReceipt]:
        """Sign for uploads that are durable and whole, and record the receipts in one transaction."""
        session = self._session
        with session.lock:
            session.check_takes_uploads()
            receipts = [
                session.host.signer.sign(
                    Receipt(
                        ctx=upload.ctx,
                        client=upload.client,
                        upload_root=upload.upload_root,
                        received_at=time_of_receipt(session),
                    )
                )
                for _, upload in uploads
            ]
            notes = [session.note(peer.title, "uploaded") for peer, _ in uploads]
            session.store.add_receipts(list(zip(receipts, notes, strict=True)))
            session.host.checkpoint("receipt-stored")
            complete = session.store.count_complete() - len(uploads)
            for number, (peer, upload) in enumerate(uploads, start=1):
                session.emit(
                    "receipt",
                    client=peer.title,
                    bytes=upload.ciphertext_bytes,
                    uploads=complete + number,
                    roster=len(session.descriptor.roster),
                )
            session.announce_change()
        return receipts

    def _check_boxes(self, upload: Upload, boxes: tuple[bytes, ...]) -> None:
        descriptor = self._session.descriptor
        count, size = len(descriptor.committee), box_bytes(descriptor.parameters.share_bytes)
        if len(boxes) != count or any(len(box) != size for box in boxes):
            raise SizeLimitError(f"an upload has {count} boxes of {size} bytes")
        if root(boxes).hex() != upload.boxes_root:
            raise HashMismatch("the boxes do not have the root that the client signed")


class UploadStream:
    """One stream of one client's upload. Whatever happens to it, the stored part stays a prefix."""

    def __init__(
        self,
        session: ServedSession,
        peer: Identity,
        stored: StoredUpload,
        boxes: tuple[bytes, ...],
        arrival: Arrival,
        turn: tuple[_Slot, int],
        sign: Callable[[tuple[Identity, Upload]], SignedReceipt],
    ) -> None:
        self._session, self._peer, self.stored, self._boxes = session, peer, stored, boxes
        self._arrival, (self._slot, self._turn), self._sign = arrival, turn, sign
        total = stored.signed.statement.ciphertext_bytes
        self._progress = Progress(
            session.host.clock, lambda have: session.emit("bytes", client=peer.title, stored=have, total=total)
        )

    def writer(self) -> PartWriter:
        """Open the partial upload."""
        return self._session.files.writer(self._peer.fingerprint)

    def receive(self, chunk: bytes | memoryview, writer: PartWriter) -> None:
        """Append a chunk, and check and hash it. Raises SizeLimitError, NotReady (overtaken) or StorageError."""
        total, before = self.stored.signed.statement.ciphertext_bytes, self._arrival.size
        if not 1 <= len(chunk) <= MAX_CHUNK_BYTES:
            raise SizeLimitError(f"a chunk has {len(chunk)} bytes; it must have 1 to {MAX_CHUNK_BYTES}")
        if (after := before + len(chunk)) > total:
            raise SizeLimitError(f"the stream is longer than the {total} bytes it announced")
        with self._slot.lock:
            self._slot.check(self._turn)
            writer.append(chunk)
        self._arrival.feed(chunk)
        self._progress.at(after)
        self._session.host.checkpoint("chunk-stored")

    def close(self) -> None:
        """The stream has ended, in whatever way."""
        with self._slot.lock:
            self._slot.leave(self._turn)

    def finish(self) -> SignedReceipt:
        """Verify the whole, make it durable, and sign for it.

        Raises SizeLimitError when bytes are missing; MalformedError or HashMismatch when it is not what was
        signed: then it is discarded.
        """
        with self._slot.lock:
            self._slot.check(self._turn)
            session, client, upload = self._session, self._peer.fingerprint, self.stored.signed.statement
            if self._arrival.size < upload.ciphertext_bytes:
                raise SizeLimitError(
                    f"the stream ended after {self._arrival.size} of {upload.ciphertext_bytes} bytes; resume from there"
                )
            try:
                self._arrival.check(upload.ciphertext_root)
            except (MalformedError, HashMismatch) as error:
                self._refuse(error)
                raise
            session.files.seal(client, self._boxes)
            session.host.checkpoint("upload-sealed")
            self._slot.announced = None  # if the receipt cannot be recorded, the store says what holds
            receipt = self._sign((self._peer, upload))
            self._slot.announced = StoredUpload(self.stored.signed, receipt)
            return receipt

    def _refuse(self, error: SecaggError) -> None:
        with self._session.lock:
            self._slot.announced = None
            self._session.store.forget_upload(self._peer.fingerprint)
            self._session.files.discard(self._peer.fingerprint)
        self._session.emit("refused", client=self._peer.title, code=error.code, message=str(error))
