"""What img2dataset left in a folder: rows and bytes as they are stored there, and by name what is broken or missing.

Its three formats with pictures are read: `webdataset` (NNNNN.tar and NNNNN.parquet), `files` (NNNNN/ and
NNNNN.parquet) and `parquet` (the pictures in a column), each with NNNNN_stats.json beside it. Such a folder keeps
neither headers nor redirects, status codes, addresses or robots.txt: of all that nothing was observed, and nothing
here pretends it was. Nothing is unpickled, and of a tar only plain members of the expected names are looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from curation.pair import canonical_url, secret_in_url
from policy.errors import InputError

if TYPE_CHECKING:
    import fsspec

MAX_IMAGE_BYTES: Final = 32 * 1024 * 1024
# What may be wrong with a folder, or with a sample in it.
PROBLEMS: Final = {
    "unfinished": "a run was killed here or still goes on (_tmp/ is there)",
    "unexpected-file": "files that img2dataset does not write; not looked at",
    "format-not-supported": "tfrecord, or no pictures and no rows at all (dummy)",
    "stats-missing": "the shard has no statistics: img2dataset would do it again",
    "stats-unreadable": "the shard's statistics are no JSON",
    "rows-dropped": "the statistics count more URLs than the shard has rows: lost without a word",
    "parquet-missing": "no rows: failures and their reasons are not known, samples come from their JSON",
    "parquet-unreadable": "the rows end early, or are no Parquet or not img2dataset's columns",
    "bytes-missing": "the row says success, its picture is not there",
    "tar-cut": "the tar ends early; what is whole before was read",
    "tar-damaged": "not a tar that can be followed further; what is whole before was read",
    "unexpected-member": "links, paths, other names than KEY.jpg|png|webp|json|txt; not looked at",
    "row-unreadable": "a row without key, URL or status, or of other types",
    "bad-url": "not an http or https URL",
    "secret-url": "userinfo or a signature in the URL: neither kept nor shown",
    "json-missing": "no JSON beside the picture",
    "json-unreadable": "the JSON beside the picture cannot be parsed",
    "key-mismatch": "a key that no row has, of another shard, twice, or of a row that says failed; left out",
    "disagreement": "row and JSON name another URL, caption or hash for one key; left out",
    "too-large": "the stored picture is over the limit and was not read",
}

_ENTRY = re.compile(r"(?P<shard>[0-9]{1,18})(?P<what>\.tar|\.parquet|\.tfrecord|_stats\.json)?")
_MEMBER = re.compile(r"(?P<key>[0-9]{1,40})\.(?P<ext>jpg|png|webp|json|txt)")
_IMAGE_TYPES: Final = ("jpg", "png", "webp")
_HASHES: Final = {"sha256": 64, "sha512": 128, "md5": 32}  # hexadecimal digits
_COLUMNS: Final = ("key", "url", "status")
_OPTIONAL: Final = ("caption", "error_message", "width", "height", "original_width", "original_height", "exif")
_MAX_TEXT: Final = 1024 * 1024  # of a JSON or caption member
_MAX_STATS: Final = 64 * 1024 * 1024  # up to 100,000 error messages
_MAX_PAX: Final = 64 * 1024
_MAX_ERROR_CHARS: Final = 500
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Imported:
    """A row of an img2dataset folder.

    `url` is canonical. `status`: success | failed_to_download | failed_to_resize; `error` its message (of urllib).
    `stored`: the bytes in the folder, None where there are none or too many; `extension` is only the name they were
    given. `original_hash`, by `hash_name` (sha256, sha512 or md5), was taken of the bytes as downloaded.
    `is_original`: whether `stored` has that hash; False: encoded anew, so what the original said of rights inside was
    not observed; None: cannot be told. Sizes in pixels; all None where nothing was decoded. `exif`: JSON as stored, a
    claim of img2dataset's. `kept`: the further columns that the reader was asked for, as text.
    """

    shard: str
    key: str
    url: str
    caption: str | None
    status: str
    error: str | None
    stored: bytes | None
    extension: str | None
    width: int | None
    height: int | None
    original_width: int | None
    original_height: int | None
    exif: str | None
    hash_name: str | None
    original_hash: str | None
    is_original: bool | None
    kept: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is broken or missing: a code of `PROBLEMS`, the file (and key), and how many samples it concerns.

    `shard` is "" where it concerns the folder. No URL stands in it.
    """

    code: str
    shard: str
    where: str
    count: int = 1
    detail: str = ""


