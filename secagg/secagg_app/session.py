"""`secagg session`: the signed descriptor, made by the coordinator's operator (protocol.md §4)."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import click

from secagg.canonical import pretty_bytes
from secagg.certificate import ADAPTER, CERTIFICATE, parse_certificate
from secagg.ckks.descriptor import SignedCkksDescriptor, create_ckks_session, is_ckks
from secagg.ckks.messages import SignedKeyOffer
from secagg.client_noise.session import NoisySession
from secagg.coordinator import create_session
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.errors import ConfigError, SecaggError
from secagg.identity import Role, check_issued_by, identify
from secagg.masked.descriptor import (
    SignedMaskedDescriptor,
    create_masked_session,
    is_masked,
)
from secagg.messages import MAX_RELEASES, SignedOffer
from secagg.plan import Plan
from secagg.policy import check_authority
from secagg.rounds import Previous, Round, check_follows
from secagg.signing import Signer, parse_model
from secagg.verify import verify_release
from secagg_app.annotate import own_anchors
from secagg_app.session_config import (
    CkksSessionConfig,
    MaskedSessionConfig,
    RosterEntry,
    SessionConfig,
    load_session_config,
)
from secagg_app.session_shown import describe, describe_ckks, describe_masked, shown_lines
from secagg_app.verify import read_release
from secagg_host.durable import read_file, write_atomic
from secagg_host.identity import PartyFiles, load_identity
from secagg_host.terminal import printable_lines

PUBLIC_FILE = 0o644
FILE = click.Path(dir_okay=False, path_type=Path)
T = TypeVar("T")


@click.group(epilog="Example: secagg session show session.json")
def session() -> None:
    """Make and read session descriptors: everything that is agreed before anybody trains."""


@session.command(epilog="Example: secagg session create session.toml --identity coordinator --out session.json")
@click.argument("config", type=FILE)
@click.option("--identity", required=True, type=click.Path(file_okay=False, path_type=Path), help="The coordinator's.")
@click.option("--out", required=True, type=FILE, help="Where the signed descriptor goes.")
@click.option("--continue", "earlier", type=click.Path(file_okay=False, path_type=Path), metavar="RELEASE",
              help="The round before, released: make the session of the next round.")  # fmt: skip
@click.option("--releases", type=click.IntRange(1, MAX_RELEASES), help="Instead of `releases` in CONFIG.")
def create(config: Path, identity: Path, out: Path, earlier: Path | None, releases: int | None) -> None:
    """Put a session together from CONFIG (TOML) and sign it as the coordinator.

    `protocol = "masked"` in CONFIG makes a session without key-holders, "ckks" one with a single key-holder; the
    default is "sealed". With --releases K, a sealed session releases up to K cohorts of at least n_min clients one
    after another, as they arrive.
    """
    party = load_identity(identity)
    if party.identity.role is not Role.COORDINATOR:
        raise ConfigError(f"{identity}: holds the identity of a {party.identity.role}; a coordinator signs sessions")
    if out.exists():
        raise ConfigError(f"{out} exists; a session is made once. Take another name, or remove it if nobody saw it")
    wanted = load_session_config(config, releases)
    match wanted:
        case SessionConfig():
            _write_sealed(_create_sealed(wanted, party, earlier), out)
        case MaskedSessionConfig() | CkksSessionConfig() if earlier is not None:
            protocol = wanted.protocol
            raise ConfigError(f"{config}: {protocol} sessions do not go on from another; --continue is for sealed ones")
        case MaskedSessionConfig():
            _write_other(_create_masked(wanted, party), out)
        case CkksSessionConfig():
            _write_other(_create_ckks(wanted, party), out)


def _write_sealed(signed: SignedDescriptor, out: Path) -> None:
    descriptor = signed.descriptor.statement
    write_atomic(out, pretty_bytes(signed), PUBLIC_FILE)
    title = f", {descriptor.round.title}" if descriptor.round is not None else ""
    click.echo(f"{out}: session {descriptor.ctx}{title}")
    _echo_ratio(descriptor)


def _write_other(signed: SignedMaskedDescriptor | SignedCkksDescriptor, out: Path) -> None:
    write_atomic(out, pretty_bytes(signed), PUBLIC_FILE)
    click.echo(f"{out}: {signed.statement.protocol} session {signed.statement.ctx}")
    _echo_ratio(signed.statement)


def _echo_ratio(descriptor: NoisySession) -> None:
    """How large the noise for whole clients is, if there is any (protocol.md §14.8)."""
    if descriptor.noise_grid is not None:
        click.echo(descriptor.noise_grid.ratio_in_words)


def _roster(entries: Sequence[RosterEntry]) -> list[RosterMember]:
    return [RosterMember(certificate=_certificate(entry.certificate), weight=entry.weight) for entry in entries]


def _create_sealed(wanted: SessionConfig, party: PartyFiles, earlier: Path | None) -> SignedDescriptor:
    """Alone, or the first of its rounds; with `earlier`, the round after that release.

    Raises ConfigError, ParameterError, CertificateInvalid, MalformedError or VerificationError.
    """
    now, plan = int(time.time()), _read(wanted.plan, lambda raw: parse_model(Plan, raw))
    committee = [
        CommitteeMember(certificate=_certificate(entry.certificate), offer=_read(entry.offer, SignedOffer.parse))
        for entry in wanted.committee
    ]
    last = _Last.read(earlier, party.signer) if earlier is not None else None
    place = last.next(wanted.rounds) if last is not None else _first(wanted.rounds)
    roster = _roster(wanted.roster)
    signed = create_session(wanted.spec(), plan, roster, committee, party.signer, now, secrets.token_bytes, place)
    if last is not None:
        check_follows(last.descriptor, last.adapter, signed.descriptor.statement)
    check_authority(signed.descriptor.statement, party.authority, now)
    return signed


def _create_masked(wanted: MaskedSessionConfig, party: PartyFiles) -> SignedMaskedDescriptor:
    """Raises ParameterError when no graph serves the numbers, CertificateInvalid, MalformedError."""
    now, plan = int(time.time()), _read(wanted.plan, lambda raw: parse_model(Plan, raw))
    signed = create_masked_session(wanted.spec(), plan, _roster(wanted.roster), party.signer, now, secrets.token_bytes)
    for identity in (signed.statement.coordinator_identity, *signed.statement.clients):
        check_issued_by(identity, party.authority, now)
    return signed


def _create_ckks(wanted: CkksSessionConfig, party: PartyFiles) -> SignedCkksDescriptor:
    """Raises ParameterError, CertificateInvalid or MalformedError."""
    now, plan = int(time.time()), _read(wanted.plan, lambda raw: parse_model(Plan, raw))
    signed = create_ckks_session(
        wanted.spec(),
        plan,
        _roster(wanted.roster),
        _certificate(wanted.keyholder.certificate),
        _read(wanted.keyholder.offer, SignedKeyOffer.parse),
        party.signer,
        now,
        secrets.token_bytes,
    )
    descriptor = signed.statement
    for identity in (descriptor.coordinator_identity, descriptor.holder, *descriptor.clients.values()):
        check_issued_by(identity, party.authority, now)
    return signed


def _first(rounds: int) -> Round | None:
    """A session that goes on from none: alone, or the first round."""
    return Round(number=0, rounds=rounds) if rounds > 1 else None


@dataclass(frozen=True, slots=True)
class _Last:
    """The round before, released by the same coordinator and verified."""

    folder: Path
    descriptor: Descriptor
    adapter: bytes

    @classmethod
    def read(cls, folder: Path, signer: Signer) -> Self:
        """Raises ConfigError, VerificationError."""
        content = read_release(folder)
        signed = parse_certificate(content.get(CERTIFICATE, b""))
        report = verify_release(content, own_anchors(signed, signer))
        return cls(folder, report.certificate.session.descriptor.statement, content[ADAPTER])

    def next(self, rounds: int) -> Round:
        """The place of the round after. Raises ConfigError when there is none, or `rounds` are not the series'."""
        last = self.descriptor
        if last.number + 1 >= last.rounds:
            raise ConfigError(
                f"{self.folder}: is the last round of {last.rounds}; a series keeps the number it began with"
            )
        if rounds != last.rounds:
            raise ConfigError(
                f"{self.folder}: is of a series of {last.rounds} rounds: set rounds to that, not to {rounds}"
            )
        adapter = hashlib.sha256(self.adapter).hexdigest()
        previous = Previous(series=last.series, ctx=last.ctx, adapter=adapter)
        return Round(number=last.number + 1, rounds=rounds, previous=previous)


@session.command(epilog="Example: secagg session show session.json")
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def show(file: Path, as_json: bool) -> None:
    """Check the signatures in FILE and show what it says, with the hashes that policies pin."""
    raw = read_file(file)
    if is_ckks(raw):
        ckks = _read(file, SignedCkksDescriptor.parse)
        fields = describe_ckks(ckks.verify(ckks.statement.coordinator_identity))
    elif is_masked(raw):
        masked = _read(file, SignedMaskedDescriptor.parse)
        fields = describe_masked(masked.verify(masked.statement.coordinator_identity))
    else:
        signed = _read(file, lambda raw: parse_model(SignedDescriptor, raw))
        fields = describe(signed.check(approved=False)) | {"approvals": len(signed.approvals)}
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    click.echo(printable_lines(shown_lines(fields)))


def _certificate(path: Path) -> str:
    return _read(path, lambda raw: identify(raw).pem)


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    """Parse a file; an error names it."""
    raw = read_file(path)
    try:
        return parse(raw)
    except SecaggError as error:
        raise type(error)(f"{path}: {error}") from error
