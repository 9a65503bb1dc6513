"""From a corpus to what each institution holds: near-duplicates out, a tuning part aside, held-out, clients.

Everything is determined by the corpus and one seed.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.errors import DataError
from secagg_app.demo.corpora import Corpus, Record, canonical
from secagg_host.durable import make_folder, write_atomic

SHINGLE = 5
"""Characters that are compared together."""
NEAR_DUPLICATE = 0.7
"""Two texts with at least this Jaccard similarity of their shingles are one."""
MIN_RECORDS = 20
"""Fewer, in a client or in the test set, and there is nothing to measure."""
HELD_OUT_GROUPS = 3
"""The test set is made of so many whole natural groups at least, which no client has a part of."""
_PERMUTATIONS = 64
_TUNING_SEED = 20240501
"""Fixed: whatever seed a run has, the rows that hyper-parameters were tuned on are never in it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a corpus is divided. `alpha` None: by natural groups (plays) when there are some, else at random.

    `size` is the number of records of each client, and what it declares; `held_out` that of the test set. Both
    shrink when the corpus is small, to multiples of 10.
    """

    tuning: int
    size: int
    held_out: int
    alpha: float | None


@dataclass(frozen=True, slots=True)
class Split:
    """Records by client, and the test set, which nobody trains on."""

    corpus: Corpus
    clients: tuple[tuple[Record, ...], ...] = field(repr=False)
    held_out: tuple[Record, ...] = field(repr=False)
    near_duplicates: int

    @property
    def size(self) -> int:
        """Records of each client."""
        return len(self.clients[0])


def deduplicate(records: Sequence[Record]) -> list[Record]:
    """One record of each group of near-duplicates, in order; groups whose labels differ are dropped.

    Candidates come from MinHash LSH, and are confirmed by their exact Jaccard similarity.
    """
    keys = [canonical(record.said or record.text) for record in records]
    shingles = [frozenset(key[i : i + SHINGLE] for i in range(max(1, len(key) - SHINGLE + 1))) for key in keys]
    groups = _Groups(len(records))
    first = dict[str, int]()
    for index, key in enumerate(keys):
        groups.join(index, first.setdefault(key, index))
    _join_near(sorted(first.values()), shingles, groups)
    kept = list[Record]()
    for members in groups.members():
        if len({records[index].label for index in members}) == 1:
            kept.append(records[members[0]])
    return kept


class _Groups:
    """Union-find over row numbers; the smallest number stands for a group."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low

    def members(self) -> list[list[int]]:
        found = dict[int, list[int]]()
        for index in range(len(self._parent)):
            found.setdefault(self.root(index), []).append(index)
        return [found[root] for root in sorted(found)]


def _join_near(unique: list[int], shingles: list[frozenset[str]], groups: _Groups) -> None:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=NEAR_DUPLICATE - 0.1, num_perm=_PERMUTATIONS)
    encoded = [[shingle.encode() for shingle in sorted(shingles[row])] for row in unique]
    for row, minhash in zip(unique, MinHash.bulk(encoded, num_perm=_PERMUTATIONS, seed=1), strict=True):
        for other in index.query(minhash):
            a, b = shingles[row], shingles[other]
            if len(a & b) >= NEAR_DUPLICATE * len(a | b):
                groups.join(row, other)
        index.insert(row, minhash)


