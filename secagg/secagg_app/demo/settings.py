"""What a demo run is: the user's choices, and the recipe of each task.

Both recipes were tuned on data that no run sees (docs/demo.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from secagg.errors import ConfigError, ParameterError
from secagg.masked.parameters import choose_graph
from secagg_app.demo.split import Recipe
from secagg_client.plan_defaults import DEFAULT_CLIP, DEFAULT_TRAINING, names_a_path

TaskKind = Literal["classify", "lm"]

HOLDERS, CORRUPT_HOLDERS = 4, 1
QUORUM = (HOLDERS + CORRUPT_HOLDERS) // 2 + 1
DELTA = 1e-5
MIN_CLIENTS = 3
DESKS = ("North desk", "South desk", "East desk", "West desk", "Harbour desk", "Hill desk", "River desk", "Lake desk")


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """The command line, checked. `model` and `data` None: the demo's own, from Python packages."""

    out: Path
    task: TaskKind
    clients: int
    drop: int
    epsilon: float
    model: str | None
    data: str | None
    text_column: str
    label_column: str
    seed: int
    steps: int | None = None
    baselines: bool = True
    target_modules: tuple[str, ...] = ()
    group_column: str | None = None
    protocol: Literal["sealed", "masked", "ckks"] = "sealed"

    def __post_init__(self) -> None:
        if self.model is not None and names_a_path(self.model) and not Path(self.model).exists():
            raise ConfigError(f"--model {self.model}: no such folder")
        if self.clients < MIN_CLIENTS:
            raise ConfigError(f"--clients {self.clients}: at least {MIN_CLIENTS} must stay for the sum to be opened")
        if self.protocol == "masked":
            try:
                choose_graph(self.parties, self.dropout_rate, self.corruption_rate, MIN_CLIENTS)
            except ParameterError as error:
                raise ConfigError(
                    f"--protocol masked with --clients {self.clients} --drop {self.drop}: {error}. With one corrupt "
                    "client assumed, take more --clients or fewer --drop"
                ) from error

    @property
    def parties(self) -> int:
        """Clients on the roster, those that will vanish included."""
        return self.clients + self.drop

    @property
    def holders(self) -> int:
        """Key-holders: a masked session has none, one under ckks a single one."""
        return {"sealed": HOLDERS, "masked": 0, "ckks": 1}[self.protocol]

    @property
    def spare_holders(self) -> int:
        """So many key-holders may fail (protocol.md §3.4)."""
        return HOLDERS - QUORUM if self.protocol == "sealed" else 0

    @property
    def dropout_rate(self) -> float:
        """Of a masked session: those that will vanish."""
        return self.drop / self.parties

    @property
    def corruption_rate(self) -> float:
        """Of a masked session: one client."""
        return 1 / self.parties


@dataclass(frozen=True, slots=True)
class TaskRecipe:
    """How a task is trained: `plan` is the content of plan.toml, `head` overrides its training for the DP head."""

    plan: dict[str, Any]
    split: Recipe
    head: dict[str, Any]


def targeted(recipe: TaskRecipe, modules: tuple[str, ...]) -> TaskRecipe:
    """The recipe with adapters on `modules` of every layer; as it is when none is named."""
    if not modules:
        return recipe
    kept = {name: value for name, value in recipe.plan.items() if name != "layers"}
    return replace(recipe, plan={**kept, "target_modules": list(modules)})


def scaled(recipe: TaskRecipe, size: int) -> TaskRecipe:
    """The recipe for clients of `size` records: batches shrink with them, so that the sampling rate stays."""

    def batch(training: dict[str, Any]) -> dict[str, Any]:
        if "batch_size" not in training:
            return training
        return {**training, "batch_size": max(1, round(training["batch_size"] * size / recipe.split.size))}

    plan = {**recipe.plan, "training": batch(recipe.plan["training"])}
    return TaskRecipe(plan, recipe.split, batch(recipe.head))


def institution(index: int) -> str:
    """Name of client number `index`, from 1."""
    return DESKS[index - 1] if index <= len(DESKS) else f"Desk {index}"


