"""Accomplices: k of n clients show the server their own updates, and the sum less these is the sum of the others.

No protocol can prevent it: what is asked for is the sum, and its members know their parts. n_min, from each party's own
policy, says how many others must be left: at least the assumed corrupt clients + 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats
from secagg_attacks.views import Vector


@dataclass(frozen=True, slots=True)
class Remainder:
    """The sum of the updates of `others` clients, [values]. Of one client it is the update itself."""

    others: int
    total: Floats = field(repr=False)

    @property
    def mean(self) -> Floats:
        """The mean update of the others, [values]."""
        return self.total / self.others


def colluding(mean: Vector, members: int, own: Sequence[Vector]) -> Remainder:
    """What is left of the released `mean` [values] over `members` clients, less what the accomplices sent.

    Exact but for rounding when encoded: each client's values were rounded to a step of the quantiser.
    Raises AuditError unless at least one honest client is left, and at least one accomplice has spoken.
    """
    others = members - len(own)
    if not own or others < 1:
        raise AuditError(f"{len(own)} accomplices of {members} clients: there must be one at least, and somebody else")
    if any(each.shape != mean.shape for each in own):
        raise AuditError("an accomplice's update is of another length than the sum")
    known = np.sum([each.astype(np.float64) for each in own], axis=0)
    return Remainder(others, members * mean.astype(np.float64) - known)
