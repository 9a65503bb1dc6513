"""A masked session as the coordinator keeps it: its rounds, message by message (protocol.md §12.3 to §12.7).

A message is checked by its round, recorded durably, only then taken into the round, and then answered; so memory never
holds what the store does not. `masked_driver` closes rounds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secagg.errors import (
    ConflictError,
    NotReady,
    RoleViolation,
    SecaggError,
    SessionClosed,
    StorageError,
)
from secagg.identity import Identity, Role
from secagg.masked.closing import ConsistencyRound, Keep, UnmaskRound
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg.masked.messages import (
    Directory,
    SharedSet,
    SignedAdvertisement,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSurvivorSet,
    SignedUnmasking,
    UnmaskRequest,
)
from secagg.masked.server import AdvertiseRound, UploadRound
from secagg.messages import Receipt, SignedReceipt
from secagg_server.blobs import UploadFiles
from secagg_server.clock import check_clock
from secagg_server.database import SessionState
from secagg_server.masked_border import leaves_of
from secagg_server.masked_replay import STEPS, Stage, checked, expected, following, missing_of, rebuilt, step_of
from secagg_server.masked_storage import MaskedStore
from secagg_server.only_release import OnlyReleaseSession, UploadStream
from secagg_server.session import Host

DONE = {
    "advertise": "advertised its keys",
    "share": "shared its mask key",
    "upload": "uploaded",
    "endorse": "endorsed the set",
    "unmask": "gave its shares",
}
"""What the timeline says of a step that a client has taken."""


class MaskedSession(OnlyReleaseSession):
    """A masked session.

    Built anew from what is stored: the same messages, in the same order, give the same rounds. What is stored but
    cannot be taken again is a `problem` of this session alone. Once it is `opening`, no share comes into the last
    round, which is read without the lock then.
    """

    def __init__(
        self, signed: SignedMaskedDescriptor, store: MaskedStore, files: UploadFiles, release_folder: Path, host: Host
    ) -> None:
        super().__init__(signed.statement, store, files, release_folder, host)
        self.signed, self.descriptor = signed, signed.statement
        self.stage: Stage = AdvertiseRound(self.descriptor)
        self.opening = False
        self._begun: float | None = None
        self._settled = False
        try:
            self.settle()
        except StorageError as error:
            self.problem = str(error)  # the driver says so, and tries again

    @property
    def step(self) -> str:
        """The step that messages are taken for."""
        return step_of(self.stage)

    def admit(self, peer: Identity) -> None:
        """Raise RoleViolation unless `peer` belongs to this session; auditors may read what is published."""
        if peer.role == Role.CLIENT:
            self.descriptor.number_of(peer.fingerprint)
        elif peer.role == Role.KEYHOLDER:
            raise RoleViolation(f"session {self.ctx[:16]} is masked: it has no key-holders")
        elif peer.role == Role.COORDINATOR and peer.fingerprint != self.host.signer.identity.fingerprint:
            raise RoleViolation(f"{peer.title} is not the coordinator of session {self.ctx[:16]}")

    def status(self) -> tuple[SessionState, str]:
        """State and reason; while it runs, what is waited for."""
        state, reason = self.store.state()
        if state in {SessionState.OPEN, SessionState.CLOSING}:
            # Of one round, whichever that is, and without the lock: all clients ask this, again and again.
            stage = self.stage
            step, missing = step_of(stage), missing_of(stage)
            names = ", ".join(self.descriptor.member(number).title for number in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            reason = self.problem or (f"round '{step}': waiting for {names}{more}" if names else f"'{step}' ends")
        return state, reason

    def expected(self) -> set[int]:
        """Members whose message this round can take."""
        return expected(self.stage)

    def missing(self) -> list[int]:
        """Members that this round still waits for."""
        return missing_of(self.stage)

    # -- what clients hand in ------------------------------------------------------------------------------------

    def advertise(self, peer: Identity, signed: SignedAdvertisement) -> None:
        """Public keys for this session (protocol.md §12.3)."""
        self._take("advertise", peer, signed.signer, signed.to_bytes())

    def share(self, peer: Identity, signer: str, body: bytes) -> None:
        """Shares of the mask key (protocol.md §12.4); `body` is the message as it came."""
        self._take("share", peer, signer, body)

    def endorse(self, peer: Identity, signed: SignedSetEndorsement) -> None:
        """A member's word for U (protocol.md §12.6.1)."""
        self._take("endorse", peer, signed.signer, signed.to_bytes())

    def unmask(self, peer: Identity, signed: SignedUnmasking) -> None:
        """A holder's shares (protocol.md §12.7.1)."""
        self._take("unmask", peer, signed.signer, signed.to_bytes())

    def _take(self, step: str, peer: Identity, signer: str, body: bytes) -> None:
        """Check, record, take, answer. The same again changes nothing, also when the round is over."""
        self.check_own(peer, signer)
        with self.lock:
            if self._known(step, peer, body):
                return
            self._check_turn(step)
            keep = checked(self.stage, peer.fingerprint, body, self.files)
            with self._recording():
                self.store.add_message(step, peer.fingerprint, body, self.note(peer.title, DONE[step]))
                keep()
            self.host.checkpoint(f"{step}-stored")
            self.emit(f"masked-{step}", client=peer.title, have=len(self.stage.taken), of=len(self.expected()))

    def _known(self, step: str, peer: Identity, body: bytes) -> bool:
        known = self.store.message(step, peer.fingerprint)
        if known is not None and known != body:
            raise ConflictError(f"{peer.title} took the step '{step}' otherwise before; the first one stays")
        return known is not None

    def _check_turn(self, step: str) -> None:
        """Raise SessionClosed when the round of `step` is over, NotReady when it has not begun."""
        self._check_running()
        if step == "unmask" and (self.opening or self.store.release_inputs() is not None):
            # What is fixed is built again after a crash, and must come out the same.
            raise SessionClosed(f"the sum of session {self.ctx[:16]} is opened; nothing more is asked")
        if STEPS.index(step) < STEPS.index(self.step):
            raise SessionClosed(
                f"the round '{step}' of session {self.ctx[:16]} is over: a client that was silent then has vanished "
                "from it"
            )
        if step != self.step:
            raise self._early()

    def _early(self) -> NotReady:
        """Said the same way while a round lasts, so that who asks again and again need not show it again."""
        return NotReady(f"the round '{self.step}' goes on until the others have answered, or its time is up")

    def _check_running(self) -> None:
        check_clock(self.descriptor, self.host.clock())
        state, reason = self.store.state()
        if state not in {SessionState.OPEN, SessionState.CLOSING}:
            raise SessionClosed(f"session {self.ctx[:16]} is {state}: {reason or 'nothing more is taken'}")
        self.settle()

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Around a write and what follows from it in memory: unless both are done, `settle` asks the store."""
        self._settled = False
        yield
        self._settled = True

    def settle(self) -> None:
        """See to it that the rounds in memory are those in the store: at the start, and after a write that failed.

        Raises StorageError while that cannot be done.
        """
        with self.lock:
            if self._settled or not self.running:
                return
            same = self.store.count(self.step) == len(self.stage.taken) and self.store.closed_at(self.step) is None
            if not same:
                self.begin_round()  # nothing is answered until that is done, which may take long
                self.stage = rebuilt(self.descriptor, self.store, self.files)
            self._settled = True

    # -- the masked vector ---------------------------------------------------------------------------------------

    def check_takes(self) -> None:
        """Raise SessionClosed when the round of uploads is over, NotReady when it has not begun. The lock is held."""
        self._check_turn("upload")

    def begin_upload(self, peer: Identity, signed: SignedMaskedUpload) -> int | SignedReceipt:
        """How much of the vector is stored, or the receipt. Raises ConflictError for another upload than before."""
        self.check_own(peer, signed.signer)
        with self.lock:
            receipt = self.store.receipt(peer.fingerprint)
            self._check_announced(peer, signed)
            if receipt is not None:
                return receipt
            self.check_takes()
            signed.verify(self.descriptor.member(self.descriptor.number_of(peer.fingerprint)))
            self.turns(peer.fingerprint).take()
            if self.store.message("announced", peer.fingerprint) is None:
                self.files.discard(peer.fingerprint)
                self.store.add_message("announced", peer.fingerprint, signed.to_bytes(), None)
            return self.files.stored(peer.fingerprint)

    def _check_announced(self, peer: Identity, signed: SignedMaskedUpload) -> None:
        known = self.store.message("announced", peer.fingerprint)
        if known is not None and SignedMaskedUpload.parse(known) != signed:
            raise ConflictError(
                f"{peer.title} announced another masked vector before; a client has one, and resends the same bytes"
            )

    def finish_upload(self, stream: UploadStream, header: bytes) -> SignedReceipt:
        """Verify the whole vector, make it durable, sign for it, and add it to the sum (protocol.md §12.5.4).

        Raises SizeLimitError when bytes are missing, NotReady when a newer stream came, and what the round raises when
        it is not what was signed: then it is discarded.
        """
        peer, client = stream.peer, stream.peer.fingerprint
        with self.lock:
            known = self.store.receipt(client)
            if known is not None:
                return known
            self.check_whole(stream)
            try:
                keep = checked(self.stage, client, header, self.files)
            except StorageError:
                raise  # that is not the client's fault, and says nothing of its vector
            except SecaggError as error:
                self.files.discard(client)
                self.store.forget("announced", client)
                self.emit("refused", client=peer.title, code=error.code, message=str(error))
                raise
            self.files.seal(client)
            self.host.checkpoint("upload-sealed")
            return self._sign(peer, header, keep)

    def _sign(self, peer: Identity, header: bytes, keep: Keep) -> SignedReceipt:
        signed, _ = leaves_of(header)
        receipt = self.host.signer.sign(
            Receipt(
                ctx=self.ctx,
                client=peer.fingerprint,
                upload_root=signed.statement.digest,
                received_at=self.host.clock(),
            )
        )
        with self._recording():
            self.store.add_message("upload", peer.fingerprint, header, self.note(peer.title, DONE["upload"]), receipt)
            keep()
        self.host.checkpoint("receipt-stored")
        have = len(self.stage.taken)
        self.emit(
            "receipt", client=peer.title, uploads=have, bytes=signed.statement.vector_bytes, roster=len(self.expected())
        )
        return receipt

    # -- what clients are told -----------------------------------------------------------------------------------

    def directory(self) -> Directory:
        """All advertisements. Raises NotReady before their round is closed."""
        with self.lock:
            self._check_running()
            if isinstance(self.stage, AdvertiseRound):
                raise self._early()
            return self.stage.directory

    def shared_with(self, peer: Identity) -> SharedSet:
        """What a client is told when B is fixed (protocol.md §12.5.1)."""
        with self.lock:
            self._check_turn("upload")
            stage, number = self.stage, self.descriptor.number_of(peer.fingerprint)
            if not isinstance(stage, UploadRound) or number not in stage.sharings:
                raise SessionClosed(f"{peer.title} has not shared its mask key; it has vanished from this session")
            return stage.shared_with(number)

    def survivors(self) -> SignedSurvivorSet:
        """U (protocol.md §12.6.1). Raises NotReady before it is fixed."""
        with self.lock:
            self._check_running()
            if not isinstance(self.stage, ConsistencyRound | UnmaskRound):
                raise self._early()
            return self.stage.chosen

    def unmask_request(self, peer: Identity) -> UnmaskRequest:
        """What a client is shown before it answers (protocol.md §12.7.1)."""
        with self.lock:
            self._check_turn("unmask")
            stage, number = self.stage, self.descriptor.number_of(peer.fingerprint)
            if not isinstance(stage, UnmaskRound) or number not in stage.endorsements:
                raise SessionClosed(f"{peer.title} has not endorsed the set; nothing is asked of it")
            return stage.request(number)

    # -- rounds --------------------------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """Those who are silent have the whole of the round's time again, from the next look at it on."""
        self._begun = None

    def is_over(self) -> bool:
        """Whether those who are silent have had their time in this round; to be looked at while it is served.

        The first lasts until the upload deadline, by the clock; a later one for `round_seconds` in which this process
        serves it. What the coordinator was away, and what its clock jumps over, is nobody's time (protocol.md §12.2.1).
        """
        if isinstance(self.stage, AdvertiseRound):
            return self.host.clock() > self.descriptor.upload_deadline
        now = self.host.monotonic()
        if self._begun is None:
            self._begun = now
        return now > self._begun + self.descriptor.round_seconds

    def close_round(self) -> None:
        """Close the current round, durably, and begin the next. Raises TooFewContributions: then nothing is closed."""
        step, have, of = self.step, len(self.stage.taken), len(self.expected())
        after = following(self.stage, lambda stage: stage.close(self.host.signer))
        chosen = after.chosen.to_bytes() if isinstance(after, ConsistencyRound) else None
        note = self.note(self.host.signer.identity.title, f"closed the round '{step}' with {have} of them")
        with self._recording():
            self.store.close_round(step, note, chosen, closing=step == "advertise")
            self.stage = after
            self.begin_round()
        self.host.checkpoint(f"{step}-closed")
        self.emit("round", closed=step, have=have, of=of)
