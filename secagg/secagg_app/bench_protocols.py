"""`secagg bench protocols`: time and size of one upload, sum and opening of the three protocols, in one run.

Beside them TenSEAL CKKS as NVFlare sets it and, if asked for, the primitives of Flower's SecAgg+ in an environment of
their own. Everything is measured on one thread and, where there is a parallel path, on all; `ckks` has none. `sealed`
covers quantising, sampling, sealing and hashing, and with `keyholder_bytes_per_client` the real HPKE boxes; CKKS covers
encoding, encryption under the public key and serialisation, as its users call it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from secagg.codec import Quantiser
from secagg.parameters import choose
from secagg_app.bench_ckks import measure_ckks
from secagg_app.bench_first_call import FirstCall, measure_first_call
from secagg_app.bench_flower import FlowerCost, make_environment, measure_flower
from secagg_app.bench_machine import machine
from secagg_app.bench_masked import MaskedCost, measure_masked
from secagg_app.bench_plot import plot
from secagg_app.bench_sealed import HOLDERS, Breakdown, SealedCost, measure_breakdown, measure_sealed
from secagg_app.bench_tenseal import DEGREE, measure_tenseal
from secagg_app.bench_timing import MILLION, SchemeCost, Timing
from secagg_app.json_option import SCREEN, json_option, write_json

CLIP = 0.01
BITS = 16
SEED = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run measures beside `sealed` and `masked`. `flower`: a Python that has Flower."""

    tenseal: bool = True
    flower: Path | None = None
    first_call: bool = True

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those whose first calls are measured."""
        return ("sealed", "masked", "ckks") if self.tenseal else ("sealed", "masked")


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One run. `keyholder`: milliseconds for one key-holder to open and sum the boxes of all clients."""

    params: int
    bits: int
    clients: int
    n_max: int
    limbs: int
    security_bits: int
    sealed: SealedCost
    breakdown: Breakdown
    masked: MaskedCost
    ckks: SchemeCost | None
    tenseal: SchemeCost | None
    flower: FlowerCost | None
    first_call: FirstCall | None
    machine: dict[str, str | int | float]

    def schemes(self) -> list[tuple[str, SchemeCost]]:
        """What was measured, by its name for people."""
        named = [
            ("sealed", self.sealed.scheme),
            (f"masked, {self.masked.neighbours} neighbours", self.masked.scheme),
            ("ckks", self.ckks),
            (f"TenSEAL {DEGREE}", self.tenseal),
        ]
        return [(name, cost) for name, cost in named if cost is not None]

    def to_json(self) -> dict[str, Any]:
        """Headline medians first, then everything measured."""
        flat: dict[str, Any] = self.sealed.scheme.to_json()
        flat |= {
            "hash_ms_per_million": self.sealed.hashing.median,
            "keyholder_bytes_per_client": self.sealed.keyholder_bytes_per_client,
            "keyholder_ms": self.sealed.keyholder.median,
            "share_and_box_ms": self.sealed.share.median,
        }
        flat |= self.masked.to_json() | self.breakdown.ratios
        for prefix, cost in (("ckks_", self.ckks), ("tenseal_", self.tenseal)):
            if cost is not None:
                flat |= cost.to_json(prefix)
        if self.flower is not None:
            flat |= self.flower.to_json()
        if self.first_call is not None:
            flat |= {
                "first_call_compiled_seconds": self.first_call.compiled,
                "first_call_cached_seconds": self.first_call.cached,
                "later_call_seconds": self.first_call.again,
            }
        return flat | {"detail": asdict(self)}


