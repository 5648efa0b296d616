"""The fetcher against real servers on loopback, the hostile ones included."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pycurl  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch import FetchConfig, Fetched, Fetcher, Request, open_gate, validators
from curation.transfer import Caches, Loop, Transfer
from policy.errors import ConfigurationError, InputError, RefusedError
from tests.curation.loopback import (
    Answer,
    Authority,
    Http2Server,
    Page,
    Server,
    closing,
    dripping,
    flooding,
    hang,
    redirect,
    response,
    serving,
)


def fetcher(*servers: Server, **settings: object) -> Fetcher:
    """A fetcher that may reach these servers and nothing else, impatient enough for tests."""
    defaults: dict[str, object] = {"deadline_s": 20.0, "rate_window_s": 10.0, "retries": 0}
    endpoints = tuple(server.endpoint for server in servers)
    return Fetcher(FetchConfig(allow_addresses=endpoints, **(defaults | settings)))  # type: ignore[arg-type]


def get(server: Server, path: str = "/", kind: str = "image", **settings: object) -> Fetched:
    with_server = fetcher(server, **settings)
    try:
        return with_server.fetch(Request(server.url(path), kind))  # type: ignore[arg-type]
    finally:
        with_server.close()


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_response_comes_back_whole() -> None:
    """Body, status, address, final URL and every header in order, duplicates and Latin-1 kept."""
    with serving({"/a": response(b"body", "X-Robots-Tag: noai", "X-Robots-Tag: noindex", "X-Name: \xe9")}) as server:
        fetched = get(server, "/a#fragment")
    assert (fetched.outcome, fetched.status, fetched.body) == ("ok", 200, b"body")
    assert fetched.final_url == server.url("/a")
    assert fetched.url == server.url("/a#fragment")
    assert fetched.address == server.endpoint
    assert fetched.hops[0].headers == (
        ("Content-Length", "4"),
        ("X-Robots-Tag", "noai"),
        ("X-Robots-Tag", "noindex"),
        ("X-Name", "é"),
    )
    assert fetched.header("x-robots-tag") == "noindex"
    assert fetched.started_at is not None
    assert fetched.started_at.utcoffset() is not None


def test_every_hop_of_a_redirect_is_kept() -> None:
    """Redirects are followed one by one, and each hop's headers stand in the evidence."""
    routes: dict[str, Answer] = {
        "/1": redirect("/2", "301 Moved", "X-Robots-Tag: noai"),
        "/2": redirect("3?x", "307 Temporary"),
        "/3?x": response(b"here"),
    }
    with serving(routes) as server:
        fetched = get(server, "/1")
    assert fetched.ok
    assert [(hop.url, hop.status) for hop in fetched.hops] == [
        (server.url("/1"), 301),
        (server.url("/2"), 307),
        (server.url("/3?x"), 200),
    ]
    assert ("X-Robots-Tag", "noai") in fetched.hops[0].headers


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 429, 500, 503])
def test_a_status_that_brings_no_picture_is_the_outcome(status: int) -> None:
    """Everything but a complete 200 is named by its status, and its body is not kept."""
    body = b"" if status in (204, 304) else b"sorry"
    with serving({"/": response(body, status=f"{status} Whatever")}) as server:
        fetched = get(server)
    assert (fetched.outcome, fetched.status, fetched.body) == (f"http-{status}", status, b"")


def test_a_redirect_without_a_target_is_its_status() -> None:
    """A 302 that does not say where to is http-302."""
    with serving({"/": response(status="302 Found")}) as server:
        assert get(server).outcome == "http-302"


def test_interim_responses_and_folded_headers_are_read_as_one_response() -> None:
    """A 103 before the response leaves no headers behind; a folded header is one header."""
    early = b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"
    with serving({"/": early + response(b"ok", "X-Folded: a\r\n b")}) as server:
        fetched = get(server)
    assert fetched.ok
    assert dict(fetched.hops[0].headers)["X-Folded"].split() == ["a", "b"]
    assert "X-Early" not in dict(fetched.hops[0].headers)


def test_connections_are_used_again() -> None:
    """Many requests to one origin share its few connections."""
    with serving({f"/{i}": response(b"x") for i in range(40)}) as server:
        shared = fetcher(server, per_origin_concurrency=2)
        results = list(shared.fetch_all((Request(server.url(f"/{i}"), "image") for i in range(40)), gate=open_gate))
        shared.close()
    assert sum(r.ok for r in results) == 40
    assert {r.url for r in results} == {server.url(f"/{i}") for i in range(40)}
    assert server.connections <= 2
    assert server.most_busy <= 2


def test_the_user_agent_says_who_asks_and_nothing_else_is_told() -> None:
    """Product, version and contact are sent; no cookie, referrer or authorisation is."""
    routes: dict[str, Answer] = {"/": redirect("/2", "302 Found", "Set-Cookie: a=b"), "/2": response(b"x")}
    with serving(routes) as server:
        polite = fetcher(server, product="museumbot", version="1.2", contact="https://museum.example/bot")
        assert polite.fetch(Request(server.url(), "image")).ok
        polite.close()
    lines = [line.lower() for head in server.heads for line in head.split(b"\r\n")]
    assert lines.count(b"user-agent: museumbot/1.2 (+https://museum.example/bot)") == 2
    assert lines.count(b"accept-encoding: identity") == 2
    assert not [line for line in lines if line.startswith((b"cookie", b"referer", b"authorization"))]


