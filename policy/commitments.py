"""The canonical text of a row, as SQL: what commitments, digests and the chain are computed over. Version 1.

All of it is SHA-256 in hex over text, so that anyone can recompute it with a hash function and a string builder::

    field       name "=" length-in-bytes ":" value ";"            a NULL field is left out: NULL and '' differ
    fields      the fields in the order of their names            a column added later leaves old rows as they were
    commitment  sha256("custody.commitment.1;" table ";" salt-hex ";" fields of the personal columns)
    row digest  sha256("custody.row.1;" table ";" fields of the other columns, "commitment" among them)
    rows_digest sha256(the row digests of a batch, in the order of row_no)
    chain       sha256("custody.chain.1;" fields of: appended_at, idempotency_key, previous, row_count, rows_digest,
                seq, table_name)                                  `previous` of the first batch: 64 zeros

Values: text as it is (UTF-8); integers in decimal; booleans true/false; times as microseconds since 1970 UTC; doubles
by printf("%.17g"), which no two of them share; blobs by their own sha256 in hex. `batch_seq` and `row_no` are not in
the digest (order and chain fix them), nor is `erased_by`: erasing sets personal columns and salt to NULL and names the
removal there, the commitment stays, and everything but the commitment's own opening still verifies.
A table without personal columns has commitments too, over the salt alone: every row is opened the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from policy.personal import PERSONAL_COLUMNS

GENESIS = "0" * 64
SALT_BYTES = 16

# The columns that every chained table ends with; the ledger fills them.
BOOKKEEPING = ("batch_seq", "row_no", "salt", "commitment", "erased_by")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and DuckDB type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class TableShape:
    """A chained table: its name and the columns that callers fill, in the table's order."""

    name: str
    columns: tuple[Column, ...]

    @property
    def personal(self) -> tuple[Column, ...]:
        named = PERSONAL_COLUMNS.get(self.name, ())
        return tuple(column for column in self.columns if column.name in named)

    @property
    def other(self) -> tuple[Column, ...]:
        named = PERSONAL_COLUMNS.get(self.name, ())
        return tuple(column for column in self.columns if column.name not in named)

    def commitment_sql(self) -> str:
        """An expression over the table's columns and `salt`; NULL where the salt is NULL."""
        return f"sha256({self.commitment_text_sql()})"

    def commitment_text_sql(self, full: Collection[str] = ()) -> str:
        """What a commitment is the digest of. `full`: columns in which no NULL stands (see `fields_sql`)."""
        return f"'custody.commitment.1;{self.name};' || lower(hex(salt)) || ';' || {fields_sql(self.personal, full)}"

    def row_digest_sql(self) -> str:
        """An expression over the table's columns and `commitment`; never NULL."""
        return f"sha256({self.row_text_sql()})"

    def row_text_sql(self, full: Collection[str] = ()) -> str:
        """What a row's digest is one of. `full`: columns in which no NULL stands (see `fields_sql`)."""
        return f"'custody.row.1;{self.name};' || {fields_sql((*self.other, Column('commitment', 'VARCHAR')), full)}"


CHAIN_COLUMNS = (
    Column("appended_at", "TIMESTAMP"),
    Column("idempotency_key", "VARCHAR"),
    Column("previous", "VARCHAR"),
    Column("row_count", "BIGINT"),
    Column("rows_digest", "VARCHAR"),
    Column("seq", "BIGINT"),
    Column("table_name", "VARCHAR"),
)

# An expression over the columns of `batch`.
ROWS_DIGEST_SQL = "sha256(coalesce(string_agg(row_digest, '' ORDER BY row_no), ''))"


def chain_sql() -> str:
    """An expression over the columns of `batch`; never NULL."""
    return f"sha256('custody.chain.1;' || {fields_sql(CHAIN_COLUMNS)})"


def fields_sql(columns: Sequence[Column], full: Collection[str] = ()) -> str:
    """An expression for the fields of some columns; '' where all are NULL.

    `full`: columns in which no NULL stands. Their fields are put together in one go, in a third of the time.
    """
    if not columns:
        return "''"
    ordered = sorted(columns, key=lambda column: column.name)
    fields = (_parts_sql(column) if column.name in full else " || ".join(_parts_sql(column)) for column in ordered)
    pieces = (field if isinstance(field, str) else ", ".join(field) for field in fields)
    return f"concat({', '.join(pieces)})"  # concat() takes NULL for ''


def _parts_sql(column: Column) -> tuple[str, ...]:
    text = _text_sql(column)
    return f"'{column.name}='", f"strlen({text})", "':'", text, "';'"


def _text_sql(column: Column) -> str:
    match column.type:
        case "VARCHAR":
            return f'"{column.name}"'
        case "INTEGER" | "BIGINT" | "BOOLEAN":
            return f'CAST("{column.name}" AS VARCHAR)'
        case "TIMESTAMP":
            return f'CAST(epoch_us("{column.name}") AS VARCHAR)'
        case "DOUBLE":
            return f"printf('%.17g', \"{column.name}\")"
        case "BLOB":
            return f'sha256("{column.name}")'
        case _:
            raise ValueError(f"no canonical text is defined for type {column.type} (column {column.name})")
