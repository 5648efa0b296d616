"""No document, however it is built, takes more than 64 MB to read: it is judged, or kept out.

The cases run in a process of their own, each in a fork whose address space may grow by 64 MB over what it has with
the document already in hand. An allocation that is refused there is an error here, and so is a crash.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from curation.pages import read_page
from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.ruleset import Ruleset, judge
from policy.signals.embedded import judge_xmp, read_embedded
from policy.verdict import Judgement

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default()
ORIGIN = "https://a.example"
IMAGE = f"{ORIGIN}/gallery/x.jpg"
MEMORY_BYTES = 64 * 2**20
# Most take under 50 ms; the bound is for a machine that is busy with other things.
MB = 2**20
LONG = 72 * MB  # a second one of it would be too much


class Case(NamedTuple):
    """A hostile document: its builder, what reads it, and the verdicts that are right ("unset" for none)."""

    build: Callable[[], bytes]
    read: Callable[[bytes], str]
    right: frozenset[str]


KEPT_OUT = frozenset({"deny", "defer"})
ANY = frozenset({"allow", "deny", "defer", "unset"})
NOT_ALLOWED = ANY - {"allow"}


# ── what reads them ────────────────────────────────────────────────────────────────────────────────────────────────


def evidence(**more: Any) -> Evidence:
    values: dict[str, Any] = {"page_url": f"{ORIGIN}/", "page_headers": (), "page_meta": (), "page_rsl": ()}
    values |= {"hops": (Hop(IMAGE, 200, ()),), "observed_at": NOW, "observer": "test", "observer_version": "1"}
    return Evidence(image_url=IMAGE, **values | more)


def verdict(judged: Judgement) -> str:
    return judged.verdict.value if judged.verdict is not None else "unset"


def of_document(name: str, mechanism: str | None = None) -> Callable[[bytes], str]:
    """Judge `mechanism` with the body as the origin's document `name`."""

    def read(body: bytes) -> str:
        document = Document(f"{ORIGIN}/{name}", 200, NOW, body=body, body_sha256="0" * 64)
        others = Document(f"{ORIGIN}/robots.txt", 404, NOW)
        documents = ((name, document), *((("robots", others),) if name != "robots" else ()))
        origins = (OriginEvidence(ORIGIN, documents),)
        return verdict(judge(RULES, mechanism or name, evidence(origins=origins), NOW))

    return read


def of_header(name: str, mechanism: str) -> Callable[[bytes], str]:
    def read(value: bytes) -> str:
        origins = (OriginEvidence(ORIGIN, tuple((n, Document(ORIGIN, 404, NOW)) for n in ("robots", "tdmrep"))),)
        hops = (Hop(IMAGE, 200, ((name, value.decode("latin-1")),)),)
        return verdict(judge(RULES, mechanism, evidence(origins=origins, hops=hops), NOW))

    return read


def of_inline_rsl(body: bytes) -> str:
    origins = (OriginEvidence(ORIGIN, (("robots", Document(ORIGIN, 404, NOW)),)),)
    inline = (("inline", body.decode("latin-1")),)
    return verdict(judge(RULES, "rsl", evidence(origins=origins, page_rsl=inline), NOW))


def of_image(body: bytes) -> str:
    return verdict(judge_xmp(evidence(embedded=read_embedded(body)), RULES.xmp))


def of_page(body: bytes) -> str:
    read_page(body, f"{ORIGIN}/", "text/html; charset=utf-8")
    return "unset"


# ── how they are built ─────────────────────────────────────────────────────────────────────────────────────────────


