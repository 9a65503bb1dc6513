"""`secagg client`: what an institution runs."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secagg.canonical import pretty_bytes
from secagg.ckks.policy import CkksPolicy
from secagg.encodings.registry import DEFAULT, encoding_of, encodings
from secagg.identity import check_issued_by
from secagg.masked.policy import MaskedPolicy
from secagg.policy import Policy, adapter_schema_hash
from secagg.warm import warm_up
from secagg_client.cli_ledger import ledger
from secagg_client.client_config import ClientConfig
from secagg_client.plan_defaults import DEFAULT_RANK, DEFAULT_TRAINING
from secagg_client.policies import failures_logged, load_policy
from secagg_host.config import load_toml
from secagg_host.durable import DurableJournal, FolderLock, write_atomic
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles

if TYPE_CHECKING:
    from secagg_client.patience import Patience
    from secagg_client.training_steps import Training
    from secagg_host.tls import grpc

PUBLIC_FILE = 0o644
EVENTS = "events.jsonl"
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(epilog="Example: secagg client run --config client.toml")
def client() -> None:
    """Plan a training, and take part in one: train here, seal once, upload."""


client.add_command(ledger)


def methods_help() -> str:
    """Each encoding with what it reveals, a paragraph each."""
    return "\n\n".join(
        f"{name}: {encoding.summary}. Reveals: {encoding.reveals} Quantiser: at least {encoding.min_bits} bits."
        for name, encoding in encodings().items()
    )


def _shown(setting: str) -> str:
    return str(DEFAULT_TRAINING[setting])


@client.command(
    epilog="Example: secagg client plan --model sentence-transformers/all-MiniLM-L6-v2 --task classify "
    f"--label ham --label spam --out plan.json\n\nMethods:\n\n{methods_help()}"
)
@click.option("--config", "config_file", type=FILE, help="TOML with all settings; the options below override it.")
@click.option("--model", help="Base model: a Hugging Face id or a local folder.")
@click.option("--base-model-name", help="What session and release call it, when --model is a folder: its public id.")
@click.option("--task", help="What is learnt: classify, lm, or another kind of task that is installed.")
@click.option("--label", "labels", multiple=True, help="A class, in order; repeat for each.")
@click.option("--epsilon", type=click.FloatRange(0, min_open=True), help="Privacy of each record or user of a client.",
              show_default=_shown("epsilon"))  # fmt: skip
@click.option("--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="And its delta.",
              show_default=_shown("delta"))  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="Steps of DP-SGD.", show_default=_shown("steps"))
@click.option("--batch-size", type=click.IntRange(1), help="Expected records (or users, by --unit) in a step.",
              show_default=_shown("batch_size"))  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), show_default=_shown("learning_rate"))
@click.option("--unit", type=click.Choice(["record", "user"]), help="Whose presence is hidden: each record's, the "
              "default, or each user's with all records of theirs at a client.")  # fmt: skip
@click.option("--records-per-user", type=click.IntRange(1), help="Use so many records of a user; with --unit user.")
@click.option("--rank", type=click.IntRange(1), help="LoRA rank.", show_default=str(DEFAULT_RANK))
@click.option("--method", help="What is trained, summed and released; see below.", show_default=DEFAULT)
@click.option("--option", "method_options", multiple=True, metavar="NAME=VALUE", help="Of the method; repeat.")
@click.option("--calibrate", type=FILE, help="PUBLIC examples: train on them once to choose each tensor's clip.")
@click.option("--calibrate-size", type=click.IntRange(1), default=1000, show_default=True,
              help="So many of them stand for a client's.")  # fmt: skip
@click.option("--out", required=True, type=FILE, help="Where the plan goes; everybody may read it.")
def plan(
    config_file: Path | None,
    calibrate: Path | None,
    calibrate_size: int,
    out: Path,
    **options: str | float | tuple[str, ...] | None,
) -> None:
    """Derive the plan of a session from a base model: adapter, start values, training settings.

    The coordinator embeds it in the session; each client derives it again from its own copy of the model. The two
    hashes that are printed are for policies.
    """
    from secagg_client.calibration import calibrated
    from secagg_client.data import DataConfig, load_examples
    from secagg_client.models import load_base
    from secagg_client.plan_options import plan_config
    from secagg_client.planning import make_plan

    config = plan_config(config_file, options)
    base = load_base(config.base_model, config.task)
    made = make_plan(config, base)
    if calibrate is not None:
        public = load_examples(DataConfig(source=str(calibrate)), config.task)
        made = calibrated(made, base, public, calibrate_size)
    write_atomic(out, pretty_bytes(made), PUBLIC_FILE)
    click.echo(
        f"{out}: {encoding_of(made).layout(made).length} values from {len(made.trained)} trained tensors of "
        f"{made.architecture}\nreveals             {encoding_of(made).reveals}\n"
        f"base_model_hash     {made.base_model_hash}\nadapter_schema_hash {adapter_schema_hash(made)}"
    )


@client.command(epilog="Example: secagg client run --config client.toml")
@click.option("--config", "config_file", required=True, type=FILE, help="client.toml")
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines.")
def run(config_file: Path, as_json: bool) -> None:
    """Take part in one session: check it, train, seal, upload, and receive the verified release.

    May be killed and started again at any time: it goes on where it was, and neither trains nor seals twice.
    """
    config = load_toml(config_file, ClientConfig)
    party = config.load_party()
    with FolderLock(config.state):
        log = EventLog(config.state / EVENTS, sys.stdout, as_json=as_json)
        try:
            with failures_logged(log, config.policy):
                take_part(config, party, log)
        finally:
            log.close()


def take_part(config: ClientConfig, party: PartyFiles, log: EventLog) -> None:
    """One session with the real training, over the network; the policy says of which protocol."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from secagg_client.clipping import warm_clipping
    from secagg_client.local_training import LocalTraining
    from secagg_client.patience import Patience
    from secagg_host.tls import channel

    patience = Patience(log, config.patience_minutes)
    check_issued_by(party.identity, party.authority, patience.now)
    policy = load_policy(config.policy)
    training = LocalTraining(config, policy, log, party.identity.fingerprint, os.urandom)
    training.ledger.entries()  # one that is missing or altered is said before anything is asked of the coordinator
    warm_up(os.urandom, _protocol(policy))
    warm_clipping()
    with channel(config.coordinator, party) as line:
        if isinstance(policy, CkksPolicy):
            _take_ckks(config, party, policy, patience, training, line)
        elif isinstance(policy, MaskedPolicy):
            _take_masked(config, party, policy, patience, training, line)
        else:
            _take_sealed(config, party, policy, patience, training, line)


