"""What each adversary sees of a federation, and nothing else: the truth is with the scorers.

V1 the plain update of each client, which no deployed command can write: only the simulator records it. V2 the sum of
each round, as the coordinator has it. V3 the final model. V4 a client that took part: every sum, less its own part.
All know what is public: the plan, the base model, how many clients there are and what sizes they declare.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secagg.adapter import flatten, start_tensors
from secagg.encodings.registry import encoding_of
from secagg.errors import AuditError
from secagg.plan import Plan
from secagg_client.data import Examples
from secagg_client.models import LoadedBase

Vector = NDArray[np.float32]
Tensors = Mapping[str, Vector]
Bools = NDArray[np.bool_]


class ViewName(StrEnum):
    """Short names, for commands and files."""

    V1 = "v1"
    V2 = "v2"
    V3 = "v3"
    V4 = "v4"


TITLES = {
    ViewName.V1: "every client's plain update (simulated: no deployed run has it)",
    ViewName.V2: "the secure sum of each round",
    ViewName.V3: "the final model only",
    ViewName.V4: "a client that took part: every sum, less its own part",
}


def check_is_change(plan: Plan) -> None:
    """Raise AuditError unless a release of this plan, less its start, is a change of what clients train.

    The same encodings let a further round go on from their release (protocol.md §2.7): it holds every trained tensor.
    """
    if not encoding_of(plan).resumes:
        raise AuditError(
            f"method {plan.method} releases another adapter than clients train, so its sums are no change of theirs "
            "(v2): ask what attacks make of the released model (v3)"
        )


@dataclass(frozen=True, slots=True)
class Public:
    """What everybody knows of a run. `plan` is that of the first round, `size` what each client declares."""

    plan: Plan = field(repr=False)
    base: LoadedBase = field(repr=False)
    clients: int
    size: int
    rounds: int

    def start(self) -> dict[str, Vector]:
        """The adapter before the first round, by PEFT key."""
        return start_tensors(self.plan)


@dataclass(frozen=True, slots=True)
class Message:
    """A change that the adversary sees: `change` [plan.length] from `start`, the mean over `senders` clients.

    `sender` is the client's number where it is known; `number` is the round, from 0, or -1 for all rounds together.
    """

    number: int
    sender: int | None
    senders: int
    start: Tensors = field(repr=False)
    change: Vector = field(repr=False)


NOBODY = Examples("nobody", ())
"""For questions that have no candidates, or no population."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A federation of the adversary's own, of the target's kind, and which candidates were in it, [candidates]."""

    view: "View" = field(repr=False)
    is_in: Bools = field(repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What a membership attack is asked: which of `candidates` were trained on.

    `population` holds other examples, on which nobody trained. `owners` says of which client each candidate is asked,
    where that is known: whose record it is if it was trained on. Either may be empty, and `shadows` too. `prompts` are
    what a model is to complete, for attacks on what it says.
    """

    candidates: Examples
    population: Examples
    owners: tuple[int, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    prompts: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class View(ABC):
    """Base of all views. `messages` are the changes that are seen, `models` the adapters, in order of time."""

    name: ClassVar[ViewName]
    public: Public
    question: Question | None

    @abstractmethod
    def messages(self) -> tuple[Message, ...]:
        """Every change that this adversary sees."""

    @abstractmethod
    def models(self) -> tuple[Tensors, ...]:
        """Every adapter that this adversary sees, from the start to the released one."""

    def asked(self) -> Question:
        """The question. Raises AuditError when there is none."""
        if self.question is None:
            raise AuditError("this view comes with no candidates: a membership attack needs examples to tell apart")
        return self.question


@dataclass(frozen=True, slots=True)
class ClientRound:
    """A round of V1: each client's change, [clients, plan.length]."""

    start: Tensors = field(repr=False)
    changes: Vector = field(repr=False)


@dataclass(frozen=True, slots=True)
class SumRound:
    """A round as its participants' sum shows it: the mean change, [plan.length], over `senders`."""

    start: Tensors = field(repr=False)
    mean: Vector = field(repr=False)
    senders: int


@dataclass(frozen=True, slots=True)
class ClientUpdates(View):
    """V1."""

    name = ViewName.V1
    rounds: tuple[ClientRound, ...]
    final: Tensors = field(repr=False)

    def messages(self) -> tuple[Message, ...]:
        """One for each client and round."""
        return tuple(
            Message(number, sender, 1, each.start, change)
            for number, each in enumerate(self.rounds)
            for sender, change in enumerate(each.changes)
        )

    def models(self) -> tuple[Tensors, ...]:
        """Where each round started, and the release."""
        return _models(self.rounds, self.final)


@dataclass(frozen=True, slots=True)
class SecureSums(View):
    """V2."""

    name = ViewName.V2
    rounds: tuple[SumRound, ...]
    final: Tensors = field(repr=False)

    def messages(self) -> tuple[Message, ...]:
        """One for each round."""
        return tuple(
            Message(number, None, each.senders, each.start, each.mean) for number, each in enumerate(self.rounds)
        )

    def models(self) -> tuple[Tensors, ...]:
        """Where each round started, and the release."""
        return _models(self.rounds, self.final)


@dataclass(frozen=True, slots=True)
class FinalModel(View):
    """V3."""

    name = ViewName.V3
    final: Tensors = field(repr=False)

    def messages(self) -> tuple[Message, ...]:
        """The whole run as one change. Raises AuditError where the release is no change of what clients train."""
        check_is_change(self.public.plan)
        start = self.public.start()
        change = flatten(self.public.plan, dict(self.final)) - flatten(self.public.plan, start)
        return (Message(-1, None, self.public.clients, start, change),)

    def models(self) -> tuple[Tensors, ...]:
        """The start, which is public, and the release."""
        return (self.public.start(), self.final)


@dataclass(frozen=True, slots=True)
class Participant(View):
    """V4: `own` is what client number `client` sent, [rounds, plan.length]."""

    name = ViewName.V4
    rounds: tuple[SumRound, ...]
    final: Tensors = field(repr=False)
    client: int
    own: Vector = field(repr=False)

    def messages(self) -> tuple[Message, ...]:
        """The mean of the other clients, one for each round."""
        return tuple(
            Message(number, None, each.senders - 1, each.start, _without(each, own))
            for number, (each, own) in enumerate(zip(self.rounds, self.own, strict=True))
        )

    def models(self) -> tuple[Tensors, ...]:
        """Where each round started, and the release."""
        return _models(self.rounds, self.final)


def _models(rounds: "Sequence[ClientRound | SumRound]", final: Tensors) -> tuple[Tensors, ...]:
    return (*(each.start for each in rounds), final)


def _without(each: SumRound, own: Vector) -> Vector:
    if each.senders < 2:
        raise AuditError("a sum of one client has no other clients in it")
    rest: Vector = (each.senders * each.mean - own) / np.float32(each.senders - 1)
    return rest
