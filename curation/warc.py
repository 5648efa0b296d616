"""WARC files to what the live fetcher would have told of the same exchange (ISO 28500; WARC 0.17 to 1.1).

The records are cut apart here, within bounds: a record is read by its declared length, and where that, the
compression or a header is wrong, the damage is reported and reading goes on at the next record that can be found.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, NamedTuple

from fastwarc.stream_io import BrotliReader, ZstdReader

from curation.addresses import endpoint_text
from curation.fetch import Fetched, Request
from curation.pages import Page
from curation.pair import canonical_url, port_of, secret_in_url
from curation.storage import open_input
from curation.transfer import COMPLETE
from policy.errors import InputError
from policy.evidence import Headers, Hop

MAX_HEADER_BYTES = 64 * 1024  # of a record, and of the HTTP response in it (as FetchConfig has it)
_RAW_BYTES = 16 * 1024  # fed to zlib at a time: what lies beyond a member's end is copied
_CHUNK_BYTES = 256 * 1024
_MAX_RESCANS = 16  # of one compressed member, each of which decodes it anew

# What a Damage may be.
DAMAGES = frozenset(
    {
        "cut",  # the file ends in the middle of a record
        "bad-compression",  # a gzip member or zstd frame cannot be decoded
        "bad-header",  # no record begins where one should, or its header cannot be used
        "bad-length",  # the record is longer or shorter than it says
        "bad-digest",  # the block is not what its own digest says
        "bad-json",  # a WAT record whose metadata cannot be read
        "too-large",  # a header or a WAT record over the limit
    }
)


class Place(NamedTuple):
    """Where reading can begin: the byte of the file, and bytes to pass over in what is decoded from there.

    `skip` is 0 but in archives whose compression does not begin anew with each record.
    """

    offset: int
    skip: int = 0


START = Place(0)


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of an archive that could not be read: which of `DAMAGES`, and where it begins."""

    where: str
    what: str
    offset: Place
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ArchivedPage:
    """An archived response. Reading can go on at `end_offset`.

    `fetched.body` is there where it is a page that can be read (outcome ok, HTML); `page` where the archive holds a
    page's metadata in its place (WAT).
    """

    fetched: Fetched
    offset: Place
    end_offset: Place
    page: Page | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A WARC record: its named fields by their names in lower case, and its block as far as it was kept."""

    kind: str
    fields: Mapping[str, str]
    block: bytes
    length: int
    offset: Place
    end_offset: Place

    @property
    def complete(self) -> bool:
        return len(self.block) == self.length


def read_warc(
    file: BinaryIO | str,
    *,
    max_page_bytes: int,
    start_offset: Place | int = START,
    counts: Counter[str] | None = None,
) -> Iterator[ArchivedPage | Damage]:
    """The responses of a WARC file (.warc, .warc.gz, .warc.zst; a seekable file, or a location as in curation.storage).

    A response becomes the `Fetched` that asking for the page would have given, redirects not followed: outcome,
    status, its headers as the only hop, WARC-Date as `started_at`, the body with its encodings undone and within
    `max_page_bytes`. What is no HTML comes without its body. A `resource` record was kept without its response: no
    hop, and so no headers observed.

    `counts` is kept up to date with every item: records by kind (response, revisit, request, ...), and of the
    responses those left out (not-http, bad-url, userinfo, signed-url), those that are no HTML (not-html), and damage
    (damaged).

    Raises InputError where the file is no WARC at all, or cannot be opened.
    """
    counts = Counter() if counts is None else counts
    keep = 2 * max_page_bytes + 2 * MAX_HEADER_BYTES  # chunked framing comes on top
    for found in read_records(file, {"response", "resource"}, keep, start_offset, counts):
        if isinstance(found, Damage):
            yield found
        elif isinstance(item := _page(found, max_page_bytes, name_of(file), counts), Damage):
            counts["damaged"] += 1
            yield item
        elif item is not None:
            yield item


def _page(record: Record, max_page_bytes: int, where: str, counts: Counter[str]) -> ArchivedPage | Damage | None:
    if (url := archived_url(record.fields.get("warc-target-uri", ""), counts)) is None:
        return None
    if (started_at := archived_date(record.fields.get("warc-date", ""))) is None:
        return Damage(where, "bad-header", record.offset, "WARC-Date")
    answer = _answer(record, max_page_bytes) if record.kind == "response" else _kept(record, max_page_bytes)
    if answer.outcome == "ok" and not answer.is_html:
        counts["not-html"] += 1
    fetched = Fetched(
        request=Request(url, "page"),
        outcome=answer.outcome,
        status=answer.status,
        hops=() if answer.status is None else (Hop(url, answer.status, answer.headers),),
        body=answer.body if answer.outcome == "ok" and answer.is_html else b"",
        final_url=url,
        address=address_of(record.fields.get("warc-ip-address", ""), url),
        detail=answer.detail,
        started_at=started_at,
    )
    return ArchivedPage(fetched, record.offset, record.end_offset)


def archived_url(target: str, counts: Counter[str]) -> str | None:
    """A record's target as a canonical URL; None, counted, where it is none that may be stored."""
    target = target.strip()
    if target.startswith("<") and target.endswith(">"):  # as WARC 1.0's grammar had it, and wget wrote it
        target = target[1:-1]
    if not target[:5].lower().startswith("http"):
        counts["not-http"] += 1
        return None
    try:
        url = canonical_url(target)
    except InputError:
        counts["bad-url"] += 1
        return None
    if (secret := secret_in_url(url)) is not None:
        counts[secret] += 1
        return None
    return url


