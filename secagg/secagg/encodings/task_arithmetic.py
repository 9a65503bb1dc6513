"""Task arithmetic and DARE on a frozen A: the mean change, scaled after the sum.

Task arithmetic: Ilharco et al., ICLR 2023. DARE: Yu et al., ICML 2024: each client keeps a random part of its changes,
scaled up so that their expectation stays.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from secagg.adapter import start_tensors
from secagg.encodings.base import ChangeEncoding, Tensors, read_options
from secagg.encodings.layout import Array, Layout, Part
from secagg.plan import Frozen, Plan
from secagg.randomness import Randomness, fresh_keystream

DROP_PURPOSE = "secagg/v1/dare"


class ScaleOptions(Frozen):
    """`scale` lambda: the release is start + lambda times the mean change."""

    scale: float = Field(default=1.0, gt=0, le=1000)


class DareOptions(ScaleOptions):
    """`drop` p: the probability with which a client leaves a change out."""

    drop: float = Field(default=0.5, ge=0, le=0.99)


def scaled_release(plan: Plan, changes: Tensors, scale: float) -> Tensors:
    """Start + scale * change: one float32 multiplication and one addition per value."""
    tensors = start_tensors(plan)
    for name, change in changes.items():
        tensors[name] = tensors[name] + np.float32(scale) * change
    return tensors


class TaskArithmetic(ChangeEncoding):
    """The sum of ffa-lora; lambda is public and enters after it."""

    name = "task-arithmetic"
    summary = "as ffa-lora; the mean change is scaled by a public lambda (option scale)"
    reveals = "The mean change of every trained value, as with ffa-lora."
    trained_factors = frozenset("B")
    options_type: ClassVar[type[ScaleOptions]] = ScaleOptions

    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:  # noqa: ARG002 - the mean says it all
        """Start + lambda * mean change."""
        return scaled_release(plan, self.layout(plan).split(mean), read_options(plan, self.options_type).scale)


class Dare(TaskArithmetic):
    """What stays is divided by 1 - p, so the clips are too. Which changes were dropped is secret randomness."""

    name = "dare"
    summary = "as task-arithmetic; each client drops changes at random (option drop) and scales the rest up"
    reveals = (
        "The mean of the thinned changes. With few clients and a large drop many values come from one client alone; "
        "the sum does not mark them, but hides less of an institution's update than ffa-lora."
    )
    min_bits = 12
    options_type = DareOptions

    def layout(self, plan: Plan) -> Layout:
        """As the trained tensors, with clips for changes that are scaled up by 1/(1 - p)."""
        kept = 1.0 - read_options(plan, DareOptions).drop
        return Layout(tuple(Part(spec.name, spec.shape, spec.clip / kept) for spec in plan.trained))

    def encode(self, plan: Plan, change: Array, random: Randomness) -> Array:
        """Each change is 0 with probability p (to 2^-32), else divided by 1 - p. Needs nothing but the DP output."""
        drop = read_options(plan, DareOptions).drop
        words = fresh_keystream(DROP_PURPOSE, random).read(4 * len(change)).view("<u4")
        kept = words.astype(np.float64) >= drop * 2.0**32
        thinned: Array = np.where(kept, change / np.float32(1.0 - drop), np.float32(0.0)).astype(np.float32)
        return thinned


ENCODINGS = (TaskArithmetic(), Dare())
