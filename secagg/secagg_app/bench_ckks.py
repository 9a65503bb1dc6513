"""What `ckks` costs for one upload, in the sum, and in the opening (protocol.md §13)."""

import os

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import blocks_root, encrypt_values
from secagg.ckks.keyholder import round_sums
from secagg.ckks.parameters import CkksParameters
from secagg.ckks.residues import add_residues, primes_of, read_block
from secagg.ckks.scheme import SecretContext
from secagg.codec import Quantiser
from secagg.errors import OpeningError
from secagg_app.bench_timing import SchemeCost, measure


def measure_ckks(
    updates: list[NDArray[np.float32]], mean: NDArray[np.float64], quantiser: Quantiser, n_max: int, repeats: int
) -> SchemeCost:
    """Quantise, pack, encrypt and hash; check and add; decrypt, flood and round. At most three repeats: it is slow.

    Raises OpeningError when the mean differs from that of the inputs by more than rounding.
    """
    repeats, length = min(repeats, 3), len(mean)
    parameters = CkksParameters(quantiser.bits, n_max, length)
    secret = SecretContext.generate(parameters.ring)
    public = secret.public

    def client(update: NDArray[np.float32]) -> tuple[bytes, ...]:
        blocks = encrypt_values(parameters, public, quantiser.encode(update, os.urandom).values)
        blocks_root(blocks)
        return blocks

    seal = measure(lambda: client(updates[0]), repeats)
    uploads = [client(update) for update in updates]
    ring, primes = parameters.ring, primes_of(parameters.ring)
    scratch = [read_block(ring, block) for block in uploads[0]]

    def add(upload: tuple[bytes, ...]) -> None:
        for held, block in zip(scratch, upload, strict=True):
            add_residues(held, read_block(ring, block), primes)

    for upload in uploads[1:]:
        add(upload)
    opening = measure(lambda: round_sums(parameters, scratch, secret, os.urandom), repeats)
    sums = round_sums(parameters, scratch, secret, os.urandom)[:length]
    error = float(np.abs(quantiser.decode_mean(sums, len(updates)) - mean).max())
    if error > quantiser.step(quantiser.parts[0]):
        raise OpeningError(f"the opened mean is off by {error:.2e}, more than one step of the quantiser")
    adding = measure(lambda: add(uploads[0]), repeats)
    size = parameters.upload_bytes / length
    return SchemeCost(seal.per_million(length), adding.per_million(length), opening.per_million(length), size, error)
