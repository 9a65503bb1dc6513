"""The DP optimiser: Opacus' clipping and noise, replaced by exact integers on a public grid (see `noise`)."""

from collections.abc import Iterable

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from secagg.errors import TrainingError
from secagg_client.clipping import clipped_sum
from secagg_client.noise import GRID, NoiseSource, grid_noise


def sample_gradients(parameters: Iterable[nn.Parameter], examples: int) -> list[Tensor]:
    """The per-example gradients of one micro-batch of so many examples, [examples, ...] for each parameter.

    Raises:
        TrainingError: a parameter got none, or those of something else than examples.
    """
    found = [getattr(parameter, "grad_sample", None) for parameter in parameters]
    samples = [sample for sample in found if isinstance(sample, Tensor)]
    if len(samples) < len(found):
        raise TrainingError("a trained parameter got no per-example gradient: its layer was not used once")
    for sample in samples:
        if len(sample) != examples:
            raise TrainingError(
                f"a trained layer has {len(sample)} gradients for {examples} examples: the model joins examples or "
                "splits them before that layer, so no bound holds for one; adapt other layers"
            )
    return samples


class GridOptimizer(DPOptimizer):  # type: ignore[misc]
    """Sums clipped, rounded gradients of examples, or of users, over micro-batches; one noisy step per sampled batch.

    A step without any example still adds its noise and moves: to skip it would show that the batch was empty.

    Args:
        optimizer: what moves the parameters.
        sigma: noise multiplier; the noise has deviation sigma * clip.
        clip: C, the largest norm of one example's or user's gradient.
        batch_size: the expected batch size, public: sums are divided by it, never by the number drawn.
        source: where the noise comes from.
        first_step: the number of the first step, which the source gets with each use.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        sigma: float,
        clip: float,
        batch_size: int,
        source: NoiseSource,
        first_step: int = 0,
    ) -> None:
        super().__init__(optimizer, noise_multiplier=sigma, max_grad_norm=clip, expected_batch_size=batch_size)
        self._source = source
        self.step_index = first_step

    def clip_and_accumulate(self, examples: int) -> None:
        """Add one micro-batch of so many examples to the sum and forget its per-example gradients.

        Raises:
            TrainingError: a parameter got no per-example gradient, or one of something else than examples.
        """
        samples = sample_gradients(self.params, examples)
        rows = [sample.flatten(1) for sample in samples]
        for parameter, total in zip(self.params, clipped_sum(rows, self.max_grad_norm), strict=True):
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total
            parameter.grad_sample = None
            parameter.grad = None

    def add_noise(self) -> None:
        """Put (sum + noise) on the grid into `.grad`. Without any micro-batch the sum is zero."""
        stream = self._source.stream(self.step_index, "noise")
        unit = self.max_grad_norm / GRID
        for parameter in self.params:
            noise = torch.from_numpy(grid_noise(stream, parameter.numel(), self.noise_multiplier))
            total = noise.to(parameter.device, torch.float64)
            if parameter.summed_grad is not None:
                total = total + parameter.summed_grad
            parameter.grad = (total * unit).to(parameter.dtype).view_as(parameter)

    def scale_grad(self) -> None:
        """Divide by the expected batch size."""
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size

    def step(self, closure: object = None) -> None:  # noqa: ARG002 - torch's signature
        """One noisy step over everything accumulated since the last, which may be nothing."""
        self.add_noise()
        self.scale_grad()
        self.original_optimizer.step()
        for parameter in self.params:
            parameter.grad = parameter.summed_grad = None
        self.step_index += 1
