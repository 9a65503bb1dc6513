"""What is said of a file that is no table of texts, by the demo's loader and by the client's."""

import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from secagg.errors import DataError
from secagg_app.demo.corpora import own_corpus
from secagg_client import tables
from secagg_client.data import DataConfig, load_examples
from tests.client.support import MEAN

Load = Callable[[str], object]
LOADERS: tuple[Load, ...] = (
    lambda source: own_corpus(source, "text", "label"),
    lambda source: load_examples(DataConfig(source=source), MEAN),
)
BAD = {
    "zero.csv": (b"", "holds no rows"),
    "zero.jsonl": (b"", "holds no rows"),
    "header.csv": (b"text,label\n", "holds no rows"),
    "latin.csv": ("text,label\nsecret,a\nsecret Zürich,b\n".encode("latin-1"), "line 3: is not UTF-8"),
    "latin.jsonl": ('{"text": "secret Zürich"}\n'.encode("latin-1"), "line 1: is not UTF-8"),
    "ragged.csv": (b"text,label\na,negative\nsecret,words,secret,negative\n", "row 2 has 4 fields, 2 are expected"),
    "ragged.tsv": (b"text\tlabel\na\tnegative\nsecret\twords\tnegative\n", "row 2 has 3 fields, 2 are expected"),
    "quote.csv": (b'text,label\na,b\n"secret words,b\n', "row 2: a double quote is opened and never closed"),
    "binary.csv": (bytes(range(256)) * 9, "is not UTF-8"),
    "binary.parquet": (bytes(range(256)) * 9, "cannot be read as a data set: ArrowInvalid. Is it a whole Parquet"),
    "cut.jsonl": (b'{"text": "a", "label": "negative"}\n{"text": "secret wo', "line 2 does not hold a whole JSON"),
    "cut.json": (b'[{"text": "a", "label": "negative"},\n{"text": "secret wo', "line 2 does not hold a whole JSON"),
    "deep.jsonl": (b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n", "line 1: is nested more than 500 deep"),
    "numbers.jsonl": (b"1\n2\n", "line 1 does not hold a whole JSON object"),
}


@pytest.mark.parametrize("load", LOADERS, ids=["demo", "client"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_row_and_not_its_text(
    tmp_path: Path, name: str, load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "secret" not in out + err


def test_no_progress_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    bars = sys.modules["datasets.utils.tqdm"]
    monkeypatch.setattr(bars, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(bars, "_hf_datasets_progress_bars_disabled", False)
    (tmp_path / "a.csv").write_text("text,label\na b,negative\nc d,positive\n")
    for load in LOADERS:
        load(str(tmp_path / "a.csv"))
    assert capfd.readouterr() == ("", "")
    assert datasets.is_progress_bar_enabled()


@pytest.mark.parametrize("load", LOADERS, ids=["demo", "client"])
def test_a_private_name_is_not_asked_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    def ask(*arguments: object, **_more: object) -> None:
        raise AssertionError(f"the hub was asked: {arguments}")

    monkeypatch.setattr(tables, "load_dataset", ask)
    monkeypatch.chdir(tmp_path)
    Path("patients.txt").write_text("good\n")
    with pytest.raises(DataError, match=r"patients\.txt: takes a file that ends in \.csv, \.json"):
        load("patients.txt")
    for name in ("./patients.text", str(tmp_path / "absent.txt"), "../wards/ward-7/notes.txt", "~/notes"):
        with pytest.raises(DataError, match="no such file, and no name of a data set"):
            load(name)


def test_the_ending_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "A.CSV").write_text("text,label\na b,negative\nc d,positive\n")
    for load in LOADERS:
        load(str(tmp_path / "A.CSV"))
