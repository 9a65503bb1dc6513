"""Running one cell: the product's split, training, encoding and protocol, in one process and without a network."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from secagg.encodings.registry import encoding_of
from secagg.errors import ConfigError
from secagg.plan import Plan, TaskSpec
from secagg_app import assets
from secagg_app.demo.settings import DELTA
from secagg_app.demo.split import Split
from secagg_app.simulate.cell import Cell, Outcome
from secagg_app.simulate.data import divided, examples_of, recipe_of
from secagg_app.simulate.settings import Simulation
from secagg_client.data import Examples
from secagg_client.evaluation import evaluate_adapter, evaluate_change
from secagg_client.in_memory import RepeatableRandomness, encoded_mean, federated, noise_grid, sealed_mean
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import SeededSource
from secagg_client.plan_options import validated
from secagg_client.planning import PlanConfig, make_plan
from secagg_client.prefix import training_task
from secagg_client.tasks import AnyTask, Metrics
from secagg_client.training import TrainOptions, execute, mechanism_of, prepare_run

Vector = NDArray[np.float32]
PHYSICAL_BATCH = 64
"""Fixed, and not by the memory that is free: kernels round differently in batches of another size."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """What is computed once of the examples (`secagg_client.prefix`), for all cells that share data and adapters."""

    shared: str
    found: dict[str, AnyTask] = field(default_factory=dict, repr=False)

    def of(self, who: str, plan: Plan, base: LoadedBase) -> AnyTask:
        """The task over one party's examples."""
        if who not in self.found:
            self.found[who] = training_task(plan, base, TrainOptions().torch_device())
        return self.found[who]


@dataclass(frozen=True, slots=True)
class Federation:
    """All that a cell needs, loaded."""

    cell: Cell
    simulation: Simulation
    plan: Plan
    base: LoadedBase = field(repr=False)
    clients: tuple[Examples, ...] = field(repr=False)
    held_out: Examples = field(repr=False)
    size: int
    tasks: "Tasks"

    def source(self, who: str) -> SeededSource:
        """Sampling and noise of one training, by the cell's seed and not by its rounds."""
        digest = hashlib.sha256(f"simulation/{self.cell.seed}/{self.cell.epsilon}/{who}".encode()).digest()
        return SeededSource(int.from_bytes(digest[:6], "big"))

    def train(self, number: int, plan: Plan, steps: range | None = None) -> Vector:
        """One client's change over some steps, [plan.length], from where `plan` starts."""
        return self.train_on(self.clients[number], self.size, f"client {number}", plan, steps)

    def train_on(self, data: Examples, size: int, who: str, plan: Plan, steps: range | None = None) -> Vector:
        """The change of whoever holds `data`. What is computed once of its examples serves all its rounds."""
        options = TrainOptions(allow_no_dp=True, micro_batch=PHYSICAL_BATCH)
        run = prepare_run(plan, self.tasks.of(who, plan, self.base), size, self.source(who), options, steps)
        return execute(run, plan, self.base, data, lambda _report: None).change

    def score(self, change: Vector) -> Metrics:
        """Of start + change, on the held-out records, in float32."""
        return evaluate_change(self.plan, self.base, change, self.held_out, self._scoring)

    def score_release(self, tensors: Mapping[str, Vector]) -> Metrics:
        """Of a released adapter, its tensors by PEFT key."""
        config = encoding_of(self.plan).adapter_config(self.plan)
        return evaluate_adapter(config, tensors, self.base, self.held_out, where="the release", task=self._scoring)

    @property
    def _scoring(self) -> AnyTask:
        """In float32, whatever the training's precision."""
        training = self.plan.training.model_copy(update={"precision": "fp32"})
        return self.tasks.of("held-out", self.plan.model_copy(update={"training": training}), self.base)

    def sum(self, changes: Sequence[Vector], number: int) -> tuple[Vector, int]:
        """The mean as the protocol releases it, and the bytes that one client sent in this round.

        Without differential privacy no policy lets anything be sealed: the plain mean, and what sealing would cost.
        """
        names = [f"client {i:05d}" for i in range(len(changes))]
        random = RepeatableRandomness(f"{self.cell.seed}/{number}")
        if self.plan.training.epsilon is None or not self.simulation.sealed:
            mean = encoded_mean(self.plan, changes, random, self.simulation.client_noise)
            return mean, _sealed_bytes(self.plan, tuple(names))
        return sealed_mean(self.plan, dict(zip(names, changes, strict=True)), random, self.simulation.client_noise)

    def announce_noise(self) -> dict[str, float]:
        """Client-level noise, said before anything is trained, and as figures. Raises ParameterError."""
        if self.simulation.client_noise is None:
            return {}
        grid = noise_grid(self.plan, self.simulation.client_noise, self.cell.clients)
        epsilon = grid.epsilon(self.cell.rounds)
        click.echo(f"{self.cell.title}: {grid.ratio_in_words}; client-level epsilon {epsilon:.4g}", err=True)
        return {"noise_over_signal": grid.noise_over_signal(self.cell.clients), "client_epsilon": epsilon}