def read_img2dataset(
    location: Path | str, *, max_bytes: int = MAX_IMAGE_BYTES, keep: tuple[str, ...] = ()
) -> Iterator[Imported | Problem]:
    """All rows of a folder that img2dataset wrote, shard by shard in the order of their numbers, and its problems.

    `location` is a directory or its fsspec URL; `keep` names further columns to hand on. One picture is in memory at a
    time (of the format `parquet`: one row group).

    Raises:
        InputError: there is no such folder, or nothing in it is img2dataset's.
    """
    folder = _Folder.open(location)
    yield from folder.problems
    for shard, parts in folder.shards:
        yield from _Shard(folder, shard, parts, max_bytes, keep).read()


# --- the folder


@dataclass(frozen=True, slots=True)
class _Folder:
    files: fsspec.AbstractFileSystem
    path: str
    shards: tuple[tuple[str, frozenset[str]], ...]
    problems: tuple[Problem, ...]

    @classmethod
    def open(cls, location: Path | str) -> _Folder:
        import fsspec  # 0.1 s that few crawls need

        where = str(location)
        try:
            files, path = fsspec.core.url_to_fs(where)
            entries = files.ls(path, detail=True)
        except (OSError, ValueError, ImportError) as error:
            remedy = "Name the output_folder of an img2dataset run"
            raise InputError(f"no such folder ({_reason(error)})", where=where, remedy=remedy) from error
        shards: dict[str, set[str]] = {}
        others, unfinished = [], False
        for entry in entries:
            name = PurePosixPath(entry["name"]).name
            matched = _ENTRY.fullmatch(name)
            what = "" if matched is None else matched["what"] or "/"
            if name == "_tmp":
                unfinished = True
            elif matched is None or _is_link(entry) or (what == "/") != (entry["type"] == "directory"):
                others.append(name)
            else:
                shards.setdefault(matched["shard"], set()).add(what)
        if not shards:
            raise InputError(
                "nothing here is img2dataset's",
                where=where,
                remedy="Expected are 00000.tar with 00000.parquet, or 00000.parquet, or 00000/ with pictures",
            )
        problems = []
        if unfinished:
            problems.append(Problem("unfinished", "", "_tmp"))
        if others:
            problems.append(Problem("unexpected-file", "", ascii(min(others))[1:-1][:200], len(others)))
        ordered = sorted(shards, key=lambda shard: (int(shard), shard))
        return cls(files, path, tuple((s, frozenset(shards[s])) for s in ordered), tuple(problems))

    @contextmanager
    def opened(self, *names: str) -> Iterator[BinaryIO]:
        with self.files.open("/".join((self.path.rstrip("/"), *names)), "rb") as file:
            yield cast(BinaryIO, file)


@dataclass(slots=True)
class _Row:
    """A row, before its picture is known."""

    key: str
    url: str
    caption: str | None
    status: str
    error: str | None
    sizes: tuple[int | None, int | None, int | None, int | None]
    exif: str | None
    hash_name: str | None
    original_hash: str | None
    kept: tuple[tuple[str, str], ...]

    @property
    def succeeded(self) -> bool:
        return self.status == "success"

    def agrees(self, other: _Row) -> bool:
        ours = (self.url, self.caption or "", self.original_hash)
        return ours == (other.url, other.caption or "", other.original_hash)


