"""Where image files keep metadata: JPEG, PNG, WebP, TIFF, GIF, AVIF/HEIF, JPEG XL, and EXIF and Photoshop inside them.

`parts(body)` yields what is there as bytes, and as `Damage` what is there and cannot be had, with the bytes around it.
Nothing is decoded, pixels are jumped over, every loop and every inflation is bounded, and nothing is raised, whatever
the bytes are.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

MAX_PART_BYTES: Final = 4 << 20

_MAX_BLOCKS = 200_000
_MAX_SUB_BLOCKS = 1_000_000
_MAX_SEGMENTS = 5_000
_MAX_DIRECTORIES = 64
_MAX_ENTRIES = 20_000
_MAX_BOXES = 10_000
_MAX_ITEMS = 2_000
_MAX_PIECES = 64  # of metadata that may share their bytes
_OVERLAP = 64  # what stands around the point of damage may have been cut there


class Part(NamedTuple):
    """A piece of metadata. `kind`: xmp | extended (of an XMP packet, `name` its GUID) | iptc | text (`name` its field).

    `where` names the place in the file for a reader.
    """

    kind: str
    where: str
    data: bytes | memoryview
    name: str = ""


class Damage(NamedTuple):
    """Metadata that cannot be had, or a file that is not what its format says; `around`: the bytes that may hold it."""

    what: str
    around: tuple[bytes | memoryview, ...]


Found: TypeAlias = Iterator[Part | Damage]


def parts(body: bytes) -> tuple[str, Found]:
    """The media type of an image, told by its bytes ("" unknown), and its pieces of metadata."""
    view = memoryview(body)
    for magic, media_type, read in _CONTAINERS:
        if magic.match(body):
            return media_type, read(body, view)
    if body[4:8] == b"ftyp":
        brand = body[8:12].decode("latin-1")
        return _BRANDS.get(brand, "image/heif"), _boxes_of(view)
    return "", iter((Damage("a format whose metadata is not known here" if body else "an empty file", (view,)),))


# ── JPEG ───────────────────────────────────────────────────────────────────────────────────────────────────────────
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_EXIF = b"Exif\0"
_PHOTOSHOP = (b"Photoshop 3.0\0", b"Adobe_Photoshop2.5:")
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def _jpeg(body: bytes, view: memoryview) -> Found:
    """The segments before the picture's data (ITU T.81 annex B), and XMP of pictures that stand behind the first."""
    photoshop: list[memoryview] = []
    extended: dict[str, list[memoryview]] = {}
    at, data_at, stray = 2, len(body), False
    for _ in range(_MAX_SEGMENTS):
        if at + 4 > len(body):
            yield Damage("the JPEG ends before its picture", (view[max(0, at - _OVERLAP) :],))
            break
        code = body[at + 1] if body[at] == 0xFF else 0
        if code == 0:
            if not stray:
                yield Damage(f"stray bytes at {at} of the JPEG", (view[max(0, at - _OVERLAP) :],))
            stray = True
            at = body.find(b"\xff", at + 1)
            at = at if at >= 0 else len(body)
        elif code == 0xFF:
            at = _end_of_fill(body, at) - 1
        elif code in _ALONE:
            at += 2
        else:
            if code in (0xDA, 0xD9):
                data_at = at
                break
            length = int.from_bytes(body[at + 2 : at + 4], "big")
            end = at + 2 + length
            if length < 2 or end > len(body):
                if not stray:
                    yield Damage(f"a segment at {at} of the JPEG is cut off", (view[max(0, at - _OVERLAP) :],))
                end, stray = at + 2, True  # perhaps only its length is wrong
            elif code == 0xE1:
                yield from _app1(body, view, at + 4, end, extended)
            elif code == 0xED:
                mark = next((m for m in _PHOTOSHOP if body.startswith(m, at + 4)), None)
                if mark is not None:
                    photoshop.append(view[at + 4 + len(mark) : end])
            at = end
    else:
        yield Damage("more segments than are read in the JPEG", (view[at:],))
    yield from _behind_the_picture(body, view, data_at, extended)
    for guid, pieces in extended.items():
        yield _assembled(guid, pieces)
    if sum(map(len, photoshop)) > 2 * MAX_PART_BYTES:
        yield Damage("more Photoshop resources than are read in the JPEG", tuple(photoshop))
    elif photoshop:
        yield from _photoshop(memoryview(b"".join(photoshop)), "JPEG APP13")
    if data_at < len(body) and body.rfind(b"\xff\xd9", data_at) < 0:
        yield Damage("the JPEG's picture does not end", ())


