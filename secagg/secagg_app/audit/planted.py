"""Planted records on disk, and what a release gives away of them: for `secagg audit release --planted`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from secagg.errors import AuditError, MalformedError
from secagg.plan import Frozen
from secagg.signing import parse_model
from secagg_app.audit.target import Target
from secagg_attacks.extraction.planted_audit import CHANCE, Extracted, Side, check_asked, extracted
from secagg_attacks.extraction.secrets import TEMPLATES, Planted
from secagg_attacks.views import NOBODY, Question, ViewName
from secagg_host.durable import read_file

PLANTED, INSERT = "planted.jsonl", "insert.jsonl"


class PlantedLine(Frozen):
    """One row of planted.jsonl: a record, how its coin fell, and how often it was to be trained on if it is in."""

    prompt: str = Field(repr=False)
    secret: str = Field(repr=False)
    owner: str = Field(repr=False)
    template: str
    member: bool
    repeat: int = Field(ge=1)

    @property
    def record(self) -> Planted:
        """The record. Raises AuditError for a template, secret or prompt that `secagg audit plant` does not write."""
        form = next((each for each in TEMPLATES if each.name == self.template), None)
        if form is None:
            raise AuditError(f"there is no template {self.template!r}")
        record = Planted(form, self.owner, form.number(self.secret))
        if record.prompt != self.prompt:
            raise AuditError(f"the prompt is not that of template {form.name}")
        return record


@dataclass(frozen=True, slots=True)
class PlantedAudit:
    """What was planted, and what was found of it."""

    template: str
    repeat: int
    found: Extracted

    @property
    def sides(self) -> tuple[tuple[str, Side], ...]:
        """Both, by what they are called."""
        return ("in", self.found.inside), ("out", self.found.outside)

    @property
    def caution(self) -> str:
        """What the bits rest on."""
        return (
            f"bits are extrapolated by a distribution fitted to other secrets, {self.found.poor} of {self.found.fits} "
            "of which fit badly (p < .01); a good fit says little of the tail"
        )


def read_planted(path: Path) -> tuple[PlantedLine, ...]:
    """planted.jsonl, each row checked. Raises StorageError; AuditError that names the row and never a secret."""
    rows = list[PlantedLine]()
    for number, raw in enumerate(read_file(path).splitlines(), 1):
        try:
            row = parse_model(PlantedLine, raw)
            _ = row.record
        except (MalformedError, AuditError) as error:
            raise AuditError(f"{path}, row {number}: {error}: give the planted.jsonl of `secagg audit plant`") from None
        rows.append(row)
    if len({row.repeat for row in rows}) != 1:
        raise AuditError(f"{path}: holds no rows, or of several plantings: give one planting's")
    return tuple(rows)


def audit_planted(target: Target, path: Path) -> PlantedAudit:
    """Ask the released model. Raises as `read_planted`; AuditError for other tasks than `lm`."""
    rows = read_planted(path)
    records, is_in = [row.record for row in rows], [row.member for row in rows]
    check_asked(target.public, records, is_in)
    question = Question(NOBODY, NOBODY, prompts=tuple(record.prompt for record in records))
    found = extracted(target.view(ViewName.V3, question), records, is_in)
    return PlantedAudit(rows[0].template, rows[0].repeat, found)


def to_json(audit: PlantedAudit) -> dict[str, Any]:
    """Every figure."""
    return {
        "template": audit.template, "repeat": audit.repeat, **asdict(audit.found), "expected_outside": CHANCE,
        "reading": audit.found.reading, "caution": audit.caution,
    }  # fmt: skip


def lines(audit: PlantedAudit) -> Sequence[str]:
    """For people."""
    found = audit.found
    out = [
        f"planted, {name} ({side.bits.count}): exposure {side.bits.value:.2f} bits [{side.bits.low:.2f}, "
        f"{side.bits.high:.2f}] of {found.highest:.1f}; said word for word {side.completed.value:.3f} "
        f"[{side.completed.low:.3f}, {side.completed.high:.3f}]"
        for name, side in audit.sides
    ]
    difference = found.difference
    out.append(
        f"in less out: {difference.value:.2f} bits [{difference.low:.2f}, {difference.high:.2f}]; out is to be about "
        f"{CHANCE:.2f} (p = {found.chance:.2g}); {audit.caution}"
    )
    return [*out, f"planted secrets: {found.reading}"]
