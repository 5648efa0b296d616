"""RSL while crawling: what is declared is fetched once and judged with the pairs it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import settings
from flows.home import Home
from flows.stages import crawl, decide
from flows.stages.evidence import shared_texts
from policy.evidence import Evidence, Shared
from policy.ruleset import Ruleset
from policy.signals.rsl import declared_urls
from tests.builders import replaced
from tests.flows.site import Answer, Site, picture

DECLARED = """SELECT url, outcome, status FROM "fetch" WHERE kind = 'declared'"""
NS = "https://rslstandard.org/rsl"
RSL_LINK = '</by-header.xml>; rel="license"; type="application/rsl+xml"'
PAGE = """<title>Fruit</title><link rel="license" type="application/rsl+xml" href="/by-page.xml">
<img src="/a.png" alt="a green pear"><img src="/b.png" alt="a red apple"><img src="/c.png" alt="a blue plum">"""


def rsl(inside: str, url: str = "/") -> Answer:
    text = f'<rsl xmlns="{NS}"><content url="{url}"><license>{inside}</license></content></rsl>'
    return Answer(text.encode(), "application/rsl+xml")


@pytest.fixture
def site() -> Iterator[Site]:
    free, never = '<permits type="usage">all</permits>', '<prohibits type="usage">ai-train</prohibits>'
    answers = {f"/{name}.png": Answer(picture(n), "image/png") for n, name in enumerate("abc")}
    answers["/a.png"].headers.append(("Link", RSL_LINK))
    answers["/robots.txt"] = Answer(b"License: /by-robots.xml\n\nUser-agent: *\nAllow: /\n", "text/plain")
    answers["/by-robots.xml"], answers["/by-page.xml"] = rsl(free), rsl(never, "/b.png")
    answers["/by-header.xml"] = rsl(f'{free}<payment type="subscription"/>', "/a.png")
    with Site({"/": Answer(PAGE.encode()), **answers}) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path, site: Site, fresh_home: Callable[..., Home]) -> Home:
    """A home that honours robots and RSL, with one picture a unit."""
    default = Ruleset.default_text()
    mechanisms = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    return fresh_home(
        tmp_path / "home",
        settings_text=replaced(
            settings.DEFAULT_TEXT,
            {
                "allow_addresses = []": f'allow_addresses = ["{site.address}"]',
                "decode_workers = 2": "decode_workers = 1",
                "images_per_unit = 2000": "images_per_unit = 1",
            },
        ),
        policy_text=replaced(default, {mechanisms: '["robots", "rsl"]'}),
    )


def standing(home: Home) -> dict[str, tuple[str, str]]:
    """Image path -> verdict and reason of the rule rsl."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            "SELECT DISTINCT image_url, d.verdict, d.reason_code FROM decision d JOIN occurrence o "
            "ON d.pair_key = o.pair_key WHERE d.rule = 'rsl'"
        )
    return {"/" + url.rpartition("/")[2]: (verdict, code) for url, verdict, code in rows}


def test_every_declared_document_is_asked_for_once_and_judged(home: Home, site: Site) -> None:
    """robots.txt, a picture's header and the page declare a document each, which counts where it is about a picture."""
    crawl.crawl(home, (site.url("/"),))
    decide.decide(home)
    assert standing(home) == {
        "/a.png": ("deny", "rsl-constrained"),
        "/b.png": ("deny", "rsl-prohibited"),
        "/c.png": ("allow", "rsl-permitted"),
    }
    asked = {path: n for path, n in site.requests.items() if path.endswith((".xml", ".txt"))}
    assert asked == {"/robots.txt": 1, "/by-robots.xml": 1, "/by-page.xml": 1, "/by-header.xml": 1}


def test_the_documents_stand_in_the_ledger(home: Home, site: Site) -> None:
    """Each pair's evidence holds what it declares, bodies and requests are kept, so that it can be decided offline."""
    crawl.crawl(home, (site.url("/"),))
    with home.ledger(readonly=True) as ledger:
        shared = Shared(*shared_texts(ledger))
        evidence = [Evidence.from_json(text, shared) for (text,) in ledger.query("SELECT body_json FROM evidence")]
        fetched = ledger.query(f"{DECLARED} ORDER BY url")
    by_picture = {e.image_url.rpartition("/")[2]: e for e in evidence}
    assert {n: [d.url for d in e.declared] for n, e in by_picture.items()} == {
        "a.png": [site.url(p) for p in ("/by-robots.xml", "/by-header.xml", "/by-page.xml")],
        "b.png": [site.url(p) for p in ("/by-robots.xml", "/by-page.xml")],
        "c.png": [site.url(p) for p in ("/by-robots.xml", "/by-page.xml")],
    }
    for one in evidence:
        assert declared_urls(one, home.ruleset.robots) == tuple(d.url for d in one.declared)
        assert all(d.body is not None and d.body.startswith(b"<rsl") for d in one.declared)
    assert fetched == [(site.url(f"/by-{p}.xml"), "ok", 200) for p in ("header", "page", "robots")]


def test_a_crawl_that_another_process_appends_finds_the_documents(home: Home, site: Site) -> None:
    """Killed between fetching and appending, and again while appending, a crawl asks for nothing twice."""
    name = crawl.open_crawl(home, (site.url("/"),))
    while units := crawl.page_units(home, name):
        for unit in units:
            crawl.run_page_unit(home, name, unit)
    for unit in crawl.image_units(home, name):
        crawl.run_image_units(home, name, [unit])
    before = dict(site.requests)
    crawl.append_crawl(Home.open(home.path), name)
    decide.decide(home)
    assert dict(site.requests) == before
    assert standing(home)["/a.png"] == ("deny", "rsl-constrained")


def test_a_declared_document_that_is_gone_keeps_out(home: Home, site: Site) -> None:
    """What robots.txt declares and the site does not have is a no for every picture of it."""
    del site.answers["/by-robots.xml"]
    crawl.crawl(home, (site.url("/"),))
    decide.decide(home)
    assert standing(home)["/c.png"] == ("deny", "rsl-missing")


def test_nothing_inside_is_asked_for_because_a_stranger_declares_it(home: Home, site: Site) -> None:
    """A declared address that leads inwards is not contacted, nor is one that carries a secret; both keep out."""
    site.answers["/robots.txt"] = Answer(b"License: http://127.0.0.1:1/license.xml\n", "text/plain")
    crawl.crawl(home, (site.url("/"),))
    decide.decide(home)
    assert standing(home)["/c.png"] == ("defer", "rsl-unreachable")
    with home.ledger(readonly=True) as ledger:
        asked = ledger.query(DECLARED)
    assert ("http://127.0.0.1:1/license.xml", "forbidden-address", None) in asked


def test_no_well_known_place_is_asked_for_rsl(home: Home, site: Site) -> None:
    """The specification names no address of its own: what nobody declares is not asked for."""
    site.answers["/robots.txt"] = Answer(b"User-agent: *\n", "text/plain")
    site.answers["/"] = Answer(PAGE.partition("\n")[2].encode())
    site.answers["/a.png"].headers.clear()
    crawl.crawl(home, (site.url("/"),))
    decide.decide(home)
    assert set(standing(home).values()) == {("unset", "rsl-absent")}
    assert "/license.xml" not in site.requests
