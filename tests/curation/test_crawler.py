"""One stream: what is asked before what, and who waits for whom, over real servers on loopback."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from curation.crawler import ORIGIN_NOT_ASKED, REDIRECT_ROUNDS, Crawler, Wanted
from curation.fetch import FetchConfig, Fetched, Fetcher, Gate, Request, open_gate
from curation.hosts import Claims, FileClaims, OriginDocuments
from policy.evidence import Document, OriginEvidence
from policy.signals import robots
from tests.curation.loopback import Answer, Server, hang, redirect, response, serving

RULES = robots.RobotsRules(("museumbot",), 7, "deny", 30, 500_000)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Crawl:
    """A crawler over some servers, with what it needs: use as a context."""

    def __init__(
        self,
        *servers: Server,
        names: tuple[str, ...] = ("robots",),
        claims: Claims | None = None,
        kept_out: Gate = open_gate,
        cache: dict[str, OriginEvidence] | None = None,
        max_pending: int = 20_000,
        delay_s: float = 0.0,
        crawl_delay_max_s: float = 30.0,
        **settings: object,
    ) -> None:
        endpoints = tuple(server.endpoint for server in servers)
        defaults: dict[str, object] = {"deadline_s": 20.0, "retries": 0}
        self.fetcher = Fetcher(FetchConfig(allow_addresses=endpoints, **(defaults | settings)))  # type: ignore[arg-type]
        self.origins = OriginDocuments(self.fetcher, names, cache, claims=claims)
        self.crawler = Crawler(
            self.fetcher,
            self.origins,
            gate=self.gate,
            kept_out=kept_out,
            now=utc_now,
            crawl_delay=lambda document: robots.crawl_delay(document, "museumbot", RULES),
            delay_s=delay_s,
            crawl_delay_max_s=crawl_delay_max_s,
            max_pending=max_pending,
        )

    def gate(self, url: str) -> str | None:
        document = self.crawler.known[url[: url.index("/", 8)]].get("robots")
        judged = robots.may_fetch(document, url, "museumbot", utc_now(), RULES)
        return judged.reason.code if judged.verdict is not None and judged.verdict.name != "ALLOW" else None

    def __enter__(self) -> Crawl:
        return self

    def __exit__(self, *_: object) -> None:
        self.fetcher.close()

    def fetch(self, *urls: str) -> list[Fetched]:
        return list(self.crawler.fetch_all(Request(url, "image") for url in urls))


def test_an_origin_is_asked_before_its_pictures() -> None:
    """robots.txt first and once, then the other documents, then the pictures; each request ends exactly once."""
    with serving({f"/{i}": response(b"x") for i in range(20)}) as server:
        with Crawl(server, names=("ai_txt", "robots", "tdmrep")) as crawl:
            results = crawl.fetch(*(server.url(f"/{i}") for i in range(20)))
            documents = [f.url for f in crawl.origins.take_fetched()]
        assert Counter((f.url, f.outcome) for f in results) == {(server.url(f"/{i}"), "ok"): 1 for i in range(20)}
        assert server.requests[0] == "/robots.txt"
        assert sorted(server.requests[1:3]) == ["/.well-known/tdmrep.json", "/ai.txt"]
        assert len(server.requests) == 23
        assert len(documents) == 3


def test_what_robots_forbids_is_not_contacted() -> None:
    """The gate hears the origin's documents before it is asked, and what it refuses is reported with its code."""
    robots_txt = response(b"User-agent: *\nDisallow: /private\n")
    with serving({"/robots.txt": robots_txt, "/a": response(b"x"), "/private/b": response(b"x")}) as server:
        with Crawl(server) as crawl:
            results = {f.url: f for f in crawl.fetch(server.url("/a"), server.url("/private/b"))}
        assert results[server.url("/a")].ok
        refused = results[server.url("/private/b")]
        assert (refused.outcome, refused.detail) == ("refused-by-policy", "robots-disallow")
        assert server.requests == ["/robots.txt", "/a"]


