"""Imported lists: a file of URLs, domains or hashes becomes one that every stage asks; and which there are.

A list is read line by line into sorted keys (policy/registries.py), so that ten million lines need no more memory
than one. What one line cannot mean refuses the whole file: a list that was half understood would look like one that
was asked.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from curation.pair import canonical_url, host_of
from flows.home import Home, utc_now
from flows.terminal import Progress, silent
from policy.errors import InputError, IntegrityError, RefusedError
from policy.ledger import Ledger, utc_naive
from policy.origins import is_registry_suffix
from policy.registries import ImportedList, Keys, imported_lists, keys_of, open_keys, url_value, write_keys
from policy.signals.registry import MECHANISM
from policy.snapshot import publish

MAX_AGE_DAYS = 30
MAX_LINE_CHARS = 20_000  # more than a URL may have
BATCH = 65_536

# Columns that are taken without being named, first come.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "imageurl", "urls"),
    "domain": ("domain", "host", "hostname", "domains"),
    "sha256": ("sha256", "sha-256", "hash"),
    "md5": ("md5", "hash"),
    "pdq": ("pdq", "pdq_hash", "hash"),
}
_DIGITS: Mapping[str, int] = {"sha256": 64, "md5": 32, "pdq": 64}


@dataclass(frozen=True, slots=True)
class Imported:
    """The contract of `custody policy import --json`.

    `rows`: different entries; `lines`: entries read; `skipped`: lines that were none (with --skip-bad).
    `dated_by`: option | file (its time of change). `replaces`: the sha256 of the list that bore the name before;
    `changed` False: the very same list, with the same date and limit, was there already. `asked`: whether the ruleset
    names the mechanism that asks it.
    """

    name: str
    kind: str
    sha256: str
    rows: int
    lines: int
    skipped: int
    dated_at: datetime
    dated_by: str
    max_age_days: int
    replaces: str | None
    changed: bool
    asked: bool


@dataclass(frozen=True, slots=True)
class ListState:
    """One line of `custody policy lists`. `state`: ok | overdue | missing (never imported) | lost (its file is)."""

    name: str
    state: str
    required: bool
    kind: str | None = None
    rows: int | None = None
    dated_at: datetime | None = None
    age_days: int | None = None
    max_age_days: int | None = None
    imported_at: datetime | None = None
    sha256: str | None = None


# ── importing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def import_list(
    home: Home,
    file: Path,
    kind: str,
    *,
    name: str | None = None,
    dated: str | None = None,
    max_age_days: int = MAX_AGE_DAYS,
    column: str | None = None,
    skip_bad: bool = False,
    progress: Progress = silent,
) -> Imported:
    """Read a file into a list under a name; one of that name that was there is replaced, and stays on record.

    Raises:
        InputError: the file cannot be read, a line of it is no entry, it holds none, or a name or date is none.
    """
    name = _checked_name(name, file)
    dated_at, dated_by = _dated(file, dated)
    with home.ledger(readonly=True) as ledger:
        _check_kind(ledger, name, kind)
    reading = _Reading(file, kind, skip_bad, progress)
    written = write_keys(home.registries_path, name, kind, reading.keys(column))
    row = ImportedList(name, kind, written.sha256, written.rows, dated_at, max_age_days, utc_now())
    with home.ledger() as ledger:
        before = _check_kind(ledger, name, kind)
        changed = before is None or _what_counts(before) != _what_counts(row)
        if changed:
            open_keys(home.registries_path, row)  # another import of this name may have put its own file in place
            _record(ledger, row)
            publish(ledger, home.snapshot_path, now=utc_now())
        _forget_others(home.registries_path, row)
    return Imported(
        *(name, kind, written.sha256, written.rows, reading.lines, reading.skipped, dated_at, dated_by, max_age_days),
        replaces=before.sha256 if before is not None and before.sha256 != written.sha256 else None,
        changed=changed,
        asked=MECHANISM in home.ruleset.mechanisms,
    )


def _what_counts(row: ImportedList) -> tuple[object, ...]:
    return row.kind, row.sha256, row.dated_at, row.max_age_days


def _check_kind(ledger: Ledger, name: str, kind: str) -> ImportedList | None:
    """The list that bears the name, if any; another kind's must not vanish under it."""
    before = next((row for row in imported_lists(ledger) if row.name == name), None)
    if before is not None and before.kind != kind:
        raise InputError(
            f"the list {name!r} holds entries of the kind {before.kind}, which this import would drop",
            where="--name",
            remedy="Give this one another --name",
        )
    return before


