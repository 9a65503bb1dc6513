"""What the order in which clients arrive does to the adapters that are released meanwhile (docs/asynchronous.md).

    python benchmarks/async_orders.py --json benchmarks/results/async-orders.json --plot docs/async-orders.png

The demo's MiniLM and tweets. Each seed divides the data and trains every client once, from the same start, as a session
does; training, noise and quantiser are seeded. Then the same uploads arrive in shuffled orders, released in cohorts.
A seed that is finished is kept beside the output, in async-orders.seeds/: an interrupted run goes on where it stopped.
Nothing is encrypted here: sums under encryption are the same whole numbers (tests/secagg/test_releases.py).
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.codec import Quantiser
from secagg.encodings.registry import encoding_of
from secagg_app.simulate.cell import Cell
from secagg_app.simulate.federation import Federation, assemble
from secagg_app.simulate.settings import Data, Grid, Simulation
from secagg_attacks.intervals import t_interval
from secagg_client.in_memory import BITS, RepeatableRandomness
from secagg_host.durable import write_atomic

ANALYSIS = """Fixed before the run. Primary: the number of different final adapters (SHA-256) over all orders of a
seed, by exact sums: 1 is claimed. Secondary, by seed over orders, then a 95% t-interval over seeds: (a) the mean
relative L2 distance between the final vectors of two orders; (b) after each release, the mean relative distance to the
final vector, and mean and range of accuracy; (c) both for clients that are mixed in one after another,
m <- (1 - a) m + a d_k: a = 0.5, a = 0.3, and a = 0.5 (1 + t)^-0.5 with t as the staleness. Accuracy is that of 900
held-out tweets, in the first 4 orders of a seed. Reported whichever way it comes out."""

CLIENTS, COHORTS = 12, 4
ORDERS_SCORED = 4
DATA = Data(size=300, held_out=900)
STEPS, BATCH = 12, 60
"""The demo's recipe with fewer steps; 60 of the 300 tweets of each client are the demo's sampling rate."""
Vector = NDArray[np.float32]
Sums = NDArray[np.uint64]
WEIGHTS: dict[str, Callable[[int], float]] = {
    "constant 0.5": lambda _t: 0.5,
    "constant 0.3": lambda _t: 0.3,
    "0.5 (1+t)^-0.5": lambda t: 0.5 * (1 + t) ** -0.5,
}
"""How much the t-th client counts, t from 0, when clients are mixed in one after another (Xie, Koyejo, Gupta 2019)."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Uploads:
    """One seed: each client's vector, float32 [L], and as it is encoded and sent, once: uint32 [L]."""

    federation: Federation = field(repr=False)
    vectors: tuple[Vector, ...] = field(repr=False)
    encoded: tuple[NDArray[np.uint32], ...] = field(repr=False)
    quantiser: Quantiser = field(repr=False)

    @classmethod
    def train(cls, seed: int, steps: int, epsilon: float) -> "Uploads":
        """Train every client of a seed."""
        cell = Cell("federated", seed, 1, CLIENTS, 3.0, epsilon, "ffa-lora", 1.0)
        plan = {"training": {"batch_size": BATCH, "steps": steps}}
        grid = Grid(seeds=(seed,), clients=(CLIENTS,))
        federation = assemble(cell, Simulation(data=DATA, sealed=False, plan=plan, grid=grid))
        changes = list[Vector]()
        for number in range(CLIENTS):
            changes.append(federation.train(number, federation.plan))
            say(f"seed {seed}: trained {number + 1} of {CLIENTS}")
        encoding = encoding_of(federation.plan)
        quantiser = encoding.layout(federation.plan).quantiser(max(BITS, encoding.min_bits))
        encoded = [
            quantiser.encode(change, RepeatableRandomness(f"async/{seed}/{number}")).values
            for number, change in enumerate(changes)
        ]
        return cls(federation, tuple(changes), tuple(encoded), quantiser)

    def accuracy(self, mean: Vector) -> float:
        """Of the start plus this mean, on the held-out tweets."""
        return float(self.federation.score(mean).accuracy or 0.0)


