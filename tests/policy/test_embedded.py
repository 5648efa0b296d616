"""What an image's own bytes say of rights is read wherever its format keeps it, and damage never passes for silence."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from policy.evidence import Embedded, EmbeddedField, Evidence
from policy.ruleset import Ruleset
from policy.signals.embedded import find_needles, judge_xmp, read_embedded
from policy.verdict import Stance, Verdict

RULES = Ruleset.default().xmp
IMAGES = Path(__file__).parents[3] / "shared" / "fixtures" / "images"
EVIDENCE = Evidence(
    page_url="https://a.example/",
    image_url="https://b.example/x.jpg",
    observed_at=datetime(2026, 11, 20, 12, tzinfo=UTC),
    observer="test",
    observer_version="1",
)
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
NO = f"{VOCABULARY}DMI-PROHIBITED-AIMLTRAINING"
NAMESPACES = {
    "rdf": RDF,
    "plus": PLUS,
    "tdm": "http://www.w3.org/ns/tdmrep/",
    "cc": "http://creativecommons.org/ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
}

# ── builders ───────────────────────────────────────────────────────────────────────────────────────────────────────


def packet(inside: str, attributes: str = "", *, wrapped: bool = True, **namespaces: str) -> str:
    """An XMP packet whose one Description has these property elements and attributes."""
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in {**NAMESPACES, **namespaces}.items())
    description = f'<rdf:Description rdf:about="" {attributes}>{inside}</rdf:Description>'
    xml = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" {declared}><rdf:RDF>{description}</rdf:RDF></x:xmpmeta>'
    begin, end = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'
    return f"{begin}{xml}{' ' * 100}{end}" if wrapped else xml


def mining(value: str = NO) -> str:
    return f"<plus:DataMining>{value}</plus:DataMining>"


PROHIBITED = packet(mining()).encode()


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments: bytes, tail: bytes = b"") -> bytes:
    quantisation = segment(0xDB, bytes(65))
    return b"\xff\xd8" + b"".join(segments) + quantisation + segment(0xDA, bytes(10)) + bytes(500) + b"\xff\xd9" + tail


def app1(xmp: bytes) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)


def extension(guid: str, whole: bytes, offset: int, piece: bytes) -> bytes:
    header = b"http://ns.adobe.com/xmp/extension/\0" + guid.encode() + struct.pack(">II", len(whole), offset)
    return segment(0xE1, header + piece)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", bytes(20)) + chunk(b"IEND", b"")


def itxt(text: bytes, *, compressed: bool = False, keyword: bytes = b"XML:com.adobe.xmp") -> bytes:
    body = zlib.compress(text) if compressed else text
    return chunk(b"iTXt", keyword + b"\0" + bytes((compressed, 0)) + b"en\0key\0" + body)


def raw_profile(kind: bytes, data: bytes, *, packed: bool = False) -> bytes:
    text = b"\n" + kind + b"\n" + b"%8d\n" % len(data) + data.hex().encode() + b"\n"
    keyword = b"Raw profile type " + kind + b"\0"
    return chunk(b"zTXt", keyword + b"\0" + zlib.compress(text)) if packed else chunk(b"tEXt", keyword + text)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(k + struct.pack("<I", len(d)) + d + b"\0" * (len(d) & 1) for k, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def vp8x(flags: int) -> tuple[bytes, bytes]:
    return b"VP8X", bytes((flags, 0, 0, 0, 0, 0, 0, 0, 0, 0))


def tiff(
    tags: dict[int, bytes], *, order: str = "<", big: bool = False, second: dict[int, bytes] | None = None
) -> bytes:
    """A TIFF (or EXIF block) with tags of bytes, in one directory or two."""
    mark = b"II" if order == "<" else b"MM"
    start = 16 if big else 8
    header = struct.pack(order + "HHHQ", 43, 8, 0, start) if big else struct.pack(order + "HL", 42, start)
    out = bytearray(mark + header)
    directories = [tags] + ([second] if second else [])
    for number, directory in enumerate(directories):
        entry, count, offset = ("HHQQ", "Q", "Q") if big else ("HHLL", "H", "L")
        size = struct.calcsize(order + count) + len(directory) * struct.calcsize(order + entry)
        values_at = len(out) + size + struct.calcsize(order + offset)
        block, values = struct.pack(order + count, len(directory)), b""
        for tag, value in sorted(directory.items()):
            kind = 2 if tag in (315, 33432) else 1
            inline = len(value) <= (8 if big else 4)
            entry_bytes = struct.pack(order + entry, tag, kind, len(value), values_at + len(values))
            if inline:
                width = 8 if big else 4
                entry_bytes = entry_bytes[:-width] + value.ljust(width, b"\0")
            else:
                values += value
            block += entry_bytes
        following = values_at + len(values) if number + 1 < len(directories) else 0
        out += block + struct.pack(order + offset, following) + values
    return bytes(out)


def irb(number: int, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">H", number) + b"\0\0" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) & 1)


def dataset(record: int, number: int, value: bytes) -> bytes:
    return bytes((0x1C, record, number)) + struct.pack(">H", len(value)) + value


def gif(xmp: bytes | None, *, in_blocks: bool = False) -> bytes:
    extension = b""
    if xmp is not None:
        trailer = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
        if in_blocks:
            data = b"".join(bytes((len(xmp[i : i + 255]),)) + xmp[i : i + 255] for i in range(0, len(xmp), 255)) + b"\0"
        else:
            data = xmp + trailer
        extension = b"!\xff\x0bXMP DataXMP" + data
    image = b",\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + extension + image + b";"


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def avif(
    items: dict[int, tuple[bytes, bytes, bytes]], *, method: int = 0, version: int = 1, brand: bytes = b"avif"
) -> bytes:
    """An ISO media file whose meta box has items: id -> (type, content type and encoding, data)."""
    infes = b""
    for number, (kind, strings, _) in items.items():
        infes += box(b"infe", b"\2\0\0\0" + struct.pack(">HH", number, 0) + kind + b"\0" + strings)
    iinf = box(b"iinf", b"\0\0\0\0" + struct.pack(">H", len(items)) + infes)
    file_type = box(b"ftyp", brand + b"\0\0\0\0mif1")

    def build(base: int) -> tuple[bytes, bytes]:
        at, rows, data = base, b"", b""
        for number, (_, _, body) in items.items():
            wide = ">I" if version == 2 else ">H"
            rows += struct.pack(wide, number) + (struct.pack(">H", method) if version else b"") + struct.pack(">H", 0)
            half = len(body) // 2  # in two extents
            rows += struct.pack(">HIIII", 2, at, half, at + half, len(body) - half)
            at += len(body)
            data += body
        count = struct.pack(">I" if version == 2 else ">H", len(items))
        iloc = box(b"iloc", bytes((version, 0, 0, 0, 0x44, 0)) + count + rows)
        return box(b"meta", b"\0\0\0\0" + iinf + iloc + (box(b"idat", data) if method else b"")), data

    meta, data = build(0)
    if method:
        return file_type + meta
    meta, data = build(len(file_type) + len(meta) + 8)
    return file_type + meta + box(b"mdat", data)


XMP_UUID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
RDF_ITEM = b"application/rdf+xml\0"


def values(found: Embedded, name: str) -> list[str]:
    return [field.value for field in found.fields if field.name == name]


def judged(body: bytes, damaged: str = "deny") -> tuple[Verdict | None, str]:
    rules = replace(RULES, damaged=damaged)
    answer = judge_xmp(replace(EVIDENCE, embedded=read_embedded(body)), rules)
    return answer.verdict, answer.reason.code


def of_packet(xmp: str | bytes) -> Embedded:
    return read_embedded(png(itxt(xmp.encode() if isinstance(xmp, str) else xmp)))


# ── where formats keep it ──────────────────────────────────────────────────────────────────────────────────────────

EXIF_WITH_XMP = tiff({700: PROHIBITED})
META = box(b"meta", bytes(4) + box(b"hdlr", bytes(24)))
CONTAINERS: dict[str, tuple[bytes, str]] = {
    "jpeg": (jpeg(app1(PROHIBITED)), "image/jpeg"),
    "jpeg-after-others": (jpeg(segment(0xE0, b"JFIF\0"), segment(0xFE, b"comment"), app1(PROHIBITED)), "image/jpeg"),
    "jpeg-fill-bytes": (jpeg(b"\xff\xff\xff" + app1(PROHIBITED)), "image/jpeg"),
    "jpeg-photoshop": (jpeg(segment(0xED, b"Photoshop 3.0\0" + irb(0x0424, PROHIBITED))), "image/jpeg"),
    "jpeg-exif-700": (jpeg(segment(0xE1, b"Exif\0\0" + EXIF_WITH_XMP)), "image/jpeg"),
    "jpeg-second-picture": (jpeg(tail=jpeg(app1(PROHIBITED))), "image/jpeg"),
    "png-itxt": (png(itxt(PROHIBITED)), "image/png"),
    "png-itxt-compressed": (png(itxt(PROHIBITED, compressed=True)), "image/png"),
    "png-text": (png(chunk(b"tEXt", b"XML:com.adobe.xmp\0" + PROHIBITED)), "image/png"),
    "png-raw-profile": (png(raw_profile(b"xmp", PROHIBITED)), "image/png"),
    "png-raw-profile-packed": (png(raw_profile(b"xmp", PROHIBITED, packed=True)), "image/png"),
    "png-raw-app1": (png(raw_profile(b"APP1", b"http://ns.adobe.com/xap/1.0/\0" + PROHIBITED)), "image/png"),
    "png-exif-700": (png(chunk(b"eXIf", EXIF_WITH_XMP)), "image/png"),
    "webp": (riff(vp8x(0x04), (b"VP8 ", bytes(33)), (b"XMP ", PROHIBITED)), "image/webp"),
    "webp-undeclared": (riff((b"VP8 ", bytes(33)), (b"XMP ", PROHIBITED)), "image/webp"),
    "webp-exif-700": (riff(vp8x(0x08), (b"EXIF", b"Exif\0\0" + EXIF_WITH_XMP)), "image/webp"),
    "tiff-little": (tiff({700: PROHIBITED}), "image/tiff"),
    "tiff-big-endian": (tiff({700: PROHIBITED}, order=">"), "image/tiff"),
    "bigtiff": (tiff({700: PROHIBITED}, big=True), "image/tiff"),
    "bigtiff-big-endian": (tiff({700: PROHIBITED}, big=True, order=">"), "image/tiff"),
    "tiff-second-page": (tiff({315: b"A\0"}, second={700: PROHIBITED}), "image/tiff"),
    "tiff-photoshop": (tiff({34377: irb(0x0424, PROHIBITED)}), "image/tiff"),
    "gif": (gif(PROHIBITED), "image/gif"),
    "gif-in-blocks": (gif(PROHIBITED, in_blocks=True), "image/gif"),
    "avif": (avif({1: (b"mime", RDF_ITEM, PROHIBITED)}), "image/avif"),
    "avif-old-places": (avif({1: (b"mime", RDF_ITEM, PROHIBITED)}, version=0), "image/avif"),
    "avif-new-places": (avif({1: (b"mime", RDF_ITEM, PROHIBITED)}, version=2), "image/avif"),
    "heic-idat": (avif({7: (b"mime", RDF_ITEM, PROHIBITED)}, method=1, brand=b"heic"), "image/heic"),
    "avif-deflated": (
        avif({1: (b"mime", b"application/rdf+xml\0deflate\0", zlib.compress(PROHIBITED))}),
        "image/avif",
    ),
    "avif-exif-700": (avif({1: (b"Exif", b"", b"\0\0\0\6Exif\0\0" + EXIF_WITH_XMP)}), "image/avif"),
    "avif-uuid": (box(b"ftyp", b"avif\0\0\0\0") + box(b"uuid", XMP_UUID + PROHIBITED) + META, "image/avif"),
    "avif-uuid-last": (box(b"ftyp", b"avif\0\0\0\0") + META + b"\0\0\0\0uuid" + XMP_UUID + PROHIBITED, "image/avif"),
    "jxl": (
        box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ") + box(b"xml ", PROHIBITED) + box(b"jxlc", b""),
        "image/jxl",
    ),
    "jp2": (box(b"jP  ", b"\r\n\x87\n") + box(b"uuid", XMP_UUID + PROHIBITED) + box(b"jp2c", b""), "image/jp2"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_prohibition_is_found_wherever_the_format_keeps_it(name: str) -> None:
    """Each place of each format counts, and a whole file shows no damage."""
    body, media_type = CONTAINERS[name]
    found = read_embedded(body)
    assert (found.media_type, found.errors, found.needles) == (media_type, (), ())
    assert values(found, "plus:DataMining") == [NO]
    assert found.packet_sha256 == hashlib.sha256(PROHIBITED).hexdigest()
    assert judged(body) == (Verdict.DENY, "xmp-prohibited")


# Of these a beginning is a whole file: nothing could show the cut.
@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - {"jpeg-second-picture", "avif-uuid-last"}))
def test_a_file_that_is_cut_short_is_never_silent(name: str) -> None:
    """Cut anywhere behind its signature, a file that said no is denied, or known to be damaged."""
    body, _ = CONTAINERS[name]
    for end in range(16, len(body) - 1, max(1, len(body) // 150)):
        found = read_embedded(body[:end])
        assert found.errors or found.needles or values(found, "plus:DataMining") == [NO], end
        assert judged(body[:end], "deny")[0] is Verdict.DENY, end
        assert judged(body[:end], "defer")[0] in (Verdict.DENY, Verdict.DEFER), end


SILENT = {
    "jpeg-trailer": jpeg(tail=b"something else"),
    "png-trailer": png() + b"something else",
    "webp-trailer": riff((b"VP8 ", bytes(33))) + b"something else",
    "png-empty-packet": png(itxt(b"")),
    "jpeg": jpeg(segment(0xE0, b"JFIF\0")),
    "png": png(),
    "webp": riff((b"VP8 ", bytes(33))),
    "tiff": tiff({256: b"\1\0"}),
    "gif": gif(None),
    "avif": avif({1: (b"av01", b"", bytes(40))}),
    "jxl-codestream": b"\xff\x0a" + bytes(40),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_file_without_metadata_says_nothing(name: str) -> None:
    """No metadata is an observed absence, not damage."""
    found = read_embedded(SILENT[name])
    assert (found.fields, found.errors, found.needles, found.packet_sha256) == ((), (), (), None)
    assert judged(SILENT[name]) == (None, "xmp-absent")


def pillow(kind: str, **save: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(out, kind, **save)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_what_a_real_encoder_writes_is_read(kind: str) -> None:
    """Pillow's files hold the packet and the EXIF fields that it was given, and nothing that seems damaged."""
    exif = Image.Exif()
    exif[33432], exif[315] = "(c) Jane", "Jane"
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", PROHIBITED.decode(), zip=True)
        body = pillow(kind, pnginfo=text, exif=exif)
    elif kind == "TIFF":
        exif[700] = PROHIBITED
        body = pillow(kind, exif=exif)
    else:
        body = pillow(kind, xmp=PROHIBITED, exif=exif)
    found = read_embedded(body)
    assert found.errors == ()
    assert values(found, "plus:DataMining") == [NO]
    assert (values(found, "exif:Copyright"), values(found, "exif:Artist")) == (["(c) Jane"], ["Jane"])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF"])
