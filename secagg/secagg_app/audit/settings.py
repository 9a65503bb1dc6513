"""What `secagg audit compare` runs: families of federations that differ in rounds and privacy alone."""

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from secagg.plan import Frozen
from secagg_app.simulate.sweep import content_hash

DELTA = 1e-5


class ClientPrivacy(Frozen):
    """Noise on each client's change and none on records' gradients, so that clients are hidden, not records.

    `sigma` is the noise multiplier of a release with one round. `equal`: `release` keeps it whatever the rounds, so
    that more of them spend more; `total` multiplies it by the root of the rounds, so that they spend the same.
    """

    clip: float = Field(gt=0)
    sigma: float = Field(gt=0)
    equal: Literal["total", "release"]

    def sigma_of(self, rounds: int) -> float:
        """Of each release: R Gaussian mechanisms compose to one whose sigma is smaller by the root of R."""
        return self.sigma * math.sqrt(rounds) if self.equal == "total" else self.sigma


class Family(Frozen):
    """Federations of one kind. Each has `pool` candidates, members by a coin each, dealt to `clients` in equal parts.

    `source` is `tweets` or `plays` (the demo's), or a file or data set id as for `secagg simulate`.
    `asked` of the candidates are attacked, which are as random as the rest; None is all of them.
    `rounds` and `epsilon` (0: no differential privacy) are crossed; every combination is run `runs` times, with coins
    and sampling by the run's number alone, so that all combinations see the same members in the same order. Each run is
    a target once, and a shadow for the others.
    `learning_rates` are factors by "rounds/epsilon" for schedules that are tuned each; families with one name for
    `frontier` differ in steps alone, and are shown together: exposure against held-out quality.
    """

    name: str = Field(min_length=1)
    model: str = "minilm"
    source: str = "tweets"
    clients: int = Field(default=4, ge=3)
    pool: int = Field(ge=80)
    asked: int | None = Field(default=None, ge=40)
    population: int = Field(default=200, ge=20)
    held_out: int = Field(default=600, ge=20)
    rounds: tuple[int, ...] = (1, 3, 10)
    epsilon: tuple[float, ...] = (0.0, 8.0)
    runs: int = Field(ge=2)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    learning_rates: dict[str, float] = Field(default_factory=dict)
    max_length: int = Field(default=32, ge=8)
    rank: int = Field(default=8, ge=1)
    frontier: str = ""
    client_noise: ClientPrivacy | None = None
    positive_control: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(self.steps % rounds for rounds in self.rounds):
            raise ValueError(f"family {self.name}: every number of rounds must divide {self.steps} steps")
        if any(epsilon < 0 for epsilon in self.epsilon):
            raise ValueError(f"family {self.name}: epsilon is not below 0")
        if self.asked is not None and self.asked > self.pool:
            raise ValueError(f"family {self.name}: {self.asked} candidates cannot be asked of a pool of {self.pool}")
        if self.client_noise is not None and any(self.epsilon):
            raise ValueError(f"family {self.name}: noise of clients goes without that of records: epsilon = [0]")
        return self

    @property
    def size(self) -> int:
        """What a client declares: its part of the pool, halved by the coins, on average."""
        return self.pool // self.clients // 2

    @property
    def contents(self) -> str:
        """Hashes of what is in local files, which may change under their names; empty where there are none."""
        paths = [Path(name) for name in (self.model, self.source)]
        return "".join(content_hash(path) for path in paths if path.exists())

    def jobs(self) -> "tuple[Job, ...]":
        """Every run of every combination; the first runs of all combinations come first."""
        return tuple(
            Job(self.name, rounds, epsilon, run)
            for run in range(self.runs)
            for epsilon in self.epsilon
            for rounds in self.rounds
        )

    def rate_factor(self, rounds: int, epsilon: float) -> float:
        """By how much the learning rate of a combination differs: 1 but for schedules that are tuned each."""
        return self.learning_rates.get(f"{rounds}/{epsilon:g}", 1.0)


class Inversion(Frozen):
    """Messages of known size: `ranks` x `tokens` (as multiples of the rank, or rank - 1) x one message or `rounds`."""

    ranks: tuple[int, ...] = (4, 8, 16)
    rounds: tuple[int, ...] = (1, 4)
    repeats: int = Field(default=5, ge=2)
    seed: int = 0


