"""The coordinator of a masked session until the vectors are in, one type for each round (protocol.md §12.3 to §12.5).

`AdvertiseRound.close` -> `ShareRound.close` -> `UploadRound.close` -> `closing.ConsistencyRound`. A round takes each
client's message once; the same bytes again change nothing. `add` takes it; `checked` checks it, changes nothing, and
gives what takes it. Memory is one running sum, whatever the cohort.
"""

from dataclasses import dataclass, field

from secagg.errors import ConflictError, HashMismatch, PolicyViolation, ProtocolViolation, TooFewContributions
from secagg.masked.closing import ConsistencyRound, Keep, KeptUpload, Sharings, Uploads, check_statement
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.keys import BOX_BYTES, check_public_key
from secagg.masked.messages import (
    DeliveredShare,
    Directory,
    SharedBox,
    SharedSet,
    SharingMessage,
    SignedAdvertisement,
    SignedMaskedUpload,
    SignedSurvivorSet,
    SurvivorSet,
    UploadMessage,
    leaf_data,
)
from secagg.masked.passing import Post
from secagg.masked.receiving import check_advertisement
from secagg.masked.vectors import MaskedTotal, check_packed, vector_root
from secagg.merkle import root
from secagg.signing import Signer


def check_leaves(statement_root: str, count: int, leaves: tuple[SharedBox, ...]) -> None:
    """The leaves are those the client signed: number, order and root. Raises HashMismatch or ProtocolViolation."""
    receivers = [leaf.receiver for leaf in leaves]
    if receivers != sorted(set(receivers)) or any(len(leaf.box) != BOX_BYTES for leaf in leaves):
        raise ProtocolViolation("holders must be distinct and in order of member number, and boxes of their one size")
    if len(leaves) != count or root(leaf_data(leaf.commitment, leaf.box) for leaf in leaves).hex() != statement_root:
        raise HashMismatch("the boxes are not those that the client signed")


@dataclass(slots=True)
class AdvertiseRound:
    """Takes advertisements (protocol.md §12.3)."""

    descriptor: MaskedDescriptor
    taken: dict[int, SignedAdvertisement] = field(default_factory=dict)

    def add(self, signed: SignedAdvertisement) -> None:
        """Take one. Raises what `checked` raises."""
        self.checked(signed)()

    def checked(self, signed: SignedAdvertisement) -> Keep:
        """Check one. Raises RoleViolation, SignatureInvalid, ProtocolViolation, MalformedError or ConflictError."""
        number = self.descriptor.number_of(signed.signer)
        statement = check_advertisement(self.descriptor, signed, number)
        for key in (statement.mask_key, statement.box_key):
            check_public_key(bytes.fromhex(key))
        if self.taken.get(number, signed) != signed:
            raise ConflictError(f"{self.descriptor.member(number).title} advertised other keys before")
        return lambda: self.taken.update({number: signed})

    def close(self) -> "ShareRound":
        """Whoever has not advertised has vanished. Raises TooFewContributions."""
        least = self.descriptor.graph.least_advertisers
        if len(self.taken) < least:
            raise TooFewContributions(f"{len(self.taken)} clients advertised; the session needs {least}")
        return ShareRound(self.descriptor, tuple(self.taken[number] for number in sorted(self.taken)))


@dataclass(slots=True)
class ShareRound:
    """Shows the directory, takes shares of mask keys (protocol.md §12.4.5)."""

    descriptor: MaskedDescriptor
    directory: Directory
    taken: Sharings = field(default_factory=dict)

    def add(self, message: SharingMessage) -> None:
        """Take one. Raises what `checked` raises."""
        self.checked(message)()

    def checked(self, message: SharingMessage) -> Keep:
        """Check one. Raises RoleViolation, SignatureInvalid, ProtocolViolation, HashMismatch or ConflictError."""
        statement = message.signed.statement
        number = check_statement(self.descriptor, message.signed, statement.ctx, statement.client)
        listed = {self.descriptor.number_of(signed.signer) for signed in self.directory}
        check_leaves(statement.root, statement.holders, message.leaves)
        receivers = {leaf.receiver for leaf in message.leaves}
        expected = min(self.descriptor.graph.holders, len(listed) - 1)
        if number not in listed or len(receivers) != expected or not receivers <= listed - {number}:
            raise ProtocolViolation(f"member {number} shares with others than {expected} other advertisers")
        if self.taken.get(number, message) != message:
            raise ConflictError(f"member {number} shared otherwise before")
        return lambda: self.taken.update({number: message})

    def close(self) -> "UploadRound":
        """Whoever has not shared has vanished: B is fixed. Raises TooFewContributions."""
        if len(self.taken) < max(self.descriptor.n_min, self.descriptor.graph.threshold + 1):
            raise TooFewContributions(f"{len(self.taken)} clients shared their keys; that is too few to go on")
        return UploadRound(self.descriptor, self.directory, dict(self.taken))