def test_a_real_encoders_file_without_metadata_is_silent(kind: str) -> None:
    """No format's plain file counts as damaged."""
    found = read_embedded(pillow(kind))
    assert (found.fields, found.errors) == ((), ())


@pytest.mark.parametrize("name", ["own_xmp_dmi_genai.jpeg", "own_xmp_dmi_genai.png"])
def test_the_shared_pictures_prohibit(name: str) -> None:
    """The fixtures with a PLUS prohibition are denied, their licence fields read."""
    if not (IMAGES / name).exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    body = (IMAGES / name).read_bytes()
    found = read_embedded(body)
    assert judged(body) == (Verdict.DENY, "xmp-prohibited")
    assert values(found, "tdm:reservation") == ["1"]
    assert values(found, "cc:license") == ["https://creativecommons.org/licenses/by-nc/4.0/"]


@pytest.mark.parametrize("name", ["C_with_CAWG_data.jpg", "c2pa_read_CA.jpg"])
def test_a_manifest_store_is_no_damage(name: str) -> None:
    """C2PA pictures have their own mechanism: here they say nothing."""
    if not (IMAGES / name).exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    assert judged((IMAGES / name).read_bytes()) == (None, "xmp-absent")


# ── traps: namespaces and forms ────────────────────────────────────────────────────────────────────────────────────


