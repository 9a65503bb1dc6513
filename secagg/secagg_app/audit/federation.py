"""One run of a study: membership by coins, training with everything recorded, every attack under every view."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import AuditError, DataError
from secagg_app.audit.settings import DELTA, Family, Job
from secagg_app.demo.settings import TaskRecipe, own_classify_recipe, text_recipe, tweets_recipe
from secagg_app.demo.split import deduplicate
from secagg_app.simulate.data import corpus_of, examples_of
from secagg_app.simulate.federation import loaded_base, model_path
from secagg_app.simulate.settings import Data
from secagg_attacks.record import ClientNoise, Record, recorded
from secagg_attacks.views import Public
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.plan_options import validated
from secagg_client.planning import PlanConfig, make_plan

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pools:
    """A family's texts, apart from each other: candidates [pool], others that nobody trains on, and held-out ones.

    `owner` [pool] is the client that has a candidate when its coin says so. `asked` are the first of the candidates.
    """

    candidates: Examples
    asked: Examples
    population: Examples
    held_out: Examples
    owner: NDArray[np.int64] = field(repr=False)


@lru_cache(maxsize=2)
def pools_of(family_json: str) -> Pools:
    """Drawn by the family's seed, without near-duplicates. Raises DataError when the corpus is too small."""
    family = Family.model_validate_json(family_json)
    corpus = corpus_of(Data(source=family.source).model_dump_json())
    unique = deduplicate(corpus.records)
    needed = family.pool + family.population + family.held_out
    if len(unique) < needed:
        raise DataError(f"{corpus.source}: {len(unique)} records without near-duplicates, {needed} are needed")
    order = np.random.default_rng([family.seed, 1]).permutation(len(unique))[:needed]
    texts = [unique[index] for index in order]
    first, second = family.pool, family.pool + family.population
    return Pools(
        examples_of(texts[:first], corpus.labels, "candidates"),
        examples_of(texts[: family.asked or first], corpus.labels, "candidates"),
        examples_of(texts[first:second], corpus.labels, "population"),
        examples_of(texts[second:], corpus.labels, "held-out"),
        np.arange(family.pool) % family.clients,
    )


def coins_of(family: Family, run: int) -> Bools:
    """Who is in, [pool]: the same for every combination of rounds and privacy."""
    return np.random.default_rng([family.seed, 2, run]).random(family.pool) < 0.5


def config_of(family: Family, job: Job) -> PlanConfig:
    """The demo's recipe with the family's settings. Raises ConfigError."""
    recipe = _recipe(family)
    factor = family.rate_factor(job.rounds, job.epsilon)
    training: dict[str, Any] = {
        **recipe.plan["training"], "steps": family.steps, "batch_size": family.batch_size, "noise": "seeded",
        "learning_rate": family.learning_rate * factor, "epsilon": job.epsilon or None, "delta": DELTA,
    }  # fmt: skip
    if family.head_learning_rate is not None:
        training["head_learning_rate"] = family.head_learning_rate * factor
    task = {**recipe.plan["task"], "max_length": family.max_length}
    plain = {
        **recipe.plan, "training": training, "task": task, "rank": family.rank, "alpha": 2 * family.rank,
        "base_model": model_path(family.model),
    }  # fmt: skip
    return validated(plain, f"family {family.name}")


def _recipe(family: Family) -> TaskRecipe:
    if family.source == "tweets":
        return tweets_recipe()
    labels = corpus_of(Data(source=family.source).model_dump_json()).labels
    return own_classify_recipe(labels) if labels else text_recipe(own_model=family.model != "smollm2")


def public_of(family: Family, job: Job) -> Public:
    """The run's plan on its base model. Raises ModelError, ConfigError."""
    config = config_of(family, job)
    base: LoadedBase = loaded_base(config.base_model, config.task.model_dump_json())
    return Public(make_plan(config, base), base, family.clients, family.size, job.rounds)


def run_job(family: Family, job: Job, public: Public, pools: Pools) -> Record:
    """Train. Sampling and noise follow from family, privacy and run, and not from the number of rounds."""
    coins = coins_of(family, job.run)
    mine = [np.flatnonzero(coins & (pools.owner == client)) for client in range(family.clients)]
    data = [pools.candidates.select(rows.tolist()) for rows in mine]
    if not all(len(part) for part in data):
        raise AuditError(f"family {family.name}: a client has no record; take a larger pool")
    digest = hashlib.sha256(f"{family.frontier or family.name}/{family.seed}/{job.epsilon}/{job.run}".encode()).digest()
    given, noise = family.client_noise, None
    if given is not None:
        noise = ClientNoise(given.clip, given.sigma_of(job.rounds))
    return recorded(public, data, int.from_bytes(digest[:5], "big"), client_noise=noise)
