"""The user as the unit of privacy: which records of a user are used, and one gradient for all (protocol.md §2.6b).

A user's gradient is the mean of its records' gradients. It is added up over physical batches before it is clipped, so
the clipped sum, the noise and the accountant are those of records: one user moves the sum by at most C.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secagg.errors import DataError
from secagg.plan import TrainingSettings
from secagg_client.data import Examples
from secagg_client.optimizer import sample_gradients
from secagg_client.tasks import Row

Drawn = Sequence[Row]
"""What is sampled, clipped and counted as one: a record, or all records of one user. At least one row."""


@dataclass(frozen=True, slots=True)
class Share:
    """A row in a sample: whose it is, by the number of its unit there, and its part of the unit's mean loss."""

    row: Row = field(repr=False)
    unit: int
    part: float

    @property
    def length(self) -> int:
        """That of the row."""
        return self.row.length


def bounded(data: Examples, settings: TrainingSettings) -> Examples:
    """At most `records_per_user` records of each user, as protocol.md §2.6b chooses them; all, for the unit record.

    What is kept of a user depends on that user's records only. Rows stay in order. Applied again, it changes nothing.

    Raises:
        DataError: the unit is the user, and it is not known whose the records are.
    """
    most = settings.records_per_user
    if most is None:
        return data
    hashes, labels = data.record_hashes(), data.labels or (0,) * len(data)

    def rank(row: int) -> tuple[bytes, str, int]:
        return hashes[row], data.texts[row], labels[row]  # rows that are alike in all of it may stand for each other

    kept = sorted(row for own in rows_by_user(data) for row in sorted(own, key=rank)[:most])
    return data if len(kept) == len(data) else data.select(kept)


def rows_by_user(data: Examples) -> list[list[int]]:
    """The rows of each user, users in the order in which they first appear. Raises DataError without users."""
    if len(data.users) != len(data):
        raise DataError(
            f"{data.source}: the session's unit of privacy is the user, and it is not known whose the records are. "
            "Name the column that says it: user_column in [data] of client.toml"
        )
    found = dict[str, list[int]]()
    for row, user in enumerate(data.users):
        found.setdefault(user, []).append(row)
    return list(found.values())


def units_of(rows: Sequence[Row], data: Examples, settings: TrainingSettings) -> list[Drawn]:
    """What a step draws from: each row by itself, or the rows of each user together. `rows` are those of `data`."""
    if settings.unit == "record":
        return [(row,) for row in rows]
    return [[rows[index] for index in own] for own in rows_by_user(data)]


def shares(units: Sequence[Drawn]) -> list[Share]:
    """All rows of some units, each with 1 / (rows of its unit) as its part of the unit's loss."""
    return [Share(row, number, 1 / len(unit)) for number, unit in enumerate(units) for row in unit]


class UserSums:
    """The gradients of `users` users, not clipped yet, while physical batches of their records go by.

    On a processor a user's records are added in the order in which they come, which is by length whoever else is there:
    so the sum's last bits do not depend on the others either.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], users: int) -> None:
        self._parameters = parameters
        self._sums = [parameter.new_zeros((users, *parameter.shape)) for parameter in parameters]

    @torch.no_grad()
    def add(self, owners: Sequence[int]) -> None:
        """Add one physical batch: its row i belongs to user `owners[i]`. Forgets its per-sample gradients.

        Raises:
            TrainingError: a parameter got no per-sample gradient, or those of something else than samples.
        """
        samples: list[Tensor] = sample_gradients(self._parameters, len(owners))
        for parameter, total, sample in zip(self._parameters, self._sums, samples, strict=True):
            total.index_add_(0, torch.tensor(owners, device=total.device), sample)
            parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]

    def hand_over(self) -> None:
        """Leave each user's gradient where the optimiser looks for that of an example."""
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            parameter.grad_sample = total  # type: ignore[attr-defined]
