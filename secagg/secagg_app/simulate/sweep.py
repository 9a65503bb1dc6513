"""All cells of a simulation, side by side, each kept on disk as soon as it is done."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secagg.errors import ConfigError, SecaggError
from secagg_app.simulate.cell import Cell
from secagg_app.simulate.settings import Simulation
from secagg_app.workers import workers
from secagg_host.durable import FolderLock, make_folder, write_atomic

Say = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A cell that was refused, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """A simulation and the folder that keeps its results: `cells/KEY.json` each, `results.parquet` in the end."""

    simulation: Simulation
    folder: Path

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / "cells" / f"{cell.key(self.simulation.model_dump(mode='json', exclude={'grid'}))}.json"

    def missing(self) -> list[Cell]:
        """The cells that are not done."""
        return [cell for cell in self.simulation.cells() if not self.path(cell).exists()]

    def keep(self, cell: Cell, row: Row) -> None:
        """Write a cell's result, durably."""
        make_folder(self.folder / "cells")
        write_atomic(self.path(cell), (json.dumps(row) + "\n").encode())

    def rows(self) -> list[Row]:
        """The results of this simulation's cells that are done, in order of the grid."""
        return [json.loads(path.read_text()) for cell in self.simulation.cells() if (path := self.path(cell)).exists()]

    def write_table(self) -> Path:
        """All results as Parquet."""
        import pyarrow
        from pyarrow import parquet

        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(_level(self.rows())), sink)
        path = self.folder / "results.parquet"
        write_atomic(path, sink.getvalue().to_pybytes())
        return path

    def locked(self) -> FolderLock:
        """One sweep a folder. Entering it raises StorageError when another is at work there."""
        return FolderLock(self.folder)


def _level(rows: Sequence[Row]) -> list[Row]:
    """Every row with every column, None where it has no figure."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


def run_sweep(sweep: Sweep, workers: int, say: Say, ray: str | None = None) -> list[Failed]:
    """Run what is missing, `workers` at a time, or on a Ray cluster at address `ray`. What was refused comes back."""
    cells = sweep.missing()
    total = len(sweep.simulation.cells())
    say(f"{total} cells, {total - len(cells)} of them done before")
    failed = list[Failed]()
    if not cells:
        return failed
    results = _on_ray(sweep.simulation, cells, ray) if ray is not None else _here(sweep.simulation, cells, workers)
    for done, (cell, row) in enumerate(results, 1):
        if isinstance(row, str):
            failed.append(Failed(cell, row))
            say(f"{done} of {len(cells)}: refused: {cell}: {row}")
            continue
        sweep.keep(cell, row)
        say(f"{done} of {len(cells)}: {_told(row)}")
    return failed


def _told(row: Row) -> str:
    what = (
        f"{row['arm']}, seed {row['seed']}, {row['rounds']} rounds, epsilon {row['epsilon'] or 'none'}, {row['method']}"
    )
    return f"{what}: {row['measure']} {row['value']:.4f} (start {row['start']:.4f}), {row['seconds']:.0f} s"


def _attempt(cell: Cell, simulation_json: str) -> Row | str:
    """One cell in a worker; the reason when it is refused."""
    from secagg_app.simulate.federation import run_cell

    try:
        return run_cell(cell, Simulation.model_validate_json(simulation_json)).row()
    except SecaggError as error:
        return str(error)


def _here(simulation: Simulation, cells: Sequence[Cell], count: int) -> Iterator[tuple[Cell, Row | str]]:
    """On this machine, in fresh processes."""
    with workers(count) as pool:
        jobs = {pool.submit(_attempt, cell, simulation.model_dump_json()): cell for cell in cells}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def _on_ray(simulation: Simulation, cells: Sequence[Cell], address: str) -> Iterator[tuple[Cell, Row | str]]:
    """On a Ray cluster whose machines have secagg installed and see the same data. Raises ConfigError without Ray."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install ray") from error
    ray.init(address=address or None, ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(_attempt)
    jobs = {task.remote(cell, simulation.model_dump_json()): cell for cell in cells}
    waiting = list(jobs)
    while waiting:
        done, waiting = ray.wait(waiting)
        for job in done:
            yield jobs[job], ray.get(job)
