"""`secagg audit aggregation`: every attack against secure aggregation, with its defence off and on."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from secagg.errors import AuditError
from secagg_attacks.aggregation.trials.battery import Tried, try_all
from secagg_attacks.aggregation.trials.trial import Trial
from secagg_host.durable import make_folder, write_atomic

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(epilog="Example: secagg audit aggregation --out runs/audit-aggregation")
@click.option("--out", type=FOLDER, default=Path("runs/audit-aggregation"), show_default=True,
              help="aggregation.json and report.html.")  # fmt: skip
def aggregation(out: Path) -> None:
    """Attack the protocol itself: small federations in memory, of the code that is deployed.

    Each attack is run with its defence off, which shows that it works; then every way in is tried with the defence on,
    and the check that refuses is named. What is not stopped is said. Seconds on one core; needs no model and no data.
    Exit status 1 when a defence does not hold, or an attack does not work where it should.
    """
    found = try_all(int(time.time()), os.urandom, lambda trial: click.echo(line(trial)))
    from secagg_app.audit.aggregation_report import page

    make_folder(out)
    write_atomic(out / "aggregation.json", (json.dumps(to_json(found), indent=1) + "\n").encode())
    write_atomic(out / "report.html", page(found).encode())
    click.echo(f"{found.reading}\nreport: {out / 'report.html'}")
    if not found.sound:
        raise AuditError(f"{found.reading}; see {out / 'report.html'}")


def line(trial: Trial) -> str:
    """One trial for people."""
    refused = ", ".join(dict.fromkeys(each.error for each in trial.attempts if each.held))
    by = f" ({len(trial.attempts)} attempts: {refused})" if trial.attempts else ""
    return (
        f"{trial.name}: {trial.verdict}{by}; with the defence off, {trial.figure.what} {trial.figure.value:.2g}, "
        f"without the attack {trial.control.value:.2g}"
    )


def to_json(found: Tried) -> dict[str, Any]:
    """Every figure, every attempt with what refused it, everything that is not stopped."""
    return {
        "reading": found.reading,
        "sound": found.sound,
        "trials": [
            {
                **asdict(trial),
                "verdict": trial.verdict,
                "sound": trial.sound,
                "attempts": [{**asdict(each), "held": each.held} for each in trial.attempts],
            }
            for trial in found.trials
        ],
    }
