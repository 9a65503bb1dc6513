"""The registry of tasks, and docs/extending.md: its task works from its one file."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secagg.errors import ConfigError
from secagg.model_card import usage_lines
from secagg.plan import TaskSpec
from secagg.release import adapter_config_file, save_adapter
from secagg_client import tasks as package
from secagg_client.data import Examples
from secagg_client.evaluation import evaluate_change
from secagg_client.models import load_base
from secagg_client.noise import SeededSource
from secagg_client.plan_options import plan_config
from secagg_client.tasks import make_task, task_kinds
from secagg_client.training import train
from tests.client.gradients import gradient_error
from tests.client.support import examples, loaded, plan_for, settings
from tests.tiny import LABELS

DOCS = Path(__file__).parents[2] / "docs"
ORDERED = TaskSpec(kind="ordered", labels=LABELS, max_length=32, pooling="mean", feature_norm=10.0)
STRONG = settings(
    steps=25, batch_size=50, optimizer="adamw", learning_rate=0.02, head_learning_rate=0.08, epsilon=8.0
)  # fmt: skip


@pytest.fixture
def from_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    section = (DOCS / "extending.md").read_text("utf-8").split("\n## A task\n")[1].split("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "ordered_of_the_docs.py").write_text(source)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    task_kinds.cache_clear()
    yield
    task_kinds.cache_clear()


@pytest.mark.usefixtures("from_the_docs")
def test_one_file_adds_a_task(tiny_bert_dir: Path, tmp_path: Path) -> None:
    assert plan_config(None, {"model": "m", "task": "ordered", "labels": LABELS}).task.kind == "ordered"
    base = loaded(tiny_bert_dir, ORDERED)
    plan = plan_for(base, STRONG)
    task, data = make_task(ORDERED, base.tokenizer), _labelled(300, 0)
    assert gradient_error(base, plan, task, task.encode(_labelled(6, 1))) < 1e-4
    change = train(plan, base, data, 300, SeededSource(1)).change
    scores = [evaluate_change(plan, base, c, _labelled(100, 5)).accuracy for c in (np.zeros_like(change), change)]
    (tmp_path / "adapter_model.safetensors").write_bytes(save_adapter(plan, change, 1))
    (tmp_path / "adapter_config.json").write_bytes(adapter_config_file(plan))
    names: dict[str, object] = {"BASE": str(tiny_bert_dir), "FOLDER": str(tmp_path)}
    exec("\n".join(usage_lines(plan)), names)
    assert type(names["model"]).__name__.startswith("PeftModel")
    assert scores[1] > max(0.7, scores[0])  # type: ignore[type-var, operator]


def _labelled(count: int, seed: int) -> Examples:
    return examples(count, TaskSpec(kind="classify", labels=LABELS, max_length=32), seed=seed)


def test_a_task_that_is_not_there(tiny_bert_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"no kind of task is called 'ordered'; there are .*classify, .*lm"):
        load_base(str(tiny_bert_dir), ORDERED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "classify", "labels": ("a",)}, "task classify needs at least two distinct labels"),
        ({"kind": "classify", "labels": ("a", "b"), "max_length": 0}, "task classify needs max_length"),
        ({"kind": "classify", "labels": ("a", "b"), "options": {"x": 1}}, "options of task classify: x"),
        ({"kind": "lm", "labels": ("a", "b")}, "task lm takes no labels"),
        ({"kind": "lm", "pooling": "mean"}, "task lm takes no pooling"),
        ({"kind": "lm", "max_length": 0}, "task lm needs max_length"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    spec = TaskSpec.model_validate({"max_length": 32, **changes})
    with pytest.raises(ConfigError, match=message):
        make_task(spec, None)


def test_what_a_plan_does_not_use_is_not_written() -> None:
    """Plans from before these settings keep their bytes, and so their hashes."""
    assert set(ORDERED.model_dump()) == {"kind", "labels", "max_length", "pooling", "feature_norm"}
    assert "max_length" not in TaskSpec(kind="image", labels=("a", "b")).model_dump()


def test_a_folder_can_be_called_by_its_public_name() -> None:
    options = {"model": "./model", "base_model_name": "owner/model", "task": "classify", "labels": LABELS}
    config = plan_config(None, options)
    assert (config.base_model, config.base_model_name) == ("./model", "owner/model")
