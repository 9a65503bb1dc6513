"""Discrete Gaussians written from docs/protocol.md §14.4 in fractions, as slowly as it reads."""

from collections.abc import Callable
from fractions import Fraction
from math import floor, isqrt

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