@dataclass(slots=True)
class _Rows:
    """The rows of a shard's Parquet, read on until a key that is asked for: tar and Parquet are in the same order.

    `refused` holds keys whose rows were named as problems; `whole` is false where rows may be missing.
    """

    source: Iterator[_Row | Problem]
    twice: Callable[[str], Problem]
    count: int = 0
    whole: bool = True
    waiting: dict[str, _Row] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    passed: list[_Row | Problem] = field(default_factory=list)

    def take(self, key: str) -> _Row | None:
        """The row of a key, once; what was passed on the way lies in `passed`."""
        while key not in self.waiting and key not in self.refused and (row := next(self.source, None)) is not None:
            self._lay(row)
        return self.waiting.pop(key, None)

    def release(self) -> Iterator[_Row | Problem]:
        """What was passed, and forget it: failures, and what is broken."""
        passed, self.passed = self.passed, []
        yield from passed

    def rest(self) -> Iterator[_Row | Problem]:
        """All that nobody asked for."""
        yield from self.release()
        waiting, self.waiting = self.waiting, {}
        yield from waiting.values()
        for row in self.source:
            self._lay(row)
            yield from self.release()
            if self.waiting:
                yield self.waiting.popitem()[1]

    def _lay(self, row: _Row | Problem) -> None:
        if isinstance(row, Problem) or not row.succeeded:
            self.passed.append(row)
        elif row.key in self.waiting:
            self.passed.append(self.twice(row.key))
        else:
            self.waiting[row.key] = row


