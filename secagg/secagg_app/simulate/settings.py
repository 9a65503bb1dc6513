"""What a simulation file says: data, model, plan, and the grid of cells to run."""

import itertools
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from secagg.client_noise.setting import ClientNoise
from secagg.plan import Frozen
from secagg_app.simulate.cell import Arm, Cell
from secagg_host.config import load_toml

BUILT_IN = ("tweets", "plays")
"""The demo's corpora."""


class Data(Frozen):
    """`source`: `tweets` or `plays` (the demo's), a data set id, or a local file. The last two have columns, those of
    the task; `group_column` holds a natural key, and where `alpha` is 0 clients have whole groups of it.

    `size` records a client, `held_out` records that nobody trains on. `tuning` records are set aside before anything:
    4,800 of the demo's corpora where nothing is said, and none of the user's own.
    `part = "tuning"` runs on those that are set aside instead: choose settings there, then run on the rest. Of plays,
    seven are set aside for good.
    """

    source: str = "tweets"
    text_column: str = "text"
    label_column: str | None = "label"
    image_column: str = "image"
    messages_column: str = "messages"
    prompt_column: str = "prompt"
    response_column: str = "response"
    group_column: str | None = None
    size: int = Field(default=1800, ge=20)
    held_out: int = Field(default=1828, ge=20)
    tuning: int = Field(default_factory=lambda data: 4800 if data["source"] in BUILT_IN else 0, ge=0)
    part: Literal["main", "tuning"] = "main"

    @property
    def columns(self) -> dict[str, str]:
        """Source and columns, as an institution's `[data]` says them."""
        names = (
            "source",
            "text_column",
            "label_column",
            "image_column",
            "messages_column",
            "prompt_column",
            "response_column",
        )
        return self.model_dump(include=set(names), exclude_none=True)


class Grid(Frozen):
    """Every combination is a cell. `epsilon` 0 is no differential privacy; `alpha` 0 is no skew by label.

    `learning_rates` are factors on the plan's.
    """

    seeds: tuple[int, ...] = (0,)
    arms: tuple[Arm, ...] = ("federated",)
    rounds: tuple[int, ...] = (1,)
    clients: tuple[int, ...] = (4,)
    alpha: tuple[float, ...] = (3.0,)
    epsilon: tuple[float, ...] = (8.0,)
    methods: tuple[str, ...] = ("ffa-lora",)
    learning_rates: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(epsilon < 0 for epsilon in self.epsilon) or any(alpha < 0 for alpha in self.alpha):
            raise ValueError("epsilon and alpha are not below 0")
        if any(rounds < 1 for rounds in self.rounds) or any(clients < 3 for clients in self.clients):
            raise ValueError("a session has at least one round and three clients")
        return self


class Simulation(Frozen):
    """A whole file. `plan` is the content of a plan.toml, laid over the demo's recipe for `tweets` and `plays`.
    `options` are those of a method by its name, where a grid has several; `[plan.options]` are for all others.

    `sealed` false takes the plain mean, neither quantised nor encrypted: sooner. `curve` false scores
    after the last round only. `client_noise` adds noise with whole clients as the unit (protocol.md §14), either way.
    """

    model: str = "minilm"
    data: Data = Data()
    plan: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    grid: Grid = Grid()
    sealed: bool = True
    curve: bool = True
    client_noise: ClientNoise | None = Field(default=None, exclude_if=lambda noise: noise is None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        training = self.plan.get("training")
        if isinstance(training, dict) and training.get("unit", "record") != "record":
            raise ValueError("plan.training.unit: simulated records are nobody's in particular; leave it at record")
        if isinstance(training, dict) and "epsilon" in training:
            raise ValueError("plan.training.epsilon: the grid says it: [grid] epsilon = [8.0]")
        for name, instead in (("method", "[grid] methods"), ("base_model", "model at the top")):
            if name in self.plan:
                raise ValueError(f"plan.{name}: is said elsewhere in a simulation: {instead}")
        if unknown := sorted(self.options.keys() - set(self.grid.methods)):
            raise ValueError(f"options.{unknown[0]}: no method of the grid has this name")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """From TOML. Raises ConfigError that names the setting."""
        return load_toml(path, cls)

    @property
    def task(self) -> dict[str, Any]:
        """What the file says of the plan's task."""
        return dict(self.plan.get("task", {}))

    def cells(self) -> tuple[Cell, ...]:
        """All cells, without those that differ only in what does not concern their arm."""
        grid = self.grid
        axes = (
            grid.arms, grid.seeds, grid.rounds, grid.clients, grid.alpha, grid.epsilon, grid.methods,
            grid.learning_rates,
        )  # fmt: skip
        found = (Cell(*values).canonical() for values in itertools.product(*axes))
        return tuple(dict.fromkeys(found))
