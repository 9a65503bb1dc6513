"""`secagg audit plant`, and what `audit release` and `attack` find of its secrets in a tiny model of characters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from secagg.plan import TaskSpec
from secagg_app.audit.planted import read_planted
from secagg_app.main import cli
from secagg_attacks.audit.verdict import HOLDS, LEAK
from secagg_attacks.extraction.planted_audit import NOT_CHANCE, VOID, Extracted, Side, chance_of, welch
from secagg_attacks.intervals import Interval, t_interval
from secagg_attacks.record import Record
from secagg_client.data import DataConfig, load_examples
from tests.attacks.federation import public_of, record_of
from tests.client.support import MEAN, examples, loaded
from tests.tiny import LABELS, make_llama_of_characters

LM = TaskSpec(kind="lm", max_length=128)
"""What `--task lm` takes an adapter for."""


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def plant(out: Path, *more: object) -> Path:
    done = run("audit", "plant", "--template", "phone", "--count", 20, "--repeat", 6, "--out", out, *more)
    assert done.exit_code == 0, done.output
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def adapter_of(record: Record, folder: Path) -> Path:
    """As PEFT writes one."""
    folder.mkdir()
    config = {**record.public.plan.adapter_config, "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(dict(record.final), folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, planted, the adapter of a client that learnt insert.jsonl by heart, and one that never saw it."""
    root = tmp_path_factory.mktemp("planted")
    base = loaded(make_llama_of_characters(root / "base"), LM)
    inserted = load_examples(DataConfig(source=str(plant(root / "planted", "--seed", 5) / "insert.jsonl")), LM)
    for name, data, steps in (("learnt", inserted, 150), ("other", examples(60, LM), 10)):
        public = public_of(
            base, clients=1, size=len(data), steps=steps, batch_size=30, optimizer="adamw", learning_rate=0.02,
            rank=16, alpha=32, lora_clip=8.0,
        )  # fmt: skip
        adapter_of(record_of(public, [data]), root / name)
    return root


def test_coins_say_what_a_client_inserts(tmp_path: Path) -> None:
    folder = plant(tmp_path / "a", "--text-column", "note")
    records = read_planted(folder / "planted.jsonl")
    assert len({each.owner for each in records}) == len({each.secret for each in records}) == 20
    assert {each.repeat for each in records} == {6}
    texts = [row["note"] for row in rows(folder / "insert.jsonl")]
    assert texts == [each.record.text for each in records if each.member] * 6
    assert set(rows(folder / "planted.jsonl")[0]) == {"prompt", "secret", "owner", "template", "member", "repeat"}


