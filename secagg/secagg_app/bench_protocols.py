"""`secagg bench protocols`: time and size of one upload, sum and opening of the three protocols, in one run.

Beside them TenSEAL CKKS as federated-learning frameworks set it. One thread for all. `sealed` covers quantising,
sampling, sealing, and with `keyholder_bytes_per_client` the real HPKE boxes; CKKS covers encoding, encryption under the
public key and serialisation, as its users call it.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.boxes import BoxContext, SessionKey, open_box, seal_box
from secagg.codec import Quantiser
from secagg.errors import OpeningError
from secagg.evidence import BLINDING_BYTES
from secagg.opening import Opening, open_sum
from secagg.parameters import SealedParameters, choose
from secagg.sealing import Sealed, seal_update
from secagg_app.bench_ckks import measure_ckks
from secagg_app.bench_masked import MaskedCost, measure_masked
from secagg_app.bench_timing import MILLION, SchemeCost, Timing, measure
from secagg_app.json_option import SCREEN, json_option, write_json

CLIP = 0.01
BITS = 16
HOLDERS = 4
THRESHOLD = 3
TENSEAL_DEGREE = 8192
TENSEAL_PRIMES = (60, 40, 60)
TENSEAL_SCALE_BITS = 40


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One run. `keyholder`: milliseconds for one key-holder to open and sum the boxes of all clients."""

    params: int
    clients: int
    n_max: int
    limbs: int
    security_bits: int
    sealed: SchemeCost
    share: Timing
    keyholder: Timing
    keyholder_bytes_per_client: int
    masked: MaskedCost
    ckks: SchemeCost | None
    tenseal: SchemeCost | None
    machine: dict[str, str | int | float]

    def to_json(self) -> dict[str, Any]:
        """Headline medians first, then everything measured."""
        flat: dict[str, Any] = {
            "seal_ms_per_million": self.sealed.seal.median,
            "bytes_per_param": self.sealed.bytes_per_param,
            "add_ms_per_million": self.sealed.add.median,
            "open_ms_per_million": self.sealed.open.median,
            "keyholder_bytes_per_client": self.keyholder_bytes_per_client,
            "keyholder_ms": self.keyholder.median,
        }
        flat |= self.masked.to_json()
        if self.ckks is not None:
            flat |= {
                "ckks_seal_ms_per_million": self.ckks.seal.median,
                "ckks_bytes_per_param": self.ckks.bytes_per_param,
                "ckks_add_ms_per_million": self.ckks.add.median,
                "ckks_open_ms_per_million": self.ckks.open.median,
            }
        if self.tenseal is not None:
            flat |= {
                "tenseal_seal_ms_per_million": self.tenseal.seal.median,
                "tenseal_bytes_per_param": self.tenseal.bytes_per_param,
                "tenseal_add_ms_per_million": self.tenseal.add.median,
                "tenseal_open_ms_per_million": self.tenseal.open.median,
            }
        return flat | {"detail": asdict(self)}


def run_bench(
    params_count: int, clients: int = 4, n_max: int = 1000, repeats: int = 7, with_tenseal: bool = True
) -> BenchResult:
    """Measure `params_count` values from `clients` clients under the parameters for `n_max` of 16 bits.

    Raises:
        ParameterError: no parameter set carries these numbers.
        OpeningError: the opened sum differs from the sum of the inputs by more than rounding.
    """
    parameters = choose(BITS, n_max, params_count)
    quantiser = Quantiser.uniform(params_count, CLIP, BITS)
    generator = np.random.default_rng(1)
    updates = [generator.uniform(-CLIP, CLIP, params_count).astype(np.float32) for _ in range(clients)]
    mean = np.stack(updates).astype(np.float64).mean(axis=0)
    host = machine()
    ctx = os.urandom(32)
    uploads = [seal_update(parameters, quantiser, ctx, update, os.urandom) for update in updates]
    shares = [shamir.share_key(upload.key, THRESHOLD, HOLDERS, os.urandom) for upload in uploads]
    boxes, contexts, key = _boxes([[share.packed for share in held] for held in shares], ctx)
    sealed, total = _measure_sealed(parameters, quantiser, ctx, updates[0], uploads, repeats)
    key_sum = _key_sum(shares)
    opening = measure(lambda: open_sum(parameters, ctx, total, key_sum, clients), repeats)
    error = _opening_error(quantiser, open_sum(parameters, ctx, total, key_sum, clients), clients, mean)
    box_bytes = len(boxes[0])
    return BenchResult(
        params=params_count,
        clients=clients,
        n_max=n_max,
        limbs=parameters.limbs,
        security_bits=parameters.security_bits,
        sealed=SchemeCost(
            sealed[0].per_million(params_count),
            sealed[1].per_million(params_count),
            opening.per_million(params_count),
            (parameters.ciphertext_bytes + HOLDERS * box_bytes) / params_count,
            error,
        ),
        share=measure(lambda: _share_and_box(uploads[0], ctx, key), repeats),
        keyholder=measure(lambda: _keyholder(boxes, contexts, key), repeats),
        keyholder_bytes_per_client=box_bytes,
        masked=measure_masked(updates, mean, quantiser, n_max, repeats),
        ckks=measure_ckks(updates, mean, quantiser, n_max, repeats) if with_tenseal else None,
        tenseal=_measure_tenseal(updates, mean, repeats) if with_tenseal else None,
        machine=host,
    )


