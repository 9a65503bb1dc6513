"""What is learnt: tokens, batches, the loss of each example, and how a model is scored.

The loss is ours, per example. Hugging Face's `outputs.loss` is a mean over the tokens of a batch: one example's
gradient then depends on its neighbours' lengths, and clipping no longer bounds what one record can do.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional

from secagg.errors import DataError
from secagg.plan import TaskSpec
from secagg_client.data import Examples
from secagg_client.head_loss import frozen_head, token_losses, without_head


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example: token ids and, for `classify`, its class."""

    ids: tuple[int, ...] = field(repr=False)
    label: int = field(default=-1, repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded token ids and mask, int64 [n, tokens]; classes int64 [n]."""

    input_ids: Tensor = field(repr=False)
    attention_mask: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class Metrics:
    """Scores on a data set. `loss` is per example for `classify`, per token for `lm`.

    `loss_error` is the standard error of a token's mean loss over the choice of examples, for `lm`.
    """

    examples: int
    loss: float
    accuracy: float | None = None
    macro_f1: float | None = None
    perplexity: float | None = None
    loss_error: float | None = None


class Task(Protocol):
    """The four things that training and evaluation need."""

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokenise and truncate. Raises DataError."""
        ...

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Pad to the longest of `rows`."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each example, float32 [n], each a function of that example alone."""
        ...

    def metrics(self, model: nn.Module, rows: Sequence[Encoded], *, micro_batch: int = 64) -> Metrics:
        """Scores without gradients, in float32."""
        ...


class Prefix(Protocol):
    """What is known of the examples of a run before any step (see `prefix`)."""

    def keep(self, rows: Sequence[Encoded], collate: Callable[[Sequence[Encoded]], Batch]) -> None:
        """Compute what can be kept for all examples of the run."""
        ...

    def applied(self, batch: Batch) -> AbstractContextManager[None]:
        """A context in which the model goes on from what is kept of this batch."""
        ...


class NoPrefix:
    """Nothing is kept: every layer is computed in each step."""

    def keep(self, rows: Sequence[Encoded], collate: Callable[[Sequence[Encoded]], Batch]) -> None:
        """Nothing."""

    def applied(self, batch: Batch) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's signature
        """The model as it is."""
        return nullcontext()


def make_task(spec: TaskSpec, tokenizer: Any, prefix: Prefix | None = None) -> Task:
    """The task of a plan."""
    make = ClassifyTask if spec.kind == "classify" else LanguageTask
    return make(spec, tokenizer, prefix or NoPrefix())


def _pad(rows: Sequence[Encoded], pad: int) -> Batch:
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = row.ids
        mask[number, : len(row.ids)] = 1
    labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask), labels)


def _tokenise(tokenizer: Any, texts: Sequence[str], length: int) -> list[tuple[int, ...]]:
    ids = tokenizer(list(texts), truncation=True, max_length=length, padding=False)["input_ids"]
    return [tuple(row) for row in ids]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _by_length(rows: Sequence[Encoded], size: int) -> list[list[int]]:
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    return [order[start : start + size] for start in range(0, len(order), size)]


class ClassifyTask:
    """Text classification: cross entropy of each example."""

    def __init__(self, spec: TaskSpec, tokenizer: Any, prefix: Prefix) -> None:
        self._spec, self._tokenizer, self._prefix = spec, tokenizer, prefix

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokens and class of each example. Raises DataError when a text has no token."""
        ids = _tokenise(self._tokenizer, examples.texts, self._spec.max_length)
        for row, tokens in enumerate(ids, 1):
            if not tokens:
                raise DataError(f"{examples.source}, row {row}: the text has no token")
        rows = [Encoded(tokens, label) for tokens, label in zip(ids, examples.labels, strict=True)]
        self._prefix.keep(rows, self.collate)
        return rows

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Right-padded batch."""
        return _pad(rows, int(self._tokenizer.pad_token_id))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Float32 logits [n, classes]."""
        with self._prefix.applied(batch):
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        return torch.as_tensor(output.logits).float()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy of each example, [n]."""
        return functional.cross_entropy(self.logits(model, batch), batch.labels, reduction="none")

    @torch.no_grad()
    def predict(self, model: nn.Module, rows: Sequence[Encoded], micro_batch: int = 64) -> Tensor:
        """Logits of all rows in their order, float32 [n, classes] on the CPU."""
        out = torch.empty(len(rows), len(self._spec.labels))
        for index in _by_length(rows, micro_batch):
            batch = self.collate([rows[i] for i in index]).to(_device(model))
            out[index] = self.logits(model, batch).cpu()
        return out

    def metrics(self, model: nn.Module, rows: Sequence[Encoded], *, micro_batch: int = 64) -> Metrics:
        """Mean loss, accuracy and macro-averaged F1 over the task's classes."""
        labels = torch.tensor([row.label for row in rows])
        return classification_metrics(self.predict(model, rows, micro_batch), labels)


