"""The loss under a frozen head: what the logits would give, and their gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from secagg_client import head_loss
from secagg_client.head_loss import frozen_head, token_losses, without_head

_SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "llama": lambda: LlamaConfig(**_SIZES),
    "mistral": lambda: MistralConfig(**_SIZES),
    "qwen2": lambda: Qwen2Config(**_SIZES),
    "qwen3": lambda: Qwen3Config(**_SIZES, head_dim=16),
    "smollm3": lambda: SmolLM3Config(**_SIZES),
}


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(1)
    model: nn.Module = AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def naive(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(features, weight), targets, reduction="none")


def test_every_listed_kind_of_model_is_tried_here() -> None:
    assert set(CONFIGS) == set(head_loss.MODEL_TYPES)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_head_on_the_features_gives_the_logits_of_the_model(kind: str) -> None:
    model = model_of(kind)
    ids = torch.randint(3, 50, (3, 7))
    logits = model(input_ids=ids).logits
    found = frozen_head(nn.Sequential(model))
    assert found is not None
    inner, head = found
    with without_head(inner):
        features = model(input_ids=ids).logits
    assert features.shape == (3, 7, 32)
    torch.testing.assert_close(head(features), logits)
    torch.testing.assert_close(model(input_ids=ids).logits, logits)


@pytest.mark.parametrize("tokens", [1, 5, 8, 21])
def test_losses_and_gradients_are_those_of_the_logits(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "BLOCK", 8)
    generator = torch.Generator().manual_seed(tokens)
    weight = torch.randn(50, 32, generator=generator)
    targets = torch.randint(0, 50, (tokens,), generator=generator)
    scale = torch.randn(tokens, generator=generator)
    ours = torch.randn(tokens, 32, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    fast, slow = token_losses(ours, weight, targets), naive(theirs, weight, targets)
    torch.testing.assert_close(fast, slow)
    torch.autograd.backward((fast * scale).sum())
    torch.autograd.backward((slow * scale).sum())
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_under_autocast_it_rounds_as_the_model_would() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(500, 64, generator=generator) / 8
    targets = torch.randint(0, 500, (30,), generator=generator)
    ours = torch.randn(30, 64, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fast = token_losses(ours, weight, targets)
        slow = functional.cross_entropy(functional.linear(theirs, weight).float(), targets, reduction="none")
    torch.testing.assert_close(fast, slow, atol=2e-2, rtol=1e-2)
    torch.autograd.backward(fast.sum())
    torch.autograd.backward(slow.sum())
    assert ours.grad is not None
    assert theirs.grad is not None
    assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 0.01


def test_nothing_is_kept_when_no_gradient_is_wanted() -> None:
    features, weight = torch.randn(4, 8), torch.randn(9, 8)
    loss = token_losses(features, weight, torch.tensor([0, 1, 2, 3]))
    assert not loss.requires_grad
    torch.testing.assert_close(loss, naive(features, weight, torch.tensor([0, 1, 2, 3])))


def test_a_head_that_is_trained_or_unknown_is_left_to_the_model() -> None:
    model = model_of("llama")
    assert frozen_head(model) is not None
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    assert frozen_head(model) is None
    assert frozen_head(nn.Linear(3, 3)) is None
