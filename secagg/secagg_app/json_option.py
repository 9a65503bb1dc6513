"""`--json [FILE]` of the benchmarks: all figures to a file, or to the screen without one."""

import json
from pathlib import Path
from typing import Any

import click

from secagg_host.durable import write_atomic

SCREEN = Path("-")

json_option = click.option(
    "--json", "json_file", is_flag=False, flag_value=str(SCREEN), metavar="[FILE]",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="All figures as JSON, to FILE; without FILE to the screen, and tables to standard error.",
)  # fmt: skip


def write_json(target: Path, figures: dict[str, Any]) -> None:
    """A file whole or not at all, or the screen."""
    text = json.dumps(figures, indent=2)
    if target == SCREEN:
        click.echo(text)
    else:
        write_atomic(target, (text + "\n").encode())
