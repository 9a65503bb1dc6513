"""An audit of the client's own DP-SGD: its sampling, clipping, noise and steps, on canaries that are all alike.

The model is one linear layer with a weight for each canary, whose example moves that weight alone, by more than the
clipping norm (canaries of disjoint gradients: Nasr et al. 2023, arXiv 2302.07956). So each weight is a Poisson-sampled
Gaussian mechanism of its own, and its change is the best score there is: what the accountant says of the worst case is
nearly met, and an implementation that does less than it says is caught. Everything but model and data is the product's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secagg.adapter import flatten
from secagg.errors import AuditError
from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg_attacks.audit.guessing import Canaries
from secagg_attacks.intervals import Floats
from secagg_attacks.roc import Scores
from secagg_client.accounting import Mechanism
from secagg_client.adapted import Adapted
from secagg_client.noise import SeededSource
from secagg_client.training import Run, TrainOptions, run_steps

WEIGHT = "canaries.lora_B.weight"
LENGTH = 10.0
"""Of a canary's gradient, in clipping norms."""


@dataclass(frozen=True, slots=True)
class CanaryRow:
    """The example that moves weight number `index`."""

    index: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class CanaryTask:
    """The task whose losses are the layer's outputs: the gradient of each is its input, LENGTH long."""

    canaries: int

    def collate(self, rows: Sequence[CanaryRow]) -> Tensor:
        """Inputs [n, canaries]."""
        batch = torch.zeros(len(rows), self.canaries)
        batch[range(len(rows)), [row.index for row in rows]] = LENGTH
        return batch

    def losses(self, model: nn.Module, batch: Tensor) -> Tensor:
        """One for each example, [n]."""
        found: Tensor = model(batch).squeeze(1)
        return found


def audit_training(mechanism: Mechanism, canaries: int, seed: int, *, copies: int = 1) -> Canaries:
    """Train once with coins for all canaries, each in as `copies` examples; scores are how far the weights moved.

    `mechanism` is what the accountant was told: its rate, sigma and steps go to the client's code. The run repeats with
    the seed. Raises what training raises.
    """
    is_in = np.random.default_rng(seed).random(canaries) < 0.5
    units = [(CanaryRow(int(index)),) for index in np.flatnonzero(is_in) for _ in range(copies)]
    plan = _plan(mechanism, canaries)
    layer, weight = nn.Linear(canaries, 1, bias=False), nn.Parameter(torch.zeros(1, canaries))
    layer.weight = weight
    adapted = Adapted(nn.Sequential(layer), {WEIGHT: weight})
    task: Any = CanaryTask(canaries)
    source = SeededSource(seed)
    run = Run(plan.training, mechanism, mechanism.rate, task, source, TrainOptions(), range(mechanism.steps))
    run_steps(run, plan, adapted, units, lambda _report: None)
    scores: Floats = -flatten(plan, adapted.values()).astype(np.float64)
    return Canaries(scores, is_in)


def _plan(mechanism: Mechanism, canaries: int) -> Plan:
    """Plain steps of the mechanism; without an epsilon in it, so that no progress report accounts for any."""
    training = TrainingSettings(
        steps=mechanism.steps, batch_size=max(1, round(mechanism.rate * canaries)), learning_rate=1.0, optimizer="sgd",
        momentum=0.0, max_grad_norm=1.0, epsilon=None, delta=1e-5, noise="seeded",
    )  # fmt: skip
    spec = TensorSpec(name=WEIGHT, shape=(1, canaries), init=TensorInit(kind="zeros"), clip=1.0)
    return Plan(
        base_model="canaries", base_model_hash="00" * 32, architecture="Canaries", task=TaskSpec(kind="lm"),
        a_seed="00" * 32, tensors=(spec,), adapter_config={}, training=training,
    )  # fmt: skip


Mechanised = Callable[[bool, int], float]
"""With the canary or without it, and a seed: how much one run's output says that it was in."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """Runs on neighbouring data: a threshold from one half of them, and the scores of the other half."""

    scores: Scores
    threshold: float


def repeated(run: Mechanised, runs: int, seed: int) -> Repeated:
    """Run on both data sets `runs` times each, for `two_sample.epsilon_lower_bound`.

    The threshold is the one at which the first half's rates are furthest apart in ratio, ten runs at least beyond it.
    Raises AuditError for fewer than 40 runs.
    """
    if runs < 40:
        raise AuditError(f"{runs} runs on each data set are too few: 40 at least, half of which choose the threshold")
    members = np.array([run(True, seed + 2 * number) for number in range(runs)])
    others = np.array([run(False, seed + 2 * number + 1) for number in range(runs)])
    half = runs // 2
    threshold = _threshold(members[:half], others[:half])
    return Repeated(Scores(members[half:], others[half:]), threshold)


def _threshold(members: Floats, others: Floats) -> float:
    candidates: NDArray[np.float64] = np.sort(np.concatenate([members, others]))
    tpr = np.array([(members >= each).mean() for each in candidates])
    fpr = np.array([(others >= each).mean() for each in candidates])
    least = 10 / len(members)
    ratios = np.maximum(
        np.log(np.maximum(tpr, 1e-9) / np.maximum(fpr, least)), np.log((1 - fpr + 1e-9) / np.maximum(1 - tpr, least))
    )
    return float(candidates[int(np.argmax(ratios))])
