"""What `masked` costs for one upload, in the sum, and in the opening (protocol.md §12)."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.codec import Quantiser
from secagg.errors import OpeningError
from secagg.masked.masks import Mask
from secagg.masked.parameters import width
from secagg.masked.sharing import SECRET_BYTES, Secret
from secagg.masked.vectors import MaskedTotal, Shape, mask_update, vector_root
from secagg_app.bench_timing import MILLION, SchemeCost, Timing, measure

MORE = 8
"""Neighbours that are added to see what one of them costs."""
LEAF_BYTES = 96


@dataclass(frozen=True, slots=True)
class MaskedCost:
    """Cost with `neighbours` pair masks beside the own one; `threaded` is the client's time on all `threads`."""

    scheme: SchemeCost
    neighbours: int
    neighbour_ms: float
    hashing: Timing
    threaded: Timing
    threads: int

    def to_json(self) -> dict[str, float]:
        """Headline medians."""
        return {
            "masked_seal_ms_per_million": self.scheme.seal.median,
            "masked_ms_per_million_per_neighbour": self.neighbour_ms,
            "masked_bytes_per_param": self.scheme.bytes_per_param,
            "masked_add_ms_per_million": self.scheme.add.median,
            "masked_open_ms_per_million": self.scheme.open.median,
        }


def measure_masked(
    updates: list[NDArray[np.float32]], mean: NDArray[np.float64], quantiser: Quantiser, n_max: int, repeats: int
) -> MaskedCost:
    """All clients mask with one another, as in a complete graph; the sum is opened and compared with `mean`.

    Raises OpeningError when it differs from the mean of the inputs by more than rounding.
    """
    count, length = len(updates), len(mean)
    shape = Shape(length, width(max(n_max, count), quantiser.bits))
    own = [Mask.expand("self", _secret(), negative=False) for _ in updates]
    pairs = {(i, j): _secret() for i in range(count) for j in range(i + 1, count)}

    def masks(i: int) -> list[Mask]:
        shared = [(j, pairs[min(i, j), max(i, j)]) for j in range(count) if j != i]
        return [own[i], *(Mask.expand("pair", seed, negative=j < i) for j, seed in shared)]

    def client(extra: int = 0, threads: int = 1) -> NDArray[np.uint8]:
        more = [Mask.expand("pair", _secret(), negative=True) for _ in range(extra)]
        packed = mask_update(shape, quantiser, updates[0], [*masks(0), *more], os.urandom, threads=threads)
        vector_root(shape, packed)
        return packed

    seal, longer = measure(client, repeats), measure(lambda: client(MORE), repeats)
    threads = os.cpu_count() or 1
    uploads = [mask_update(shape, quantiser, update, masks(i), os.urandom) for i, update in enumerate(updates)]
    scratch, total = MaskedTotal(shape), MaskedTotal(shape)
    adding = measure(lambda: scratch.add(uploads[0]), repeats)
    for upload in uploads:
        total.add(upload)
    off = [Mask(mask.key, negative=True) for mask in own]
    opening = measure(lambda: total.opened(off, quantiser), repeats)
    error = float(np.abs(quantiser.decode_mean(total.opened(off, quantiser), count) - mean).max())
    if error > quantiser.step(quantiser.parts[0]):
        raise OpeningError(f"the opened mean is off by {error:.2e}, more than one step of the quantiser")
    shares = 2 * (count - 1) * LEAF_BYTES
    scheme = SchemeCost(
        seal.per_million(length),
        adding.per_million(length),
        opening.per_million(length),
        (shape.packed_bytes + shares) / length,
        error,
    )
    return MaskedCost(
        scheme,
        count - 1,
        (longer.median - seal.median) / MORE * MILLION / length,
        measure(lambda: vector_root(shape, uploads[0]), repeats).per_million(length),
        measure(lambda: client(threads=threads), repeats).per_million(length),
        threads,
    )


def _secret() -> Secret:
    return Secret(os.urandom(SECRET_BYTES))
