"""How much of a training text a message gives back, by rank, tokens in the message, rounds and noise.

Each message is one step of SGD on the tokens it is said to hold, with rank-r adapters on query and value of all layers,
so that the lowest adapted layer is the first, where the attack is exact. Longer local training blurs it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from secagg.errors import AuditError
from secagg.rounds import resumed
from secagg_app.audit.federation import pools_of
from secagg_app.audit.settings import DELTA, Family, Inversion
from secagg_app.simulate.federation import loaded_base, model_path
from secagg_attacks.attack import Attack, TokenGuess
from secagg_attacks.intervals import Interval, t_interval
from secagg_attacks.inversion.recovery import token_recovery
from secagg_attacks.record import recorded
from secagg_attacks.registry import attack_named
from secagg_attacks.roc import Scores, auc
from secagg_attacks.views import ClientUpdates, Public, View, ViewName
from secagg_client.data import Examples
from secagg_client.plan_options import validated
from secagg_client.planning import make_plan

CLIENTS = 3
LONGEST = 16
"""Tokens of one record, the special ones counted; a message with more has several."""
VIEWS = (ViewName.V1, ViewName.V2)
EPSILON = 8.0
SAMPLES = 1
"""So many texts of each setting are shown."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An original text, and which of its tokens were claimed."""

    rank: int
    tokens: int
    noise: bool
    words: tuple[tuple[str, bool], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """`tokens` in each of `rounds` messages a client; `epsilon` 0 is no noise."""

    rank: int
    tokens: int
    rounds: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """A setting under a view, over repeats: of the different tokens in a message, the part that was claimed; of what
    was claimed, the part that was there; the area of the soft score over the vocabulary.

    Something was claimed of `speaking` messages; `precision` is None where these are fewer than two.
    """

    rank: int
    tokens: int
    rounds: int
    epsilon: float
    view: ViewName
    recall: Interval
    precision: Interval | None
    speaking: int
    soft: Interval
    samples: tuple[Sample, ...] = field(default=(), repr=False)

    @property
    def noise(self) -> bool:
        """Whether the messages were noised."""
        return self.epsilon > 0


def settings_of(grid: Inversion) -> list[Setting]:
    """Every rank with messages of one token less, as many, twice and eight times as many; one with noise each."""
    found = list[Setting]()
    for rank in grid.ranks:
        for rounds in grid.rounds:
            found += [Setting(rank, tokens, rounds, 0.0) for tokens in (rank - 1, rank, 2 * rank, 8 * rank)]
        found.append(Setting(rank, rank - 1, 1, EPSILON))
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """One message, attacked."""

    recall: float
    precision: float | None
    soft: float
    sample: Sample | None = field(repr=False)


def recover(family: Family, grid: Inversion, setting: Setting) -> list[Recovery]:
    """Repeat a setting on texts drawn for each repeat, and attack every message under each view."""
    outcomes: dict[ViewName, list[Outcome]] = {view: [] for view in VIEWS}
    for repeat in range(grid.repeats):
        for view, truths in _messages(family, grid, setting, repeat):
            outcomes[view.name].append(_attacked(view, truths, setting, shown=repeat < SAMPLES))
    return [_summary(setting, view, found) for view, found in outcomes.items()]


def _messages(
    family: Family, grid: Inversion, setting: Setting, repeat: int
) -> Iterator[tuple[View, list[tuple[int, ...]]]]:
    """One view of each round and kind with a single message in it, and the texts that the message holds, as tokens."""
    pools = pools_of(family.model_dump_json())
    each = -(-setting.tokens // LONGEST)
    rng = np.random.default_rng([grid.seed, repeat, setting.rank, setting.tokens, setting.rounds])
    wanted = CLIENTS * each * setting.rounds
    public = _public(family, setting, each)
    drawn = rng.permutation(_long_enough(public, pools.candidates, wanted))[:wanted].reshape(
        setting.rounds, CLIENTS, -1
    )
    for number in range(setting.rounds):
        data = [pools.candidates.select(drawn[number, client].tolist()) for client in range(CLIENTS)]
        record = recorded(public, data, seed=1 + repeat)
        texts = [_tokens(public, part) for part in data]
        first = replace(record.rounds[0], changes=record.rounds[0].changes[:1])
        yield ClientUpdates(public, None, (first,), record.final), texts[0]
        yield record.view(ViewName.V2), [text for part in texts for text in part]
        public = replace(public, plan=resumed(public.plan, dict(record.final)))


def _long_enough(public: Public, texts: Examples, wanted: int) -> list[int]:
    """Those that fill a record: a shorter one would hold fewer tokens than is said. Raises AuditError for too few."""
    length = public.plan.task.max_length
    found = [index for index, tokens in enumerate(_tokens(public, texts)) if len(tokens) == length]
    if len(found) < wanted:
        raise AuditError(f"{texts.source}: {len(found)} texts have {length} tokens, {wanted} are needed")
    return found


def one_step(records: int, epsilon: float) -> dict[str, Any]:
    """Training of a message that is one step of plain SGD on so many records; epsilon 0 is no noise."""
    return {
        "steps": 1, "batch_size": records, "learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.0,
        "max_grad_norm": 1.0, "epsilon": epsilon or None, "delta": DELTA, "noise": "seeded",
    }  # fmt: skip


def _public(family: Family, setting: Setting, records: int) -> Public:
    plain: dict[str, Any] = {
        "base_model": model_path(family.model), "rank": setting.rank, "alpha": 2 * setting.rank,
        "target_modules": ["query", "value"], "lora_clip": 1.0,
        "task": {
            "kind": "classify", "labels": ["negative", "neutral", "positive"], "pooling": "mean", "feature_norm": 10.0,
            "max_length": min(LONGEST, setting.tokens),
        },
        "training": one_step(records, setting.epsilon),
        "head_start": "seeded",
    }  # fmt: skip
    config = validated(plain, "the inversion grid")
    base = loaded_base(config.base_model, config.task.model_dump_json())
    return Public(make_plan(config, base), base, CLIENTS, records, 1)


def _tokens(public: Public, data: Examples) -> list[tuple[int, ...]]:
    ids = public.base.tokenizer(list(data.texts), truncation=True, max_length=public.plan.task.max_length)["input_ids"]
    return [tuple(row) for row in ids]


def _attacked(view: View, truths: Sequence[tuple[int, ...]], setting: Setting, *, shown: bool) -> Outcome:
    tokenizer = view.public.base.tokenizer
    special = set(tokenizer.all_special_ids)
    there = {token for text in truths for token in text} - special
    exact, soft = (_tokens_of(attack_named(name), view) for name in ("span-exact", "span-soft"))
    claimed = set(exact.claimed) - special
    found = token_recovery(claimed, there)
    others = np.setdiff1d(np.arange(len(soft.scores)), [*there, *special])
    pieces = [(tokenizer.convert_ids_to_tokens(token), token in claimed) for token in truths[0] if token not in special]
    words = tuple((piece.removeprefix("##"), hit) for piece, hit in pieces)
    show = shown and view.name is ViewName.V1 and setting.rounds == 1
    return Outcome(
        found.recall,
        found.precision if claimed else None,
        auc(Scores(soft.scores[sorted(there)], soft.scores[others])),
        Sample(setting.rank, setting.tokens, setting.epsilon > 0, words) if show else None,
    )


def _tokens_of(attack: Attack, view: View) -> TokenGuess:
    """Of the view's only message."""
    found = attack.run(view)
    if not isinstance(found, tuple) or len(found) != 1 or not isinstance(found[0], TokenGuess):
        raise AuditError(f"attack {attack.name} gives no tokens")
    return found[0]


def _summary(setting: Setting, view: ViewName, found: Sequence[Outcome]) -> Recovery:
    precisions = [each.precision for each in found if each.precision is not None]
    return Recovery(
        setting.rank, setting.tokens, setting.rounds, setting.epsilon, view,
        t_interval([each.recall for each in found]).within(0, 1),
        t_interval(precisions).within(0, 1) if len(precisions) > 1 else None,
        len(precisions),
        t_interval([each.soft for each in found]).within(0, 1),
        tuple(each.sample for each in found if each.sample is not None),
    )  # fmt: skip
