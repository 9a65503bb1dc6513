"""What the released adapter is compared with, computed in memory: a simulation for public demo data.

A deployment has nothing like it. Nothing here is sealed or released; the updates of one process reach the other
through a pipe, never a disk or a network.
"""

import os
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secagg.certificate import ExposureCheck
from secagg.plan import Plan
from secagg_app.demo.figures import HEAD, MAJORITY, PLAIN
from secagg_app.workers import workers
from secagg_client.in_memory import mean_of

if TYPE_CHECKING:
    from secagg_client.data import Examples
    from secagg_client.models import LoadedBase

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Federated:
    """A run over the clients of the demo: plan, base model, the clients' files and what they declare."""

    plan: Plan = field(repr=False)
    base: str
    train: tuple[Path, ...]
    held_out: Path
    declared_size: int


def compute(run: Federated, head_training: dict[str, Any], say: Say) -> dict[str, dict[str, float]]:
    """Metrics by name: the run without privacy, and for `classify` the majority class and a DP head.

    Raises the SecaggError of a worker that fails.
    """
    from secagg_client.baselines import head_plan, without_privacy

    plans = {PLAIN: without_privacy(run.plan)}
    is_classifier = run.plan.task.kind == "classify"
    if is_classifier:
        plans = {HEAD: head_plan(run.plan, **head_training), **plans}
    with workers(min(os.cpu_count() or 1, len(run.train))) as pool:
        jobs = {name: [pool.submit(_change, run, plan, path) for path in run.train] for name, plan in plans.items()}
        everything = [job for some in jobs.values() for job in some]
        what = ", ".join(jobs)
        for done, _ in enumerate(as_completed(everything)):
            say(f"compare, simulated in memory ({what}): {done + 1} of {len(everything)} trainings")
        changes = {name: mean_of([job.result() for job in some]) for name, some in jobs.items()}
        scores = {name: pool.submit(_score, run, plan, changes[name]) for name, plan in plans.items()}
        if is_classifier:
            scores[MAJORITY] = pool.submit(_majority, run)
        say("compare: the held-out texts")
        return {name: job.result() for name, job in scores.items()}


def attack(run: Federated, release: Path) -> ExposureCheck | None:
    """What a membership attack on the release finds, in a process of its own; None where there are too few texts."""
    from secagg_app.demo.exposure import check

    with workers(1) as pool:
        return pool.submit(check, run, release).result()


# What follows runs in the workers, which keep model and data.


@lru_cache(maxsize=1)
def _base(source: str, plan_json: str) -> "LoadedBase":
    from secagg_client.models import load_base

    plan = Plan.model_validate_json(plan_json)
    return load_base(source, plan.task, precision=plan.training.precision)


def _load(run: Federated) -> "LoadedBase":
    return _base(run.base, run.plan.model_dump_json())


@lru_cache(maxsize=8)
def _examples(path: Path, plan_json: str) -> "Examples":
    from secagg_client.data import DataConfig, load_examples

    return load_examples(DataConfig(source=str(path)), Plan.model_validate_json(plan_json).task)


def _read(run: Federated, path: Path) -> "Examples":
    return _examples(path, run.plan.model_dump_json())


def _change(run: Federated, plan: Plan, path: Path) -> NDArray[np.float32]:
    """One client's update under `plan`."""
    from secagg_client.baselines import train_head
    from secagg_client.noise import SecureSource
    from secagg_client.training import TrainOptions, train

    has_lora = any(".lora_" in spec.name for spec in plan.tensors)
    learn = train if has_lora else train_head
    options = TrainOptions(allow_no_dp=True, device="cpu")
    update = learn(plan, _load(run), _read(run, path), run.declared_size, SecureSource(), options=options)
    return update.change


def _score(run: Federated, plan: Plan, change: NDArray[np.float32]) -> dict[str, float]:
    """In the precision of the training, as each client scores its own update."""
    import torch

    from secagg_client.evaluation import evaluate_change

    with torch.autocast("cpu", torch.bfloat16, enabled=plan.training.precision == "bf16"):
        return _plain(evaluate_change(plan, _load(run), change, _read(run, run.held_out)))


def _majority(run: Federated) -> dict[str, float]:
    from secagg_client.baselines import majority

    labels = tuple(label for path in run.train for label in _read(run, path).labels)
    return _plain(majority(labels, _read(run, run.held_out), len(run.plan.task.labels)))


def _plain(metrics: Any) -> dict[str, float]:
    return {name: value for name, value in asdict(metrics).items() if value is not None}