LINES = st.sampled_from(
    [
        *(
            b"A: b",
            b"A:",
            b"A:  \t",
            b"A: b \t",
            b" fold",
            b"\tfold",
            b"no colon",
            b": x",
            b"A:b:c",
            b"A : b",
            b"A: a\x0bb",
        ),
        *(b"HTTP/1.1 100 Continue", b"HTTP/1.1 302 Found", b"HTTP/2 204 ", b"HTTP/x: y", b"", b"A: \xe9", b"A: b\xa0"),
    ]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b" \r\n"])


@given(st.lists(st.tuples(LINES, ENDS), max_size=6))
def test_headers_are_read_alike_the_quick_way_and_line_by_line(lines: list[tuple[bytes, bytes]]) -> None:
    """What nearly all responses get is what the careful reading says, whatever the lines."""
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(line + end for line, end in lines) + b"\r\n"
    quick, careful = (Transfer.__new__(Transfer) for _ in range(2))
    for one in (quick, careful):
        one.head, one.head_bytes, one._status, one._headers_of = bytearray(head), 0, 0, 0
    careful._read_lines(head.decode("latin-1"))
    assert (quick.status, quick.headers()) == (careful._status, careful._headers)


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_body_over_the_cap_is_not_read() -> None:
    """A declared 60 MB is refused by its header; an undeclared flood is cut at the cap."""
    flood = flooding(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", b"x" * 65536)
    declared = flooding(response(length=60_000_000), b"x" * 65536)
    with serving({"/flood": flood, "/declared": declared}) as server:
        for path in ("/flood", "/declared"):
            fetched = get(server, path, max_image_bytes=1_000_000)
            assert (fetched.outcome, fetched.detail, fetched.body) == ("too-large", "body", b"")
            assert fetched.hops[0].status == 200


def test_a_document_over_the_cap_keeps_its_beginning() -> None:
    """Of a policy document that is too long the first bytes are kept: its rules may stand there."""
    with serving({"/robots.txt": response(b"User-agent: *\n" + b"#" * 5000)}) as server:
        fetched = get(server, "/robots.txt", kind="document", max_document_bytes=1000)
    assert (fetched.outcome, len(fetched.body)) == ("too-large", 1000)


def test_headers_without_end_are_cut() -> None:
    """A flood of headers ends at its cap."""
    flood = flooding(b"HTTP/1.1 200 OK\r\n", b"X-Flood: " + b"x" * 1000 + b"\r\n")
    with serving({"/": flood}) as server:
        fetched = get(server, max_header_bytes=20_000)
    assert (fetched.outcome, fetched.detail) == ("too-large", "headers")


def test_a_body_in_too_many_pieces_is_not_read_to_its_end() -> None:
    """Chunks of a byte each cost us more than their bytes: such a body is given up long before its cap."""
    tiny = flooding(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 8000)
    with serving({"/": tiny}) as server:
        fetched = get(server, max_image_bytes=20_000_000)
    assert (fetched.outcome, fetched.detail, fetched.body) == ("too-large", "pieces", b"")


def test_small_pieces_are_no_reason_to_refuse_a_small_body() -> None:
    """A page that is flushed word by word comes whole."""
    words = b"".join(b"5\r\nword \r\n" for _ in range(5000)) + b"0\r\n\r\n"
    with serving({"/": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + words}) as server:
        fetched = get(server)
    assert (fetched.outcome, fetched.body) == ("ok", b"word " * 5000)


def test_a_hanging_server_ends_at_the_deadline() -> None:
    """A server that accepts and says nothing costs the deadline and no more."""
    with serving({"/": hang}) as server:
        fetched = get(server, deadline_s=0.3)
    assert (fetched.outcome, fetched.detail) == ("timeout", "deadline")
    assert fetched.hops == ()
    assert fetched.final_url == server.url()


def test_a_drip_ends_by_its_rate() -> None:
    """Bytes that come one by one, in the body or in the headers, keep nobody waiting until the deadline."""
    routes: dict[str, Answer] = {
        "/body": dripping(response(length=100_000)),
        "/head": dripping(b"HTTP/1.1 200 OK\r\nX-Drip: "),
    }
    with serving(routes) as server:
        for path in ("/body", "/head"):
            fetched = get(server, path, rate_window_s=0.5, min_rate_bytes_per_s=1000.0)
            assert (fetched.outcome, fetched.detail) == ("timeout", "rate")


def test_the_deadline_holds_over_all_hops() -> None:
    """Redirects do not start the clock anew."""

    def slow_redirect(to: str) -> Answer:
        def answer(connection: socket.socket, stopping: threading.Event) -> None:
            stopping.wait(0.3)
            connection.sendall(redirect(to))

        return answer

    with serving({f"/{i}": slow_redirect(f"/{i + 1}") for i in range(50)}) as server:
        fetched = get(server, "/0", deadline_s=1.0, max_redirects=100)
    assert (fetched.outcome, fetched.detail) == ("timeout", "deadline")
    assert 1 <= len(fetched.hops) <= 4


def test_a_slow_consumer_costs_no_transfer_its_deadline() -> None:
    """Time in which the caller works on a result counts against nobody."""
    with serving({f"/{i}": response(b"x") for i in range(3)}) as server:
        patient = fetcher(server, deadline_s=0.5, per_origin_concurrency=3)
        outcomes = []
        for fetched in patient.fetch_all([Request(server.url(f"/{i}"), "image") for i in range(3)], gate=open_gate):
            outcomes.append(fetched.outcome)
            server.stopping.wait(0.7)
        patient.close()
    assert outcomes == ["ok"] * 3


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (closing(b"", reset=True), {"reset"}),
        (closing(b""), {"reset"}),
        (closing(response(b"half", length=1000)), {"truncated"}),
        (closing(response(b"half", length=1000), reset=True), {"reset", "truncated"}),
        (closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf"), {"truncated", "reset"}),
        (closing(b"HTTP/1.1 200 OK\r\n"), {"truncated"}),
        (closing(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"), {"truncated"}),
        (closing(b"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n"), {"bad-response"}),
        (closing(b"SSH-2.0-OpenSSH_9.2\r\n"), {"bad-response"}),
        (closing(b"\x00\xff" * 100), {"bad-response", "reset"}),
    ],
)
def test_broken_answers_have_names(answer: Answer, outcome: set[str]) -> None:
    """Resets, early ends and other protocols are told apart, and never pass for a body."""
    with serving({"/": answer}) as server:
        fetched = get(server)
    assert fetched.outcome in outcome
    assert fetched.body == b""


def test_a_body_longer_than_declared_is_cut_where_it_was_declared() -> None:
    """A lying Content-Length gives the bytes it declares and poisons no later response."""
    with serving({"/": response(b"four" + b"more", length=4), "/2": response(b"next")}) as server:
        both = fetcher(server, per_origin_concurrency=1)
        bodies = [
            f.body for f in both.fetch_all([Request(server.url(p), "image") for p in ("/", "/2")], gate=open_gate)
        ]
        both.close()
    assert bodies[0] == b"four"


def test_nobody_listening_is_a_refused_connection() -> None:
    """A closed port is connect; a name without an address is dns."""
    with serving() as server:
        pass
    assert get(server).outcome == "connect"
    nameless = Fetcher(FetchConfig(), resolver=lambda host, port: ())
    fetched = nameless.fetch(Request("http://nowhere.example/", "page"))
    assert fetched.outcome == "dns"
    nameless.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that is trusted where its file is named."""
    return Authority(tmp_path_factory.mktemp("tls"))


def test_a_certificate_nobody_signed_is_tls(authority: Authority) -> None:
    """Over https a certificate must be signed by somebody who is trusted, for the name that is asked."""
    with serving({"/": response(b"x")}, tls=authority.context("127.0.0.1")) as server:
        assert get(server).outcome == "tls"
        assert server.requests == []
        fetched = get(server, ca_file=authority.path)
    assert (fetched.outcome, fetched.address) == ("ok", server.endpoint)
    with serving({"/": response(b"x")}, tls=authority.context("museum.example")) as server:
        assert get(server, ca_file=authority.path).outcome == "tls"
        assert server.requests == []


def test_tls_sessions_are_shared_between_loops(authority: Authority) -> None:
    """A nested fetch, which has connections of its own, resumes the session that the outer one began."""
    closed = response(b"x", "Connection: close")
    with serving({"/a": closed, "/b": closed}, tls=authority.context("127.0.0.1")) as server:
        one = fetcher(server, ca_file=authority.path)
        for outer in one.fetch_all([Request(server.url("/a"), "image")], gate=open_gate):
            assert outer.ok
            assert one.fetch(Request(server.url("/b"), "document")).ok
        one.close()
    assert server.resumed == [False, True]


# ── HTTP/2 ───────────────────────────────────────────────────────────────────────────────────────────────────────
PICTURE_TYPE = (("content-type", "image/png"), ("x-robots-tag", "noai"))


@contextmanager
def serving_http2(authority: Authority, pages: dict[str, Page | None]) -> Iterator[Http2Server]:
    server = Http2Server(authority.context("127.0.0.1", alpn=("h2", "http/1.1")), pages)
    try:
        yield server
    finally:
        server.close()


def test_over_http2_one_connection_carries_all(authority: Authority) -> None:
    """Where TLS agrees on HTTP/2 an origin's transfers share a connection, from the first on, bodies unmixed."""
    pages: dict[str, Page | None] = {f"/{i}": (200, PICTURE_TYPE, bytes([i]) * 50_000) for i in range(30)}
    with serving_http2(authority, pages) as server:
        shared = fetcher(server, ca_file=authority.path, per_origin_concurrency=6)
        requests = [Request(server.url(f"/{i}"), "image") for i in range(30)]
        results = {f.url: f for f in shared.fetch_all(requests, gate=open_gate)}
        shared.close()
    assert [results[r.url].body for r in requests] == [bytes([i]) * 50_000 for i in range(30)]
    assert {f.hops[0].headers for f in results.values()} == {PICTURE_TYPE}
    assert {f.address for f in results.values()} == {server.endpoint}
    assert server.connections == 1


def test_a_stream_that_is_given_up_harms_no_other(authority: Authority) -> None:
    """A hanging, an overlong and a refused response end by themselves, on the connection that goes on serving."""
    pages: dict[str, Page | None] = {f"/{i}": (200, (), b"x" * 1000) for i in range(10)}
    pages |= {"/hang": None, "/long": (200, (), b"x" * 500_000), "/gone": (410, (), b"")}
    with serving_http2(authority, pages) as server:
        shared = fetcher(server, ca_file=authority.path, max_image_bytes=10_000, deadline_s=1.0)
        paths = ["/hang", "/long", "/gone", *(f"/{i}" for i in range(10))]
        requests = [Request(server.url(path), "image") for path in paths]
        results = {f.url: f.outcome for f in shared.fetch_all(requests, gate=open_gate)}
        shared.close()
    assert [results[r.url] for r in requests] == ["timeout", "too-large", "http-410", *["ok"] * 10]
    assert server.connections == 1


def test_the_address_is_checked_for_each_stream(authority: Authority) -> None:
    """A request that shares a connection is refused where the connection's address is forbidden by now."""
    with serving_http2(authority, {"/a": (200, (), b"a"), "/b": (200, (), b"b")}) as server:
        guarded = fetcher(server, ca_file=authority.path)
        stream = guarded.fetch_all([Request(server.url("/a"), "image")], gate=open_gate)
        assert [f.outcome for f in stream] == ["ok"]
        guarded.allowed = frozenset()
        guarded.require_contact = lambda url: None  # type: ignore[method-assign]  # only the address is asked about here
        fetched = guarded.fetch(Request(server.url("/b"), "image"))
        guarded.close()
    assert (fetched.outcome, fetched.detail, fetched.body) == ("forbidden-address", "loopback", b"")
    assert server.requests == ["/a"]
    assert server.connections == 1


# ── what servers would have us remember ──────────────────────────────────────────────────────────────────────────
def test_nothing_a_server_says_sends_later_requests_elsewhere(authority: Authority) -> None:
    """Alt-Svc, HSTS and cookies are not kept: the next request goes where its URL says, as the first did."""
    with serving() as trap, serving(tls=authority.context("127.0.0.1")) as server, serving() as plain:
        remember = (f'Alt-Svc: http/1.1=":{trap.port}"; ma=3600', "Strict-Transport-Security: max-age=3600")
        server.routes["/"] = response(b"x", *remember, "Set-Cookie: a=b")
        plain.routes["/"] = response(b"x", *remember, "Set-Cookie: a=b")
        one = fetcher(server, plain, trap, ca_file=authority.path)
        for _ in range(2):
            assert one.fetch(Request(server.url(), "image")).address == server.endpoint
            assert one.fetch(Request(plain.url(), "image")).address == plain.endpoint
        one.close()
    assert trap.connections == 0
    assert not [head for head in server.heads + plain.heads if b"ookie" in head]


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_what_has_not_changed_is_not_sent_again() -> None:
    """A 304 to a condition is not-modified, with its headers and no body; a changed one comes whole."""
    not_modified = response(b"", 'ETag: "1"', status="304 Not Modified")
    with serving({"/": not_modified, "/new": response(b"new")}) as server:
        conditions = (("If-None-Match", '"1"'), ("If-Modified-Since", "Sun, 01 Nov 2026 10:00:00 GMT"))
        one = fetcher(server)
        same, new, plain = (
            one.fetch(Request(server.url(path), "image", headers=headers))
            for path, headers in (("/", conditions), ("/new", conditions), ("/new", ()))
        )
        one.close()
    assert (same.outcome, same.status, same.body, len(same.hops)) == ("not-modified", 304, b"", 1)
    assert [new.outcome, plain.outcome] == ["ok", "ok"]
    asked = [[line for line in head.split(b"\r\n") if line.startswith(b"If-")] for head in server.heads]
    lines = [b'If-None-Match: "1"', b"If-Modified-Since: Sun, 01 Nov 2026 10:00:00 GMT"]
    assert asked == [lines, lines, []]


def test_a_condition_is_about_the_url_that_was_asked_before() -> None:
    """It is not sent on to a redirect's target, where a 304 would say nothing of what is stored."""
    with serving({"/": redirect("/2"), "/2": response(b"", status="304 Not Modified")}) as server:
        one = fetcher(server)
        fetched = one.fetch(Request(server.url(), "image", headers=(("If-None-Match", '"1"'),)))
        one.close()
    assert fetched.outcome == "http-304"
    assert b"If-None-Match" in server.heads[0]
    assert b"If-None-Match" not in server.heads[1]


@pytest.mark.parametrize(
    ("headers", "conditions"),
    [
        ((), ()),
        ((("ETag", '"1"'),), (("If-None-Match", '"1"'),)),
        ((("etag", 'W/"a b"'),), ()),
        ((("etag", 'W/"a-b"'),), (("If-None-Match", 'W/"a-b"'),)),
        ((("ETag", '"old"'), ("ETag", '"new"')), (("If-None-Match", '"new"'),)),
        ((("ETag", "unquoted"),), ()),
        ((("ETag", '"a\r\nX-Injected: 1"'),), ()),
        ((("ETag", '"a\x00"'),), ()),
        ((("ETag", '"\u0100"'),), ()),
        ((("ETag", '"' + "x" * 5000 + '"'),), ()),
        (
            (("Last-Modified", "Sun, 01 Nov 2026 10:00:00 GMT"),),
            (("If-Modified-Since", "Sun, 01 Nov 2026 10:00:00 GMT"),),
        ),
        ((("Last-Modified", "yesterday"),), ()),
        ((("Last-Modified", "Sun, 01 Nov 2026 10:00:00 GMT\r\nX: 1"),), ()),
        ((("Location", "/2"), ("ETag", '"1"')), ()),
    ],
)
def test_validators_are_made_of_what_can_be_sent(
    headers: tuple[tuple[str, str], ...], conditions: tuple[tuple[str, str], ...]
) -> None:
    """Entity tags and dates as RFC 9110 has them, the last of several; nothing that was reached by a redirect."""
    assert validators(headers) == conditions
    assert Request("http://museum.example/", "image", headers=validators(headers)).headers == conditions


@pytest.mark.parametrize(
    "header",
    [
        ("If-None-Match", '"1"\r\nX-Injected: 1'),
        ("If-None-Match", ""),
        ("If-None-Match", '"\u0100"'),
        ("Cookie", "a=b"),
        ("If-None-Match: x\r\nCookie", "a=b"),
    ],
)
def test_no_other_header_can_be_given(header: tuple[str, str]) -> None:
    """A request carries conditions and nothing else, each of one line."""
    with pytest.raises(InputError):
        Request("http://museum.example/", "image", headers=(header,))


def test_an_origins_own_documents_pass_the_gate() -> None:
    """Of a request that is not gated neither the URL nor a redirect's target is asked about; of others both are."""
    with serving({"/robots.txt": redirect("/elsewhere"), "/elsewhere": response(b"rules")}) as server:
        asked: list[str] = []
        one = fetcher(server)
        requests = [
            Request(server.url("/robots.txt"), "document", gated=False),
            Request(server.url("/elsewhere"), "image"),
        ]
        outcomes = {f.url: f.outcome for f in one.fetch_all(requests, gate=lambda url: asked.append(url) or "no")}
        one.close()
    assert outcomes == {server.url("/robots.txt"): "ok", server.url("/elsewhere"): "refused-by-policy"}
    assert asked == [server.url("/elsewhere")]


# ── content encodings that were not asked for ────────────────────────────────────────────────────────────────────
def raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize(
    ("encoding", "body", "outcome", "decoded"),
    [
        ("gzip", gzip.compress(b"picture" * 1000, mtime=0), "ok", b"picture" * 1000),
        ("X-GZIP", gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0), "ok", b"onetwo"),
        ("deflate", zlib.compress(b"picture"), "ok", b"picture"),
        ("deflate", raw_deflate(b"picture"), "ok", b"picture"),
        ("identity", b"picture", "ok", b"picture"),
        ("gzip", gzip.compress(b"picture" * 1000, mtime=0)[:-9], "truncated", b""),
        ("gzip", b"no gzip at all", "bad-encoding", b""),
        ("br", b"whatever", "bad-encoding", b""),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "bad-encoding", b""),
        ("gzip", gzip.compress(b"\0" * 50_000_000, mtime=0), "too-large", b""),
        ("deflate", zlib.compress(b"\0" * 50_000_000), "too-large", b""),
        ("gzip", gzip.compress(b"", mtime=0) * 20 + gzip.compress(b"x", mtime=0), "ok", b"x"),
        ("gzip", gzip.compress(b"", mtime=0) * 4_000, "too-large", b""),
        ("deflate", zlib.compress(b"x") + b"rubbish", "ok", b"x"),
    ],
)
def test_an_encoding_is_undone_within_the_cap(encoding: str, body: bytes, outcome: str, decoded: bytes) -> None:
    """gzip and deflate are decoded as they come and counted as decoded; the rest is named."""
    with serving({"/": response(body, f"Content-Encoding: {encoding}")}) as server:
        fetched = get(server, max_image_bytes=100_000)
    assert (fetched.outcome, fetched.body) == (outcome, decoded)


