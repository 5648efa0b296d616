"""Requests out of a CSV file: every row is read and checked before any is filed, and no row is filed twice.

A request's id is a token of the file's bytes and its row, so the same file names the same requests however often it is
given, and after a kill as well. Ids tell nothing of the file to who lacks the token key.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import io
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Final

from flows.home import Home, utc_now
from flows.stages.removing.requests import NAMINGS, NOTHING, Ask, Found, check, file, look_up
from policy import removals
from policy.errors import InputError
from policy.removal_matches import HELD, matches_of_all
from policy.removals import KINDS, REGIMES, State

COLUMNS: Final = (*NAMINGS, "kind", "regime", "due", "received", "requester")
MAX_BYTES: Final = 64 << 20
MAX_ROWS: Final = 100_000
_SHOWN: Final = 20  # problems that are told at once


@dataclass(frozen=True, slots=True)
class Filed:
    """A row and the request that it became. `row`: as a spreadsheet counts, the header being 1; `held`: its matches
    that are held."""

    row: int
    id: str
    state: str
    due_at: datetime
    held: int


class _ProblemError(Exception):
    """What is wrong with a cell."""

    def __init__(self, column: str, what: str) -> None:
        self.column = column
        super().__init__(what)


def file_csv(home: Home, path: Path, *, by: str = "") -> tuple[Filed, ...]:
    """File each row of a CSV file (UTF-8, commas, a header of `COLUMNS`) as a request.

    Of the columns in NAMINGS a row fills exactly one; pictures are paths, relative to the file. Empty: `kind` erasure,
    `regime` gdpr, `received` today. Given again, nothing is filed twice.

    Raises:
        InputError: the file cannot be read, its header is missing or unknown, or cells are wrong: each is named by its
            row and column, and nothing is filed.
    """
    body = _read(path)
    rows = list(_rows(body, path))
    digest = hashlib.sha256(body).hexdigest()
    asks = [
        dataclasses.replace(ask, removal=f"removal-{_token(home, digest, row)}") for row, ask in _asks(home, rows, path)
    ]
    undone = _undone(home, asks)
    found = _looked_up(home, rows, asks, undone, path)
    filed = file(home, list(zip(asks, found, strict=True)), by=by, key=f"received:csv:{digest}")
    with home.ledger(readonly=True) as ledger:
        matches = matches_of_all(ledger, [request.removal for request in filed])
    return tuple(
        Filed(
            row,
            request.removal,
            request.state.value,
            request.due_at,
            sum(m.state in HELD for m in matches.get(request.removal, ())) if request.state is State.HELD else 0,
        )
        for (row, _), request in zip(rows, filed, strict=True)
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            body = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if len(body) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB", where=str(path), remedy="Split it")
    return body


def _rows(body: bytes, path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(row, cells by column) of what is not empty. Raises InputError: no CSV, or a header that is none."""
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        lines = list(reader)
    except UnicodeDecodeError as error:
        remedy = "Save it as UTF-8"
        raise InputError(f"not UTF-8 text (byte {error.start})", where=str(path), remedy=remedy) from error
    except csv.Error as error:
        raise InputError(f"not CSV ({error})", where=f"{path}, line {reader.line_num}") from error
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    _require_header(header, path)
    if len(lines) > MAX_ROWS + 1:
        raise InputError(f"more than {MAX_ROWS:,} rows", where=str(path), remedy="Split it")
    problems = []
    for row, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problems.append(f"row {row}: {len(cells)} cells where the header has {len(header)}")
            continue
        yield row, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    _refuse(problems, path)


def _require_header(header: Sequence[str], path: Path) -> None:
    where, remedy = f"{path}, row 1", f"The columns are {', '.join(COLUMNS)}"
    if not any(header):
        raise InputError("there is no header", where=where, remedy=remedy)
    for name in header:
        if name not in COLUMNS and (between := next((c for c in ";\t" if c in name), "")):
            what = "semicolons" if between == ";" else "tabs"
            raise InputError(f"{what} stand between the columns", where=where, remedy="Save it with commas")
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise InputError(f"unknown column {name[:60]!r}", where=where, remedy=hint + remedy)
        if header.count(name) > 1:
            raise InputError(f"the column {name} stands there twice", where=where)
    if not set(header) & set(NAMINGS):
        raise InputError("no column names anything", where=where, remedy=f"One of {', '.join(NAMINGS)} is needed")


