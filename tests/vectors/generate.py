"""Writes tests/vectors/sealed.json from the naive twin: run `python -m tests.vectors.generate` in the
repository root.

Long outputs are given by their SHA-256. Randomness is `PredictableRandomness(seed)`, whose definition is one
line. Malformed cases carry what must be done to valid bytes, and the `code` of the error that must follow.
"""

import hashlib
import json
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness

FORMAT = "secagg-vectors/sealed/1"
PATH = Path(__file__).with_name("sealed.json")
CTX = hashlib.sha256(b"secagg test vector context").digest()
SETTINGS = (
    ("three limbs, two blocks", twin.Setting(limbs=3, bits=16, n_max=1000, length=12_500), 3),
    ("four limbs, small cohort", twin.Setting(limbs=4, bits=16, n_max=10, length=100), 2),
    ("seven limbs of eight bits", twin.Setting(limbs=7, bits=8, n_max=10, length=29_000), 2),
    ("two limbs beyond 32 bits", twin.Setting(limbs=2, bits=24, n_max=4096, length=8192), 2),
    ("one value", twin.Setting(limbs=3, bits=1, n_max=2, length=1), 2),
)
THRESHOLD, HOLDERS = 3, 4


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def words(values: list[int], size: int) -> bytes:
    """Little-endian integers of `size` bytes, two's complement."""
    return b"".join(value.to_bytes(size, "little", signed=True) for value in values)


def vector(setting: twin.Setting, number: int) -> list[int]:
    """Input of client `number`: low `bits` bits of words of `PredictableRandomness`; client 0 sends the top value."""
    if number == 0:
        return [2**setting.bits - 1] * setting.length
    raw = PredictableRandomness(b"vector %d" % number)(4 * setting.length)
    return [int.from_bytes(raw[4 * i : 4 * i + 4], "little") % 2**setting.bits for i in range(setting.length)]


def session(title: str, setting: twin.Setting, clients: int) -> dict[str, Any]:
    """One session from vectors to opened sum."""
    uploads, held, keys = [], [], []
    for number in range(clients):
        ciphertext, key = twin.seal(setting, CTX, vector(setting, number), PredictableRandomness(b"seal %d" % number))
        uploads.append(ciphertext)
        keys.append(key)
        held.append(twin.share(key, THRESHOLD, HOLDERS, PredictableRandomness(b"share %d" % number)))
    total = twin.add(uploads)
    key_sum = [sum(column) for column in zip(*keys, strict=True)]
    sums, error_max = twin.open_sum(setting, CTX, total, key_sum)
    return {
        "title": title,
        "ring": "n4096q90",
        "limbs": setting.limbs,
        "bits": setting.bits,
        "n_max": setting.n_max,
        "length": setting.length,
        "clients": [
            {
                "vector_sha256": digest(words(vector(setting, number), 8)),
                "key_int32_sha256": digest(words(keys[number], 4)),
                "ciphertext_bytes": len(uploads[number]),
                "ciphertext_head": uploads[number][:32].hex(),
                "ciphertext_sha256": digest(uploads[number]),
                "share_sha256": [digest(share) for share in held[number]],
            }
            for number in range(clients)
        ],
        "sum_sha256": digest(total),
        "key_sum_int64_sha256": digest(words(key_sum, 8)),
        "opened_uint64_sha256": digest(words(sums, 8)),
        "opened_head": sums[:8],
        "error_max": error_max,
    }


def quantiser_case(clip: float, bits: int, weight: float) -> dict[str, Any]:
    """Inputs, rounding words and outputs of the quantiser."""
    wanted = [-2.0 * clip, -clip, -0.25 * clip, 0.0, 0.125 * clip, 0.999 * clip, clip, 3.0 * clip]
    inputs = list(struct.unpack("<8f", struct.pack("<8f", *wanted)))  # as float32
    raw = PredictableRandomness(b"rounding")(4 * len(inputs))
    rounding = [int.from_bytes(raw[4 * i : 4 * i + 4], "little") for i in range(len(inputs))]
    outputs = [twin.quantise(x, clip, bits, word, weight) for x, word in zip(inputs, rounding, strict=True)]
    return {"clip": clip, "bits": bits, "weight": weight, "inputs": inputs, "words": rounding, "outputs": outputs}


MALFORMED = (
    {"what": "block", "change": "drop the last byte", "code": "malformed"},
    {"what": "block", "change": "append a zero byte", "code": "malformed"},
    {"what": "block", "change": "set every bit", "code": "malformed"},
    {"what": "block", "change": "set the first residue of the second prime to the prime", "code": "malformed"},
    {"what": "share", "change": "drop the last byte", "code": "share"},
    {"what": "share", "change": "append a zero byte", "code": "share"},
    {"what": "share", "change": "set every bit", "code": "share"},
    {"what": "sum", "change": "flip bit 20 of the first residue", "code": "opening"},
    {"what": "sum", "change": "leave out the last block", "code": "malformed"},
    {"what": "key sum", "change": "add one to the first coefficient", "code": "opening"},
    {"what": "key sum", "change": "set the first coefficient to 2^30", "code": "opening"},
)


def document() -> dict[str, Any]:
    """All vectors."""
    return {
        "format": FORMAT,
        "randomness": "call n: SHA-256(seed || u64be(n) || u64be(i)) for i = 0, 1, ...; seeds 'seal I', 'share I'",
        "ctx": CTX.hex(),
        "primes": twin.primes(),
        "psi": [twin.psi(prime) for prime in twin.primes()],
        "thresholds": {
            "key": [str(t) for t in twin.thresholds(Decimal("20.25"))],
            "error": [str(t) for t in twin.thresholds(Decimal("40.5"))],
        },
        "expand": [
            {"block": block, "prime": number, "head": values[:4], "uint32_sha256": digest(words(values, 4))}
            for block in (0, 1, 77)
            for number in range(3)
            for values in [twin.expand(CTX, block, number)]
        ],
        "quantise": [quantiser_case(0.5, 16, 1.0), quantiser_case(0.01, 8, 0.5), quantiser_case(3.0, 24, 1.0)],
        "threshold": THRESHOLD,
        "holders": HOLDERS,
        "sessions": [session(*case) for case in SETTINGS],
        "malformed": MALFORMED,
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(document(), indent=1) + "\n", encoding="utf-8")