def running_means(uploads: Uploads, order: Sequence[int], size: int) -> list[Vector]:
    """The mean vector of each release: sums of whole numbers, decoded once (protocol.md §9.4)."""
    sums: Sums = np.zeros(uploads.quantiser.length, dtype=np.uint64)
    means = list[Vector]()
    for start in range(0, len(order), size):
        for client in order[start : start + size]:
            sums += uploads.encoded[client]
        means.append(uploads.quantiser.decode_mean(sums, start + size))
    return means


def float_running_mean(uploads: Uploads, order: Sequence[int]) -> Vector:
    """The same mean with float32 updates, m += (d - m)/t: what most implementations do."""
    mean = np.zeros_like(uploads.vectors[0])
    for place, client in enumerate(order, 1):
        mean += (uploads.vectors[client] - mean) / np.float32(place)
    return mean


def mixed(uploads: Uploads, order: Sequence[int], weight: Callable[[int], float]) -> Vector:
    """Clients applied one after another, each with a mixing weight."""
    at = np.zeros_like(uploads.vectors[0])
    for place, client in enumerate(order):
        share = np.float32(weight(place))
        at = (np.float32(1) - share) * at + share * uploads.vectors[client]
    return at


def distance(one: Vector, other: Vector) -> float:
    """L2, relative to `other`."""
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(other.astype(np.float64)))


def between(vectors: Sequence[Vector]) -> float:
    """Mean relative distance of two of them."""
    return float(np.mean([distance(one, other) for one, other in combinations(vectors, 2)]))


def orders_of(seed: int, count: int) -> list[list[int]]:
    """Shuffled orders of arrival."""
    rng = np.random.default_rng([2_025, seed])
    return [list(map(int, rng.permutation(CLIENTS))) for _ in range(count)]


def digest(vector: Vector) -> str:
    return hashlib.sha256(vector.tobytes()).hexdigest()


def run_seed(seed: int, count: int, steps: int, epsilon: float) -> dict[str, Any]:
    """All figures of one seed."""
    began = time.perf_counter()
    uploads, orders = Uploads.train(seed, steps, epsilon), orders_of(seed, count)
    size = CLIENTS // COHORTS
    trajectories = [running_means(uploads, order, size) for order in orders]
    others = [running_means(uploads, order, cohort)[-1] for order in orders for cohort in (4, 6, CLIENTS)]
    final = trajectories[0][-1]
    scored = orders[:ORDERS_SCORED]
    say(f"seed {seed}: scoring")
    found: dict[str, Any] = {
        "seed": seed,
        "final_adapters": len({digest(each) for each in (*others, *(means[-1] for means in trajectories))}),
        "accuracy_start": uploads.accuracy(np.zeros_like(final)),
        "accuracy_final": uploads.accuracy(final),
        "exact": {"between_orders": between([means[-1] for means in trajectories])},
        "float32": between_floats([float_running_mean(uploads, order) for order in orders]),
        "releases": [
            {
                "distance_to_final": float(np.mean([distance(means[place], final) for means in trajectories])),
                "between_orders": between([means[place] for means in trajectories]),
                "accuracy": [uploads.accuracy(means[place]) for means in trajectories[: len(scored)]],
            }
            for place in range(COHORTS - 1)
        ],
        "one_after_another": {},
    }
    for name, weight in WEIGHTS.items():
        ends = [mixed(uploads, order, weight) for order in orders]
        found["one_after_another"][name] = {
            "between_orders": between(ends),
            "accuracy": [uploads.accuracy(end) for end in ends[: len(scored)]],
        }
    return {**found, "seconds": time.perf_counter() - began, "orders": orders}