def archived_date(text: str) -> datetime | None:
    """A WARC-Date (W3CDTF, UTC), its fraction to microseconds; None where it names no moment."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return datetime.fromisoformat(f"{match[1]}{(match[2] or '')[:7]}").replace(tzinfo=UTC)
    except ValueError:
        return None


_DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?Z")


def address_of(ip: str, url: str) -> str | None:
    """The "ip:port" that answered for a URL, where a record names it."""
    return endpoint_text(ip.strip(), port_of(url)) if ip.strip() else None


# ── the response in a record ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Answer:
    outcome: str
    status: int | None = None
    headers: Headers = ()
    body: bytes = b""
    detail: str = ""

    def last(self, name: str) -> str | None:
        return next((value for key, value in reversed(self.headers) if key.lower() == name), None)

    @property
    def is_html(self) -> bool:
        kind = self.last("content-type")
        return kind is None or "html" in kind.lower()


_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?:[ \t\r]|\Z)")


def _answer(record: Record, max_page_bytes: int) -> _Answer:
    """What the fetcher makes of the same bytes (curation.transfer), in its words."""
    head, body = _split(record.block)
    if head is None:
        return _Answer("too-large" if len(record.block) > MAX_HEADER_BYTES else "truncated", detail="headers")
    lines = head.split(b"\n")
    if (status := _STATUS_LINE.match(lines[0])) is None:
        return _Answer("bad-response", detail="not HTTP")
    answer = _Answer("ok", int(status[1]), _headers(lines[1:]))
    if answer.status not in COMPLETE:
        return _Answer(f"http-{answer.status}", answer.status, answer.headers)
    outcome, body, detail = "ok", b"", ""
    if record.fields.get("warc-truncated") or record.fields.get("warc-segment-number"):
        outcome, detail = "truncated", f"by the archive ({record.fields.get('warc-truncated') or 'segmented'})"
    elif not record.complete:
        outcome, detail = "too-large", "body"
    elif answer.is_html:
        outcome, body, detail = _decoded(answer, _split(record.block)[1], max_page_bytes)
    return _Answer(outcome, answer.status, answer.headers, body, detail)


def _kept(record: Record, max_page_bytes: int) -> _Answer:
    """A resource: a payload without the response it came in."""
    kind = record.fields.get("content-type")
    headers = () if kind is None else (("Content-Type", kind),)
    if not record.complete or record.length > max_page_bytes:
        return _Answer("too-large", None, headers, detail="body")
    if record.fields.get("warc-truncated") or record.fields.get("warc-segment-number"):
        return _Answer("truncated", None, headers, detail="by the archive")
    return _Answer("ok", None, headers, record.block, "a resource record: its headers were not kept")


def _split(block: bytes) -> tuple[bytes | None, bytes]:
    """An HTTP message's head (without its last line end) and its body; None where the head does not end in bounds."""
    for end in (b"\r\n\r\n", b"\n\n"):
        if (at := block.find(end, 0, MAX_HEADER_BYTES)) >= 0:
            return block[:at], block[at + len(end) :]
    return None, b""


