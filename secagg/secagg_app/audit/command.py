"""The `secagg audit` commands."""

import click

from secagg_app.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "compare": LazyCommand(
        "secagg_app.audit.compare:compare", "One round against many: attack federations of both kinds.", "demo"
    ),
    "release": LazyCommand(
        "secagg_app.audit.release:release", "A released adapter: what its sums and its model give away.", "attacks"
    ),
    "aggregation": LazyCommand(
        "secagg_app.audit.aggregation:aggregation", "The protocol: attacks with each defence off, and on.", "attacks"
    ),
    "plant": LazyCommand(
        "secagg_app.audit.plant:plant", "Made-up secrets for a client to train on, to be looked for later.", "attacks"
    ),
    "dp": LazyCommand(
        "secagg_app.audit.dp:dp", "The training code: a lower bound on epsilon against the accounted one.", "attacks"
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog="Example: secagg audit compare --preset quick --out runs/exposure")
def audit() -> None:
    """What a federation exposes, measured by attacking it."""
