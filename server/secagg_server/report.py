"""report.html: one self-contained page about a release, for people who answer for data.

It shows what the certificate holds, and no figure that no accountant has seen (protocol.md §10).
"""

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from secagg.boxes import box_bytes
from secagg.descriptor import Descriptor
from secagg.release import ReleaseCertificate, TimelineEvent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CKKS_BYTES_PER_PARAMETER = 57.0
"""TenSEAL CKKS with N = 8192 and [60, 40, 60], as `secagg bench protocols` measures it."""

_ACCENT, _MUTED = "#1f5f8b", "#b8c4cc"


@dataclass(frozen=True, slots=True)
class ClientBytes:
    """What one client sent, and what the same vector costs otherwise, in bytes."""

    ciphertext: int
    boxes: int
    plain: int
    ckks: int

    @property
    def sent(self) -> int:
        """Ciphertext and boxes."""
        return self.ciphertext + self.boxes

    @classmethod
    def of(cls, descriptor: Descriptor) -> "ClientBytes":
        """From the session's parameters: every client sends the same amount."""
        parameters, length = descriptor.parameters, descriptor.plan.length
        return cls(
            ciphertext=parameters.ciphertext_bytes,
            boxes=len(descriptor.committee) * box_bytes(parameters.share_bytes),
            plain=4 * length,
            ckks=round(CKKS_BYTES_PER_PARAMETER * length),
        )


def render(certificate: ReleaseCertificate) -> bytes:
    """The page, from nothing but the certificate's content. The same content gives the same bytes."""
    descriptor = certificate.session.descriptor.statement
    chosen = {member.client for member in certificate.final.statement.members}
    uploads = [upload.statement for upload in certificate.uploads if upload.statement.client in chosen]
    environment = Environment(
        loader=PackageLoader("secagg_server"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["clock"] = _clock
    sizes = ClientBytes.of(descriptor)
    page = environment.get_template("report.html.j2").render(
        certificate=certificate,
        descriptor=descriptor,
        members=[(descriptor.client(upload.client), upload.privacy) for upload in uploads],
        sizes=sizes,
        bytes_plot=_svg(_bytes_figure(sizes)),
        timeline_plot=_svg(_timeline_figure(certificate.timeline)),
    )
    return page.encode()


def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, height), layout="constrained")


def _svg(figure: "Figure") -> Markup:
    """The figure as an SVG element, without dates or random names."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "secagg", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 (matplotlib escapes its text)


def _bytes_figure(sizes: ClientBytes) -> "Figure":
    figure = _figure(1.9)
    axes = figure.subplots()
    rows = (("CKKS (TenSEAL)", sizes.ckks), ("plain float32", sizes.plain), ("sealed, as sent", sizes.sent))
    values = [value / 1e6 for _, value in rows]
    bars = axes.barh([name for name, _ in rows], values, color=[_MUTED, _MUTED, _ACCENT], height=0.6)
    axes.bar_label(bars, fmt="%.3g MB", padding=4)
    axes.set_xlim(0, max(values) * 1.2)
    axes.set_xlabel("megabytes that one client sends")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _timeline_figure(timeline: tuple[TimelineEvent, ...]) -> "Figure":
    parties = list(dict.fromkeys(event.party for event in timeline))
    figure = _figure(0.8 + 0.28 * len(parties))
    axes = figure.subplots()
    start = timeline[0].at
    rows = {party: len(parties) - index for index, party in enumerate(parties)}
    seconds = [event.at - start for event in timeline]
    axes.scatter(seconds, [rows[event.party] for event in timeline], color=_ACCENT, s=22)
    axes.set_yticks(list(rows.values()), [party.replace("$", r"\$") for party in rows])
    axes.set_ylim(0.4, len(parties) + 0.6)
    axes.set_xlabel("seconds after the first event")
    axes.grid(axis="y", color="#e3e8eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
