"""The picture of `secagg bench protocols`: time and bytes of an upload under each scheme, and where the time goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from secagg_app.bench_protocols import BenchResult

ONE, ALL = "#3b6ea5", "#9dbcd9"
STEP_NAMES = {
    "rounding_stream": "AES for rounding",
    "quantise": "quantise",
    "gaussian_stream": "AES for the error",
    "gaussian": "Gaussian",
    "expansion_stream": "AES for A",
    "expansion": "A: rejection",
    "multiply_and_ntt": "A·s and NTT",
    "add_message": "T·e + m",
    "pack": "pack 30 bits",
    "sha256": "SHA-256",
}


def plot(result: "BenchResult", path: Path) -> None:
    """Write a PNG or SVG, by the ending of `path`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=(1.25, 0.9, 1.1))
    rows = _rows(result)
    _times(axes[0], rows)
    _bytes(axes[1], rows)
    _steps(axes[2], result)
    machine = result.machine
    on = f"{machine['cpu']}, {machine['cores']} cores"
    figure.suptitle(f"A client's work on {result.params:,} values of {result.bits} bits ({on})", fontsize=11)
    figure.tight_layout()
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=130, metadata=metadata)
    plt.close(figure)


def _rows(result: "BenchResult") -> list[tuple[str, float, float | None, float]]:
    """(name, ms on one thread, ms on all, bytes a value), the slowest last."""
    rows = [
        (name, cost.seal.median, cost.threaded.seal.median if cost.threaded else None, cost.bytes_per_param)
        for name, cost in result.schemes()
    ]
    scale = 1e6 / result.params
    size = result.masked.scheme.bytes_per_param
    rows += [
        (f"masked, {g.neighbours} neighbours", g.mask_ms * scale, g.mask_ms_all_threads * scale, size)
        for g in result.masked.graphs
    ]
    if result.flower is not None:
        for theirs in result.flower.graphs:
            name = f"Flower SecAgg+, {theirs['neighbours']:.0f} neighbours"
            rows.append((name, theirs["mask_ms"] * scale, None, result.flower.bytes_per_param))
    return sorted(rows, key=lambda row: row[1])


def _times(axes: "Axes", rows: list[tuple[str, float, float | None, float]]) -> None:
    def label(value: float, number: float) -> None:
        axes.text(value * 1.08, number, f"{value:,.1f}" if value < 100 else f"{value:,.0f}", va="center", fontsize=8)

    for number, (_, one, wide, _) in enumerate(rows):
        axes.barh(number - 0.2, one, height=0.4, color=ONE, label="one thread" if number == 0 else None)
        label(one, number - 0.2)
        if wide is not None:
            axes.barh(number + 0.2, wide, height=0.4, color=ALL, label="all threads" if number == 0 else None)
            axes.text(
                wide * 1.08, number + 0.2, f"{wide:,.1f}" if wide < 100 else f"{wide:,.0f}", va="center", fontsize=8
            )
    axes.set_xscale("log")
    axes.set_xlim(right=max(row[1] for row in rows) * 6)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("ms per million values, log scale")
    axes.set_title("time of one upload", fontsize=10)
    axes.legend(fontsize=8, loc="upper right")


def _bytes(axes: "Axes", rows: list[tuple[str, float, float | None, float]]) -> None:
    for number, row in enumerate(rows):
        axes.barh(number, row[3], height=0.6, color=ONE)
        axes.text(row[3] + 0.7, number, f"{row[3]:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.invert_yaxis()
    axes.set_xlim(right=max(row[3] for row in rows) * 1.25)
    axes.set_xlabel("bytes a value")
    axes.set_title("size of one upload", fontsize=10)


def _steps(axes: "Axes", result: "BenchResult") -> None:
    steps, limits = result.breakdown.seal, result.breakdown.limits
    names = [STEP_NAMES[name] for name in steps]
    axes.barh(names, list(steps.values()), color=ONE, height=0.6)
    for number, value in enumerate(steps.values()):
        axes.text(value + 0.02, number, f"{value:.2f}", va="center", fontsize=8)
    marks = (("one_ntt", "one NTT", "#b5522b"), ("copy_of_ciphertext", "copying the bytes", "#777777"))
    for name, label, colour in marks:
        axes.axvline(limits[name], color=colour, linestyle="--", linewidth=1, label=label)
    axes.invert_yaxis()
    axes.set_xlim(right=max(*steps.values(), limits["one_ntt"]) * 1.25)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("ms per million values, one thread")
    axes.set_title("where a seal's time goes", fontsize=10)
    axes.legend(fontsize=8, loc="upper right")
