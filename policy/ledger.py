"""The ledger: append-only tables in one DuckDB file, chained batch by batch, and the one class that opens it.

What holds (policy/commitments.py has the formulas):

* Rows come in batches. A batch has a table, an idempotency key and a sequence number; its rows' digest is chained to
  the batch before it. `append` is one transaction: a batch is there whole, once, or not at all.
* Personal columns enter the digests as salted commitments only, so an erasure, approved and recorded, leaves the chain
  intact; a value that is gone without one does not verify.
* DuckDB lets no other process open a file that one holds for writing. A lock file beside the ledger (flock) makes
  openings wait for each other; connections are short-lived and never cross a fork.
* What nobody can see from inside: that the newest batches were cut off together with their rows, or that the whole
  file was written anew. For that the head is anchored outside (`verify(anchors=…)`).
"""

# ruff: noqa: S608 - names and expressions come from the schema and from our own code; values are parameters
from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

import duckdb

from policy.commitments import BOOKKEEPING, GENESIS, Column, TableShape, chain_sql
from policy.durable import sync_directory, sync_file
from policy.errors import (
    BusyError,
    CustodyError,
    HomeError,
    InputError,
    IntegrityError,
    KeyFileError,
    RefusedError,
    StorageError,
)
from policy.keys import PURPOSES, KeyRing
from policy.lock import FileLock
from policy.migrate import is_current, migrate, packaged_migrations, packaged_views
from policy.personal import FORGETTABLE, FORGETTING, SPENT
from policy.verification import Failure, definitions, verify_ledger

if TYPE_CHECKING:
    import pyarrow as pa

Rows: TypeAlias = "pa.Table | Sequence[Mapping[str, object]]"
Result = TypeVar("Result")

# Given to connect(): extensions would reach for the network, and no SQL in here has business with other files.
_CONFIGURATION: Final = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "enable_external_access": "false",
    "python_enable_replacements": "false",
}
# Up to this size one thread is done with a statement before several have shared it out.
_SMALL_BYTES: Final = 32 << 20
_READING: Final = frozenset({duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN})


def utc_now() -> datetime:
    """The default clock."""
    return datetime.now(UTC)


def utc_naive(moment: datetime) -> datetime:
    """As DuckDB's TIMESTAMP takes it: UTC, without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def connect(path: Path, *, readonly: bool) -> duckdb.DuckDBPyConnection:
    """A connection that reaches no other file, no network, no Python variable, and whose settings are locked."""
    connection = duckdb.connect(str(path), read_only=readonly, config=dict(_CONFIGURATION))
    # Connections of one process to one file share an instance and its global settings, so another may have locked
    # them already: then what counts is that they are the ones we want.
    with contextlib.suppress(duckdb.InvalidInputException):
        # Where Python runs without a script DuckDB draws a bar of its own, into what a program reads.
        connection.execute("SET enable_progress_bar = false")
        if _is_small(path):
            connection.execute("SET GLOBAL threads = 1")
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET GLOBAL lock_configuration = true")
    [found] = connection.execute(
        "SELECT current_setting('TimeZone'), current_setting('lock_configuration'),"
        " current_setting('python_enable_replacements'), current_setting('enable_external_access')"
    ).fetchall()
    if found != ("UTC", True, False, False):
        connection.close()
        raise InputError(f"the file is open in this process with other settings: {found}", where=str(path))
    return connection


def reading_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement in `sql`, if it only reads; raises `InputError` otherwise."""
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(f"not SQL: {error}") from error
    if len(statements) != 1 or statements[0].type not in _READING:
        raise InputError("one SELECT is expected", remedy="Nothing here can be written by SQL")
    return statements[0]