@dataclass(slots=True)
class _Shard:
    folder: _Folder
    name: str
    parts: frozenset[str]
    max_bytes: int
    keep: tuple[str, ...]

    def read(self) -> Iterator[Imported | Problem]:
        if ".tfrecord" in self.parts:
            yield self.problem("format-not-supported", f"{self.name}.tfrecord", detail="tfrecord")
            return
        if not self.parts - {"_stats.json"}:
            yield self.problem("format-not-supported", f"{self.name}_stats.json", detail="neither pictures nor rows")
            return
        rows = _Rows(iter(()), lambda key: self.problem("key-mismatch", f"{self.name}.parquet:{key}", detail="twice"))
        rows.source = self._parquet_rows(rows)
        if ".parquet" not in self.parts:
            rows.whole = False
            yield self.problem("parquet-missing", f"{self.name}.parquet")
        if ".tar" in self.parts:
            samples = self._samples(_tar_samples, rows)
        elif "/" in self.parts:
            samples = self._samples(_folder_samples, rows)
        else:
            samples = self._pictures_in_parquet(rows)
        yield from samples
        if ".parquet" in self.parts:
            yield from self._statistics(rows)

    def problem(self, code: str, where: str = "", count: int = 1, detail: str = "") -> Problem:
        return Problem(code, self.name, where or self.name, count, detail)

    # --- rows

    def _parquet_rows(self, rows: _Rows) -> Iterator[_Row | Problem]:
        for _, row in self._parquet_batches(rows, pictures=False):
            yield row

    def _parquet_batches(
        self, rows: _Rows, *, pictures: bool
    ) -> Iterator[tuple[tuple[str, bytes] | None, _Row | Problem]]:
        """Each row of the Parquet, with its picture where there is a column of them and it is wanted."""
        where = f"{self.name}.parquet"
        if ".parquet" not in self.parts:
            return
        try:
            with self.folder.opened(where) as file, pq.ParquetFile(file) as parquet:
                schema = parquet.schema_arrow
                lacking = [name for name in _COLUMNS if name not in schema.names]
                if lacking:
                    rows.whole = False
                    said = f"expected are the columns {', '.join(_COLUMNS)}; missing: {', '.join(lacking)}"
                    yield None, self.problem("parquet-unreadable", where, detail=said)
                    return
                wanted = [*_COLUMNS, *_OPTIONAL, *_HASHES, *self.keep]
                image = next((n for n in _IMAGE_TYPES if n in schema.names and _is_binary(schema.field(n).type)), None)
                columns = [name for name in schema.names if name in wanted or (pictures and name == image)]
                for batch in parquet.iter_batches(batch_size=16 if pictures and image else 1000, columns=columns):
                    for values in batch.to_pylist():
                        rows.count += 1
                        data = values.pop(image, None) if image is not None else None
                        row = self._row(values, where)
                        if isinstance(row, Problem) and isinstance(values["key"], str):
                            rows.refused.add(values["key"])
                        yield (image, data) if image is not None and data is not None else None, row
        except (OSError, pa.ArrowException) as error:
            rows.whole = False
            yield None, self.problem("parquet-unreadable", where, detail=_reason(error))

    def _row(self, values: Mapping[str, object], where: str) -> _Row | Problem:
        key, url, status, error = (values.get(name) for name in ("key", "url", "status", "error_message"))
        at = f"{where}:{key}" if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 40 else where
        if at == where or not isinstance(url, str) or not isinstance(status, str):
            return self.problem("row-unreadable", at)
        if not cast(str, key).startswith(self.name):
            return self.problem("key-mismatch", at, detail="of another shard")
        try:
            canonical = canonical_url(url)
        except InputError:
            return self.problem("bad-url", at)
        secret = secret_in_url(canonical)
        if secret is not None:
            return self.problem("secret-url", at, detail=secret)
        hash_name, original_hash = _recorded_hash(values)
        return _Row(
            key=cast(str, key),
            url=canonical,
            caption=_text(values.get("caption")),
            status=status[:100],
            error=error[:_MAX_ERROR_CHARS] if isinstance(error, str) else None,
            sizes=(
                _size(values.get("width")),
                _size(values.get("height")),
                _size(values.get("original_width")),
                _size(values.get("original_height")),
            ),
            exif=_text(values.get("exif")),
            hash_name=hash_name,
            original_hash=original_hash,
            kept=tuple((name, text) for name in self.keep if (text := _text(values.get(name))) is not None),
        )

    # --- samples

    def _samples(
        self, source: Callable[[_Shard], Iterator[_Sample | Problem]], rows: _Rows
    ) -> Iterator[Imported | Problem]:
        """Samples of a tar or a folder joined to the rows, then the rows that are left."""
        taken: set[str] = set()
        for sample in source(self):
            if isinstance(sample, Problem):
                yield sample
                continue
            where = f"{sample.where}:{sample.key}"
            again = sample.key in taken
            taken.add(sample.key)
            row = None if again else rows.take(sample.key)
            yield from self._left(rows.release())
            if sample.key in rows.refused:
                continue
            told, complaint = self._told(sample, where)
            if complaint is not None:
                yield complaint
            if row is None and not rows.whole and not again and told is not None and told.succeeded:
                row = told
            if row is None:
                if again or rows.whole:
                    yield self.problem("key-mismatch", where, detail="twice" if again else "no row that says success")
                continue
            if told is not None and not row.agrees(told):
                yield self.problem("disagreement", where)
                continue
            if row.caption is None and sample.text:
                row.caption = sample.text
            yield from self._imported(row, sample.picture, where, sample.too_large)
        yield from self._left(rows.rest())

    def _told(self, sample: _Sample, where: str) -> tuple[_Row | None, Problem | None]:
        """What the JSON beside a picture says, or what is wrong with it."""
        if sample.meta is None:
            return None, self.problem("json-missing", where)
        try:
            values = json.loads(sample.meta)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            return None, self.problem("json-unreadable", where)
        if values.get("key") != sample.key:
            return None, self.problem("json-unreadable", where, detail="of another key")
        row = self._row(values, sample.where)
        return (None, row) if isinstance(row, Problem) else (row, None)

    def _pictures_in_parquet(self, rows: _Rows) -> Iterator[Imported | Problem]:
        for picture, row in self._parquet_batches(rows, pictures=True):
            if isinstance(row, Problem):
                yield row
            elif not row.succeeded:
                yield self._joined(row, None)
            else:
                too_large = picture is not None and len(picture[1]) > self.max_bytes
                yield from self._imported(
                    row, None if too_large else picture, f"{self.name}.parquet:{row.key}", too_large
                )

    def _left(self, rows: Iterator[_Row | Problem]) -> Iterator[Imported | Problem]:
        """Rows whose picture did not come by: failures, and those whose bytes are missing."""
        for row in rows:
            if isinstance(row, Problem):
                yield row
            elif row.succeeded:
                yield from self._imported(row, None, f"{self.name}:{row.key}", False)
            else:
                yield self._joined(row, None)

    def _imported(
        self, row: _Row, picture: tuple[str, bytes] | None, where: str, too_large: bool
    ) -> Iterator[Imported | Problem]:
        if picture is None:
            yield self.problem("too-large" if too_large else "bytes-missing", where)
        yield self._joined(row, picture)

    def _joined(self, row: _Row, picture: tuple[str, bytes] | None) -> Imported:
        is_original = None
        if picture is not None and row.hash_name is not None:
            digest = hashlib.new(row.hash_name, picture[1], usedforsecurity=False).hexdigest()
            is_original = digest == row.original_hash
        return Imported(
            self.name,
            row.key,
            row.url,
            row.caption,
            row.status,
            row.error,
            None if picture is None else picture[1],
            None if picture is None else picture[0],
            *row.sizes,
            exif=row.exif,
            hash_name=row.hash_name,
            original_hash=row.original_hash,
            is_original=is_original,
            kept=row.kept,
        )

    # --- statistics

    def _statistics(self, rows: _Rows) -> Iterator[Problem]:
        where = f"{self.name}_stats.json"
        if "_stats.json" not in self.parts:
            yield self.problem("stats-missing", where)
            return
        try:
            with self.folder.opened(where) as file:
                stats = json.loads(_read_up_to(file, _MAX_STATS))
            count = stats["count"]
            if not isinstance(count, int):
                raise ValueError(where)
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            yield self.problem("stats-unreadable", where)
            return
        if rows.whole and rows.count < count:
            yield self.problem("rows-dropped", where, count - rows.count)


