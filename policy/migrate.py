"""Numbered migrations, each in one transaction with the record that it ran, and the views that follow the code.

`sql/migrations/NNNN_name.sql` change the schema, once, and may never be edited afterwards: the sha256 on record is
compared at every opening. `sql/views/*.sql` hold no data, so they follow the installed version: when a file changed,
all are made again, in the order of their file names (a view may use those before it).
Version 0 of `schema_migration` is the record of the views.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

import duckdb

from policy.errors import ConfigurationError, HomeError, IntegrityError


@dataclass(frozen=True, slots=True)
class Script:
    """One .sql file: its number (0 for the views together), its name, its text."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def packaged_migrations() -> tuple[Script, ...]:
    """The migrations that this version knows, in order; `ConfigurationError` when a number is missing or twice."""
    scripts = sorted(_read("migrations"), key=lambda script: script.version)
    if [script.version for script in scripts] != list(range(1, len(scripts) + 1)):
        raise ConfigurationError("migrations are not numbered 1, 2, 3, …", where="policy/sql/migrations")
    return tuple(scripts)


@cache
def packaged_views() -> Script:
    """All views and macros as one script, in the order of their file names.

    DuckDB stores a view as it prints it itself, so another version of DuckDB means: make them again.
    """
    texts = sorted(_read("views"), key=lambda script: script.name)
    return Script(
        0, "views", "\n".join([f"-- DuckDB {duckdb.__version__}", *(script.text.strip() for script in texts)])
    )


def is_current(
    connection: duckdb.DuckDBPyConnection, migrations: tuple[Script, ...], views: Script, *, where: str
) -> bool:
    """Whether nothing is to be done.

    Raises `HomeError` when a newer version wrote the schema, `IntegrityError` when a migration on record reads
    differently from the one that is installed.
    """
    recorded = _recorded(connection)
    newest = max(recorded, default=0)
    if newest > len(migrations):
        raise HomeError(
            f"the ledger has schema {newest}, this version knows {len(migrations)}",
            where=where,
            remedy="Update Custody",
        )
    for script in migrations[:newest]:
        if recorded.get(script.version) != script.sha256:
            raise IntegrityError(
                f"migration {script.version} ({script.name}) is not the one that ran here",
                where=where,
                remedy="Install the version that made this home; a migration is never edited",
            )
    return newest == len(migrations) and recorded.get(0) == views.sha256


def migrate(
    connection: duckdb.DuckDBPyConnection, migrations: tuple[Script, ...], views: Script, *, now: datetime, where: str
) -> None:
    """Bring the schema to the newest version and the views to this one's; each step whole or not at all."""
    if is_current(connection, migrations, views, where=where):
        return
    for script in migrations[max(_recorded(connection), default=0) :]:
        _run(connection, script, now)
    if _recorded(connection).get(0) != views.sha256:
        _run(connection, views, now)


def _run(connection: duckdb.DuckDBPyConnection, script: Script, now: datetime) -> None:
    connection.execute("BEGIN TRANSACTION")
    try:
        connection.execute(script.text)
        connection.execute("DELETE FROM schema_migration WHERE version = ?", [script.version])
        connection.execute(
            "INSERT INTO schema_migration VALUES (?, ?, ?, ?)",
            [script.version, script.name, script.sha256, now.astimezone(UTC).replace(tzinfo=None)],
        )
        connection.execute("COMMIT")
    except duckdb.Error:
        connection.execute("ROLLBACK")
        raise


def _recorded(connection: duckdb.DuckDBPyConnection) -> dict[int, str]:
    """sha256 by version; empty for a new file."""
    try:  # not whether it is there first: `duckdb_tables()` costs as much as all else of an opening
        return dict(connection.execute("SELECT version, sha256 FROM schema_migration").fetchall())
    except duckdb.CatalogException:
        if connection.execute("SELECT 1 FROM duckdb_tables() WHERE NOT internal LIMIT 1").fetchall():
            raise HomeError("a DuckDB file, but no ledger: it has no table schema_migration") from None
        return {}


def _read(folder: str) -> list[Script]:
    directory = files("policy") / "sql" / folder
    names = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(".sql"))
    return [_script(name, (directory / name).read_text("utf-8")) for name in names]


def _script(file_name: str, text: str) -> Script:
    stem = file_name.removesuffix(".sql")
    number, _, name = stem.partition("_")
    return Script(int(number), name, text) if number.isdigit() else Script(0, stem, text)
