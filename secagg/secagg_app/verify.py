"""`secagg verify`: check a release offline, against anchors of one's own (protocol.md §10.3)."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from secagg.certificate import CERTIFICATE, FILES, START, Certificate, parse_certificate
from secagg.ckks.certificate import SignedCkksRelease
from secagg.ckks.descriptor import is_ckks
from secagg.ckks.verify import NOT_LINKED as NOT_HASHED
from secagg.ckks.verify import NOT_PROVED, CkksReport, verify_ckks
from secagg.errors import (
    ConfigError,
    HashMismatch,
    PolicyViolation,
    ProtocolViolation,
    ReceiptContradicted,
    SecaggError,
    UploadDropped,
    VerificationError,
)
from secagg.masked.certificate import SignedMaskedRelease
from secagg.masked.descriptor import is_masked
from secagg.masked.policy import MaskedAnchors
from secagg.masked.verify import MaskedReport, verify_masked
from secagg.messages import SignedReceipt
from secagg.policy import Anchors, TrainingLimits
from secagg.receipts import Fate, Verdict, judge_receipt, proof_of_dropping
from secagg.verify import NOTES, ReadUpload, VerificationReport, verify_release
from secagg_app.lazy import Failure
from secagg_client.policies import AnyAnchors, load_anchors
from secagg_host.durable import guard, read_file
from secagg_host.terminal import printable_lines

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SUFFIX = ".ct"
NAMES = {*FILES, START, CERTIFICATE}
REMARKS = NOTES | {NOT_HASHED, NOT_PROVED}
AnyReport = VerificationReport | MaskedReport | CkksReport
R = TypeVar("R", VerificationReport, MaskedReport, CkksReport)
MAX_FILE_BYTES = 8 << 30
"""What is larger is refused before it is read into memory."""


@click.command(epilog="Example: secagg verify runs/demo/release --trust anchors.toml --uploads uploads")
@click.argument("release", type=FOLDER)
@click.option(
    "--trust", required=True, type=FILE, help="Whom you trust: anchors or a policy, TOML, from elsewhere than RELEASE."
)
@click.option(
    "--uploads",
    type=FOLDER,
    help="The stored ciphertexts (FINGERPRINT.ct, or SESSION/FINGERPRINT.ct): hash and add them again.",
)
@click.option(
    "--earlier",
    type=FOLDER,
    multiple=True,
    help="A release before it, of a round or of the same session; repeat, the first first: verify them too, and that "
    "each follows.",
)
@click.option(
    "--receipt",
    type=FILE,
    help="A client's receipt (receipt.json in its state): say what became of its upload; status 1 if the release "
    "contradicts it.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def verify(
    release: Path, trust: Path, uploads: Path | None, earlier: tuple[Path, ...], receipt: Path | None, as_json: bool
) -> None:
    """Check every signature, hash and endorsement of RELEASE, and recompute the opening and the adapter.

    Needs no network. Exit status 0 when everything holds, 1 with the reason when anything does not.
    """
    try:
        content = read_release(release)
        before = [read_release(folder) for folder in earlier]
        report = verify_any(content, load_anchors(trust), _reader(uploads, content), before)
        judged = None if receipt is None else judge(report, SignedReceipt.parse(read_file(receipt)))
    except SecaggError as error:
        if as_json:
            click.echo(json.dumps({"verified": False, "error": error.code, "reason": str(error)}))
        raise Failure(error.code, str(error)) from error
    if as_json:
        click.echo(json.dumps(summary(report) | ({} if judged is None else {"receipt": judged.fields}), indent=2))
    else:
        click.echo(printable_lines(lines(report) if judged is None else [*lines(report), judged.line]))
    if judged is not None and judged.verdict.fate.proves_a_lie:
        dropped = judged.verdict.fate is Fate.DROPPED
        raise Failure(UploadDropped.code if dropped else ReceiptContradicted.code, judged.proof)


@dataclass(frozen=True, slots=True)
class Judged:
    """A receipt with what the release says of its upload."""

    title: str
    receipt: SignedReceipt
    verdict: Verdict

    @property
    def fields(self) -> dict[str, object]:
        """For machines."""
        stated = self.receipt.statement
        return {
            "client": stated.client,
            "upload_root": stated.upload_root,
            "received_at": stated.received_at,
            "fate": self.verdict.fate.value,
            "reason": self.verdict.reason,
        }

    @property
    def line(self) -> str:
        """For people."""
        given = _utc(self.receipt.statement.received_at)
        return f"receipt of {self.title}, given {given}: {self.verdict.fate.value}: {self.verdict.reason}"

    @property
    def proof(self) -> str:
        """What a dropped client holds in its hands."""
        return proof_of_dropping(self.title, self.verdict)


def judge(report: AnyReport, receipt: SignedReceipt) -> Judged:
    """What the verified release says of the upload. Raises what `judge_receipt` raises."""
    certificate, client = report.certificate, receipt.statement.client
    verdict = judge_receipt(certificate, receipt)
    titles = {item.client: item.title for item in certificate.excluded}
    return Judged(titles.get(client, f"client {client[:16]}"), receipt, verdict)


def read_release(folder: Path) -> dict[str, bytes]:
    """Every file of a release folder by name. Raises VerificationError for anything else that is in it."""
    with guard(folder):
        entries = sorted(folder.iterdir())
        for path in entries:
            if path.is_dir() and (path / CERTIFICATE).is_file():
                raise VerificationError(
                    f"{folder} holds several releases: name one, such as {path}, and those before it with --earlier"
                )
            if path.is_symlink() or not path.is_file():
                raise VerificationError(f"{path}: not a plain file; it does not belong to a release")
            if path.name not in NAMES:
                raise VerificationError(f"{path}: does not belong to the release; remove it")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise VerificationError(f"{path}: has {path.stat().st_size} bytes, more than a release can have")
    return {path.name: read_file(path) for path in entries}


def verify_any(
    content: Mapping[str, bytes],
    anchors: AnyAnchors,
    read_upload: ReadUpload | None = None,
    earlier: Sequence[Mapping[str, bytes]] = (),
) -> AnyReport:
    """Verify a release of whichever protocol the anchors are for. Raises a SecaggError for the first thing wrong."""
    raw = content.get(CERTIFICATE, b"")
    found = "ckks" if is_ckks(raw) else "masked" if is_masked(raw) else "sealed"
    wanted = anchors.protocols[0]
    if found != wanted:
        raise PolicyViolation(f"this is a {found} release, and the anchors are for {wanted} ones")
    if isinstance(anchors, Anchors):
        sealed = verify_release(content, anchors, read_upload, earlier)
        return _within(anchors, sealed.certificate.session.descriptor.statement, sealed)
    if earlier:
        raise ProtocolViolation(f"a {found} session has no earlier rounds: leave --earlier out")
    if isinstance(anchors, MaskedAnchors):
        masked = verify_masked(content, anchors, read_upload)
        return _within(anchors, masked.certificate.session.statement, masked)
    ckks = verify_ckks(content, anchors, read_upload)
    return _within(anchors, ckks.certificate.session.statement, ckks)


def _within(anchors: AnyAnchors, descriptor: Any, report: R) -> R:
    """Where a whole policy was given: that the session is within its limits too. Raises PolicyViolation."""
    if not isinstance(anchors, TrainingLimits):
        return report
    anchors.check(descriptor)
    held = "the session is within the policy's limits on epsilon, delta, unit, noise, weights and rounds"
    return replace(report, checks=(*report.checks, held))


def _reader(folder: Path | None, content: Mapping[str, bytes]) -> ReadUpload | None:
    """Reads stored ciphertexts from `folder`, or from the session's folder in it, as the coordinator keeps them."""
    if folder is None or CERTIFICATE not in content:
        return None
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of uploads; the coordinator keeps them in STATE/uploads")
    raw = content[CERTIFICATE]
    inner = folder / parse_any(raw).ctx
    chosen = inner if inner.is_dir() else folder

    def blocks(client: str, size: int) -> Iterable[bytes]:
        return _blocks(chosen, client, size)

    return blocks


