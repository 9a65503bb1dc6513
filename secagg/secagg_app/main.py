"""The `secagg` command."""

import click

from secagg_app.lazy import LazyCommand, LazyGroup
from secagg_app.workers import end_with_supervisor

COMMANDS = {
    "demo": LazyCommand(
        "secagg_app.demo:demo", "The whole road on this machine: real processes, model and data.", "demo"
    ),
    "ca": LazyCommand("secagg_app.ca:ca", "A small certificate authority."),
    "session": LazyCommand("secagg_app.session:session", "Make and read signed session descriptors."),
    "server": LazyCommand("secagg_server.cli:server", "Run the coordinator.", "server"),
    "keyholder": LazyCommand("secagg_client.cli_keyholder:keyholder", "Run a key-holder.", "keyholder"),
    "client": LazyCommand("secagg_client.cli_client:client", "Make a training plan; train, seal and upload.", "client"),
    "verify": LazyCommand("secagg_app.verify:verify", "Check a release offline, against anchors of your own."),
    "evaluate": LazyCommand("secagg_client.cli_evaluate:evaluate", "Measure a released adapter on data.", "client"),
    "release": LazyCommand("secagg_app.annotate:release", "Add an evaluation on public data to a release."),
    "simulate": LazyCommand(
        "secagg_app.simulate.command:simulate", "A federation in memory, over a grid of settings.", "demo"
    ),
    "audit": LazyCommand("secagg_app.audit.command:audit", "What a federation exposes, measured by attacking it."),
    "attack": LazyCommand("secagg_app.attack:attack", "One attack on one run, for scripts.", "attacks"),
    "bench": LazyCommand("secagg_app.bench:bench", "Measure protocols and training on this machine.", "demo"),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog="Example: secagg demo --out runs/demo; then secagg verify runs/demo/release --trust runs/demo/anchors.toml",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="secagg")
def cli() -> None:
    """Federated fine-tuning in a single round: private adapters, summed under encryption, released with a proof."""


def main() -> None:
    """Entry point of the installed command."""
    end_with_supervisor()
    cli(prog_name="secagg")
