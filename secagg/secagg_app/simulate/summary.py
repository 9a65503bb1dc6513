"""What a sweep says, over its seeds: intervals, gains, and differences from one round, paired by seed."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secagg_attacks.intervals import t_interval

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over seeds and its 95% t-interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.seeds > 1 else f"{self.mean:.3f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: a cell of the grid over its seeds.

    `gain` is value - start by seed, in the direction that is better. `against_one_shot` is the same against one round
    in a cell that is the same otherwise, None where there is none. `learnt` is what the fixed rule reads off `gain`; it
    reads nothing off one seed.
    """

    arm: str
    rounds: int
    clients: int
    alpha: float
    epsilon: float
    method: str
    learning_rate: float
    value: Interval
    gain: Interval
    against_one_shot: Interval | None
    learnt: bool
    bytes_up: int


def interval(values: Sequence[float]) -> Interval:
    """Over seeds; with one seed the interval is not a number."""
    if len(values) == 1:
        return Interval(values[0], math.nan, math.nan, 1)
    found = t_interval(values)
    return Interval(found.value, found.low, found.high, found.count)


AXES = ("arm", "rounds", "clients", "alpha", "epsilon", "method", "learning_rate")
ALWAYS = ("arm", "rounds", "epsilon")
Key = tuple[str, int, int, float, float, str, float]


def lines(rows: Sequence[Row]) -> list[Line]:
    """One line a cell of the grid, in the order of the rows."""
    cells = defaultdict[Key, dict[int, Row]](dict)
    for row in rows:
        cells[tuple(row[axis] for axis in AXES)][row["seed"]] = row
    return [_line(key, found, cells) for key, found in cells.items()]


def _line(key: Key, found: Mapping[int, Row], cells: Mapping[Key, Mapping[int, Row]]) -> Line:
    arm, rounds, clients, alpha, epsilon, method, rate = key
    sign = -1.0 if next(iter(found.values()))["measure"] == "loss" else 1.0
    gain = interval([sign * (row["value"] - row["start"]) for row in found.values()])
    one = cells.get((arm, 1, clients, alpha, epsilon, method, rate), {}) if arm == "federated" and rounds > 1 else {}
    both = [seed for seed in found if seed in one]
    paired = interval([sign * (found[seed]["value"] - one[seed]["value"]) for seed in both]) if both else None
    value = interval([row["value"] for row in found.values()])
    return Line(*key, value, gain, paired, gain.low > 0, max(row["bytes_up"] for row in found.values()))


def markdown(found: Sequence[Line]) -> str:
    """A table for the page; `sent` is what one client sends in all its rounds."""
    varied = [axis for axis in AXES if axis in ALWAYS or len({getattr(line, axis) for line in found}) > 1]
    titles = [*(axis.replace("_", " ") for axis in varied), "value", "gain over start", "against one round", "sent"]
    text = [_row(titles), _row(["---"] * len(titles))]
    for line in found:
        unread = line.learnt or line.arm == "start" or line.gain.seeds == 1
        verdict = "" if unread else " nothing learnt"
        against = str(line.against_one_shot) if line.against_one_shot is not None else ""
        shown = [str(getattr(line, axis) or "none") for axis in varied]
        text.append(_row([*shown, str(line.value), f"{line.gain}{verdict}", against, f"{line.bytes_up / 1000:.0f} kB"]))
    return "\n".join(text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
