"""An institution's own examples: any Hugging Face data set, or a local JSONL, CSV or Parquet file."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import ClassLabel, Dataset
from pydantic import BaseModel, ConfigDict, Field

from secagg.errors import DataError
from secagg.plan import TaskSpec
from secagg_client.tables import read_table
from secagg_client.tasks import kind_of


class DataConfig(BaseModel):
    """Where the examples are and which columns hold them.

    `source` is a file (.jsonl, .json, .csv, .tsv, .parquet) or a Hugging Face data set id; `subset`, `revision` and
    `split` apply to the latter. Which columns are read is the task's to say. `user_column`, where it is given, says
    whose each record is. `limit` takes the first rows only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1)
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    messages_column: str = "messages"
    prompt_column: str = "prompt"
    response_column: str = "response"
    user_column: str | None = None
    limit: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts; their classes' indices, where there are classes; whose they are, where that is known.

    Never printed: `repr` says only where they come from.
    """

    source: str
    texts: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(default=(), repr=False)
    users: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    def record_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each record's text without outer white space, in order: the same text is the same record."""
        return tuple(hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest() for text in self.texts)

    def user_hashes(self) -> tuple[bytes, ...]:
        """The hash of each record's user, in order (protocol.md §4.5e); empty where users are not known."""
        tag = b"secagg/v1/user\x00"
        return tuple(hashlib.sha256(tag + user.encode("utf-8", "surrogatepass")).digest() for user in self.users)

    def fingerprint(self) -> str:
        """What the ledger knows the data by, whatever the order of rows.

        SHA-256 over the sorted record hashes, each followed by its user's where users are known.
        """
        if not self.users:
            return hashlib.sha256(b"secagg/v1/data\x00" + b"".join(sorted(self.record_hashes()))).hexdigest()
        owned = sorted(record + user for record, user in zip(self.record_hashes(), self.user_hashes(), strict=True))
        return hashlib.sha256(b"secagg/v1/data-of-users\x00" + b"".join(owned)).hexdigest()

    def select(self, rows: Sequence[int]) -> "Examples":
        """The examples at `rows`."""
        labels = tuple(self.labels[row] for row in rows) if self.labels else ()
        users = tuple(self.users[row] for row in rows) if self.users else ()
        return Examples(self.source, tuple(self.texts[row] for row in rows), labels, users)

    def joined(self, more: "Examples") -> "Examples":
        """These examples and then `more`."""
        return Examples(self.source, self.texts + more.texts, self.labels + more.labels, self.users + more.users)


def _class_index(value: object, row: int, task: TaskSpec, feature: object, where: str) -> int:
    if isinstance(feature, ClassLabel) and isinstance(value, int) and 0 <= value < feature.num_classes:
        value = feature.int2str(value)
    if isinstance(value, str) and value.strip() in task.labels:
        return task.labels.index(value.strip())
    if isinstance(value, int) and not isinstance(value, bool):
        if str(value) in task.labels:
            return task.labels.index(str(value))
        if 0 <= value < len(task.labels) and not isinstance(feature, ClassLabel):
            return value
    shown = "is empty" if value is None else "is not one of the session's labels"
    raise DataError(f"{where}, row {row}: the label {shown} ({', '.join(task.labels)})")


def _text(value: object, row: int, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}, row {row}: the {what} is {'missing' if value is None else 'not a string'}")
    if not value.strip():
        raise DataError(f"{where}, row {row}: the {what} is empty")
    return value


def column(table: Dataset, config: DataConfig, setting: str) -> Any:
    """The values of the column that `setting` of the config names. Raises DataError when there is none."""
    name = getattr(config, setting)
    if name not in table.column_names:
        raise DataError(
            f"{config.source}: no column {name!r}; it has {', '.join(map(repr, table.column_names))}. "
            f"Name the column with {setting}"
        )
    return table[name]


def texts(values: Iterable[object], where: str, what: str = "text") -> tuple[str, ...]:
    """Each value as a text that is not empty; errors call it `what`. Raises DataError."""
    return tuple(_text(value, row, where, what) for row, value in enumerate(values, 1))


def class_indices(table: Dataset, config: DataConfig, task: TaskSpec) -> tuple[int, ...]:
    """The class of each row. Labels may be names from `task.labels` or indices into it. Raises DataError."""
    values = column(table, config, "label_column")
    feature = table.features[config.label_column]
    return tuple(_class_index(value, row, task, feature, config.source) for row, value in enumerate(values, 1))


def _user(value: object, row: int, where: str) -> str:
    """An id as it is written. Numbers with a point are refused: large ones that differ would be read as one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # a number that a CSV leaves out is NaN
        raise DataError(f"{where}, row {row}: the user is missing")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}, row {row}: the user is neither a text nor a whole number")
    if not (user := str(value).strip()):
        raise DataError(f"{where}, row {row}: the user is empty")
    return user


def users(table: Dataset, config: DataConfig) -> tuple[str, ...]:
    """Whose each row is, by `user_column`; a number is its digits. Raises DataError that never names a user."""
    return tuple(_user(value, row, config.source) for row, value in enumerate(column(table, config, "user_column"), 1))


def load_examples(config: DataConfig, task: TaskSpec) -> Examples:
    """Read and check every row, as the kind of task wants it. Rows are counted from 1, without a header line.

    Raises DataError that names the source and row, never a text; ConfigError for a task that does not exist.
    """
    table = read_table(
        config.source, split=config.split, subset=config.subset, revision=config.revision, ids=config.user_column
    )
    try:
        return _examples(table, config, task)
    except UnicodeDecodeError:  # texts in a Parquet file are decoded when its rows are read
        raise DataError(f"{config.source}: is not UTF-8") from None


def _examples(table: Dataset, config: DataConfig, task: TaskSpec) -> Examples:
    """Check every row of what was read."""
    if config.limit is not None:
        table = table.select(range(min(config.limit, table.num_rows)))
    if table.num_rows == 0:
        raise DataError(f"{config.source}: holds no rows")
    examples = kind_of(task).read(table, config, task)
    if config.user_column is None:
        return examples
    owners = users(table, config)
    if len(owners) != len(examples):
        raise DataError(
            f"{config.source}: the task {task.kind} made {len(examples)} examples of {len(owners)} rows, so it is not "
            "known whose they are. A task must make one example of each row, in order"
        )
    return replace(examples, users=owners)
