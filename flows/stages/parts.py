"""Parts: the Parquet files in which workers hand over what they observed. A part is done when its file exists."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from policy.durable import write_durably
from policy.errors import IntegrityError


def unit_id(*inputs: str) -> str:
    """blake2b-16 of what the unit is made from, in hex."""
    return hashlib.blake2b("\0".join(inputs).encode(), digest_size=16).hexdigest()


def write_part(path: Path, rows: Sequence[dict[str, object]], schema: pa.Schema) -> None:
    """Write rows as one zstd Parquet file, atomically."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    write_durably(path, sink.getvalue())


def read_part(path: Path) -> list[dict[str, object]]:
    """Read a part back.

    Raises:
        IntegrityError: the file is no Parquet part; deleting it makes the unit run again.
    """
    try:
        rows: list[dict[str, object]] = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(
            f"a part that cannot be read ({error})", where=str(path), remedy="Delete it and run the command again"
        ) from error
    return rows
