"""Tables of texts: a local JSONL, JSON, CSV, TSV or Parquet file, or a Hugging Face data set.

Local files are read in memory: `datasets` would otherwise leave a plain copy in its cache folder. Its own messages
and logs are not shown, as they may hold a piece of the data; `tests/client/test_tables.py` looks for that.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from secagg.errors import DataError

LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
DEEPEST = 500
"""Levels of JSON in a line."""
ENDINGS = ", ".join(sorted(LOADERS))

_NO_ROWS = "corresponds to no data"  # how `datasets` puts it
_LOAD_ERRORS = (
    DatasetGenerationError, DatasetNotFoundError, OSError, ValueError, ImportError, RuntimeError, StopIteration,
)  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# How pandas' reader of CSV puts it; both count from the header.
_RAGGED = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_OPEN_QUOTE = re.compile(r"EOF inside string starting at row (\d+)")


def read_table(
    source: str,
    *,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    ids: str | None = None,
) -> Dataset:
    """The rows of a file, or of a Hugging Face data set; `split`, `subset` and `revision` apply to the latter.

    `ids` is a column that is read from CSV as it is written: 007 is no number there, and not the same as 7.

    Raises DataError that names the source, the row or line where it can, and what to do; never a text.
    """
    path = Path(source)
    kind = LOADERS.get(path.suffix.lower())
    if kind is None:
        return _from_hub(source, split, subset, revision)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = _from_file(path, kind, ids)
    except _LOAD_ERRORS as error:
        raise DataError(f"{path}: {_reason(path, kind, error)}") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: holds no rows")
    return table


def _from_hub(source: str, split: str, subset: str | None, revision: str | None) -> Dataset:
    path = Path(source)
    if path.exists():  # a file's name is nothing to ask a hub for
        raise DataError(f"{path}: takes a file that ends in {ENDINGS}")
    if not _HUB_ID.fullmatch(source):
        raise DataError(f"{path}: no such file, and no name of a data set on the Hugging Face hub")
    try:
        with _quiet():
            return load_dataset(source, subset, split=split, revision=revision)
    except _LOAD_ERRORS as error:
        cause = error.__cause__ or error
        raise DataError(
            f"{source}: cannot be read as a data set: {type(cause).__name__}. It is no file here, so the Hugging Face "
            "hub was asked: check the name, the split and the connection, or give a local file"
        ) from error


def _from_file(path: Path, kind: str, ids: str | None) -> Dataset:
    if path.stat().st_size == 0:
        raise DataError(f"{path}: holds no rows")
    if kind != "parquet":
        _check_utf8(path)
    more: dict[str, Any] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    if kind == "csv":
        more |= {"keep_default_na": False, "na_values": [""]}  # only an empty cell is missing: NA is a text too
        if ids is not None:
            more["converters"] = {ids: str}
    with _quiet(), tempfile.TemporaryDirectory(prefix="secagg-data-") as cache:
        return load_dataset(kind, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **more)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no logs of what went wrong: it is raised."""
    verbosity, bars = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _check_utf8(path: Path) -> None:
    """Raise DataError that names the first line that is not UTF-8, or so deep that the reader of JSON would crash."""
    json_lines = LOADERS[path.suffix.lower()] == "json"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if json_lines and _is_deep(line):
                raise DataError(f"{path}, line {number}: is nested more than {DEEPEST} deep; is it the right file?")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(
                    f"{path}, line {number}: is not UTF-8 text. Save the file as UTF-8 (if it is Latin-1: "
                    f"iconv -f LATIN1 -t UTF-8 {path.name})"
                ) from None


def _is_deep(line: bytes) -> bool:
    if line.count(b"[") + line.count(b"{") <= DEEPEST:
        return False
    deepest = depth = 0
    for byte in line:
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    return deepest > DEEPEST


def _reason(path: Path, kind: str, error: BaseException) -> str:
    """What is wrong with a file and what to do, in words that hold nothing of its content."""
    cause = error.__cause__ or error
    said = str(cause)
    if _NO_ROWS in said:
        return "holds no rows"
    if ragged := _RAGGED.search(said):
        expected, line, saw = (int(number) for number in ragged.groups())
        return (
            f"row {line - 1} has {saw} fields, {expected} are expected. Put a text that holds the separator "
            "between double quotes"
        )
    if quote := _OPEN_QUOTE.search(said):
        return f"row {quote[1]}: a double quote is opened and never closed; write a quote within a text twice"
    if kind == "json" and (broken := _broken_json_line(path)):
        return f"line {broken} does not hold a whole JSON object, {{...}}; is the file cut off?"
    whole = {"parquet": "Parquet", "json": "JSON", "csv": "CSV"}[kind]
    return f"cannot be read as a data set: {type(cause).__name__}. Is it a whole {whole} file? Write or copy it anew"


def _broken_json_line(path: Path) -> int | None:
    """The first line at which a file of JSON lines, or of one JSON array, stops making sense; None when none does."""
    text = path.read_text("utf-8")
    if text.lstrip().startswith("["):
        return _error_line(text)
    lines = enumerate(text.split("\n"), 1)
    return next((number for number, line in lines if line.strip() and not _is_object(line)), None)


def _error_line(text: str) -> int | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.lineno
    except RecursionError:
        return 1
    return None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
