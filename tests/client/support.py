"""Plans, bases and examples over the tiny models."""

from pathlib import Path

from secagg.plan import Plan, TaskSpec, TrainingSettings
from secagg_client.data import Examples
from secagg_client.models import LoadedBase, load_base
from secagg_client.planning import PlanConfig, make_plan
from tests.tiny import LABELS, sentences

MEAN = TaskSpec(kind="classify", labels=LABELS, max_length=32, pooling="mean", feature_norm=10.0)
STOCK = TaskSpec(kind="classify", labels=LABELS, max_length=32)
LM = TaskSpec(kind="lm", max_length=32)


def settings(**changes: object) -> TrainingSettings:
    """SGD without momentum, so that a step is the learning rate times the noisy mean gradient."""
    values: dict[str, object] = {
        "steps": 3,
        "batch_size": 16,
        "learning_rate": 0.5,
        "optimizer": "sgd",
        "momentum": 0.0,
        "max_grad_norm": 1.0,
        "epsilon": 4.0,
        "delta": 1e-5,
        "noise": "seeded",
    }
    return TrainingSettings.model_validate({**values, **changes})


def loaded(folder: Path, task: TaskSpec) -> LoadedBase:
    return load_base(str(folder), task)


def plan_for(base: LoadedBase, training: TrainingSettings | None = None, **changes: object) -> Plan:
    values: dict[str, object] = {
        "base_model": "tiny",
        "task": base.task,
        "training": training or settings(),
        "rank": 4,
        "alpha": 8,
        "lora_clip": 1.0,
    }
    return make_plan(PlanConfig.model_validate({**values, **changes}), base)


def examples(count: int, task: TaskSpec, *, seed: int = 0) -> Examples:
    texts, labels = sentences(count, seed=seed)
    return Examples(f"sentences-{seed}", texts, labels if task.kind == "classify" else ())
