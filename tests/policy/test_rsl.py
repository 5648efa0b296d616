"""RSL: every place of declaration counts, what cannot be read is no permission, prohibitions win, patterns match."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Headers, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.rsl import MAX_DECLARED, declared_urls, judge_rsl, read_links
from policy.signals.rsl_document import MAX_DEPTH, MAX_ELEMENTS, RslDocument, Unreadable, parse
from policy.verdict import Judgement, Stance, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default().robots
NS = "https://rslstandard.org/rsl"
PAGE, IMAGE = "https://a.example/p/", "https://b.example/images/x.jpg"
LICENCE = "https://b.example/license.xml"
LICENSE_LINE = f"License: {LICENCE}\n"
LINK = f'<{LICENCE}>; rel="license"; type="application/rsl+xml"'

FREE = '<license><permits type="usage">ai-train</permits></license>'
NEVER = '<license><prohibits type="usage">ai-all</prohibits></license>'
PRICED = '<license><permits type="usage">ai-all</permits><payment type="training"/></license>'


def document(url: str, status: int | None, body: bytes | str = b"", **more: Any) -> Document:
    text = body.encode() if isinstance(body, str) else body
    full = status == 200
    given = Document(url, status, NOW, body=text if full else None, body_sha256=Document.digest(text) if full else None)
    return replace(given, **more)


def origin(name: str, robots: str | None = None, **documents: Document) -> OriginEvidence:
    own = document(f"{name}/robots.txt", 404 if robots is None else 200, robots or "")
    return OriginEvidence(name, (("robots", own), *documents.items()))


SILENT = Evidence(
    page_url=PAGE,
    image_url=IMAGE,
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(origin("https://a.example"), origin("https://b.example")),
    page_headers=(),
    page_meta=(),
    page_rsl=(),
    hops=(Hop(IMAGE, 200, ()),),
)


def rsl(*contents: str, attributes: str = "") -> str:
    return f'<rsl xmlns="{NS}"{attributes}>{"".join(contents)}</rsl>'


def content(inside: str, url: str = "/", attributes: str = "") -> str:
    return f'<content url="{url}"{attributes}>{inside}</content>'


def declaring(robots: str = LICENSE_LINE, **more: Any) -> Evidence:
    own = (origin("https://a.example"), origin("https://b.example", robots))
    return replace(SILENT, origins=own, **more)


def licensed(text: str | bytes, **more: Any) -> Evidence:
    return declaring(declared=(document(LICENCE, 200, text, **more),))


def judged(evidence: Evidence, now: datetime = NOW) -> Judgement:
    return judge_rsl(evidence, RULES, 30, now)


def said(evidence: Evidence) -> tuple[Verdict | None, str]:
    answer = judged(evidence)
    return answer.verdict, answer.reason.code


# ── terms ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("licence", "verdict", "code"),
    [
        # prohibitions
        ('<prohibits type="usage">all</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">ai-all</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">ai-train</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">train-ai</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">search,ai-train</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">\n  AI-Train\n</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">ai-<!-- x -->train</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage"><![CDATA[ai-train]]></prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">&#97;i-train</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ("<prohibits>ai-train</prohibits>", Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">ai-training</prohibits>', Verdict.DENY, "rsl-prohibited"),
        ('<prohibits type="usage">search ai-input ai-index</prohibits>', None, "rsl-silent"),
        ('<prohibits type="usage">x:anything</prohibits>', None, "rsl-silent"),
        ('<prohibits type="usage"></prohibits>', None, "rsl-silent"),
        # a prohibition beats a permission (section 3.6), as in the Guardian's file of 2026
        (
            '<permits type="usage">ai-train ai-input</permits><prohibits type="usage">all</prohibits>',
            Verdict.DENY,
            "rsl-prohibited",
        ),
        # what is listed is all that is permitted
        ('<permits type="usage">search</permits>', Verdict.DENY, "rsl-not-permitted"),
        ('<permits type="usage">search ai-input ai-index</permits>', Verdict.DENY, "rsl-not-permitted"),
        ('<permits type="usage"/>', Verdict.DENY, "rsl-not-permitted"),
        ('<permits type="usage">ai-everything</permits>', Verdict.DENY, "rsl-not-permitted"),
        # permitted freely
        ('<permits type="usage">all</permits>', Verdict.ALLOW, "rsl-permitted"),
        ('<permits type="usage">ai-all</permits>', Verdict.ALLOW, "rsl-permitted"),
        ('<permits type="usage">search ai-train</permits>', Verdict.ALLOW, "rsl-permitted"),
        ('<permits type="usage">train-ai</permits>', Verdict.ALLOW, "rsl-permitted"),
        ('<permits type="usage">ai-train</permits><payment type="free"/>', Verdict.ALLOW, "rsl-permitted"),
        (
            '<permits type="usage">all</permits><payment type="free"><amount currency="USD">0.00</amount></payment>',
            Verdict.ALLOW,
            "rsl-permitted",
        ),
        ('<permits type="usage">all</permits><legal type="disclaimer">as-is</legal>', Verdict.ALLOW, "rsl-permitted"),
        # conditions
        *(
            (f'<permits type="usage">all</permits><payment type="{kind}"/>', Verdict.DENY, "rsl-constrained")
            for kind in ("purchase", "subscription", "training", "crawl", "use", "contribution", "attribution")
        ),
        ('<permits type="usage">all</permits><payment/>', Verdict.DENY, "rsl-constrained"),
        ('<permits type="usage">all</permits><payment type="inference"/>', Verdict.DENY, "rsl-constrained"),
        (
            '<permits type="usage">all</permits><payment type="free"><amount currency="USD">1</amount></payment>',
            Verdict.DENY,
            "rsl-constrained",
        ),
        (
            '<permits type="usage">all</permits><payment type="free"><custom>/ask</custom></payment>',
            Verdict.DENY,
            "rsl-constrained",
        ),
        (
            '<permits type="usage">all</permits><permits type="user">non-commercial</permits>',
            Verdict.DENY,
            "rsl-constrained",
        ),
        ('<permits type="usage">all</permits><permits type="geo">EU</permits>', Verdict.DENY, "rsl-constrained"),
        ('<permits type="usage">all</permits><prohibits type="geo">US</prohibits>', Verdict.DENY, "rsl-constrained"),
        (
            '<permits type="usage">all</permits><reporting type="telemetry" profile="https://p.example/"/>',
            Verdict.DENY,
            "rsl-constrained",
        ),
        ("<permits>ai-train</permits>", Verdict.DENY, "rsl-constrained"),
        ('<permits type="purpose">anything</permits>', Verdict.DENY, "rsl-constrained"),
        (
            '<payment type="subscription"><custom>https://b.example/ask</custom></payment>',
            Verdict.DENY,
            "rsl-constrained",
        ),
        # nothing about training
        ("", None, "rsl-silent"),
        ('<payment type="free"/>', None, "rsl-silent"),
        ('<legal type="contact">mailto:a@b.example</legal>', None, "rsl-silent"),
        # a misspelt prohibition must not read as none
        ('<prohibit type="usage">ai-train</prohibit>', Verdict.DENY, "rsl-unreadable"),
        ('<permits type="usage">all</permits><unknown/>', Verdict.DENY, "rsl-unreadable"),
        # extensions of others are passed over, with all that they hold
        (
            f'<x:y xmlns:x="urn:x"><prohibits xmlns="{NS}">all</prohibits></x:y>{FREE[9:-10]}',
            Verdict.ALLOW,
            "rsl-permitted",
        ),
    ],
)
def test_what_a_licence_says_of_training(licence: str, verdict: Verdict | None, code: str) -> None:
    """Usage, user, geo and payment terms, as the specification has them; the drafts' `train-ai` and commas too."""
    assert said(licensed(rsl(content(f"<license>{licence}</license>")))) == (verdict, code)


