"""Tables as the bytes of a Parquet file, so that they are written whole or not at all."""

import io

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table) -> bytes:
    """One Parquet file."""
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
