"""Opening the sum with the sum of the keys (protocol.md §9).

v = sum(c_k) - A_k*sum(s) mod q, centred, is T*sum(e_k) + sum(m_k): sum(e) = floor(v/T), and sum(m) = v mod T
has the summed limbs as its digits in base beta. |sum(e)| is held to the bound that honest uploads reach but
with probability 2^-60, far below what the modulus could carry: a wrong share or ciphertext fails here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg import gaussian, ring
from secagg._numba import kernel
from secagg.accumulate import Accumulator, Packed
from secagg.digits import DigitReader, Sums
from secagg.errors import MalformedError, OpeningError
from secagg.expansion import Expander
from secagg.packing import unpack_block
from secagg.parameters import SealedParameters
from secagg.ring import below
from secagg.sealing import multiply_key
from secagg.threads import in_ranges

U32 = NDArray[np.uint32]


class Opening(NamedTuple):
    """`sums` [L] of the encoded vectors, uint32 when n_max*(2^bits - 1) fits and else uint64, and max |sum(e)|."""

    sums: Sums
    error_max: int


def open_sum(
    parameters: SealedParameters,
    ctx: bytes,
    total: Accumulator | Iterable[Packed],
    key_sum: NDArray[np.int64],
    contributors: int,
    *,
    threads: int = 1,
) -> Opening:
    """Open the sum of `contributors` ciphertexts, on so many threads when it is an accumulator.

    Args:
        parameters: the parameter set of the session.
        ctx: hash of the session descriptor, 32 bytes.
        total: the sum, as an accumulator or as its packed blocks in order.
        key_sum: sum of the contributors' keys, int64[N], from `shamir.reconstruct`.
        contributors: how many ciphertexts were summed, 1 to n_max.

    Raises:
        OpeningError: the key sum or sum(e) is too large for honest uploads, or a summed limb is above
            contributors*(2^bits - 1): a share or a ciphertext is wrong, and the session is burnt.
        MalformedError: too few or too many blocks, or a malformed one.
        ParameterError: contributors is out of range, or ctx is not 32 bytes.
    """
    bound = parameters.error_bound(contributors)
    _check_key_sum(parameters, key_sum, contributors)
    opener = _Opener(parameters, ctx, ring.key_transform(key_sum), contributors, bound, _empty_sums(parameters))
    if isinstance(total, Accumulator):
        held = total

        def work(start: int, stop: int) -> None:
            opener.run(start, (held.residues(block) for block in range(start, stop)))

        in_ranges(parameters.blocks, threads, work)
    elif opener.run(0, (unpack_block(parameters, packed) for packed in total)) != parameters.blocks:
        raise MalformedError(f"the sum does not have the {parameters.blocks} blocks that these parameters make")
    return Opening(opener.sums[: parameters.length], max(opener.errors))


@dataclass(frozen=True, slots=True)
class _Opener:
    """What all threads of one opening share. `errors` has the largest |sum(e)| of each range."""

    parameters: SealedParameters
    ctx: bytes
    key: U32
    contributors: int
    bound: int
    sums: Sums
    errors: list[int] = field(default_factory=lambda: [0])

    def run(self, block: int, blocks: Iterable[U32]) -> int:
        """Open residues [primes, N] of consecutive blocks, the first of them number `block`; returns where it ended."""
        parameters, error_max = self.parameters, 0
        expander, reader, shared = Expander(parameters, self.ctx), DigitReader.make(parameters), ring.tables()
        tables = (shared.primes, shared.negated_inverses, shared.columns, shared.rows)
        numbers = np.empty((2, parameters.degree), dtype=np.int64)
        work = np.empty((2, len(parameters.primes), parameters.degree), dtype=np.uint32)
        for residues in blocks:
            if block == parameters.blocks:
                return block + 1
            expander.fill(block, work[0])
            start = block * parameters.block_values
            _subtract_product(residues, self.key, work, tables)
            error, limb = reader.read(work[0], numbers, self.sums[start : start + parameters.block_values])
            error_max = max(error_max, error)
            if error > self.bound or limb > self.contributors * ((1 << parameters.bits) - 1):
                raise OpeningError(
                    f"block {block} of the sum does not open: max |sum(e)| is {error_max}, honest uploads stay within "
                    f"{self.bound}. A share or a ciphertext is wrong; this session cannot be opened"
                )
            block += 1
        self.errors.append(error_max)
        return block


def _empty_sums(parameters: SealedParameters) -> Sums:
    padded = parameters.blocks * parameters.block_values
    if parameters.base <= 1 << 32:
        return np.empty(padded, dtype=np.uint32)
    return np.empty(padded, dtype=np.uint64)


def _check_key_sum(parameters: SealedParameters, key_sum: NDArray[np.int64], contributors: int) -> None:
    if key_sum.dtype != np.int64 or key_sum.shape != (parameters.degree,):
        raise OpeningError(f"the key sum is {key_sum.dtype}{list(key_sum.shape)}, not int64[{parameters.degree}]")
    largest = int(np.abs(key_sum).max())
    bound = contributors * gaussian.gaussian(gaussian.SECRET_VARIANCE).largest
    if largest > bound:
        raise OpeningError(f"the key sum reaches {largest}; {contributors} honest keys stay within {bound}")


@kernel
def _subtract_product(residues: U32, key: U32, work: U32, ring_tables: tuple[U32, U32, U32, U32]) -> None:
    """work[0] holds A; becomes residues - A*key mod each prime."""
    primes, negated_inverses, columns, rows = ring_tables
    for j in range(len(primes)):
        prime = primes[j]
        twice = np.uint32(prime + prime)
        row = work[0, j]
        multiply_key(row, key[j], work[1, j], columns[j], rows[j], prime, negated_inverses[j])
        source = residues[j]
        for i in range(len(row)):
            row[i] = below(below(np.uint32(source[i] + twice - row[i]), twice), prime)
