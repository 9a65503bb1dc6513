"""DP-SGD on the adapter of a plan: from an institution's examples to one vector of changes (protocol.md §2.6).

Each step draws a Poisson sample of records, or users (see `users`), bounds and sums their gradients (`per_example`),
adds noise and moves. An empty sample is a step like any other. Nothing but the change vector and the privacy statement
leaves; losses stay local.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secagg.adapter import flatten
from secagg.errors import ModelError, TrainingError
from secagg.plan import Plan, TrainingSettings
from secagg.privacy import PrivacyStatement, stated
from secagg_client.accounting import (
    ACCOUNTANT,
    Mechanism,
    cross_check,
    epsilon_spent,
    sampling_rate,
    solve_sigma,
)
from secagg_client.adapted import Adapted, attached
from secagg_client.data import Examples
from secagg_client.mixing import refuse_mixing
from secagg_client.models import LoadedBase
from secagg_client.noise import NoiseSource, poisson_sample
from secagg_client.optimizer import GridOptimizer
from secagg_client.per_example import PerExampleGradients, backward, hook_trained_layers_only
from secagg_client.physical import Footprint, PhysicalBatches
from secagg_client.prefix import training_task
from secagg_client.tasks import AnyTask
from secagg_client.users import Drawn, Share, UserSums, bounded, shares, units_of

EPSILON_POINTS = 10
"""At how many steps of a run the spent epsilon is computed for the progress report."""
COARSE = 1500
"""Privacy losses are rounded up to this part of the run's epsilon there: a percent too much at most, in our runs."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress, for the institution's own screen. `loss` (None for an empty sample) and `examples` are private.

    `examples` counts what was drawn: records, or users. `loss` is their mean, a user's being the mean of its records'.
    `epsilon` is an upper bound of what is spent so far; None without differential privacy.
    """

    step: int
    steps: int
    loss: float | None = field(repr=False)
    epsilon: float | None
    examples: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrainedUpdate:
    """The change of the trained tensors, float32 [plan.length]: secret until it is summed. It has no way to a disk."""

    change: NDArray[np.float32] = field(repr=False)
    statement: PrivacyStatement


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What does not touch the result's privacy. `allow_no_dp` is for comparisons on public data only.

    At most `micro_batch` examples go through the model at a time; None leaves it to the memory that is free.
    """

    micro_batch: int | None = None
    device: str | None = None
    allow_no_dp: bool = False

    def torch_device(self) -> torch.device:
        """The device asked for, or the GPU when there is one."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a step needs but the examples. `mechanism`, of all rounds, None: no differential privacy."""

    settings: TrainingSettings
    mechanism: Mechanism | None
    rate: float
    task: AnyTask
    source: NoiseSource
    options: TrainOptions
    steps: range


def mechanism_of(settings: TrainingSettings, declared_size: int) -> Mechanism:
    """The mechanism a client runs: sigma is solved from the plan's epsilon and the declared size, nothing private.

    The result has been checked against two other accountants.
    Raises TrainingError without an epsilon, for a declared size below the batch size, or for one so large that delta
    alone would pay for a record without noise; AccountingError.
    """
    if settings.epsilon is None:
        raise TrainingError("the plan has no epsilon: there is no mechanism to account")
    rate = sampling_rate(settings.batch_size, declared_size, settings.unit)
    if settings.delta * declared_size >= 1:
        raise TrainingError(
            f"delta {settings.delta:g} is not below 1/{declared_size}, one part in the declared size: it would allow "
            f"that one {settings.unit} in so many leaves without noise. Take a smaller delta"
        )
    mechanism = Mechanism(rate, solve_sigma(settings.epsilon, settings.delta, rate, settings.steps), settings.steps)
    cross_check(mechanism, settings.delta)
    return mechanism


