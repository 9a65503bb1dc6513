"""Vectors of the arithmetic: parameters, encoding, limbs, expansion, Gaussians, packing, shares, whole sums."""

import hashlib
import struct
from decimal import Decimal

from tests.twin import encoding, parameters
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import CTX, RANDOMNESS, Json, digest, uniform, words

SETTINGS = (
    ("three limbs, two blocks", twin.Setting(limbs=3, bits=16, n_max=1000, length=12_500), 3),
    ("four limbs, small cohort", twin.Setting(limbs=4, bits=16, n_max=10, length=100), 2),
    ("seven limbs of eight bits", twin.Setting(limbs=7, bits=8, n_max=10, length=29_000), 2),
    ("two limbs beyond 32 bits", twin.Setting(limbs=2, bits=24, n_max=4096, length=8192), 2),
    ("one limb for a hundred thousand", twin.Setting(limbs=1, bits=24, n_max=100_000, length=100), 2),
    ("many limbs of two bits", twin.Setting(limbs=29, bits=2, n_max=2, length=1000), 2),
    ("one value", twin.Setting(limbs=3, bits=2, n_max=2, length=1), 2),
)
THRESHOLD, HOLDERS = 3, 4
KEY_VARIANCE, ERROR_VARIANCE = Decimal("20.25"), Decimal("40.5")


def vector(setting: twin.Setting, number: int) -> list[int]:
    """Input of client `number`: words of `PredictableRandomness`; client 0 sends the top value throughout."""
    if number == 0:
        return [2**setting.bits - 1] * setting.length
    return uniform(b"vector %d" % number, setting.length, setting.bits)


def session(title: str, setting: twin.Setting, clients: int) -> Json:
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


