"""Whatever a file holds, to its innermost: archives, compressed streams, columns, databases, pictures, base64.

Each format is known by its first bytes, never by its name. What cannot be opened is told with its reason, and nothing
is ever written: what lies inside something else is held in memory, up to a bound.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import gzip
import io
import lzma
import os
import re
import sqlite3
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.images import DecodeError
from flows.stages.removing.likeness import NO_PICTURE, Pictures, has_header, picture_end
from flows.stages.removing.searching import Bytes, Mark, Search, texts_of
from policy.column_scan import ColumnScan
from policy.errors import CustodyError

HELD_BYTES: Final = 64 << 20  # of what lies within something else and is to be opened
EXPANDED_BYTES: Final = 16 << 30  # what one compressed stream may come to
MAX_DEPTH: Final = 8
_HEAD_BYTES: Final = 512
_HEADER_BYTES: Final = 1 << 20  # of a picture: its size stands in them
_BLOCK: Final = 512  # of a tar


@dataclass(slots=True)
class Found:
    """What one file, or one piece of work, came to."""

    hits: Counter[tuple[str, str]] = field(default_factory=Counter)  # (where, kind)
    unread: dict[str, str] = field(default_factory=dict)  # where -> why
    bytes: int = 0
    pictures: int = 0
    alike: int = 0

    def add(self, where: str, kinds: Counter[str]) -> None:
        for kind, count in kinds.items():
            if count:
                self.hits[where, kind] += count

    def merge(self, other: Found) -> None:
        self.hits.update(other.hits)
        self.unread.update(other.unread)
        self.bytes += other.bytes
        self.pictures += other.pictures
        self.alike += other.alike


class Source(Protocol):
    """Bytes that can be read from any offset."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes: ...
    def open(self) -> BinaryIO: ...


class FileSource:
    """A file on disk. `path` is for what lies beside it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # No FIFO or device is waited for that took the file's place.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def open(self) -> BinaryIO:
        return io.BufferedReader(SourceFile(self), 1 << 16)

    def close(self) -> None:
        os.close(self._descriptor)


class BytesSource:
    """Bytes in memory."""

    def __init__(self, body: Bytes) -> None:
        self._body = memoryview(body)
        self.size = len(self._body)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._body[offset : offset + length])

    def open(self) -> BinaryIO:
        return io.BytesIO(self._body)


class _Within:
    """A part of another source."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        self._source, self._start, self.size = source, start, size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._source.read_at(self._start + offset, max(0, min(length, self.size - offset)))

    def open(self) -> BinaryIO:
        return io.BufferedReader(SourceFile(self), 1 << 16)


class SourceFile(io.RawIOBase):
    """A source as a file of its own, whoever else reads it."""

    def __init__(self, source: Source) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._source.size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        part = self._source.read_at(self._place, len(buffer))
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def format_of(head: bytes) -> str | None:
    """The container that begins with these bytes (512 are enough); None: nothing that is opened here."""
    for name, magic, at in _MAGICS:
        if head[at : at + len(magic)] == magic:
            # A continuation mark, and behind it how long the schema is: not just a row of ones.
            if name == "arrow stream" and not (0 < int.from_bytes(head[4:8], "little") < 1 << 24):
                return None
            return name
    return "tar" if len(head) >= _BLOCK and _is_tar_header(head[:_BLOCK]) else None


_MAGICS: Final[tuple[tuple[str, bytes, int], ...]] = (
    ("gzip", b"\x1f\x8b\x08", 0),
    ("zstd", b"\x28\xb5\x2f\xfd", 0),
    ("bzip2", b"1AY&SY", 4),
    ("xz", b"\xfd7zXZ\0", 0),
    ("lz4", b"\x04\x22\x4d\x18", 0),
    ("zip", b"PK\x03\x04", 0),
    ("zip", b"PK\x05\x06", 0),
    ("parquet", b"PAR1", 0),
    ("encrypted Parquet", b"PARE", 0),
    ("arrow file", b"ARROW1\0\0", 0),
    ("arrow stream", b"\xff\xff\xff\xff", 0),
    ("sqlite", b"SQLite format 3\0", 0),
    ("duckdb", b"DUCK", 8),
    ("7-Zip archive", b"7z\xbc\xaf\x27\x1c", 0),
    ("RAR archive", b"Rar!\x1a\x07", 0),
)
_FIRST_TWO: Final = np.array([int.from_bytes(magic[:2], "big") for _, magic, at in _MAGICS if not at], np.uint16)
_NOT_OPENED: Final = frozenset({"encrypted Parquet", "7-Zip archive", "RAR archive"})
_COMPRESSED: Final = frozenset({"gzip", "zstd", "bzip2", "xz", "lz4"})