def classification_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """Scores of `logits` [n, classes] against `labels` [n]."""
    guesses = logits.argmax(1)
    macro_f1 = f1_score(
        labels.numpy(), guesses.numpy(), labels=list(range(logits.shape[1])), average="macro", zero_division=0
    )
    return Metrics(
        examples=len(labels),
        loss=float(functional.cross_entropy(logits, labels)),
        accuracy=float((guesses == labels).float().mean()),
        macro_f1=float(macro_f1),
    )


class LanguageTask:
    """Causal language modelling: mean over the tokens of an example, then each example counts the same."""

    def __init__(self, spec: TaskSpec, tokenizer: Any, prefix: Prefix) -> None:
        self._spec, self._tokenizer, self._prefix = spec, tokenizer, prefix

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokens of each example. Raises DataError when fewer than two are left to predict one from another."""
        ids = _tokenise(self._tokenizer, examples.texts, self._spec.max_length)
        for row, tokens in enumerate(ids, 1):
            if len(tokens) < 2:
                raise DataError(f"{examples.source}, row {row}: the text has fewer than two tokens")
        rows = [Encoded(tokens) for tokens in ids]
        self._prefix.keep(rows, self.collate)
        return rows

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Right-padded batch."""
        return _pad(rows, int(self._tokenizer.pad_token_id))

    def token_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of each predicted token and which of them exist, both [n, tokens - 1]."""
        exists = batch.attention_mask[:, 1:].bool()
        targets = batch.input_ids[:, 1:][exists]
        found = frozen_head(model)
        with self._prefix.applied(batch), without_head(found[0]) if found else nullcontext():
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        last = torch.as_tensor(output.logits)[:, :-1][exists]
        if found:
            flat = token_losses(last, found[1].weight, targets)
        else:
            flat = functional.cross_entropy(last.float(), targets, reduction="none")
        losses = torch.zeros(exists.shape, device=exists.device).masked_scatter(exists, flat)
        return losses, exists.float()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss over the predicted tokens of each example, [n]."""
        losses, exists = self.token_losses(model, batch)
        return (losses * exists).sum(1) / exists.sum(1).clamp_min(1.0)

    @torch.no_grad()
    def metrics(self, model: nn.Module, rows: Sequence[Encoded], *, micro_batch: int = 64) -> Metrics:
        """Mean loss per predicted token over all examples, and its exponential."""
        totals, tokens = np.zeros(len(rows)), np.zeros(len(rows))
        for index in _by_length(rows, micro_batch):
            batch = self.collate([rows[i] for i in index]).to(_device(model))
            losses, exists = self.token_losses(model, batch)
            totals[index], tokens[index] = (losses * exists).sum(1).cpu(), exists.sum(1).cpu()
        return language_metrics(totals, tokens)


def language_metrics(totals: NDArray[np.float64], tokens: NDArray[np.float64]) -> Metrics:
    """Scores from the summed loss and the predicted tokens of each example, both [n].

    The error is that of a ratio of sums (Cochran, Sampling Techniques, 1977, ch. 6): examples are drawn, not tokens.
    """
    count, mean = len(totals), float(totals.sum() / tokens.sum())
    rest = totals - mean * tokens
    error = float(np.sqrt(count / max(1, count - 1) * np.square(rest).sum()) / tokens.sum())
    return Metrics(examples=count, loss=mean, perplexity=float(np.exp(mean)), loss_error=error)
