"""Everything in the ledger recomputed in SQL: what fails, by table, batch and row."""

# ruff: noqa: S608 - names and expressions come from the schema and from our own code; values are parameters
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb

from policy.commitments import GENESIS, ROWS_DIGEST_SQL, TableShape, chain_sql
from policy.personal import FORGETTABLE, FORGETTING, SPENT

_ROWS_AT_ONCE: Final = 500_000  # bounds the digests held while batches are recomputed
_NAMED_ROWS: Final = 20  # rows named one by one, for each table and kind of failure


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that is not as recorded: what, and where (table, batch, row)."""

    what: str
    where: str


def verify_ledger(
    connection: duckdb.DuckDBPyConnection,
    expected: Mapping[str, str],
    shapes: Sequence[TableShape],
    key_checks: Mapping[str, str],
    anchors: Sequence[tuple[int, str]],
) -> tuple[Failure, ...]:
    """All failures. `expected`: this version's `definitions`. `key_checks`: purpose -> check value of our keys.

    Where a table is not what it should be nothing can be recomputed: then that is all that is said.
    """
    failures = list(_definition_failures(connection, expected))
    if any(failure.where in expected and failure.where.startswith("table ") for failure in failures):
        return tuple(failures)
    failures += [
        *_chain_failures(connection, {shape.name for shape in shapes}),
        *_anchor_failures(connection, anchors),
        *_key_failures(connection, key_checks),
    ]
    named = connection.execute("SELECT table_name FROM batch WHERE row_count > 0 UNION SELECT table_name FROM erasure")
    in_use = {table for (table,) in named.fetchall()}
    for shape in shapes:
        if shape.name in in_use or connection.execute(f'SELECT 1 FROM "{shape.name}" LIMIT 1').fetchall():
            failures += [
                *_batch_failures(connection, shape),
                *_commitment_failures(connection, shape),
                *_erasure_failures(connection, shape),
            ]
    return tuple(failures)


def definitions(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Everything defined in a database, "view trainable" -> its text: tables with columns, views, macros, indexes."""
    rows = connection.execute(
        """
        SELECT 'table ' || table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_index)
        FROM duckdb_columns()
        WHERE NOT internal AND table_name IN (SELECT table_name FROM duckdb_tables()) GROUP BY table_name
        UNION ALL SELECT 'view ' || view_name, sql FROM duckdb_views() WHERE NOT internal
        UNION ALL SELECT 'macro ' || function_name, list_sort(list(parameters::VARCHAR || macro_definition))::VARCHAR
        FROM duckdb_functions() WHERE NOT internal AND macro_definition IS NOT NULL GROUP BY function_name
        UNION ALL SELECT 'index ' || index_name, sql FROM duckdb_indexes()
        """
    )
    return dict(rows.fetchall())


def _definition_failures(connection: duckdb.DuckDBPyConnection, expected: Mapping[str, str]) -> Iterator[Failure]:
    """A view that answers otherwise is as good as a changed row."""
    found = definitions(connection)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield Failure("not as this version defines it", name)


def _chain_failures(connection: duckdb.DuckDBPyConnection, tables: set[str]) -> Iterator[Failure]:
    broken = connection.execute(
        f"""
        SELECT seq, table_name,
            chain IS DISTINCT FROM {chain_sql()}
        FROM (
            SELECT *, row_number() OVER by_seq AS place, lag(chain, 1, '{GENESIS}') OVER by_seq AS expected_previous
            FROM batch WINDOW by_seq AS (ORDER BY seq)
        )
        WHERE seq IS DISTINCT FROM place OR previous IS DISTINCT FROM expected_previous
            OR chain IS DISTINCT FROM {chain_sql()}
        ORDER BY seq LIMIT {_NAMED_ROWS}
        """
    ).fetchall()
    for seq, table, changed in broken:
        what = "the record of the batch was changed" if changed else "the batch does not follow the one before it"
        yield Failure(what, f"batch {seq} ({table})")
    for (table,) in connection.execute("SELECT DISTINCT table_name FROM batch").fetchall():
        if table not in tables:
            yield Failure("a batch of a table that does not exist", f"batch of {table}")


def _anchor_failures(connection: duckdb.DuckDBPyConnection, anchors: Sequence[tuple[int, str]]) -> Iterator[Failure]:
    recorded = connection.execute("SELECT seq, chain FROM anchor WHERE seq IS NOT NULL").fetchall()
    chains = dict(connection.execute("SELECT seq, chain FROM batch").fetchall())
    for seq, chain in dict.fromkeys([*anchors, *recorded]):
        if seq and chains.get(seq) != chain:
            yield Failure("the chain is not the one that was anchored", f"batch {seq}")


def _key_failures(connection: duckdb.DuckDBPyConnection, key_checks: Mapping[str, str]) -> Iterator[Failure]:
    newest = dict(
        connection.execute(
            "SELECT purpose, check_value FROM key_check"
            " QUALIFY row_number() OVER (PARTITION BY purpose ORDER BY batch_seq DESC, row_no DESC) = 1"
        ).fetchall()
    )
    for purpose, check_value in key_checks.items():
        if newest.get(purpose) != check_value:
            yield Failure(f"the {purpose} key is not the one on record", "key_check")


