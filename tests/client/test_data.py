"""Reading an institution's own files, and what is said when they are wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from secagg.errors import DataError
from secagg_client import tables
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.tasks import kind_of
from tests.client.support import LM, MEAN

ROWS = [
    {"text": "good food", "label": "positive", "id": 1},
    {"text": "bad food", "label": "negative", "id": 2},
    {"text": "Zürich, „gut“\nzwei Zeilen", "label": "positive", "id": 3},
]


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


WRITERS: dict[str, Callable[[Path], object]] = {
    "data.jsonl": lambda path: jsonl(path, list(ROWS)),
    "data.csv": lambda path: Dataset.from_list(ROWS).to_csv(path),
    "data.tsv": lambda path: Dataset.from_list(ROWS).to_csv(path, sep="\t"),
    "data.parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_local_files(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    data = load_examples(DataConfig(source=str(tmp_path / name)), MEAN)
    assert data.texts == tuple(str(row["text"]) for row in ROWS)
    assert data.labels == (1, 0, 1)


def test_other_columns_integer_labels_limit_and_lm(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"body": "one", "stars": 1},
        {"body": "two", "stars": 0},
        {"body": "three", "stars": 1},
    ]
    path = jsonl(tmp_path / "x.jsonl", rows)
    config = DataConfig(source=str(path), text_column="body", label_column="stars", limit=2)
    assert load_examples(config, MEAN) == Examples(str(path), ("one", "two"), (1, 0))
    assert load_examples(config, LM).labels == ()


def test_class_label_features_map_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub data set may number its classes in another order than the session."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["positive", "negative"])})
    table = Dataset.from_dict({"text": ["good", "bad"], "label": [0, 1]}, features=features)
    monkeypatch.setattr(tables, "load_dataset", lambda *_args, **_kwargs: table)
    assert load_examples(DataConfig(source="someone/reviews"), MEAN).labels == (1, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "  ", "label": "positive"}, "row 2: the text is empty"),
        ({"text": None, "label": "positive"}, "row 2: the text is missing"),
        ({"text": "secret words", "label": "neutral"}, "row 2: the label is not one of the session's labels"),
        ({"text": "secret words", "label": None}, "row 2: the label is empty"),
    ],
)
def test_bad_rows_are_named_without_their_text(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = jsonl(tmp_path / "x.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=message) as caught:
        load_examples(DataConfig(source=str(path)), MEAN)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_index_out_of_range(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"text": "a", "label": 2}])
    with pytest.raises(DataError, match="row 1: the label is not one"):
        load_examples(DataConfig(source=str(path)), MEAN)


def test_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"body": "a", "label": "positive"}])
    with pytest.raises(DataError, match=r"no column 'text'; it has 'body', 'label'"):
        load_examples(DataConfig(source=str(path)), MEAN)
    path = jsonl(tmp_path / "y.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="no column 'label'"):
        load_examples(DataConfig(source=str(path)), MEAN)


def test_files_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_examples(DataConfig(source=str(tmp_path / "absent.jsonl")), MEAN)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a", \n"oops')
    with pytest.raises(DataError, match="line 1 does not hold a whole JSON object"):
        load_examples(DataConfig(source=str(broken)), MEAN)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        load_examples(DataConfig(source=str(empty)), MEAN)
    with pytest.raises(DataError, match="cannot be read as a data set"):
        load_examples(DataConfig(source="nobody/such-data-set"), MEAN)


def test_no_copy_of_the_data_stays_in_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config as datasets_config

    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    load_examples(DataConfig(source=str(jsonl(tmp_path / "x.jsonl", list(ROWS)))), MEAN)
    left = [path for folder in (cache, scratch) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in left if b"food" in path.read_bytes()]


def test_fingerprint_knows_records_not_their_order() -> None:
    one = Examples("a", ("x", "y "), (0, 1))
    assert one.fingerprint() == Examples("b", ("y", "x"), (0, 0)).fingerprint()
    assert one.fingerprint() != Examples("a", ("x", "z"), (0, 1)).fingerprint()
    assert "x" not in repr(one).replace("Examples", "")


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"text,label\n"), ("a.jsonl", b"\n\n")])
def test_a_file_without_rows_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="holds no rows"):
        load_examples(DataConfig(source=str(tmp_path / name)), MEAN)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b'{"text": "\xff\xfe", "label": "negative"}\n'), ("a.csv", b"text,label\n\xff\xfe,negative\n")],
)
def test_a_file_that_is_not_utf8_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"not UTF-8|UnicodeDecodeError"):
        load_examples(DataConfig(source=str(tmp_path / name)), MEAN)


def test_a_local_file_of_another_kind_is_refused_and_not_asked_of_a_hub(tmp_path: Path) -> None:
    path = tmp_path / "patients.txt"
    path.write_text("good\n")
    with pytest.raises(DataError, match="takes a file that ends in"):
        load_examples(DataConfig(source=str(path)), LM)


# -- whose the records are ---------------------------------------------------------------------------------------------


def test_users_are_read_beside_whatever_the_task_reads(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "x.jsonl", [{**row, "who": who} for row, who in zip(ROWS, (" u1 ", "u2", "u1"), strict=True)]
    )
    config = DataConfig(source=str(path), user_column="who")
    data = load_examples(config, MEAN)
    assert data.users == load_examples(config, LM).users == ("u1", "u2", "u1")
    assert (data.texts, data.labels) == (load_examples(DataConfig(source=str(path)), MEAN).texts, (1, 0, 1))
    assert data.select([2, 1]).users == ("u1", "u2")
    assert load_examples(config.model_copy(update={"limit": 2}), MEAN).users == ("u1", "u2")
    assert "u1" not in repr(data)


def test_numbers_are_users_by_their_digits(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)
        assert load_examples(DataConfig(source=str(tmp_path / name), user_column="id"), LM).users == ("1", "2", "3")


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("  ", "row 2: the user is empty"),
        (None, "row 2: the user is missing"),
        (1234.5, "the user is neither a text nor a whole number"),
        (True, "the user is neither a text nor a whole number"),
        (["secret"], "the user is neither a text nor a whole number"),
    ],
)
def test_rows_of_nobody_are_named_without_a_user(tmp_path: Path, who: object, message: str) -> None:
    first = "secret" if isinstance(who, str | None) else who
    path = jsonl(tmp_path / "x.jsonl", [{"text": "one", "who": first}, {"text": "two", "who": who}])
    with pytest.raises(DataError, match=message) as caught:
        load_examples(DataConfig(source=str(path), user_column="who"), LM)
    assert str(path) in str(caught.value)
    said = str(caught.value).replace(str(path), "")  # pytest numbers its folders: one of them is 1234
    assert not any(word in said for word in ("secret", "1234", "True"))


def test_a_number_that_a_csv_leaves_out_is_a_missing_user(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,who\none,\ntwo,7\n")
    with pytest.raises(DataError, match="row 1: the user is missing"):
        load_examples(DataConfig(source=str(tmp_path / "x.csv"), user_column="who"), LM)


def test_the_gap_between_numbers_is_found_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,who\none,7\ntwo,\n")
    with pytest.raises(DataError, match="row 2: the user is missing"):
        load_examples(DataConfig(source=str(tmp_path / "x.csv"), user_column="who"), LM)


def test_only_an_empty_cell_of_a_csv_is_missing(tmp_path: Path) -> None:
    """`NA` and `null` are texts that somebody wrote."""
    (tmp_path / "words.csv").write_text("text,label\nNA,negative\nnull,positive\nnan,positive\n")
    found = load_examples(DataConfig(source=str(tmp_path / "words.csv")), MEAN)
    assert found.texts == ("NA", "null", "nan")
    (tmp_path / "gap.csv").write_text("text,label\ngood,negative\n,positive\n")
    with pytest.raises(DataError, match="row 2"):
        load_examples(DataConfig(source=str(tmp_path / "gap.csv")), MEAN)


def test_ids_in_a_csv_are_as_they_are_written(tmp_path: Path) -> None:
    """Read as numbers, 007 and 7 would be one user, and not the 007 of the same table as JSON lines."""
    written = ("007", "7", "1e3", "1000", "12345678901234567890123", "true")
    for name, mark in (("x.csv", ","), ("x.tsv", "\t")):
        rows = "".join(f"a{number}{mark}{who}\n" for number, who in enumerate(written))
        (tmp_path / name).write_text(f"text{mark}who\n{rows}")
        assert load_examples(DataConfig(source=str(tmp_path / name), user_column="who"), LM).users == written
        (tmp_path / name).write_text(f"text{mark}who\na{mark}007\nb{mark}7\n")  # all of them numbers
        assert load_examples(DataConfig(source=str(tmp_path / name), user_column="who"), LM).users == ("007", "7")


def test_a_missing_user_column_names_those_that_exist(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"no column 'who'; it has 'text'\. Name the column with user_column"):
        load_examples(DataConfig(source=str(path), user_column="who"), LM)


def test_users_must_be_of_the_rows_that_the_task_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that leaves rows out would shift whose they are."""
    path = jsonl(tmp_path / "x.jsonl", [{"text": "a", "who": "u"}, {"text": "b", "who": "v"}])
    monkeypatch.setattr(type(kind_of(LM)), "read", lambda *_args: Examples("x", ("a",)))
    with pytest.raises(DataError, match="made 1 examples of 2 rows"):
        load_examples(DataConfig(source=str(path), user_column="who"), LM)


def test_the_fingerprint_of_data_covers_their_users() -> None:
    plain, owned = Examples("a", ("x", "y")), Examples("a", ("x", "y"), users=("u", "v"))
    assert owned.fingerprint() == Examples("b", ("y", "x"), users=("v", "u")).fingerprint()
    assert len({plain.fingerprint(), owned.fingerprint(), replace(owned, users=("v", "u")).fingerprint()}) == 3
    assert plain.user_hashes() == ()
    assert set(owned.user_hashes()).isdisjoint(Examples("c", ("u", "v")).record_hashes())
