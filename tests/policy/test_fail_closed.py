"""The sweep: whatever happens to a no on its way to us, at each position, it never becomes a yes.

Damage that transport or grammar can show (a short body, bytes that no encoding has, JSON, XML, XMP or C2PA that does
not close) keeps the sample out. Of an edit that nothing can show, the verdict is that of a second, much smaller
reading of the edited text: Google's own robots matcher, the json module, ElementTree, or a regular expression.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from policy.evidence import LicenceClaim
from policy.judge import ImageFacts, PairHints, Readers, judge_line
from policy.ruleset import Ruleset
from policy.signals.ai_agents import TRAINING
from policy.signals.c2pa import read_c2pa
from policy.signals.embedded import read_embedded

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULESET = Ruleset.default()
PATH = "/images/x.jpg"
URL = f"https://a.example{PATH}"
ABSENT = {"status": 404}
CAWG = Path(__file__).parents[3] / "shared" / "fixtures" / "images" / "C_with_CAWG_data.jpg"

# Verdicts: "deny", "defer", "unset", "allow".
NO = frozenset({"deny"})
NOTHING = frozenset({"unset"})
KEPT_OUT = frozenset({"deny", "defer"})
NO_YES = frozenset({"deny", "defer", "unset"})

GOOGLE = importlib.import_module("robotstxt").RobotsMatcher()


# ── judging ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Page:
    """A page whose HTML is one meta element: its name, a blank, its content."""

    meta: tuple[tuple[str, str], ...]
    rsl: tuple[tuple[str, str], ...] = ()
    licence_claims: tuple[LicenceClaim, ...] = ()
    pairs: tuple[PairHints, ...] = ()


def read_page(html: bytes, base_url: str, content_type: str | None) -> Page:
    name, _, content = html.decode().partition(" ")
    return Page(((name, content),))


def judge(mechanism: str, line: dict[str, Any], image: bytes = b"") -> tuple[str, str]:
    """The mechanism's verdict and the verdict of all, as `custody inspect judge` answers them."""

    def read_image(path: str) -> ImageFacts:
        digests = hashlib.sha256(image).hexdigest(), hashlib.md5(image, usedforsecurity=False).hexdigest()
        return ImageFacts(*digests, read_embedded(image), read_c2pa(image))

    case = json.dumps({"url": URL, "mechanisms": [mechanism], **line})
    answer = judge_line(case, RULESET, Readers(read_page, read_image), now=NOW)
    (decision,) = answer["decisions"]
    return decision["verdict"], answer["verdict"]


def document(name: str) -> Callable[[bytes], dict[str, Any]]:
    """A line that gives a document of the image's origin, and robots.txt as absent where it is another."""

    def line(body: bytes, **more: object) -> dict[str, Any]:
        given = {"status": 200, "body_base64": base64.b64encode(body).decode(), **more}
        return {"robots": ABSENT, "image": {"headers": []}, name: given}

    return line


