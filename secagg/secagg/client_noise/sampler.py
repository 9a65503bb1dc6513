"""Exact discrete Gaussians of any rational variance, by rejection (protocol.md §14.4; Canonne, Kamath, Steinke 2020,
algorithms 1 to 3).

P(X = x) is proportional to exp(-x^2 / (2*variance)), with no error at all: every decision compares a uniform real,
of which ever more bits are drawn, with a rational. The kernel knows 32 bits of it and integer bounds of the rational;
where these leave a decision open (about once in a million samples) the sample is made again from the same words by
`_Exact`, in whole numbers of any size. No floating point anywhere.

Not constant time: how long a call takes depends on the noise (docs/protocol.md §14.9).
"""

from fractions import Fraction
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.errors import ParameterError
from secagg.randomness import Keystream, Randomness, fresh_keystream

PURPOSE = "secagg/v1/client-noise"
REFINE_PURPOSE = "secagg/v1/client-noise-refine"
MAX_DEVIATION_BITS = 24
"""sigma is below 2^24: what fits 24 bits and the kernel's 64-bit products."""
BUFFER_WORDS = 1 << 16
SPARE_WORDS = 1 << 10
_YES, _NO, _OPEN = 1, 0, -1
_MAX_TRIES = 60
_MAX_WRAPS = 31
_GAMMA_BITS = 32


class Words:
    """The main stream of 32-bit words with a place in it, and the stream that refines open comparisons. Redacted."""

    __slots__ = ("_main", "_refine", "buffer", "place")

    def __init__(self, main: Keystream, refine: Keystream) -> None:
        self._main, self._refine = main, refine
        self.buffer: NDArray[np.uint32] = main.read(4 * BUFFER_WORDS).view(np.uint32)
        self.place = 0

    def __repr__(self) -> str:
        return "Words(redacted)"

    def reload(self) -> None:
        """Move what was not read yet to the front and fill the rest."""
        left = len(self.buffer) - self.place
        self.buffer[:left] = self.buffer[self.place :].copy()
        self._main.fill(self.buffer[left:].view(np.uint8))
        self.place = 0

    def next(self) -> int:
        """The next word of the main stream."""
        if self.place == len(self.buffer):
            self.reload()
        self.place += 1
        return int(self.buffer[self.place - 1])

    def more(self) -> int:
        """The next word of the refining stream."""
        return int.from_bytes(self._refine.read(4).tobytes(), "little")

    def wipe(self) -> None:
        """Overwrite what was drawn."""
        self.buffer.fill(0)


class _Table(NamedTuple):
    """Constants of one variance p/q in the kernel's units: see `_table`."""

    scale: int
    mask: int
    shift: int
    centre_low: int
    centre_high: int
    factor: int
    down: int


def sample(variance: Fraction, count: int, random: Randomness) -> NDArray[np.int64]:
    """`count` independent samples int64 from fresh randomness.

    Raises:
        ParameterError: the variance is not positive, or 2^48 or more.
    """
    words = Words(fresh_keystream(PURPOSE, random), fresh_keystream(REFINE_PURPOSE, random))
    try:
        return sample_words(variance, count, words)
    finally:
        words.wipe()


def sample_words(variance: Fraction, count: int, words: Words) -> NDArray[np.int64]:
    """The same from given streams. Raises ParameterError."""
    if not 0 < variance < 1 << (2 * MAX_DEVIATION_BITS):
        raise ParameterError(f"the variance of a client's noise is {variance}; it must lie between 0 and 2^48")
    out = np.empty(count, dtype=np.int64)
    exact, table, done = _Exact(variance, words), _table(variance), 0
    while done < count:
        if table is not None:
            if len(words.buffer) - words.place < SPARE_WORDS:
                words.reload()
            filled, words.place = map(int, _fill(words.buffer, words.place, *table, out[done:]))
            done += filled
        if done < count and (table is None or len(words.buffer) - words.place >= SPARE_WORDS):
            out[done] = exact.gaussian()
            done += 1
    return out


