"""What is looked up once for all mechanisms: the quick ways answer as the long ones do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.errors import InputError
from policy.evidence import C2pa, Document, Embedded, EmbeddedField, Evidence, Hop, OriginEvidence
from policy.origins import origin_of
from policy.ruleset import Ruleset
from policy.signals import aipref, asked, c2pa, content_signal, places, robots, rsl, tdmrep, x_robots
from policy.verdict import Judgement

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD = NOW - timedelta(days=400)
RULES = Ruleset.default()
A, B = "https://a.example", "http://b.example:8080"
QUICK = (aipref, content_signal, rsl, tdmrep, x_robots)  # those that ask whether the responses are silent

# ── evidence of every kind, mostly silent ──────────────────────────────────────────────────────────────────────────

ROBOTS = (
    "",
    "User-agent: *\nDisallow: /no\n",
    "User-agent: GPTBot\nDisallow: /\n",
    "User-agent: *\nContent-Signal: ai-train=no\nAllow: /\n",
    "User-agent: *\nContent-Signal: /art ai-train=no\nAllow: /\n",
    "User-agent: *\nContent-Usage: /art train-ai=n\nAllow: /\n",
    "License: https://a.example/rsl.xml\nUser-agent: *\nAllow: /\n",
    "User-agent: *\nAllow: /\xff\n",
    "<!doctype html><p>nothing here",
)
BODIES: dict[str, tuple[str, ...]] = {
    "robots": ROBOTS,
    "tdmrep": ("[]", '[{"location": "/art*", "tdm-reservation": 1}]', "{", "<html>"),
    "ai_txt": ("User-agent: *\nDisallow: *.jpg\n", "hello"),
    "trust_txt": ("datatrainingallowed=no\n", "member=https://x.example\n"),
    "rsl": ("<rsl",),
}
HEADERS = (
    ("Content-Type", "image/jpeg"),
    (" X-Robots-Tag ", "noai"),
    ("Content-Usage", "train-ai=n"),
    ("Content-Signal", "ai-train=yes"),
    ("LINK", '<https://a.example/l.xml>; rel="license"; type="application/rsl+xml"'),
    ("Link", '<https://a.example/m>; rel="c2pa-manifest"'),
    ("tdm-reservation", "1"),
    ("TDM-Policy", "https://a.example/p"),
)
times = st.sampled_from((NOW, NOW, OLD))
headers = st.lists(st.sampled_from(HEADERS), max_size=2).map(tuple)


@st.composite
def documents(draw: st.DrawFn, origin: str, name: str) -> Document:
    status = draw(st.sampled_from((404, 404, 200, 200, 403, 503, None)))
    body = draw(st.sampled_from(BODIES[name])).encode("latin-1") if status == 200 else None
    return Document(
        f"{origin}/{name}", status, draw(times), body=body, body_sha256=Document.digest(body) if body else None
    )


@st.composite
def origins(draw: st.DrawFn, origin: str) -> OriginEvidence:
    names = [name for name in BODIES if draw(st.integers(0, 9)) < (1 if name == "rsl" else 9)]
    return OriginEvidence(origin, tuple((name, draw(documents(origin, name))) for name in names))


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    image = draw(st.sampled_from((f"{A}/art/x.jpg", f"{A}/no/x.jpg", f"{B}/art/y.JPG")))
    page = draw(st.sampled_from((None, f"{A}/page", f"{B}/page", image)))
    hops = draw(
        st.sampled_from(
            (None, (image,), (image,), (f"{A}/go", image), (image, image), (f"{A}/go", f"{B}/art/z.jpg"), ())
        )
    )
    fields = draw(st.sampled_from(((), (), (EmbeddedField("tdm:reservation", "1", "XMP"),))))
    return Evidence(
        page,
        image,
        draw(times),
        "test",
        "1",
        origins=tuple(draw(origins(o)) for o in (A, B) if draw(st.integers(0, 9)) < 9),
        page_headers=draw(st.one_of(st.none(), headers)),
        page_meta=draw(st.sampled_from((None, (), (("robots", "noai"),), (("TDM-Reservation", "1"),)))),
        page_rsl=draw(st.sampled_from((None, (), (("link", "/rsl.xml"),)))),
        hops=None if hops is None else tuple(Hop(url, 200, draw(headers)) for url in hops),
        embedded=draw(
            st.sampled_from((None, Embedded("image/jpeg", fields), Embedded("image/jpeg", errors=("cut",)))),
        ),
        c2pa=draw(st.sampled_from((None, C2pa("absent"), C2pa("absent"), C2pa("invalid")))),
        refused_url=draw(st.sampled_from((None, None, f"{B}/refused"))),
    )


def judgements(evidence: Evidence) -> tuple[Judgement, ...]:
    return RULES.decide(evidence, NOW)


@contextmanager
def the_long_way() -> Iterator[None]:
    """Nothing is taken for silent, and nothing that was found before is known."""
    with pytest.MonkeyPatch.context() as changed:
        for module in QUICK:
            changed.setattr(module, "are_silent", lambda *_: False)
        changed.setattr(c2pa, "_may_be_elsewhere", lambda _: True)
        changed.setattr(places.SaidOfAll, "get", lambda *_: None)
        with patch.dict(robots._READ, clear=True):
            yield


@given(evidences())
@settings(max_examples=200, deadline=None)
def test_the_quick_ways_answer_as_the_long_ones(evidence: Evidence) -> None:
    """Verdict, reason, place and every signal are the same, whatever is silent, stale, missing or unheard of."""
    quick = judgements(evidence), judgements(evidence)  # what is known by the second time changes nothing
    with the_long_way():
        long = judgements(evidence)
    for quickly in quick:
        assert [one for one in zip(quickly, long, strict=True) if one[0] != one[1]] == []


def test_what_a_document_said_is_known_of_that_document_alone() -> None:
    """Neither another answer of the origin, nor another ruleset, nor another day is judged by what was said before."""

    def seen(status: int) -> Evidence:
        document = Document(f"{A}/.well-known/trust.txt", status, NOW)
        return Evidence(None, f"{A}/x.jpg", NOW, "test", "1", (OriginEvidence(A, (("trust_txt", document),)),), hops=())

    def said(evidence: Evidence, rules: Ruleset, now: datetime) -> str:
        (judged,) = rules.with_mechanisms(("trust_txt",)).decide(evidence, now)
        return judged.reason.code

    lenient = Ruleset.parse(RULES.text_body.replace('forbidden_status = "deny"', 'forbidden_status = "allow"'))
    forbidden = seen(403)
    assert said(forbidden, RULES, NOW) == "trust-txt-forbidden"
    assert said(forbidden, lenient, NOW) == "trust-txt-absent"
    assert said(seen(503), RULES, NOW) == "trust-txt-unreachable"
    absent = seen(404)
    assert said(absent, RULES, NOW) == "trust-txt-absent"
    assert said(absent, RULES, NOW + timedelta(days=400)) == "evidence-stale"


URLS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(("http://", "https://", "HTTP://", " https://", "ftp://", "//", "")),
        st.sampled_from(
            ("a.example", "A.Example", "u:p@a.example", "a.example:80", "a.example:", "[::1]:8080", "ä.de", "")
        ),
        st.sampled_from((":443", ":x", "", "", "\t", "\\b.example", "?q", "#f", "@b.example")),
        st.sampled_from(("/", "/x.jpg", "", "?a/b", "#/c", "//d.example/", "/@e.example")),
    ),
)


@given(URLS)
@settings(max_examples=500, deadline=None)
def test_the_origin_of_a_plain_url_is_read_off(url: str) -> None:
    """Whatever stands in a URL, its origin is the one that `origin_of` finds, or it has none for both."""
    try:
        expected: str | None = origin_of(url)
    except InputError:
        expected = None
    try:
        assert asked._origin_of(url) == expected
    except InputError:
        assert expected is None
