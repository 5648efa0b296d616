"""No spelling, redirect, name server or header brings the fetcher to an address that it may not reach.

Connections are counted where they would arrive: at sockets that listen on every address of this machine.
"""

from __future__ import annotations

import ipaddress
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from ssrfguard import DEFAULT_DENIED, Reach

from curation.addresses import forbidden_address
from curation.fetch import FetchConfig, Fetched, Fetcher, Request, open_gate
from curation.pair import canonical_url, host_of, secret_in_url
from policy.errors import InputError
from tests.curation.ssrf_table import (
    BAD_URL,
    FORBIDDEN,
    LOOPBACK,
    SECRET,
    V4_WRITERS,
    Canary,
    Spelling,
    look_up,
    table,
)
from tests.hostile import Gone, Hostile, Trick, Wire, head, whole

ROWS = table()
OUTSIDE = b"outside"
REDIRECTS = ("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent")

Resolver = Callable[[str, int], tuple[str, ...]]


class Outside:
    """The one server that may be asked. `/to/<n>` redirects to whatever stands at n, all else is answered."""

    def __init__(self, address: str = LOOPBACK, port: int = 0) -> None:
        self.address = address
        self.targets: list[str] = []
        self.raw: dict[str, bytes] = {}  # path -> a response as it is sent
        self.server = Hostile((Trick("outside", self._answer, frozenset({"ok"})),), port, address)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.endpoint}{path}"

    def redirect_to(self, target: str) -> str:
        """A URL that leads there."""
        self.targets.append(target)
        return self.url(f"/to/{len(self.targets) - 1}")

    def _answer(self, wire: Wire) -> None:
        while True:
            if wire.path in self.raw:
                wire.send(self.raw[wire.path])
                raise Gone
            if (to := wire.path.removeprefix("/to/")).isdigit():
                number = int(to)
                target = self.targets[number].encode("utf-8").decode("latin-1")
                wire.send(head(f"Location: {target}", "Content-Length: 0", status=f"HTTP/1.1 {REDIRECTS[number % 5]}"))
            else:
                wire.send(whole(OUTSIDE))
            wire.read_request()


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    site = Outside()
    with site.server:
        yield site


@pytest.fixture(scope="module")
def listening(outside: Outside) -> Iterator[Canary]:
    with Canary() as canary:
        yield canary


@pytest.fixture
def canary(listening: Canary) -> Canary:
    """It counts from here."""
    listening.forget()
    return listening


def fetch_all(outside: Outside, urls: list[str], resolver: Resolver | None, **settings: object) -> list[Fetched]:
    """Ask for all of them as a crawler that has a contact, and may reach nothing that is special but `outside`."""
    config = FetchConfig(
        allow_addresses=(outside.endpoint,),
        contact="https://crawler.example/",
        concurrency=64,
        per_origin_concurrency=64,
        deadline_s=20.0,
        retries=0,
        origin_failures_max=10**9,
        **settings,  # type: ignore[arg-type]
    )
    fetcher = Fetcher(config, resolver=resolver)
    ends = list(fetcher.fetch_all([Request(url, "image") for url in urls], gate=open_gate))
    fetcher.close()
    assert len(ends) == len(urls)
    return ends


def is_literal(url: str) -> bool:
    """Whether no name has to be looked up for it."""
    try:
        canonical = canonical_url(url)
        ipaddress.ip_address(host_of(canonical).strip("[]"))
    except (InputError, ValueError):
        return False
    return secret_in_url(canonical) is None


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_table_is_large_and_says_what_it_means() -> None:
    """More than 500 spellings, each different, each of an address that the oracle denies too."""
    assert len({row.url for row in ROWS}) > 1400
    assert Counter(row.outcome for row in ROWS)[FORBIDDEN] > 1000
    for row in ROWS:
        ours = forbidden_address(row.means, 80)
        assert ours is not None, row
        oracle = DEFAULT_DENIED.classify(row.means)
        assert oracle.blocked or ours in STRICTER, (row, ours)