def holder_name(index: int) -> str:
    """Name of key-holder number `index`, from 1."""
    return f"Trustee {chr(ord('A') + index - 1)}"


SENTIMENT_DESCRIPTIONS = {
    "negative": ["This is a complaint from an angry customer."],
    "neutral": ["This is a neutral question or statement."],
    "positive": ["This is praise from a happy customer."],
}


def tweets_recipe() -> TaskRecipe:
    """Sentiment of tweets to airlines with MiniLM. The head starts as a zero-shot classifier."""
    return TaskRecipe(
        plan={
            "rank": 8,
            "alpha": 16,
            "target_modules": ["query", "value"],
            "layers": [4, 5],
            "lora_clip": 0.25,
            "head_clip": 0.5,
            "head_start": "descriptions",
            "label_descriptions": SENTIMENT_DESCRIPTIONS,
            "task": {
                "kind": "classify", "labels": ["negative", "neutral", "positive"], "max_length": 48,
                "pooling": "mean", "feature_norm": 10.0,
            },
            "training": {
                "steps": 30, "batch_size": 360, "learning_rate": 1e-2, "head_learning_rate": 3e-2,
                "optimizer": "adamw", "schedule": "linear", "max_grad_norm": 1.0, "precision": "bf16",
            },
        },
        split=Recipe(tuning=4800, size=1800, held_out=1828, alpha=3.0),
        head={"steps": 40, "batch_size": 900, "learning_rate": 3e-2, "head_learning_rate": 3e-2},
    )  # fmt: skip


def own_classify_recipe(labels: tuple[str, ...]) -> TaskRecipe:
    """Any labelled texts, any encoder: the settings of the tweets, without descriptions of the labels."""
    return TaskRecipe(
        plan={
            "rank": 8,
            "alpha": 16,
            "lora_clip": 0.25,
            "head_clip": 1.0,
            "head_start": "zeros",
            "task": {
                "kind": "classify", "labels": list(labels), "max_length": 128, "pooling": "mean", "feature_norm": 10.0,
            },
            "training": {
                "steps": 30, "batch_size": 480, "learning_rate": 1e-2, "head_learning_rate": 3e-2,
                "optimizer": "adamw", "schedule": "linear", "max_grad_norm": 1.0, "precision": "bf16",
            },
        },
        split=Recipe(tuning=0, size=2400, held_out=2400, alpha=3.0),
        head={},
    )  # fmt: skip


def plan_recipe(task: Mapping[str, object]) -> TaskRecipe:
    """Any other kind of task: what a plan has where nobody says otherwise, and the kind's own defaults."""
    plan = {"lora_clip": DEFAULT_CLIP, "task": dict(task), "training": dict(DEFAULT_TRAINING)}
    return TaskRecipe(plan, Recipe(tuning=0, size=2400, held_out=2400, alpha=None), head={})


def text_recipe(*, own_model: bool) -> TaskRecipe:
    """Next words of plays, or of the user's own texts. With SmolLM2, adapters go on the last six of thirty layers.

    Tuned on plays that no run sees; docs/demo.md says what was tried.
    """
    plan: dict[str, Any] = {
        "rank": 8,
        "alpha": 16,
        "lora_clip": 1.5,
        "task": {"kind": "lm", "max_length": 32},
        "training": {
            "steps": 20, "batch_size": 120, "learning_rate": 0.1, "optimizer": "adamw", "schedule": "linear",
            "max_grad_norm": 1.0, "precision": "bf16",
        },
    }  # fmt: skip
    if own_model:  # adapters on all layers move a model faster than on the last few
        plan |= {"lora_clip": 0.5, "training": {**plan["training"], "learning_rate": 0.02}}
    else:
        plan |= {"target_modules": ["v_proj"], "layers": [24, 25, 26, 27, 28, 29]}
    return TaskRecipe(plan, split=Recipe(tuning=0, size=3000, held_out=400, alpha=None), head={})
