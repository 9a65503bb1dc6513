"""What `sealed` costs (protocol.md §5, §6, §9), step by step, and how far that is from what the machine allows."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg import gaussian, ring, shamir
from secagg.accumulate import Accumulator
from secagg.boxes import BoxContext, SessionKey, open_box, seal_box
from secagg.codec import ROUNDING_PURPOSE, Quantiser
from secagg.digits import DigitReader
from secagg.errors import OpeningError
from secagg.expansion import Expander, accept
from secagg.merkle import rows_root
from secagg.opening import Opening, open_sum
from secagg.packing import bad_residues, pack30
from secagg.parameters import SealedParameters
from secagg.randomness import fresh_keystream
from secagg.sealing import Sealed, ShortKey, message_factors, multiply_key, seal_update
from secagg.sealing import add_message as add_message_kernel
from secagg_app.bench_timing import MILLION, SchemeCost, Threaded, Timing, measure, room

HOLDERS = 4
THRESHOLD = 3
COPY_BYTES = 256 << 20
"""Far beyond every cache."""
KEYSTREAM_BYTES = 1 << 16
SEAL_STEPS = (
    "rounding_stream", "quantise", "gaussian_stream", "gaussian", "expansion_stream", "expansion", "multiply_and_ntt",
    "add_message", "pack", "sha256",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SealedCost:
    """`share`: ms to share the key and make all boxes; `keyholder`: ms for one to open and sum those of all clients."""

    scheme: SchemeCost
    share: Timing
    keyholder: Timing
    keyholder_bytes_per_client: int
    hashing: Timing


def seal_and_hash(
    parameters: SealedParameters, quantiser: Quantiser, ctx: bytes, update: NDArray[np.float32], threads: int
) -> Sealed:
    """From float32 to the bytes on the wire and their Merkle root, as a client does it; boxes apart."""
    sealed = seal_update(parameters, quantiser, ctx, update, os.urandom, threads=threads)
    rows_root(sealed.ciphertext, threads)
    return sealed


def measure_sealed(
    parameters: SealedParameters,
    quantiser: Quantiser,
    updates: list[NDArray[np.float32]],
    mean: NDArray[np.float64],
    repeats: int,
) -> SealedCost:
    """All clients' updates are sealed, shared, boxed, added and opened.

    Raises OpeningError when the opened mean differs from `mean` by more than rounding.
    """
    ctx, clients, length, threads = os.urandom(32), len(updates), len(mean), os.cpu_count() or 1
    uploads = [seal_and_hash(parameters, quantiser, ctx, update, threads) for update in updates]
    shares = [shamir.share_key(upload.key, THRESHOLD, HOLDERS, os.urandom) for upload in uploads]
    total, scratch = Accumulator(parameters), _Scratch(parameters)
    for upload in uploads:
        total.add(upload.ciphertext)
    key_sum = _key_sum(shares)
    error = _opening_error(quantiser, open_sum(parameters, ctx, total, key_sum, clients), clients, mean)
    session = SessionKey.generate()
    contexts = [_context(ctx, client) for client in range(clients)]
    boxes = [
        seal_box(held[0].packed, held[0].blinding, session.public_bytes, at)
        for held, at in zip(shares, contexts, strict=True)
    ]

    def times(threads: int) -> tuple[Timing, Timing, Timing]:
        seal = measure(lambda: seal_and_hash(parameters, quantiser, ctx, updates[0], threads), repeats)
        adding = measure(lambda: scratch.add(uploads[0].ciphertext, threads), repeats)
        opening = measure(lambda: open_sum(parameters, ctx, total, key_sum, clients, threads=threads), repeats)
        return seal.per_million(length), adding.per_million(length), opening.per_million(length)

    size = (parameters.ciphertext_bytes + HOLDERS * len(boxes[0])) / length
    return SealedCost(
        SchemeCost(*times(1), size, error, Threaded(threads, *times(threads))),
        measure(lambda: _share_and_box(uploads[0].key, session, contexts[0]), repeats),
        measure(lambda: _keyholder(boxes, contexts, session), repeats),
        len(boxes[0]),
        measure(lambda: rows_root(uploads[0].ciphertext), repeats).per_million(length),
    )


class _Scratch:
    """A running sum that begins anew when it holds as many uploads as it may."""

    def __init__(self, parameters: SealedParameters) -> None:
        self._sum = Accumulator(parameters)

    def add(self, ciphertext: NDArray[np.uint8], threads: int) -> None:
        if self._sum.count == self._sum.parameters.n_max:
            self._sum = Accumulator(self._sum.parameters)
        self._sum.add_rows(ciphertext, threads)


def _key_sum(shares: list[tuple[shamir.KeyShare, ...]]) -> NDArray[np.int64]:
    chosen = range(1, THRESHOLD + 1)
    return shamir.reconstruct(THRESHOLD, {x: shamir.sum_shares(s[x - 1].packed for s in shares) for x in chosen})


def _opening_error(quantiser: Quantiser, opening: Opening, clients: int, mean: NDArray[np.float64]) -> float:
    error = float(np.abs(quantiser.decode_mean(opening.sums, clients) - mean).max())
    if error > room(quantiser):
        raise OpeningError(f"the opened mean is off by {error:.2e}, more than one step of the quantiser")
    return error


def _context(ctx: bytes, client: int) -> BoxContext:
    name = f"{client:064x}"
    return BoxContext(ctx=ctx.hex(), client=name, holder=f"{0:064x}", index=1, ciphertext_root=name)


def _share_and_box(key: ShortKey, session: SessionKey, context: BoxContext) -> None:
    for share in shamir.share_key(key, THRESHOLD, HOLDERS, os.urandom):
        seal_box(share.packed, share.blinding, session.public_bytes, context)


def _keyholder(boxes: list[bytes], contexts: list[BoxContext], session: SessionKey) -> bytes:
    opened = (open_box(box, session, at, shamir.SHARE_BYTES).share for box, at in zip(boxes, contexts, strict=True))
    return shamir.sum_shares(opened)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Milliseconds for a million values on one thread: each step of a seal, an addition and an opening by itself.

    `limits`: the same amount of work done by the machine's plainest means. `copy_gb_per_second` counts the bytes that
    are written.
    """

    seal: dict[str, float]
    add: dict[str, float]
    open: dict[str, float]
    limits: dict[str, float]
    copy_gb_per_second: float
    ratios: dict[str, float]


