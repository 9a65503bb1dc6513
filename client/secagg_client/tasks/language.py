"""Causal language modelling: the next token of a text."""

from collections.abc import Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from secagg.errors import ConfigError, DataError
from secagg.plan import TaskSpec
from secagg_client.data import DataConfig, Examples, column, texts
from secagg_client.head_loss import frozen_head, token_losses, without_head
from secagg_client.loading import load_complete, load_tokenizer
from secagg_client.tasks.base import (
    BaseParts,
    Batch,
    Encoded,
    Metrics,
    Prefix,
    Task,
    TaskKind,
    by_length,
    device_of,
    pad,
    tokenise,
)
from secagg_client.tasks.canaries import WORDS, PublicDraws, Vocabulary, distinct

if TYPE_CHECKING:
    from datasets import Dataset


class LanguageTask(Task[Encoded, Batch]):
    """Causal language modelling: mean over the tokens of an example, then each example counts the same."""

    def __init__(self, spec: TaskSpec, tokenizer: Any, prefix: Prefix) -> None:
        self._spec, self._tokenizer, self._prefix = spec, tokenizer, prefix

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokens of each example. Raises DataError when fewer than two are left to predict one from another."""
        ids = tokenise(self._tokenizer, examples.texts, self._spec.max_length)
        for row, tokens in enumerate(ids, 1):
            if len(tokens) < 2:
                raise DataError(f"{examples.source}, row {row}: the text has fewer than two tokens")
        rows = [Encoded(tokens) for tokens in ids]
        self._prefix.keep(rows, self.collate)
        return rows

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Right-padded batch."""
        return pad(rows, int(self._tokenizer.pad_token_id))

    def token_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of each predicted token and which of them count, both [n, tokens - 1]."""
        exists = batch.counted[:, 1:].bool()
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
        for index in by_length(rows, micro_batch):
            batch = self.collate([rows[i] for i in index]).to(device_of(model))
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


def check_language(spec: TaskSpec) -> None:
    """Raise ConfigError for a setting that only tasks with classes have, or when there is no room for two tokens."""
    if spec.labels:
        raise ConfigError(f"task {spec.kind} takes no labels")
    if spec.pooling != "model":
        raise ConfigError(f"task {spec.kind} takes no pooling")
    if not spec.max_length:
        raise ConfigError(f"task {spec.kind} needs max_length, in tokens")


class Language(TaskKind):
    """Column `text_column`."""

    name = "lm"
    summary = "the next token of a text"
    peft_task_type: ClassVar[str | None] = "CAUSAL_LM"
    defaults = MappingProxyType({"max_length": 128})

    def check(self, spec: TaskSpec) -> None:
        """Neither labels nor pooling."""
        super().check(spec)
        check_language(spec)

    def read(self, table: "Dataset", config: DataConfig, spec: TaskSpec) -> Examples:  # noqa: ARG002 - the signature
        """Texts."""
        return Examples(config.source, texts(column(table, config, "text_column"), config.source))

    def load(self, model: str, spec: TaskSpec) -> BaseParts:
        """A causal language model, whole."""
        tokenizer = load_tokenizer(model)
        return BaseParts(load_complete(model, AutoModelForCausalLM, spec), tokenizer, None)

    def make(self, spec: TaskSpec, processor: Any, prefix: Prefix) -> LanguageTask:
        """With a tokenizer."""
        return LanguageTask(spec, processor, prefix)

    def canaries(self, spec: TaskSpec, processor: Any, draws: PublicDraws, count: int) -> Examples:
        """Random words of the tokenizer's (Carlini et al., The Secret Sharer, 2019)."""
        words, vocabulary = max(2, min(WORDS, spec.max_length // 2)), Vocabulary(processor)
        return Examples("canaries", distinct(count, lambda: vocabulary.text(draws, words)))


KINDS = (Language(),)
