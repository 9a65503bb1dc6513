"""From a model to the plan, and what a client refuses to train."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secagg.adapter import start_tensors
from secagg.errors import ConfigError, ModelError
from secagg.plan import Plan, TaskSpec
from secagg_client.adapted import INSTEAD, attached
from secagg_client.models import LoadedBase, load_base
from secagg_client.plan_options import validated
from secagg_client.planning import description_embeddings, verify_plan
from tests.client.support import LM, MEAN, STOCK, loaded, plan_for

ALL_LINEAR = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@pytest.fixture
def base(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


def test_same_model_and_config_give_the_same_plan(base: LoadedBase, tiny_bert_dir: Path) -> None:
    again = plan_for(loaded(tiny_bert_dir, MEAN))
    assert plan_for(base) == again
    assert Plan.model_validate_json(again.model_dump_json()) == again
    verify_plan(again, base)


def test_default_plan_is_ffa_lora_on_query_and_value(base: LoadedBase) -> None:
    plan = plan_for(base)
    names = [spec.name for spec in plan.trained]
    layer = "base_model.model.encoder.encoder.layer.{}.attention.self.{}.lora_B.weight"
    assert names == sorted(
        [layer.format(n, p) for n in (0, 1) for p in ("query", "value")]
        + ["base_model.model.classifier.bias", "base_model.model.classifier.weight"]
    )
    frozen = [spec for spec in plan.tensors if not spec.trained]
    assert all(spec.name.endswith("lora_A.weight") and spec.init.kind == "seeded" for spec in frozen)
    assert plan.length == 4 * 32 * 4 + 2 * 32 + 2


def test_chosen_modules_and_layers(base: LoadedBase) -> None:
    plan = plan_for(base, target_modules=ALL_LINEAR, layers=(1,))
    lora = [spec.name for spec in plan.trained if "lora_B" in spec.name]
    assert len(lora) == 6
    assert all(".layer.1." in name for name in lora)
    verify_plan(plan, base)


def test_start_of_a_is_seeded_as_peft_would_draw_it(base: LoadedBase) -> None:
    plan = plan_for(base)
    for name, value in start_tensors(plan).items():
        if name.endswith("lora_A.weight"):
            assert np.abs(value).max() <= 1 / np.sqrt(32)
            assert value.std() == pytest.approx(1 / np.sqrt(3 * 32), rel=0.2)
    other = plan_for(base, a_seed="5" * 64)
    name = next(name for name in start_tensors(plan) if name.endswith("lora_A.weight"))
    assert not np.array_equal(start_tensors(other)[name], start_tensors(plan)[name])


def test_adapter_starts_as_the_base_itself(base: LoadedBase) -> None:
    """B and the head are zero: logits are zero, and the features those of the base."""
    ids = torch.tensor([[2, 11, 3]])
    with attached(plan_for(base), base) as adapted:
        logits = adapted.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert float(logits.detach().abs().max()) == 0


def test_head_from_label_descriptions_is_a_zero_shot_classifier(base: LoadedBase) -> None:
    texts = {"negative": ("very bad food", "they hated it"), "positive": ("very good food",)}
    plan = plan_for(base, head_start="descriptions", label_descriptions=texts)
    head = start_tensors(plan)["base_model.model.classifier.weight"]
    assert np.linalg.norm(head, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert np.array_equal(head, description_embeddings(base, [texts[label] for label in MEAN.labels]))
    with attached(plan, base) as adapted:
        encoded = base.tokenizer(["very good food"], return_tensors="pt")
        logits = adapted.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    assert float(logits.detach()[0, 1]) == pytest.approx(10.0, rel=1e-4), "feature norm 10 times a cosine of 1"


def test_the_plan_does_not_depend_on_the_number_of_threads(base: LoadedBase) -> None:
    texts = {"negative": ("very bad food", "they hated it"), "positive": ("very good food",)}
    before = torch.get_num_threads()
    plans = list[Plan]()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            plans.append(plan_for(base, head_start="descriptions", label_descriptions=texts))
    finally:
        torch.set_num_threads(before)
    assert plans[0] == plans[1] == plans[2]
    assert next(base.model.parameters()).dtype == torch.float32, "the base itself stays as it was"


def test_head_starts_that_do_not_fit(base: LoadedBase, tiny_bert_dir: Path) -> None:
    with pytest.raises(ConfigError, match="at least one text for every label"):
        plan_for(base, head_start="descriptions", label_descriptions={"negative": ("x",)})
    with pytest.raises(ConfigError, match='needs pooling = "mean"'):
        plan_for(
            loaded(tiny_bert_dir, STOCK), head_start="descriptions",
            label_descriptions={"negative": ("x",), "positive": ("y",)},
        )  # fmt: skip


def test_a_setting_that_no_plan_holds_is_named(base: LoadedBase) -> None:
    with pytest.raises(ConfigError, match=r"plan: base_model"):
        plan_for(base, base_model_name="a" * 301)


def test_lm_has_no_head(tiny_llama_dir: Path) -> None:
    plan = plan_for(loaded(tiny_llama_dir, LM), target_modules=("q_proj", "v_proj", "down_proj"))
    assert all("lora_" in spec.name for spec in plan.tensors)
    assert plan.adapter_config["modules_to_save"] is None
    assert plan.adapter_config["task_type"] == "CAUSAL_LM"


def test_target_modules_that_are_not_there(base: LoadedBase) -> None:
    with pytest.raises(ModelError, match=r"linear layers are named classifier, dense, key, query, value"):
        plan_for(base, target_modules=("q_proj",))
    with pytest.raises(ModelError, match="LoRA does not fit"):
        plan_for(base, layers=(7,))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_refused(base: LoadedBase, reentrant: bool) -> None:
    plan = plan_for(base)
    model: Any = base.model
    model.encoder.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with pytest.raises(ModelError, match=r"gradient checkpointing on.*gradient_checkpointing_disable"):
        verify_plan(plan, base)
    model.encoder.gradient_checkpointing_disable()
    verify_plan(plan, base)


def test_embeddings_are_refused(base: LoadedBase) -> None:
    for name in ("word_embeddings", "position_embeddings"):
        with pytest.raises(ModelError, match=r"only LoRA on linear and .* are named dense, key, query, value$"):
            plan_for(base, target_modules=("query", name))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True), ("lora_dropout", 0.1), ("bias", "all"), ("modules_to_save", ["classifier", "embeddings"]),
        ("modules_to_save", None), ("trainable_token_indices", [1]), ("target_parameters", ["x"]),
        ("layer_replication", [[0, 1]]), ("init_lora_weights", "pissa"), ("peft_type", "IA3"),
        ("rank_pattern", {"q": 2}),
    ],
)  # fmt: skip
def test_adapter_settings_that_break_privacy_or_the_sum_are_refused(base: LoadedBase, key: str, value: object) -> None:
    plan = plan_for(base)
    config = {**plan.adapter_config, key: value}
    with pytest.raises(ModelError, match=r"not supported|saves modules"):
        verify_plan(plan.model_copy(update={"adapter_config": config}), base)


def test_tensors_that_the_model_does_not_have_are_refused(base: LoadedBase) -> None:
    plan = plan_for(base)
    with pytest.raises(ModelError, match="the plan has shape None"):
        verify_plan(plan.model_copy(update={"tensors": plan.tensors[1:]}), base)
    spec = plan.tensors[0].model_copy(update={"shape": (3,)})
    with pytest.raises(ModelError, match=r"the plan has shape \(3,\), this model's adapter \(2,\)"):
        verify_plan(plan.model_copy(update={"tensors": (spec, *plan.tensors[1:])}), base)
    thawed = tuple(s.model_copy(update={"clip": 1.0}) if "lora_A" in s.name else s for s in plan.tensors)
    with pytest.raises(ModelError, match="ffa-lora trains every tensor but LoRA's A"):
        verify_plan(plan.model_copy(update={"tensors": thawed}), base)


def test_the_base_is_unharmed_by_a_refusal(base: LoadedBase) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    for _ in range(2):
        with pytest.raises(ModelError):
            plan_for(base, target_modules=("query", "word_embeddings"))
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    verify_plan(plan_for(base), base)


@pytest.mark.parametrize("setting", ["use_dora", "lora_dropout", "trainable_token_indices"])
def test_what_no_plan_can_have_is_refused_with_what_to_do(setting: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"plan\.toml: {setting} cannot be set: .*{re.escape(INSTEAD[setting][-12:])}"
    ):
        validated({"base_model": "x", setting: 1}, "plan.toml")


def test_a_folder_that_is_not_there_is_no_name_on_a_hub() -> None:
    with pytest.raises(ModelError, match=r"model ./nowhere: no such folder"):
        load_base("./nowhere", TaskSpec(kind="lm", max_length=8))
