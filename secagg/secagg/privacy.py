"""What a client says of its own differential privacy (protocol.md §7.1)."""

from typing import Literal

from pydantic import Field

from secagg.plan import Frozen


class PrivacyStatement(Frozen):
    """The guarantee of one client's contribution. No sampling rate and no count: they give the data's size away.

    `epsilon` None says plainly that there is none (an experiment without differential privacy).
    `noise` is `secure` (operating-system randomness) or `seeded` (reproducible, for experiments only).
    """

    unit: Literal["record"] = "record"
    adjacency: Literal["add-or-remove-one"] = "add-or-remove-one"
    epsilon: float | None = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    sampler: Literal["poisson"] = "poisson"
    accountant: str = Field(min_length=1, max_length=100)
    noise: Literal["secure", "seeded"]