def _asks(home: Home, rows: Sequence[tuple[int, Mapping[str, str]]], path: Path) -> Iterator[tuple[int, Ask]]:
    """Every row as what it asks; raises InputError that names each cell that is wrong."""
    if not rows:
        raise InputError("there is no row below the header", where=str(path))
    problems: list[str] = []
    seen: dict[tuple[str, ...], int] = {}
    asks: list[tuple[int, Ask]] = []
    for row, cells in rows:
        try:
            ask = _ask(cells, path)
            kind, value = _checked(home, ask)
            same = (ask.kind, kind, ask.value if kind in ("picture", "person") else value or "")
            if (before := seen.setdefault(same, row)) != row:
                raise _ProblemError(ask.named, f"the same as row {before}")
            asks.append((row, ask))
        except _ProblemError as problem:
            problems.append(f"row {row}, column {problem.column}: {problem}")
    _refuse(problems, path)
    yield from asks


def _ask(cells: Mapping[str, str], path: Path) -> Ask:
    for column, text in cells.items():
        if any(unicodedata.category(c) == "Cc" and c not in "\t\r\n" for c in text):
            raise _ProblemError(column, "holds control characters")
    named = [column for column in NAMINGS if cells.get(column)]
    if len(named) != 1:
        what = f"fills {' and '.join(named)}" if named else "names nothing"
        raise _ProblemError(named[1] if named else "/".join(c for c in NAMINGS if c in cells), what)
    [column] = named
    value = cells[column]
    if column in ("picture", "person"):
        value = str(path.parent / value)
        try:
            is_there = Path(value).is_file()
        except OSError:  # a name that no file can have
            is_there = False
        if not is_there:
            raise _ProblemError(column, "no such file")
    return Ask(
        column,
        value,
        kind=_one_of(cells, "kind", KINDS, "erasure"),
        regime=_one_of(cells, "regime", REGIMES, "gdpr"),
        due_on=_date(cells, "due"),
        requester=cells.get("requester") or None,
        received_at=_received(cells),
    )


def _checked(home: Home, ask: Ask) -> tuple[str, str | None]:
    try:
        return check(home, ask)
    except InputError as error:
        column = {"due": "due"}.get(error.where, "received" if error.where.startswith("received") else ask.named)
        raise _ProblemError(column, error.what) from error


def _one_of(cells: Mapping[str, str], column: str, known: Sequence[str], default: str) -> str:
    word = cells.get(column, "").lower() or default
    if word not in known:
        raise _ProblemError(column, f"{word!r} is none of {', '.join(known)}")
    return word


def _date(cells: Mapping[str, str], column: str) -> date | None:
    if not (text := cells.get(column, "")):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _ProblemError(column, f"{text!r} is no date such as 2026-12-31") from None


def _received(cells: Mapping[str, str]) -> datetime | None:
    day = _date(cells, "received")
    if day is None or day == utc_now().date():
        return None
    return datetime.combine(day, time(), UTC)


def _undone(home: Home, asks: Sequence[Ask]) -> frozenset[str | None]:
    """Those that are not filed yet, or were when the process that did it was killed."""
    with home.ledger(readonly=True) as ledger:
        states = {request.removal: request.state for request in removals.requests(ledger)}
    return frozenset(a.removal for a in asks if states.get(a.removal or "", State.RECEIVED) is State.RECEIVED)


def _looked_up(
    home: Home,
    rows: Sequence[tuple[int, Mapping[str, str]]],
    asks: Sequence[Ask],
    undone: frozenset[str | None],
    path: Path,
) -> list[Found]:
    """What the pictures show; raises InputError that names each that cannot be decoded."""
    found, problems = [], []
    for (row, _), ask in zip(rows, asks, strict=True):
        one = NOTHING
        if ask.named in ("picture", "person"):
            try:
                one = look_up(home, ask) if ask.removal in undone else Found("0" * 64)
            except InputError as error:
                problems.append(f"row {row}, column {ask.named}: {error.what}")
        found.append(one)
    _refuse(problems, path)
    return found


def _refuse(problems: Sequence[str], path: Path) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError("; ".join(problems[:_SHOWN]) + more, where=str(path), remedy="Nothing was filed")


def _token(home: Home, digest: str, row: int) -> str:
    return home.keys.token("removal-csv", f"{digest} {row}").partition(":")[2][:12]