def _headers(lines: list[bytes]) -> Headers:
    joined: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and joined:
            joined[-1] += b" " + line.strip()  # a folded line (RFC 9112, 5.2)
        elif b":" in line:
            joined.append(line.rstrip(b"\r"))
    split = (line.decode("latin-1").partition(":") for line in joined)
    return tuple((name.strip(), value.strip()) for name, _, value in split)


def _decoded(answer: _Answer, body: bytes, limit: int) -> tuple[str, bytes, str]:
    """(outcome, body, detail) of a body whose transfer and content encodings are undone, within `limit` bytes.

    Archives also store a body decoded and leave the header as it was: what does not decode and is markup stays.
    """
    codings = [*_codings(answer, "content-encoding"), *_codings(answer, "transfer-encoding")]
    if len(codings) > 4:
        return "bad-encoding", b"", ", ".join(codings)[:40]
    for coding in reversed(codings):
        if coding not in _DECODERS:
            return "bad-encoding", b"", coding[:40]
        try:
            body = _DECODERS[coding](body, limit + 1 if coding != "chunked" else len(body))
        except EOFError:
            return "truncated", b"", "encoded body ends early"
        except (ValueError, OSError, zlib.error) as error:
            if not body.lstrip().startswith(b"<"):
                return "bad-encoding", b"", str(error)[:80]
    declared = answer.last("content-length") or ""
    if not codings and declared.isdecimal() and int(declared[:20]) > len(body):
        return "truncated", b"", f"{len(body)} of {declared[:20]} bytes"
    return ("ok", body, "") if len(body) <= limit else ("too-large", b"", "body")


def _codings(answer: _Answer, name: str) -> list[str]:
    said = ",".join(value for key, value in answer.headers if key.lower() == name)
    return [word for part in said.split(",") if (word := part.strip().lower()) not in ("", "identity")]


def _inflated(data: bytes, limit: int, bits: int) -> bytes:
    inflate = zlib.decompressobj(bits)
    out = bytearray()
    while True:
        out += inflate.decompress(data, limit - len(out))
        if len(out) >= limit:
            return bytes(out)
        if not inflate.eof:
            raise EOFError
        data = inflate.unused_data
        if bits != 47 or data[:2] != b"\x1f\x8b":
            return bytes(out)  # rubbish after the end: what counts is there
        inflate = zlib.decompressobj(bits)


def _gunzipped(data: bytes, limit: int) -> bytes:
    if data[:2] != b"\x1f\x8b":
        raise ValueError("no gzip")
    return _inflated(data, limit, 47)


def _undeflated(data: bytes, limit: int) -> bytes:
    # "deflate" is zlib's format by the standard and raw in some servers; the first byte tells.
    return _inflated(data, limit, -15 if data[:1] and data[0] & 0x0F != 8 else 47)


def _unbrotlied(data: bytes, limit: int) -> bytes:
    return _read_up_to(BrotliReader(io.BytesIO(data)), limit)


def _unzstd(data: bytes, limit: int) -> bytes:
    return _read_up_to(ZstdReader(io.BytesIO(data)), limit)


def _read_up_to(reader: BrotliReader | ZstdReader, limit: int) -> bytes:
    out = bytearray()
    while len(out) < limit and (more := reader.read(min(_CHUNK_BYTES, limit - len(out)))):
        out += more
    return bytes(out)


_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")


def _unchunked(data: bytes, limit: int) -> bytes:
    """The body without its chunk framing (RFC 9112, 7.1); raises EOFError where the last chunk is missing."""
    parts: list[bytes] = []
    at = 0
    while (match := _CHUNK_SIZE.match(data, at)) is not None:
        size, at = int(match[1], 16), match.end()
        if size == 0:
            return b"".join(parts)
        parts.append(data[at : at + size])
        at += size
        at += 2 if data[at : at + 2] == b"\r\n" else 1
    if not parts:
        raise ValueError("no chunks")
    raise EOFError


_DECODERS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _undeflated,
    "br": _unbrotlied,
    "zstd": _unzstd,
    "chunked": _unchunked,
}


# ── records ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_records(
    file: BinaryIO | str, wanted: set[str], keep_bytes: int, start_offset: Place | int, counts: Counter[str]
) -> Iterator[Record | Damage]:
    """The records of the wanted kinds, at most `keep_bytes` of each block; every record is counted by its kind.

    Raises InputError where the file is no WARC, or cannot be opened.
    """
    place = start_offset if isinstance(start_offset, Place) else Place(start_offset)
    with open_input(file) if isinstance(file, str) else nullcontext(file) as opened_file:
        yield from _Archive(opened_file, name_of(file), wanted, keep_bytes, counts).records(place)


