"""What several releases show together, from who was in each alone: overlaps, and clients that a combination isolates.

A release publishes the sum over its cohort. Sums over cohorts that overlap can be combined, and what is left may be a
single client's update, or the sum of fewer than n_min, which a cohort of that size would have shown. Whether it is so
follows from the signed sets; no sum is looked at. A client that was in several releases trained anew for each, so its
updates do not cancel: what is left is the isolated client's update with their differences and noise in the way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from secagg.errors import AuditError
from secagg_attacks.aggregation.combinations import (
    Combination,
    Record,
    RowSpace,
    leaving,
    searchable,
    small_groups,
)

TRIED = 50_000
"""Groups of clients that are tried at most: seconds."""


@dataclass(frozen=True, slots=True)
class Member:
    """A client in one sum: with which weight, and what it sent (the root of its upload)."""

    weight: Fraction
    upload: str


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who was in one release, by name. `title` says which release it is, `n_min` is its session's."""

    title: str
    n_min: int
    members: dict[str, Member]

    @property
    def record(self) -> Record:
        """Weights by client."""
        return {client: member.weight for client, member in self.members.items()}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two releases, numbered from 1: who was in both, and who in one alone."""

    first: int
    second: int
    both: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Isolation:
    """A client, or a small group, that a combination of releases leaves.

    Attributes:
        weights: with which factor each client's update is left.
        releases: those that are needed, numbered from 1.
        noise: the noise in what is left, as a multiple of that in the same updates alone: 1 where the other clients
            sent the same upload to all, else all their trainings' noise is in it.
    """

    weights: dict[str, int]
    releases: tuple[int, ...]
    noise: float

    @property
    def alone(self) -> bool:
        """Whether it is one client."""
        return len(self.weights) == 1

    @property
    def who(self) -> str:
        """`Hospital A`, `Hospital A + Hospital B`, `2 x Hospital A - Hospital B`."""
        if self.alone:
            return next(iter(self.weights))
        parts = [f"{'-' if w < 0 else '+'} {'' if abs(w) == 1 else f'{abs(w)} x '}{c}" for c, w in self.weights.items()]
        return " ".join(parts).removeprefix("+ ")

    @property
    def by(self) -> str:
        """`release 1`, `releases 1 and 2`, `releases 1, 2 and 4`."""
        *first, last = map(str, self.releases)
        return f"releases {', '.join(first)} and {last}" if first else f"release {last}"


@dataclass(frozen=True, slots=True)
class Overlap:
    """What the releases show together.

    `below` is the largest of their n_min; groups of up to `tried` clients were looked for, below - 1 unless these were
    too many. `found` are the smallest: none contains another.
    """

    cohorts: tuple[Cohort, ...]
    below: int
    tried: int
    found: tuple[Isolation, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every two releases."""
        return tuple(_pair(self.cohorts, *each) for each in combinations(range(len(self.cohorts)), 2))

    @property
    def clients(self) -> tuple[str, ...]:
        """Everybody, by name."""
        return tuple(sorted(frozenset().union(*(each.members for each in self.cohorts))))

    @property
    def isolates(self) -> bool:
        """Whether a client is isolated."""
        return any(each.alone for each in self.found)

    @property
    def reading(self) -> str:
        """One sentence."""
        alone = [f"{each.who} by {each.by}" for each in self.found if each.alone]
        groups = [f"{each.who} by {each.by}" for each in self.found if not each.alone]
        few = f"groups of fewer than n_min = {self.below} clients are left: {'; '.join(groups)}" if groups else ""
        if alone:
            return f"isolated: {'; '.join(alone)}" + (f". Besides, {few}" if few else "")
        nobody = f"no client is isolated by these {len(self.cohorts)} releases"
        if few:
            return f"{nobody}, but {few}"
        limit = "" if self.tried == self.below - 1 else f" (groups of up to {self.tried} were tried)"
        return f"{nobody}, nor a group of fewer than n_min = {self.below}{limit}"


def overlap(cohorts: Sequence[Cohort]) -> Overlap:
    """Look for every smallest group below the largest n_min that two or more of the releases isolate.

    Raises AuditError for fewer than two releases, or two that are the same sum.
    """
    if len(cohorts) < 2:
        raise AuditError("overlaps are of two releases at least: give more with --other")
    for one, two in combinations(cohorts, 2):
        if one.members == two.members:
            raise AuditError(f"{one.title} and {two.title} are the same sum: give each release once")
    records = [each.record for each in cohorts]
    below = max(each.n_min for each in cohorts)
    tried = searchable(records, below - 1, TRIED)
    space, found, taken = RowSpace.of(records), list[Isolation](), list[frozenset[str]]()
    for group in small_groups(records, tried):
        if not space.may_leave(group) or any(smaller <= group for smaller in taken):
            continue
        left = _by_fewest(records, group)
        if left is not None and len(left.used) > 1:  # one release alone keeps to its own n_min
            taken.append(group)
            releases = tuple(number + 1 for number in left.used)
            found.append(Isolation(left.weights, releases, _noise(cohorts, left)))
    return Overlap(tuple(cohorts), below, tried, tuple(found))


def _by_fewest(records: Sequence[Record], group: frozenset[str]) -> Combination | None:
    """A combination that leaves the whole group and needs all of its releases; later ones are left out first."""
    kept, found = list(range(len(records))), leaving(records, group)
    if found is None or set(found.weights) != group:
        return None
    for number in reversed(range(len(records))):
        fewer = [each for each in kept if each != number]
        left = leaving([records[each] for each in fewer], group) if fewer else None
        if left is not None and set(left.weights) == group:
            kept = fewer
            factors = dict(zip(fewer, left.sessions, strict=True))
            found = Combination(left.weights, tuple(factors.get(n, Fraction(0)) for n in range(len(records))))
    return found


def _noise(cohorts: Sequence[Cohort], left: Combination) -> float:
    """Every upload has noise of its own; the same upload in two sums has the same."""
    draws = dict[tuple[str, str], Fraction]()
    for factor, cohort in zip(left.sessions, cohorts, strict=True):
        for client, member in cohort.members.items():
            key = (client, member.upload)
            draws[key] = draws.get(key, Fraction(0)) + factor * member.weight
    own = sum(weight**2 for weight in left.weights.values())
    return math.sqrt(sum(value**2 for value in draws.values()) / own)


def _pair(cohorts: Sequence[Cohort], one: int, two: int) -> Pair:
    first, second = cohorts[one].members.keys(), cohorts[two].members.keys()
    parts = (first & second, first - second, second - first)
    return Pair(one + 1, two + 1, *(tuple(sorted(part)) for part in parts))