def run_bench(
    params_count: int,
    clients: int = 4,
    n_max: int = 1000,
    repeats: int = 7,
    asked: Asked | None = None,
    bits: int = BITS,
) -> BenchResult:
    """Measure `params_count` values of `bits` bits from `clients` clients under the parameters for `n_max`.

    Raises:
        ParameterError: no parameter set carries these numbers.
        OpeningError: an opened sum differs from the sum of the inputs by more than rounding.
        ProcessFailed: Flower was asked for and cannot be run.
    """
    asked = asked or Asked()
    host = machine()
    parameters = choose(bits, n_max, params_count)
    quantiser = Quantiser.uniform(params_count, CLIP, bits)
    generator = np.random.default_rng(SEED)
    updates = [generator.uniform(-CLIP, CLIP, params_count).astype(np.float32) for _ in range(clients)]
    mean = np.stack(updates).astype(np.float64).mean(axis=0)
    sealed = measure_sealed(parameters, quantiser, updates, mean, repeats)
    return BenchResult(
        params=params_count,
        bits=bits,
        clients=clients,
        n_max=n_max,
        limbs=parameters.limbs,
        security_bits=parameters.security_bits,
        sealed=sealed,
        breakdown=measure_breakdown(parameters, quantiser, updates[0], sealed.scheme, repeats),
        masked=measure_masked(updates, mean, quantiser, n_max, repeats),
        ckks=measure_ckks(updates, mean, quantiser, n_max, repeats) if asked.tenseal else None,
        tenseal=measure_tenseal(updates, mean, repeats) if asked.tenseal else None,
        flower=measure_flower(asked.flower, params_count, CLIP, bits, SEED, min(repeats, 3)) if asked.flower else None,
        first_call=measure_first_call(asked.protocols) if asked.first_call else None,
        machine=host,
    )


def _cell(timing: Timing) -> str:
    return f"{timing.median:.2f} ({timing.minimum:.2f} to {timing.maximum:.2f})"


def print_result(result: BenchResult, console: Console) -> None:
    """The tables for people."""
    console.print(
        f"{result.params:,} values of {result.bits} bits, {result.clients} clients, parameters for up to "
        f"{result.n_max} ({result.limbs} limbs, {result.security_bits} bits of core-SVP); one thread, medians "
        "(min to max)"
    )
    schemes = result.schemes()
    table = Table("", *(name for name, _ in schemes))

    def wide(pick: "Callable[[SchemeCost], Timing | None]") -> "Callable[[SchemeCost], str]":
        def show(cost: SchemeCost) -> str:
            timing = pick(cost)
            return "-" if timing is None else f"{timing.median:.2f}"

        return show

    rows: tuple[tuple[str, Callable[[SchemeCost], str]], ...] = (
        ("client: ms per million values", lambda cost: _cell(cost.seal)),
        ("  on all threads", wide(lambda cost: cost.threaded.seal if cost.threaded else None)),
        ("client: bytes a value", lambda cost: f"{cost.bytes_per_param:.2f}"),
        ("add one upload: ms per million", lambda cost: _cell(cost.add)),
        ("  on all threads", wide(lambda cost: cost.threaded.add if cost.threaded else None)),
        ("open the sum: ms per million", lambda cost: _cell(cost.open)),
        ("  on all threads", wide(lambda cost: cost.threaded.open if cost.threaded else None)),
        ("largest error of the mean", lambda cost: f"{cost.mean_error:.1e}"),
    )
    for title, show in rows:
        table.add_row(title, *(show(cost) for _, cost in schemes))
    console.print(table)
    sealed = result.sealed
    console.print(
        f"sealed: share and box the key for {HOLDERS} holders {_cell(sealed.share)} ms; a key-holder opens and sums "
        f"the boxes of all clients in {_cell(sealed.keyholder)} ms, "
        f"{sealed.keyholder_bytes_per_client:,} bytes from each"
    )
    _print_breakdown(result, console)
    _print_masking(result, console)
    if (first := result.first_call) is not None:
        console.print(
            f"first call of every kernel of {', '.join(first.protocols)}: {first.compiled:.1f} s to compile, once a "
            f"machine; {first.cached:.2f} s from the cache, at the start of a process; {first.again * 1e3:.0f} ms "
            "after that"
        )
    console.print(
        f"[dim]{result.machine['cpu']}, {result.machine['system']}, Python {result.machine['python']}, "
        f"load {result.machine['load_average']}[/dim]"
    )


