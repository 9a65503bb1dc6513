"""What a released adapter is compared with. For public data only: nothing here is accounted in a ledger."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from secagg.encodings.registry import DEFAULT
from secagg.errors import ConfigError
from secagg.plan import Plan
from secagg_client.adapted import attached
from secagg_client.classifier import HEAD, MeanPoolClassifier
from secagg_client.data import Examples
from secagg_client.evaluation import evaluate_change
from secagg_client.models import LoadedBase
from secagg_client.noise import NoiseSource
from secagg_client.tasks import Batch, ClassifyTask, Encoded, Metrics, NoPrefix, classification_metrics
from secagg_client.training import StepReport, TrainedUpdate, TrainOptions, execute, prepare_run, train


def majority(train_labels: tuple[int, ...], test: Examples, classes: int) -> Metrics:
    """Always the most frequent class of the training labels. The loss is that of their frequencies."""
    counts = Counter(train_labels)
    shares = np.array([(counts[label] + 1) / (len(train_labels) + classes) for label in range(classes)])
    logits = torch.from_numpy(np.log(shares)).float().expand(len(test), classes)
    return classification_metrics(logits, torch.tensor(test.labels))


def zero_shot(plan: Plan, base: LoadedBase, test: Examples) -> Metrics:
    """The starting model: the adapter at its start values."""
    return evaluate_change(plan, base, np.zeros(plan.length, dtype=np.float32), test)


def head_plan(plan: Plan, **training: object) -> Plan:
    """The plan without LoRA: only the head is trained, on frozen features, and its change is summed as it is.

    `training` overrides settings.

    Raises:
        ConfigError: the task has no head.
    """
    tensors = tuple(spec for spec in plan.tensors if ".lora_" not in spec.name)
    if not tensors:
        raise ConfigError("the plan has no head to train alone")
    settings = plan.training.model_validate({**plan.training.model_dump(), **training})
    changes = {"method": DEFAULT, "options": {}, "tensors": tensors, "training": settings}
    return Plan.model_validate({**plan.model_dump(), **changes})


def without_privacy(plan: Plan) -> Plan:
    """The same run without clipping and noise."""
    return plan.model_copy(update={"training": plan.training.model_copy(update={"epsilon": None})})


def train_head(
    plan: Plan,
    base: LoadedBase,
    data: Examples,
    declared_size: int,
    source: NoiseSource,
    progress: Callable[[StepReport], None] = lambda _report: None,
    options: TrainOptions | None = None,
) -> TrainedUpdate:
    """Train a `head_plan` as `train` does, but compute the frozen features once where the model pools by mean."""
    if any(".lora_" in spec.name for spec in plan.tensors):
        raise ConfigError("train_head takes a plan without LoRA: make one with head_plan")
    if not isinstance(base.model, MeanPoolClassifier):
        return train(plan, base, data, declared_size, source, progress, options)
    run = prepare_run(plan, FeatureTask(plan, base), declared_size, source, options or TrainOptions())
    return execute(run, plan, base, data, progress)


class FeatureTask(ClassifyTask):
    """Classification from features computed once. A row's only "token" is its index into them."""

    def __init__(self, plan: Plan, base: LoadedBase) -> None:
        super().__init__(plan.task, base.tokenizer, NoPrefix())
        self._plan, self._base = plan, base
        self._features = torch.empty(0)

    @torch.no_grad()
    def encode(self, examples: Examples) -> list[Encoded]:
        """Features of every example, in memory; raises DataError as ClassifyTask does."""
        rows = super().encode(examples)
        with attached(self._plan, self._base) as adapted:
            model = adapted.model
            if not isinstance(model, MeanPoolClassifier):
                raise ConfigError("features are computed once only for pooling = mean")
            parts = [self.collate(rows[start : start + 64]) for start in range(0, len(rows), 64)]
            device = next(model.parameters()).device
            half = self._plan.training.precision == "bf16"
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                features = [model.features(p.input_ids.to(device), p.attention_mask.to(device)) for p in parts]
        self._features = torch.cat(features).float()
        return [Encoded((index,), row.label) for index, row in enumerate(rows)]

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The head on the features, float32 [n, classes]."""
        features = self._features.to(batch.input_ids.device)[batch.input_ids[:, 0]]
        path = HEAD if isinstance(model, MeanPoolClassifier) else f"_module.{HEAD}"  # inside Opacus' wrapper
        return torch.as_tensor(model.get_submodule(path)(features)).float()
