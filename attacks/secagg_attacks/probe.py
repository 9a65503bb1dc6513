"""What a model with an adapter makes of examples: losses, token probabilities, per-example gradients.

Float32, whatever the training's precision. What is computed of an adapter is kept for the next attack that asks.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secagg.encodings.registry import encoding_of
from secagg.errors import AuditError
from secagg.plan import Plan
from secagg_attacks.intervals import Floats
from secagg_attacks.views import Public, Tensors, Vector
from secagg_client.adapted import Adapted, attached, untrained, with_squares
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.per_example import PerExampleGradients
from secagg_client.prefix import training_task
from secagg_client.square import FACTOR
from secagg_client.tasks import AnyTask
from secagg_client.tasks.base import by_length, device_of
from secagg_client.training import TrainOptions

MICRO_BATCH = 32


@dataclass(frozen=True, slots=True)
class TokenView:
    """A causal model's view of one example: log p of each token that its loss counts, [tokens], natural logarithms.

    `means` and `deviations` [tokens] are those of log p(v) for v drawn from the model itself.
    """

    logprobs: Floats = field(repr=False)
    means: Floats = field(repr=False)
    deviations: Floats = field(repr=False)


class Probe:
    """A run's base model, asked about `data`. Not for several threads at once."""

    def __init__(self, public: Public, data: Examples) -> None:
        self._public, self._data = public, data
        self._plan = in_float32(public.plan)
        self._device = TrainOptions().torch_device()
        self._task: AnyTask = training_task(self._plan, public.base, self._device)
        self._rows = self._task.encode(data)
        self._kept: dict[tuple[str, bytes], Any] = {}
        self._products: dict[bytes, dict[bytes, Floats]] = {}
        self._norms: dict[bytes, Floats] = {}

    def __len__(self) -> int:
        return len(self._data)

    def losses(self, tensors: Tensors) -> Floats:
        """The loss of each example, [n]: the cross entropy of its class, or the mean over its tokens."""
        found: Floats = self._once("losses", tensors, self._losses)
        return found

    def probabilities(self, tensors: Tensors) -> Floats:
        """exp(-loss), [n]: of the right class, or the geometric mean over an example's tokens."""
        return np.exp(-self.losses(tensors))

    def tokens(self, tensors: Tensors) -> tuple[TokenView, ...]:
        """Of each example. Raises AuditError for other tasks than language models."""
        if self._plan.task.kind not in ("lm", "chat"):
            raise AuditError(f"task {self._plan.task.kind} gives no probabilities of tokens: use an attack on its loss")
        found: tuple[TokenView, ...] = self._once("tokens", tensors, self._tokens)
        return found

    def gradients(self, tensors: Tensors) -> Iterator[tuple[NDArray[np.int64], Vector]]:
        """Per-example gradients of the loss for the trained tensors, in parts: which examples, [n, plan.length].

        Raises AuditError for an adapter of another kind than clients train.
        """
        if not is_clients(self._plan, tensors):
            raise AuditError(
                f"method {self._plan.method} releases another adapter than clients train: it has no gradients of theirs"
            )
        with attached(self._plan, self._public.base, self._device) as adapted:
            adapted.assign({spec.name: tensors[spec.name] for spec in self._plan.tensors})
            yield from self._parts(adapted)

    def products(self, tensors: Tensors, directions: Vector) -> tuple[Floats, Floats]:
        """<gradient, direction> for each example and direction, [n, directions], and the gradients' norms, [n].

        One pass, however many directions: `directions` is [directions, plan.length]. A direction that was asked for
        before costs nothing.
        """
        key = fingerprint(tensors)
        known = self._products.setdefault(key, {})
        names = [hashlib.sha256(np.ascontiguousarray(each, np.float32).tobytes()).digest() for each in directions]
        new = {name: row for row, name in enumerate(names) if name not in known}
        if new or key not in self._norms:
            fresh = directions[list(new.values())]
            dots, norms = np.empty((len(self), len(new))), np.empty(len(self))
            for index, part in self.gradients(tensors):
                dots[index] = part.astype(np.float64) @ fresh.T.astype(np.float64)
                norms[index] = np.linalg.norm(part.astype(np.float64), axis=1)
            known.update(zip(new, dots.T, strict=True))
            self._norms[key] = norms
        found = np.array([known[name] for name in names]).reshape(len(names), len(self)).T
        return found, self._norms[key]

    def _parts(self, adapted: Adapted) -> Iterator[tuple[NDArray[np.int64], Vector]]:
        trained = [adapted.parameters[spec.name] for spec in self._plan.trained]
        for module in adapted.model.modules():
            module.training = any(p.requires_grad for p in module.parameters(recurse=False))
        model = PerExampleGradients(adapted.model)
        try:
            for index in by_length(self._rows, MICRO_BATCH):
                batch = self._task.collate([self._rows[i] for i in index]).to(self._device)
                torch.autograd.backward(self._task.losses(model, batch).sum())
                flat = [parameter.grad_sample.reshape(len(index), -1) for parameter in trained]  # type: ignore[attr-defined]
                yield np.asarray(index), torch.cat(flat, 1).float().cpu().numpy()
                for parameter in trained:
                    del parameter.grad_sample  # type: ignore[attr-defined]
        finally:
            model.to_standard_module()
            adapted.model.eval()

    def _once(self, what: str, tensors: Tensors, compute: Callable[[Any], Any]) -> Any:
        key = (what, fingerprint(tensors))
        if key not in self._kept:
            with released(self._plan, self._public.base, tensors) as model, torch.no_grad():
                self._kept[key] = compute(model)
        return self._kept[key]

    def _losses(self, model: Any) -> Floats:
        out = np.empty(len(self._rows))
        for index in by_length(self._rows, MICRO_BATCH):
            batch = self._task.collate([self._rows[i] for i in index]).to(device_of(model))
            out[index] = self._task.losses(model, batch).double().cpu().numpy()
        return out

    def _tokens(self, model: Any) -> tuple[TokenView, ...]:
        out: dict[int, TokenView] = {}
        for index in by_length(self._rows, MICRO_BATCH // 4):
            batch = self._task.collate([self._rows[i] for i in index]).to(device_of(model))
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()
            for place, i in enumerate(index):
                out[i] = _token_view(logits[place], batch.input_ids[place], batch.counted[place])
        return tuple(out[i] for i in range(len(self._rows)))


def is_clients(plan: Plan, tensors: Tensors) -> bool:
    """Whether an adapter has the tensors that clients train and keep, in their shapes."""
    return {name: tensor.shape for name, tensor in tensors.items()} == {s.name: s.shape for s in plan.tensors}


@contextmanager
def released(plan: Plan, base: LoadedBase, tensors: Tensors) -> Iterator[Any]:
    """The model under an adapter, of the clients' kind or of the release's. Raises AuditError for another's tensors."""
    config = plan.adapter_config if is_clients(plan, tensors) else encoding_of(plan).adapter_config(plan)
    with untrained(base, config) as bare:
        adapted = with_squares(bare) if any(name.endswith(FACTOR) for name in tensors) else bare
        adapted.model.to(TrainOptions().torch_device())
        if set(tensors) != set(adapted.parameters):
            raise AuditError("the adapter is not one of this run: its tensors have other names")
        adapted.assign(tensors)
        yield adapted.model


def _token_view(logits: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor) -> TokenView:
    """Of one example: logits [tokens, words], ids and counted [tokens]; each token is told by those before it."""
    places = torch.nonzero(counted[1:]).squeeze(1)
    logs = logits[places].log_softmax(1)
    weights = logs.exp()
    means = (weights * logs).sum(1)
    deviations = (weights * (logs - means.unsqueeze(1)).square()).sum(1).clamp_min(0).sqrt()
    chosen = logs.gather(1, ids[1:][places].unsqueeze(1)).squeeze(1).clamp_max(0.0)
    return TokenView(*(values.double().cpu().numpy() for values in (chosen, means, deviations)))


def fingerprint(tensors: Mapping[str, Vector]) -> bytes:
    """Equal for equal adapters."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\x00" + np.ascontiguousarray(tensors[name], np.float32).tobytes())
    return digest.digest()


_LATEST: list[tuple[Public, Examples, Probe]] = []
_KEPT = 4


def probe_of(public: Public, data: Examples) -> Probe:
    """The probe of these very objects: attacks on one view share it, and what it has computed."""
    for entry in _LATEST:
        if entry[0] is public and entry[1] is data:
            return entry[2]
    probe = Probe(public, data)
    _LATEST.insert(0, (public, data, probe))
    del _LATEST[_KEPT:]
    return probe


def in_float32(plan: Plan) -> Plan:
    """The same plan, to be asked in float32 whatever it is trained in."""
    return plan.model_copy(update={"training": plan.training.model_copy(update={"precision": "fp32"})})
