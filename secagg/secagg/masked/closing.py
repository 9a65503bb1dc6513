"""The coordinator of a masked session once the vectors are in: one set U, unmasking (protocol.md §12.6, §12.7).

`ConsistencyRound.close` -> `UnmaskRound.open` -> `MaskedSum`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ConflictError, NotReady, ProtocolViolation, ShareError
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.keys import commitment
from secagg.masked.messages import (
    DeliveredSelfShare,
    Directory,
    SharedBox,
    SharingMessage,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSurvivorSet,
    SignedUnmasking,
    UnmaskRequest,
)
from secagg.masked.passing import Post
from secagg.masked.recovered import Recovered, check_mask_key, check_seed, inconsistent
from secagg.masked.sharing import Secret, Share, combine
from secagg.masked.vectors import MaskedTotal
from secagg.signing import Signed, Statement

S = TypeVar("S", bound=Statement)

Keep = Callable[[], None]
"""Takes a message that was checked into the round. Nothing fails here: who must record it first does so in between."""


@dataclass(frozen=True, slots=True)
class KeptUpload:
    """What stays of an upload when its vector is in the sum."""

    signed: SignedMaskedUpload
    leaves: tuple[SharedBox, ...]


Sharings = dict[int, SharingMessage]
Uploads = dict[int, KeptUpload]


def check_statement(descriptor: MaskedDescriptor, signed: Signed[S], ctx: str, client: str) -> int:
    """Verify a client's signature on a statement that names `ctx` and `client`; its member number.

    Raises RoleViolation, SignatureInvalid or ProtocolViolation.
    """
    number = descriptor.number_of(signed.signer)
    identity = descriptor.member(number)
    signed.verify(identity)
    if (ctx, client) != (descriptor.ctx, identity.fingerprint):
        raise ProtocolViolation(f"a message of {identity.title} is for another session or client")
    return number


@dataclass(slots=True)
class ConsistencyRound:
    """Shows U, takes endorsements (protocol.md §12.6.1)."""

    descriptor: MaskedDescriptor
    directory: Directory
    sharings: Sharings
    uploads: Uploads
    total: MaskedTotal
    chosen: SignedSurvivorSet
    taken: dict[int, SignedSetEndorsement] = field(default_factory=dict)

    def add(self, signed: SignedSetEndorsement) -> None:
        """Take one. Raises what `checked` raises."""
        self.checked(signed)()

    def checked(self, signed: SignedSetEndorsement) -> Keep:
        """Check one and change nothing. Raises RoleViolation, SignatureInvalid or ProtocolViolation."""
        statement = signed.statement
        number = check_statement(self.descriptor, signed, statement.ctx, statement.client)
        if statement.set_digest != self.chosen.statement.digest or number not in self.uploads:
            raise ProtocolViolation(f"member {number} endorses another set, or is not in it")
        return lambda: self.taken.update({number: signed})

    def close(self) -> "UnmaskRound":
        """Whoever has not endorsed U has vanished, and is asked nothing more."""
        return UnmaskRound(
            self.descriptor, self.directory, self.sharings, self.uploads, self.total, self.chosen, dict(self.taken)
        )


@dataclass(frozen=True, slots=True)
class MaskedSum:
    """The opened sums, uint32 [L], and the member numbers of U."""

    sums: NDArray[np.uint32]
    members: tuple[int, ...]


@dataclass(slots=True)
class UnmaskRound:
    """Asks for shares, takes them, opens the sum (protocol.md §12.7)."""

    descriptor: MaskedDescriptor
    directory: Directory
    sharings: Sharings
    uploads: Uploads
    total: MaskedTotal
    chosen: SignedSurvivorSet
    endorsements: dict[int, SignedSetEndorsement]
    taken: dict[int, SignedUnmasking] = field(default_factory=dict)
    self_shares: dict[int, dict[int, Share]] = field(default_factory=dict, repr=False)
    key_shares: dict[int, dict[int, Share]] = field(default_factory=dict, repr=False)
    post: Post = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sort what was shared by holder."""
        self.post = Post({number: upload.leaves for number, upload in self.uploads.items()})

    def request(self, number: int) -> UnmaskRequest:
        """What member `number` is shown: its holders' endorsements of U, and the boxes of own masks that are for it."""
        holders = {leaf.receiver for leaf in self.sharings[number].leaves}
        return UnmaskRequest(
            tuple(signed for member, signed in self.endorsements.items() if member in holders),
            tuple(
                DeliveredSelfShare(self.uploads[x.sender].signed, x.place, x.leaf.commitment, x.path, x.leaf.box)
                for x in self.post.to(number)
            ),
        )

    def add(self, signed: SignedUnmasking) -> None:
        """Take one answer, every share of it as committed to. Raises what `checked` raises."""
        self.checked(signed)()

    def checked(self, signed: SignedUnmasking) -> Keep:
        """Check one answer and change nothing. Raises what names the one who answered.

        RoleViolation, SignatureInvalid, ProtocolViolation (another set, a share it does not hold, a wrong share) or
        ConflictError.
        """
        statement = signed.statement
        number = check_statement(self.descriptor, signed, statement.ctx, statement.client)
        if statement.set_digest != self.chosen.statement.digest or number not in self.uploads:
            raise ProtocolViolation(f"member {number} answers for another set, or is not in it")
        if number in self.taken:
            if self.taken[number] != signed:
                raise ConflictError(f"member {number} gave another answer before")
            return lambda: None
        own = {r.member: self._check(number, r.member, r.value, own=True) for r in statement.self_shares}
        keys = {r.member: self._check(number, r.member, r.value, own=False) for r in statement.key_shares}

        def keep() -> None:
            self.taken[number] = signed
            for given, kept in ((own, self.self_shares), (keys, self.key_shares)):
                for member, (point, share) in given.items():
                    kept.setdefault(member, {})[point] = share

        return keep

    def _check(self, holder: int, sender: int, share: Share, *, own: bool) -> tuple[int, Share]:
        """The point at which `holder` holds a share of `sender`, and the share (protocol.md §12.7.2)."""
        if own != (sender in self.uploads) or sender not in self.sharings:
            raise ProtocolViolation(f"member {holder} gives a secret of member {sender} that the set does not ask for")
        leaves = self.uploads[sender].leaves if own else self.sharings[sender].leaves
        dealt, held = self.descriptor.member(sender).fingerprint, self.descriptor.member(holder).fingerprint
        found = commitment(self.descriptor.ctx, dealt, held, share)
        for index, leaf in enumerate(leaves):
            if leaf.receiver == holder and leaf.commitment == found:
                return index + 1, share
        raise ProtocolViolation(
            f"{self.descriptor.member(holder).title} gave a wrong share of member {sender}, and signed it"
        )

    @property
    def missing(self) -> tuple[int, ...]:
        """Members of B of whom fewer than t shares are there."""
        t = self.descriptor.graph.threshold
        wanted = [(number, self.self_shares if number in self.uploads else self.key_shares) for number in self.sharings]
        return tuple(sorted(number for number, kept in wanted if len(kept.get(number, {})) < t))

    def recover(self) -> Recovered:
        """Rebuild the secrets that open the sum, each checked against what was signed (protocol.md §12.7.2).

        Raises NotReady with fewer than t shares of somebody, OpeningError when shares are inconsistent.
        """
        if self.missing:
            raise NotReady(
                f"fewer than {self.descriptor.graph.threshold} shares are there of members {list(self.missing)[:10]}"
            )
        seeds = {number: self._combined(number, self.self_shares[number]) for number in self.uploads}
        for number, seed in seeds.items():
            check_seed(self.descriptor, self.uploads[number].signed.statement, seed)
        gone = [number for number in self.sharings if number not in self.uploads]
        keys = {number: self._combined(number, self.key_shares[number]) for number in gone}
        advertised = {self.descriptor.number_of(signed.signer): signed.statement for signed in self.directory}
        for number, key in keys.items():
            check_mask_key(self.descriptor, advertised[number], key)
        holders = {number: {leaf.receiver for leaf in shared.leaves} for number, shared in self.sharings.items()}
        pairs = [
            (number, member)
            for number in gone
            for member in self.uploads
            if member in holders[number] or number in holders[member]
        ]
        return Recovered(seeds, keys, tuple(sorted(pairs)))

    def open(self, threads: int = 1) -> MaskedSum:
        """Rebuild the secrets, take the masks away (protocol.md §12.7.2, §12.7.3). Masks are made on `threads` threads.

        Raises NotReady with fewer than t shares of somebody, OpeningError when shares or masks are inconsistent.
        """
        return self.open_with(self.recover(), threads)

    def open_with(self, recovered: Recovered, threads: int = 1) -> MaskedSum:
        """The same, with secrets that were rebuilt before. Raises OpeningError."""
        masks = recovered.masks(self.descriptor, self.directory)
        sums = self.total.opened(masks, self.descriptor.quantiser, threads)
        return MaskedSum(sums, self.chosen.statement.members)

    def _combined(self, number: int, shares: dict[int, Share]) -> Secret:
        try:
            return combine(shares, self.descriptor.graph.threshold)
        except ShareError as error:
            raise inconsistent(self.descriptor, number) from error
