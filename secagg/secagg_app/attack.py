"""`secagg attack`: one attack on one run, for scripts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from secagg_app.audit.target import Asked, Target
    from secagg_attacks.attack import Attack

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
    from secagg_app.audit.target import asked, target_of, task_of
    from secagg_attacks.registry import attack_named

    found = attack_named(name)  # before any model is loaded
    target = target_of(run, earlier, base, task_of(task, labels))
    question = asked(target, members, nonmembers) if members and nonmembers else None
    click.echo(json.dumps(scored(found, view, target, question, out), indent=1))


def listing() -> list[str]:
    """A line for each attack: name, views, what it does, source."""
    from secagg_attacks.registry import attacks

    width = max(len(name) for name in attacks())
    return [
        f"{name:<{width}}  {','.join(sorted(each.views)):<11}  {each.summary} ({each.source})"
        for name, each in attacks().items()
    ]


def scored(attack: "Attack", view: str, target: "Target", asked: "Asked | None", out: Path | None) -> dict[str, object]:
    """The attack's figures. Raises AuditError for a view or an attack that needs more than there is."""
    from secagg_attacks.attack import MembershipGuess
    from secagg_attacks.roc import auc_interval
    from secagg_attacks.views import ViewName

    seen = target.view(ViewName(view), asked.question if asked else None)
    attack.check(seen)
    guess = attack.run(seen)
    if not isinstance(guess, MembershipGuess) or asked is None:
        return {"attack": attack.name, "view": view, "guess": _described(guess, target.public.base.tokenizer)}
    area = auc_interval(guess.scores, asked.is_in, seed=0)
    if out is not None:
        _write(out, guess.scores, asked.is_in)
    inside = int(asked.is_in.sum())
    return {
        "attack": attack.name, "view": view, "members": inside, "others": len(asked.is_in) - inside,
        "area": [area.value, area.low, area.high], "by_coin": asked.by_coin,
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

    from secagg_client.parquet import parquet_bytes
    from secagg_host.durable import write_atomic

    write_atomic(out, parquet_bytes(pyarrow.table({"score": values, "member": is_in})))
