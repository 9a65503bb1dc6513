"""What an attacker has of each adapted layer: the part of a message that tells of what the layer was given."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from secagg.adapter import unflatten
from secagg.encodings.base import lora_factor
from secagg_attacks.intervals import Floats
from secagg_attacks.inversion.span import directions
from secagg_attacks.views import Message, Public, Tensors, Vector

ULP = 2.0**-23
"""The relative distance of neighbouring float32."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one layer, by the `module` that is given x: `basis` [rank, d] spans the x, or the `down` x, that it met.

    `down` [d, inputs] is LoRA's A where only what comes after it was trained; None where the rows are of x's length.
    """

    module: str
    basis: Floats = field(repr=False)
    down: Floats | None = field(repr=False)

    def rows(self, inputs: Tensor) -> Floats:
        """Inputs [..., inputs] as the update has them, [n, d]."""
        flat: Floats = inputs.detach().reshape(-1, inputs.shape[-1]).double().cpu().numpy()
        return flat if self.down is None else flat @ self.down.T


def spanned(module: str, update: Vector | Floats, down: Vector | None = None, rounding: float = 0.0) -> Seen:
    """From an update [rows, d] whose values are known to `rounding`: smaller directions are left out.

    The largest singular value of a matrix of independent errors is about their size times the sum of its sides' roots.
    """
    floor = rounding * (np.sqrt(update.shape[0]) + np.sqrt(update.shape[1]))
    basis = directions(update.astype(np.float64), float(floor))
    return Seen(module, basis, None if down is None else down.astype(np.float64))


def seen_in(public: Public, message: Message) -> list[Seen]:
    """All that a message has of linear LoRA layers; factors that did not move, or are not linear, are left out.

    The gradient of B (and of a square factor R) has rows A x, that of A rows x. While B is zero, that of A is.
    """
    found = list[Seen]()
    for name, change in unflatten(public.plan, message.change).items():
        factor = lora_factor(name)
        if factor is None or change.ndim != 2 or not change.any():
            continue
        stem = name.removesuffix(f".lora_{factor}.weight")
        down = None if factor == "A" else message.start[f"{stem}.lora_A.weight"]
        found.append(spanned(stem, change, down, _rounding(message.start, name, change)))
    return found


def _rounding(start: Tensors, name: str, change: Vector) -> float:
    """A change is the difference of two float32, and rounded as the larger of them."""
    return ULP * float(np.sqrt(np.square(start[name] + change).mean()))
