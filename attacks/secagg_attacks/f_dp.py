"""One run with canaries again, against a whole trade-off curve (Mahloujifar, Melis & Chaudhuri 2024, arXiv 2410.22235).

Where the mechanism is Gaussian, asking for (epsilon, delta) alone gives most of it away: Steinke's bound holds for the
worst mechanism with that pair. Here the hypothesis is the trade-off curve of the Gaussian mechanism that is (epsilon,
delta)-private, so the bound is tighter, and it refutes that hypothesis only. DP-SGD with subsampling has another curve:
there a bound of this kind is an estimate, and never fails an audit by itself.
"""

import dp_accounting
from scipy.special import ndtr, ndtri

from secagg.errors import AuditError
from secagg_attacks.one_run import Guesses, largest_refuted

_LEAST = 1e-3
"""Below this epsilon nothing is told apart."""


def refutes(guesses: Guesses, separation: float, significance: float) -> bool:
    """Whether the guesses refute a Gaussian mechanism whose means are `separation` deviations apart (Algorithm 2).

    r is the part of right guesses' probability that is beyond v, h that of wrong ones; going down from v, the trade-off
    curve limits how fast h may grow with r. When both together exceed what the guesses are of all canaries, so many
    right ones were less likely than `significance`.
    """
    canaries, made, right = guesses.canaries, guesses.made, guesses.right
    r, h = significance * right / canaries, significance * (made - right) / canaries
    for i in range(right - 1, -1, -1):
        allowed = max(h, float(ndtr(ndtri(r) - separation)))
        if allowed == h:
            break  # neither can change any more
        r, h = min(1.0, r + i / (made - i) * (allowed - h)), allowed
    return r + h > made / canaries


def epsilon_lower_bound(guesses: Guesses, delta: float, significance: float = 0.05) -> float:
    """The largest epsilon whose Gaussian mechanism the guesses refute; 0 when they refute none.

    Raises AuditError for a delta or significance that is none: a Gaussian mechanism has a delta above 0.
    """
    if not 0 < delta < 1 or not 0 < significance < 1:
        raise AuditError("delta and significance are between 0 and 1: a Gaussian mechanism has a delta above 0")

    def refuted(epsilon: float) -> bool:
        return refutes(guesses, 1.0 / dp_accounting.get_sigma_gaussian(epsilon, delta), significance)

    return largest_refuted(refuted, _LEAST)
