"""A client's keys for one session, the seeds of pairs, and sealed shares (protocol.md §12.3, §12.4.4, §12.5.2).

Every derived key is bound to ctx and to both parties' fingerprints: a key that somebody copied, or a box from another
session, round or direction, gives nothing.
"""

from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg.canonical import canonical_bytes, tagged_hash
from secagg.errors import MalformedError, ShareError
from secagg.masked.sharing import SHARE_BYTES, Secret, Share
from secagg.plan import Frozen, Hash
from secagg.randomness import Randomness

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
BOX_BYTES = NONCE_BYTES + SHARE_BYTES + TAG_BYTES

SealingRound = Literal["share", "upload"]


class PairContext(Frozen):
    """What the seed of a pair's mask is bound to. `low` and `high` are fingerprints, in order."""

    ctx: Hash
    low: Hash
    high: Hash

    @property
    def info(self) -> bytes:
        """HKDF's `info` (protocol.md §12.5.2)."""
        return b"secagg/v1/masked/pair\x00" + canonical_bytes(self)


class BoxContext(Frozen):
    """What a box is bound to: session, direction and round."""

    ctx: Hash
    sender: Hash
    receiver: Hash
    round: SealingRound

    @property
    def info(self) -> bytes:
        """HKDF's `info`, and the associated data (protocol.md §12.4.4)."""
        return b"secagg/v1/masked/box\x00" + canonical_bytes(self)


@dataclass(frozen=True, slots=True, repr=False)
class SessionKeys:
    """A client's private keys for one session: for masks and for boxes. Never printed, never stored."""

    mask: Secret
    box: Secret

    def __repr__(self) -> str:
        return "SessionKeys(<redacted>)"

    @classmethod
    def generate(cls, random: Randomness) -> "SessionKeys":
        """Two fresh X25519 keys."""
        return cls(Secret(random(KEY_BYTES)), Secret(random(KEY_BYTES)))


def public_key(private: Secret) -> bytes:
    """The X25519 public key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private.value).public_key().public_bytes_raw()


def check_public_key(raw: bytes) -> None:
    """Raise MalformedError unless a secret can be agreed on with the key: X25519, not of low order (RFC 7748 §6.1)."""
    _agree(Secret(bytes(range(KEY_BYTES))), raw)


def _agree(private: Secret, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private.value).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise MalformedError("a masked session's public key is no X25519 key, or of low order") from error


def _derive(shared: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, info).derive(shared)


def pair_seed(own: Secret, peer_public: bytes, context: PairContext) -> Secret:
    """The seed of the mask that two clients share; both get the same. Raises MalformedError for a bad public key."""
    return Secret(_derive(_agree(own, peer_public), context.info))


def seal(share: Share, own: Secret, peer_public: bytes, context: BoxContext, random: Randomness) -> bytes:
    """A box of 64 bytes: nonce, AES-256-GCM of the share. Raises MalformedError for a bad public key."""
    nonce = random(NONCE_BYTES)
    key = _derive(_agree(own, peer_public), context.info)
    return nonce + AESGCM(key).encrypt(nonce, share.value, context.info)


def unseal(box: bytes, own: Secret, peer_public: bytes, context: BoxContext) -> Share:
    """The share inside. Raises ShareError when the box does not open for this sender, receiver, session and round."""
    if len(box) != BOX_BYTES:
        raise ShareError(f"a box has {len(box)} bytes, not {BOX_BYTES}")
    key = _derive(_agree(own, peer_public), context.info)
    try:
        return Share(AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], context.info))
    except InvalidTag as error:
        raise ShareError(f"the box of client {context.sender[:16]} does not open") from error


def commitment(ctx: str, sender: str, receiver: str, share: Share) -> bytes:
    """What a sender signs for one share, 32 bytes: a hash over 279 random bits (protocol.md §12.4.5)."""
    return tagged_hash("secagg/v1/masked/share", bytes.fromhex(ctx + sender + receiver) + share.value)


def self_mask_hash(ctx: str, client: str, seed: Secret) -> str:
    """What a client signs of the seed of its own mask, hex (protocol.md §12.5.4)."""
    return tagged_hash("secagg/v1/masked/self", bytes.fromhex(ctx + client) + seed.value).hex()