def header(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda value: {"robots": ABSENT, "tdmrep": ABSENT, "image": {"headers": [[name, value]]}}


def meta(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda value: {"robots": ABSENT, "tdmrep": ABSENT, "page": {"html": f"{name} {value}"}}


# ── damage and edits ───────────────────────────────────────────────────────────────────────────────────────────────


def cuts(body: bytes) -> Iterator[bytes]:
    return (body[:at] for at in range(len(body)))


def bad_bytes(body: bytes) -> Iterator[bytes]:
    """At each position a byte that UTF-8 does not have there, in the place of what stood there and before it."""
    for at in range(len(body) + 1):
        for bad in (b"\xff", b"\x80"):
            yield body[:at] + bad + body[at:]
            yield body[:at] + bad + body[at + 1 :]


def bad_characters(value: str) -> Iterator[str]:
    """The same of a header or a meta element, which reach us as characters."""
    for at in range(len(value) + 1):
        for bad in ("\xff", "\ufffd", "\0"):
            yield value[:at] + bad + value[at:]
            yield value[:at] + bad + value[at + 1 :]


def edits(text: str, inserted: str = "x \n") -> Iterator[str]:
    """At each position: the rest lost, a letter lost, another in its place or before it, its case, its neighbour."""
    for at in range(len(text)):
        before, letter, after = text[:at], text[at], text[at + 1 :]
        yield before
        yield before + after
        yield before + letter.swapcase() + after
        yield before + after[:1] + letter + after[1:]
        for other in inserted:
            yield before + other + after
            yield before + other + letter + after


# ── the second readings ────────────────────────────────────────────────────────────────────────────────────────────


def _allowed(text: str, agent: str = "custody") -> bool:
    return bool(GOOGLE.is_allowed(text, agent, URL))


def reads_robots(text: str) -> frozenset[str]:
    """A line break in "Disallow" leaves an Allow, which alone permits."""
    if not _allowed(text):
        return NO
    return frozenset({"allow"}) if re.search("^allow:", text, re.MULTILINE) else NOTHING


def reads_ai_agents(text: str) -> frozenset[str]:
    return NOTHING if all(_allowed(text, agent) for agent in TRAINING) else NO


def reads_ai_txt(text: str) -> frozenset[str]:
    """Of ai.txt we understand more than Google would: what is no rule to Google may be one."""
    permits = re.search("^allow:", text, re.MULTILINE)
    return NO if not _allowed(text) else frozenset({"allow"}) if permits else NO_YES


def _in_our_group(text: str, line: re.Match[str], path: str) -> bool:
    """Whether a line stands in our group, about our path: Google is asked of a Disallow in its place."""
    return not _allowed(f"{text[: line.start()]}Disallow: {path}{text[line.end() :]}")


def reads_content_usage(text: str) -> frozenset[str]:
    line = re.search(r"^[ \t]*content-usage[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.IGNORECASE | re.MULTILINE)
    if line is None:
        return NOTHING
    value = line[1]
    path, dictionary = PATH, value
    if value.startswith("/"):
        path, blank, dictionary = value.partition(" ")
        if not blank:
            path, dictionary = PATH, value if _mentions(value) else ""
    if _in_our_group(text, line, path):
        return _dictionary(dictionary.strip())
    # In nobody's group it may be about everybody.
    return NOTHING if re.search(r"^user-agent:.*\ncontent", text, re.IGNORECASE | re.MULTILINE) else NO | NOTHING


def _dictionary(value: str) -> frozenset[str]:
    """A dictionary of bare tokens: RFC 9651 knows more, but no edit of ours makes it."""
    members = [re.fullmatch(r"[ \t]*([a-z*][a-z0-9_.*-]*)(?:=([A-Za-z*][\w.*-]*))?[ \t]*", m) for m in value.split(",")]
    if all(members) or not value:
        says = {m[1]: m[2] for m in members if m is not None}.get("train-ai")
        return {"n": NO, "y": frozenset({"allow"})}.get(says or "", NOTHING)
    return frozenset({"defer"}) if _mentions(value) else NOTHING


def _mentions(value: str) -> bool:
    letters = re.sub(r"[\W_]", "", value).lower()
    return "trainai" in letters or "aitrain" in letters


def reads_content_usage_header(value: str) -> frozenset[str]:
    return _dictionary(value.strip(" \t"))


def reads_content_signal(text: str) -> frozenset[str]:
    line = re.search(r"^[ \t]*content-signal[ \t]*:(.*)$", text, re.IGNORECASE | re.MULTILINE)
    return reads_content_signal_header(line[1]) if line and _in_our_group(text, line, PATH) else NO_YES


def reads_content_signal_header(value: str) -> frozenset[str]:
    """What is written otherwise than in the policy text may be understood, but never as a yes."""
    return NO if re.search(r"(?:^|,)[ \t]*ai-train[ \t]*=[ \t]*no[ \t]*(?:,|$)", value) else NO_YES


def reads_trust(text: str) -> frozenset[str]:
    return NO if re.search(r"^datatrainingallowed=no$", text, re.MULTILINE) else NO_YES


def reads_tdmrep(text: str) -> frozenset[str]:
    try:
        entries = json.loads(text)
    except ValueError:
        return frozenset({"defer"})
    if not isinstance(entries, list):
        return KEPT_OUT
    says = [_tdm_entry(entry) for entry in entries]
    matching = [reserved for location, reserved in says if location is not None and PATH.startswith(location)]
    if any(location is None or reserved is None for location, reserved in says):
        return NO if 1 in matching else frozenset({"defer"})
    return {1: NO, 0: frozenset({"allow"})}[matching[0]] if matching else NOTHING


def _tdm_entry(entry: object) -> tuple[str | None, Any]:
    if not isinstance(entry, dict):
        return None, None
    location, reserved = entry.get("location"), entry.get("tdm-reservation")
    return (
        location if isinstance(location, str) and location[:1] in ("/", "*") else None,
        reserved if type(reserved) is int and reserved in (0, 1) else None,
    )


def reads_tdm_value(value: str) -> frozenset[str]:
    return {"1": NO, "0": frozenset({"allow"})}.get(value.strip(), NOTHING)


def reads_x_robots(value: str) -> frozenset[str]:
    return NO if "noai" in re.split(r"[,\s]+", value.lower()) else NOTHING


RSL = "{https://rslstandard.org/rsl}"


def reads_rsl(text: str) -> frozenset[str]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return KEPT_OUT
    for content in root.iterfind(f"{RSL}content") if root.tag == f"{RSL}rsl" else ():
        about = content.get("url", "").startswith("/") and PATH.startswith(content.get("url", "?"))
        for said in content.iterfind(f"{RSL}license/{RSL}prohibits[@type='usage']"):
            if about and "ai-train" in (said.text or "").split(" "):
                return NO
    return NO_YES


# ── documents ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Said(NamedTuple):
    """A no: whose it is, how it is put before the judge, its text, the second reading."""

    mechanism: str
    line: Callable[..., dict[str, Any]]
    text: str
    read: Callable[[str], frozenset[str]]


DOCUMENTS = {
    "robots": Said("robots", document("robots"), "User-agent: *\nDisallow: /images/\n", reads_robots),
    "ai_agents": Said("ai_agents", document("robots"), "User-agent: GPTBot\nDisallow: /images/\n", reads_ai_agents),
    "content_usage": Said(
        "content_usage",
        document("robots"),
        "User-agent: *\nContent-Usage: /images/ search=y, train-ai=n\n",
        reads_content_usage,
    ),
    "content_signal": Said(
        "content_signal",
        document("robots"),
        "User-agent: *\nContent-Signal: search=yes, ai-train=no\n",
        reads_content_signal,
    ),
    "ai_txt": Said("ai_txt", document("ai_txt"), "User-agent: *\nDisallow: /*.jpg\n", reads_ai_txt),
    "trust_txt": Said(
        "trust_txt",
        document("trust_txt"),
        "member=https://news.example/\ndatatrainingallowed=no\n",
        reads_trust,
    ),
    "tdmrep": Said(
        "tdmrep",
        document("tdmrep"),
        '[{"location": "/other/", "tdm-reservation": 0}, {"location": "/images/", "tdm-reservation": 1}]',
        reads_tdmrep,
    ),
    "rsl": Said(
        "rsl",
        document("rsl"),
        f'<?xml version="1.0"?><rsl xmlns="{RSL[1:-1]}"><content url="/images/"><license>'
        '<prohibits type="usage">ai-train</prohibits></license></content></rsl>',
        reads_rsl,
    ),
}
CLOSED = ("tdmrep", "rsl")  # whose grammar shows where it was cut


@pytest.mark.parametrize("said", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_whole_no_is_a_no(said: Said) -> None:
    """Without damage each text of the sweep denies."""
    assert judge(said.mechanism, said.line(said.text.encode())) == ("deny", "deny")
    assert said.read(said.text) == NO


@pytest.mark.parametrize("said", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_short_body_never_permits(said: Said) -> None:
    """A document that the transport knows to be cut, at whatever byte, keeps the sample out."""
    for body in cuts(said.text.encode()):
        for short in ({"truncated": True}, {"error": "the connection was closed early"}):
            verdict, overall = judge(said.mechanism, said.line(body, **short))
            assert verdict in KEPT_OUT, body
            assert overall != "allow", body


@pytest.mark.parametrize("said", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_bytes_that_no_encoding_has_never_permit(said: Said) -> None:
    """A byte that is no text, wherever it stands, may have been part of the no."""
    for body in bad_bytes(said.text.encode()):
        verdict, overall = judge(said.mechanism, said.line(body))
        assert verdict in KEPT_OUT, body
        assert overall != "allow", body


@pytest.mark.parametrize("name", CLOSED)
def test_what_does_not_close_never_permits(name: str) -> None:
    """JSON and XML cut at any byte are damage, whatever the transport says."""
    said = DOCUMENTS[name]
    for body in cuts(said.text.encode()):
        assert judge(said.mechanism, said.line(body))[0] in KEPT_OUT, body


@pytest.mark.parametrize("said", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_an_edit_that_nothing_shows_is_read_as_it_stands(said: Said) -> None:
    """The verdict on an edited document is that of an independent reading of it."""
    for text in edits(said.text):
        verdict, _ = judge(said.mechanism, said.line(text.encode()))
        assert verdict in said.read(text), text


# ── headers and meta elements ──────────────────────────────────────────────────────────────────────────────────────

VALUES = {
    "content_usage": Said("content_usage", header("Content-Usage"), "search=y, train-ai=n", reads_content_usage_header),
    "content_signal": Said(
        "content_signal", header("Content-Signal"), "search=yes, ai-train=no", reads_content_signal_header
    ),
    "tdmrep": Said("tdmrep", header("tdm-reservation"), "1", reads_tdm_value),
    "tdmrep-meta": Said("tdmrep", meta("tdm-reservation"), "1", reads_tdm_value),
    "x_robots": Said("x_robots", header("X-Robots-Tag"), "all, noai", reads_x_robots),
    "x_robots-meta": Said("x_robots", meta("robots"), "all, noai", reads_x_robots),
}


@pytest.mark.parametrize("said", VALUES.values(), ids=VALUES.keys())
def test_characters_that_no_header_has_never_permit(said: Said) -> None:
    """A character that is no part of the language, wherever it stands, may have been part of the no."""
    assert judge(said.mechanism, said.line(said.text)) == ("deny", "deny")
    for value in bad_characters(said.text):
        verdict, overall = judge(said.mechanism, said.line(value))
        assert verdict in KEPT_OUT, value
        assert overall != "allow", value


def test_a_damaged_link_to_a_licence_never_permits() -> None:
    """A Link header that declared an RSL document, which nobody asked for, keeps out however it is damaged."""
    value = '<https://a.example/license.xml>; rel="license"; type="application/rsl+xml"'
    for damaged in (value, *bad_characters(value)):
        verdict, overall = judge("rsl", header("Link")(damaged))
        assert verdict in KEPT_OUT, damaged
        assert overall != "allow", damaged


@pytest.mark.parametrize("said", VALUES.values(), ids=VALUES.keys())
def test_an_edit_of_a_value_is_read_as_it_stands(said: Said) -> None:
    """The verdict on an edited header or meta element is that of an independent reading of it."""
    for value in edits(said.text, "x "):
        verdict, _ = judge(said.mechanism, said.line(value))
        assert verdict in said.read(value), value


# ── metadata in the image ──────────────────────────────────────────────────────────────────────────────────────────

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
TDM = "http://www.w3.org/ns/tdmrep/"


def packet(inside: str) -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="">{inside}'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


PLUS_NO = packet(f'<p:DataMining xmlns:p="{PLUS}">http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED</p:DataMining>')
TDM_NO = packet(f'<t:reservation xmlns:t="{TDM}">1</t:reservation>')


def png(xmp: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"iTXt", text) + pixels + chunk(b"IEND", b"")


JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg(xmp: bytes) -> bytes:
    def segment(marker: int, data: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data

    scan = segment(0xDA, b"\x01\x01\0\0\x3f\0") + b"\x12\x34"
    return b"\xff\xd8" + segment(0xE1, JPEG_XMP + xmp) + segment(0xDB, b"\0" + b"\1" * 64) + scan + b"\xff\xd9"


IMAGES = {
    "xmp-png": ("xmp", png(PLUS_NO)),
    "xmp-jpeg": ("xmp", jpeg(PLUS_NO)),
    "tdmrep-png": ("tdmrep", png(TDM_NO)),
    "tdmrep-jpeg": ("tdmrep", jpeg(TDM_NO)),
}
FILE = {"robots": ABSENT, "tdmrep": ABSENT, "image": {"path": "x", "headers": []}}


@pytest.mark.parametrize(("mechanism", "image"), IMAGES.values(), ids=IMAGES.keys())
def test_an_image_cut_anywhere_never_permits(mechanism: str, image: bytes) -> None:
    """An image that ends too early keeps its sample out, wherever its metadata ended."""
    assert judge(mechanism, FILE, image) == ("deny", "deny")
    for body in cuts(image):
        verdict, overall = judge(mechanism, FILE, body)
        assert verdict in KEPT_OUT, body[-20:]
        assert overall != "allow"


@pytest.mark.parametrize("name", ["xmp-png", "tdmrep-png"])
def test_a_png_changed_anywhere_never_permits(name: str) -> None:
    """A PNG's checksums show any changed byte of the chunk that held the no."""
    mechanism, image = IMAGES[name]
    end = image.index(b"IDAT") - 4
    for at in range(8, end):
        for body in (image[:at] + bytes((image[at] ^ 0x20,)) + image[at + 1 :], image[:at] + image[at + 1 :]):
            verdict, overall = judge(mechanism, FILE, body)
            assert verdict in KEPT_OUT, (at, body[max(0, at - 10) : at + 10])
            assert overall != "allow"


@pytest.mark.parametrize("name", ["xmp-jpeg", "tdmrep-jpeg"])
def test_a_packet_changed_anywhere_is_damage_or_read_as_it_stands(name: str) -> None:
    """A changed packet that is no XML keeps out; one that is says what ElementTree reads in it."""
    mechanism, _ = IMAGES[name]
    xmp = PLUS_NO if mechanism == "xmp" else TDM_NO
    for text in (*edits(xmp.decode()), *bad_bytes(xmp)):
        if not text:
            continue  # an empty packet is none
        body = text.encode() if isinstance(text, str) else text
        verdict, overall = judge(mechanism, FILE, jpeg(body))
        expected = _reads_xmp(body, mechanism)
        assert verdict in expected, body
        assert expected is not KEPT_OUT or overall != "allow", body


def _reads_xmp(body: bytes, mechanism: str) -> frozenset[str]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return KEPT_OUT
    name, no = (f"{{{PLUS}}}DataMining", "DMI-PROHIBITED") if mechanism == "xmp" else (f"{{{TDM}}}reservation", "1")
    found = [e.text or "" for d in root.iterfind(f"{{{RDF}}}RDF/{{{RDF}}}Description") for e in d.iterfind(name)]
    return NO if any(text == no or text.endswith(f"/vocab/{no}") for text in found) else NO_YES


def test_a_manifest_store_changed_anywhere_never_permits() -> None:
    """Wherever a byte of a signed picture that says no is changed or lost, or the file ends, it stays out."""
    if not CAWG.exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    image = CAWG.read_bytes()
    assert judge("c2pa", FILE, image) == ("deny", "deny")
    start = image.index(b"cawg.training-mining")
    places = [*range(0, 64), *range(start - 60, start + 300, 5), *range(64, len(image), 1_009)]
    for at in places:
        for body in (image[:at], image[:at] + bytes((image[at] ^ 0x20,)) + image[at + 1 :]):
            verdict, overall = judge("c2pa", FILE, body)
            if b"training-mining" in body:
                assert verdict in KEPT_OUT, at
                assert overall != "allow", at
            else:
                assert verdict != "allow", at
