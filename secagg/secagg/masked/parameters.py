"""How many holders a client has, and how many of them give its secrets back: computed, not guessed (protocol.md §12.1).

After Bell, Bonawitz, Gascón, Lepoint and Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
CCS 2020. There neighbours share secrets both ways; here a client's shares go only to those it drew itself, so that
nobody else's choice touches the bounds (§12.4.2).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from secagg.errors import ParameterError
from secagg.masked.tails import log2_at_least, log2_below, log2_choose, log2_sum

MAX_FAILURE_LOG2 = -40.0
COMPLETE_UP_TO = 100
MAX_HOLDERS = 1024
MAX_CLIENTS = 100_000
MAX_WIDTH = 32
GUARDS = 8
"""Values after the vector, each 1, by which masks that do not cancel are found (§12.7.3)."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Who holds whose shares, in numbers. Construction checks every bound of §12.1, so a value of this type is safe.

    Args:
        clients: n, on the roster.
        holders: k, of each client; n - 1 is the complete graph, where k is all other advertisers.
        threshold: t, holders that give a secret back.
        corrupt: c, clients that may be corrupt.
        dropouts: d, clients that may vanish.

    Raises:
        ParameterError: a bound fails; the message says which.
    """

    clients: int
    holders: int
    threshold: int
    corrupt: int
    dropouts: int

    def __post_init__(self) -> None:
        if not 3 <= self.clients <= MAX_CLIENTS:
            raise ParameterError(f"{self.clients} clients; masked sessions have 3 to {MAX_CLIENTS}")
        if not (0 <= self.corrupt < self.clients and 0 <= self.dropouts < self.clients):
            raise ParameterError("corrupt clients and dropouts must each be fewer than the clients")
        if not 2 <= self.threshold <= self.holders <= min(MAX_HOLDERS, self.clients - 1):
            raise ParameterError(
                f"{self.threshold} of {self.holders} holders: there are 2 to {MAX_HOLDERS} holders among the other "
                f"{self.clients - 1} clients"
            )
        reason = _refused_complete(self) if self.complete else _refused_sparse(self)
        if reason:
            raise ParameterError(reason)

    @property
    def complete(self) -> bool:
        """Whether everybody holds shares of everybody."""
        return self.holders == self.clients - 1

    @property
    def least_advertisers(self) -> int:
        """a = n - d: with fewer nothing begins."""
        return self.clients - self.dropouts

    @property
    def smallest_sum(self) -> int:
        """s*: fewer honest vectors are never opened together, but with probability 2^-41 (§12.8.1)."""
        if self.complete:
            return self.threshold - self.corrupt + 1
        return _smallest_sum(self.clients, self.corrupt, self.least_advertisers, self.holders, self.threshold)

    @property
    def most_sums(self) -> int:
        """How many disjoint sums a lying coordinator can open at most (§12.8.2)."""
        return 1 if self.complete else max(1, (self.clients - self.corrupt) // self.smallest_sum)

    def check_least(self, n_min: int) -> None:
        """Raise ParameterError unless n_min - c honest vectors are in whatever is opened (§12.1.3, §12.1.5)."""
        if not self.corrupt + 2 <= n_min <= self.clients:
            raise ParameterError(
                f"n_min is {n_min}; with {self.corrupt} corrupt of {self.clients} clients it must be from "
                f"{self.corrupt + 2} to {self.clients}"
            )
        if not self.complete and self.smallest_sum < n_min - self.corrupt:
            raise ParameterError(
                f"with {self.holders} holders a sum over {self.smallest_sum} honest clients could be opened; n_min = "
                f"{n_min} asks for {n_min - self.corrupt}. Take more holders or a smaller n_min"
            )


def _refused_complete(graph: Graph) -> str:
    n, c, d = graph.clients, graph.corrupt, graph.dropouts
    if graph.threshold != complete_threshold(n, c):
        return f"in a complete graph the threshold is floor((n - 1 + c)/2) + 1 = {complete_threshold(n, c)}"
    if graph.threshold > n - d - 1:
        return f"{d} dropouts of {n} clients leave fewer than the {graph.threshold} holders that are needed"
    return ""


def complete_threshold(clients: int, corrupt: int) -> int:
    """t of a complete graph: two groups of t among n - 1 holders share c + 1, so one that is honest."""
    return (clients - 1 + corrupt) // 2 + 1


def _refused_sparse(graph: Graph) -> str:
    n, c, a, k, t = graph.clients, graph.corrupt, graph.least_advertisers, graph.holders, graph.threshold
    if n <= COMPLETE_UP_TO:
        return f"up to {COMPLETE_UP_TO} clients the graph is complete"
    if k > a - 1:
        return f"{a} advertisers do not give {k} holders each"
    if _lost_log2(n, a, k, t) > MAX_FAILURE_LOG2:
        return f"{graph.dropouts} dropouts leave some client fewer than {t} of {k} holders too often"
    if _both_log2(n, c, a, k, t) > MAX_FAILURE_LOG2 - 1:
        return f"with {c} corrupt clients both secrets of one client could be had from {k} holders too often"
    return ""


def _lost_log2(n: int, a: int, k: int, t: int) -> float:
    """log2 of the bound on: some client keeps fewer than t living holders."""
    return math.log2(n) + log2_below(n - 1, a - 1, k, t)


def _both_log2(n: int, c: int, a: int, k: int, t: int) -> float:
    """log2 of the bound on: some honest client has so many corrupt holders that both its secrets can be had."""
    return math.log2(n - c) + log2_at_least(a - 1, c, k, 2 * t - k)


@lru_cache(maxsize=256)
def _smallest_sum(n: int, c: int, a: int, k: int, t: int) -> int:
    """The largest s* with: the chance that a set of fewer honest clients can be opened by itself is at most 2^-41."""
    found = -math.inf
    for s in range(1, n - c + 1):
        inside = min(a - 1, s - 1 + c)
        term = log2_choose(n - c, s) + s * log2_at_least(a - 1, inside, k, t)
        found = log2_sum(np.array([found, term]))
        if found > MAX_FAILURE_LOG2 - 1:
            return s
    return n - c


def _largest_threshold(n: int, a: int, k: int) -> int:
    """The largest t that leaves every client t living holders but for 2^-40; 0 when there is none."""
    low, high = 0, k
    while low < high:
        middle = (low + high + 1) // 2
        if _lost_log2(n, a, k, middle) <= MAX_FAILURE_LOG2:
            low = middle
        else:
            high = middle - 1
    return low


@lru_cache(maxsize=64)
def choose_graph(clients: int, dropout_rate: float, corruption_rate: float, n_min: int) -> Graph:
    """The graph with the fewest holders for these rates, complete up to 100 clients (§12.1).

    Raises:
        ParameterError: no graph serves these numbers.
    """
    if not (0 <= dropout_rate < 1 and 0 <= corruption_rate < 1):
        raise ParameterError("dropout and corruption rate must each be from 0 to below 1")
    c = math.ceil(corruption_rate * clients - 1e-9)
    d = math.floor(dropout_rate * clients + 1e-9)
    a = clients - d
    if clients > COMPLETE_UP_TO:
        for k in range(2, min(MAX_HOLDERS, a - 1, clients - 2) + 1):
            t = _largest_threshold(clients, a, k)
            if t < 2 or _both_log2(clients, c, a, k, t) > MAX_FAILURE_LOG2 - 1:
                continue
            if _smallest_sum(clients, c, a, k, t) >= n_min - c:
                graph = Graph(clients, k, t, c, d)
                graph.check_least(n_min)
                return graph
    graph = Graph(clients, clients - 1, complete_threshold(clients, c), c, d)
    graph.check_least(n_min)
    return graph


def width(clients: int, bits: int) -> int:
    """W: the least number of bits that holds a sum of n values of b bits (§12.1.4).

    Raises:
        ParameterError: it is above 32.
    """
    needed = (clients * ((1 << bits) - 1)).bit_length()
    if needed > MAX_WIDTH:
        raise ParameterError(f"{clients} clients of {bits} bits need {needed} bits a value, not {MAX_WIDTH} or fewer")
    return needed
