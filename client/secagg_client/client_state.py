"""What a client has on its disk for one session, and what it therefore does next (protocol.md §5.4).

The order is fixed: accepted, trained, spooled, receipted, ended. Each is durable before the next begins, so a client
that is killed anywhere goes on where it was: it does not train twice, and never sends two different uploads.
The trained result is on the disk only between training and sealing, encrypted under the party's own key.
"""

import io
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from pydantic import Field

from secagg.canonical import canonical_bytes, pretty_bytes
from secagg.ckks.client import CkksSealed, blocks_root, split_blocks
from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor
from secagg.ckks.messages import SignedCkksUpload, SignedOpeningRefusal
from secagg.contributor import SealedUpload
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import HashMismatch, MalformedError, StorageError, VerificationError
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor
from secagg.merkle import root
from secagg.messages import SignedReceipt, SignedUpload
from secagg.plan import Frozen
from secagg.privacy import PrivacyStatement
from secagg.randomness import Randomness
from secagg.signing import Signer, parse_model
from secagg_client.folders import erase_file, write_folder
from secagg_host.durable import make_folder, read_file, write_atomic

NONCE_BYTES = 12
LENGTH = struct.Struct("<I")
SESSION, TRAINED, UPLOAD, RECEIPT, ENDED = "session.json", "trained.enc", "upload", "receipt.json", "ended.json"
REFUSAL = "refusal.json"
STATEMENT, CIPHERTEXT, BOXES = "upload.json", "ciphertext.bin", "boxes.bin"


class Step(StrEnum):
    """What a client does next."""

    JOIN = "join"
    TRAIN = "train"
    SEAL = "seal"
    SEND = "send"
    AWAIT = "await"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class ClientState:
    """Which of the durable things exist."""

    accepted: bool = False
    trained: bool = False
    spooled: bool = False
    receipted: bool = False
    ended: bool = False

    @property
    def next_step(self) -> Step:
        """The latest thing decides; what comes before it is not done again."""
        if self.ended:
            return Step.DONE
        if self.receipted:
            return Step.AWAIT
        if self.spooled:
            return Step.SEND
        if self.trained:
            return Step.SEAL
        return Step.TRAIN if self.accepted else Step.JOIN


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of training: the trained tensors' change, float32 [plan.length], and what is said of its privacy."""

    change: NDArray[np.float32] = field(repr=False)
    privacy: PrivacyStatement


class Ended(Frozen):
    """How the session ended for this client."""

    outcome: str = Field(min_length=1)
    reason: str = ""


class PartyFolder:
    """What of a session's durable state is the same in all protocols, in `folder`.

    Raises StorageError when the disk refuses or content is damaged.
    """

    def __init__(self, folder: Path, signer: Signer, random: Randomness) -> None:
        self._folder, self._signer, self._random = folder, signer, random

    @property
    def state(self) -> ClientState:
        """What is there now."""
        accepted, trained, spooled, receipted, ended = (
            (self._folder / name).exists() for name in (SESSION, TRAINED, UPLOAD, RECEIPT, ENDED)
        )
        return ClientState(accepted, trained, spooled, receipted, ended)

    def keep_trained(self, ctx: str, trained: Trained) -> None:
        """Checkpoint the trained result, encrypted with AES-256-GCM and bound to the session."""
        statement = canonical_bytes(trained.privacy)
        plain = LENGTH.pack(len(statement)) + statement + trained.change.astype("<f4").tobytes()
        nonce = self._random(NONCE_BYTES)
        write_atomic(self._folder / TRAINED, nonce + self._cipher(ctx).encrypt(nonce, plain, bytes.fromhex(ctx)))

    def trained(self, ctx: str) -> Trained:
        """The checkpoint. Raises StorageError when it was altered or belongs to another party or session."""
        path = self._folder / TRAINED
        raw = read_file(path)
        try:
            plain = self._cipher(ctx).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bytes.fromhex(ctx))
        except InvalidTag as error:
            raise StorageError(f"{path}: altered, or made with another identity or for another session") from error
        end = LENGTH.size + LENGTH.unpack_from(plain)[0]
        privacy = parse_model(PrivacyStatement, plain[LENGTH.size : end])
        return Trained(np.frombuffer(plain[end:], "<f4").astype(np.float32), privacy)

    def erase_trained(self) -> None:
        """Destroy the checkpoint, once there is a sealed upload or the session is over."""
        erase_file(self._folder / TRAINED)

    @property
    def receipt_path(self) -> Path:
        """Where the receipt is kept."""
        return self._folder / RECEIPT

    def keep_receipt(self, receipt: SignedReceipt) -> None:
        """Keep the coordinator's word that it holds the upload."""
        write_atomic(self.receipt_path, receipt.to_bytes())

    def receipt(self) -> SignedReceipt:
        """The coordinator's word that it holds the upload."""
        return SignedReceipt.parse(read_file(self.receipt_path))

    def end(self, outcome: str, reason: str = "") -> None:
        """Nothing more is done for this session."""
        write_atomic(self._folder / ENDED, pretty_bytes(Ended(outcome=outcome, reason=reason)))

    def ended(self) -> Ended:
        """How it ended."""
        return parse_model(Ended, read_file(self._folder / ENDED))

    def _cipher(self, ctx: str) -> AESGCM:
        return AESGCM(self._signer.storage_key(f"trained/{ctx}"))


