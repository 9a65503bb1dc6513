"""Uploads: announced, streamed, resumed, verified, made durable, receipted (protocol.md §7)."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from secagg.errors import (
    ConflictError,
    HashMismatch,
    MalformedError,
    ProtocolViolation,
    SecaggError,
    SizeLimitError,
)
from secagg.evidence import box_bytes
from secagg.identity import Identity
from secagg.merkle import leaf_hash, root, root_of
from secagg.messages import Receipt, SignedReceipt, SignedUpload, Upload
from secagg.packing import unpack_block
from secagg.sets import check_upload
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server.blobs import PartWriter
from secagg_server.session import ServedSession
from secagg_server.storage import StoredUpload

PROGRESS_STEPS = 20


class _Slot:
    """One client's place: the newest stream holds the turn, older ones are cut and find that theirs is over."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.turn = 0
        self._cut: Callable[[], object] | None = None

    def take(self, cut: Callable[[], object] | None = None) -> int:
        if self._cut is not None:
            self._cut()
        self.turn, self._cut = self.turn + 1, cut
        return self.turn

    def leave(self, turn: int) -> None:
        if self.turn == turn:
            self._cut = None

    def check(self, turn: int) -> None:
        if self.turn != turn:
            raise ConflictError("a newer stream of this client took over; this one is dropped")


class Intake:
    """Takes the uploads of one session."""

    def __init__(self, session: ServedSession) -> None:
        self._session = session
        self._slots: dict[str, _Slot] = {client: _Slot() for client in session.descriptor.clients}

    def begin(self, peer: Identity, signed: SignedUpload) -> int | SignedReceipt:
        """Announce an upload: the number of bytes that are stored, or the receipt when it is complete.

        Raises ConflictError for another upload than the one announced before.
        """
        session, slot = self._session, self._slots[peer.fingerprint]
        check_upload(self._session.descriptor, signed, peer.fingerprint)
        with slot.lock:
            slot.take()
            stored = self._announce(signed)
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
        ProtocolViolation for an offset that is not where the stored part ends.
        """
        session, slot, client = self._session, self._slots[peer.fingerprint], peer.fingerprint
        upload = check_upload(self._session.descriptor, signed, peer.fingerprint)
        self._check_boxes(upload, boxes)
        with slot.lock:
            turn = slot.take(cut)
            stored = self._announce(signed)
            if stored.receipt is None:
                size = session.files.stored(client)
                if offset != size:
                    raise ProtocolViolation(f"the stream starts at byte {offset}, but {size} are stored; resume there")
                session.files.put_boxes(client, boxes)
        return UploadStream(session, peer, stored, slot, turn)

    def _announce(self, signed: SignedUpload) -> StoredUpload:
        session = self._session
        with session.lock:
            stored = session.store.upload(signed.signer)
            if stored is not None and stored.signed.statement != signed.statement:
                raise ConflictError(
                    f"another upload of client {signed.signer[:16]} is recorded for this session; a client has one, "
                    "and resends the same bytes"
                )
            if stored is not None and stored.receipt is not None:
                return stored
            session.check_takes_uploads()
            if stored is None:
                # What a refused or unannounced upload left behind does not belong to this one.
                session.files.discard(signed.signer)
                session.store.announce(signed)
                session.host.checkpoint("upload-announced")
            return StoredUpload(signed, None)

    def _check_boxes(self, upload: Upload, boxes: tuple[bytes, ...]) -> None:
        descriptor = self._session.descriptor
        count, size = len(descriptor.committee), box_bytes(descriptor.parameters.share_bytes)
        if len(boxes) != count or any(len(box) != size for box in boxes):
            raise SizeLimitError(f"an upload has {count} boxes of {size} bytes")
        if root(boxes).hex() != upload.boxes_root:
            raise HashMismatch("the boxes do not have the root that the client signed")


@dataclass(frozen=True, slots=True)
class UploadStream:
    """One stream of one client's upload. Whatever happens to it, the stored part stays a prefix."""

    session: ServedSession
    peer: Identity
    stored: StoredUpload
    slot: _Slot
    turn: int

    def writer(self) -> PartWriter:
        """Open the partial upload."""
        return self.session.files.writer(self.peer.fingerprint)

    def receive(self, chunk: bytes, writer: PartWriter) -> None:
        """Append a chunk. Raises SizeLimitError, ConflictError or StorageError."""
        client, total = self.peer.fingerprint, self.stored.signed.statement.ciphertext_bytes
        if not 1 <= len(chunk) <= MAX_CHUNK_BYTES:
            raise SizeLimitError(f"a chunk has {len(chunk)} bytes; it must have 1 to {MAX_CHUNK_BYTES}")
        with self.slot.lock:
            self.slot.check(self.turn)
            before = self.session.files.stored(client)
            if before + len(chunk) > total:
                raise SizeLimitError(f"the stream is longer than the {total} bytes it announced")
            writer.append(chunk)
        after = before + len(chunk)
        if after == total or after * PROGRESS_STEPS // total > before * PROGRESS_STEPS // total:
            self.session.emit("bytes", client=self.peer.title, stored=after, total=total)
        self.session.host.checkpoint("chunk-stored")

    def close(self) -> None:
        """The stream has ended, in whatever way."""
        with self.slot.lock:
            self.slot.leave(self.turn)

    def finish(self) -> SignedReceipt:
        """Verify the whole, make it durable, and sign for it.

        Raises SizeLimitError when bytes are missing; MalformedError or HashMismatch when it is not what was
        signed: then it is discarded.
        """
        with self.slot.lock:
            self.slot.check(self.turn)
            session, client, upload = self.session, self.peer.fingerprint, self.stored.signed.statement
            stored = session.files.stored(client)
            if stored < upload.ciphertext_bytes:
                raise SizeLimitError(
                    f"the stream ended after {stored} of {upload.ciphertext_bytes} bytes; resume from there"
                )
            try:
                self._verify(upload)
            except (MalformedError, HashMismatch) as error:
                self._refuse(error)
                raise
            session.files.seal(client)
            session.host.checkpoint("upload-sealed")
            return self._sign(upload)

    def _verify(self, upload: Upload) -> None:
        parameters, leaves = self.session.descriptor.parameters, list[bytes]()
        for block in self.session.files.blocks(upload.client, parameters.block_bytes):
            unpack_block(parameters, block)
            leaves.append(leaf_hash(block))
        if root_of(leaves).hex() != upload.ciphertext_root:
            raise HashMismatch("the ciphertext does not have the root that the client signed; send it again from 0")

    def _refuse(self, error: SecaggError) -> None:
        with self.session.lock:
            self.session.store.forget_upload(self.peer.fingerprint)
            self.session.files.discard(self.peer.fingerprint)
        self.session.emit("refused", client=self.peer.title, code=error.code, message=str(error))

    def _sign(self, upload: Upload) -> SignedReceipt:
        session = self.session
        with session.lock:
            session.check_takes_uploads()
            receipt = session.host.signer.sign(
                Receipt(
                    ctx=upload.ctx,
                    client=upload.client,
                    upload_root=upload.upload_root,
                    received_at=session.host.clock(),
                )
            )
            session.store.add_receipt(receipt, session.note(self.peer.title, "uploaded"))
            session.host.checkpoint("receipt-stored")
            session.emit(
                "receipt",
                client=self.peer.title,
                bytes=upload.ciphertext_bytes,
                uploads=session.store.count_complete(),
                roster=len(session.descriptor.roster),
            )
            session.announce_change()
        return receipt
