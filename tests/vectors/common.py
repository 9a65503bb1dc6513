"""What the generators share: digests, integers as bytes, made-up data, and the parts that cannot be made twice."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.twin.predictable import PredictableRandomness

FOLDER = Path(__file__).parent
FIXED = FOLDER / "fixed.json"
CTX = hashlib.sha256(b"secagg test vector context").digest()
RANDOMNESS = "call n: SHA-256(seed || u64be(n) || u64be(i)) for i = 0, 1, ...; seeds are given as text"
Json = dict[str, Any]


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def words(values: list[int], size: int) -> bytes:
    """Little-endian integers of `size` bytes, two's complement."""
    return b"".join(value.to_bytes(size, "little", signed=True) for value in values)


def uniform(seed: bytes, count: int, bits: int) -> list[int]:
    """Low `bits` bits of `count` 32-bit words of `PredictableRandomness(seed)`."""
    raw = PredictableRandomness(seed)(4 * count)
    return [int.from_bytes(raw[4 * i : 4 * i + 4], "little") % 2**bits for i in range(count)]


def fixed() -> Json:
    """Certificates and boxes: ECDSA and HPKE draw randomness of their own, so they were made once and are kept."""
    loaded: Json = json.loads(FIXED.read_text(encoding="utf-8"))
    return loaded
