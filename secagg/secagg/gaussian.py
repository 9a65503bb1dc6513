"""Discrete Gaussians over the integers, sampled in constant time, and exact tails of their sums (protocol.md
§5).

A sample takes one 64-bit word u and one sign bit: |x| is the number of thresholds t_k <= u, where
t_k = round(2^64 * P(|X| <= k)); every threshold is compared every time. The support ends at the largest K
with P(|X| >= K) >= 2^-64: 41 for the key, 58 for the error. Statistical distance to the untruncated
distribution: at most K*2^-65 + 2^-64 < 2^-59 per sample (rounding plus tail), so below 2^-40 for the 344064
samples of a million values.

Stream layout for `count` samples (a multiple of 8): 8*count bytes of little-endian words, then count/8 bytes
whose bit i (byte i//8, lowest bit first) is the sign of sample i.
"""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel

SECRET_VARIANCE = Decimal("20.25")
"""Variance parameter of the short key: sigma = 4.5."""
ERROR_VARIANCE = Decimal("40.5")
"""Variance parameter of the error: sigma = 4.5*sqrt(2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """The sampled distribution: `thresholds` uint64[K], and its exact `numerators` over 2^64 for |x| = 0..K."""

    variance: Decimal
    thresholds: NDArray[np.uint64]
    numerators: tuple[int, ...]

    @property
    def largest(self) -> int:
        """K: no sample is larger in absolute value."""
        return len(self.thresholds)

    @property
    def deviation(self) -> float:
        """sigma."""
        return math.sqrt(self.variance)


@lru_cache(maxsize=4)
def gaussian(variance: Decimal) -> Gaussian:
    """The table for exp(-x^2 / (2*variance)), from decimal arithmetic of 60 digits: the same on every platform."""
    with localcontext() as context:
        context.prec = 60
        weights = [Decimal(1)]
        while len(weights) < 400:
            weights.append(2 * (-Decimal(len(weights) ** 2) / (2 * variance)).exp())
        total = sum(weights)
        largest = max(k for k in range(1, 400) if sum(weights[k:]) / total >= Decimal(2) ** -64)
        running, thresholds = Decimal(0), []
        for weight in weights[:largest]:
            running += weight
            thresholds.append(int((running / total * 2**64).to_integral_value()))
    edges = [0, *thresholds, 1 << 64]
    numerators = tuple(edges[k + 1] - edges[k] for k in range(largest + 1))
    table = np.array(thresholds, dtype=np.uint64)
    table.setflags(write=False)
    return Gaussian(variance, table, numerators)


def stream_bytes(count: int) -> int:
    """Bytes of keystream that `count` samples take; `count` is a multiple of 8."""
    return 8 * count + count // 8


@kernel
def sample_magnitudes(words: NDArray[np.uint64], thresholds: NDArray[np.uint64], out: NDArray[np.uint32]) -> None:
    """|x| for each word of `words`, into `out` of the same length."""
    out[:] = np.uint32(0)
    pairs = len(thresholds) // 2
    for pair in range(pairs):  # two at a time over all words: half the traffic of one at a time
        first = thresholds[2 * pair]
        second = thresholds[2 * pair + 1]
        for i in range(len(out)):
            word = words[i]
            out[i] = np.uint32(out[i] + np.uint32(first <= word) + np.uint32(second <= word))
    for k in range(2 * pairs, len(thresholds)):
        last = thresholds[k]
        for i in range(len(out)):
            out[i] = np.uint32(out[i] + np.uint32(last <= words[i]))


@kernel
def apply_signs(magnitudes: NDArray[np.uint32], signs: NDArray[np.uint8], out: NDArray[np.int32]) -> None:
    """out[i] = magnitude, negated where bit i of `signs` is set; no branch."""
    for i in range(len(signs)):
        byte = np.int32(signs[i])
        for b in range(8):
            mask = np.int32(-((byte >> b) & 1))
            out[8 * i + b] = np.int32((np.int32(magnitudes[8 * i + b]) ^ mask) - mask)


def sample_into(
    distribution: Gaussian, stream: NDArray[np.uint8], scratch: NDArray[np.uint32], out: NDArray[np.int32]
) -> None:
    """Fill `out` int32[count] from `stream_bytes(count)` bytes of keystream; `scratch` [count] keeps magnitudes."""
    count = len(out)
    sample_magnitudes(stream[: 8 * count].view(np.uint64), distribution.thresholds, scratch)
    apply_signs(scratch, stream[8 * count :], out)


def sample(distribution: Gaussian, stream: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    """`count` samples int32 from `stream_bytes(count)` bytes of keystream."""
    scratch = np.empty(count, dtype=np.uint32)
    out = np.empty(count, dtype=np.int32)
    sample_into(distribution, stream, scratch, out)
    scratch.fill(0)
    return out


@lru_cache(maxsize=4096)
def sum_tail_log2(variance: Decimal, count: int, bound: int) -> float:
    """log2 of P(|sum of `count` samples| > bound), for the table as sampled.

    The distribution is tilted (Esscher) so that its mean meets the bound, the tilted sum is taken exactly
    through its characteristic function, and the tilt is undone: no Gaussian approximation, and no loss of
    digits in tails far below 2^-1022.
    """
    table = gaussian(variance)
    if bound >= count * table.largest:
        return -math.inf
    support = np.arange(-table.largest, table.largest + 1, dtype=np.float64)
    half = np.array([n / 2.0**65 for n in table.numerators[1:]])
    weights = np.concatenate([half[::-1], [table.numerators[0] / 2.0**64], half])
    tilt = _tilt(support, weights, (bound + 1) / count)
    tilted = weights * np.exp(tilt * support)
    mass = float(tilted.sum())
    tilted /= mass
    spread = math.sqrt(count * float(np.dot(tilted, (support - (bound + 1) / count) ** 2)))
    length = 1 << max(10, math.ceil(math.log2(2 * table.largest + 1)), math.ceil(math.log2(40 * spread + 1)))
    ring = np.zeros(length)
    np.add.at(ring, support.astype(np.int64) % length, tilted)
    density = np.fft.ifft(np.fft.fft(ring) ** count).real
    above = np.arange(length // 2)
    tail = float(np.dot(np.maximum(density[(bound + 1 + above) % length], 0), np.exp(-tilt * above)))
    return (count * math.log(mass) - tilt * (bound + 1) + math.log(tail)) / math.log(2) + 1


def _tilt(support: NDArray[np.float64], weights: NDArray[np.float64], mean: float) -> float:
    """The tilt under which one sample has `mean`, by bisection; at least 0."""
    low, high = 0.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        tilted = weights * np.exp(middle * (support - support[-1]))
        if float(np.dot(tilted, support)) < mean * float(tilted.sum()):
            low = middle
        else:
            high = middle
    return low
