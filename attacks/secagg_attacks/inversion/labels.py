"""Which classes were trained on, from the head's update.

The gradient of cross entropy for the logits is p - y. So over a batch the head's bias moves by s (share - p) for each
class, with p the mean predicted probability and s the learning rate: a class that was not there falls by s p, one that
was there alone rises (iDLG, Zhao et al. 2020, arXiv 2001.02610; LLG, Wainakh et al. 2022, arXiv 2105.09369). A head
without a bias has the same in the strongest direction of its weights' update, but for its sign.

One step on one example is exact: the weights' update is the bias's times the example's features, so p can be computed.
Of batches and several steps these are estimates: p is what the head predicts for their mean features, in the middle of
the update. Clipping makes s smaller than it is taken for, and the shares too even; of an adaptive optimiser only ratios
are used.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.special import softmax

from secagg.adapter import unflatten
from secagg.encodings.base import lora_factor
from secagg.errors import AuditError
from secagg_attacks.attack import Attack, LabelGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.inversion.local_steps import local_steps, rate_of
from secagg_attacks.views import Message, Public, View


def class_shares(public: Public, message: Message) -> Floats:
    """The part of a message's examples that is of each class, [classes]. Raises AuditError without classes."""
    classes = len(public.plan.task.labels)
    if not classes:
        raise AuditError(f"task {public.plan.task.kind} has no classes")
    bias, weight = _head(public, message, classes)
    if bias is not None:
        chances = _chances(len(local_steps(public, message)), bias, weight)
        return _shares(bias.change, chances, _least_scale(public, message, bias.name))
    if weight is None:
        raise AuditError("the plan trains no head whose rows are the classes")
    return _shares(_along_strongest(weight.change), np.full(classes, 1 / classes), None)


@dataclass(frozen=True, slots=True)
class _Moved:
    """A tensor of the head, from `start` by `change`: [classes] or [classes, features]."""

    name: str
    start: Floats = field(repr=False)
    change: Floats = field(repr=False)

    def after(self, part: float) -> Floats:
        """Its value after a part of the change."""
        return self.start + part * self.change


def _head(public: Public, message: Message, classes: int) -> tuple[_Moved | None, _Moved | None]:
    """Bias and weight of the last layer."""
    found = {
        change.ndim: _Moved(name, message.start[name].astype(np.float64), change.astype(np.float64))
        for name, change in unflatten(public.plan, message.change).items()
        if lora_factor(name) is None and change.shape[0] == classes
    }
    return found.get(1), found.get(2)


def _chances(steps: int, bias: _Moved, weight: _Moved | None) -> Floats:
    """Predicted probabilities for the mean features, in the middle of where the steps started, [classes].

    Where all features are alike, the weights move by the bias's change times them: they are the best fit to that.
    """
    part = (steps - 1) / (2 * steps)
    logits = bias.after(part)
    if weight is not None:
        features = bias.change @ weight.change / max(float(bias.change @ bias.change), 1e-30)
        logits = logits + weight.after(part) @ features
    found: Floats = softmax(logits)
    return found


def _least_scale(public: Public, message: Message, name: str) -> float | None:
    """What s is at most, when examples may be of every class; None when some class must be missing, or s is unknown."""
    steps, settings = local_steps(public, message), public.plan.training
    drawn = len(steps) * settings.batch_size * message.senders
    if settings.optimizer != "sgd" or drawn < len(public.plan.task.labels):
        return None
    return rate_of(public, message, name)


def _shares(moved: Floats, chances: Floats, scale: float | None) -> Floats:
    """`chances` + `moved` / s for the least s, and no less than `scale`, that makes no share negative."""
    least = float(np.max(-moved / np.maximum(chances, 1e-12)))
    chosen = max(least, scale or 0.0)
    if chosen <= 0:
        return chances
    shares = np.maximum(chances + moved / chosen, 0.0)
    found: Floats = shares / shares.sum()
    return found


def _along_strongest(weight: Floats) -> Floats:
    """How far each row went along the strongest direction, [classes], so that fewer rise than fall.

    One example makes its own class rise and all others fall. Nothing is said when as many rise as fall.
    """
    _, _, directions = np.linalg.svd(weight, full_matrices=False)
    moved: Floats = weight @ directions[0]
    up, down = int((moved > 0).sum()), int((moved < 0).sum())
    if up == down:
        return np.zeros(len(moved))
    return moved if up < down else -moved


def likeliest(shares: Floats, count: int) -> tuple[int, ...]:
    """`count` classes whose numbers come nearest to `shares`, in order: whole parts first, then largest remainders."""
    wanted = shares * count
    numbers = np.floor(wanted + 1e-9).astype(int)
    for label in np.argsort(numbers - wanted, kind="stable")[: count - numbers.sum()]:
        numbers[label] += 1
    return tuple(int(label) for label in np.repeat(np.arange(len(shares)), numbers))


@dataclass(frozen=True, slots=True)
class LabelInference(Attack):
    """Without settings."""

    name: ClassVar[str] = "label-inference"
    summary: ClassVar[str] = "the classes that were trained on, from the head's update"
    source: ClassVar[str] = "Zhao et al. 2020, iDLG, arXiv 2001.02610; Wainakh et al. 2022, LLG, arXiv 2105.09369"

    def run(self, view: View) -> tuple[LabelGuess, ...]:
        """Of each message. Raises AuditError for a task without classes, or without a head that is trained."""
        return tuple(LabelGuess(class_shares(view.public, message)) for message in view.messages())


ATTACKS = (LabelInference(),)
