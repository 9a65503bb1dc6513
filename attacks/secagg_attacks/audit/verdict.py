"""What a report concludes of its audits: it fails when a rigorous bound refutes the accounted epsilon, and only then.

All audits of one report share one error: each rigorous one is judged at its part of it (Bonferroni), so that a report
on an honest run fails with a probability of `FAMILY_WISE` at most. Estimates are shown beside, and never fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from secagg.errors import AuditError

FAMILY_WISE = 1e-4
FAILS = "fails: the run leaks more than it accounts for"
HOLDS = "no leak detected by these attacks"
POWERLESS = "nothing is said: with so little this audit could not have failed"
LEAK = "leak detected"
"""What an attack that finds something reads."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An audit, to be judged against what was accounted.

    Attributes:
        name: what the report calls it.
        accounted: the epsilon that the accountant states, at the audit's delta.
        lower_bound: a significance: the lower bound on epsilon. Of an estimate, the same for any.
        reach: a significance: the highest bound that the audit could have given; None where none is known.
        rigorous: whether the bound holds for any mechanism, with that significance.
    """

    name: str
    accounted: float
    lower_bound: Callable[[float], float] = field(repr=False)
    reach: Callable[[float], float] | None = field(default=None, repr=False)
    rigorous: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One audit, judged. `significance` None: an estimate, of which nothing follows."""

    name: str
    epsilon: float
    accounted: float
    reach: float | None
    significance: float | None

    @property
    def fails(self) -> bool:
        """Whether the accounted epsilon is refuted."""
        return self.significance is not None and self.epsilon > self.accounted

    @property
    def could_fail(self) -> bool:
        """Whether the audit had the power to: its best bound is above the accounted epsilon."""
        return self.significance is not None and (self.reach is None or self.reach > self.accounted)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a whole report."""

    findings: tuple[Finding, ...]

    @property
    def fails(self) -> bool:
        """Whether one audit at least does."""
        return any(finding.fails for finding in self.findings)

    @property
    def summary(self) -> str:
        """In words; never "private"."""
        if self.fails:
            return FAILS
        rigorous = [finding for finding in self.findings if finding.significance is not None]
        return POWERLESS if rigorous and not any(finding.could_fail for finding in rigorous) else HOLDS


def judge(claims: Sequence[Claim], family_wise: float = FAMILY_WISE) -> Verdict:
    """Judge all audits of a report together. Raises AuditError without any, or for two of one name."""
    if not claims or len({claim.name for claim in claims}) != len(claims):
        raise AuditError("a verdict needs audits, each under a name of its own")
    rigorous = sum(claim.rigorous for claim in claims)
    share = family_wise / max(1, rigorous)
    return Verdict(tuple(_finding(claim, share) for claim in claims))


def _finding(claim: Claim, share: float) -> Finding:
    reach = claim.reach(share) if claim.reach is not None else None
    significance = share if claim.rigorous else None
    return Finding(claim.name, claim.lower_bound(share), claim.accounted, reach, significance)
