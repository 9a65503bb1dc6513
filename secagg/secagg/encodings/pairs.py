"""The two factors of each adapted layer, for encodings that work on their product."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue

from secagg.adapter import start_tensors, unflatten
from secagg.encodings.base import Tensors, lora_factor
from secagg.encodings.layout import Array, Part
from secagg.errors import EncodingError
from secagg.exact import Svd, lora_factors
from secagg.plan import Plan, TensorSpec

FACTORS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True, slots=True)
class Pair:
    """LoRA on one linear layer: A [rank, inputs] and B [outputs, rank]. `layer` is what their names begin with."""

    layer: str
    a: TensorSpec
    b: TensorSpec

    @property
    def outputs(self) -> int:
        """Rows of the layer's weight."""
        return self.b.shape[0]

    @property
    def inputs(self) -> int:
        """Columns of the layer's weight."""
        return self.a.shape[1]

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]

    @property
    def product_bound(self) -> float:
        """No value of B A is larger, while both stay within their clips of the start."""
        return self.rank * self.b.clip * (self.a.init.bound + self.a.clip)


class Factors(NamedTuple):
    """B [outputs, rank] and A [rank, inputs] of one client, float32."""

    b: Array
    a: Array


def pairs(plan: Plan) -> tuple[Pair, ...]:
    """The plan's LoRA pairs in order of name. Raises EncodingError for a factor alone, or of odd shape."""
    specs = {spec.name: spec for spec in plan.tensors}
    layers = sorted({name.removesuffix(end) for name in specs for end in FACTORS if name.endswith(end)})
    found = list[Pair]()
    for layer in layers:
        a, b = (specs.get(layer + end) for end in FACTORS)
        if a is None or b is None:
            raise EncodingError(f"layer {layer}: LoRA's A or B is missing")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise EncodingError(f"layer {layer}: {plan.method} takes LoRA on linear layers, not {a.shape}, {b.shape}")
        found.append(Pair(layer, a, b))
    return tuple(found)


def check_products(plan: Plan) -> None:
    """Raise EncodingError unless B A is 0 at the start and scaled as `released_config` can say it."""
    if not pairs(plan):
        raise EncodingError(f"{plan.method} needs LoRA tensors; the plan has none: choose ffa-lora")
    for pair in pairs(plan):
        if pair.b.init.kind != "zeros" or pair.a.init.kind != "seeded":
            raise EncodingError(f"layer {pair.layer}: {plan.method} starts from a seeded A and a B of zeros")
    rank, alpha = plan.adapter_config.get("r"), plan.adapter_config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or plan.adapter_config.get("use_rslora"):
        raise EncodingError(f"{plan.method} needs r and lora_alpha in the adapter's configuration, and no rslora")


def local_factors(plan: Plan, change: Array) -> tuple[dict[str, Factors], Tensors]:
    """A client's trained factors by layer, and the change of every trained tensor that is no factor of LoRA."""
    changes, start = unflatten(plan, change), start_tensors(plan)
    trained = {name: start[name] + changes[name] if name in changes else start[name] for name in start}
    factors = {pair.layer: Factors(trained[pair.b.name], trained[pair.a.name]) for pair in pairs(plan)}
    return factors, {spec.name: changes[spec.name] for spec in other_specs(plan)}


def other_specs(plan: Plan) -> tuple[TensorSpec, ...]:
    """The trained tensors that are no factor of LoRA: the head."""
    return tuple(spec for spec in plan.trained if lora_factor(spec.name) is None)


def other_parts(plan: Plan) -> tuple[Part, ...]:
    """Their parts of the vector: their changes."""
    return tuple(Part(spec.name, spec.shape, spec.clip) for spec in other_specs(plan))


def released(plan: Plan, arrays: Tensors, products: dict[str, Svd], rank: int) -> Tensors:
    """The adapter: the best factors of rank `rank` of each layer's product, and start + mean change of the rest."""
    tensors, start = Tensors(), start_tensors(plan)
    for pair in pairs(plan):
        tensors[pair.b.name], tensors[pair.a.name] = lora_factors(products[pair.layer], rank)
    for spec in other_specs(plan):
        tensors[spec.name] = start[spec.name] + arrays[spec.name].astype(np.float32)
    return tensors


def released_config(plan: Plan, rank: int) -> dict[str, JsonValue]:
    """The adapter's configuration at rank `rank`; lora_alpha grows with it, so that PEFT's scale alpha/r stays."""
    own, alpha = plan.adapter_config["r"], plan.adapter_config["lora_alpha"]
    if not isinstance(own, int) or not isinstance(alpha, int | float):
        raise EncodingError("r and lora_alpha of the adapter's configuration must be numbers")
    scaled = alpha * rank / own
    return {**plan.adapter_config, "r": rank, "lora_alpha": int(scaled) if scaled.is_integer() else scaled}
