"""A and B both trained, and only their product summed: as two sketches of it, which are linear in the product.

With public random W [inputs, s] and V [s, outputs], Y = sum B (A W) and Z = sum (V B) A; then, where s is at least the
rank of the sum, sum B A = Y (V Y)^+ Z (Halko, Martinsson & Tropp 2011, section 5.5; Tropp et al. 2017). The
pseudo-inverse is cut at the rank that the sum can have: clients times LoRA's rank. What is carried is
s (inputs + outputs) values a layer: no more than the slots that would show every client's adapter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from secagg.adapter import expand_uniform
from secagg.encodings.base import Encoding, Tensors, read_options
from secagg.encodings.layout import Array, Layout, Part
from secagg.encodings.pairs import (
    Pair,
    check_products,
    local_factors,
    other_parts,
    pairs,
    released,
    released_config,
)
from secagg.errors import EncodingError
from secagg.exact import Svd, low_rank_svd, product, svd
from secagg.plan import Frozen, Plan
from secagg.randomness import Randomness

COLUMNS, ROWS = ".sketch.columns", ".sketch.rows"
MIN_BITS = 24
NEGLIGIBLE = 2.0**-MIN_BITS
"""Singular values below this part of the largest are rounding of the quantiser."""


class SketchOptions(Frozen):
    """`size` s; `clip` limits every value of a sketch (default: what bounds each value of B A); rank of the release."""

    size: int = Field(ge=1, le=4096)
    clip: float | None = Field(default=None, gt=0)
    release_rank: int | None = Field(default=None, ge=1, le=4096)

    @property
    def released_rank(self) -> int:
        """By default s: nothing is cut."""
        return self.size if self.release_rank is None else self.release_rank


class Projections(NamedTuple):
    """W [inputs, s] and V [s, outputs], public, with values as large as makes sketch and product alike."""

    w: Array
    v: Array


def projections(plan: Plan, pair: Pair, size: int) -> Projections:
    """Expanded from the plan's seed as §2.2 does, uniform with variance 1/inputs and 1/outputs."""
    seed = bytes.fromhex(plan.a_seed)
    w = expand_uniform(seed, pair.layer + COLUMNS, pair.inputs * size, math.sqrt(3.0 / pair.inputs))
    v = expand_uniform(seed, pair.layer + ROWS, size * pair.outputs, math.sqrt(3.0 / pair.outputs))
    return Projections(w.reshape(pair.inputs, size), v.reshape(size, pair.outputs))


def _fitting(y: NDArray[np.float64], z: NDArray[np.float64], clip: float) -> float:
    """The factor, at most 1, with which both stay within `clip`."""
    largest = max(float(np.abs(y).max()), float(np.abs(z).max()))
    return min(1.0, clip / largest) if largest else 1.0


@dataclass(frozen=True, slots=True)
class _Cut:
    """One layer's sketches, and the rank that their product can have."""

    y: Array
    z: Array
    rank: int

    def product(self, v: Array) -> Svd:
        """Y (V Y)^+ Z, decomposed."""
        core = svd(product(v, self.y))
        largest = core.values[0]
        kept = int((core.values[: self.rank] > NEGLIGIBLE * largest).sum())
        right = product(core.left[:, :kept].T, self.z)
        left = product(self.y, core.right[:kept].T) / np.maximum(core.values[:kept], np.finfo(np.float64).tiny)
        return low_rank_svd(left, right)


class Sketch(Encoding):
    """A client whose sketch does not fit its clip scales its whole product down: clipped values would have no rank."""

    name = "sketch"
    summary = "A and B are trained; two public sketches of B A are summed, and give its mean (option size)"
    reveals = (
        "The mean of the clients' B A, and the mean change of the head: both sketches are public linear functions of "
        "that mean. Its rank is clients times LoRA's rank, so it shows the space that all clients' factors span "
        "together, not which part is whose."
    )
    trained_factors = frozenset("AB")
    min_bits = MIN_BITS
    options_type = SketchOptions

    def check(self, plan: Plan) -> None:
        """As every encoding, and s is no larger than a layer's sides: beyond, the product itself is smaller."""
        super().check(plan)
        check_products(plan)
        size = read_options(plan, SketchOptions).size
        for pair in pairs(plan):
            if size > min(pair.outputs, pair.inputs):
                raise EncodingError(
                    f"layer {pair.layer}: a sketch of size {size} is larger than the layer "
                    f"({pair.outputs} x {pair.inputs}): choose flexlora, or a lower rank"
                )

    def check_session(self, plan: Plan, *, bits: int, weights: Sequence[float]) -> None:
        """And s is at least clients times rank: with less, the sum cannot be told from its sketches."""
        super().check_session(plan, bits=bits, weights=weights)
        size, rank = read_options(plan, SketchOptions).size, max(pair.rank for pair in pairs(plan))
        if size < len(weights) * rank:
            raise EncodingError(
                f"a sketch of size {size} carries {size // rank} clients of rank {rank}, not {len(weights)}: "
                f"make the plan with size = {len(weights) * rank} or more"
            )

    def layout(self, plan: Plan) -> Layout:
        """Y and Z of each layer, then the changes of the head."""
        options, parts = read_options(plan, SketchOptions), list[Part]()
        for pair in pairs(plan):
            clip = options.clip or pair.product_bound
            parts.append(Part(pair.layer + COLUMNS, (pair.outputs, options.size), clip))
            parts.append(Part(pair.layer + ROWS, (options.size, pair.inputs), clip))
        return Layout((*parts, *other_parts(plan)))

    def encode(self, plan: Plan, change: Array, random: Randomness) -> Array:  # noqa: ARG002 - nothing is drawn
        """Y and Z of the trained factors, in float64, and the head's change."""
        layout, size = self.layout(plan), read_options(plan, SketchOptions).size
        clips = {part.name: part.clip for part in layout.parts}
        factors, others = local_factors(plan, change)
        arrays: dict[str, NDArray[np.float32] | NDArray[np.float64]] = {**others}
        for pair in pairs(plan):
            public, own = projections(plan, pair, size), factors[pair.layer]
            b, a = own.b.astype(np.float64), own.a.astype(np.float64)
            y, z = b @ (a @ public.w), (public.v @ b) @ a
            fit = _fitting(y, z, clips[pair.layer + COLUMNS])
            arrays |= {pair.layer + COLUMNS: fit * y, pair.layer + ROWS: fit * z}
        return layout.join(arrays)

    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:
        """The mean of B A of each layer, as LoRA of the released rank."""
        options, arrays = read_options(plan, SketchOptions), self.layout(plan).split(mean)
        products = dict[str, Svd]()
        for pair in pairs(plan):
            cut = _Cut(arrays[pair.layer + COLUMNS], arrays[pair.layer + ROWS], contributors * pair.rank)
            products[pair.layer] = cut.product(projections(plan, pair, options.size).v)
        return released(plan, arrays, products, options.released_rank)

    def adapter_config(self, plan: Plan) -> dict[str, JsonValue]:
        """At the released rank."""
        return released_config(plan, read_options(plan, SketchOptions).released_rank)


ENCODINGS = (Sketch(),)
