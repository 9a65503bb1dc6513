"""Shares that the coordinator passes on, checked by their receiver (protocol.md §12.5.1, §12.7.1)."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from secagg.errors import MalformedError, ProtocolViolation, ShareError
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.keys import BoxContext, SealingRound, commitment, unseal
from secagg.masked.messages import Advertisement, DeliveredSelfShare, DeliveredShare, SignedAdvertisement, leaf_data
from secagg.masked.sharing import Secret, Share, residues
from secagg.merkle import verify_path


def check_advertisement(descriptor: MaskedDescriptor, signed: SignedAdvertisement, number: int) -> Advertisement:
    """The member's own signature, for this session. Raises SignatureInvalid or ProtocolViolation."""
    identity = descriptor.member(number)
    statement = signed.verify(identity)
    if (statement.ctx, statement.client) != (descriptor.ctx, identity.fingerprint):
        raise ProtocolViolation(f"the advertisement of {identity.title} is for another session or client")
    return statement


@dataclass(frozen=True, slots=True, repr=False)
class Receiver:
    """A client in so far as it opens boxes: its number, its private box key, and the directory as shown to it."""

    descriptor: MaskedDescriptor
    number: int
    box_key: Secret
    directory: Mapping[int, SignedAdvertisement]

    def __repr__(self) -> str:
        return f"Receiver(member {self.number}, <redacted>)"

    def peer(self, number: int) -> Advertisement:
        """The verified advertisement of another member. Raises ProtocolViolation when it is not in the directory."""
        signed = self.directory.get(number)
        if signed is None or number == self.number:
            raise ProtocolViolation(f"member {number} did not advertise, or is this client itself")
        return check_advertisement(self.descriptor, signed, number)

    def open(self, delivered: DeliveredShare | DeliveredSelfShare, sealed_in: SealingRound) -> tuple[int, Share | None]:
        """The sender and its share; None in place of the share when the sender is at fault: a complaint.

        Raises what shows a lie of the coordinator: RoleViolation, SignatureInvalid, ProtocolViolation or HashMismatch.
        """
        sender = self.descriptor.number_of(delivered.signed.statement.client)
        identity = self.descriptor.member(sender)
        statement = delivered.signed.verify(identity)
        if statement.ctx != self.descriptor.ctx:
            raise ProtocolViolation(f"what {identity.title} shared is of another session")
        peer = self.peer(sender)
        data = leaf_data(delivered.commitment, delivered.box)
        verify_path(data, delivered.index, statement.holders, delivered.path, bytes.fromhex(statement.root))
        own = self.descriptor.member(self.number).fingerprint
        context = BoxContext(ctx=self.descriptor.ctx, sender=identity.fingerprint, receiver=own, round=sealed_in)
        try:
            share = unseal(delivered.box, self.box_key, bytes.fromhex(peer.box_key), context)
            residues(share)
        except ShareError:
            return sender, None
        found = commitment(self.descriptor.ctx, identity.fingerprint, own, share)
        return sender, share if hmac.compare_digest(found, delivered.commitment) else None


def read_directory(
    descriptor: MaskedDescriptor, directory: tuple[SignedAdvertisement, ...]
) -> dict[int, SignedAdvertisement]:
    """The directory by member number, signatures not yet verified. Raises RoleViolation or MalformedError."""
    listed, last = dict[int, SignedAdvertisement](), -1
    for signed in directory:
        number = descriptor.number_of(signed.statement.client)
        if number <= last:
            raise MalformedError("the directory must list distinct members in order of member number")
        listed[number], last = signed, number
    return listed
