"""Which combinations of sums leave few clients: from the records of who was in each, and with what weight, alone.

Any combination of sums is one of updates with the same combination of participation columns. Those that leave a small
group are found by exact elimination over the rationals, whatever the sums hold.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations

import numpy as np

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats

MAX_GROUPS = 200_000
"""Groups of clients that are tried at most."""
RANK_TOLERANCE, NEARLY = 1e-9, 1e-6
"""In floating point, which only says where exact elimination is worth its time."""

Row = tuple[Fraction, ...]
Record = Mapping[str, Fraction]
"""Who was in one sum, with the weight that each update had there."""


@dataclass(frozen=True, slots=True)
class Combination:
    """A combination of sums that leaves few clients.

    Attributes:
        weights: with which factor each client's update is left, whole numbers without a common divisor.
        sessions: with which factor each sum goes in, [sums].
    """

    weights: dict[str, int]
    sessions: Row

    @property
    def used(self) -> tuple[int, ...]:
        """The numbers of the sums that go in, from 0."""
        return tuple(number for number, factor in enumerate(self.sessions) if factor)


def small_groups(records: Sequence[Record], largest: int) -> Iterator[frozenset[str]]:
    """Groups of up to `largest` clients that could be left alone, smaller ones first.

    Clients whose weights are in proportion in all records, such as those that were always together, can only be left
    together. Raises AuditError when there are more groups than can be tried.
    """
    classes = _classes(records)
    small = [members for members in classes if len(members) <= largest]
    if (count := _count(small, largest)) > MAX_GROUPS:
        raise AuditError(f"{count} groups of up to {largest} clients are too many to try: take fewer sessions")
    unions = (frozenset().union(*parts) for size in range(1, largest + 1) for parts in combinations(small, size))
    yield from sorted((union for union in unions if len(union) <= largest), key=len)


def searchable(records: Sequence[Record], largest: int, limit: int) -> int:
    """The largest size, up to `largest`, of which not more than `limit` groups must be tried; 1 at least."""
    classes = _classes(records)
    sizes = range(largest, 1, -1)
    return next((size for size in sizes if _count([c for c in classes if len(c) <= size], size) <= limit), 1)


@dataclass(frozen=True, slots=True)
class RowSpace:
    """What all combinations of the sums leave, in floating point: says quickly which groups cannot be left alone.

    `basis` [clients, rank] is orthonormal, its rows in the order of `place`.
    """

    place: dict[str, int]
    basis: Floats = field(repr=False)

    @classmethod
    def of(cls, records: Sequence[Record]) -> "RowSpace":
        """By singular values."""
        place = {client: number for number, client in enumerate(sorted(frozenset().union(*records)))}
        matrix = np.array([[float(record.get(client, 0)) for client in place] for record in records])
        _, values, right = np.linalg.svd(matrix, full_matrices=False)
        return cls(place, right[values > RANK_TOLERANCE * values[0]].T)

    def may_leave(self, group: frozenset[str]) -> bool:
        """Whether some combination may leave nobody else: a unit vector on the group lies in the space."""
        part = self.basis[[self.place[client] for client in group]]
        return bool(np.linalg.norm(part, 2) > 1 - NEARLY)


def leaving(records: Sequence[Record], group: frozenset[str]) -> Combination | None:
    """A combination that leaves these clients, or some of them, and nobody else; None: there is none."""
    clients = sorted(frozenset().union(*records))
    matrix = [tuple(record.get(client, Fraction(0)) for client in clients) for record in records]
    factors = _kernel(matrix, [number for number, client in enumerate(clients) if client not in group])
    if factors is None:
        return None
    left = _left(matrix, factors)
    kept = [value for value in left if value]
    scale = _whole(kept, -1 if kept[0] < 0 else 1)
    weights = {client: int(value * scale) for client, value in zip(clients, left, strict=True) if value}
    return Combination(weights, tuple(factor * scale for factor in factors))


def _classes(records: Sequence[Record]) -> list[frozenset[str]]:
    found = dict[Row, set[str]]()
    for client in sorted(frozenset().union(*records)):
        column = [record.get(client, Fraction(0)) for record in records]
        head = next(value for value in column if value)
        found.setdefault(tuple(value / head for value in column), set()).add(client)
    return [frozenset(members) for members in found.values()]


def _count(classes: Sequence[frozenset[str]], largest: int) -> int:
    return sum(math.comb(len(classes), size) for size in range(1, largest + 1))


def _kernel(matrix: Sequence[Row], others: Sequence[int]) -> Row | None:
    """Factors of the rows that leave nothing of the columns `others`, but something; None: there are none.

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


def _whole(values: Sequence[Fraction], sign: int) -> Fraction:
    """The factor that makes of `values` whole numbers without a common divisor."""
    common = math.lcm(*(value.denominator for value in values))
    return Fraction(sign * common, math.gcd(*(int(value * common) for value in values)))
