"""Frozen layers below the lowest adapter: computed once for each example, not once for each step.

Without dropout, what these layers make of an example never changes in a run, so keeping it changes neither loss nor
gradient. With adapters on the last two of six layers, and each example drawn six times, a run takes half the time.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from secagg.plan import Plan
from secagg_client.classifier import MeanPoolClassifier
from secagg_client.models import LoadedBase
from secagg_client.tasks import AnyTask, Batch, Encoded, kind_of, make_task

MAX_BYTES = 1 << 30
"""More is not kept: the layers are computed anew in each step then."""
_MICRO_BATCH = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a kind of model has its layers, which are applied one after the other to what `embeddings` gives.

    `layers` is a path to a ModuleList, `name` matches the number of a layer in a tensor's name, `last` is what follows
    the layers and is not part of them, or empty.
    """

    layers: str
    embeddings: str
    last: str
    name: re.Pattern[str]


ENCODER = Layout("encoder.layer", "embeddings", "", re.compile(r"\.encoder\.layer\.(\d+)\."))
DECODER = Layout("layers", "embed_tokens", "norm", re.compile(r"\.model\.layers\.(\d+)\."))
LAYOUTS = {
    "bert": ENCODER, "roberta": ENCODER, "xlm-roberta": ENCODER,
    "llama": DECODER, "mistral": DECODER, "qwen2": DECODER, "qwen3": DECODER, "smollm3": DECODER,
}  # fmt: skip
"""By the configuration's model type. Others are trained too, with all layers in each step."""


def training_task(plan: Plan, base: LoadedBase, device: torch.device) -> AnyTask:
    """The plan's task; with kept prefixes where the model allows it and its lowest layers have no adapter."""
    layout = LAYOUTS.get(getattr(base.model.config, "model_type", ""))
    stack = _stack(base)
    if layout is None or stack is None or _by_number(stack) or not (depth := frozen_depth(plan, layout)):
        return make_task(plan.task, base.tokenizer)
    half = plan.training.precision == "bf16"
    return make_task(plan.task, base.tokenizer, KeptPrefix(stack, layout, depth, device, half=half))


def _by_number(stack: Any) -> bool:
    """Whether the model treats layers by their number (sliding attention in some): what is above cannot stand alone."""
    config = stack.config
    kinds = [getattr(config, name, None) or () for name in ("layer_types", "no_rope_layers")]
    return any(len(set(each)) > 1 for each in kinds)


def _stack(base: LoadedBase) -> Any:
    """The module that holds embeddings and layers; None for a class of model that is not known."""
    if isinstance(base.model, MeanPoolClassifier):
        return base.model.encoder
    is_causal = kind_of(base.task).peft_task_type == "CAUSAL_LM"
    return getattr(base.model, "model", None) if is_causal else None


def frozen_depth(plan: Plan, layout: Layout) -> int:
    """How many of the lowest layers no tensor of the plan touches; 0 when that cannot be told."""
    touched = set[int]()
    for spec in plan.tensors:
        if ".lora_" in spec.name:
            found = layout.name.search(spec.name)
            if found is None:
                return 0
            touched.add(int(found[1]))
    return min(touched, default=0)


class _Given(nn.Module):
    """In the place of embeddings: hidden states that were computed before, whatever it is asked for."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_args: object, **_kwargs: object) -> Tensor:
        return self.hidden


@contextmanager
def replaced(root: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Inside, the modules at these paths below `root` are others."""
    before = {path: root.get_submodule(path) for path in modules}
    try:
        for path, module in modules.items():
            root.set_submodule(path, module)
        yield
    finally:
        for path, module in before.items():
            root.set_submodule(path, module)


def only_lowest(stack: nn.Module, layout: Layout, depth: int) -> Any:
    """A context in which `stack` has its lowest `depth` layers only, and nothing after them."""
    layers: Any = stack.get_submodule(layout.layers)
    change: dict[str, nn.Module] = {layout.layers: nn.ModuleList(list(layers)[:depth])}
    if layout.last:
        change[layout.last] = nn.Identity()
    return replaced(stack, change)


def only_above(stack: nn.Module, layout: Layout, depth: int, hidden: Tensor) -> Any:
    """A context in which `stack` starts above its lowest `depth` layers, from `hidden` [n, tokens, width]."""
    layers: Any = stack.get_submodule(layout.layers)
    return replaced(stack, {layout.layers: nn.ModuleList(list(layers)[depth:]), layout.embeddings: _Given(hidden)})


class KeptPrefix:
    """The output of a model's lowest layers for each example of one training run.

    An example is known by its tokens. Nothing is kept when it would take more than MAX_BYTES.
    """

    def __init__(self, stack: Any, layout: Layout, depth: int, device: torch.device, *, half: bool) -> None:
        self._stack, self._layout, self._depth = stack, layout, depth
        self._device, self._half = device, half
        self._kept = dict[tuple[int, ...], Tensor]()

    @torch.no_grad()
    def keep(self, rows: Sequence[Encoded], collate: Callable[[Sequence[Encoded]], Batch]) -> None:
        """Compute the layers for all rows that are not kept yet, unless all are too much to hold."""
        width = int(self._stack.config.hidden_size)
        if sum(len(row.ids) for row in rows) * width * 4 > MAX_BYTES:
            self._kept.clear()
            return
        self._stack.to(self._device)
        ordered = sorted((row for row in rows if row.ids not in self._kept), key=lambda row: len(row.ids))
        for start in range(0, len(ordered), _MICRO_BATCH):
            part = ordered[start : start + _MICRO_BATCH]
            batch = collate(part).to(self._device)
            with (
                only_lowest(self._stack, self._layout, self._depth),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._half),
            ):
                output = self._stack(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            for row, hidden in zip(part, output.last_hidden_state.cpu(), strict=True):
                self._kept[row.ids] = hidden[: len(row.ids)].clone()

    @contextmanager
    def applied(self, batch: Batch) -> Iterator[None]:
        """Inside, the model starts from the kept states of this batch, when there are any."""
        if not self._kept:
            yield
            return
        lengths = batch.attention_mask.sum(1).tolist()
        ids = [tuple(row[:length]) for row, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
        hidden = pad_sequence([self._kept[row] for row in ids], batch_first=True).to(batch.input_ids.device)
        with only_above(self._stack, self._layout, self._depth, hidden):
            yield
