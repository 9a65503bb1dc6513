"""Gradient disaggregation over rounds (Lam, Wei, Cormode & Thaler, ICML 2021, arXiv 2106.06089).

The sums of many rounds are P U: participation P [rounds, clients] times the clients' updates U, as far as these stay
alike from round to round. The columns of P lie in the sums' column space; a record of how often each client took part
in each window of rounds picks its column out of the binary vectors there. The paper solves a constrained binary least
squares problem; here the residual is taken in the 1-norm, which makes it a mixed-integer linear program. Where the sets
are public, as in this project's certificates, P is known and `mean_updates` is all there is to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats

SECONDS = 20.0
"""For one column: a solver that runs out of time gives its best vector so far."""


@dataclass(frozen=True, slots=True)
class Log:
    """Who took part how often: `window` [rounds] numbers each round's window, `counts` [clients, windows]."""

    window: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.window.ndim != 1 or self.counts.ndim != 2 or set(self.window) != set(range(self.counts.shape[1])):
            raise AuditError("a log numbers each round's window, and counts each client's rounds in every window")


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Each client's participation, and its mean update.

    Attributes:
        participation: [rounds, clients].
        updates: [clients, values], by least squares.
        residual: what of the sums they do not explain, as a part of the sums' norm.
        noise: [clients]: a deviation of fresh noise in each update of each round becomes so many deviations of error.
        alike: whether clients had the same counts: their columns are found, but not which is whose.
    """

    participation: NDArray[np.bool_]
    updates: Floats = field(repr=False)
    residual: float
    noise: Floats
    alike: bool = False


def disaggregate(sums: Floats, log: Log) -> Disaggregated:
    """Participation and mean updates from sums [rounds, values] and the log alone.

    Raises AuditError for fewer rounds than clients, sums that span fewer dimensions than there are clients, or a log
    that nothing satisfies.
    """
    clients = len(log.counts)
    space = _projector(sums, clients)
    columns = list[NDArray[np.bool_]]()
    for number, counts in enumerate(log.counts):
        same = [columns[other] for other in range(number) if np.array_equal(log.counts[other], counts)]
        columns.append(_column(space, log.window, counts, same))
    found = mean_updates(np.stack(columns, axis=1), sums)
    alike = len(np.unique(log.counts, axis=0)) < clients
    return Disaggregated(found.participation, found.updates, found.residual, found.noise, alike)


def mean_updates(participation: NDArray[np.bool_], sums: Floats) -> Disaggregated:
    """Each client's mean update by least squares, participation [rounds, clients] being known.

    Raises AuditError when the rounds do not tell the clients apart.
    """
    matrix = participation.astype(np.float64)
    rounds, clients = matrix.shape
    if len(sums) != rounds:
        raise AuditError(f"there are {len(sums)} sums for {rounds} rounds")
    rank = int(np.linalg.matrix_rank(matrix))
    if rank < clients:
        raise AuditError(f"the rounds' sets tell only {rank} of {clients} clients apart")
    inverse = np.linalg.pinv(matrix)
    updates: Floats = inverse @ sums
    residual = float(np.linalg.norm(matrix @ updates - sums) / np.linalg.norm(sums))
    return Disaggregated(participation, updates, residual, np.sqrt(inverse**2 @ matrix.sum(1)))


def _projector(sums: Floats, clients: int) -> Floats:
    """What takes a vector [rounds] off the space of the sums' `clients` largest directions: [rounds, rounds]."""
    if sums.ndim != 2 or len(sums) <= clients:
        raise AuditError(f"{len(sums)} rounds do not show {clients} clients: there must be more")
    left, values, _ = np.linalg.svd(sums, full_matrices=False)
    if len(values) < clients or values[clients - 1] <= 1e-9 * values[0]:
        raise AuditError(f"the sums span fewer dimensions than there are clients: {clients}")
    basis = left[:, :clients]
    found: Floats = np.eye(len(sums)) - basis @ basis.T
    return found


def _column(
    space: Floats, window: NDArray[np.int64], counts: NDArray[np.int64], same: Sequence[NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """The binary vector p of these counts that is nearest to the sums' space: min |space p|_1, none of `same` again."""
    rounds = len(window)
    identity = sparse.eye(rounds)
    counting = np.pad(window == np.arange(len(counts))[:, None], ((0, 0), (0, rounds)))
    limits = [
        optimize.LinearConstraint(sparse.hstack([space, -identity]), -np.inf, 0),
        optimize.LinearConstraint(sparse.hstack([-space, -identity]), -np.inf, 0),
        optimize.LinearConstraint(counting, counts, counts),
    ]
    for other in same:
        differs = np.pad(np.where(other, -1.0, 1.0), (0, rounds))
        limits.append(optimize.LinearConstraint(differs, 1 - int(other.sum()), np.inf))
    solved = optimize.milp(
        np.repeat([0.0, 1.0], rounds),
        constraints=limits,
        integrality=np.repeat([1, 0], rounds),
        bounds=optimize.Bounds(0, np.repeat([1.0, np.inf], rounds)),
        options={"time_limit": SECONDS},
    )
    if solved.x is None:
        raise AuditError(f"no participation has these counts: {counts.tolist()}")
    found: NDArray[np.bool_] = solved.x[:rounds] > 0.5
    return found
