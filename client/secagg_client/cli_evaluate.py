"""`secagg evaluate`: how good a released adapter is, for whoever holds torch and data."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import TypeAdapter, ValidationError

from secagg.canonical import pretty_bytes
from secagg.certificate import Description, Evaluation, Metric
from secagg.errors import ConfigError
from secagg.plan import Plan
from secagg.validation import first_problem
from secagg_client.published import read_any_certificate
from secagg_host.durable import read_file, write_atomic
from secagg_host.terminal import printable_lines

if TYPE_CHECKING:
    from secagg_client.models import LoadedBase

PUBLIC_FILE = 0o644


@click.command(
    epilog="Example: secagg evaluate runs/demo/release --data runs/demo/data/heldout.jsonl "
    "--base sentence-transformers/all-MiniLM-L6-v2"
)
@click.argument("release", type=click.Path(file_okay=False, path_type=Path))
@click.option("--data", help="JSONL, CSV or Parquet file, or a Hugging Face data set id.")
@click.option(
    "--lm-eval",
    "task_files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Instead of DATA: a task file of lm-eval, for a causal language model; repeat for more. Needs secagg[eval].",
)
@click.option("--split", default="train", show_default=True, help="Of a data set id.")
@click.option("--text-column", default="text", show_default=True)
@click.option("--label-column", default="label", show_default=True)
@click.option("--image-column", default="image", show_default=True)
@click.option("--messages-column", default="messages", show_default=True, help="Of conversations; where it is missing,")
@click.option("--prompt-column", default="prompt", show_default=True, help="this column")
@click.option("--response-column", default="response", show_default=True, help="and this are read.")
@click.option("--base", help="The base model, an id or a folder; by default the one that the release names.")
@click.option("--public", "description", help="Declares DATA public and describes them; goes with --out.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures for `secagg release annotate`. Only for public data: no accountant has seen them.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def evaluate(
    release: Path, base: str | None, as_json: bool, task_files: tuple[Path, ...], **options: str | Path | None
) -> None:
    """Score the adapter in RELEASE, and the model it started from, on DATA or on tasks of lm-eval.

    Run `secagg verify` first: this command measures, and says nothing about who made the release.
    """
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    import numpy as np

    from secagg_client.data import DataConfig, load_examples
    from secagg_client.evaluation import evaluate_change, evaluate_release
    from secagg_client.local_training import figures
    from secagg_client.planning import verify_plan

    if bool(task_files) == bool(options["data"]):
        raise click.UsageError("give either --data or --lm-eval")
    out, description = options["out"], options["description"]
    if task_files and out:
        raise click.UsageError("--out takes the figures of --data only")
    if (out is None) != (description is None):
        raise click.UsageError("--public and --out go together")
    if description is not None:
        check_description(str(description))
    plan = read_any_certificate(release).plan
    if task_files:
        click.echo(_harness(release, plan, base, task_files, as_json=as_json))
        return
    source = str(options["data"])
    columns = {name: str(value) for name, value in options.items() if name == "split" or name.endswith("_column")}
    data = load_examples(DataConfig(source=source, **columns), plan.task)
    loaded = _load(base, plan)
    verify_plan(plan, loaded)
    start = figures(evaluate_change(plan, loaded, np.zeros(plan.length, np.float32), data))
    released = figures(evaluate_release(release, loaded, data))
    data_sha256 = file_sha256(source) or data.fingerprint()
    if isinstance(out, Path) and description is not None:
        write_atomic(out, pretty_bytes(evaluation(data_sha256, str(description), start, released)), PUBLIC_FILE)
    if as_json:
        found = {"base_model": plan.base_model, "data_sha256": data_sha256, "start": start, "release": released}
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(printable_lines(table(plan, start, released)))


def _load(base: str | None, plan: Plan) -> "LoadedBase":
    """The base model of a plan, from `base` when it is given. Raises ModelError that says when --base is needed."""
    from secagg_client.models import load_base_for_command

    return load_base_for_command(base, plan.base_model, plan.task)


def _harness(release: Path, plan: Plan, base: str | None, task_files: tuple[Path, ...], *, as_json: bool) -> str:
    from secagg_client.harness import release_scores
    from secagg_client.planning import verify_plan

    loaded = _load(base, plan)
    verify_plan(plan, loaded)
    start, released = release_scores(release, plan, loaded, task_files)
    if as_json:
        return json.dumps({"base_model": plan.base_model, "start": start, "release": released}, indent=2)
    lines = [f"{plan.base_model}", f"{'':<32}{'start':>10}{'release':>10}"]
    for task, scores in released.items():
        lines += [f"{f'{task} {name}':<32}{start[task][name]:>10.4f}{value:>10.4f}" for name, value in scores.items()]
    return printable_lines(lines)


def file_sha256(source: str) -> str | None:
    """Hash of a local data file; None for a data set id."""
    path = Path(source)
    return hashlib.sha256(read_file(path)).hexdigest() if path.is_file() else None


def check_description(description: str) -> None:
    """Raise ConfigError for a description that is empty, above 1000 characters, or not one printable line."""
    if not description.strip():
        raise ConfigError("--public: say what the data are and where they come from")
    try:
        TypeAdapter[str](Description).validate_python(description)
    except ValidationError as error:
        raise ConfigError(f"--public: the description {first_problem(error, whole='')}") from None


def evaluation(
    data_sha256: str, description: str, start: dict[str, float | int], released: dict[str, float | int]
) -> Evaluation:
    """The task's main figure, as it goes into a certificate. Raises ConfigError as `check_description` does."""
    check_description(description)
    measure = "accuracy" if "accuracy" in released else "perplexity"
    return Evaluation(
        data_sha256=data_sha256,
        data_is_public=True,
        description=description,
        measure=measure,
        higher_is_better=measure == "accuracy",
        examples=int(released["examples"]),
        metrics=(
            Metric(name="released adapter", value=float(released[measure])),
            Metric(name="starting model", value=float(start[measure]), kind="baseline"),
        ),
    )


def table(plan: Plan, start: dict[str, float | int], released: dict[str, float | int]) -> list[str]:
    """For people."""
    lines = [f"{plan.base_model}, {released['examples']} held-out examples", f"{'':<12}{'start':>10}{'release':>10}"]
    names = [name for name in released if name != "examples"]
    return lines + [f"{name:<12}{start[name]:>10.4f}{released[name]:>10.4f}" for name in names]
