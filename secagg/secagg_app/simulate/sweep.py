"""All cells of a simulation, side by side, each kept on disk as soon as it is done."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secagg.errors import SecaggError
from secagg_app.simulate.cell import Cell
from secagg_app.simulate.settings import Simulation
from secagg_app.workers import spread
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

        from secagg_client.parquet import parquet_bytes

        path = self.folder / "results.parquet"
        write_atomic(path, parquet_bytes(pyarrow.Table.from_pylist(_level(self.rows()))))
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
    setting = sweep.simulation.model_dump_json()
    results = spread(_attempt, [(cell, setting) for cell in cells], workers, ray)
    for done, ((cell, _), row) in enumerate(results, 1):
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
