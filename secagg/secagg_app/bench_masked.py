"""What `masked` costs for one upload, in the sum, and in the opening (protocol.md §12)."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.codec import Quantiser
from secagg.errors import OpeningError
from secagg.masked.keys import BoxContext, PairContext, SessionKeys, pair_seed, public_key, seal
from secagg.masked.masks import Mask, add_masks
from secagg.masked.parameters import MAX_WIDTH, Graph, choose_graph, width
from secagg.masked.sharing import SECRET_BYTES, Secret, combine, split
from secagg.masked.vectors import MaskedTotal, Shape, mask_update, vector_root
from secagg_app.bench_timing import MILLION, SchemeCost, Threaded, Timing, measure, room

MORE = 8
"""Neighbours that are added to see what one of them costs."""
LEAF_BYTES = 96
GRAPHS = (100, 1000)
"""Cohorts whose graphs are measured, if their sums fit: the largest complete one, and a sparse one."""


@dataclass(frozen=True, slots=True)
class GraphCost:
    """A client's work in a cohort so large, in ms: keys, shares and boxes; then the whole vector, masked and hashed."""

    clients: int
    neighbours: int
    threshold: int
    setup_ms: float
    mask_ms: float
    mask_ms_all_threads: float
    combine_ms: float
    unmask_ms_per_mask: float


@dataclass(frozen=True, slots=True)
class MaskedCost:
    """Cost with `neighbours` pair masks beside the own one; and what it is in the graphs of larger cohorts."""

    scheme: SchemeCost
    neighbours: int
    neighbour_ms: float
    hashing: Timing
    graphs: tuple[GraphCost, ...]

    def to_json(self) -> dict[str, float]:
        """Headline medians."""
        figures = self.scheme.to_json("masked_") | {"masked_ms_per_million_per_neighbour": self.neighbour_ms}
        for graph in self.graphs:
            figures[f"masked_mask_ms_{graph.clients}_clients"] = graph.mask_ms
            figures[f"masked_setup_ms_{graph.clients}_clients"] = graph.setup_ms
        return figures


def measure_masked(
    updates: list[NDArray[np.float32]], mean: NDArray[np.float64], quantiser: Quantiser, n_max: int, repeats: int
) -> MaskedCost:
    """All clients mask with one another, as in a complete graph; the sum is opened and compared with `mean`.

    Raises OpeningError when it differs from the mean of the inputs by more than rounding.
    """
    count, length = len(updates), len(mean)
    shape = Shape(length, width(max(n_max, count), quantiser.bits))
    own = [Mask.expand("self", _secret(), negative=False) for _ in updates]
    pairs = {(i, j): _secret() for i in range(count) for j in range(i + 1, count)}

    def masks(i: int) -> list[Mask]:
        shared = [(j, pairs[min(i, j), max(i, j)]) for j in range(count) if j != i]
        return [own[i], *(Mask.expand("pair", seed, negative=j < i) for j, seed in shared)]

    def client(extra: int = 0, threads: int = 1) -> NDArray[np.uint8]:
        more = [Mask.expand("pair", _secret(), negative=True) for _ in range(extra)]
        packed = mask_update(shape, quantiser, updates[0], [*masks(0), *more], os.urandom, threads=threads)
        vector_root(shape, packed)
        return packed

    alone, longer = measure(client, repeats), measure(lambda: client(MORE), repeats)
    threads = os.cpu_count() or 1
    uploads = [mask_update(shape, quantiser, update, masks(i), os.urandom) for i, update in enumerate(updates)]
    scratch, total = MaskedTotal(shape), MaskedTotal(shape)
    for upload in uploads:
        total.add(upload)
    off = [Mask(mask.key, negative=True) for mask in own]
    error = float(np.abs(quantiser.decode_mean(total.opened(off, quantiser), count) - mean).max())
    if error > room(quantiser):
        raise OpeningError(f"the opened mean is off by {error:.2e}, more than one step of the quantiser")

    def server(threads: int) -> tuple[Timing, Timing]:
        adding = measure(lambda: scratch.add(uploads[0], threads), repeats)
        opening = measure(lambda: total.opened(off, quantiser, threads), repeats)
        return adding.per_million(length), opening.per_million(length)

    shares = 2 * (count - 1) * LEAF_BYTES
    wide = measure(lambda: client(threads=threads), repeats).per_million(length)
    scheme = SchemeCost(
        alone.per_million(length),
        *server(1),
        (shape.packed_bytes + shares) / length,
        error,
        Threaded(threads, wide, *server(threads)),
    )
    return MaskedCost(
        scheme,
        count - 1,
        (longer.minimum - alone.minimum) / MORE * MILLION / length,
        measure(lambda: vector_root(shape, uploads[0]), repeats).per_million(length),
        tuple(measure_graph(size, updates[0], quantiser, repeats) for size in GRAPHS if fits(size, quantiser.bits)),
    )


def fits(clients: int, bits: int) -> bool:
    """Whether sums of so many values of `bits` bits can be masked."""
    return clients * ((1 << bits) - 1) < 1 << MAX_WIDTH


def graph_of(clients: int) -> Graph:
    """The graph that a session of so many clients gets: 5% vanish, 5% are corrupt, sums of at least a tenth."""
    return choose_graph(clients, 0.05, 0.05, max(3, clients // 10))


def measure_graph(clients: int, update: NDArray[np.float32], quantiser: Quantiser, repeats: int) -> GraphCost:
    """One client of a cohort: with every neighbour's key agreement, boxes and mask, none left out."""
    graph, shape = graph_of(clients), Shape(len(update), width(clients, quantiser.bits))
    keys, peer = SessionKeys.generate(os.urandom), SessionKeys.generate(os.urandom)
    mask_key, box_key = public_key(peer.mask), public_key(peer.box)
    pair = PairContext(ctx="00" * 32, low="11" * 32, high="22" * 32)
    box = BoxContext(ctx="00" * 32, sender="11" * 32, receiver="22" * 32, round="share")
    shares = split(keys.mask, graph.threshold, graph.holders, os.urandom)
    seeds = [Secret(os.urandom(SECRET_BYTES)) for _ in range(graph.holders)]
    points = dict(list(enumerate(shares, start=1))[: graph.threshold])

    def setup() -> None:
        for share in split(keys.mask, graph.threshold, graph.holders, os.urandom):
            pair_seed(keys.mask, mask_key, pair)
            seal(share, keys.box, box_key, box, os.urandom)
        for share in split(_secret(), graph.threshold, graph.holders, os.urandom):
            seal(share, keys.box, box_key, box, os.urandom)

    def mask(threads: int) -> None:
        masks = [Mask.expand("self", _secret(), negative=False)]
        masks += [Mask.expand("pair", seed, negative=bool(number % 2)) for number, seed in enumerate(seeds)]
        vector_root(shape, mask_update(shape, quantiser, update, masks, os.urandom, threads=threads))

    few, sums = min(repeats, 3), np.zeros(shape.values, dtype=np.uint32)
    many = [Mask.expand("pair", seed, negative=True) for seed in seeds]
    return GraphCost(
        clients,
        graph.holders,
        graph.threshold,
        measure(setup, few).median,
        measure(lambda: mask(1), few).median,
        measure(lambda: mask(os.cpu_count() or 1), few).median,
        measure(lambda: combine(points, graph.threshold), few).median,
        measure(lambda: add_masks(sums, many), few).median / len(many),
    )


def _secret() -> Secret:
    return Secret(os.urandom(SECRET_BYTES))