def test_a_spoofed_namespace_under_the_prefix_plus_does_not_count() -> None:
    """Whose property it is says its namespace; Pillow's getxmp would take this one."""
    spoofed = packet(mining(), plus="http://evil.example/xmp/").encode()
    found = read_embedded(png(itxt(spoofed)))
    assert (found.fields, found.errors, found.needles) == ((), (), ())
    picture = Image.open(io.BytesIO(pillow("JPEG", xmp=spoofed)))
    assert "DMI-PROHIBITED" in str(picture.getxmp())


def test_the_right_namespace_counts_under_any_prefix() -> None:
    """A prefix is only a prefix."""
    xmp = packet(f"<q:DataMining>{NO}</q:DataMining>", q=PLUS)
    assert values(of_packet(xmp), "plus:DataMining") == [NO]
    default = packet(f'<DataMining xmlns="{PLUS}">{NO}</DataMining>')
    assert values(of_packet(default), "plus:DataMining") == [NO]


@pytest.mark.parametrize(
    "xmp",
    [
        packet(mining()),
        packet("", f'plus:DataMining="{NO}"'),
        packet(f'<plus:DataMining rdf:resource="{NO}"/>'),
        packet(f"<plus:DataMining><rdf:Bag><rdf:li>{NO}</rdf:li></rdf:Bag></plus:DataMining>"),
        packet(f"<plus:DataMining><rdf:Seq><rdf:li>{NO}</rdf:li></rdf:Seq></plus:DataMining>"),
        packet(f'<plus:DataMining><rdf:Alt><rdf:li xml:lang="en">{NO}</rdf:li></rdf:Alt></plus:DataMining>'),
        packet(f'<plus:DataMining><rdf:Bag><rdf:li rdf:resource="{NO}"/></rdf:Bag></plus:DataMining>'),
        packet(f'<plus:DataMining rdf:parseType="Resource"><rdf:value>{NO}</rdf:value></plus:DataMining>'),
        packet(f"<plus:DataMining><rdf:Description><rdf:value>{NO}</rdf:value></rdf:Description></plus:DataMining>"),
        packet(mining(f"\n   {NO}\n")),
        packet(mining(f"<![CDATA[{NO}]]>")),
        packet(mining(NO.replace("-", "<!-- a comment -->-"))),
        packet(mining(NO.replace("-", "&#45;").replace("P", "&#x50;"))),
        packet("", f"plus:DataMining='{NO.replace('DMI', '&#68;&#x4D;I')}'"),
        packet(mining(), wrapped=False),
        packet(mining()).replace("<?xpacket", '<?xml version="1.0" encoding="UTF-8"?><?xpacket', 1),
        packet(mining()) + "\0" * 50 + "\n",
        "\n  " + packet(mining()),
    ],
    ids=[
        *("element", "attribute", "resource", "bag", "seq", "alt", "resource-in-bag", "parse-type", "value-node"),
        *("blank-space", "cdata", "comment", "entity-coded", "entity-coded-attribute", "no-wrapper", "xml-declaration"),
        *("zeros-behind", "space-before"),
    ],
)
def test_every_form_of_a_property_is_read(xmp: str) -> None:
    """RDF/XML has many ways to write one statement; the parser, not a pattern, reads them."""
    found = of_packet(xmp)
    assert found.errors == ()
    assert values(found, "plus:DataMining") == [NO]


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_packet_counts_in_every_unicode_encoding(coding: str, wrapped: bool) -> None:
    """UTF-8, UTF-16 and UTF-32 of either byte order, with a mark or without."""
    found = of_packet(packet(mining() + "<dc:rights>© Ж</dc:rights>", wrapped=wrapped).encode(coding))
    assert found.errors == ()
    assert (values(found, "plus:DataMining"), values(found, "dc:rights")) == ([NO], ["© Ж"])