def _end_of_fill(body: bytes, at: int) -> int:
    fill = _FILL.match(body, at)
    return fill.end() if fill is not None else at + 1


_FILL = re.compile(rb"\xff+")


def _app1(body: bytes, view: memoryview, start: int, end: int, extended: dict[str, list[memoryview]]) -> Found:
    if body.startswith(_XMP, start):
        yield Part("xmp", "JPEG APP1", view[start + len(_XMP) : end])
    elif body.startswith(_EXIF, start):
        yield from _tiff(body[start + 6 : end], "JPEG APP1")
    elif body.startswith(_EXTENDED, start):
        piece = view[start + len(_EXTENDED) : end]
        guid = bytes(piece[:32]).decode("latin-1").upper()
        extended.setdefault(guid, []).append(piece)


def _behind_the_picture(body: bytes, view: memoryview, at: int, extended: dict[str, list[memoryview]]) -> Found:
    """XMP segments between scans, and those of further pictures in the file (gain maps, previews)."""
    for _ in range(_MAX_SEGMENTS):
        at = body.find(b"http://ns.adobe.com/x", at)
        if at < 0:
            return
        if body[at - 4 : at - 2] == b"\xff\xe1":
            end = at - 2 + int.from_bytes(body[at - 2 : at], "big")
            if end <= len(body):
                yield from _app1(body, view, at, end, extended)
            else:
                yield Damage(f"a segment at {at - 4} of the JPEG is cut off", (view[at:],))
                return
        at += 1
    yield Damage("more segments than are read in the JPEG", (view[at:],))


def _assembled(guid: str, pieces: list[memoryview]) -> Part | Damage:
    """An ExtendedXMP packet (XMP part 3, 1.1.3.1) from its segments: GUID, full length, offset, a stretch of it."""
    sizes, stretches = set[int](), dict[int, memoryview]()
    for piece in pieces:
        if len(piece) < 40:
            return Damage("JPEG extended XMP that is cut off", tuple(pieces))
        full, offset = struct.unpack_from(">II", piece, 32)
        sizes.add(full)
        stretches[offset] = piece[40:]
    ordered = [stretches[offset] for offset in sorted(stretches)]
    at = 0
    for offset in sorted(stretches):
        if offset != at:
            break
        at += len(stretches[offset])
    if sizes != {at} or at > MAX_PART_BYTES:
        return Damage("JPEG extended XMP that is not complete", tuple(ordered))
    return Part("extended", "JPEG APP1, extended XMP", b"".join(ordered), guid)


# ── PNG ────────────────────────────────────────────────────────────────────────────────────────────────────────────
_TEXT_FIELDS: Mapping[bytes, str] = {b"copyright": "png:Copyright", b"author": "png:Author"}


