"""Attacks that ask the updates: does a change point where the example's gradient would have it?"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import stats

from secagg.adapter import unflatten
from secagg.errors import AuditError
from secagg.plan import Plan
from secagg_attacks.attack import Attack, MembershipGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.membership.models import asked_probe, standardised
from secagg_attacks.views import Message, Vector, View, ViewName


def by_round(view: View) -> dict[int, list[Message]]:
    """The messages of each round, in the order of their senders."""
    found = defaultdict[int, list[Message]](list)
    for message in view.messages():
        found[message.number].append(message)
    return found


def cosines(view: View) -> list[Floats]:
    """For each round the cosine of -change and each candidate's gradient at its start, [messages, candidates]."""
    probe, found = asked_probe(view), list[Floats]()
    for messages in by_round(view).values():
        changes = np.stack([message.change for message in messages])
        dots, norms = probe.products(messages[0].start, changes)
        lengths = np.linalg.norm(changes.astype(np.float64), axis=1)
        found.append(-dots.T / np.maximum(lengths[:, None] * norms[None, :], 1e-30))
    return found


def falls(view: View) -> list[Floats]:
    """For each round the fall of each candidate's loss from its start to start + change, [messages, candidates]."""
    probe, plan = asked_probe(view), view.public.plan
    found = list[Floats]()
    for messages in by_round(view).values():
        before = probe.losses(messages[0].start)
        after = [probe.losses(moved(plan, message)) for message in messages]
        found.append(np.stack([before - losses for losses in after]))
    return found


def moved(plan: Plan, message: Message) -> dict[str, Vector]:
    """The adapter that a message leads to: a client's own model, under V1."""
    changes = unflatten(plan, message.change)
    return {name: values + changes[name] if name in changes else values for name, values in message.start.items()}


def of_asked(view: View, values: Floats) -> Floats:
    """From [messages, candidates] the message of the client that a candidate is asked of; the largest, if unknown."""
    owners = view.asked().owners
    if len(values) == 1 or not owners:
        return np.asarray(values.max(axis=0))
    return np.asarray(values[np.asarray(owners), np.arange(values.shape[1])])


@dataclass(frozen=True)
class UpdateCosine(Attack):
    """The cosine of an example's gradient and a change, standardised in each round and averaged over rounds."""

    name: ClassVar[str] = "update-cosine"
    summary: ClassVar[str] = "the cosine of the example's gradient and the change, over all rounds"
    source: ClassVar[str] = "Li, Rezaei & Liu 2023, arXiv 2212.04783"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate."""
        return MembershipGuess(standardised(np.stack([of_asked(view, each) for each in cosines(view)])).mean(axis=0))


@dataclass(frozen=True)
class UpdateLoss(Attack):
    """The fall of the loss to the model that a change leads to, standardised in each round and averaged over rounds.

    Under V1 that is the client's own model, which fits its own records more closely than any mean does.
    """

    name: ClassVar[str] = "update-loss"
    summary: ClassVar[str] = "the fall of the loss to the model that the change leads to, over all rounds"
    source: ClassVar[str] = "Nasr et al. 2019, arXiv 1812.00910"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate."""
        return MembershipGuess(standardised(np.stack([of_asked(view, each) for each in falls(view)])).mean(axis=0))


@dataclass(frozen=True)
class FedMia(Attack):
    """How far a client's change is above the other clients' on the same example: they are the non-members.

    One-tailed: the normal probability of the others' figures below the client's, averaged over rounds. Undefined where
    changes are summed: there are no others.
    """

    signal: Literal["cosine", "loss"]
    source: ClassVar[str] = "Zhu et al. 2025, arXiv 2402.06289"
    views: ClassVar[frozenset[ViewName]] = frozenset({ViewName.V1})

    @property
    def name(self) -> str:  # type: ignore[override]
        """By signal."""
        return f"fedmia-{self.signal}"

    @property
    def summary(self) -> str:  # type: ignore[override]
        """What it compares."""
        return f"one client's {self.signal} against the other clients', over all rounds"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate. Raises AuditError for fewer than three clients."""
        rounds = cosines(view) if self.signal == "cosine" else falls(view)
        if len(rounds[0]) < 3:
            raise AuditError(f"{self.name} needs three clients: one, and two others to compare it with")
        return MembershipGuess(np.stack([of_asked(view, _tails(each)) for each in rounds]).mean(axis=0))


def _tails(values: Floats) -> Floats:
    """For each sender the probability of the others below it, [senders, candidates]; one deviation for a sender."""
    count = len(values)
    rest = (values.sum(axis=0) - values) / (count - 1)
    squares = np.stack([np.delete(values, sender, axis=0).var(axis=0, ddof=1) for sender in range(count)])
    pooled = np.sqrt(squares.mean(axis=1, keepdims=True))  # of few clients: over all examples
    found: Floats = stats.norm.cdf((values - rest) / np.maximum(pooled, 1e-12))
    return found


ATTACKS = (UpdateCosine(), UpdateLoss(), FedMia("cosine"), FedMia("loss"))