def _print_breakdown(result: BenchResult, console: Console) -> None:
    parts, limits = result.breakdown, result.breakdown.limits

    def shown(steps: dict[str, float]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in steps.items())

    console.print(f"seal: {shown(parts.seal)}; together {sum(parts.seal.values()):.2f} ms")
    console.print(f"open: {shown(parts.open)}")
    console.print(
        f"limits: {shown(limits)} (memory {parts.copy_gb_per_second:.1f} GB/s). A seal takes "
        f"{parts.ratios['seal_over_one_ntt']:.1f} NTTs, an addition {parts.ratios['add_over_copy_of_ciphertext']:.1f} "
        f"copies, an opening {parts.ratios['open_over_one_ntt']:.1f} NTTs"
    )


def _print_masking(result: BenchResult, console: Console) -> None:
    """One client of a larger cohort, ours beside Flower's."""
    title = "masking at the neighbours of a cohort: ms for one client"
    table = Table("", "neighbours", "keys, shares, boxes", "masked vector", "on all threads", title=title)
    for graph in result.masked.graphs:
        table.add_row(
            f"masked, {graph.clients} clients", str(graph.neighbours), f"{graph.setup_ms:.1f}", f"{graph.mask_ms:.1f}",
            f"{graph.mask_ms_all_threads:.1f}",
        )  # fmt: skip
    for theirs in () if result.flower is None else result.flower.graphs:
        table.add_row(
            f"Flower {result.flower.version if result.flower else ''}, {theirs['clients']:.0f} clients",
            f"{theirs['neighbours']:.0f}", f"{theirs['setup_ms']:.1f}", f"{theirs['mask_ms']:.1f}", "-",
        )  # fmt: skip
    console.print(table)
    console.print(f"masked: {result.masked.neighbour_ms:.2f} ms more for each neighbour and million values")


@click.command(
    "protocols",
    epilog="Example: secagg bench protocols --with-flwr /tmp/flwr --json bench.json --plot bench.svg",
)
@click.option("--params", type=click.IntRange(1), default=MILLION, show_default=True, help="Values in a vector.")
@click.option("--clients", type=click.IntRange(2), default=4, show_default=True, help="Uploads in the sum.")
@click.option("--bits", type=click.IntRange(2, 24), default=BITS, show_default=True, help="Of a value; with 24, "
              "masked and ckks carry no more than some 250 clients: set --n-max.")  # fmt: skip
@click.option("--n-max", type=click.IntRange(2), default=1000, show_default=True, help="Cohort the parameters carry.")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Runs behind each median.")
@click.option("--tenseal/--no-tenseal", default=True, show_default=True, help="Also measure ckks, and TenSEAL CKKS.")
@click.option("--flwr", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="PYTHON",
              help="A Python that has Flower: also measure the primitives of its SecAgg+.")  # fmt: skip
@click.option("--with-flwr", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="The same; make the environment in FOLDER with venv and pip first.")  # fmt: skip
@click.option("--first-call/--no-first-call", default=True, show_default=True, help="Also measure compilation.")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw it: .svg or .png.")
@json_option
def protocols(
    params: int,
    clients: int,
    bits: int,
    n_max: int,
    repeats: int,
    tenseal: bool,
    flwr: Path | None,
    with_flwr: Path | None,
    first_call: bool,
    plot_file: Path | None,
    json_file: Path | None,
) -> None:
    """Measure sealing, adding and opening under each protocol on this machine, beside TenSEAL CKKS and Flower."""
    python = flwr if with_flwr is None else make_environment(with_flwr)
    result = run_bench(params, clients, max(n_max, clients), repeats, Asked(tenseal, python, first_call), bits)
    print_result(result, Console(stderr=json_file == SCREEN))
    if plot_file is not None:
        plot(result, plot_file)
    if json_file is not None:
        write_json(json_file, result.to_json())
