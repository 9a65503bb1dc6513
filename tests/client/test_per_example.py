"""Per-example gradients of linear layers against Opacus' hooks, and against each example alone."""

from collections.abc import Callable

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from secagg.errors import TrainingError
from secagg_client.noise import SeededSource
from secagg_client.optimizer import GridOptimizer
from secagg_client.per_example import PerExampleGradients

EXAMPLES = 5
Wrap = Callable[[nn.Module], GradSampleModule]


class Pair(nn.Module):
    """LoRA's shape: a frozen layer, a trained one, and a trained head with a bias over the mean of the tokens."""

    def __init__(self, *, freeze_first: bool = True, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.down = nn.Linear(12, 4, bias=False)
        self.up = nn.Linear(4, 12, bias=False)
        self.head = nn.Linear(12, 3)
        self.norm = nn.LayerNorm(12)
        self.down.weight.requires_grad_(not freeze_first)
        self._shared = shared

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs + self.up(self.down(inputs))
        if self._shared:
            hidden = hidden + self.up(self.down(hidden))
        hidden = self.norm(hidden)
        out: Tensor = self.head(hidden.flatten(1, -2).mean(1) if hidden.ndim > 2 else hidden)
        return out


def samples(model: nn.Module, inputs: Tensor, wrap: Wrap, half: bool) -> list[Tensor]:
    """Per-example gradients of all trained parameters; the model is left as it was."""
    wrapped = wrap(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = wrapped(inputs).float().square().sum()
    loss.backward()
    found = [p.grad_sample.float() for p in model.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    wrapped.to_standard_module()
    return found


def by_opacus(model: nn.Module) -> GradSampleModule:
    return GradSampleModule(model, loss_reduction="sum", strict=True)


@pytest.mark.parametrize("shape", [(EXAMPLES, 12), (EXAMPLES, 7, 12), (EXAMPLES, 2, 3, 12)])
@pytest.mark.parametrize("freeze_first", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_the_numbers_are_those_of_opacus(shape: tuple[int, ...], freeze_first: bool, half: bool) -> None:
    model = Pair(freeze_first=freeze_first)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (samples(model, inputs, wrap, half) for wrap in (PerExampleGradients, by_opacus))
    assert len(ours) == (5 if freeze_first else 6)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=2e-2 if half else 1e-5, atol=2e-2 if half else 1e-6)


def test_a_layer_that_is_used_twice_has_the_sum() -> None:
    model = Pair(shared=True)
    inputs = torch.randn(EXAMPLES, 7, 12)
    together = samples(model, inputs, PerExampleGradients, half=False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for number in range(EXAMPLES):
        alone = torch.autograd.grad(model(inputs[number : number + 1]).square().sum(), parameters)
        for sample, gradient in zip(together, alone, strict=True):
            torch.testing.assert_close(sample[number], gradient, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_sum_is_not_computed_and_the_model_is_left_as_it_was() -> None:
    model = Pair()
    before = {name: type(module).forward for name, module in model.named_modules()}
    wrapped = PerExampleGradients(model)
    torch.autograd.backward(wrapped(torch.randn(EXAMPLES, 7, 12)).square().sum())
    assert model.up.weight.grad is None
    wrapped.to_standard_module()
    assert {name: type(module).forward for name, module in model.named_modules()} == before
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(hasattr(parameter, "grad_sample") for parameter in model.parameters())
    model.zero_grad()
    torch.autograd.backward(model(torch.randn(EXAMPLES, 7, 12)).square().sum())
    assert model.up.weight.grad is not None


class Joined(Pair):
    """A model that makes one row of each token before a trained layer, as routers of experts do."""

    def forward(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.up(self.down(inputs.flatten(0, 1)))
        return rows.view(len(inputs), -1)


def test_a_model_whose_layer_sees_tokens_as_examples_is_refused() -> None:
    """Each token would be clipped by itself, and an example of T tokens could move the sum by T C."""
    model = Joined()
    for parameter in (*model.head.parameters(), *model.norm.parameters()):
        parameter.requires_grad_(False)
    wrapped = PerExampleGradients(model)
    inner = torch.optim.SGD([model.up.weight], lr=0.1)
    optimizer = GridOptimizer(inner, sigma=1.0, clip=1.0, batch_size=EXAMPLES, source=SeededSource(1))
    torch.autograd.backward(wrapped(torch.randn(EXAMPLES, 7, 12)).square().sum())
    with pytest.raises(TrainingError, match=r"35 gradients for 5 examples.*adapt other layers"):
        optimizer.clip_and_accumulate(EXAMPLES)


class Shared(nn.Module):
    """A trained layer that sees the examples, and once for all of them something shared, as positions in DeBERTa."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("positions", torch.randn(1, 7, 12))

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs) * self.layer(self.positions)
        return out


@pytest.mark.parametrize("layer", [nn.Linear(12, 12), nn.LayerNorm(12)], ids=["linear", "hooked"])
def test_a_layer_that_also_sees_what_examples_share_is_refused(layer: nn.Module) -> None:
    """Its gradient there is one for all examples: each would be in the gradients of the others."""
    wrapped = PerExampleGradients(Shared(layer))
    with pytest.raises(TrainingError, match=r"used on 1 and on 5 rows in one pass.*adapt other layers"):
        torch.autograd.backward(wrapped(torch.randn(EXAMPLES, 7, 12)).square().sum())


class Beside(nn.Module):
    """A model that takes a trained layer's weight for something else as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs) * self.layer.weight.norm()
        return out


def test_a_weight_that_is_used_beside_its_layer_is_refused() -> None:
    """That part of its gradient would be missing, and nobody would see it."""
    model = Beside()
    wrapped = PerExampleGradients(model)
    with pytest.raises(TrainingError, match=r"used beside its layer too.*adapt other layers"):
        torch.autograd.backward(wrapped(torch.randn(EXAMPLES, 7, 12)).square().sum())
    wrapped.to_standard_module()
    torch.autograd.backward(model(torch.randn(EXAMPLES, 7, 12)).square().sum())
    assert model.layer.weight.grad is not None
