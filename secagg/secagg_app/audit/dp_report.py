"""An audit of the training code as a page."""

import numpy as np
from markupsafe import Markup

from secagg_app.audit.dp import AuditConfig
from secagg_attacks.audit.guessing import Canaries
from secagg_attacks.audit.verdict import HOLDS, Verdict
from secagg_client.accounting import Mechanism
from secagg_server.pages import templates
from secagg_server.plots import ACCENT, GRID, INK, MUTED, legend, new_axes, svg

BINS = 40


def page(settings: AuditConfig, mechanism: Mechanism, verdict: Verdict, delta: float, canaries: Canaries) -> str:
    """HTML with every bound beside what is accounted and what could have been shown, and the canaries' scores."""
    return templates("secagg_app.audit").get_template("dp.html.j2").render(
        settings=settings, mechanism=mechanism, verdict=verdict, delta=delta, holds=HOLDS,
        inside=int(canaries.is_in.sum()), bounds=_bounds(verdict), scores=_scores(canaries),
    )  # fmt: skip


def _bounds(verdict: Verdict) -> Markup:
    """A row an audit: the bound, the accounted epsilon, and the most that could have been shown."""
    figure, axes = new_axes(0.9 + 0.45 * len(verdict.findings))
    for row, each in enumerate(verdict.findings[::-1]):
        if each.reach is not None:
            axes.plot([0, each.reach], [row, row], color=GRID, linewidth=9, solid_capstyle="butt", zorder=1)
        axes.plot([each.epsilon], [row], "o", color=ACCENT, markersize=8, zorder=3)
        axes.plot([each.accounted], [row], "|", color=INK, markersize=16, markeredgewidth=2, zorder=2)
    axes.set_yticks(range(len(verdict.findings)), [each.name for each in verdict.findings[::-1]])
    axes.set_ylim(-0.6, len(verdict.findings) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("epsilon; the bar is what could have been shown")
    legend(axes, [("at least", ACCENT, "o"), ("accounted", INK, "|")])
    return svg(figure)


def _scores(canaries: Canaries) -> Markup:
    """How far each canary's weight moved, of those that were in and those that were not."""
    figure, axes = new_axes(2.6)
    bins = np.histogram_bin_edges(canaries.scores, BINS)
    for kind, colour in ((~canaries.is_in, MUTED), (canaries.is_in, ACCENT)):
        axes.hist(canaries.scores[kind], bins=bins.tolist(), color=colour, alpha=0.6)
    axes.set_xlabel("score: how far training moved a canary's weight")
    axes.set_ylabel("canaries", fontsize=9)
    axes.grid(axis="y", color=GRID)
    legend(axes, [("in", ACCENT, "s"), ("not in", MUTED, "s")])
    return svg(figure)