class Study(Frozen):
    """A whole comparison. `pictures` images are looked for in gradients, from so many `beginnings` each."""

    name: str
    families: tuple[Family, ...] = Field(min_length=1)
    inversion: Inversion = Inversion()
    pictures: int = Field(default=5, ge=0)
    beginnings: int = Field(default=24, ge=1)


@dataclass(frozen=True, slots=True)
class Job:
    """One federation: its family's name, rounds, epsilon (0 none), and the number of the run."""

    family: str
    rounds: int
    epsilon: float
    run: int

    def key(self, family: Family) -> str:
        """What names its file: the job, and all of its family that its result depends on."""
        content = f"{asdict(self)}{family.model_dump_json(exclude={'rounds', 'epsilon', 'runs'})}{family.contents}"
        return hashlib.sha256(content.encode()).hexdigest()[:24]


_TWEETS = {"batch_size": 32, "learning_rate": 1e-2, "head_learning_rate": 3e-2}
_OVERTRAINED = {
    "pool": 512, "epsilon": (0.0,), "steps": 90, "batch_size": 32, "learning_rate": 1e-2, "head_learning_rate": 3e-2,
    "positive_control": True,
}  # fmt: skip
_LANGUAGE = {
    "model": "smollm2", "source": "plays", "pool": 400, "epsilon": (0.0,), "steps": 10, "batch_size": 8,
    "learning_rate": 5e-2, "max_length": 64, "held_out": 100, "population": 100,
}  # fmt: skip

QUICK = Study(
    name="quick",
    families=(
        Family(name="equal steps", pool=800, asked=100, rounds=(1, 5), runs=3, steps=10, held_out=200, **_TWEETS),  # type: ignore[arg-type]
        Family(
            name="overtrained", rounds=(1, 5), runs=3, held_out=200,
            **{**_OVERTRAINED, "steps": 40, "pool": 128, "batch_size": 16},  # type: ignore[arg-type]
        ),
    ),
    inversion=Inversion(ranks=(8,), repeats=2),
    pictures=2,
    beginnings=3,
)  # fmt: skip
FULL = Study(
    name="full",
    families=(
        Family(name="equal steps", pool=2560, asked=512, runs=12, steps=30, **_TWEETS),  # type: ignore[arg-type]
        Family(name="overtrained", runs=3, **_OVERTRAINED),  # type: ignore[arg-type]
        Family(name="language model", rounds=(1, 5), runs=3, **_LANGUAGE),  # type: ignore[arg-type]
    ),
)
ARMS = Study(
    name="arms",
    families=(
        *(
            Family(
                name=f"best tuned, {steps} steps", pool=2560, asked=512, rounds=(1, 10), runs=6, steps=steps,
                frontier="best tuned", learning_rates={"10/8": 3.0}, **_TWEETS,  # type: ignore[arg-type]
            )
            for steps in (10, 20, 30)
        ),
        *(
            Family(
                name=f"noise of clients, equal {equal}", pool=2560, asked=512, rounds=(1, 10), runs=6, steps=30,
                epsilon=(0.0,), client_noise=ClientPrivacy(clip=2.0, sigma=0.05, equal=equal), **_TWEETS,  # type: ignore[arg-type]
            )
            for equal in ("total", "release")
        ),
    ),
    inversion=Inversion(ranks=(8,), repeats=3),
)  # fmt: skip
PAPER = Study(
    name="paper",
    families=tuple(
        Family(
            name=f"{model}, rank {rank}, {clients} clients", clients=clients, rank=rank, runs=12,
            pool=640 * clients, asked=512, epsilon=(0.0, 8.0, 3.0), steps=30,
            **(_TWEETS if model == "minilm" else {"model": "smollm2", "source": "plays", "batch_size": 8,
               "learning_rate": 5e-2, "max_length": 64}),
        )
        for model in ("minilm", "smollm2") for rank in (4, 8, 16) for clients in (3, 4, 16)
    ),
)  # fmt: skip
PRESETS = {study.name: study for study in (QUICK, FULL, ARMS, PAPER)}
