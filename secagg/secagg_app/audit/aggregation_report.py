"""What attacks against secure aggregation came to, as a page."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from secagg_attacks.aggregation.trials.battery import Tried
from secagg_attacks.aggregation.trials.trial import AREA, RECOVERED, TOLD_APART, Figure, Opening, Trial
from secagg_server.pages import templates
from secagg_server.plots import GRID, INK, MUTED, legend, new_axes, plain, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OFF, OPEN, CONTROL = "#b5483c", "#d9a35b", MUTED
LEAST = 1e-9


def page(found: Tried) -> str:
    """HTML: a table of all attacks, a plot of what they recover, and each attempt with what refused it."""
    environment = templates("secagg_app.audit")
    environment.filters["figure"] = figure_words
    environment.filters["sentence"] = sentence
    return environment.get_template("aggregation.html.j2").render(
        found=found, plot=recovered_plot(found), recovered=RECOVERED, told_apart=TOLD_APART, figure_of=opening_words
    )


def figure_words(figure: Figure) -> str:
    """`1.6e-04`, `0.985 (area)`: short, for a table of errors."""
    if figure.what == AREA:
        return f"{figure.value:.3f} (area)"
    return f"{figure.value:.3f}" if figure.value >= RECOVERED else f"{figure.value:.1e}"


def opening_words(opening: Opening) -> str:
    """What the attack then comes to, as a sentence."""
    figure = opening.figure
    if figure is None:
        return "How much it then recovers is not measured here."
    value = f"{figure.value:.3g}"
    if figure.works is None:
        return f"{sentence(figure.what)}: {value}."
    return f"{sentence(figure.what)}: {value}, which {'recovers it' if figure.works else 'does not recover it'}."


def sentence(text: str) -> str:
    """With a capital at its beginning, and the others kept."""
    return text[:1].upper() + text[1:]


def recovered_plot(found: Tried) -> Markup:
    """Errors of recovered updates on a logarithmic axis: a row an attack, but for those that recover no update."""
    trials = [trial for trial in found.trials if trial.figure.what != AREA]
    figure, axes = new_axes(1.15 + 0.36 * len(trials))
    for row, trial in enumerate(reversed(trials)):
        _row(axes, row, trial)
    axes.axvspan(LEAST / 10, RECOVERED, color=GRID, zorder=0)
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlim(LEAST, 10)
    axes.set_yticks(range(len(trials)), [plain(trial.name) for trial in reversed(trials)])
    axes.set_ylim(-0.6, len(trials) - 0.4)
    axes.set_xlabel("error as a part of the update's norm (shaded: recovered; dotted: a guess of zeros)")
    legend(axes, [("defence off", OFF, "o"), ("where it is not stopped", OPEN, "D"), ("no attack", CONTROL, "s")])
    return svg(figure)


def _row(axes: "Axes", row: int, trial: Trial) -> None:
    axes.plot([trial.control.value], [row], "s", color=CONTROL, markersize=6)
    axes.plot([trial.figure.value], [row], "o", color=OFF, markersize=9)
    for opening in trial.openings:
        if opening.figure is not None and opening.figure.works is not None:
            axes.plot([opening.figure.value], [row], "D", color=OPEN, markersize=5)
