"""Differences of sums over overlapping cohorts: sum over S minus sum over S without i is client i's update.

Any combination of sums is one of updates with the same combination of participation columns. A combination in which
fewer than n_min clients are left is what a cohort of that size would have shown, and n_min was to prevent. All such
are found by exact elimination over the rationals. Recovered is what the sums hold: when a client trained anew for each
session, with fresh noise, its updates do not cancel, and `amplification` says what noise is in the way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from secagg.errors import AuditError
from secagg_attacks.aggregation.combinations import leaving, small_groups
from secagg_attacks.intervals import Floats


@dataclass(frozen=True, slots=True)
class CohortSum:
    """What one session showed: who was in it, and the sum (not the mean) of their updates, [values]."""

    members: frozenset[str]
    total: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class Isolated:
    """A combination of sums that leaves few clients.

    Attributes:
        weights: with which factor each client's update is left, whole numbers without a common divisor.
        sessions: with which factor each session's sum goes in, [sessions].
        vector: the combination, [values]; of a single client, its update.
    """

    weights: dict[str, int]
    sessions: tuple[Fraction, ...]
    vector: Floats = field(repr=False)

    @property
    def clients(self) -> tuple[str, ...]:
        """Whose updates are left."""
        return tuple(sorted(self.weights))


@dataclass(frozen=True, slots=True)
class SetDifference:
    """All smallest groups below n_min that the sums isolate; none contains another."""

    found: tuple[Isolated, ...]

    def alone(self) -> dict[str, Floats]:
        """The clients that were isolated one by one, and their updates."""
        return {each.clients[0]: each.vector for each in self.found if len(each.weights) == 1}


def set_difference(sums: Sequence[CohortSum], n_min: int) -> SetDifference:
    """Find every smallest group of fewer than `n_min` clients that a combination of the sums leaves.

    Raises:
        AuditError: no sums, sums of different lengths, or more groups than can be tried.
    """
    if not sums or len({each.total.shape for each in sums}) != 1:
        raise AuditError("set differences need sums, all of one length")
    records = [dict.fromkeys(each.members, Fraction(1)) for each in sums]
    totals = np.stack([each.total for each in sums])
    found, taken = list[Isolated](), list[frozenset[str]]()
    for group in small_groups(records, n_min - 1):
        if any(smaller <= group for smaller in taken):
            continue
        left = leaving(records, group)
        if left is not None:
            taken.append(group)
            vector = np.array([float(factor) for factor in left.sessions]) @ totals
            found.append(Isolated(left.weights, left.sessions, vector))
    return SetDifference(tuple(found))


def amplification(isolated: Isolated, sums: Sequence[CohortSum]) -> float:
    """What a deviation of fresh noise, one draw for each client and session, becomes in the recovered vector.

    sqrt(sum over sessions of factor^2 x members): 1 would be the noise of one update alone.
    """
    squares = [float(f) ** 2 * len(each.members) for f, each in zip(isolated.sessions, sums, strict=True)]
    return math.sqrt(math.fsum(squares))
