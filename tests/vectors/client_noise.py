"""Vectors of client-level noise: samples, grids, encoded and masked vectors, refused settings (protocol.md §14)."""

from fractions import Fraction

from tests.twin import client_noise as twin
from tests.twin.encoding import single, single_bytes
from tests.twin.predictable import PredictableRandomness
from tests.twin.sealed import fresh, take
from tests.vectors.common import RANDOMNESS, Json, digest, uniform, words

VARIANCES = (Fraction(1, 256), Fraction(1), Fraction(513, 256), Fraction(10**6), Fraction(2**48 - 1, 256))
SAMPLES = 300
CLIENTS = 3
SETTINGS: tuple[Json, ...] = (
    {"title": "16 bits", "bits": 16, "parts": [[40, 0.5], [24, 0.015625]], "clip": 4.0, "noise_multiplier": 1.0,
     "n_min": 5, "colluders": 1, "weight": 1.0},
    {"title": "a vector that is too long", "bits": 16, "parts": [[64, 0.5]], "clip": 1.5, "noise_multiplier": 0.25,
     "n_min": 20, "colluders": 3, "weight": 1.0},
    {"title": "8 bits, a weight", "bits": 8, "parts": [[10, 0.25]], "clip": 2.0, "noise_multiplier": 0.5,
     "n_min": 10, "colluders": 0, "weight": 0.5},
    {"title": "one value", "bits": 14, "parts": [[1, 1.0]], "clip": 1.0, "noise_multiplier": 4.0,
     "n_min": 3, "colluders": 1, "weight": 1.0},
)  # fmt: skip
REFUSED: tuple[Json, ...] = (
    {"title": "no room in the bits", "bits": 8, "parts": [[100, 0.5]], "clip": 1.0, "noise_multiplier": 50.0,
     "n_min": 3, "colluders": 1, "code": "parameter"},
    {"title": "nobody's noise counts", "bits": 16, "parts": [[100, 0.5]], "clip": 1.0, "noise_multiplier": 1.0,
     "n_min": 3, "colluders": 3, "code": "parameter"},
)  # fmt: skip


def samples(variance: Fraction) -> Json:
    """Discrete Gaussians of one variance."""
    random, seed = PredictableRandomness(b"client noise"), "client noise"
    streams = [fresh(f"secagg/v1/client-noise{part}", random) for part in ("", "-refine")]
    word, more = (lambda s=s: int.from_bytes(take(s, 4), "little") for s in streams)
    found = [twin.gaussian(variance, word, more) for _ in range(SAMPLES)]
    return {
        "variance": [variance.numerator, variance.denominator],
        "seed": seed,
        "count": SAMPLES,
        "head": found[:12],
        "int64_sha256": digest(words(found, 8)),
    }


def encoded(setting: Json) -> Json:
    """One client's vector on the grid of a setting, without and with noise."""
    length = sum(size for size, _ in setting["parts"])
    clips = [clip for size, clip in setting["parts"] for _ in range(size)]
    honest = setting["n_min"] - setting["colluders"]
    made = twin.grid(setting["bits"], length, setting["clip"], setting["noise_multiplier"], honest)
    assert made is not None, setting["title"]
    raw = uniform(b"client noise vector", length, 16)
    values = [single((word / 2**15 - 1) * clip * 1.25) for word, clip in zip(raw, clips, strict=True)]
    random = PredictableRandomness(b"client noise encoding")
    return {
        **setting,
        "scale": made.scale,
        "bound": made.bound,
        "variance": [made.variance.numerator, made.variance.denominator],
        "reach": made.reach,
        "seed": "client noise encoding",
        "float32": single_bytes(values).hex(),
        "encoded": twin.encode(values, clips, setting["weight"], setting["clip"], made, random),
    }


def summed(setting: Json) -> Json:
    """Three clients' noisy vectors, each under masks (§12.5.2), their sum, and the mean that it decodes to (§14.2)."""
    clips = [clip for size, clip in setting["parts"] for _ in range(size)]
    honest = setting["n_min"] - setting["colluders"]
    made = twin.grid(setting["bits"], len(clips), setting["clip"], setting["noise_multiplier"], honest)
    assert made is not None, setting["title"]
    width = (CLIENTS * (2 ** setting["bits"] - 1)).bit_length()
    pair = {(i, j): PredictableRandomness(f"pair {i} {j}".encode())(32) for i in range(CLIENTS) for j in range(i)}
    clients, sums = list[Json](), [0] * len(clips)
    for i in range(CLIENTS):
        raw = uniform(f"summed {i}".encode(), len(clips), 16)
        values = [single((word / 2**15 - 1) * clip) for word, clip in zip(raw, clips, strict=True)]
        random = PredictableRandomness(f"summed {i}".encode())
        sent = twin.encode(values, clips, setting["weight"], setting["clip"], made, random)
        masks = [twin.Mask("self", PredictableRandomness(f"self {i}".encode())(32), negative=False)]
        masks += [twin.Mask("pair", pair[max(i, j), min(i, j)], negative=j < i) for j in range(CLIENTS) if j != i]
        clients.append({
            "seed": f"summed {i}",
            "float32": single_bytes(values).hex(),
            "encoded": sent,
            "masks": [[mask.kind, mask.seed.hex(), mask.negative] for mask in masks],
            "packed": twin.masked(sent, width, masks).hex(),
        })  # fmt: skip
        sums = [total + value for total, value in zip(sums, sent, strict=True)]
    mean = twin.decode_mean(sums, clips, made, [1.0] * CLIENTS)
    return {**setting, "width": width, "clients": clients, "sums": sums, "mean": single_bytes(mean).hex()}


def document() -> Json:
    """The whole file."""
    return {
        "randomness": RANDOMNESS,
        "samples": [samples(variance) for variance in VARIANCES],
        "encoded": [encoded(setting) for setting in SETTINGS],
        "summed": [summed(setting) for setting in SETTINGS[:2]],
        "malformed": list(REFUSED),
    }
