"""Differences of sums over overlapping cohorts: sum over S minus sum over S without i is client i's update.

Any combination of sums is one of updates with the same combination of participation columns. A combination in which
fewer than n_min clients are left is what a cohort of that size would have shown, and n_min was to prevent. All such
are found by exact elimination over the rationals. Recovered is what the sums hold: when a client trained anew for each
session, with fresh noise, its updates do not cancel, and `amplification` says what noise is in the way.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats

MAX_GROUPS = 200_000
"""Groups of clients that are tried at most."""

Row = tuple[Fraction, ...]


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
    clients = sorted(frozenset().union(*(each.members for each in sums)))
    matrix = [tuple(Fraction(client in each.members) for client in clients) for each in sums]
    totals = np.stack([each.total for each in sums])
    found, taken = list[Isolated](), list[frozenset[str]]()
    for group in _groups(sums, clients, n_min):
        if any(smaller <= group for smaller in taken):
            continue
        factors = _combination(matrix, [number for number, client in enumerate(clients) if client not in group])
        if factors is not None:
            taken.append(group)
            found.append(_isolated(matrix, clients, factors, totals))
    return SetDifference(tuple(found))


def amplification(isolated: Isolated, sums: Sequence[CohortSum]) -> float:
    """What a deviation of fresh noise, one draw for each client and session, becomes in the recovered vector.

    sqrt(sum over sessions of factor^2 x members): 1 would be the noise of one update alone.
    """
    squares = [float(f) ** 2 * len(each.members) for f, each in zip(isolated.sessions, sums, strict=True)]
    return math.sqrt(math.fsum(squares))


def _groups(sums: Sequence[CohortSum], clients: Sequence[str], n_min: int) -> Iterator[frozenset[str]]:
    """Candidates, smaller ones first. Clients that were always together can only be isolated together."""
    classes = dict[tuple[bool, ...], list[str]]()
    for client in clients:
        classes.setdefault(tuple(client in each.members for each in sums), []).append(client)
    small = [frozenset(members) for members in classes.values() if len(members) < n_min]
    count = sum(math.comb(len(small), size) for size in range(1, n_min))
    if count > MAX_GROUPS:
        raise AuditError(f"{count} groups of fewer than {n_min} clients are too many to try: take fewer sessions")
    unions = (frozenset().union(*parts) for size in range(1, n_min) for parts in combinations(small, size))
    yield from sorted((union for union in unions if len(union) < n_min), key=len)


def _combination(matrix: Sequence[Row], others: Sequence[int]) -> Row | None:
    """Factors of the rows, [sessions], that leave nothing of the columns `others`, but something; None: there are none.

    The rows' left kernel on these columns is eliminated with the identity beside it.
    """
    count = len(matrix)
    work = [
        [row[number] for number in others] + [Fraction(place == own) for own in range(count)]
        for place, row in enumerate(matrix)
    ]
    rank = _eliminate(work, len(others))
    for row in work[rank:]:
        factors = tuple(row[len(others) :])
        if any(_left(matrix, factors)):
            return factors
    return None


def _left(matrix: Sequence[Row], factors: Row) -> Row:
    """With which factor each client is in the combination."""
    return tuple(sum(map(operator.mul, factors, column), Fraction(0)) for column in zip(*matrix, strict=True))


def _eliminate(work: list[list[Fraction]], columns: int) -> int:
    """Row echelon form of the first `columns`, in place; how many rows are not zero there."""
    rank = 0
    for column in range(columns):
        pivot = next((place for place in range(rank, len(work)) if work[place][column]), None)
        if pivot is None:
            continue
        work[rank], work[pivot] = work[pivot], work[rank]
        head = work[rank]
        for place in range(rank + 1, len(work)):
            if factor := work[place][column] / head[column]:
                work[place] = [value - factor * above for value, above in zip(work[place], head, strict=True)]
        rank += 1
    return rank


def _isolated(matrix: Sequence[Row], clients: Sequence[str], factors: Row, totals: NDArray[np.float64]) -> Isolated:
    """The combination with whole weights, the first of them positive."""
    left = _left(matrix, factors)
    kept = [value for value in left if value]
    scale = _whole(kept, -1 if kept[0] < 0 else 1)
    weights = {client: int(value * scale) for client, value in zip(clients, left, strict=True) if value}
    sessions = tuple(factor * scale for factor in factors)
    return Isolated(weights, sessions, np.array([float(f) for f in sessions]) @ totals)


def _whole(values: Sequence[Fraction], sign: int) -> Fraction:
    """The factor that makes of `values` whole numbers without a common divisor."""
    common = math.lcm(*(value.denominator for value in values))
    return Fraction(sign * common, math.gcd(*(int(value * common) for value in values)))
