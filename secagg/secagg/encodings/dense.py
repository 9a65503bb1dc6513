"""A and B both trained, and their products summed as they are: FlexLoRA and FedEx-LoRA.

FlexLoRA (Bai et al., NeurIPS 2024) cuts the mean product to LoRA's rank. FedEx-LoRA (Singhal et al., ACL 2025) applies
the mean factors and adds the residual mean(B A) - mean(B) mean(A) to the base weights; a PEFT adapter cannot change
base weights, so what is released is the same function of them: an adapter of a rank that holds mean(B A) whole.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from secagg.encodings.base import Encoding, Tensors, read_options
from secagg.encodings.layout import Array, Layout, Part
from secagg.encodings.pairs import check_products, local_factors, other_parts, pairs, released, released_config
from secagg.errors import EncodingError
from secagg.exact import svd
from secagg.plan import Frozen, Plan
from secagg.randomness import Randomness

PRODUCT = ".product"
MAX_VALUES = 1 << 24
"""Most values of all layers' products together: 64 MB an upload."""
MAX_SIDE = 1024
"""Most rows or columns, whichever are fewer, of one product: its decomposition takes their square times the rest."""


class DenseOptions(Frozen):
    """`clip` limits every value of B A (default: what its factors' clips allow); `release_rank` of the release."""

    clip: float | None = Field(default=None, gt=0)
    release_rank: int | None = Field(default=None, ge=1, le=MAX_SIDE)


class ExactOptions(DenseOptions):
    """The rank has no default: it must hold every client's share."""

    release_rank: int | None = Field(ge=1, le=MAX_SIDE)


class FlexLora(Encoding):
    """The mean of B A, cut to the released rank (option release_rank; LoRA's own by default)."""

    name = "flexlora"
    summary = "A and B are trained; the whole B A is summed and cut to LoRA's rank (options release_rank, clip)"
    reveals = (
        "The mean of the clients' B A at full rank, of which the release keeps the largest part, and the mean change "
        "of the head."
    )
    trained_factors = frozenset("AB")
    min_bits = 16
    options_type: ClassVar[type[DenseOptions]] = DenseOptions

    def check(self, plan: Plan) -> None:
        """As every encoding, and the products are small enough to be sent and decomposed."""
        super().check(plan)
        check_products(plan)
        values = sum(pair.outputs * pair.inputs for pair in pairs(plan))
        side = max(min(pair.outputs, pair.inputs) for pair in pairs(plan))
        if values > MAX_VALUES or side > MAX_SIDE:
            raise EncodingError(
                f"{self.name} would send {values} values with a shorter side of up to {side}; the limits are "
                f"{MAX_VALUES} and {MAX_SIDE}: adapt fewer layers, or choose sketch or ffa-lora"
            )

    def layout(self, plan: Plan) -> Layout:
        """B A of each layer, then the changes of the head."""
        clip = read_options(plan, self.options_type).clip
        parts = [
            Part(pair.layer + PRODUCT, (pair.outputs, pair.inputs), clip or pair.product_bound) for pair in pairs(plan)
        ]
        return Layout((*parts, *other_parts(plan)))

    def encode(self, plan: Plan, change: Array, random: Randomness) -> Array:  # noqa: ARG002 - nothing is drawn
        """The products in float64, and the head's change."""
        factors, others = local_factors(plan, change)
        arrays: dict[str, NDArray[np.float32] | NDArray[np.float64]] = {**others}
        for layer, own in factors.items():
            arrays[layer + PRODUCT] = own.b.astype(np.float64) @ own.a.astype(np.float64)
        return self.layout(plan).join(arrays)

    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:  # noqa: ARG002 - the mean says it all
        """The best approximation of each mean product at the released rank."""
        arrays = self.layout(plan).split(mean)
        products = {pair.layer: svd(arrays[pair.layer + PRODUCT].astype(np.float64)) for pair in pairs(plan)}
        return released(plan, arrays, products, self._released_rank(plan))

    def adapter_config(self, plan: Plan) -> dict[str, JsonValue]:
        """At the released rank."""
        return released_config(plan, self._released_rank(plan))

    def _released_rank(self, plan: Plan) -> int:
        return read_options(plan, self.options_type).release_rank or max(pair.rank for pair in pairs(plan))


class FedEx(FlexLora):
    """The mean of B A whole: clients times LoRA's rank must fit into the released rank."""

    name = "fedex"
    summary = "A and B are trained; the whole B A is summed and released exactly, at a higher rank (release_rank)"
    reveals = "The mean of the clients' B A, which the release holds whole, and the mean change of the head."
    options_type = ExactOptions

    def check_session(self, plan: Plan, *, bits: int, weights: Sequence[float]) -> None:
        """And the released rank holds as many clients as the roster has."""
        super().check_session(plan, bits=bits, weights=weights)
        needed = max(min(len(weights) * pair.rank, pair.outputs, pair.inputs) for pair in pairs(plan))
        if self._released_rank(plan) < needed:
            raise EncodingError(
                f"fedex releases rank {self._released_rank(plan)}, and {len(weights)} clients can have {needed}: "
                f"make the plan with release_rank = {needed} or more, or choose flexlora"
            )


ENCODINGS = (FlexLora(), FedEx())