def _png(body: bytes, view: memoryview) -> Found:
    """The chunks (PNG 3rd edition, 5): every one but pixels is checked by its CRC."""
    at, inflater = 8, _Inflater()
    for _ in range(_MAX_BLOCKS):
        if at + 12 > len(body):
            yield Damage("the PNG ends before its last chunk", (view[max(0, at - _OVERLAP) :],))
            return
        length, kind = int.from_bytes(body[at : at + 4], "big"), body[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(body) or not kind.isalpha():
            yield Damage(f"the chunk at {at} of the PNG is broken or cut off", (view[max(0, at - _OVERLAP) :],))
            return
        if kind != b"IDAT" and kind != b"fdAT":
            chunk = view[at + 8 : end - 4]
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                yield Damage(f"the chunk at {at} of the PNG was altered", (chunk,))
            if kind in (b"iTXt", b"tEXt", b"zTXt"):
                yield from _png_text(kind.decode(), chunk, inflater)
            elif kind == b"eXIf":
                yield from _tiff(_exif(chunk), "PNG eXIf")
            elif kind == b"IEND":
                return
        at = end
    yield Damage("more chunks than are read in the PNG", (view[at:],))


def _png_text(kind: str, chunk: memoryview, inflater: _Inflater) -> Found:
    keyword, nul, _ = bytes(chunk[:80]).partition(b"\0")
    name = keyword.strip().lower()
    wanted = name == b"xml:com.adobe.xmp" or name.startswith(b"raw profile type ") or name in _TEXT_FIELDS
    if not wanted:
        return
    where = f"PNG {kind}"
    rest = chunk[len(keyword) + len(nul) :]
    compressed = kind == "zTXt"
    if kind == "iTXt":
        compressed, rest = bytes(rest[:1]) == b"\1", rest[2:]
        for _ in range(2):  # language, translated keyword
            end = bytes(rest[:1000]).find(b"\0")
            if end < 0:
                yield Damage(f"{where} without its text", (chunk,))
                return
            rest = rest[end + 1 :]
    elif compressed:
        rest = rest[1:]
    text: bytes | memoryview = rest
    if compressed:
        text, error = inflater.inflate(rest)
        if error:
            yield Damage(f"{where}: {error}", (text,))
    if name in _TEXT_FIELDS:
        yield Part("text", where, text, _TEXT_FIELDS[name])
    elif name == b"xml:com.adobe.xmp":
        yield Part("xmp", where, text)
    else:
        yield from _raw_profile(name.removeprefix(b"raw profile type "), bytes(text[: 2 * MAX_PART_BYTES + 100]), where)


class _Inflater:
    """Inflates the compressed parts of one file, all together to a few times MAX_PART_BYTES at most."""

    def __init__(self) -> None:
        self._left = 4 * MAX_PART_BYTES

    def inflate(self, data: bytes | memoryview) -> tuple[bytes, str]:
        """What zlib or gzip data hold, at most MAX_PART_BYTES, and what is wrong with it ("" nothing)."""
        if self._left <= 0:
            return b"", "more compressed data than are read"
        unpack, out, size, error = zlib.decompressobj(wbits=47), list[bytes](), 0, ""
        try:
            # In steps: of data that are damaged somewhere, what stands before it is text.
            for at in range(0, len(data), _INFLATE_STEP):
                out.append(unpack.decompress(data[at : at + _INFLATE_STEP], MAX_PART_BYTES + 1 - size))
                size += len(out[-1])
                if size > MAX_PART_BYTES:
                    error = "compressed data that are longer than what is read"
                    break
                if unpack.eof:
                    break
        except zlib.error:
            error = "compressed data that are damaged"
        self._left -= max(size, min(len(data), MAX_PART_BYTES) // 4)
        return b"".join(out)[:MAX_PART_BYTES], error or ("" if unpack.eof else "compressed data that are cut off")


_INFLATE_STEP = 256


def _raw_profile(kind: bytes, text: bytes, where: str) -> Found:
    """ImageMagick's way to put any profile into PNG text: its name, its length and its bytes in hex."""
    where = f"{where}, raw profile {kind.decode('latin-1')}"
    words = text.split(None, 2)
    try:
        data = bytes.fromhex(words[2].decode("ascii"))
        complete = len(data) == int(words[1])
    except (IndexError, ValueError):
        data, complete = b"", False
    if not complete:
        yield Damage(f"{where} that cannot be read", (text, data))
    if not data:
        return
    if kind == b"xmp" or data.startswith(_XMP):
        yield Part("xmp", where, data.removeprefix(_XMP))
    elif kind in (b"exif", b"app1"):
        yield from _tiff(data.removeprefix(b"Exif\0\0"), where)
    elif kind == b"iptc" and data.startswith((b"8BIM", *_PHOTOSHOP)):
        yield from _photoshop(memoryview(data.removeprefix(_PHOTOSHOP[0])), where)
    elif kind == b"iptc":
        yield Part("iptc", where, data)


# ── WebP ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _webp(body: bytes, view: memoryview) -> Found:
    """The chunks of a RIFF file (RFC 9649); those that the VP8X header declares must be there."""
    size = 8 + int.from_bytes(body[4:8], "little")
    declared, seen, at = 0, 0, 12
    for _ in range(_MAX_BLOCKS):
        if at + 8 > len(body):
            break
        kind, length = body[at : at + 4], int.from_bytes(body[at + 4 : at + 8], "little")
        end = at + 8 + length
        if end > len(body) or not kind.strip(b" \0").isalnum():
            if at >= size:  # something else behind the file's end
                break
            yield Damage(f"the chunk at {at} of the WebP is broken or cut off", (view[max(0, at - _OVERLAP) :],))
            return
        chunk = view[at + 8 : end]
        if kind == b"VP8X" and length:
            declared = chunk[0]
        elif kind in (b"XMP ", b"XMP\0"):
            seen |= _WEBP_XMP
            yield Part("xmp", "WebP XMP chunk", chunk)
        elif kind == b"EXIF":
            seen |= _WEBP_EXIF
            yield from _tiff(_exif(chunk), "WebP EXIF chunk")
        at = end + (length & 1)
    else:
        yield Damage("more chunks than are read in the WebP", (view[at:],))
    if size > len(body) + 1:
        yield Damage("the WebP is cut off", (view[min(at, len(body)) :],))
    for flag, name in ((_WEBP_XMP, "XMP"), (_WEBP_EXIF, "EXIF")):
        if declared & ~seen & flag:
            yield Damage(f"the WebP declares {name} and has none", (view,))


_WEBP_XMP, _WEBP_EXIF = 0x04, 0x08


# ── GIF ────────────────────────────────────────────────────────────────────────────────────────────────────────────
_MAGIC_TRAILER = b"\1" + bytes(range(255, -1, -1)) + b"\0"


def _gif(body: bytes, view: memoryview) -> Found:
    """The blocks (GIF89a); XMP stands in an application extension, as it is, before a trailer that ends it."""
    at, allowed = 13 + _colours(body, 10), iter(range(_MAX_SUB_BLOCKS))
    for _ in range(_MAX_BLOCKS):
        kind = body[at : at + 1]
        if kind == b";":
            return
        if kind == b"!":
            start = at + 2
            end = _end_of_blocks(body, start, allowed)
            if end > 0 and body.startswith(b"\x0bXMP DataXMP", start):
                yield _gif_xmp(view[start + 12 : end])
        elif kind == b",":
            end = _end_of_blocks(body, at + 11 + _colours(body, at + 9), allowed)
        else:
            end = 0
        if not end:
            yield Damage(f"the block at {at} of the GIF is broken or cut off", (view[max(0, at - _OVERLAP) :],))
            return
        at = end
    yield Damage("more blocks than are read in the GIF", (view[at:],))


def _colours(body: bytes, at: int) -> int:
    """The bytes of a colour table, from the flags at `at`."""
    flags = body[at] if at < len(body) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(body: bytes, at: int, allowed: Iterator[int]) -> int:
    """Where a run of sub-blocks ends; 0 where the file does before it, or `allowed` has come to its end."""
    size = len(body)
    for _ in allowed:
        if at >= size:
            return 0
        if body[at] == 0:
            return at + 1
        at += 1 + body[at]
    return 0


def _gif_xmp(data: memoryview) -> Part | Damage:
    where = "GIF application extension"
    if bytes(data[-len(_MAGIC_TRAILER) :]) == _MAGIC_TRAILER:
        return Part("xmp", where, data[: -len(_MAGIC_TRAILER)])
    packet, at = bytearray(), 0  # some write it in sub-blocks like everything else
    while at < len(data) and data[at] and len(packet) <= MAX_PART_BYTES:
        packet += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    if packet.lstrip().startswith(b"<"):
        return Part("xmp", where, bytes(packet))
    return Damage(f"{where} with XMP that does not end", (data,))


# ── TIFF, and EXIF, which is one ───────────────────────────────────────────────────────────────────────────────────
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8, 129: 1}
_TAGS: Mapping[int, str] = {
    700: "xmp",
    33723: "iptc",
    34377: "photoshop",
    33432: "exif:Copyright",
    315: "exif:Artist",
    330: "directories",
}


class _Layout(NamedTuple):
    """How a TIFF writes: the count of a directory's entries, an entry (tag, type, count), a value or its offset."""

    number: struct.Struct
    entry: struct.Struct
    offset: struct.Struct
    order: str


def _tiff_file(body: bytes, view: memoryview) -> Found:
    return _tiff(body, "TIFF", whole=True)


def _exif(block: memoryview) -> bytes:
    return bytes(block[: 2 * MAX_PART_BYTES]).removeprefix(b"Exif\0\0")


def _tiff(data: bytes, where: str, *, whole: bool = False) -> Found:
    """The rights tags of the directories of a TIFF (6.0, BigTIFF) file, or of the first one of an EXIF block."""
    view = memoryview(data)
    if not whole:
        where = f"EXIF, {where}"
    header = _tiff_header(data)
    if header is None or header[1] < 8:
        yield Damage(f"{where}: no TIFF header", (view,))
        return
    layout, first = header
    waiting, seen, entries, pieces = [first], set[int](), 0, set[tuple[int, int]]()
    while waiting:
        at = waiting.pop(0)
        if at == 0 or at in seen:
            continue
        seen.add(at)
        try:
            (count,) = layout.number.unpack_from(data, at)
            at += layout.number.size
            entries += count
            if max(entries / _MAX_ENTRIES, len(seen) / _MAX_DIRECTORIES, len(pieces) / _MAX_PIECES) > 1:
                yield Damage(f"{where}: more entries than are read", (view,))
                return
            for _ in range(count):
                tag, kind, values = layout.entry.unpack_from(data, at)
                if tag in _TAGS:
                    value = _value(data, layout, kind, values, at + layout.entry.size)
                    if value is None:
                        yield Damage(f"{where}: tag {tag} lies outside", (view,))
                        return
                    if tag == 330:
                        offsets = struct.iter_unpack(_offset_of(layout, kind), value[: 8 * _MAX_DIRECTORIES])
                        waiting += [int(o) for (o,) in offsets] if whole else []
                    elif len(pieces) <= _MAX_PIECES:
                        pieces.add((tag, at))
                        yield from _tag(_TAGS[tag], value, where)
                at += layout.entry.size + layout.offset.size
            if whole:
                waiting += layout.offset.unpack_from(data, at)
        except (struct.error, OverflowError):
            yield Damage(f"{where}: a directory that is cut off", (view,))
            return


def _tiff_header(data: bytes) -> tuple[_Layout, int] | None:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    version = struct.unpack_from(order + "H", data, 2)[0]
    if version == 43 and len(data) >= 16:
        big = _Layout(struct.Struct(order + "Q"), struct.Struct(order + "HHQ"), struct.Struct(order + "Q"), order)
        return big, struct.unpack_from(order + "Q", data, 8)[0]
    if version not in (42, 85):  # 85: Panasonic's raw files
        return None
    classic = _Layout(struct.Struct(order + "H"), struct.Struct(order + "HHL"), struct.Struct(order + "L"), order)
    return classic, struct.unpack_from(order + "L", data, 4)[0]


def _value(data: bytes, layout: _Layout, kind: int, count: int, at: int) -> memoryview | None:
    """The bytes of a tag's value, None where they lie outside of the file."""
    size = _SIZES.get(kind, 0) * count
    if size > layout.offset.size:
        at = layout.offset.unpack_from(data, at)[0]
    if kind not in _SIZES or at + size > len(data):
        return None
    return memoryview(data)[at : at + size]


def _offset_of(layout: _Layout, kind: int) -> str:
    return layout.order + {8: "Q", 4: "L", 2: "H", 1: "B"}[_SIZES[kind]]


def _tag(name: str, value: memoryview, where: str) -> Found:
    match name:
        case "xmp" | "iptc":
            yield Part(name, where, value)
        case "photoshop":
            yield from _photoshop(value, where)
        case _:
            yield Part("text", where, value, name)


# ── Photoshop's resource blocks ────────────────────────────────────────────────────────────────────────────────────
def _photoshop(data: memoryview, where: str) -> Found:
    """Image resource blocks (Adobe Photoshop file formats): IPTC in 0x0404, XMP in 0x0424."""
    where, at = f"{where}, Photoshop resources", 0
    for _ in range(_MAX_SEGMENTS):
        if at + 12 > len(data):
            break
        name_size = 1 + data[at + 6]
        size_at = at + 6 + name_size + (name_size & 1)
        start = size_at + 4
        size = int.from_bytes(data[size_at:start], "big")
        if bytes(data[at : at + 4]) not in _RESOURCES or start + size > len(data):
            break
        resource = int.from_bytes(data[at + 4 : at + 6], "big")
        if resource == 0x0404:
            yield Part("iptc", where, data[start : start + size])
        elif resource == 0x0424:
            yield Part("xmp", where, data[start : start + size])
        at = start + size + (size & 1)
    if len(data) - at > _MAX_PADDING or bytes(data[at:]).strip(b"\0"):
        yield Damage(f"{where} that are damaged", (data[at:],))


_MAX_PADDING = 64 << 10
_RESOURCES = (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR")


# ── AVIF, HEIF, JPEG XL, JPEG 2000 ─────────────────────────────────────────────────────────────────────────────────
_XMP_UUID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_BRANDS = {"avif": "image/avif", "avis": "image/avif", "heic": "image/heic", "heix": "image/heic", "jxl ": "image/jxl"}
_OUTER = (b"moov", b"trak", b"udta")  # of an image sequence
_PICTURES = {"ISO media": (b"meta", b"moov"), "JPEG XL": (b"jxlc", b"jxlp"), "JPEG 2000": (b"jp2c",)}


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def _boxes_of(view: memoryview, media: str = "ISO media") -> Found:
    """The boxes of an ISO base media file (ISO/IEC 14496-12), the items of its meta box, XMP in a uuid box."""
    waiting, metas, inflater, has_picture = [(0, len(view))], 0, _Inflater(), False
    for _ in range(_MAX_DIRECTORIES):
        if not waiting:
            break
        start, end = waiting.pop(0)
        for box in _boxes(view, start, end):
            inside = view[box.start : box.end]
            has_picture |= box.kind in _PICTURES[media]
            if box.kind == b"meta":
                metas += 1
                if metas <= _MAX_DIRECTORIES:
                    yield from _meta(view, box, inflater)
            elif box.kind == b"uuid" and bytes(inside[:16]) == _XMP_UUID:
                yield Part("xmp", f"{media} uuid box", inside[16:])
            elif box.kind == b"XMP_" or (box.kind == b"xml " and media == "JPEG XL"):
                yield Part("xmp", f"{media} XMP box", inside)
            elif box.kind == b"Exif":
                yield from _exif_item(inside, f"{media} Exif box")
            elif box.kind == b"brob" and bytes(inside[:4]).lower() in (b"xml ", b"exif"):
                yield Damage(f"{media}: metadata compressed with Brotli", (inside,))
            elif box.kind in _OUTER:
                waiting.append((box.start, box.end))
            elif not box.kind:
                yield Damage(f"a box at {box.start} of the file is broken or cut off", (view[start:],))
    if not has_picture:
        yield Damage("the file ends before its picture", (view,))
    if waiting or metas > _MAX_DIRECTORIES:
        yield Damage("more boxes than are read", (view,))


def _jxl(body: bytes, view: memoryview) -> Found:
    return _boxes_of(view, "JPEG XL")


def _jp2(body: bytes, view: memoryview) -> Found:
    return _boxes_of(view, "JPEG 2000")


def _no_metadata(body: bytes, view: memoryview) -> Found:
    return iter(())


def _boxes(view: memoryview, at: int, end: int) -> Iterator[_Box]:
    """The boxes between two places; one without a kind where they are broken, and then no more."""
    for _ in range(_MAX_BOXES):
        if at >= end:
            return
        size, kind, start = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8]), at + 8
        if size == 1:
            size, start = int.from_bytes(view[at + 8 : at + 16], "big"), at + 16
        elif size == 0:
            size = end - at
        if at + size > end or start > at + size:
            break
        yield _Box(kind, start, at + size)
        at += size
    yield _Box(b"", at, at)