# ── where it may go ──────────────────────────────────────────────────────────────────────────────────────────────
SPELLINGS_OF_LOOPBACK = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
    *("127.0.0.1.", "①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1", "localhost", "LOCALHOST", "0", "0.0.0.0"),
    *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "[::127.0.0.1]", "[::]"),
    *("[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[fe80::1]", "[ff02::1]"),
]


@pytest.mark.parametrize("host", SPELLINGS_OF_LOOPBACK)
def test_no_spelling_of_loopback_reaches_a_listening_socket(host: str) -> None:
    """However the address is written, directly or as a redirect's target, nothing is connected to."""
    with serving({"/": response(b"secret")}) as inside, serving() as outside:
        target = f"http://{host}:{inside.port}/"
        outside.routes["/"] = redirect(target.encode("utf-8").decode("latin-1"))
        careful = fetcher(outside, connect_timeout_s=5.0)
        for url in (target, outside.url()):
            fetched = careful.fetch(Request(url, "image"))
            assert fetched.outcome in ("forbidden-address", "bad-url", "dns", "connect"), fetched
            assert fetched.body == b""
        careful.close()
        assert inside.connections == 0


def test_the_metadata_service_is_not_asked() -> None:
    """A redirect to a cloud's metadata address ends there, with the refused URL named."""
    with serving({"/": redirect("http://169.254.169.254/latest/meta-data/")}) as server:
        fetched = get(server)
    assert (fetched.outcome, fetched.detail) == ("forbidden-address", "link-local")
    assert fetched.refused_url == "http://169.254.169.254/latest/meta-data/"
    assert [hop.status for hop in fetched.hops] == [302]