def test_the_reason_quotes_the_words_and_the_line() -> None:
    """The judgement names the licence's line in its document and what stands there, and each statement is a signal."""
    answer = judged(licensed(rsl("\n", content("\n" + FREE, "/images/"), "\n", content(PRICED, "/images/x"))))
    assert answer.where == f"{LICENCE}:4"
    assert answer.reason.detail == "permits usage: ai-all; payment training"
    assert {(s.where, s.stance) for s in answer.signals} == {
        (f"{LICENCE}:3", Stance.ALLOW),
        (f"{LICENCE}:4", Stance.CONSTRAINED),
    }


@pytest.mark.parametrize(
    ("licences", "code"),
    [
        (NEVER + FREE, "rsl-prohibited"),
        (FREE + NEVER, "rsl-prohibited"),
        (PRICED + FREE, "rsl-permitted"),
        ('<license><permits type="usage">search</permits></license>' + FREE, "rsl-permitted"),
        ('<license><permits type="usage">search</permits></license>' + PRICED, "rsl-constrained"),
        ('<license><permits type="usage">search</permits></license><license/>', "rsl-not-permitted"),
        ("<license/>" + FREE, "rsl-permitted"),
    ],
)
def test_licences_of_one_content_are_alternatives_save_for_what_one_prohibits(licences: str, code: str) -> None:
    """One free offer among others is enough; a prohibition in any of them is not outbid (section 3.1.1)."""
    assert judged(licensed(rsl(content(licences)))).reason.code == code


