"""`secagg attack`: one attack on one run, for scripts."""

import json
from pathlib import Path

import click

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
LIST = "list"


@click.command(
    epilog="Example: secagg attack list; secagg attack loss --view v3 --run runs/demo/release --members in.jsonl "
    "--nonmembers out.jsonl"
)
@click.argument("name")
@click.option("--view", default="v3", show_default=True, type=click.Choice(["v1", "v2", "v3", "v4"]), help="Who looks.")
@click.option("--run", type=FOLDER, help="A release, or a folder with a PEFT adapter.")
@click.option("--members", type=FILE, help="Records that were trained on.")
@click.option("--nonmembers", type=FILE, help="Records that were not.")
@click.option("--earlier", type=FOLDER, multiple=True, help="The release of a round before; repeat, first round first.")
@click.option("--base", help="The base model, an id or a folder.")
@click.option("--task", type=click.Choice(["classify", "lm"]), help="Of an adapter without a certificate.")
@click.option("--labels", help="Its classes in order, with commas.")
@click.option("--out", type=FILE, help="Write the guess as Parquet: a row for each candidate.")
def attack(
    name: str, view: str, run: Path | None, members: Path | None, nonmembers: Path | None, earlier: tuple[Path, ...],
    base: str | None, task: str | None, labels: str | None, out: Path | None,
) -> None:  # fmt: skip
    """Run attack NAME on a run and print what it came to as JSON; NAME `list` lists all attacks.

    The attack sees the view and the candidates in a random order. Which of them are members goes to the scorer alone.
    """
    if name == LIST:
        click.echo("\n".join(listing()))
        return
    if run is None:
        raise click.UsageError("give --run: a release, or a folder with a PEFT adapter")
    click.echo(json.dumps(scored(name, view, run, members, nonmembers, earlier, base, task, labels, out), indent=1))


def listing() -> list[str]:
    """A line for each attack: name, views, what it does, source."""
    from secagg_attacks.registry import attacks

    width = max(len(name) for name in attacks())
    return [
        f"{name:<{width}}  {','.join(sorted(each.views)):<11}  {each.summary} ({each.source})"
        for name, each in attacks().items()
    ]


def scored(
    name: str, view: str, run: Path, members: Path | None, nonmembers: Path | None, earlier: tuple[Path, ...],
    base: str | None, task: str | None, labels: str | None, out: Path | None,
) -> dict[str, object]:  # fmt: skip
    """The attack's figures. Raises AuditError for a view or an attack that needs more than there is."""
    import numpy as np
    from numpy.typing import NDArray

    from secagg.errors import AuditError
    from secagg_app.audit.release import task_of
    from secagg_app.audit.target import asked, target_of
    from secagg_attacks.attack import MembershipGuess
    from secagg_attacks.intervals import paired_bootstrap
    from secagg_attacks.registry import attack_named
    from secagg_attacks.roc import Scores, auc
    from secagg_attacks.views import ViewName

    found = attack_named(name)
    target = target_of(run, earlier, base, task_of(task, labels))
    question = asked(target, members, nonmembers) if members and nonmembers else None
    seen = target.view(ViewName(view), question.question if question else None)
    found.check(seen)
    guess = found.run(seen)
    if not isinstance(guess, MembershipGuess) or question is None:
        return {"attack": name, "view": view, "guess": _described(guess, target.base.tokenizer)}
    is_in, values = question.is_in, guess.scores

    def area(index: "NDArray[np.int64]") -> float:
        inside = is_in[index]
        return auc(Scores(values[index][inside], values[index][~inside])) if 0 < inside.sum() < len(inside) else 0.5

    interval = paired_bootstrap(area, len(is_in), seed=0)
    if out is not None:
        _write(out, values, is_in)
    if not np.isfinite(values).all():
        raise AuditError(f"attack {name} gave a score that is not finite")
    return {
        "attack": name, "view": view, "members": int(is_in.sum()), "others": int((~is_in).sum()),
        "area": [interval.value, interval.low, interval.high], "by_coin": question.by_coin,
    }  # fmt: skip


def _described(guess: object, tokenizer: object) -> object:
    """A guess that is no membership, for JSON: claimed tokens and texts, shares of labels, texts."""
    from secagg_attacks.attack import ImageGuess, LabelGuess, TextGuess, TokenGuess

    match guess:
        case tuple():
            return [_described(each, tokenizer) for each in guess]
        case TokenGuess():
            decode = tokenizer.decode  # type: ignore[attr-defined]
            tokens = sorted(decode([token]) for token in guess.claimed)
            return {"tokens": tokens, "texts": [decode(list(ids)) for ids in guess.sequences]}
        case LabelGuess():
            return {"shares": guess.shares.tolist()}
        case ImageGuess():
            return {"images": list(guess.images.shape), "labels": list(guess.labels)}
        case TextGuess():
            return {"texts": [list(each) for each in guess.texts]}
    return None


def _write(out: Path, values: object, is_in: object) -> None:
    import pyarrow
    from pyarrow import parquet

    from secagg_host.durable import write_atomic

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"score": values, "member": is_in}), sink)
    write_atomic(out, sink.getvalue().to_pybytes())
