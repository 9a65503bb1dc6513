"""The certificate of a ckks release (protocol.md §13.6)."""

from typing import Literal

from secagg.certificate import Certificate, Short
from secagg.ckks.descriptor import SignedCkksDescriptor
from secagg.ckks.messages import SignedCkksApproval, SignedCkksUpload, SignedSumOpening, SignedUploadSet
from secagg.ckks.parameters import Ring
from secagg.identity import Identity
from secagg.plan import Plan
from secagg.signing import Signed


def security_note(ring: Ring) -> str:
    """What the session was encrypted with, in words."""
    return (
        f"CKKS (TenSEAL), N = {ring.degree}, log2 q = {ring.log2_q:.0f} with the special prime, ternary secret: "
        f"{ring.security_bits} bits of core-SVP, by the cheapest of primal and dual attacks. Each ciphertext was "
        "sealed to the key-holder (HPKE, MLKEM768-X25519). One key-holder holds the whole key."
    )


TRUST_NOTE = (
    "one key-holder opened the sum. Coordinator and key-holder together could have opened single updates: they must "
    "not work together"
)
"""Weaker than a committee (§13.7)."""
TRUST_BEFORE = (
    "one key-holder opens the sum. Coordinator and key-holder together could open single updates: they must not work "
    "together"
)
"""The same before it has."""


class CkksCertificate(Certificate):
    """All that the coordinator states about a ckks release; every part is checked again by `secagg verify`."""

    version: Literal[1] = 1
    session: SignedCkksDescriptor
    approval: SignedCkksApproval
    uploads: tuple[SignedCkksUpload, ...]
    final: SignedUploadSet
    opening: SignedSumOpening
    keyholder_note: Short = TRUST_NOTE

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-release"

    @property
    def plan(self) -> Plan:
        """What was trained, as the session states it."""
        return self.session.statement.plan

    @property
    def members(self) -> tuple[str, ...]:
        """Fingerprints of U."""
        return tuple(member.client for member in self.final.statement.members)

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
        """Whom one trusts."""
        return f"Trust: {self.keyholder_note}. Security: {self.security_bits} bits (core-SVP)."


SignedCkksRelease = Signed[CkksCertificate]
