"""Per-example gradients: of linear layers in the backward pass itself, of all others by Opacus' hooks.

Opacus lets autograd compute the gradient of the sum as well, which nobody needs, and calls two Python hooks a layer. A
linear layer's gradient for example i is the product of two matrices that its backward pass has at hand; here that pass
computes it, and nothing else of the weight. Same numbers: `tests/client/test_per_example.py` compares with Opacus'.
"""

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeGuard

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional

from secagg.errors import TrainingError


class _Linear(torch.autograd.Function):
    """y = x W^T + b, whose backward pass leaves per-example gradients on W and b, and no gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> Tensor:
        output = functional.linear(inputs, weight, bias)
        ctx.save_for_backward(inputs.to(output.dtype))  # as autocast had it
        ctx.weight, ctx.bias = weight, bias
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        (inputs,) = ctx.saved_tensors
        if ctx.weight.requires_grad:
            _add(ctx.weight, _products(inputs, gradient))
        if ctx.bias is not None and ctx.bias.requires_grad:
            _add(ctx.bias, gradient.reshape(len(gradient), -1, gradient.shape[-1]).sum(1))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return gradient @ ctx.weight.to(gradient.dtype), None, None


def _products(inputs: Tensor, gradient: Tensor) -> Tensor:
    """sum over tokens of gradient x input, [n, outputs, inputs], from [n, ..., inputs] and [n, ..., outputs]."""
    wide = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    back = gradient.reshape(len(gradient), -1, gradient.shape[-1])
    return torch.bmm(wide.transpose(1, 2), back).transpose(1, 2)


def _add(parameter: nn.Parameter, sample: Tensor) -> None:
    """Of a layer that is used more than once in a forward pass, the sum.

    Raises TrainingError for a use on something that all examples share: its gradient is one for all of them.
    """
    found: Tensor | None = getattr(parameter, "grad_sample", None)
    whole = sample.float().contiguous()
    if found is not None:
        _check_alike(len(found), len(whole))
    parameter.grad_sample = whole if found is None else found + whole  # type: ignore[attr-defined]


def _check_alike(*examples: int) -> None:
    """All uses of a layer are on as many examples. Raises TrainingError."""
    found = sorted(set(examples))
    if len(found) > 1:
        raise TrainingError(
            f"a trained layer is used on {' and on '.join(map(str, found))} rows in one pass: the model also gives it "
            "what all examples share (as DeBERTa its relative positions, with share_att_key), so one example would be "
            "in the gradients of the others; adapt other layers"
        )


def hook_trained_layers_only(model: nn.Module) -> None:
    """No dropout anywhere, but hooks on the trained layers: Opacus' act only on modules in training mode."""
    model.eval()
    for module in model.modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            module.training = True


def _is_ours(module: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear layer, and no subclass of it, with something to train."""
    return type(module) is nn.Linear and any(parameter.requires_grad for parameter in module.parameters())


def _forward(layer: nn.Linear, inputs: Tensor) -> Tensor:
    out: Tensor = _Linear.apply(inputs, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return out


def _refuse(gradient: Tensor | None) -> None:
    """No part of the gradient is plain: `_Linear` gives none."""
    if gradient is not None:
        raise TrainingError(
            "a trained layer's weight is used beside its layer too, so a part of its gradient is not known for each "
            "example: adapt other layers"
        )


class PerExampleGradients(GradSampleModule):  # type: ignore[misc]
    """A model whose backward pass puts each example's gradient into `grad_sample` of every trained parameter.

    The first dimension of what a trained layer sees must be the examples, in each of its uses; `GridOptimizer`, or the
    pass itself, refuses anything else. Raises NotImplementedError for a layer that Opacus does not know.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, loss_reduction="sum", strict=True)
        self._linear = [module for module in model.modules() if _is_ours(module)]
        for layer in self._linear:
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
        hooked = {id(own) for each in self.iterate_submodules(model) for own in each.parameters(recurse=False)}
        own = {id(each): each for layer in self._linear for each in layer.parameters() if each.requires_grad}
        plain = [each for key, each in own.items() if key not in hooked]
        self._plain = [each.register_hook(_refuse) for each in plain]  # type: ignore[no-untyped-call]

    def iterate_submodules(self, module: nn.Module) -> Iterable[nn.Module]:
        """Those that Opacus hooks."""
        return (found for found in super().iterate_submodules(module) if not _is_ours(found))

    def capture_activations_hook(self, module: nn.Module, forward_input: list[Tensor], _forward_output: Tensor) -> None:
        """Opacus', which adds what a second use has to the first rows, however many these are."""
        super().capture_activations_hook(module, forward_input, _forward_output)
        _check_alike(*(len(inputs[0]) for inputs in getattr(module, "activations", ())))

    def to_standard_module(self) -> nn.Module:
        """The model as it was."""
        for layer in self._linear:
            del layer.forward
        for handle in self._plain:
            handle.remove()
        model: nn.Module = super().to_standard_module()
        return model


def backward(loss: Tensor) -> None:
    """Per-example gradients of a wrapped model's summed loss.

    The first trained layer's input needs no gradient, and its per-example gradient needs none of it: PyTorch warns.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(loss)