class _Item(NamedTuple):
    kind: bytes
    content_type: str
    encoding: str
    protected: bool


class _Extent(NamedTuple):
    method: int
    offset: int
    length: int


def _meta(view: memoryview, box: _Box, inflater: _Inflater) -> Found:
    """The metadata items of a meta box (HEIF, ISO/IEC 23008-12): what iinf names, where iloc says it lies."""
    inner = {b.kind: b for b in _boxes(view, box.start + 4, box.end)}
    if b"" in inner or not {b"iinf", b"iloc"} <= inner.keys():
        if b"" in inner or b"iinf" in inner:
            yield Damage("the meta box is damaged", (view,))
        return
    try:
        items, places = dict(_items(view, inner[b"iinf"])), dict(_locations(view, inner[b"iloc"]))
    except (struct.error, ValueError) as broken:
        yield Damage(f"the meta box is damaged: {broken}", (view,))
        return
    wanted = [(number, i) for number, i in items.items() if i.kind == b"Exif" or "rdf+xml" in i.content_type]
    if len(wanted) > _MAX_PIECES:
        yield Damage("more items of metadata than are read", (view,))
    for number, item in wanted[:_MAX_PIECES]:
        where = f"{'Exif' if item.kind == b'Exif' else 'XMP'} item {number}"
        data, error = _extents(view, places.get(number, []), inner.get(b"idat")), ""
        if data is None or item.protected or item.encoding not in ("", "identity", "deflate", "gzip"):
            yield Damage(f"{where} cannot be read", (view,))
            continue
        if item.encoding in ("deflate", "gzip"):
            data, error = inflater.inflate(data)
        if error:
            yield Damage(f"{where}: {error}", (data,))
        if item.kind == b"Exif":
            yield from _exif_item(memoryview(data), where)
        else:
            yield Part("xmp", where, data)