def test_no_spelling_reaches_inside(outside: Outside, canary: Canary) -> None:
    """Every row, asked for: it ends as the table says, and nobody has come to where it leads."""
    by_url = {row.at(canary.port, outside.endpoint): row for row in ROWS}
    ends = fetch_all(outside, list(by_url), lambda host, port: tuple(look_up(host, port)))
    wrong = [(by_url[f.url], f.outcome, f.detail) for f in ends if f.outcome != by_url[f.url].outcome]
    assert wrong == []
    assert {f.body for f in ends} == {b"", OUTSIDE}
    assert canary.count() == 0


def test_no_spelling_of_an_address_reaches_inside_without_a_resolver(outside: Outside, canary: Canary) -> None:
    """The same through libcurl's own reading of addresses: nothing is looked up, nothing is reached."""
    urls = [url for row in ROWS if is_literal(url := row.at(canary.port, outside.endpoint)) and row.outcome != "ok"]
    assert len(urls) > 800
    assert {f.outcome for f in fetch_all(outside, urls, None)} == {FORBIDDEN}
    assert canary.count() == 0


def test_no_redirect_leads_inside(outside: Outside, canary: Canary) -> None:
    """The same spellings as targets of 301, 302, 303, 307 and 308, directly and behind another redirect."""
    in_header = [row for row in ROWS if not set(row.url) & {"\r", "\n", "\0"}]
    assert len(in_header) > 1300
    by_url: dict[str, Spelling] = {}
    for i, row in enumerate(in_header):
        first = outside.redirect_to(row.at(canary.port, outside.endpoint))
        by_url[first if i % 4 else outside.redirect_to(first)] = row
    ends = fetch_all(outside, list(by_url), lambda host, port: tuple(look_up(host, port)))
    for fetched in ends:
        row = by_url[fetched.url]
        # What is no URL by itself, or one slash short of one, may be a path at the server outside: it answers.
        within = row.outcome != FORBIDDEN or row.kind == "confusion"
        expected = {row.outcome, FORBIDDEN, "ok", "too-many-redirects"} if within else {FORBIDDEN}
        assert fetched.outcome in expected, (row, fetched.outcome, fetched.detail)
        assert fetched.body in (b"", OUTSIDE)
        assert fetched.address == outside.endpoint
    assert sum(f.outcome == FORBIDDEN for f in ends) > 950
    assert canary.count() == 0


@pytest.mark.parametrize(
    "answer",
    [
        head("Refresh: 0; url=http://127.0.0.1:{inside}/"),
        head("Content-Location: http://127.0.0.1:{inside}/"),
        head("Link: <http://127.0.0.1:{inside}/>; rel=preload"),
        head('Alt-Svc: h2="127.0.0.1:{inside}", h3="127.0.0.1:{inside}", http/1.1="127.0.0.1:{inside}"'),
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 200 OK"),
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 201 Created"),
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 300 Choices"),
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 304 Not Modified"),
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 305 Use Proxy"),
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 306 Switch Proxy"),
        head("Location: /", "Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 302 Found"),
        head("Location: http://127.0.0.1:{inside}/", "Location: /", status="HTTP/1.1 302 Found"),
        head("Location: /,http://127.0.0.1:{inside}/", status="HTTP/1.1 302 Found"),
        b"HTTP/1.1 302 Found\r\nLocation:\r\n http://127.0.0.1:{inside}/\r\n\r\n",
        b"HTTP/1.1 302 Found\nLocation: http://127.0.0.1:{inside}/\n\n",
        head("Location: http://127.0.0.1:{inside}/", status="HTTP/1.1 103 Early Hints") + whole(b"ok"),
        head("WWW-Authenticate: Basic realm=x", status="HTTP/1.1 401 No"),
        head("Proxy-Authenticate: Basic realm=x", status="HTTP/1.1 407 No"),
        head("Strict-Transport-Security: max-age=9", "Set-Cookie: a=b; domain=127.0.0.1"),
        head("Upgrade: h2c", "Connection: Upgrade", status="HTTP/1.1 101 Switching"),
        whole(b"<meta http-equiv=refresh content='0;url=http://127.0.0.1:{inside}/'>", "Content-Type: text/html"),
        head("Transfer-Encoding: chunked") + b"0\r\nLocation: http://127.0.0.1:{inside}/\r\n\r\n",
    ],
)
def test_no_header_leads_inside(outside: Outside, canary: Canary, answer: bytes) -> None:
    """What else a response may wish (refreshes, proxies, other services, several targets) is not followed inside."""
    outside.raw["/wish"] = answer.replace(b"{inside}", str(canary.port).encode())
    for _ in range(2):
        (fetched,) = fetch_all(outside, [outside.url("/wish")], None)
        assert SECRET not in fetched.body
    assert canary.count() == 0