def test_a_seed_draws_again_and_the_system_does_not(tmp_path: Path) -> None:
    drawn = [plant(tmp_path / name, "--seed", seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    drawn += [plant(tmp_path / name) for name in "de"]
    first, again, *others = [(each / "planted.jsonl").read_bytes() for each in drawn]
    assert first == again
    assert len({first, *others}) == 4


def test_coins_are_fair(tmp_path: Path) -> None:
    inside = [
        sum(each.member for each in read_planted(plant(tmp_path / f"{seed}", "--seed", seed) / "planted.jsonl"))
        for seed in range(20)
    ]
    assert abs(sum(inside) - 200) < 2.58 * 10, "400 coins; further off once in a hundred"


def test_what_cannot_be_planted_is_said(tmp_path: Path) -> None:
    done = run("audit", "plant", "--template", "phone", "--count", 1000, "--out", tmp_path / "a")
    assert done.exit_code == 1
    assert "as many different names, and there are 168" in done.output
    assert not (tmp_path / "a").exists()
    plant(tmp_path / "b")
    done = run("audit", "plant", "--template", "phone", "--out", tmp_path / "b")
    assert "exists; move it away" in done.output


def audit(folder: Path, adapter: str, out: Path) -> tuple[dict[str, Any], str]:
    done = run(
        "audit", "release", folder / adapter, "--planted", folder / "planted" / "planted.jsonl", "--task", "lm",
        "--base", folder / "base", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return json.loads((out / "exposure.json").read_text())["planted"], done.output


def test_secrets_learnt_by_heart_are_a_leak(folder: Path, tmp_path: Path) -> None:
    found, said = audit(folder, "learnt", tmp_path)
    assert found["reading"] == LEAK
    assert found["difference"]["low"] > 0
    assert found["chance"] > VOID
    assert found["outside"]["completed"]["value"] == 0
    assert f"planted secrets: {LEAK}" in said
    page = (tmp_path / "report.html").read_text()
    assert "Planted secrets" in page
    assert "chance gives them 1.44 bits" in page
    assert "fit badly" in page
    assert not any(each.secret in page + said for each in read_planted(folder / "planted" / "planted.jsonl"))


def test_secrets_that_were_not_trained_on_are_none(folder: Path, tmp_path: Path) -> None:
    found, said = audit(folder, "other", tmp_path)
    assert found["reading"] == HOLDS
    assert found["inside"]["completed"]["value"] == 0
    assert found["inside"]["completed"]["high"] < 0.5
    assert "membership was not asked" in said


def test_planted_files_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    good = rows(folder / "planted" / "planted.jsonl")
    cases = [
        ([{**good[0], "secret": "555-12"}, *good[1:]], "row 1: template phone: this is none of its secrets"),
        ([good[0], {**good[1], "template": "none"}], "row 2: there is no template 'none'"),
        ([{**good[0], "prompt": "Somebody has"}], "row 1: the prompt is not that of template phone"),
        ([{"text": "good"}], "row 1: PlantedLine"),
        ([good[0], {**good[1], "repeat": 2}], "of several plantings"),
        ([], "holds no rows"),
        ([{**each, "member": True} for each in good], "20 of 20 planted records are in"),
    ]  # fmt: skip
    path, where = tmp_path / "p.jsonl", ("--task", "lm", "--base", folder / "base", "--out", tmp_path / "out")
    for content, why in cases:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        done = run("audit", "release", folder / "learnt", "--planted", path, *where)
        assert done.exit_code == 1, done.output
        assert why in done.output
        assert good[0]["secret"] not in done.output
    done = run("audit", "release", folder / "learnt", *where)
    assert "secagg audit plant" in done.output


def test_only_language_models_are_asked(folder: Path, tiny_bert_dir: Path, tmp_path: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN.model_copy(update={"max_length": 128}))
    adapter = adapter_of(record_of(public_of(base, steps=1)), tmp_path / "classes")
    task = ("--task", "classify", "--labels", ",".join(LABELS), "--base", tiny_bert_dir)
    done = run("audit", "release", adapter, "--planted", folder / "planted" / "planted.jsonl", *task)
    assert done.exit_code == 1
    assert "this run's task is classify: leave --planted out" in done.output


def test_prefix_completion_prints_what_follows_each_prompt(folder: Path, tmp_path: Path) -> None:
    prompts = [row["prompt"] for row in rows(folder / "planted" / "planted.jsonl")[:2]]
    (tmp_path / "prompts.txt").write_text("\n\n".join(prompts) + "\n")
    words = ("attack", "prefix-completion", "--run", folder / "learnt", "--task", "lm", "--base", folder / "base")
    done = run(*words, "--prompts", tmp_path / "prompts.txt")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["prompts"] == prompts
    assert len(found["guess"]["texts"]) == 2
    assert all(texts for texts in found["guess"]["texts"])
    done = run(*words)
    assert done.exit_code == 2
    assert "prefix-completion needs prompts, one on each line: give --prompts FILE" in " ".join(done.output.split())
    for content, why in ((b"\n \n", "holds no prompts"), (b"\xff\xfe", "is not UTF-8")):
        (tmp_path / "wrong.txt").write_bytes(content)
        done = run(*words, "--prompts", tmp_path / "wrong.txt")
        assert done.exit_code == 1
        assert why in done.output


def test_property_inference_takes_public_examples(tiny_bert_dir: Path, tmp_path: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN.model_copy(update={"max_length": 128, "feature_norm": None}))
    adapter = adapter_of(record_of(public_of(base, steps=1, head_start="seeded")), tmp_path / "classes")
    words = ("attack", "property-inference", "--run", adapter, "--task", "classify", "--labels", ",".join(LABELS))
    public = examples(40, MEAN, seed=9)
    lines = [{"text": t, "label": LABELS[c]} for t, c in zip(public.texts, public.labels, strict=True)]
    (tmp_path / "public.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(*words, "--base", tiny_bert_dir, "--population", tmp_path / "public.jsonl")
    assert done.exit_code == 0, done.output
    (guess,) = json.loads(done.output)["guess"]
    assert sum(guess["shares"]) == pytest.approx(1)
    done = run(*words, "--base", tiny_bert_dir)
    assert done.exit_code == 2
    assert "give --population FILE" in " ".join(done.output.split())


def test_means_of_secrets_at_chance_have_a_known_law() -> None:
    random = np.random.default_rng(1000)
    chances = [chance_of(random.exponential(1 / np.log(2), 12)) for _ in range(2000)]
    below = np.mean(np.array(chances) < 0.1)
    assert below == pytest.approx(0.1, abs=0.02), "three deviations of 2000"
    assert chance_of(np.full(12, 6.0)) < VOID
    assert chance_of(np.full(12, 0.1)) < VOID


def test_a_control_that_is_not_at_chance_voids_the_figures() -> None:
    def found(inside: list[float], outside: list[float], said: float = 0.0) -> Extracted:
        share = Interval(said, 0.0, 1.0, len(inside))
        sides = [Side(t_interval(bits), share) for bits in (inside, outside)]
        difference = welch(np.array(inside), np.array(outside))
        return Extracted(sides[0], sides[1], difference, 23.3, chance_of(np.array(outside)), 24, 0)

    chance = [0.1, 0.4, 0.9, 1.2, 2.0, 3.5]
    assert found(chance, chance).reading == HOLDS
    assert found(chance, chance, said=0.2).reading == LEAK
    assert found([each + 5 for each in chance], chance).reading == LEAK
    assert found([20.0, 21.0, 22.0], [each + 9 for each in chance]).reading == NOT_CHANCE
