"""Canaries on the sum: an estimate of epsilon from random directions (Andrew et al., ICLR 2024, arXiv 2302.03098).

Each canary is a unit vector in a random direction, as long as clipping allows. In many dimensions such vectors are
almost orthogonal to each other and to all else, so the cosine between a canary and a sum in which it is not is about
N(0, 1/d). Where those of the canaries that are in lie tells the noise, and both distributions, taken to be Gaussian,
give an epsilon. An ESTIMATE: a Gaussian was assumed, and nothing bounds its error; it never fails an audit.

It errs to the high side when canaries are few, since a deviation that is fitted a little wrong weighs much in the tails
that delta is about. Simulated at delta 1e-5, mean of 60: where 4.38 is right, 100 canaries give 5.8, 1,000 give 4.8 and
5,000 give 4.6; where 1.27 is right, 2.5, 1.6 and 1.4.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import ndtr

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats
from secagg_attacks.one_run import largest_refuted


@dataclass(frozen=True, slots=True)
class Normal:
    """A Gaussian by mean and deviation."""

    mean: float
    deviation: float

    @classmethod
    def fitted(cls, values: Floats) -> "Normal":
        """To values [n]. Raises AuditError for fewer than two, or when all are equal."""
        if len(values) < 2 or not np.ptp(values) > 0:
            raise AuditError(f"{len(values)} cosines do not give a distribution: there must be two that differ")
        return cls(float(values.mean()), float(values.std(ddof=1)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of epsilon at `delta`: no bound. `inside` and `null` are the cosines' distributions."""

    rigorous: ClassVar[bool] = False
    epsilon: float
    delta: float
    canaries: int
    inside: Normal
    null: Normal


def random_directions(count: int, dimension: int, seed: int) -> Floats:
    """Unit vectors, uniform on the sphere, [count, dimension]."""
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    directions: Floats = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return directions


def cosines(canaries: Floats, update: Floats) -> Floats:
    """Between each canary [canaries, values], of length 1, and an update [values]. Raises AuditError for one of 0."""
    length = float(np.linalg.norm(update))
    if not length > 0 or not math.isfinite(length):
        raise AuditError("an update of length 0, or none that is finite, has no direction")
    found: Floats = canaries @ update / length
    return found


def final_only(canaries: Floats, change: Floats, delta: float) -> Estimate:
    """From the final model's change [values] alone (the paper's Algorithm 2), with the null N(0, 1/d)."""
    inside = Normal.fitted(cosines(canaries, change))
    null = Normal(0.0, 1.0 / math.sqrt(len(change)))
    return Estimate(gaussian_epsilon(null, inside, delta), delta, len(canaries), inside, null)


def all_rounds(canaries: Floats, outside: Floats, sums: Floats, delta: float) -> Estimate:
    """From the sums of all rounds [rounds, values] (Algorithm 3): each canary's largest cosine.

    The largest of several is no longer N(0, 1/d), so the null is fitted to canaries that are `outside` [n, values].
    """

    def largest(directions: Floats) -> Normal:
        return Normal.fitted(np.stack([cosines(directions, each) for each in sums]).max(axis=0))

    inside, null = largest(canaries), largest(outside)
    return Estimate(gaussian_epsilon(null, inside, delta), delta, len(canaries), inside, null)


def gaussian_epsilon(one: Normal, other: Normal, delta: float) -> float:
    """The least epsilon at which two Gaussians, of any deviations, are (epsilon, delta)-close in both directions.

    `one_run.MAX_EPSILON` at most. Raises AuditError for a delta that is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise AuditError("delta is between 0 and 1: two Gaussians have no epsilon at 0")

    def apart(epsilon: float) -> bool:
        return max(_hockey_stick(one, other, epsilon), _hockey_stick(other, one, epsilon)) > delta

    return largest_refuted(apart)


def _between(low: float, high: float) -> float:
    """Of N(0, 1), without loss in either tail."""
    return float(ndtr(-low) - ndtr(-high)) if low > 0 else float(ndtr(high) - ndtr(low))


def _hockey_stick(p: Normal, q: Normal, epsilon: float) -> float:
    """max over sets S of P(S) - e^epsilon Q(S): S is where log(p/q) > epsilon, in or outside a quadratic's roots."""
    mean, scale = (p.mean - q.mean) / q.deviation, p.deviation / q.deviation  # so that q is N(0, 1)
    a, b = (1 - 1 / scale**2) / 2, mean / scale**2
    c = -(mean**2) / (2 * scale**2) - math.log(scale) - epsilon

    def mass(low: float, high: float) -> float:
        return _between((low - mean) / scale, (high - mean) / scale) - math.exp(epsilon) * _between(low, high)

    if abs(a) < 1e-12:
        if b == 0:
            return 0.0
        root = -c / b
        return mass(root, math.inf) if b > 0 else mass(-math.inf, root)
    inner = b * b - 4 * a * c
    if inner <= 0:
        return 0.0 if a < 0 else mass(-math.inf, math.inf)
    half = math.sqrt(inner)
    low, high = sorted(((-b - half) / (2 * a), (-b + half) / (2 * a)))
    return mass(low, high) if a < 0 else mass(-math.inf, low) + mass(high, math.inf)
