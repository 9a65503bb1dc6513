"""Attacks that ask the models: what each makes of an example, from its loss and its tokens.

All are on the released model; `reference-difference` and `trajectory` also look at the models before it, which every
adversary has: the start is public, and rounds show what lies between.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from secagg_attacks.attack import Attack, MembershipGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.membership import tokens
from secagg_attacks.probe import Probe, TokenView, probe_of
from secagg_attacks.views import View


def asked_probe(view: View) -> Probe:
    """The probe of the candidates of a view."""
    return probe_of(view.public, view.asked().candidates)


@dataclass(frozen=True)
class Loss(Attack):
    """Minus the example's loss under the released model (Yeom et al. 2018)."""

    name: ClassVar[str] = "loss"
    summary: ClassVar[str] = "the released model's loss"
    source: ClassVar[str] = "Yeom et al. 2018, arXiv 1709.01604"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate."""
        return MembershipGuess(-asked_probe(view).losses(view.models()[-1]))


@dataclass(frozen=True)
class ReferenceDifference(Attack):
    """How much the loss fell from the public start to the release: what is easy for any model is no evidence."""

    name: ClassVar[str] = "reference-difference"
    summary: ClassVar[str] = "the fall of the loss from the start to the release"
    source: ClassVar[str] = "Carlini et al. 2021, arXiv 2012.07805"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate."""
        probe, models = asked_probe(view), view.models()
        return MembershipGuess(probe.losses(models[0]) - probe.losses(models[-1]))


@dataclass(frozen=True)
class Trajectory(Attack):
    """The fall of the loss over all rounds' models, each relative to that round's mean over the candidates.

    The mean over rounds of the standardised fall: a round that moved little says as much as one that moved far. With
    one round it orders candidates as `reference-difference` does (Liu et al. 2022 follow losses over training).
    """

    name: ClassVar[str] = "trajectory"
    summary: ClassVar[str] = "the standardised fall of the loss in each round, averaged"
    source: ClassVar[str] = "Liu et al. 2022, arXiv 2208.14933"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate."""
        probe = asked_probe(view)
        losses = np.stack([probe.losses(model) for model in view.models()])
        return MembershipGuess(standardised(losses[:-1] - losses[1:]).mean(axis=0))


def standardised(values: Floats) -> Floats:
    """Each row with mean 0 and deviation 1 over the candidates, [rows, candidates]; a constant row is 0."""
    deviation = values.std(axis=1, keepdims=True)
    found: Floats = (values - values.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    return found


@dataclass(frozen=True)
class GradientNorm(Attack):
    """Minus the norm of the example's gradient under the released model: what was fitted pulls no more."""

    name: ClassVar[str] = "gradient-norm"
    summary: ClassVar[str] = "the norm of the example's gradient under the released model"
    source: ClassVar[str] = "Nasr et al. 2019, arXiv 1812.00910"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate."""
        nothing = np.empty((0, view.public.plan.length), np.float32)
        return MembershipGuess(-asked_probe(view).products(view.models()[-1], nothing)[1])


@dataclass(frozen=True)
class TokenAttack(Attack):
    """A score from the probabilities of an example's tokens, for language models."""

    score: Callable[[TokenView, str], float]

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate. Raises AuditError for other tasks than language models."""
        seen, texts = asked_probe(view).tokens(view.models()[-1]), view.asked().candidates.texts
        return MembershipGuess(np.array([self.score(*each) for each in zip(seen, texts, strict=True)]))


class Zlib(TokenAttack):
    """The likelihood against the text's compressed size."""

    name = "zlib"
    summary = "log likelihood for each byte of the compressed text"
    source = "Carlini et al. 2021, arXiv 2012.07805"


class MinK(TokenAttack):
    """The mean over the least likely fifth of the tokens."""

    name = "min-k"
    summary = "the least likely fifth of the tokens"
    source = "Shi et al. 2024, arXiv 2310.16789"


class MinKPlusPlus(TokenAttack):
    """The same, against what the model expects at each place."""

    name = "min-k++"
    summary = "the least likely fifth of the tokens, against what the model expects"
    source = "Zhang et al. 2025, arXiv 2404.02936"


ATTACKS = (
    Loss(),
    ReferenceDifference(),
    Trajectory(),
    GradientNorm(),
    Zlib(lambda seen, text: tokens.zlib_ratio(seen.logprobs, text)),
    MinK(lambda seen, _text: tokens.min_k(seen.logprobs)),
    MinKPlusPlus(lambda seen, _text: tokens.min_k_plus_plus(seen.logprobs, seen.means, seen.deviations)),
)
