"""A client after its upload: it endorses one set U, and answers for that one (protocol.md §12.6, §12.7.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from secagg.errors import EndorsementInvalid, ProtocolViolation
from secagg.keyholder import Journal
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.messages import (
    RevealedShare,
    SetEndorsement,
    SignedSetEndorsement,
    SignedSurvivorSet,
    SignedUnmasking,
    SurvivorSet,
    Unmasking,
    UnmaskRequest,
)
from secagg.masked.policy import MaskedPolicy
from secagg.masked.receiving import Receiver
from secagg.masked.sharing import Share
from secagg.signing import Signer


class Participant(Protocol):
    """What these stages need of `MaskedClient`."""

    @property
    def descriptor(self) -> MaskedDescriptor:
        """The session."""

    @property
    def signer(self) -> Signer:
        """The client's signing capability."""

    @property
    def policy(self) -> MaskedPolicy:
        """The client's policy."""

    @property
    def journal(self) -> Journal:
        """The client's records."""

    @property
    def number(self) -> int:
        """The client's member number."""

    def check_open(self, now: int) -> None:
        """Raise SessionClosed after the session's end."""

    def once(self, step: str, value: bytes) -> None:
        """Record a step, or raise ConflictError when it was taken with another value."""

    def slot(self, step: str) -> str:
        """The journal's key of a step."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Has sent its vector. `received` are the shares of mask keys it holds, by sender; None where it complains."""

    client: Participant
    receiver: Receiver
    holders: tuple[int, ...]
    shared: tuple[int, ...]
    received: Mapping[int, Share | None] = field(repr=False)

    def endorse(self, signed: SignedSurvivorSet, now: int) -> tuple["Endorsed", SignedSetEndorsement]:
        """Check U and sign its hash; one U, ever (protocol.md §12.6.1).

        Raises SignatureInvalid, ProtocolViolation, TooFewContributions, PolicyViolation, ConflictError, SessionClosed.
        """
        client, descriptor = self.client, self.client.descriptor
        client.check_open(now)
        chosen = signed.verify(descriptor.coordinator_identity)
        if chosen.ctx != descriptor.ctx:
            raise ProtocolViolation("the set is of another session")
        if client.number not in chosen.members:
            raise ProtocolViolation("the set leaves this client out; it has nothing to answer")
        if not set(chosen.members) <= set(self.shared):
            raise ProtocolViolation("the set holds members that have not shared, by what this client was told")
        client.policy.check_set(descriptor, chosen.members)
        client.once("endorsed", chosen.digest.encode())
        statement = SetEndorsement(
            ctx=descriptor.ctx, client=client.signer.identity.fingerprint, set_digest=chosen.digest
        )
        return Endorsed(client, self.receiver, self.holders, self.received, chosen), client.signer.sign(statement)


@dataclass(frozen=True, slots=True)
class Endorsed:
    """Has endorsed one U, and gives shares for that one when enough of its holders have endorsed it too."""

    client: Participant
    receiver: Receiver
    holders: tuple[int, ...]
    received: Mapping[int, Share | None] = field(repr=False)
    chosen: SurvivorSet

    def unmask(self, request: UnmaskRequest, now: int) -> SignedUnmasking:
        """For members of U the share of their own mask, for others of their mask key (protocol.md §12.6.2, §12.7.1).

        The answer is recorded first; asked again, the client gives the same one, whatever is asked.
        Raises EndorsementInvalid, SignatureInvalid, ProtocolViolation, HashMismatch or SessionClosed.
        """
        client, descriptor = self.client, self.client.descriptor
        client.check_open(now)
        self._check_endorsements(request)
        stored = client.journal.get(client.slot("unmasked"))
        if stored is not None:
            return SignedUnmasking.parse(stored)
        members = set(self.chosen.members)
        opened = self._open(request, members)
        vanished = {number: share for number, share in self.received.items() if number not in members}
        statement = Unmasking(
            ctx=descriptor.ctx,
            client=client.signer.identity.fingerprint,
            set_digest=self.chosen.digest,
            self_shares=_revealed(opened),
            key_shares=_revealed(vanished),
            complaints=tuple(sorted(number for number, share in opened.items() if share is None)),
        )
        signed = client.signer.sign(statement)
        return SignedUnmasking.parse(client.journal.record(client.slot("unmasked"), signed.to_bytes()))

    def _check_endorsements(self, request: UnmaskRequest) -> None:
        descriptor = self.client.descriptor
        able = {descriptor.member(number).fingerprint for number in self.holders if number in self.chosen.members}
        seen = set[str]()
        for signed in request.endorsements:
            identity = descriptor.member(descriptor.number_of(signed.signer))
            statement = signed.verify(identity)
            found = (statement.ctx, statement.client, statement.set_digest)
            if found != (descriptor.ctx, identity.fingerprint, self.chosen.digest):
                raise EndorsementInvalid(f"{identity.title} endorsed another set; the coordinator showed two")
            seen.add(identity.fingerprint)
        if len(seen & able) < descriptor.graph.threshold:
            raise EndorsementInvalid(
                f"{len(seen & able)} of this client's holders endorsed the set; {descriptor.graph.threshold} must"
            )

    def _open(self, request: UnmaskRequest, members: set[int]) -> dict[int, Share | None]:
        """Shares of own masks, of members of U that chose this client as a holder; each once."""
        opened = dict[int, Share | None]()
        for delivered in request.deliveries:
            sender, share = self.receiver.open(delivered, "upload")
            if sender not in members or sender not in self.received or sender in opened:
                raise ProtocolViolation(f"the coordinator asks for a share of member {sender} twice, or out of turn")
            opened[sender] = share
        return opened


def _revealed(shares: Mapping[int, Share | None]) -> tuple[RevealedShare, ...]:
    return tuple(
        RevealedShare(member=number, share=share.value.hex())
        for number, share in sorted(shares.items())
        if share is not None
    )