def train(
    plan: Plan,
    base: LoadedBase,
    data: Examples,
    declared_size: int,
    source: NoiseSource,
    progress: Callable[[StepReport], None] = lambda _report: None,
    options: TrainOptions | None = None,
    steps: range | None = None,
) -> TrainedUpdate:
    """Train the plan's adapter on `data` under the plan's (epsilon, delta) for one record, or one user (`plan.Unit`).

    Args:
        declared_size: what the institution declares publicly as the size of its data, in records or users. The
            guarantee holds whatever the private count is.
        source: must be of the kind that the plan says.
        progress: called after each step.
        steps: which of the plan's steps to take, when this is one round of several (the plan then starts where the last
            round ended: `secagg.rounds.resumed`); all by default. Sigma, schedule and streams of randomness are those
            of the whole plan, so R rounds of T/R steps are accounted as T steps in one; the optimiser starts anew.

    Raises:
        ModelError: base and plan do not fit, or the model mixes the examples of a batch.
        TrainingError: a setting under which the guarantee does not hold; training that changed nothing.
        DataError: a text without tokens; unknown users, where the unit is the user.
        AccountingError: accountants that disagree.
    """
    options = options or TrainOptions()
    refuse_mixing(plan, base, options.torch_device())
    run = prepare_run(plan, training_task(plan, base, options.torch_device()), declared_size, source, options, steps)
    return execute(run, plan, base, data, progress)


def prepare_run(
    plan: Plan,
    task: AnyTask,
    declared_size: int,
    source: NoiseSource,
    options: TrainOptions,
    steps: range | None = None,
) -> Run:
    """Everything that is decided before any example is read. Raises TrainingError, AccountingError."""
    settings = plan.training
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise TrainingError("call train outside torch.autocast: its cache would keep the weights of the first step")
    if settings.epsilon is None and not options.allow_no_dp:
        raise TrainingError("the plan trains without differential privacy: refused")
    if source.kind != settings.noise:
        raise TrainingError(f"the plan asks for {settings.noise} noise, the source is {source.kind}")
    rate = sampling_rate(settings.batch_size, declared_size, settings.unit)
    mechanism = None if settings.epsilon is None else mechanism_of(settings, declared_size)
    return Run(settings, mechanism, rate, task, source, options, steps or range(settings.steps))


def execute(
    run: Run, plan: Plan, base: LoadedBase, data: Examples, progress: Callable[[StepReport], None]
) -> TrainedUpdate:
    """Train. Raises as `train` does."""
    data = bounded(data, run.settings)
    units = units_of(run.task.encode(data), data, run.settings)
    with attached(plan, base, run.options.torch_device()) as adapted:
        before = flatten(plan, adapted.values())
        run_steps(run, plan, adapted, units, progress)
        change = flatten(plan, adapted.values()) - before
    if not np.isfinite(change).all():
        raise TrainingError("training diverged: the change is not finite. Lower the learning rate")
    return TrainedUpdate(change, statement_of(run.settings))


def statement_of(settings: TrainingSettings) -> PrivacyStatement:
    """What is said of a run."""
    return stated(settings, ACCOUNTANT if settings.epsilon is not None else "none")


def run_steps(
    run: Run, plan: Plan, adapted: Adapted, units: Sequence[Drawn], progress: Callable[[StepReport], None]
) -> None:
    """All steps of a run on an attached adapter, drawing from `units`."""
    trained = {spec.name: adapted.parameters[spec.name] for spec in plan.trained}
    hook_trained_layers_only(adapted.model)
    optimizer = _optimizer(run.settings, trained)
    footprint = Footprint.of(getattr(adapted.model, "config", None), plan.length)
    batches = PhysicalBatches.for_device(footprint, run.options.torch_device(), run.options.micro_batch)
    stepper: _PrivateStepper | _PlainStepper
    if run.mechanism is None:
        stepper = _PlainStepper(run, adapted.model, optimizer, batches)
    else:
        stepper = _PrivateStepper(run, adapted.model, optimizer, batches)
    peaks = [group["lr"] for group in optimizer.param_groups]
    before = flatten(plan, adapted.values())
    checked = False
    try:
        for step in run.steps:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * learning_rate_factor(run.settings, step)
            indices = poisson_sample(run.source.stream(step, "sampling"), len(units), run.rate)
            total = stepper.step([units[index] for index in indices])
            if not checked and (run.mechanism is not None or len(indices)):
                _check_moved(before, flatten(plan, adapted.values()))
                checked = True
            loss = total / len(indices) if len(indices) else None
            progress(StepReport(step + 1, run.settings.steps, loss, _spent(run, step + 1), len(indices)))
    finally:
        stepper.close()
        adapted.model.eval()


