"""Scores that compare the target with models of the same kind, whose members are known (shadow models).

All take the probability that a model gives the right answer on an example: `target` [examples], `shadows` [models,
examples], and `is_in` [models, examples], whether the model was trained on the example. Online attacks use shadows of
both kinds for each example, offline ones only those that were not trained on it. LiRA: Carlini et al. 2022. RMIA:
Zarifzadeh, Liu & Shokri 2024.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats

Bools = NDArray[np.bool_]
Mode = Literal["online", "offline"]
LEAST_SHADOWS = 2
"""Of each kind that an attack uses, for each example."""
_EDGE = 1e-12
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, slots=True)
class Shadows:
    """Probabilities of the right answer under the shadow models [models, examples], and who was trained on what."""

    probabilities: Floats = field(repr=False)
    is_in: Bools = field(repr=False)

    def __post_init__(self) -> None:
        if self.probabilities.shape != self.is_in.shape or self.probabilities.ndim != 2:
            raise AuditError("shadow probabilities and memberships must both be [models, examples]")
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():
            raise AuditError("a shadow's probability is not between 0 and 1")

    def enough(self, mode: Mode) -> Bools:
        """Which examples have as many shadows as an attack needs, [examples]."""
        outside = (~self.is_in).sum(axis=0) >= LEAST_SHADOWS
        return np.asarray(outside if mode == "offline" else outside & (self.is_in.sum(axis=0) >= LEAST_SHADOWS))

    def of(self, examples: Bools) -> "Shadows":
        """The same shadows of some examples only."""
        return Shadows(self.probabilities[:, examples], self.is_in[:, examples])

    def check(self, kind: Literal["in", "out"]) -> None:
        """Raise AuditError unless every example has enough shadows of a kind."""
        fewest = int((self.is_in if kind == "in" else ~self.is_in).sum(axis=0).min())
        if fewest < LEAST_SHADOWS:
            raise AuditError(f"an example has {fewest} shadows with it {kind}: {LEAST_SHADOWS} at least are needed")


def where_enough(shadows: Shadows, mode: Mode, score: Callable[[Bools, Shadows], Floats]) -> Floats:
    """`score` of the examples that have enough shadows, and of their shadows; all others get the median, which says
    nothing of them.

    With independent coins, having few shadows of a kind tells nothing about the target's own coin.
    Raises AuditError when fewer than half of the examples have enough.
    """
    enough = shadows.enough(mode)
    if enough.mean() < 0.5:
        raise AuditError(
            f"{int((~enough).sum())} of {len(enough)} examples have fewer than {LEAST_SHADOWS} shadows of a kind that "
            f"{mode} attacks need: run more of them"
        )
    found = score(enough, shadows.of(enough))
    out = np.full(len(enough), np.median(found))
    out[enough] = found
    return out


def logits(probabilities: Floats) -> Floats:
    """log(p / (1 - p)), in which losses of many models are about normal."""
    inside = np.clip(probabilities, _EDGE, 1 - _EDGE)
    found: Floats = np.log(inside) - np.log1p(-inside)
    return found


def lira(target: Floats, shadows: Shadows, *, mode: Mode, variance: Literal["fixed", "example"]) -> Floats:
    """The log likelihood ratio of in and out, or offline, how far the target is above models without the example.

    `fixed` takes one variance for all examples, which is better with fewer than some 64 shadows.
    Raises AuditError when an example has too few shadows.
    """
    shadows.check("out")
    observed, seen = logits(target), logits(shadows.probabilities)
    out_mean, out_deviation = _normal(seen, ~shadows.is_in, variance)
    if mode == "offline":
        return np.asarray(stats.norm.logcdf(observed, out_mean, out_deviation))
    shadows.check("in")
    in_mean, in_deviation = _normal(seen, shadows.is_in, variance)
    likely_in, likely_out = (
        np.asarray(stats.norm.logpdf(observed, mean, deviation), dtype=np.float64)
        for mean, deviation in ((in_mean, in_deviation), (out_mean, out_deviation))
    )
    found: Floats = likely_in - likely_out
    return found


def _normal(seen: Floats, chosen: Bools, variance: str) -> tuple[Floats, Floats]:
    """Mean of each example over the chosen models, and deviation: of its own or of all examples' residuals."""
    counts = chosen.sum(axis=0)
    mean = np.where(chosen, seen, 0.0).sum(axis=0) / counts
    squares = np.where(chosen, (seen - mean) ** 2, 0.0)
    if variance == "fixed":
        freedom = max(1, int(counts.sum()) - len(counts))
        deviation = np.full(len(mean), np.sqrt(squares.sum() / freedom))
    else:
        deviation = np.sqrt(squares.sum(axis=0) / np.maximum(counts - 1, 1))
    return mean, np.maximum(deviation, _LEAST_DEVIATION)


def rmia(
    target: Floats, shadows: Shadows, population: Floats, population_shadows: Floats, *,
    mode: Mode, gamma: float = 2.0, offline_a: float = 0.3,
) -> Floats:  # fmt: skip
    """Which part of a population the example is relatively at least `gamma` times as likely as.

    `population` [others] and `population_shadows` [models, others] are probabilities on examples that nobody trained
    on. Offline, p(x) is estimated from models without x as ((1 + a) mean + 1 - a) / 2.
    Raises AuditError for too few shadows, or an empty population.
    """
    if not len(population) or population_shadows.shape != (len(shadows.probabilities), len(population)):
        raise AuditError("RMIA needs a population, and every shadow's probabilities on it")
    shadows.check("out")
    out = np.where(shadows.is_in, 0.0, shadows.probabilities).sum(axis=0) / (~shadows.is_in).sum(axis=0)
    if mode == "online":
        shadows.check("in")
        inside = np.where(shadows.is_in, shadows.probabilities, 0.0).sum(axis=0) / shadows.is_in.sum(axis=0)
        prior = (out + inside) / 2
    else:
        prior = ((1 + offline_a) * out + (1 - offline_a)) / 2
    own = target / np.maximum(prior, _EDGE)
    others = population / np.maximum(population_shadows.mean(axis=0), _EDGE)
    ordered = np.sort(np.maximum(others, _EDGE))
    found: Floats = np.searchsorted(ordered, own / gamma, side="right") / len(ordered)
    return found


def lira_where_enough(target: Floats, shadows: Shadows, *, mode: Mode, variance: Literal["fixed", "example"]) -> Floats:
    """`lira` of all examples, as `where_enough` has it."""
    return where_enough(shadows, mode, lambda rows, own: lira(target[rows], own, mode=mode, variance=variance))


def rmia_where_enough(
    target: Floats, shadows: Shadows, population: Floats, population_shadows: Floats, *, mode: Mode
) -> Floats:
    """`rmia` of all examples, as `where_enough` has it."""
    return where_enough(
        shadows, mode, lambda rows, own: rmia(target[rows], own, population, population_shadows, mode=mode)
    )
