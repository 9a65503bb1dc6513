"""`secagg audit compare`: one round against many, as fixed in docs/exposure.md before any run."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secagg.errors import AuditError, SecaggError, StorageError
from secagg_app.audit.settings import PRESETS, Family, Inversion, Study
from secagg_app.workers import spread
from secagg_host.durable import FolderLock, make_folder, read_file, write_atomic

if TYPE_CHECKING:
    from secagg_app.audit.inversion import Recovery, Setting
    from secagg_app.audit.jobs import JobResult
    from secagg_app.audit.pictures import Picture

Work = TypeVar("Work", bound=tuple[Any, ...])
Row = dict[str, Any]
INVERSION_TEXT = (
    "The span attack reads a message's tokens off the directions of its update. Each message is one step of SGD. It is "
    "exact while a message holds fewer different tokens than the adapter's rank; many small messages, as many rounds "
    "send, are on the left of the line, and one large one is on the right."
)


def say(text: str) -> None:
    """Progress."""
    click.echo(text, err=True)


@click.command(epilog="Example: secagg audit compare --preset quick --out runs/exposure")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="quick", show_default=True,
              help="quick: some 5 minutes; full: some 90; arms: schedules at equal quality, noise of clients; paper: "
              "the whole matrix, for a cluster.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/exposure"),
              show_default=True, help="Scores and report; a study that was killed goes on where it was.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True,
              help="Runs at a time; they share the processors.")  # fmt: skip
@click.option("--ray", default=None, metavar="ADDRESS", help="Run on a Ray cluster instead (auto: find it).")
def compare(preset: str, out: Path, workers: int, ray: str | None) -> None:
    """Attack federations with one round and with many, with and without differential privacy.

    Members are drawn by coins from one pool; every attack runs under every view. Writes exposure.json, scores.parquet
    and report.html with plots to OUT.
    """
    from secagg_app.audit.jobs import Jobs, run_jobs

    study = PRESETS[preset]
    if preset == "paper":
        say(f"paper: about {hours(study):.0f} hours on 2 cores; it goes on where it was when it is stopped")
    with FolderLock(out):
        _fetch(study)
        jobs = Jobs(out, study.families)
        refused = run_jobs(jobs, workers, say, ray)
        recoveries = _recoveries(study, out, workers)
        pictures = _pictures(study, out, workers)
        write_report(study, jobs.results(), recoveries, pictures, out)
    say(f"report: {out / 'report.html'}")
    if refused:
        raise AuditError(f"{len(refused)} runs were refused; the first: {refused[0]}")


def write_report(
    study: Study, results: "list[JobResult]", recoveries: "list[Recovery]", pictures: "list[Picture]", out: Path
) -> None:
    """exposure.json, scores.parquet and report.html, each whole or not at all. Raises AuditError for too few runs."""
    from secagg_app.audit.exposure import findings
    from secagg_app.audit.report import groups_of, page, short_lines, to_json

    found = findings(results)
    blind = [each.blind_p for each in results]
    made = time.strftime("%d %B %Y", time.gmtime())
    write_atomic(out / "scores.parquet", _scores(results))
    figures = to_json(study, found, recoveries, pictures, blind)
    write_atomic(out / "exposure.json", (json.dumps(figures, indent=1) + "\n").encode())
    html = page(study, found, recoveries, pictures, blind, made, INVERSION_TEXT)
    write_atomic(out / "report.html", html.encode())
    for line in short_lines(groups_of(study, found)):
        click.echo(line)


def _scores(results: "list[JobResult]") -> bytes:
    """Every score of every run: family, rounds, epsilon, run, view, attack, candidate, client, member, score."""
    import numpy as np
    import pyarrow

    from secagg_client.parquet import parquet_bytes

    parts = list[Any]()
    for each in results:
        count = len(each.member)
        for (view, attack), scores in each.scores.items():
            one = {**asdict(each.job), "view": view, "attack": attack}
            columns = {name: pyarrow.array([value] * count).dictionary_encode() for name, value in one.items()}
            rest = {"candidate": np.arange(count), "client": each.owner, "member": each.member, "score": scores}
            parts.append(pyarrow.table(columns | rest).unify_dictionaries())
    return parquet_bytes(pyarrow.concat_tables(parts))


def _recoveries(study: Study, out: Path, workers: int) -> "list[Recovery]":
    """The inversion grid, each setting kept on disk as soon as it is done."""
    from secagg_app.audit.inversion import settings_of

    family = study.families[0]
    wanted = settings_of(study.inversion)
    make_folder(out / "inversion")
    paths = {setting: out / "inversion" / f"{_key(family, study.inversion, setting)}.json" for setting in wanted}
    say(f"{len(wanted)} settings of inversion, {sum(path.exists() for path in paths.values())} of them done before")
    grid, drawn_from = study.inversion.model_dump_json(), family.model_dump_json()
    jobs = {(drawn_from, grid, setting): paths[setting] for setting in wanted}

    def title(job: "tuple[str, str, Setting]") -> str:
        setting = job[2]
        return f"inversion, rank {setting.rank}, {setting.tokens} tokens, {setting.rounds} rounds"

    return [_read(row) for row in _each_kept(jobs, _recover, title, workers)]


def _pictures(study: Study, out: Path, workers: int) -> "list[Picture]":
    """Images, each kept on disk as soon as it was looked for in all settings."""
    from secagg_app.audit.pictures import Picture, recipe

    make_folder(out / "pictures")
    name = recipe(study.beginnings)
    jobs = {(seed, study.beginnings): out / "pictures" / f"{name}-{seed}.json" for seed in range(study.pictures)}
    return [Picture(**row) for row in _each_kept(jobs, _look_for, lambda job: f"image {job[0]}", workers)]


def _each_kept(
    jobs: Mapping[Work, Path], function: Callable[..., list[Row] | str], title: Callable[[Work], str], workers: int
) -> list[Row]:
    """The rows of every job, in order: from its file, or made side by side and kept as soon as they are there.

    Raises AuditError with what a job was refused for.
    """
    missing = [job for job, path in jobs.items() if not path.exists()]
    for done, (job, found) in enumerate(spread(function, missing, min(workers, max(1, len(missing)))), 1):
        if isinstance(found, str):
            raise AuditError(f"{title(job)}: {found}")
        write_atomic(jobs[job], (json.dumps(found) + "\n").encode())
        say(f"{done} of {len(missing)}: {title(job)}")
    return [row for path in jobs.values() for row in _kept(path)]


def _kept(path: Path) -> list[Row]:
    """Raises StorageError for a file that is damaged."""
    try:
        rows = json.loads(read_file(path))
        if isinstance(rows, list) and rows and all(isinstance(row, dict) and len(row) > 1 for row in rows):
            return rows
    except ValueError:
        pass
    raise StorageError(f"{path}: is damaged; remove it, and it is made again")


def _look_for(seed: int, beginnings: int) -> list[Row] | str:
    """In a worker."""
    from secagg_app.audit.pictures import pictures

    try:
        return [asdict(each) for each in pictures(seed, beginnings)]
    except SecaggError as error:
        return str(error)


def _key(family: Family, grid: Inversion, setting: "Setting") -> str:
    import hashlib

    from secagg_app.audit.inversion import LONGEST

    content = f"{family.model}{family.contents}{family.seed}{family.pool}{grid.repeats}{grid.seed}{setting}{LONGEST}"
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _recover(family_json: str, grid_json: str, setting: "Setting") -> list[Row] | str:
    """In a worker."""
    from secagg_app.audit.inversion import recover

    try:
        found = recover(Family.model_validate_json(family_json), Inversion.model_validate_json(grid_json), setting)
    except SecaggError as error:
        return str(error)
    return [asdict(each) for each in found]


def _read(row: Row) -> "Recovery":
    from secagg_app.audit.inversion import Recovery, Sample
    from secagg_attacks.intervals import Interval
    from secagg_attacks.views import ViewName

    intervals = {name: Interval(**row[name]) if row[name] else None for name in ("recall", "precision", "soft")}
    samples = tuple(
        Sample(**{**each, "words": tuple((word, hit) for word, hit in each["words"])}) for each in row["samples"]
    )
    return Recovery(**{**row, **intervals, "view": ViewName(row["view"]), "samples": samples})


def hours(study: Study) -> float:
    """A rough estimate for 2 cores."""
    return sum(_seconds(family) * len(family.jobs()) for family in study.families) / 2 / 3600


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one thread for an example: to train on it, to have its loss, and its gradient for an attack."""

    train: float
    loss: float
    gradient: float


MINILM, SMOLLM2 = Cost(0.004, 0.002, 0.005), Cost(0.15, 0.05, 0.12)


def _seconds(family: Family) -> float:
    """Of one run and one thread: each round is asked for its own gradients, and every client's model for losses."""
    cost = MINILM if family.model == "minilm" else SMOLLM2
    rounds = sum(family.rounds) / len(family.rounds)
    losses, gradients = rounds * (family.clients + 1) + 4, rounds + 1
    trained = family.steps * family.batch_size * family.clients
    return cost.train * trained + (family.asked or family.pool) * (cost.loss * losses + cost.gradient * gradients)


def _fetch(study: Study) -> None:
    """The demo's packages, once, before several workers want them."""
    from secagg_app import assets

    assets.fetch_named({name for family in study.families for name in (family.model, family.source)}, say)
