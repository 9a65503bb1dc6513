"""A federation in one process: the training and the protocol of a deployment, without its network.

For simulations, and for the shadow federations of an audit. Everything is determined by seeds that are not secret.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.client_noise.encoding import encode
from secagg.client_noise.setting import ClientNoise, NoiseGrid
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


def noise_grid(plan: Plan, noise: ClientNoise, clients: int) -> NoiseGrid:
    """Client-level noise in a session that all `clients` complete (protocol.md §14).

    Raises ParameterError: it does not fit, or would drown the signal and the setting does not accept that.
    """
    encoding = encoding_of(plan)
    quantiser = encoding.layout(plan).quantiser(max(BITS, encoding.min_bits))
    grid = NoiseGrid.make(noise, quantiser, clients, clients)
    grid.check_ratio()
    return grid


def encoded_mean(plan: Plan, changes: Sequence[Vector], random: Randomness, noise: ClientNoise | None = None) -> Vector:
    """The mean vector without any protocol: what is left where no policy lets a change be sealed."""
    encoding = encoding_of(plan)
    vectors = [encoding.encode(plan, change, random) for change in changes]
    if noise is None:
        return mean_of(vectors)
    grid = noise_grid(plan, noise, len(changes))
    sums = np.zeros(grid.length, dtype=np.uint64)
    for vector in vectors:
        sums += encode(grid, vector, random).values
    return grid.noisy_quantiser.decode_mean(sums, len(vectors))


def sealed_mean(
    plan: Plan, changes: Mapping[str, Vector], random: Randomness, noise: ClientNoise | None = None
) -> tuple[Vector, int]:
    """The mean vector by the whole `sealed` protocol in memory, and the bytes of one client's upload.

    With client-level noise every client must take part: all of their noise is counted, but for the colluders'.
    """
    bits, n_max = max(BITS, encoding_of(plan).min_bits), max(3, len(changes))
    spec = SessionSpec(
        n_min=3 if noise is None else n_max,
        n_max=n_max,
        bits=bits,
        upload_seconds=DAY,
        expiry_seconds=2 * DAY,
        client_noise=noise,
    )
    run = run_sealed(plan, changes, now=EPOCH, random=random, spec=spec)
    upload = next(iter(run.uploads.values()))
    return run.mean, upload.ciphertext.nbytes + sum(len(box) for box in upload.boxes)
