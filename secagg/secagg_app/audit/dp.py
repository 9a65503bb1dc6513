"""`secagg audit dp`: does the training spend what the accountant says? A lower bound from canaries, and a verdict."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from pydantic import Field, model_validator

from secagg.errors import AuditError
from secagg.plan import Frozen
from secagg_host.config import load_toml
from secagg_host.durable import make_folder, write_atomic

if TYPE_CHECKING:
    from secagg_attacks.audit.guessing import Canaries
    from secagg_attacks.audit.verdict import Claim, Verdict
    from secagg_client.accounting import Mechanism


class MechanismConfig(Frozen):
    """What is accounted: give sigma, or the epsilon and delta that it is solved from."""

    rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=1, le=100_000)
    sigma: float | None = Field(default=None, gt=0)
    epsilon: float | None = Field(default=None, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1e-2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.sigma is None) == (self.epsilon is None):
            raise ValueError("give either sigma or epsilon")
        return self


class AuditConfig(Frozen):
    """A whole file: `[mechanism]`, and how it is audited."""

    mechanism: MechanismConfig
    canaries: int = Field(default=1000, ge=100, le=200_000)
    copies: int = Field(default=1, ge=1, le=100)
    seed: int = 0


@click.command(epilog="Example: secagg audit dp --config examples/audit-dp.toml --out runs/audit-dp")
@click.option("--config", required=True, type=click.Path(dir_okay=False, path_type=Path), help="What is accounted.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/audit-dp"),
              show_default=True, help="report.html, audit.json and scores.parquet.")  # fmt: skip
def dp(config: Path, out: Path) -> None:
    """Run the client's own DP-SGD on canaries, and hold an empirical lower bound against the accounted epsilon.

    Exit status 1 when a rigorous bound, wrong with probability 1e-4 at most, is above what is accounted. The highest
    bound that so many canaries could have given stands beside it: an audit that cannot fail shows nothing.
    """
    settings = load_toml(config, AuditConfig)
    mechanism, verdict, delta, canaries = run_audit(settings)
    from secagg_app.audit.dp_report import page

    make_folder(out)
    write_atomic(out / "scores.parquet", scores_file(canaries))
    plain = to_json(settings, mechanism, verdict, delta)
    write_atomic(out / "audit.json", (json.dumps(plain, indent=1) + "\n").encode())
    write_atomic(out / "report.html", page(settings, mechanism, verdict, delta, canaries).encode())
    click.echo("\n".join([*lines(mechanism, verdict, delta), f"report: {out / 'report.html'}"]))
    if verdict.fails:
        raise AuditError(f"{verdict.summary}; see {out / 'report.html'}")


def run_audit(settings: AuditConfig) -> "tuple[Mechanism, Verdict, float, Canaries]":
    """The mechanism, what is concluded, the delta that was asked at, and the canaries with their scores."""
    from secagg_attacks.audit.guessing import PAIR, grouped, strongest_delta
    from secagg_attacks.audit.training import audit_training
    from secagg_attacks.audit.verdict import FAMILY_WISE, judge
    from secagg_client.accounting import epsilon_spent

    mechanism = mechanism_of(settings.mechanism)
    kind = PAIR if settings.copies == 1 else grouped(settings.copies)
    delta = strongest_delta(settings.canaries, FAMILY_WISE, lambda each: epsilon_spent(mechanism, each), kind)
    canaries = audit_training(mechanism, settings.canaries, settings.seed, copies=settings.copies)
    verdict = judge(_claims(settings, mechanism, canaries, delta))
    return mechanism, verdict, delta, canaries


def scores_file(canaries: "Canaries") -> bytes:
    """Score and coin of each canary, as Parquet."""
    import pyarrow

    from secagg_client.parquet import parquet_bytes

    return parquet_bytes(pyarrow.table({"score": canaries.scores, "member": canaries.is_in}))


def mechanism_of(config: MechanismConfig) -> "Mechanism":
    """With the given noise multiplier, or the one that the epsilon asks for. Raises AccountingError."""
    from secagg_client.accounting import Mechanism, solve_sigma

    sigma = config.sigma or solve_sigma(config.epsilon or 0.0, config.delta, config.rate, config.steps)
    return Mechanism(config.rate, sigma, config.steps)


def _claims(settings: AuditConfig, mechanism: "Mechanism", canaries: Any, delta: float) -> "list[Claim]":
    from secagg_attacks.audit.guessing import FULL_BATCH, PAIR, bonferroni, grouped, reach
    from secagg_attacks.audit.verdict import Claim
    from secagg_client.accounting import epsilon_spent

    accounted = epsilon_spent(mechanism, delta)
    kinds = {"one run, any mechanism": PAIR if settings.copies == 1 else grouped(settings.copies)}
    if mechanism.rate == 1 and settings.copies == 1:
        kinds["one run, full batches"] = FULL_BATCH
    return [
        Claim(
            name, accounted,
            lambda share, kind=kind: bonferroni(canaries, delta, share, kind).epsilon,  # type: ignore[misc]
            lambda share, kind=kind: reach(len(canaries), delta, share, kind),  # type: ignore[misc]
        )
        for name, kind in kinds.items()
    ]  # fmt: skip


def to_json(settings: AuditConfig, mechanism: "Mechanism", verdict: "Verdict", delta: float) -> dict[str, Any]:
    """Everything that the audit rests on."""
    from dataclasses import asdict

    findings = [{**asdict(each), "fails": each.fails, "could_fail": each.could_fail} for each in verdict.findings]
    return {
        "config": settings.model_dump(mode="json"), "mechanism": asdict(mechanism), "delta": delta,
        "findings": findings, "fails": verdict.fails, "summary": verdict.summary,
    }  # fmt: skip


def lines(mechanism: "Mechanism", verdict: "Verdict", delta: float) -> list[str]:
    """For people."""
    found = [
        f"rate {mechanism.rate:g}, sigma {mechanism.sigma:.4g}, {mechanism.steps} steps; asked at delta {delta:g}, "
        "where the audit has most power"
    ]
    for each in verdict.findings:
        power = "" if each.could_fail else "; it could not have failed with so few canaries"
        found.append(
            f"{each.name}: at least {each.epsilon:.2f} of the accounted {each.accounted:.2f} "
            f"(at most {each.reach:.2f} could have been shown{power})"
        )
    return [*found, verdict.summary]