def test_the_other_rights_properties_are_kept_under_their_usual_names() -> None:
    """What the licence and TDMRep rules read stands under one name, whatever the prefix."""
    found = of_packet(
        packet(
            '<cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/>'
            "<cc:attributionName>Jane</cc:attributionName><dc:creator><rdf:Seq><rdf:li>Jane</rdf:li><rdf:li>Joe"
            "</rdf:li></rdf:Seq></dc:creator><dc:rights><rdf:Alt><rdf:li xml:lang='x-default'>(c) A</rdf:li></rdf:Alt>"
            "</dc:rights><plus:Licensor><rdf:Seq><rdf:li rdf:parseType='Resource'><plus:LicensorURL>https://l.example"
            "</plus:LicensorURL></rdf:li></rdf:Seq></plus:Licensor><t:reservation>1</t:reservation>"
            f"<i:DigitalSourceType>{'x' * 9_000}</i:DigitalSourceType>",
            'xmpRights:Marked="True" xmpRights:WebStatement="https://w.example" tdm:policy="https://p.example"',
            t="http://www.w3.org/ns/tdmrep#",
            i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        )
    )
    assert [(f.name, f.value[:2_000]) for f in found.fields] == [
        ("xmpRights:Marked", "True"),
        ("xmpRights:WebStatement", "https://w.example"),
        ("tdm:policy", "https://p.example"),
        ("cc:license", "https://creativecommons.org/licenses/by/4.0/"),
        ("cc:attributionName", "Jane"),
        ("dc:creator", "Jane"),
        ("dc:creator", "Joe"),
        ("dc:rights", "(c) A"),
        ("plus:LicensorURL", "https://l.example"),
        ("tdm:reservation", "1"),
        ("Iptc4xmpExt:DigitalSourceType", "x" * 2_000),
    ]
    assert found.errors == ()


