"""What coordinator and key-holders hand each other beside signed statements (protocol.md §8)."""

from dataclasses import dataclass

from secagg.messages import SignedShareSum, SignedUpload

ENCAPSULATED_KEY_BYTES = 1120  # MLKEM768-X25519: ML-KEM ciphertext and X25519 public key
BOX_HEADER_BYTES = 3
BLINDINGS = 4
BLINDING_BYTES = 4 * BLINDINGS
TAG_BYTES = 16


def box_bytes(share_bytes: int) -> int:
    """Size of a box around a share of that size and its blinding: encapsulated key, header, content, tag (§6.2)."""
    return ENCAPSULATED_KEY_BYTES + BOX_HEADER_BYTES + share_bytes + BLINDING_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class MemberEvidence:
    """What the coordinator shows a key-holder for one member: the signed upload, its own box and the box's path."""

    upload: SignedUpload
    box: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ShareAnswer:
    """A signed share sum with its bytes (packed, protocol.md §6.1)."""

    signed: SignedShareSum
    share: bytes
