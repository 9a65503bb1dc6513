"""`secagg attack`: one attack on one run, for scripts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from secagg_app.audit.target import Asked, Target
    from secagg_attacks.attack import Attack
    from secagg_attacks.views import Question, View

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
LIST = "list"
HELP = {"population": "public records of the task, on which nobody trained", "prompts": "prompts, one on each line"}


@click.command(
    epilog="Example: secagg attack list; secagg attack loss --view v3 --run runs/demo/release --members in.jsonl "
    "--nonmembers out.jsonl"
)
@click.argument("name")
@click.option("--view", default="v3", show_default=True, type=click.Choice(["v1", "v2", "v3", "v4"]), help="Who looks.")
@click.option("--run", type=FOLDER, help="A release, or a folder with a PEFT adapter.")
@click.option("--members", type=FILE, help="Records that were trained on.")
@click.option("--nonmembers", type=FILE, help="Records that were not.")
@click.option("--population", type=FILE, help="Public records of the task, on which nobody trained.")
@click.option("--prompts", type=FILE, help="A text file: a prompt on each line, for a language model to go on from.")
@click.option("--earlier", type=FOLDER, multiple=True, help="The release of a round before; repeat, first round first.")
@click.option("--base", help="The base model, an id or a folder.")
@click.option("--task", type=click.Choice(["classify", "lm"]), help="Of an adapter without a certificate.")
@click.option("--labels", help="Its classes in order, with commas.")
@click.option("--out", type=FILE, help="Write the guess as Parquet: a row for each candidate.")
def attack(
    name: str, view: str, run: Path | None, members: Path | None, nonmembers: Path | None, population: Path | None,
    prompts: Path | None, earlier: tuple[Path, ...], base: str | None, task: str | None, labels: str | None,
    out: Path | None,
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
    from secagg_attacks.views import ViewName

    found = attack_named(name)  # before any model is loaded
    both = members is not None and nonmembers is not None  # the question then has a population of its own
    check_given(found, {"population": both or population is not None, "prompts": prompts is not None})
    told = read_prompts(prompts) if prompts is not None else ()
    target = target_of(run, earlier, base, task_of(task, labels))
    candidates = asked(target, members, nonmembers) if members and nonmembers else None
    seen = target.view(ViewName(view), question_of(found, target, candidates, population, told))
    click.echo(json.dumps(scored(found, seen, candidates, out), indent=1))


def check_given(attack: "Attack", given: dict[str, bool]) -> None:
    """Raise UsageError that names the option of what an attack needs and is not given."""
    for need in sorted(attack.needs):
        if not given[need]:
            raise click.UsageError(f"attack {attack.name} needs {HELP[need]}: give --{need} FILE")


def read_prompts(path: Path) -> tuple[str, ...]:
    """A prompt on each line that is not blank. Raises StorageError; AuditError for no prompts, or no UTF-8."""
    from secagg.errors import AuditError
    from secagg_host.durable import read_file

    try:
        found = tuple(line for line in read_file(path).decode().splitlines() if line.strip())
    except UnicodeDecodeError:
        raise AuditError(f"{path}: is not UTF-8 text: write one prompt on each line") from None
    if not found:
        raise AuditError(f"{path}: holds no prompts: write one on each line")
    return found


def question_of(
    attack: "Attack", target: "Target", asked: "Asked | None", population: Path | None, prompts: tuple[str, ...]
) -> "Question | None":
    """What the attack is asked: candidates where there are some, and what else was given. Raises DataError."""
    from secagg_attacks.views import NOBODY, Question

    question = asked.question if asked is not None else Question(NOBODY, NOBODY) if attack.needs else None
    if question is None:
        return None
    public = question.population if population is None else target.examples(population)
    return replace(question, population=public, prompts=prompts)


def listing() -> list[str]:
    """A line for each attack: name, views, what it does, source."""
    from secagg_attacks.registry import attacks

    width = max(len(name) for name in attacks())
    return [
        f"{name:<{width}}  {','.join(sorted(each.views)):<11}  {each.summary} ({each.source})"
        for name, each in attacks().items()
    ]


def scored(attack: "Attack", seen: "View", asked: "Asked | None", out: Path | None) -> dict[str, object]:
    """The attack's figures. Raises AuditError for a view or an attack that needs more than there is."""
    from secagg_attacks.attack import MembershipGuess, checked_scores, run_checked
    from secagg_attacks.roc import auc_interval

    guess, named = run_checked(attack, seen), {"attack": attack.name, "view": str(seen.name)}
    if not isinstance(guess, MembershipGuess) or asked is None:
        prompts = {"prompts": list(seen.question.prompts)} if seen.question and seen.question.prompts else {}
        return {**named, **prompts, "guess": _described(guess, seen.public.base.tokenizer)}
    scores, is_in = asked.units.means(checked_scores(attack, guess, seen)), asked.units.truth(asked.is_in)
    area = auc_interval(scores, is_in, seed=0)
    if out is not None:
        _write(out, scores, is_in)
    inside = int(is_in.sum())
    return {
        **named, "members": inside, "others": len(is_in) - inside,
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