# ── name servers that lie ────────────────────────────────────────────────────────────────────────────────────────
def test_a_name_that_changes_its_mind_is_followed_nowhere_inside(outside: Outside) -> None:
    """Rebinding: whichever of many answers is the forbidden one, connections go to the permitted address alone."""
    with Canary(outside.port, ("127.0.0.2", "::1")) as inside:
        answers: dict[str, list[tuple[str, ...]]] = {
            "turns.example": [(LOOPBACK,), ("127.0.0.2",)],
            "turns-back.example": [("127.0.0.2",), (LOOPBACK,)],
            "mixed.example": [(LOOPBACK, "127.0.0.2", "::1")],
            "mixed-first.example": [("127.0.0.2", "::1", LOOPBACK)],
            "six.example": [("::1", LOOPBACK), ("::1",), ("::ffff:127.0.0.2",)],
            "shrinks.example": [(LOOPBACK, "127.0.0.2"), ("127.0.0.2",), ()],
            "metadata.example": [(LOOPBACK,), ("169.254.169.254",), ("0.0.0.0",)],
        }
        asked: Counter[str] = Counter()

        def changing(host: str, port: int) -> tuple[str, ...]:
            asked[host] += 1
            return answers[host][(asked[host] - 1) % len(answers[host])]

        urls = [f"http://{host}:{outside.port}/{i}" for i in range(30) for host in answers]
        ends = fetch_all(outside, urls, changing)
        assert {f.outcome for f in ends} == {"ok", FORBIDDEN, "dns"}
        assert {f.body for f in ends} == {b"", OUTSIDE}
        assert {f.address for f in ends if f.ok} == {outside.endpoint}
        assert all(asked[host] >= 30 for host in answers)  # no answer outlives its request
        assert inside.count() == 0


def test_names_at_different_addresses_do_not_share_what_is_forbidden(outside: Outside) -> None:
    """Connections that stand open to a permitted address serve no name that leads elsewhere by now."""
    with Canary(outside.port, ("127.0.0.2",)) as inside:
        where = [LOOPBACK]
        config = FetchConfig(allow_addresses=(outside.endpoint,), contact="https://crawler.example/", retries=0)
        fetcher = Fetcher(config, resolver=lambda host, port: (where[0],))
        url = f"http://museum.example:{outside.port}/"
        outcomes = []
        for where[0] in (LOOPBACK, "127.0.0.2", LOOPBACK, "::1", "127.0.0.2"):
            outcomes.append(fetcher.fetch(Request(url, "image")).outcome)
        fetcher.close()
        assert outcomes == ["ok", FORBIDDEN, "ok", FORBIDDEN, FORBIDDEN]
        assert inside.count() == 0


@pytest.mark.parametrize("host", ["*", "a,b", "a;b", "a'b", "+a", "-a", "a$b", "~", "!", "_", "a&b", "(a)", "a=b"])
def test_a_name_is_no_instruction(outside: Outside, canary: Canary, host: str) -> None:
    """Characters that mean something to libcurl's list of known names open no door for other names."""
    evil = f"http://{host}:{canary.port}/"
    urls = [evil, f"http://{host}:{outside.port}/", f"http://other.example:{canary.port}/"]
    ends = fetch_all(outside, urls * 3, lambda name, port: (LOOPBACK,) if name == host else ())
    assert {f.outcome for f in ends if f.url != urls[1]} <= {FORBIDDEN, BAD_URL, "dns"}
    assert canary.count() == 0