def name_of(file: BinaryIO | str) -> str:
    """What a file is called in messages."""
    return file if isinstance(file, str) else str(getattr(file, "name", "archive"))


class _BrokenError(Exception):
    """A record that cannot be read; `resume`: where in what was decoded another may begin (None: nowhere)."""

    def __init__(self, what: str, detail: str, resume: int | None = None) -> None:
        super().__init__(what)
        self.what, self.detail, self.resume = what, detail, resume


class _Archive:
    """A file of records, in stretches that decode by themselves: each gzip member, else the whole file."""

    def __init__(self, file: BinaryIO, where: str, wanted: set[str], keep_bytes: int, counts: Counter[str]) -> None:
        self.raw = _Raw(file, where)
        self.where, self.wanted, self.keep_bytes, self.counts = where, wanted, keep_bytes, counts
        head = self.raw.at(0).read(8)
        self.format = next((name for mark, name in _FORMATS if head.startswith(mark)), "")
        if not self.format:
            what = "no WARC file" if head else "an empty file"
            raise InputError(what, where=where, remedy="Expected is a .warc, .warc.gz or .warc.zst")

    def records(self, place: Place) -> Iterator[Record | Damage]:
        if self.format == "plain":
            place = Place(place.offset + place.skip)
        searching, rescans = False, 0
        while self.raw.at(place.offset).has_more():
            stretch = self._stretch(place)
            try:
                yield from self._records_of(stretch, place, searching)
            except _BrokenError as broken:
                following = self._after(broken, stretch, place) if rescans < _MAX_RESCANS else None
                yield self._damage(broken, stretch, place)
                if following is None:
                    return
                searching = self.format == "plain" or following.skip > 0
                rescans = rescans + 1 if following.skip else 0
                place = following
            else:
                if self.format != "gzip":
                    return
                place, searching, rescans = Place(self.raw.position), False, 0

    def _stretch(self, place: Place) -> _Stretch:
        match self.format:
            case "plain":
                return _Stretch(self.raw.read, place.offset, self.raw)
            case "zstd":
                return _Stretch(_Frames(self.raw).read)
            case _:
                return _Stretch(_Member(self.raw).read)

    def _records_of(self, stretch: _Stretch, place: Place, searching: bool) -> Iterator[Record | Damage]:
        stretch.read(place.skip, 0)
        while stretch.search() if searching else stretch.begin():
            stretch.record_at = stretch.position
            try:
                record = self._record(stretch, place)
            except _BrokenError as broken:
                if broken.resume is None or self._is_alone(stretch) or not stretch.rewind(broken.resume):
                    raise
                yield self._damage(broken, stretch, place)
                searching = True
                continue
            searching = False
            self.counts[record.kind if record.kind in _KINDS else "unknown"] += 1
            if record.kind in self.wanted:
                yield record

    def _record(self, stretch: _Stretch, place: Place) -> Record:
        head = stretch.header()
        kind, fields = _fields(head, stretch.position)
        length = int(fields["content-length"])
        block = stretch.read(length, self.keep_bytes if kind in self.wanted else 0)
        goes_on = stretch.begin()
        # A gzip member has a checksum of its own, and what is not wanted is not worth one.
        agrees = _agrees(block, fields) if self.format != "gzip" and len(block) == length else None
        if agrees is False:
            raise _BrokenError("bad-digest", fields["warc-block-digest"][:80], stretch.position)
        if goes_on and not stretch.starts_with(b"WARC/") and not (agrees or _agrees(block, fields)):
            raise _BrokenError("bad-length", f"goes on after {length} bytes", stretch.position)
        ended_member = self.format == "gzip" and not goes_on
        end = Place(self.raw.position) if ended_member else self._place(place, stretch.position)
        return Record(kind, fields, block, length, self._place(place, stretch.record_at), end)

    def _place(self, place: Place, position: int) -> Place:
        return Place(position) if self.format == "plain" else Place(place.offset, position)

    def _is_alone(self, stretch: _Stretch) -> bool:
        """Whether a gzip member need not be searched after damage: its first record is, as a rule, its only one.

        What looks like a record in there would be a page's own bytes.
        """
        return self.format == "gzip" and stretch.record_at == 0

    def _damage(self, broken: _BrokenError, stretch: _Stretch, place: Place) -> Damage:
        self.counts["damaged"] += 1
        return Damage(self.where, broken.what, self._place(place, stretch.record_at), broken.detail)

    def _after(self, broken: _BrokenError, stretch: _Stretch, place: Place) -> Place | None:
        """Where the next record may be, when the stretch could not be read on."""
        match self.format:
            case "plain":
                return Place(broken.resume if broken.resume is not None else stretch.record_at + 1)
            case "zstd":
                return None if broken.resume is None else Place(0, broken.resume)
        if broken.resume is not None and not self._is_alone(stretch):
            return Place(place.offset, broken.resume)
        if broken.resume is not None:
            try:
                stretch.drain()
            except _BrokenError:
                pass
            else:
                return Place(self.raw.position)
        return self._next_member(place.offset + 1)

    def _next_member(self, offset: int) -> Place | None:
        """The next gzip member in which a record begins."""
        kept = b""
        raw = self.raw.at(offset)
        while part := raw.read(_CHUNK_BYTES):
            searched, begins = kept + part, raw.position - len(kept) - len(part)
            for match in _GZIP_MAGIC.finditer(searched):
                if self._is_member(begins + match.start()):
                    return Place(begins + match.start())
            raw = self.raw.at(begins + len(searched))
            kept = searched[-2:]
        return None

    def _is_member(self, offset: int) -> bool:
        try:
            stretch = _Stretch(_Member(self.raw.at(offset)).read)
            return stretch.begin() and stretch.starts_with(b"WARC/")
        except _BrokenError:
            return False


