"""Pictures of a study, in the style of the release report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from secagg_app.audit.exposure import Exposure, Quality
from secagg_app.audit.inversion import Recovery
from secagg_attacks.views import ViewName
from secagg_server.plots import ACCENT, GRID, INK, MUTED, legend, new_axes, plain, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {ViewName.V1: "#b5483c", ViewName.V2: ACCENT, ViewName.V3: "#6b8f3c", ViewName.V4: "#d9a35b"}
SHAPES = {ViewName.V1: "o", ViewName.V2: "s", ViewName.V3: "^", ViewName.V4: "D"}
ROUND_COLOURS = (ACCENT, "#d9a35b", "#b5483c", "#6b8f3c", "#8a5a9e")
LEAST = 1e-3
"""Where the logarithmic axes of a ROC begin."""


def exposure_plot(exposures: Sequence[Exposure]) -> Markup:
    """Area under the ROC by rounds: one family and one privacy level; a point a view, a bar its interval over runs."""
    figure, axes = new_axes(2.9)
    rounds = sorted({each.rounds for each in exposures})
    for offset, view in zip((-0.18, -0.06, 0.06, 0.18), ViewName, strict=True):
        mine = [each for each in exposures if each.view is view]
        for each in mine:
            place = rounds.index(each.rounds) + offset
            axes.plot([place] * 2, [each.area.low, each.area.high], color=COLOURS[view], linewidth=4, alpha=0.45)
            axes.plot([place], [each.area.value], SHAPES[view], color=COLOURS[view], markersize=7)
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate("a coin", (len(rounds) - 0.55, 0.5), textcoords="offset points", xytext=(0, 4), fontsize=9, color=INK)
    axes.set_xticks(range(len(rounds)), [f"{count} round{'s' if count > 1 else ''}" for count in rounds])
    axes.set_xlim(-0.5, len(rounds) - 0.3)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.45), max(high, 0.6))
    axes.set_ylabel("area under the ROC", fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color=GRID)
    legend(axes, [(view.upper(), COLOURS[view], SHAPES[view]) for view in ViewName])
    return svg(figure)


def frontier_plot(points: Sequence[tuple[Exposure, Quality]]) -> Markup:
    """Area under the ROC against held-out quality: one view and one privacy level; a line a number of rounds.

    Schedules are compared where they are as good as each other: at one place on the horizontal axis.
    """
    figure, axes = new_axes(3.1)
    marks = list[tuple[str, str, str]]()
    for colour, rounds in zip(ROUND_COLOURS, sorted({each.rounds for each, _ in points}), strict=False):
        mine = sorted((p for p in points if p[0].rounds == rounds), key=lambda point: point[1].value.value)
        for area, quality in ((each.area, quality.value) for each, quality in mine):
            axes.plot([quality.value] * 2, [area.low, area.high], color=colour, linewidth=3, alpha=0.4)
            axes.plot([quality.low, quality.high], [area.value] * 2, color=colour, linewidth=3, alpha=0.4)
        axes.plot([q.value.value for _, q in mine], [each.area.value for each, _ in mine], "o-", color=colour)
        marks.append((f"{rounds} round{'s' if rounds > 1 else ''}", colour, "o"))
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"{points[0][1].measure}, held out")
    axes.set_ylabel("area under the ROC", fontsize=9)
    axes.grid(axis="y", color=GRID)
    legend(axes, marks)
    return svg(figure)


def roc_plot(exposures: Sequence[Exposure], qualities: Sequence[Quality]) -> Markup:
    """ROCs over all runs of one view, on logarithmic axes; a line for each number of rounds, and the ceiling."""
    figure, axes = new_axes(3.4)
    marks = list[tuple[str, str, str]]()
    for colour, each in zip(ROUND_COLOURS, sorted(exposures, key=lambda e: e.rounds), strict=False):
        axes.step(np.maximum(each.roc.fpr, LEAST / 2), np.maximum(each.roc.tpr, LEAST / 2), color=colour, linewidth=1.6)
        marks.append((f"{each.rounds} round{'s' if each.rounds > 1 else ''}", colour, "_"))
    for ceiling in [quality.ceiling for quality in qualities if quality.ceiling is not None][:1]:
        axes.plot(ceiling.fpr, ceiling.tpr, color=INK, linewidth=1.2, linestyle="--")
        marks.append(("most that the accounted noise permits", INK, "_"))
    axes.plot([LEAST, 1], [LEAST, 1], color=MUTED, linewidth=0.9, linestyle=":")
    _logarithmic(axes)
    legend(axes, marks)
    return svg(figure)


def _logarithmic(axes: "Axes") -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LEAST, 1)
    axes.set_ylim(LEAST, 1.05)
    axes.set_xlabel("false positives: others called members")
    axes.set_ylabel("true positives: members found", fontsize=9)
    axes.grid(axis="y", color=GRID)


def capacity_plot(recoveries: Sequence[Recovery]) -> Markup:
    """Part of the tokens that is recovered, against the tokens in a message as a multiple of the rank."""
    figure, axes = new_axes(3.1)
    colours = dict(zip(sorted({each.rank for each in recoveries}), ROUND_COLOURS * 2, strict=False))
    for rank, rounds, noise in sorted({(each.rank, each.rounds, each.noise) for each in recoveries}):
        mine = sorted(
            (e for e in recoveries if (e.rank, e.rounds, e.noise) == (rank, rounds, noise)), key=lambda e: e.tokens
        )
        colour, shape = colours[rank], "x" if noise else "o" if rounds == 1 else "^"
        places = [each.tokens / rank for each in mine]
        axes.fill_between(places, [e.recall.low for e in mine], [e.recall.high for e in mine], color=colour, alpha=0.12)
        axes.plot(places, [e.recall.value for e in mine], shape + ("-" if rounds == 1 else "--"), color=colour)
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate(plain("tokens = rank"), (1.0, 0.5), textcoords="offset points", xytext=(5, 0), fontsize=9, color=INK)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel("tokens in one message, as a multiple of the adapter's rank")
    axes.set_ylabel("part recovered exactly", fontsize=9)
    axes.grid(axis="y", color=GRID)
    shapes = (("one message", "o"), ("several messages", "^"), ("with noise", "x"))
    legend(
        axes, [*((f"rank {r}", c, "s") for r, c in colours.items()), *((name, INK, shape) for name, shape in shapes)]
    )
    return svg(figure)
