"""What a WAT file says of a page is read as the page itself would be, and is never the page's last word."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from curation.pages import Page, read_page
from curation.warc import START, ArchivedPage, Damage, Place, read_warc
from curation.wat import UNREAD, read_wat
from policy.evidence import Evidence, Hop
from policy.ruleset import Ruleset
from policy.verdict import Judgement, Verdict
from tests.curation.archives import compressed, described, record, wat_record

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "warc"
URL = "https://e.org/gallery/page"
BY = "https://creativecommons.org/licenses/by/4.0/"


def read(*records: bytes, start: Place = START) -> tuple[list[ArchivedPage], list[Damage], Counter[str]]:
    counts: Counter[str] = Counter()
    found = list(read_wat(io.BytesIO(compressed(*records)), start_offset=start, counts=counts))
    pages = [one for one in found if isinstance(one, ArchivedPage)]
    return pages, [one for one in found if isinstance(one, Damage)], counts


def seen(html: str) -> Page:
    """A page as its WAT has it."""
    ((found,), damage, _) = read(wat_record(URL, described(html.encode())))
    assert damage == []
    assert found.page is not None
    return found.page


def without_unread(page: Page) -> Page:
    """A page less the claim that it was not read."""
    assert page.licence_claims[-1] == UNREAD
    assert all(pair.licence_claims == page.licence_claims for pair in page.pairs)
    pairs = tuple(replace(pair, licence_claims=pair.licence_claims[:-1]) for pair in page.pairs)
    return replace(page, pairs=pairs, licence_claims=page.licence_claims[:-1])


@pytest.mark.parametrize(
    "html",
    [
        "<title> A\n page </title><img src=i.png alt=' red \n apple ' title=t><img src=j title=t><img src=k alt=''>",
        "<base href=/other/><img src=i alt=x><a href=p#x>1</a><a href=p>2</a><a href='#top'>3</a>",
        "<img src=i alt=a><img src=i alt=a><img src=i alt=b><img src='data:image/gif;base64,AA' alt=c>",
        "<img src='https://u:p@e.org/i'><img src='/i?X-Amz-Signature=1'><img src='ftp://e.org/i'>",
        "<a href='https://u:p@e.org/'>x</a><a href='mailto:x@e.org'>x</a><a href='javascript:x()'>x</a><a href='?a'>",
        "<meta name=ROBOTS content=NoAI><meta name=GPTBot content=x><meta name='tdm-reservation' content=1>"
        "<meta http-equiv='X-Robots-Tag' content=noml><meta property=x content=noimageai><meta name=robots>",
        f"<link rel=license href='{BY}'><meta name=author content=' The  Museum'><img src=a>",
        "<meta name='DC.rights' content='© Museum'><meta name=license content=/terms><img src=a>",
        f"<p><a rel='nofollow license' href='{BY}'>CC</a> <a rel=author href=/ada>Ada</a></p><img src=a><img src=b>",
        "<link rel=license type='application/rsl+xml' href=/l.xml><link rel=stylesheet href=s.css><img src=i>",
        "<map><area href=//f.org rel=license></map><img src=a><img src=b>",
        "<base href='http://['><img src=a>",
    ],
)
def test_what_both_hold_is_read_the_same(html: str) -> None:
    """Pairs, links, metas, claims, title and what was refused are those of the page itself."""
    page = read_page(html.encode(), URL, "text/html; charset=utf-8")
    assert without_unread(seen(html)) == page


@pytest.mark.parametrize("name", ["commoncrawl-16.warc.gz", "one-page.warc.gz"])
def test_real_pages_lose_only_what_no_wat_holds(name: str) -> None:
    """On real pages the links, metas and title are those of the page, and each pair is one that the page has."""
    if not FIXTURES.is_dir():
        pytest.skip("the shared fixtures are not beside this checkout")
    for archived in read_warc(str(FIXTURES / name), max_page_bytes=5_000_000):
        assert isinstance(archived, ArchivedPage)
        html = archived.fetched.body.decode("utf-8", "replace").removeprefix("\ufeff").encode()
        there = read_page(html, archived.fetched.url, "text/html; charset=utf-8")
        ((found,), _, _) = read(wat_record(archived.fetched.url, described(html)))
        assert found.page is not None
        assert (found.page.links, found.page.meta, found.page.title) == (there.links, there.meta, there.title)
        on_page = {url for pair in there.pairs for url in (pair.image_url, *pair.alternates)}
        assert {pair.image_url for pair in found.page.pairs} <= on_page


def test_the_stored_response_is_evidence() -> None:
    """Stored headers, status, address and the capture's date come as those of the fetcher would; no body does."""
    headers = {"Content-Type": "text/html", "X-Robots-Tag": ["noai", "noindex"], "Date": "x"}
    ((found,), _, _) = read(wat_record(URL, {"Head": {}}, headers=headers))
    fetched = found.fetched
    assert fetched.hops == (
        Hop(
            URL,
            200,
            (("Content-Type", "text/html"), ("X-Robots-Tag", "noai"), ("X-Robots-Tag", "noindex"), ("Date", "x")),
        ),
    )
    assert (fetched.outcome, fetched.body, fetched.address) == ("ok", b"", "208.80.154.224:443")
    assert fetched.started_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"status": "404"}, "http-404"),
        ({"status": "301"}, "http-301"),
        ({"status": "2x0"}, "bad-response"),
        ({"about": {"WARC-Truncated": "length"}}, "truncated"),
    ],
)
def test_only_a_complete_page_is_one(given: dict[str, object], outcome: str) -> None:
    """Other statuses, and what the archive cut, have an outcome and no page."""
    html = described(b"<img src=i>")
    ((found,), _, _) = read(wat_record(URL, html, **given))  # type: ignore[arg-type]
    assert (found.fetched.outcome, found.page) == (outcome, None)