def _items(view: memoryview, box: _Box) -> Iterator[tuple[int, _Item]]:
    """(item id, item) of every infe box; raises ValueError where the box is not what it says."""
    version = view[box.start] if box.end > box.start else 0
    at = box.start + (6 if version == 0 else 8)
    for number, entry in enumerate(_boxes(view, at, box.end)):
        if entry.kind != b"infe" or number > _MAX_ITEMS:
            raise ValueError("its list of items")
        data = bytes(view[entry.start : min(entry.end, entry.start + 4_000)])
        if len(data) < 8:
            raise ValueError("its list of items")
        if data[0] < 2:
            item_id, protection = struct.unpack_from(">HH", data, 4)
            _, content_type, encoding = _strings(data[8:])
            yield item_id, _Item(b"mime", content_type, encoding, protection != 0)
            continue
        item_id, protection, kind = struct.unpack_from(">HH4s" if data[0] == 2 else ">IH4s", data, 4)
        _, content_type, encoding = _strings(data[12 if data[0] == 2 else 14 :])
        is_mime = kind == b"mime"
        yield item_id, _Item(kind, content_type if is_mime else "", encoding if is_mime else "", protection != 0)


def _strings(data: bytes) -> tuple[str, str, str]:
    """Item name, content type, content encoding."""
    words = [word.decode("latin-1").strip().lower() for word in data.split(b"\0")[:3]]
    name, content_type, encoding = (*words, "", "", "")[:3]
    return name, content_type, encoding


