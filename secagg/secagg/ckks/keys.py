"""What the key-holder of a ckks session keeps on its own disk, and nobody else has (protocol.md §13.3.1)."""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag

from secagg.boxes import MLKEM_SEED_BYTES, SessionKey, suite
from secagg.ckks.parameters import Ring
from secagg.ckks.scheme import SecretContext, with_digest, without_digest
from secagg.ckks.wrapping import BlockContext
from secagg.errors import MalformedError

_BOX_BYTES = 32 + MLKEM_SEED_BYTES + 32
"""The stored HPKE key: its digest, and both private keys."""


@dataclass(frozen=True, slots=True)
class HolderKey:
    """Both keys of one session: HPKE's, which takes the wrapping off, and the one under CKKS, as it is stored."""

    box: SessionKey
    stored: bytes = field(repr=False)

    @classmethod
    def generate(cls, ring: Ring) -> "HolderKey":
        """Fresh keys."""
        return cls(SessionKey.generate(), SecretContext.generate(ring).to_bytes())

    @classmethod
    def from_bytes(cls, raw: bytes) -> "HolderKey":
        """What `to_bytes` gave. Raises MalformedError when the HPKE key is damaged; `secret` does for the other."""
        return cls(SessionKey.from_bytes(without_digest(raw[:_BOX_BYTES])), raw[_BOX_BYTES:])

    def to_bytes(self) -> bytes:
        """For the key-holder's own disk, and nothing else."""
        return with_digest(self.box.to_bytes()) + self.stored

    def secret(self) -> SecretContext:
        """The key under CKKS, loaded only when something is decrypted. Raises MalformedError when it is damaged."""
        return SecretContext.from_bytes(self.stored)

    def unwrap(self, sealed: bytes, context: BlockContext) -> bytes:
        """The ciphertext in a block of the wire. Raises MalformedError when it was not sealed to this key and place."""
        try:
            return suite().decrypt(sealed, self.box.hpke, info=context.info)
        except (InvalidTag, ValueError) as error:
            raise MalformedError(f"block {context.index} does not open for this session, client and place") from error