def between_floats(means: Sequence[Vector]) -> dict[str, float]:
    """How far the float32 running means of different orders are apart, and how many there are."""
    return {"between_orders": between(means), "different": len({digest(mean) for mean in means})}


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and 95% t-interval over seeds; one value has no interval."""
    if len(values) < 2:
        return {"mean": float(np.mean(values)), "low": None, "high": None}
    found = t_interval(values)
    return {"mean": found.value, "low": found.low, "high": found.high}


def summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Intervals over seeds of what each seed gave."""

    def over(pick: Callable[[Mapping[str, Any]], float]) -> dict[str, float | None]:
        return interval([pick(seed) for seed in seeds])

    def figures(rows: Sequence[Mapping[str, Any]], *distances: str) -> dict[str, Any]:
        found: dict[str, Any] = {name: interval([row[name] for row in rows]) for name in distances}
        found["accuracy"] = interval([float(np.mean(row["accuracy"])) for row in rows])
        found["accuracy_spread"] = interval([max(row["accuracy"]) - min(row["accuracy"]) for row in rows])
        return found

    releases = [
        {"release": place + 1, **figures([s["releases"][place] for s in seeds], "distance_to_final", "between_orders")}
        for place in range(COHORTS - 1)
    ]
    mixing = {name: figures([s["one_after_another"][name] for s in seeds], "between_orders") for name in WEIGHTS}
    return {
        "final_adapters_of_a_seed": max(seed["final_adapters"] for seed in seeds),
        "between_orders_exact": over(lambda seed: seed["exact"]["between_orders"]),
        "between_orders_float32": over(lambda seed: seed["float32"]["between_orders"]),
        "accuracy_start": over(lambda seed: seed["accuracy_start"]),
        "accuracy_final": over(lambda seed: seed["accuracy_final"]),
        "releases": releases,
        "one_after_another": mixing,
    }


def plot(seeds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy after each release in each order, beside where mixing one after another ends."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for number, seed in enumerate(seeds):
        for order in range(len(seed["releases"][0]["accuracy"])):
            line = [seed["accuracy_start"], *(each["accuracy"][order] for each in seed["releases"])]
            left.plot(range(COHORTS + 1), [*line, seed["accuracy_final"]], color=f"C{number}", alpha=0.5, marker=".")
        for place, name in enumerate(WEIGHTS):
            ends = seed["one_after_another"][name]["accuracy"]
            right.plot([place + 0.12 * number] * len(ends), ends, "o", color=f"C{number}", alpha=0.6)
        right.plot(
            [len(WEIGHTS) + 0.12 * number],
            [seed["accuracy_final"]],
            "o",
            color=f"C{number}",
            label=f"seed {seed['seed']}",
        )
    left.set(xlabel="releases so far", ylabel="held-out accuracy", title="running mean, a line an order")
    left.set_xticks(range(COHORTS + 1))
    right.set(title="after all clients, a dot an order")
    right.set_xticks(range(len(WEIGHTS) + 1), [*(f"mixed:\n{name}" for name in WEIGHTS), "running\nmean"])
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("async-orders.json"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--orders", type=int, default=20, help="shuffled orders a seed")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer steps, to try the script")
    parser.add_argument("--epsilon", type=float, default=8.0, help="0 for no differential privacy")
    words = parser.parse_args()
    kept = words.json.with_suffix(".seeds")
    kept.mkdir(parents=True, exist_ok=True)
    seeds = list[dict[str, Any]]()
    for seed in words.seeds:
        path = kept / f"{seed}-{words.orders}-{words.steps}-{words.epsilon:g}.json"
        if not path.exists():
            write_atomic(path, json.dumps(run_seed(seed, words.orders, words.steps, words.epsilon)).encode())
        seeds.append(json.loads(path.read_text()))
    whole = {
        "analysis": ANALYSIS,
        "clients": CLIENTS,
        "cohort": CLIENTS // COHORTS,
        "orders": words.orders,
        "steps": words.steps,
        "epsilon": words.epsilon,
        "summary": summary(seeds),
        "seeds": seeds,
    }
    write_atomic(words.json, (json.dumps(whole, indent=1) + "\n").encode(), 0o644)
    print(json.dumps(whole["summary"], indent=1))
    if words.plot is not None:
        plot(seeds, words.plot)


if __name__ == "__main__":
    main()