@pytest.mark.parametrize("attributes", [' server="https://l.example/"', ' encrypted="true"', ' server=""'])
def test_a_licence_server_or_a_key_is_a_condition_even_where_it_is_free(attributes: str) -> None:
    """Section 3.3: with a server a token must be had first, whatever the price."""
    assert said(licensed(rsl(content(FREE, attributes=attributes)))) == (Verdict.DENY, "rsl-constrained")


# ── addresses ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "matches"),
    [
        ("/", True),
        ("/images/", True),
        ("/images/*.jpg$", True),
        ("/*/x", True),
        ("*.jpg", True),
        ("/*", True),
        ("", True),
        ("/IMAGES/", False),
        ("/images/x.jpg$", True),
        ("/images/x$", False),
        ("/%69mages/", True),
        ("/other/", False),
        ("https://b.example/images/", True),
        ("https://b.example", True),
        ("http://B.Example:80/images/*", True),
        ("//b.example/images/", True),
        ("https://*.example/", True),
        ("https://c.example/images/", False),
        ("https://b.example:8443/", False),
        ("https://b.example/other/", False),
    ],
)
def test_content_urls_match_as_robots_patterns_do(url: str, matches: bool) -> None:
    """Paths with * and $, whole addresses, and "" for all that the declaration is for; otherwise nothing is said."""
    expected = (Verdict.DENY, "rsl-prohibited") if matches else (None, "rsl-no-match")
    assert said(licensed(rsl(content(NEVER, url)))) == expected


@pytest.mark.parametrize("url", ["images/", "mailto:a@b.example", "ftp://b.example/", "https://", "x" * 20_000])
def test_an_address_that_is_none_may_be_ours(url: str) -> None:
    """A content whose url cannot be understood may be about this image: it is not passed over."""
    assert said(licensed(rsl(content(FREE, url), content(FREE)))) == (Verdict.DENY, "rsl-unreadable")


@pytest.mark.parametrize(
    ("contents", "code"),
    [
        ((content(NEVER), content(FREE, "/images/")), "rsl-permitted"),
        ((content(FREE), content(NEVER, "/images/")), "rsl-prohibited"),
        ((content(FREE, "/images/"), content(NEVER, "/images/*")), "rsl-prohibited"),
        ((content(FREE, "/images/x"), content(NEVER, "/images/*")), "rsl-permitted"),
        ((content(FREE, "https://b.example/images/"), content(NEVER)), "rsl-permitted"),
        # the narrower one says nothing of training: the wider one does
        (
            (content(NEVER), content('<license><prohibits type="usage">search</prohibits></license>', "/images/")),
            "rsl-prohibited",
        ),
        ((content(NEVER), content("<license/>", "/images/")), "rsl-prohibited"),
    ],
)
def test_the_longest_pattern_that_says_anything_decides(contents: tuple[str, ...], code: str) -> None:
    """Narrower scope goes before wider (section 3.1.1), in whichever order they stand; equals count together."""
    assert judged(licensed(rsl(*contents))).reason.code == code
    assert judged(licensed(rsl(*reversed(contents)))).reason.code == code


def test_a_document_may_lie_elsewhere_and_speak_of_who_declares_it() -> None:
    """Paths are the declaring origin's, wherever the document is; whole addresses hold for every URL that was asked."""
    shared = "https://licences.example/standard.xml"
    text = rsl(content(NEVER, "/images/"))
    evidence = declaring(f"License: {shared}\n", declared=(document(shared, 200, text),))
    assert said(evidence) == (Verdict.DENY, "rsl-prohibited")
    theirs = replace(
        SILENT,
        origins=(origin("https://a.example", f"License: {shared}\n"), origin("https://b.example")),
        declared=(document(shared, 200, text),),
    )
    assert said(theirs) == (None, "rsl-no-match")
    whole = (document(shared, 200, rsl(content(NEVER, "https://b.example/"))),)
    assert said(replace(theirs, declared=whole)) == (Verdict.DENY, "rsl-prohibited")


# ── documents that are none ────────────────────────────────────────────────────────────────────────────────────────

