"""report.html: one self-contained page about a release, for people who answer for data.

It shows what the certificate holds, and no figure that no accountant has seen (protocol.md §10).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from secagg.certificate import Certificate, ReleaseCertificate
from secagg.descriptor import Descriptor
from secagg.evidence import box_bytes
from secagg.identity import Identity
from secagg.privacy import PrivacyStatement
from secagg.releases import members_so_far, number_in_words
from secagg_server import plots
from secagg_server.pages import templates

CKKS_SLOTS, CKKS_CIPHERTEXT_BYTES = 4096, 235_100
"""TenSEAL 0.3 CKKS, N = 8192, moduli [60, 40, 60]: one serialised ciphertext, which holds 4096 numbers."""


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
        parameters = descriptor.parameters
        return cls(
            ciphertext=parameters.ciphertext_bytes,
            boxes=len(descriptor.committee) * box_bytes(parameters.share_bytes),
            plain=4 * parameters.length,
            ckks=math.ceil(parameters.length / CKKS_SLOTS) * CKKS_CIPHERTEXT_BYTES,
        )

    @property
    def rows(self) -> tuple[tuple[str, int, bool], ...]:
        """For the plot."""
        return (
            ("sealed, as sent", self.sent, True),
            ("plain float32 (no protection)", self.plain, False),
            ("CKKS (TenSEAL, N=8192)", self.ckks, False),
        )


@dataclass(frozen=True, slots=True)
class Guess:
    """What a guarantee excludes, in words that need no mathematics.

    `best` is the largest chance, in percent, of being right about whether a record (or a user's records) was
    used, for whoever starts from even odds: (1 + (e^eps - 1 + 2 delta) / (e^eps + 1)) / 2 (Kairouz, Oh & Viswanath
    2015).
    """

    epsilon: float
    delta: float

    @property
    def best(self) -> str:
        """`52.5`, and for large epsilon as many digits as tell it from certainty."""
        ratio = math.exp(min(self.epsilon, 700.0))
        missing = 50.0 * (2.0 - 2.0 * self.delta) / (ratio + 1.0)
        digits = max(1, -math.floor(math.log10(missing))) if missing > 0 else 1
        return f"{100.0 - missing:.{min(digits, 6)}f}"

    @property
    def strength(self) -> str:
        """A word for the size of epsilon."""
        if self.epsilon <= 1:
            return "strong"
        return "moderate" if self.epsilon <= 4 else "weak"

    @property
    def one_in(self) -> str:
        """1/delta, rounded, with thousands separated."""
        return f"{round(1 / self.delta):,}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the final set."""

    identity: Identity
    privacy: PrivacyStatement
    weight: float


def render(certificate: ReleaseCertificate) -> bytes:
    """The page, from nothing but the certificate's content. The same content gives the same bytes."""
    descriptor = certificate.session.descriptor.statement
    chosen = set(certificate.members)
    uploads = [upload.statement for upload in certificate.uploads if upload.statement.client in chosen]
    sizes = ClientBytes.of(descriptor)
    members = [Member(descriptor.client(one.client), one.privacy, descriptor.weights[one.client]) for one in uploads]
    return render_page(
        "report.html.j2",
        certificate,
        members,
        descriptor=descriptor,
        sizes=sizes,
        progress=_progress(certificate, descriptor),
        shown_by=len(certificate.share_sums),
        bytes_plot=plots.bytes_plot(sizes.rows),
    )


@dataclass(frozen=True, slots=True)
class ArrivalLine:
    """Who came when, in seconds since 1970."""

    title: str
    at: int


@dataclass(frozen=True, slots=True)
class ReleaseLine:
    """Which of several releases this is (protocol.md §8.7): members of all so far, and how many releases before."""

    title: str
    total: int
    before: int
    arrivals: tuple[ArrivalLine, ...]


def _progress(certificate: ReleaseCertificate, descriptor: Descriptor) -> ReleaseLine | None:
    progress = certificate.progress
    if progress is None:
        return None
    return ReleaseLine(
        title=number_in_words(descriptor, progress.number).capitalize(),
        total=len(members_so_far(progress, certificate.final.statement)),
        before=len(progress.earlier),
        arrivals=tuple(ArrivalLine(descriptor.client(one.client).title, one.received_at) for one in progress.arrivals),
    )


def render_page(template: str, certificate: Certificate, members: Sequence[Member], **more: object) -> bytes:
    """A release's page of whichever protocol: what is common to all, and what its template needs beside it."""
    environment = templates()
    environment.filters["moment"] = _moment
    environment.filters["clock"] = _clock
    environment.filters["figure"] = plots.figure_text
    environment.filters["count"] = lambda value: f"{value:,}"
    page = environment.get_template(template).render(
        certificate=certificate,
        members=sorted(members, key=lambda member: member.identity.title),
        guess=_weakest([member.privacy for member in members]),
        seeded=any(member.privacy.noise == "seeded" for member in members),
        timeline_plot=plots.timeline_plot(certificate.timeline) if certificate.timeline else Markup(),
        quality_plot=plots.quality_plot(certificate.evaluation) if certificate.evaluation else Markup(),
        **{"progress": None, **more},
    )
    return page.encode()


def _weakest(statements: Sequence[PrivacyStatement]) -> Guess | None:
    """The members' weakest guarantee; None when one of them has none."""
    epsilons = [statement.epsilon for statement in statements]
    known = [epsilon for epsilon in epsilons if epsilon is not None]
    if not known or len(known) < len(epsilons):
        return None
    return Guess(max(known), max(statement.delta for statement in statements))


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")
