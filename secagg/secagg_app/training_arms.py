"""The ways to take a training step that `secagg bench training` compares, each on the same rows.

Ours run the client's own step loop: sampling, collating, forward, backward, clipping, noise, optimiser and accounting
are all in the figure. The others are what people run today, written as their documentation shows it.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from secagg.plan import Plan, TaskSpec, TrainingSettings
from secagg_client.adapted import attached
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import SeededSource
from secagg_client.planning import PlanConfig, make_plan
from secagg_client.tasks import Encoded, make_task
from secagg_client.training import StepReport, TrainOptions, prepare_run, run_steps

Arm = Literal["dp", "plain", "dp_fp32", "plain_fp32", "peft_fp32", "opacus_hooks", "opacus_ghost"]
OURS: tuple[Arm, ...] = ("dp", "plain", "dp_fp32", "plain_fp32")
OTHERS: tuple[Arm, ...] = ("peft_fp32", "opacus_hooks", "opacus_ghost")
EPSILON, DELTA, LEARNING_RATE = 8.0, 1e-5, 1e-3
STEPS_OF_A_RUN = 100
"""The run that the steps are taken from, as the accountant sees it."""
MODULES = {"classify": ("query", "value"), "lm": ("q_proj", "v_proj")}


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, an expected batch size, and rows with at most `tokens` tokens each. Rank 8 on query and value."""

    model: str
    task: TaskSpec
    batch: int
    tokens: int
    rows: tuple[Encoded, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of each step and how many examples it had."""

    seconds: tuple[float, ...]
    examples: tuple[int, ...]


Steps = Callable[[int], StepTimes]
"""Takes so many steps and says how long each took."""


def prepare(arm: Arm, load: Workload) -> Steps:
    """Load the model and return what takes steps with it. Raises ModelError."""
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # of Opacus' arms, at every step
    if arm in OURS:
        return _ours(load, private=arm.startswith("dp"), precision="fp32" if arm.endswith("fp32") else "bf16")
    if arm == "peft_fp32":
        return _peft(load)
    return _opacus(load, ghost=arm == "opacus_ghost")


def plan_of(load: Workload, base: LoadedBase, precision: Literal["fp32", "bf16"], *, private: bool) -> Plan:
    """Rank 8 on query and value of all layers, freeze-A, AdamW."""
    training = TrainingSettings(
        steps=STEPS_OF_A_RUN, batch_size=load.batch, learning_rate=LEARNING_RATE, optimizer="adamw",
        max_grad_norm=1.0, epsilon=EPSILON if private else None, delta=DELTA, precision=precision, noise="seeded",
    )  # fmt: skip
    config = PlanConfig(
        base_model=load.model, task=load.task, training=training, target_modules=MODULES[load.task.kind], lora_clip=1.0
    )
    return make_plan(config, base)


def _ours(load: Workload, *, private: bool, precision: Literal["fp32", "bf16"]) -> Steps:
    base = load_base(load.model, load.task, precision=precision)
    plan = plan_of(load, base, precision, private=private)
    options = TrainOptions(micro_batch=load.batch, device="cpu", allow_no_dp=True)
    run = prepare_run(plan, make_task(load.task, base.tokenizer), len(load.rows), SeededSource(1), options)

    def steps(count: int) -> StepTimes:
        seconds, examples, last = list[float](), list[int](), 0.0

        def done(report: StepReport) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds.append(now - last)
            examples.append(report.examples)
            last = now
            if report.step == count:
                raise _Enough

        with attached(plan, base, torch.device("cpu")) as adapted:
            last = time.perf_counter()
            with suppress(_Enough):
                run_steps(run, plan, adapted, [(row,) for row in load.rows], done)
        return StepTimes(tuple(seconds), tuple(examples))

    return steps


class _Enough(Exception):
    """Ends a run early."""


def _stock_model(load: Workload, *, freeze_a: bool) -> nn.Module:
    """Transformers' own model with PEFT's LoRA, float32."""
    if load.task.kind == "lm":
        base: Any = AutoModelForCausalLM.from_pretrained(load.model, dtype=torch.float32)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(
            load.model, dtype=torch.float32, num_labels=len(load.task.labels)
        )
    kind = "CAUSAL_LM" if load.task.kind == "lm" else "SEQ_CLS"
    config = LoraConfig(task_type=kind, r=8, lora_alpha=16, target_modules=list(MODULES[load.task.kind]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # PEFT asks by its old name
        model: nn.Module = get_peft_model(base, config)
    if freeze_a:
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
    return model.train()


def _collate(load: Workload, rows: Sequence[Encoded]) -> dict[str, Tensor]:
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = 1
    labels = ids.masked_fill(mask == 0, -100) if load.task.kind == "lm" else torch.tensor([r.label for r in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _timed(load: Workload, batches: "_Batches", step: Callable[[dict[str, Tensor]], None]) -> Steps:
    def steps(count: int) -> StepTimes:
        seconds, examples = list[float](), list[int]()
        for _ in range(count):
            start = time.perf_counter()
            rows = batches.next()
            step(_collate(load, rows))
            seconds.append(time.perf_counter() - start)
            examples.append(len(rows))
        return StepTimes(tuple(seconds), tuple(examples))

    return steps


class _Batches:
    """Shuffled batches of one size, epoch after epoch."""

    def __init__(self, load: Workload) -> None:
        self._rows, self._size = load.rows, load.batch
        self._generator = torch.Generator().manual_seed(1)
        self._order = list[int]()

    def next(self) -> list[Encoded]:
        if len(self._order) < self._size:
            self._order = torch.randperm(len(self._rows), generator=self._generator).tolist()
        chosen, self._order = self._order[: self._size], self._order[self._size :]
        return [self._rows[index] for index in chosen]


def _peft(load: Workload) -> Steps:
    """The loop of the documentation of Transformers and PEFT: shuffled batches, the model's own loss, AdamW."""
    model = _stock_model(load, freeze_a=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)

    def step(batch: dict[str, Tensor]) -> None:
        torch.autograd.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()

    return _timed(load, _Batches(load), step)


def _example_losses(load: Workload, output: Any, batch: dict[str, Tensor]) -> Tensor:
    if load.task.kind == "classify":
        return nn.functional.cross_entropy(output.logits, batch["labels"], reduction="none")
    targets = batch["labels"][:, 1:]
    losses = nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100
    ).view_as(targets)
    return losses.sum(1) / (targets != -100).sum(1).clamp_min(1)


