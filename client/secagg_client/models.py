"""Base models: loading, what may be loaded, and the hash that everyone agrees on (protocol.md §4.4)."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from secagg.errors import ModelError
from secagg.plan import TaskSpec
from secagg_client.classifier import HEAD, MeanPoolClassifier, attention_for, load_encoder, load_options, quiet
from secagg_client.loading import LOAD_ERRORS, load_error

HASH_TAG = b"secagg/v1/base-model\x00"
HEAD_NAMES = (HEAD, "score")

CONFIG_KEYS = (
    "activation_function", "attention_bias", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "is_decoder", "layer_norm_eps", "max_position_embeddings", "mlp_bias", "model_type", "n_embd", "n_head",
    "n_layer", "n_positions", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "position_embedding_type", "rms_norm_eps", "sliding_window", "tie_word_embeddings", "type_vocab_size",
    "vocab_size",
)  # fmt: skip
"""What of a config changes the function that the weights compute. Rotary settings are added by `_rotary`."""


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model in memory. `head` is the name of the module that is trained in full; None for `lm`.

    `model_hash` covers the pretrained weights without the head; `architecture` is the class that computes with them.
    """

    model: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    model_hash: str
    architecture: str
    task: TaskSpec
    head: str | None


def _rotary(config: Any) -> dict[str, Any]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return {key: parameters[key] for key in sorted(parameters) if isinstance(parameters[key], int | float | str)}


def relevant_config(config: Any) -> dict[str, Any]:
    """The part of a Hugging Face config that the hash covers."""
    values = {key: getattr(config, key, None) for key in CONFIG_KEYS}
    kept = {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
    return {**kept, "rope": _rotary(config)}


def _tensor_hash(tensor: Tensor) -> str:
    values = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
    return hashlib.sha256(values.astype("<f4", copy=False).data).hexdigest()


def base_model_hash(state: Iterable[tuple[str, Tensor]], architecture: str, config: Any, head: str | None) -> str:
    """SHA-256 over class name, relevant config and every pretrained tensor (name, dtype, shape, hash of its values).

    Values are hashed as little-endian float32, to which float16 and bfloat16 convert exactly: the hash does not
    depend on the file format, nor on the precision that a copy is stored or computed in. The head is left out.
    """
    tensors = [
        [name, "float32", list(tensor.shape), _tensor_hash(tensor)]
        for name, tensor in sorted(state, key=lambda item: item[0])
        if tensor.is_floating_point() and not (head and name.startswith(f"{head}."))
    ]
    content = {"architecture": architecture, "config": relevant_config(config), "tensors": tensors}
    return hashlib.sha256(HASH_TAG + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _load_tokenizer(model: str) -> Any:
    source, options = load_options(model)
    options.pop("dtype", None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except LOAD_ERRORS as error:
        raise load_error(model, "the tokenizer cannot be loaded", error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(f"model {model}: the tokenizer has no token to pad with")
    return tokenizer


def _load_stock(model: str, auto: Any, task: TaskSpec, **more: Any) -> tuple[Any, dict[str, Any]]:
    source, options = load_options(model)
    if "gguf_file" not in options:
        options |= {"dtype": "auto", "use_safetensors": True}
    options["attn_implementation"] = attention_for(task.max_length)
    try:
        with quiet():
            loaded, info = auto.from_pretrained(source, output_loading_info=True, **options, **more)
    except LOAD_ERRORS as error:
        raise load_error(model, "cannot be loaded", error) from error
    if getattr(loaded, "hf_quantizer", None) is not None:  # a GGUF file: the weights were dequantised on loading
        loaded.hf_quantizer, loaded.is_quantized = None, False
        del loaded.config.quantization_config
    return loaded, info


def _load_sequence_classifier(model: str, task: TaskSpec, pad: int) -> tuple[Any, str]:
    loaded, info = _load_stock(
        model, AutoModelForSequenceClassification, task, num_labels=len(task.labels), ignore_mismatched_sizes=True
    )
    loaded.config.pad_token_id = pad
    head = next((name for name in HEAD_NAMES if hasattr(loaded, name)), None)
    if head is None:
        raise ModelError(f"model {model}: {type(loaded).__name__} has no head named {' or '.join(HEAD_NAMES)}")
    fresh = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    stray = sorted(name for name in fresh if not name.startswith(f"{head}."))
    if stray:
        raise ModelError(
            f"model {model}: the file lacks {', '.join(stray)}, which would start at random and differ between "
            'clients; use pooling = "mean"'
        )
    return loaded, head


def _load_causal(model: str, task: TaskSpec) -> Any:
    loaded, info = _load_stock(model, AutoModelForCausalLM, task)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"model {model}: the file lacks {missing[0]} and {len(missing) - 1} more tensors")
    return loaded


def load_base(model: str, task: TaskSpec, *, precision: Literal["fp32", "bf16"] = "fp32") -> LoadedBase:
    """Load any Hugging Face id or local folder (or `.gguf` file) for a task. The head, if any, starts at zero.

    Only safetensors or GGUF are read, never pickles, and no code of the model's is run. With `fp32` the model is
    converted to float32; with `bf16` it stays as stored and computes under autocast.
    Raises ModelError with what is missing.
    """
    tokenizer = _load_tokenizer(model)
    head: str | None = None
    if task.kind == "lm":
        loaded = _load_causal(model, task)
    elif task.pooling == "mean":
        loaded, head = (
            MeanPoolClassifier(load_encoder(model, task.max_length), len(task.labels), task.feature_norm),
            HEAD,
        )
    else:
        loaded, head = _load_sequence_classifier(model, task, tokenizer.pad_token_id)
    refuse_batch_norm(loaded)
    architecture = type(loaded).__name__
    if isinstance(loaded, MeanPoolClassifier):
        architecture += f"({type(loaded.encoder).__name__})"
    digest = base_model_hash(loaded.state_dict().items(), architecture, loaded.config, head)
    if precision == "fp32":
        loaded = loaded.float()
    reset_head(loaded, head)
    return LoadedBase(loaded.eval(), tokenizer, digest, architecture, task, head)


def reset_head(model: nn.Module, head: str | None) -> None:
    """Set the head to zero: its start values come from the plan, never from a random draw."""
    if head is None:
        return
    with torch.no_grad():
        for parameter in getattr(model, head).parameters():
            parameter.zero_()


def refuse_batch_norm(model: nn.Module) -> None:
    """Raise ModelError when a layer mixes the examples of a batch: per-example gradients do not exist then."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(f"layer {name} is a batch norm, which mixes examples: DP-SGD is not defined for it")


def refuse_checkpointing(model: nn.Module) -> None:
    """Raise ModelError when layers are to be computed again in the backward pass.

    Opacus' hooks then see a layer twice, or not at all (non-reentrant checkpointing). Nothing is lost without it:
    the base is frozen, and physical batches bound what is kept.
    """
    for name, module in model.named_modules():
        if getattr(module, "gradient_checkpointing", False):
            raise ModelError(
                f"layer {name or type(module).__name__} has gradient checkpointing on, under which per-example "
                "gradients are wrong: call model.gradient_checkpointing_disable(), and bound memory with "
                "[training] micro_batch instead"
            )
