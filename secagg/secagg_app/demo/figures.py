"""Figures on held-out data: intervals, what is compared with what, and the conclusion in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from secagg.certificate import Evaluation, Metric

Z95 = 1.959963984540054
LEVEL = 0.05
"""Differences below it, in a measure's unit, print as 0.0."""
Kind = Literal["released", "baseline", "local", "simulation"]


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured. `scale` turns a difference into the words of `unit`."""

    name: str
    higher_is_better: bool
    unit: str
    scale: float


ACCURACY = Measure("accuracy", True, "points", 100.0)
PERPLEXITY = Measure("perplexity", False, "of perplexity", 1.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """One value on `examples` held-out examples.

    `is_share`: of these examples, which gives it an interval. `log_error` is the standard error of the logarithm of
    another kind of value, where it is known. A mean of several figures shows no interval of its own.
    """

    title: str
    value: float
    kind: Kind
    examples: int
    is_share: bool
    log_error: float | None = None
    is_mean: bool = False

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95%."""
        if self.is_mean:
            return None
        if self.is_share:
            return wilson(self.value, self.examples)
        if self.log_error is None:
            return None
        factor = math.exp(Z95 * self.log_error)
        return self.value / factor, self.value * factor

    def metric(self) -> Metric:
        """For the certificate."""
        low, high = self.interval or (None, None)
        return Metric(name=self.title, value=self.value, low=low, high=high, kind=self.kind)