def _protocol(policy: Policy | MaskedPolicy | CkksPolicy) -> str:
    if isinstance(policy, CkksPolicy):
        return "ckks"
    return "masked" if isinstance(policy, MaskedPolicy) else "sealed"


def _take_sealed(
    config: ClientConfig,
    party: PartyFiles,
    policy: Policy,
    patience: "Patience",
    training: "Training",
    line: "grpc.Channel",
) -> None:
    from secagg_client.calls import ContributionCalls, PublicationCalls
    from secagg_client.client_run import ClientRun
    from secagg_client.client_state import SessionShelf

    ClientRun(
        signer=party.signer,
        authority=party.authority,
        policy=policy,
        shelf=SessionShelf(config.sessions, party.signer, os.urandom),
        contribution=ContributionCalls(line),
        publication=PublicationCalls(line),
        training=training,
        release=config.release,
        patience=patience,
        random=os.urandom,
        threads=config.training.threads or os.cpu_count() or 1,
    ).run(config.session, wait_for_release=config.wait_for_release)


def _take_masked(
    config: ClientConfig,
    party: PartyFiles,
    policy: MaskedPolicy,
    patience: "Patience",
    training: "Training",
    line: "grpc.Channel",
) -> None:
    from secagg_client.calls import PublicationCalls
    from secagg_client.client_state import MaskedShelf
    from secagg_client.masked_calls import MaskedCalls
    from secagg_client.masked_run import MaskedClientRun

    journal = DurableJournal(config.masked_journal)
    try:
        MaskedClientRun(
            signer=party.signer,
            authority=party.authority,
            policy=policy,
            shelf=MaskedShelf(config.masked_sessions, party.signer, os.urandom),
            journal=journal,
            contribution=MaskedCalls(line),
            publication=PublicationCalls(line),
            training=training,
            release=config.release,
            patience=patience,
            random=os.urandom,
            threads=config.training.threads or os.cpu_count() or 1,
        ).run(config.session, wait_for_release=config.wait_for_release)
    finally:
        journal.close()


def _take_ckks(
    config: ClientConfig,
    party: PartyFiles,
    policy: CkksPolicy,
    patience: "Patience",
    training: "Training",
    line: "grpc.Channel",
) -> None:
    from secagg_client.calls import PublicationCalls
    from secagg_client.ckks_calls import CkksCalls
    from secagg_client.ckks_run import CkksClientRun
    from secagg_client.client_state import CkksShelf

    CkksClientRun(
        signer=party.signer,
        authority=party.authority,
        policy=policy,
        shelf=CkksShelf(config.ckks_sessions, party.signer, os.urandom),
        calls=CkksCalls(line),
        publication=PublicationCalls(line),
        training=training,
        release=config.release,
        patience=patience,
        random=os.urandom,
    ).run(config.session, wait_for_release=config.wait_for_release)
