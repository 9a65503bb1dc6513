"""Pictures for report.html: SVG elements that depend on nothing but what they show."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from secagg.certificate import Evaluation, Metric, TimelineEvent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCENT, MUTED, PALE, INK, GRID = "#0b5f8a", "#a9b8c4", "#d5dee5", "#22303c", "#e6ecf0"
KIND_COLOURS = {"released": ACCENT, "baseline": MUTED, "local": "#d9a35b", "simulation": PALE}
KIND_NAMES = {
    "released": "the released adapter",
    "baseline": "comparison",
    "local": "one institution alone",
    "simulation": "simulation without privacy",
}
_WIDTH = 7.6


@dataclass(frozen=True, slots=True)
class Mark:
    """How a kind of event is drawn: the first whose `start` its text begins with.

    `rise` moves it off its lane, for what a party does within the same second as something else.
    """

    start: str
    name: str
    shape: str
    colour: str
    rise: float = 0.0


MARKS = (
    Mark("enrolled", "enrolled", "o", "#d9a35b"),
    Mark("advertised its keys", "advertised keys", "o", "#d9a35b", 0.2),
    Mark("shared its mask key", "shared a key", "^", "#6b8f3c", -0.2),
    Mark("uploaded", "uploaded", "s", ACCENT),
    Mark("approved the", "approved", "^", "#6b8f3c"),
    Mark("endorsed", "endorsed a set", "D", "#8a5a9e", 0.2),
    Mark("gave its shares", "gave its shares", "v", "#b5483c", -0.2),
    Mark("gave the sums", "opened the sum", "v", "#b5483c", -0.2),
    Mark("gave", "gave its share sum", "v", "#b5483c", -0.2),
    Mark("", "next stage", "|", INK),
)


def mark_of(event: str) -> Mark:
    """The mark of an event."""
    return next(mark for mark in MARKS if event.startswith(mark.start))


def warm_plots() -> None:
    """Draw once what nobody sees: it loads matplotlib and its fonts, some hundred files, before a release waits."""
    bytes_plot((("nothing", 1, True),))
    timeline_plot((TimelineEvent(at=0, party="nobody", event="uploaded"),))


def bytes_plot(rows: Sequence[tuple[str, int, bool]]) -> Markup:
    """Bars of bytes; the flagged ones are ours."""
    figure, axes = new_axes(0.75 + 0.38 * len(rows))
    names = [plain(name) for name, _, _ in rows][::-1]
    values = [value / 1e6 for _, value, _ in rows][::-1]
    bars = axes.barh(names, values, color=[ACCENT if own else MUTED for _, _, own in rows][::-1], height=0.62)
    axes.bar_label(bars, labels=[f"{value:.3g} MB" for value in values], padding=5, color=INK)
    axes.set_xlim(0, max(values) * 1.18)
    axes.set_xlabel("megabytes that leave one institution, once")
    return svg(figure)


def quality_plot(evaluation: Evaluation) -> Markup:
    """Every figure of an evaluation as a dot on a line, the released adapter's as a reference."""
    metrics = evaluation.metrics
    figure, axes = new_axes(1.15 + 0.31 * len(metrics))
    for row, metric in enumerate(reversed(metrics)):
        _quality_row(axes, row, metric)
    reference = [metric.value for metric in metrics if metric.kind == "released"][:1]
    for value in reference:
        axes.axvline(value, color=ACCENT, linewidth=1, alpha=0.35, zorder=0)
    axes.set_yticks(range(len(metrics)), [plain(metric.name) for metric in reversed(metrics)])
    axes.set_ylim(-0.6, len(metrics) - 0.4)
    low = min(m.value if m.low is None else m.low for m in metrics)
    high = max(m.value if m.high is None else m.high for m in metrics)
    pad = 0.1 * (high - low) or 0.05
    axes.set_xlim(low - pad, high + 1.6 * pad)
    better = "higher" if evaluation.higher_is_better else "lower"
    axes.set_xlabel(f"{plain(evaluation.measure)} ({better} is better; the bar is an interval of 95%)")
    legend(axes, [(KIND_NAMES[k], KIND_COLOURS[k], "o") for k in KIND_COLOURS if any(m.kind == k for m in metrics)])
    return svg(figure)