def _key_sum(shares: list[tuple[shamir.KeyShare, ...]]) -> NDArray[np.int64]:
    chosen = range(1, THRESHOLD + 1)
    return shamir.reconstruct(THRESHOLD, {x: shamir.sum_shares(s[x - 1].packed for s in shares) for x in chosen})


def _opening_error(quantiser: Quantiser, opening: Opening, clients: int, mean: NDArray[np.float64]) -> float:
    error = float(np.abs(quantiser.decode_mean(opening.sums, clients) - mean).max())
    if error > quantiser.step(quantiser.parts[0]):
        raise OpeningError(f"the opened mean is off by {error:.2e}, more than one step of the quantiser")
    return error


def machine() -> dict[str, str | int | float]:
    """What the numbers were taken on, and how busy it was before."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "cpu": name,
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads_used": 1,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _measure_sealed(
    parameters: SealedParameters,
    quantiser: Quantiser,
    ctx: bytes,
    update: NDArray[np.float32],
    uploads: list[Sealed],
    repeats: int,
) -> tuple[tuple[Timing, Timing], Accumulator]:
    seal = measure(lambda: seal_update(parameters, quantiser, ctx, update, os.urandom), repeats)
    scratch = Accumulator(parameters)
    add = measure(lambda: scratch.add(uploads[0].ciphertext), repeats)
    total = Accumulator(parameters)
    for upload in uploads:
        total.add(upload.ciphertext)
    return (seal, add), total


def _context(ctx: bytes, client: int) -> BoxContext:
    name = f"{client:064x}"
    return BoxContext(ctx=ctx.hex(), client=name, holder=f"{0:064x}", index=1, ciphertext_root=name)


def _boxes(shares: list[list[bytes]], ctx: bytes) -> tuple[list[bytes], list[BoxContext], SessionKey]:
    """The boxes of key-holder 1, one from each client."""
    key = SessionKey.generate()
    contexts = [_context(ctx, client) for client in range(len(shares))]
    boxes = [
        seal_box(held[0], bytes(BLINDING_BYTES), key.public_bytes, context)
        for held, context in zip(shares, contexts, strict=True)
    ]
    return boxes, contexts, key


def _share_and_box(upload: Sealed, ctx: bytes, key: SessionKey) -> None:
    public = key.public_bytes
    for share in shamir.share_key(upload.key, THRESHOLD, HOLDERS, os.urandom):
        seal_box(share.packed, share.blinding, public, _context(ctx, 0))


def _keyholder(boxes: list[bytes], contexts: list[BoxContext], key: SessionKey) -> bytes:
    opened = (open_box(box, key, at, shamir.SHARE_BYTES).share for box, at in zip(boxes, contexts, strict=True))
    return shamir.sum_shares(opened)


def _measure_tenseal(updates: list[NDArray[np.float32]], mean: NDArray[np.float64], repeats: int) -> SchemeCost:
    """TenSEAL CKKS as federated-learning frameworks set it: N=8192, [60, 40, 60], scale 2^40, one thread."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=TENSEAL_DEGREE,
        coeff_mod_bit_sizes=list(TENSEAL_PRIMES),
        n_threads=1,
    )
    context.global_scale = 2**TENSEAL_SCALE_BITS
    slots, size = TENSEAL_DEGREE // 2, len(mean)

    def encrypt(update: NDArray[np.float32]) -> list[bytes]:
        parts = (update[start : start + slots].tolist() for start in range(0, size, slots))
        return [tenseal.ckks_vector(context, part).serialize() for part in parts]

    def load(upload: list[bytes]) -> list[Any]:
        return [tenseal.ckks_vector_from(context, part) for part in upload]

    def add(total: list[Any], upload: list[bytes]) -> None:
        for held, part in zip(total, load(upload), strict=True):
            held.add_(part)

    def decrypt(total: list[Any]) -> NDArray[np.float64]:
        return np.concatenate([np.array(part.decrypt()) for part in total])

    repeats = min(repeats, 3)
    seal = measure(lambda: encrypt(updates[0]), repeats)
    first = encrypt(updates[0])
    scratch, total = load(first), load(first)
    adding = measure(lambda: add(scratch, first), repeats)
    for update in updates[1:]:
        add(total, encrypt(update))
    opening = measure(lambda: decrypt(total), repeats)
    error = float(np.abs(decrypt(total) / len(updates) - mean).max())
    bytes_per_param = sum(map(len, first)) / size
    return SchemeCost(
        seal.per_million(size), adding.per_million(size), opening.per_million(size), bytes_per_param, error
    )