BOMB = (
    '<!DOCTYPE rsl [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + f']><rsl xmlns="{NS}"><content url="/"><license><permits type="usage">&j;</permits></license></content></rsl>'
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "User-agent: *",
        "<!DOCTYPE html><html></html>",
        "<html><body>Not found</body></html>",
        "<rsl",
        rsl(content(FREE))[:-1],
        rsl(content(FREE))[:-30],
        rsl(content(FREE)) + "<more/>",
        rsl(),
        rsl("<contents/>", content(FREE)),
        content(FREE),
        f"<rsl>{content(FREE)}</rsl>",
        f'<rsl xmlns="http://rslstandard.org/rsl">{content(FREE)}</rsl>',
        f'<rsl xmlns="{NS}/">{content(FREE)}</rsl>',
        f'<x:rsl xmlns:x="urn:x" xmlns="{NS}">{content(FREE)}</x:rsl>',
        f'<rss xmlns:rsl="{NS}"><rsl:content url="/"><rsl:license/></rsl:content></rss>',
        f'<!DOCTYPE rsl><rsl xmlns="{NS}">{content(FREE)}</rsl>',
        f'<!DOCTYPE rsl SYSTEM "https://b.example/rsl.dtd"><rsl xmlns="{NS}">{content(FREE)}</rsl>',
        f'<!DOCTYPE rsl [<!ENTITY x SYSTEM "file:///etc/passwd">]><rsl xmlns="{NS}">&x;{content(FREE)}</rsl>',
        BOMB,
        rsl("&undefined;", content(FREE)),
        rsl("\x00", content(FREE)),
        f'<?xml version="1.0" encoding="nonsense"?>{rsl(content(FREE))}',
        f'<?xml version="1.0" encoding="shift-jis"?>{rsl(content(FREE))}',
        b"\xff\xfe" + rsl(content(FREE)).encode(),
        rsl(content(FREE)).encode() + b"\xff",
        rsl('<x xmlns="">' * MAX_DEPTH + "</x>" * MAX_DEPTH, content(FREE)),
        rsl(
            '<x xmlns=""/>' * 5,
            "<x:y xmlns:x='u'/>" * (MAX_ELEMENTS // 2),
            content(FREE),
            "<x:y xmlns:x='u'/>" * MAX_ELEMENTS,
        ),
        rsl("<content>" + FREE + "</content>"),
        rsl(content("<terms>https://creativecommons.org/licenses/by-sa/4.0/</terms>")),
        rsl(content('<license><permits type="usage">' + "ai-train " * 20_000 + "</permits></license>")),
        rsl(content(FREE), content('<prohibits type="usage">ai-all</prohibits>' + FREE)),
    ],
)
def test_declared_but_unreadable_is_a_no(text: str | bytes) -> None:
    """HTML, other namespaces, DTDs, entities, damage, bounds and broken structure: DENY, never a permission."""
    answer = judged(licensed(text))
    assert (answer.verdict, answer.reason.code) == (Verdict.DENY, "rsl-unreadable")
    assert Stance.ERROR in {s.stance for s in answer.signals}


def test_dtds_are_refused() -> None:
    """No DTD is read, so no entity can be declared, expanded or fetched."""
    assert isinstance(parse(BOMB.encode()), Unreadable)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings_are_those_of_xml(encoding: str) -> None:
    """UTF-8 and UTF-16 with or without their marks, and what the declaration names."""
    name = "iso-8859-1" if encoding == "latin-1" else encoding.removesuffix("-sig").removesuffix("-le")
    text = f'<?xml version="1.0" encoding="{name}"?>{rsl(content(NEVER))}'.encode(encoding)
    assert said(licensed(text)) == (Verdict.DENY, "rsl-prohibited")


def test_a_prefix_of_ones_own_is_the_same_namespace() -> None:
    """The namespace counts, not the prefix: prefixed elements say what plain ones say."""
    plain = rsl(content(NEVER))
    prefixed = plain.replace("xmlns=", "xmlns:r=").replace("<", "<r:").replace("<r:/", "</r:")
    assert said(licensed(prefixed)) == (Verdict.DENY, "rsl-prohibited")


