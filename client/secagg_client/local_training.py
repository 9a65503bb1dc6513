"""Training as a client does it: its own copy of the model, its own data, its own ledger (protocol.md §4.5)."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from secagg.agreed import Agreed
from secagg.descriptor import Descriptor
from secagg.errors import ConfigError, StorageError
from secagg.plan import Plan, TrainingSettings
from secagg.policy import TrainingLimits
from secagg.randomness import Randomness
from secagg_client.accounting import Mechanism
from secagg_client.audit_files import FOLDER, draw_once
from secagg_client.audit_reserve import AuditDraw
from secagg_client.client_config import ClientConfig
from secagg_client.client_noise_accounting import record_of
from secagg_client.client_state import Trained
from secagg_client.data import Examples, load_examples
from secagg_client.evaluation import evaluate_change, evaluate_release
from secagg_client.ledger import Ledger, Spend
from secagg_client.mixing import refuse_mixing
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import NoiseSource, SecureSource, SeededSource
from secagg_client.tasks import Metrics
from secagg_client.training import StepReport, TrainOptions, mechanism_of, train
from secagg_client.users import bounded
from secagg_host.events import EventLog

REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """`secagg_client.client_run.Training` on this machine. `client` is the fingerprint of who trains.

    `random` is for secrets: pass the operating system's.
    """

    config: ClientConfig
    policy: TrainingLimits
    log: EventLog
    client: str
    random: Randomness

    def prepare(self, descriptor: Agreed, plan: Plan) -> "LocalRun":
        """Load and check model and data, and draw what is reserved for an audit, once (protocol.md §4.6c).

        `plan` is the descriptor's, but for where this round starts.
        Raises ModelError, DataError, TrainingError, AccountingError, ConfigError, StorageError.
        """
        if self.config.training.threads is not None:
            torch.set_num_threads(self.config.training.threads)
        base = self._base(plan)
        refuse_mixing(plan, base)
        data = load_examples(self.config.data.to_config(), plan.task)
        kept, counts = self._bounded(data, plan.training)
        held_out = self._held_out(plan) if "own" in self._scored() else None
        mechanism = mechanism_of(plan.training, self.config.declared_size)
        source = noise_source(plan, self.config)
        self.log.emit("prepared", model=self.config.model.source, base_model_hash=base.model_hash, **counts)
        training = self._without_reserve(descriptor, base, kept)
        return LocalRun(self, descriptor, plan, base, data, training, held_out, mechanism, source)

    def mark_sealed(self, descriptor: Agreed, upload_root: str) -> None:
        """Enter that this result is about to leave. Raises LedgerError when another did, or may."""
        self.ledger.mark_sealed(descriptor.series, upload_root, descriptor.number)

    def abandon(self, descriptor: Agreed) -> None:
        """Enter that nothing was spent, when a run was begun and did not come to anything."""
        if self._last(descriptor) == "begun":
            self.ledger.abandon(descriptor.series, descriptor.number)

    def after_release(self, release: Path, descriptor: Agreed) -> None:
        """Score the starting model and the release on the institution's own held-out data. The figures stay here."""
        plan, wanted = descriptor.plan, self._scored()
        if not {"start", "release"} & wanted:
            return
        data, base = self._held_out(plan), self._base(plan)
        if "start" in wanted:
            start = evaluate_change(plan, base, np.zeros(plan.length, np.float32), data)
            self.log.emit("evaluated", model="start", **figures(start))
        if "release" in wanted:
            self.log.emit("evaluated", model="release", **figures(evaluate_release(release, base, data)))

    @property
    def ledger(self) -> Ledger:
        """The institution's ledger."""
        return Ledger(self.config.ledger_files, lambda: int(time.time()))

    def _bounded(self, data: Examples, settings: TrainingSettings) -> tuple[Examples, dict[str, int]]:
        """The records that are used, and how many; of users, how many there are, and of their records left out.

        Raises DataError when users are not known, ConfigError for rows taken by their place: which of a record's or
        user's rows are read would depend on the others'.
        """
        if self.config.data.limit is not None or "[" in self.config.data.split:
            raise ConfigError(
                f"[data] limit, or a slice in split, takes rows by their place, so that one {settings.unit}'s rows "
                "decide which of another's are read, and taking it out would change two: remove it, and give a file "
                "of the rows to train on"
            )
        if settings.unit == "record":
            return data, {"records": len(data)}
        kept = bounded(data, settings)
        left_out = len(data) - len(kept)
        return kept, {"records": len(kept), "users": len(set(data.users)), "records_left_out": left_out}

    def _scored(self) -> set[str]:
        return set(self.config.evaluation.models) if self.config.evaluation is not None else set()

    def _held_out(self, plan: Plan) -> Examples:
        if self.config.evaluation is None:
            raise ConfigError("there is no [evaluation] to load held-out examples from")
        return load_examples(self.config.evaluation.to_config(), plan.task)

    def _without_reserve(self, descriptor: Agreed, base: LoadedBase, data: Examples) -> Examples:
        """What is trained on: all data, but for what the session reserves for an audit, and canaries."""
        if descriptor.audit is None:
            return data
        wanted = AuditDraw.of(descriptor, descriptor.audit, self.client, data, base.tokenizer, descriptor.series)
        folder = self.config.sessions / wanted.key / FOLDER
        if not folder.exists():
            self._check_not_drawn(descriptor, folder)
        drawn = draw_once(folder, wanted, self.random)
        self.log.emit(
            "reserved", members=len(drawn.members), nonmembers=len(drawn.nonmembers), canaries=len(drawn.canaries)
        )
        return drawn.training

    def _check_not_drawn(self, descriptor: Agreed, folder: Path) -> None:
        """No result of an earlier round has left: that had a draw, and one draw is for all rounds (§4.6a)."""
        if any(entry.session == descriptor.series and entry.kind == "sealed" for entry in self.ledger.entries()):
            raise StorageError(
                f"{folder}: is gone, and an earlier round was trained with the draw in it: with another, records that "
                "were trained on would be called non-members. Put the folder back from a copy; without one, stay out "
                "of the rounds that are left"
            )

    def _last(self, descriptor: Agreed) -> str | None:
        run = (descriptor.series, descriptor.number)
        kinds = [entry.kind for entry in self.ledger.entries() if entry.run == run]
        return kinds[-1] if kinds else None

    def _base(self, plan: Plan) -> LoadedBase:
        return load_base(self.config.model.source, plan.task, precision=plan.training.precision)