class Looking:
    """Looks through one thing after another, and writes down what it finds in `found`."""

    def __init__(self, search: Search, pictures: Pictures) -> None:
        self._search, self._pictures = search, pictures
        self.found = Found()

    def look(self, source: Source, where: str, depth: int = 0) -> None:
        """All of it: its bytes, the pictures in them, and, if it is a container, what it holds."""
        head = source.read_at(0, _HEAD_BYTES)
        kind = format_of(head)
        with closing(source.open()) as stream:
            kinds, size = self._search.in_stream(stream.read, partial(self._mark, where, depth))
        self.found.add(where, kinds)
        if depth == 0:
            self.found.bytes += size
        if kind is not None:
            self._open(kind, source, where, depth)

    def look_at(self, body: Bytes, where: str, depth: int) -> None:
        """The same of bytes that were found in something."""
        self.look(BytesSource(body), where, depth)

    def columns_of(self, scan: ColumnScan, where: str, table: str | None) -> None:
        """One table of a DuckDB file, or (None) its catalog, and what its bytes may hold beside."""
        for part in scan.catalog() if table is None else scan.columns(table):
            self._array(part.values, f"{where}, table {self._plain(part.table)}, column {self._plain(part.column)}", 0)
        for reason in scan.remains() if table is None else ():
            self._unread(where, reason)

    # ── what is a container ──────────────────────────────────────────────────────────────────────────────────────

    def _open(self, kind: str, source: Source, where: str, depth: int) -> None:
        if depth >= MAX_DEPTH:
            self._unread(where, f"nested more than {MAX_DEPTH} deep")
        elif kind in _NOT_OPENED:
            self._unread(where, f"{kind}: not opened")
        else:
            openers: dict[str, Callable[[Source, str, int], None]] = {
                "tar": self._tar,
                "zip": self._zip,
                "parquet": self._parquet,
                "arrow file": self._arrow_file,
                "arrow stream": self._arrow_stream,
                "sqlite": self._sqlite,
                "duckdb": self._duckdb,
            }
            try:
                if kind in _COMPRESSED:
                    with closing(source.open()) as stream:
                        self._stream(_expanded(kind, stream), where, depth + 1)
                else:
                    openers[kind](source, where, depth)
            except CustodyError as error:
                self._unread(where, error.what)
            except _DAMAGES as error:
                self._unread(where, f"a damaged or cut {kind} ({type(error).__name__})")

    def _stream(self, read: Callable[[int], bytes], where: str, depth: int) -> None:
        """What comes out of a compressed stream: in memory if it fits, else as it comes."""
        parts: list[bytes] = []
        held = 0
        try:
            while held <= HELD_BYTES:
                if not (part := read(1 << 20)):
                    self.look_at(b"".join(parts), where, depth)
                    return
                parts.append(part)
                held += len(part)
        except _DAMAGES:
            self.look_at(b"".join(parts), where, depth)  # what came before counts
            raise
        begun = b"".join(parts)
        rest = _Rest(begun, read)
        if (kind := format_of(begun[:_HEAD_BYTES])) == "tar":
            self._tar_stream(rest.read, where, depth)
        elif kind in _COMPRESSED:
            self._stream(_expanded(kind, cast("BinaryIO", rest)), where, depth + 1)
        else:
            kinds, _ = self._search.in_stream(rest.read, partial(self._mark, where, depth))
            self.found.add(where, kinds)
            if kind is not None:
                self._unread(where, f"a {kind} of over {HELD_BYTES >> 20} MiB within something else is not opened")

    def _zip(self, source: Source, where: str, depth: int) -> None:
        with zipfile.ZipFile(source.open()) as archive:
            for number, info in enumerate(archive.infolist()):
                inner = f"{where}, member {number}"
                self.found.add(inner, self._search.in_bytes(info.filename.encode("utf-8", "surrogateescape")))
                try:
                    with archive.open(info) as member:
                        self._stream(_bounded(member.read), inner, depth + 1)
                except NotImplementedError:  # zipfile's word for a compression it does not know; a RuntimeError, too
                    self._unread(inner, "is compressed in a way that is not known here")
                except RuntimeError:
                    self._unread(inner, "is encrypted")
                except _DAMAGES as error:
                    self._unread(inner, f"cannot be unpacked ({type(error).__name__})")

    # ── tar ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tar(self, source: Source, where: str, depth: int) -> None:
        """Its bytes are searched already, names and members in one; here are the members that hold something else."""
        place, number = 0, 0
        while place + _BLOCK <= source.size:
            header = source.read_at(place, _BLOCK + _HEAD_BYTES)
            if not header[:_BLOCK].strip(b"\0"):
                return
            size = self._member_size(header[:_BLOCK])
            end = place + _BLOCK + size
            inner = f"{where}, member {number}"
            if end > source.size:
                self._unread(inner, "the tar is cut in it")
                return
            if format_of(header[_BLOCK:][:size]) is not None:
                self.look(_Within(source, place + _BLOCK, size), inner, depth + 1)
            place, number = place + _BLOCK + -(-size // _BLOCK) * _BLOCK, number + 1
        self._unread(where, "the tar has no end: it may have been cut")

    def _tar_stream(self, read: Callable[[int], bytes], where: str, depth: int) -> None:
        number = 0
        while header := read(_BLOCK):
            if not header.strip(b"\0"):
                return
            size = self._member_size(header)
            inner = f"{where}, member {number}"
            self.found.add(inner, self._search.in_bytes(header))
            member = _Bound(read, size)
            self._stream(member.read, inner, depth + 1)
            member.drain()
            read(-size % _BLOCK)
            if member.left:
                self._unread(inner, "the tar is cut in it")
                return
            number += 1
        self._unread(where, "the tar has no end: it may have been cut")

    @staticmethod
    def _member_size(header: bytes) -> int:
        """Raises ValueError for what is no header."""
        if len(header) < _BLOCK or not _is_tar_header(header):
            raise ValueError("no header of a tar")
        text = header[124:136]
        if text[0] & 0x80:  # GNU's and star's binary sizes
            return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return int(text.strip(b" \0") or b"0", 8)

    # ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _parquet(self, source: Source, where: str, depth: int) -> None:
        import pyarrow.parquet as pq

        with pq.ParquetFile(source.open()) as file:
            for batch in file.iter_batches(batch_size=2_048, use_threads=False):
                self._batch(batch, where, depth)

    def _arrow_file(self, source: Source, where: str, depth: int) -> None:
        with pa.ipc.open_file(source.open()) as file:
            for number in range(file.num_record_batches):
                self._batch(file.get_batch(number), where, depth)

    def _arrow_stream(self, source: Source, where: str, depth: int) -> None:
        with pa.ipc.open_stream(source.open()) as stream:
            for batch in stream:
                self._batch(batch, where, depth)

    def _batch(self, batch: Any, where: str, depth: int) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._array(column, f"{where}, column {self._plain(name)}", depth)

    def _array(self, array: Any, where: str, depth: int) -> None:
        """Every text and every run of bytes in an Arrow array, however deep it lies."""
        kind = array.type
        if isinstance(array, pa.ChunkedArray):
            for chunk in array.chunks:
                self._array(chunk, where, depth)
        elif isinstance(kind, pa.BaseExtensionType):
            self._array(array.storage, where, depth)
        elif pa.types.is_dictionary(kind):
            self._array(array.dictionary, where, depth)
        elif pa.types.is_struct(kind) or pa.types.is_union(kind):
            for number in range(kind.num_fields):
                self._array(array.field(number), where, depth)
        elif pa.types.is_map(kind):
            self._array(array.keys, where, depth)
            self._array(array.items, where, depth)
        elif pa.types.is_run_end_encoded(kind):
            self._array(array.values, where, depth)
        elif pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._array(array.values, where, depth)  # numbers in lists may be a vector's bytes
        elif pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            self._array(array.cast(pa.large_binary()), where, depth)
        elif pa.types.is_fixed_size_binary(kind) or pa.types.is_primitive(kind):
            for buffer in array.buffers()[1:]:
                if buffer is not None:
                    self.found.add(where, self._search.in_bytes(memoryview(buffer)))
        elif (pa.types.is_string(kind) or pa.types.is_binary(kind)) or (
            pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
        ):
            self._values(array, where, depth)
        elif not pa.types.is_null(kind):
            self._unread(where, f"values of the type {kind} are not read")

    def _values(self, array: Any, where: str, depth: int) -> None:
        data, offsets = texts_of(array)
        if len(offsets):
            self.found.add(where, self._search.in_values(data, offsets, partial(self._mark, where, depth)))
            for number in _openable(data, offsets):
                self.look_at(data[int(offsets[number]) : int(offsets[number + 1])], where, depth + 1)

    # ── databases ────────────────────────────────────────────────────────────────────────────────────────────────

    def _duckdb(self, source: Source, where: str, depth: int) -> None:
        if isinstance(source, FileSource):
            return  # opened by its name, and by itself: see `look_into_duckdb`
        if source.size > HELD_BYTES:
            self._unread(where, f"a DuckDB file of over {HELD_BYTES >> 20} MiB within something else is not opened")
            return
        with ColumnScan.of_bytes(source.read_at(0, source.size), where) as scan:
            for table in (None, *scan.tables()):
                self.columns_of(scan, where, table)

    def _sqlite(self, source: Source, where: str, depth: int) -> None:
        """Every value: in its pages a long one is parted. Bytes are the file's own, with what its log holds."""
        if source.size > 8 * HELD_BYTES:
            self._unread(where, f"a SQLite file of over {8 * HELD_BYTES >> 20} MiB is not opened")
            return
        body = bytearray(source.read_at(0, source.size))
        if isinstance(source, FileSource):
            _apply_wal(body, source.path.with_name(source.path.name + "-wal"))
        body[18:20] = b"\x01\x01"  # a copy in memory has no log
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(bytes(body))
            connection.text_factory = bytes
            # What a virtual table shows lies in tables of its own.
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
            ).fetchall()
            for (raw,) in [*names, (b"sqlite_master",)]:
                name = raw.decode("utf-8", "replace")
                quoted = name.replace('"', '""')
                cursor = connection.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 - a table's own name
                columns = [str(column[0]) for column in cursor.description]
                while rows := cursor.fetchmany(1_000):
                    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                        given = [v for v in values if isinstance(v, bytes) and v]
                        place = f"{where}, table {self._plain(name)}, column {self._plain(column)}"
                        self._array(pa.array(given, pa.large_binary()), place, depth)

    # ── pictures, base64 ─────────────────────────────────────────────────────────────────────────────────────────

    def _mark(self, where: str, depth: int, mark: Mark, view: memoryview, whole: bool) -> int | None:
        if mark.what == "base64":
            return self._base64(where, depth, mark.at, view, whole)
        end = picture_end(mark.what, view, mark.at)
        if end == NO_PICTURE:
            return NO_PICTURE
        if end is None:
            if not whole:
                return None
            if has_header(bytes(view[mark.at : mark.at + _HEADER_BYTES])):
                self._unread(where, "a picture that is cut, or larger than is looked at")
            return NO_PICTURE
        body = bytes(view[mark.at : end])
        try:
            likeness = self._pictures.judge(body)
        except DecodeError as error:
            if mark.at and not has_header(body):
                return NO_PICTURE  # in the midst of something the first bytes of one may be chance
            self._unread(where, f"a picture that cannot be decoded ({error.code})")
            self.found.pictures += 1
        else:
            self.found.pictures += 1
            if likeness == "removed":
                self.found.add(where, Counter(picture=1))
            self.found.alike += likeness == "either"
        if mark.what == "png":
            for text in _png_texts(body):
                self.found.add(where, self._search.in_bytes(text))
        return end

    def _base64(self, where: str, depth: int, at: int, view: memoryview, whole: bool) -> int | None:
        start = at + len(b";base64,")
        with view[start:] as behind:
            length = cast("re.Match[bytes]", _BASE64.match(behind)).end()
        if start + length == len(view) and not whole:
            return None
        text = bytes(view[start : start + length]).translate(_STANDARD)
        with suppress(binascii.Error):
            body = base64.b64decode(text + b"=" * (-len(text) % 4))
            if body and depth < MAX_DEPTH:
                self.look_at(body, where, depth + 1)
        return start + length

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _plain(self, name: str) -> str:
        """A name as it may be told: one that holds what is searched for is not."""
        return "(not named: it is a hit itself)" if self._search.in_bytes(name.encode("utf-8", "replace")) else name

    def _unread(self, where: str, why: str) -> None:
        self.found.unread.setdefault(where, why)


