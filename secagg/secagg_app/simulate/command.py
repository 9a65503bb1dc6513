"""`secagg simulate`: a federation in memory, over a grid of settings."""

import os
from pathlib import Path

import click

from secagg.errors import ConfigError
from secagg_app.simulate.settings import Simulation
from secagg_app.simulate.summary import lines, markdown
from secagg_app.simulate.sweep import Sweep, run_sweep


@click.command(epilog="Example: secagg simulate examples/simulate.toml --out runs/sweep --workers 2")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/simulate"),
              show_default=True, help="Results; a sweep that was interrupted goes on where it was.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True,
              help="Cells at a time; they share the processors.")  # fmt: skip
@click.option("--ray", default=None, metavar="ADDRESS", help="Run the cells on a Ray cluster instead (auto: find it).")
def simulate(file: Path, out: Path, workers: int, ray: str | None) -> None:
    """Run every cell of FILE: the training and the protocol of a deployment, without TLS and processes.

    Each cell is determined by its seed. Prints a table over the seeds with 95% t-intervals; the results are written to
    OUT/results.parquet, one row a cell.
    """
    sweep = Sweep(Simulation.read(file), out)
    with sweep.locked():
        _fetch(sweep.simulation)
        try:
            failed = run_sweep(sweep, workers, lambda text: click.echo(text, err=True), ray)
        except KeyboardInterrupt:
            click.echo("stopped; what is done is kept, and the same command goes on from there", err=True)
            raise
        if not sweep.rows():
            raise ConfigError(
                f"no cell came to a result; the first: {failed[0].reason}" if failed else "no cell to run"
            )
        table = sweep.write_table()
    click.echo(markdown(lines(sweep.rows())))
    click.echo(f"results: {table}", err=True)
    if failed:
        raise ConfigError(f"{len(failed)} cells were refused; the first ({failed[0].cell.title}): {failed[0].reason}")


def _fetch(simulation: Simulation) -> None:
    """Load the demo's packages once, before several workers want them."""
    from secagg_app import assets

    def say(text: str) -> None:
        click.echo(text, err=True)

    assets.fetch_named({simulation.model, simulation.data.source}, say)