def _locations(view: memoryview, box: _Box) -> Iterator[tuple[int, list[_Extent]]]:
    """(item id, extents) of the iloc box; raises struct.error, ValueError where it is not what it says."""
    data = bytes(view[box.start : min(box.end, box.start + (1 << 20))])
    version, sizes = data[0] if data else 9, data[4:6]
    if version > 2 or len(sizes) < 2:
        raise ValueError("its list of places")
    numbers = _Numbers(data, 6)
    widths = (sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4, sizes[1] & 15 if version else 0)
    if not set(widths) <= {0, 4, 8}:
        raise ValueError("its list of places")
    offset_size, length_size, base_size, index_size = widths
    wide = 4 if version == 2 else 2
    left = _MAX_ENTRIES
    for _ in range(numbers.take(wide)):
        item_id = numbers.take(wide)
        method = numbers.take(2) & 15 if version else 0
        numbers.take(2)  # which file
        base = numbers.take(base_size)
        extents, count = list[_Extent](), numbers.take(2)
        left -= 1 + count
        if left < 0:
            raise ValueError("more places than are read")
        for _ in range(count):
            numbers.take(index_size)
            offset = numbers.take(offset_size)
            extents.append(_Extent(method, base + offset, numbers.take(length_size)))
        yield item_id, extents