def test_the_allow_list_is_exact() -> None:
    """An allowed address with another port, or the same port elsewhere on loopback, stays forbidden."""
    with serving({"/": response(b"x")}) as allowed, serving({"/": response(b"x")}) as other:
        careful = fetcher(allowed)
        assert careful.fetch(Request(allowed.url(), "image")).ok
        assert careful.fetch(Request(other.url(), "image")).outcome == "forbidden-address"
        assert careful.fetch(Request(allowed.url(host="127.0.0.2"), "image")).outcome == "forbidden-address"
        careful.close()
        assert other.connections == 0


def test_a_name_that_moves_is_checked_where_it_moved() -> None:
    """DNS rebinding: the address that is connected to is checked each time, not the name."""
    with serving({"/": response(b"x")}) as outside, serving({"/": response(b"secret")}, "127.0.0.2") as inside:
        answers = iter([["127.0.0.1"], ["127.0.0.2"], ["169.254.169.254"]])
        config = FetchConfig(allow_addresses=(outside.endpoint,))
        rebinding = Fetcher(config, resolver=lambda host, port: next(answers))
        url = outside.url(host="museum.example")
        outcomes = [rebinding.fetch(Request(url, "image")).outcome for _ in range(3)]
        rebinding.close()
        assert outcomes == ["ok", "forbidden-address", "forbidden-address"]
        assert inside.connections == 0