def test_everything_else_is_counted() -> None:
    """Descriptions of requests and of what is no HTML, and addresses that may not be stored."""
    request = record("metadata", URL, b'{"Envelope":{"Payload-Metadata":{"HTTP-Request-Metadata":{}}}}')
    html = described(b"<img src=i>")
    pages, damage, counts = read(
        record("warcinfo", "", b"x: y"),
        request,
        wat_record(URL, html),
        wat_record(URL, None, headers={"Content-Type": "image/png"}),
        wat_record("https://u:p@e.org/", html),
        wat_record("dns:e.org", html),
    )
    assert [found.page is not None for found in pages] == [True, False]
    assert damage == []
    assert counts == {"warcinfo": 1, "metadata": 5, "other": 1, "not-html": 1, "userinfo": 1, "not-http": 1}


@pytest.mark.parametrize(
    "html",
    [
        {"Head": []},
        {"Head": {"Metas": "noai"}},
        {"Head": {"Metas": [3]}},
        {"Head": {"Metas": [{"name": "robots", "content": ["noai"]}]}},
        {"Head": {"Title": 7}},
        {"Links": {"path": "IMG@/src"}},
        {"Links": [{"path": "IMG@/src", "url": 7}]},
        {"Links": [{"path": "A@/href", "url": "/", "rel": ["license"]}]},
        [],
    ],
)
def test_metadata_of_another_shape_is_damage_and_never_silence(html: object) -> None:
    """A meta that cannot be read where it should stand might have been a "no": the page is not taken without it."""
    pages, (damage,), counts = read(wat_record(URL, html), wat_record(URL, {}))
    assert (damage.what, len(pages), counts["damaged"]) == ("bad-json", 1, 1)


@pytest.mark.parametrize("block", [b"", b"HTTP-Response-Metadata", b'{"HTTP-Response-Metadata": 1}', b"[" * 100_000])
def test_broken_json_costs_itself_alone(block: bytes) -> None:
    """A record that is no JSON is named; the next is read."""
    block = block or b'{"Envelope":{"Payload-Metadata":{"HTTP-Response-Metadata":'
    if block.startswith(b"["):
        block += b"HTTP-Response-Metadata"
    pages, (damage,), _ = read(record("metadata", URL, block), wat_record(URL, {}))
    assert ([found.page is not None for found in pages], damage.what) == ([True], "bad-json")
    assert damage.offset == Place(0)