class _Numbers:
    """Big-endian numbers one after the other; raises ValueError behind the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def take(self, size: int) -> int:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise ValueError("its list of places")
        self._at += size
        return int.from_bytes(piece, "big")


def _extents(view: memoryview, extents: list[_Extent], idat: _Box | None) -> bytes | None:
    """The bytes of an item; None where some are missing, or too many."""
    pieces, size = [], 0
    for extent in extents:
        start, end = 0, len(view)
        if extent.method == 1 and idat is not None:
            start, end = idat.start, idat.end
        elif extent.method != 0:
            return None
        first = start + extent.offset
        last = first + extent.length if extent.length else end
        size += last - first
        if last > end or size > 2 * MAX_PART_BYTES:
            return None
        pieces.append(view[first:last])
    return b"".join(pieces) if pieces else None


def _exif_item(data: memoryview, where: str) -> Found:
    """An Exif item or box: how far its TIFF header lies behind, then the block."""
    skip = int.from_bytes(data[:4], "big")
    yield from _tiff(_exif(data[4 + skip :]), where)


_CONTAINERS: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes, memoryview], Found]], ...] = (
    (re.compile(rb"\xff\xd8"), "image/jpeg", _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", _webp),
    (re.compile(rb"GIF8[79]a"), "image/gif", _gif),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "image/tiff", _tiff_file),
    (re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n"), "image/jxl", _jxl),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n"), "image/jp2", _jp2),
    (re.compile(rb"\xff\x0a"), "image/jxl", _no_metadata),
)
