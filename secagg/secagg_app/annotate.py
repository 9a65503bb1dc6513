"""`secagg release annotate`: attach an evaluation on public data, and sign again (protocol.md §10.2)."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import click

from secagg.certificate import CERTIFICATE, Evaluation, SignedRelease
from secagg.ckks.certificate import SignedCkksRelease
from secagg.ckks.descriptor import is_ckks
from secagg.ckks.policy import CkksAnchors
from secagg.ckks.release import annotate_ckks
from secagg.ckks.verify import verify_ckks
from secagg.descriptor import Descriptor
from secagg.errors import ConfigError
from secagg.masked.certificate import SignedMaskedRelease
from secagg.masked.descriptor import is_masked
from secagg.masked.policy import MaskedAnchors
from secagg.masked.release import annotate_masked
from secagg.masked.verify import verify_masked
from secagg.policy import Anchors
from secagg.release import annotate_release
from secagg.signing import Signer, parse_model
from secagg.verify import verify_release
from secagg_app.verify import read_release
from secagg_host.durable import fsync_folder, guard, read_file, write_atomic
from secagg_host.identity import load_identity

PUBLIC_FILE, PUBLIC_FOLDER = 0o644, 0o755
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(epilog="Example: secagg release annotate release --evaluation evaluation.json --identity coordinator")
def release() -> None:
    """Work on a release as its coordinator."""


@release.command(epilog="Example: secagg release annotate release --evaluation evaluation.json --identity coordinator")
@click.argument("folder", metavar="RELEASE", type=FOLDER)
@click.option(
    "--evaluation",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="What `secagg evaluate --public ... --out FILE` wrote.",
)
@click.option("--identity", required=True, type=FOLDER, help="The coordinator's.")
def annotate(folder: Path, evaluation: Path, identity: Path) -> None:
    """Attach an evaluation on data declared public to RELEASE, and sign it again.

    Never for private data: a figure on them is exact, and no accountant has seen it.
    """
    from secagg_server import ckks_report, masked_report, report

    finish_exchange(folder)
    signer = load_identity(identity).signer
    content = read_release(folder)
    if CERTIFICATE not in content:
        raise ConfigError(f"{folder}: no {CERTIFICATE} in it; this folder is not a release")
    found = parse_model(Evaluation, read_file(evaluation))
    if is_ckks(content[CERTIFICATE]):
        verify_ckks(content, own_ckks_anchors(SignedCkksRelease.parse(content[CERTIFICATE]), signer))
        exchange_folder(folder, annotate_ckks(content, signer, found, ckks_report.render))
    elif is_masked(content[CERTIFICATE]):
        verify_masked(content, own_masked_anchors(SignedMaskedRelease.parse(content[CERTIFICATE]), signer))
        exchange_folder(folder, annotate_masked(content, signer, found, masked_report.render))
    else:
        verify_release(content, own_anchors(SignedRelease.parse(content[CERTIFICATE]), signer))
        exchange_folder(folder, annotate_release(content, signer, found, report.render))
    click.echo(f"{folder}: {len(found.metrics)} figures attached and signed; report and model card made anew")


def own_anchors(signed: SignedRelease, signer: Signer) -> Anchors:
    """What a coordinator trusts of its own release: itself, and the parties of the session that it signed.

    Raises SignatureInvalid when the release or its session was signed by somebody else.
    """
    descriptor: Descriptor = signed.verify(signer.identity).session.descriptor.verify(signer.identity)
    clients = {fingerprint: fingerprint for fingerprint in descriptor.clients}
    return Anchors(
        coordinator=signer.identity.fingerprint,
        committee={holder.fingerprint: holder.fingerprint for holder in descriptor.holders},
        corrupt_keyholders=descriptor.corrupt_keyholders,
        institutions=clients,
        required_institutions=min(descriptor.n_min, len(clients)),
        assumed_corrupt_clients=0,
        n_min=descriptor.n_min,
        max_releases=descriptor.releases,
    )


def own_masked_anchors(signed: SignedMaskedRelease, signer: Signer) -> MaskedAnchors:
    """The same for a masked release."""
    descriptor = signed.verify(signer.identity).session.verify(signer.identity)
    clients = {client.fingerprint: client.fingerprint for client in descriptor.clients}
    return MaskedAnchors(
        protocols=("masked",),
        coordinator=signer.identity.fingerprint,
        institutions=clients,
        required_institutions=min(descriptor.n_min, len(clients)),
        assumed_corrupt_clients=0,
        n_min=descriptor.n_min,
    )


def own_ckks_anchors(signed: SignedCkksRelease, signer: Signer) -> CkksAnchors:
    """The same for a ckks release."""
    descriptor = signed.verify(signer.identity).session.verify(signer.identity)
    return CkksAnchors(
        protocols=("ckks",),
        coordinator=signer.identity.fingerprint,
        keyholder=descriptor.holder.fingerprint,
        institutions={fingerprint: fingerprint for fingerprint in descriptor.clients},
        required_institutions=min(descriptor.n_min, len(descriptor.clients)),
        assumed_corrupt_clients=0,
        n_min=descriptor.n_min,
    )


def exchange_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Replace a folder by new content. Killed at any step, `finish_exchange` leaves the old or the new, whole."""
    draft, old = _beside(folder)
    with guard(draft):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=PUBLIC_FOLDER)
    for name, data in content.items():
        write_atomic(draft / name, data, PUBLIC_FILE)
    with guard(folder):
        os.rename(folder, old)
        os.rename(draft, folder)
        fsync_folder(folder.parent)
        shutil.rmtree(old)


def finish_exchange(folder: Path) -> None:
    """Bring back the old folder when an exchange was interrupted between its two renames, and tidy up."""
    draft, old = _beside(folder)
    with guard(folder):
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _beside(folder: Path) -> tuple[Path, Path]:
    whole = folder.resolve()
    return whole.with_name(f".{whole.name}.draft"), whole.with_name(f".{whole.name}.old")