def look_into_duckdb(looking: Looking, path: Path, where: str, *tables: str | None) -> None:
    """Tables of a DuckDB file on disk, by default all; None: its catalog, and what its bytes may hold beside."""
    try:
        with ColumnScan.open(path) as scan:
            for table in tables or (None, *scan.tables()):
                looking.columns_of(scan, where, table)
    except CustodyError as error:
        looking.found.unread.setdefault(where, error.what)


# ── formats ──────────────────────────────────────────────────────────────────────────────────────────────────────

_DAMAGES: Final = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, MemoryError, struct.error),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile, sqlite3.Error, pa.ArrowException),
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]*")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_PNG_TEXT_BYTES: Final = 16 << 20


def _is_tar_header(block: bytes) -> bool:
    """POSIX.1-1988: the sum of the header's bytes, those of the sum itself taken as blanks, stands in it in octal."""
    text = block[148:156].strip(b" \0")
    if not text or not block[0] or not text.isdigit():
        return False
    try:
        return int(text, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")
    except ValueError:
        return False


def _expanded(kind: str, stream: BinaryIO) -> Callable[[int], bytes]:
    """`read(n)` of what a compressed stream holds, all frames and members of it. Raises what is in _DAMAGES."""
    match kind:
        case "gzip":
            opened: Any = gzip.GzipFile(fileobj=stream)
        case "bzip2":
            opened = bz2.BZ2File(stream)
        case "xz":
            opened = lzma.LZMAFile(stream)  # noqa: SIM115 - whoever reads it closes the stream
        case _:
            opened = pa.CompressedInputStream(stream, kind)
    return _bounded(opened.read)


def _bounded(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Reads no more than EXPANDED_BYTES; raises EOFError beyond it."""
    left = EXPANDED_BYTES

    def bounded(length: int) -> bytes:
        nonlocal left
        part = read(length)
        left -= len(part)
        if left < 0:
            raise EOFError("comes to more than is looked at")
        return part

    return bounded


class _Rest:
    """What was read already, and then the rest of it."""

    def __init__(self, begun: bytes, read: Callable[[int], bytes]) -> None:
        self._begun, self._read = io.BytesIO(begun), read

    def read(self, length: int) -> bytes:
        part = self._begun.read(length)
        while len(part) < length and (more := self._read(length - len(part))):
            part += more
        return part


class _Bound:
    """The next `left` bytes of a stream."""

    def __init__(self, read: Callable[[int], bytes], left: int) -> None:
        self._read, self.left = read, left

    def read(self, length: int) -> bytes:
        part = self._read(min(length, self.left))
        self.left -= len(part)
        return part

    def drain(self) -> None:
        while self.read(1 << 20):
            pass


def _openable(view: memoryview, offsets: npt.NDArray[np.int64]) -> Iterator[int]:
    """Which values begin like a container."""
    data, starts = np.frombuffer(view, np.uint8), offsets[:-1]
    long = np.flatnonzero(np.diff(offsets) >= 20)
    first = data[starts[long]].astype(np.uint16) << 8 | data[starts[long] + 1]
    likely = set(long[np.isin(first, _FIRST_TWO)].tolist())
    longer = np.flatnonzero(np.diff(offsets) >= _BLOCK)  # DuckDB's and bzip2's mark stand further on; so does tar's
    likely.update(longer.tolist())
    for number in sorted(likely):
        start, end = int(offsets[number]), int(offsets[number + 1])
        if format_of(bytes(view[start : min(end, start + _HEAD_BYTES)])) is not None:
            yield number


def _apply_wal(body: bytearray, log: Path) -> None:
    """Put the pages of a write-ahead log into a copy of its database (https://www.sqlite.org/fileformat2.html, 4).

    Frames count as long as their salts are the log's, up to the last that commits. Raises OSError.
    """
    with suppress(FileNotFoundError):
        frames = log.read_bytes()
        if len(frames) < 32 or frames[:3] != b"\x37\x7f\x06":
            return
        size, salts, place = int.from_bytes(frames[8:12], "big"), frames[16:24], 32
        pages: dict[int, bytes] = {}
        while frames[place + 8 : place + 16] == salts and place + 24 + size <= len(frames):
            number, pages_then = struct.unpack(">II", frames[place : place + 8])
            pages[number] = frames[place + 24 : place + 24 + size]
            place += 24 + size
            if pages_then:
                body.extend(bytes(max(0, pages_then * size - len(body))))
                for at, page in pages.items():
                    body[(at - 1) * size : at * size] = page
                pages.clear()


def _png_texts(body: bytes) -> Iterator[bytes]:
    """What the compressed text chunks of a PNG say (W3C PNG, 11.3.3)."""
    place = 8
    while place + 8 <= len(body):
        length, kind = int.from_bytes(body[place : place + 4], "big"), body[place + 4 : place + 8]
        data = body[place + 8 : place + 8 + length]
        place += 12 + length
        packed = b""
        if kind in (b"zTXt", b"iCCP"):
            packed = data.partition(b"\0")[2][1:]
        elif kind == b"iTXt":
            flagged = data.partition(b"\0")[2]
            packed = flagged[2:].split(b"\0", 2)[-1] if flagged[:1] == b"\1" else b""
        if packed:
            with suppress(zlib.error):
                yield zlib.decompressobj().decompress(packed, _PNG_TEXT_BYTES)
