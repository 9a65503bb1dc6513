"""A client of a masked session, one type for each stage (protocol.md §12.3 to §12.5).

`MaskedClient.join` -> `advertise` -> `Advertised.share` -> `Shared.upload` -> `Uploaded.endorse` -> `Endorsed.unmask`.
Each step is recorded before its answer is returned, and happens once per session: a step taken again with other input
raises ConflictError. Secrets live in these values and nowhere else; a client that was restarted has vanished.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secagg.canonical import canonical_bytes
from secagg.client_noise.encoding import encode
from secagg.encodings.registry import encoding_of
from secagg.errors import ConflictError, EncodingError, ProtocolViolation, SessionClosed, TooFewContributions
from secagg.identity import check_issued_by
from secagg.keyholder import Journal
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor
from secagg.masked.holders import draw_holders
from secagg.masked.keys import (
    BoxContext,
    PairContext,
    SealingRound,
    SessionKeys,
    commitment,
    pair_seed,
    public_key,
    seal,
    self_mask_hash,
)
from secagg.masked.masks import Mask
from secagg.masked.messages import (
    Advertisement,
    Directory,
    MaskedUpload,
    SharedBox,
    SharedSet,
    Sharing,
    SharingMessage,
    SignedAdvertisement,
    UploadMessage,
    leaf_data,
)
from secagg.masked.policy import MaskedPolicy
from secagg.masked.receiving import Receiver, read_directory
from secagg.masked.sharing import SECRET_BYTES, Secret, Share, split
from secagg.masked.unmasking import Uploaded
from secagg.masked.vectors import mask_encoded, mask_update, vector_root
from secagg.merkle import root
from secagg.privacy import PrivacyStatement
from secagg.randomness import Randomness
from secagg.signing import Signer


@dataclass(frozen=True, slots=True)
class MaskedClient:
    """A client and the session it has joined. `journal` is durable, write-once and its own."""

    descriptor: MaskedDescriptor
    signer: Signer
    policy: MaskedPolicy
    journal: Journal

    @classmethod
    def join(
        cls,
        signed: SignedMaskedDescriptor,
        signer: Signer,
        policy: MaskedPolicy,
        authority: str,
        journal: Journal,
        now: int,
    ) -> Self:
        """Check the descriptor: signature, certificates under the PEM `authority`, policy (protocol.md §12.1.5, §12.2).

        Raises SignatureInvalid, CertificateInvalid, PolicyViolation, RoleViolation or SessionClosed.
        """
        descriptor = signed.verify(signed.statement.coordinator_identity)
        descriptor.number_of(signer.identity.fingerprint)
        for identity in (descriptor.coordinator_identity, *descriptor.clients):
            check_issued_by(identity, authority, now)
        policy.check(descriptor)
        client = cls(descriptor, signer, policy, journal)
        client.check_open(now)
        return client

    @property
    def number(self) -> int:
        """This client's member number."""
        return self.descriptor.number_of(self.signer.identity.fingerprint)

    def check_open(self, now: int) -> None:
        """Raise SessionClosed after the session's end."""
        if now > self.descriptor.expires_at:
            raise SessionClosed(f"session {self.descriptor.ctx[:16]} has expired")

    def once(self, step: str, value: bytes) -> None:
        """Record a step, durably, before it is answered. Raises ConflictError when it was taken with another value."""
        if self.journal.record(self.slot(step), value) != value:
            raise ConflictError(
                f"this client has taken the step '{step}' in session {self.descriptor.ctx[:16]} already; it takes no "
                "second one. If it was restarted, it has vanished from this session and can join the next"
            )

    def not_yet(self, step: str) -> None:
        """Raise ConflictError when the step was taken. For steps whose outcome is random."""
        if self.journal.get(self.slot(step)) is not None:
            self.once(step, b"")

    def slot(self, step: str) -> str:
        """The journal's key of a step."""
        return f"masked/{self.descriptor.ctx}/{step}"

    def advertise(self, random: Randomness, now: int) -> tuple["Advertised", SignedAdvertisement]:
        """Fresh keys, their public parts signed (protocol.md §12.3.1). Raises ConflictError or SessionClosed."""
        self.check_open(now)
        keys = SessionKeys.generate(random)
        statement = Advertisement(
            ctx=self.descriptor.ctx,
            client=self.signer.identity.fingerprint,
            mask_key=public_key(keys.mask).hex(),
            box_key=public_key(keys.box).hex(),
        )
        self.once("advertised", statement.digest.encode())
        return Advertised(self, keys, statement), self.signer.sign(statement)


