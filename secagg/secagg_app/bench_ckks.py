"""What `ckks` costs for one upload, in the sum, and in the opening (protocol.md §13)."""

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import blocks_root, encrypt_values
from secagg.ckks.keyholder import round_sums
from secagg.ckks.keys import HolderKey
from secagg.ckks.parameters import CkksParameters
from secagg.ckks.residues import U64, add_residues, primes_of, read_block
from secagg.ckks.wrapping import BlockContext, wrap_block
from secagg.codec import Quantiser
from secagg.errors import OpeningError
from secagg_app.bench_timing import SchemeCost, measure, room


def measure_ckks(
    updates: list[NDArray[np.float32]], mean: NDArray[np.float64], quantiser: Quantiser, n_max: int, repeats: int
) -> SchemeCost:
    """Quantise, pack, encrypt, seal and hash; hash, unseal, check and add; decrypt, flood and round.

    At most three repeats: it is slow.

    Raises OpeningError when the mean differs from that of the inputs by more than rounding.
    """
    repeats, length = min(repeats, 3), len(mean)
    parameters = CkksParameters(quantiser.bits, n_max, length)
    keys = HolderKey.generate(parameters.ring)
    secret, key = keys.secret(), keys.box.public_bytes
    public = secret.public
    places = [BlockContext(ctx="00" * 32, client="00" * 32, index=index) for index in range(parameters.blocks)]

    def client(update: NDArray[np.float32]) -> tuple[bytes, ...]:
        inner = encrypt_values(parameters, public, quantiser.encode(update, os.urandom).values)
        blocks = tuple(wrap_block(block, key, place) for block, place in zip(inner, places, strict=True))
        blocks_root(blocks)
        return blocks

    seal = measure(lambda: client(updates[0]), repeats)
    uploads = [client(update) for update in updates]
    ring, primes = parameters.ring, primes_of(parameters.ring)

    def opened(upload: tuple[bytes, ...]) -> Iterator[U64]:
        blocks_root(upload)
        return (read_block(ring, keys.unwrap(block, place)) for block, place in zip(upload, places, strict=True))

    scratch = list(opened(uploads[0]))

    def add(upload: tuple[bytes, ...]) -> None:
        for held, vector in zip(scratch, opened(upload), strict=True):
            add_residues(held, vector, primes)

    for upload in uploads[1:]:
        add(upload)
    opening = measure(lambda: round_sums(parameters, scratch, secret, os.urandom), repeats)
    sums = round_sums(parameters, scratch, secret, os.urandom)[:length]
    error = float(np.abs(quantiser.decode_mean(sums, len(updates)) - mean).max())
    if error > room(quantiser):
        raise OpeningError(f"the opened mean is off by {error:.2e}, more than one step of the quantiser")
    adding = measure(lambda: add(uploads[0]), repeats)
    size = parameters.upload_bytes / length
    return SchemeCost(seal.per_million(length), adding.per_million(length), opening.per_million(length), size, error)
