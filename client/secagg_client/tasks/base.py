"""The interface of a task, and what tasks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from secagg.errors import ConfigError
from secagg.plan import Frozen, TaskSpec
from secagg.validation import first_problem

if TYPE_CHECKING:  # data and models ask the registry for their part of a task
    from datasets import Dataset

    from secagg_client.data import DataConfig, Examples
    from secagg_client.tasks.canaries import PublicDraws


class Row(Protocol):
    """One example, ready to be put in a batch."""

    @property
    def length(self) -> int:
        """By what its cost grows: tokens, for texts. Batches are made of rows of like length."""
        ...


class OnDevice(Protocol):
    """A batch."""

    def to(self, device: torch.device) -> Any:
        """The same batch on a device."""
        ...


R = TypeVar("R", bound=Row)
B = TypeVar("B", bound=OnDevice)
O = TypeVar("O", bound="TaskOptions")  # noqa: E741 - options


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text: token ids; its class, where there are classes; and which tokens its loss counts (none said: all)."""

    ids: tuple[int, ...] = field(repr=False)
    label: int = field(default=-1, repr=False)
    counted: tuple[bool, ...] = field(default=(), repr=False)

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded token ids, which of them exist and which of those count, int64 [n, tokens]; classes int64 [n]."""

    input_ids: Tensor = field(repr=False)
    attention_mask: Tensor = field(repr=False)
    counted: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        tensors = (self.input_ids, self.attention_mask, self.counted, self.labels)
        return Batch(*(tensor.to(device) for tensor in tensors))


@dataclass(frozen=True, slots=True)
class Metrics:
    """Scores on a data set. `loss` is per example where there are classes, per token for language models.

    `loss_error` is the standard error of a token's mean loss over the choice of examples.
    """

    examples: int
    loss: float
    accuracy: float | None = None
    macro_f1: float | None = None
    perplexity: float | None = None
    loss_error: float | None = None


class Task(ABC, Generic[R, B]):
    """The four things that training and evaluation need, over rows R and batches B of the task's own."""

    @abstractmethod
    def encode(self, examples: "Examples") -> list[R]:
        """From records to rows. Raises DataError that names source and row, never a record."""

    @abstractmethod
    def collate(self, rows: Sequence[R]) -> B:
        """One batch of at least one row."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: B) -> Tensor:
        """The loss of each example, float32 [n], each a function of that example alone."""

    @abstractmethod
    def metrics(self, model: nn.Module, rows: Sequence[R], *, micro_batch: int = 64) -> Metrics:
        """Scores without gradients, in float32."""


AnyTask = Task[Any, Any]


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


@dataclass(frozen=True, slots=True)
class BaseParts:
    """A base model in its stored precision, what prepares its inputs, and the module that is trained in full.

    `processor` is a tokenizer, or whatever else the task's `make` takes. `head` is the module's name, or None.
    `architecture` is what plans call the function that the weights compute; by default the model's class.
    """

    model: nn.Module = field(repr=False)
    processor: Any = field(repr=False)
    head: str | None
    architecture: str = ""


class TaskOptions(Frozen):
    """The options of a kind of task in a plan's `[task.options]`. Subclass it to have some."""


def read_options(spec: TaskSpec, options: type[O]) -> O:
    """The task's options. Raises ConfigError with the option that is wrong."""
    try:
        return options.model_validate(spec.options)
    except ValidationError as error:
        raise ConfigError(f"options of task {spec.kind}: {first_problem(error, '(all)')}") from None


TRAINED_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


class TaskKind(ABC):
    """One kind of task. A subclass sets the names below and writes the four methods.

    `canaries` makes public records: a model is tried on two of them before it is trained, and audits insert them.
    `columns` is for audits, where a record is not the text in column `text`.

    Attributes:
        name: what a plan's `task.kind` says.
        summary: one line for `--help`.
        peft_task_type: PEFT's name for it, which goes into `adapter_config.json`; None for plain PEFT.
        options_type: the model of `task.options`.
        adapts: whether adapters are put into the base; without, the head is all that is trained, and it may be all.
        trained_layers: layers that may be trained: those whose per-example gradients a test compares with autograd.
        defaults: what a plan.toml need not say of `[task]`.
        config_keys: what of a config changes the function that the weights compute, beyond `models.CONFIG_KEYS`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    peft_task_type: ClassVar[str | None] = None
    options_type: ClassVar[type[TaskOptions]] = TaskOptions
    adapts: ClassVar[bool] = True
    trained_layers: ClassVar[tuple[type[nn.Module], ...]] = TRAINED_LAYERS
    defaults: ClassVar[Mapping[str, object]] = MappingProxyType({})
    config_keys: ClassVar[tuple[str, ...]] = ()

    def check(self, spec: TaskSpec) -> None:
        """Refuse a task that cannot be learnt. Raises ConfigError that says what to write instead."""
        read_options(spec, self.options_type)

    @abstractmethod
    def read(self, table: "Dataset", config: "DataConfig", spec: TaskSpec) -> "Examples":
        """The rows of a table, each checked. Raises DataError that names source and row, never a value."""

    @abstractmethod
    def load(self, model: str, spec: TaskSpec) -> BaseParts:
        """A Hugging Face id or local folder, from safetensors only. Raises ModelError."""

    @abstractmethod
    def make(self, spec: TaskSpec, processor: Any, prefix: Prefix) -> AnyTask:
        """The task itself."""

    def columns(self, examples: "Examples", spec: TaskSpec) -> dict[str, list[Any]]:
        """Examples as columns that `read` takes, under the default names."""
        classes = {"label": [spec.labels[label] for label in examples.labels]} if spec.labels else {}
        return {"text": list(examples.texts), **classes}

    def said(self, record: str) -> str:
        """What of a record near-duplicates are found by."""
        return record

    def canaries(self, spec: TaskSpec, processor: Any, draws: "PublicDraws", count: int) -> "Examples":  # noqa: ARG002
        """`count` different records, functions of `draws` alone. Raises ConfigError: this kind has none."""
        raise ConfigError(f"task {self.name} has no canaries: a kind of task needs them (docs/extending.md)")


def pad(rows: Sequence[Encoded], token: int) -> Batch:
    """Right-padded with `token` to the longest of `rows`."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), token, dtype=np.int64)
    mask, counted = np.zeros((2, len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = row.ids
        mask[number, : len(row.ids)] = 1
        counted[number, : len(row.ids)] = row.counted or 1
    labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(counted), labels)


def tokenise(tokenizer: Any, texts: Sequence[str], length: int) -> list[tuple[int, ...]]:
    """Token ids of each text, at most `length`."""
    ids = tokenizer(list(texts), truncation=True, max_length=length, padding=False)["input_ids"]
    return [tuple(row) for row in ids]


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device


def by_length(rows: Sequence[Row], size: int) -> list[list[int]]:
    """Indices of all rows in groups of at most `size`, of like length."""
    order = sorted(range(len(rows)), key=lambda index: rows[index].length)
    return [order[start : start + size] for start in range(0, len(order), size)]