def test_an_ingredients_metadata_is_not_the_pictures_own() -> None:
    """What an editor kept of another picture may forbid, never permit, and is no licence of this one."""
    pantry = "<xmpMM:Pantry><rdf:Bag><rdf:li><rdf:Description>{}</rdf:Description></rdf:li></rdf:Bag></xmpMM:Pantry>"
    allowed = pantry.format(
        mining(f"{VOCABULARY}DMI-ALLOWED") + '<cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/>'
    )
    assert judged(png(itxt(packet(allowed).encode()))) == (None, "xmp-absent")
    assert values(of_packet(packet(allowed)), "cc:license") == []
    assert judged(png(itxt(packet(pantry.format(mining())).encode()))) == (Verdict.DENY, "xmp-prohibited")


@pytest.mark.parametrize(
    "misplaced",
    [
        lambda xmp: jpeg(app1(xmp).replace(b"xap/1.0/", b"xap/9.9/")),
        lambda xmp: jpeg(segment(0xE2, xmp)),
        lambda xmp: jpeg(tail=xmp),
        lambda xmp: png(chunk(b"tEXt", b"xmp\0" + xmp)),
        lambda xmp: gif(xmp).replace(b"XMP DataXMP", b"XMP DataABC"),
        lambda xmp: riff((b"VP8 ", bytes(33)), (b"JUNK", xmp)),
        lambda xmp: tiff({701: xmp}),
    ],
)
def test_a_packet_outside_of_its_place_may_forbid_and_not_permit(misplaced: Callable[[bytes], bytes]) -> None:
    """Its no is heard where a reader of the format would not look; its yes and its licence are somebody else's."""
    assert judged(misplaced(PROHIBITED)) == (Verdict.DENY, "xmp-prohibited")
    assert judged(misplaced(packet(mining(), wrapped=False).encode())) == (Verdict.DENY, "xmp-prohibited")
    allowed = packet(mining(VOCABULARY + "DMI-ALLOWED") + "<cc:license>https://x.example</cc:license>").encode()
    assert judged(misplaced(allowed)) == (None, "xmp-absent")
    assert values(read_embedded(misplaced(allowed)), "cc:license") == []


def test_what_stands_outside_of_the_rdf_does_not_count() -> None:
    """Only what rdf:RDF holds is XMP; a packet without it cannot be read."""
    xmp = f'<x xmlns:plus="{PLUS}" plus:DataMining="{VOCABULARY}DMI-ALLOWED"/>'
    assert judged(png(itxt(xmp.encode())), "defer") == (Verdict.DEFER, "xmp-damaged")
    spoofed = packet(mining(f"{VOCABULARY}DMI-ALLOWED")).replace(RDF, "http://evil.example/rdf#")
    assert judged(png(itxt(spoofed.encode()))) == (Verdict.DENY, "xmp-damaged")


# ── traps: several packets, extended and compressed ones ───────────────────────────────────────────────────────────


def extended_jpeg(order: Callable[[list[bytes]], list[bytes]] = list, drop: int | None = None) -> bytes:
    whole = packet(mining(), wrapped=False).encode() + b" " * 90_000
    guid = hashlib.md5(whole, usedforsecurity=False).hexdigest().upper()
    main = packet("", f'xmpNote:HasExtendedXMP="{guid}"').encode()
    pieces = [extension(guid, whole, at, whole[at : at + 30_000]) for at in range(0, len(whole), 30_000)]
    return jpeg(app1(main), *order([piece for i, piece in enumerate(pieces) if i != drop]))


def test_extended_xmp_belongs_to_the_packet() -> None:
    """What a JPEG had no room for in one segment is put together by GUID and offset, in whatever order it comes."""
    for body in (extended_jpeg(), extended_jpeg(lambda pieces: pieces[::-1])):
        found = read_embedded(body)
        assert found.errors == ()
        assert values(found, "plus:DataMining") == [NO]
        assert judged(body) == (Verdict.DENY, "xmp-prohibited")


def test_extended_xmp_that_lacks_a_piece_is_damage() -> None:
    """A missing piece is never silence, whether or not the words of a reservation are in what is left."""
    assert judged(extended_jpeg(drop=0), "defer") == (Verdict.DEFER, "xmp-damaged")
    assert judged(extended_jpeg(drop=2), "defer") == (Verdict.DENY, "xmp-damaged-reservation")
    assert judged(extended_jpeg(lambda _: []), "defer") == (Verdict.DEFER, "xmp-damaged")


