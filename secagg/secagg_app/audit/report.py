"""A study as a page for people and as JSON for scripts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from markupsafe import Markup

from secagg_app.audit.exposure import Difference, Exposure, Findings, Quality
from secagg_app.audit.inversion import Recovery
from secagg_app.audit.pictures import Picture, rows_of
from secagg_app.audit.plots import capacity_plot, exposure_plot, frontier_plot, roc_plot
from secagg_app.audit.settings import DELTA, Family, Study
from secagg_attacks.audit.verdict import HOLDS, LEAK
from secagg_attacks.intervals import Interval
from secagg_attacks.multiplicity import holm, p_above, p_not_zero
from secagg_attacks.views import TITLES, ViewName
from secagg_server.pages import templates

POSITIVE = 0.7
"""The area under V1 that an overtrained family must reach, or a study shows nothing by finding nothing."""


@dataclass(frozen=True, slots=True)
class Group:
    """One family at one privacy level, as the page shows it."""

    family: Family
    epsilon: float
    runs: int
    exposures: tuple[Exposure, ...]
    qualities: tuple[Quality, ...]
    differences: tuple[Difference, ...]

    @property
    def plot(self) -> Markup:
        """Areas by rounds and view."""
        return exposure_plot(self.exposures)

    @property
    def roc(self) -> Markup:
        """Of V1."""
        return roc_plot([each for each in self.exposures if each.view is ViewName.V1], self.qualities)

    @property
    def learnt(self) -> dict[int, bool]:
        """By rounds."""
        return {quality.rounds: quality.learnt for quality in self.qualities}


@dataclass(frozen=True, slots=True)
class Frontier:
    """Schedules of several lengths at one privacy level: what each exposes, against what it learnt."""

    name: str
    epsilon: float
    plots: tuple[tuple[str, Markup], ...]


def frontiers_of(groups: Sequence[Group]) -> list[Frontier]:
    """Families of one frontier taken together, under the views of a client's update and of the sum."""
    found = list[Frontier]()
    for name, epsilon in dict.fromkeys((g.family.frontier, g.epsilon) for g in groups if g.family.frontier):
        mine = [group for group in groups if (group.family.frontier, group.epsilon) == (name, epsilon)]
        plots = list[tuple[str, Markup]]()
        for view in (ViewName.V1, ViewName.V2):
            qualities = {(quality.family, quality.rounds): quality for group in mine for quality in group.qualities}
            areas = [each for group in mine for each in group.exposures if each.view is view]
            plots.append((view.upper(), frontier_plot([(e, qualities[e.family, e.rounds]) for e in areas])))
        found.append(Frontier(name, epsilon, tuple(plots)))
    return found


def noise_of_clients(family: Family) -> list[str]:
    """What a client is promised after all releases, for each number of rounds; nothing without such noise."""
    given = family.client_noise
    if given is None:
        return []
    from secagg_client.accounting import Mechanism, epsilon_spent

    return [
        f"{rounds} round{'s' if rounds > 1 else ''}: noise multiplier {given.sigma_of(rounds):.3g} a release, epsilon "
        f"{epsilon_spent(Mechanism(1.0, given.sigma_of(rounds), rounds), DELTA):.3g} for a whole client at delta "
        f"{DELTA:g}, against who sees sums alone"
        for rounds in family.rounds
    ]


def groups_of(study: Study, found: Findings) -> list[Group]:
    """In the order of the study."""
    groups = list[Group]()
    for family in study.families:
        for epsilon in family.epsilon:
            mine = [e for e in found.exposures if (e.family, e.epsilon) == (family.name, epsilon)]
            if not mine:
                continue
            mine.sort(key=lambda each: (each.rounds, each.view))
            qualities = [q for q in found.qualities if (q.family, q.epsilon) == (family.name, epsilon)]
            groups.append(
                Group(
                    family, epsilon, len(mine[0].areas), tuple(mine), tuple(sorted(qualities, key=lambda q: q.rounds)),
                    tuple(d for d in found.differences if (d.family, d.epsilon) == (family.name, epsilon)),
                )
            )  # fmt: skip
    return groups


def reading(exposure: Exposure, learnt: bool) -> str:
    """One cell in words. What has learnt nothing has nothing to show, and is not protected by that."""
    if not learnt:
        return f"{LEAK}, and nothing learnt" if exposure.leaks else "nothing learnt"
    return LEAK if exposure.leaks else HOLDS


def short_lines(groups: Sequence[Group]) -> list[str]:
    """What a reader must take away, one sentence a group and view of interest."""
    lines = list[str]()
    for group in groups:
        privacy = f"epsilon {group.epsilon:g}" if group.epsilon else "no differential privacy"
        for view in (ViewName.V1, ViewName.V2):
            mine = [each for each in group.exposures if each.view is view]
            parts = [
                f"{each.rounds} round{'s' if each.rounds > 1 else ''} {interval_text(each.area)}"
                f" ({reading(each, group.learnt[each.rounds])})"
                for each in mine
            ]
            lines.append(f"{group.family.name}, {privacy}, {view.upper()}: area under the ROC {'; '.join(parts)}.")
    return lines


