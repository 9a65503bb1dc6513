"""From scores to what a study says: exposure by family, rounds, privacy and view, and one round against many.

Fixed before the runs (docs/exposure.md): the attack that stands for a cell in a run is the one with the largest mean
area in the cell's other runs, so no run chooses its own; intervals are Student's t over runs.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secagg.errors import AuditError
from secagg_app.audit.jobs import JobResult
from secagg_attacks.blind import VOID
from secagg_attacks.intervals import Floats, Interval, paired_bootstrap, t_interval
from secagg_attacks.membership.shadow import Mode, Shadows, lira_where_enough, rmia_where_enough
from secagg_attacks.roc import Curve, Operating, Scores, auc, auc_of_draws, calibrated, curve
from secagg_attacks.views import ViewName

LOOKER = 0
"""The client that looks, under V4: its own records are no question."""
POWER = 0.8
Cell = tuple[str, int, float]
MODES: tuple[Mode, ...] = ("offline", "online")


@dataclass(frozen=True, slots=True)
class Scored:
    """Of one run: a score for each candidate that is a question under the view, [asked], and who of them was in."""

    values: Floats
    is_in: NDArray[np.bool_]

    def areas(self, counts: NDArray[np.int64]) -> Floats:
        """In each draw of the bootstrap, [draws], from how often each is in it, [draws, asked]."""
        return auc_of_draws(self.values, self.is_in, counts)

    def apart(self) -> Scores:
        """Members' and others'."""
        return Scores(self.values[self.is_in], self.values[~self.is_in])


@dataclass(frozen=True, slots=True)
class Exposure:
    """One cell under one view.

    `chosen` says which attack stood for each run; `by_attack` has every attack's mean area. `rate` is the part of the
    members that is found at 1% false positives, threshold and attack chosen on the other half of the runs, or why there
    is no such figure. `runs` numbers the runs that `areas`, `chosen` and `scored` are of.
    """

    family: str
    rounds: int
    epsilon: float
    view: ViewName
    area: Interval
    areas: tuple[float, ...]
    chosen: tuple[str, ...]
    by_attack: Mapping[str, float]
    shuffled: Interval
    rate: Operating | str
    members: int
    nonmembers: int
    roc: Curve = field(repr=False)
    scored: tuple[Scored, ...] = field(default=(), repr=False)
    runs: tuple[int, ...] = ()

    @property
    def leaks(self) -> bool:
        """Whether the interval of the area is above one half."""
        return self.area.low > 0.5


@dataclass(frozen=True, slots=True)
class Quality:
    """What a cell learnt: held-out quality after, and its gain over the start in the direction that is better."""

    family: str
    rounds: int
    epsilon: float
    measure: str
    value: Interval
    gain: Interval
    sigma: float
    ceiling: Curve | None = field(repr=False)

    @property
    def learnt(self) -> bool:
        """Whether the interval of the gain excludes 0. One without width, of equal runs, is too coarse to say."""
        return 0 < self.gain.low < self.gain.high


@dataclass(frozen=True, slots=True)
class Difference:
    """Area with `rounds` rounds less that with one, paired by run; and what could have been seen four times in five.

    `by_example` is the same difference, with the candidates drawn again and the runs as they are: other records of the
    same kind might have come out so.
    """

    family: str
    rounds: int
    epsilon: float
    view: ViewName
    difference: Interval
    by_example: Interval
    detectable: float


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a study says."""

    exposures: tuple[Exposure, ...]
    qualities: tuple[Quality, ...]
    differences: tuple[Difference, ...]
    voids: tuple[str, ...]
    undefined: Mapping[str, str]


def findings(results: Sequence[JobResult]) -> Findings:
    """Raises AuditError when no cell has two runs that are not void."""
    voids = tuple(_named(each) for each in results if each.blind_p < VOID)
    cells = defaultdict[Cell, list[JobResult]](list)
    for each in sorted(results, key=lambda result: result.job.run):
        if each.blind_p >= VOID:
            cells[each.job.family, each.job.rounds, each.job.epsilon].append(each)
    cells = defaultdict(list, {cell: runs for cell, runs in cells.items() if len(runs) > 1})
    if not cells:
        raise AuditError("no setting has two runs that count: run more of the study")
    exposures = [_exposure(cell, runs, view) for cell, runs in cells.items() for view in ViewName]
    undefined = {what: why for runs in cells.values() for each in runs for what, why in each.undefined.items()}
    return Findings(
        tuple(exposures), tuple(_quality(cell, runs) for cell, runs in cells.items()), tuple(_differences(exposures)),
        voids, undefined,
    )  # fmt: skip


