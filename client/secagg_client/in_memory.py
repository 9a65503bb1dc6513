"""A federation in one process: the training and the protocol of a deployment, without its network.

For simulations, and for the shadow federations of an audit. Everything is determined by seeds that are not secret.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.coordinator import SessionSpec
from secagg.encodings.registry import encoding_of
from secagg.plan import Plan
from secagg.randomness import Keystream, Randomness
from secagg.rounds import resumed, round_steps
from secagg.run import DAY, run_sealed

Vector = NDArray[np.float32]
EPOCH = 1_700_000_000
"""The time of every such session, so that runs repeat."""
BITS = 16
"""Of the quantiser, unless the encoding needs more."""


class RepeatableRandomness:
    """The same bytes for the same seed. FOR SIMULATIONS ONLY: whoever knows the seed can open everything."""

    def __init__(self, seed: str) -> None:
        self._stream = Keystream(hashlib.sha256(b"secagg/v1/simulation\x00" + seed.encode()).digest())

    def __call__(self, size: int, /) -> bytes:
        """The next `size` bytes."""
        return self._stream.read(size).tobytes()


@dataclass(frozen=True, slots=True)
class MemoryRound:
    """One round. `plan` says where it started, `mean` is what the clients' changes gave, `tensors` what is released."""

    number: int
    plan: Plan = field(repr=False)
    changes: tuple[Vector, ...] = field(repr=False)
    mean: Vector = field(repr=False)
    tensors: dict[str, Vector] = field(repr=False)


Train = Callable[[int, Plan, range], Vector]
"""Client number, the plan that says where the round starts, its steps: the client's change, [plan.length]."""
Total = Callable[[Sequence[Vector], int], Vector]
"""The clients' changes and the number of the round: the mean vector, encoded."""


def federated(plan: Plan, clients: int, rounds: int, train: Train, total: Total) -> Iterator[MemoryRound]:
    """All rounds in order. Raises EncodingError for an encoding that knows one round only, MalformedError."""
    encoding = encoding_of(plan)
    if rounds > 1:
        encoding.check_rounds()
    steps, start = plan.training.steps, plan
    for number in range(rounds):
        changes = tuple(train(client, start, round_steps(steps, number, rounds)) for client in range(clients))
        mean = total(changes, number)
        tensors = encoding.decode(start, mean, clients)
        yield MemoryRound(number, start, changes, mean, tensors)
        if number + 1 < rounds:
            start = resumed(start, tensors)


def mean_of(vectors: Sequence[Vector]) -> Vector:
    """The plain mean [L], in float64, as float32."""
    mean: Vector = np.stack(vectors).astype(np.float64).mean(axis=0).astype(np.float32)
    return mean


def encoded_mean(plan: Plan, changes: Sequence[Vector], random: Randomness) -> Vector:
    """The mean vector without any protocol: what is left where no policy lets a change be sealed."""
    encoding = encoding_of(plan)
    return mean_of([encoding.encode(plan, change, random) for change in changes])


def sealed_mean(plan: Plan, changes: Mapping[str, Vector], random: Randomness) -> tuple[Vector, int]:
    """The mean vector by the whole `sealed` protocol in memory, and the bytes of one client's upload."""
    bits = max(BITS, encoding_of(plan).min_bits)
    spec = SessionSpec(n_min=3, n_max=max(3, len(changes)), bits=bits, upload_seconds=DAY, expiry_seconds=2 * DAY)
    run = run_sealed(plan, changes, now=EPOCH, random=random, spec=spec)
    upload = next(iter(run.uploads.values()))
    return run.mean, upload.ciphertext.nbytes + sum(len(box) for box in upload.boxes)
