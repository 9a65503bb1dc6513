"""From a base model to the plan that every party sees (protocol.md §2.1, §4.2)."""

import copy
import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch.nn import functional

from secagg.encodings.base import lora_factor
from secagg.encodings.registry import DEFAULT, encoding_named
from secagg.errors import ConfigError, ModelError
from secagg.plan import Hash, Method, Options, Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg.validation import first_problem
from secagg_client.adapted import NO_ADAPTER, PREFIX, attached, untrained, with_squares
from secagg_client.classifier import MeanPoolClassifier
from secagg_client.data import Examples
from secagg_client.mixing import refuse_mixing
from secagg_client.models import LoadedBase, load_base
from secagg_client.plan_defaults import DEFAULT_RANK
from secagg_client.tasks import kind_of, make_task

SEED_TAG = b"secagg/v1/a-seed\x00"


class PlanConfig(BaseModel):
    """What a coordinator decides about model and training. All of it is public.

    `base_model` is a Hugging Face id or folder; `base_model_name` is what the plan and the adapter call it (default:
    the same). No `target_modules` means the query and value projections that PEFT knows for the architecture; no
    `layers` means all. `lora_clip` and `head_clip` limit each value's change over the whole run.
    `method` names an encoding (`secagg.encodings`): what enters the vector and what is released; `options` are its own.
    The head starts at `zeros`, at `seeded` values, or at the embeddings of `label_descriptions` (one or more texts
    per label; `mean` pooling), so that the start is a zero-shot classifier. `a_seed` defaults to a hash of the base.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: str = Field(min_length=1)
    base_model_name: str | None = None
    task: TaskSpec
    training: TrainingSettings
    rank: int = Field(default=DEFAULT_RANK, ge=1, le=1024)
    alpha: float = Field(default=16, gt=0)
    target_modules: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    method: Method = DEFAULT
    options: Options = Field(default_factory=dict)
    lora_clip: float = Field(gt=0)
    head_clip: float = Field(default=1.0, gt=0)
    head_start: Literal["zeros", "seeded", "descriptions"] = "zeros"
    label_descriptions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    a_seed: Hash | None = None


def make_plan(config: PlanConfig, base: LoadedBase | None = None) -> Plan:
    """Derive the plan; loads the base model unless it is given. Same model and config, same plan.

    Raises:
        ModelError: the model cannot be loaded or adapted, or mixes the examples of a batch.
        ConfigError: the head's start does not fit task and pooling; a setting that no plan holds.
        EncodingError: the method does not exist, or does not fit model and options.
    """
    encoding = encoding_named(config.method)
    if base is None:
        base = load_base(config.base_model, config.task)
    elif base.task != config.task:
        raise ConfigError("the base was loaded for another task than the plan's")
    adapter = _adapter_config(config, base)
    with untrained(base, adapter) as bare:
        adapted = with_squares(bare) if "R" in encoding.trained_factors else bare
        shapes = {name: tuple(parameter.shape) for name, parameter in adapted.parameters.items()}
    head = _head_inits(config, base, shapes)
    seed = config.a_seed or hashlib.sha256(SEED_TAG + bytes.fromhex(base.model_hash)).hexdigest()
    try:
        plan = Plan(
            base_model=config.base_model_name or config.base_model,
            base_model_hash=base.model_hash,
            architecture=base.architecture,
            task=config.task,
            method=config.method,
            options=config.options,
            a_seed=seed,
            tensors=tuple(_tensor(name, shape, head, config) for name, shape in sorted(shapes.items())),
            adapter_config=adapter,
            training=config.training,
        )
    except ValidationError as error:
        raise ConfigError(f"plan: {first_problem(error)}") from None
    encoding.check(plan)
    refuse_mixing(plan, base)
    return plan


def verify_plan(plan: Plan, base: LoadedBase) -> None:
    """What a client does with a plan from outside: fit it to its own copy of the model.

    Raises:
        ModelError: another base model, an adapter setting that is not supported, or tensors that this model's
            adapter does not have.
    """
    with attached(plan, base):
        return


def _adapter_config(config: PlanConfig, base: LoadedBase) -> dict[str, JsonValue]:
    if not kind_of(config.task).adapts:
        return {"peft_type": NO_ADAPTER, "base_model_name_or_path": config.base_model_name or config.base_model}
    targets = list(config.target_modules)
    model_type = getattr(base.model.config, "model_type", "")
    if not targets:
        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
        if not isinstance(known, list):
            raise ModelError(
                f"no default target modules for {model_type!r}: name them with target_modules "
                "in plan.toml, or with --target-modules of `secagg demo`"
            )
        targets = known
    targets_list: list[JsonValue] = [*sorted(set(targets))]
    layers: list[JsonValue] | None = None if config.layers is None else [*sorted(set(config.layers))]
    saved: list[JsonValue] | None = [base.head] if base.head else None
    return {
        "peft_type": "LORA",
        "task_type": kind_of(config.task).peft_task_type,
        "base_model_name_or_path": config.base_model_name or config.base_model,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": model_type == "gpt2",
        "target_modules": targets_list,
        "layers_to_transform": layers,
        "modules_to_save": saved,
        "use_dora": False,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def _tensor(name: str, shape: tuple[int, ...], head: dict[str, TensorInit], config: PlanConfig) -> TensorSpec:
    factor = lora_factor(name)
    if factor is None:
        return TensorSpec(name=name, shape=shape, init=head[name], clip=config.head_clip)
    trained = encoding_named(config.method).trained_factors
    init = TensorInit(kind="zeros")
    if factor == "A":
        # the bound of PEFT's own start, kaiming_uniform_(a=sqrt(5))
        init = TensorInit(kind="seeded", bound=_bound(shape))
    elif factor == "B" and "R" in trained:
        # columns of about unit length, so that a step of R moves the weights as a step of B would
        init = TensorInit(kind="seeded", bound=math.sqrt(3.0 / shape[0]))
    return TensorSpec(name=name, shape=shape, init=init, clip=config.lora_clip if factor in trained else 0.0)


def _bound(shape: tuple[int, ...]) -> float:
    return 1.0 / math.sqrt(math.prod(shape[1:] or shape))


def _head_inits(config: PlanConfig, base: LoadedBase, shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorInit]:
    names = [name for name in shapes if lora_factor(name) is None]
    start = config.head_start
    if start == "descriptions":
        rows = description_embeddings(base, [config.label_descriptions.get(label, ()) for label in config.task.labels])
        inits = {name: TensorInit(kind="zeros") for name in names}
        inits[f"{PREFIX}{base.head}.weight"] = TensorInit.embed(rows)
        return inits
    if start == "zeros" and len(names) > 2:
        raise ConfigError(f'the head of {base.architecture} has several layers: head_start = "seeded" is needed')
    seeded = TensorInit(kind="seeded", bound=0.0)
    return {
        name: seeded.model_copy(update={"bound": _bound(shapes[name])})
        if start == "seeded" and (name.endswith(".weight") or len(shapes[name]) > 1)
        else TensorInit(kind="zeros")
        for name in names
    }


def description_embeddings(base: LoadedBase, descriptions: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """One unit vector per label: the mean of its descriptions' unit embeddings. Shape [classes, hidden].

    Raises:
        ConfigError: a label has no description, or the model does not pool by mean.
    """
    if not isinstance(base.model, MeanPoolClassifier):
        raise ConfigError('head_start = "descriptions" needs pooling = "mean"')
    if not all(descriptions):
        raise ConfigError("label_descriptions must hold at least one text for every label")
    task = make_task(base.task, base.tokenizer)
    # In float64, so that what differs between machines and numbers of threads is lost in rounding to float32: the
    # values are part of the plan, and two copies of a model must give the same plan.
    model = copy.deepcopy(base.model).to("cpu", torch.float64)
    rows = list[NDArray[np.float64]]()
    for texts in descriptions:
        encoded = task.encode(Examples("label descriptions", tuple(texts), (0,) * len(texts)))
        batch = task.collate(encoded)
        with torch.no_grad():
            features = model.features(batch.input_ids, batch.attention_mask)
        mean = functional.normalize(features, dim=-1).mean(0)
        rows.append(functional.normalize(mean, dim=-1).numpy())
    return np.stack(rows).astype(np.float32)
