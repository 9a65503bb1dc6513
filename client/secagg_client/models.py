"""Base models: loading, what may be loaded, and the hash that everyone agrees on (protocol.md §4.4)."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from secagg.errors import ModelError
from secagg.plan import TaskSpec
from secagg_client.tasks import kind_of

HASH_TAG = b"secagg/v1/base-model\x00"

CONFIG_KEYS = (
    "activation_function", "attention_bias", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "is_decoder", "layer_norm_eps", "max_position_embeddings", "mlp_bias", "model_type", "n_embd", "n_head",
    "n_layer", "n_positions", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "position_embedding_type", "rms_norm_eps", "sliding_window", "tie_word_embeddings", "type_vocab_size",
    "vocab_size",
)  # fmt: skip
"""What of a config changes the function that the weights compute, in most models. `_rotary` adds rotary settings, and
`_unusual` whatever else is not as the class of the config has it by default."""

_IDLE = frozenset(
    [
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "keys_to_ignore_at_inference",
        "label2id",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "return_dict",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_cache",
    ]
)
_IDLE_PARTS = ("dropout", "drop_rate", "_token_id", "_pdrop", "use_return_dict")
"""What computes nothing: names, special tokens, sizes of a draw, dropout (off here); and the rotary settings, which
have their own place."""


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model in memory. `head` is the name of the module that is trained in full; None when there is none.

    `tokenizer` is what turns a record into the model's inputs, of whatever kind the task needs.
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
    return {key: _plain(parameters[key]) for key in sorted(parameters) if parameters[key] is not None}


def _plain(value: Any) -> Any:
    """As JSON has it; what JSON does not have, by name."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def _unusual(config: Any) -> dict[str, Any]:
    """Settings of the config's class, other than CONFIG_KEYS, that are not at its default and may compute something."""
    if not isinstance(config, PretrainedConfig):
        return {}
    try:
        usual = type(config)().to_dict()
    except (TypeError, ValueError):  # there is no such thing without arguments
        usual = dict.fromkeys(config.to_dict())
    own = {
        key: value for key, value in config.to_dict().items() if key in usual and _plain(value) != _plain(usual[key])
    }
    return {
        key: _plain(value)
        for key, value in sorted(own.items())
        if key not in CONFIG_KEYS and key not in _IDLE and not any(part in key for part in _IDLE_PARTS)
    }


def relevant_config(config: Any, more: Iterable[str] = ()) -> dict[str, Any]:
    """The part of a Hugging Face config that the hash covers: CONFIG_KEYS, `more` of a kind of task's own, and every
    other setting that computes and is not at its default.
    """
    values = {key: getattr(config, key, None) for key in CONFIG_KEYS}
    kept = {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
    own = {key: getattr(config, key) for key in more if hasattr(config, key)}
    unusual = {key: value for key, value in _unusual(config).items() if key not in own}
    return {**kept, **own, "rope": _rotary(config), **({"other": unusual} if unusual else {})}


def _tensor_hash(tensor: Tensor) -> str:
    values = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
    return hashlib.sha256(values.astype("<f4", copy=False).data).hexdigest()


def base_model_hash(
    state: Iterable[tuple[str, Tensor]], architecture: str, config: dict[str, Any], head: str | None
) -> str:
    """SHA-256 over class name, relevant config and every pretrained tensor (name, dtype, shape, hash of its values).

    Values are hashed as little-endian float32, to which float16 and bfloat16 convert exactly: the hash does not
    depend on the file format, nor on the precision that a copy is stored or computed in. The head is left out.
    """
    tensors = [
        [name, "float32", list(tensor.shape), _tensor_hash(tensor)]
        for name, tensor in sorted(state, key=lambda item: item[0])
        if tensor.is_floating_point() and not (head and name.startswith(f"{head}."))
    ]
    content = {"architecture": architecture, "config": config, "tensors": tensors}
    return hashlib.sha256(HASH_TAG + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_base(model: str, task: TaskSpec, *, precision: Literal["fp32", "bf16"] = "fp32") -> LoadedBase:
    """Load any Hugging Face id or local folder (or `.gguf` file) for a task. The head, if any, starts at zero.

    Only safetensors or GGUF are read, never pickles, and no code of the model's is run. With `fp32` the model is
    converted to float32; with `bf16` it stays as stored and computes under autocast.
    Raises ModelError with what is missing; ConfigError for a task that does not exist or is not well set.
    """
    kind = kind_of(task)
    parts = kind.load(model, task)
    loaded: Any = parts.model
    refuse_batch_norm(loaded)
    architecture = parts.architecture or type(loaded).__name__
    config = relevant_config(loaded.config, kind.config_keys)
    digest = base_model_hash(loaded.state_dict().items(), architecture, config, parts.head)
    if precision == "fp32":
        loaded = loaded.float()
    reset_head(loaded, parts.head)
    return LoadedBase(loaded.eval(), parts.processor, digest, architecture, task, parts.head)


def load_base_for_command(given: str | None, named: str, task: TaskSpec) -> LoadedBase:
    """The base that a command's --base gives, or else the one that the release names.

    Raises ModelError that says when --base is needed.
    """
    # The hub's client warns of each attempt, several times over; the error below says it once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return load_base(given or named, task)
    except ModelError as error:
        if given is not None:
            raise
        raise ModelError(f"{error}. If you have a copy of {named}, give its folder with --base") from error


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
            raise ModelError(
                f"layer {name} is a batch norm, which mixes examples: DP-SGD is not defined for it. Take a model "
                'without, or for task image options.norm = "group"'
            )


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
