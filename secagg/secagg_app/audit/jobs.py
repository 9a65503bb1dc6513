"""The runs of a study side by side, each one file: every score of every candidate, and what the run came to.

A file is Parquet: a row for each candidate, and for each of the population; what concerns the whole run is JSON in its
metadata. Written whole or not at all, so a study that was killed goes on where it was. Plain updates stay in memory.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import SecaggError, StorageError
from secagg_app.audit.settings import Family, Job
from secagg_app.workers import spread
from secagg_host.durable import make_folder, write_atomic

Say = Callable[[str], None]
Floats = NDArray[np.float64]
META = b"secagg"


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a run came to. Scores are by view and attack, [asked]; `probabilities` those of the right answer under the
    released model, `local` under the last model of the client that a candidate is asked of: V1 has that.

    `undefined` says why an attack gave no score under a view. `start` and `value` are of the held-out examples.
    """

    job: Job
    member: NDArray[np.bool_] = field(repr=False)
    owner: NDArray[np.int64] = field(repr=False)
    scores: dict[tuple[str, str], Floats] = field(repr=False)
    probabilities: Floats = field(repr=False)
    local: Floats = field(repr=False)
    population: Floats = field(repr=False)
    undefined: dict[str, str]
    measure: str
    start: float
    value: float
    sigma: float
    rate: float
    steps: int
    seconds: float
    blind_p: float