def test_of_a_wanted_origin_the_documents_are_asked_and_nothing_else() -> None:
    """The origin of a page that was not asked has a say: its documents come in the same stream, and yield nothing."""
    with serving({"/a": response(b"x")}) as server, serving({"/page": response(b"x")}) as page:
        wanted = page.url("/").removesuffix("/")
        with Crawl(server, page) as crawl:
            results = list(crawl.crawler.fetch_all([Wanted(wanted), Request(server.url("/a"), "image")]))
            assert wanted in crawl.crawler.known
        assert [f.url for f in results] == [server.url("/a")]
        assert page.requests == ["/robots.txt"]
        with Crawl(server, page) as crawl:
            assert list(crawl.crawler.fetch_all([Wanted(wanted)])) == []
            assert wanted in crawl.crawler.known


def test_of_what_is_kept_out_not_even_robots_txt_is_asked_for() -> None:
    """A tombstone's origin hears nothing of us, as first URL and as redirect."""
    with serving({"/a": response(b"x")}) as buried, serving() as other:
        other.routes["/b"] = redirect(buried.url("/a"))
        with Crawl(buried, other, kept_out=lambda url: "tombstoned" if url == buried.url("/a") else None) as crawl:
            results = crawl.fetch(buried.url("/a"), other.url("/b"))
        assert {(f.outcome, f.detail, f.refused_url) for f in results} == {
            ("refused-by-policy", "tombstoned", buried.url("/a"))
        }
        assert buried.connections == 0


def test_a_url_that_is_none_and_one_with_a_secret_end_as_bad_urls() -> None:
    """Nobody is asked on their account."""
    with serving() as server, Crawl(server) as crawl:
        results = crawl.fetch("gopher://x/", server.url("/?X-Amz-Signature=a"), "")
    assert [f.outcome for f in results] == ["bad-url"] * 3
    assert server.connections == 0


def test_a_redirect_to_an_unknown_origin_waits_for_its_documents() -> None:
    """It stops before the contact; the documents are asked for, then the URL is asked again from its beginning."""
    with serving() as first, serving({"/x": response(b"picture")}) as second:
        first.routes["/a"] = redirect(second.url("/x"))
        with Crawl(first, second) as crawl:
            (fetched,) = crawl.fetch(first.url("/a"))
        assert (fetched.outcome, fetched.body) == ("ok", b"picture")
        assert [hop.status for hop in fetched.hops] == [302, 200]
        assert first.requests == ["/robots.txt", "/a", "/a"]
        assert second.requests == ["/robots.txt", "/x"]


def test_what_a_redirects_target_forbids_is_not_contacted() -> None:
    """robots.txt of the target counts before the target is asked."""
    with serving() as first, serving({"/robots.txt": response(b"User-agent: *\nDisallow: /\n")}) as second:
        first.routes["/a"] = redirect(second.url("/x"))
        with Crawl(first, second) as crawl:
            (fetched,) = crawl.fetch(first.url("/a"))
        assert (fetched.outcome, fetched.detail) == ("refused-by-policy", "robots-disallow")
        assert fetched.refused_url == second.url("/x")
        assert second.requests == ["/robots.txt"]


def test_a_url_is_asked_in_so_many_rounds_and_no_more() -> None:
    """A chain through ever new origins ends as origin-not-asked."""
    servers = [Server() for _ in range(REDIRECT_ROUNDS + 2)]
    try:
        for one, following in itertools.pairwise(servers):
            one.routes["/a"] = redirect(following.url("/a"))
        servers[-1].routes["/a"] = response(b"x")
        with Crawl(*servers, max_redirects=20) as crawl:
            (fetched,) = crawl.fetch(servers[0].url("/a"))
        assert (fetched.outcome, fetched.detail) == ("refused-by-policy", ORIGIN_NOT_ASKED)
        assert servers[0].requests.count("/a") == REDIRECT_ROUNDS
        assert servers[-1].connections == 0
    finally:
        for server in servers:
            server.close()


