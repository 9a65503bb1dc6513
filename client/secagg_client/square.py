"""A trained square factor R between LoRA's frozen A and B, for plans that have one (`fed-sb`)."""

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from secagg.errors import ModelError

FACTOR = ".lora_R.weight"


class SquareAfterDown(nn.Module):
    """x -> R (A x), in the place of A. R is a linear layer of its own, so Opacus hooks it like any other."""

    def __init__(self, down: nn.Linear) -> None:
        super().__init__()
        self.down = down
        rank, device = down.out_features, down.weight.device
        self.square = nn.Linear(rank, rank, bias=False, device=device, dtype=torch.float32)
        self.square.requires_grad_(False)
        nn.init.zeros_(self.square.weight)

    @property
    def weight(self) -> Tensor:
        """A, to whose precision PEFT casts its input."""
        return self.down.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] to [..., rank]."""
        out: Tensor = self.square(self.down(inputs))
        return out


def insert_squares(model: nn.Module) -> dict[str, nn.Parameter]:
    """Put an R of zeros into every LoRA layer of `model`; each by the layer's name and `.lora_R.weight`.

    They go when the adapter is taken out. Raises ModelError for a layer that is not linear.
    """
    inserted = dict[str, nn.Parameter]()
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        for adapter, down in list(layer.lora_A.items()):
            if not isinstance(down, nn.Linear):
                raise ModelError(f"{name} is not linear, and fed-sb takes linear layers only: take ffa-lora")
            both = SquareAfterDown(down)
            layer.lora_A[adapter] = both
            inserted[name + FACTOR] = both.square.get_parameter("weight")
    return inserted
