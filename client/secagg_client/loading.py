"""Loading from Hugging Face ids and local folders: safetensors or GGUF only, and no code of a model's."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer

from secagg.errors import ModelError
from secagg.plan import TaskSpec
from secagg_client.classifier import attention_for, load_options, quiet
from secagg_client.load_error import LOAD_ERRORS, load_error


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer, with a token to pad with. Raises ModelError."""
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


def load_stock(model: str, auto: Any, task: TaskSpec, **more: Any) -> tuple[Any, dict[str, Any]]:
    """A model by one of Transformers' auto classes, in its stored precision; and what its file lacked.

    Raises ModelError when it cannot be loaded. What may be lacking is for the caller to decide.
    """
    source, options = load_options(model)
    if "gguf_file" not in options:
        options |= {"dtype": "auto", "use_safetensors": True}
    if task.max_length:
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


def load_with_head(model: str, auto: Any, task: TaskSpec, heads: Sequence[str]) -> tuple[Any, str]:
    """A classifier for the task's labels, whole but for its head; and which of `heads` the head is called.

    Raises ModelError when it has none of them, or when the file lacks another tensor, which would start at random.
    """
    loaded, info = load_stock(model, auto, task, num_labels=len(task.labels), ignore_mismatched_sizes=True)
    head = next((name for name in heads if hasattr(loaded, name)), None)
    if head is None:
        raise ModelError(f"model {model}: {type(loaded).__name__} has no head named {' or '.join(heads)}")
    fresh = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    stray = sorted(name for name in fresh if not name.startswith(f"{head}."))
    if stray:
        raise ModelError(
            f"model {model}: the file lacks {', '.join(stray)}, which would start at random and differ between clients"
        )
    return loaded, head


def load_complete(model: str, auto: Any, task: TaskSpec) -> Any:
    """As `load_stock`; raises ModelError when the file lacks any tensor of the model."""
    loaded, info = load_stock(model, auto, task)
    missing = sorted(info["missing_keys"])
    body = f"{getattr(loaded, 'base_model_prefix', '')}."
    if missing and not any(name.startswith(body) for name in missing):
        raise ModelError(
            f"model {model}: the file holds no head that predicts tokens ({missing[0]} is not there): it is an "
            f"encoder, or another model without one. Task {task.kind} needs a causal language model"
        )
    if missing:
        raise ModelError(f"model {model}: the file lacks {missing[0]} and {len(missing) - 1} more tensors")
    return loaded
