"""The auditors' questions: `sql/audits/*.sql` by name, and free SQL, read-only on the published snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from policy.errors import HomeError, InputError, IntegrityError
from policy.ledger import connect, reading_statement

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # columns, rows


class Audit(NamedTuple):
    """A named audit: the question it answers, and the parameters it needs."""

    name: str
    question: str
    parameters: tuple[str, ...]


def list_audits() -> tuple[Audit, ...]:
    """All named audits, by name."""
    with duckdb.connect(":memory:") as connection:
        return tuple(
            Audit(
                name,
                text.partition("\n")[0].removeprefix("--").strip(),
                tuple(sorted(connection.extract_statements(text)[0].named_parameters)),
            )
            for name, text in _texts().items()
        )


def run(snapshot: Path, name: str, params: Mapping[str, object] | None = None) -> Table:
    """Columns and rows of a named audit. Raises `InputError` for an unknown name or wrong parameters, `HomeError`."""
    audit = next((known for known in list_audits() if known.name == name), None)
    if audit is None:
        raise InputError(f"there is no audit {name!r}", remedy=f"There are {', '.join(_texts())}")
    given = dict(params or {})
    if given.keys() != set(audit.parameters):
        wanted = " ".join(f"{parameter}=…" for parameter in audit.parameters) or "none"
        raise InputError("wrong parameters", where=f"audit {name}", remedy=f"It takes: {wanted}")
    return sql(snapshot, _texts()[name], given)


def sql(snapshot: Path, text: str, params: Mapping[str, object] | None = None) -> Table:
    """Columns and rows of one SELECT on the snapshot.

    It cannot write, read files, load extensions or change settings: raises `InputError`, as for any SQL that fails.
    """
    with _opened(snapshot) as connection:
        try:
            reading_statement(connection, text)
            cursor = connection.execute(text, dict(params) if params else None)
            return tuple(column[0] for column in cursor.description or ()), cursor.fetchall()
        except duckdb.Error as error:
            raise InputError(str(error)) from error


@contextlib.contextmanager
def reading(snapshot: Path) -> Iterator[Callable[[str, Mapping[str, object]], list[tuple[Any, ...]]]]:
    """Asks one snapshot several questions, each a SELECT of our own with named parameters; a newer one does not mix in.

    Raises as `sql`.
    """
    with _opened(snapshot) as connection:

        def ask(text: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
            try:
                reading_statement(connection, text)
                return connection.execute(text, dict(params)).fetchall()
            except duckdb.Error as error:
                raise InputError(str(error)) from error

        yield ask


@cache
def _texts() -> Mapping[str, str]:
    """The packaged audits' SQL by name, sorted."""
    directory = files("policy") / "sql" / "audits"
    names = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(".sql"))
    return {name.removesuffix(".sql"): (directory / name).read_text("utf-8") for name in names}


@contextlib.contextmanager
def _opened(snapshot: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    if not snapshot.is_file():
        raise HomeError("there is no snapshot yet", where=str(snapshot), remedy="It is published after each stage")
    try:
        connection = connect(snapshot, readonly=True)
    except duckdb.Error as error:
        raise IntegrityError(f"the snapshot cannot be opened ({error})", where=str(snapshot)) from error
    with connection:
        yield connection
