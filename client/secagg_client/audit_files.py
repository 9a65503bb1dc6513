"""The one draw of an audit reserve on the client's disk (protocol.md §4.6c): its seed, and tables for the auditor.

All of it is written in one step, readable by this party alone. A later attempt draws again from the stored seed and
must come to the same tables: whatever was altered is found before anything is trained.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from secagg.canonical import pretty_bytes
from secagg.descriptor import AuditReserve
from secagg.errors import DataError, MalformedError, StorageError
from secagg.plan import Frozen, Hash, Unit
from secagg.randomness import SEED_BYTES, Randomness
from secagg.signing import parse_model
from secagg_client.audit_reserve import AuditDraw, Drawn, canary_coins, misplaced
from secagg_client.data import Examples
from secagg_client.folders import write_folder
from secagg_client.parquet import parquet_bytes
from secagg_host.durable import read_file

FOLDER, DRAW = "audit", "draw.json"
REMEDY = (
    "Put the folder back from a copy; or, unless an earlier round was trained with this draw, move it away: there will "
    "be a new draw"
)


class StoredDraw(Frozen):
    """`draw.json`: what was drawn for whom, and the secret seed. `data` is the fingerprint of all records."""

    version: Literal[1] = 1
    key: Hash
    client: Hash
    reserve: AuditReserve
    data: Hash
    seed: Hash = Field(repr=False)

    def not_so(self, data: Examples, unit: Unit, *, heads: bool) -> int:
        """How many of these records are no candidates whose coins fell on `heads`."""
        return misplaced(bytes.fromhex(self.seed), self.reserve, data, unit, heads=heads)

    def canaries_not_so(self, is_in: Sequence[bool]) -> int:
        """How many canaries are said to be in or out against their coins."""
        coins = canary_coins(bytes.fromhex(self.seed), len(is_in))
        return sum(one != other for one, other in zip(coins, is_in, strict=True))


def draw_once(folder: Path, wanted: AuditDraw, random: Randomness) -> Drawn:
    """The draw in `folder`, which is made with a seed from `random` when there is none yet.

    Raises:
        DataError: it was made for other data.
        StorageError: it is damaged, or was made for something else; the disk refuses.
    """
    if folder.exists():
        return _load(folder, wanted)
    seed = random(SEED_BYTES)
    drawn = wanted.with_seed(seed)
    stored = _stored(wanted, seed)
    tables = {_file(name): parquet_bytes(pa.table(columns)) for name, columns in wanted.tables(drawn).items()}
    write_folder(folder, {DRAW: pretty_bytes(stored), **tables})
    return drawn


def _load(folder: Path, wanted: AuditDraw) -> Drawn:
    path = folder / DRAW
    try:
        stored = parse_model(StoredDraw, read_file(path))
    except MalformedError as error:
        raise StorageError(f"{path}: damaged ({error}). {REMEDY}") from None
    seed = bytes.fromhex(stored.seed)
    expected = _stored(wanted, seed)
    if stored.model_copy(update={"data": expected.data}) != expected:
        raise StorageError(f"{path}: made for another session, client or reserve. {REMEDY}")
    if stored.data != expected.data:
        raise DataError(
            f"{wanted.data.source}: holds other records than when the audit's draw was made ({path}); a run goes on "
            "with the data it began with: put them back"
        )
    drawn = wanted.with_seed(seed)
    for name, columns in wanted.tables(drawn).items():
        if _columns(folder / _file(name)) != columns:
            raise StorageError(
                f"{folder / _file(name)}: is not what {DRAW} and the data give: it was altered, or the data's labels "
                f"or the model's tokenizer were. {REMEDY}"
            )
    return drawn


def _stored(wanted: AuditDraw, seed: bytes) -> StoredDraw:
    return StoredDraw(
        key=wanted.key, client=wanted.client, reserve=wanted.reserve, data=wanted.data.fingerprint(), seed=seed.hex()
    )


def _file(name: str) -> str:
    return f"{name}.parquet"


def _columns(path: Path) -> dict[str, list[Any]]:
    """What is in a Parquet file. Raises StorageError."""
    raw = read_file(path)
    try:
        found: dict[str, list[Any]] = pq.read_table(io.BytesIO(raw)).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{path}: damaged ({type(error).__name__}). {REMEDY}") from None
    return found
