"""The key-holder's process in a ckks session: offer, approve, open once, forget (protocol.md §13.3, §13.5).

All decisions are those of `secagg.ckks.keyholder.CkksKeyHolder`, which records before it answers: killed at any step
and started again, it gives the same answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secagg.ckks.client import LENGTH
from secagg.ckks.descriptor import CkksDescriptor
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.messages import UploadSet
from secagg.ckks.policy import CkksPolicy
from secagg.ckks.scheme import MAX_BLOCK_BYTES, SecretContext
from secagg.errors import ConfigError, ProtocolViolation, SessionClosed
from secagg.identity import Role, check_issued_by
from secagg.keyholder import MAX_CLOCK_SKEW
from secagg.randomness import Randomness
from secagg_client.calls import SessionState, ending
from secagg_client.ckks_calls import CkksCalls
from secagg_client.keyholder_config import KeyHolderConfig
from secagg_client.patience import Patience
from secagg_host.config import load_toml
from secagg_host.durable import DurableJournal, SecretFiles
from secagg_host.identity import load_identity

POLL = 1.0


class FileContexts:
    """Secret contexts as files of mode 0600: `secagg.ckks.keyholder.ContextStore`."""

    def __init__(self, folder: Path) -> None:
        self._files = SecretFiles(folder)

    def put(self, offer_digest: str, key: SecretContext) -> None:
        """Store durably."""
        self._files.put_raw(offer_digest, key.to_bytes())

    def get(self, offer_digest: str) -> SecretContext:
        """Load. Raises SessionClosed when the key was erased, MalformedError when it is damaged."""
        return SecretContext.from_bytes(self._files.get_raw(offer_digest))

    def erase(self, offer_digest: str) -> None:
        """Overwrite, then remove; does nothing when it is gone."""
        self._files.erase(offer_digest)


def load_ckks_holder(config: KeyHolderConfig, journal: DurableJournal, now: int) -> CkksKeyHolder:
    """The key-holder of a configuration. Raises ConfigError or CertificateInvalid."""
    party = load_identity(config.identity)
    if party.identity.role is not Role.KEYHOLDER:
        raise ConfigError(f"{config.identity}: holds the identity of a {party.identity.role}, not of a key-holder")
    check_issued_by(party.identity, party.authority, now)
    policy, keys = load_toml(config.policy, CkksPolicy), FileContexts(config.state / "ckks-keys")
    return CkksKeyHolder(party.signer, policy, party.authority, journal, keys)


@dataclass(frozen=True, slots=True)
class CkksHolderRun:
    """Serves one session to its end."""

    holder: CkksKeyHolder
    calls: CkksCalls
    patience: Patience
    random: Randomness

    def run(self, ctx: str | None = None) -> None:
        """Returns when the session was released. Raises the SecaggError that ended it otherwise.

        A refusal keeps the key: nothing was answered, and the owner decides what to do.
        """
        signed, log = self.patience.ask(lambda: self.calls.session(ctx)), self.patience.log
        descriptor = signed.statement
        if ctx is not None and descriptor.ctx != ctx:
            raise ProtocolViolation(f"asked for session {ctx[:16]}, the coordinator showed {descriptor.ctx[:16]}")
        log.emit("session", session=descriptor.ctx, coordinator=descriptor.coordinator_identity.title)
        approval = self.holder.approve(signed, self.patience.now)
        try:
            self.patience.ask(lambda: self.calls.approve(approval), until=descriptor.expires_at)
            log.emit("approved", session=descriptor.ctx)
            self._open(descriptor)
        except SessionClosed:
            self._finish(descriptor)  # says how it ended, or goes on when only this part of it is over
            return
        self._finish(descriptor)

    def _open(self, descriptor: CkksDescriptor) -> None:
        chosen = self.patience.ask(lambda: self.calls.chosen(descriptor.ctx), until=descriptor.expires_at)
        opened = self.patience.ask(
            lambda: self.holder.open(
                descriptor, chosen, self._shown(descriptor, chosen.statement), self.random, self.patience.now
            ),
            until=descriptor.expires_at,
        )
        self.patience.ask(lambda: self.calls.submit(opened), until=descriptor.expires_at)
        self.patience.log.emit("opened", session=descriptor.ctx, members=len(chosen.statement.members))

    def _shown(self, descriptor: CkksDescriptor, chosen: UploadSet) -> Iterator[ShownUpload]:
        """Every member's upload, fetched one at a time."""
        most = descriptor.parameters.blocks * (LENGTH.size + MAX_BLOCK_BYTES)
        for member in chosen.members:
            yield self.calls.shown(descriptor.ctx, member.client, most)

    def _finish(self, descriptor: CkksDescriptor) -> None:
        """Wait for the end, erase the key, and say how it ended."""
        while True:
            status = self.patience.ask(lambda: self.calls.status(descriptor.ctx))
            late = self.patience.now > descriptor.expires_at + MAX_CLOCK_SKEW
            if status.state.ended or late:
                break
            self.patience.sleep(POLL)
        self.holder.forget(descriptor)
        self.patience.log.emit("erased", session=descriptor.ctx)
        if status.state is not SessionState.RELEASED:
            raise ending(status.state, status.reason)
        self.patience.log.emit("released", session=descriptor.ctx)