def _quality_row(axes: "Axes", row: int, metric: Metric) -> None:
    colour = KIND_COLOURS[metric.kind]
    if metric.low is not None and metric.high is not None:
        axes.plot([metric.low, metric.high], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="round")
    axes.plot([metric.value], [row], "o", color=colour, markersize=8, markeredgecolor=INK, markeredgewidth=0.6)
    weight = "bold" if metric.kind == "released" else "normal"
    text = figure_text(metric.value)
    right = metric.value if metric.high is None else metric.high
    axes.annotate(
        text, (right, row), textcoords="offset points", xytext=(9, 0), va="center", color=INK, fontweight=weight
    )


def timeline_plot(timeline: Sequence[TimelineEvent]) -> Markup:
    """One lane a party, one mark an event; the time between a client's enrolment and upload as a bar."""
    parties = sorted({event.party for event in timeline}, key=lambda party: _lane(party, timeline))
    figure, axes = new_axes(1.15 + 0.3 * len(parties))
    rows = {party: len(parties) - 1 - index for index, party in enumerate(parties)}
    start = min(event.at for event in timeline)
    for party in parties:
        times = {mark_of(event.event).name: event.at - start for event in timeline if event.party == party}
        if "enrolled" in times and "uploaded" in times:
            span = (times["enrolled"], times["uploaded"])
            axes.plot(span, [rows[party]] * 2, color=PALE, linewidth=7, solid_capstyle="butt", zorder=1)
    used = [mark for mark in MARKS if any(mark_of(event.event) is mark for event in timeline)]
    for mark in used:
        drawn = [event for event in timeline if mark_of(event.event) is mark]
        seconds = [event.at - start for event in drawn]
        lanes = [rows[event.party] + mark.rise for event in drawn]
        axes.scatter(seconds, lanes, marker=mark.shape, color=mark.colour, s=34, zorder=3)
    axes.set_yticks(list(rows.values()), [plain(party) for party in rows])
    axes.set_ylim(-0.6, len(parties) - 0.4)
    bars = any(mark_of(event.event).name == "enrolled" for event in timeline)
    axes.set_xlabel("seconds after the first event" + ("; the bars are from enrolment to upload" if bars else ""))
    legend(axes, [(mark.name, mark.colour, mark.shape) for mark in used])
    return svg(figure)


def _lane(party: str, timeline: Sequence[TimelineEvent]) -> tuple[int, str]:
    """Coordinator first, then clients, then key-holders, each by name."""
    events = [mark_of(event.event).name for event in timeline if event.party == party]
    if {"enrolled", "uploaded", "advertised keys"} & set(events):
        return 1, party
    return (
        (2, party)
        if {"approved", "endorsed a set", "gave its share sum", "opened the sum"} & set(events)
        else (0, party)
    )


def figure_text(value: float) -> str:
    """Three decimals for shares and losses, one for large figures."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def legend(axes: "Axes", entries: list[tuple[str, str, str]]) -> None:
    """Above the figure: name, colour and marker of each."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, marker=shape, linestyle="", label=name) for name, colour, shape in entries]
    figure = axes.get_figure()
    if figure is None:
        return
    figure.legend(
        handles=handles, loc="outside upper left", ncols=6, frameon=False, borderaxespad=0.2,
        handletextpad=0.2, columnspacing=1.4, fontsize=9,
    )  # fmt: skip


def plain(text: str) -> str:
    """Without matplotlib's own mark-up."""
    return text.replace("$", r"\$")


def new_axes(height: float) -> tuple["Figure", "Axes"]:
    """A figure of the report's width and `height` inches, and its one field."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.xaxis.label.set_color("#5b6975")
    axes.xaxis.label.set_fontsize(9)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: "Figure") -> Markup:
    """The figure as an SVG element, without dates or random names, text as text."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "secagg", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 (matplotlib escapes its text)
