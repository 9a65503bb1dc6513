"""`secagg keyholder`: what a member of the committee runs. Needs no torch."""

import secrets
import sys
import time
from pathlib import Path

import click

from secagg.encodings.registry import encoding_of
from secagg.errors import ConfigError
from secagg.plan import Plan
from secagg.signing import parse_model
from secagg.warm import warm_ckks, warm_sharing
from secagg_client.calls import CommitteeCalls
from secagg_client.keyholder_config import KeyHolderConfig
from secagg_client.keyholder_run import KeyHolderRun, Shelf, load_config, load_holder, make_offer
from secagg_client.patience import Patience
from secagg_client.policies import failures_logged, protocol_of
from secagg_host.config import read_toml
from secagg_host.durable import DurableJournal, FolderLock, read_file, write_atomic
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles, load_identity
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
@click.option("--plan", type=FILE, help="ckks only: the session's plan, for which the key is made.")
@click.option("--n-max", type=click.IntRange(2), help="ckks only: the session's n_max.")
@click.option("--bits", type=click.IntRange(2, 24), default=16, show_default=True, help="ckks only: the session's.")
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long it can be used.")
def offer(config_file: Path, out: Path, plan: Path | None, n_max: int | None, bits: int, days: int) -> None:
    """Make a fresh key for one session, and the signed offer of it.

    Under a policy for ckks the key is made for a plan and a size of cohort: give --plan and --n-max.
    """
    config = load_config(config_file)
    if out.exists():
        raise ConfigError(f"{out} exists; each session needs an offer of its own: take another name")
    now = int(time.time())
    is_ckks = _protocol(config) == "ckks"
    if is_ckks and (plan is None or n_max is None):
        raise click.UsageError(f"{config.policy} is for ckks: add --plan and --n-max, for which the key is made")
    if not is_ckks and (plan is not None or n_max is not None):
        raise click.UsageError(f"{config.policy} is not for ckks: leave out --plan and --n-max")
    if plan is not None and n_max is not None:
        raw, digest = _ckks_offer(config, plan, n_max, bits, now, days)
    else:
        raw, digest = _sealed_offer(config, now, days)
    write_atomic(out, raw, PUBLIC_FILE)
    click.echo(f"{out}: offer {digest[:16]}, good for one session within {days} days")


def _protocol(config: KeyHolderConfig) -> str:
    """Whose key-holder it is. Raises ConfigError for a policy whose protocol has none."""
    protocol = protocol_of(read_toml(config.policy), config.policy)
    if protocol == "masked":
        raise ConfigError(f"{config.policy} is for masked sessions, which have no key-holders")
    return protocol


def _sealed_offer(config: KeyHolderConfig, now: int, days: int) -> tuple[bytes, str]:
    shelf = Shelf(config.state)
    try:
        made = make_offer(load_holder(config, shelf, now), shelf, now, days * DAY, secrets.token_bytes)
    finally:
        shelf.close()
    return made.to_bytes(), made.statement.digest


def _ckks_offer(
    config: KeyHolderConfig, plan_file: Path, n_max: int, bits: int, now: int, days: int
) -> tuple[bytes, str]:
    from secagg_client.ckks_keyholder import contexts_of, load_ckks_holder

    plan, journal = parse_model(Plan, read_file(plan_file)), DurableJournal(config.state / "ckks.db")
    try:
        length = encoding_of(plan).layout(plan).length
        made = load_ckks_holder(config, journal, now).offer(bits, n_max, length, now, days * DAY)
        contexts_of(config).keep_until(made.statement.digest, made.statement.expires_at)
    finally:
        journal.close()
    return made.to_bytes(), made.statement.digest


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
    if _protocol(config) == "ckks":
        _run_ckks(config, party, as_json=as_json)
        return
    with FolderLock(config.state):
        log = EventLog(config.state / EVENTS, sys.stdout, as_json=as_json)
        shelf = Shelf(config.state)
        patience = Patience(log, config.patience_minutes)
        try:
            with failures_logged(log, config.policy):
                holder = load_holder(config, shelf, patience.now)
                warm_sharing(secrets.token_bytes)
                with channel(config.coordinator, party) as line:
                    KeyHolderRun(holder, shelf, CommitteeCalls(line), patience).run(config.session)
        finally:
            shelf.close()
            log.close()


def _run_ckks(config: KeyHolderConfig, party: PartyFiles, *, as_json: bool) -> None:
    from secagg_client.ckks_calls import CkksCalls
    from secagg_client.ckks_keyholder import CkksHolderRun, contexts_of, load_ckks_holder
    from secagg_client.ckks_spool import Spool

    with FolderLock(config.state):
        log = EventLog(config.state / EVENTS, sys.stdout, as_json=as_json)
        journal = DurableJournal(config.state / "ckks.db")
        patience = Patience(log, config.patience_minutes)
        try:
            with failures_logged(log, config.policy):
                holder = load_ckks_holder(config, journal, patience.now)
                warm_ckks(secrets.token_bytes)
                spool, keys, random = Spool(config.state / "ckks-spool"), contexts_of(config), secrets.token_bytes
                with channel(config.coordinator, party) as line:
                    CkksHolderRun(holder, CkksCalls(line), keys, spool, patience, random).run(config.session)
        finally:
            journal.close()
            log.close()