def learning_rate_factor(settings: TrainingSettings, step: int) -> float:
    """The part of the peak learning rate at `step` (from 0): linear warm-up, then the schedule down towards 0."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = step / settings.steps
    match settings.schedule:
        case "constant":
            return warm
        case "linear":
            return warm * (1.0 - done)
        case "cosine":
            return warm * 0.5 * (1.0 + math.cos(math.pi * done))


def _optimizer(settings: TrainingSettings, trained: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    lora = [parameter for name, parameter in trained.items() if ".lora_" in name]
    head = [parameter for name, parameter in trained.items() if ".lora_" not in name]
    groups = [
        {"params": parameters, "lr": rate}
        for parameters, rate in ((lora, settings.learning_rate), (head, settings.head_learning_rate))
        if parameters
    ]
    for group in groups:
        group["lr"] = group["lr"] or settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.0)


def _check_moved(before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    if np.array_equal(before, after):
        raise TrainingError("the first step changed no weight: the optimiser does not hold the model's parameters")


def _spent(run: Run, step: int) -> float | None:
    """An upper bound, from a coarse grid: the fine one that sigma was solved on would take longer than small steps."""
    epsilon = run.settings.epsilon
    if run.mechanism is None or epsilon is None:
        return None
    stride = max(1, run.mechanism.steps // EPSILON_POINTS)
    upto = min(run.mechanism.steps, -(-step // stride) * stride)
    mechanism = Mechanism(run.mechanism.rate, run.mechanism.sigma, upto)
    return min(epsilon, epsilon_spent(mechanism, run.settings.delta, epsilon / COARSE))


def _summed_loss(run: Run, model: nn.Module, part: Sequence[Share]) -> torch.Tensor:
    """The units' losses as far as they are in this physical batch, added up."""
    device = next(model.parameters()).device
    batch = run.task.collate([share.row for share in part]).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=run.settings.precision == "bf16"):
        losses: torch.Tensor = run.task.losses(model, batch)
    return (losses * losses.new_tensor([share.part for share in part])).sum()


class _PrivateStepper:
    """Steps with noise, clipped for each example, or for each user."""

    def __init__(self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, batches: PhysicalBatches) -> None:
        if run.mechanism is None:
            raise TrainingError("a private step needs a mechanism")
        self._run, self._batches = run, batches
        try:
            self._model = PerExampleGradients(model)
        except NotImplementedError as error:
            raise ModelError(f"Opacus cannot compute per-example gradients of this model: {error}") from error
        self._optimizer = GridOptimizer(
            optimizer,
            sigma=run.mechanism.sigma,
            clip=run.settings.max_grad_norm,
            batch_size=run.settings.batch_size,
            source=run.source,
            first_step=run.steps.start,
        )

    def step(self, sample: Sequence[Drawn]) -> float:
        """One step on a sample that may be empty; the summed loss."""
        if self._run.settings.unit == "record":
            total = self._clip_records(sample)
        else:
            total = sum(self._clip_users(group) for group in self._batches.groups(sample))
        self._optimizer.step()
        return total

    def _clip_records(self, sample: Sequence[Drawn]) -> float:
        total = 0.0
        for part in self._batches.cut(shares(sample)):
            total += self._backward(part)
            self._optimizer.clip_and_accumulate(len(part))
        return total

    def _clip_users(self, users: Sequence[Drawn]) -> float:
        """A user's records may be in several physical batches: nothing is clipped before all of them were added up."""
        sums, total = UserSums(self._optimizer.params, len(users)), 0.0
        for part in self._batches.cut(shares(users)):
            total += self._backward(part)
            sums.add([share.unit for share in part])
        sums.hand_over()
        self._optimizer.clip_and_accumulate(len(users))
        return total

    def _backward(self, part: Sequence[Share]) -> float:
        loss = _summed_loss(self._run, self._model, part)
        backward(loss)
        return float(loss.detach())

    def close(self) -> None:
        """Take the hooks off the model."""
        self._model.to_standard_module()


class _PlainStepper:
    """The same steps without clipping and noise, for comparison."""

    def __init__(self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, batches: PhysicalBatches) -> None:
        self._run, self._model, self._optimizer, self._batches = run, model, optimizer, batches

    def step(self, sample: Sequence[Drawn]) -> float:
        """One step; an empty sample moves nothing."""
        total = 0.0
        for part in self._batches.cut(shares(sample)):
            loss = _summed_loss(self._run, self._model, part)
            torch.autograd.backward(loss / self._run.settings.batch_size)
            total += float(loss.detach())
        if sample:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    def close(self) -> None:
        """Nothing to take off."""