_FORMATS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"WARC/", "plain"))
_GZIP_MAGIC = re.compile(rb"\x1f\x8b\x08")
_KINDS = frozenset({"warcinfo", "response", "resource", "request", "metadata", "revisit", "conversion", "continuation"})
_VERSION = re.compile(r"WARC/\d\.\d{1,3}\s*\Z")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_NEXT_RECORD = re.compile(rb"\nWARC/\d\.\d")
_LINE_ENDS = re.compile(rb"[\r\n]*")
_SINGLE = frozenset({"content-length", "warc-type", "warc-target-uri", "warc-date"})


def _fields(head: bytes, resume: int) -> tuple[str, dict[str, str]]:
    """A record's kind, and its named fields by their names in lower case."""
    version, *lines = head.decode("utf-8", "replace").split("\n")
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t") and name:
            fields[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or (fields.setdefault(name, value) != value and name in _SINGLE):
            raise _BrokenError("bad-header", line.strip()[:80], resume)
    length = fields.get("content-length", "")
    if not (_VERSION.match(version) and "warc-type" in fields and length.isascii() and length.isdigit()):
        raise _BrokenError("bad-header", f"{version.strip()[:20]}, Content-Length {length[:20]!r}", resume)
    if len(length) > 18:
        raise _BrokenError("bad-length", length[:40], resume)
    return fields["warc-type"].lower(), fields


def _agrees(block: bytes, fields: Mapping[str, str]) -> bool | None:
    """Whether a block is what its digest says (sha1 or sha256, in base 32 or hex); None where it says nothing."""
    algorithm, _, said = fields.get("warc-block-digest", "").partition(":")
    if algorithm.lower() not in ("sha1", "sha256"):
        return None
    digest = hashlib.new(algorithm.lower(), block, usedforsecurity=False).digest()
    return said.strip().lower().rstrip("=") in (digest.hex(), base64.b32encode(digest).decode().lower().rstrip("="))


class _Raw:
    """The file's own bytes, read ahead."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.where = file, where
        self.buffer, self.start, self.next = b"", 0, 0
        try:
            self.size = file.seek(0, io.SEEK_END)
        except OSError as error:
            raise InputError("cannot be read at any place (a pipe?)", where=where) from error

    @property
    def position(self) -> int:
        return self.start + self.next

    def at(self, offset: int) -> _Raw:
        if not self.start <= offset <= self.start + len(self.buffer):
            self.buffer, self.start = b"", offset
        self.next = offset - self.start
        return self

    def has_more(self) -> bool:
        return self.position < self.size

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        if self.next == len(self.buffer):
            self.start, self.next = self.position, 0
            try:
                self.file.seek(self.start)
                self.buffer = self.file.read(_CHUNK_BYTES)
            except OSError as error:
                raise InputError(f"cannot be read from byte {self.start} on: {error}", where=self.where) from error
        part = self.buffer[self.next : self.next + size]
        self.next += len(part)
        return part

    def give_back(self, size: int) -> None:
        self.next -= size


class _Member:
    """What a gzip member decodes to, piece by piece; afterwards the file is read on behind it."""

    def __init__(self, raw: _Raw) -> None:
        self.raw = raw
        self.inflate = zlib.decompressobj(31)

    def read(self) -> bytes:
        inflate = self.inflate
        while not inflate.eof:
            data = inflate.unconsumed_tail or self.raw.read(_RAW_BYTES)
            try:
                out = inflate.decompress(data, _CHUNK_BYTES)
            except zlib.error as error:
                raise _BrokenError("bad-compression", str(error)[:80]) from error
            if inflate.eof:
                self.raw.give_back(len(inflate.unused_data))
            elif not data and not out:
                raise _BrokenError("cut", "the file ends in the middle of a gzip member")
            if out:
                return out
        return b""


class _Frames:
    """What a zstd file decodes to."""

    def __init__(self, raw: _Raw) -> None:
        raw.file.seek(0)
        self.reader = ZstdReader(raw.file)

    def read(self) -> bytes:
        try:
            return bytes(self.reader.read(_RAW_BYTES))  # of a cut frame, what a call has begun is lost
        except OSError as error:
            raise _BrokenError("bad-compression", str(error)[:80]) from error


class _Stretch:
    """Decoded bytes and a position in them; of what lies behind it, only a little is kept."""

    def __init__(self, pull: Callable[[], bytes], base: int = 0, raw: _Raw | None = None) -> None:
        self.pull, self.base, self.raw = pull, base, raw
        self.buffer, self.at = b"", 0
        self.record_at = base

    @property
    def position(self) -> int:
        return self.base + self.at

    def more(self) -> bool:
        chunk = self.pull()
        if chunk:
            self.base, self.buffer, self.at = self.position, self.buffer[self.at :] + chunk, 0
        return bool(chunk)

    def begin(self) -> bool:
        """Pass over line ends; False at the end."""
        while True:
            match = _LINE_ENDS.match(self.buffer, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.buffer):
                return True
            if not self.more():
                return False

    def search(self) -> bool:
        """Go to the next line that a record could begin with; False where there is none."""
        if self.starts_with(b"WARC/"):
            return True
        while True:
            if match := _NEXT_RECORD.search(self.buffer, self.at):
                self.at = match.start() + 1
                return True
            self.at = max(self.at, len(self.buffer) - 8)
            if not self.more():
                return False

    def drain(self) -> None:
        self.buffer, self.at = b"", 0
        while self.pull():
            pass

    def starts_with(self, mark: bytes) -> bool:
        while len(self.buffer) - self.at < len(mark) and self.more():
            pass
        return self.buffer.startswith(mark, self.at)

    def header(self) -> bytes:
        if not self.starts_with(b"WARC/"):
            raise _BrokenError("bad-header", "no record begins here", self.position)
        while (match := _HEADER_END.search(self.buffer, self.at, self.at + MAX_HEADER_BYTES)) is None:
            if len(self.buffer) - self.at >= MAX_HEADER_BYTES:
                raise _BrokenError("too-large", "header", self.position + 1)
            if not self.more():
                raise _BrokenError("cut", "in a record's header", self.position + 1)
        head = self.buffer[self.at : match.start()]
        self.at = match.end()
        return head

    def read(self, size: int, keep: int) -> bytes:
        """Pass over `size` bytes; the first `keep` of them."""
        begins, left, kept = self.position, size, bytearray()
        while left:
            if self.at == len(self.buffer):
                if self.raw is not None and len(kept) >= keep and begins + size <= self.raw.size:
                    self.base, self.buffer, self.at = begins + size, b"", 0
                    self.raw.at(self.base)
                    break
                if not self.more():
                    raise _BrokenError("cut" if self.raw else "bad-length", f"{size - left} of {size} bytes", begins)
            taken = min(left, len(self.buffer) - self.at)
            kept += self.buffer[self.at : self.at + min(taken, keep - len(kept))]
            self.at += taken
            left -= taken
        return bytes(kept)

    def rewind(self, position: int) -> bool:
        """Go back, or forth, within what is still here."""
        here = self.base <= position <= self.base + len(self.buffer)
        if here:
            self.at = position - self.base
        return here
