"""The certificate of a masked release (protocol.md §12.9)."""

from typing import Literal

from secagg.certificate import Certificate, Short
from secagg.identity import Identity
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg.masked.messages import (
    Directory,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSharing,
    SignedSurvivorSet,
)
from secagg.plan import Plan
from secagg.signing import Signed

SECURITY_BITS = 128
SECURITY_NOTE = (
    "X25519 (RFC 7748), AES-256, SHA-256: 128 bits against classical computers. A quantum computer that has the "
    "coordinator's records could open single updates."
)


class MaskedCertificate(Certificate):
    """All that the coordinator states about a masked release; every part is checked again by `secagg verify`."""

    version: Literal[1] = 1
    session: SignedMaskedDescriptor
    advertisements: Directory
    sharings: tuple[SignedSharing, ...]
    uploads: tuple[SignedMaskedUpload, ...]
    final: SignedSurvivorSet
    endorsements: tuple[SignedSetEndorsement, ...]
    masking_note: Short

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-release"

    @property
    def plan(self) -> Plan:
        """What was trained, as the session states it."""
        return self.session.statement.plan

    @property
    def members(self) -> tuple[str, ...]:
        """Fingerprints of U."""
        descriptor = self.session.statement
        return tuple(descriptor.member(number).fingerprint for number in self.final.statement.members)

    @property
    def coordinator(self) -> Identity:
        """The coordinator of the session."""
        return self.session.statement.coordinator_identity

    @property
    def acknowledged(self) -> dict[str, str]:
        """The hashes of the upload statements of U."""
        return {upload.signer: upload.statement.digest for upload in self.uploads}

    @property
    def trust_note(self) -> str:
        """How many clients would have to conspire, and the primitives."""
        return (
            f"Masks: {self.masking_note}. Security: {self.security_bits} bits, not against quantum computers. "
            "No single contribution was opened."
        )


SignedMaskedRelease = Signed[MaskedCertificate]