def _record(ledger: Ledger, row: ImportedList) -> None:
    times = {"dated_at": utc_naive(row.dated_at), "imported_at": utc_naive(row.imported_at)}
    values = {"name": row.name, "kind": row.kind, "sha256": row.sha256, "row_count": row.row_count}
    [(number,)] = ledger.query("SELECT count(*) FROM registry WHERE name = ?", [row.name])
    ledger.append(
        "registry",
        [{**values, "max_age_days": row.max_age_days, **times}],
        key=f"registry/{row.name}/{number}/{row.sha256[:16]}",
    )


def _forget_others(directory: Path, row: ImportedList) -> None:
    """Delete the keys that bore the name before: what was on that list stays on no disk longer than it counts."""
    mine = row.path(directory)
    for path in directory.glob(f"{row.name}-*.keys"):
        if path != mine and re.fullmatch(re.escape(row.name) + r"-[0-9a-f]{12}\.keys", path.name):
            path.unlink(missing_ok=True)


def _checked_name(name: str | None, file: Path) -> str:
    stem = re.sub(r"\.(csv|tsv|txt|list|parquet)?(\.gz)?\Z", "", file.name.lower())
    named = name if name is not None else re.sub(r"[^a-z0-9._-]+", "-", stem).strip(".-_")[:63]
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", named):
        raise InputError(
            f"{named!r} cannot name a list", where="--name", remedy="Use lower-case letters, digits, '.', '_' and '-'"
        )
    return named


def _dated(file: Path, dated: str | None) -> tuple[datetime, str]:
    """The list's date, and who says it. A day without an hour is its beginning (UTC)."""
    now = utc_now()
    if dated is None:
        try:
            return min(datetime.fromtimestamp(file.stat().st_mtime, UTC), now), "file"
        except OSError as error:
            raise _unreadable(file, error) from error
    try:
        at = datetime.fromisoformat(dated.strip())
    except ValueError:
        raise InputError(f"{dated!r} is no date", where="--dated", remedy="Write it as 2026-11-21") from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at > now + timedelta(days=1):
        raise InputError(f"{dated} has not come yet", where="--dated", remedy="Give the day the list was made")
    return at, "option"


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Reading:
    """A file on its way to keys; counts what it read. `skipped` grows only where bad lines may be skipped."""

    def __init__(self, file: Path, kind: str, skip_bad: bool, progress: Progress) -> None:
        self.file, self.kind, self.skip_bad, self.progress = file, kind, skip_bad, progress
        self.lines = self.skipped = 0
        self._canonical = _CANONICAL[kind]

    def keys(self, column: str | None) -> Iterator[Keys]:
        """The keys of all entries, in batches; raises InputError naming file and line."""
        values: list[str] = []
        try:
            with self.file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                for number, text in _entries(opened, self.file, self.kind, column):
                    try:
                        values.append(self._canonical(text))
                    except ValueError as error:
                        self._bad(number, text, str(error))
                    if len(values) >= BATCH:
                        self.progress(opened.tell(), size, "import: ")
                        yield self._batch(values)
                        values = []
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self.file, error) from error
        if values:
            yield self._batch(values)
        if not self.lines:
            raise InputError(
                f"the file holds no {self.kind}" + (f" ({self.skipped} lines were skipped)" if self.skipped else ""),
                where=str(self.file),
                remedy="A list that names nothing is imported by nobody: look at the file",
            )

    def _batch(self, values: list[str]) -> Keys:
        self.lines += len(values)
        return keys_of(self.kind, values)

    def _bad(self, number: int, text: str, what: str) -> None:
        if self.skip_bad:
            self.skipped += 1
            return
        shown = text if len(text) <= 80 else text[:80] + "…"
        raise InputError(
            f"{shown!r} is {what}",
            where=f"{self.file}:{number}",
            remedy="Nothing was imported: correct the line, or leave such lines out with --skip-bad",
        )


