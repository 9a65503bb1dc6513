"""FFA-LoRA: A frozen at public values, B trained (Sun et al., ICLR 2024). The mean of B is exact: (mean B) A."""

from secagg.encodings.base import ChangeEncoding


class FfaLora(ChangeEncoding):
    """The default."""

    name = "ffa-lora"
    summary = "B is trained, A is public and frozen: the mean is exact, at half the payload"
    reveals = "The mean change of every trained value; A being public, that is the mean change of the weights."
    trained_factors = frozenset("B")


ENCODINGS = (FfaLora(),)