def test_the_canary_counts(canary: Canary) -> None:
    """A fetcher that is allowed to reach inside does, by IPv4 and IPv6, and is counted: 0 above means 0."""
    allowed = (f"{LOOPBACK}:{canary.port}", f"[::1]:{canary.port}")
    fetcher = Fetcher(FetchConfig(allow_addresses=allowed))
    bodies = [fetcher.fetch(Request(f"http://{host}:{canary.port}/", "image")).body for host in (LOOPBACK, "[::1]")]
    fetcher.close()
    assert bodies == [SECRET] * 2
    assert canary.count() == 2


# ── the oracle ───────────────────────────────────────────────────────────────────────────────────────────────────
# Why we refuse more than the oracle: special-purpose blocks that are reachable but hold no pictures, and addresses
# that carry another address in them, whatever that is.
STRICTER = {
    *("AS112", "AMT", "6to4", "6to4 relay", "IETF protocol assignments", "cloud metadata", "6bone"),
    "not global unicast",
}


def oracle_boundaries() -> Iterator[str]:
    """Each end of each of the oracle's blocks, and the addresses just outside."""
    for block in DEFAULT_DENIED.blocks:
        network = block.network
        kind = type(network[0])
        largest = (1 << network.max_prefixlen) - 1
        for number in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
            if 0 <= number <= largest:
                yield str(kind(number))


def drawn(rng: random.Random, count: int) -> Iterator[str]:
    """Addresses in every block of the oracle's, in translations of them, and anywhere."""
    for _ in range(count):
        block = rng.choice(DEFAULT_DENIED.blocks).network
        inside = block[rng.randrange(block.num_addresses)]
        yield str(inside)
        v4 = inside if isinstance(inside, ipaddress.IPv4Address) else ipaddress.IPv4Address(rng.getrandbits(32))
        for prefix, shift in (
            (0xFFFF << 32, 0),
            (0x64FF9B << 96, 0),
            (0, 0),
            (0x2002 << 112, 80),
            (0x20010000 << 96, 64),
        ):
            yield str(ipaddress.IPv6Address(prefix | int(v4) << shift))
        yield str(ipaddress.IPv6Address(0x20010000 << 96 | rng.getrandbits(32) << 64 | int(v4) ^ 0xFFFFFFFF))
        yield str(ipaddress.IPv4Address(rng.getrandbits(32)))
        yield str(ipaddress.IPv6Address(rng.getrandbits(128)))
        yield str(ipaddress.IPv6Address(1 << 125 | rng.getrandbits(125)))


def test_what_the_oracle_denies_we_deny() -> None:
    """ssrfguard's table, from IANA's registries: no address that it denies passes; where we deny more is listed."""
    stricter: Counter[str] = Counter()
    for address in (*oracle_boundaries(), *drawn(random.Random(4), 600)):
        ours, oracle = forbidden_address(address, 80), DEFAULT_DENIED.classify(address)
        assert ours is not None or not oracle.blocked, (address, oracle.reason)
        if ours is not None and not oracle.blocked:
            stricter[ours] += 1
    assert set(stricter) <= STRICTER
    assert {block.reach for block in DEFAULT_DENIED.blocks} == set(Reach)


def test_every_notation_of_an_address_is_one_address() -> None:
    """However an address is written in a URL, the host that is judged is its one canonical notation."""
    rng = random.Random(4)
    for _ in range(200):
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        a, b, c, d = address.packed
        for write in V4_WRITERS.values():
            host = host_of(canonical_url(f"http://{write((a, b, c, d))}/"))
            assert host == str(address)


def test_threads_leave_nothing_open(outside: Outside) -> None:
    """A hundred refused connections leave no socket behind."""
    before = threading.active_count()
    ends = fetch_all(outside, [f"http://127.0.0.{i}:{outside.port}/" for i in range(2, 102)], None)
    assert {f.outcome for f in ends} == {FORBIDDEN}
    assert threading.active_count() == before
