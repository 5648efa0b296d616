"""What a person reads at the prompt: escaped text, JSON for machines, progress."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Progress(Protocol):
    """How a stage tells what it has done: at the prompt, in a Prefect artifact, or to nobody."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Progress told to nobody."""


def escape(text: str) -> str:
    """Text from the web, safe for a terminal: control, format and unassigned characters shown as \\u escapes."""
    return "".join(
        c if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else f"\\u{ord(c):04x}"
        for c in text
    )


def plain(value: object) -> object:
    """Values as JSON has them: times as ISO 8601 in UTC, bytes as hex."""
    if isinstance(value, datetime):
        return value.isoformat() + ("Z" if value.tzinfo is None else "")
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """A number and its noun: "1 row", "2 rows"; `nouns` where an s does not do."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def print_json(value: object) -> None:
    """One JSON document (or one line of JSON lines) on standard output."""
    sys.stdout.write(_json(value) + "\n")
    sys.stdout.flush()


def _json(value: object) -> str:
    text = json.dumps(plain(value), ensure_ascii=False)
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        return json.dumps(plain(value))  # half a surrogate pair is no UTF-8; as an escape it passes
    return text


def print_json_list(values: Iterable[object]) -> None:
    """One JSON array on standard output, an item a line, written as the items come: of any length, in little memory."""
    separator = "["
    for value in values:
        sys.stdout.write(separator + _json(value))
        separator = ",\n "
    sys.stdout.write("[]\n" if separator == "[" else "]\n")
    sys.stdout.flush()


def answer(text: str) -> None:
    """What was asked for, to be read by a person: standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A message to the person, progress and hints: standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """A table on standard output, every cell escaped; times to the second."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    if 12 * len(columns) > console.width:
        # Too many columns for this terminal: one block a row, as psql's expanded display has it.
        for number, row in enumerate(rows, 1):
            console.rule(f"row {number}", align="left", style="dim")
            for column, value in zip(columns, row, strict=True):
                console.print(Text(f"{escape(column):<20} {_cell(value)}"), soft_wrap=True)
        return
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(Text(escape(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)
    console.file.flush()  # a reader that has left is found out here, not when the interpreter ends


def stdout_console(*, soft_wrap: bool = False) -> Console:
    """Rich's console on standard output; a reader that has left is told to the caller, as everywhere else."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return _Console(highlight=False, soft_wrap=soft_wrap)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return str(value)
    return "" if value is None else escape(str(plain(value)))


class Bar:
    """A progress bar on standard error; a line now and then where that is no terminal."""

    def __init__(self, title: str) -> None:
        self._title, self._last = title, -1

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if sys.stderr.isatty():
            filled = int(28 * done / max(total, 1))
            bar = "━" * filled + "╌" * (28 - filled)
            end = "\n" if done >= total else ""
            sys.stderr.write(f"\r\x1b[K  {self._title:<22} {bar} {done}/{total}  {note}{end}")
            sys.stderr.flush()
            return
        tenth = 10 * done // max(total, 1)
        if tenth != self._last:
            self._last = tenth
            say(f"  {self._title}: {done}/{total} {note}".rstrip())
