"""From a client's vector to noisy integers (protocol.md §14.2 to §14.5)."""

import numpy as np
from numpy.typing import NDArray

from secagg.client_noise.sampler import sample
from secagg.client_noise.setting import NoiseGrid
from secagg.codec import ROUNDING_PURPOSE, Encoded
from secagg.errors import EncodingError
from secagg.randomness import Randomness, fresh_keystream

MAX_TRIES = 100
"""One try fails with probability below exp(-1/2); all of them with less than 2^-72."""
_PIECE = 1 << 16


def encode(grid: NoiseGrid, update: NDArray[np.float32], random: Randomness, weight: float = 1.0) -> Encoded:
    """Clip, round and hide `update` float32[L], times `weight`.

    The L2 norm of what is hidden is checked in whole numbers, so that no rounding of floats can exceed the sensitivity
    that was accounted.

    Raises:
        EncodingError: wrong shape or dtype, a value that is not finite, a weight outside (0, 1]; or, with probability
            below 2^-59, a value out of range. Nothing was encoded.
    """
    values, clipped = rounded(grid, update, random, weight)
    values += sample(grid.variance, grid.length, random)
    values += grid.half
    if int(values.min()) < 0 or int(values.max()) > 2 * grid.half:
        values.fill(0)
        raise EncodingError("the noise left its range, which happens once in 2^60 uploads; nothing was encoded")
    out = values.astype(np.uint32)
    values.fill(0)
    return Encoded(out, clipped)


def rounded(
    grid: NoiseGrid, update: NDArray[np.float32], random: Randomness, weight: float = 1.0
) -> tuple[NDArray[np.int64], int]:
    """The clipped vector in levels, int64[L], 0 for 0, its squared norm at most `grid.bound`; and the clipped count."""
    quantiser = grid.noisy_quantiser
    quantiser.check_update(update, weight)
    inside, clipped = _inside(grid, update, weight)
    stream = fresh_keystream(ROUNDING_PURPOSE, random)
    levels = np.empty(grid.length, dtype=np.uint32)
    for _ in range(MAX_TRIES):
        words = stream.read(4 * grid.length).view(np.uint32)
        quantiser.encode_range(inside, 1.0, 0, grid.length, words, levels)
        values = levels.astype(np.int64) - grid.half
        if squared_norm(values) <= grid.bound:
            return values, clipped
    raise EncodingError(f"{MAX_TRIES} roundings of the vector were all too long; nothing was encoded")


def squared_norm(values: NDArray[np.int64]) -> int:
    """The exact sum of squares of values below 2^23."""
    pieces = (values[start : start + _PIECE] for start in range(0, len(values), _PIECE))
    return sum(int(np.dot(piece, piece)) for piece in pieces)


def _inside(grid: NoiseGrid, update: NDArray[np.float32], weight: float) -> tuple[NDArray[np.float32], int]:
    """The weighted update with each value within its part's clip and the whole within the L2 clip; how many were not.

    In floats: what this is off by is caught by the exact check of the norm.
    """
    inside = np.empty(grid.length, dtype=np.float64)
    clipped, square = 0, 0.0
    for part in grid.quantiser.parts:
        inner = slice(part.offset, part.offset + part.size)
        weighted = update[inner].astype(np.float64) * weight
        limit = max(part.clip, float(np.float32(part.clip)))
        clipped += int((np.abs(weighted) > limit).sum())
        inside[inner] = np.clip(weighted, -part.clip, part.clip)
        square += float(np.square(inside[inner] / part.clip).sum())
    norm = square**0.5
    if norm > grid.noise.clip:
        inside *= grid.noise.clip / norm
    return inside.astype(np.float32), clipped
