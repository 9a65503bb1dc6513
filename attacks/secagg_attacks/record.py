"""A federation in memory of which everything is recorded, and the views that each adversary has of it.

Plain updates are in here: only this simulation has them, and it keeps them in memory.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from secagg.adapter import start_tensors
from secagg.encodings.registry import encoding_of
from secagg.errors import AuditError
from secagg.plan import Plan
from secagg_attacks.views import (
    ClientRound,
    ClientUpdates,
    FinalModel,
    Participant,
    Public,
    Question,
    SecureSums,
    SumRound,
    Tensors,
    Vector,
    View,
    ViewName,
    check_is_change,
)
from secagg_client.data import Examples
from secagg_client.in_memory import RepeatableRandomness, encoded_mean, federated, sealed_mean
from secagg_client.noise import NoiseSource, SeededSource
from secagg_client.prefix import training_task
from secagg_client.training import TrainOptions, execute, prepare_run

PHYSICAL_BATCH = 64
"""Fixed: kernels round differently in batches of another size, and runs must repeat."""


@dataclass(frozen=True, slots=True)
class Record:
    """All that happened in a run. `rounds` has every client's plain change: never written to a disk."""

    public: Public
    rounds: tuple[ClientRound, ...] = field(repr=False)
    means: tuple[Vector, ...] = field(repr=False)
    final: Tensors = field(repr=False)

    def sums(self) -> tuple[SumRound, ...]:
        """What the coordinator has of each round. Raises AuditError where the sums are no change of the clients'."""
        plan, clients = self.public.plan, self.public.clients
        check_is_change(plan)
        return tuple(
            SumRound(each.start, encoding_of(plan).mean_update(plan, mean, clients), clients)
            for each, mean in zip(self.rounds, self.means, strict=True)
        )

    def sent(self, client: int) -> Vector:
        """What is in the sums of one client's changes, [rounds, plan.length]. Raises AuditError where that is drawn."""
        plan, encoding = self.public.plan, encoding_of(self.public.plan)
        vectors = [encoding.encode(plan, each.changes[client], self._undrawn) for each in self.rounds]
        return np.stack([encoding.mean_update(plan, vector, 1) for vector in vectors])

    def _undrawn(self, _size: int, /) -> bytes:
        raise AuditError(
            f"{self.public.plan.method} draws what a client sends of its changes, and a record does not keep that: "
            "v4 cannot be had of it"
        )

    def view(self, name: ViewName, question: Question | None = None, client: int = 0) -> View:
        """What an adversary sees; `client` is who looks, under V4."""
        match name:
            case ViewName.V1:
                return ClientUpdates(self.public, question, self.rounds, self.final)
            case ViewName.V2:
                return SecureSums(self.public, question, self.sums(), self.final)
            case ViewName.V3:
                return FinalModel(self.public, question, self.final)
            case ViewName.V4:
                return Participant(self.public, question, self.sums(), self.final, client, self.sent(client))


@dataclass(frozen=True, slots=True)
class ClientNoise:
    """Each client's change is cut to L2 norm `clip` and gets its share of the noise on their sum.

    The sum of all clients has noise of deviation `sigma` * `clip` a value, so that a whole client, not a record, is
    what it hides (McMahan et al. 2018, arXiv 1710.06963); a share alone hides less. For experiments: no deployed client
    has it. Raises AuditError for figures that are not above 0.
    """

    clip: float
    sigma: float

    def __post_init__(self) -> None:
        if not (self.clip > 0 and self.sigma > 0):
            raise AuditError(f"noise of clients needs a clip and a sigma above 0, not {self.clip} and {self.sigma}")

    def applied(self, change: Vector, clients: int, rng: np.random.Generator) -> Vector:
        """A change as its client would send it, [plan.length]."""
        norm = float(np.linalg.norm(change.astype(np.float64)))
        cut = change * min(1.0, self.clip / max(norm, 1e-30))
        share = self.sigma * self.clip / math.sqrt(clients)
        noisy: Vector = (cut + rng.normal(0.0, share, len(change))).astype(np.float32)
        return noisy


def client_source(seed: int, client: int) -> SeededSource:
    """Sampling and noise of one client in a simulated run."""
    return SeededSource(seed * 1_000_003 + client)


def recorded(
    public: Public,
    data: Sequence[Examples],
    seed: int,
    source_of: Callable[[int], NoiseSource] | None = None,
    client_noise: ClientNoise | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Record:
    """Run a federation, each client on its own examples, and keep everything.

    With differential privacy the sums come from the `sealed` protocol; without, from the encoded mean, since no policy
    lets such a change be sealed. `source_of` a client's number gives its sampling and noise: by `seed` otherwise, and
    the same for any number of rounds. `client_noise` is put on each change before it is summed.
    Raises what training and the protocol raise.
    """
    plan, device = public.plan, TrainOptions().torch_device()
    task = training_task(plan, public.base, device)
    source_of = source_of or (lambda client: client_source(seed, client))
    options = TrainOptions(allow_no_dp=True, micro_batch=PHYSICAL_BATCH)

    def train(client: int, start: Plan, steps: range) -> Vector:
        progress(f"client {client + 1} of {public.clients}, steps {steps.start + 1} to {steps.stop}")
        run = prepare_run(start, task, public.size, source_of(client), options, steps)
        change = execute(run, start, public.base, data[client], lambda _report: None).change
        if client_noise is None:
            return change
        return client_noise.applied(change, public.clients, np.random.default_rng([seed, 3, client, steps.start]))

    def total(changes: Sequence[Vector], number: int) -> Vector:
        random = RepeatableRandomness(f"audit/{seed}/{number}")
        if plan.training.epsilon is None:
            return encoded_mean(plan, changes, random)
        named = {f"client {number:05d}": change for number, change in enumerate(changes)}
        return sealed_mean(plan, named, random)[0]

    found = list(federated(plan, public.clients, public.rounds, train, total))
    rounds = tuple(ClientRound(start_tensors(each.plan), np.stack(each.changes)) for each in found)
    return Record(public, rounds, tuple(each.mean for each in found), found[-1].tensors)
