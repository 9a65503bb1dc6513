"""What the optimisation attacks share: dummy inputs are changed until their gradient looks like the client's change.

A change of one plain step of SGD is the learning rate times the mean gradient, and the scale is known. Otherwise
(clipping, several steps, an adaptive optimiser) it is taken for a multiple of a gradient, which it then only resembles.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secagg.adapter import unflatten
from secagg_attacks.inversion.local_steps import is_one_gradient, rate_of
from secagg_attacks.views import Message, Public
from secagg_client.adapted import attached

Gradients = Sequence[Tensor]
Distance = Callable[[Gradients, Gradients], Tensor]
"""Of the dummies' gradients from the target, by tensor, both in one order: a scalar."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client as an attacker simulates it: the model as it was sent, and the `target` gradient that it came back with.

    Each tensor is in units of its own length in the target, `units`: else the head, or whatever is largest, is all that
    is matched. `share` is what one dummy's gradient counts; None where that is not known. Tensors that did not move, as
    A beside a B of zeros, are left out.
    """

    model: nn.Module = field(repr=False)
    trained: tuple[nn.Parameter, ...] = field(repr=False)
    target: tuple[Tensor, ...] = field(repr=False)
    units: tuple[float, ...] = field(repr=False)
    share: float | None

    def distance(self, losses: Tensor, measure: Distance) -> Tensor:
        """Of the dummies with these losses [n] from what the client sent: a scalar, which can be differentiated."""
        total = losses.sum() * (1.0 if self.share is None else self.share)
        found = torch.autograd.grad(total, self.trained, create_graph=True)
        scaled = [each / unit for each, unit in zip(found, self.units, strict=True)]
        return measure(_fitted(scaled, self.target) if self.share is None else scaled, self.target)


@contextmanager
def simulated(public: Public, message: Message) -> Iterator[Client | None]:
    """A message's client, or the mean of its clients; None when nothing moved.

    Attention is computed by plain products: fused kernels cannot be differentiated twice.
    """
    moved = {name: change for name, change in unflatten(public.plan, message.change).items() if change.any()}
    sent = [torch.from_numpy(-change / rate_of(public, message, name)).float() for name, change in moved.items()]
    units = tuple(float(each.double().norm()) for each in sent)
    known = is_one_gradient(public, message)
    share = 1 / (public.plan.training.batch_size * message.senders) if known else None
    with attached(public.plan, public.base) as adapted, sdpa_kernel(SDPBackend.MATH):
        adapted.assign(message.start)
        device = next(adapted.model.parameters()).device
        target = tuple((each / unit).to(device) for each, unit in zip(sent, units, strict=True))
        trained = tuple(adapted.parameters[name] for name in moved)
        yield Client(adapted.model, trained, target, units, share) if moved else None


def _fitted(found: Gradients, target: Gradients) -> list[Tensor]:
    """`found` times the number that brings it nearest to `target`."""
    factor = _inner(found, target) / _inner(found, found).clamp_min(1e-30)
    return [each * factor for each in found]


def _inner(a: Gradients, b: Gradients) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def squared(found: Gradients, target: Gradients) -> Tensor:
    """The squared Euclidean distance (Zhu et al. 2019)."""
    return torch.stack([(x - y).square().sum() for x, y in zip(found, target, strict=True)]).sum()


def cosine(found: Gradients, target: Gradients) -> Tensor:
    """1 - cos over all tensors together (Geiping et al. 2020)."""
    lengths = (_inner(found, found) * _inner(target, target)).sqrt()
    return 1 - _inner(found, target) / lengths.clamp_min(1e-30)


def cosine_by_tensor(found: Gradients, target: Gradients) -> Tensor:
    """The mean over tensors of 1 - cos (Balunovic et al. 2022)."""
    return torch.stack([cosine([x], [y]) for x, y in zip(found, target, strict=True)]).mean()


def squared_and_absolute(found: Gradients, target: Gradients, weight: float) -> Tensor:
    """The squared distance plus `weight` times the absolute one (Deng et al. 2021)."""
    absolute = torch.stack([(x - y).abs().sum() for x, y in zip(found, target, strict=True)]).sum()
    return squared(found, target) + weight * absolute