@dataclass(slots=True)
class UploadRound:
    """Passes shares on, takes masked vectors and adds them up as they come (protocol.md §12.5)."""

    descriptor: MaskedDescriptor
    directory: Directory
    sharings: Sharings
    taken: Uploads = field(default_factory=dict)
    threads: int = 1
    total: MaskedTotal = field(init=False)
    post: Post = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin the sum; sort what was shared by holder."""
        self.total = MaskedTotal(self.descriptor.shape)
        self.post = Post({number: message.leaves for number, message in self.sharings.items()})

    def shared_with(self, number: int) -> SharedSet:
        """What member `number` is told: B, and the boxes that are for it (protocol.md §12.5.1)."""
        deliveries = [
            DeliveredShare(self.sharings[x.sender].signed, x.place, x.leaf.commitment, x.path, x.leaf.box)
            for x in self.post.to(number)
        ]
        return SharedSet(tuple(sorted(self.sharings)), tuple(deliveries))

    def add(self, message: UploadMessage) -> None:
        """Check one upload and add its vector; the vector itself is not kept. Raises what `checked` raises."""
        self.checked(message)()

    def checked(self, message: UploadMessage) -> Keep:
        """Check one upload and add nothing.

        Raises RoleViolation, SignatureInvalid, ProtocolViolation, PolicyViolation, HashMismatch, SizeLimitError,
        MalformedError or ConflictError.
        """
        statement = message.signed.statement
        number = check_statement(self.descriptor, message.signed, statement.ctx, statement.client)
        if number in self.taken:
            if self.taken[number].signed != message.signed:
                raise ConflictError(f"member {number} sent another masked vector before; the first one stays")
            return lambda: None
        if number not in self.sharings:
            raise ProtocolViolation(f"member {number} has not shared its mask key: its vector could not be unmasked")
        check_leaves(statement.root, statement.holders, message.leaves)
        able = {leaf.receiver for leaf in self.sharings[number].leaves} & set(self.sharings)
        if {leaf.receiver for leaf in message.leaves} != able or len(able) < self.descriptor.graph.threshold:
            raise ProtocolViolation(f"member {number} shares its own mask with others than its holders in B")
        check_privacy(self.descriptor, message.signed)
        shape = self.descriptor.shape
        check_packed(shape, message.vector)
        found = (statement.vector_bytes, statement.vector_root)
        if found != (shape.packed_bytes, vector_root(shape, message.vector)):
            raise HashMismatch(f"the vector of member {number} is not the one that it signed")

        def keep() -> None:
            self.total.add(message.vector, self.threads)
            self.taken[number] = KeptUpload(message.signed, message.leaves)

        return keep

    def close(self, signer: Signer) -> ConsistencyRound:
        """Fix U: everybody whose vector is in the sum. Raises TooFewContributions."""
        members = tuple(sorted(self.taken))
        institutions = self.descriptor.institutions(members)
        if min(len(members), institutions) < self.descriptor.n_min:
            raise TooFewContributions(
                f"{len(members)} vectors of {institutions} institutions; the session opens nothing below "
                f"n_min = {self.descriptor.n_min}"
            )
        return self.close_with(signer.sign(SurvivorSet(ctx=self.descriptor.ctx, members=members)))

    def close_with(self, chosen: SignedSurvivorSet) -> ConsistencyRound:
        """Go on with a U that was signed before: there is one, ever (§12.6.1). Raises what contradicts it.

        SignatureInvalid, or ProtocolViolation when it is not the set of those whose vectors are in the sum.
        """
        fixed = chosen.verify(self.descriptor.coordinator_identity)
        if (fixed.ctx, fixed.members) != (self.descriptor.ctx, tuple(sorted(self.taken))):
            raise ProtocolViolation(
                "the signed set is of another session, or not of those whose vectors are in the sum"
            )
        return ConsistencyRound(self.descriptor, self.directory, self.sharings, self.taken, self.total, chosen)


def check_privacy(descriptor: MaskedDescriptor, signed: SignedMaskedUpload) -> None:
    """The upload states the privacy that the session agreed on (protocol.md §7.1, §14.6a). Raises PolicyViolation."""
    agreed, stated = descriptor.plan.training, signed.statement.privacy
    weaker = agreed.epsilon is not None and (stated.epsilon is None or stated.epsilon > agreed.epsilon)
    units = (stated.unit, stated.records_per_user) != (agreed.unit, agreed.records_per_user)
    if weaker or stated.delta > agreed.delta or stated.noise != agreed.noise or units:
        raise PolicyViolation(f"client {signed.signer[:16]} states another privacy than the session agreed on")
    if stated.client_level != descriptor.client_statement:
        raise PolicyViolation(f"client {signed.signer[:16]} states other client-level noise than the session agreed on")