@pytest.mark.parametrize(
    "text",
    [
        f'<rsl xmlns="{NS}">' + "<x:y xmlns:x='u'/>" * 250_000,
        f'<rsl xmlns="{NS}">' + content(FREE, "/a*b") * 30_000 + "</rsl>",
        f'<rsl xmlns="{NS}"><content ' + " ".join(f'a{i}="{i}"' for i in range(300_000)) + "/></rsl>",
        f'<rsl xmlns="{NS}"><!--' + "x" * 5_000_000 + "-->",
        f'<rsl xmlns="{NS}"><content url="/' + "a*" * 2_400_000 + f'">{FREE}</content></rsl>',
        f'<rsl xmlns="{NS}">' + "<y xmlns='u'>" * 300_000,
        f'<rsl xmlns="{NS}"><content url="' + "x" * 5_000_000,
        f'<rsl xmlns="{NS}">' + "".join(f"<b{i}/>" for i in range(99_000)) + "</rsl>",
    ],
)
def test_a_hostile_document_costs_little(text: str) -> None:
    """No document within the size limit takes more than 64 MB or seconds to read, whatever is in it."""
    body = text.encode()
    tracemalloc.start()
    try:
        parse(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


# ── places of declaration ──────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_declared_anywhere_is_unset() -> None:
    """All places looked at and nothing found: observed, and nothing said."""
    assert said(SILENT) == (None, "rsl-absent")


@pytest.mark.parametrize(
    "missing",
    [
        {"origins": ()},
        {"origins": (origin("https://b.example"),)},
        {"hops": None},
        {"page_headers": None},
        {"page_rsl": None},
    ],
)
def test_what_was_not_looked_at_is_not_absent(missing: dict[str, Any]) -> None:
    """robots.txt of both origins, the responses' headers and the page's elements: each must have been observed."""
    evidence = replace(SILENT, **missing)
    assert said(evidence) == (Verdict.DEFER, "not-observed")


PLACES = {
    "robots": declaring(),
    "robots of the page": replace(
        SILENT,
        origins=(origin("https://a.example", "License: https://a.example/license.xml\n"), origin("https://b.example")),
    ),
    "header": replace(SILENT, hops=(Hop(IMAGE, 200, (("Link", LINK),)),)),
    "header of a redirect": replace(
        SILENT,
        hops=(Hop(IMAGE, 302, (("link", LINK),)), Hop("https://b.example/images/y.jpg", 200, ())),
    ),
    "header of the page": replace(
        SILENT, page_headers=(("LINK", '</license.xml>; rel="license"; type="application/rsl+xml"'),)
    ),
    "element": replace(SILENT, page_rsl=(("link", "https://a.example/license.xml"),)),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_declaration_is_read(place: str) -> None:
    """License lines, Link headers of every hop and of the page, the page's <link>: the document there counts."""
    evidence = PLACES[place]
    (url,) = declared_urls(evidence, RULES)
    assert url in (LICENCE, "https://a.example/license.xml")
    assert said(evidence) == (Verdict.DEFER, "not-observed")
    never = document(url, 200, rsl(content(NEVER)))
    assert said(replace(evidence, declared=(never,))) == (Verdict.DENY, "rsl-prohibited")
    free = document(url, 200, rsl(content(FREE)))
    assert said(replace(evidence, declared=(free,))) == (Verdict.ALLOW, "rsl-permitted")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("status", [204, 401, 402, 403, 404, 410, 451])
def test_declared_but_not_there_is_a_no(place: str, status: int) -> None:
    """An absence is one only where nobody promised anything; forbidden_status does not soften it."""
    evidence = PLACES[place]
    (url,) = declared_urls(evidence, RULES)
    evidence = replace(evidence, declared=(document(url, status),))
    code = "rsl-missing" if status in (204, 404, 410) else "rsl-forbidden"
    assert said(evidence) == (Verdict.DENY, code)
    assert judge_rsl(evidence, replace(RULES, forbidden_status="allow"), 30, NOW).verdict is Verdict.DENY


@pytest.mark.parametrize("status", [None, 429, 500, 503])
def test_an_address_that_does_not_answer_defers_and_then_denies(status: int | None) -> None:
    """Row 1's rules: wait while it is silent, a no after unreachable_deny_days."""
    silent = document(LICENCE, status, error="timeout" if status is None else None)
    assert said(declaring(declared=(silent,))) == (Verdict.DEFER, "rsl-unreachable")
    long = replace(silent, since=NOW - timedelta(days=31))
    assert said(declaring(declared=(long,))) == (Verdict.DENY, "rsl-unreachable-long")


def test_a_document_beyond_the_limit_or_without_its_body_is_not_judged() -> None:
    """Nothing is concluded from the beginning of a document, nor from its digest alone."""
    assert said(licensed(rsl(content(FREE)), truncated=True)) == (Verdict.DEFER, "rsl-too-large")
    digest = replace(document(LICENCE, 200, rsl(content(FREE))), body=None)
    assert said(declaring(declared=(digest,))) == (Verdict.DEFER, "evidence-incomplete")


def test_the_most_restrictive_of_several_documents_counts() -> None:
    """Section 4.9: conflicting terms of different places come to the most restrictive of them."""
    other = "https://b.example/other.xml"
    evidence = replace(
        declaring(),
        hops=(Hop(IMAGE, 200, (("Link", LINK.replace(LICENCE, other)),)),),
        declared=(document(LICENCE, 200, rsl(content(FREE))), document(other, 200, rsl(content(NEVER)))),
    )
    assert said(evidence) == (Verdict.DENY, "rsl-prohibited")
    assert {s.stance for s in judged(evidence).signals} == {Stance.ALLOW, Stance.DENY}


def test_a_document_in_the_page_is_read_where_it_stands() -> None:
    """Inline RSL with url="" is about the page and the images on it; broken, it is a no."""
    for text, expected in (
        (rsl(content(NEVER, "")), (Verdict.DENY, "rsl-prohibited")),
        (f'\n<?xml version="1.0" encoding="utf-16"?>{rsl(content(NEVER, ""))}', (Verdict.DENY, "rsl-prohibited")),
        (rsl(content(FREE, "")), (Verdict.ALLOW, "rsl-permitted")),
        (rsl(content(NEVER, IMAGE)), (Verdict.DENY, "rsl-prohibited")),
        (rsl(content(NEVER, "/images/")), (None, "rsl-no-match")),
        ("<rsl>", (Verdict.DENY, "rsl-unreadable")),
        ("\ud800", (Verdict.DENY, "rsl-unreadable")),
    ):
        assert said(replace(SILENT, page_rsl=(("inline", text),))) == expected


# ── robots.txt ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("robots", "declared"),
    [
        ("License: https://b.example/g.xml\n\nUser-agent: *\nAllow: /\n", ["g"]),
        ("License: https://b.example/g.xml\nUser-agent: *\nAllow: /\n", ["g"]),
        ("User-agent: *\nAllow: /\nlicense:https://b.example/s.xml # ours\n", ["s"]),
        ("User-agent: *\nLicense: https://b.example/s.xml\nUser-agent: other\nAllow: /\n", ["s"]),
        # the group's own goes before the site's
        ("License: https://b.example/g.xml\nUser-agent: *\nLicense: https://b.example/s.xml\n", ["s"]),
        ("License: https://b.example/g.xml\nUser-agent: GPTBot\nLicense: https://b.example/o.xml\n", ["g"]),
        (
            "User-agent: custody\nAllow: /\nLicense: /c.xml\nUser-agent: *\nAllow: /\nLicense: /s.xml\n",
            ["c"],
        ),
        ("User-agent: custody\nAllow: /\nUser-agent: *\nAllow: /\nLicense: https://b.example/s.xml\n", []),
        # set apart at the end it is everybody's, though no group was closed
        ("User-agent: *\nAllow: /\n\nUser-agent: GPTBot\nDisallow: /\n\nLicense: https://b.example/g.xml\n", ["g"]),
        ("User-agent: GPTBot\nDisallow: /\n\nSitemap: /s.xml\n# RSL\nLicense: https://b.example/g.xml\n", ["g"]),
        ("User-agent: GPTBot\nDisallow: /\nSitemap: /s.xml\nLicense: https://b.example/o.xml\n", []),
        # several, relative, odd line endings
        ("License: https://b.example/g.xml\r\rLicense: /h.xml\rLicense: HTTPS://B.example:443/g.xml#x\r", ["g", "h"]),
        ("\ufeffLicense: <https://b.example/g.xml>\n", ["g"]),
        ("Licence: https://b.example/g.xml\nUser-agent: *\n", []),
    ],
)
def test_which_license_lines_are_for_us(robots: str, declared: list[str]) -> None:
    """Our group's, else the site's (section 4.4); somebody else's group is not ours."""
    evidence = declaring(robots)
    assert declared_urls(evidence, RULES) == tuple(f"https://b.example/{name}.xml" for name in declared)
    assert said(evidence)[0] is (Verdict.DEFER if declared else None)


@pytest.mark.parametrize(
    "value", ["", "ftp://b.example/l.xml", "mailto:a@b.example", "https://", "https://[/", "x" * 3_000]
)
def test_a_license_line_that_names_nothing_is_a_declaration_all_the_same(value: str) -> None:
    """Whoever writes License: has terms; that they cannot be found does not make them go away."""
    evidence = declaring(f"License: {value}\n")
    assert declared_urls(evidence, RULES) == ()
    assert said(evidence) == (Verdict.DENY, "rsl-unreadable")


def test_only_so_many_documents_are_asked_for() -> None:
    """A site that declares hundreds of documents cannot make us ask for them: it is a no instead."""
    lines = "".join(f"License: https://b.example/{i}.xml\n" for i in range(500))
    free = tuple(document(f"https://b.example/{i}.xml", 200, rsl(content(FREE))) for i in range(500))
    evidence = declaring(lines, declared=free)
    assert len(declared_urls(evidence, RULES)) == MAX_DECLARED
    assert said(evidence) == (Verdict.DENY, "rsl-unreadable")


@pytest.mark.parametrize(("status", "verdict"), [(503, Verdict.DEFER), (403, Verdict.DENY)])
def test_a_robots_txt_that_cannot_be_read_may_declare(status: int, verdict: Verdict) -> None:
    """Its silence or refusal is judged as for robots itself: it is no absence."""
    own = OriginEvidence("https://b.example", (("robots", document("https://b.example/robots.txt", status)),))
    assert judged(replace(SILENT, origins=(SILENT.origins[0], own))).verdict is verdict


# ── Link headers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "declares"),
    [
        (LINK, True),
        (f"<{LICENCE}>;rel=license;type=application/rsl+xml", True),
        (f'<{LICENCE}> ; REL="LICENSE" ; Type="Application/RSL+XML; charset=utf-8"', True),
        (f'<{LICENCE}>; rel="nofollow license"; type="application/rsl+xml"', True),
        (f'<{LICENCE}>; title="a, b; c \\" d"; rel=license; type="application/rsl+xml"', True),
        (f'</style.css>; rel=preload; as=style, <{LICENCE}>; rel=license; type="application/rsl+xml"', True),
        (f', ,<a,b;c>; rel="next", , <{LICENCE}>; ; rel=license; x; type="application/rsl+xml",', True),
        (f'<{LICENCE}>; rel="license"', False),
        (f'<{LICENCE}>; rel="alternate"; type="application/rsl+xml"', False),
        (f'<{LICENCE}>; rel="license"; type="text/html"', False),
        ("<https://creativecommons.org/licenses/by/4.0/>; rel=license", False),
        ("", False),
    ],
)
def test_link_headers_are_read_as_rfc_8288_has_them(value: str, declares: bool) -> None:
    """Several links in a header, quoted commas, several relations, odd white space; only licences of RSL's type."""
    evidence = replace(SILENT, hops=(Hop(IMAGE, 200, (("Link", value),)),))
    assert declared_urls(evidence, RULES) == ((LICENCE,) if declares else ())
    assert said(evidence)[0] is (Verdict.DEFER if declares else None)