def measure_breakdown(
    parameters: SealedParameters, quantiser: Quantiser, update: NDArray[np.float32], cost: SchemeCost, repeats: int
) -> Breakdown:
    """Where the time of `cost` goes. Steps run over all blocks, one step at a time, with the buffers of one block."""
    steps = _Steps(parameters, quantiser, update)

    def ms(step: str) -> float:
        return measure(getattr(steps, step), repeats).per_million(parameters.length).median

    seal = {name: ms(name) for name in SEAL_STEPS}
    add = {"unpack_and_check": ms("unpack_and_check")}
    add["add"] = max(0.0, cost.add.median - add["unpack_and_check"])
    opening = {name: seal[name] for name in ("expansion_stream", "expansion", "multiply_and_ntt")}
    opening["digits"] = ms("digits")
    copied = measure(steps.copy, repeats).median
    bandwidth = COPY_BYTES / copied / 1e6
    moved = parameters.ciphertext_bytes / parameters.length * MILLION
    limits = {
        "copy_of_ciphertext": moved / bandwidth / 1e6,
        "one_ntt": ms("ntt"),
        "keystream_4_bytes": ms("keystream"),
    }
    whole = {"seal": cost.seal.median, "add": cost.add.median, "open": cost.open.median}
    ratios = {f"{name}_over_{limit}": time / limits[limit] for name, time in whole.items() for limit in limits}
    return Breakdown(seal, add, opening, limits, bandwidth, ratios)


