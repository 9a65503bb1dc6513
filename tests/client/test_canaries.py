"""Canaries of each kind of task: public, distinct, of the kind's own format; and the way back from a table."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secagg.errors import ConfigError, ModelError
from secagg.plan import TaskSpec
from secagg.randomness import Keystream
from secagg_client.audit_reserve import canaries_of
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.models import LoadedBase
from secagg_client.tasks import TaskKind, kind_of, make_task
from secagg_client.tasks.canaries import PublicDraws, Vocabulary, distinct
from tests.client.images import DIGITS, digits, make_vit
from tests.client.support import LM, MEAN, examples, loaded

KEY, CLIENT, OTHER = "0a" * 32, "c1" * 32, "c2" * 32
CHAT = TaskSpec(kind="chat", max_length=32)
CHARS = TaskSpec(kind="chars", max_length=40, options={"hidden": 8, "embedding": 4})
IMAGE = TaskSpec(kind="image", labels=DIGITS)
TASKS = {task.kind: task for task in (MEAN, LM, CHAT, CHARS, IMAGE)}


@dataclass(frozen=True)
class Models:
    """A base for each kind."""

    bert: Path
    llama: Path
    vit: Path

    def load(self, task: TaskSpec) -> LoadedBase:
        folders = {"classify": self.bert, "chars": Path("lstm"), "image": self.vit}
        return loaded(folders.get(task.kind, self.llama), task)


@pytest.fixture(scope="module")
def models(tiny_bert_dir: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tiny_bert_dir, tiny_llama_dir, make_vit(tmp_path_factory.mktemp("vit")))


def read_back(columns: dict[str, list[object]], path: Path, task: TaskSpec) -> Examples:
    pq.write_table(pa.table(columns), path)
    return load_examples(DataConfig(source=str(path)), task)


@pytest.mark.parametrize("kind", TASKS)
def test_canaries_are_public_distinct_and_each_client_s_own(kind: str, models: Models, tmp_path: Path) -> None:
    task = TASKS[kind]
    processor = models.load(task).tokenizer
    found = canaries_of(KEY, CLIENT, 40, task, processor)
    assert len(found) == len(set(found.texts)) == 40
    assert canaries_of(KEY, CLIENT, 40, task, models.load(task).tokenizer) == found
    assert len(make_task(task, processor).encode(found)) == 40
    for key, client in ((KEY, OTHER), ("0b" * 32, CLIENT)):
        assert not set(canaries_of(key, client, 40, task, processor).texts) & set(found.texts)
    again = read_back(kind_of(task).columns(found, task), tmp_path / "canaries.parquet", task)
    assert (again.texts, again.labels) == (found.texts, found.labels)
    if task.labels:
        assert set(found.labels) <= set(range(len(task.labels)))
        assert len(set(found.labels)) > 1


def test_words_are_the_tokenizer_s_and_none_is_unknown(models: Models) -> None:
    base = models.load(MEAN)
    for text in canaries_of(KEY, CLIENT, 20, MEAN, base.tokenizer).texts:
        ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == 12
        assert set(ids).isdisjoint(base.tokenizer.all_special_ids)
        assert base.tokenizer.decode(ids) == text


@pytest.mark.parametrize("task", [MEAN, LM])
def test_records_read_back_as_they_were(task: TaskSpec, tmp_path: Path) -> None:
    data = examples(9, task)
    again = read_back(kind_of(task).columns(data, task), tmp_path / "members.parquet", task)
    assert (again.texts, again.labels) == (data.texts, data.labels)


def test_images_read_back_as_they_were(tmp_path: Path) -> None:
    data = digits(range(9))
    again = read_back(kind_of(IMAGE).columns(data, IMAGE), tmp_path / "members.parquet", IMAGE)
    assert (again.texts, again.labels) == (data.texts, data.labels)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_short_texts_have_short_canaries(length: int, models: Models) -> None:
    task = LM.model_copy(update={"max_length": length})
    rows = make_task(task, models.load(task).tokenizer).encode(
        canaries_of(KEY, CLIENT, 10, task, models.load(task).tokenizer)
    )
    assert all(2 <= row.length <= length for row in rows)


def test_numbers_are_uniform() -> None:
    draws = PublicDraws(Keystream(bytes(32)))
    counts = np.bincount([draws.below(5) for _ in range(20_000)], minlength=5)
    assert float((np.square(counts - 4000) / 4000).sum()) < 25  # chi square, 4 degrees: passed by 1 in 20,000


def test_words_past_the_last_multiple_are_skipped() -> None:
    """Else the first numbers would come more often."""
    words = np.array([0xFFFFFFFF, 0xFFFFFFFE, 7], "<u4").tobytes()
    pieces = iter([words[:4], words[4:8], words[8:]])
    stream = SimpleNamespace(read=lambda _size: np.frombuffer(next(pieces), np.uint8))
    assert PublicDraws(stream).below(0xFFFFFFFE) == 7  # type: ignore[arg-type]


def test_what_cannot_have_canaries_says_so(models: Models) -> None:
    class Other(TaskKind):
        name = "other"
        summary = "none"
        read = load = make = lambda *_: None  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="task other has no canaries: a kind of task needs them"):
        Other().canaries(LM, None, PublicDraws(Keystream(bytes(32))), 3)
    short = CHAT.model_copy(update={"max_length": 8, "options": {"chat_template": "{{ 'the a was is ' * 9 }}"}})
    with pytest.raises(Exception, match="canaries, row 1"):
        canaries_of(KEY, CLIENT, 3, short, models.load(CHAT).tokenizer)
    with pytest.raises(ConfigError, match="does not have 100 different canaries"):
        canaries_of(KEY, CLIENT, 100, CHARS.model_copy(update={"options": {"alphabet": "ab"}, "max_length": 3}), None)
    with pytest.raises(ConfigError, match="nothing but white space"):
        canaries_of(KEY, CLIENT, 2, CHARS.model_copy(update={"options": {"alphabet": " \n"}}), None)
    assert distinct(0, str) == ()


class Wordless:
    """A tokenizer of signs only."""

    all_special_ids = (0,)

    def __len__(self) -> int:
        return 3

    def decode(self, ids: list[int]) -> str:
        return " ".join("?!#"[i] for i in ids)


def test_a_tokenizer_without_words() -> None:
    with pytest.raises(ModelError, match="has no words to make canaries of"):
        Vocabulary(Wordless()).text(PublicDraws(Keystream(bytes(32))), 3)
