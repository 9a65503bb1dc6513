"""Boxes: a share of the short key and of its blinding, sealed to one key-holder (protocol.md §4.1, §6).

HPKE (RFC 9180) with the hybrid KEM MLKEM768-X25519, from pyca/cryptography. HPKE does not say who sealed a box:
the client's signature over the upload root does.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from secagg.canonical import canonical_bytes
from secagg.errors import MalformedError, ShareError
from secagg.evidence import BLINDING_BYTES, BLINDINGS, BOX_HEADER_BYTES
from secagg.plan import Frozen, Hash

BOX_VERSION = 1
_HEADER = bytes([BOX_VERSION]) + BLINDINGS.to_bytes(2, "little")
MLKEM_SEED_BYTES = 64
MLKEM_PUBLIC_BYTES = 1184


class BoxContext(Frozen):
    """What a box is bound to."""

    ctx: Hash
    client: Hash
    holder: Hash
    index: int
    ciphertext_root: Hash

    @property
    def info(self) -> bytes:
        """HPKE's `info` (protocol.md §6.2)."""
        return b"secagg/v1/box\x00" + canonical_bytes(self)


def suite() -> Suite:
    """HPKE with its algorithms (protocol.md §4.1)."""
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A key-holder's private key for one session: an ML-KEM-768 and an X25519 key. Not shown."""

    mlkem: MLKEM768PrivateKey
    x25519: X25519PrivateKey

    def __repr__(self) -> str:
        """Keys stay out of logs."""
        return "SessionKey(<redacted>)"

    @classmethod
    def generate(cls) -> "SessionKey":
        """A fresh key from the operating system's randomness."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    def to_bytes(self) -> bytes:
        """Raw private keys (64 + 32 bytes), for the key-holder's own protected state."""
        return self.mlkem.private_bytes_raw() + self.x25519.private_bytes_raw()

    @classmethod
    def from_bytes(cls, raw: bytes) -> "SessionKey":
        """Load what `to_bytes` gave. Raises MalformedError."""
        try:
            return cls(
                MLKEM768PrivateKey.from_seed_bytes(raw[:MLKEM_SEED_BYTES]),
                X25519PrivateKey.from_private_bytes(raw[MLKEM_SEED_BYTES:]),
            )
        except ValueError as error:
            raise MalformedError("the stored session key is damaged") from error

    @property
    def public_bytes(self) -> bytes:
        """Raw public keys (1184 + 32 bytes), for the offer."""
        return self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()

    @property
    def hpke(self) -> MLKEM768X25519PrivateKey:
        """The pair as HPKE's hybrid key."""
        return MLKEM768X25519PrivateKey(self.mlkem, self.x25519)


def check_public_key(raw: bytes) -> None:
    """Raise MalformedError unless `raw` is a session public key to which a box can be sealed."""
    public_of(raw)
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(raw[MLKEM_PUBLIC_BYTES:]))
    except ValueError as error:
        raise MalformedError("a key-holder's session key is a point of low order") from error


def public_of(raw: bytes) -> MLKEM768X25519PublicKey:
    """A session public key, to seal to. Raises MalformedError."""
    try:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[:MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(raw[MLKEM_PUBLIC_BYTES:]),
        )
    except ValueError as error:
        raise MalformedError("a key-holder's session key is not a public key") from error


def seal_box(share: bytes, blinding: bytes, public_key: bytes, context: BoxContext) -> bytes:
    """Seal a packed share and its blinding to the key of an offer. Raises MalformedError for a bad public key."""
    try:
        return suite().encrypt(_HEADER + share + blinding, public_of(public_key), info=context.info)
    except ValueError as error:
        raise MalformedError(f"nothing can be sealed to key-holder {context.holder[:16]}: {error}") from error


@dataclass(frozen=True, slots=True, repr=False)
class BoxContent:
    """What a box holds: the packed share and 16 bytes of blinding, neither checked yet. Redacted when printed."""

    share: bytes
    blinding: bytes

    def __repr__(self) -> str:
        return "BoxContent(redacted)"


def open_box(box: bytes, key: SessionKey, context: BoxContext, share_bytes: int) -> BoxContent:
    """What is inside.

    Raises ShareError when the box does not open, MalformedError when it is not well formed.
    """
    try:
        plaintext = suite().decrypt(box, key.hpke, info=context.info)
    except (InvalidTag, ValueError) as error:
        raise ShareError(f"the box of client {context.client[:16]} does not open under its upload root") from error
    end = BOX_HEADER_BYTES + share_bytes
    if len(plaintext) != end + BLINDING_BYTES or plaintext[:BOX_HEADER_BYTES] != _HEADER:
        raise MalformedError(f"the box of client {context.client[:16]} is not of version {BOX_VERSION}")
    return BoxContent(plaintext[BOX_HEADER_BYTES:end], plaintext[end:])
