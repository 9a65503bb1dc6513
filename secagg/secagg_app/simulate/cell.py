"""One cell of a simulation: what is varied, and what came out."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

Arm = Literal["federated", "local", "centralised", "start"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A combination of the grid. `epsilon` 0: no differential privacy. `alpha` 0: no skew by label.

    Arms: `federated` sums `rounds` times; `local` is each client alone; `centralised` pools all records; `start` is
    the model before training. `learning_rate` is a factor on the plan's.
    """

    arm: Arm
    seed: int
    rounds: int
    clients: int
    alpha: float
    epsilon: float
    method: str
    learning_rate: float

    def canonical(self) -> Self:
        """Without what does not concern the arm: cells that would be the same become equal."""
        if self.arm == "start":
            return replace(self, rounds=1, epsilon=0.0, method="ffa-lora", learning_rate=1.0)
        return replace(self, rounds=1) if self.arm in ("local", "centralised") else self

    @property
    def title(self) -> str:
        """What differs between cells, in words."""
        rounds = f"{self.rounds} round{'s' if self.rounds > 1 else ''}"
        return f"{self.arm}, seed {self.seed}, {rounds}, epsilon {self.epsilon or 'none'}, {self.method}"

    def key(self, setting: dict[str, Any]) -> str:
        """What names the cell's file: a hash of the cell and of everything else in the simulation that matters."""
        content = json.dumps({"cell": asdict(self), "setting": setting}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cell came to: `value` in `measure` on the held-out records, and what it cost.

    `curve` has the value after each round; `start` the value before the first. Bytes are those of one client, which
    holds `size` records.
    """

    cell: Cell
    measure: str
    value: float
    start: float
    curve: tuple[float, ...]
    metrics: dict[str, float]
    sigma: float
    steps: int
    bytes_up: int
    bytes_down: int
    seconds: float
    size: int
    details: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Flat, for a table: metrics get a prefix."""
        plain = asdict(self)
        row: dict[str, Any] = plain.pop("cell")
        metrics, details = plain.pop("metrics"), plain.pop("details")
        row |= {**plain, "curve": list(self.curve)}
        row |= {f"metric_{name}": value for name, value in metrics.items()}
        return row | {f"detail_{name}": value for name, value in details.items()}