def split(corpus: Corpus, recipe: Recipe, clients: int, vanishing: int, seed: int) -> Split:
    """Divide a corpus among those that stay, in the first `clients` parts, and those that will vanish.

    Those that vanish never train: they get rows of the tuning part, so that nothing is lost to the others, unless
    it is too small. Raises DataError when the corpus is too small for so many.
    """
    unique = deduplicate(corpus.records)
    order = np.random.default_rng(_TUNING_SEED).permutation(len(unique))
    tuning, rows = order[: recipe.tuning], order[recipe.tuning :]
    rng = np.random.default_rng(seed)
    rows = rng.permutation(rows)
    by_groups = recipe.alpha is None or not corpus.labels
    groups = [unique[row].group for row in rows] if by_groups else []
    test, pool = _apart(rows, groups, min(recipe.held_out, len(rows) // 3))
    takers = clients if vanishing * recipe.size <= len(tuning) else clients + vanishing
    size = min(recipe.size, len(pool) // takers)
    if min(size, len(test)) < MIN_RECORDS:
        raise DataError(
            f"{corpus.source}: {len(rows)} records are left of {len(corpus.records)}, without "
            f"{len(corpus.records) - len(unique)} near-duplicates and {len(tuning)} set aside for tuning; "
            f"{takers} clients need at least {3 * MIN_RECORDS * (takers + 1) // 2}"
        )
    lost = tuning[: vanishing * size]
    if takers > clients:
        lost, pool = pool[: vanishing * size], pool[vanishing * size :]
    records = [unique[index] for index in pool]
    if by_groups or recipe.alpha is None:
        parts = by_group(records, clients, size, rng)
    else:
        parts = by_label(records, corpus.labels, clients, size, recipe.alpha, rng)
    parts += [tuple(unique[i] for i in lost[start : start + size]) for start in range(0, vanishing * size, size)]
    return Split(corpus, tuple(parts), tuple(unique[i] for i in test), len(corpus.records) - len(unique))


def tuning_part(corpus: Corpus, size: int) -> Corpus:
    """The records that `split` sets aside first, whatever the seed of a run: what settings may be chosen on."""
    unique = deduplicate(corpus.records)
    order = np.random.default_rng(_TUNING_SEED).permutation(len(unique))[:size]
    return replace(corpus, records=tuple(unique[row] for row in order))


def _apart(rows: NDArray[np.int64], groups: Sequence[str], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Test rows, and what is left: shuffled rows are cut, but whole natural groups are set aside when there are enough.

    `groups` [n] names the group of each row; empty when groups do not matter.
    """
    names = list(dict.fromkeys(groups))  # rows are shuffled, and so are these
    if len(names) < 2 * HELD_OUT_GROUPS:
        return rows[:size], rows[size:]
    chosen = list[str]()
    found = np.array(groups)
    while len(chosen) < HELD_OUT_GROUPS or int(np.isin(found, chosen).sum()) < size:
        chosen.append(names[len(chosen)])
    is_test = np.isin(found, chosen)
    return rows[is_test][:size], rows[~is_test]


def by_label(
    pool: Sequence[Record], labels: tuple[str, ...], clients: int, size: int, alpha: float, rng: np.random.Generator
) -> list[tuple[Record, ...]]:
    """Clients of equal size whose label proportions are drawn from Dirichlet(alpha).

    Iterative proportional fitting brings the drawn table to `size` a client and to the labels at hand.
    """
    wanted = _counts(np.array([sum(r.label == label for r in pool) for label in labels]), clients, size, alpha, rng)
    heaps = [[record for record in pool if record.label == label] for label in labels]
    parts = list[tuple[Record, ...]]()
    for row in wanted:
        part = list[Record]()
        for heap, count in zip(heaps, row, strict=True):
            part += heap[: int(count)]
            del heap[: int(count)]
        spare = size - len(part)  # rounding may have emptied a heap
        for heap in heaps:
            take, spare = heap[:spare], max(0, spare - len(heap))
            part += take
            del heap[: len(take)]
        parts.append(tuple(part[index] for index in rng.permutation(len(part))))
    return parts


def _counts(
    have: NDArray[np.int64], clients: int, size: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Records of each label for each client, [clients, labels]; each row sums to `size`."""
    columns = have * (clients * size / have.sum())
    table = rng.dirichlet([alpha] * len(have), size=clients) + 1e-3
    for _ in range(500):
        table *= columns / table.sum(axis=0)
        table *= size / table.sum(axis=1, keepdims=True)
    counts = np.floor(table).astype(np.int64)
    for row, exact in zip(counts, table, strict=True):
        for label in np.argsort(row - exact)[: size - int(row.sum())]:
            row[label] += 1
    return counts


def by_group(pool: Sequence[Record], clients: int, size: int, rng: np.random.Generator) -> list[tuple[Record, ...]]:
    """Clients with whole natural groups as far as sizes allow: sorted by group, then cut into equal stretches.

    With as many groups as clients, each has one: the institutions that the data come from.
    """
    ordered = sorted(pool, key=lambda record: record.group)
    sizes = list(Counter(record.group for record in ordered).values())
    bounds = np.linspace(0, len(ordered), clients + 1).astype(int)
    if len(sizes) == clients:
        bounds, size = np.array([0, *accumulate(sizes)]), min(size, *sizes)
    parts = list[tuple[Record, ...]]()
    for low, high in pairwise(bounds):
        chosen = rng.permutation(np.arange(low, high))[:size]
        parts.append(tuple(ordered[index] for index in chosen))
    return parts


def write_jsonl(path: Path, records: Sequence[Record], *, labelled: bool) -> None:
    """`{"text", "label"}` a line, for the owner's eyes only (mode 0600)."""
    make_folder(path.parent)
    lines = [
        json.dumps({"text": r.text, "label": r.label} if labelled else {"text": r.text}, ensure_ascii=False)
        for r in records
    ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