def filled(start: bytes, piece: bytes, size: int, end: bytes = b"") -> Callable[[], bytes]:
    """A document of about `size` bytes: start, the piece over and over, end."""
    return lambda: start + piece * ((size - len(start) - len(end)) // len(piece)) + end


def png(chunk: Callable[[], bytes]) -> Callable[[], bytes]:
    """A PNG with one iTXt chunk of XMP, its text (flags and all) given."""

    def build() -> bytes:
        data = b"iTXtXML:com.adobe.xmp\0" + chunk()
        body = (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
        return b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IEND\xaeB`\x82"

    return build


def packed(text: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: b"\1\0\0\0" + zlib.compress(text(), 1)


def plain(text: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: b"\0\0\0\0" + text()


def endless(size: int) -> bytes:
    """zlib data that hold `size` zeros, made without holding them."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(MB)) for _ in range(size // MB)), packer.flush()])


RDF = b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:p="http://ns.useplus.org/ldf/xmp/1.0/">'
LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (n + 1, b"&l%d;" % n * 10) for n in range(9))
BOMB = b'<!DOCTYPE x [<!ENTITY l0 "ha">' + LAUGHS + b"]>"
XMP: dict[str, Callable[[], bytes]] = {
    "deep": filled(RDF, b"<a>", 300_000),
    "deep-long-names": filled(RDF, b"<%s>" % (b"a" * 60), 4 * MB),
    "wide": filled(RDF, b"<a/>", 4 * MB, b"</r:RDF>"),
    "wide-within-bounds": filled(RDF, b"<a></a>", 340_000, b"</r:RDF>"),
    "attributes": lambda: RDF + b"<a " + b" ".join(b'p:a%d=""' % n for n in range(49_000)) + b"/></r:RDF>",
    "too-many-attributes": lambda: RDF + b"<a " + b" ".join(b'a%d=""' % n for n in range(400_000)) + b"/></r:RDF>",
    "long-namespace": lambda: RDF + b'<r:a xmlns="%s">' % (b"x" * MB) + b"<b/>" * 90_000 + b"</r:a></r:RDF>",
    "long-attribute": filled(RDF + b'<a b="', b"x", 4 * MB, b'"/></r:RDF>'),
    "long-text": filled(RDF + b"<p:DataMining>", b"x\n", 4 * MB, b"</p:DataMining></r:RDF>"),
    "references": filled(RDF + b"<p:DataMining>", b"&#65;", 4 * MB, b"</p:DataMining></r:RDF>"),
    "values": filled(RDF + b"<p:DataMining><r:Bag>", b"<r:li>x</r:li>", MB, b"</r:Bag></p:DataMining></r:RDF>"),
    "entity-bomb": lambda: BOMB + RDF + b"&l9;</r:RDF>",
    "utf-16": lambda: ("<a>" * 600_000).encode("utf-16"),
    "utf-32": lambda: (RDF.decode() + "\U0001f600" * MB).encode("utf-32"),
    "long": filled(RDF, b"<a/>", LONG),
}

JSON: dict[str, Callable[[], bytes]] = {
    "deep-arrays": filled(b"", b"[", 400_000),
    "deep-objects": filled(b"", b'{"a":', 400_000),
    "empty-arrays": filled(b"[", b"[],", 500_000, b"[]]"),
    "empty-objects": filled(b"[", b"{},", 500_000, b"{}]"),
    "long-number": filled(b"[", b"9", 500_000, b"]"),
    "long-string": filled(b'["', b"\\u0041", 500_000, b'"]'),
    "distinct-keys": lambda: b"{" + b",".join(b'"%d":0' % n for n in range(50_000)) + b"}",
}

_READ_LIKE_ROBOTS = ("groups", "patterns", "bad-bytes", "empty-lines")
PATTERN = b"/" + b"*a" * 3_000 + b"$"
ROBOTS: dict[str, Callable[[], bytes]] = {
    "groups": lambda: b"".join(b"User-agent: bot%d\nDisallow: /\n" % n for n in range(100_000)),
    "our-groups": lambda: b"User-agent: *\nDisallow: /x\n" * 100_000,
    "patterns": filled(b"User-agent: *\n", b"Disallow: " + PATTERN + b"\n", MB),
    "long-line": filled(b"User-agent: *\nDisallow: /", b"a", MB),
    "long-lines": filled(b"User-agent: *\n", b"Disallow: /" + b"a" * 100_000 + b"\n", 5 * MB),
    "bad-bytes": filled(b"User-agent: *\n", b"Disallow: /\xff\n", 2 * MB),
    "utf-16": lambda: ("User-agent: *\n" + "Disallow: /x\n" * 100_000).encode("utf-16"),
    "empty-lines": filled(b"", b"\r", 5 * MB),
    "too-long": filled(b"User-agent: *\nDisallow: /\n", b"Disallow: /x\n", LONG),
}

RSL_START = b'<rsl xmlns="https://rslstandard.org/rsl">'
RSL: dict[str, Callable[[], bytes]] = {
    "deep": filled(RSL_START, b"<content>", 500_000),
    "wide": filled(RSL_START, b'<content url="/"></content>', MB, b"</rsl>"),
    "attributes": lambda: RSL_START + b"<content " + b" ".join(b'a%d=""' % n for n in range(60_000)) + b"/></rsl>",
    "long-attribute": filled(RSL_START + b'<content url="', b"*a", 2 * MB, b'"/></rsl>'),
    "entity-bomb": lambda: BOMB + RSL_START + b"&l9;</rsl>",
    "too-long": filled(RSL_START, b"<content/>", LONG),
}


def script(text: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: b'<p><script type="application/ld+json">' + text() + b"</script><img src=/x.jpg alt=apple>"


CASES: dict[str, Case] = {
    **{f"xmp {name}": Case(png(plain(text)), of_image, KEPT_OUT | {"unset"}) for name, text in XMP.items()},
    **{
        f"xmp compressed {name}": Case(png(packed(XMP[name])), of_image, KEPT_OUT)
        for name in ("deep", "wide", "utf-32")
    },
    "xmp zlib bomb": Case(png(lambda: b"\1\0\0\0" + endless(2 * LONG)), of_image, KEPT_OUT),
    "xmp needle behind 40 MB": Case(
        png(plain(filled(RDF, b"<a/>", 40 * MB, b"DMI-PROHIBITED"))), of_image, frozenset({"deny"})
    ),
    "image unknown": Case(filled(b"", b"x", LONG), of_image, KEPT_OUT),
    "image of packets": Case(filled(b"", b"<?xpacket begin", LONG), of_image, KEPT_OUT),
    **{f"tdmrep {name}": Case(text, of_document("tdmrep"), KEPT_OUT) for name, text in JSON.items()},
    "tdmrep too long": Case(filled(b"[", b"{},", LONG, b"{}]"), of_document("tdmrep"), KEPT_OUT),
    **{f"robots {name}": Case(text, of_document("robots"), ANY) for name, text in ROBOTS.items()},
    **{f"ai_txt {name}": Case(ROBOTS[name], of_document("ai_txt"), ANY) for name in _READ_LIKE_ROBOTS},
    **{f"ai_agents {name}": Case(ROBOTS[name], of_document("robots", "ai_agents"), ANY) for name in _READ_LIKE_ROBOTS},
    "content_usage lines": Case(
        filled(b"User-agent: *\n", b"Content-Usage: /" + b"*a" * 50 + b" train-ai=y\n", 5 * MB),
        of_document("robots", "content_usage"),
        ANY,
    ),
    "content_signal lines": Case(
        filled(b"User-agent: *\n", b"Content-Signal: ai-train=yes\n", 5 * MB),
        of_document("robots", "content_signal"),
        ANY,
    ),
    "rsl license lines": Case(
        filled(b"User-agent: *\n", b"License: https://a.example/l\n", 5 * MB), of_document("robots", "rsl"), KEPT_OUT
    ),
    "trust_txt lines": Case(filled(b"", b"datatrainingallowed=yes\n", 5 * MB), of_document("trust_txt"), ANY),
    "trust_txt too long": Case(filled(b"", b"a=b\n", LONG), of_document("trust_txt"), KEPT_OUT),
    "content_usage header": Case(filled(b"", b"a=(b c);d, ", 64_000), of_header("content-usage", "content_usage"), ANY),
    "rsl link header": Case(filled(b"", b"<a>; rel=license, ", 64_000), of_header("link", "rsl"), ANY),
    "x_robots header": Case(filled(b"", b"a: noindex, ", 64_000), of_header("x-robots-tag", "x_robots"), ANY),
    **{f"rsl {name}": Case(text, of_document("rsl"), KEPT_OUT | {"unset"}) for name, text in RSL.items()},
    **{f"rsl inline {name}": Case(RSL[name], of_inline_rsl, KEPT_OUT) for name in ("deep", "entity-bomb")},
    **{f"page json-ld {name}": Case(script(text), of_page, ANY) for name, text in JSON.items()},
    "page json-ld long": Case(script(filled(b"[", b"[],", 7 * MB, b"[]]")), of_page, ANY),
    "page json-ld many": Case(filled(b"", b'<script type="application/ld+json">[[]]</script>', 2 * MB), of_page, ANY),
}


# ── running them ───────────────────────────────────────────────────────────────────────────────────────────────────


def run_all() -> dict[str, dict[str, Any]]:
    """Every case in a fork under the limit."""
    warm = of_image(png(plain(XMP["entity-bomb"]))())
    assert warm in KEPT_OUT
    for read in (of_document("robots"), of_document("rsl"), of_document("tdmrep"), of_inline_rsl, of_page):
        read(b"x")
    return {name: _forked(case) for name, case in CASES.items()}


def _forked(case: Case) -> dict[str, Any]:
    body = case.build()
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        os.write(send, json.dumps(_limited(case, body)).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(said) if said else {"error": f"the reader ended with {status}"}


def _limited(case: Case, body: bytes) -> dict[str, Any]:
    ctypes.CDLL(None).malloc_trim(0)  # what was freed while building must not count as room
    now_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + MEMORY_BYTES, resource.RLIM_INFINITY))
    try:
        return {"verdict": case.read(body)}
    except BaseException as error:
        return {"error": repr(error)[:200]}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    if sys.platform != "linux":
        pytest.skip("the address space is limited on Linux only")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, cwd=ROOT, env=environment, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_document_is_read_within_bounds(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    """64 MB more than the document itself, and an answer that does not let it in."""
    outcome = outcomes[name]
    assert "error" not in outcome
    assert outcome["verdict"] in CASES[name].right


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_all()))
