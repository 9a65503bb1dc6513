"""Scores of releases, and the baselines they are compared with."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from secagg.adapter import release_tensors
from secagg.errors import ConfigError, DataError, ModelError
from secagg.model_card import usage_lines
from secagg.plan import Plan
from secagg.release import adapter_config_file, save_adapter
from secagg_client.baselines import head_plan, majority, train_head, without_privacy, zero_shot
from secagg_client.data import Examples
from secagg_client.evaluation import evaluate_change, evaluate_release
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.tasks import make_task
from secagg_client.tasks.language import language_metrics
from secagg_client.training import TrainOptions, train
from tests.client.support import LM, MEAN, STOCK, examples, loaded, plan_for, settings

STRONG = settings(
    steps=25,
    batch_size=50,
    optimizer="adamw",
    learning_rate=0.02,
    head_learning_rate=0.08,
    schedule="linear",
    epsilon=8.0,
)


@pytest.fixture
def base(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


def release(plan: Plan, change: np.ndarray[tuple[int], np.dtype[np.float32]], folder: Path) -> Path:
    folder.mkdir()
    save_file(release_tensors(plan, change), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(plan.adapter_config))
    return folder


def test_a_release_scores_as_the_change_it_holds(base: LoadedBase, tmp_path: Path) -> None:
    plan, test = plan_for(base, STRONG), examples(200, MEAN, seed=5)
    change = train(plan, base, examples(300, MEAN), 300, SeededSource(1)).change
    direct = evaluate_change(plan, base, change, test)
    assert evaluate_release(release(plan, change, tmp_path / "release"), base, test) == direct
    start = zero_shot(plan, base, test)
    assert start.loss == pytest.approx(math.log(2))
    assert direct.accuracy is not None
    assert start.accuracy is not None
    assert direct.accuracy > max(0.7, start.accuracy)
    assert direct.macro_f1 == pytest.approx(direct.accuracy, abs=0.1)


def test_a_broken_or_foreign_release(base: LoadedBase, tmp_path: Path, tiny_bert_dir: Path) -> None:
    plan, test = plan_for(base), examples(4, MEAN)
    folder = release(plan, np.zeros(plan.length, dtype=np.float32), tmp_path / "release")
    other = loaded(tiny_bert_dir, STOCK)
    with pytest.raises(ModelError, match="does not fit BertForSequenceClassification"):
        evaluate_release(folder, other, test)
    (folder / "adapter_model.safetensors").write_bytes(b"xxxxxxxxxxxx")
    with pytest.raises(ModelError, match="not a PEFT adapter"):
        evaluate_release(folder, base, test)
    with pytest.raises(ModelError, match="not a PEFT adapter"):
        evaluate_release(tmp_path, base, test)


def test_lm_metrics_are_per_token(tiny_llama_dir: Path) -> None:
    base = loaded(tiny_llama_dir, LM)
    data = examples(20, LM)
    metrics = zero_shot(plan_for(base), base, data)
    task = make_task(LM, base.tokenizer)
    rows = task.encode(data)
    total = sum(float(task.losses(base.model, task.collate([row]))[0].detach()) * (len(row.ids) - 1) for row in rows)
    assert metrics.loss == pytest.approx(total / sum(len(row.ids) - 1 for row in rows), rel=1e-4)
    assert metrics.perplexity == pytest.approx(math.exp(metrics.loss), rel=1e-6)
    assert metrics.accuracy is None
    with pytest.raises(DataError, match="row 2: the text has fewer than two tokens"):
        task.encode(Examples("x", ("good food", "good")))


def test_the_error_of_a_mean_token_loss_is_that_of_drawing_examples_again() -> None:
    generator = np.random.default_rng(1)
    tokens = generator.integers(2, 60, 300).astype(np.float64)
    totals = tokens * (4 + generator.normal(0, 1, 300)) + generator.normal(0, 5, 300)
    found = language_metrics(totals, tokens)
    draws = generator.integers(0, 300, (4000, 300))
    bootstrap = (totals[draws].sum(1) / tokens[draws].sum(1)).std()
    assert found.loss_error == pytest.approx(bootstrap, rel=0.06)
    assert found.loss == pytest.approx(totals.sum() / tokens.sum())


def test_majority_class() -> None:
    test = Examples("x", ("a", "b", "c", "d"), (1, 1, 1, 0))
    metrics = majority((1, 1, 0), test, 2)
    assert metrics.accuracy == 0.75
    assert metrics.macro_f1 == pytest.approx(0.4286, abs=1e-3)


def test_dp_head_on_frozen_features_computed_once(base: LoadedBase, tiny_bert_dir: Path) -> None:
    """The same mechanism at the same epsilon; features computed once give what the whole model gives."""
    plan = head_plan(plan_for(base, STRONG))
    assert [spec.name.rsplit(".", 2)[1] for spec in plan.tensors] == ["classifier", "classifier"]
    data, test = examples(300, MEAN), examples(200, MEAN, seed=5)
    fast = train_head(plan, base, data, 300, SeededSource(1))
    slow = train(plan, base, data, 300, SeededSource(1))
    assert fast.statement == slow.statement
    assert np.abs(fast.change - slow.change).max() < 1e-3
    accuracy = evaluate_change(plan, base, fast.change, test).accuracy
    assert accuracy is not None
    assert accuracy > 0.7
    stock = loaded(tiny_bert_dir, STOCK)
    small = head_plan(plan_for(stock), steps=2)
    assert train_head(small, stock, data, 300, SeededSource(1)).change.shape == (66,)


def test_twin_without_privacy_is_the_same_run_otherwise(base: LoadedBase) -> None:
    plan = plan_for(base, STRONG)
    twin = without_privacy(plan)
    assert twin.training == plan.training.model_copy(update={"epsilon": None})
    data, test = examples(300, MEAN), examples(200, MEAN, seed=5)
    update = train(twin, base, data, 300, SeededSource(1), options=TrainOptions(allow_no_dp=True))
    assert (evaluate_change(twin, base, update.change, test).accuracy or 0) > 0.75


def test_misuse_of_head_plans(base: LoadedBase, tiny_llama_dir: Path) -> None:
    with pytest.raises(ConfigError, match="without LoRA"):
        train_head(plan_for(base), base, examples(20, MEAN), 32, SeededSource(1))
    with pytest.raises(ConfigError, match="no head"):
        head_plan(plan_for(loaded(tiny_llama_dir, LM)))


def test_the_model_card_loads_the_adapter_as_it_says(tiny_bert_dir: Path, tmp_path: Path) -> None:
    """Its Python lines, run as they stand, with the two names filled in."""
    plan = plan_for(loaded(tiny_bert_dir, MEAN), settings())
    (tmp_path / "adapter_model.safetensors").write_bytes(save_adapter(plan, np.zeros(plan.length, np.float32), 1))
    (tmp_path / "adapter_config.json").write_bytes(adapter_config_file(plan))
    names: dict[str, object] = {"BASE": str(tiny_bert_dir), "FOLDER": str(tmp_path)}
    exec("\n".join(usage_lines(plan)), names)
    assert type(names["model"]).__name__.startswith("PeftModel")
