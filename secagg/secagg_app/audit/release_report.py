"""The audit of one release as a page."""

from markupsafe import Markup

from secagg_app.audit.overlap import STILL
from secagg_app.audit.release import BLIND, ReleaseAudit
from secagg_attacks.audit.verdict import HOLDS, LEAK
from secagg_attacks.extraction.planted_audit import CHANCE
from secagg_attacks.roc import Scores, curve
from secagg_attacks.views import TITLES
from secagg_server.pages import templates
from secagg_server.plots import ACCENT, INK, MUTED, legend, new_axes, svg


def page(about: str, found: ReleaseAudit) -> str:
    """HTML with the ROCs of all views, and who is isolated by several releases; `about` says what was audited."""
    return templates("secagg_app.audit").get_template("release.html.j2").render(
        about=about, found=found, still=STILL, titles={str(name): title for name, title in TITLES.items()},
        roc=_roc(found) if found.seen else "", bad=found.reading in (LEAK, BLIND), good=found.reading == HOLDS,
        holds=HOLDS, chance=CHANCE,
    )  # fmt: skip


def _roc(found: ReleaseAudit) -> Markup:
    """Of each view's chosen attack, all candidates, on logarithmic axes."""
    figure, axes = new_axes(3.2)
    marks = list[tuple[str, str, str]]()
    least = 1 / max(2, found.others)
    for colour, each in zip((ACCENT, "#b5483c"), found.seen, strict=False):
        values = found.scores[str(each.view), each.attack]
        points = curve(Scores(values[found.is_in], values[~found.is_in]))
        axes.step(points.fpr.clip(least / 2), points.tpr.clip(least / 2), color=colour, linewidth=1.6)
        marks.append((f"{each.view.upper()}, {each.attack}", colour, "_"))
    axes.plot([least, 1], [least, 1], color=MUTED, linestyle=":", linewidth=0.9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1.05)
    axes.set_xlabel("false positives: others called members")
    axes.set_ylabel("true positives: members found", fontsize=9, color=INK)
    legend(axes, marks)
    return svg(figure)