def _blocks(folder: Path, client: str, size: int) -> Iterator[bytes]:
    path = folder / f"{client}{SUFFIX}"
    if not path.is_file():
        raise HashMismatch(f"{path} is missing: the upload of {client[:16]} cannot be added again")
    with guard(path), path.open("rb") as file:
        while block := file.read(size):
            yield block


def parse_any(raw: bytes) -> Certificate:
    """`release.json` of whichever protocol, not verified. Raises MalformedError."""
    if is_ckks(raw):
        return SignedCkksRelease.parse(raw).statement
    return SignedMaskedRelease.parse(raw).statement if is_masked(raw) else parse_certificate(raw).statement


def summary(report: AnyReport) -> dict[str, object]:
    """The report for machines."""
    certificate = report.certificate
    return {
        "verified": True,
        "linked": report.linked,
        "session": certificate.ctx,
        "members": list(certificate.members),
        "excluded": [{"client": item.client, "reason": item.reason} for item in certificate.excluded],
        "security_bits": certificate.security_bits,
        "released_at": certificate.released_at,
        "checks": list(report.checks),
    }


def lines(report: AnyReport) -> list[str]:
    """The report for people."""
    certificate = report.certificate
    when = _utc(certificate.released_at)
    return [
        *(f"{'note' if check in REMARKS else 'ok':<4} {check}" for check in report.checks),
        f"verified: session {certificate.ctx[:16]}, {len(certificate.members)} members, "
        f"{certificate.security_bits} bits, released {when}",
        certificate.privacy_note,
    ]


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
