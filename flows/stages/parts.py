"""Parts: the Parquet files in which workers hand over what they observed. A part is done when its file exists."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from policy.durable import sync_directory, sync_file, write_durably
from policy.errors import IntegrityError

ROWS_AT_ONCE = 2_000  # of a part, in memory; fewer where they are large
BYTES_AT_ONCE = 8_000_000
_ROW_BYTES = 4_000  # about what a row takes beside a body


def unit_id(*inputs: str) -> str:
    """blake2b-16 of what the unit is made from, in hex."""
    return hashlib.blake2b("\0".join(inputs).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_part(path: Path, rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> None:
    """Write rows as one zstd Parquet file, atomically."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    write_durably(path, sink.getvalue())


class PartWriter:
    """A part that is written while its rows come, a group of them at a time; it exists once it is finished.

    As a context manager it throws away what was not finished.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self._path, self._schema, self._at_once = path, schema, rows_at_once
        self._waiting: list[Mapping[str, object]] = []
        self._bytes = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    def add(self, row: Mapping[str, object]) -> None:
        self._waiting.append(row)
        self.rows += 1
        body = row.get("body")
        self._bytes += len(body) if isinstance(body, bytes) else _ROW_BYTES
        if len(self._waiting) >= self._at_once or self._bytes >= BYTES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait, as one group."""
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(list(self._waiting), schema=self._schema))
            self._waiting, self._bytes = [], 0

    def finish(self, notes: Mapping[str, str] | None = None) -> None:
        """Make the part whole and durable, with notes that `part_notes` reads back."""
        self.flush()
        assert self._writer is not None  # flush has opened it
        if notes:
            self._writer.add_key_value_metadata(dict(notes))
        self._writer.close()
        self._writer = None
        sync_file(self._temporary)
        self._temporary.replace(self._path)
        sync_directory(self._path.parent)

    def discard(self) -> None:
        """Leave nothing of it, unless it is finished."""
        self._waiting = []
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def read_part(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read a part back, or some columns of it.

    Raises:
        IntegrityError: the file is no Parquet part; deleting it makes the unit run again.
    """
    return [row for rows in part_groups(path, columns) for row in rows]


def part_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a part, group by group as they were written: a part may hold more than memory does.

    Raises:
        IntegrityError: the file is no Parquet part.
    """
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=columns, use_threads=False).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def part_notes(path: Path) -> dict[str, str]:
    """What `PartWriter.finish` noted beside the rows. Raises IntegrityError."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error
    return {k.decode(): v.decode() for k, v in metadata.items() if not k.startswith(b"ARROW:")}


def count_rows(path: Path) -> int:
    """How many rows a part has, without reading them. Raises IntegrityError."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    remedy = "Delete it and run the command again"
    return IntegrityError(f"a part that cannot be read ({error})", where=str(path), remedy=remedy)
