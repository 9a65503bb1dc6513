"""What a client says of its own differential privacy (protocol.md §7.1)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from secagg.plan import Frozen, RecordsPerUser, TrainingSettings, Unit, check_unit


class PrivacyStatement(Frozen):
    """The guarantee of one client's contribution. No sampling rate and no count: they give the data's size away.

    `epsilon` None says plainly that there is none (an experiment without differential privacy).
    `noise` is `secure` (operating-system randomness) or `seeded` (reproducible, for experiments only). What is added or
    removed is one `unit`, within one institution: a record, or a user, of whom `records_per_user` records are used.
    """

    unit: Unit = "record"
    records_per_user: RecordsPerUser = None
    adjacency: Literal["add-or-remove-one"] = "add-or-remove-one"
    epsilon: float | None = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    sampler: Literal["poisson"] = "poisson"
    accountant: str = Field(min_length=1, max_length=100)
    noise: Literal["secure", "seeded"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unit(self.unit, self.records_per_user)
        return self


def stated(settings: TrainingSettings, accountant: str) -> PrivacyStatement:
    """What is said of a run under a plan. The plan's epsilon, not the slightly smaller one spent: it tells the rate."""
    return PrivacyStatement(
        unit=settings.unit,
        records_per_user=settings.records_per_user,
        epsilon=settings.epsilon,
        delta=settings.delta,
        accountant=accountant,
        noise=settings.noise,
    )


def unit_in_words(unit: Unit, records_per_user: int | None) -> str:
    """`record`, or `user, at most 5 records of each`."""
    if unit == "record":
        return unit
    return f"user, at most {records_per_user} record{'' if records_per_user == 1 else 's'} of each"