def test_an_origin_that_hangs_delays_nobody_else() -> None:
    """While robots.txt of many origins hangs, everything elsewhere is fetched, with places for one transfer only."""
    slow = [Server({"/robots.txt": hang}) for _ in range(8)]
    try:
        pictures = {f"/{i}": response(b"x") for i in range(30)}
        with serving(pictures) as fast, Crawl(fast, *slow, concurrency=2) as crawl:
            urls = [server.url(f"/{i}") for i in range(3) for server in slow]
            urls += [fast.url(f"/{i}") for i in range(30)]
            stream = crawl.crawler.fetch_all(Request(url, "image") for url in urls)
            first = [next(stream) for _ in range(30)]
            stream.close()  # type: ignore[attr-defined]  # it is a generator
        assert {f.outcome for f in first} == {"ok"}
        assert {server.requests[0] for server in slow if server.requests} <= {"/robots.txt"}
    finally:
        for server in slow:
            server.close()


def test_an_origin_that_does_not_answer_is_not_asked_for_the_rest() -> None:
    """After robots.txt failed neither the other documents nor a picture is asked for."""
    with serving() as gone:
        pass
    with Crawl(gone, names=("robots", "tdmrep")) as crawl:
        (fetched,) = crawl.fetch(gone.url("/a"))
        documents = crawl.crawler.known[gone.url("").rstrip("/")].documents
    assert (fetched.outcome, fetched.detail) == ("refused-by-policy", "robots-unreachable")
    assert [document.error for _, document in documents] == ["connect", "connect"]


def test_what_is_known_is_not_asked_again() -> None:
    """Documents of less than a day serve without a request."""
    with serving({"/a": response(b"x")}) as server:
        origin = server.url("").rstrip("/")
        known = Document(f"{origin}/robots.txt", 404, utc_now() - timedelta(hours=1))
        with Crawl(server, cache={origin: OriginEvidence(origin, (("robots", known),))}) as crawl:
            (fetched,) = crawl.fetch(server.url("/a"))
        assert fetched.ok
        assert server.requests == ["/a"]


def test_without_documents_to_ask_for_the_gate_alone_decides() -> None:
    """A ruleset that names no mechanism of origins asks for nothing, and nothing is kept out on that account."""
    with serving({"/a": response(b"x")}) as server, Crawl(server, names=()) as crawl:
        crawl.crawler._gate = open_gate
        assert [f.outcome for f in crawl.fetch(server.url("/a"))] == ["ok"]
        assert server.requests == ["/a"]


def test_what_somebody_else_asks_for_is_waited_for_by_its_own_urls_alone(tmp_path: Path) -> None:
    """An origin that is claimed elsewhere delays nobody; what the other learned serves when it is done."""
    with serving({"/a": response(b"x")}) as claimed, serving({"/b": response(b"x")}) as free:
        origin = claimed.url("").rstrip("/")
        cache: dict[str, OriginEvidence] = {}
        release = FileClaims(tmp_path).take(origin, wait_s=0)
        assert release is not None
        with Crawl(claimed, free, claims=FileClaims(tmp_path), cache=cache) as crawl:
            stream = crawl.crawler.fetch_all(Request(s, "image") for s in (claimed.url("/a"), free.url("/b")))
            assert next(stream).url == free.url("/b")
            cache[origin] = OriginEvidence(origin, (("robots", Document("", 404, utc_now())),))
            release()
            assert [(f.url, f.outcome) for f in stream] == [(claimed.url("/a"), "ok")]
        assert claimed.requests == ["/a"]


def test_a_claim_goes_back_when_the_consumer_stops(tmp_path: Path) -> None:
    """Whoever stops in the middle, or fails, leaves no origin claimed."""
    with serving({"/robots.txt": hang}) as slow, serving({"/b": response(b"x")}) as fast:
        with Crawl(slow, fast, claims=FileClaims(tmp_path)) as crawl:
            stream = crawl.crawler.fetch_all(Request(s, "image") for s in (slow.url("/a"), fast.url("/b")))
            assert next(stream).url == fast.url("/b")
            assert FileClaims(tmp_path).take(slow.url("").rstrip("/"), wait_s=0) is None
            stream.close()  # type: ignore[attr-defined]  # it is a generator
        release = FileClaims(tmp_path).take(slow.url("").rstrip("/"), wait_s=0)
        assert release is not None
        release()


