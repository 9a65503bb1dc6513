"""`dlg` and `inverting-gradients`: images whose gradient is the one that was sent.

Made for full gradients of small batches; from LoRA's updates there is less to match, and a model with max pooling or a
narrow first layer has forgotten the image before an adapter sees it. Rectified linear units can stop
the search short of the image that has the gradient (seen in a convolutional net): a guess that fails is no
protection. The labels come from `label-inference`, as in iDLG, and the number of images is taken as known, as in both
papers.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from secagg.errors import AuditError
from secagg_attacks.attack import Attack, ImageGuess
from secagg_attacks.inversion.labels import class_shares, likeliest
from secagg_attacks.inversion.matching import Client, cosine, simulated, squared
from secagg_attacks.views import Message, Public, View
from secagg_client.tasks import AnyTask, make_task
from secagg_client.tasks.image import ImageBatch

EXACT = 1e-6
"""What is left of the distance where the image was found: other beginnings need not be tried."""
Objective = Callable[[Tensor], Tensor]
"""Of dummy pixels [n, channels, height, width]: a scalar."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a model's processor makes of black and of white: the box that pixels are in, [channels, height, width]."""

    black: Tensor = field(repr=False)
    white: Tensor = field(repr=False)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Random images in the middle of the box."""
        middle, half = (self.black + self.white) / 2, (self.white - self.black) / 2
        return middle + 0.3 * half * torch.randn((count, *middle.shape), generator=generator)

    def inside(self, pixels: Tensor) -> Tensor:
        """The nearest images that there are."""
        return torch.minimum(torch.maximum(pixels, self.black), self.white)


def canvas_of(processor: Any) -> Canvas:
    """For any image processor of Transformers'."""
    sides = [processor(Image.new("RGB", (64, 64), colour), return_tensors="pt") for colour in ("black", "white")]
    black, white = (torch.as_tensor(side["pixel_values"])[0].float() for side in sides)
    return Canvas(black, white)


def total_variation(pixels: Tensor) -> Tensor:
    """The mean absolute difference of neighbours, of [n, channels, height, width]."""
    down = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean()
    return down + (pixels[:, :, :, 1:] - pixels[:, :, :, :-1]).abs().mean()


@dataclass(frozen=True)
class ImageAttack(Attack):
    """`examples` images are looked for, from `restarts` beginnings of `steps` steps each; the nearest are kept."""

    examples: int = 1
    steps: int = 300
    restarts: int = 1
    seed: int = 0

    def run(self, view: View) -> tuple[ImageGuess, ...]:
        """Of each message. Raises AuditError for other tasks than images'."""
        if view.public.plan.task.kind != "image":
            raise AuditError(f"attack {self.name} looks for images, and the task is {view.public.plan.task.kind}")
        return tuple(self._guess(view.public, message) for message in view.messages())

    def _guess(self, public: Public, message: Message) -> ImageGuess:
        labels = likeliest(class_shares(public, message), self.examples)
        task, canvas = make_task(public.plan.task, public.base.tokenizer), canvas_of(public.base.tokenizer)
        generator = torch.Generator().manual_seed(self.seed)
        starts = [canvas.noise(self.examples, generator) for _ in range(self.restarts)]
        with simulated(public, message) as client:
            if client is None:
                return ImageGuess(np.zeros((0, *canvas.black.shape), np.float32), ())
            objective = self.objective(client, task, torch.tensor(labels))
            best = self._best(objective, starts, canvas)
        return ImageGuess(canvas.inside(best.detach()).numpy(), labels)

    def _best(self, objective: Objective, starts: Sequence[Tensor], canvas: Canvas) -> Tensor:
        """The nearest of what is found from each beginning, up to one that leaves nothing of its distance."""
        found = list[tuple[float, Tensor]]()
        for start in starts:
            pixels = self.descend(objective, start, canvas)
            found.append((float(objective(pixels).detach()), pixels))
            if found[-1][0] < EXACT * float(objective(start).detach()):
                break
        return min(found, key=lambda each: each[0])[1]

    @abstractmethod
    def objective(self, client: Client, task: AnyTask, labels: Tensor) -> Objective:
        """What is made small."""

    @abstractmethod
    def descend(self, objective: Objective, pixels: Tensor, canvas: Canvas) -> Tensor:
        """Better pixels than those to start from."""


@dataclass(frozen=True)
class DeepLeakage(ImageAttack):
    """By L-BFGS, of which a step is up to 20 inner ones, as PyTorch counts them."""

    name: ClassVar[str] = "dlg"
    summary: ClassVar[str] = "images by their gradient's squared distance (DLG), with inferred labels"
    source: ClassVar[str] = "Zhu et al. 2019, arXiv 1906.08935; Zhao et al. 2020, iDLG, arXiv 2001.02610"
    steps: int = 15
    restarts: int = 4

    def objective(self, client: Client, task: AnyTask, labels: Tensor) -> Objective:
        """The squared distance."""
        return lambda pixels: client.distance(task.losses(client.model, ImageBatch(pixels, labels)), squared)

    def descend(self, objective: Objective, pixels: Tensor, canvas: Canvas) -> Tensor:  # noqa: ARG002 - no box there
        """With line search: the published fixed step diverges on models with kinks."""
        dummy = pixels.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([dummy], line_search_fn="strong_wolfe", history_size=50)

        def closure() -> Tensor:
            loss = objective(dummy)
            (dummy.grad,) = torch.autograd.grad(loss, [dummy])
            return loss.detach()

        for _ in range(self.steps):
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        return dummy.detach()


@dataclass(frozen=True)
class InvertingGradients(ImageAttack):
    """By Adam on the signs of the gradient, `rate` times a pixel's range a step, falling tenfold thrice.

    `smooth` weighs the total variation.
    """

    name: ClassVar[str] = "inverting-gradients"
    summary: ClassVar[str] = "images by their gradient's angle and total variation"
    source: ClassVar[str] = "Geiping et al. 2020, arXiv 2003.14053"
    rate: float = 0.05
    smooth: float = 1e-3

    def objective(self, client: Client, task: AnyTask, labels: Tensor) -> Objective:
        """1 - cos, and the total variation."""

        def value(pixels: Tensor) -> Tensor:
            angle = client.distance(task.losses(client.model, ImageBatch(pixels, labels)), cosine)
            return angle + self.smooth * total_variation(pixels)

        return value

    def descend(self, objective: Objective, pixels: Tensor, canvas: Canvas) -> Tensor:
        """Inside the box."""
        dummy = pixels.clone().requires_grad_()
        optimizer = torch.optim.Adam([dummy], lr=self.rate * float((canvas.white - canvas.black).mean()))
        milestones = [self.steps * part // 8 for part in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        for _ in range(self.steps):
            (slope,) = torch.autograd.grad(objective(dummy), [dummy])
            dummy.grad = slope.sign()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                dummy.copy_(canvas.inside(dummy))
        return dummy.detach()


ATTACKS = (DeepLeakage(), InvertingGradients())
"""Each looks for one image."""
