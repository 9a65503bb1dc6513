"""Text classification: sequences of tokens with a class each."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from secagg.errors import ConfigError, DataError, ModelError
from secagg.plan import TaskSpec
from secagg_client.classifier import HEAD, MeanPoolClassifier, load_encoder
from secagg_client.data import DataConfig, Examples, class_indices, column, texts
from secagg_client.loading import load_tokenizer, load_with_head
from secagg_client.tasks.base import (
    BaseParts,
    Batch,
    Encoded,
    Metrics,
    Prefix,
    Row,
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

HEAD_NAMES = (HEAD, "score")


class ClassifyTask(Task[Encoded, Batch]):
    """Text classification: cross entropy of each example."""

    def __init__(self, spec: TaskSpec, tokenizer: Any, prefix: Prefix) -> None:
        self._spec, self._tokenizer, self._prefix = spec, tokenizer, prefix

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokens and class of each example. Raises DataError when a text has no token."""
        ids = tokenise(self._tokenizer, examples.texts, self._spec.max_length)
        for row, tokens in enumerate(ids, 1):
            if not tokens:
                raise DataError(f"{examples.source}, row {row}: the text has no token")
        rows = [Encoded(tokens, label) for tokens, label in zip(ids, examples.labels, strict=True)]
        self._prefix.keep(rows, self.collate)
        return rows

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Right-padded batch."""
        return pad(rows, int(self._tokenizer.pad_token_id))

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
        return all_logits(self, model, rows, len(self._spec.labels), micro_batch)

    def metrics(self, model: nn.Module, rows: Sequence[Encoded], *, micro_batch: int = 64) -> Metrics:
        """Mean loss, accuracy and macro-averaged F1 over the task's classes."""
        labels = torch.tensor([row.label for row in rows])
        return classification_metrics(self.predict(model, rows, micro_batch), labels)


class Classifier(Protocol):
    """A task that gives logits."""

    def collate(self, rows: Sequence[Any]) -> Any:
        """One batch."""

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Float32 [n, classes]."""


@torch.no_grad()
def all_logits(task: Classifier, model: nn.Module, rows: Sequence[Row], classes: int, micro_batch: int) -> Tensor:
    """Logits of all rows in their order, float32 [n, classes] on the CPU; rows of like length go together."""
    out = torch.empty(len(rows), classes)
    for index in by_length(rows, micro_batch):
        batch = task.collate([rows[i] for i in index]).to(device_of(model))
        out[index] = task.logits(model, batch).cpu()
    return out


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


def check_labels(spec: TaskSpec) -> None:
    """Raise ConfigError unless there are classes to tell apart."""
    if len(set(spec.labels)) < 2:
        raise ConfigError(f"task {spec.kind} needs at least two distinct labels")


class Classify(TaskKind):
    """Columns `text_column` and `label_column`; labels are names from the task's or indices into them."""

    name = "classify"
    summary = "a class for each text"
    peft_task_type = "SEQ_CLS"
    defaults = MappingProxyType({"max_length": 128, "pooling": "mean"})

    def check(self, spec: TaskSpec) -> None:
        """Two labels or more, and room for tokens."""
        super().check(spec)
        check_labels(spec)
        if not spec.max_length:
            raise ConfigError("task classify needs max_length, in tokens")

    def read(self, table: "Dataset", config: DataConfig, spec: TaskSpec) -> Examples:
        """Texts and classes."""
        return Examples(
            config.source,
            texts(column(table, config, "text_column"), config.source),
            class_indices(table, config, spec),
        )

    def load(self, model: str, spec: TaskSpec) -> BaseParts:
        """An encoder under mean pooling, or the architecture's own classification model."""
        tokenizer = load_tokenizer(model)
        if spec.pooling == "mean":
            encoder = load_encoder(model, spec.max_length)
            pooled = MeanPoolClassifier(encoder, len(spec.labels), spec.feature_norm)
            return BaseParts(pooled, tokenizer, HEAD, f"{MeanPoolClassifier.__name__}({type(encoder).__name__})")
        loaded, head = _load_sequence_classifier(model, spec, tokenizer.pad_token_id)
        return BaseParts(loaded, tokenizer, head)

    def make(self, spec: TaskSpec, processor: Any, prefix: Prefix) -> ClassifyTask:
        """With a tokenizer."""
        return ClassifyTask(spec, processor, prefix)

    def canaries(self, spec: TaskSpec, processor: Any, draws: PublicDraws, count: int) -> Examples:
        """Random words of the tokenizer's, with a random class each."""
        words, vocabulary = max(2, min(WORDS, spec.max_length // 2)), Vocabulary(processor)
        found = distinct(count, lambda: vocabulary.text(draws, words))
        return Examples("canaries", found, tuple(draws.below(len(spec.labels)) for _ in found))


def _load_sequence_classifier(model: str, spec: TaskSpec, padding: int) -> tuple[Any, str]:
    try:
        loaded, head = load_with_head(model, AutoModelForSequenceClassification, spec, HEAD_NAMES)
    except ModelError as error:
        raise ModelError(f'{error}; pooling = "mean" needs no head of the model\'s own') from error
    loaded.config.pad_token_id = padding
    return loaded, head


KINDS = (Classify(),)
