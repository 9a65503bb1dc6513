"""The loss of a causal language model under a frozen head, without ever holding the logits of a batch.

The head of a small model is a third of it: 49,152 words for 576 features. When nobody trains it, the gradient of a
token's loss with respect to its features is known as soon as its logits are, so one pass over blocks of tokens gives
both, and memory is bounded by a block. Padding is left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

MODEL_TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Models whose logits are the output of a linear head on the last hidden states, neither scaled nor capped."""
BLOCK = 256
"""Tokens whose logits are held at a time: 50 MB at 49,152 words."""


class FrozenHeadLoss(torch.autograd.Function):
    """Cross entropy of each token, float32 [n], from features [n, width], a frozen weight [words, width], targets [n].

    Computes in the precision of autocast where it is on, as `nn.Linear` would; softmax and loss are float32.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Losses; the gradient for `features` is computed along the way when it is needed."""
        kind = features.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        matrix = weight.to(precision)
        losses = torch.empty(len(features), device=features.device)
        gradient = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(features), BLOCK):
                part = slice(start, start + BLOCK)
                logits = (features[part].to(precision) @ matrix.T).float()
                total = logits.logsumexp(1)
                chosen = targets[part].unsqueeze(1)
                losses[part] = total - logits.gather(1, chosen).squeeze(1)
                if gradient is not None:
                    shares = logits.sub_(total.unsqueeze(1)).exp_()
                    shares.scatter_add_(1, chosen, shares.new_full(chosen.shape, -1.0))
                    gradient[part] = (shares.to(precision) @ matrix).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None]:
        """The kept gradient, scaled; the head is frozen and the targets are whole numbers."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].unsqueeze(1).to(gradient.dtype), None, None


def token_losses(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """FrozenHeadLoss as a function."""
    losses: Tensor = FrozenHeadLoss.apply(features, weight, targets)  # type: ignore[no-untyped-call]
    return losses


def frozen_head(model: nn.Module) -> tuple[PreTrainedModel, nn.Linear] | None:
    """The language model inside `model`'s wrappers and its head, where FrozenHeadLoss gives what the model would."""
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None or getattr(inner.config, "model_type", "") not in MODEL_TYPES:
        return None
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    return inner, head


@contextmanager
def without_head(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's "logits" are the features that its head would get."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(nn.Identity())
    try:
        yield
    finally:
        model.set_output_embeddings(head)
