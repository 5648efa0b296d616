"""Lists of picture URLs to pairs: Parquet, CSV, TSV, JSON lines and plain text, streamed; a bad row costs itself alone.

What a row says of text, page and licence was given by whoever made the list: it is reported as given.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fastwarc.stream_io import ZstdReader

from curation.pages import text_of
from curation.pair import ImageTextPair, canonical_url, secret_in_url
from curation.storage import open_input
from policy.errors import InputError
from policy.evidence import LicenceClaim

# What a row may say, and the columns that say it: case, "-" and spaces do not matter, the first one there counts.
LIST_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "url": ("image_url", "img_url", "imageurl", "url", "image_src", "src", "contenturl"),
    "text": ("caption", "text", "alt", "alt_text", "alttext"),
    "page_url": ("page_url", "source_url", "source_page", "pageurl", "page", "referrer"),
    "licence": ("license", "licence", "license_url", "licence_url"),
    "title": ("title", "name"),
    "creator": ("creator", "author", "artist", "photographer"),
    "credit": ("credit", "credit_line", "attribution"),
    "sha256": ("sha256", "content_sha256", "image_sha256"),
}
ENDINGS: Final = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
_COMPRESSED: Final = (".gz", ".zst")
PROBLEMS: Final[Mapping[str, str]] = {
    "no-url": "the row names no picture",
    "bad-url": "the picture's or the page's address is no http or https URL",
    "userinfo": "an address with user name or password: neither kept nor shown",
    "signed-url": "an address with a signature: neither kept nor shown",
    "bad-encoding": "not UTF-8",
    "bad-hash": "sha256 is not 64 hexadecimal digits",
    "bad-row": "the row cannot be read: more or fewer columns than named, no JSON object, longer than the limit",
}
MAX_LINE_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_MAX_CLAIM_CHARS: Final = 2_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MARKS: Final = {b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "a zip archive"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A usable row: its number (the first row of data is 1; of a text file, the line), its pair, the expected hash.

    The pair's text is the row's, its origin "given"; its licence claims are those of the row, of image scope.
    """

    row: int
    pair: ImageTextPair
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be used, and why: a code of `PROBLEMS`."""

    row: int
    code: str
    detail: str = ""


def read_url_list(
    location: str, *, columns: Mapping[str, str] | None = None, batch_rows: int = 8_192
) -> Iterator[Listed | Problem]:
    """The rows of a list (`ENDINGS`, the text formats also with .gz or .zst), as they come; never the whole file.

    `location`: as in curation.storage. `columns`: which column says what, by the fields of `LIST_FIELDS`, where the
    names do not tell. A text file holds a URL a line; empty lines and those that begin with # are passed over.

    Raises InputError: no such file, an ending that is not known or not what the file is, no column of URLs; where a
    file ends early or is damaged, after the rows before that.
    """
    name = location.lower()
    packing = next((ending for ending in _COMPRESSED if name.endswith(ending)), "")
    ending = next((e for e in ENDINGS if name.removesuffix(packing).endswith(e)), "")
    if not ending or (packing and ending == ".parquet"):
        expected = f"{', '.join(ENDINGS)}, the text formats also with {' or '.join(_COMPRESSED)}"
        raise InputError(
            "is no list that can be read, by its ending", where=location, remedy=f"Expected are {expected}"
        )
    if unknown := sorted(set(columns or ()) - set(LIST_FIELDS)):
        raise InputError(
            f"no field {', '.join(unknown)}", where=location, remedy=f"There are: {', '.join(LIST_FIELDS)}"
        )
    with open_input(location) as file:
        reader = _Reader(location, columns or {})
        try:
            if ending == ".parquet":
                yield from reader.parquet(file, batch_rows)
            else:
                lines = _lines(_unpacked(file, packing, ending, location))
                read: Callable[[Iterator[bytes]], Iterator[Listed | Problem]] = {
                    ".csv": reader.csv,
                    ".tsv": reader.tsv,
                    ".txt": reader.text,
                }.get(ending, reader.json)
                yield from read(lines)
        except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
            said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise InputError(
                f"cannot be read to its end ({said}); {reader.row:,} rows came before", where=location
            ) from error


class _Reader:
    """Rows of one list; `row` is how many were read."""

    def __init__(self, location: str, columns: Mapping[str, str]) -> None:
        self.location, self.named = location, columns
        self.row = 0

    # ── formats ───────────────────────────────────────────────────────────────────────────────────────────────
    def parquet(self, file: BinaryIO, batch_rows: int) -> Iterator[Listed | Problem]:
        if file.read(4) != b"PAR1":
            raise InputError("is no Parquet file", where=self.location)
        file.seek(0)
        try:
            # Read in pieces: a row group may be larger than memory.
            parquet = pq.ParquetFile(
                file,
                buffer_size=_CHUNK_BYTES,
                thrift_string_size_limit=64 * 1024 * 1024,
                thrift_container_size_limit=1_000_000,
            )
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"is no complete Parquet file: its footer cannot be read ({str(error).splitlines()[0][:120]})",
                where=self.location,
            ) from error
        schema = parquet.schema_arrow
        place = self._columns(schema.names)
        wanted = list(dict.fromkeys(name for names in place.values() for name in names))
        for column in wanted:
            if not _is_text(kind := schema.field(column).type):
                what = f"the column {column!r} holds no text, but {kind}"
                raise InputError(what, where=self.location, remedy="Name another one, as url=NAME")
        for batch in parquet.iter_batches(batch_size=batch_rows, columns=wanted):
            values = {name: _as_bytes(batch.column(name)) for name in wanted}
            for at in range(batch.num_rows):
                yield self._row_of_bytes(place, {name: column[at] for name, column in values.items()})

    def csv(self, lines: Iterator[bytes]) -> Iterator[Listed | Problem]:
        return self._delimited(lines, "")

    def tsv(self, lines: Iterator[bytes]) -> Iterator[Listed | Problem]:
        return self._delimited(lines, "\t")

    def _delimited(self, lines: Iterator[bytes], delimiter: str) -> Iterator[Listed | Problem]:
        first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
        head = first.decode("utf-8", "surrogateescape")
        delimiter = delimiter or max(",;\t", key=head.count)
        # What is not UTF-8 passes the csv module as lone surrogates, and is found in the row it belongs to.
        rows = csv.reader((line.decode("utf-8", "surrogateescape") for line in lines), delimiter=delimiter)
        try:
            names = next(csv.reader([head], delimiter=delimiter), [])
        except csv.Error:
            names = []
        place = self._columns(names)
        while True:
            try:
                cells = next(rows, None)
            except csv.Error as error:
                self.row += 1
                yield Problem(self.row, "bad-row", str(error)[:80])
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(names):
                self.row += 1
                yield Problem(self.row, "bad-row", f"{len(cells)} columns, {len(names)} are named")
                continue
            yield self._row(place, dict(zip(names, cells, strict=True)))

    def json(self, lines: Iterator[bytes]) -> Iterator[Listed | Problem]:
        places: dict[tuple[str, ...], Mapping[str, tuple[str, ...]]] = {}
        for number, line in enumerate(lines):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if not line.strip():
                continue
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                self.row += 1
                yield Problem(self.row, "bad-row" if _is_utf8(line) else "bad-encoding", str(error)[:80])
                continue
            if not isinstance(found, dict):
                self.row += 1
                yield Problem(self.row, "bad-row", "no JSON object")
                continue
            names = tuple(found)
            if names not in places:
                if len(places) > 1_000:
                    places.clear()
                # Later rows may leave out what they do not know; the first has to show where the URLs are.
                places[names] = self._columns(names, required=not places)
            yield self._row(places[names], found)

    def text(self, lines: Iterator[bytes]) -> Iterator[Listed | Problem]:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip() and not line.startswith(b"#"):
                self.row = number - 1
                yield self._row_of_bytes({"url": ("url",)}, {"url": line})

    # ── columns ───────────────────────────────────────────────────────────────────────────────────────────────
    def _columns(self, names: Iterable[str], *, required: bool = True) -> Mapping[str, tuple[str, ...]]:
        """Which columns say what; raises InputError where none holds URLs, or one that was named is not there."""
        names = list(names)
        by_name = {_plain(name): name for name in reversed(names)}
        place: dict[str, tuple[str, ...]] = {}
        for field, known in LIST_FIELDS.items():
            if (named := self.named.get(field)) is not None:
                found = [named] if named in names else [by_name[_plain(named)]] if _plain(named) in by_name else []
                if not found and required:
                    raise self._no_column(f"there is no column {named!r}", names)
            else:
                found = [by_name[name] for name in known if name in by_name]
            if found:
                place[field] = tuple(found) if field == "licence" else (found[0],)
        if "url" not in place and required:
            raise self._no_column("no column of URLs", names)
        if twice := next((name for found in place.values() for name in found if names.count(name) > 1), None):
            raise InputError(f"the column {twice!r} is there twice", where=self.location)
        return place

    def _no_column(self, what: str, names: list[str]) -> InputError:
        found = ", ".join(repr(name[:40]) for name in names[:40]) or "none"
        expected = ", ".join(LIST_FIELDS["url"])
        remedy = f"Expected is one of {expected} (in any case), or name it: url=NAME"
        return InputError(f"{what}; its columns are {found}", where=self.location, remedy=remedy)

    # ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _row_of_bytes(
        self, place: Mapping[str, tuple[str, ...]], cells: Mapping[str, bytes | None]
    ) -> Listed | Problem:
        try:
            return self._row(place, {name: None if v is None else v.decode() for name, v in cells.items()})
        except UnicodeDecodeError:
            self.row += 1
            return Problem(self.row, "bad-encoding")

    def _row(self, place: Mapping[str, tuple[str, ...]], cells: Mapping[str, object]) -> Listed | Problem:
        self.row += 1
        said: dict[str, str] = {}
        for field, names in place.items():
            for name in names:
                value = cells.get(name)
                if value is None or isinstance(value, dict | list):
                    continue
                cell = value if isinstance(value, str) else str(value)
                if not cell.isascii() and _SURROGATE.search(cell):
                    return Problem(self.row, "bad-encoding", name[:40])
                if cell := cell.strip():
                    said[name if field == "licence" else field] = cell
        if "url" not in said:
            return Problem(self.row, "no-url")
        urls: list[str | None] = []
        for field in ("url", "page_url"):
            url = said.get(field)
            try:
                canonical = None if url is None else canonical_url(url)
            except InputError:
                return Problem(self.row, "bad-url", f"{field}: {url!r}"[:120])
            if canonical is not None and (secret := secret_in_url(canonical)) is not None:
                return Problem(self.row, secret, field)
            urls.append(canonical)
        image_url, page_url = urls
        assert image_url is not None
        sha256 = said["sha256"].lower() if "sha256" in said else None
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            return Problem(self.row, "bad-hash", sha256[:80])
        text = text_of(said.get("text"))
        claims = tuple(
            LicenceClaim(
                value=said[name][:_MAX_CLAIM_CHARS],
                source="given",
                scope="image",
                title=text_of(said.get("title")),
                creator=text_of(said.get("creator")),
                credit=text_of(said.get("credit")),
                where=name,
            )
            for name in place.get("licence", ())
            if name in said
        )
        return Listed(
            self.row,
            ImageTextPair(page_url, image_url, text, None if text is None else "given", licence_claims=claims),
            sha256,
        )


_SURROGATE = re.compile("[\ud800-\udfff]")


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_kind = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    return any(test(kind) for test in (*is_kind, pa.types.is_large_binary, pa.types.is_null))


def _as_bytes(column: Any) -> list[bytes | None]:
    """A column's values as bytes: what a file calls text need not be UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _unpacked(file: BinaryIO, packing: str, ending: str, location: str) -> _Readable:
    """The text in a file; raises InputError where the file, or what is packed in it, is something else."""
    head = file.read(8)
    file.seek(0)
    is_packed = {"": True, ".gz": head.startswith(b"\x1f\x8b"), ".zst": head.startswith(b"\x28\xb5\x2f\xfd")}[packing]
    if not is_packed:
        raise InputError(f"is not what its ending says ({packing})", where=location)
    if packing == ".gz":
        stream: _Readable = gzip.GzipFile(fileobj=file)
    else:
        stream = ZstdReader(file) if packing else file
    text = _Begun(stream, stream.read(_CHUNK_BYTES))
    is_other = next((kind for mark, kind in _MARKS.items() if text.begins.startswith(mark)), None)
    if is_other is not None or b"\0" in text.begins[:1024]:
        raise InputError(f"is not what its ending says ({ending}): {is_other or 'no text'}", where=location)
    return text


class _Begun:
    """A stream of which the beginning was looked at."""

    def __init__(self, stream: _Readable, begins: bytes) -> None:
        self.stream, self.begins = stream, begins

    def read(self, size: int, /) -> bytes:
        if self.begins:
            begins, self.begins = self.begins, b""
            return begins
        return bytes(self.stream.read(size))


def _lines(stream: _Readable) -> Iterator[bytes]:
    """Lines with their ends; of one that is longer than the limit, its beginning."""
    kept, is_over = b"", False
    while chunk := stream.read(_CHUNK_BYTES):
        lines = (kept + chunk).splitlines(keepends=True)
        kept = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            if not is_over:
                yield line
            is_over = False
        if is_over:
            kept = b""
        elif len(kept) > MAX_LINE_BYTES:
            yield kept[:MAX_LINE_BYTES]
            kept, is_over = b"", True
    if kept and not is_over:
        yield kept
