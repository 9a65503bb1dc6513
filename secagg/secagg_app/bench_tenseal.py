"""TenSEAL CKKS as NVFlare sets it: what its users pay for one upload, sum and opening."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg_app.bench_timing import SchemeCost, Threaded, Timing, measure

DEGREE = 8192
PRIMES = (60, 40, 60)
SCALE_BITS = 40


def measure_tenseal(updates: list[NDArray[np.float32]], mean: NDArray[np.float64], repeats: int) -> SchemeCost:
    """N=8192, [60, 40, 60], scale 2^40: encode, encrypt and serialise; load and add; decrypt. At most three repeats."""
    repeats = min(repeats, 3)
    threads = os.cpu_count() or 1
    times, size, error = _measure(updates, mean, repeats, 1)
    wide, _, _ = _measure(updates, mean, repeats, threads)
    return SchemeCost(*times, size, error, Threaded(threads, *wide))


def _measure(
    updates: list[NDArray[np.float32]], mean: NDArray[np.float64], repeats: int, threads: int
) -> tuple[tuple[Timing, Timing, Timing], float, float]:
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=DEGREE,
        coeff_mod_bit_sizes=list(PRIMES),
        n_threads=threads,
    )
    context.global_scale = 2**SCALE_BITS
    slots, size = DEGREE // 2, len(mean)

    def encrypt(update: NDArray[np.float32]) -> list[bytes]:
        parts = (update[start : start + slots].tolist() for start in range(0, size, slots))
        return [tenseal.ckks_vector(context, part).serialize() for part in parts]

    def load(upload: list[bytes]) -> list[Any]:
        return [tenseal.ckks_vector_from(context, part) for part in upload]

    def add(total: list[Any], upload: list[bytes]) -> None:
        for held, part in zip(total, load(upload), strict=True):
            held.add_(part)

    def decrypt(total: list[Any]) -> NDArray[np.float64]:
        return np.concatenate([np.array(part.decrypt()) for part in total])

    seal = measure(lambda: encrypt(updates[0]), repeats).per_million(size)
    first = encrypt(updates[0])
    scratch, total = load(first), load(first)
    adding = measure(lambda: add(scratch, first), repeats).per_million(size)
    for update in updates[1:]:
        add(total, encrypt(update))
    opening = measure(lambda: decrypt(total), repeats).per_million(size)
    error = float(np.abs(decrypt(total) / len(updates) - mean).max())
    return (seal, adding, opening), sum(map(len, first)) / size, error