@dataclass(slots=True)
class _Sample:
    """What lies under one key in a tar or a folder."""

    key: str
    where: str
    picture: tuple[str, bytes] | None = None
    too_large: bool = False
    meta: bytes | None = None
    text: str = ""

    def add(self, extension: str, data: bytes | None) -> None:
        """Take a member; data is None where it was over its limit."""
        if extension in _IMAGE_TYPES:
            self.too_large = self.too_large or data is None
            self.picture = self.picture or (None if data is None else (extension, data))
        elif extension == "json":
            self.meta = b"" if data is None else data
        else:
            self.text = (data or b"").decode("utf-8", "replace")


def _read_up_to(file: BinaryIO, limit: int) -> bytes:
    """At most so many bytes; a plain read(limit) would make room for all of them first."""
    data = bytearray()
    while len(data) < limit and (more := file.read(min(limit - len(data), 256 * 1024))):
        data += more
    return bytes(data)


def _limit(shard: _Shard, extension: str) -> int:
    return shard.max_bytes if extension in _IMAGE_TYPES else _MAX_TEXT


# --- tar (POSIX.1-2017, pax Interchange Format)


class _TarEnd(Exception):
    """The tar cannot be followed further; its argument is the problem's code."""


def _tar_samples(shard: _Shard) -> Iterator[_Sample | Problem]:
    where = f"{shard.name}.tar"
    sample: _Sample | None = None
    unexpected = 0
    try:
        with shard.folder.opened(where) as file:
            for name, data in _tar_members(file, shard):
                matched = _MEMBER.fullmatch(name)
                if matched is None:
                    unexpected += 1
                    continue
                if sample is None or sample.key != matched["key"]:
                    if sample is not None:
                        yield sample
                    sample = _Sample(matched["key"], where)
                sample.add(matched["ext"], data)
        if sample is not None:
            yield sample
    except _TarEnd as end:
        # The last sample's members may be cut off: what it lacks is said of it.
        if sample is not None:
            yield sample
        yield shard.problem(str(end), where)
    except OSError as error:
        yield shard.problem("tar-damaged", where, detail=_reason(error))
    if unexpected:
        yield shard.problem("unexpected-member", where, unexpected)


