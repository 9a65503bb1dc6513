"""What trying an attack comes to: how well it works with its defence off, what refuses it here, what does not.

Criteria are fixed here and in the trials, before any is run: an attack works when its figure is within its limit, a
defence holds when the error that the specification names is raised.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from secagg.errors import SecaggError
from secagg_attacks.aggregation.replay import Asked
from secagg_attacks.intervals import Floats
from secagg_attacks.views import Vector

RECOVERED = 0.01
"""An update counts as recovered when the error's norm is at most this part of the update's."""
TOLD_APART = 0.9
"""Tokens count as read when the area under the ROC is at least this."""
ERROR, AREA = "error of the recovered update, as a part of its norm", "area under the ROC, tokens that a client has"
NOISE = "noise in what is recovered, as a multiple of that of one update"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `works`: whether the attack reached what was fixed before; None where nothing was."""

    what: str
    value: float
    works: bool | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attack tried with the defence on. `by` refused it with `error`; both are empty where nobody did."""

    what: str
    expected: tuple[str, ...]
    by: str = ""
    error: str = ""
    said: str = ""

    @property
    def held(self) -> bool:
        """Whether it was refused, and for the reason that it should be."""
        return self.error in self.expected


@dataclass(frozen=True, slots=True)
class Opening:
    """Where the attack is NOT stopped: `when`, how well it then works, and what is `left` to the victim."""

    when: str
    left: str
    figure: Figure | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack. `off` says which defence was off when `figure` was reached.

    `control` is the same figure without the attack: the mean of one sum taken for the victim's update, or no trap set.
    """

    name: str
    what: str
    source: str
    off: str
    figure: Figure
    control: Figure
    attempts: tuple[Attempt, ...] = field(default=())
    openings: tuple[Opening, ...] = field(default=())

    @property
    def sound(self) -> bool:
        """Whether it shows anything: the attack works with the defence off, nothing does without it, and every defence
        held.
        """
        return self.works and all(attempt.held for attempt in self.attempts)

    @property
    def works(self) -> bool:
        """Whether it is the attack that recovers something."""
        return self.figure.works is True and self.control.works is False

    @property
    def verdict(self) -> str:
        """In two words or three."""
        if not all(attempt.held for attempt in self.attempts):
            return "A DEFENCE FAILED"
        if not self.works:
            return "the attack did not work: shows nothing"
        if not self.attempts:
            return "NOT stopped"
        return "stopped, within limits" if self.openings else "stopped"


def recovery(found: Floats, truth: Vector) -> Figure:
    """How far `found` [values] is from the victim's update."""
    exact = truth.astype(np.float64)
    error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    return Figure(ERROR, error, error <= RECOVERED)


def without_attack(total: Floats, members: int, truth: Vector) -> Figure:
    """The control: the mean of one sum [values] over `members` as a guess at the victim's update."""
    return recovery(total / members, truth)


def attempt(what: str, by: str, act: Callable[[], object], *expected: type[SecaggError]) -> Attempt:
    """Do it, and note who refused with what."""
    names = tuple(kind.__name__ for kind in expected)
    try:
        act()
    except SecaggError as error:
        return Attempt(what, names, by, type(error).__name__, str(error))
    return Attempt(what, names)


def attempt_to_open(what: str, asked: Asked, *expected: type[SecaggError]) -> Attempt:
    """The same of a set that key-holders were asked for: refused when no sum came out."""
    names = tuple(kind.__name__ for kind in expected)
    if asked.mean is not None:
        return Attempt(what, names)
    first = next((each for each in asked.refusals if type(each.error).__name__ in names), asked.refusals[-1])
    alike = [each for each in asked.refusals if type(each.error) is type(first.error) and each.holder]
    by = f"{len(alike)} key-holders" if len(alike) > 1 else "a key-holder" if alike else "the protocol's own code"
    return Attempt(what, names, by, type(first.error).__name__, str(first.error))
