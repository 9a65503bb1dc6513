"""A lower bound on epsilon from one attack's error rates (Jagielski, Ullman & Oprea, NeurIPS 2020).

Under (epsilon, delta) any test has TPR <= e^eps FPR + delta, and TNR <= e^eps FNR + delta. With exact bounds of the
rates on the unfavourable side, the largest epsilon that breaks either is a lower bound.
"""

import math

from secagg.errors import AuditError
from secagg_attacks.intervals import clopper_pearson
from secagg_attacks.roc import Scores


def epsilon_lower_bound(scores: Scores, threshold: float, delta: float, significance: float = 0.05) -> float:
    """From the scores of independent examples at a threshold that was fixed without them; 0 when nothing is refuted.

    Both rates hold together at `significance` (each bound takes half of it), and both inequalities follow from them.
    Raises AuditError for a delta or significance that is none.
    """
    if not 0 <= delta < 1 or not 0 < significance < 1:
        raise AuditError("delta is in [0, 1), the significance in (0, 1)")
    tpr = clopper_pearson(int((scores.members >= threshold).sum()), len(scores.members), 1 - significance)
    fpr = clopper_pearson(int((scores.nonmembers >= threshold).sum()), len(scores.nonmembers), 1 - significance)
    return max(0.0, _log_ratio(tpr.low - delta, fpr.high), _log_ratio(1 - fpr.high - delta, 1 - tpr.low))


def _log_ratio(above: float, below: float) -> float:
    if above <= 0:
        return 0.0
    return math.log(above / below) if below > 0 else math.inf