class _Exact:
    """One sample at a time from the same words, in whole numbers of any size."""

    def __init__(self, variance: Fraction, words: Words) -> None:
        self._p, self._q = variance.numerator, variance.denominator
        self._scale = isqrt(self._p // self._q) + 1
        self._words = words

    def gaussian(self) -> int:
        p, q, t = self._p, self._q, self._scale
        while True:
            y = self._laplace()
            if self._exp_any((abs(y) * q * t - p) ** 2, 2 * p * q * t * t):
                return y

    def _laplace(self) -> int:
        t, words = self._scale, self._words
        mask = (1 << (t - 1).bit_length()) - 1
        while True:
            u = words.next() & mask
            while u >= t:
                u = words.next() & mask
            if not self._exp(u, t):
                continue
            wraps = 0
            while self._exp(1, 1):
                wraps += 1
            negative = words.next() & 1
            size = u + t * wraps
            if size or not negative:
                return -size if negative else size

    def _exp_any(self, a: int, b: int) -> bool:
        """True with probability exp(-a/b)."""
        return all(self._exp(1, 1) for _ in range(a // b)) and self._exp(a % b, b)

    def _exp(self, a: int, b: int) -> bool:
        """True with probability exp(-a/b), a <= b."""
        k = 1
        while self._less(a, b * k):
            k += 1
        return k % 2 == 1

    def _less(self, a: int, b: int) -> bool:
        """True with probability min(a/b, 1)."""
        if a >= b:
            return True
        drawn, bits = self._words.next(), 32
        while True:
            if (drawn + 1) * b <= a << bits:
                return True
            if drawn * b >= a << bits:
                return False
            drawn, bits = drawn << 32 | self._words.more(), bits + 32


def _table(variance: Fraction) -> _Table | None:
    """Integer bounds for the kernel, or None for a variance so small that they do not fit.

    With x = |y| - variance/t, the last step accepts with exp(-x^2/(2*variance)). `centre` bounds variance/t in units
    of 2^-shift, `factor` is floor(2^(62 - 2*shift + down)/(2*variance)), so gamma in units of 2^-32 is
    (x^2 >> 30)*factor >> down, up to what the rounding of each step adds.
    """
    t = isqrt(variance.numerator // variance.denominator) + 1
    shift = 31 - ((_MAX_WRAPS + 1) * t).bit_length()
    centre = variance / t * (1 << shift)
    base = Fraction(1 << (62 - 2 * shift)) / (2 * variance)
    down = 31 - (int(base).bit_length() - 1)
    if down < 0 or shift < 0:
        return None
    mask = (1 << (t - 1).bit_length()) - 1
    low = int(centre)
    return _Table(t, mask, shift, low, low + 1, int(base * (1 << down)), down)


@kernel
def _less(words: NDArray[np.uint32], state: NDArray[np.int64], low: np.uint64, high: np.uint64, b: np.uint64) -> int:
    """Whether U < a/b, where a*2^32 lies in [low, high], from one word of U."""
    place = state[0]
    if place >= len(words):
        return _OPEN
    state[0] = place + 1
    word = np.uint64(words[place])
    if (word + np.uint64(1)) * b <= low:
        return _YES
    if word * b >= high:
        return _NO
    return _OPEN


@kernel
def _exp(words: NDArray[np.uint32], state: NDArray[np.int64], low: np.uint64, high: np.uint64, b: np.uint64) -> int:
    """True with probability exp(-a/b), a < b, where a*2^32 lies in [low, high]."""
    product = b
    for k in range(1, _MAX_TRIES):
        answer = _less(words, state, low, high, product)
        if answer == _OPEN:
            return _OPEN
        if answer == _NO:
            return k & 1
        product += b
    return _OPEN


@kernel
def _exp_one(words: NDArray[np.uint32], state: NDArray[np.int64]) -> int:
    """True with probability exp(-1): the first comparison, with 1/1, takes no word."""
    one = np.uint64(1 << 32)
    product = np.uint64(2)
    for k in range(2, _MAX_TRIES):
        answer = _less(words, state, one, one, product)
        if answer == _OPEN:
            return _OPEN
        if answer == _NO:
            return k & 1
        product += np.uint64(1)
    return _OPEN


@kernel
def _laplace(
    words: NDArray[np.uint32], state: NDArray[np.int64], scale: np.uint64, mask: np.uint64
) -> tuple[int, np.int64]:
    """(YES, y), or (OPEN, 0): a discrete Laplace of scale t."""
    while True:
        u = scale
        while u >= scale:
            if state[0] >= len(words):
                return _OPEN, np.int64(0)
            u = np.uint64(words[state[0]]) & mask
            state[0] += 1
        bound = u << np.uint64(32)
        answer = _exp(words, state, bound, bound, scale)
        if answer == _OPEN:
            return _OPEN, np.int64(0)
        if answer == _NO:
            continue
        wraps = 0
        answer = _exp_one(words, state)
        while answer == _YES:
            wraps += 1
            answer = _exp_one(words, state)
        if answer == _OPEN or wraps > _MAX_WRAPS or state[0] >= len(words):
            return _OPEN, np.int64(0)
        negative = words[state[0]] & np.uint32(1)
        state[0] += 1
        size = np.int64(u) + np.int64(scale) * np.int64(wraps)
        if negative == 0:
            return _YES, size
        if size != 0:
            return _YES, -size


@kernel
def _accept(words: NDArray[np.uint32], state: NDArray[np.int64], low: np.uint64, high: np.uint64) -> int:
    """True with probability exp(-gamma), where gamma*2^32 lies in [low, high]."""
    bits = np.uint64(_GAMMA_BITS)
    whole = low >> bits
    if whole != high >> bits:
        return _OPEN
    for _ in range(np.int64(whole)):
        answer = _exp_one(words, state)
        if answer != _YES:
            return answer
    rest = (np.uint64(1) << bits) - np.uint64(1)
    return _exp(words, state, low & rest, high & rest, np.uint64(1))


@kernel
def _fill(
    words: NDArray[np.uint32],
    place: int,
    scale: int,
    mask: int,
    shift: int,
    centre_low: int,
    centre_high: int,
    factor: int,
    down: int,
    out: NDArray[np.int64],
) -> tuple[int, int]:
    """Samples into `out` until it is full, words are short, or a decision is open: (how many, place in words)."""
    state = np.empty(1, dtype=np.int64)
    state[0] = place
    one, drop = np.uint64(1), np.uint64(down)
    low_factor, high_factor = np.uint64(factor), np.uint64(factor) + np.uint64(1)
    for i in range(len(out)):
        begin = state[0]
        if len(words) - begin < SPARE_WORDS:
            return i, begin
        while True:
            answer, y = _laplace(words, state, np.uint64(scale), np.uint64(mask))
            if answer == _OPEN:
                return i, begin
            x_low = (abs(y) << shift) - centre_high
            x_high = (abs(y) << shift) - centre_low
            far = np.uint64(max(abs(x_low), abs(x_high)))
            near = np.uint64(0)
            if x_low > 0 or x_high < 0:
                near = np.uint64(min(abs(x_low), abs(x_high)))
            low = (((near * near) >> np.uint64(30)) * low_factor) >> drop
            high = (((((far * far) >> np.uint64(30)) + one) * high_factor) >> drop) + one
            answer = _accept(words, state, low, high)
            if answer == _OPEN:
                return i, begin
            if answer == _YES:
                out[i] = y
                break
    return len(out), state[0]