def _named(result: JobResult) -> str:
    job = result.job
    return (
        f"{job.family}, {job.rounds} rounds, epsilon {job.epsilon or 'none'}, run {job.run} (p = {result.blind_p:.1g})"
    )


def _exposure(cell: Cell, runs: Sequence[JobResult], view: ViewName) -> Exposure:
    asked = [_asked(runs, number, view) for number in range(len(runs))]
    scores = [{name: each.apart() for name, each in found.items()} for found in asked]
    names = sorted(set.intersection(*(set(each) for each in scores)))
    areas = np.array([[auc(each[name]) for name in names] for each in scores])
    best = [int(np.delete(areas, number, axis=0).mean(axis=0).argmax()) for number in range(len(runs))]
    own = [float(areas[number, pick]) for number, pick in enumerate(best)]
    picks = [names[pick] for pick in best]
    chosen = [each[pick] for each, pick in zip(scores, picks, strict=True)]
    rng = np.random.default_rng(0)
    shuffled = t_interval([auc(_shuffled(each, rng)) for each in chosen])
    last = scores[-1][names[0]]
    return Exposure(
        *cell, view, t_interval(own).within(0, 1), tuple(own), tuple(picks),
        dict(zip(names, areas.mean(axis=0).tolist(), strict=True)), shuffled.within(0, 1), _rate(scores, areas, names),
        len(last.members), len(last.nonmembers), curve(_pooled(chosen)),
        tuple(each[pick] for each, pick in zip(asked, picks, strict=True)), tuple(each.job.run for each in runs),
    )  # fmt: skip


def _asked(runs: Sequence[JobResult], number: int, view: ViewName) -> dict[str, Scored]:
    """Of one run, by attack: what was scored with it, and what needs the other runs as shadows."""
    run = runs[number]
    rows = run.owner != LOOKER if view is ViewName.V4 else np.ones(len(run.owner), dtype=bool)
    plain = {name: values for (of, name), values in run.scores.items() if of == view}
    found = plain | _by_shadows(runs, number)
    if view is ViewName.V1:
        found |= _by_local_shadows(runs, number)
    return {name: Scored(values[rows], run.member[rows]) for name, values in found.items()}


def _by_shadows(runs: Sequence[JobResult], number: int) -> dict[str, Floats]:
    """LiRA and RMIA with the cell's other runs as shadows; nothing where these are too few."""
    others = [each for index, each in enumerate(runs) if index != number]
    run, own = runs[number], runs[number].probabilities
    shadows = Shadows(np.stack([o.probabilities for o in others]), np.stack([o.member for o in others]))
    population = np.stack([o.population for o in others])
    found = dict[str, Floats]()
    for mode in MODES:
        with suppress(AuditError):  # too few runs: these attacks are not among those that are compared
            found[f"lira-{mode}-fixed"] = lira_where_enough(own, shadows, mode=mode, variance="fixed")
            found[f"lira-{mode}"] = lira_where_enough(own, shadows, mode=mode, variance="example")
            found[f"rmia-{mode}"] = rmia_where_enough(own, shadows, run.population, population, mode=mode)
    return found


def _by_local_shadows(runs: Sequence[JobResult], number: int) -> dict[str, Floats]:
    """LiRA on the models of the clients, which V1 alone has."""
    others, own = [each for index, each in enumerate(runs) if index != number], runs[number].local
    shadows = Shadows(np.stack([o.local for o in others]), np.stack([o.member for o in others]))
    found = dict[str, Floats]()
    for mode in MODES:
        with suppress(AuditError):  # too few runs
            found[f"lira-{mode}-fixed, own client"] = lira_where_enough(own, shadows, mode=mode, variance="fixed")
    return found


