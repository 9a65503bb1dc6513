"""Tokens from the space that a LoRA update spans (DAGER, Petrov et al. 2024, arXiv 2405.15586, carried to LoRA).

For one layer with weights W + s B A, the gradient of B is a sum over tokens of g (A x)^T, and that of A of (B^T g) x^T:
their rows lie in the span of the A x, or of the x. In the lowest layer x depends on the token and its place alone, so
whoever has the model can try all. The check is exact while there are fewer distinct x than dimensions: n < r for B
(with A public, as in FFA-LoRA), n <= r for A. Beyond that every token lies in the span, and nothing is told apart.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats

RANK_TOLERANCE = 1e-7
"""Singular values below this part of the largest are rounding, in updates of float32."""
EXACT = 5e-3
"""A token whose distance from the span is below this part of its length was there."""

WIDEST = 5e-2
CHANCE = 1e-6
"""See `limit`."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What an attacker has of one adapted layer: the update's rows [rows, d], and each candidate in the same d.

    For an update of B: its rows, d = r, and A x for each candidate x. For one of A: its rows, d = inputs, and x itself.
    """

    update: Floats = field(repr=False)
    candidates: Floats = field(repr=False)

    def __post_init__(self) -> None:
        if self.update.ndim != 2 or self.candidates.ndim != 2 or self.update.shape[1] != self.candidates.shape[1]:
            raise AuditError("an update's rows and the candidates must be of one length")
        if not np.isfinite(self.update).all() or not np.isfinite(self.candidates).all():
            raise AuditError("an update or a candidate is not finite")


def rank(layer: Layer, tolerance: float = RANK_TOLERANCE) -> int:
    """How many dimensions the update spans; with rounding left out."""
    return len(directions(layer.update, tolerance=tolerance))


def directions(update: Floats, floor: float = 0.0, tolerance: float = RANK_TOLERANCE) -> Floats:
    """An orthonormal basis of what the rows of `update` [rows, d] span, [rank, d], strongest direction first.

    Directions whose singular value is at most `floor`, or below `tolerance` of the largest, are rounding.
    """
    _, values, rows = np.linalg.svd(update, full_matrices=False)
    if not len(values) or values[0] <= 0:
        return np.zeros((0, update.shape[1]))
    basis: Floats = rows[values > max(floor, tolerance * values[0])]
    return basis


def distances_from(basis: Floats, candidates: Floats) -> Floats:
    """How far each of `candidates` [n, d] is from the span of `basis` [k, d], as a part of its length: [n] in 0 to 1.

    A candidate of no length (as the zero embedding of a padding token) adds nothing to a gradient: it counts as far.
    """
    lengths = np.linalg.norm(candidates, axis=1)
    rest = np.linalg.norm(candidates - (candidates @ basis.T) @ basis, axis=1)
    return np.where(lengths > 0, rest / np.maximum(lengths, 1e-30), 1.0)


def limit(basis: Floats, least: float) -> float:
    """How near a candidate must be to the span of `basis` [k, d] to have been there: at least `least`.

    Rounding puts those that were there off the span, the more the weaker their direction. Where the span leaves many
    dimensions out, chance comes nowhere near it, so more may be allowed: up to WIDEST, and never more than one
    direction at random in 1 / CHANCE would meet. The squared distance of such a one is Beta((d - k) / 2, k / 2).
    """
    k, d = basis.shape
    if not 0 < k < d:
        return least
    return float(np.clip(np.sqrt(stats.beta.ppf(CHANCE, (d - k) / 2, k / 2)), least, max(least, WIDEST)))


def distances(layer: Layer, dimensions: int | None = None) -> Floats:
    """How far each candidate is from the span, as a part of its length, [candidates] in 0 to 1.

    Of the update's span its `dimensions` largest directions are taken; all that are no rounding, by default.
    """
    basis = directions(layer.update) if dimensions is None else directions(layer.update, tolerance=0.0)[:dimensions]
    return distances_from(basis, layer.candidates)


def found_exactly(layers: list[Layer], threshold: float = EXACT) -> NDArray[np.bool_]:
    """Which candidates are in the span of every layer's update, [candidates]. Raises AuditError without a layer.

    A layer whose update spans all its dimensions says nothing, and holds nothing against a candidate.
    """
    if not layers or len({len(layer.candidates) for layer in layers}) != 1:
        raise AuditError("the layers must be one or more, with the same candidates")
    inside = np.stack([distances(layer) < threshold for layer in layers])
    return np.asarray(inside.all(axis=0))


def soft_scores(layers: list[Layer], dimensions: int) -> Floats:
    """Higher the nearer a candidate is to the `dimensions` strongest directions, over all layers, [candidates].

    Survives what breaks the exact check: adaptive optimisers, noise, and more tokens than dimensions.
    """
    found: Floats = -np.mean([distances(layer, dimensions) for layer in layers], axis=0)
    return found
