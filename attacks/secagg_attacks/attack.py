"""An attack: an object that is given a view and gives a guess. It never meets the truth; the scorers do.

    attack = attack_named("loss")
    guess = attack.run(view)

An attack of your own: subclass `Attack`, and name it under the entry-point group `secagg.attacks` (docs/auditing.md).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from secagg.errors import AuditError, SecaggError
from secagg_attacks.intervals import Floats
from secagg_attacks.views import View, ViewName


@dataclass(frozen=True, slots=True)
class MembershipGuess:
    """A score for each candidate, [candidates]: higher the more it is held for a member."""

    scores: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenGuess:
    """Of one message: a score for every token of the vocabulary [tokens], those that are claimed, and texts."""

    scores: Floats = field(repr=False)
    claimed: frozenset[int] = field(repr=False)
    sequences: tuple[tuple[int, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ImageGuess:
    """Of one message: images, float32 [n, channels, height, width] in the model's input range, and their classes."""

    images: NDArray[np.float32] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LabelGuess:
    """Of one message: which part of the examples is of each class, [classes], adding up to 1."""

    shares: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class TextGuess:
    """What the model was brought to say: continuations, one for each prompt, best first."""

    texts: tuple[tuple[str, ...], ...] = field(repr=False)


MessageGuess = TokenGuess | ImageGuess | LabelGuess
Guess = MembershipGuess | TextGuess | tuple[MessageGuess, ...]
"""Attacks on messages give one guess for each message of the view, in its order."""

Need = Literal["population", "prompts"]
"""Fields of a question that some attacks cannot do without; `secagg attack` has an option for each."""

EVERY_VIEW = frozenset(ViewName)


class Attack(ABC):
    """One attack with its settings; frozen dataclasses are the habit.

    Attributes:
        name: what commands call it.
        summary: one line for `secagg attack list`.
        source: the paper that it comes from.
        views: where it is defined.
        needs: what the question must hold besides candidates, or in their place.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    views: ClassVar[frozenset[ViewName]] = EVERY_VIEW
    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def run(self, view: View) -> Guess:
        """Guess from what `view` shows. Raises AuditError when the view lacks what the attack needs."""

    def check(self, view: View) -> None:
        """Raise AuditError unless the attack is defined on this view."""
        if view.name not in self.views:
            there = ", ".join(sorted(self.views))
            raise AuditError(f"attack {self.name} is not defined on {view.name}, only on {there}")


def membership_scores(attack: Attack, view: View) -> Floats:
    """What a membership attack makes of each candidate, [candidates].

    Raises AuditError for another kind of attack, for one that breaks, and for scores that are none.
    """
    guess = run_checked(attack, view)
    if not isinstance(guess, MembershipGuess):
        raise AuditError(f"attack {attack.name} does not tell members from others")
    return checked_scores(attack, guess, view)


def checked_scores(attack: Attack, guess: MembershipGuess, view: View) -> Floats:
    """A finite number for each candidate, [candidates]. Raises AuditError that names the attack."""
    count = len(view.asked().candidates)
    try:
        scores = np.asarray(guess.scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise AuditError(f"attack {attack.name} gave scores that are no numbers") from None
    if scores.shape != (count,):
        raise AuditError(f"attack {attack.name} gave scores of shape {scores.shape} for {count} candidates")
    if wrong := int((~np.isfinite(scores)).sum()):
        raise AuditError(f"attack {attack.name} gave {wrong} of {count} candidates a score that is no finite number")
    return scores


def run_checked(attack: Attack, view: View) -> Guess:
    """Run an attack, anybody's. Raises AuditError that names it when it breaks."""
    attack.check(view)
    try:
        return attack.run(view)
    except SecaggError:
        raise
    except Exception as error:
        raise AuditError(f"attack {attack.name} broke: {type(error).__name__}: {error}") from error
