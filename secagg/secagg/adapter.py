"""From a plan to tensors and back: start values, a client's change, start plus change (protocol.md §2.1, §2.2).

Pure and exact on every platform, so that client, server and verifier get the same bits.
"""

import base64
import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EncodingError
from secagg.plan import Plan, TensorSpec
from secagg.randomness import Keystream

EXPAND_TAG = b"secagg/v1/expand-lora-A"


def expand_uniform(seed: bytes, name: str, size: int, bound: float) -> NDArray[np.float32]:
    """`size` values on [-bound, bound) from a public seed (protocol.md §2.2). Shape [size].

    The keystream's 32-bit words u become (2 u / 2^32 - 1) * bound: one rounding in float64, one to float32.
    """
    key = hashlib.sha256(EXPAND_TAG + seed + name.encode("utf-8")).digest()
    words = Keystream(key).read(4 * size).view("<u4").astype(np.float64)
    unit = words * 2.0**-31 - 1.0
    return (unit * bound).astype(np.float32)


def start_tensor(spec: TensorSpec, a_seed: str) -> NDArray[np.float32]:
    """The start value of one tensor, in its shape."""
    match spec.init.kind:
        case "zeros":
            flat = np.zeros(spec.size, dtype=np.float32)
        case "seeded":
            flat = expand_uniform(bytes.fromhex(a_seed), spec.name, spec.size, spec.init.bound)
        case "embedded":
            raw = base64.b64decode(spec.init.data, validate=True)
            flat = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    return flat.reshape(spec.shape)


def start_tensors(plan: Plan) -> dict[str, NDArray[np.float32]]:
    """Start value of every tensor of the adapter, by its key in the PEFT state dict, in the plan's order."""
    return {spec.name: start_tensor(spec, plan.a_seed) for spec in plan.tensors}


def flatten(plan: Plan, tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The trained tensors as one vector of shape [plan.length], in the plan's order (protocol.md §2.1).

    Raises:
        EncodingError: a trained tensor is missing or has another shape than the plan says.
    """
    parts = list[NDArray[np.float32]]()
    for spec in plan.trained:
        tensor = tensors.get(spec.name)
        if tensor is None:
            raise EncodingError(f"tensor {spec.name} is missing")
        if tensor.shape != spec.shape:
            raise EncodingError(f"tensor {spec.name} has shape {tensor.shape}, the plan says {spec.shape}")
        parts.append(np.ascontiguousarray(tensor, dtype=np.float32).reshape(-1))
    return np.concatenate(parts)


def unflatten(plan: Plan, vector: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The trained tensors by name, each in its shape: the inverse of `flatten`.

    Raises:
        EncodingError: the vector does not have shape [plan.length].
    """
    if vector.shape != (plan.length,):
        raise EncodingError(f"the vector has shape {vector.shape}, the plan says ({plan.length},)")
    tensors, offset = dict[str, NDArray[np.float32]](), 0
    for spec in plan.trained:
        tensors[spec.name] = vector[offset : offset + spec.size].astype(np.float32).reshape(spec.shape)
        offset += spec.size
    return tensors


def release_tensors(plan: Plan, mean_change: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Start values, plus the mean change where a tensor is trained.

    `mean_change` has shape [plan.length]. The sum is one float32 addition per value.
    Raises EncodingError for a wrong length or a value that is not finite.
    """
    if not np.isfinite(mean_change).all():
        raise EncodingError("the mean change holds a value that is not finite")
    changes = unflatten(plan, mean_change)
    tensors = start_tensors(plan)
    for name, change in changes.items():
        tensors[name] = tensors[name] + change
    return tensors