@dataclass(frozen=True, slots=True)
class Advertised:
    """Has sent its keys and waits for the directory."""

    client: MaskedClient
    keys: SessionKeys
    statement: Advertisement

    def share(self, directory: Directory, random: Randomness, now: int) -> tuple["Shared", SharingMessage]:
        """Draw the holders, once, and share the mask key among them (protocol.md §12.4).

        Raises TooFewContributions, ProtocolViolation, SignatureInvalid (somebody drawn did not sign), MalformedError,
        ConflictError or SessionClosed.
        """
        client, descriptor = self.client, self.client.descriptor
        client.check_open(now)
        listed = read_directory(descriptor, directory)
        if len(listed) < descriptor.graph.least_advertisers:
            raise TooFewContributions(f"{len(listed)} advertised; at least {descriptor.graph.least_advertisers} must")
        if client.number not in listed or listed[client.number].statement != self.statement:
            raise ProtocolViolation("the directory does not hold this client's own advertisement as it was sent")
        others = [number for number in listed if number != client.number]
        client.not_yet("drawn")
        holders = draw_holders(others, descriptor.graph.holders, random)
        # Before anything of the draw is looked at: a draw that stopped the client must not be followed by another.
        client.once("drawn", canonical_bytes({"holders": list(holders)}))
        receiver = Receiver(descriptor, client.number, self.keys.box, listed)
        leaves = make_leaves(receiver, holders, self.keys.mask, "share", random)
        statement = Sharing(
            ctx=descriptor.ctx,
            client=client.signer.identity.fingerprint,
            holders=len(leaves),
            root=_root(leaves),
        )
        client.once("shared", statement.digest.encode())
        return Shared(client, self.keys, receiver, holders), SharingMessage(client.signer.sign(statement), leaves)


def make_leaves(
    receiver: Receiver, holders: Sequence[int], secret: Secret, sealed_in: SealingRound, random: Randomness
) -> tuple[SharedBox, ...]:
    """One share of the secret for each holder, committed to and sealed (protocol.md §12.4.3 to §12.4.5)."""
    descriptor = receiver.descriptor
    sender = descriptor.member(receiver.number).fingerprint
    leaves = list[SharedBox]()
    shares = split(secret, descriptor.graph.threshold, len(holders), random)
    for number, share in zip(holders, shares, strict=True):
        peer = receiver.peer(number)
        context = BoxContext(ctx=descriptor.ctx, sender=sender, receiver=peer.client, round=sealed_in)
        box = seal(share, receiver.box_key, bytes.fromhex(peer.box_key), context, random)
        leaves.append(SharedBox(number, commitment(descriptor.ctx, sender, peer.client, share), box))
    return tuple(leaves)


def _root(leaves: Sequence[SharedBox]) -> str:
    return root(leaf_data(leaf.commitment, leaf.box) for leaf in leaves).hex()


