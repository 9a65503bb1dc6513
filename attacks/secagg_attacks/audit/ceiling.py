"""The ROC that no attack on one record can exceed: the accountant's trade-off curve (Dong, Roth & Su 2022).

Under (epsilon, delta(epsilon)) for all epsilon, TPR <= delta + e^epsilon FPR, and the same of the complements. The
privacy profile comes from the privacy-loss distribution of dp-accounting, rounded up, so the curve errs on the safe
side. It is for one record and an adversary that knows all else; attacks on many records at once fall far below.
"""

from collections.abc import Sequence

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

from secagg_attacks.intervals import Floats
from secagg_attacks.roc import Curve
from secagg_client.accounting import Mechanism

EPSILONS = tuple(np.concatenate([np.linspace(0, 4, 401), np.linspace(4, 30, 261)[1:]]).tolist())
"""At these the profile is taken; between them the curve is a little above the least one."""
RATES: Floats = np.concatenate([[0.0], np.logspace(-6, -2, 81), np.linspace(0.01, 1, 199)[1:]])
"""False-positive rates."""
INTERVAL = 1e-3
"""Privacy losses are rounded up to this."""


def profile(mechanism: Mechanism, epsilons: Sequence[float] = EPSILONS, interval: float = INTERVAL) -> Floats:
    """delta(epsilon) of the whole mechanism, add or remove one, [epsilons]."""
    step = from_gaussian_mechanism(
        mechanism.sigma, sampling_prob=mechanism.rate, value_discretization_interval=interval
    )
    whole = step.self_compose(mechanism.steps)
    return np.array([whole.get_delta_for_epsilon(epsilon) for epsilon in epsilons], np.float64)


def ceiling(
    mechanism: Mechanism,
    rates: Floats = RATES,
    epsilons: Sequence[float] = EPSILONS,
    interval: float = INTERVAL,
) -> Curve:
    """For each false-positive rate the largest true-positive rate that the mechanism permits."""
    deltas, factor = profile(mechanism, epsilons, interval)[:, None], np.exp(np.asarray(epsilons))[:, None]
    above = deltas + factor * rates
    below = 1 - (1 - deltas - rates) / factor
    return Curve(rates, np.minimum(1.0, np.minimum(above, below).min(axis=0)))
