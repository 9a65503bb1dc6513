"""`secagg session`: the signed descriptor, made by the coordinator's operator (protocol.md §4)."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

import click
from pydantic import Field

from secagg.canonical import pretty_bytes
from secagg.certificate import ADAPTER, CERTIFICATE, parse_certificate
from secagg.ckks.certificate import TRUST_NOTE
from secagg.ckks.descriptor import CkksDescriptor, CkksSpec, SignedCkksDescriptor, create_ckks_session, is_ckks
from secagg.ckks.messages import SignedKeyOffer
from secagg.client_noise.session import NoisySession
from secagg.client_noise.setting import ClientNoise
from secagg.coordinator import SessionSpec, create_session
from secagg.descriptor import AuditReserve, CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.encodings.registry import encoding_of
from secagg.errors import ConfigError, SecaggError
from secagg.identity import Role, check_issued_by, identify
from secagg.masked.certificate import SECURITY_BITS
from secagg.masked.descriptor import (
    MaskedDescriptor,
    MaskedSpec,
    SignedMaskedDescriptor,
    create_masked_session,
    is_masked,
)
from secagg.messages import MAX_RELEASES, SignedOffer
from secagg.plan import Frozen, Plan
from secagg.policy import adapter_schema_hash, check_authority
from secagg.privacy import unit_in_words
from secagg.rounds import MAX_ROUNDS, Previous, Round, check_follows
from secagg.signing import Signer, parse_model
from secagg.verify import verify_release
from secagg_app.annotate import own_anchors
from secagg_app.verify import read_release
from secagg_host.config import LocalPath, check_config, read_toml
from secagg_host.durable import read_file, write_atomic
from secagg_host.identity import PartyFiles, load_identity

PUBLIC_FILE = 0o644
FILE = click.Path(dir_okay=False, path_type=Path)
T = TypeVar("T")


class RosterEntry(Frozen):
    """One client of the session: its certificate's file and its declared public weight."""

    certificate: LocalPath
    weight: float = Field(gt=0, le=1, default=1.0)


class CommitteeEntry(Frozen):
    """One key-holder: its certificate's file and the signed offer it made for this session."""

    certificate: LocalPath
    offer: LocalPath


class SessionConfig(Frozen):
    """`session.toml`: what the operator decides. Times run from the moment the session is created.

    `rounds` shares the plan's steps among so many sessions; each but the first is made with `--continue`. `releases` is
    how many cohorts may be released one after another while clients still arrive.
    """

    protocol: Literal["sealed"] = "sealed"
    plan: LocalPath
    roster: tuple[RosterEntry, ...] = Field(min_length=2)
    committee: tuple[CommitteeEntry, ...] = Field(min_length=1)
    corrupt_keyholders: int = Field(ge=0, default=1)
    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2)
    bits: int = Field(ge=2, le=24, default=16)
    rounds: int = Field(ge=1, le=MAX_ROUNDS, default=1)
    releases: int = Field(ge=1, le=MAX_RELEASES, default=1)
    upload_minutes: float = Field(gt=0)
    expiry_minutes: float = Field(gt=0)
    audit: AuditReserve | None = None
    client_noise: ClientNoise | None = None

    def spec(self) -> SessionSpec:
        """The numbers, with times in seconds."""
        return SessionSpec(
            n_min=self.n_min,
            n_max=self.n_max,
            bits=self.bits,
            corrupt_keyholders=self.corrupt_keyholders,
            upload_seconds=max(1, round(60 * self.upload_minutes)),
            expiry_seconds=max(2, round(60 * self.expiry_minutes)),
            releases=self.releases,
            audit=self.audit,
            client_noise=self.client_noise,
        )


class MaskedSessionConfig(Frozen):
    """`session.toml` of a masked session. Rates are shares of the roster that may vanish, or be corrupt."""

    protocol: Literal["masked"]
    plan: LocalPath
    roster: tuple[RosterEntry, ...] = Field(min_length=3)
    n_min: int = Field(ge=2)
    dropout_rate: float = Field(ge=0, lt=1, default=0.1)
    corruption_rate: float = Field(ge=0, lt=1, default=0.1)
    bits: int = Field(ge=2, le=24, default=16)
    upload_minutes: float = Field(gt=0)
    round_seconds: int = Field(ge=1, default=60)
    expiry_minutes: float = Field(gt=0)
    client_noise: ClientNoise | None = None

    def spec(self) -> MaskedSpec:
        """The numbers, with times in seconds."""
        return MaskedSpec(
            n_min=self.n_min,
            dropout_rate=self.dropout_rate,
            corruption_rate=self.corruption_rate,
            bits=self.bits,
            upload_seconds=max(1, round(60 * self.upload_minutes)),
            round_seconds=self.round_seconds,
            expiry_seconds=max(2, round(60 * self.expiry_minutes)),
            client_noise=self.client_noise,
        )


