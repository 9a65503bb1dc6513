"""What parties sign and send in a masked session, one type per stage (protocol.md §12.3 to §12.7).

A `Statement` is signed; the other types carry statements with what belongs to them. Clients are named by fingerprint
where they speak for themselves, by member number (place in the roster) in lists.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from secagg.masked.parameters import MAX_CLIENTS, MAX_HOLDERS
from secagg.masked.sharing import SHARE_BYTES, Share
from secagg.plan import Frozen, Hash
from secagg.privacy import PrivacyStatement
from secagg.signing import Signed, Statement

Member = Annotated[int, Field(ge=0, lt=MAX_CLIENTS)]
Members = Annotated[tuple[Member, ...], Field(max_length=MAX_CLIENTS)]
ShareHex = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * SHARE_BYTES}}}$")]


def check_ascending(members: tuple[int, ...], what: str) -> None:
    """Raise ValueError unless member numbers are distinct and in order."""
    if any(low >= high for low, high in pairwise(members)):
        raise ValueError(f"{what} must be distinct and in order of member number")


class Advertisement(Statement):
    """A client's public keys for this session (protocol.md §12.3)."""

    ctx: Hash
    client: Hash
    mask_key: Hash
    box_key: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-advertisement"


class Sharing(Statement):
    """A client's commitment to the shares of its mask key (protocol.md §12.4.5)."""

    ctx: Hash
    client: Hash
    holders: int = Field(ge=1, le=MAX_HOLDERS)
    root: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-sharing"


class MaskedUpload(Statement):
    """A client's commitment to its one masked vector and the shares of its own mask (protocol.md §12.5.4)."""

    ctx: Hash
    client: Hash
    holders: int = Field(ge=1, le=MAX_HOLDERS)
    root: Hash
    vector_root: Hash
    vector_bytes: int = Field(ge=1, le=1 << 50)
    self_mask: Hash
    complaints: Members = ()
    privacy: PrivacyStatement

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-upload"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(self.complaints, "complaints")
        return self


class SurvivorSet(Statement):
    """U, those whose vectors are summed; the coordinator's word (protocol.md §12.6.1)."""

    ctx: Hash
    members: Members

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-set"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(self.members, "members")
        return self


class SetEndorsement(Statement):
    """A member's word for the one U that it was shown (protocol.md §12.6.1)."""

    ctx: Hash
    client: Hash
    set_digest: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-endorsement"


class RevealedShare(Frozen):
    """A share of a secret of `member`, given to the coordinator."""

    member: Member
    share: ShareHex = Field(repr=False)

    @property
    def value(self) -> Share:
        """The share."""
        return Share(bytes.fromhex(self.share))


class Unmasking(Statement):
    """A holder's answer for one U: never both secrets of one client (protocol.md §12.7.1)."""

    ctx: Hash
    client: Hash
    set_digest: Hash
    self_shares: tuple[RevealedShare, ...] = Field(max_length=MAX_CLIENTS)
    key_shares: tuple[RevealedShare, ...] = Field(max_length=MAX_CLIENTS)
    complaints: Members = ()

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-unmasking"

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = tuple(sorted(revealed.member for revealed in (*self.self_shares, *self.key_shares)))
        check_ascending(named, "members whose shares are given")
        check_ascending(self.complaints, "complaints")
        return self


SignedAdvertisement = Signed[Advertisement]
SignedSharing = Signed[Sharing]
SignedMaskedUpload = Signed[MaskedUpload]
SignedSurvivorSet = Signed[SurvivorSet]
SignedSetEndorsement = Signed[SetEndorsement]
SignedUnmasking = Signed[Unmasking]

Directory = tuple[SignedAdvertisement, ...]
"""All advertisements, by member number."""


@dataclass(frozen=True, slots=True)
class SharedBox:
    """One leaf of a client's tree of shares: for whom, the commitment (32 bytes), and the box."""

    receiver: int
    commitment: bytes
    box: bytes


@dataclass(frozen=True, slots=True)
class SharingMessage:
    """A client's answer to the directory: statement and one leaf for each holder, by member number."""

    signed: SignedSharing
    leaves: tuple[SharedBox, ...]


@dataclass(frozen=True, slots=True)
class UploadMessage:
    """A client's masked vector, uint8 [packed_bytes], and one leaf for each holder of its own mask."""

    signed: SignedMaskedUpload
    vector: NDArray[np.uint8] = field(repr=False)
    leaves: tuple[SharedBox, ...]


@dataclass(frozen=True, slots=True)
class DeliveredShare:
    """What the coordinator passes to a holder of a mask key: statement, place in the tree, path and box."""

    signed: SignedSharing
    index: int
    commitment: bytes
    path: tuple[bytes, ...]
    box: bytes


@dataclass(frozen=True, slots=True)
class DeliveredSelfShare:
    """The same for the seed of a client's own mask."""

    signed: SignedMaskedUpload
    index: int
    commitment: bytes
    path: tuple[bytes, ...]
    box: bytes


@dataclass(frozen=True, slots=True)
class SharedSet:
    """B, those who shared, and what they shared with the receiver of this message (protocol.md §12.5.1)."""

    members: tuple[int, ...]
    deliveries: tuple[DeliveredShare, ...]


@dataclass(frozen=True, slots=True)
class UnmaskRequest:
    """Endorsements of U by holders of the receiver, and the boxes it needs (protocol.md §12.6.2, §12.7.1)."""

    endorsements: tuple[SignedSetEndorsement, ...]
    deliveries: tuple[DeliveredSelfShare, ...]


def leaf_data(commitment: bytes, box: bytes) -> bytes:
    """A leaf of a tree of shares, 64 bytes (protocol.md §12.4.5)."""
    return commitment + hashlib.sha256(box).digest()
