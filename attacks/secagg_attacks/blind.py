"""What the texts alone tell: if members can be told without a model, no score of a model means anything.

A bag-of-words classifier, cross-validated, against the same with the coins permuted (Duan et al. 2024; Das et al. 2024
show that published benchmarks fail this).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from secagg.errors import AuditError
from secagg_attacks.roc import Scores, auc

FOLDS = 5
LEAST = 20
VOID = 1e-3
"""A split of the records that a blind guess tells at this level is no fair one: no score of a model means anything."""


@dataclass(frozen=True, slots=True)
class Blind:
    """The area of a blind guess, and how often a permuted one was as good, itself counted: p in (0, 1]."""

    area: float
    p_value: float
    permutations: int


def blind_baseline(texts: Sequence[str], is_in: NDArray[np.bool_], *, seed: int, permutations: int = 0) -> Blind:
    """Test whether `texts` tell `is_in` [texts]. Without `permutations` the p-value is Mann and Whitney's.

    Raises AuditError for fewer than 20 of either kind.
    """
    if min(int(is_in.sum()), int((~is_in).sum())) < LEAST:
        raise AuditError(f"a blind baseline needs {LEAST} members and {LEAST} others at least")
    words = CountVectorizer(binary=True, min_df=2).fit_transform(texts)
    area = _area(words, is_in, seed)
    if not permutations:
        return Blind(area, _normal_tail(area, is_in), 0)
    rng = np.random.default_rng(seed)
    others = [_area(words, rng.permutation(is_in), seed) for _ in range(permutations)]
    above = sum(other >= area for other in others)
    return Blind(area, (1 + above) / (1 + permutations), permutations)


def _area(words: object, is_in: NDArray[np.bool_], seed: int) -> float:
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = LogisticRegression(C=0.1, max_iter=200)
    scores = cross_val_predict(model, words, is_in, cv=folds, method="decision_function")
    return auc(Scores(np.asarray(scores[is_in], np.float64), np.asarray(scores[~is_in], np.float64)))


def _normal_tail(area: float, is_in: NDArray[np.bool_]) -> float:
    """The chance of such an area when the coins are fair, by the rank sum's normal limit."""
    from scipy import stats

    inside, outside = int(is_in.sum()), int((~is_in).sum())
    deviation = np.sqrt((inside + outside + 1) / (12.0 * inside * outside))
    return float(stats.norm.sf((area - 0.5) / deviation))