class SessionFolder(PartyFolder):
    """The durable state of one `sealed` session."""

    def accept(self, signed: SignedDescriptor) -> None:
        """Keep the session that was checked and accepted."""
        make_folder(self._folder)
        write_atomic(self._folder / SESSION, pretty_bytes(signed))

    def session(self) -> SignedDescriptor:
        """The accepted session."""
        return parse_model(SignedDescriptor, read_file(self._folder / SESSION))

    def spool(self, sealed: SealedUpload) -> None:
        """Keep the one upload: all of it or nothing."""
        files = {
            STATEMENT: sealed.signed.to_bytes(),
            CIPHERTEXT: sealed.ciphertext.tobytes(),
            BOXES: b"".join(sealed.boxes),
        }
        write_folder(self._folder / UPLOAD, files)

    def upload(self, descriptor: Descriptor) -> SealedUpload:
        """The spooled upload, checked against what was signed. Every retry sends these bytes."""
        folder = self._folder / UPLOAD
        signed = SignedUpload.parse(read_file(folder / STATEMENT))
        blocks, boxes = read_file(folder / CIPHERTEXT), read_file(folder / BOXES)
        size, holders = descriptor.parameters.block_bytes, len(descriptor.committee)
        box = len(boxes) // holders
        split = tuple(boxes[index * box : (index + 1) * box] for index in range(holders))
        try:
            upload = signed.verify(self._signer.identity)
            if len(blocks) != upload.ciphertext_bytes or len(blocks) % size or len(boxes) % holders:
                raise HashMismatch("another length")
            ciphertext = np.frombuffer(blocks, np.uint8).reshape(-1, size)
            if root(row.data for row in ciphertext).hex() != upload.ciphertext_root:
                raise HashMismatch("another ciphertext")
            if upload.ctx != descriptor.ctx or root(split).hex() != upload.boxes_root:
                raise HashMismatch("another session or other boxes")
        except VerificationError as error:
            raise StorageError(
                f"{folder}: the spooled upload is not what was signed ({error}); it is damaged"
            ) from error
        return SealedUpload(signed, ciphertext, split)


