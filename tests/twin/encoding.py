"""Start values, the quantiser over a vector, limbs and means, written from docs/protocol.md §2 in plain Python."""

import hashlib
import math
import struct
from collections.abc import Sequence

from tests.twin.sealed import Random, Setting, fresh, keystream, quantise, take


def single(value: float) -> float:
    """Rounded to float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def floats(raw: bytes) -> list[float]:
    """Little-endian float32."""
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def single_bytes(values: Sequence[float]) -> bytes:
    """As little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)


def start_values(seed: bytes, name: str, count: int, bound: float) -> list[float]:
    """§2.2, `seeded`."""
    stream = keystream(hashlib.sha256(b"secagg/v1/expand-lora-A" + seed + name.encode()).digest())
    words = [int.from_bytes(take(stream, 4), "little") for _ in range(count)]
    return [single((2 * word / 2**32 - 1) * bound) for word in words]


def encode(change: Sequence[float], clip: float, bits: int, weight: float, random: Random) -> list[int]:
    """§2.3, with a fresh rounding stream."""
    stream = fresh("secagg/v1/rounding", random)
    return [quantise(x, clip, bits, int.from_bytes(take(stream, 4), "little"), weight) for x in change]


def decode_mean(sums: Sequence[int], clip: float, bits: int, weights: Sequence[float]) -> list[float]:
    """§2.4."""
    step = 2.0 * clip / (2**bits - 1)
    shift = float(len(weights)) * clip
    return [single((float(total) * step - shift) / math.fsum(weights)) for total in sums]


def coefficient(setting: Setting, limbs: Sequence[int], error: int) -> int:
    """T e + sum of limbs times powers of beta (§2.5, §5.2)."""
    message = sum(int(v * setting.base**i) for i, v in enumerate(limbs))
    return setting.plaintext_modulus * error + message
