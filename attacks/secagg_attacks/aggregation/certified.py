"""Cohorts from releases' certificates alone (protocol.md §10): who was in each sum is in the signed final set.

Says nothing about whom the coordinator's key belongs to: that is `secagg verify`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from secagg.certificate import CERTIFICATE, parse_certificate
from secagg.descriptor import Descriptor
from secagg.errors import AuditError, ProtocolViolation
from secagg.identity import Identity, plain_name
from secagg.messages import FinalSet
from secagg.policy import adapter_schema_hash
from secagg.sets import check_members
from secagg_attacks.aggregation.cohorts import Cohort, Member
from secagg_host.durable import read_file


@dataclass(frozen=True, slots=True)
class Certified:
    """A release by its folder: what its session was, and the set that its coordinator signed."""

    folder: Path
    descriptor: Descriptor = field(repr=False)
    final: FinalSet = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> "Certified":
        """Raises AuditError for a folder without certificate, StorageError, MalformedError, or a SecaggError for a
        set that is not this session's.
        """
        path = folder / CERTIFICATE
        if not path.is_file():
            raise AuditError(f"{folder} has no {CERTIFICATE}: only a certificate says who was in a sum. Leave it out")
        certificate = parse_certificate(read_file(path)).statement
        descriptor = certificate.session.check(approved=False)
        final = certificate.final.verify(descriptor.coordinator_identity)
        check_members(descriptor, final.members)
        if final.ctx != descriptor.ctx:
            raise ProtocolViolation(f"{path}: its final set is of session {final.ctx[:16]}, not of its own: altered")
        return cls(folder, descriptor, final)

    @property
    def members(self) -> dict[str, str]:
        """Upload root by fingerprint."""
        return {member.client: member.upload_root for member in self.final.members}


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
            each.descriptor.n_min,
            {
                names[client]: Member(Fraction(str(each.descriptor.weights[client])), upload)
                for client, upload in each.members.items()
            },
        )
        for number, each in enumerate(releases, 1)
    )
    return cohorts, tuple(_notes(releases, names))


def _check_alike(first: Certified, other: Certified, number: int) -> None:
    """The sums are of one space: the same base model, tensors, start values and method."""
    where = f"{other.folder} (release {number})"
    one, two = first.descriptor.plan, other.descriptor.plan
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
    everybody = {client: identity for each in releases for client, identity in each.descriptor.clients.items()}
    doubled = {title for each in releases for title in _doubled(each.descriptor)}
    titles = {plain_name(identity.title): identity for identity in reversed(everybody.values())}
    institutions = Counter(plain_name(identity.institution) for identity in titles.values())

    def name(client: str, identity: Identity) -> str:
        title = plain_name(identity.title)
        if title in doubled:
            return f"{identity.title} {client[:8]}"
        first = titles[title]
        return first.institution if institutions[plain_name(first.institution)] == 1 else first.title

    return {client: name(client, identity) for client, identity in everybody.items()}


def _doubled(descriptor: Descriptor) -> Iterator[str]:
    counts = Counter(plain_name(identity.title) for identity in descriptor.clients.values())
    return (title for title, count in counts.items() if count > 1)


def _notes(releases: Sequence[Certified], names: dict[str, str]) -> Iterator[str]:
    certificates = Counter(names.values())
    renewed = sorted(name for name, count in certificates.items() if count > 1)
    if renewed:
        yield f"taken as one client by name, with different certificates: {', '.join(renewed)}"
    if len({each.descriptor.plan.training for each in releases}) > 1:
        yield "the releases' training settings differ, so a client's updates differ by more than samples and noise"
    starts = {each.descriptor.previous.adapter if each.descriptor.previous else "" for each in releases}
    if len(starts) > 1:
        yield (
            "the releases start from different adapters (they are rounds): a client's updates are alike at most in "
            "direction"
        )