def wilson(share: float, examples: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    squared = Z95 * Z95
    centre = (share + squared / (2 * examples)) / (1 + squared / examples)
    spread = Z95 / (1 + squared / examples)
    half = spread * math.sqrt(share * (1 - share) / examples + squared / (4 * examples * examples))
    return centre - half, centre + half


def beyond_noise(a: Figure, b: Figure) -> bool:
    """Whether two figures differ by more than chance would make two samples of that size differ (95%).

    Both were measured on the same examples, which makes chance smaller than that: the test is cautious. Figures whose
    errors are not known are not told apart.
    """
    if a.is_share and b.is_share:
        return abs(a.value - b.value) > Z95 * math.sqrt(sum(f.value * (1 - f.value) / f.examples for f in (a, b)))
    if a.log_error is None or b.log_error is None:
        return False
    return abs(math.log(a.value / b.value)) > Z95 * math.hypot(a.log_error, b.log_error)


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of a run, the released adapter's first."""

    measure: Measure
    figures: tuple[Figure, ...]

    @property
    def released(self) -> Figure:
        """The released adapter's."""
        return self.figures[0]

    def find(self, title: str) -> Figure | None:
        """The figure whose title begins so."""
        return next((figure for figure in self.figures if figure.title.startswith(title)), None)

    @property
    def best_local(self) -> Figure | None:
        """Of the clients alone, the best on these examples."""
        alone = [f for f in self.figures if f.kind == "local" and not f.title.startswith(LOCAL_MEAN)]
        return min(alone, key=self.released_gain, default=None)

    def released_gain(self, other: Figure) -> float:
        """How much better the released adapter is, in the measure's unit."""
        difference = self.released.value - other.value
        return self.measure.scale * (difference if self.measure.higher_is_better else -difference)

    @property
    def verdict(self) -> str:
        """Whether federating helped, whether the adapter beat the head, and what privacy cost, in words."""
        sentences = [
            self._against("the starting model", self.find(START), "Training worked", "Training did not work"),
            self._against(
                "the clients alone on average", self.find(LOCAL_MEAN), "Federating helped", "Federating did not help"
            ),
            self._against("the best client alone, picked on these examples", self.best_local, "", ""),
            self._against("the linear head", self.find(HEAD), "The adapter was worth it", "A head would have done"),
            self._cost(self.find(PLAIN)),
        ]
        return " ".join(sentence for sentence in sentences if sentence)

    def _against(self, whom: str, other: Figure | None, good: str, bad: str) -> str:
        """`GOOD: ...` or `BAD: ...` only when the difference is beyond chance, or nought; else `Not clear: ...`."""
        if other is None:
            return ""
        gain = self.released_gain(other)
        words = f"{abs(gain):.1f} {self.measure.unit}"
        if abs(gain) < LEVEL:
            said = f"the released adapter is level with {whom}"
        else:
            said = f"the released adapter is {words} {'better' if gain > 0 else 'worse'} than {whom}"
        unsure = not beyond_noise(self.released, other)
        if unsure and abs(gain) >= LEVEL:
            said += f", which {other.examples:,} examples cannot tell from chance"
        if unsure and abs(gain) >= LEVEL:
            return f"Not clear: {said}."
        lead = good if gain > 0 else bad
        return f"{lead}: {said}." if lead else f"{said[0].upper()}{said[1:]}."

    def _cost(self, other: Figure | None) -> str:
        if other is None:
            return ""
        cost = -self.released_gain(other)
        if cost <= 0:
            return "Privacy cost nothing that can be seen here."
        return f"Privacy cost {cost:.1f} {self.measure.unit} against the same run without it."

    def evaluation(self, data_sha256: str, description: str) -> Evaluation:
        """For the certificate."""
        return Evaluation(
            data_sha256=data_sha256,
            data_is_public=True,
            description=description,
            measure=self.measure.name,
            higher_is_better=self.measure.higher_is_better,
            examples=self.released.examples,
            verdict=self.verdict,
            metrics=tuple(figure.metric() for figure in self.figures),
        )


RELEASED = "released adapter"
START = "starting model"
MAJORITY = "majority class"
HEAD = "linear head alone"
LOCAL_MEAN = "clients alone, mean"
PLAIN = "same run without privacy"


def gather(
    measure: Measure,
    found: Mapping[str, Mapping[str, float]],
    local: Mapping[str, Mapping[str, float]],
    epsilon: float,
    *,
    zero_shot: bool,
) -> Results:
    """Figures in the order of the table. `found` maps RELEASED, START and others to metrics; `local` clients.

    `zero_shot`: the starting model can already tell the classes, by their descriptions.
    """
    names = {
        RELEASED: (f"{RELEASED} (epsilon {epsilon:g})", "released"),
        START: (f"{START} (zero-shot)" if zero_shot else START, "baseline"),
        MAJORITY: (MAJORITY, "baseline"),
        HEAD: (f"{HEAD}, federated (epsilon {epsilon:g})", "baseline"),
        PLAIN: (f"{PLAIN} (simulation)", "simulation"),
    }
    figures = [_figure(measure, *names[key], found[key]) for key in names if key in found]
    alone = [_figure(measure, f"{title} alone (epsilon {epsilon:g})", "local", local[title]) for title in local]
    if alone:
        alone.append(_mean(f"{LOCAL_MEAN} (epsilon {epsilon:g})", alone))
    position = next((i for i, figure in enumerate(figures) if figure.kind == "simulation"), len(figures))
    return Results(measure, (*figures[:position], *alone, *figures[position:]))


def _mean(title: str, figures: list[Figure]) -> Figure:
    """The mean of figures of one kind; its error is taken as large as theirs, as all come from the same examples."""
    value = sum(figure.value for figure in figures) / len(figures)
    errors = [figure.log_error for figure in figures if figure.log_error is not None]
    first = figures[0]
    return Figure(title, value, "local", first.examples, first.is_share, max(errors, default=None), is_mean=True)


def _figure(measure: Measure, title: str, kind: str, metrics: Mapping[str, float]) -> Figure:
    chosen: Kind = next(k for k in ("released", "baseline", "local", "simulation") if k == kind)
    value, examples = float(metrics[measure.name]), int(metrics["examples"])
    return Figure(title, value, chosen, examples, measure is ACCURACY, metrics.get("loss_error"))