def _opacus(load: Workload, *, ghost: bool) -> Steps:
    """Opacus' own modules and optimisers, with its own noise; freeze-A, as with ours."""
    model = _stock_model(load, freeze_a=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inner = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    settings: dict[str, Any] = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": load.batch}
    if not ghost:
        wrapped, optimizer = GradSampleModule(model), DPOptimizer(inner, **settings)

        def step(batch: dict[str, Tensor]) -> None:
            losses = _example_losses(load, wrapped(**batch), batch)
            torch.autograd.backward(losses.mean())
            optimizer.step()
            optimizer.zero_grad()

        return _timed(load, _Batches(load), step)
    clipping = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, use_ghost_clipping=True)
    fast = DPOptimizerFastGradientClipping(inner, **settings)
    criterion = DPLossFastGradientClipping(clipping, fast, _PerExample(), loss_reduction="mean")

    def ghost_step(batch: dict[str, Tensor]) -> None:
        losses = _example_losses(load, clipping(**batch), batch)
        criterion(losses, torch.zeros_like(losses)).backward()
        fast.step()
        fast.zero_grad()

    return _timed(load, _Batches(load), ghost_step)


class _PerExample(nn.Module):
    """Opacus' ghost mode wants a criterion: the losses are computed already."""

    reduction = "mean"

    def forward(self, losses: Tensor, _targets: Tensor) -> Tensor:
        return losses if self.reduction == "none" else losses.mean()
