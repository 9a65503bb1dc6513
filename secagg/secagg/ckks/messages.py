"""The statements of a ckks session (protocol.md §13.3 to §13.6)."""

import base64
import binascii
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secagg.ckks.parameters import MAX_CLIENTS, RingName
from secagg.errors import MalformedError
from secagg.messages import HexBytes, Seconds
from secagg.plan import Frozen, Hash
from secagg.privacy import PrivacyStatement
from secagg.signing import Signed, Statement

MAX_CONTEXT = 500_000
"""Characters of the largest public key of the table, and a few more."""


class KeyOffer(Statement):
    """A key-holder's fresh public keys for one session: under CKKS, in a ring, and HPKE's (protocol.md §13.3.1)."""

    holder: Hash
    ring: RingName
    context: Annotated[str, Field(min_length=1, max_length=MAX_CONTEXT)]
    hpke_key: HexBytes
    created_at: Seconds
    expires_at: Seconds

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-offer"

    @property
    def raw(self) -> bytes:
        """The public key as §13.2.1 has it. Raises MalformedError."""
        try:
            return base64.b64decode(self.context, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedError("the public key of a key offer is not base64") from error


class Approval(Statement):
    """The key-holder's word that the session is within its policy (protocol.md §13.3.3)."""

    ctx: Hash
    holder: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-approval"


class CkksUpload(Statement):
    """A client's commitment to its one upload (protocol.md §13.4.2). `root` is over its blocks, in order: they are
    ciphertexts, each sealed to the key-holder. `bytes` are those of all of them.
    """

    ctx: Hash
    client: Hash
    blocks: int = Field(ge=1, le=1 << 32)
    bytes: int = Field(ge=1, le=1 << 50)
    root: Hash
    privacy: PrivacyStatement

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-upload"


class Chosen(Frozen):
    """A member of the set, by fingerprint, with the digest of the upload statement it signed."""

    client: Hash
    upload: Hash


class UploadSet(Statement):
    """U: the uploads that are summed; the coordinator's word (protocol.md §13.5.1)."""

    ctx: Hash
    members: tuple[Chosen, ...] = Field(max_length=MAX_CLIENTS)

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-set"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(low.client >= high.client for low, high in pairwise(self.members)):
            raise ValueError("members must be distinct and in order of fingerprint")
        return self


class SumOpening(Statement):
    """The key-holder's word for the exact sums over U (protocol.md §13.5.5). `sums` is SHA-256 of them as u32."""

    ctx: Hash
    holder: Hash
    set_digest: Hash
    sums: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-opening"


Finding = Literal["no-ciphertext", "error", "limbs", "sum"]
"""Why a set does not open: a client's block holds no ciphertext (§13.5.3), or what came out shows that some client
encrypted otherwise than the encoding gives (§13.5.4)."""


class OpeningRefusal(Statement):
    """The key-holder's word that U does not open; it ends the session (protocol.md §13.5.7).

    `client`: whose ciphertext is none; empty for every other finding, which says nothing of who it was.
    """

    ctx: Hash
    holder: Hash
    set_digest: Hash
    finding: Finding
    client: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-refusal"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.client) != (self.finding == "no-ciphertext"):
            raise ValueError("a client is named when its ciphertext is none, and only then")
        return self


SignedKeyOffer = Signed[KeyOffer]
SignedCkksApproval = Signed[Approval]
SignedCkksUpload = Signed[CkksUpload]
SignedUploadSet = Signed[UploadSet]
SignedSumOpening = Signed[SumOpening]
SignedOpeningRefusal = Signed[OpeningRefusal]
