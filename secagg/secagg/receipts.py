"""What a release says of an upload for which the coordinator gave a receipt (protocol.md §10.4).

Receipt and certificate are signed by the same coordinator. A receipt is given only while uploads are taken, and the set
is fixed over all of them: so a certificate that does not list the upload contradicts the receipt, and the two together
prove to anybody that the coordinator dropped it. With several releases a set may be fixed before an upload came; then
the dates that the coordinator signed have to agree (§10.4a).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from secagg.certificate import Certificate
from secagg.errors import ProtocolViolation
from secagg.identity import Identity
from secagg.keyholder import MAX_CLOCK_SKEW
from secagg.messages import Receipt, SignedReceipt


class Receiving(Protocol):
    """A descriptor, of whichever protocol, in so far as a receipt is held against it."""

    @property
    def ctx(self) -> str:
        """The session's name."""

    @property
    def coordinator_identity(self) -> Identity:
        """Who signs receipts."""

    @property
    def created_at(self) -> int:
        """When the session began."""


def check_receipt(session: Receiving, client: str, root: str, signed: SignedReceipt, now: int) -> None:
    """A client's check of the receipt for its own upload (fingerprint, root), at `now` (protocol.md §7.2).

    One dated ahead would pass for an upload that came after a set was fixed (§10.4). Raises SignatureInvalid or
    ProtocolViolation.
    """
    receipt = signed.verify(session.coordinator_identity)
    if (receipt.ctx, receipt.client, receipt.upload_root) != (session.ctx, client, root):
        raise ProtocolViolation("the coordinator's receipt is for another session, client or upload")
    if not session.created_at <= receipt.received_at <= now + MAX_CLOCK_SKEW:
        raise ProtocolViolation("the coordinator's receipt is dated outside the session or ahead of this clock")


class Fate(StrEnum):
    """What became of an acknowledged upload."""

    INCLUDED = "included"
    EXCLUDED = "excluded"
    ELSEWHERE = "elsewhere"
    DROPPED = "dropped"
    MISDATED = "misdated"
    """The upload is there, and receipt and certificate say that it came at different times."""

    @property
    def proves_a_lie(self) -> bool:
        """Whether receipt and certificate contradict each other."""
        return self in {Fate.DROPPED, Fate.MISDATED}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one upload, and why, in words."""

    fate: Fate
    reason: str


def judge_receipt(certificate: Certificate, signed: SignedReceipt) -> Verdict:
    """Compare a receipt with a certificate that was verified.

    Raises SignatureInvalid when the receipt is not the coordinator's, ProtocolViolation when it is for another session.
    """
    receipt = signed.verify(certificate.coordinator)
    if receipt.ctx != certificate.ctx:
        raise ProtocolViolation(f"the receipt is for session {receipt.ctx[:16]}, the release of {certificate.ctx[:16]}")
    said = next((item.reason for item in certificate.excluded if item.client == receipt.client), "not on the roster")
    listed, open_until = certificate.acknowledged.get(receipt.client), certificate.open_until
    if listed == receipt.upload_root:
        return _judge_listed(certificate, receipt, said)
    if listed is not None:
        return Verdict(Fate.DROPPED, "the certificate lists another upload in this client's name")
    if certificate.acknowledged_before.get(receipt.client) == receipt.upload_root:
        return Verdict(Fate.ELSEWHERE, said)
    if open_until is not None and receipt.received_at >= open_until:
        return Verdict(Fate.ELSEWHERE, "it came after the set of this release was fixed: look at the later ones")
    return Verdict(Fate.DROPPED, f"the certificate does not list the upload ({said})")


def _judge_listed(certificate: Certificate, receipt: Receipt, said: str) -> Verdict:
    """Whoever dates a set back, so that an upload seems to have come after it, has to date its members back too."""
    came = certificate.arrived.get(receipt.client, receipt.received_at)
    if came != receipt.received_at:
        return Verdict(
            Fate.MISDATED,
            f"the receipt says that the upload came at {receipt.received_at}, the certificate that it came at {came} "
            "(seconds since 1970)",
        )
    if receipt.client in certificate.members:
        return Verdict(Fate.INCLUDED, "the upload is in the sum")
    return Verdict(Fate.EXCLUDED, said)


def proof_of_dropping(title: str, verdict: Verdict) -> str:
    """What a client holds in its hands whose receipt the certificate contradicts, in words."""
    return (
        f"the coordinator signed a receipt for the upload of {title}, and a certificate that contradicts it "
        f"({verdict.reason}). Keep both: together they prove it to anybody"
    )
