"""What part of a message's examples is of each class, by the gradients that each class would leave.

A change is, over few steps, minus the rate times the mean gradient of the examples, so a mixture of the classes' mean
gradients with the classes' shares as weights: non-negative least squares finds them. The gradients are those of public
examples (the question's population), at the message's start and clipped as in training. Exact as far as the public
examples are like the private ones; of several steps, of an adaptive optimiser and of a final model it is an estimate.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import nnls

from secagg.errors import AuditError
from secagg_attacks.attack import Attack, LabelGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.probe import Probe, probe_of
from secagg_attacks.views import Message, View


def class_gradients(probe: Probe, labels: tuple[int, ...], message: Message, clip: float) -> Floats:
    """The mean clipped gradient of each class at a message's start, [classes in `labels`, length], by class."""
    kinds, index_of = np.unique(labels, return_inverse=True)
    totals = np.zeros((len(kinds), len(message.change)))
    for index, part in probe.gradients(message.start):
        exact = part.astype(np.float64)
        norms = np.linalg.norm(exact, axis=1, keepdims=True)
        np.add.at(totals, index_of[index], exact * np.minimum(1.0, clip / np.maximum(norms, 1e-30)))
    found: Floats = totals / np.bincount(index_of)[:, None]
    return found


def mixture(change: Floats, gradients: Floats) -> Floats:
    """Non-negative weights of the gradients [kinds, length] in -change [length], adding up to 1; even when all are 0.

    Least squares by way of the gradients' span, [kinds, kinds]: what of the change is outside it moves no weight.
    """
    basis, triangle = np.linalg.qr(gradients.T)
    scale = np.abs(triangle).max()
    length = np.linalg.norm(change)
    if scale == 0 or length == 0:
        return np.full(len(gradients), 1 / len(gradients))
    weights = nnls(triangle / scale, -(basis.T @ change) / length)[0]
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(gradients), 1 / len(gradients))


@dataclass(frozen=True, slots=True)
class PropertyInference(Attack):
    """Without settings. Under V1 of each client, otherwise of the cohort."""

    name: ClassVar[str] = "property-inference"
    summary: ClassVar[str] = "the shares of the classes, from their mean gradients on public examples"
    source: ClassVar[str] = "Melis et al. 2019, arXiv 1805.04049; Wainakh et al. 2022, LLG, arXiv 2105.09369"

    def run(self, view: View) -> tuple[LabelGuess, ...]:
        """Of each message. Raises AuditError without a population, or for one that has not every class of the task."""
        population, classes = view.asked().population, len(view.public.plan.task.labels)
        if not len(population):
            raise AuditError(f"{self.name} needs a population: public examples of each class")
        if not classes or len(set(population.labels)) < classes:
            raise AuditError(f"{self.name} needs public examples of each class: the population has not all labels")
        probe, clip = probe_of(view.public, population), view.public.plan.training.max_grad_norm
        known, found = dict[tuple[int, int], Floats](), list[LabelGuess]()
        for message in view.messages():
            key = (message.number, id(message.start))  # clients of one round start alike
            if key not in known:
                known[key] = class_gradients(probe, population.labels, message, clip)
            found.append(LabelGuess(mixture(message.change.astype(np.float64), known[key])))
        return tuple(found)


ATTACKS = (PropertyInference(),)
