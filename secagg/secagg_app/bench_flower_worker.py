"""Flower's SecAgg+ primitives, timed in Flower's own environment: `PYTHON bench_flower_worker.py < request > result`.

Nothing of secagg is there, so this file imports nothing of it. Request and result are JSON. What a client does follows
the order of Flower's own client code: keys, shares and their encryption for each neighbour; then quantising, its own
mask, a mask with each neighbour, the modulus, and bytes.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat

try:
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes
except ImportError:  # where they were before
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
        generate_key_pairs,
        private_key_to_bytes,
    )

MODULUS = 1 << 32
SEED_BYTES = 32


def median_ms(operation: Callable[[], object], repeats: int) -> float:
    """Wall time; one run before is left out when there are several."""
    if repeats > 1:
        operation()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def masked(vector: Any, request: dict[str, Any], seeds: list[bytes]) -> Any:
    """What a client sends: quantised, with the first mask added and the others by turns subtracted and added."""
    values = quantize([vector], request["clip"], request["levels"])
    shapes = [values[0].shape]
    values = parameters_addition(values, pseudo_rand_gen(seeds[0], MODULUS, shapes))
    for number, seed in enumerate(seeds[1:]):
        mask = pseudo_rand_gen(seed, MODULUS, shapes)
        combine = parameters_addition if number % 2 else parameters_subtraction
        values = combine(values, mask)
    values = parameters_mod(values, MODULUS)
    return values[0], values[0].tobytes()


def graph_cost(vector: Any, request: dict[str, Any], graph: dict[str, int], repeats: int) -> dict[str, float]:
    """One client with all of its neighbours, none left out."""
    neighbours, threshold = graph["neighbours"], graph["threshold"]
    (own_key, _), (box_key, _), (_, peer) = (generate_key_pairs() for _ in range(3))
    secret = private_key_to_bytes(own_key)
    seeds = [os.urandom(SEED_BYTES) for _ in range(neighbours + 1)]
    shares = create_shares(secret, threshold, neighbours + 1)

    def setup() -> None:
        first = create_shares(seeds[0], threshold, neighbours + 1)
        second = create_shares(secret, threshold, neighbours + 1)
        for number in range(neighbours):
            key = generate_shared_key(box_key, peer)
            encrypt(key, share_keys_plaintext_concat(1, number, first[number], second[number]))
            generate_shared_key(own_key, peer)

    return {
        "clients": graph["clients"],
        "neighbours": neighbours,
        "threshold": threshold,
        "setup_ms": median_ms(setup, repeats),
        "mask_ms": median_ms(lambda: masked(vector, request, seeds), repeats),
        "combine_ms": median_ms(lambda: combine_shares(shares[:threshold]), repeats),
    }


def check_sum(vector: Any, request: dict[str, Any]) -> float:
    """Three clients whose masks cancel: the largest error of the opened mean."""
    own = [os.urandom(SEED_BYTES) for _ in range(3)]
    shared = os.urandom(SEED_BYTES)
    shapes = [vector.shape]
    total = [np.zeros(vector.shape, dtype=np.int64)]
    for client, seed in enumerate(own):
        values = parameters_addition(
            quantize([vector], request["clip"], request["levels"]), pseudo_rand_gen(seed, MODULUS, shapes)
        )
        if client < 2:
            combine = parameters_subtraction if client else parameters_addition
            values = combine(values, pseudo_rand_gen(shared, MODULUS, shapes))
        total = parameters_addition(total, parameters_mod(values, MODULUS))
    for seed in own:
        total = parameters_subtraction(total, pseudo_rand_gen(seed, MODULUS, shapes))
    sums = parameters_mod(total, MODULUS)
    mean = dequantize([sums[0] / len(own)], request["clip"], request["levels"])[0]
    return float(np.abs(mean - vector).max())


def main() -> None:
    """Read the request, measure, and print the result."""
    request = json.load(sys.stdin)
    repeats, length = request["repeats"], request["params"]
    vector = np.random.default_rng(request["seed"]).uniform(-request["clip"], request["clip"], length)
    vector = vector.astype(np.float32)
    seeds = [os.urandom(SEED_BYTES) for _ in range(5)]
    alone = median_ms(lambda: masked(vector, request, seeds[:1]), repeats)
    more = median_ms(lambda: masked(vector, request, seeds), repeats)
    sent, raw = masked(vector, request, seeds)
    result = {
        "version": version("flwr"),
        "numpy": np.__version__,
        "quantise_ms": median_ms(lambda: quantize([vector], request["clip"], request["levels"]), repeats),
        "own_mask_ms": alone,
        "neighbour_ms": (more - alone) / (len(seeds) - 1),
        "bytes_per_param": len(raw) / length,
        "add_ms": median_ms(lambda: parameters_addition([sent], [sent]), repeats),
        "unmask_ms_per_mask": median_ms(lambda: pseudo_rand_gen(seeds[0], MODULUS, [vector.shape]), repeats),
        "mean_error": check_sum(vector, request),
        "graphs": [graph_cost(vector, request, graph, 1) for graph in request["graphs"]],
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
