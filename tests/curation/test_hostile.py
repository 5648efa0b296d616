"""A crawl of a server that means harm, with an honest origin in its midst (tests/hostile.py)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from curation.decode_pool import DecodePool
from curation.fetch import FetchConfig, Fetched, Fetcher, Request, open_gate
from curation.images import DecodeError, DecodeLimits
from curation.pages import read_page
from tests.hostile import GOOD_PAGE, Elsewhere, Trick, tricks

DEADLINE_S = 4.0
GOOD_URLS = 60
CONFIG = {
    "concurrency": 1000,
    "connect_timeout_s": 2.0,
    "deadline_s": DEADLINE_S,
    "rate_window_s": 1.0,
    "min_rate_bytes_per_s": 500.0,
    "max_redirects": 5,
    "retries": 0,
    "max_page_bytes": 1_000_000,
    "max_image_bytes": 2_000_000,
    "max_buffered_bytes": 4_000_000,  # so that large bodies have to wait for each other
}
TRICKS = tricks(full=False)


class Crawl:
    """What became of every trick, and of the honest origin's URLs, in one `fetch_all`."""

    def __init__(self, server: Elsewhere) -> None:
        self.sites = {site.url: site for site in server.sites}
        good = server.honest
        requests = [Request(url, site.trick.kind) for url, site in self.sites.items()]
        step = max(1, len(requests) // GOOD_URLS)
        for i in range(GOOD_URLS):
            kind = "page" if i % 2 else "image"
            requests.insert(i * (step + 1), Request(f"http://{good.endpoint}/{kind}-{i}", kind))  # type: ignore[arg-type]
        endpoints = tuple(site.endpoint for site in (*server.sites, good))
        fetcher = Fetcher(FetchConfig(allow_addresses=endpoints, **CONFIG))  # type: ignore[arg-type]
        began = time.monotonic()
        self.ends = list(fetcher.fetch_all(requests, gate=open_gate))
        self.seconds = time.monotonic() - began
        fetcher.close()
        self.asked = [request.url for request in requests]
        self.by_name = {self.sites[f.url].trick.name: f for f in self.ends if f.url in self.sites}
        self.good = [f for f in self.ends if f.url not in self.sites]


@pytest.fixture(scope="module")
def crawl() -> Iterator[Crawl]:
    with Elsewhere(full=False, costly=False) as server:
        yield Crawl(server)


def test_every_url_ends_once(crawl: Crawl) -> None:
    """Whatever a server does, each URL has exactly one end."""
    assert sorted(f.url for f in crawl.ends) == sorted(crawl.asked)


def test_the_honest_origin_is_unharmed(crawl: Crawl) -> None:
    """Between all that, every URL of an origin that does no harm is had, and is what it is."""
    assert [f.outcome for f in crawl.good] == ["ok"] * GOOD_URLS
    assert {f.body for f in crawl.good if f.request.kind == "page"} == {GOOD_PAGE}


def test_it_ends_within_its_deadlines(crawl: Crawl) -> None:
    """All tricks stand side by side: together they cost a few deadlines, not one each."""
    assert crawl.seconds < 10 * DEADLINE_S
    assert max(f.elapsed_s for f in crawl.ends) < 4 * DEADLINE_S


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_a_trick_ends_as_what_it_is(crawl: Crawl, trick: Trick) -> None:
    """Each trick has the outcomes that are true of it; nothing that failed brings a body."""
    fetched = crawl.by_name[trick.name]
    assert fetched.outcome in trick.outcomes, (fetched.outcome, fetched.detail)
    assert fetched.ok or fetched.body == b""
    assert len(fetched.body) <= 2_000_000


def test_hostile_pages_are_read(crawl: Crawl) -> None:
    """Of whatever came as a page, a page comes out; what is no address is counted, not raised."""
    for name, fetched in crawl.by_name.items():
        if fetched.ok and fetched.request.kind == "page":
            assert fetched.final_url is not None
            page = read_page(fetched.body, fetched.final_url, fetched.header("content-type"))
            assert page.url == fetched.final_url, name
    deep = read_page(crawl.by_name["10,000 elements deep"].body, "http://a.example/")
    assert [pair.image_url for pair in deep.pairs] == ["http://a.example/a"]


def test_hostile_pictures_cost_themselves_alone(crawl: Crawl) -> None:
    """Bombs, torsos and other files end with their code, and the honest picture between them is shaped."""
    arrived = [(crawl.sites[f.url].trick, f) for f in crawl.ends if f.url in crawl.sites and f.ok]
    pictures: list[tuple[object, bytes]] = [(trick.name, f.body) for trick, f in arrived if trick.decoded]
    honest = next(f.body for f in crawl.good if f.request.kind == "image")
    pictures = [pair for i, p in enumerate(pictures) for pair in (p, (("honest", i), honest))]
    limits = DecodeLimits(memory_bytes=256 << 20, cpu_s=5, wall_s=20.0)
    with DecodePool(2, limits=limits) as pool:
        ends = dict(pool.shape_all(pictures))
    assert len(ends) == len(pictures)
    for trick, _ in arrived:
        if trick.decoded:
            end = ends[trick.name]
            came_to = end.code if isinstance(end, DecodeError) else "shaped"
            assert came_to in trick.decoded, (trick.name, came_to)
    assert not [tag for tag, end in ends.items() if isinstance(tag, tuple) and isinstance(end, DecodeError)]


def test_the_harmful_and_the_honest_are_told_apart(crawl: Crawl) -> None:
    """Nearly all tricks fail, for many reasons: a server that became harmless would be seen here."""
    failed: list[Fetched] = [f for f in crawl.by_name.values() if not f.ok]
    assert len(failed) > 100
    assert {f.outcome for f in failed} >= {
        *("timeout", "reset", "truncated", "too-large", "bad-response", "bad-encoding"),
        *("too-many-redirects", "forbidden-address", "bad-url"),
    }