@pytest.mark.parametrize("workers", [4])
def test_however_many_crawl_an_origin_its_documents_are_asked_for_once(workers: int, tmp_path: Path) -> None:
    """Threads that begin with the same origin at the same time send one request for its robots.txt."""

    def slowly(connection: object, stopping: threading.Event) -> None:
        stopping.wait(0.2)
        connection.sendall(response(b"", status="404 Not Found"))  # type: ignore[attr-defined]  # a socket

    with serving({"/robots.txt": slowly, "/a": response(b"x")}) as server:
        cache: dict[str, OriginEvidence] = {}
        outcomes: list[str] = []

        def work() -> None:
            with Crawl(server, claims=FileClaims(tmp_path), cache=cache) as crawl:
                outcomes.extend(f.outcome for f in crawl.fetch(server.url("/a")))

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == ["ok"] * workers
        assert server.requests.count("/robots.txt") == 1


def test_the_source_is_read_no_further_than_there_is_room() -> None:
    """However many origins are unknown, never more than max_pending requests are pulled and unanswered."""
    with serving({"/": response(b"x")}) as server:
        pulled = 0

        def source() -> Iterator[Request]:
            nonlocal pulled
            while True:
                pulled += 1
                yield Request(server.url(), "image")

        with Crawl(server, max_pending=10) as crawl:
            stream = crawl.crawler.fetch_all(source())
            for answered in range(1, 20):
                assert next(stream).ok
                assert pulled <= answered + 10
            stream.close()  # type: ignore[attr-defined]  # it is a generator


def test_a_source_may_wait_for_what_is_found() -> None:
    """A frontier yields None while it has nothing, and goes on when a result brought more."""
    with serving({f"/{i}": response(b"x") for i in range(5)}) as server:
        frontier, seen = [server.url("/0")], []

        def source() -> Iterator[Request | None]:
            while len(seen) < 5:
                yield Request(frontier.pop(), "page") if frontier else None

        with Crawl(server) as crawl:
            for fetched in crawl.crawler.fetch_all(source()):
                seen.append(fetched.url)
                if len(seen) < 5:
                    frontier.append(server.url(f"/{len(seen)}"))
    assert seen == [server.url(f"/{i}") for i in range(5)]


def test_the_pace_that_robots_txt_asks_for_is_kept() -> None:
    """Between two starts lies Crawl-delay, from the document after robots.txt on, up to our own limit."""
    at: dict[str, float] = {}

    def timed(path: str) -> Answer:
        def answer(connection: object, stopping: threading.Event) -> None:
            at[path] = time.monotonic()
            connection.sendall(response(b"x"))  # type: ignore[attr-defined]  # a socket

        return answer

    robots_txt = response(b"User-agent: *\nCrawl-delay: 9\n")
    routes: dict[str, Answer] = {"/robots.txt": robots_txt, "/a": timed("/a"), "/b": timed("/b")}
    with serving(routes) as server, Crawl(server, crawl_delay_max_s=0.3) as crawl:
        results = crawl.fetch(server.url("/a"), server.url("/b"))
        assert crawl.crawler.delay_s(server.url("").rstrip("/")) == 0.3
    assert [f.outcome for f in results] == ["ok", "ok"]
    assert abs(at["/a"] - at["/b"]) >= 0.29


def test_a_gate_that_fails_lets_nothing_through() -> None:
    """An exception in the gate reaches the caller, and the URL is not contacted."""
    with serving({"/a": response(b"x")}) as server, Crawl(server) as crawl:

        def gate(url: str) -> str | None:
            raise LookupError(url)

        crawl.crawler._gate = gate
        with pytest.raises(LookupError):
            crawl.fetch(server.url("/a"))
        assert server.requests == ["/robots.txt"]