@dataclass(frozen=True, slots=True)
class Shared:
    """Has shared its mask key among its `holders` and waits to hear who else has."""

    client: MaskedClient
    keys: SessionKeys
    receiver: Receiver
    holders: tuple[int, ...]

    def upload(
        self,
        shared: SharedSet,
        change: NDArray[np.float32],
        privacy: PrivacyStatement,
        random: Randomness,
        now: int,
        threads: int = 1,
    ) -> tuple[Uploaded, UploadMessage]:
        """Encode and mask `change` [plan.length], once, and share the seed of the own mask (protocol.md §12.5).

        The caller keeps the message and sends the same bytes again when it must: there is no second one.
        Raises EncodingError, TooFewContributions, ProtocolViolation, SignatureInvalid, HashMismatch, ConflictError.
        """
        client, descriptor = self.client, self.client.descriptor
        client.check_open(now)
        client.not_yet("uploaded")
        received = self._receive(shared)
        holders = tuple(number for number in self.holders if number in set(shared.members))
        if len(holders) < descriptor.graph.threshold:
            raise TooFewContributions(
                f"{len(holders)} of this client's holders have shared; {descriptor.graph.threshold} must"
            )
        own = Secret(random(SECRET_BYTES))
        masks = [Mask.expand("self", own, negative=False)]
        masks += [self._pair_mask(peer) for peer in sorted({*holders, *received})]
        vector = self._masked(change, masks, random, threads)
        leaves = make_leaves(self.receiver, holders, own, "upload", random)
        fingerprint = client.signer.identity.fingerprint
        statement = MaskedUpload(
            ctx=descriptor.ctx,
            client=fingerprint,
            holders=len(leaves),
            root=_root(leaves),
            vector_root=vector_root(descriptor.shape, vector),
            vector_bytes=vector.nbytes,
            self_mask=self_mask_hash(descriptor.ctx, fingerprint, own),
            complaints=tuple(sorted(sender for sender, share in received.items() if share is None)),
            privacy=privacy.model_copy(update={"client_level": descriptor.client_statement}),
        )
        client.once("uploaded", statement.digest.encode())
        message = UploadMessage(client.signer.sign(statement), vector, leaves)
        return Uploaded(client, self.receiver, self.holders, shared.members, received), message

    def _receive(self, shared: SharedSet) -> dict[int, Share | None]:
        """The shares of those whose holder this client is; None where the sender is at fault (protocol.md §12.5.1)."""
        members = set(shared.members)
        if tuple(sorted(members)) != shared.members or not members <= set(self.receiver.directory):
            raise ProtocolViolation("the set of those who shared is not a set of advertisers, in order")
        if self.client.number not in members:
            raise ProtocolViolation("the coordinator leaves this client out of those who shared")
        received = dict[int, Share | None]()
        for delivered in shared.deliveries:
            sender, share = self.receiver.open(delivered, "share")
            if sender not in members or sender in received:
                raise ProtocolViolation(f"the coordinator passes on shares of member {sender} twice, or out of turn")
            received[sender] = share
        return received

    def _pair_mask(self, number: int) -> Mask:
        """The mask shared with a partner: added by the one with the smaller member number (protocol.md §12.5.2)."""
        peer, own = self.receiver.peer(number), self.client.signer.identity.fingerprint
        low, high = sorted((own, peer.client))
        context = PairContext(ctx=self.client.descriptor.ctx, low=low, high=high)
        seed = pair_seed(self.keys.mask, bytes.fromhex(peer.mask_key), context)
        return Mask.expand("pair", seed, negative=number < self.client.number)

    def _masked(
        self, change: NDArray[np.float32], masks: list[Mask], random: Randomness, threads: int
    ) -> NDArray[np.uint8]:
        """The packed vector; with this client's share of the noise under the masks, if the session has it (§14)."""
        descriptor, grid = self.client.descriptor, self.client.descriptor.noise_grid
        if not np.isfinite(change).all():  # before it is encoded: an encoding may drop what is not
            raise EncodingError("the change holds values that are not finite")
        vector = encoding_of(descriptor.plan).encode(descriptor.plan, change, random)
        weight, shape = descriptor.roster[self.client.number].weight, descriptor.shape
        if grid is None:
            return mask_update(shape, descriptor.quantiser, vector, masks, random, weight=weight, threads=threads)
        encoded = encode(grid, vector, random, weight)
        try:
            return mask_encoded(shape, encoded.values, masks, threads=threads)
        finally:
            encoded.values.fill(0)
