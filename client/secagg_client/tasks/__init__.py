"""What is learnt: from rows of a table to examples, batches, the loss of each example, and scores.

One file for each family of tasks; a module of this package with `KINDS` adds its own (see docs/extending.md).

The loss is ours, per example. Hugging Face's `outputs.loss` is a mean over the tokens of a batch: one example's
gradient then depends on its neighbours' lengths, and clipping no longer bounds what one record can do.
"""

from secagg_client.tasks.base import (
    AnyTask,
    BaseParts,
    Batch,
    Encoded,
    Metrics,
    NoPrefix,
    Prefix,
    Row,
    Task,
    TaskKind,
    TaskOptions,
)
from secagg_client.tasks.registry import kind_of, make_task, task_kinds

__all__ = [
    "AnyTask",
    "BaseParts",
    "Batch",
    "Encoded",
    "Metrics",
    "NoPrefix",
    "Prefix",
    "Row",
    "Task",
    "TaskKind",
    "TaskOptions",
    "kind_of",
    "make_task",
    "task_kinds",
]
