"""TIES merging on a frozen A, exactly, from four sums (Yadav et al., NeurIPS 2023).

Each client keeps its largest changes (trim). Of the sums of the positive and of the negative parts the larger decides
the sign (elect), and is divided by the number of clients that have it (disjoint mean). Trimmed values and counts are
functions of the DP output: they cost no more privacy than the change itself.
"""

import math

import numpy as np
from pydantic import Field

from secagg.adapter import unflatten
from secagg.encodings.base import Encoding, Tensors, read_options
from secagg.encodings.layout import Array, Layout, Part
from secagg.encodings.task_arithmetic import ScaleOptions, scaled_release
from secagg.errors import EncodingError
from secagg.plan import Plan, TensorSpec
from secagg.randomness import Randomness

ENDS = POSITIVE, NEGATIVE, POSITIVE_COUNT, NEGATIVE_COUNT = (
    "/positive", "/negative", "/positive-count", "/negative-count",
)  # fmt: skip


class TiesOptions(ScaleOptions):
    """`keep`: the part of its changes that a client keeps, the largest by magnitude."""

    keep: float = Field(default=0.2, gt=0, le=1)


def half_clip(spec: TensorSpec) -> float:
    """Half the clip, a float32: a part in [0, clip] is carried less this, so that 0 is the quantiser's own level 0."""
    return float(np.float32(spec.clip / 2.0))


def trimmed(change: Array, keep: float) -> Array:
    """`change` with only its ceil(keep * length) largest values by magnitude, the rest zero; ties go to the first."""
    count = math.ceil(keep * len(change))
    chosen = np.argsort(-np.abs(change), kind="stable")[:count]
    out = np.zeros_like(change)
    out[chosen] = change[chosen]
    return out


class Ties(Encoding):
    """Counts travel as -1 and 1, the ends of the quantiser's range, so their sums are exact at any width."""

    name = "ties"
    summary = "largest changes only (option keep), sign by majority of mass, mean of those that agree; scaled (scale)"
    reveals = (
        "For every trained value four sums over clients: of the positive and of the negative changes that were kept, "
        "and how many clients have each sign. Where a count is 1, the sum is the value of one client, though not of "
        "which; with few clients that is most values, so DP protects the records and the sum hides little of an "
        "institution's update. Changes, trimming and counts are functions of the DP output: nothing more is accounted."
    )
    trained_factors = frozenset("B")
    min_bits = 16
    equal_weights = True
    options_type = TiesOptions
    resumes = True

    def layout(self, plan: Plan) -> Layout:
        """Four parts for each trained tensor: four times the length of ffa-lora."""
        parts = list[Part]()
        for spec in plan.trained:
            clip = half_clip(spec)
            if clip <= 0:
                raise EncodingError(f"tensor {spec.name}: clip {spec.clip} is too small for ties")
            parts += [Part(spec.name + end, spec.shape, clip) for end in (POSITIVE, NEGATIVE)]
            parts += [Part(spec.name + end, spec.shape, 1.0) for end in (POSITIVE_COUNT, NEGATIVE_COUNT)]
        return Layout(tuple(parts))

    def encode(self, plan: Plan, change: Array, random: Randomness) -> Array:  # noqa: ARG002 - nothing is drawn
        """Trim over all tensors together, then split by sign."""
        kept = unflatten(plan, trimmed(change, read_options(plan, TiesOptions).keep))
        arrays = Tensors()
        for spec in plan.trained:
            values, half = kept[spec.name], np.float32(half_clip(spec))
            arrays[spec.name + POSITIVE] = np.maximum(values, 0) - half
            arrays[spec.name + NEGATIVE] = np.maximum(-values, 0) - half
            arrays[spec.name + POSITIVE_COUNT] = np.where(values > 0, np.float32(1), np.float32(-1))
            arrays[spec.name + NEGATIVE_COUNT] = np.where(values < 0, np.float32(1), np.float32(-1))
        return self.layout(plan).join(arrays)

    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:
        """Sums in float64; a positive and a negative sum of the same size elect the positive."""
        arrays = self.layout(plan).split(mean)
        changes = Tensors()
        for spec in plan.trained:
            half, n = half_clip(spec), float(contributors)
            means = {end: arrays[spec.name + end].astype(np.float64) for end in ENDS}
            positive, negative = (n * (means[end] + half) for end in (POSITIVE, NEGATIVE))
            counts = [np.rint(n * (means[end] + 1.0) / 2.0) for end in (POSITIVE_COUNT, NEGATIVE_COUNT)]
            elected = positive >= negative
            total = np.where(elected, positive, -negative)
            number = np.maximum(np.where(elected, *counts), 1.0)
            changes[spec.name] = (total / number).astype(np.float32)
        return scaled_release(plan, changes, read_options(plan, TiesOptions).scale)

    def mean_update(self, plan: Plan, mean: Array, contributors: int) -> Array:  # noqa: ARG002 - a mean of all clients
        """The mean of the trimmed changes: the positive sums less the negative ones, which no vote has gone over."""
        arrays = self.layout(plan).split(mean)
        parts = [arrays[spec.name + POSITIVE] - arrays[spec.name + NEGATIVE] for spec in plan.trained]
        return np.concatenate([part.ravel() for part in parts])


ENCODINGS = (Ties(),)
