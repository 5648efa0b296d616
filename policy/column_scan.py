"""Every value of any DuckDB file, column by column, and what its bytes may still hold that no query shows.

DuckDB packs texts (FSST, dictionaries, ZSTD), so that a file in which a value cannot be found by its bytes may hold it
all the same. And what was deleted or overwritten stays in blocks that no query reaches, packed as well: of those one
can only say that they are there.
"""

# ruff: noqa: S608 - names come from the file itself and are quoted
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import duckdb

from policy.errors import BusyError, IntegrityError
from policy.ledger import connect, lock_path
from policy.lock import FileLock

if TYPE_CHECKING:
    from types import TracebackType

    import pyarrow as pa

ROWS_AT_ONCE: Final = 2_048
# Types that hold no text and no bytes of their own; all others are read, nested ones as text.
_PLAIN: Final = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "FLOAT", "DOUBLE"}
    | {"DATE", "TIME", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "INTERVAL", "TIME WITH TIME ZONE"}
    | {"TIMESTAMP WITH TIME ZONE"}
)
_CATALOG: Final = {
    "views": "SELECT sql FROM duckdb_views() WHERE NOT internal",
    "tables": "SELECT concat_ws(' ', sql, comment) FROM duckdb_tables() WHERE NOT internal",
    "columns": "SELECT concat_ws(' ', column_default, comment) FROM duckdb_columns() WHERE NOT internal",
    "functions": "SELECT macro_definition FROM duckdb_functions() WHERE NOT internal AND macro_definition IS NOT NULL",
    "types": "SELECT unnest(labels) FROM duckdb_types() WHERE NOT internal AND labels IS NOT NULL",
}


@dataclass(frozen=True, slots=True)
class ColumnPart:
    """Some rows of a column; `values`: an Arrow array of texts or bytes."""

    table: str
    column: str
    values: pa.Array


class ColumnScan:
    """A DuckDB file, opened for reading only: `with ColumnScan.open(path) as scan: scan.columns("slot")`.

    The ledger's lock is waited for, so that nobody writes meanwhile. Not where the process has the file open itself.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, where: str, lock: FileLock | None) -> None:
        """Use `open` or `of_bytes`."""
        self._connection, self._where, self._lock = connection, where, lock

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 60.0) -> Self:
        """Raises `BusyError` where another program writes to it, `IntegrityError` where DuckDB cannot read it."""
        beside = lock_path(path)
        lock = FileLock(beside, exclusive=False, wait_s=wait_s) if beside.is_file() else None
        try:
            return cls(_connected(path), str(path), lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    @contextlib.contextmanager
    def of_bytes(cls, body: bytes | memoryview, where: str) -> Iterator[Self]:
        """A DuckDB file that lies within another, in memory and nowhere else. Raises `IntegrityError`."""
        descriptor = os.memfd_create("duckdb")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(body)
            with cls(_connected(Path(f"/proc/self/fd/{descriptor}"), where), where, None) as scan:
                yield scan
        finally:
            os.close(descriptor)

    def tables(self) -> tuple[str, ...]:
        """The tables by their names, with their schema where it is not `main`."""
        rows = self._ask("SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL")
        return tuple(name if schema == "main" else f"{schema}.{name}" for schema, name in rows)

    def columns(self, table: str) -> Iterator[ColumnPart]:
        """Every text and every byte of a table, some thousand rows at a time.

        Bytes come as they are; UUIDs and numbers of 128 bits in hex; lists, structs and what else there is as text.
        Raises `IntegrityError` for what cannot be read.
        """
        schema, _, name = table.rpartition(".")
        qualified = f"{_quoted(schema or 'main')}.{_quoted(name)}"
        # (`duckdb_columns()` would bind every view for its answer.)
        columns = self._ask("SELECT name, type FROM pragma_table_info(?)", [qualified])
        read = {str(column): _expression(str(column), str(kind)) for column, kind in columns if kind not in _PLAIN}
        if not read:
            return
        selected = ", ".join(read.values())
        for batch in self._batches(f"SELECT {selected} FROM {qualified}"):
            for column, values in zip(read, batch.columns, strict=True):
                yield ColumnPart(table, column, values)

    def catalog(self) -> Iterator[ColumnPart]:
        """What the catalog says in words: definitions, defaults, comments, values of enumerations."""
        for what, sql in _CATALOG.items():
            for batch in self._batches(sql):
                yield ColumnPart("(catalog)", what, batch.column(0))

    def remains(self) -> tuple[str, ...]:
        """Why the file's bytes may hold more than its columns show; empty where they do not.

        Rows that were deleted stay in a table's segments until the file is copied, and blocks that were given back keep
        what they held. Of a ledger that was compacted since its last erasure the latter hold nothing that was erased.
        """
        told = []
        for table in self.tables():
            schema, _, name = table.rpartition(".")
            qualified = f"{_quoted(schema or 'main')}.{_quoted(name)}"
            [(shown,)] = self._ask(f"SELECT count(*) FROM {qualified}")
            [(stored,)] = self._ask(
                "SELECT coalesce(max(n), 0) FROM (SELECT sum(count) AS n FROM pragma_storage_info(?)"
                " WHERE column_path NOT LIKE '%,%' GROUP BY column_path)",
                [f"{schema}.{name}" if schema else name],
            )
            if stored > shown:
                told.append(f"{stored - shown} deleted rows of {table} are still in its bytes")
        [(free,)] = self._ask("SELECT free_blocks FROM pragma_database_size()")
        if free and not self._compacted_since_erasure():
            told.append(f"{free} blocks that were given back may hold what they held")
        return tuple(told)

    def close(self) -> None:
        """Close the connection and release the lock."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _compacted_since_erasure(self) -> bool:
        if not {"batch", "event", "erasure"} <= set(self.tables()):
            return False
        [(erased, compacted)] = self._ask(
            "SELECT (SELECT coalesce(max(batch_seq), 0) FROM erasure),"
            " (SELECT coalesce(max(batch_seq), 0) FROM event WHERE kind = 'compacted')"
        )
        return bool(compacted >= erased)  # both 0: nothing was ever erased

    def _ask(self, sql: str, params: list[object] | None = None) -> list[tuple[Any, ...]]:
        with _reading(self._where):
            return self._connection.execute(sql, params).fetchall()

    def _batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        with _reading(self._where):
            yield from self._connection.execute(sql).to_arrow_reader(ROWS_AT_ONCE)


def _expression(column: str, kind: str) -> str:
    name = _quoted(column)
    match kind:
        case "VARCHAR" | "BLOB":
            return name
        case "UUID":
            return f"replace({name}::VARCHAR, '-', '')"
        case "HUGEINT" | "UHUGEINT":
            return f"lower(to_hex({name}))"
        case _:
            return f"CAST({name} AS VARCHAR)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _connected(path: Path, where: str = "") -> duckdb.DuckDBPyConnection:
    where = where or str(path)
    with _reading(where):
        return connect(path, readonly=True)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """DuckDB's errors as ours, without what they quote: a message may hold a value."""
    try:
        yield
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise BusyError("another program has it open for writing", where=where, remedy="Close it") from None
        raise IntegrityError("DuckDB cannot read it", where=where) from None
    except duckdb.Error as error:
        raise IntegrityError(f"DuckDB cannot read it ({type(error).__name__})", where=where) from None