class CkksSessionConfig(Frozen):
    """`session.toml` of a ckks session: one key-holder, with the offer it made for this plan and n_max."""

    protocol: Literal["ckks"]
    plan: LocalPath
    roster: tuple[RosterEntry, ...] = Field(min_length=2)
    keyholder: CommitteeEntry
    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2)
    bits: int = Field(ge=2, le=24, default=16)
    upload_minutes: float = Field(gt=0)
    expiry_minutes: float = Field(gt=0)
    client_noise: ClientNoise | None = None

    def spec(self) -> CkksSpec:
        """The numbers, with times in seconds."""
        return CkksSpec(
            n_min=self.n_min,
            n_max=self.n_max,
            bits=self.bits,
            upload_seconds=max(1, round(60 * self.upload_minutes)),
            expiry_seconds=max(2, round(60 * self.expiry_minutes)),
            client_noise=self.client_noise,
        )


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
    plain = read_toml(config)
    if (protocol := plain.get("protocol")) in {"masked", "ckks"}:
        if earlier is not None:
            raise ConfigError(f"{config}: {protocol} sessions do not go on from another; --continue is for sealed ones")
        if releases is not None:
            raise ConfigError(f"{config}: {protocol} sessions have one release; --releases is for sealed ones")
        other = _create_other(plain, config, party)
        write_atomic(out, pretty_bytes(other), PUBLIC_FILE)
        click.echo(f"{out}: {protocol} session {other.statement.ctx}")
        _echo_ratio(other.statement)
        return
    wanted = check_config(plain if releases is None else {**plain, "releases": releases}, SessionConfig, config)
    now = int(time.time())
    roster = _roster(wanted.roster)
    committee = [
        CommitteeMember(certificate=_certificate(entry.certificate), offer=_offer(entry.offer))
        for entry in wanted.committee
    ]
    plan = _read(wanted.plan, lambda raw: parse_model(Plan, raw))
    last = _Last.read(earlier, party.signer) if earlier is not None else None
    place = last.next(wanted.rounds) if last is not None else _first(wanted.rounds)
    signed = create_session(wanted.spec(), plan, roster, committee, party.signer, now, secrets.token_bytes, place)
    if last is not None:
        check_follows(last.descriptor, last.adapter, signed.descriptor.statement)
    check_authority(signed.descriptor.statement, party.authority, now)
    write_atomic(out, pretty_bytes(signed), PUBLIC_FILE)
    title = f", {place.title}" if place is not None else ""
    click.echo(f"{out}: session {signed.descriptor.statement.ctx}{title}")
    _echo_ratio(signed.descriptor.statement)


def _echo_ratio(descriptor: NoisySession) -> None:
    """How large the noise for whole clients is, if there is any (protocol.md §14.8)."""
    if descriptor.noise_grid is not None:
        click.echo(descriptor.noise_grid.ratio_in_words)


def _roster(entries: Sequence[RosterEntry]) -> list[RosterMember]:
    return [RosterMember(certificate=_certificate(entry.certificate), weight=entry.weight) for entry in entries]


def _create_other(
    plain: dict[str, object], config: Path, party: PartyFiles
) -> SignedMaskedDescriptor | SignedCkksDescriptor:
    if plain["protocol"] == "masked":
        return _create_masked(check_config(plain, MaskedSessionConfig, config), party)
    return _create_ckks(check_config(plain, CkksSessionConfig, config), party)


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
    for name, value in fields.items():
        for line in value if isinstance(value, list) else [value]:
            click.echo(f"{name:<20} {line}")


Shown = dict[str, str | int | float | list[str] | None]


