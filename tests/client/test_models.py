"""Loading, refusing, and the hash of base models."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
    SmolLM3Config,
)

from secagg.adapter import start_tensors
from secagg.errors import ModelError
from secagg.plan import TaskSpec
from secagg_client.adapted import attached
from secagg_client.classifier import MeanPoolClassifier, load_classifier
from secagg_client.models import load_base, refuse_batch_norm, relevant_config
from tests.client.support import LM, MEAN, STOCK, loaded, plan_for
from tests.tiny import LABELS, make_bert, make_bert_classifier


def resaved(folder: Path, target: Path, dtype: torch.dtype) -> Path:
    """The same model in another stored precision."""
    AutoModel.from_pretrained(folder).to(dtype).save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_hash_does_not_depend_on_how_the_weights_are_stored(tiny_bert_dir: Path, tmp_path: Path) -> None:
    half = resaved(tiny_bert_dir, tmp_path / "half", torch.bfloat16)
    full = resaved(half, tmp_path / "full", torch.float32)
    assert loaded(half, MEAN).model_hash == loaded(full, MEAN).model_hash
    assert loaded(half, MEAN).model_hash != loaded(tiny_bert_dir, MEAN).model_hash
    computing = load_base(str(half), MEAN, precision="bf16")
    assert computing.model_hash == loaded(half, MEAN).model_hash
    assert next(computing.model.parameters()).dtype == torch.bfloat16
    assert next(loaded(half, MEAN).model.parameters()).dtype == torch.float32


def test_hash_covers_every_weight_and_the_config_that_computes(tiny_bert_dir: Path, tmp_path: Path) -> None:
    original = loaded(tiny_bert_dir, MEAN).model_hash
    copy = resaved(tiny_bert_dir, tmp_path / "copy", torch.float32)
    assert loaded(copy, MEAN).model_hash == original
    weights = load_file(copy / "model.safetensors")
    name = sorted(key for key in weights if key.startswith("encoder"))[3]
    altered = weights[name].clone()
    altered.view(-1)[0] = torch.nextafter(altered.view(-1)[0], torch.tensor(9.0))
    save_file({**weights, name: altered}, copy / "model.safetensors", metadata={"format": "pt"})
    assert loaded(copy, MEAN).model_hash != original
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert loaded(copy, MEAN).model_hash != original


def test_an_encoder_is_no_language_model(tiny_bert_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"it is an encoder.* Task lm needs a causal language model"):
        load_base(str(tiny_bert_dir), TaskSpec(kind="lm", max_length=16))


def test_hash_leaves_the_head_out(tiny_bert_dir: Path, tmp_path: Path) -> None:
    """Three labels or two, a fresh head or one from the file: the pretrained part is the same."""
    three = TaskSpec(kind="classify", labels=("a", "b", "c"), max_length=32)
    assert loaded(tiny_bert_dir, STOCK).model_hash == loaded(tiny_bert_dir, three).model_hash
    assert loaded(tiny_bert_dir, STOCK).model_hash != loaded(tiny_bert_dir, MEAN).model_hash, "another architecture"
    classifier = make_bert_classifier(tmp_path / "classifier")
    assert loaded(classifier, STOCK).model_hash == loaded(classifier, three).model_hash


def test_head_starts_at_zero_not_at_a_random_draw(tiny_bert_dir: Path) -> None:
    for task in (STOCK, MEAN):
        base = loaded(tiny_bert_dir, task)
        assert base.head == "classifier"
        assert all(float(p.detach().abs().max()) == 0 for p in base.model.get_submodule("classifier").parameters())


def test_untrained_parts_other_than_the_head_are_refused(tiny_bert_dir: Path, tmp_path: Path) -> None:
    """A pooler that the file lacks would start at random, and differently at each client."""
    copy = resaved(tiny_bert_dir, tmp_path / "copy", torch.float32)
    weights = load_file(copy / "model.safetensors")
    without = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    save_file(without, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks bert.pooler.*pooling = \"mean\""):
        loaded(copy, STOCK)
    assert loaded(copy, MEAN).model_hash == loaded(tiny_bert_dir, MEAN).model_hash
    first = sorted(name for name in without if "encoder" in name)[0]
    save_file({n: v for n, v in without.items() if n != first}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the file lacks"):
        loaded(copy, MEAN)


def test_pickles_and_absent_models_are_refused(tiny_bert_dir: Path, tmp_path: Path) -> None:
    copy = resaved(tiny_bert_dir, tmp_path / "copy", torch.float32)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    for task in (MEAN, STOCK):
        with pytest.raises(ModelError, match="cannot be loaded"):
            loaded(copy, task)
    with pytest.raises(ModelError, match="nobody/no-such-model: the tokenizer cannot be loaded"):
        load_base("nobody/no-such-model", LM)


@pytest.mark.parametrize("content", [b"", b"x" * 1000, None], ids=["empty", "garbage", "cut"])
def test_a_damaged_file_of_weights_is_named(tiny_bert_dir: Path, tmp_path: Path, content: bytes | None) -> None:
    path = resaved(tiny_bert_dir, tmp_path / "copy", torch.float32) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    for task in (MEAN, STOCK):
        with pytest.raises(ModelError, match=r"cannot be loaded.*copy/model.safetensors is damaged or cut off; copy"):
            loaded(path.parent, task)


def test_batch_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="layer 1 is a batch norm"):
        refuse_batch_norm(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def test_mean_pooling_ignores_padding_and_scales(tiny_bert_dir: Path) -> None:
    model = load_classifier(str(tiny_bert_dir), classes=2, feature_norm=10.0)
    ids = torch.tensor([[2, 11, 12, 3]])
    short = model.features(ids, torch.ones_like(ids))
    padded = nn.functional.pad(ids, (0, 3))
    mask = nn.functional.pad(torch.ones_like(ids), (0, 3))
    assert torch.allclose(model.features(padded, mask), short, atol=1e-5)
    assert float(short.detach().norm()) == pytest.approx(10.0, rel=1e-5)
    plain = load_classifier(str(tiny_bert_dir), classes=2)
    hidden = plain.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(plain.features(ids, torch.ones_like(ids)), hidden.mean(1), atol=1e-5)


@pytest.mark.parametrize("task", [MEAN, STOCK, LM], ids=["mean", "stock", "lm"])
def test_adapter_keys_are_those_that_peft_saves_and_loads(
    task: TaskSpec, tiny_bert_dir: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    """Save what the plan describes, load it with PEFT alone, and compare what both compute."""
    folder = tiny_llama_dir if task.kind == "lm" else tiny_bert_dir
    base = loaded(folder, task)
    plan = plan_for(base)
    tensors = {n: torch.from_numpy(v.copy()) for n, v in start_tensors(plan).items()}
    generator = torch.Generator().manual_seed(1)
    for spec in plan.trained:
        tensors[spec.name] = torch.randn(spec.shape, generator=generator)
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").write_text(json.dumps(plan.adapter_config))
    ids = torch.tensor([[2, 11, 12, 13, 3]])
    with attached(plan, base) as adapted:
        assert get_peft_model_state_dict(adapted.model).keys() == tensors.keys()
        adapted.assign({name: value.numpy() for name, value in tensors.items()})
        ours = adapted.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.detach().clone()
    if task.pooling == "mean":
        fresh: nn.Module = load_classifier(str(folder), len(LABELS), task.feature_norm)
    else:
        fresh = loaded(folder, task).model
    theirs = PeftModel.from_pretrained(fresh, tmp_path).eval()
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(ours, logits, atol=1e-5)


def test_models_are_told_apart_by_their_class(tmp_path: Path) -> None:
    base = loaded(make_bert(tmp_path / "bert"), MEAN)
    assert base.architecture == "MeanPoolClassifier(BertModel)"
    assert isinstance(base.model, MeanPoolClassifier)
    assert "Parameter" not in repr(base)


def qwen(**changes: object) -> PretrainedConfig:
    return Qwen3Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=4, **changes)


def long_rope(factor: float) -> PretrainedConfig:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [factor] * 8,
            "original_max_position_embeddings": 16, "factor": 4.0}  # fmt: skip
    return LlamaConfig(rope_parameters=rope)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (qwen(max_window_layers=0), qwen(max_window_layers=2)),
        (SmolLM3Config(no_rope_layers=[1] * 36), SmolLM3Config(no_rope_layers=[0] * 36)),
        (GraniteConfig(attention_multiplier=1.0), GraniteConfig(attention_multiplier=50.0)),
        (long_rope(4.0), long_rope(64.0)),
    ],
    ids=["which layers slide", "which layers rotate", "a multiplier", "a list of rotary factors"],
)
def test_what_computes_is_in_the_hash_whatever_it_is_called(one: PretrainedConfig, other: PretrainedConfig) -> None:
    assert relevant_config(one) != relevant_config(other)
    assert relevant_config(one) == relevant_config(type(one).from_dict(one.to_dict()))


def test_names_dropout_and_tokens_are_not_in_the_hash() -> None:
    idle = {"attention_dropout": 0.5, "eos_token_id": 7, "use_cache": False, "initializer_range": 0.1}
    assert relevant_config(LlamaConfig(**idle, id2label={0: "a"})) == relevant_config(LlamaConfig())
