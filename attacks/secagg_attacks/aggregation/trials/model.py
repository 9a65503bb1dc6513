"""A language model of a hundred kilobytes, made on the spot with random weights, and sentences for it."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from secagg.plan import Plan, TaskSpec, TrainingSettings
from secagg_attacks.views import Public
from secagg_client.data import Examples
from secagg_client.models import LoadedBase, load_base
from secagg_client.planning import PlanConfig, make_plan

WORDS = tuple(f"word{number}" for number in range(28))
"""Fewer than the model has hidden units: more than these no linear layer tells apart."""
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
TASK = TaskSpec(kind="lm", max_length=24)
HIDDEN, RANK = 32, 4


def tiny_base() -> LoadedBase:
    """A Llama of 32 hidden units with a word-level tokenizer. The same weights every time."""
    import torch
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory(prefix="secagg-tiny-") as folder, torch.random.fork_rng():
        torch.manual_seed(3)
        model = _model()
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        save_model(model, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})
        _tokenizer().save_pretrained(folder)
        return load_base(folder, TASK)


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=2 * HIDDEN, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = Whitespace()
    made: Any = PreTrainedTokenizerFast
    return made(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]",  # noqa: S106
        model_max_length=64,
    )  # fmt: skip


def sentences(count: int, seed: int) -> Examples:
    """`count` sentences of 3 to 20 random words."""
    rng = np.random.default_rng(seed)
    texts = tuple(" ".join(rng.choice(WORDS, int(rng.integers(3, 21)))) for _ in range(count))
    return Examples(f"sentences {seed}", texts, ())


def tiny_plan(base: LoadedBase, *, steps: int, batch_size: int, epsilon: float | None, secure: bool = False) -> Plan:
    """LoRA of rank 4, plain SGD. `secure` noise is what policies ask for; seeded noise lets runs repeat."""
    training = TrainingSettings(
        steps=steps, batch_size=batch_size, learning_rate=0.5, optimizer="sgd", momentum=0.0, max_grad_norm=1.0,
        epsilon=epsilon, delta=1e-5, noise="secure" if secure else "seeded",
    )  # fmt: skip
    config = PlanConfig(base_model="tiny", task=TASK, training=training, rank=RANK, alpha=2 * RANK, lora_clip=1.0)
    return make_plan(config, base)


def tiny_public(base: LoadedBase, clients: int, size: int, **training: Any) -> Public:
    """One round of `clients` with `size` records each; `training` as for `tiny_plan`."""
    return Public(tiny_plan(base, **training), base, clients, size, 1)
