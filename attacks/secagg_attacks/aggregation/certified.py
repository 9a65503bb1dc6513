"""Cohorts from releases' certificates alone (protocol.md §10): who was in each sum is in the signed final set.

Says nothing about whom the coordinator's key belongs to: that is `secagg verify`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from secagg.certificate import CERTIFICATE, parse_certificate
from secagg.ckks.certificate import SignedCkksRelease
from secagg.ckks.descriptor import is_ckks
from secagg.errors import AuditError, ProtocolViolation
from secagg.identity import Identity, plain_name
from secagg.masked.certificate import SignedMaskedRelease
from secagg.masked.descriptor import is_masked
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg.sets import check_members
from secagg_attacks.aggregation.cohorts import Cohort, Member
from secagg_host.durable import read_file


@dataclass(frozen=True, slots=True)
class Certified:
    """A release by its folder: what its session was, and the set that its coordinator signed.

    `clients` and public `weights` are the roster's, `members` the set's with what each signed; all by fingerprint.
    """

    folder: Path
    plan: Plan = field(repr=False)
    n_min: int
    clients: Mapping[str, Identity] = field(repr=False)
    weights: Mapping[str, float] = field(repr=False)
    members: Mapping[str, str] = field(repr=False)
    start: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Certified":
        """Raises AuditError for a folder without certificate, StorageError, MalformedError, or a SecaggError for a
        set that is not this session's.
        """
        path = folder / CERTIFICATE
        if not path.is_file():
            raise AuditError(f"{folder} has no {CERTIFICATE}: only a certificate says who was in a sum. Leave it out")
        raw = read_file(path)
        if is_ckks(raw):
            return cls._ckks(folder, raw)
        return cls._masked(folder, raw) if is_masked(raw) else cls._sealed(folder, raw)

    @classmethod
    def _sealed(cls, folder: Path, raw: bytes) -> "Certified":
        certificate = parse_certificate(raw).statement
        descriptor = certificate.session.check(approved=False)
        final = certificate.final.verify(descriptor.coordinator_identity)
        check_members(descriptor, final.members)
        _check_own(folder, final.ctx, descriptor.ctx)
        members = {member.client: member.upload_root for member in final.members}
        start = descriptor.previous.adapter if descriptor.previous else ""
        return cls(folder, descriptor.plan, descriptor.n_min, descriptor.clients, descriptor.weights, members, start)

    @classmethod
    def _ckks(cls, folder: Path, raw: bytes) -> "Certified":
        certificate = SignedCkksRelease.parse(raw).statement
        descriptor = certificate.session.verify(certificate.session.statement.coordinator_identity)
        final = certificate.final.verify(descriptor.coordinator_identity)
        _check_own(folder, final.ctx, descriptor.ctx)
        members = {member.client: member.upload for member in final.members}
        if not set(members) <= set(descriptor.clients):
            raise ProtocolViolation(f"{folder / CERTIFICATE}: its set has members off the roster: altered")
        return cls(folder, descriptor.plan, descriptor.n_min, descriptor.clients, descriptor.weights, members)

    @classmethod
    def _masked(cls, folder: Path, raw: bytes) -> "Certified":
        certificate = SignedMaskedRelease.parse(raw).statement
        descriptor = certificate.session.verify(certificate.session.statement.coordinator_identity)
        final = certificate.final.verify(descriptor.coordinator_identity)
        _check_own(folder, final.ctx, descriptor.ctx)
        clients = {identity.fingerprint: identity for identity in descriptor.clients}
        weights = {name: one.weight for name, one in zip(clients, descriptor.roster, strict=True)}
        signed = {upload.signer: upload.statement.digest for upload in certificate.uploads}
        chosen = [descriptor.member(number).fingerprint for number in final.members]
        if sorted(chosen) != sorted(signed):
            raise ProtocolViolation(f"{folder / CERTIFICATE}: its set is not that of its uploads: altered")
        return cls(folder, descriptor.plan, descriptor.n_min, clients, weights, signed)


def _check_own(folder: Path, found: str, ctx: str) -> None:
    if found != ctx:
        raise ProtocolViolation(
            f"{folder / CERTIFICATE}: its final set is of session {found[:16]}, not of its own: altered"
        )


def cohorts_of(releases: Sequence[Certified]) -> tuple[tuple[Cohort, ...], tuple[str, ...]]:
    """Their cohorts, with clients by name, and what is to be noted.

    Raises AuditError for releases of different base models or adapters: their sums cannot be combined.
    """
    for number, each in enumerate(releases[1:], 2):
        _check_alike(releases[0], each, number)
    names = _names(releases)
    cohorts = tuple(
        Cohort(
            f"release {number} ({each.folder})",
            each.n_min,
            {
                names[client]: Member(Fraction(str(each.weights[client])), upload)
                for client, upload in each.members.items()
            },
        )
        for number, each in enumerate(releases, 1)
    )
    return cohorts, tuple(_notes(releases, names))


def _check_alike(first: Certified, other: Certified, number: int) -> None:
    """The sums are of one space: the same base model, tensors, start values and method."""
    where = f"{other.folder} (release {number})"
    one, two = first.plan, other.plan
    if one.base_model_hash != two.base_model_hash:
        raise AuditError(
            f"{where} is of another base model than release 1: {two.base_model} {two.base_model_hash[:16]}, not "
            f"{one.base_model} {one.base_model_hash[:16]}. Sums of different models cannot be combined: leave it out"
        )
    if adapter_schema_hash(one) != adapter_schema_hash(two):
        raise AuditError(
            f"{where} is of another plan than release 1: its adapter (method {two.method}, {len(two.tensors)} tensors) "
            f"is not the same as (method {one.method}, {len(one.tensors)} tensors), or starts elsewhere. Sums of "
            "different adapters cannot be combined: leave it out"
        )


def _names(releases: Sequence[Certified]) -> dict[str, str]:
    """What each fingerprint is called: certificates expire, so a client of a later session is known by its name.

    Names that differ only in case or spaces are one (protocol.md §4.4). Two clients of one roster are never one.
    """
    everybody = {client: identity for each in releases for client, identity in each.clients.items()}
    doubled = {title for each in releases for title in _doubled(each.clients)}
    titles = {plain_name(identity.title): identity for identity in reversed(everybody.values())}
    institutions = Counter(plain_name(identity.institution) for identity in titles.values())

    def name(client: str, identity: Identity) -> str:
        title = plain_name(identity.title)
        if title in doubled:
            return f"{identity.title} {client[:8]}"
        first = titles[title]
        return first.institution if institutions[plain_name(first.institution)] == 1 else first.title

    return {client: name(client, identity) for client, identity in everybody.items()}


def _doubled(clients: Mapping[str, Identity]) -> Iterator[str]:
    counts = Counter(plain_name(identity.title) for identity in clients.values())
    return (title for title, count in counts.items() if count > 1)


def _notes(releases: Sequence[Certified], names: dict[str, str]) -> Iterator[str]:
    certificates = Counter(names.values())
    renewed = sorted(name for name, count in certificates.items() if count > 1)
    if renewed:
        yield f"taken as one client by name, with different certificates: {', '.join(renewed)}"
    if len({each.plan.training for each in releases}) > 1:
        yield "the releases' training settings differ, so a client's updates differ by more than samples and noise"
    starts = {each.start for each in releases}
    if len(starts) > 1:
        yield (
            "the releases start from different adapters (they are rounds): a client's updates are alike at most in "
            "direction"
        )