def _shuffled(scores: Scores, rng: np.random.Generator) -> Scores:
    every = rng.permutation(np.concatenate([scores.members, scores.nonmembers]))
    return Scores(every[: len(scores.members)], every[len(scores.members) :])


def _pooled(scores: Sequence[Scores]) -> Scores:
    """Of several runs, each by its ranks, since other attacks may have stood for other runs."""
    ranked = [_ranks(each) for each in scores]
    return Scores(np.concatenate([r.members for r in ranked]), np.concatenate([r.nonmembers for r in ranked]))


def _ranks(scores: Scores) -> Scores:
    count = len(scores.members)
    ranks = stats.rankdata(np.concatenate([scores.members, scores.nonmembers]))
    ranks = ranks / len(ranks)
    return Scores(ranks[:count], ranks[count:])


def _rate(scores: Sequence[dict[str, Scores]], areas: NDArray[np.float64], names: Sequence[str]) -> Operating | str:
    """True positives at 1% false ones: attack and threshold from even runs, both rates from odd ones."""
    if len(scores) < 4:
        return f"{len(scores)} runs are too few to choose a threshold on some and try it on others"
    name = names[int(areas[::2].mean(axis=0).argmax())]
    calibration = _pooled([each[name] for each in scores[::2]])
    try:
        return calibrated(calibration.nonmembers, _pooled([each[name] for each in scores[1::2]]), 0.01)
    except AuditError as error:
        return str(error)


def _quality(cell: Cell, runs: Sequence[JobResult]) -> Quality:
    sign = -1 if runs[0].measure == "loss" else 1
    gains = [sign * (each.value - each.start) for each in runs]
    first = runs[0]
    return Quality(
        *cell, first.measure, t_interval([each.value for each in runs]), t_interval(gains), first.sigma, _ceiling(first)
    )


def _ceiling(run: JobResult) -> Curve | None:
    """The largest true-positive rates that the accounted mechanism permits."""
    if run.sigma == 0:
        return None
    from secagg_attacks.audit.ceiling import ceiling
    from secagg_client.accounting import Mechanism

    return ceiling(Mechanism(run.rate, run.sigma, run.steps))


def _differences(exposures: Sequence[Exposure]) -> list[Difference]:
    one = {(each.family, each.epsilon, each.view): each for each in exposures if each.rounds == 1}
    found = list[Difference]()
    for each in exposures:
        base = one.get((each.family, each.epsilon, each.view))
        if each.rounds == 1 or base is None:
            continue
        pairs = _paired(each, base)
        if len(pairs) < 2:
            continue
        gaps = [each.areas[many] - base.areas[single] for many, single in pairs]
        found.append(
            Difference(
                each.family, each.rounds, each.epsilon, each.view, t_interval(gaps), _by_example(each, base, pairs),
                _detectable(gaps),
            )
        )  # fmt: skip
    return found


def _paired(many: Exposure, one: Exposure) -> list[tuple[int, int]]:
    """Where the runs of one number are in both cells: they have the same coins. A cell may lack a run."""
    there = {run: place for place, run in enumerate(one.runs)}
    return [(place, there[run]) for place, run in enumerate(many.runs) if run in there]


def _by_example(many: Exposure, one: Exposure, pairs: Sequence[tuple[int, int]]) -> Interval:
    """The bootstrap over candidates, who are the same in both cells and in all runs."""

    def difference(counts: NDArray[np.int64]) -> Floats:
        gaps = [many.scored[high].areas(counts) - one.scored[low].areas(counts) for high, low in pairs]
        return np.asarray(np.mean(gaps, axis=0))

    return paired_bootstrap(difference, len(one.scored[0].values), seed=0)


def _detectable(gaps: Sequence[float]) -> float:
    """The smallest true difference whose interval would exclude 0 in `POWER` of all studies of this size."""
    count = len(gaps)
    error = float(np.std(gaps, ddof=1)) / math.sqrt(count)
    return float(stats.t.ppf(0.975, count - 1) + stats.t.ppf(POWER, count - 1)) * error
