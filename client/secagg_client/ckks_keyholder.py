"""The key-holder's process in a ckks session: offer, approve, open once, forget (protocol.md §13.3, §13.5).

All decisions are those of `secagg.ckks.keyholder.CkksKeyHolder`, which records before it answers: killed at any step
and started again, it gives the same answers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secagg.ckks.descriptor import CkksDescriptor
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.keys import HolderKey
from secagg.ckks.messages import UploadSet
from secagg.ckks.policy import CkksPolicy
from secagg.errors import ConfigError, ProtocolViolation, SessionClosed, Unopenable
from secagg.identity import Role, check_issued_by
from secagg.randomness import Randomness
from secagg_client.calls import SessionState, Status, ending
from secagg_client.ckks_calls import CkksCalls
from secagg_client.ckks_spool import Spool, SpooledBlocks
from secagg_client.expired_keys import erase_expired, seconds_of
from secagg_client.keyholder_config import KeyHolderConfig
from secagg_client.patience import Patience
from secagg_client.run_steps import no_checkpoint
from secagg_host.config import load_toml
from secagg_host.durable import DurableJournal, SecretFiles, guard, write_atomic
from secagg_host.identity import load_identity

POLL = 1.0


class FileContexts:
    """Both keys of a session as files of mode 0600: `secagg.ckks.keyholder.ContextStore`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, SecretFiles(folder)

    def put(self, offer_digest: str, key: HolderKey) -> None:
        """Store durably."""
        self._files.put_raw(offer_digest, key.to_bytes())

    def get(self, offer_digest: str) -> HolderKey:
        """Load. Raises SessionClosed when the key was erased, MalformedError when it is damaged."""
        return HolderKey.from_bytes(self._files.get_raw(offer_digest))

    def erase(self, offer_digest: str) -> None:
        """Overwrite, then remove; does nothing when it is gone."""
        self._files.erase(offer_digest)

    def keep_until(self, offer_digest: str, expires_at: int) -> None:
        """Remember when the key must go, seconds since 1970."""
        write_atomic(self._folder / f"{offer_digest}.expires", str(expires_at).encode())

    def sweep(self, now: int) -> int:
        """Erase the keys whose session has expired; how many. Raises MalformedError as `erase_expired` does."""
        with guard(self._folder):
            found = [(path, seconds_of) for path in sorted(self._folder.glob("*.expires"))]
        return erase_expired(found, self.erase, now)


def contexts_of(config: KeyHolderConfig) -> FileContexts:
    """The keys of a configuration."""
    return FileContexts(config.state / "ckks-keys")


def load_ckks_holder(config: KeyHolderConfig, journal: DurableJournal, now: int) -> CkksKeyHolder:
    """The key-holder of a configuration. Raises ConfigError or CertificateInvalid."""
    party = load_identity(config.identity)
    if party.identity.role is not Role.KEYHOLDER:
        raise ConfigError(f"{config.identity}: holds the identity of a {party.identity.role}, not of a key-holder")
    check_issued_by(party.identity, party.authority, now)
    policy = load_toml(config.policy, CkksPolicy)
    return CkksKeyHolder(party.signer, policy, party.authority, journal, contexts_of(config))


