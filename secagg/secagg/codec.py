"""Real vectors as unsigned integers, and sums of integers as means (protocol.md §2).

A quantiser splits a vector into groups, each with its own clip. With `levels` = 2^bits - 1 and
step = 2*clip/levels, the value x becomes

    u = floor((y + clip)*(levels/(2*clip)) + r),   y = min(max(w*x, -clip), clip),

where w is the contributor's weight and r = word*2^-32 for one little-endian 32-bit word of keystream per
value: stochastic rounding, unbiased up to 2^-32 steps. Arithmetic is float64, one operation at a time, in
this order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel
from secagg.errors import EncodingError
from secagg.parameters import MAX_BITS, SealedParameters
from secagg.randomness import Randomness, fresh_keystream

ROUNDING_PURPOSE = "secagg/v1/rounding"
_WORD = 2.0**-32


class Group(NamedTuple):
    """`size` values from `offset` on that share one `clip` (> 0, in units of the value)."""

    offset: int
    size: int
    clip: float


class Encoded(NamedTuple):
    """`values` uint32[L], each below 2^bits, and how many inputs lay beyond their clip."""

    values: NDArray[np.uint32]
    clipped: int


@dataclass(frozen=True, slots=True)
class Quantiser:
    """The public mapping between float32 vectors and integers of `bits` bits.

    Args:
        groups: (offset, size, clip) of each `Group`, consecutive, from offset 0, covering the vector.
        bits: width b of an encoded value.

    Raises:
        EncodingError: gaps or overlaps between groups, a clip that is not positive and finite, bits out of
            range.
    """

    groups: tuple[tuple[int, int, float], ...]
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise EncodingError(f"bits is {self.bits}; it must be from 1 to {MAX_BITS}")
        if not self.groups:
            raise EncodingError("a quantiser needs at least one group of values")
        expected = 0
        for number, group in enumerate(self.parts):
            if group.offset != expected or group.size < 1:
                raise EncodingError(
                    f"group {number} starts at {group.offset} with {group.size} values, not at {expected}"
                )
            if not (math.isfinite(group.clip) and group.clip > 0):
                raise EncodingError(f"group {number} has clip {group.clip}; it must be positive and finite")
            expected += group.size

    @classmethod
    def uniform(cls, length: int, clip: float, bits: int) -> Self:
        """One clip for the whole vector."""
        return cls((Group(0, length, clip),), bits)

    @classmethod
    def from_groups(cls, sizes_and_clips: Sequence[tuple[int, float]], bits: int) -> Self:
        """Groups laid end to end, each given by its size and clip."""
        groups, offset = [], 0
        for size, clip in sizes_and_clips:
            groups.append(Group(offset, size, clip))
            offset += size
        return cls(tuple(groups), bits)

    @property
    def parts(self) -> tuple[Group, ...]:
        """The groups by name."""
        return tuple(Group(*group) for group in self.groups)

    @property
    def length(self) -> int:
        """L, values in the vector."""
        return self.parts[-1].offset + self.parts[-1].size

    @property
    def levels(self) -> int:
        """Largest encoded value, 2^bits - 1."""
        return (1 << self.bits) - 1

    def step(self, group: Group) -> float:
        """Distance between neighbouring levels of `group`, in units of the value."""
        return 2.0 * group.clip / self.levels

    def check(self, parameters: SealedParameters) -> None:
        """Raise EncodingError unless `parameters` carry exactly this quantiser's vectors."""
        if (parameters.length, parameters.bits) != (self.length, self.bits):
            raise EncodingError(
                f"the quantiser makes {self.length} values of {self.bits} bits; "
                f"the parameters carry {parameters.length} of {parameters.bits}"
            )

    def encode(self, update: NDArray[np.float32], random: Randomness, weight: float = 1.0) -> Encoded:
        """Encode `update` float32[L], times `weight`, with rounding noise from `random`.

        Raises:
            EncodingError: wrong shape or dtype, a value that is not finite, a weight outside (0, 1].
        """
        self.check_update(update, weight)
        words = fresh_keystream(ROUNDING_PURPOSE, random).read(4 * self.length).view(np.uint32)
        values = np.empty(self.length, dtype=np.uint32)
        return Encoded(values, self.encode_range(update, weight, 0, self.length, words, values))

    def check_update(self, update: NDArray[np.float32], weight: float) -> None:
        """Raise EncodingError unless `update` is a finite float32[L] and `weight` lies in (0, 1]."""
        if update.dtype != np.float32 or update.shape != (self.length,):
            raise EncodingError(f"the update is {update.dtype}{list(update.shape)}, not float32[{self.length}]")
        if not 0 < weight <= 1:
            raise EncodingError(f"the weight is {weight}; it must be in (0, 1], a fraction of the largest weight")
        bad = _count_not_finite(np.ascontiguousarray(update))
        if bad:
            raise EncodingError(f"{bad} of {self.length} values are not finite; nothing was encoded")

    def encode_range(
        self,
        update: NDArray[np.float32],
        weight: float,
        start: int,
        stop: int,
        words: NDArray[np.uint32],
        out: NDArray[np.uint32],
    ) -> int:
        """Encode values start..stop of a checked `update` into `out`, with one word each; returns the clipped count."""
        clipped = 0
        for group in self.parts:
            low, high = max(start, group.offset), min(stop, group.offset + group.size)
            if low >= high:
                continue
            scale = self.levels / (2.0 * group.clip)
            inner = slice(low - start, high - start)
            levels = float(self.levels)
            clipped += int(_quantise(update[low:high], weight, group.clip, scale, levels, words[inner], out[inner]))
        return clipped

    def decode_mean(
        self, sums: NDArray[np.uint32] | NDArray[np.uint64], contributors: int, weight_sum: float | None = None
    ) -> NDArray[np.float32]:
        """The mean of `contributors` encoded vectors from their integer sum, float32[L].

        Per value, in float64 and in this order: (sums*step - n*clip)/weight_sum, where n*clip is one product
        and weight_sum is the sum of the weights that contributors encoded with, n when not given. One
        multiplication, one subtraction, one division, one rounding to float32: the same bits on every
        platform (§2.4).

        Raises:
            EncodingError: wrong length, no contributors, a sum above contributors*levels, or an impossible
                weight sum.
        """
        if sums.shape != (self.length,) or contributors < 1:
            raise EncodingError(f"{len(sums)} sums of {contributors} contributors; expected {self.length} sums of >= 1")
        if int(sums.max()) > contributors * self.levels:
            raise EncodingError(f"a sum exceeds {contributors} contributors times {self.levels}")
        if weight_sum is not None and not 0 < weight_sum <= contributors:
            raise EncodingError(f"weight_sum is {weight_sum}; it must be in (0, {contributors}]")
        divisor = float(contributors) if weight_sum is None else weight_sum
        out = np.empty(self.length, dtype=np.float32)
        for group in self.parts:
            inner = slice(group.offset, group.offset + group.size)
            scaled = sums[inner].astype(np.float64) * self.step(group)
            out[inner] = (scaled - float(contributors) * group.clip) / divisor
        return out


@kernel
def _count_not_finite(values: NDArray[np.float32]) -> np.int64:
    bits = values.view(np.uint32)
    count = np.int64(0)
    for i in range(len(bits)):
        count += np.int64((bits[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return count


@kernel
def _quantise(
    update: NDArray[np.float32],
    weight: float,
    clip: float,
    scale: float,
    levels: float,
    words: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> np.int64:
    clipped = np.int64(0)
    limit = max(clip, np.float64(np.float32(clip)))  # a value clipped to float32(clip) beforehand does not count
    for i in range(len(out)):
        value = np.float64(update[i]) * weight
        inside = min(max(value, -clip), clip)
        clipped += np.int64(abs(value) > limit)
        level = (inside + clip) * scale + np.float64(words[i]) * _WORD
        out[i] = np.uint32(np.int32(min(level, levels)))
    return clipped