class Ledger:
    """An open ledger. `with Ledger.open(home / "ledger.duckdb", keys=ring) as ledger: ledger.append(…)`."""

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection,
        lock: FileLock,
        *,
        readonly: bool,
        clock: Callable[[], datetime],
    ) -> None:
        """Use `Ledger.open`."""
        self.path = path
        self.readonly = readonly
        self._connection: duckdb.DuckDBPyConnection | None = connection
        self._lock = lock
        self._clock = clock
        self._pid = os.getpid()
        self._closed = False
        # Names and shapes of tables are read when they are asked for: most readers need none.
        self._names: tuple[str, ...] = ()
        self._shapes: dict[str, TableShape | None] = {}
        self._is_ahead = False
        _OPEN.add(self)

    # ── opening and closing ────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def create(cls, path: Path, keys: KeyRing, now: datetime) -> None:
        """Make an empty ledger that knows the keys; raises `HomeError` where there is one, `StorageError`."""
        making = path.with_name(path.name + ".making")
        lock = FileLock(lock_path(path), exclusive=True, wait_s=0)
        try:
            if path.exists():
                raise HomeError("there is a ledger here already", where=str(path))
            _unlink(making, wal_path(making))
            connection = connect(making, readonly=False)
            migrate(connection, packaged_migrations(), packaged_views(), now=now, where=str(path))
            ledger = cls(making, connection, lock, readonly=False, clock=lambda: now)
            checks = [
                {
                    "key_id": keys.key_id(purpose),
                    "purpose": purpose,
                    "check_value": keys.check_value(purpose),
                    "made_at": now,
                }
                for purpose in PURPOSES
            ]
            ledger.append("key_check", checks, key="create")
            ledger._disconnect()
            sync_file(making)
            os.replace(making, path)
            sync_directory(path.parent)
        except (duckdb.Error, OSError) as error:
            raise StorageError(f"cannot make the ledger ({error})", where=str(path)) from error
        finally:
            lock.release()

    @classmethod
    def open(
        cls,
        path: Path,
        keys: KeyRing | None = None,
        readonly: bool = False,
        wait_s: float = 30.0,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> Self:
        """Open an existing ledger, for one writer or for many readers.

        `keys` None: for callers that need none; no key is then checked, and none can be used. An older schema is
        brought up to date first. Raises `HomeError` (no ledger, or one that a newer version wrote), `KeyFileError`
        (not the keys the ledger knows), `BusyError` (another process still holds it after `wait_s` seconds),
        `IntegrityError` (a migration on record reads differently), `StorageError`.
        """
        while True:
            lock = FileLock(lock_path(path), exclusive=not readonly, wait_s=wait_s) if path.parent.is_dir() else None
            if lock is None:
                raise HomeError("there is no such directory", where=str(path.parent), remedy="Run `custody init`")
            try:
                connection = _open_existing(path, readonly=readonly)
                try:
                    current = is_current(connection, packaged_migrations(), packaged_views(), where=str(path))
                    if not current and not readonly:
                        migrate(connection, packaged_migrations(), packaged_views(), now=clock(), where=str(path))
                        connection.close()  # what follows reads the definitions as they are stored
                        connection = connect(path, readonly=False)
                    if current or not readonly:
                        if keys is not None:
                            _check_keys(connection, keys, where=str(path))
                        return cls(path, connection, lock, readonly=readonly, clock=clock)
                    connection.close()
                except BaseException:
                    connection.close()
                    raise
            except duckdb.Error as error:
                lock.release()
                raise _explained(error, path) from error
            except BaseException:
                lock.release()
                raise
            # A reader cannot migrate: open once for writing, then come back.
            lock.release()
            cls.open(path, wait_s=wait_s, clock=clock).close()

    def close(self) -> None:
        """Close the connection and release the lock; in a forked child, only let go of both."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        self._disconnect()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── appending ──────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, table: str, rows: Rows, *, key: str) -> bool:
        """Append one batch; False, and nothing done, when this table has a batch with this key already.

        Missing columns become NULL. Times: aware, or naive and then UTC. Raises `InputError` (unknown table or
        column, a value of the wrong type), `StorageError` (disk full: nothing of the batch is there).
        """
        return self.append_many([(table, rows, key)])[0]

    def append_many(self, batches: Sequence[tuple[str, Rows, str]]) -> tuple[bool, ...]:
        """Append (table, rows, key) batches in one transaction: all new ones or none; one answer a batch."""
        self._require_writer()
        shapes = [self.shape(table) for table, _, _ in batches]
        keys = [key for _, _, key in batches]
        incoming = [self._committed(shape, rows) for shape, (_, rows, _) in zip(shapes, batches, strict=True)]
        with self._registered(incoming):
            appended = self._in_transaction(
                lambda: tuple(
                    self._append(shape, f"incoming_{i}", key, full=_full(incoming[i]))
                    for i, (shape, key) in enumerate(zip(shapes, keys, strict=True))
                ),
                landed=lambda: all(self._known(shape.name, key) for shape, key in zip(shapes, keys, strict=True)),
            )
        self._is_ahead = self._is_ahead or any(appended)
        return appended

    def commit_rows(self, table: str, rows: Rows) -> pa.Table:
        """The rows with `salt` and `commitment` as `append` will store them, for who must know commitments before.

        `append` takes such rows over: same salts, and commitments that must agree.
        """
        return self._committed(self.shape(table), rows).drop_columns("row_no")

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────

    def query(self, sql: str, params: object = None) -> list[tuple[Any, ...]]:
        """The rows of one SELECT; `params` a sequence for `?` or a mapping for `$name`. Raises `InputError`.

        A list of texts is a parameter of type VARCHAR[] and stands in the statement with that cast.
        """
        with self._reading(sql) as connection:
            return connection.execute(sql, _given(params)).fetchall()

    def query_arrow(self, sql: str, params: object = None) -> pa.Table:
        """The rows of one SELECT as an Arrow table; parameters as `query` takes them. Raises `InputError`."""
        with self._reading(sql) as connection:
            return connection.execute(sql, _given(params)).to_arrow_table()

    def query_batches(self, sql: str, params: object = None, *, rows: int = 8_192) -> Iterator[pa.RecordBatch]:
        """The rows of one SELECT, so many at a time, for what is too large to hold; parameters as `query` takes them.

        Until the last is taken nothing else may be asked of this ledger. Raises `InputError`.
        """
        with self._reading(sql) as connection:
            yield from connection.execute(sql, _given(params)).to_arrow_reader(rows)

    def head(self) -> tuple[int, str]:
        """The newest batch's sequence number and chain; (0, 64 zeros) of an empty ledger."""
        return _head(self._connected())

    def shape(self, table: str) -> TableShape:
        """The columns of a chained table; raises `InputError` for any other name."""
        if (found := self._shape(table)) is None:
            raise InputError(f"no such table: {table}", remedy=f"There are {', '.join(self.tables)}")
        return found

    @property
    def tables(self) -> tuple[str, ...]:
        """The chained tables, by name."""
        return tuple(name for name in _table_names(self._connected()) if self._shape(name) is not None)

    def verify(self, keys: KeyRing | None = None, anchors: Sequence[tuple[int, str]] = ()) -> tuple[Failure, ...]:
        """Recompute everything: chain, digests, commitments, erasures, views; what fails, by table, batch and row.

        `keys`: also that the ledger knows them. `anchors`: (seq, chain) pairs that were published outside.
        """
        self._connected()
        checks = {} if keys is None else {purpose: keys.check_value(purpose) for purpose in PURPOSES}
        shapes = tuple(map(self.shape, self.tables))
        with self._read_only() as connection:
            return verify_ledger(connection, _expected_definitions(), shapes, checks, anchors)

    # ── erasing and upkeep ─────────────────────────────────────────────────────────────────────────────────────

    def erase(
        self, removal: str, predicates: Mapping[str, str], params: Mapping[str, object] | None = None
    ) -> dict[str, int]:
        """Set the personal columns and salts of the rows that the predicates name to NULL; rows erased, by table.

        `predicates`: a SQL condition a table, with `$name` parameters. Raises as `erase_rows` does.
        """
        self._require_writer()
        self._require_approved([removal])
        name = removal.replace("'", "''")
        selections = {
            table: f"SELECT batch_seq, row_no, '{name}' AS removal FROM \"{table}\" WHERE (\n{predicate}\n)"
            for table, predicate in predicates.items()
        }
        counts = self.erase_rows(selections, params).get(removal, {})
        return {table: counts.get(table, 0) for table in predicates}

    def erase_rows(
        self, selections: Mapping[str, str], params: Mapping[str, object] | None = None
    ) -> dict[str, dict[str, int]]:
        """Set the personal columns and salts of the selected rows to NULL; rows erased, by removal and table.

        `selections`: a SELECT a table of (batch_seq, row_no, removal), with `$name` parameters; all are evaluated
        before anything is erased, so they may look into each other's tables. A row that several removals select is
        erased for the first of them, by name. `erasure` rows record the counts in the same transaction. The bytes
        stay in the file until `compact`. Raises `RefusedError` when one of the removals was never approved,
        `InputError` for a table without personal columns or a selection that is none.
        """
        self._require_writer()
        shapes = {table: self.shape(table) for table in selections}
        if bare := sorted(table for table, shape in shapes.items() if not shape.personal):
            raise InputError(f"no personal columns to erase in {', '.join(bare)}")
        key = f"erase:{self.head()[0] + 1}"

        def work() -> dict[str, dict[str, int]]:
            for table, selection in selections.items():
                self._mark(table, selection, params or {})
            self._require_approved(self._marked_for(selections))
            if any(name.startswith(FORGETTING) for name in self._marked_for(set(selections) - FORGETTABLE)):
                raise RefusedError("forgetting who asked erases nothing else")
            for table in set(selections) & FORGETTABLE:
                self._require_own(table)
            counts: dict[str, dict[str, int]] = {}
            for table, shape in shapes.items():
                for removal, count in self._erase_marked(shape):
                    counts.setdefault(removal, {})[table] = count
            rows = [
                {"removal": removal, "table_name": table, "row_count": count, "erased_at": self._clock()}
                for removal, by_table in counts.items()
                for table, count in by_table.items()
            ]
            if rows:
                shape = self.shape("erasure")
                incoming = self._committed(shape, rows)
                with self._registered([incoming]):
                    self._append(shape, "incoming_0", key, full=_full(incoming))
            return counts

        return self._in_transaction(work, landed=lambda: self._known("erasure", key))

    def compact(self) -> None:
        """Copy every table, sorted, into a new file that takes the old one's place: erased bytes are gone after it.

        The logical chain goes on unchanged; an `event` row says that it happened. Crash-safe: the old file is the
        ledger until the rename. Raises `StorageError` (the old file stays), `IntegrityError` if the copy differs.
        """
        self._require_writer()
        seq, _ = self.head()
        making = self.path.with_name(self.path.name + ".compacting")
        self._disconnect()
        try:
            _unlink(making, wal_path(making))
            if wal_path(self.path).exists():
                raise StorageError("the log could not be written into the file", where=str(self.path))
            _copy_sorted(self.path, making)
            sync_file(making)
            os.replace(making, self.path)
            sync_directory(self.path.parent)
        except (duckdb.Error, OSError) as error:
            raise StorageError(f"cannot compact ({error})", where=str(self.path)) from error
        finally:
            _unlink(making, wal_path(making))
            self._reconnect()
        event = {"kind": "compacted", "subject": None, "detail": f"up to batch {seq}", "happened_at": self._clock()}
        self.append("event", [event], key=f"compact:{seq}")

    def copy_to(self, destination: Path) -> None:
        """Copy the file, and its log where one is left, byte by byte; the lock keeps writers away meanwhile.

        The connection is closed for it, until it is needed again: closing any descriptor of a file drops the POSIX
        locks a process has on it, DuckDB's too.
        """
        self._connected()
        self._disconnect()
        try:
            shutil.copyfile(self.path, destination)
            if wal_path(self.path).exists():
                shutil.copyfile(wal_path(self.path), wal_path(destination))
        except OSError as error:
            raise StorageError(f"cannot copy the ledger ({error.strerror})", where=str(destination)) from error
        self._is_ahead = False

    @property
    def is_ahead(self) -> bool:
        """Whether it has a batch that no copy can have: appended since it was opened, and not copied since."""
        return self._is_ahead

    # ── within ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if os.getpid() != self._pid:
            # A child's writes into an inherited connection vanish without a word.
            raise RuntimeError("a ledger is not used across a fork: open it in the process that needs it")
        if self._closed:
            raise StorageError("the ledger is closed", where=str(self.path), remedy="Open it again")
        if self._connection is None:
            return self._reconnect()
        return self._connection

    def _shape(self, table: str) -> TableShape | None:
        """A chained table's columns, read once; None where it is none."""
        if table not in self._shapes:
            connection = self._connected()
            self._names = self._names or tuple(_table_names(connection))
            self._shapes[table] = _read_shape(connection, table) if table in self._names else None
        return self._shapes[table]

    def _require_writer(self) -> None:
        self._connected()
        if self.readonly:
            raise RefusedError("the ledger was opened for reading", where=str(self.path))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reconnect(self) -> duckdb.DuckDBPyConnection:
        """A fresh connection to what is on disk, under the same lock."""
        self._disconnect()
        try:
            self._connection = connect(self.path, readonly=self.readonly)
            return self._connection
        except duckdb.Error as error:
            raise _explained(error, self.path) from error

    def _in_transaction(self, work: Callable[[], Result], *, landed: Callable[[], bool]) -> Result:
        """Run `work` whole or not at all. `landed` is asked, on a fresh connection, when COMMIT itself failed."""
        connection = self._connected()
        try:
            connection.execute("BEGIN TRANSACTION")
            result = work()
        except BaseException as error:
            self._roll_back()
            if isinstance(error, duckdb.Error):
                raise _explained(error, self.path) from error
            raise
        try:
            connection.execute("COMMIT")
        except duckdb.Error as error:
            # It may have become durable all the same (a full disk does that): look.
            self._reconnect()
            if not landed():
                raise _explained(error, self.path) from error
        return result

    def _roll_back(self) -> None:
        try:
            self._connected().execute("ROLLBACK")
        except duckdb.Error:
            self._reconnect()  # DuckDB gave the instance up: what is on disk is what was committed

    @contextlib.contextmanager
    def _read_only(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction in which DuckDB itself refuses to write."""
        connection = self._connected()
        try:
            connection.execute("BEGIN TRANSACTION READ ONLY")
            yield connection
        except duckdb.Error as error:
            raise _explained(error, self.path) from error
        finally:
            self._roll_back()

    @contextlib.contextmanager
    def _reading(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        reading_statement(self._connected(), sql)
        with self._read_only() as connection:
            yield connection

    @contextlib.contextmanager
    def _registered(self, tables: Sequence[pa.Table]) -> Iterator[duckdb.DuckDBPyConnection]:
        """The Arrow tables as incoming_0, incoming_1, …, each to be read once.

        As a stream, not as a table: for that DuckDB would import what takes longer than most appends.
        """
        connection = self._connected()
        for i, table in enumerate(tables):
            connection.register(f"incoming_{i}", table.__arrow_c_stream__())
        try:
            yield connection
        finally:
            if self._connection is connection:
                for i in range(len(tables)):
                    connection.unregister(f"incoming_{i}")

    def _known(self, table: str, key: str) -> bool:
        found = self._connected().execute(
            "SELECT 1 FROM batch WHERE table_name = ? AND idempotency_key = ? LIMIT 1", [table, key]
        )
        return bool(found.fetchall())

    def _committed(self, shape: TableShape, rows: Rows) -> pa.Table:
        """The rows in the table's columns, with `row_no`, `salt` and `commitment`.

        Raises `InputError` where they came with commitments that are not theirs.
        """
        import pyarrow as pa

        table = _conform(shape, rows)
        text = shape.commitment_text_sql(full=_full(table))
        with self._registered([table]) as connection:
            found = [pa.array(each) for each in _digests(connection, f"SELECT row_no, {text} FROM incoming_0")]
        commitments = pa.chunked_array(found, pa.string())
        if "given_commitment" in table.column_names:
            given = table.column("given_commitment").to_pylist()
            if contradicted := sum(a not in (None, b) for a, b in zip(given, commitments.to_pylist(), strict=True)):
                raise InputError(f"{contradicted} commitments do not fit the rows they came with", where=shape.name)
            table = table.drop_columns("given_commitment")
        return table.append_column("commitment", commitments)

    def _append(self, shape: TableShape, incoming: str, key: str, *, full: frozenset[str]) -> bool:
        """Within a transaction: the rows, then the batch that chains them. `full`: columns without a NULL."""
        if self._known(shape.name, key):
            return False
        connection = self._connected()
        previous_seq, previous = _head(connection)
        seq = previous_seq + 1
        [(row_count,)] = connection.execute(
            f'INSERT INTO "{shape.name}" BY NAME SELECT *, CAST(? AS BIGINT) AS batch_seq FROM {incoming}', [seq]
        ).fetchall()
        # The digest is taken of what was stored, not of what was handed in.
        stored = f'SELECT row_no, {shape.row_text_sql(full)} FROM "{shape.name}" WHERE batch_seq = ?'
        rows_digest = hashlib.sha256()
        for digests in _digests(connection, stored, [seq]):
            rows_digest.update("".join(digests).encode())
        connection.execute(
            f"INSERT INTO batch BY NAME SELECT *, {chain_sql()} AS chain FROM (SELECT CAST($seq AS BIGINT) AS seq,"
            " $table AS table_name, $key AS idempotency_key, CAST($count AS BIGINT) AS row_count,"
            " $digest AS rows_digest, $previous AS previous, CAST($now AS TIMESTAMP) AS appended_at)",
            {
                "seq": seq,
                "table": shape.name,
                "key": key,
                "count": row_count,
                "digest": rows_digest.hexdigest(),
                "previous": previous,
                "now": utc_naive(self._clock()),
            },
        )
        return True

    def _require_approved(self, removals: Sequence[str]) -> None:
        approved = self._connected().execute("SELECT DISTINCT removal FROM removal_event WHERE state = 'approved'")
        if strange := set(removals) - {removal for (removal,) in approved.fetchall()}:
            raise RefusedError("nothing is erased for a removal that was not approved", where=min(strange))

    def _mark(self, table: str, selection: str, params: Mapping[str, object]) -> None:
        connection = self._connected()
        statement = reading_statement(connection, selection)
        used = {name: value for name, value in params.items() if name in statement.named_parameters}
        connection.execute(
            f'CREATE OR REPLACE TEMP TABLE "erasing_{table}" AS SELECT batch_seq, row_no, min(removal) AS removal'
            f' FROM (\n{selection}\n) SEMI JOIN (SELECT batch_seq, row_no FROM "{table}" WHERE erased_by IS NULL)'
            " USING (batch_seq, row_no) GROUP BY batch_seq, row_no",
            _given(used),
        )

    def _marked_for(self, tables: Iterable[str]) -> list[str]:
        marked = " UNION ".join(f'SELECT removal FROM "erasing_{table}"' for table in tables)
        return [removal for (removal,) in self._connected().execute(marked).fetchall()] if marked else []

    def _require_own(self, table: str) -> None:
        """What is forgotten of a request stands in rows of that request; what it named only once that is spent."""
        marked = self._connected().execute(
            f'SELECT DISTINCT gone.removal, kept.removal FROM "erasing_{table}" AS gone'
            f' JOIN "{table}" AS kept USING (batch_seq, row_no) WHERE starts_with(gone.removal, ?)',
            [FORGETTING],
        )
        for name, own in marked.fetchall():
            spent = self._connected().execute(
                "SELECT 1 FROM removal_event WHERE removal = ? AND list_contains(?::VARCHAR[], state) LIMIT 1",
                [own, list(SPENT)],
            )
            if name != f"{FORGETTING}{own}" or (table != "requester" and not spent.fetchall()):
                raise RefusedError("forgetting who asked erases nothing else", where=own)

    def _erase_marked(self, shape: TableShape) -> list[tuple[str, int]]:
        """How many rows were erased for each removal."""
        connection = self._connected()
        emptied = "".join(f'"{column.name}" = NULL, ' for column in shape.personal)
        connection.execute(
            f'UPDATE "{shape.name}" AS kept SET {emptied} salt = NULL, erased_by = gone.removal'
            f' FROM "erasing_{shape.name}" AS gone'
            " WHERE kept.batch_seq = gone.batch_seq AND kept.row_no = gone.row_no"
        )
        counts = f'SELECT removal, count(*) FROM "erasing_{shape.name}" GROUP BY removal ORDER BY removal'
        found = [(str(removal), int(count)) for removal, count in connection.execute(counts).fetchall()]
        connection.execute(f'DROP TABLE "erasing_{shape.name}"')
        return found


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _given(params: object) -> object:
    """Parameters as DuckDB takes them quickly: of each text in a list it would look whether pandas is installed
    (0.09 ms where it is not), so a list of texts goes over as the one text that its cast to VARCHAR[] reads.
    """
    if isinstance(params, Mapping):
        return {name: _list_text(value) for name, value in params.items()}
    if isinstance(params, list | tuple):
        return [_list_text(value) for value in params]
    return params


def _list_text(value: object) -> object:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        return value
    return "[" + ",".join('"' + t.replace("\\", "\\\\").replace('"', '\\"') + '"' for t in value) + "]"


def lock_path(path: Path) -> Path:
    """`ledger.duckdb` -> `ledger.lock`."""
    return path.with_suffix(".lock")


def wal_path(path: Path) -> Path:
    """The write-ahead log that DuckDB keeps beside a file."""
    return path.with_name(path.name + ".wal")


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _open_existing(path: Path, *, readonly: bool) -> duckdb.DuckDBPyConnection:
    """Connect to a ledger that must be there: DuckDB would make a new one of a missing or an empty file."""
    if not path.is_file():
        raise HomeError("there is no ledger", where=str(path), remedy="Run `custody init`")
    if path.stat().st_size == 0:
        raise IntegrityError("the ledger is an empty file", where=str(path), remedy="Restore it from its backup")
    if not readonly:
        # What a killed process left: spilled rows and half a copy, both of personal data.
        shutil.rmtree(path.with_name(path.name + ".tmp"), ignore_errors=True)
        _unlink(
            *(path.with_name(path.name + end) for end in (".making", ".compacting", ".making.wal", ".compacting.wal"))
        )
    connection = connect(path, readonly=readonly)
    try:
        connection.execute("SELECT version FROM schema_migration LIMIT 0")
    except duckdb.CatalogException:
        connection.close()
        raise HomeError("a DuckDB file, but no ledger", where=str(path)) from None
    return connection


@cache
def _expected_definitions() -> Mapping[str, str]:
    """What this version defines, read back from a file: DuckDB prints a stored view in its own way."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pristine.duckdb"
        with connect(path, readonly=False) as connection:
            migrate(
                connection,
                packaged_migrations(),
                packaged_views(),
                now=datetime(1970, 1, 1, tzinfo=UTC),
                where=str(path),
            )
        with connect(path, readonly=True) as connection:
            return definitions(connection)


def _copy_sorted(source: Path, destination: Path) -> None:
    """All tables of `source`, sorted, and the views, in a new file; compared before it is closed."""
    connection = duckdb.connect(str(destination), config={**_CONFIGURATION, "enable_external_access": "true"})
    try:
        quoted = str(source).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS source (READ_ONLY)")
        # A small one is written in one transaction; a large one would wait in memory for its end.
        if at_once := _is_small(source):
            connection.execute("SET threads = 1")
            connection.execute("BEGIN TRANSACTION")
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'source'").fetchall()
        known = _fingerprints(connection, "source.main", [name for (name,) in names])
        for name, (rows, _) in known.items():
            order = "version" if name == "schema_migration" else "seq" if name == "batch" else "batch_seq, row_no"
            sorted_rows = f"ORDER BY {order}" if rows else "WITH NO DATA"
            connection.execute(f'CREATE TABLE "{name}" AS FROM source.main."{name}" {sorted_rows}')
        connection.execute(packaged_views().text)
        if at_once:
            connection.execute("COMMIT")
        copied = _fingerprints(connection, "main", [*known])
        if strange := sorted(name for name in known if copied[name] != known[name]):
            raise IntegrityError("the copy is not what was copied", where=f"{destination}, table {strange[0]}")
        connection.execute("DETACH source")
        connection.execute("CHECKPOINT")
    finally:
        connection.close()


def _fingerprints(
    connection: duckdb.DuckDBPyConnection, schema: str, tables: Sequence[str]
) -> dict[str, tuple[int, int | None]]:
    """Of each table how many rows it has and what they come to, in whatever order they are."""
    each = " UNION ALL ".join(
        f"SELECT '{name}', count(*), bit_xor(hash(t)) FROM {schema}.\"{name}\" t" for name in tables
    )
    return {name: (rows, hashed) for name, rows, hashed in connection.execute(each).fetchall()}


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= _SMALL_BYTES


# ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _conform(shape: TableShape, rows: Rows) -> pa.Table:
    from policy.incoming import conform  # pyarrow takes as long to import as all else here, and readers need none

    return conform(shape, rows)


def _full(table: pa.Table) -> frozenset[str]:
    """The columns in which no NULL stands; of rows that are being appended, the ledger's own among them."""
    known = {name for name, column in zip(table.column_names, table.columns, strict=True) if not column.null_count}
    return frozenset(known)


def _digests(connection: duckdb.DuckDBPyConnection, sql: str, params: Sequence[object] = ()) -> Iterator[list[str]]:
    """SHA-256 in hex of the second column, some thousand rows at once. The first is `row_no`: none is missing.

    DuckDB would do it too, in twice the time: OpenSSL knows the processor's own instructions.
    """
    import numpy as np
    import pyarrow as pa

    expected = 0
    for batch in connection.execute(sql, params).to_arrow_reader(_ROWS_AT_ONCE):
        numbers = batch.column(0).to_numpy(zero_copy_only=False)
        if not np.array_equal(numbers, np.arange(expected, expected + len(numbers))):
            raise IntegrityError("rows did not come back in the order they were given in", where=sql.partition(",")[0])
        expected += len(numbers)
        texts = batch.column(1).view(pa.binary()).to_numpy(zero_copy_only=False)
        yield [hashlib.sha256(text).hexdigest() for text in texts]


_ROWS_AT_ONCE: Final = 16_384


def _table_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]


def _read_shape(connection: duckdb.DuckDBPyConnection, table: str) -> TableShape | None:
    """A table's columns; None where it is not chained. (`duckdb_columns()` would bind every view for its answer.)"""
    columns = [
        Column(name, kind)
        for name, kind in connection.execute("SELECT name, type FROM pragma_table_info(?)", [table]).fetchall()
    ]
    if not set(BOOKKEEPING) <= {column.name for column in columns}:
        return None
    return TableShape(table, tuple(column for column in columns if column.name not in BOOKKEEPING))


def _head(connection: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    [(seq, chain)] = connection.execute("SELECT coalesce(max(seq), 0), arg_max(chain, seq) FROM batch").fetchall()
    return int(seq), str(chain) if seq else GENESIS


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_keys(connection: duckdb.DuckDBPyConnection, keys: KeyRing, *, where: str) -> None:
    """The newest check value of each purpose is the key's; raises `KeyFileError`."""
    # All there are, a handful, the newest last: a window over them takes three times as long.
    known = dict(connection.execute("SELECT purpose, check_value FROM key_check ORDER BY batch_seq, row_no").fetchall())
    for purpose in PURPOSES:
        if known.get(purpose) != keys.check_value(purpose):
            raise KeyFileError(
                f"the {purpose} key is not the one this ledger knows", where=where, remedy="Restore keys/ of this home"
            )


def _explained(error: duckdb.Error, path: Path) -> CustodyError:
    """DuckDB's error as one of ours."""
    text, where = str(error).splitlines()[0], str(path)
    full = StorageError(text, where=where, remedy="Make room; what was complete stays complete")
    match error:
        case duckdb.IOException() if "Could not set lock" in text:
            return BusyError(text, where=where, remedy="Close the other program; auditors read audit.duckdb")
        case duckdb.IOException() if "not a valid DuckDB" in text or "orrupt" in text:
            return IntegrityError(text, where=where, remedy="Restore the ledger from its backup")
        case duckdb.IOException() | duckdb.OutOfMemoryException() | duckdb.FatalException():
            return full
        case duckdb.Error() if "No space left" in text or "Could not write" in text or "Failed to commit" in text:
            return full  # a COMMIT's IO error comes as a TransactionException
        case duckdb.InternalException() | duckdb.SerializationException():
            return IntegrityError(text, where=where)
        case _:
            return InputError(text)


# ── forks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_OPEN: weakref.WeakSet[Ledger] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child must neither keep the lock alive nor ever run the destructor of an inherited connection."""
    import ctypes

    for ledger in list(_OPEN):
        ledger._lock.forget()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(ledger._connection))


os.register_at_fork(after_in_child=_let_go_in_child)
