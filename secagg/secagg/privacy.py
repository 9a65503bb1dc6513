"""What a client says of its own differential privacy (protocol.md §7.1)."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from secagg.client_noise.statement import ClientStatement
from secagg.plan import Frozen, RecordsPerUser, TrainingSettings, Unit, check_unit


class PrivacyStatement(Frozen):
    """The guarantee of one client's contribution. No sampling rate and no count: they give the data's size away.

    `epsilon` None says plainly that there is none (an experiment without differential privacy).
    `noise` is `secure` (operating-system randomness) or `seeded` (reproducible, for experiments only). What is added or
    removed is one `unit`, within one institution: a record, or a user, of whom `records_per_user` records are used.
    `client_level` is said beside it where the session adds noise for whole clients (protocol.md §14).
    """

    unit: Unit = "record"
    records_per_user: RecordsPerUser = None
    adjacency: Literal["add-or-remove-one"] = "add-or-remove-one"
    epsilon: float | None = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    sampler: Literal["poisson"] = "poisson"
    accountant: str = Field(min_length=1, max_length=100)
    noise: Literal["secure", "seeded"]
    client_level: ClientStatement | None = Field(default=None, exclude_if=lambda level: level is None)

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


def guarantee_in_words(statements: Sequence[PrivacyStatement], rounds: int) -> str:
    """What sums of these contributions guarantee over all rounds, by the weakest of their statements (one or more)."""
    if any(statement.epsilon is None for statement in statements):
        return "NO differential privacy: at least one member trained without it. An experiment, not for private data."
    epsilon = max(statement.epsilon or 0.0 for statement in statements)
    delta = max(statement.delta for statement in statements)
    seeded = any(statement.noise == "seeded" for statement in statements)
    unit, most = statements[0].unit, statements[0].records_per_user  # the same for all: `sets.check_upload`
    subject = "one record of a member" if unit == "record" else "one user of a member, with all records there,"
    text = (
        f"Adding or removing {subject} changes the probability of any release by at most a factor "
        f"exp({epsilon:.4g}), but for probability {delta:.3g} ({unit}-level differential privacy, Poisson sampling). "
        f"Others' noise is not credited."
    )
    if unit == "user":
        text += (
            f" Of a user at most {most} record{'' if most == 1 else 's'} were used. "
            "Somebody with data at several members is a user at each: the epsilons add up."
        )
    if rounds > 1:
        text += f" That holds for the releases of all {rounds} rounds together."
    if seeded:
        text += " The noise came from a seeded generator: reproducible, for experiments only; no protection."
    return text
