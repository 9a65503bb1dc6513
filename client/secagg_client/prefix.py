"""Frozen layers below the lowest adapter: computed once for each example, not once for each step.

Without dropout, what these layers make of an example never changes in a run, so keeping it changes neither loss nor
gradient. With adapters on the last two of six layers, and each example drawn six times, a run takes half the time.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from secagg.plan import Plan
from secagg_client.classifier import MeanPoolClassifier
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.tasks import Batch, ClassifyTask, Encoded, Task, make_task

MODEL_TYPES = ("bert", "roberta", "xlm-roberta")
"""Encoders whose `encoder.layer` are applied one after the other to the output of `embeddings`, and to nothing else."""
MAX_BYTES = 1 << 30
"""More is not kept: the layers are computed anew in each step then."""
_MICRO_BATCH = 64


def training_task(plan: Plan, base: LoadedBase, device: torch.device) -> Task:
    """The plan's task; with kept prefixes where the model allows it and its lowest layers have no adapter."""
    depth = frozen_depth(plan)
    is_known = getattr(base.model.config, "model_type", "") in MODEL_TYPES
    if isinstance(base.model, MeanPoolClassifier) and is_known and depth:
        return PrefixTask(plan, base, depth, device)
    return make_task(plan.task, base.tokenizer)


def frozen_depth(plan: Plan) -> int:
    """How many of the lowest encoder layers no tensor of the plan touches; 0 when that cannot be told."""
    touched = set[int]()
    for spec in plan.tensors:
        if ".lora_" in spec.name:
            found = re.search(r"\.encoder\.layer\.(\d+)\.", spec.name)
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
def only_layers(encoder: Any, layers: slice, hidden: Tensor | None = None) -> Iterator[None]:
    """The encoder with some of its layers only, fed by `hidden` [n, tokens, width] in place of its embeddings."""
    stack, embeddings = encoder.encoder.layer, encoder.embeddings
    encoder.encoder.layer = nn.ModuleList(list(stack)[layers])
    if hidden is not None:
        encoder.embeddings = _Given(hidden)
    try:
        yield
    finally:
        encoder.encoder.layer, encoder.embeddings = stack, embeddings


class PrefixTask(ClassifyTask):
    """Classification for one training run that keeps the output of the lowest `depth` layers for each text.

    A text is known by its tokens. Nothing is kept when it would take more than MAX_BYTES.
    """

    def __init__(self, plan: Plan, base: LoadedBase, depth: int, device: torch.device) -> None:
        super().__init__(plan.task, base.tokenizer)
        self._model: Any = base.model
        self._depth, self._device = depth, device
        self._bf16 = plan.training.precision == "bf16"
        self._kept = dict[tuple[int, ...], Tensor]()

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokens and class of each example; the frozen layers are computed here. Raises DataError."""
        rows = super().encode(examples)
        width = int(self._model.config.hidden_size)
        if sum(len(row.ids) for row in rows) * width * 4 <= MAX_BYTES:
            self._model.to(self._device)
            self._keep(sorted(rows, key=lambda row: len(row.ids)))
        return rows

    @torch.no_grad()
    def _keep(self, rows: Sequence[Encoded]) -> None:
        for start in range(0, len(rows), _MICRO_BATCH):
            part = rows[start : start + _MICRO_BATCH]
            batch = self.collate(part).to(self._device)
            with (
                only_layers(self._model.encoder, slice(0, self._depth)),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16),
            ):
                output = self._model.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            for row, hidden in zip(part, output.last_hidden_state.cpu(), strict=True):
                self._kept[row.ids] = hidden[: len(row.ids)].clone()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Float32 logits [n, classes], from the kept states when there are any."""
        if not self._kept:
            return super().logits(model, batch)
        lengths = batch.attention_mask.sum(1).tolist()
        ids = [tuple(row[:length]) for row, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
        hidden = pad_sequence([self._kept[row] for row in ids], batch_first=True).to(batch.input_ids.device)
        with only_layers(self._model.encoder, slice(self._depth, None), hidden):
            return super().logits(model, batch)