def test_a_name_is_looked_up_again_after_a_while() -> None:
    """Addresses are kept for a minute; then, and after nobody answered, a new connection asks for them anew."""
    with serving({"/": response(b"x", "Connection: close")}, "0.0.0.0") as server:
        port = server.port
        one = Fetcher(FetchConfig(allow_addresses=(f"127.0.0.1:{port}", f"127.0.0.2:{port}"), retries=0))
        url = f"http://localhost:{port}/"
        seed = pycurl.Curl()
        seed.setopt(pycurl.SHARE, one._caches.share)
        seed.setopt(pycurl.RESOLVE, [f"+localhost:{port}:127.0.0.2"])
        seed.setopt(pycurl.URL, url)
        seed.setopt(pycurl.WRITEFUNCTION, lambda data: None)
        seed.perform()
        seed.close()
        seen = [one.fetch(Request(url, "image")).address for _ in range(2)]
        one._caches.distrust(f"http://localhost:{port}")
        seen.append(one.fetch(Request(url, "image")).address)
        one.close()
    assert seen[:2] == [f"127.0.0.2:{port}"] * 2
    assert seen[2] == f"127.0.0.1:{port}"


def test_no_more_names_are_kept_than_so_many() -> None:
    """The oldest name is forgotten where a new one is one too many; a name that is known and young goes nowhere."""
    caches = Caches()
    origins = [f"https://host{i}.example" for i in range(1_000)]
    assert [caches.outdated(origin) for origin in [*origins, origins[0]]] == [[]] * 1_001
    assert caches.outdated("http://one.more.example") == ["host0.example:443"]
    assert caches.outdated("http://another.example:8080") == ["host1.example:443"]
    caches.distrust(origins[5])
    assert caches.outdated(origins[5]) == ["host5.example:443"]
    assert caches.outdated(origins[5]) == []