def _tar_members(file: BinaryIO, shard: _Shard) -> Iterator[tuple[str, bytes | None]]:
    """(name, data) of every member in order: data is None over the limit, the name "" for what is no plain file.

    Own, since the stock readers take a tar that was cut off between two members for a whole one, follow long names
    and links, and read headers of any size into memory.
    """
    renamed = False
    while True:
        header = _exactly(file, _BLOCK)
        if header == bytes(_BLOCK):
            if _exactly(file, _BLOCK) != bytes(_BLOCK):
                raise _TarEnd("tar-damaged")
            return
        kind, size = _checked(header)
        if kind in b"xg":
            if size > _MAX_PAX:
                raise _TarEnd("tar-damaged")
            records = _exactly(file, _padded(size))[:size]
            if b" size=" in records:  # it would say how long the next member really is
                raise _TarEnd("tar-damaged")
            renamed = renamed or any(mark in records for mark in (b" path=", b" linkpath=", b" GNU."))
            continue
        if kind in b"LK":  # GNU's long names
            _skip(file, _padded(size))
            renamed = True
            continue
        name = header[:100].partition(b"\0")[0].decode("ascii", "replace")
        is_plain = kind in b"0\0" and not renamed and not header[345:500].strip(b"\0")
        matched = _MEMBER.fullmatch(name) if is_plain else None
        renamed = False
        if matched is None:
            _skip(file, 0 if kind in b"123456" else _padded(size))
            yield "", None
        elif size > _limit(shard, matched["ext"]):
            _skip(file, _padded(size))
            yield name, None
        else:
            yield name, _exactly(file, _padded(size))[:size]


def _checked(header: bytes) -> tuple[bytes, int]:
    """Type and size of a member whose header's checksum is right."""
    try:
        size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
        checksum = int(header[148:156].rstrip(b"\0 "), 8)
    except ValueError:
        raise _TarEnd("tar-damaged") from None
    if size < 0 or sum(header[:148]) + 8 * 32 + sum(header[156:]) != checksum:
        raise _TarEnd("tar-damaged")
    return header[156:157], size


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _TarEnd("tar-cut")
    return data


def _skip(file: BinaryIO, size: int) -> None:
    if size:
        file.seek(size - 1, 1)
        _exactly(file, 1)


# --- a folder of files


def _folder_samples(shard: _Shard) -> Iterator[_Sample | Problem]:
    try:
        entries = shard.folder.files.ls(f"{shard.folder.path.rstrip('/')}/{shard.name}", detail=True)
    except OSError as error:
        yield shard.problem("bytes-missing", f"{shard.name}/", detail=_reason(error))
        return
    unexpected = 0
    found: dict[str, set[str]] = {}
    for entry in entries:
        matched = _MEMBER.fullmatch(PurePosixPath(entry["name"]).name)
        if matched is None or _is_link(entry) or entry["type"] != "file":
            unexpected += 1
        else:
            found.setdefault(matched["key"], set()).add(matched["ext"])
    for key in sorted(found):
        sample = _Sample(key, shard.name)
        for extension in sorted(found[key]):
            limit = _limit(shard, extension)
            try:
                with shard.folder.opened(shard.name, f"{key}.{extension}") as file:
                    data = _read_up_to(file, limit + 1)
            except OSError:  # as if it were not there
                continue
            sample.add(extension, data if len(data) <= limit else None)
        yield sample
    if unexpected:
        yield shard.problem("unexpected-member", f"{shard.name}/", unexpected)


# --- values


def _recorded_hash(values: Mapping[str, object]) -> tuple[str | None, str | None]:
    for name, digits in _HASHES.items():
        value = values.get(name)
        if isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
            return name, value
    return None, None


def _text(value: object) -> str | None:
    """Text as img2dataset makes it of a column of any type."""
    if value is None:
        return None
    text = (value if isinstance(value, str) else str(value))[:_MAX_TEXT]
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold lone surrogates


def _size(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not 0 < value < 2**31:
        return None
    return int(value)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_link(entry: Mapping[str, object]) -> bool:
    return bool(entry.get("islink")) or entry["type"] == "link"


def _reason(error: Exception) -> str:
    """Why, in few words and without what the file says."""
    return (error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__)[:100]
