"""lm-eval on a released adapter, with a local task file. Run where lm-eval is installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from secagg.adapter import release_tensors
from secagg.errors import ConfigError
from secagg.plan import Plan
from secagg.release import adapter_config_file
from secagg_client.cli_evaluate import evaluate
from secagg_client.harness import read_task, release_scores
from secagg_client.models import LoadedBase
from tests.client.support import LM, MEAN, loaded, plan_for

TASK = """
task: taste
dataset_path: json
dataset_kwargs:
  data_files:
    test: taste.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_target: "{{label}}"
doc_to_choice: ["bad", "good"]
metric_list:
  - metric: acc
"""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rows = [{"text": f"the {word} was", "label": label} for label in (0, 1) for word in ("food", "film", "staff")]
    (tmp_path / "taste.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "taste.yaml").write_text(TASK)
    return tmp_path / "taste.yaml"


@pytest.fixture
def base(tiny_llama_dir: Path) -> LoadedBase:
    return loaded(tiny_llama_dir, LM)


def release(plan: Plan, folder: Path) -> Path:
    """An adapter that says something else than the base."""
    folder.mkdir()
    change = np.random.default_rng(1).normal(0, 1, plan.length).astype(np.float32)
    save_file(release_tensors(plan, change), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_bytes(adapter_config_file(plan))
    return folder


def test_start_and_release_are_scored(base: LoadedBase, task_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    plan = plan_for(base)
    start, found = release_scores(release(plan, tmp_path / "release"), plan, base, [task_file])
    assert set(start) == set(found) == {"taste"}
    for scores in (start, found):
        assert 0 <= scores["taste"]["acc"] <= 1
        assert scores["taste"]["acc"] * 6 == pytest.approx(round(scores["taste"]["acc"] * 6))


def test_data_files_are_beside_the_task(task_file: Path) -> None:
    assert read_task(task_file)["dataset_kwargs"]["data_files"] == {"test": str(task_file.parent / "taste.jsonl")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task: x\ndoc_to_text: !function utils.text\n", "is not plain YAML"),
        ("- 1\n", "is no lm-eval task"),
        ("dataset_path: json\n", "is no lm-eval task"),
    ],
)
def test_files_that_are_no_task(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_task(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_task(tmp_path / "absent.yaml")


def test_it_is_for_causal_models(tiny_bert_dir: Path, tmp_path: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN)
    with pytest.raises(ConfigError, match="for causal language models; the release is one of task classify"):
        release_scores(tmp_path, plan_for(base), base, [])


def test_data_or_tasks_of_lm_eval(tmp_path: Path) -> None:
    for more in ([], ["--data", "x.jsonl", "--lm-eval", "x.yaml"]):
        found = CliRunner().invoke(evaluate, [str(tmp_path), *more])
        assert found.exit_code == 2
        assert "give either --data or --lm-eval" in found.output
