"""How far a release gives planted secrets away: those that were trained on, beside those whose coin fell out.

Secrets that nobody trained on are at chance: their exposure in bits is exponentially distributed, 1 / ln 2 = 1.44 on
average, whatever the model (Carlini et al. 2019, arXiv 1802.08232). So they are the control of those that were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError
from secagg_attacks.attack import TextGuess
from secagg_attacks.audit.verdict import HOLDS, LEAK
from secagg_attacks.extraction.completion import PrefixCompletion, completed
from secagg_attacks.extraction.secrets import Planted, exposure, log_perplexities
from secagg_attacks.intervals import Floats, Interval, t_interval
from secagg_attacks.views import Public, View

REFERENCES = 200
"""Other secrets of each record, which its own is ranked among."""
CHANCE = 1 / math.log(2)
VOID = 1e-3
POOR = 0.01
NOT_CHANCE = "secrets that nobody was to train on are not at chance: the figures of planted ones mean nothing"


@dataclass(frozen=True, slots=True)
class Side:
    """Records whose coin fell one way: the mean of their exposure in bits, and which part was said word for word."""

    bits: Interval
    completed: Interval


@dataclass(frozen=True, slots=True)
class Extracted:
    """Both sides.

    `difference` is of the means in bits, in less out (Welch). `chance` is the probability of a mean as far from 1.44
    as that of the `outside`, if it is chance. Of `fits` extrapolations `poor` fit badly (p < .01); 0 of 0 when ranks
    were counted.
    """

    inside: Side
    outside: Side
    difference: Interval
    highest: float
    chance: float
    fits: int
    poor: int

    @property
    def reading(self) -> str:
        """One sentence. A secret said word for word is a leak by itself: none of so large a space is by chance."""
        if self.chance < VOID:
            return NOT_CHANCE
        return LEAK if self.difference.low > 0 or self.inside.completed.value > 0 else HOLDS


def check_asked(public: Public, records: Sequence[Planted], is_in: Sequence[bool]) -> None:
    """Raise AuditError for another task than `lm`, several templates, or fewer than two records on a side."""
    if public.plan.task.kind != "lm":
        raise AuditError(
            f"planted texts are asked of language models (task lm), and this run's task is {public.plan.task.kind}: "
            "leave --planted out"
        )
    if len({record.template for record in records}) != 1:
        raise AuditError("planted records of several templates have no exposure in common: audit each template apart")
    inside = sum(is_in)
    if min(inside, len(is_in) - inside) < 2:
        raise AuditError(f"{inside} of {len(is_in)} planted records are in: two at least are needed in, and two out")


def extracted(view: View, records: Sequence[Planted], is_in: Sequence[bool]) -> Extracted:
    """Ask the last model of a view, whose question holds the records' prompts, in order.

    `is_in` says how each record's coin fell. Raises AuditError as `check_asked`.
    """
    check_asked(view.public, records, is_in)
    members = np.array(is_in, dtype=bool)
    losses = _losses(view, records)
    found = exposure(losses[:, 0], losses[:, 1:], records[0].template.size)
    guess = PrefixCompletion().run(view)
    return Extracted(
        _side(records, found.bits, guess, members), _side(records, found.bits, guess, ~members),
        welch(found.bits[members], found.bits[~members]), found.highest, chance_of(found.bits[~members]),
        len(found.fits), int((found.fits < POOR).sum()),
    )  # fmt: skip


def _losses(view: View, records: Sequence[Planted]) -> Floats:
    """Of each record and of the same with other secrets, [records, 1 + references]; all of them of a small space."""
    count = min(REFERENCES, records[0].template.size - 1)
    texts = [text for seed, each in enumerate(records) for text in (each.text, *each.sample(count, seed))]
    return log_perplexities(view.public, view.models()[-1], texts).reshape(len(records), 1 + count)


def _side(records: Sequence[Planted], bits: Floats, guess: TextGuess, rows: NDArray[np.bool_]) -> Side:
    chosen = np.flatnonzero(rows).tolist()
    said = TextGuess(tuple(guess.texts[row] for row in chosen))
    return Side(t_interval(bits[chosen].tolist()), completed(said, [records[row].secret for row in chosen]))


def welch(first: Floats, second: Floats) -> Interval:
    """The difference of two means, first less second, by Welch's t; the count is of both together."""
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    count = len(first) + len(second)
    return Interval(float(first.mean() - second.mean()), float(found.low), float(found.high), count)


def chance_of(bits: Floats) -> float:
    """The two-sided p-value of a mean exposure, [targets] in bits, if each is chance: their sum has a gamma law."""
    law = stats.gamma(len(bits), scale=CHANCE)
    total = float(bits.sum())
    return min(1.0, 2 * min(float(law.cdf(total)), float(law.sf(total))))
