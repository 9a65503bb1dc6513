"""What the texts alone tell: if members can be told without a model, no score of a model means anything.

A bag-of-words classifier that is tried on texts it was not fitted to (Duan et al. 2024; Das et al. 2024
show that published benchmarks fail this).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from secagg.errors import AuditError
from secagg_attacks.roc import Scores, auc

LEAST = 20
VOID = 1e-3
"""A split of the records that a blind guess tells at this level is no fair one: no score of a model means anything."""


@dataclass(frozen=True, slots=True)
class Blind:
    """The area of a blind guess, and how likely one as good is when the coins are fair: p in (0, 1].

    `permutations` of them were compared with; 0: by the rank sum's law.
    """

    area: float
    p_value: float
    permutations: int


def blind_baseline(texts: Sequence[str], is_in: NDArray[np.bool_], *, seed: int, permutations: int = 0) -> Blind:
    """Test whether `texts` tell `is_in` [texts].

    Each half is guessed from the other, and the area is the mean of both. Without `permutations` p is twice the smaller
    of the halves' Mann-Whitney p-values: within a half the guesses do not depend on its own coins, so each is one.
    (Scores pooled over folds do depend on each other: the same law called fair coins unfair ten times as often.)
    Raises AuditError for fewer than 20 of either kind.
    """
    if min(int(is_in.sum()), int((~is_in).sum())) < LEAST:
        raise AuditError(f"a blind baseline needs {LEAST} members and {LEAST} others at least")
    try:
        words = CountVectorizer(binary=True, min_df=2).fit_transform(texts)
    except ValueError:  # no word stands in two texts
        return Blind(0.5, 1.0, permutations)
    halves = [half for _, half in StratifiedKFold(2, shuffle=True, random_state=seed).split(words, is_in)]
    areas = _areas(words, is_in, halves)
    area = float(np.mean(areas))
    if not permutations:
        tails = [_normal_tail(each, is_in[half]) for each, half in zip(areas, halves, strict=True)]
        return Blind(area, min(1.0, 2 * min(tails)), 0)
    rng = np.random.default_rng(seed)
    others = [np.mean(_areas(words, rng.permutation(is_in), halves)) for _ in range(permutations)]
    above = sum(bool(other >= area) for other in others)
    return Blind(area, (1 + above) / (1 + permutations), permutations)


def _areas(words: Any, is_in: NDArray[np.bool_], halves: Sequence[NDArray[np.int64]]) -> list[float]:
    """Of each of two halves, guessed by a classifier of the other."""
    found = list[float]()
    for half, other in (halves, halves[::-1]):
        model = LogisticRegression(C=0.1, max_iter=200).fit(words[other], is_in[other])
        scores, mine = np.asarray(model.decision_function(words[half]), np.float64), is_in[half]
        found.append(auc(Scores(scores[mine], scores[~mine])))
    return found


def _normal_tail(area: float, is_in: NDArray[np.bool_]) -> float:
    """The chance of such an area when the coins are fair, by the rank sum's normal limit."""
    inside, outside = int(is_in.sum()), int((~is_in).sum())
    deviation = np.sqrt((inside + outside + 1) / (12.0 * inside * outside))
    return float(stats.norm.sf((area - 0.5) / deviation))