def _batch_failures(connection: duckdb.DuckDBPyConnection, shape: TableShape) -> Iterator[Failure]:
    """Each batch's rows, recounted and their digest recomputed; and rows that no batch knows."""
    recorded = connection.execute(
        "SELECT seq, row_count, rows_digest FROM batch WHERE table_name = ? ORDER BY seq", [shape.name]
    ).fetchall()
    for first, last in _ranges([(seq, count) for seq, count, _ in recorded]):
        found = {
            seq: (count, digest, numbered)
            for seq, count, digest, numbered in connection.execute(
                f"""
                SELECT batch_seq, count(*), {ROWS_DIGEST_SQL},
                    min(row_no) = 0 AND max(row_no) = count(*) - 1 AND count(DISTINCT row_no) = count(*)
                FROM (SELECT batch_seq, row_no, {shape.row_digest_sql()} AS row_digest FROM "{shape.name}"
                      WHERE batch_seq BETWEEN ? AND ?)
                GROUP BY batch_seq
                """,
                [first, last],
            ).fetchall()
        }
        for seq, row_count, rows_digest in recorded:
            if first <= seq <= last and row_count:
                count, digest, numbered = found.get(seq, (0, None, True))
                if count != row_count:
                    yield Failure(f"{count} rows where {row_count} were appended", f"{shape.name}, batch {seq}")
                elif not numbered:
                    yield Failure("the rows are not numbered as they were", f"{shape.name}, batch {seq}")
                elif digest != rows_digest:
                    rows = f"rows 0 to {row_count - 1}"
                    yield Failure("a value was changed", f"{shape.name}, batch {seq}, {rows}")
    for seq, count in connection.execute(
        f'SELECT batch_seq, count(*) FROM "{shape.name}" AS t WHERE NOT EXISTS (SELECT 1 FROM batch'
        f" WHERE seq = t.batch_seq AND table_name = ? AND row_count > 0) GROUP BY batch_seq LIMIT {_NAMED_ROWS}",
        [shape.name],
    ).fetchall():
        yield Failure(f"{count} rows that were not appended by the ledger", f"{shape.name}, batch {seq}")


def _commitment_failures(connection: duckdb.DuckDBPyConnection, shape: TableShape) -> Iterator[Failure]:
    """A row that is not erased opens its commitment; one that is erased holds nothing any more."""
    left_over = " OR ".join(f'"{column.name}" IS NOT NULL' for column in shape.personal) or "false"
    failing = connection.execute(
        f"""
        SELECT batch_seq, row_no, erased_by IS NOT NULL, salt IS NULL FROM "{shape.name}"
        WHERE CASE WHEN erased_by IS NULL THEN {shape.commitment_sql()} IS DISTINCT FROM commitment
              ELSE salt IS NOT NULL OR commitment IS NULL OR {left_over} END
        ORDER BY batch_seq, row_no LIMIT {_NAMED_ROWS}
        """
    ).fetchall()
    for seq, row, erased, gone in failing:
        if erased:
            what = "a row that is said to be erased still holds something"
        elif gone:
            what = "values are gone without an approved removal"
        else:
            what = "a personal value was changed, or its salt or commitment"
        yield Failure(what, f"{shape.name}, batch {seq}, row {row}")


def _erasure_failures(connection: duckdb.DuckDBPyConnection, shape: TableShape) -> Iterator[Failure]:
    """Every erased row names a removal that was approved, and no more rows do than the erasures on record say."""
    for removal, erased, recorded, approved, seq, row in connection.execute(
        f"""
        SELECT removal, coalesce(erased, 0), coalesce(recorded, 0),
            removal IN (SELECT e.removal FROM removal_event e WHERE e.state = 'approved' AND e.removal IS NOT NULL),
            batch_seq, row_no
        FROM (SELECT erased_by AS removal, count(*) AS erased, min(batch_seq) AS batch_seq,
                arg_min(row_no, (batch_seq, row_no)) AS row_no
              FROM "{shape.name}" WHERE erased_by IS NOT NULL GROUP BY erased_by)
        FULL JOIN (SELECT removal, sum(row_count) AS recorded FROM erasure WHERE table_name = ? GROUP BY removal)
            USING (removal)
        ORDER BY removal
        """,
        [shape.name],
    ).fetchall():
        where = f"{shape.name}, batch {seq}, row {row}" if erased else shape.name
        if removal is not None and removal.startswith(FORGETTING) and shape.name not in FORGETTABLE:
            yield Failure(f"erased by {removal}, which may forget who asked and nothing else", where)
        elif not approved:
            yield Failure(f"erased for {removal}, which was not approved", where)
        elif erased != recorded:
            yield Failure(f"{erased} rows erased for {removal} where {recorded} are on record", where)
    if shape.name in FORGETTABLE:
        for removal, seq, row in connection.execute(
            f'SELECT erased_by, batch_seq, row_no FROM "{shape.name}" WHERE starts_with(erased_by, ?) AND ('
            "    erased_by IS DISTINCT FROM ? || removal OR (? AND removal NOT IN ("
            "        SELECT e.removal FROM removal_event e WHERE e.removal IS NOT NULL"
            f"       AND list_contains(?::VARCHAR[], e.state)))) ORDER BY ALL LIMIT {_NAMED_ROWS}",
            [FORGETTING, FORGETTING, shape.name != "requester", list(SPENT)],
        ).fetchall():
            yield Failure(f"erased by {removal}, which may not", f"{shape.name}, batch {seq}, row {row}")


def _ranges(batches: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first seq, last seq) of runs of batches that hold about `_ROWS_AT_ONCE` rows together."""
    first, rows = None, 0
    for seq, count in batches:
        first = seq if first is None else first
        rows += count
        if rows >= _ROWS_AT_ONCE:
            yield first, seq
            first, rows = None, 0
    if first is not None:
        yield first, batches[-1][0]
