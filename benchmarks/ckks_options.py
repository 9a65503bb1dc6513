"""Ways to set TenSEAL for sums, in one run: time and bytes a value, for one cohort (protocol.md §13.1.4).

    python benchmarks/ckks_options.py [--n-max 1000 10] [--values 491520] [--repeats 3] [--json options.json]

Times are processor time of one thread, in milliseconds for a million values of 16 bits, medians: the same on a busy
machine, nearly. All but the first carry sums of n_max values exactly, with probability 1 - 2^-60.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from security_levels import TERNARY, Case, cheapest  # type: ignore[import-not-found]

from secagg.ckks import parameters as table
from secagg.ckks.parameters import RINGS, CkksParameters, Ring
from secagg.ckks.residues import add_residues, embed_limbs, pack, primes_of, read_block, read_sums, unpack_words
from secagg.ckks.scheme import PublicContext, SecretContext, _Seal, body_of, saved
from secagg_app.bench_protocols import machine

BITS = 16
MILLION = 1_000_000
USUAL, USUAL_SCALE = (60, 40, 60), 40
BEFORE = (34, 34, 18)


@dataclass(frozen=True)
class Option:
    """What one setting costs. `bits`: core-SVP by security_levels.py; `values`: in a slot or coefficient."""

    name: str
    bits: float
    values: int
    seal: float
    bytes: float
    add: float
    open: float | None


def clock(operation: Callable[[], object], repeats: int) -> float:
    """Milliseconds of processor time, median; one run before is left out."""
    operation()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        operation()
        taken.append((time.process_time() - start) * 1e3)
    return statistics.median(taken)


def level(degree: int, log2_q: float) -> float:
    """Bits of core-SVP with SEAL's secrets and errors."""
    return float(cheapest(Case("", degree, log2_q, 0, TERNARY, 3.2)).bits)


