"""Plans with planted changes for any encoding, and the way of a vector through the product's quantiser."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from secagg.adapter import start_tensors, unflatten
from secagg.encodings.registry import encoding_named, encoding_of
from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg.randomness import Randomness
from tests.twin.predictable import PredictableRandomness

OUTPUTS, INPUTS, RANK, CLIP = 48, 40, 4, 0.2
LAYERS = ("m.first", "m.second")
HEAD = "m.head.weight"
Change = NDArray[np.float32]


def lora_specs(layer: str, factors: frozenset[str], outputs: int, inputs: int) -> list[TensorSpec]:
    def spec(factor: str, shape: tuple[int, ...], init: TensorInit) -> TensorSpec:
        own = CLIP if factor in factors else 0.0
        return TensorSpec(name=f"{layer}.lora_{factor}.weight", shape=shape, init=init, clip=own)

    seeded = TensorInit(kind="seeded", bound=inputs**-0.5)
    zeros = TensorInit(kind="zeros")
    square = "R" in factors
    specs = [spec("A", (RANK, inputs), seeded), spec("B", (outputs, RANK), seeded if square else zeros)]
    return [*specs, spec("R", (RANK, RANK), zeros)] if square else specs


def plan_of(method: str, sides: tuple[int, int] = (OUTPUTS, INPUTS), /, **options: JsonValue) -> Plan:
    """Two adapted layers and a head, trained as the encoding wants it."""
    factors = encoding_named(method).trained_factors
    specs = [spec for layer in LAYERS for spec in lora_specs(layer, factors, *sides)]
    head = TensorSpec(name=HEAD, shape=(2, 5), init=TensorInit(kind="zeros"), clip=1.0)
    return Plan(
        base_model="tiny",
        base_model_hash="ab" * 32,
        architecture="Tiny",
        task=TaskSpec(kind="classify", labels=("no", "yes"), max_length=16),
        method=method,
        options=options,
        a_seed="01" * 32,
        tensors=tuple(sorted([*specs, head], key=lambda spec: spec.name)),
        adapter_config={"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "use_rslora": False},
        training=TrainingSettings(
            steps=4, batch_size=8, learning_rate=0.01, optimizer="sgd", max_grad_norm=1.0, epsilon=8.0, delta=1e-5
        ),
    )


def planted(plan: Plan, clients: int, seed: int = 0, scale: float = 0.3) -> list[Change]:
    """Changes of `clients`, each value within its clip: normal with deviation `scale` clips."""
    rng = np.random.default_rng(seed)
    changes = list[Change]()
    for _ in range(clients):
        parts = [np.clip(rng.normal(0, scale, spec.size), -1, 1) * spec.clip for spec in plan.trained]
        changes.append(np.concatenate(parts).astype(np.float32))
    return changes


def locals_of(plan: Plan, change: Change) -> dict[str, NDArray[np.float64]]:
    """A client's trained tensors, start plus change, in float64."""
    start, changes = start_tensors(plan), unflatten(plan, change)
    return {name: start[name].astype(np.float64) + changes.get(name, 0.0) for name in start}


def mean_vector(plan: Plan, changes: Sequence[Change], bits: int, random: Randomness | None = None) -> Change:
    """Encoded, quantised, summed as integers, decoded to the mean vector; the same one at each call."""
    random = random or PredictableRandomness(b"mean vector")
    encoding = encoding_of(plan)
    quantiser = encoding.layout(plan).quantiser(bits)
    total = np.zeros(quantiser.length, dtype=np.uint64)
    for change in changes:
        vector = encoding.encode(plan, change, random)
        assert vector.dtype == np.float32
        total += quantiser.encode(vector, random).values
    return quantiser.decode_mean(total, len(changes))


def released(plan: Plan, changes: Sequence[Change], bits: int, random: Randomness | None = None) -> dict[str, Change]:
    """What the product would release."""
    return encoding_of(plan).decode(plan, mean_vector(plan, changes, bits, random), len(changes))


def weight_change(plan: Plan, tensors: Mapping[str, NDArray[Any]], layer: str) -> NDArray[np.float64]:
    """scale * B A of a released adapter, as PEFT applies it."""
    config: Any = encoding_of(plan).adapter_config(plan)
    b, a = (tensors[f"{layer}.lora_{factor}.weight"].astype(np.float64) for factor in "BA")
    assert b.shape[1] == a.shape[0] == config["r"]
    return np.asarray(config["lora_alpha"] / config["r"] * (b @ a))


def mean_product(plan: Plan, changes: Sequence[Change], layer: str) -> NDArray[np.float64]:
    """scale * mean of B (R) A over the clients, computed plainly."""
    total = np.zeros((1, 1))
    for change in changes:
        own = locals_of(plan, change)
        b, a = (own[f"{layer}.lora_{factor}.weight"] for factor in "BA")
        total = total + (b @ own[f"{layer}.lora_R.weight"] if f"{layer}.lora_R.weight" in own else b) @ a
    return np.asarray(8 / RANK * total / len(changes))


def relative_error(plan: Plan, changes: Sequence[Change], tensors: Mapping[str, NDArray[Any]]) -> float:
    """Largest over layers of |released - mean product| / |mean product|, Frobenius."""
    errors = list[float]()
    for layer in LAYERS:
        expected = mean_product(plan, changes, layer)
        found = weight_change(plan, tensors, layer)
        errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return max(errors)
