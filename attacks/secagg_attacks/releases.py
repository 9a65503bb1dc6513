"""Views of a run that was released: from its folders, as anyone has them who has the release (protocol.md §10).

The secure sums (V2) and the final model (V3) are in a release; plain updates (V1) are nowhere, and what a participant
has besides (V4) it does not keep. Says nothing about who signed: that is `secagg verify`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg import certificate as files
from secagg import release
from secagg.adapter import start_tensors
from secagg.certificate import Certificate, ReleaseCertificate
from secagg.ckks.certificate import CkksCertificate
from secagg.ckks.coordinator import check_opening
from secagg.ckks.descriptor import CkksDescriptor
from secagg.ckks.verify import opened_of
from secagg.coordinator import mean_change
from secagg.descriptor import Descriptor
from secagg.encodings.registry import encoding_of
from secagg.errors import AuditError, MalformedError
from secagg.masked.certificate import MaskedCertificate
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.run import masked_mean
from secagg.masked.verify import read_masked_opening
from secagg.plan import Plan
from secagg.signing import parse_model
from secagg.verify import read_opening
from secagg_attacks.views import (
    FinalModel,
    Public,
    Question,
    SecureSums,
    SumRound,
    Tensors,
    Vector,
    View,
    ViewName,
    check_is_change,
)
from secagg_client.audit_files import DRAW, StoredDraw
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.planning import verify_plan
from secagg_client.published import read_any_certificate
from secagg_host.durable import read_file

LEAST = 20
"""Fewer members, or others, and nothing is computed."""


@dataclass(frozen=True, slots=True)
class ReleasedRound:
    """One release: its session, where its training started, its adapter by PEFT key and its mean vector [L]."""

    descriptor: Descriptor | MaskedDescriptor | CkksDescriptor = field(repr=False)
    certificate: Certificate = field(repr=False)
    plan: Plan = field(repr=False)
    adapter: Tensors = field(repr=False)
    mean: Vector = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> "ReleasedRound":
        """From a release folder. Raises StorageError, MalformedError, HashMismatch for what is no whole release, and
        what opening its sum raises.
        """
        certificate = read_any_certificate(folder)
        adapter = release.load_tensors(read_file(folder / files.ADAPTER), files.ADAPTER)
        opening = read_file(folder / files.OPENING)
        if isinstance(certificate, MaskedCertificate):
            session, (found, _) = certificate.session.statement, read_masked_opening(opening, certificate)
            return cls(session, certificate, session.plan, adapter, masked_mean(session, found))
        if isinstance(certificate, CkksCertificate):
            agreed, signed_set = certificate.session.statement, certificate.final.statement
            mean = check_opening(agreed, signed_set, opened_of(opening, certificate))
            return cls(agreed, certificate, agreed.plan, adapter, mean)
        if not isinstance(certificate, ReleaseCertificate):
            raise MalformedError(f"{folder}: a certificate of an unknown protocol")
        descriptor = certificate.session.descriptor.statement
        if certificate.progress is not None and certificate.progress.number > 1:
            raise AuditError(
                f"{folder}: is release {certificate.progress.number} of its session; its adapter is a mean of several "
                "cohorts, and an audit is of one sum. Give the first release"
            )
        start = read_file(folder / files.START) if descriptor.previous is not None else None
        plan = release.plan_of(descriptor, start)
        opened, _total = read_opening(opening, certificate)
        mean = mean_change(descriptor, certificate.final.statement, opened.opening)
        return cls(descriptor, certificate, plan, adapter, mean)

    @property
    def members(self) -> tuple[str, ...]:
        """Fingerprints of those whose updates are in the sum."""
        return self.certificate.members

    @property
    def senders(self) -> int:
        """How many there are."""
        return len(self.members)


@dataclass(frozen=True, slots=True)
class ReleasedRun:
    """All rounds of a run, in order. Raises AuditError when they are not the rounds of one run from the first on."""

    rounds: tuple[ReleasedRound, ...]

    def __post_init__(self) -> None:
        numbers = [each.descriptor.number for each in self.rounds]
        series = {each.descriptor.series for each in self.rounds}
        if len(series) != 1:
            raise AuditError("the releases are of different sessions: give the rounds of one run")
        if numbers != list(range(len(numbers))):
            there = ", ".join(str(number + 1) for number in numbers)
            raise AuditError(
                f"rounds {there} are there: give every round of the run from the first on, the earlier ones with "
                "--earlier, first round first"
            )

    @classmethod
    def read(cls, folder: Path, earlier: Sequence[Path] = ()) -> "ReleasedRun":
        """The run whose last release is in `folder`; `earlier` are those before it, first round first."""
        return cls(tuple(ReleasedRound.read(each) for each in (*earlier, folder)))

    @property
    def first(self) -> ReleasedRound:
        """The first round: its plan is the run's."""
        return self.rounds[0]

    @property
    def last(self) -> ReleasedRound:
        """The last round."""
        return self.rounds[-1]

    @property
    def is_cut(self) -> bool:
        """Whether rounds were planned that are not there."""
        return len(self.rounds) < self.last.descriptor.rounds

    def check_sums(self) -> None:
        """Raise AuditError where v2 cannot be had: the sums are no change of what clients train."""
        check_is_change(self.first.plan)

    def public(self, base: LoadedBase) -> Public:
        """What everybody knows; what clients declared is not in a release. Raises ModelError for another base."""
        verify_plan(self.first.plan, base)
        return Public(self.first.plan, base, self.last.senders, 1, len(self.rounds))

    def view(self, name: ViewName, public: Public, question: Question | None) -> View:
        """V2 or V3 of the run whose `public` this is. Raises AuditError for others, and for an encoding whose sums are
        no adapter.
        """
        match name:
            case ViewName.V2:
                sums = tuple(self._sum(each) for each in self.rounds)
                return SecureSums(public, question, sums, self.last.adapter)
            case ViewName.V3:
                return FinalModel(public, question, self.last.adapter)
        raise AuditError(
            f"{name} cannot be had from a release: plain updates are written nowhere (v1), and a participant does not "
            "keep its own (v4). Use v2 or v3, or simulate the federation"
        )

    def _sum(self, each: ReleasedRound) -> SumRound:
        plan = each.plan
        check_is_change(plan)
        update = encoding_of(plan).mean_update(plan, each.mean, each.senders)
        return SumRound(start_tensors(plan), update, each.senders)

    def drawn_by_coin(self, members: Path, nonmembers: Path, inside: Examples, outside: Examples) -> bool:
        """Whether these are the tables of a draw that this run's session reserved (protocol.md §4.6).

        Raises AuditError for a client that is in no sum, and for records that are not where the draw's coins put them.
        """
        if nonmembers.parent != members.parent or (draw := self.draw_beside(members)) is None:
            return False
        for path, examples, heads in ((members, inside, True), (nonmembers, outside, False)):
            wrong = draw.not_so(examples, self.first.plan.training.unit, heads=heads)
            if wrong:
                raise AuditError(
                    f"{path}: {wrong} of {len(examples)} records are not where the coins of {path.parent / DRAW} put "
                    "them: the tables were altered or exchanged, or are another draw's. Give them as the client "
                    "wrote them"
                )
        return True

    def draw_beside(self, table: Path) -> StoredDraw | None:
        """The draw that a table was written with, if it is of this run's session.

        Raises MalformedError; AuditError for a client that is in no sum of this run.
        """
        reserve, path = self.last.descriptor.audit, table.parent / DRAW
        if reserve is None or not path.is_file():
            return None
        draw = parse_model(StoredDraw, read_file(path))
        if draw.reserve != reserve or draw.key != self.first.descriptor.series:
            return None
        if not any(draw.client in one.members for one in self.rounds):
            raise AuditError(f"{path}: its client, {draw.client[:16]}…, is in no sum of this run")
        return draw


def candidates_of(members: Examples, nonmembers: Examples, seed: int = 0) -> tuple[Examples, NDArray[np.bool_]]:
    """Both in one random order, and which are members, bool [candidates]. Raises AuditError as `check_apart`."""
    check_apart(members, nonmembers)
    order = np.random.default_rng(seed).permutation(len(members) + len(nonmembers))
    joined = members.joined(nonmembers)
    return joined.select(order.tolist()), order < len(members)


def check_apart(members: Examples, nonmembers: Examples) -> None:
    """Raise AuditError when they overlap, or are too few."""
    both = set(members.record_hashes()) & set(nonmembers.record_hashes())
    if both:
        raise AuditError(
            f"{len(both)} records are among members and non-members: remove them from one of {members.source} and "
            f"{nonmembers.source}"
        )
    for part, name in ((members, "members"), (nonmembers, "non-members")):
        if len(part) < LEAST:
            raise AuditError(f"{part.source}: {len(part)} {name} are too few to say anything; {LEAST} are needed")