class _Steps:
    """The steps of one seal, over as many blocks as it has; the buffers hold made-up contents."""

    def __init__(self, parameters: SealedParameters, quantiser: Quantiser, update: NDArray[np.float32]) -> None:
        self.parameters, self.quantiser, self.update = parameters, quantiser, update
        self.tables, self.factors = ring.tables(), message_factors(parameters)
        self.key = ring.key_transform(np.ones(parameters.degree, dtype=np.int64))
        self.values = np.zeros(parameters.block_values, dtype=np.uint32)
        self.words = np.empty(parameters.block_values, dtype=np.uint32)
        self.noise = np.zeros(gaussian.stream_bytes(parameters.degree), dtype=np.uint8)
        self.errors = np.zeros(parameters.degree, dtype=np.int32)
        self.polynomial = np.ones((len(parameters.primes), parameters.degree), dtype=np.uint32)
        self.scratch = np.empty(parameters.degree, dtype=np.uint32)
        self.sums = np.empty(parameters.degree, dtype=np.uint64)
        self.ciphertext = np.zeros((parameters.blocks, parameters.block_bytes), dtype=np.uint8)
        self.packed = self.ciphertext.view(np.uint32)
        self.stream = fresh_keystream(ROUNDING_PURPOSE, os.urandom)
        self.expander = Expander(parameters, bytes(32))
        self.public = np.zeros(parameters.degree + 64, dtype=np.uint32)
        self.source, self.target = (np.zeros(COPY_BYTES, dtype=np.uint8) for _ in range(2))
        self.bytes = np.empty(KEYSTREAM_BYTES, dtype=np.uint8)

    def rounding_stream(self) -> None:
        """One word a value."""
        for _ in range(self.parameters.blocks):
            self.stream.fill(self.words.view(np.uint8))

    def quantise(self) -> None:
        """Clip, scale, round; and the check for values that are not finite."""
        self.quantiser.check_update(self.update, 1.0)
        size, length = self.parameters.block_values, self.parameters.length
        for start in range(0, length, size):
            stop = min(start + size, length)
            self.quantiser.encode_range(self.update, 1.0, start, stop, self.words[: stop - start], self.values)

    def gaussian_stream(self) -> None:
        """Nine bytes a coefficient, less one bit in eight."""
        for _ in range(self.parameters.blocks):
            self.stream.fill(self.noise)

    def gaussian(self) -> None:
        """58 comparisons a coefficient, and a sign."""
        table = gaussian.gaussian(gaussian.ERROR_VARIANCE)
        for _ in range(self.parameters.blocks):
            gaussian.sample_into(table, self.noise, self.scratch, self.errors)

    def expansion_stream(self) -> None:
        """A word a residue, and 64 to spare."""
        for _ in range(self.parameters.blocks * len(self.parameters.primes)):
            self.stream.fill(self.public.view(np.uint8))

    def expansion(self) -> None:
        """Keep the words below the prime."""
        for _ in range(self.parameters.blocks):
            for j, prime in enumerate(self.parameters.primes):
                accept(self.public, np.uint32(prime), self.polynomial[j], np.int64(0))

    def multiply_and_ntt(self) -> None:
        """A times s, back to coefficients."""
        for _ in range(self.parameters.blocks):
            for j, prime in enumerate(self.tables.primes):
                multiply_key(self.polynomial[j], self.key[j], self.scratch, self.tables.columns[j], self.tables.rows[j],
                             prime, self.tables.negated_inverses[j])  # fmt: skip

    def add_message(self) -> None:
        """T*e + m."""
        for _ in range(self.parameters.blocks):
            for j, prime in enumerate(self.tables.primes):
                add_message_kernel(self.polynomial[j], self.sums, self.errors, self.values, self.factors[j], prime,
                                   self.tables.negated_inverses[j])  # fmt: skip

    def pack(self) -> None:
        """30 bits a residue."""
        share = self.packed.shape[1] // len(self.parameters.primes)
        for row in self.packed:
            for j in range(len(self.parameters.primes)):
                pack30(self.polynomial[j], row[j * share : (j + 1) * share])

    def sha256(self) -> None:
        """A Merkle leaf a block, and the root."""
        rows_root(self.ciphertext)

    def unpack_and_check(self) -> None:
        """Residues from bytes, each below its prime."""
        bad_residues(self.packed, self.tables.primes, self.scratch)

    def digits(self) -> None:
        """Garner, and limbs from the lifted numbers."""
        reader, numbers = DigitReader.make(self.parameters), np.empty((2, self.parameters.degree), dtype=np.int64)
        for _ in range(self.parameters.blocks):
            reader.read(self.polynomial, numbers, self.values)

    def ntt(self) -> None:
        """One inverse transform over as many coefficients."""
        for _ in range(self.parameters.blocks):
            for j, prime in enumerate(self.tables.primes):
                ring.inverse(self.polynomial[j], self.scratch, self.tables.columns[j], self.tables.rows[j], prime)

    def keystream(self) -> None:
        """AES-256-CTR, four bytes a value."""
        for _ in range(-(-4 * self.parameters.length // KEYSTREAM_BYTES)):
            self.stream.fill(self.bytes)

    def copy(self) -> None:
        """Memory to memory."""
        np.copyto(self.target, self.source)
