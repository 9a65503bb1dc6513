"""`secagg simulate` of every kind of task: read as the kind reads, trained, sealed, summed and scored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from secagg.errors import ConfigError, DataError, ModelError
from secagg_app.demo.corpora import Record
from secagg_app.demo.split import deduplicate
from secagg_app.simulate.cell import Cell, Outcome
from secagg_app.simulate.data import corpus_of
from secagg_app.simulate.federation import run_cell
from secagg_app.simulate.settings import Data, Grid, Simulation
from secagg_client.tasks import task_kinds
from tests.client.images import DIGITS, digit_files, make_resnet, make_vit
from tests.tiny import LABELS, sentences

TRAINING = {"steps": 6, "batch_size": 20, "learning_rate": 0.02, "precision": "fp32"}


def rows_file(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(model: str, source: str, task: dict[str, Any], plan: dict[str, Any], **data: Any) -> Outcome:
    simulation = Simulation(
        model=model,
        data=Data(source=source, size=60, held_out=80, tuning=0, **data),
        plan={"lora_clip": 1.0, **plan, "task": task, "training": {**TRAINING, **plan.get("training", {})}},
    )
    return run_cell(Cell("federated", 1, 1, 3, 0.0, 8.0, "ffa-lora", 1.0), simulation)


def texts(count: int) -> list[str]:
    return [f"{text} {number}" for number, text in enumerate(sentences(count)[0])]


def test_next_tokens_of_own_texts(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = rows_file(tmp_path / "own.jsonl", [{"body": text} for text in texts(300)])
    found = run(str(tiny_llama_dir), source, {"kind": "lm", "max_length": 16}, {}, text_column="body")
    assert (found.measure, found.bytes_up > 0) == ("loss", True)
    assert found.value < found.start


def test_next_characters(tmp_path: Path) -> None:
    source = rows_file(tmp_path / "own.jsonl", [{"text": text} for text in texts(300)])
    task = {"kind": "chars", "max_length": 30, "options": {"hidden": 16}}
    found = run("lstm", source, task, {"head_start": "seeded", "training": {"head_learning_rate": 0.02}})
    assert found.measure == "loss"
    assert found.value < found.start


def test_responses(tiny_llama_dir: Path, tmp_path: Path) -> None:
    said = texts(400)
    rows = [{"q": said[2 * i], "a": said[2 * i + 1], "site": str(i % 3)} for i in range(200)]
    found = run(
        str(tiny_llama_dir), rows_file(tmp_path / "own.jsonl", rows), {"kind": "chat", "max_length": 48}, {},
        prompt_column="q", response_column="a", group_column="site",
    )  # fmt: skip
    assert found.measure == "loss"
    assert found.value < found.start


def images(path: Path, count: int) -> str:
    files, labels = digit_files()
    Dataset.from_dict({"image": files[:count], "label": [DIGITS[one] for one in labels[:count]]}).to_parquet(str(path))
    return str(path)


def test_images(tmp_path: Path) -> None:
    task = {"kind": "image", "labels": list(DIGITS)}
    plan = {"target_modules": ["q_proj", "v_proj"], "training": {"head_learning_rate": 0.02}}
    source = images(tmp_path / "own.parquet", 300)
    found = run(str(make_vit(tmp_path / "vit")), source, task, plan)
    assert found.measure == "accuracy"
    assert found.metrics["loss"] != found.start


def test_a_classifier_whose_plan_names_the_labels(tiny_bert_dir: Path, tmp_path: Path) -> None:
    words, labels = sentences(300)
    rows = [{"text": text, "label": LABELS[label]} for text, label in zip(words, labels, strict=True)]
    source = rows_file(tmp_path / "own.jsonl", rows)
    named = run(str(tiny_bert_dir), source, {"kind": "classify", "labels": list(LABELS)}, {})
    derived = run(str(tiny_bert_dir), source, {"kind": "classify"}, {})
    assert named.measure == derived.measure == "accuracy"
    with pytest.raises(DataError, match="the label is not one of the session's labels"):
        run(str(tiny_bert_dir), source, {"kind": "classify", "labels": ["yes", "no"]}, {})


def test_what_a_kind_refuses_is_refused_before_training(tmp_path: Path) -> None:
    source, image = images(tmp_path / "own.parquet", 300), {"kind": "image", "labels": list(DIGITS)}
    resnet = str(make_resnet(tmp_path / "resnet"))
    with pytest.raises(ModelError, match=r"is a batch norm.*options.norm"):
        run(resnet, source, image, {"target_modules": ["convolution"]})
    with pytest.raises(ConfigError, match="no kind of task is called 'speech'"):
        run(resnet, source, {"kind": "speech"}, {})
    with pytest.raises(DataError, match="no column 'picture'"):
        run(resnet, source, image, {}, image_column="picture")
    with pytest.raises(DataError, match=r"no column 'site'.* with group_column"):
        run(resnet, source, image, {}, group_column="site")


def test_near_duplicates_are_found_by_what_is_said(tmp_path: Path) -> None:
    files, _ = digit_files()
    kinds = task_kinds()
    corpus = corpus_of(
        Data(source=images(tmp_path / "own.parquet", 300)).model_dump_json(),
        json.dumps({"kind": "image", "labels": list(DIGITS)}),
    )
    assert len(deduplicate(corpus.records)) == len(set(files[:300])), "only the same file is the same"
    chats = [json.dumps([{"role": "user", "content": q}, {"role": "assistant", "content": "yes"}]) for q in "abca"]
    records = [Record(chat, said=kinds["chat"].said(chat)) for chat in chats]
    assert [record.said for record in deduplicate(records)] == ["a\nyes", "b\nyes", "c\nyes"]


def test_settings_that_would_do_nothing_or_too_much_are_named(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = rows_file(tmp_path / "own.jsonl", [{"text": text} for text in texts(300)])
    assert (Data(source=source).tuning, Data().tuning) == (0, 4800), "nobody tuned anything on a user's own data"
    lm = {"kind": "lm", "max_length": 16}
    with pytest.raises(ConfigError, match=r"batch has 200 .*set plan\.training\.batch_size lower"):
        run(str(tiny_llama_dir), source, lm, {"training": {"batch_size": 200}})
    simulation = Simulation(model=str(tiny_llama_dir), data=Data(source=source), plan={"task": lm})
    skewed = simulation.model_copy(update={"grid": Grid(alpha=(1.0, 3.0))})
    with pytest.raises(ConfigError, match="has no labels to skew"):
        run_cell(skewed.cells()[0], skewed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"plan": {"training": {"epsilon": 1}}}, "the grid says it"),
        ({"plan": {"method": "ties"}}, "is said elsewhere"),
        ({"options": {"sketch": {"size": 24}}}, "no method of the grid has this name"),
    ],
)
def test_what_would_be_ignored_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Simulation.model_validate(content)


def test_each_method_of_a_grid_has_options_of_its_own(tiny_bert_dir: Path, tmp_path: Path) -> None:
    words, labels = sentences(300)
    rows = [{"text": text, "label": LABELS[label]} for text, label in zip(words, labels, strict=True)]
    simulation = Simulation(
        model=str(tiny_bert_dir),
        data=Data(source=rows_file(tmp_path / "own.jsonl", rows), size=30, held_out=40),
        plan={"lora_clip": 1.0, "training": TRAINING},
        options={"sketch": {"size": 24}},
        grid=Grid(methods=("ffa-lora", "sketch"), clients=(3,)),
    )
    found = [run_cell(cell, simulation) for cell in simulation.cells()]
    assert [each.cell.method for each in found] == ["ffa-lora", "sketch"]
    assert found[0].size == 30
