"""Start values, vector order and release tensors (protocol.md §2.1, §2.2)."""

import hashlib
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.adapter import expand_uniform, flatten, release_tensors, start_tensors, unflatten
from secagg.errors import EncodingError
from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings

SEED = bytes(range(32))
HEAD = np.array([[0.5, -0.25]], dtype=np.float32)


def plan() -> Plan:
    return Plan(
        base_model="tiny",
        base_model_hash="0" * 64,
        architecture="Tiny",
        task=TaskSpec(kind="classify", labels=("a", "b"), max_length=8),
        a_seed=SEED.hex(),
        tensors=(
            TensorSpec(name="a.lora_A.weight", shape=(2, 3), init=TensorInit(kind="seeded", bound=0.5), clip=0.0),
            TensorSpec(name="a.lora_B.weight", shape=(3, 2), init=TensorInit(kind="zeros"), clip=0.1),
            TensorSpec(name="head", shape=(1, 2), init=TensorInit.embed(HEAD), clip=0.2),
        ),
        adapter_config={},
        training=TrainingSettings(
            steps=1, batch_size=1, learning_rate=0.1, optimizer="sgd", max_grad_norm=1.0, epsilon=1.0, delta=1e-5
        ),
    )


def naive_expand(seed: bytes, name: str, size: int, bound: float) -> list[float]:
    """Straight from the text of §2.2."""
    key = hashlib.sha256(b"secagg/v1/expand-lora-A" + seed + name.encode()).digest()
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * size))
    words = struct.unpack(f"<{size}I", stream)
    return [struct.unpack("<f", struct.pack("<f", (2 * u / 2**32 - 1) * bound))[0] for u in words]


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.text(min_size=1, max_size=20), st.integers(1, 70), st.floats(1e-6, 10))
def test_expansion_follows_the_text(seed: bytes, name: str, size: int, bound: float) -> None:
    values = expand_uniform(seed, name, size, bound)
    assert values.dtype == np.float32
    assert values.tolist() == naive_expand(seed, name, size, bound)
    assert np.abs(values).max() <= np.float32(bound)


def test_expansion_is_pinned() -> None:
    """The same bits on every platform and in every version."""
    digest = hashlib.sha256(expand_uniform(SEED, "a.lora_A.weight", 1000, 1 / np.sqrt(384)).tobytes()).hexdigest()
    assert digest == "4925b649f7d4c75a40cb421fa4f08c4747fe360d7b686552d4a86d46fb50260b"


def test_start_values() -> None:
    tensors = start_tensors(plan())
    assert list(tensors) == ["a.lora_A.weight", "a.lora_B.weight", "head"]
    assert np.array_equal(tensors["a.lora_A.weight"].ravel(), expand_uniform(SEED, "a.lora_A.weight", 6, 0.5))
    assert not tensors["a.lora_B.weight"].any()
    assert np.array_equal(tensors["head"], HEAD)


def test_vector_order_is_by_name_row_by_row_trained_only() -> None:
    tensors = start_tensors(plan())
    tensors["a.lora_B.weight"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    vector = flatten(plan(), tensors)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 0.5, -0.25]
    back = unflatten(plan(), vector)
    assert back.keys() == {"a.lora_B.weight", "head"}
    assert all(np.array_equal(back[name], tensors[name]) for name in back)


def test_release_is_start_plus_mean_change() -> None:
    change = np.arange(8, dtype=np.float32) / np.float32(8)
    tensors = release_tensors(plan(), change)
    start = start_tensors(plan())
    assert np.array_equal(tensors["a.lora_A.weight"], start["a.lora_A.weight"])
    assert tensors["a.lora_B.weight"].ravel().tolist() == [0, 0.125, 0.25, 0.375, 0.5, 0.625]
    assert tensors["head"].tolist() == [[1.25, 0.625]]
    assert all(value.dtype == np.float32 for value in tensors.values())


def test_vectors_and_tensors_that_do_not_fit() -> None:
    with pytest.raises(EncodingError, match=r"shape \(7,\), the plan says \(8,\)"):
        release_tensors(plan(), np.zeros(7, dtype=np.float32))
    with pytest.raises(EncodingError, match="not finite"):
        release_tensors(plan(), np.full(8, np.nan, dtype=np.float32))
    with pytest.raises(EncodingError, match=r"tensor a.lora_B.weight is missing"):
        flatten(plan(), {})
    with pytest.raises(EncodingError, match=r"tensor head has shape \(2,\)"):
        flatten(plan(), {**start_tensors(plan()), "head": np.zeros(2, dtype=np.float32)})