def describe(descriptor: Descriptor) -> Shown:
    """What people and policies want to know of a descriptor."""
    return {
        "session": descriptor.ctx,
        "coordinator": f"{descriptor.coordinator_identity.title} {descriptor.coordinator_identity.fingerprint}",
        **({"round": descriptor.round.title} if descriptor.round is not None else {}),
        **_described_plan(descriptor.plan, descriptor.parameters.length),
        **_client_noise(descriptor),
        "audit reserve": descriptor.audit.summary if descriptor.audit else "nothing",
        "protocol": descriptor.protocol,
        "security bits": descriptor.ring.security_bits,
        "upload bytes": descriptor.parameters.ciphertext_bytes,
        "n_min": descriptor.n_min,
        "n_max": descriptor.n_max,
        **_releases(descriptor),
        "committee": [f"{holder.title} {holder.fingerprint}" for holder in descriptor.holders],
        "quorum": f"{descriptor.threshold} of {len(descriptor.committee)}",
        "corrupt key-holders": f"at most {descriptor.corrupt_keyholders} assumed",
        "roster": [f"{client.title} {client.fingerprint}" for client in descriptor.clients.values()],
        "uploads until": _utc(descriptor.upload_deadline),
        "expires": _utc(descriptor.expires_at),
    }


def _releases(descriptor: Descriptor) -> Shown:
    if descriptor.releases == 1:
        return {}
    return {
        "releases": f"up to {descriptor.releases}, one cohort of at least {descriptor.n_min} clients after another",
    }


def _client_noise(descriptor: NoisySession) -> Shown:
    grid = descriptor.noise_grid
    if grid is None:
        return {"client noise": "none"}
    return {
        "client noise": grid.guarantee_in_words(descriptor.client_releases),
        "noise over signal": grid.ratio_in_words,
    }


def describe_masked(descriptor: MaskedDescriptor) -> Shown:
    """The same of a masked session."""
    graph = descriptor.graph
    return {
        "session": descriptor.ctx,
        "coordinator": f"{descriptor.coordinator_identity.title} {descriptor.coordinator_identity.fingerprint}",
        **_described_plan(descriptor.plan, descriptor.shape.length),
        **_client_noise(descriptor),
        "protocol": descriptor.protocol,
        "security bits": SECURITY_BITS,
        "upload bytes": descriptor.shape.packed_bytes,
        "n_min": descriptor.n_min,
        "graph": "complete" if graph.complete else f"{graph.holders} holders of each client",
        "threshold": f"{graph.threshold} of {graph.holders} holders give a secret back",
        "corrupt clients": f"at most {graph.corrupt} assumed",
        "may vanish": f"up to {graph.dropouts}, in any round",
        "smallest sum": f"{graph.smallest_sum} honest clients",
        "sums": f"a lying coordinator could open {'one' if graph.most_sums == 1 else f'up to {graph.most_sums}'}",
        "roster": [f"{client.title} {client.fingerprint}" for client in descriptor.clients],
        "joining until": _utc(descriptor.upload_deadline),
        "seconds a round": descriptor.round_seconds,
        "expires": _utc(descriptor.expires_at),
    }


def describe_ckks(descriptor: CkksDescriptor) -> Shown:
    """The same of a ckks session."""
    parameters = descriptor.parameters
    return {
        "session": descriptor.ctx,
        "coordinator": f"{descriptor.coordinator_identity.title} {descriptor.coordinator_identity.fingerprint}",
        **_described_plan(descriptor.plan, parameters.length),
        **_client_noise(descriptor),
        "protocol": descriptor.protocol,
        "security bits": parameters.ring.security_bits,
        "ring": parameters.ring.name,
        "scale": f"2^{parameters.scale_log2}",
        "values in a coefficient": parameters.limbs,
        "n_min": descriptor.n_min,
        "n_max": descriptor.n_max,
        "key-holder": f"{descriptor.holder.title} {descriptor.holder.fingerprint}",
        "trust": TRUST_NOTE,
        "roster": [f"{client.title} {client.fingerprint}" for client in descriptor.clients.values()],
        "uploads until": _utc(descriptor.upload_deadline),
        "expires": _utc(descriptor.expires_at),
    }


def _described_plan(plan: Plan, values: int) -> Shown:
    training = plan.training
    return {
        "base model": plan.base_model,
        "base model hash": plan.base_model_hash,
        "adapter schema hash": adapter_schema_hash(plan),
        "task": plan.task.kind,
        "method": plan.method,
        "reveals": encoding_of(plan).reveals,
        "values": values,
        "epsilon": training.epsilon,
        "delta": training.delta,
        "unit of privacy": unit_in_words(training.unit, training.records_per_user),
        "noise": training.noise,
    }


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _certificate(path: Path) -> str:
    return _read(path, lambda raw: identify(raw).pem)


def _offer(path: Path) -> SignedOffer:
    return _read(path, SignedOffer.parse)


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    """Parse a file; an error names it."""
    raw = read_file(path)
    try:
        return parse(raw)
    except SecaggError as error:
        raise type(error)(f"{path}: {error}") from error
