"""The `secagg audit` commands."""

import click

from secagg_app.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "compare": LazyCommand(
        "secagg_app.audit.compare:compare", "One round against many: attack federations of both kinds.", "demo"
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog="Example: secagg audit compare --preset quick --out runs/exposure")
def audit() -> None:
    """What a federation exposes, measured by attacking it."""
