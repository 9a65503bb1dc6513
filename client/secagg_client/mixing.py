"""Whether a model keeps the examples of a batch apart, tried on public records before anything is trained.

DP-SGD bounds what one record does through its own gradient. Where the record also changes the gradients of others, by
the width to which they are padded, a statistic of the batch, or a rotary setting that the longest of them switches, it
moves the clipped sum by more, and the stated epsilon is false. Which models do that cannot be read from their names:
convolutions over padding (ConvBERT, CANINE), mixing without a mask (FNet), dynamic and long RoPE are some.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secagg.errors import ConfigError, DataError, ModelError, TrainingError
from secagg.plan import Plan
from secagg.randomness import Keystream
from secagg_client.adapted import Adapted, attached
from secagg_client.models import LoadedBase
from secagg_client.per_example import PerExampleGradients, backward, hook_trained_layers_only
from secagg_client.tasks import AnyTask, Encoded, kind_of, make_task
from secagg_client.tasks.canaries import PublicDraws

TAG = b"secagg/v1/mixing\x00"
STEP = 0.02
"""How far every trained value is moved at most, so that gradients flow through all of the adapter."""
FULL, HALF = 1e-3, 0.1
"""The largest relative error of a gradient that is rounding. SmolLM2 has 4e-5 in float32, .008 in bfloat16."""


def refuse_mixing(plan: Plan, base: LoadedBase, device: torch.device | None = None) -> None:
    """Raise ModelError unless the gradient of each of two records is the same in a batch as alone.

    One is short, the other as long as `max_length` allows. They are made of public randomness, as canaries are.
    Raises ConfigError for a kind of task that has none.
    """
    task = make_task(plan.task, base.tokenizer)
    rows = _rows(base, task)
    with attached(plan, base, device) as adapted:
        _move(adapted, plan)
        parameters = [adapted.parameters[spec.name] for spec in plan.trained]
        half = any(parameter.dtype != torch.float32 for parameter in adapted.model.parameters())
        # alone first: some models keep a setting that a long text switched
        alone = [_alone(task, adapted.model, row, parameters, half=half) for row in rows]
        together = _together(task, adapted.model, rows, parameters, half=half)
        for number, gradients in enumerate(alone):
            _compare([each[number] for each in together], gradients, HALF if half else FULL)


def _rows(base: LoadedBase, task: AnyTask) -> list[Any]:
    draws = PublicDraws(Keystream(hashlib.sha256(TAG).digest()))
    kind = kind_of(base.task)
    try:
        short, other = task.encode(kind.canaries(base.task, base.tokenizer, draws, 2))
    except (ConfigError, DataError, ModelError) as error:
        raise ConfigError(
            f"task {kind.name}: there are no public records to try the model on, so nothing says that it keeps the "
            f"examples of a batch apart: {error}"
        ) from error
    return [short, _lengthened(other, _longest(base)) if isinstance(other, Encoded) else other]


def _longest(base: LoadedBase) -> int:
    """`max_length`, or as many tokens as the model has learnt places for."""
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in base.model.named_modules()
        if isinstance(module, nn.Embedding) and ("position" in name or name.endswith("wpe"))
    ]
    return min([base.task.max_length, *tables])


def _lengthened(row: Encoded, length: int) -> Encoded:
    """Over and over again, up to `length` tokens."""
    times = -(-length // len(row.ids))
    return replace(row, ids=(row.ids * times)[:length], counted=(row.counted * times)[:length])


def _move(adapted: Adapted, plan: Plan) -> None:
    generator = torch.Generator().manual_seed(0)  # nothing secret: any values do
    with torch.no_grad():
        for spec in plan.trained:
            parameter = adapted.parameters[spec.name]
            parameter.add_((STEP * torch.randn(parameter.shape, generator=generator)).to(parameter.device))


def _losses(task: AnyTask, model: nn.Module, rows: Sequence[Any], *, half: bool) -> Tensor:
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        losses: Tensor = task.losses(model, task.collate(rows).to(device))
    return losses


def _together(
    task: AnyTask, model: nn.Module, rows: Sequence[Any], parameters: Sequence[nn.Parameter], *, half: bool
) -> list[Tensor]:
    """Each parameter's gradients by example, as a training step computes them, [rows, ...]."""
    hook_trained_layers_only(model)
    try:
        wrapped = PerExampleGradients(model)
    except NotImplementedError as error:
        raise ModelError(f"Opacus cannot compute per-example gradients of this model: {error}") from error
    try:
        backward(_losses(task, wrapped, rows, half=half).sum())
        found = [getattr(parameter, "grad_sample", None) for parameter in parameters]
    except TrainingError as error:
        raise ModelError(str(error)) from error
    finally:
        wrapped.to_standard_module()
        model.eval()
    for each in found:
        if each is None or len(each) != len(rows):
            raise ModelError(
                f"a trained layer sees {'nothing' if each is None else f'{len(each)} rows'} of a batch of {len(rows)} "
                "examples: its first dimension is not the examples, so they cannot be clipped one by one. Adapt other "
                "layers, or take another model"
            )
    return [each for each in found if each is not None]


def _alone(
    task: AnyTask, model: nn.Module, row: Any, parameters: Sequence[nn.Parameter], *, half: bool
) -> Sequence[Tensor]:
    return torch.autograd.grad(_losses(task, model, [row], half=half).sum(), parameters)


def _compare(together: Sequence[Tensor], alone: Sequence[Tensor], tolerance: float) -> None:
    scale = max(float(each.abs().max()) for each in alone)
    worst = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))
    if not worst <= tolerance * scale:  # so that NaN is refused
        raise ModelError(
            f"the gradient of one example depends on the others in its batch (by {worst / max(scale, 1e-30):.1e} of "
            "itself): on the width of their padding, or a statistic or setting that they share. One record could then "
            "do more than its clip allows, and the stated epsilon would be false. Take another model; of one whose "
            "rotary settings change with the length, a max_length below that change"
        )