# A URL parser drops tabs and line ends and keeps the rest: what was two entries would be one that nobody means.
_TWO = re.compile(r"[\x00-\x1f\x7f]|[\s,;|\"]https?://", re.IGNORECASE)


def _url(text: str) -> str:
    if _TWO.search(text):
        raise ValueError("more than one http(s) URL")
    try:
        return url_value(canonical_url(text))
    except InputError:
        raise ValueError("no http(s) URL") from None


def _domain(text: str) -> str:
    """The name of a site: "example.org", "*.example.org", "www.example.org", "https://example.org/"; IDNs in ASCII."""
    name = text.lower()
    if _TWO.search(name):
        raise ValueError("more than one domain name")
    if not name.startswith(("http://", "https://")):
        name = "http://" + name.removeprefix("*.").removeprefix(".")
    try:
        url = canonical_url(name)
        host = host_of(url).rstrip(".")
    except InputError:
        raise ValueError("no domain name") from None
    if url.partition("://")[2].rstrip("/").rstrip(".") != host or not _HOST.fullmatch(host):
        raise ValueError("no domain name (write it without a path, a port or a user)")
    if not host.startswith("[") and not host.replace(".", "").isdigit():
        if is_registry_suffix(host):
            raise ValueError("a public suffix: it names no site, but all below it")
        bare = host.removeprefix("www.")
        return host if is_registry_suffix(bare) else bare
    return host.strip("[]")


_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")


def _hex(kind: str) -> Callable[[str], str]:
    wanted = re.compile(rf"[0-9a-f]{{{_DIGITS[kind]}}}")

    def canonical(text: str) -> str:
        if not wanted.fullmatch(value := text.lower()):
            raise ValueError(f"no {kind} ({_DIGITS[kind]} hex digits)")
        return value

    return canonical


_CANONICAL: Mapping[str, Callable[[str], str]] = {
    "url": _url,
    "domain": _domain,
    **{kind: _hex(kind) for kind in _DIGITS},
}


def _entries(opened: IO[bytes], file: Path, kind: str, column: str | None) -> Iterator[tuple[int, str]]:
    """(line number, entry) of a file: Parquet, CSV or TSV by its name, else one a line; .gz of either."""
    suffixes = [s.lower() for s in file.suffixes[-2:]]
    zipped = suffixes[-1:] == [".gz"]
    form = (suffixes[:-1] if zipped else suffixes)[-1:]
    magic = opened.read(4)
    opened.seek(0)
    if magic == b"PAR1" or form == [".parquet"]:
        yield from _parquet(opened, file, kind, column)
        return
    with _text(opened, zipped or magic.startswith(b"\x1f\x8b")) as text:
        if form in ([".csv"], [".tsv"]):
            yield from _csv(_bounded(text, file), file, kind, column, "\t" if form == [".tsv"] else ",")
        else:
            yield from _plain(_bounded(text, file))


@contextmanager
def _text(opened: IO[bytes], zipped: bool) -> Iterator[IO[str]]:
    raw: Any = gzip.GzipFile(fileobj=opened) if zipped else opened
    # What is no UTF-8 becomes what no URL, name or hash holds, so that its line is named.
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=None) as text:
        yield text


def _bounded(text: IO[str], file: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE_CHARS):
        number += 1
        if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
            raise InputError(f"the line is longer than {MAX_LINE_CHARS} characters", where=f"{file}:{number}")
        yield line


