"""What stands in a ledger, and what an institution allows (protocol.md §4.5). Values only: no files, no accountant."""

from typing import Literal, Self

from pydantic import Field, model_validator

from secagg.messages import MAX_RELEASES
from secagg.plan import Frozen, Hash, Unit

Kind = Literal["begun", "sealed", "abandoned"]


class LedgerLimits(Frozen):
    """What the institution allows on one and the same data, over all sessions. Part of the client's policy.

    `count_attempts` also charges attempts whose result never left: for an institution where somebody who watches a
    training run might stop it and start it again for what it showed.

    `total_client_epsilon` bounds what the institution as a whole spends, over all sessions and whatever their data, at
    the same delta; with it, sessions without client-level noise are refused. Without it nothing of that is bounded.
    """

    total_epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    allow_repeated: bool = False
    count_attempts: bool = False
    total_client_epsilon: float | None = Field(gt=0, default=None, exclude_if=lambda total: total is None)


class MechanismRecord(Frozen):
    """DP-SGD as the accountant needs it again later: Poisson rate, noise multiplier, steps."""

    rate: float = Field(gt=0, le=1)
    sigma: float = Field(gt=0)
    steps: int = Field(ge=1)


class ClientLevelRecord(Frozen):
    """What one release with a vector of this institution in it spends, with the whole institution as unit (§4.5f).

    `rho` is its zero-concentrated differential privacy; `failure` bounds how likely what was sent differs from the
    mechanism that has it. Another mechanism, unit or adjacency is no such record: it could not be added up.
    """

    mechanism: Literal["distributed-discrete-gaussian"] = "distributed-discrete-gaussian"
    unit: Literal["client"] = "client"
    adjacency: Literal["zero-out-one"] = "zero-out-one"
    rho: float = Field(gt=0, allow_inf_nan=False)
    failure: float = Field(ge=0, lt=1)


class LedgerEntry(Frozen):
    """One line. `begun`: a run is about to start. `sealed`: its result is about to leave. `abandoned`: it never will.

    A run is one round of one session. `attempt` counts its starts, each of which draws new noise. The sealed line
    names by `upload_root` the one result that may leave, so what an earlier attempt drew never does, and the attempts
    of a run count once. `records` of the data are in a file named by `data`, their keyed fingerprint; so are its users,
    where `users` says that they were known. `unit` is what epsilon is for. `client_level` stands beside it where the
    session adds noise for whole clients; lines of other sessions, and those from before it was written, have none.
    `releases` is how many the session may have (protocol.md §8.7), left out where it is one and in lines from before it
    was written; what is charged does not depend on it, as a run's vector is in one of them at most.
    """

    number: int = Field(ge=0)
    kind: Kind
    time: int
    session: Hash
    round_number: int = Field(ge=0)
    attempt: int = Field(ge=1)
    name: str
    data: Hash
    mechanism: MechanismRecord
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    noise: Literal["secure", "seeded"]
    unit: Unit = Field(default="record", exclude_if=lambda unit: unit == "record")
    users: bool = Field(default=False, exclude_if=lambda known: not known)
    client_level: ClientLevelRecord | None = Field(default=None, exclude_if=lambda level: level is None)
    releases: int = Field(ge=1, le=MAX_RELEASES, default=1, exclude_if=lambda most: most == 1)
    upload_root: Hash | None = None
    previous: Hash
    mac: Hash

    @property
    def run(self) -> tuple[str, int]:
        """Session and round."""
        return self.session, self.round_number

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "sealed") != (self.upload_root is not None):
            raise ValueError("a sealed line, and no other, names what left")
        return self
