"""Membership scores against the truth: ROC, its area, and true positives at few false ones.

A score is higher the more its attack holds an example for a member. A rate at a false-positive rate needs non-members:
ten at least beyond the threshold, so 10,000 for one in a thousand; with fewer it is refused.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats, Interval, clopper_pearson, paired_bootstrap

BEYOND = 10
"""So many non-members must be expected above a threshold before a rate at it is given."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One attack's scores of members [n] and non-members [m]; finite."""

    members: Floats = field(repr=False)
    nonmembers: Floats = field(repr=False)

    def __post_init__(self) -> None:
        for name, values in (("members", self.members), ("non-members", self.nonmembers)):
            if values.ndim != 1 or len(values) == 0:
                raise AuditError(f"there are no scores of {name}")
            if not np.isfinite(values).all():
                raise AuditError(f"a score of {name} is not a finite number")


@dataclass(frozen=True, slots=True)
class Curve:
    """Every point of a ROC, from (0, 0) to (1, 1): `fpr` and `tpr`, [points], both rising."""

    fpr: Floats
    tpr: Floats


def auc(scores: Scores) -> float:
    """The chance that a member scores above a non-member, ties counting half (Mann-Whitney)."""
    n, m = len(scores.members), len(scores.nonmembers)
    ranks = stats.rankdata(np.concatenate([scores.members, scores.nonmembers]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def curve(scores: Scores) -> Curve:
    """The ROC over all thresholds; those that share a score are told apart by none."""
    thresholds = np.unique(np.concatenate([scores.members, scores.nonmembers]))[::-1]
    return Curve(
        np.concatenate([[0.0], _above(scores.nonmembers, thresholds)]),
        np.concatenate([[0.0], _above(scores.members, thresholds)]),
    )


def _above(values: Floats, thresholds: Floats) -> Floats:
    """Which part of `values` is at or above each threshold."""
    below = np.searchsorted(np.sort(values), thresholds, side="left")
    return (len(values) - below) / len(values)


def tpr_at(scores: Scores, fpr: float, *, beyond: int = BEYOND) -> float:
    """The largest part of the members that a threshold finds with at most `fpr` of the non-members.

    The threshold is chosen on the same scores: a description of them, without an interval. For a claim: `calibrated`.
    Raises AuditError for too few non-members.
    """
    _check_enough(len(scores.nonmembers), fpr, beyond)
    found = curve(scores)
    return float(found.tpr[found.fpr <= fpr].max())


def auc_of_draws(values: Floats, is_in: NDArray[np.bool_], counts: NDArray[np.int64]) -> Floats:
    """The area in each draw of the bootstrap, [draws], from how often each example is in it, [draws, examples].

    Sorted once, whatever the number of draws. A draw without both kinds counts one half.
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # where another value begins
    inside, outside = (
        np.add.reduceat(counts[:, order] * kind[order], starts, axis=1).astype(np.float64) for kind in (is_in, ~is_in)
    )
    members, others = inside.sum(axis=1), outside.sum(axis=1)
    above = members[:, None] - inside.cumsum(axis=1)
    pairs = members * others
    wins = (outside * (above + inside / 2)).sum(axis=1)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), 0.5)


def auc_interval(values: Floats, is_in: NDArray[np.bool_], *, seed: int, confidence: float = 0.95) -> Interval:
    """The area of scores [examples] of which `is_in` are members', with an interval by the bootstrap.

    A draw without both kinds counts one half. Raises AuditError for too few examples.
    """

    return paired_bootstrap(
        lambda counts: auc_of_draws(values, is_in, counts), len(values), seed=seed, confidence=confidence
    )


@dataclass(frozen=True, slots=True)
class Operating:
    """A threshold that was fixed on other examples: what it finds, and what it finds wrongly."""

    threshold: float
    wanted_fpr: float
    tpr: Interval
    fpr: Interval


def calibrated(calibration: NDArray[np.float64], scores: Scores, fpr: float, *, beyond: int = BEYOND) -> Operating:
    """The threshold that at most `fpr` of the `calibration` non-members [k] pass, tried on other examples.

    Both rates have exact intervals. (With a threshold from the same sample they would cover a quarter to a half of the
    time where they say 95%.) Raises AuditError for too few non-members on either side.
    """
    for count in (len(calibration), len(scores.nonmembers)):
        _check_enough(count, fpr, beyond)
    allowed = int(np.floor(fpr * len(calibration)))
    threshold = float(np.nextafter(np.sort(calibration)[::-1][allowed], np.inf))
    return Operating(threshold, fpr, _passing(scores.members, threshold), _passing(scores.nonmembers, threshold))


def _passing(values: Floats, threshold: float) -> Interval:
    return clopper_pearson(int((values >= threshold).sum()), len(values))


def _check_enough(count: int, fpr: float, beyond: int) -> None:
    if not 0 < fpr < 1:
        raise AuditError(f"a false-positive rate of {fpr} is not between 0 and 1")
    needed = int(np.ceil(beyond / fpr - 1e-9))
    if count < needed:
        raise AuditError(f"{count} non-members are too few for a rate at {fpr:g} false positives: {needed} are needed")
