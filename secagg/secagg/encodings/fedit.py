"""FedIT: A and B both trained, and averaged each by itself (Zhang et al., ICASSP 2024). A baseline."""

from secagg.encodings.base import ChangeEncoding


class FedIt(ChangeEncoding):
    """Biased: (mean B)(mean A) is not mean(B A)."""

    name = "fedit"
    summary = "A and B are trained and averaged each by itself: biased, a baseline"
    reveals = (
        "The mean change of A and the mean change of B, each by itself: more than the mean change of the weights, "
        "which neither gives."
    )
    trained_factors = frozenset("AB")


ENCODINGS = (FedIt(),)