@dataclass(frozen=True, slots=True)
class CkksHolderRun:
    """Serves one session to its end. `checkpoint` is called after each step; tests kill the process there."""

    holder: CkksKeyHolder
    calls: CkksCalls
    keys: FileContexts
    spool: Spool
    patience: Patience
    random: Randomness
    checkpoint: Callable[[str], None] = no_checkpoint

    def run(self, ctx: str | None = None) -> None:
        """Returns when the session was released. Raises the SecaggError that ended it otherwise.

        A set that does not open burns the session: the coordinator is told, and the key goes with the session's end.
        Any other refusal keeps the key: nothing was answered, and the owner decides what to do.
        """
        self.keys.sweep(self.patience.now)
        signed, log = self.patience.ask(lambda: self.calls.session(ctx)), self.patience.log
        descriptor = signed.statement
        if ctx is not None and descriptor.ctx != ctx:
            raise ProtocolViolation(f"asked for session {ctx[:16]}, the coordinator showed {descriptor.ctx[:16]}")
        log.emit("session", session=descriptor.ctx, coordinator=descriptor.coordinator_identity.title)
        approval = self.holder.approve(signed, self.patience.now)
        self.keys.keep_until(descriptor.offer.statement.digest, descriptor.expires_at)
        self.checkpoint("approved")
        try:
            self.patience.ask(lambda: self.calls.approve(approval), until=descriptor.expires_at)
            log.emit("approved", session=descriptor.ctx)
            self.checkpoint("approval-sent")
            self._open(descriptor)
        except SessionClosed:
            self._finish(descriptor)  # says how it ended, or goes on when only this part of it is over
            return
        self._finish(descriptor)

    def _open(self, descriptor: CkksDescriptor) -> None:
        if self.holder.refusal(descriptor) is None:
            self._open_set(descriptor)
        refusal = self.holder.refusal(descriptor)
        if refusal is not None:
            self.patience.ask(lambda: self.calls.refuse(refusal), until=descriptor.expires_at)
            self.checkpoint("refusal-sent")

    def _open_set(self, descriptor: CkksDescriptor) -> None:
        chosen = self.patience.ask(lambda: self.calls.chosen(descriptor.ctx), until=descriptor.expires_at)
        self.checkpoint("set-fetched")
        try:
            shown = self._shown(descriptor, chosen.statement)
            opened = self.holder.open(descriptor, chosen, shown, self.random, self.patience.now)
        except Unopenable as found:  # its own finding, recorded: no call can end so (protocol.md §11.2)
            self.checkpoint("refused")
            self.patience.log.emit("unopenable", session=descriptor.ctx, message=str(found))
            return
        finally:
            self.spool.clear()
        self.checkpoint("decrypted")
        self.patience.ask(lambda: self.calls.submit(opened), until=descriptor.expires_at)
        self.checkpoint("submitted")
        self.patience.log.emit("opened", session=descriptor.ctx, members=len(chosen.statement.members))

    def _shown(self, descriptor: CkksDescriptor, chosen: UploadSet) -> Iterator[ShownUpload]:
        """Every member's upload, one at a time: on the disk before it is looked at, gone when the next one comes."""
        parameters = descriptor.parameters
        size, total = parameters.ring.wire_bytes, parameters.upload_bytes

        def keep(pieces: Iterator[bytes]) -> SpooledBlocks:
            return self.spool.keep(pieces, total, size)

        for member in chosen.members:
            fetch = partial(self.calls.shown, descriptor.ctx, member.client, total, keep)
            signed, blocks = self.patience.ask(fetch, until=descriptor.expires_at)
            self.checkpoint("spooled")
            yield ShownUpload(signed, blocks)

    def _finish(self, descriptor: CkksDescriptor) -> None:
        """Wait for the end, erase the key, and say how it ended.

        At expiry by this clock the key is erased whatever the coordinator says, or if it says nothing.
        """
        try:
            while not (status := self._status(descriptor)).state.ended:
                self.patience.sleep(POLL)
        except SessionClosed:
            if self.patience.clock() > descriptor.expires_at:
                self._erase(descriptor)
            raise
        self._erase(descriptor)
        if status.state is not SessionState.RELEASED:
            raise ending(status.state, status.reason)
        self.patience.log.emit("released", session=descriptor.ctx)

    def _status(self, descriptor: CkksDescriptor) -> Status:
        return self.patience.ask(lambda: self.calls.status(descriptor.ctx), until=descriptor.expires_at)

    def _erase(self, descriptor: CkksDescriptor) -> None:
        self.holder.forget(descriptor)
        self.checkpoint("erased")
        self.patience.log.emit("erased", session=descriptor.ctx)
