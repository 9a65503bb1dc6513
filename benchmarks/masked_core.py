"""What the core of `masked` costs on this machine: `python benchmarks/masked_core.py --params 1000000 > masked.json`.

Medians over repeats of one run, in milliseconds, one thread unless said. `mask_ms` goes from float32 to packed bytes
with the client's own mask in it (quantising, mask, packing); `commit_ms` is the Merkle root over them; `neighbour_ms`
is what one partner more costs (slope over `--neighbours`), `unmask_ms_per_mask` what the coordinator pays to take one
away. Key agreement, seeds and boxes: `setup_ms_per_neighbour`.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from secagg.codec import Quantiser
from secagg.masked.keys import BoxContext, PairContext, SessionKeys, pair_seed, public_key, seal
from secagg.masked.masks import Mask, add_masks
from secagg.masked.parameters import choose_graph, width
from secagg.masked.sharing import Secret, combine, split
from secagg.masked.vectors import MaskedTotal, Shape, mask_update, vector_root

CLIP, BITS = 0.01, 16


def median_ms(operation: Callable[[], object], repeats: int) -> float:
    """Wall time, one warm-up run left out."""
    operation()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def random_masks(count: int) -> list[Mask]:
    """Masks of fresh seeds, every other one subtracted."""
    return [Mask.expand("pair", Secret(os.urandom(32)), negative=bool(i % 2)) for i in range(count)]


def measure_vector(params: int, clients: int, neighbours: int, repeats: int) -> dict[str, float]:
    """Client and coordinator work that grows with the length."""
    shape, quantiser = Shape(params, width(clients, BITS)), Quantiser.uniform(params, CLIP, BITS)
    update = np.random.default_rng(1).uniform(-CLIP, CLIP, params).astype(np.float32)
    masks = random_masks(1 + neighbours)
    threads = os.cpu_count() or 1
    packed = mask_update(shape, quantiser, update, masks, os.urandom)
    total, sums, many = MaskedTotal(shape), np.zeros(shape.values, dtype=np.uint32), random_masks(200)
    alone = median_ms(lambda: mask_update(shape, quantiser, update, masks[:1], os.urandom), repeats)
    whole = median_ms(lambda: mask_update(shape, quantiser, update, masks, os.urandom), repeats)
    wide = median_ms(lambda: mask_update(shape, quantiser, update, masks, os.urandom, threads=threads), repeats)
    return {
        "mask_ms": alone,
        "neighbour_ms": (whole - alone) / neighbours,
        "mask_with_neighbours_ms": whole,
        "mask_with_neighbours_all_threads_ms": wide,
        "commit_ms": median_ms(lambda: vector_root(shape, packed), repeats),
        "add_ms": median_ms(lambda: total.add(packed), repeats),
        "unmask_ms_per_mask": median_ms(lambda: add_masks(sums, many), 3) / len(many),
        "unmask_ms_per_mask_all_threads": median_ms(lambda: add_masks(sums, many, threads), 3) / len(many),
        "bytes_per_param": shape.packed_bytes / params,
        "width_bits": shape.width,
    }


def measure_setup(clients: int, repeats: int) -> dict[str, float]:
    """Work for one neighbour, whatever the length, and one secret given back."""
    graph = choose_graph(clients, 0.05, 0.05, max(3, clients // 10))
    keys, peer = SessionKeys.generate(os.urandom), SessionKeys.generate(os.urandom)
    mask_key, box_key = public_key(peer.mask), public_key(peer.box)
    pair = PairContext(ctx="00" * 32, low="11" * 32, high="22" * 32)
    box = BoxContext(ctx="00" * 32, sender="11" * 32, receiver="22" * 32, round="share")
    shares = split(keys.mask, graph.threshold, graph.holders, os.urandom)
    points = dict(enumerate(shares, start=1))

    def one_neighbour() -> None:
        pair_seed(keys.mask, mask_key, pair)
        seal(shares[0], keys.box, box_key, box, os.urandom)
        seal(shares[0], keys.box, box_key, box, os.urandom)

    return {
        "holders": graph.holders,
        "threshold": graph.threshold,
        "smallest_sum": graph.smallest_sum,
        "setup_ms_per_neighbour": median_ms(one_neighbour, repeats * 10),
        "split_ms": median_ms(lambda: split(keys.mask, graph.threshold, graph.holders, os.urandom), repeats),
        "combine_ms": median_ms(lambda: combine(points, graph.threshold), repeats),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    result = {
        "params": options.params,
        "clients": options.clients,
        **measure_vector(options.params, options.clients, options.neighbours, options.repeats),
        **measure_setup(options.clients, options.repeats),
        "load_before": busy,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
