"""`secagg audit release --other`: what several releases show together, from their certificates alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secagg_attacks.aggregation.certified import Certified, cohorts_of
from secagg_attacks.aggregation.cohorts import Overlap, overlap

STILL = (
    "Differential privacy still covers each record of every member; over releases that were trained on the same "
    "records the epsilons add up. What does not hold for who is isolated is that nobody sees a single contribution: "
    "the combination is that client's update, with the noise that is stated here."
)


@dataclass(frozen=True, slots=True)
class Together:
    """Releases that were looked at together, numbered from 1 in the order of `folders`."""

    base_model: str
    folders: tuple[Path, ...]
    overlap: Overlap
    notes: tuple[str, ...]


def together(folders: Sequence[Path]) -> Together:
    """Read the certificates in `folders` and look for isolated clients. No model, no adapter and no sum is read.

    Raises AuditError for releases that cannot be combined, and as `Certified.read`.
    """
    releases = [Certified.read(folder) for folder in folders]
    cohorts, notes = cohorts_of(releases)
    return Together(releases[0].plan.base_model, tuple(folders), overlap(cohorts), notes)


def to_json(found: Together) -> dict[str, Any]:
    """Every release, every two, and what is isolated by which."""
    seen = found.overlap
    return {
        "reading": seen.reading,
        "releases": [
            {"number": number, "folder": str(folder), "n_min": cohort.n_min, "members": sorted(cohort.members)}
            for number, (folder, cohort) in enumerate(zip(found.folders, seen.cohorts, strict=True), 1)
        ],
        "pairs": [asdict(each) for each in seen.pairs],
        "isolated": [{**asdict(each), "who": each.who, "alone": each.alone} for each in seen.found],
        "n_min": seen.below, "groups_up_to": seen.tried, "notes": list(found.notes),
    }  # fmt: skip


def lines(found: Together) -> list[str]:
    """For people."""
    seen = found.overlap
    out = [f"{each.who}: by {each.by}, with {each.noise:.2f} times its own noise" for each in seen.found]
    return [*out, *(f"note: {note}" for note in found.notes), seen.reading, *([STILL] if seen.found else [])]