def _plain(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text


def _csv(lines: Iterator[str], file: Path, kind: str, column: str | None, delimiter: str) -> Iterator[tuple[int, str]]:
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    place: int | None = None
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if place is None:
                place, named = _place([cell.strip() for cell in row], file, kind, column)
                if named:
                    continue
            if len(row) <= place:
                raise InputError(f"the row has {len(row)} columns", where=f"{file}:{rows.line_num}")
            if text := row[place].strip():
                yield rows.line_num, text
    except csv.Error as error:
        raise InputError(f"no CSV ({error})", where=f"{file}:{rows.line_num}") from error


def _place(cells: list[str], file: Path, kind: str, column: str | None) -> tuple[int, bool]:
    """Which column holds the entries, and whether this first row names the columns."""
    lowered = [cell.lower() for cell in cells]
    wanted = (column.lower(),) if column is not None else _COLUMNS[kind]
    for name in wanted:
        if name in lowered:
            return lowered.index(name), True
    if column is not None and column.isdigit() and 1 <= int(column) <= len(cells):
        return int(column) - 1, False
    if column is None and len(cells) == 1:
        return 0, False
    shown = ", ".join(cells[:20])
    question = f"which of its {len(cells)} columns holds the {kind}?"
    what = question if column is None else f"no column {column!r} among"
    raise InputError(
        f"{what} {shown}", where=f"{file}:1", remedy="Name it with --column, or number it from 1 where none has a name"
    )


def _parquet(opened: IO[bytes], file: Path, kind: str, column: str | None) -> Iterator[tuple[int, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(opened)
        names = table.schema_arrow.names
        place = _place(names, file, kind, column)[0] if len(names) != 1 or column is not None else 0
        number = 0
        for batch in table.iter_batches(BATCH, columns=[names[place]]):
            for value in batch.column(0).to_pylist():
                number += 1
                if value is not None and (text := _cell(value, kind).strip()):
                    yield number, text
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"no Parquet file that can be read ({error})", where=str(file)) from error


def _cell(value: object, kind: str) -> str:
    if isinstance(value, bytes):  # a hash as its bytes, or a text without its type
        raw = len(value) == _DIGITS.get(kind, 0) // 2
        return value.hex() if raw else value.decode("utf-8", "surrogateescape")
    return str(value)


def _unreadable(file: Path, error: Exception) -> InputError:
    what = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError(f"the list cannot be read ({what})", where=str(file))


# ── looking, and refusing ──────────────────────────────────────────────────────────────────────────────────────────


def lists(home: Home) -> tuple[ListState, ...]:
    """Every list that was imported, and every one that the ruleset requires and that never was."""
    now, required = utc_now(), home.ruleset.registry.required
    with home.ledger(readonly=True) as ledger:
        rows = imported_lists(ledger)
    states = [
        ListState(
            *(row.name, _state(home, row, now), row.name in required, row.kind, row.row_count, row.dated_at),
            age_days=(now - row.dated_at).days,
            max_age_days=row.max_age_days,
            imported_at=row.imported_at,
            sha256=row.sha256,
        )
        for row in rows
    ]
    missing = sorted(set(required) - {row.name for row in rows})
    return (*states, *(ListState(name, "missing", True) for name in missing))


def _state(home: Home, row: ImportedList, now: datetime) -> str:
    try:
        open_keys(home.registries_path, row)
    except IntegrityError:
        return "lost"
    return "overdue" if row.is_overdue(now) else "ok"


def require_current(home: Home, ledger: Ledger) -> None:
    """Nothing is sealed without the lists that the ruleset requires, nor under one that is older than its limit.

    Raises:
        RefusedError: a list is missing or overdue. IntegrityError: the file of one is lost or damaged.
    """
    ruleset, now = home.ruleset, utc_now()
    known = {row.name: row for row in imported_lists(ledger)}
    for name in ruleset.registry.required:
        if name not in known:
            raise RefusedError(
                f"policy.toml requires the list {name!r}, which was never imported",
                where="custody seal",
                remedy=f"custody policy import FILE --kind {'|'.join(_COLUMNS)} --name {name}",
            )
    asked = MECHANISM in ruleset.mechanisms
    for name, row in known.items():
        if row.is_overdue(now) and (asked or name in ruleset.registry.required):
            raise RefusedError(
                f"the list {name!r} is of {row.dated_at:%Y-%m-%d}, and at most {row.max_age_days} days old it counts",
                where="custody seal",
                remedy=f"Get a newer one: custody policy import FILE --kind {row.kind} --name {name}",
            )
        if asked or name in ruleset.registry.required:
            open_keys(home.registries_path, row)