@dataclass(frozen=True, slots=True)
class LocalRun:
    """One run, checked and ready. The ledger is charged for all `data`, whatever of them is in `training`."""

    owner: LocalTraining
    descriptor: Agreed
    plan: Plan = field(repr=False)
    base: LoadedBase
    data: Examples
    training: Examples
    held_out: Examples | None
    mechanism: Mechanism
    source: NoiseSource

    def charge(self) -> None:
        """Enter the run in the ledger. Raises PolicyViolation or LedgerError."""
        session, owner = self.descriptor, self.owner
        mechanism = replace(self.mechanism, steps=len(session.steps))  # sigma is that of all rounds
        level = record_of(session.noise_grid) if session.noise_grid is not None else None
        spend = Spend.of(
            session.series, owner.config.data_name, self.data, mechanism, self.plan.training, session.number, level
        )
        spend = replace(spend, releases=session.releases if isinstance(session, Descriptor) else 1)
        entry = owner.ledger.begin(spend, owner.config.ledger_limits(owner.policy))
        owner.log.emit("charged", attempt=entry.attempt, epsilon=entry.epsilon, delta=entry.delta)

    def train(self) -> Trained:
        """Train the adapter under differential privacy; score it alone on held-out data, for the institution itself."""
        config = self.owner.config
        options = TrainOptions(micro_batch=config.training.micro_batch, device=config.training.device)
        update = train(
            self.plan,
            self.base,
            self.training,
            config.declared_size,
            self.source,
            progress=_reporter(self.owner.log, self.descriptor.steps.stop),
            options=options,
            steps=self.descriptor.steps,
        )
        if self.held_out is not None:
            self._score(update.change, self.held_out)
        return Trained(update.change, update.statement)

    def _score(self, change: NDArray[np.float32], held_out: Examples) -> None:
        """Score the own update alone, in the precision of the training: several times faster, for one's own eyes."""
        plan = self.plan
        device = next(self.base.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.training.precision == "bf16"):
            alone = evaluate_change(plan, self.base, change, held_out)
        self.owner.log.emit("evaluated", model="own", **figures(alone))


def noise_source(plan: Plan, config: ClientConfig) -> NoiseSource:
    """Randomness of the kind that the plan asks for. Raises ConfigError when a seed is missing, or given in vain."""
    seed = config.training.seed
    if plan.training.noise == "secure":
        if seed is not None:
            raise ConfigError("[training] seed is set, but the session asks for secure noise; remove it")
        return SecureSource()
    if seed is None:
        raise ConfigError("the session trains with seeded noise, for experiments only: set [training] seed")
    return SeededSource(seed)


def figures(metrics: Metrics) -> dict[str, float | int]:
    """The metrics that the task has, by name."""
    return {name: value for name, value in asdict(metrics).items() if value is not None}


def _reporter(log: EventLog, last_step: int) -> Callable[[StepReport], None]:
    """Log progress now and then, and at the end. Loss is private: the log is this institution's own."""
    last = 0.0

    def report(step: StepReport) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS or step.step == last_step:
            last = now
            log.emit("step", step=step.step, steps=step.steps, loss=step.loss, epsilon=step.epsilon)

    return report