def test_compressed_itxt_belongs_to_the_packet_also_when_it_breaks() -> None:
    """A packet is inflated before it is read; of one that breaks off the inflated beginning is searched."""
    filler = random.Random(1).randbytes(40_000).hex()
    packed = zlib.compress(packet(f"{mining()}<dc:source>{filler}</dc:source>").encode())
    whole = b"XML:com.adobe.xmp\0\1\0\0\0" + packed
    assert judged(png(chunk(b"iTXt", whole))) == (Verdict.DENY, "xmp-prohibited")
    assert judged(png(chunk(b"iTXt", whole[: len(whole) // 2])), "defer")[0] is Verdict.DENY
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    assert judged(png(chunk(b"iTXt", bytes(broken))), "defer")[0] is Verdict.DENY


@pytest.mark.parametrize("first", ["DMI-ALLOWED", "DMI-UNSPECIFIED", "DMI-NEW"])
def test_of_several_packets_all_count_and_the_most_restrictive_wins(first: str) -> None:
    """A yes in one packet does not hide a no in another, in whichever order they stand."""
    other = packet(mining(VOCABULARY + first)).encode()
    for packets in ((other, PROHIBITED), (PROHIBITED, other)):
        assert judged(jpeg(*map(app1, packets))) == (Verdict.DENY, "xmp-prohibited")
        assert judged(png(*map(itxt, packets))) == (Verdict.DENY, "xmp-prohibited")
        assert judged(png(itxt(b"".join(packets)))) == (Verdict.DENY, "xmp-prohibited")


# ── traps: damage ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("coding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize(
    ("needle", "inside"),
    [
        ("DMI-PROHIBITED", mining()),
        ("DMI-PROHIBITED", mining(NO.lower())),
        ("DMI-PROHIBITED", mining(NO.replace("-", "&#45;"))),
        ("tdm:reservation", "<tdm:reservation>1</tdm:reservation>"),
    ],
)
def test_a_truncated_packet_is_searched_for_the_words_of_a_reservation(coding: str, needle: str, inside: str) -> None:
    """Where the parser gives up, the words deny, in any case and encoding."""
    xmp = packet("<a>" + inside).encode(coding)
    found = of_packet(xmp)
    assert found.errors != ()
    assert found.needles == (needle,)
    assert judged(png(itxt(xmp)), "defer")[0] is Verdict.DENY


@pytest.mark.parametrize(
    "xmp",
    [
        packet("<a>"),
        packet(mining(VOCABULARY + "DMI-ALLOWED"))[:-140],
        packet("").encode() + b"\xff\xfe",
        packet("<dc:rights>\xff</dc:rights>").encode("latin-1", errors="replace"),
        '<!DOCTYPE x [<!ENTITY a "b">]>' + packet("", wrapped=False),
        '<!DOCTYPE x SYSTEM "http://evil.example/x.dtd">' + packet("", wrapped=False),
        packet("<dc:rights>&undeclared;</dc:rights>"),
        packet("", q="") + "x",
        b"\0" * 40,
        b"not XML",
        packet("").encode("utf-16-le")[:-201],
    ],
)
def test_a_packet_that_cannot_be_read_is_what_the_ruleset_says(xmp: str | bytes) -> None:
    """Damage in which no reservation can be spotted: deny where strict, else defer; never unset."""
    body = png(itxt(xmp.encode() if isinstance(xmp, str) else xmp))
    assert judged(body, "deny") == (Verdict.DENY, "xmp-damaged")
    assert judged(body, "defer") == (Verdict.DEFER, "xmp-damaged")


def test_a_yes_in_a_damaged_file_is_none() -> None:
    """Permission is taken from whole files only."""
    allowed = packet(mining(VOCABULARY + "DMI-ALLOWED")).encode()
    assert judged(png(itxt(allowed))) == (Verdict.ALLOW, "xmp-allowed")
    assert judged(png(itxt(allowed))[:-8], "defer") == (Verdict.DEFER, "xmp-damaged")
    assert judged(png(itxt(allowed), itxt(b"<")), "defer") == (Verdict.DEFER, "xmp-damaged")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"BM" + bytes(60),
        b"%PDF-1.7",
        b"\xff\xd8",
        jpeg()[:-2],
        jpeg().replace(b"\xff\xdb", b"\xfe\xdb", 1),
        png().replace(b"IHDR\0", b"IHDR\1", 1),
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0")),
        png(raw_profile(b"xmp", PROHIBITED).replace(b"3c", b"zz")),
        riff(vp8x(0x04), (b"VP8 ", bytes(33))),
        riff((b"VP8 ", bytes(33)))[:-4],
        tiff({700: PROHIBITED})[:20],
        tiff({256: b"\1"}, order=">").replace(b"\0\0\0\x08", b"\0\0\xff\x08", 1),
        jpeg(segment(0xE1, b"Exif\0\0XX")),
        jpeg(segment(0xED, b"Photoshop 3.0\0" + irb(0x0404, dataset(2, 116, b"A"))[:-4])),
        jpeg(segment(0xED, b"Photoshop 3.0\0" + irb(0x0404, dataset(2, 116, b"A")[:-1] + b""))),
        gif(None)[:-1],
        avif({1: (b"mime", RDF_ITEM, b"x" * 50)}).replace(b"iloc", b"ilox"),
        avif({1: (b"mime", RDF_ITEM, b"x" * 50)})[:-1],
        avif({1: (b"mime", b"application/rdf+xml\0br\0", b"x" * 50)}),
        box(b"JXL ", b"\r\n\x87\n") + box(b"brob", b"xml " + bytes(9)),
    ],
)
def test_a_file_that_is_not_what_its_format_says_is_damage(body: bytes) -> None:
    """A container that cannot be walked to its end may hold anything."""
    assert judged(body, "defer")[0] is not None
    assert judged(body, "deny")[0] is Verdict.DENY


def test_a_whole_packet_beside_other_damage_is_not_searched() -> None:
    """What was read is known: `tdm:reservation` 0 in a good packet is no word of a reservation in a bad one."""
    zero = packet("<tdm:reservation>0</tdm:reservation>").encode()
    found = read_embedded(jpeg(app1(zero), app1(b"<broken")))
    assert (len(found.errors), found.needles) == (1, ())
    assert values(found, "tdm:reservation") == ["0"]


def test_needles_are_found_across_chunks_and_pieces() -> None:
    """The search has no seams."""
    padding = b" " * ((1 << 20) - 5)
    assert find_needles((padding + b"dmi-Prohibited",)) == {"DMI-PROHIBITED"}
    assert find_needles((b"TDM:res", b"ervation")) == {"tdm:reservation"}
    assert find_needles((memoryview(padding), b"nothing")) == set()


@pytest.mark.parametrize("name", [*CONTAINERS, *SILENT])
def test_whatever_the_bytes_nothing_is_raised(name: str) -> None:
    """Single bytes and stretches changed at random never raise; a yes never comes of it."""
    body = CONTAINERS[name][0] if name in CONTAINERS else SILENT[name]
    draw = random.Random(name)
    for _ in range(60):
        changed = bytearray(body)
        for _ in range(draw.choice((1, 1, 2, 5))):
            at = draw.randrange(len(changed))
            match draw.randrange(3):
                case 0:
                    changed[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
                case 1:
                    del changed[at : at + draw.randrange(1, 9)]
                case 2:
                    changed[at:at] = draw.randbytes(draw.randrange(1, 9))
        assert judged(bytes(changed))[0] is not Verdict.ALLOW


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0", b"MM\0+", b"....ftypavif"]
    ),
    st.binary(max_size=300),
)
def test_random_bytes_behind_any_signature_are_an_answer(magic: bytes, rest: bytes) -> None:
    """Every string of bytes is read to an Embedded."""
    assert isinstance(read_embedded(magic + rest), Embedded)


