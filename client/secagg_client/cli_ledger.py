"""`secagg client ledger`: the institution's own record of the privacy it has spent (protocol.md §4.5)."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secagg_client.client_config import ClientConfig
from secagg_client.ledger_entry import LedgerEntry, LedgerLimits
from secagg_client.policies import load_policy
from secagg_host.config import load_toml

if TYPE_CHECKING:
    from secagg_client.ledger import ClientSpent, DataSpent

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(epilog="Example: secagg client ledger show --config client.toml")
def ledger() -> None:
    """The institution's own record of the privacy it has spent: every run is entered before it begins."""


@ledger.command(epilog="Example: secagg client ledger init --config client.toml")
@click.option("--config", "config_file", required=True, type=FILE, help="client.toml")
def init(config_file: Path) -> None:
    """Make the ledger: once, before the first run of this client.

    Its lines go to the folder `ledger` of client.toml; its key and its witness, by which a deleted or older ledger is
    found out, to the identity folder (or where `witness` says).
    """
    config = load_toml(config_file, ClientConfig)
    config.load_party()
    files = config.ledger_files
    files.make()
    click.echo(f"ledger  {files.folder}\nwitness {files.witness}\nKeep both: neither is any good without the other.")


@ledger.command(epilog="Example: secagg client ledger show --config client.toml --json")
@click.option("--config", "config_file", required=True, type=FILE, help="client.toml")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show(config_file: Path, as_json: bool) -> None:
    """Verify the ledger; list its entries, what was spent on each data set and of the whole institution, the limits."""
    from secagg_client.ledger import Ledger

    config = load_toml(config_file, ClientConfig)
    limits = config.ledger_limits(load_policy(config.policy))
    found = Ledger(config.ledger_files, lambda: int(time.time()))
    entries, spent, whole = found.entries(), found.spent(limits), found.client_spent(limits)
    click.echo(_as_json(entries, spent, whole, limits) if as_json else _as_text(entries, spent, whole, limits))


def _as_json(
    entries: Sequence[LedgerEntry], spent: Sequence["DataSpent"], whole: "ClientSpent", limits: LedgerLimits
) -> str:
    content = {
        "entries": [entry.model_dump(mode="json", exclude={"previous", "mac"}) for entry in entries],
        "spent": [{**asdict(each), "epsilon": each.epsilon if math.isfinite(each.epsilon) else None} for each in spent],
        "client_spent": {**asdict(whole), "epsilon": whole.epsilon if math.isfinite(whole.epsilon) else None},
        "limits": limits.model_dump(mode="json"),
    }
    return json.dumps(content, indent=2)


def _as_text(
    entries: Sequence[LedgerEntry], spent: Sequence["DataSpent"], whole: "ClientSpent", limits: LedgerLimits
) -> str:
    repeated = "allowed" if limits.allow_repeated else "refused"
    lines = [f"{len(entries)} lines, verified"]
    for entry in entries:
        when, mechanism = datetime.fromtimestamp(entry.time, UTC), entry.mechanism
        lines.append(
            f"{entry.number:4}  {when:%Y-%m-%d %H:%M}  {entry.kind:9}  session {entry.session[:16]} round "
            f"{entry.round_number + 1} attempt {entry.attempt}  {entry.name}: {mechanism.steps} steps, rate "
            f"{mechanism.rate:.4g}, sigma {mechanism.sigma:.4g}, {entry.noise} noise"
            + (f", client-level rho {entry.client_level.rho:.4g}" if entry.client_level is not None else "")
            + (f", in one of up to {entry.releases} releases" if entry.releases > 1 else "")
        )
    most = limits.total_client_epsilon
    lines.append(
        f"limits: epsilon {limits.total_epsilon:g} at delta {limits.delta:g}; further sessions {repeated}"
        + (f"; client-level epsilon {most:g} over all sessions" if most is not None else "")
    )
    lines += [
        f"spent on {each.name}: epsilon {each.epsilon:.3f} for a {each.unit} in {each.sessions} sessions, "
        f"{each.steps} steps"
        for each in spent
    ]
    if whole.sessions or most is not None:
        lines.append(
            f"spent of the institution as a whole: client-level epsilon {whole.epsilon:.3f} in {whole.sessions} "
            f"sessions, {whole.releases} releases, at delta {limits.delta:g}"
        )
        if whole.without:
            lines.append(f"{whole.without} sessions had no client-level noise: nothing bounds what those show of it")
    return "\n".join(lines)