def control_lines(groups: Sequence[Group], found: Findings, blind: Sequence[float]) -> tuple[list[str], list[str]]:
    """Controls as sentences, and those that failed, as warnings."""
    lines, warnings = list[str](), list[str]()
    if not any(group.family.positive_control and not group.epsilon for group in groups):
        warnings.append("There is no positive control: that nothing is found somewhere shows nothing.")
    for group in groups:
        if group.family.positive_control and not group.epsilon:
            best = max(each.area.value for each in group.exposures if each.view is ViewName.V1)
            line = f"Positive control ({group.family.name}, V1): area {best:.3f}, {POSITIVE} is needed."
            lines.append(line)
            if best < POSITIVE:
                warnings.append(f"{line} It failed: that nothing is found elsewhere shows nothing.")
    outside = [each for each in found.exposures if not each.shuffled.low <= 0.5 <= each.shuffled.high]
    lines.append(
        "Negative control: with members and others shuffled, the area's 95% interval misses one half in "
        f"{len(outside)} of {len(found.exposures)} cells; about {0.05 * len(found.exposures):.1f} are expected by "
        "chance."
    )
    lines += chance_lines(found)
    smallest = min(blind, default=1.0)
    lines.append(
        f"Blind baseline: from the texts alone, smallest p of {len(blind)} runs {smallest:.3g}; below .001 a run is "
        "void: "
        f"{'; '.join(found.voids) or 'none'}."
    )
    lines += [
        "A candidate's coin was tossed before training; members and others come from one pool without near-duplicates.",
        "Not found is not absent: these attacks, these models, these data. Area and rates are averages over records; a "
        "single unusual record may be exposed where the average is not.",
        "V1 is recorded by the simulator alone; a deployed client writes no plain update.",
    ]
    return lines, warnings


def chance_lines(found: Findings) -> list[str]:
    """How many readings chance alone would give, and how many stay when that is corrected for."""
    areas, differences = found.exposures, found.differences
    sure = sum(holm([p_above(each.areas, 0.5) for each in areas]))
    lines = [
        f"Many intervals: {sum(each.leaks for each in areas)} of {len(areas)} areas lie above one half, about "
        f"{0.025 * len(areas):.1f} would by chance if nothing leaked; with Holm's correction over all of them, "
        f"{sure} do."
    ]
    if differences:
        apart = sum(not each.difference.low <= 0 <= each.difference.high for each in differences)
        sure = sum(holm([p_not_zero(each.difference) for each in differences]))
        lines.append(
            f"{apart} of {len(differences)} differences from one round exclude 0, about {0.05 * len(differences):.1f} "
            f"would by chance; with Holm's correction, {sure} do."
        )
    if len({each.family for each in areas}) > 1:
        lines.append(
            "Families share seeds: run k of one has the candidates and coins that run k of another has, so what "
            "chance does to one may show in another."
        )
    return lines


def interval_text(found: Interval) -> str:
    """`.812 [.790, .834]`."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def over_repeats(found: Interval) -> str:
    """The same over few repeats: where all of them agree, Student's interval has no width, and says too much."""
    return f"{found.value:.3f} in all {found.count}" if found.low == found.high else interval_text(found)


def page(
    study: Study, found: Findings, recoveries: Sequence[Recovery], pictures: Sequence[Picture], blind: Sequence[float],
    made: str, inversion: str,
) -> str:  # fmt: skip
    """The report as HTML."""
    environment = templates("secagg_app.audit")
    environment.filters["interval"] = interval_text
    environment.filters["over_repeats"] = over_repeats
    environment.filters["most_common"] = lambda names: Counter(names).most_common(1)[0][0]
    environment.filters["reading"] = reading
    environment.filters["noise_of_clients"] = noise_of_clients
    groups = groups_of(study, found)
    controls, warnings = control_lines(groups, found, blind)
    samples = [sample for each in recoveries for sample in each.samples]
    return environment.get_template("exposure.html.j2").render(
        study=study, made=made, groups=groups, short=short_lines(groups), warnings=warnings, controls=controls,
        titles={str(name): title for name, title in TITLES.items()}, recoveries=recoveries, samples=samples,
        capacity=capacity_plot([r for r in recoveries if r.view is ViewName.V1]) if recoveries else "",
        inversion_text=inversion, undefined=found.undefined, frontiers=frontiers_of(groups),
        pictures=beside(pictures), picture_rows=rows_of(pictures),
    )  # fmt: skip


def beside(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    """Each original, and what was made of it in each setting."""
    found = dict[str, list[Picture]]()
    for each in pictures:
        found.setdefault(each.original, []).append(each)
    return list(found.items())


def to_json(
    study: Study, found: Findings, recoveries: Sequence[Recovery], pictures: Sequence[Picture], blind: Sequence[float]
) -> dict[str, Any]:
    """Every figure with its interval, counts, seeds and controls. ROC points are left to the scores."""
    groups = groups_of(study, found)
    controls, warnings = control_lines(groups, found, blind)
    learnt = {(q.family, q.rounds, q.epsilon): q.learnt for q in found.qualities}
    exposures = [
        {**_plain(e, {"roc", "scored"}), "reading": reading(e, learnt[e.family, e.rounds, e.epsilon])}
        for e in found.exposures
    ]
    return {
        "study": study.model_dump(mode="json"),
        "exposures": exposures,
        "qualities": [{**_plain(q, {"ceiling"}), "learnt": q.learnt} for q in found.qualities],
        "differences": [_plain(each) for each in found.differences],
        "recoveries": [_plain(each, {"samples"}) for each in recoveries],
        "pictures": [_plain(each) for each in rows_of(pictures)],
        "blind_p": list(blind),
        "voids": list(found.voids),
        "controls": controls,
        "warnings": warnings,
        "undefined": dict(found.undefined),
    }


def _plain(value: Any, without: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    names = [name for name in value.__slots__ if name not in without]
    return {name: _simple(getattr(value, name)) for name in names}


def _simple(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value