def test_of_mixed_addresses_only_the_permitted_one_is_used() -> None:
    """A name with a forbidden and a permitted address is asked at the permitted one alone."""
    with serving({"/": response(b"x")}) as outside:
        config = FetchConfig(allow_addresses=(outside.endpoint,))
        mixed = Fetcher(config, resolver=lambda host, port: ("127.0.0.2", "127.0.0.1", "10.0.0.1"))
        fetched = mixed.fetch(Request(outside.url(host="museum.example"), "image"))
        mixed.close()
    assert (fetched.outcome, fetched.address) == ("ok", outside.endpoint)


def test_the_environment_cannot_send_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables are not asked."""
    with serving({"/": response(b"x")}) as server, serving() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        assert get(server).ok
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://user:password@127.0.0.1/", "userinfo"),
        ("http://127.0.0.1/?X-Amz-Signature=a", "signed-url"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("gopher://127.0.0.1/", "not an http or https URL"),
        ("", "not an http or https URL"),
    ],
)
def test_urls_that_may_not_be_asked_end_as_bad_urls(url: str, detail: str) -> None:
    """Secrets and other schemes are refused before anything is contacted, as first URL and as redirect."""
    with serving() as server:
        direct = fetcher(server)
        fetched = direct.fetch(Request(url, "image"))
        assert (fetched.outcome, fetched.detail, fetched.started_at) == ("bad-url", detail, None)
        if url:
            server.routes["/"] = redirect(url)
            assert direct.fetch(Request(server.url(), "image")).outcome == "bad-url"
        direct.close()


def test_redirects_end() -> None:
    """A loop and a chain without end are too many redirects, with every hop kept."""
    routes: dict[str, Answer] = {"/loop": redirect("/pool"), "/pool": redirect("/loop")}
    routes |= {f"/{i}": redirect(f"/{i + 1}") for i in range(50)}
    with serving(routes) as server:
        loop, chain = get(server, "/loop"), get(server, "/0", max_redirects=5)
    assert (loop.outcome, loop.detail, len(loop.hops)) == ("too-many-redirects", "loop", 2)
    assert (chain.outcome, len(chain.hops)) == ("too-many-redirects", 6)


def test_a_meta_refresh_is_not_followed() -> None:
    """Only HTTP redirects; what HTML wishes is not contacted."""
    with serving({"/": response(b'<meta http-equiv=refresh content="0;url=/2">')}) as server:
        assert get(server, kind="page").ok
        assert server.requests == ["/"]


# ── the gate and the contact ─────────────────────────────────────────────────────────────────────────────────────
def test_the_gate_is_asked_before_every_contact() -> None:
    """A refused URL, first or redirected to, is not contacted; the code and the URL are reported."""
    with serving({"/": redirect("/private/x"), "/private/x": response(b"no")}) as server:
        asked: list[str] = []

        def gate(url: str) -> str | None:
            asked.append(url)
            return "robots" if "/private/" in url else None

        guarded = fetcher(server)
        (fetched,) = guarded.fetch_all([Request(server.url(), "image")], gate=gate)
        assert (fetched.outcome, fetched.detail) == ("refused-by-policy", "robots")
        assert fetched.refused_url == server.url("/private/x")
        assert fetched.final_url == server.url()
        assert [hop.status for hop in fetched.hops] == [302]
        (direct,) = guarded.fetch_all([Request(server.url("/private/x"), "image")], gate=gate)
        assert (direct.outcome, direct.final_url, direct.started_at) == ("refused-by-policy", None, None)
        guarded.close()
        assert server.requests == ["/"]
        assert asked == [server.url(), server.url("/private/x"), server.url("/private/x")]


def test_a_gate_that_fails_lets_nothing_through() -> None:
    """An exception in the gate reaches the caller, and the URL is not contacted."""
    with serving({"/": response(b"x")}) as server:

        def gate(url: str) -> str | None:
            raise LookupError(url)

        guarded = fetcher(server)
        with pytest.raises(LookupError):
            list(guarded.fetch_all([Request(server.url(), "image")], gate=gate))
        guarded.close()
        assert server.connections == 0


@pytest.mark.parametrize("url", ["https://museum.example/", "http://8.8.8.8/", "http://[2606:4700::1]/"])
def test_nobody_is_asked_without_a_contact(url: str) -> None:
    """Without a contact address not even a name is looked up beyond the allow-list."""
    anonymous = Fetcher(FetchConfig())
    with pytest.raises(RefusedError, match="contact"):
        anonymous.fetch(Request(url, "page"))
    anonymous.close()


def test_a_redirect_cannot_stop_a_crawl_without_contact() -> None:
    """A page that redirects beyond the allow-list gets an outcome; the run goes on."""
    with serving({"/": redirect("https://museum.example/")}) as server:
        fetched = get(server)
    assert (fetched.outcome, fetched.detail) == ("refused-by-policy", "no-contact")


@pytest.mark.parametrize(
    "settings",
    [
        {"allow_addresses": ("localhost:80",)},
        {"concurrency": 0},
        {"deadline_s": 0.0},
        {"product": "two words"},
        {"contact": "me\r\nX-Injected: 1"},
        {"retries": -1},
        {"retry_max_s": float("inf")},
        {"retry_base_s": float("nan")},
        {"per_address_concurrency": 0},
        {"max_open": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    """A configuration that cannot be meant raises before anything is asked."""
    with pytest.raises(ConfigurationError):
        Fetcher(FetchConfig(**settings))  # type: ignore[arg-type]


# ── many origins ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_slow_origin_stalls_nobody() -> None:
    """While one origin hangs with a long queue, everything elsewhere is fetched."""
    with (
        serving({f"/{i}": hang for i in range(30)}) as slow,
        serving({f"/{i}": response(b"x") for i in range(30)}) as fast,
    ):
        requests = [Request(server.url(f"/{i}"), "image") for i in range(30) for server in (slow, fast)]
        both = fetcher(slow, fast, concurrency=8, per_origin_concurrency=2)
        stream = both.fetch_all(requests, gate=open_gate)
        first = [next(stream) for _ in range(30)]
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        both.close()
        assert {f.outcome for f in first} == {"ok"}
        assert slow.most_busy <= 2


def test_an_origin_that_fails_again_and_again_is_given_up() -> None:
    """After so many failures in a row an origin's other URLs end as origin-down, unasked."""
    with serving({f"/{i}": closing(b"", reset=True) for i in range(20)}) as server:
        brief = fetcher(server, per_origin_concurrency=1, origin_failures_max=3)
        results = list(brief.fetch_all([Request(server.url(f"/{i}"), "image") for i in range(20)], gate=open_gate))
        brief.close()
    outcomes = [r.outcome for r in results]
    assert outcomes.count("reset") == 3
    assert outcomes.count("origin-down") == 17