class CkksFolder(PartyFolder):
    """The durable state of one ckks session."""

    def accept(self, signed: SignedCkksDescriptor) -> None:
        """Keep the session that was checked and accepted."""
        make_folder(self._folder)
        write_atomic(self._folder / SESSION, signed.to_bytes())

    def session(self) -> SignedCkksDescriptor:
        """The accepted session."""
        return SignedCkksDescriptor.parse(read_file(self._folder / SESSION))

    @property
    def refusal_path(self) -> Path:
        """Where the key-holder's word that the set does not open is kept."""
        return self._folder / REFUSAL

    def keep_refusal(self, signed: SignedOpeningRefusal) -> None:
        """Keep the key-holder's word that the set does not open."""
        write_atomic(self.refusal_path, signed.to_bytes())

    def refusal(self) -> SignedOpeningRefusal | None:
        """That word, if it was kept. Raises MalformedError when it is damaged."""
        return SignedOpeningRefusal.parse(read_file(self.refusal_path)) if self.refusal_path.exists() else None

    def spool(self, sealed: CkksSealed) -> None:
        """Keep the one upload: all of it or nothing."""
        files = {STATEMENT: sealed.signed.to_bytes(), CIPHERTEXT: b"".join(sealed.blocks)}
        write_folder(self._folder / UPLOAD, files)

    def upload(self) -> tuple[SignedCkksUpload, bytes]:
        """The spooled upload, checked against what was signed. Every retry sends these bytes."""
        folder = self._folder / UPLOAD
        signed, raw = SignedCkksUpload.parse(read_file(folder / STATEMENT)), read_file(folder / CIPHERTEXT)
        try:
            upload = signed.verify(self._signer.identity)
            size = max(1, upload.bytes // upload.blocks)
            if len(raw) != upload.bytes or blocks_root(split_blocks(io.BytesIO(raw).read, size)) != upload.root:
                raise HashMismatch("another ciphertext")
        except (VerificationError, MalformedError) as error:
            raise StorageError(
                f"{folder}: the spooled upload is not what was signed ({error}); it is damaged"
            ) from error
        return signed, raw


class MaskedFolder(PartyFolder):
    """The durable state of one masked session. Its secrets are never here (protocol.md §12.2.2)."""

    def accept(self, signed: SignedMaskedDescriptor) -> None:
        """Keep the session that was checked and accepted."""
        make_folder(self._folder)
        write_atomic(self._folder / SESSION, signed.to_bytes())

    def session(self) -> SignedMaskedDescriptor:
        """The accepted session."""
        return SignedMaskedDescriptor.parse(read_file(self._folder / SESSION))


class SessionShelf:
    """All sessions of a client, one folder each, below `folder`."""

    def __init__(self, folder: Path, signer: Signer, random: Randomness) -> None:
        self._folder, self._signer, self._random = make_folder(folder), signer, random

    def of(self, ctx: str) -> SessionFolder:
        """The folder of a session."""
        return SessionFolder(self._folder / ctx, self._signer, self._random)

    def unfinished(self) -> list[tuple[Descriptor, SessionFolder]]:
        """Accepted sessions that have not ended, oldest first."""
        found = list[tuple[Descriptor, SessionFolder]]()
        for path in sorted(self._folder.iterdir()):
            folder = SessionFolder(path, self._signer, self._random)
            state = folder.state
            if state.accepted and not state.ended:
                found.append((folder.session().descriptor.statement, folder))
        return sorted(found, key=lambda item: item[0].created_at)


class MaskedShelf:
    """All masked sessions of a client, one folder each, below `folder`."""

    def __init__(self, folder: Path, signer: Signer, random: Randomness) -> None:
        self._folder, self._signer, self._random = make_folder(folder), signer, random

    def of(self, ctx: str) -> MaskedFolder:
        """The folder of a session."""
        return MaskedFolder(self._folder / ctx, self._signer, self._random)

    def unfinished(self) -> list[tuple[MaskedDescriptor, MaskedFolder]]:
        """Accepted sessions that have not ended, oldest first."""
        folders = [self.of(path.name) for path in sorted(self._folder.iterdir())]
        found = [(one.session().statement, one) for one in folders if one.state.accepted and not one.state.ended]
        return sorted(found, key=lambda item: item[0].created_at)


class CkksShelf:
    """All ckks sessions of a client, one folder each, below `folder`."""

    def __init__(self, folder: Path, signer: Signer, random: Randomness) -> None:
        self._folder, self._signer, self._random = make_folder(folder), signer, random

    def of(self, ctx: str) -> CkksFolder:
        """The folder of a session."""
        return CkksFolder(self._folder / ctx, self._signer, self._random)

    def unfinished(self) -> list[tuple[CkksDescriptor, CkksFolder]]:
        """Accepted sessions that have not ended, oldest first."""
        folders = [self.of(path.name) for path in sorted(self._folder.iterdir())]
        found = [(one.session().statement, one) for one in folders if one.state.accepted and not one.state.ended]
        return sorted(found, key=lambda item: item[0].created_at)
