"""Fed-SB: A and B frozen at public values, a square R between them trained (Singhal et al. 2025, arXiv 2502.15371).

The weights change by B (mean R) A, exactly. The release has B R as LoRA's B, so that PEFT loads it like any other.
"""

import numpy as np

from secagg.adapter import release_tensors
from secagg.encodings.base import ChangeEncoding, Tensors
from secagg.encodings.layout import Array
from secagg.encodings.pairs import pairs
from secagg.errors import EncodingError
from secagg.exact import product
from secagg.plan import Plan

SQUARE = ".lora_R.weight"


class FedSb(ChangeEncoding):
    """R is [rank, rank]: the smallest vector of all."""

    name = "fed-sb"
    summary = "a square R is trained between A and B, public and frozen: exact, the smallest payload"
    reveals = "The mean change of R and of the head; A and B being public, that is the mean change of the weights."
    trained_factors = frozenset("R")
    resumes = False

    def check(self, plan: Plan) -> None:
        """As every encoding, and each A and B have their R."""
        super().check(plan)
        shapes = {spec.name: spec.shape for spec in plan.tensors}
        expected = {pair.layer + SQUARE: (pair.rank, pair.rank) for pair in pairs(plan)}
        if {name: shape for name, shape in shapes.items() if name.endswith(SQUARE)} != expected or not expected:
            raise EncodingError("fed-sb needs a square R of LoRA's rank in every adapted layer, and no other")

    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:  # noqa: ARG002 - the mean says it all
        """B becomes B (R + mean change of R), summed in float64 and rounded once; A stays."""
        tensors = release_tensors(plan, mean)
        for pair in pairs(plan):
            square = tensors.pop(pair.layer + SQUARE)
            tensors[pair.b.name] = product(tensors[pair.b.name], square).astype(np.float32)
        return tensors


ENCODINGS = (FedSb(),)