def test_an_origin_is_not_asked_faster_than_its_delay() -> None:
    """Between two starts at one origin lies at least its delay, redirects included."""
    with serving({"/0": redirect("/1"), "/1": response(b"x"), "/2": response(b"x")}) as server:
        started: list[float] = []
        polite = fetcher(server)
        requests = [Request(server.url("/0"), "image"), Request(server.url("/2"), "image")]
        delays: list[str] = []

        def delay_s(origin: str) -> float:
            delays.append(origin)
            return 0.15

        for fetched in polite.fetch_all(requests, gate=open_gate, delay_s=delay_s):
            assert fetched.started_at is not None
            started.append(fetched.started_at.timestamp())
        polite.close()
    assert delays == [server.url("").rstrip("/")] * 3
    assert abs(started[1] - started[0]) >= 0.14
    assert server.most_busy == 1


def test_requests_are_pulled_no_faster_than_they_are_used() -> None:
    """A source without end is read only as far ahead as there is room."""
    with serving({"/": response(b"x")}) as server:
        pulled = 0

        def source() -> Iterator[Request]:
            nonlocal pulled
            while True:
                pulled += 1
                yield Request(server.url(), "image")

        bounded = fetcher(server, concurrency=4, per_origin_concurrency=2, max_pending=10)
        stream = bounded.fetch_all(source(), gate=open_gate)
        for _ in range(5):
            assert next(stream).ok
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        bounded.close()
    assert pulled <= 5 + 10 + 4