# ── EXIF and IPTC ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_copyright_and_artist_are_read(order: str) -> None:
    """Both byte orders; photographer and editor are parted; text is UTF-8 or Western European."""
    exif = tiff({33432: b"J\xc3\xb6rg\0Editor\0", 315: b"J\xf6rg\0"}, order=order)
    found = read_embedded(jpeg(segment(0xE1, b"Exif\0\0" + exif)))
    assert found.fields == (
        EmbeddedField("exif:Artist", "Jörg", "EXIF, JPEG APP1"),
        EmbeddedField("exif:Copyright", "Jörg; Editor", "EXIF, JPEG APP1"),
    )
    assert found.errors == ()


IIM = (
    dataset(1, 90, b"\x1b%G")
    + dataset(2, 5, b"Title")
    + dataset(2, 80, "Jörg".encode())
    + dataset(2, 110, b"Credit")
    + bytes((0x1C, 2, 116, 0x80, 4, 0, 0, 0, 5))
    + b"(c) A"
)
IPTC = [
    ("iptc:ObjectName", "Title"),
    ("iptc:By-line", "Jörg"),
    ("iptc:Credit", "Credit"),
    ("iptc:CopyrightNotice", "(c) A"),
]


def test_many_keywords_hide_no_notice() -> None:
    """Hundreds of other records before the one that counts are jumped over."""
    many = b"".join(dataset(2, 25, b"keyword") for _ in range(2_000)) + dataset(2, 116, b"(c) A")
    found = read_embedded(tiff({33723: many}))
    assert ([f.value for f in found.fields], found.errors) == (["(c) A"], ())


@pytest.mark.parametrize(
    "body",
    [
        jpeg(segment(0xED, b"Photoshop 3.0\0" + irb(0x03ED, bytes(15)) + irb(0x0404, IIM))),
        jpeg(
            segment(0xED, b"Photoshop 3.0\0" + irb(0x0404, IIM)[:20]),
            segment(0xED, b"Photoshop 3.0\0" + irb(0x0404, IIM)[20:]),
        ),
        tiff({33723: IIM + b"\0\0"}),
        png(raw_profile(b"iptc", irb(0x0404, IIM))),
        png(raw_profile(b"iptc", IIM, packed=True)),
    ],
    ids=["jpeg", "jpeg-two-segments", "tiff", "png", "png-bare"],
)
def test_iptc_records_are_read(body: bytes) -> None:
    """The old IPTC records count wherever they stand, in long and short lengths."""
    found = read_embedded(body)
    assert ([(f.name, f.value) for f in found.fields], found.errors) == (IPTC, ())


# ── judging ────────────────────────────────────────────────────────────────────────────────────────────────────────