@pytest.mark.parametrize(
    "value",
    [
        f'<{LICENCE}; rel="license"; type="application/rsl+xml"',
        f'{LICENCE}; rel="license"; type="application/rsl+xml"',
        f'<{LICENCE}>; rel="license; type=application/rsl+xml',
        f'</a>; rel=next junk, <{LICENCE}>; rel="license"; type="application/rsl+xml"',
    ],
)
def test_a_link_header_that_is_broken_around_rsl_is_a_no(value: str) -> None:
    """A header that speaks of RSL and cannot be read declares a licence that cannot be read."""
    assert said(replace(SILENT, page_headers=(("Link", value),))) == (Verdict.DENY, "rsl-unreadable")


def test_repeated_headers_all_count() -> None:
    """Two Link headers are two declarations."""
    headers: Headers = (("Link", LINK), ("Link", LINK.replace("license.xml", "other.xml")))
    evidence = replace(SILENT, hops=(Hop(IMAGE, 200, headers),))
    assert declared_urls(evidence, RULES) == (LICENCE, "https://b.example/other.xml")


@pytest.mark.parametrize(
    "text", ["<" * 60_000, "<a>;" * 15_000, "<a>," * 15_000, '<a>; b="' + "\\" * 60_000, " ," * 30_000]
)
def test_a_hostile_link_header_declares_nothing(text: str) -> None:
    """A header of 64 KB of nothing is read to its end, and no document is declared by it."""
    links, _ = read_links(text)
    assert not any(link.declares_rsl for link in links)


