"""Per-example gradients of the whole stack (PEFT, Opacus, the loss) against autograd on each example alone."""

from collections.abc import Sequence
from typing import Any

import torch

from secagg.plan import Plan
from secagg_client.adapted import attached
from secagg_client.models import LoadedBase
from secagg_client.per_example import PerExampleGradients, hook_trained_layers_only
from secagg_client.tasks import AnyTask


def gradient_error(base: LoadedBase, plan: Plan, task: AnyTask, rows: Sequence[Any]) -> float:
    """The largest difference in any trained tensor, relative to the example's largest gradient.

    Every tensor of the adapter is moved away from its start, so that gradients flow everywhere.
    """
    generator = torch.Generator().manual_seed(7)
    with attached(plan, base) as adapted:
        with torch.no_grad():
            for parameter in adapted.parameters.values():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        parameters = [adapted.parameters[spec.name] for spec in plan.trained]
        hook_trained_layers_only(adapted.model)
        wrapped = PerExampleGradients(adapted.model)
        torch.autograd.backward(task.losses(wrapped, task.collate(rows)).sum())
        together: list[torch.Tensor] = [parameter.grad_sample for parameter in parameters]  # type: ignore[attr-defined]
        wrapped.to_standard_module()
        worst = 0.0
        for number, row in enumerate(rows):
            alone = torch.autograd.grad(task.losses(adapted.model, task.collate([row])).sum(), parameters)
            scale = max(float(gradient.abs().max()) for gradient in alone)
            assert scale > 0, "an example without a gradient says nothing"
            errors = [float((t[number] - g).abs().max()) for t, g in zip(together, alone, strict=True)]
            worst = max(worst, *(error / scale for error in errors))
    return worst