def print_result(result: BenchResult, console: Console) -> None:
    """The table for people."""
    console.print(
        f"{result.params:,} values of {BITS} bits, {result.clients} clients, parameters for up to {result.n_max} "
        f"({result.limbs} limbs, {result.security_bits} bits of core-SVP), one thread, medians (min to max)"
    )
    table = Table("", "sealed", f"masked, {result.masked.neighbours} neighbours", "ckks", f"TenSEAL {TENSEAL_DEGREE}")

    def cell(timing: Timing) -> str:
        return f"{timing.median:.2f} ({timing.minimum:.2f} to {timing.maximum:.2f})"

    columns = (result.sealed, result.masked.scheme, result.ckks, result.tenseal)
    rows: tuple[tuple[str, Callable[[SchemeCost], str]], ...] = (
        ("client: ms per million values", lambda cost: cell(cost.seal)),
        ("client: bytes a value", lambda cost: f"{cost.bytes_per_param:.2f}"),
        ("add one upload: ms per million", lambda cost: cell(cost.add)),
        ("open the sum: ms per million", lambda cost: cell(cost.open)),
        ("largest error of the mean", lambda cost: f"{cost.mean_error:.1e}"),
    )
    for title, show in rows:
        table.add_row(title, *("not run" if cost is None else show(cost) for cost in columns))
    console.print(table)
    masked = result.masked
    console.print(
        f"sealed: share and box the key for {HOLDERS} holders {cell(result.share)} ms; a key-holder opens and sums the "
        f"boxes of all clients in {cell(result.keyholder)} ms, {result.keyholder_bytes_per_client:,} bytes from each\n"
        f"masked: {masked.neighbour_ms:.2f} ms more for each neighbour; with all {masked.threads} threads "
        f"{cell(masked.threaded)}; hashing the vector {cell(masked.hashing)}, which is in the client's time above"
    )
    console.print(
        f"[dim]{result.machine['cpu']}, {result.machine['system']}, Python {result.machine['python']}, "
        f"load {result.machine['load_average']}[/dim]"
    )


@click.command("protocols", epilog="Example: secagg bench protocols --params 1000000 --json bench.json")
@click.option("--params", type=click.IntRange(1), default=MILLION, show_default=True, help="Values in a vector.")
@click.option("--clients", type=click.IntRange(2), default=4, show_default=True, help="Uploads in the sum.")
@click.option("--n-max", type=click.IntRange(2), default=1000, show_default=True, help="Cohort the parameters carry.")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Runs behind each median.")
@click.option("--tenseal/--no-tenseal", default=True, show_default=True, help="Also measure ckks, and TenSEAL CKKS.")
@json_option
def protocols(params: int, clients: int, n_max: int, repeats: int, tenseal: bool, json_file: Path | None) -> None:
    """Measure sealing, adding and opening under each protocol on this machine, beside TenSEAL CKKS."""
    result = run_bench(params, clients, max(n_max, clients), repeats, tenseal)
    print_result(result, Console(stderr=json_file == SCREEN))
    if json_file is not None:
        write_json(json_file, result.to_json())
