"""Where each number of the vector is: the one place that fixes length, order, groups and clips (protocol.md §2.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg.codec import Quantiser
from secagg.errors import EncodingError

Array = NDArray[np.float32]


class Part(NamedTuple):
    """Consecutive values of the vector: an array of `shape`, row by row, each value within [-clip, clip]."""

    name: str
    shape: tuple[int, ...]
    clip: float

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of the vector, end to end."""

    parts: tuple[Part, ...]

    @property
    def length(self) -> int:
        """L, the length of the vector."""
        return sum(part.size for part in self.parts)

    def quantiser(self, bits: int) -> Quantiser:
        """One clip for each part. Raises EncodingError for a clip or a number of bits that is out of range."""
        return Quantiser.from_groups([(part.size, part.clip) for part in self.parts], bits)

    def join(self, arrays: Mapping[str, NDArray[np.float32] | NDArray[np.float64]]) -> Array:
        """The vector, float32 [L], from the array of each part. Raises EncodingError for a part that does not fit."""
        pieces = list[Array]()
        for part in self.parts:
            array = arrays.get(part.name)
            if array is None or array.shape != part.shape:
                found = "missing" if array is None else f"of shape {array.shape}"
                raise EncodingError(f"part {part.name} is {found}; the vector has {part.shape} there")
            pieces.append(np.ascontiguousarray(array, dtype=np.float32).reshape(-1))
        return np.concatenate(pieces)

    def split(self, vector: Array) -> dict[str, Array]:
        """The array of each part: the inverse of `join`. Raises EncodingError unless `vector` is a finite [L]."""
        if vector.shape != (self.length,):
            raise EncodingError(f"the vector has shape {vector.shape}, its layout says ({self.length},)")
        if not np.isfinite(vector).all():
            raise EncodingError("the mean vector holds a value that is not finite")
        arrays, offset = dict[str, Array](), 0
        for part in self.parts:
            arrays[part.name] = vector[offset : offset + part.size].astype(np.float32).reshape(part.shape)
            offset += part.size
        return arrays
