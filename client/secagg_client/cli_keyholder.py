"""`secagg keyholder`: what a member of the committee runs. Needs no torch."""

import secrets
import sys
import time
from pathlib import Path

import click

from secagg.errors import ConfigError, SecaggError
from secagg_client.calls import CommitteeCalls
from secagg_client.keyholder_run import KeyHolderRun, Shelf, load_config, load_holder, make_offer
from secagg_client.patience import Patience
from secagg_host.durable import FolderLock, write_atomic
from secagg_host.events import EventLog
from secagg_host.identity import load_identity
from secagg_host.tls import channel

DAY = 86_400
PUBLIC_FILE = 0o644
EVENTS = "events.jsonl"
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(epilog="Example: secagg keyholder run --config keyholder.toml")
def keyholder() -> None:
    """Hold one share of each key, and open nothing but a sum that a quorum has endorsed."""


@keyholder.command(epilog="Example: secagg keyholder offer --config keyholder.toml --out offer.json")
@click.option("--config", "config_file", required=True, type=FILE, help="keyholder.toml")
@click.option("--out", required=True, type=FILE, help="Where the signed offer goes; send it to the coordinator.")
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long it can be used.")
def offer(config_file: Path, out: Path, days: int) -> None:
    """Make a fresh key for one session, and the signed offer of it."""
    config = load_config(config_file)
    if out.exists():
        raise ConfigError(f"{out} exists; each session needs an offer of its own: take another name")
    now = int(time.time())
    shelf = Shelf(config.state)
    try:
        made = make_offer(load_holder(config, shelf, now), shelf, now, days * DAY, secrets.token_bytes)
    finally:
        shelf.close()
    write_atomic(out, made.to_bytes(), PUBLIC_FILE)
    click.echo(f"{out}: offer {made.statement.digest[:16]}, good for one session within {days} days")


@keyholder.command(epilog="Example: secagg keyholder run --config keyholder.toml")
@click.option("--config", "config_file", required=True, type=FILE, help="keyholder.toml")
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines.")
def run(config_file: Path, as_json: bool) -> None:
    """Check, approve and serve one session, then erase its key.

    Exit status 0 when the session was released; 1 with the reason when this key-holder refused, or when the session
    ended otherwise. May be killed and started again at any time.
    """
    config = load_config(config_file)
    party = load_identity(config.identity)
    with FolderLock(config.state):
        log = EventLog(config.state / EVENTS, sys.stdout, as_json=as_json)
        shelf = Shelf(config.state)
        patience = Patience(log, config.patience_minutes)
        try:
            holder = load_holder(config, shelf, patience.now)
            with channel(config.coordinator, party) as line:
                KeyHolderRun(holder, shelf, CommitteeCalls(line), patience).run(config.session)
        except SecaggError as error:
            log.emit("failed", code=error.code, reason=str(error))
            raise
        finally:
            shelf.close()
            log.close()
