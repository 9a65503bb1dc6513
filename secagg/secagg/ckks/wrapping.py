"""Ciphertexts on the wire: each sealed to the key-holder, so that nobody else ever holds one (protocol.md §13.2.4).

CKKS hides what a ciphertext holds, but anyone who has one may add to it, negate it, or decrypt it with a key that got
out. HPKE lets nobody do that but the key-holder, and binds a ciphertext to its session, client and place.
"""

from secagg.boxes import public_of, suite
from secagg.canonical import canonical_bytes
from secagg.errors import MalformedError
from secagg.plan import Frozen, Hash


class BlockContext(Frozen):
    """What a sealed ciphertext is bound to: the session, its client, and which one it is of the upload, from 0."""

    ctx: Hash
    client: Hash
    index: int

    @property
    def info(self) -> bytes:
        """HPKE's `info`."""
        return b"secagg/v1/ckks/block\x00" + canonical_bytes(self)


def wrap_block(block: bytes, public_key: bytes, context: BlockContext) -> bytes:
    """A ciphertext as it travels, WRAP_BYTES longer. Raises MalformedError for a public key that seals nothing."""
    try:
        return suite().encrypt(block, public_of(public_key), info=context.info)
    except ValueError as error:
        raise MalformedError(f"nothing can be sealed to the key-holder of this session: {error}") from error
