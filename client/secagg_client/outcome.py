"""How a session ends for a client: with its release, without one, or with proof that its upload was dropped (§10.4)."""

from pathlib import Path

from secagg.errors import ReceiptContradicted, SessionClosed, UploadDropped
from secagg.receipts import Fate, Verdict, proof_of_dropping
from secagg_client.client_state import Ended, PartyFolder

RELEASED = "released"


def end_with_release(folder: PartyFolder, verdict: Verdict, title: str, release: Path) -> None:
    """The verified release is stored in `release`: record the end, an error when the receipt contradicts it."""
    if not verdict.fate.proves_a_lie:
        folder.end(RELEASED)
        return
    kept = f"the receipt is {folder.receipt_path}, the certificate is in {release}; see `secagg verify --receipt`"
    folder.end(verdict.fate, f"{proof_of_dropping(title, verdict)}: {kept}")


def raise_end(ctx: str, ended: Ended) -> None:
    """Returns after a release. Raises UploadDropped or ReceiptContradicted when it contradicts the receipt.

    Raises SessionClosed when there was none.
    """
    if ended.outcome == Fate.DROPPED:
        raise UploadDropped(ended.reason)
    if ended.outcome == Fate.MISDATED:
        raise ReceiptContradicted(ended.reason)
    if ended.outcome != RELEASED:
        raise SessionClosed(f"session {ctx[:16]} is over for this client: {ended.reason}")
