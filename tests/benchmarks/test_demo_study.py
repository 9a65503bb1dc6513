"""The study of docs/demo.md: its statistics, its seeds, what it keeps, and all of it on a tiny model."""

import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg_app.demo.corpora import SENTIMENTS, Corpus, Record
from secagg_app.demo.settings import tweets_recipe
from secagg_app.demo.split import Recipe, Split
from secagg_client.models import load_base
from tests.tiny import sentences

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "demo_study.py"
SIZE, HELD_OUT = 40, 30
T_975 = {2: 4.302652729911275, 4: 2.7764451051977987}
"""Student's t by degrees of freedom, from a printed table."""


@pytest.fixture
def study() -> Any:
    """The script, loaded by its path: another package installs a `benchmarks` of its own."""
    spec = importlib.util.spec_from_file_location("demo_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_study"] = module
    spec.loader.exec_module(module)
    return module


class InlinePool(Executor):
    """Runs each job at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as a pool does
            future.set_exception(error)
        return future


@pytest.fixture
def tiny(study: Any, monkeypatch: pytest.MonkeyPatch, tiny_bert_dir: Path) -> Any:
    """The script with a tiny encoder, short sentences and few steps in the place of MiniLM and the tweets."""
    full = tweets_recipe()
    training = {**full.plan["training"], "steps": 3, "batch_size": 8}
    plan = {**full.plan, "layers": [0, 1], "training": training}
    split = Recipe(tuning=0, size=SIZE, held_out=HELD_OUT, alpha=3.0)
    recipe = replace(full, plan=plan, split=split, head={**full.head, "steps": 4, "batch_size": 20})
    monkeypatch.setattr(study, "tweets_recipe", lambda: recipe)
    monkeypatch.setattr(study, "split_of", tiny_split)
    loaded = load_base(str(tiny_bert_dir), study.adapter_plan_config().task)
    monkeypatch.setattr(study, "base", lambda: loaded)
    return study


def tiny_split(seed: int) -> Split:
    texts, good = sentences(4 * SIZE + HELD_OUT, seed=seed)
    records = [Record(text, SENTIMENTS[2 * label]) for text, label in zip(texts, good, strict=True)]
    parts = tuple(tuple(records[start : start + SIZE]) for start in range(0, 4 * SIZE, SIZE))
    return Split(Corpus("tiny", tuple(records), SENTIMENTS), parts, tuple(records[4 * SIZE :]), 0)


def made_up(study: Any, seed: int) -> dict[str, dict[str, float]]:
    names = {name for pair in study.PAIRS.values() for name in pair} | {"majority", "local 0", "local 1"}
    rng = np.random.default_rng(seed)
    return {name: {m: float(rng.uniform()) for m in study.MEASURES} for name in sorted(names)}


@pytest.mark.parametrize("values", [[0.81, 0.79, 0.8, 0.83, 0.77], [0.5, 0.6, 0.9]])
def test_intervals_are_those_of_student(study: Any, values: list[float]) -> None:
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    assert study.interval(values) == pytest.approx({"mean": mean, "low": mean - half, "high": mean + half})


def test_one_seed_has_no_interval(study: Any) -> None:
    assert study.interval([0.8]) == {"mean": 0.8, "low": None, "high": None}


def test_every_training_has_noise_of_its_own(study: Any) -> None:
    def first(seed: int, arm: str, client: int) -> bytes:
        return bytes(study.source_of(seed, arm, client).stream(0, "noise").read(16))

    keys = [(seed, arm, client) for seed in range(5) for arm in study.ARMS for client in range(study.CLIENTS)]
    assert len({first(*key) for key in keys}) == len(keys) == 100
    assert first(*keys[7]) == first(*keys[7])


def test_the_recipe_is_the_demos_but_for_seeded_noise(study: Any) -> None:
    config, wanted = study.adapter_plan_config(), tweets_recipe().plan
    training = config.training.model_dump()
    assert {**training, **wanted["training"]} == training
    assert (config.training.epsilon, config.training.delta, config.training.noise) == (8.0, 1e-5, "seeded")
    assert (config.rank, config.layers, config.lora_clip) == (wanted["rank"], (4, 5), wanted["lora_clip"])


def test_pairs_are_differences_by_seed(tiny: Any) -> None:
    runs = {seed: made_up(tiny, seed) for seed in range(5)}
    paired = tiny.report(runs, None)["paired"]
    assert len(paired) == 8
    gains = [runs[s]["released"]["accuracy"] - runs[s]["local best"]["accuracy"] for s in range(5)]
    half = T_975[4] * statistics.stdev(gains) / math.sqrt(5)
    found = paired["released - best local"]["accuracy"]
    assert found["mean"] == pytest.approx(statistics.fmean(gains))
    assert found["high"] - found["mean"] == pytest.approx(half)


def test_finished_seeds_are_kept_and_an_interrupted_study_goes_on(
    study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    computed = list[int]()

    def run_seed(_pool: Executor, seed: int, _steps: int | None) -> Any:
        if seed == 1 and 1 not in computed:
            computed.append(seed)
            raise KeyboardInterrupt
        computed.append(seed)
        return made_up(study, seed)

    monkeypatch.setattr(study, "run_seed", run_seed)
    kept = study.kept_folder(tmp_path / "study.json", None)
    with pytest.raises(KeyboardInterrupt):
        study.all_seeds(InlinePool(), [0, 1], kept, None)
    found = study.all_seeds(InlinePool(), [0, 1], kept, None)
    assert computed == [0, 1, 1]
    assert found == {seed: made_up(study, seed) for seed in (0, 1)}


def test_a_shortened_run_never_passes_for_a_real_one(tiny: Any, tmp_path: Path) -> None:
    output = tmp_path / "study.json"
    assert len({tiny.kept_folder(output, steps) for steps in (None, 2, 3)}) == 3
    short, real = (tiny.report({0: made_up(tiny, 0)}, steps) for steps in (2, None))
    assert (short["shortened_to_steps"], real["shortened_to_steps"]) == (2, None)
    assert {arm: m["steps"] for arm, m in short["mechanisms"].items()} == dict.fromkeys(short["mechanisms"], 2)
    assert {arm: m["steps"] for arm, m in real["mechanisms"].items()} == {
        "adapter": 3, "head": 4, "head, same schedule": 3,
    }  # fmt: skip


def test_the_first_failed_training_ends_the_seed(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_args: object) -> None:
        raise ValueError("this client's data is broken")

    monkeypatch.setattr(tiny, "update", fails)
    with pytest.raises(ValueError, match="broken"):
        tiny.run_seed(InlinePool(), 0, None)
    assert "trainings" not in capsys.readouterr().err


def test_a_whole_seed_on_a_tiny_model(tiny: Any) -> None:
    figures = tiny.run_seed(InlinePool(), 0, None)
    assert {name for pair in tiny.PAIRS.values() for name in pair} <= set(figures)
    assert all(0 <= value <= 1 for metrics in figures.values() for value in metrics.values())
    alone = [figures[f"local {client}"]["accuracy"] for client in range(4)]
    assert figures["local mean"]["accuracy"] == pytest.approx(statistics.fmean(alone))
    assert figures["local best"]["accuracy"] == max(alone)
    json.dumps(tiny.report({0: figures}, None), allow_nan=False)


def test_the_released_mean_is_that_of_the_updates_and_updates_can_be_drawn_again(tiny: Any) -> None:
    changes = [tiny.update(0, "adapter", client, None) for client in range(4)]
    np.testing.assert_array_equal(changes[0], tiny.update(0, "adapter", 0, None))
    plan = tiny.plan_of("adapter", None)
    clips = np.repeat([spec.clip for spec in plan.trained], [math.prod(spec.shape) for spec in plan.trained])
    for members in (changes, changes[:-1]):
        mean = np.mean([np.clip(change, -clips, clips) for change in members], axis=0)
        assert np.abs(tiny.summed(members, None) - mean).max() < 1e-4
        assert np.abs(mean).max() > 1e-3
