"""Pages that take too much to read: a row that says so, with their HTML, and the rest goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curation.fetch import Fetched, Request
from curation.pages import Page, page_json
from flows.home import Home
from flows.stages import crawl, inspection, recheck
from flows.stages.crawl import Job
from flows.stages.crawling import plan
from flows.stages.crawling.rows import PageRead
from flows.stages.parts import part_notes, read_part
from policy.errors import InputError
from tests.builders import ask
from tests.curation.archives import compressed, response
from tests.flows.site import Answer, Site, picture
from tests.flows.test_crawl_sources import make as make  # a fixture
from tests.flows.test_crawl_sources import outcomes

# HTML makes the formatting anew in each paragraph: gigabytes of elements.
COSTLY = b"<p>" + b"".join(b"<b id=%d>" % i for i in range(2000)) + b"</p>" + b"<p>x</p>" * 20_000


@pytest.fixture
def site() -> Iterator[Site]:
    links = b"".join(b"<a href=/p%d>x</a>" % n for n in range(4))
    pages = {f"/p{n}": Answer(b'<img src=/a.png alt="a red apple %d">' % n) for n in range(4)}
    pages["/p1"] = Answer(COSTLY, headers=[("ETag", '"1"')])
    answers = {"/": Answer(links), "/robots.txt": Answer(b"", "text/plain"), "/a.png": Answer(picture(0), "image/png")}
    with Site(answers | pages) as site:
        yield site


def rows_of(home: Home, name: str) -> dict[str, dict[str, Any]]:
    """Path of each page -> its row."""
    rows = [row for part in plan.parts(home, name, "pages") for row in read_part(part)]
    return {row["url"].rpartition("/")[2]: row for row in rows}


def test_a_costly_page_is_a_row_and_the_rest_goes_on(make: Callable[..., Home], site: Site) -> None:
    """Its outcome says so, its HTML is kept, it has no pairs; the other pages of its unit are read, and a 304 would
    confirm nothing."""
    home = make()
    name = crawl.open_crawl(home, (site.url("/"),))
    while units := crawl.page_units(home, name):
        for unit in units:
            crawl.run_page_unit(home, name, unit)
    costly = rows_of(home, name)["p1"]
    assert (costly["outcome"], costly["page_json"], costly["body"]) == ("read-too-costly", None, COSTLY)
    assert costly["status"] == 200
    assert costly["detail"]
    pairs = sum(int(part_notes(part)["pairs"]) for part in plan.parts(home, name, "pages"))
    assert pairs == 3
    summary = crawl.crawl(home, (site.url("/"),))
    assert summary.crawl == name
    assert outcomes(summary, "page") == {"ok": 4, "read-too-costly": 1}
    assert summary.pairs == 3
    [(outcome, body)] = ask(
        home, "SELECT f.outcome, d.body FROM \"fetch\" f JOIN document d USING (body_sha256) WHERE f.url LIKE '%/p1'"
    )
    assert (outcome, bytes(body)) == ("read-too-costly", COSTLY)
    crawl.crawl(home, (site.url("/"),))
    assert not site.confirmed["/p1"]


def test_an_archive_is_read_in_its_order(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """Whatever a page takes to be read, the rows stand as the pages did; links, which nobody follows, are not kept."""
    home = make(decode_workers="2", pages_per_unit="4")
    pages = [(f"/p{n}", site.answers[f"/p{n}"].body + b"<a href=/>x</a>") for n in (1, 0, 2, 3)]
    (tmp_path / "pages.warc.gz").write_bytes(compressed(*(response(site.url(path), html) for path, html in pages)))
    name = crawl.open_crawl(home, Job(sources=(crawl.source("warc", str(tmp_path / "pages.warc.gz")),)))
    crawl.read_sources(home, name)
    rows = rows_of(home, name)
    assert [f"/{path}" for path in rows] == [path for path, _ in pages]
    assert [row["outcome"] for row in rows.values()] == ["read-too-costly", "ok", "ok", "ok"]
    assert [json.loads(row["page_json"])["links"] for row in rows.values() if row["page_json"]] == [[]] * 3


def test_what_metadata_tell_of_a_page_is_not_all_that_it_says() -> None:
    """Of a page that an archive holds no HTML of, inline RSL was not observed, whatever links it declares."""
    page = Page("http://a.example/", (), (), (), (), None, rsl=(("link", "http://a.example/l"),))
    assert PageRead.of({"page_json": page_json(page, whole=False)}).rsl is None
    assert PageRead.of({"page_json": page_json(page)}).rsl == page.rsl


def test_a_page_described_by_metadata_has_no_html(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """No empty document is kept in the place of its HTML: a later 304 would confirm that it shows nothing."""
    home = make()
    (tmp_path / "pages.wat.gz").write_bytes(gzip.compress(_wat(site.url("/p0"))))
    summary = crawl.crawl(home, Job(sources=(crawl.source("wat", str(tmp_path / "pages.wat.gz")),)))
    assert summary.pairs == 1
    assert ask(home, "SELECT body_sha256 FROM \"fetch\" WHERE kind = 'page'") == [(None,)]


def _wat(url: str) -> bytes:
    html = {"Links": [{"path": "IMG@/src", "url": "/a.png", "alt": "a red apple"}]}
    answer = {
        "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
        "Headers": {"Content-Type": "text/html", "ETag": '"1"'},
        "HTML-Metadata": html,
    }
    envelope = {
        "Format": "WARC",
        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url, "WARC-Date": "2026-11-02T03:04:05Z"},
        "Payload-Metadata": {"HTTP-Response-Metadata": answer},
    }
    body = json.dumps({"Envelope": envelope}).encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-11-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def test_a_recheck_takes_a_costly_page_as_silent(make: Callable[..., Home]) -> None:
    """It is not among the pages that were read, so what is on record of it stays, and grows old."""
    home, html = make(), {"/good": b"<meta name=robots content=noai>", "/bad": COSTLY}
    answers = {
        f"http://a.example{path}": Fetched(Request(f"http://a.example{path}", "page"), "ok", body=body)
        for path, body in html.items()
    }
    read = recheck._read(home, answers)
    assert read.keys() == {"http://a.example/good"}
    assert read["http://a.example/good"].meta == (("robots", "noai"),)


def test_an_inspected_page_has_the_limits_of_a_crawl(tmp_path: Path) -> None:
    """One that takes too much ends in a message that says so; any other is shown whole."""
    (tmp_path / "bad.html").write_bytes(COSTLY)
    (tmp_path / "good.html").write_bytes(b"<title>t</title><meta name=license content=x><a href=b>c</a><img src=d>")
    with pytest.raises(InputError, match="too-costly"):
        inspection.page(tmp_path / "bad.html", "http://a.example/")
    shown = inspection.page(tmp_path / "good.html", "http://a.example/")
    assert (shown["title"], shown["links"], len(shown["pairs"])) == ("t", ["http://a.example/b"], 1)
    assert shown["licence_claims"][0]["value"] == "x"
