"""`secagg server`: the coordinator's commands."""

import sys
from pathlib import Path

import click

from secagg_host.config import load_toml
from secagg_server.config import ServerConfig


@click.group(epilog="Example: secagg server run --config server.toml")
def server() -> None:
    """Run the coordinator: it collects sealed uploads and can open nothing alone."""


@server.command("run", epilog="Example: secagg server run --config server.toml")
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="server.toml")
@click.option("--json", "as_json", is_flag=True, help="Show events as JSON lines.")
def run_server(path: Path, *, as_json: bool) -> None:
    """Serve the sessions of a configuration file until SIGTERM or SIGINT.

    Exit status 0 after a signal; 1 with the reason when it cannot start. A session that ends, however, ends nothing
    else: its release can be fetched. May be killed and started again at any time.
    """
    # gRPC, SQLAlchemy and matplotlib are loaded only by the command that needs them.
    from secagg_server.server import run

    run(load_toml(path, ServerConfig), sys.stdout, as_json=as_json)
