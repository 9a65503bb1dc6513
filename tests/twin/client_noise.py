"""Client-level noise written from docs/protocol.md §14 in fractions, as slowly as it reads, and masks over it."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import count
from math import ceil, floor, isqrt
from typing import NamedTuple

from tests.twin.encoding import single
from tests.twin.sealed import Random, fresh, join_bits, keystream, take

Next = Callable[[], int]


def below(chance: Fraction, word: Next, more: Next) -> bool:
    """U < chance, for U uniform on [0, 1), of which 32 bits at a time are drawn."""
    if chance >= 1:
        return True
    size = Fraction(1, 2**32)
    low = word() * size
    while True:
        if low + size <= chance:
            return True
        if low >= chance:
            return False
        size /= 2**32
        low += more() * size


def bernoulli_exp(gamma: Fraction, word: Next, more: Next) -> bool:
    """True with probability exp(-gamma)."""
    while gamma > 1 or gamma == 1:
        if not _small(Fraction(1), word, more):
            return False
        gamma -= 1
    return _small(gamma, word, more)


def _small(gamma: Fraction, word: Next, more: Next) -> bool:
    k = 1
    while below(gamma / k, word, more):
        k += 1
    return k % 2 == 1


def laplace(scale: int, word: Next, more: Next) -> int:
    """P(x) proportional to exp(-|x|/scale)."""
    bits = (scale - 1).bit_length()
    while True:
        start = scale
        while start >= scale:
            start = word() % 2**bits
        if not bernoulli_exp(Fraction(start, scale), word, more):
            continue
        wraps = 0
        while _small(Fraction(1), word, more):
            wraps += 1
        value, minus = start + scale * wraps, word() % 2
        if minus and value == 0:
            continue
        return -value if minus else value


def gaussian(variance: Fraction, word: Next, more: Next) -> int:
    """P(x) proportional to exp(-x^2/(2 variance))."""
    scale = isqrt(floor(variance)) + 1
    while True:
        value = laplace(scale, word, more)
        if bernoulli_exp((abs(value) - variance / scale) ** 2 / (2 * variance), word, more):
            return value


class Grid(NamedTuple):
    """§14.2 to §14.5 in numbers."""

    scale: int
    bound: int
    variance: Fraction
    reach: int
    half: int


def grid(bits: int, length: int, clip: float, multiplier: float, honest: int) -> Grid | None:
    """The largest scale that leaves room for the noise, by trying all of them; None when there is none."""
    half = 2 ** (bits - 1) - 1
    root = next(r for r in count() if r * r >= length)
    for scale in range(half, 0, -1):
        whole = ceil(Fraction(clip) * scale)
        bound = whole**2 + ceil(Fraction(length, 4)) + whole + ceil(Fraction(root, 2))
        variance = Fraction(ceil(256 * Fraction(multiplier) ** 2 * bound / honest), 256)
        least = 2 * variance * Fraction(6931471806, 10**10) * (61 + len(f"{length:b}"))
        reach = isqrt(floor(least))  # k + 1 is the least whole number above the root
        if scale + 1 + reach <= half:
            return Grid(scale, bound, variance, reach, half)
    return None


def encode(
    values: Sequence[float], clips: Sequence[float], weight: float, clip: float, made: Grid, random: Random
) -> list[int]:
    """§14.2 to §14.5: clip, round until it is short enough, add noise. `values` are float32, one clip for each."""
    inside = [min(max(x * weight, -c), c) for x, c in zip(values, clips, strict=True)]
    norm = math.sqrt(math.fsum((x / c) ** 2 for x, c in zip(inside, clips, strict=True)))
    if norm > clip:
        inside = [x * (clip / norm) for x in inside]
    rounding = fresh("secagg/v1/rounding", random)
    while True:
        levels = [_level(single(x), c, made, _word(rounding)) for x, c in zip(inside, clips, strict=True)]
        if sum(level**2 for level in levels) <= made.bound:
            break
    main, refine = fresh("secagg/v1/client-noise", random), fresh("secagg/v1/client-noise-refine", random)
    noise = [gaussian(made.variance, lambda: _word(main), lambda: _word(refine)) for _ in levels]
    sent = [made.half + level + extra for level, extra in zip(levels, noise, strict=True)]
    assert all(0 <= value <= 2 * made.half for value in sent)
    return sent


def decode_mean(sums: Sequence[int], clips: Sequence[float], made: Grid, weights: Sequence[float]) -> list[float]:
    """§2.4 with 2h in the place of 2^b - 1 and C h/S in that of C (§14.2)."""
    out = []
    for total, clip in zip(sums, clips, strict=True):
        wide = clip * (made.half / made.scale)
        step = 2.0 * wide / (2 * made.half)
        out.append(single((float(total) * step - float(len(weights)) * wide) / math.fsum(weights)))
    return out


class Mask(NamedTuple):
    """§12.5.2: `self` or `pair`, the 32 bytes that it is expanded from, and whether it is subtracted."""

    kind: str
    seed: bytes
    negative: bool


def masked(encoded: Sequence[int], width: int, masks: Sequence[Mask]) -> bytes:
    """§12.1.4 and §12.5.2: the guards behind the vector, every mask word by word, modulo 2^W, packed in W bits."""
    values = [*encoded, *[1] * 8]
    for mask in masks:
        stream = keystream(hashlib.sha256(f"secagg/v1/masked/mask-{mask.kind}".encode() + mask.seed).digest())
        sign = -1 if mask.negative else 1
        values = [(value + sign * _word(stream)) % 2**width for value in values]
    return join_bits(values, width).to_bytes(-(-len(values) * width // 8), "little")


def _level(x: float, clip: float, made: Grid, word: int) -> int:
    wide = clip * (made.half / made.scale)
    return math.floor((x + wide) * (2 * made.half / (2 * wide)) + word * 2.0**-32) - made.half


def _word(stream: Iterator[int]) -> int:
    return int.from_bytes(take(stream, 4), "little")