def score_job(family: Family, job: Job) -> JobResult:
    """Run a federation and attack it. Raises the SecaggError of whatever refuses it."""
    from secagg_app.audit.federation import coins_of, pools_of, public_of, run_job
    from secagg_attacks.battery import attack_all
    from secagg_attacks.views import Question, ViewName

    began = time.perf_counter()
    pools, public = pools_of(family.model_dump_json()), public_of(family, job)
    record = run_job(family, job, public, pools)
    count = len(pools.asked)
    question = Question(pools.asked, pools.population, tuple(pools.owner[:count].tolist()))
    scores, undefined = attack_all([record.view(name, question) for name in ViewName])
    probabilities, local, population = _signals(record, question)
    held_out = _held_out(family.model_dump_json())
    sigma, rate = _mechanism(public)
    coins = coins_of(family, job.run)
    return JobResult(
        job=job, member=coins[:count], owner=pools.owner[:count], scores=scores, probabilities=probabilities,
        local=local, population=population, undefined=undefined, measure=held_out.measure,
        start=held_out.start, value=held_out.quality(public, dict(record.final)),
        sigma=sigma, rate=rate, steps=family.steps, seconds=time.perf_counter() - began,
        blind_p=_blind(pools.candidates, coins),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A family's held-out texts, with what no adapter changes of them; `start` is the quality before training."""

    data: Any = field(repr=False)
    task: Any = field(repr=False)
    measure: str
    start: float = 0.0

    def quality(self, public: Any, tensors: dict[str, Any]) -> float:
        """Of an adapter, of the clients' kind or of the release's."""
        import torch

        from secagg_attacks.probe import released

        with released(public.plan, public.base, tensors) as model, torch.no_grad():
            return float(getattr(self.task.metrics(model, self.task.encode(self.data)), self.measure))


@lru_cache(maxsize=2)
def _held_out(family_json: str) -> HeldOut:
    """All runs of a family start alike, so this is found once."""
    from secagg_app.audit.federation import pools_of, public_of
    from secagg_attacks.probe import in_float32
    from secagg_client.prefix import training_task
    from secagg_client.training import TrainOptions

    family = Family.model_validate_json(family_json)
    public, data = public_of(family, family.jobs()[0]), pools_of(family_json).held_out
    task = training_task(in_float32(public.plan), public.base, TrainOptions().torch_device())
    found = HeldOut(data, task, "accuracy" if public.plan.task.labels else "loss")
    return replace(found, start=found.quality(public, public.start()))


def _signals(record: Any, question: Any) -> tuple[Floats, Floats, Floats]:
    """Probabilities of the right answer: of candidates under the release and their clients' models; of the population.

    The population's under the release only: clients' models are for LiRA alone.
    """
    from secagg_attacks.membership.updates import moved, of_asked
    from secagg_attacks.probe import probe_of
    from secagg_attacks.views import ViewName

    candidates, others = (probe_of(record.public, data) for data in (question.candidates, question.population))
    view = record.view(ViewName.V1, question)
    last = [message for message in view.messages() if message.number == record.public.rounds - 1]
    own = np.stack([candidates.probabilities(moved(record.public.plan, message)) for message in last])
    return candidates.probabilities(record.final), of_asked(view, own), others.probabilities(record.final)


def _mechanism(public: Any) -> tuple[float, float]:
    """Noise multiplier and sampling rate of a client's training; sigma 0 without differential privacy."""
    from secagg_client.accounting import sampling_rate
    from secagg_client.training import mechanism_of

    settings = public.plan.training
    if settings.epsilon is None:
        return 0.0, sampling_rate(settings.batch_size, public.size, settings.unit)
    found = mechanism_of(settings, public.size)
    return found.sigma, found.rate


def _blind(candidates: Any, coins: NDArray[np.bool_]) -> float:
    """How likely a blind guess from the texts alone would be as good if the coins were fair."""
    from secagg_attacks.blind import blind_baseline

    return blind_baseline(candidates.texts, coins, seed=0).p_value


def to_bytes(result: JobResult) -> bytes:
    """As one Parquet file."""
    import pyarrow

    from secagg_client.parquet import parquet_bytes

    count, others = len(result.member), len(result.population)
    none = [None] * others
    columns: dict[str, Any] = {
        "kind": ["candidate"] * count + ["population"] * others,
        "member": [*result.member.tolist(), *none],
        "client": [*result.owner.tolist(), *none],
        "local": [*result.local.tolist(), *none],
        "probability": [*result.probabilities.tolist(), *result.population.tolist()],
    }
    columns |= {f"{view}/{name}": [*scores.tolist(), *none] for (view, name), scores in result.scores.items()}
    skipped = {"member", "owner", "scores", "probabilities", "local", "population"}
    plain = {name: getattr(result, name) for name in JobResult.__slots__ if name not in skipped}
    meta = json.dumps({**plain, "job": asdict(result.job)})
    table = pyarrow.table(columns).replace_schema_metadata({META: meta.encode()})
    return parquet_bytes(table)


def from_file(path: Path) -> JobResult:
    """Raises StorageError for a file that is none of these."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        meta = json.loads((table.schema.metadata or {})[META])
        mask = np.array(table.column("kind").to_pylist()) == "candidate"
        scores = {
            (name.split("/")[0], name.split("/")[1]): np.asarray(table.column(name).to_numpy()[mask], np.float64)
            for name in table.column_names if "/" in name
        }  # fmt: skip
        probability = np.asarray(table.column("probability").to_numpy(), np.float64)
        return JobResult(
            **{**meta, "job": Job(**meta["job"])},
            member=np.array(table.column("member").to_pylist())[mask].astype(bool),
            owner=np.array(table.column("client").to_pylist())[mask].astype(np.int64),
            scores=scores, probabilities=probability[mask],
            local=np.asarray(table.column("local").to_numpy()[mask], np.float64), population=probability[~mask],
        )  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise StorageError(f"{path}: not a run of a study; remove it, and it is run again ({error})") from error


@dataclass(frozen=True, slots=True)
class Jobs:
    """The runs of a study in a folder: `jobs/KEY.parquet` each."""

    folder: Path
    families: tuple[Family, ...]

    def all(self) -> list[tuple[Family, Job]]:
        """Every run, first runs of all families first, so that a study that is stopped has some of everything."""
        found = [(family, job) for family in self.families for job in family.jobs()]
        return sorted(found, key=lambda pair: pair[1].run)

    def path(self, family: Family, job: Job) -> Path:
        """The file of a run."""
        return self.folder / "jobs" / f"{job.key(family)}.parquet"

    def missing(self) -> list[tuple[Family, Job]]:
        """Runs that are not done."""
        return [pair for pair in self.all() if not self.path(*pair).exists()]

    def results(self) -> list[JobResult]:
        """Runs that are done."""
        return [_result(path, pair[1]) for pair in self.all() if (path := self.path(*pair)).exists()]


def _result(path: Path, job: Job) -> JobResult:
    """A kept run. Raises StorageError for a file that is another's."""
    found = from_file(path)
    if found.job != job:
        raise StorageError(f"{path}: holds another run's result; remove it, and its own is run again")
    return found


def _attempt(family_json: str, job: Job) -> bytes | str:
    """In a worker: the file of a run, or why it was refused."""
    try:
        return to_bytes(score_job(Family.model_validate_json(family_json), job))
    except SecaggError as error:
        return str(error)


def run_jobs(jobs: Jobs, count: int, say: Say, ray: str | None = None) -> list[str]:
    """Run what is missing, `count` at a time or on Ray. Returns why runs were refused, if any were."""
    missing, total = jobs.missing(), len(jobs.all())
    say(f"{total} runs, {total - len(missing)} of them done before")
    refused = list[str]()
    make_folder(jobs.folder / "jobs")
    wanted = [(family.model_dump_json(), job) for family, job in missing]
    families = {family.model_dump_json(): family for family in jobs.families}
    for done, ((family_json, job), found) in enumerate(spread(_attempt, wanted, count, ray), 1):
        family = families[family_json]
        what = f"{done} of {len(missing)}: {family.name}, {job.rounds} rounds, epsilon {job.epsilon or 'none'}"
        if isinstance(found, str):
            refused.append(f"{what}: {found}")
            say(f"{what}: refused: {found}")
            continue
        write_atomic(jobs.path(family, job), found)
        say(f"{what}, run {job.run}")
    return refused
