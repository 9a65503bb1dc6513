"""A base model with the plan's adapter in it, for as long as it is needed.

What a plan may ask for is checked against a list of what is known to be right under per-example gradients; the rest
(DoRA, adapters on embeddings, dropout, other trained parameters) is refused before anything is trained.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from pydantic import JsonValue
from torch import Tensor, nn

from secagg.adapter import start_tensors, unflatten
from secagg.encodings.registry import encoding_of
from secagg.errors import EncodingError, ModelError
from secagg.plan import Plan
from secagg_client.models import LoadedBase, refuse_batch_norm, refuse_checkpointing, reset_head
from secagg_client.square import FACTOR, insert_squares
from secagg_client.tasks import kind_of

NO_ADAPTER = "NONE"
"""The `peft_type` of a plan whose task trains its head alone, or a whole small model as its head."""
PREFIX = "base_model.model."
"""What PEFT puts before the names of the base model's modules."""

TRAINABLE = (nn.Linear, nn.Conv2d)
"""Layers whose per-example gradients are compared with autograd in the tests."""

_ALLOWED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("SEQ_CLS", "CAUSAL_LM", None),
    "bias": ("none",),
    "lora_dropout": (0, 0.0),
    "use_dora": (False,),
    "init_lora_weights": (True,),
    "inference_mode": (True, False),
}
INSTEAD = {
    "use_dora": "DoRA's norms have no per-example gradients; train plain LoRA (use_dora = false) at a higher rank",
    "lora_dropout": "noise is what regularises here; set lora_dropout = 0",
    "bias": 'train LoRA alone (bias = "none")',
    "init_lora_weights": "A comes from the plan's seed; set init_lora_weights = true",
    "peft_type": 'only LoRA can be summed here; set peft_type = "LORA"',
    "trainable_token_indices": "embeddings have no per-example gradients here; put LoRA on linear layers",
}
_FREE = {
    "base_model_name_or_path", "r", "lora_alpha", "target_modules", "layers_to_transform", "layers_pattern",
    "modules_to_save", "fan_in_fan_out", "use_rslora",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with its adapter. `parameters` holds every tensor of the adapter by its key in the PEFT state dict."""

    model: nn.Module = field(repr=False)
    parameters: dict[str, nn.Parameter] = field(repr=False)

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Copies of all tensors, float32, on the CPU."""
        return {
            name: parameter.detach().to("cpu", torch.float32).numpy().copy()
            for name, parameter in self.parameters.items()
        }

    def assign(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Overwrite tensors by name."""
        with torch.no_grad():
            for name, value in tensors.items():
                self.parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def state_key(parameter_name: str) -> str:
    """The key in a saved PEFT adapter of a parameter of the live PEFT model."""
    return parameter_name.replace(".modules_to_save.default.", ".").replace(".default.", ".")


def check_adapter_config(config: Mapping[str, JsonValue], head: str | None) -> None:
    """Raise ModelError for a setting under which per-example gradients, or the sum of adapters, would be wrong."""
    for key, value in config.items():
        unknown = key not in _ALLOWED and key not in _FREE and value not in (None, False, {}, [])
        if unknown or (key in _ALLOWED and value not in _ALLOWED[key]):
            advice = INSTEAD.get(key, "leave it out")
            raise ModelError(f"adapter setting {key} = {value!r} is not supported: {advice}")
    saved = config.get("modules_to_save") or []
    if saved != ([head] if head else []):
        raise ModelError(f"the adapter saves modules {saved}, the task trains {[head] if head else []}")


def _inject(base: LoadedBase, config: Mapping[str, JsonValue]) -> Any:
    known = copy.deepcopy({key: value for key, value in config.items() if key in _ALLOWED or key in _FREE})
    known["base_model_name_or_path"] = None  # PEFT appends to the lists it gets, and warns of another path
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # PEFT asks by its old name
            model = get_peft_model(base.model, LoraConfig(**{**known, "inference_mode": False}))
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"LoRA does not fit {base.architecture}: {error}. {_linear_layers(base.model)}") from error
    return model


def _linear_layers(model: nn.Module) -> str:
    """For an error: which names would do."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    own = {
        name.removesuffix(".base_layer").rsplit(".", 1)[-1]
        for name in linear
        if not any(peft in name for peft in ("lora_", "original_module", "modules_to_save"))
    }
    return f"Its linear layers are named {', '.join(sorted(own))}"


def _adapter_parameters(model: nn.Module, head: str | None) -> dict[str, nn.Parameter]:
    found = dict[str, nn.Parameter]()
    for name, parameter in model.named_parameters():
        if "lora_" not in name and ".modules_to_save.default." not in name:
            continue
        key = state_key(name)
        if not key.endswith((".lora_A.weight", ".lora_B.weight")) and not (head and key.startswith(f"{PREFIX}{head}.")):
            raise ModelError(
                f"{key}: only LoRA on linear and convolutional layers is supported: an embedding has no per-example "
                f"gradients here. Choose other target_modules. {_linear_layers(model)}"
            )
        parameter.data = parameter.data.float()
        found[key] = parameter
    return dict(sorted(found.items()))


@contextmanager
def injected(base: LoadedBase, config: Mapping[str, JsonValue]) -> Iterator[Adapted]:
    """The base with untrained LoRA layers as `config` says. On leaving, the base is as it was, its head zero.

    Raises:
        ModelError: the config is not supported or does not fit the model.
    """
    check_adapter_config(config, base.head)
    model = _inject(base, config)
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield Adapted(model.eval(), _adapter_parameters(model, base.head))
    finally:
        model.unload()
        reset_head(base.model, base.head)


def with_squares(adapted: Adapted) -> Adapted:
    """The same model, with a square factor R of zeros between each A and B (see `square`)."""
    both = adapted.parameters | insert_squares(adapted.model)
    return Adapted(adapted.model, dict(sorted(both.items())))


@contextmanager
def head_only(base: LoadedBase) -> Iterator[Adapted]:
    """The base with nothing to train but its head: for plans without LoRA tensors."""
    if base.head is None:
        raise ModelError(f"{base.architecture} has no head to train alone")
    for parameter in base.model.parameters():
        parameter.requires_grad_(False)
    head = getattr(base.model, base.head)
    found = {f"{PREFIX}{base.head}.{name}": parameter for name, parameter in head.named_parameters()}
    try:
        yield Adapted(base.model.eval(), dict(sorted(found.items())))
    finally:
        reset_head(base.model, base.head)


def untrained(base: LoadedBase, config: Mapping[str, JsonValue]) -> AbstractContextManager[Adapted]:
    """`injected`; or `head_only` where `config` says that there is no adapter."""
    return head_only(base) if config.get("peft_type") == NO_ADAPTER else injected(base, config)


def check_base(plan: Plan, base: LoadedBase) -> None:
    """Raise ModelError unless `base` is the model of the plan, loaded for its task."""
    if base.model_hash != plan.base_model_hash:
        raise ModelError(
            f"the base model has hash {base.model_hash[:16]}…, the session asks for {plan.base_model_hash[:16]}…: "
            f"get the model that the session names ({plan.base_model})"
        )
    if base.architecture != plan.architecture or base.task != plan.task:
        raise ModelError(f"the base was loaded as {base.architecture} for another task than the session's")


def _check_tensors(plan: Plan, adapted: Adapted) -> None:
    expected = {spec.name: spec.shape for spec in plan.tensors}
    actual = {name: tuple(parameter.shape) for name, parameter in adapted.parameters.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ModelError(
                f"tensor {name}: the plan has shape {expected.get(name)}, this model's adapter {actual.get(name)}"
            )
    try:
        encoding_of(plan).check(plan)
    except EncodingError as error:
        raise ModelError(str(error)) from error


@contextmanager
def attached(plan: Plan, base: LoadedBase, device: torch.device | None = None) -> Iterator[Adapted]:
    """The base with the plan's adapter at its start values and only the trained tensors requiring gradients.

    The model is moved to `device` before the adapter is put in: an optimiser that holds parameters of another copy
    changes nothing while the loss looks normal. On leaving, the adapter is taken out again.
    Raises ModelError when model and plan do not fit.
    """
    check_base(plan, base)
    refuse_batch_norm(base.model)
    refuse_checkpointing(base.model)
    if device is not None:
        base.model.to(device)
    with_lora = any(spec.name.endswith(".lora_A.weight") for spec in plan.tensors)
    with injected(base, plan.adapter_config) if with_lora else head_only(base) as bare:
        adapted = with_squares(bare) if any(spec.name.endswith(FACTOR) for spec in plan.tensors) else bare
        _check_tensors(plan, adapted)
        adapted.assign(start_tensors(plan))
        for spec in plan.trained:
            adapted.parameters[spec.name].requires_grad_(True)
        _refuse_other_trainables(adapted, kind_of(base.task).trained_layers)
        yield adapted


def _refuse_other_trainables(adapted: Adapted, layers: Sequence[type[nn.Module]]) -> None:
    for name, module in adapted.model.named_modules():
        own: list[Tensor] = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if own and type(module) not in layers:
            kinds = ", ".join(layer.__name__ for layer in layers)
            raise ModelError(f"{name} is a {type(module).__name__}: only {kinds} may be trained")


def load_vector(plan: Plan, adapted: Adapted, change: NDArray[np.float32]) -> None:
    """Set the trained tensors to start + change, for evaluation. `change` has shape [plan.length]."""
    start = start_tensors(plan)
    adapted.assign({name: start[name] + value for name, value in unflatten(plan, change).items()})
