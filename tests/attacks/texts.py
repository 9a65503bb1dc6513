"""Federations over one short text each, whose tokens are known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg_attacks.record import Record
from secagg_attacks.views import Public
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.tasks import make_task
from tests.attacks.federation import public_of, record_of
from tests.tiny import VOCABULARY, WORDS

WORD_COUNT = len(VOCABULARY)


def text_of(base: LoadedBase, words: int, seed: int = 5, count: int = 1) -> Examples:
    """`count` texts of so many different words, of classes 1, 0, 1, ... where there are classes."""
    rng = np.random.default_rng(seed)
    texts = tuple(" ".join(rng.choice(WORDS, words, replace=False)) for _ in range(count))
    labels = tuple((i + 1) % 2 for i in range(count)) if base.task.kind == "classify" else ()
    return Examples(f"texts-{seed}", texts, labels)


def ids_of(base: LoadedBase, data: Examples) -> tuple[tuple[int, ...], ...]:
    """Token ids of each text."""
    return tuple(row.ids for row in make_task(base.task, base.tokenizer).encode(data))


def one_step(base: LoadedBase, data: list[Examples], **changes: Any) -> tuple[Public, Record]:
    """Each client takes one step of plain SGD on all it has, unless `changes` say otherwise."""
    size = len(data[0])
    values: dict[str, Any] = {"steps": 1, "batch_size": size, "rank": 16, "alpha": 16, **changes}
    if base.head is not None:
        values.setdefault("head_start", "seeded")  # a head of zeros gives the layers below no gradient
    public = public_of(base, clients=len(data), size=size, **values)
    return public, record_of(public, data)


def indicator(tokens: set[int]) -> NDArray[np.bool_]:
    """Which tokens of the vocabulary are in the set, [vocabulary]."""
    return np.isin(np.arange(WORD_COUNT), sorted(tokens))