@lru_cache(maxsize=32)
def _bytes_of(plan_json: str, names: tuple[str, ...]) -> int:
    plan = Plan.model_validate_json(plan_json)
    zeros = {name: np.zeros(plan.length, np.float32) for name in names}
    return sealed_mean(plan, zeros, RepeatableRandomness("bytes"))[1]


def _sealed_bytes(plan: Plan, names: tuple[str, ...]) -> int:
    """What one client would send: a session of zeros, under a plan that a policy accepts."""
    training = plan.training.model_copy(update={"epsilon": plan.training.epsilon or 1.0})
    return _bytes_of(plan.model_copy(update={"training": training}).model_dump_json(), names)


def run_cell(cell: Cell, simulation: Simulation) -> Outcome:
    """Run one cell. Raises the SecaggError of whatever refuses it."""
    began = time.perf_counter()
    federation = assemble(cell, simulation)
    start = federation.score(np.zeros(federation.plan.length, np.float32))
    curve, sent, details = list[Metrics](), 0, dict[str, float]()
    match cell.arm:
        case "start":
            curve.append(start)
        case "federated":
            details = federation.announce_noise()
            curve, sent = _federated(federation)
        case "local":
            alone = [federation.score(federation.train(number, federation.plan)) for number in range(cell.clients)]
            curve.append(_mean(alone))
            name = measure_of(start)
            details = {f"client_{number}": _value(metrics, name) for number, metrics in enumerate(alone)}
        case "centralised":
            curve.append(_centralised(federation))
    return _outcome(federation, start, curve, sent, details, time.perf_counter() - began)


def _federated(federation: Federation) -> tuple[list[Metrics], int]:
    """The released model's metrics after each round, or after the last only, and the bytes that one client sent."""
    cell, plan = federation.cell, federation.plan
    curve, sent = list[Metrics](), 0

    def total(changes: Sequence[Vector], number: int) -> Vector:
        nonlocal sent
        mean, cost = federation.sum(changes, number)
        sent += cost
        return mean

    for each in federated(plan, cell.clients, cell.rounds, federation.train, total):
        if federation.simulation.curve or each.number + 1 == cell.rounds:
            curve.append(federation.score_release(each.tensors))
    return curve, sent


def _centralised(federation: Federation) -> Metrics:
    """One party with everybody's records: the same sampling rate and steps, so batches are as large as all together."""
    cell, plan = federation.cell, federation.plan
    pooled = Examples(
        "pooled",
        tuple(text for part in federation.clients for text in part.texts),
        tuple(label for part in federation.clients for label in part.labels),
    )
    training = plan.training.model_copy(update={"batch_size": plan.training.batch_size * cell.clients})
    larger = plan.model_copy(update={"training": training})
    return federation.score(federation.train_on(pooled, federation.size * cell.clients, "everybody", larger))


def measure_of(metrics: Metrics) -> str:
    """What the task's value is measured in: accuracy, where it has one."""
    return "loss" if metrics.accuracy is None else "accuracy"


def _value(metrics: Metrics, name: str) -> float:
    return float(getattr(metrics, name))


def _mean(metrics: Sequence[Metrics]) -> Metrics:
    """Of each figure that the task has."""
    plain = [asdict(one) for one in metrics]
    means = {key: float(np.mean([one[key] for one in plain])) for key in plain[0] if plain[0][key] is not None}
    return Metrics(**{**means, "examples": int(means["examples"])})  # type: ignore[arg-type]


