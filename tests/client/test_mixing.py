"""A model in which one example depends on the others of its batch is refused before anything is trained (2.6a)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CanineConfig,
    CanineModel,
    ConvBertConfig,
    ConvBertModel,
    FNetConfig,
    FNetModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    XLNetConfig,
    XLNetModel,
)

from secagg.errors import ConfigError, ModelError
from secagg.plan import TaskSpec
from secagg_client import planning
from secagg_client.mixing import refuse_mixing
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.tasks.language import Language
from secagg_client.training import train
from tests.client.support import LM, MEAN, STOCK, examples, loaded, plan_for
from tests.tiny import VOCABULARY, save_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
NO_HEADS = {key: value for key, value in SIZES.items() if key != "num_attention_heads"}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 16, "factor": 4.0,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}


def saved(directory: Path, model: PreTrainedModel, task: TaskSpec) -> LoadedBase:
    model.save_pretrained(directory)
    save_tokenizer(directory, encoder=task.kind == "classify")
    return loaded(directory, task)


def llama(rope: dict[str, Any], positions: int) -> PreTrainedModel:
    sizes = {**SIZES, "max_position_embeddings": positions}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1, rope_parameters=rope))


MIXING: dict[str, tuple[Callable[[], PreTrainedModel], tuple[str, ...], TaskSpec]] = {
    "convolutions over padding": (
        lambda: ConvBertModel(ConvBertConfig(**SIZES, embedding_size=32, head_ratio=1)), ("query", "value"), MEAN,
    ),
    "pooling over padding": (lambda: CanineModel(CanineConfig(**SIZES)), ("query",), MEAN),
    "no mask": (lambda: FNetModel(FNetConfig(**NO_HEADS)), ("dense",), MEAN),
    "dynamic rope": (lambda: llama(DYNAMIC, 8), ("q_proj", "v_proj"), LM),
    "long rope": (lambda: llama(LONG, 64), ("q_proj", "v_proj"), LM),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_a_gradient_that_depends_on_the_batch_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, targets, task = MIXING[name]
    torch.manual_seed(0)
    base = saved(tmp_path, make(), task)
    with pytest.raises(ModelError, match="the gradient of one example depends on the others in its batch"):
        plan_for(base, target_modules=targets)
    monkeypatch.setattr(planning, "refuse_mixing", lambda _plan, _base: None)
    plan = plan_for(base, target_modules=targets)  # as a coordinator would, who does not mind
    with pytest.raises(ModelError, match="depends on the others"):
        train(plan, loaded(tmp_path, task), examples(8, task), 20, SeededSource(0))


def test_layers_that_see_tokens_before_examples_are_refused(tmp_path: Path) -> None:
    config = XLNetConfig(vocab_size=len(VOCABULARY), d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=0)
    base = saved(tmp_path, XLNetModel(config), MEAN)
    with pytest.raises(ModelError, match="its first dimension is not the examples"):
        plan_for(base, target_modules=("layer_1", "layer_2"))


def test_models_that_keep_examples_apart_pass(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModernBertConfig(
        **SIZES, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, local_attention=8
    )
    modern = saved(tmp_path / "modern", ModernBertForSequenceClassification(config), STOCK)
    refuse_mixing(plan_for(modern, target_modules=("Wqkv",), head_start="seeded"), modern)
    short = LM.model_copy(update={"max_length": 16})
    base = saved(tmp_path / "long", llama(LONG, 64), short)
    refuse_mixing(plan_for(base, target_modules=("q_proj", "v_proj")), base)  # no text is long enough to switch it


def test_half_precision_is_compared_as_closely_as_it_rounds(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base = loaded(tiny_llama_dir, LM)
    plan = plan_for(base)
    base.model.to(torch.bfloat16)
    refuse_mixing(plan, base)
    make, targets, task = MIXING["pooling over padding"]
    mixed = saved(tmp_path, make(), task)
    mixed.model.to(torch.bfloat16)
    with pytest.raises(ModelError, match="depends on the others"):
        plan_for(mixed, target_modules=targets)


def test_a_task_without_public_records_is_not_trained(tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise ConfigError("none here")

    base = loaded(tiny_llama_dir, LM)
    plan = plan_for(base)
    monkeypatch.setattr(Language, "canaries", none)
    with pytest.raises(ConfigError, match=r"task lm: there are no public records to try the model on.*none here"):
        refuse_mixing(plan, base)


def test_the_base_is_left_as_it_was(tiny_bert_dir: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN)
    plan = plan_for(base)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    refuse_mixing(plan, base)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