SEALED_MALFORMED = (
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


def sealed() -> Json:
    """Sealing, adding, sharing and opening (§5, §6.1, §9)."""
    return {
        "randomness": RANDOMNESS + "; 'seal I' and 'share I' for client I",
        "ctx": CTX.hex(),
        "threshold": THRESHOLD,
        "holders": HOLDERS,
        "sessions": [session(*case) for case in SETTINGS],
        "malformed": SEALED_MALFORMED,
    }


def parameter_sets() -> Json:
    """Which number of limbs a session gets, and which sessions there are none for (§3)."""
    grid = [(b, n, length) for b in (2, 8, 16, 24) for n in (2, 10, 1000, 100_000) for length in (1, 10**6, 2**36)]
    refused = [
        (16, 32_767, 100),
        (17, 16_383, 100),
        (1, 10, 100),
        (25, 10, 100),
        (16, 1, 100),
        (16, 100_001, 100),
        (16, 10, 0),
    ]
    return {
        "primes": twin.primes(),
        "psi": [twin.psi(prime) for prime in twin.primes()],
        "sets": [
            {"bits": b, "n_max": n, "length": length, "limbs": parameters.tightest(b, n, length)}
            for b, n, length in grid
        ],
        "malformed": [{"bits": b, "n_max": n, "length": length, "code": "parameter"} for b, n, length in refused],
    }


def quantiser_case(clip: float, bits: int, weight: float) -> Json:
    """Inputs, rounding words and outputs of the quantiser."""
    wanted = [-2.0 * clip, -clip, -0.25 * clip, 0.0, 0.125 * clip, 0.999 * clip, clip, 3.0 * clip]
    inputs = list(struct.unpack("<8f", struct.pack("<8f", *wanted)))  # as float32
    rounding = uniform(b"rounding", len(inputs), 32)
    outputs = [twin.quantise(x, clip, bits, word, weight) for x, word in zip(inputs, rounding, strict=True)]
    return {"clip": clip, "bits": bits, "weight": weight, "inputs": inputs, "words": rounding, "outputs": outputs}


def vector_case(clip: float, bits: int, weights: list[float]) -> Json:
    """Vectors of several clients through their own rounding streams, and the mean of their sum."""
    count = 600
    inputs = [
        [encoding.single((word / 2**31 - 1) * 1.2 * clip) for word in uniform(b"input %d" % number, count, 32)]
        for number in range(len(weights))
    ]
    levels = [
        encoding.encode(values, clip, bits, weight, PredictableRandomness(b"encode %d" % number))
        for number, (values, weight) in enumerate(zip(inputs, weights, strict=True))
    ]
    sums = [sum(column) for column in zip(*levels, strict=True)]
    mean = encoding.decode_mean(sums, clip, bits, weights)
    return {
        "clip": clip,
        "bits": bits,
        "weights": weights,
        "count": count,
        "input_float32_sha256": [digest(encoding.single_bytes(values)) for values in inputs],
        "level_uint64_sha256": [digest(words(values, 8)) for values in levels],
        "sums_head": sums[:8],
        "mean_float32_head": encoding.single_bytes(mean[:8]).hex(),
        "mean_float32_sha256": digest(encoding.single_bytes(mean)),
    }


ENCODING_MALFORMED = (
    {"what": "encode", "change": "a value is NaN", "code": "encoding"},
    {"what": "encode", "change": "a value is infinite", "code": "encoding"},
    {"what": "encode", "change": "one value less", "code": "encoding"},
    {"what": "encode", "change": "float64 values", "code": "encoding"},
    {"what": "encode", "change": "weight 0", "code": "encoding"},
    {"what": "encode", "change": "weight 1.5", "code": "encoding"},
    {"what": "decode", "change": "a sum above n times the top level", "code": "encoding"},
    {"what": "decode", "change": "one sum less", "code": "encoding"},
    {"what": "decode", "change": "no contributors", "code": "encoding"},
    {"what": "decode", "change": "weights that add up to 0", "code": "encoding"},
    {"what": "quantiser", "change": "25 bits", "code": "encoding"},
    {"what": "quantiser", "change": "clip 0", "code": "encoding"},
    {"what": "quantiser", "change": "no groups", "code": "encoding"},
    {"what": "seal", "change": "a level of more than 16 bits", "code": "encoding"},
)


def encodings() -> Json:
    """Start values, quantiser, mean (§2.2 to §2.4)."""
    seed = bytes(range(32))
    starts = []
    for name, count, bound in (("a.lora_A.weight", 5000, 0.3), ("b", 1, 1.0), ("größer", 64, 1e-3)):
        values = encoding.single_bytes(encoding.start_values(seed, name, count, bound))
        starts.append(
            {"name": name, "count": count, "bound": bound, "head": values[:32].hex(), "float32_sha256": digest(values)}
        )
    return {
        "randomness": RANDOMNESS + "; 'input I' gives 32-bit words u, input (u/2^31 - 1) 1.2 clip as float32",
        "a_seed": seed.hex(),
        "start": starts,
        "quantise": [quantiser_case(0.5, 16, 1.0), quantiser_case(0.01, 8, 0.5), quantiser_case(3.0, 24, 1.0)],
        "vectors": [
            vector_case(0.5, 16, [1.0] * 3),
            vector_case(0.02, 8, [1.0, 0.25, 0.7]),
            vector_case(2.0, 24, [1.0]),
        ],
        "malformed": ENCODING_MALFORMED,
    }


def limbs() -> Json:
    """Coefficients T e + m with their errors and limbs, residues for the reader (§2.5, §9.2)."""
    cases = []
    for _, setting, _ in SETTINGS:
        base = setting.base
        rows = [[0] * setting.limbs, [base - 1] * setting.limbs, [i % base for i in range(setting.limbs)]]
        rows.append([value % base for value in uniform(b"limbs", setting.limbs, 32)])
        coefficients = [
            (error, row, encoding.coefficient(setting, row, error)) for row in rows for error in (0, 1, -1, 25, -25)
        ]
        cases.append(
            {
                "limbs": setting.limbs,
                "bits": setting.bits,
                "n_max": setting.n_max,
                "length": setting.length,
                "base": str(base),
                "T": str(setting.plaintext_modulus),
                "coefficients": [
                    {"error": error, "limbs": row, "residues": [value % prime for prime in twin.primes()]}
                    for error, row, value in coefficients
                ],
            }
        )
    return {"cases": cases}


def expansion() -> Json:
    """A_k (§5.1)."""
    return {
        "ctx": CTX.hex(),
        "expand": [
            {"block": block, "prime": number, "head": values[:4], "uint32_sha256": digest(words(values, 4))}
            for block in (0, 1, 77)
            for number in range(3)
            for values in [twin.expand(CTX, block, number)]
        ],
        "malformed": [
            {"ctx_bytes": 31, "block": 0, "code": "parameter"},
            {"ctx_bytes": 33, "block": 0, "code": "parameter"},
            {"ctx_bytes": 32, "block": -1, "code": "parameter"},
            {"ctx_bytes": 32, "block": 82, "code": "parameter"},
        ],
    }


def gaussian() -> Json:
    """Thresholds, and 4096 samples from a keystream (§5.3a)."""
    cases = []
    for name, variance in (("key", KEY_VARIANCE), ("error", ERROR_VARIANCE)):
        key = hashlib.sha256(b"gaussian " + name.encode()).digest()
        samples = twin.sample(twin.keystream(key), variance)
        cases.append(
            {
                "name": name,
                "variance": str(variance),
                "thresholds": [str(t) for t in twin.thresholds(variance)],
                "stream_key": key.hex(),
                "samples_head": samples[:32],
                "samples_int32_sha256": digest(words(samples, 4)),
            }
        )
    return {
        "stream": "AES-256-CTR keystream under stream_key from counter 0: 4096 words, then 4096 sign bits",
        "cases": cases,
    }


def packing() -> Json:
    """30 bits for a residue, 31 for a share (§5.3, §6.1)."""
    residues = [value % prime for prime in twin.primes() for value in uniform(b"residues %d" % prime, twin.N, 32)]
    shares = [value % twin.FIELD for value in uniform(b"shares", twin.N, 32)]
    block = twin.join_bits(residues, 30).to_bytes(3 * twin.N * 30 // 8, "little")
    share = twin.join_bits(shares, 31).to_bytes(twin.N * 31 // 8, "little")
    return {
        "randomness": RANDOMNESS + "; residues: 32-bit words of 'residues P' mod P; shares: of 'shares' mod 2^31 - 1",
        "block": {"head": block[:64].hex(), "bytes": len(block), "sha256": digest(block)},
        "share": {"head": share[:64].hex(), "bytes": len(share), "sha256": digest(share)},
        "malformed": [case for case in SEALED_MALFORMED if case["what"] in ("block", "share")],
    }


def shares() -> Json:
    """Shares of one key, their sums, and keys again (§6.1, §9.1)."""
    keys = [[(value % 83) - 41 for value in uniform(b"key %d" % number, twin.N, 32)] for number in range(3)]
    cases = []
    for threshold, holders in ((1, 1), (2, 3), (3, 4), (5, 7)):
        held = [
            twin.share(key, threshold, holders, PredictableRandomness(b"share %d" % i)) for i, key in enumerate(keys)
        ]
        summed = [
            twin.join_bits(
                [sum(column) % twin.FIELD for column in zip(*(unpacked(one[x]) for one in held), strict=True)], 31
            ).to_bytes(twin.N * 31 // 8, "little")
            for x in range(holders)
        ]
        cases.append(
            {
                "threshold": threshold,
                "holders": holders,
                "share_head": [share[:16].hex() for share in held[0]],
                "share_sha256": [[digest(share) for share in one] for one in held],
                "sum_sha256": [digest(share) for share in summed],
            }
        )
    total = [sum(column) for column in zip(*keys, strict=True)]
    return {
        "randomness": RANDOMNESS + "; key I: 32-bit words of 'key I' mod 83, less 41; 'share I' for its shares",
        "key_int32_sha256": [digest(words(key, 4)) for key in keys],
        "key_sum_head": total[:8],
        "key_sum_int64_sha256": digest(words(total, 8)),
        "cases": cases,
        "malformed": [
            {"what": "split", "change": "threshold above holders", "code": "share"},
            {"what": "split", "change": "256 holders", "code": "share"},
            {"what": "sum", "change": "no share", "code": "share"},
            {"what": "reconstruct", "change": "one share too few", "code": "share"},
            {"what": "reconstruct", "change": "one share of more than the threshold altered", "code": "share"},
            {"what": "reconstruct", "change": "key-holder 0", "code": "share"},
            {"what": "reconstruct", "change": "a residue equal to the prime", "code": "share"},
        ],
    }


def unpacked(share: bytes) -> list[int]:
    """The residues of a packed share."""
    return twin.split_bits(int.from_bytes(share, "little"), 31, twin.N)