# ── given by origin: `inspect judge` ───────────────────────────────────────────────────────────────────────────────


def given_rsl(status: int, body: str = "", robots: str | None = "") -> Evidence:
    own = document(LICENCE, status, body)
    names = (("rsl", own),) if robots is None else origin("https://b.example", robots, rsl=own).documents
    return replace(SILENT, page_url=None, page_headers=None, origins=(OriginEvidence("https://b.example", names),))


@pytest.mark.parametrize("robots", [None, "", "License: https://b.example/elsewhere.xml\n"])
def test_a_document_that_is_given_stands_for_the_declared_one(robots: str | None) -> None:
    """Whatever address robots.txt declares; where it declares none, or was not given, it counts as declared."""
    assert said(given_rsl(200, rsl(content(NEVER)), robots)) == (Verdict.DENY, "rsl-prohibited")
    assert said(given_rsl(200, rsl(content(FREE)), robots)) == (Verdict.ALLOW, "rsl-permitted")
    assert said(given_rsl(200, "<html></html>", robots)) == (Verdict.DENY, "rsl-unreadable")


def test_a_document_that_is_given_as_absent_is_absent_unless_somebody_declared_it() -> None:
    """404 without a declaration is an observed absence; with one it is a licence that is not there."""
    assert said(given_rsl(404)) == (None, "rsl-absent")
    assert said(given_rsl(404, robots=None)) == (None, "rsl-absent")
    assert said(given_rsl(404, robots=LICENSE_LINE)) == (Verdict.DENY, "rsl-missing")
    linked = replace(given_rsl(404), hops=(Hop(IMAGE, 200, (("Link", LINK),)),))
    assert said(linked) == (Verdict.DENY, "rsl-missing")