def test_a_source_may_wait_for_what_is_found() -> None:
    """A crawl's frontier yields None while it has nothing, and goes on when a result brought more."""
    with serving({f"/{i}": response(b"x") for i in range(5)}) as server:
        frontier = [server.url("/0")]
        seen: list[str] = []

        def source() -> Iterator[Request | None]:
            while len(seen) < 5:
                yield Request(frontier.pop(), "page") if frontier else None

        crawler = fetcher(server)
        for fetched in crawler.fetch_all(source(), gate=open_gate):
            seen.append(fetched.url)
            if len(seen) < 5:
                frontier.append(server.url(f"/{len(seen)}"))
        crawler.close()
    assert seen == [server.url(f"/{i}") for i in range(5)]


def test_a_source_is_asked_again_when_what_it_waits_for_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing on the way a source that had nothing is asked again as soon as its descriptor is readable."""
    monkeypatch.setattr("curation.fetch._ASK_AGAIN_S", 3_600.0)  # nothing else asks it again
    readable, writable = os.pipe()
    with serving({f"/{i}": response(b"x") for i in range(4)}) as server:

        def source() -> Iterator[Request | None]:
            for number in range(4):
                timer = threading.Timer(0.01, os.write, (writable, b"."))
                timer.start()
                yield None
                assert os.read(readable, 1) == b"."  # it is not asked before
                timer.join()
                yield Request(server.url(f"/{number}"), "page")

        one = fetcher(server)
        fetched = list(one.fetch_all(source(), gate=open_gate, wake=readable))
        assert [f.ok for f in fetched] == [True] * 4
        one.close()
    os.close(readable)
    os.close(writable)


def test_fetches_may_nest() -> None:
    """Inside a running fetch another may be made with the same fetcher, as for a redirect's origin."""
    with serving({"/a": response(b"a"), "/b": response(b"b")}) as server:
        one = fetcher(server)
        bodies = [
            (outer.body, one.fetch(Request(server.url("/b"), "document")).body)
            for outer in one.fetch_all([Request(server.url("/a"), "image")] * 2, gate=open_gate)
        ]
        one.close()
    assert bodies == [(b"a", b"b")] * 2


# ── an interrupt ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("of", "callback"),
    [
        *((Transfer, "_open_socket"), (Transfer, "_before_request"), (Transfer, "_on_body")),
        *((Loop, "_watch"), (Loop, "_set_timer")),
    ],
)
def test_ctrl_c_within_a_callback_is_not_lost(of: type, callback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt waits until libcurl has returned, and is raised then; it never becomes an error of libcurl's."""
    called, before = getattr(of, callback), signal.getsignal(signal.SIGINT)

    def interrupted(*given: object) -> object:
        monkeypatch.setattr(of, callback, called)
        os.kill(os.getpid(), signal.SIGINT)
        return called(*given)

    with serving({"/": response(b"body")}) as server:
        asking = fetcher(server, deadline_s=2.0)
        monkeypatch.setattr(of, callback, interrupted)
        with pytest.raises(KeyboardInterrupt):
            asking.fetch(Request(server.url("/"), "image"))
        assert signal.getsignal(signal.SIGINT) is before
        asking.close()
