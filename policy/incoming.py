"""Rows on their way into the ledger: mappings or Arrow tables, put into a table's columns and types."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from policy.commitments import SALT_BYTES, Column, TableShape
from policy.errors import InputError

_ARROW_TYPES: Final[Mapping[str, pa.DataType]] = {
    "VARCHAR": pa.string(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "DOUBLE": pa.float64(),
    "BLOB": pa.binary(),
}


def conform(shape: TableShape, rows: pa.Table | Sequence[Mapping[str, object]]) -> pa.Table:
    """The columns in their types, `row_no`, `salt` (random where none came), `given_commitment` where one came."""
    offered = set(rows.column_names) if isinstance(rows, pa.Table) else {name for row in rows for name in row}
    known = {column.name for column in shape.columns}
    if unknown := sorted(offered - known - {"salt", "commitment"}):
        raise InputError(f"no such column: {', '.join(unknown)}", where=shape.name)
    count = len(rows)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        column.name: _values(shape.name, column, rows) for column in shape.columns
    }
    columns["row_no"] = pa.array(np.arange(count, dtype=np.int32))
    if "salt" in offered:
        columns["salt"] = _values(shape.name, Column("salt", "BLOB"), rows)
        if columns["salt"].null_count:
            raise InputError("a row came without its salt", where=shape.name)
    else:
        ends = np.arange(0, SALT_BYTES * count + 1, SALT_BYTES, dtype=np.int32)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(os.urandom(SALT_BYTES * count))]
        columns["salt"] = pa.Array.from_buffers(pa.binary(), count, buffers)
    if "commitment" in offered:
        columns["given_commitment"] = _values(shape.name, Column("commitment", "VARCHAR"), rows)
    return pa.table(columns)


def _values(table: str, column: Column, rows: pa.Table | Sequence[Mapping[str, object]]) -> pa.Array | pa.ChunkedArray:
    kind = _ARROW_TYPES[column.type]
    try:
        if isinstance(rows, pa.Table):
            if column.name not in rows.column_names:
                return pa.nulls(len(rows), kind)
            given = rows.column(column.name)
            return given if given.type == kind else given.cast(kind)  # a cast takes what is slow to import
        return pa.array([row.get(column.name) for row in rows], kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"not a {column.type} ({error})", where=f"{table}.{column.name}") from error
