"""LiRA and RMIA on a view that comes with shadow federations (see `shadow` for the scores)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from secagg.errors import AuditError
from secagg_attacks.attack import Attack, MembershipGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.membership.shadow import Mode, Shadows, lira_where_enough, rmia_where_enough
from secagg_attacks.probe import probe_of
from secagg_attacks.views import View
from secagg_client.data import Examples


def shadows_of(view: View) -> Shadows:
    """Probabilities of the candidates under each shadow's released model. Raises AuditError without shadows."""
    question = view.asked()
    if not question.shadows:
        raise AuditError("there are no shadow federations: give the question some, each with who was in it")
    found = np.stack([_probabilities(shadow.view, question.candidates) for shadow in question.shadows])
    return Shadows(found, np.stack([shadow.is_in for shadow in question.shadows]))


def _probabilities(view: View, examples: Examples) -> Floats:
    return probe_of(view.public, examples).probabilities(view.models()[-1])


@dataclass(frozen=True)
class Lira(Attack):
    """The likelihood ratio of the released model's confidence, in and out (Carlini et al. 2022)."""

    mode: Mode
    variance: Literal["fixed", "example"]
    source: ClassVar[str] = "Carlini et al. 2022, arXiv 2112.03570"

    @property
    def name(self) -> str:  # type: ignore[override]
        """By mode and variance."""
        return f"lira-{self.mode}{'-fixed' if self.variance == 'fixed' else ''}"

    @property
    def summary(self) -> str:  # type: ignore[override]
        """What it compares."""
        what = "with and without the example" if self.mode == "online" else "without the example"
        return f"confidence against shadow federations {what}, {self.variance} variance"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate. Raises AuditError for too few shadows."""
        target = _probabilities(view, view.asked().candidates)
        return MembershipGuess(lira_where_enough(target, shadows_of(view), mode=self.mode, variance=self.variance))


@dataclass(frozen=True)
class Rmia(Attack):
    """The likelihood ratio against a population (Zarifzadeh et al. 2024)."""

    mode: Mode
    source: ClassVar[str] = "Zarifzadeh, Liu & Shokri 2024, arXiv 2312.03262"

    @property
    def name(self) -> str:  # type: ignore[override]
        """By mode."""
        return f"rmia-{self.mode}"

    @property
    def summary(self) -> str:  # type: ignore[override]
        """What it compares."""
        return f"confidence against a population, priors from shadow federations, {self.mode}"

    def run(self, view: View) -> MembershipGuess:
        """A score for each candidate. Raises AuditError for too few shadows."""
        question = view.asked()
        own, others = (_probabilities(view, data) for data in (question.candidates, question.population))
        shadows = shadows_of(view)
        seen = np.stack([_probabilities(shadow.view, question.population) for shadow in question.shadows])
        return MembershipGuess(rmia_where_enough(own, shadows, others, seen, mode=self.mode))


ATTACKS = (
    Lira("offline", "example"),
    Lira("offline", "fixed"),
    Lira("online", "example"),
    Lira("online", "fixed"),
    Rmia("offline"),
    Rmia("online"),
)