def test_links_are_left_out_where_nobody_follows_them() -> None:
    """Without links a page has all else."""
    archive = compressed(wat_record(URL, described(b"<a href=/x>x</a><img src=i alt=x>")))
    (with_links,) = [one.page for one in read_wat(io.BytesIO(archive)) if isinstance(one, ArchivedPage)]
    (without,) = [one.page for one in read_wat(io.BytesIO(archive), with_links=False) if isinstance(one, ArchivedPage)]
    assert with_links is not None
    assert without == replace(with_links, links=())


def test_metadata_without_end_is_passed_over() -> None:
    """A record over the limit is named, and not held."""
    pages, (damage,), _ = read(record("metadata", URL, bytes(17 * 1024 * 1024)), wat_record(URL, {}))
    assert (len(pages), damage.what) == (1, "too-large")


def test_reading_goes_on_where_it_was_left() -> None:
    """From the end of any page the rest is read."""
    records = [wat_record(f"https://e.org/{number}", {}) for number in range(4)]
    pages, _, _ = read(*records)
    for number, found in enumerate(pages):
        rest, _, _ = read(*records, start=found.end_offset)
        assert [one.fetched.url[-1] for one in rest] == list("0123")[number + 1 :]


def test_the_fixture_is_read() -> None:
    """A real WAT record, of a request: counted, and no page."""
    if not FIXTURES.is_dir():
        pytest.skip("the shared fixtures are not beside this checkout")
    counts: Counter[str] = Counter()
    assert list(read_wat(str(FIXTURES / "one-page.wat.gz"), counts=counts)) == []
    assert counts == {"warcinfo": 1, "metadata": 1, "other": 1}
    plain = gzip.decompress((FIXTURES / "one-page.wat.gz").read_bytes())
    assert list(read_wat(io.BytesIO(plain))) == []


# ── what policy makes of it ────────────────────────────────────────────────────────────────────────────────────────


def decided(html: str, headers: dict[str, object] | None = None) -> dict[str, Judgement]:
    """The decisions on a pair, all of it allowed beside what a WAT said of its page."""
    rules, now = Ruleset.default(), datetime.now(UTC)
    ((found,), _, _) = read(wat_record(URL, described(html.encode()), headers=headers))
    assert found.page is not None
    (pair,) = found.page.pairs
    evidence = Evidence(
        page_url=URL,
        image_url=pair.image_url,
        observed_at=now,
        observer="test",
        observer_version="1",
        page_headers=found.fetched.hops[-1].headers,
        page_meta=found.page.meta,
        hops=(Hop(pair.image_url, 200, ()),),
        licence_claims=pair.licence_claims,
    )
    return {judged.mechanism: judged for judged in rules.decide(evidence, now)}


def test_a_licence_seen_through_metadata_waits_for_the_page() -> None:
    """A Creative Commons link in a WAT is no permission until the page itself was read."""
    decision = decided(f"<link rel=license href='{BY}'><img src=i.png alt='a pear'>")["licence"]
    assert (decision.verdict, decision.reason.code) == (Verdict.DEFER, "licence-unreadable")


def test_no_licence_seen_through_metadata_is_no_licence() -> None:
    """A WAT without a licence is no permission either."""
    assert decided("<img src=i.png alt='a pear'>")["licence"].verdict is not Verdict.ALLOW


@pytest.mark.parametrize(
    ("html", "headers"),
    [
        ("<meta name=robots content=noai>", None),
        ("<meta name=robots content='index, noimageai'>", None),
        ("", {"Content-Type": "text/html", "X-Robots-Tag": "noai"}),
        ("", {"Content-Type": "text/html", "x-robots-tag": ["index", "noml"]}),
        ("<meta name=tdm-reservation content=1>", None),
    ],
)
def test_a_no_seen_through_metadata_is_a_no(html: str, headers: dict[str, object] | None) -> None:
    """Metas and headers that a WAT stored deny as the page's own would."""
    found = decided(f"{html}<link rel=license href='{BY}'><img src=i.png alt='a pear'>", headers)
    assert Verdict.DENY in [found[rule].verdict for rule in ("x_robots", "tdmrep") if rule in found]
