"""All cells of a simulation, side by side, each kept on disk as soon as it is done."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secagg.errors import SecaggError, StorageError
from secagg_app.simulate.cell import Cell
from secagg_app.simulate.settings import Simulation
from secagg_app.workers import spread
from secagg_host.durable import FolderLock, guard, make_folder, read_file, write_atomic

Say = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A cell that was refused, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Sweep:
    """A simulation and the folder that keeps its results: `cells/KEY.json` each, `results.parquet` in the end."""

    simulation: Simulation
    folder: Path

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / "cells" / f"{cell.key(self._setting)}.json"

    @cached_property
    def _setting(self) -> dict[str, Any]:
        """All but the grid, and what is in local files: other content is another setting."""
        plain = self.simulation.model_dump(mode="json", exclude={"grid"})
        named = {"model": Path(self.simulation.model), "data": Path(self.simulation.data.source)}
        contents = {name: content_hash(path) for name, path in named.items() if path.exists()}
        return {**plain, "contents": contents} if contents else plain

    def missing(self) -> list[Cell]:
        """The cells that are not done."""
        return [cell for cell in self.simulation.cells() if not self.path(cell).exists()]

    def keep(self, cell: Cell, row: Row) -> None:
        """Write a cell's result, durably."""
        make_folder(self.folder / "cells")
        write_atomic(self.path(cell), (json.dumps(row) + "\n").encode())

    def rows(self) -> list[Row]:
        """The results of this simulation's cells that are done, in order of the grid. Raises StorageError."""
        return [_row(path, cell) for cell in self.simulation.cells() if (path := self.path(cell)).exists()]

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


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for each in files:
        with guard(each), each.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{each.relative_to(path)}\x00{own}\n".encode())
    return digest.hexdigest()


def _row(path: Path, cell: Cell) -> Row:
    """A kept result. Raises StorageError for a file that is damaged, or another cell's."""
    try:
        row: Row = json.loads(read_file(path))
        whose = {name: row[name] for name in asdict(cell)}
        float(row["value"])
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{path}: is damaged. Delete it, and its cell is run again") from None
    if whose != asdict(cell):
        raise StorageError(f"{path}: holds the result of another cell. Delete it, and its own is run again")
    return row


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
            say(f"{done} of {len(cells)}: refused: {cell.title}: {row}")
            continue
        sweep.keep(cell, row)
        few = f"; {row['size']} records a client, there are no more" if row["size"] < sweep.simulation.data.size else ""
        say(f"{done} of {len(cells)}: {cell.title}: {_told(row)}{few}")
    return failed


def _told(row: Row) -> str:
    return f"{row['measure']} {row['value']:.4f} (start {row['start']:.4f}), {row['seconds']:.0f} s"


def _attempt(cell: Cell, simulation_json: str) -> Row | str:
    """One cell in a worker; the reason when it is refused."""
    from secagg_app.simulate.federation import run_cell

    try:
        return run_cell(cell, Simulation.model_validate_json(simulation_json)).row()
    except SecaggError as error:
        return str(error)