def _outcome(
    federation: Federation, start: Metrics, curve: Sequence[Metrics], sent: int, details: dict[str, float], took: float
) -> Outcome:
    plan, name = federation.plan, measure_of(start)
    private = plan.training.epsilon is not None and federation.cell.arm != "start"
    sigma = mechanism_of(plan.training, federation.size).sigma if private else 0.0
    down = 4 * sum(spec.size for spec in plan.tensors if spec.trained) * federation.cell.rounds
    return Outcome(
        cell=federation.cell,
        measure=name,
        value=_value(curve[-1], name),
        start=_value(start, name),
        curve=tuple(_value(metrics, name) for metrics in curve),
        metrics={key: float(value) for key, value in asdict(curve[-1]).items() if value is not None},
        sigma=sigma,
        steps=plan.training.steps,
        bytes_up=sent,
        bytes_down=down if federation.cell.arm == "federated" else 0,
        seconds=took,
        size=federation.size,
        details=details,
    )


def assemble(cell: Cell, simulation: Simulation) -> Federation:
    """Load the model and the data of a cell, and derive its plan. Raises ModelError, DataError, ConfigError."""
    parts = divided(cell.seed, cell.clients, cell.alpha, simulation.model_dump_json())
    config = plan_config_of(cell, simulation, parts)
    if config.training.batch_size > parts.size:
        raise ConfigError(
            f"each client holds {parts.size} records, and a batch has {config.training.batch_size} (the recipe's, "
            "where none is said): set plan.training.batch_size lower, or data.size higher"
        )
    base = loaded_base(config.base_model, config.task.model_dump_json())
    plan = make_plan(config, base)
    labels = parts.corpus.labels
    clients = tuple(examples_of(part, labels, f"client {number}") for number, part in enumerate(parts.clients))
    held_out = examples_of(parts.held_out, labels, "held-out")
    return Federation(cell, simulation, plan, base, clients, held_out, parts.size, _tasks(_shared(cell, config, plan)))


def _shared(cell: Cell, config: PlanConfig, plan: Plan) -> str:
    """What the kept layers depend on, and the split of the data: cells that differ in this share nothing."""
    names = [spec.name for spec in plan.tensors]
    content = [config.base_model, plan.base_model_hash, plan.task.model_dump_json(), plan.training.precision, names]
    return json.dumps([*content, cell.seed, cell.clients, cell.alpha])


@lru_cache(maxsize=1)
def _tasks(shared: str) -> Tasks:
    return Tasks(shared)


def plan_config_of(cell: Cell, simulation: Simulation, parts: Split) -> PlanConfig:
    """The recipe of the data, what the file lays over it, and what the cell varies. Raises ConfigError."""
    recipe = recipe_of(simulation, parts.corpus)
    plain = {**recipe.plan, **{key: value for key, value in simulation.plan.items() if key not in ("task", "training")}}
    for table in ("task", "training"):
        plain[table] = {**recipe.plan.get(table, {}), **simulation.plan.get(table, {})}
    training: dict[str, Any] = plain["training"]
    training |= {"epsilon": cell.epsilon or None, "delta": training.get("delta", DELTA), "noise": "seeded"}
    for rate in ("learning_rate", "head_learning_rate"):
        if training.get(rate):
            training[rate] *= cell.learning_rate
    if cell.method in simulation.options:
        plain["options"] = simulation.options[cell.method]
    whole = {**plain, "method": cell.method, "base_model": model_path(simulation.model)}
    return validated(whole, "the simulation's plan")


def model_path(name: str) -> str:
    """The folder of one of the demo's models, or what `name` says itself."""
    make = assets.MODELS.get(name)
    return name if make is None else str(make(_quiet))


def _quiet(_text: str) -> None:
    """Assets are fetched before the workers start: there is nothing to say here."""


@lru_cache(maxsize=1)
def loaded_base(model: str, task_json: str) -> LoadedBase:
    """A model for a task, kept for the next cell."""
    return load_base(model, TaskSpec.model_validate_json(task_json))