def said(*mining_values: str, **more: str) -> Evidence:
    fields = [EmbeddedField("plus:DataMining", value, "XMP, JPEG APP1") for value in mining_values]
    fields += [EmbeddedField(name.replace("_", ":"), value, "XMP, JPEG APP1") for name, value in more.items()]
    return replace(EVIDENCE, embedded=Embedded("image/jpeg", tuple(fields)))


@pytest.mark.parametrize("prefix", [VOCABULARY, VOCABULARY.replace("http:", "https:"), ""])
@pytest.mark.parametrize(
    ("code", "verdict", "reason"),
    [
        ("DMI-PROHIBITED", Verdict.DENY, "xmp-prohibited"),
        ("DMI-PROHIBITED-AIMLTRAINING", Verdict.DENY, "xmp-prohibited"),
        ("DMI-PROHIBITED-GENAIMLTRAINING", Verdict.DENY, "xmp-prohibited"),
        ("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", Verdict.DENY, "xmp-prohibited"),
        ("DMI-PROHIBITED-SEECONSTRAINT", Verdict.DENY, "xmp-constrained"),
        ("DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR", Verdict.DENY, "xmp-constrained"),
        ("DMI-PROHIBITED-SEELINKEDRIGHTSEXPR", Verdict.DENY, "xmp-constrained"),
        ("DMI-PROHIBITED-SEELICENSORURL", Verdict.DENY, "xmp-constrained"),
        ("DMI-PROHIBITED-SOMETHINGNEW", Verdict.DENY, "xmp-prohibited"),
        ("dmi-prohibited", Verdict.DENY, "xmp-prohibited"),
        ("DMI-ALLOWED", Verdict.ALLOW, "xmp-allowed"),
        ("DMI-UNSPECIFIED", None, "xmp-unspecified"),
        ("DMI-ALLOWED-FORSOME", Verdict.DEFER, "xmp-unknown-value"),
        ("DMI-ALLOWED DMI-UNSPECIFIED", Verdict.DEFER, "xmp-unknown-value"),
        ("Allowed", Verdict.DEFER, "xmp-unknown-value"),
        ("", Verdict.DEFER, "xmp-unknown-value"),
    ],
)
def test_the_values_of_the_vocabulary(prefix: str, code: str, verdict: Verdict | None, reason: str) -> None:
    """Every prohibition denies, conditional or not; what is not in the vocabulary keeps out."""
    answer = judge_xmp(said(prefix + code), RULES)
    assert (answer.verdict, answer.reason.code) == (verdict, reason) or (verdict is None and answer.verdict is None)
    assert len(answer.signals) == 1


def test_a_prohibition_names_its_place_and_value() -> None:
    """Who asks why is told the property, its value and where it stands; conditions are quoted."""
    answer = judge_xmp(said(NO), RULES)
    assert answer.where == "XMP, JPEG APP1, https://b.example/x.jpg"
    assert answer.reason.detail == f"plus:DataMining={NO}"
    assert answer.signals[0].stance is Stance.DENY
    answer = judge_xmp(said("DMI-PROHIBITED-SEECONSTRAINT", plus_OtherConstraints="only birds"), RULES)
    assert answer.reason.detail.endswith("plus:OtherConstraints=only birds")
    assert answer.signals[0].stance is Stance.CONSTRAINED


def test_several_values_the_most_restrictive_wins_and_all_are_signals() -> None:
    """No value hides another."""
    answer = judge_xmp(said("DMI-ALLOWED", "what", NO, "DMI-UNSPECIFIED"), RULES)
    assert (answer.verdict, answer.reason.code) == (Verdict.DENY, "xmp-prohibited")
    assert [s.stance for s in answer.signals] == [Stance.ALLOW, Stance.ERROR, Stance.DENY, Stance.UNSET]


def test_an_empty_property_is_no_silence() -> None:
    """plus:DataMining that says nothing readable keeps out."""
    for inside in ("<plus:DataMining/>", mining(" "), "<plus:DataMining><b>x</b></plus:DataMining>"):
        assert judged(png(itxt(packet(inside).encode())), "defer") == (Verdict.DEFER, "xmp-unknown-value")


def test_needles_deny_whatever_the_ruleset_says_of_damage() -> None:
    """The words of a reservation in damaged metadata are taken as one, TDMRep's too."""
    for needle in ("DMI-PROHIBITED", "tdm:reservation"):
        embedded = Embedded("image/jpeg", errors=("cut off",), needles=(needle,))
        answer = judge_xmp(replace(EVIDENCE, embedded=embedded), replace(RULES, damaged="defer"))
        assert (answer.verdict, answer.reason.code) == (Verdict.DENY, "xmp-damaged-reservation")
        assert [s.stance for s in answer.signals] == [Stance.DENY, Stance.ERROR]


def test_what_was_not_looked_at_keeps_out() -> None:
    """An image that was not fetched, or not read, is never taken for one that says nothing."""
    assert judge_xmp(EVIDENCE, RULES).reason.code == "not-observed"
    answer = judge_xmp(replace(EVIDENCE, fetch_error="timeout"), RULES)
    assert (answer.verdict, answer.reason.code) == (Verdict.DEFER, "fetch-failed")


def test_tdm_properties_are_tdmreps_to_judge() -> None:
    """tdm:reservation in a whole packet says nothing here."""
    assert judge_xmp(said(tdm_reservation="1"), RULES).verdict is None