# ── age ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_permission_ages_with_its_document_and_by_its_documents_own_word() -> None:
    """max-age of the document shortens what the ruleset allows; a no does not age."""
    free, short = rsl(content(FREE)), rsl(content(FREE), attributes=' max-age="5"')
    for text, days, verdict in ((free, 29, Verdict.ALLOW), (free, 31, Verdict.DEFER), (short, 5, Verdict.ALLOW)):
        assert judged(licensed(text), NOW + timedelta(days=days)).verdict is verdict
    assert judged(licensed(short), NOW + timedelta(days=6)).reason.code == "evidence-stale"
    assert judged(licensed(rsl(content(NEVER))), NOW + timedelta(days=400)).verdict is Verdict.DENY
    assert judged(licensed(rsl(content(FREE), attributes=' max-age="soon"')), NOW).verdict is Verdict.ALLOW
    assert judged(SILENT, NOW + timedelta(days=31)).verdict is Verdict.DEFER


# ── properties ─────────────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = rsl(content(NEVER), content(FREE, "/free/"), attributes=' max-age="7"').encode()


@settings(max_examples=300)
@given(at=st.integers(0, len(WHOLE) - 1))
def test_a_cut_document_never_permits(at: int) -> None:
    """Cut anywhere, a document is unreadable: DENY."""
    assert said(licensed(WHOLE[:at])) == (Verdict.DENY, "rsl-unreadable")


@settings(max_examples=300)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
@example(at=91, byte=ord(":"))
@example(at=92, byte=ord(":"))
@example(at=95, byte=ord(":"))
@example(at=96, byte=ord(":"))
def test_an_edited_prohibition_never_permits(at: int, byte: int) -> None:
    """One byte put in the place of another may end what a prohibition is about, never turn it into a permission.

    A colon may make another vocabulary's word of it ("ai-:ll"), which says nothing of training; no half of one.
    """
    never = rsl(content(NEVER), content('<license><permits type="usage">search</permits></license>', "/free/")).encode()
    at %= len(never)
    edited = never[:at] + bytes([byte]) + never[at + 1 :]
    answer = judged(licensed(edited))
    assert answer.verdict is not Verdict.ALLOW
    is_foreign = re.search(rb">[a-z][a-z-]*:[a-z][a-z-]*</prohibits>", edited) is not None
    assert answer.verdict is Verdict.DENY or answer.reason.code in {"rsl-no-match", *(("rsl-silent",) * is_foreign)}


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")))
def test_no_bytes_make_the_reader_raise(body: bytes) -> None:
    """Any bytes are a document or unreadable."""
    assert isinstance(parse(body), RslDocument | Unreadable)


TOKENS = st.lists(
    st.sampled_from(["all", "ai-all", "ai-train", "train-ai", "ai-input", "ai-index", "search"]), max_size=3
)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.none() | TOKENS, TOKENS, st.sampled_from([None, "free", "crawl", "attribution"])),
        min_size=1,
        max_size=3,
    )
)
def test_permission_needs_a_free_offer_and_no_prohibition(
    licences: list[tuple[list[str] | None, list[str], str | None]],
) -> None:
    """ALLOW exactly where some licence lists training freely and none prohibits it."""
    training = {"all", "ai-all", "ai-train", "train-ai"}
    text = "".join(
        "<license>"
        + (f'<permits type="usage">{" ".join(permits)}</permits>' if permits is not None else "")
        + f'<prohibits type="usage">{" ".join(prohibits)}</prohibits>'
        + (f'<payment type="{payment}"/>' if payment else "")
        + "</license>"
        for permits, prohibits, payment in licences
    )
    verdict = said(licensed(rsl(content(text))))[0]
    prohibited = any(training & set(prohibits) for _, prohibits, _ in licences)
    free = any(permits and training & set(permits) and payment in (None, "free") for permits, _, payment in licences)
    assert (verdict is Verdict.DENY) >= prohibited
    assert (verdict is Verdict.ALLOW) == (free and not prohibited)