def slots(name: str, degree: int, primes: tuple[int, ...], scale: int, base: int, limbs: int, run: "Run") -> Option:
    """TenSEAL's own vectors: real slots, its serialisation, its key; as frameworks use it."""
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, -1, list(primes), n_threads=1)
    context.global_scale = 2.0**scale
    width = degree // 2
    values = run.values[: run.length // (width * limbs) * width * limbs]
    shaped = values.reshape(-1, limbs, width)

    def seal() -> list[bytes]:
        blocks = []
        for rows in shaped:
            packed = np.zeros(width, np.float64) if limbs > 1 else rows[0].astype(np.float64)
            if limbs > 1:
                for row in rows[::-1]:
                    packed = packed * base + row
            elif base == 0:
                packed = packed / 2.0**BITS  # real numbers below one, as they are without quantising
            blocks.append(bytes(tenseal.ckks_vector(context, packed.tolist()).serialize()))
        return blocks

    upload = seal()
    total = [tenseal.ckks_vector_from(context, block) for block in upload]

    def add() -> None:
        for held, block in zip(total, upload, strict=True):
            held.add_(tenseal.ckks_vector_from(context, block))

    def opened() -> list[Any]:
        return [np.rint(np.array(held.decrypt())) for held in total]

    per = MILLION / len(values)
    log2_q = float(sum(primes))
    costs = [clock(what, run.repeats) * per for what in (seal, add, opened)]
    return Option(name, level(degree, log2_q), limbs, costs[0], sum(map(len, upload)) / len(values), costs[1], costs[2])


def coefficients(name: str, ring: Ring, run: "Run") -> Option:
    """Integers in coefficients, the wire of residues."""
    parameters = in_ring(ring, run.n_max)
    secret = SecretContext.generate(ring)
    public = secret.public
    count = max(1, run.length // parameters.block_values)
    values = np.resize(run.values, count * parameters.block_values)
    shaped = values.reshape(count, parameters.limbs, ring.degree)

    def seal() -> list[bytes]:
        return [public.encrypt(parameters, limbs) for limbs in shaped]

    upload, primes = seal(), primes_of(ring)
    total = [read_block(ring, block) for block in upload]
    quiet = np.zeros(ring.degree, np.int64)
    found = np.concatenate([read_sums(parameters, secret.decrypt(held), quiet)[0] for held in total])
    if not np.array_equal(found, values):
        raise SystemExit(f"{name}: the values do not come back")

    def add() -> None:
        for held, block in zip(total, upload, strict=True):
            add_residues(held, read_block(ring, block), primes)

    def opened() -> None:
        for held in total:
            read_sums(parameters, secret.decrypt(held), quiet)

    per = MILLION / len(values)
    costs = [clock(what, run.repeats) * per for what in (seal, add, opened)]
    size = sum(map(len, upload)) / len(values)
    return Option(name, level(ring.degree, ring.log2_q), parameters.limbs, costs[0], size, costs[1], costs[2])


def one_prime(name: str, degree: int, prime: int, run: "Run") -> Option:
    """The same in a context of one prime: SEAL has no special prime then. Encryption and addition only."""
    from tenseal import sealapi

    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus([sealapi.Modulus(prime)])
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.NONE)
    key, zero, evaluator = sealapi.PublicKey(), sealapi.Ciphertext(), sealapi.Evaluator(context)
    sealapi.KeyGenerator(context).create_public_key(key)
    encryptor = sealapi.Encryptor(context, key)
    ring = Ring(cast(Any, name), degree, (prime,), 1, 0)
    base = run.n_max * (2**BITS - 1) + 1
    scale, limbs = table.fit(ring, base, run.n_max, MILLION)
    count = run.length // (degree * limbs)
    shaped = run.values[: count * degree * limbs].reshape(count, limbs, degree)

    def seal() -> list[bytes]:
        blocks = []
        for rows in shaped:
            encryptor.encrypt_zero(zero)
            evaluator.transform_from_ntt_inplace(zero)
            residues = np.frombuffer(body_of(saved(zero))[-16 * degree :], "<u8").astype(np.uint64)
            shape = residues.reshape(2, 1, degree)
            embed_limbs(rows, np.uint64(base), np.uint64(1 << scale), primes_of(ring), shape[0])
            blocks.append(pack(shape, ring.widths))
        return blocks

    upload, out = seal(), np.empty(2 * degree, np.uint64)

    def add() -> None:
        for block in upload:
            unpack_words(np.frombuffer(block, np.uint64), np.int64(prime.bit_length()), out)

    per = MILLION / shaped.size
    costs = [clock(what, run.repeats) * per for what in (seal, add)]
    size = sum(map(len, upload)) / shaped.size
    return Option(name, level(degree, math.log2(prime)), limbs, costs[0], size, costs[1], None)


def in_ring(ring: Ring, n_max: int) -> CkksParameters:
    """Parameters for a million values in this very ring."""
    kept = dict(RINGS)
    RINGS.clear()
    RINGS[ring.name] = ring
    try:
        return CkksParameters(BITS, n_max, MILLION)
    finally:
        RINGS.clear()
        RINGS.update(kept)


@dataclass(frozen=True)
class Run:
    """What is measured."""

    values: "np.ndarray[Any, np.dtype[np.uint32]]"
    n_max: int
    repeats: int

    @property
    def length(self) -> int:
        return len(self.values)


def slot_set(n_max: int) -> tuple[int, int, int]:
    """Scale, base and values a slot of the setting before this one: [34, 34, 18], doubles below 2^43 (ADR 0011)."""
    base, degree = n_max * (2**BITS - 1) + 1, 4096
    t = 60 * math.log(2) + math.log(16.0 * MILLION * (n_max + 1))
    error = math.sqrt(2 * n_max * 10.49 * degree * (2 * degree * t + 0.5) * t) + n_max * math.sqrt(degree * t)
    scale = math.ceil(math.log2(error / (0.25 - 2**-5)))
    return scale, base, max(1, int(min(43.0, 66.9 - scale) // math.log2(base)))


def primes_below(bits: int, degree: int, count: int) -> tuple[int, ...]:
    """The largest primes of so many bits that are 1 mod 2N, as SEAL picks them."""
    from tenseal import sealapi

    return tuple(int(one.value()) for one in sealapi.CoeffModulus.Create(degree, [bits] * count))


def measure(run: Run) -> list[Option]:
    """Every option."""
    scale, base, limbs = slot_set(run.n_max)
    wide = Ring(cast(Any, "n16384"), 16_384, primes_below(54, 16_384, 6), 65_537, 0)
    return [
        slots("N=8192 [60, 40, 60], slots, as NVFlare", 8192, USUAL, USUAL_SCALE, 0, 1, run),
        slots("N=4096 [34, 34, 18], slots, as before", 4096, BEFORE, scale, base, limbs, run),
        one_prime("N=4096 [60], coefficients, no special prime", 4096, primes_below(60, 4096, 1)[0], run),
        coefficients("N=4096 [36, 36] + 40961, coefficients", RINGS["n4096q87"], run),
        coefficients("N=8192 [53, 53, 53] + 65537, coefficients", RINGS["n8192q175"], run),
        coefficients("N=16384 [54] * 6 + 65537, coefficients", wide, run),
    ]


def parts_of_sealing(run: Run) -> dict[str, float]:
    """Where a client's time goes in the larger ring, in milliseconds for a million values."""
    ring = RINGS["n8192q175"]
    parameters = in_ring(ring, run.n_max)
    public, seal = SecretContext.generate(ring).public, _Seal(ring)
    limbs = np.resize(run.values, (parameters.limbs, ring.degree))
    block = public.encrypt(parameters, limbs)
    zero, out = seal.api.Ciphertext(), read_block(ring, block)[0]
    encryptor = cast(Any, PublicContext.__dict__["_encryptor"].__get__(public))

    def encrypted() -> None:
        encryptor.encrypt_zero(zero)

    def turned() -> None:
        encryptor.encrypt_zero(zero)
        seal.evaluator.transform_from_ntt_inplace(zero)

    turned()
    raw, whole = saved(zero), read_block(ring, block)
    base, scale = np.uint64(parameters.base), np.uint64(1 << parameters.scale_log2)
    many = 10 * run.repeats
    found = {
        "SEAL: an encryption of zero": clock(encrypted, many),
        "SEAL: back to coefficients": clock(turned, many) - clock(encrypted, many),
        "SEAL: saving, which compresses (zstd)": clock(lambda: saved(zero), many),
        "taking that apart again": clock(lambda: body_of(raw), many),
        "limbs into residues": clock(lambda: embed_limbs(limbs, base, scale, primes_of(ring), out), many),
        "packing": clock(lambda: pack(whole, ring.widths), many),
    }
    return {name: round(cost * MILLION / parameters.block_values, 2) for name, cost in found.items()}


def main(arguments: list[str] | None = None) -> int:
    """Print (and write) the table."""
    parser = argparse.ArgumentParser(description="settings of TenSEAL for sums, measured")
    parser.add_argument("--n-max", type=int, nargs="+", default=[1000, 10], help="cohorts that the parameters carry")
    parser.add_argument("--values", type=int, default=491_520)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the table there as well")
    options = parser.parse_args(arguments)
    values = np.random.default_rng(1).integers(0, 2**BITS, options.values, dtype=np.uint32)
    runs = [Run(values, n_max, options.repeats) for n_max in options.n_max]
    report = {
        "unit": "ms of processor time for a million values of 16 bits; bytes a value",
        "machine": machine(),
        "cohorts": [
            {
                "n_max": run.n_max,
                "options": [asdict(one) for one in measure(run)],
                "client_of_n8192q175": parts_of_sealing(run),
            }
            for run in runs
        ],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
