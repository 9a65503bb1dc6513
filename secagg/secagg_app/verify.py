"""`secagg verify`: check a release offline, against anchors of one's own (protocol.md §10.3)."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from secagg.certificate import CERTIFICATE, FILES, START, parse_certificate
from secagg.errors import HashMismatch, SecaggError, VerificationError
from secagg.policy import Anchors, Policy
from secagg.verify import NOTES, ReadUpload, VerificationReport, verify_release
from secagg_app.lazy import Failure
from secagg_host.config import load_toml
from secagg_host.durable import guard, read_file

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SUFFIX = ".ct"
NAMES = {*FILES, START, CERTIFICATE}
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
    help="The release of a round before it; repeat, the first round first: verify them too, and that each follows.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def verify(release: Path, trust: Path, uploads: Path | None, earlier: tuple[Path, ...], as_json: bool) -> None:
    """Check every signature, hash and endorsement of RELEASE, and recompute the opening and the adapter.

    Needs no network. Exit status 0 when everything holds, 1 with the reason when anything does not.
    """
    try:
        content = read_release(release)
        before = [read_release(folder) for folder in earlier]
        report = verify_release(content, load_anchors(trust), _reader(uploads, content), before)
    except SecaggError as error:
        if as_json:
            click.echo(json.dumps({"verified": False, "error": error.code, "reason": str(error)}))
        raise Failure(error.code, str(error)) from error
    click.echo(json.dumps(summary(report), indent=2) if as_json else "\n".join(lines(report)))


def read_release(folder: Path) -> dict[str, bytes]:
    """Every file of a release folder by name. Raises VerificationError for anything else that is in it."""
    with guard(folder):
        entries = sorted(folder.iterdir())
        for path in entries:
            if path.is_symlink() or not path.is_file():
                raise VerificationError(f"{path}: not a plain file; it does not belong to a release")
            if path.name not in NAMES:
                raise VerificationError(f"{path}: does not belong to the release; remove it")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise VerificationError(f"{path}: has {path.stat().st_size} bytes, more than a release can have")
    return {path.name: read_file(path) for path in entries}


def load_anchors(path: Path) -> Anchors:
    """Anchors, or the anchors that a policy holds. Raises ConfigError."""
    is_policy = b"max_epsilon" in read_file(path)
    return load_toml(path, Policy if is_policy else Anchors)


def _reader(folder: Path | None, content: Mapping[str, bytes]) -> ReadUpload | None:
    """Reads stored ciphertexts from `folder`, or from the session's folder in it, as the coordinator keeps them."""
    if folder is None or CERTIFICATE not in content:
        return None
    inner = folder / parse_certificate(content[CERTIFICATE]).statement.ctx
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


def summary(report: VerificationReport) -> dict[str, object]:
    """The report for machines."""
    certificate = report.certificate
    return {
        "verified": True,
        "linked": report.linked,
        "session": certificate.ctx,
        "members": [member.client for member in certificate.final.statement.members],
        "excluded": [{"client": item.client, "reason": item.reason} for item in certificate.excluded],
        "security_bits": certificate.security_bits,
        "released_at": certificate.released_at,
        "checks": list(report.checks),
    }


def lines(report: VerificationReport) -> list[str]:
    """The report for people."""
    certificate = report.certificate
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(certificate.released_at))
    return [
        *(f"{'note' if check in NOTES else 'ok':<4} {check}" for check in report.checks),
        f"verified: session {certificate.ctx[:16]}, {len(certificate.final.statement.members)} members, "
        f"{certificate.security_bits} bits, released {when}",
        certificate.privacy_note,
    ]
