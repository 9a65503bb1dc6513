"""FLoRA's stacking of adapters in slots (Wang et al., NeurIPS 2024): refused."""

from secagg.encodings.base import ChangeEncoding
from secagg.errors import EncodingError
from secagg.plan import Plan


class Stacking(ChangeEncoding):
    """Each client would add zeros everywhere but in its own slot: the sum is the list of all adapters."""

    name = "flora"
    summary = "refused: stacking in slots shows every client's adapter"
    reveals = "Every client's adapter: each has a slot of the vector to itself, to which the others add zeros. Refused."
    trained_factors = frozenset("AB")
    resumes = False

    def check(self, plan: Plan) -> None:  # noqa: ARG002 - nothing about the plan could help
        """Always an EncodingError."""
        raise EncodingError(
            "flora stacks each client's adapter in a slot of its own: the sum would show every one of them. Choose "
            "sketch, which sums the same exact update at the same size, or fedex for small layers"
        )


ENCODINGS = (Stacking(),)
