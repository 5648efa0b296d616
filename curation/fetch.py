"""URL to bytes, with the headers of every hop, bounded and guarded: one libcurl multi loop.

The caller says what is wanted and, by its gate, what may be contacted; the fetcher sees to it that nothing it meets
can hurt: addresses are checked as they are connected to (so neither a redirect nor a rebinding name reaches inside),
bodies are capped as decoded, a transfer has a total deadline and a minimum rate, origins are queued apart.
It decides nothing. What failed and may go better at once is tried again, after a pause that occupies no transfer.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal, Protocol

from curation.addresses import forbidden_address, parse_endpoint
from curation.pair import canonical_url, host_of, origin_of, port_of, secret_in_url
from curation.transfer import (
    COMPLETE,
    ActiveClock,
    Caches,
    Loop,
    Resolver,
    Transfer,
    descriptors_for_connections,
)
from policy.errors import ConfigurationError, InputError, RefusedError
from policy.evidence import Headers, Hop

Kind = Literal["page", "image", "document"]
Gate = Callable[[str], str | None]

# Every outcome but ok and http-<status>.
OUTCOMES = frozenset(
    {
        "not-modified",  # 304 to a conditional request: what the condition was made of is what there is
        "bad-url",  # no http(s) URL, or one that carries userinfo or a signature (detail says which)
        "refused-by-policy",  # the gate said no; detail is its code, refused_url what it was asked about
        "forbidden-address",  # the name leads to a special-purpose address
        "too-many-redirects",
        "dns",
        "connect",
        "tls",
        "reset",
        "timeout",  # detail: connect | rate | deadline
        "too-large",  # detail: body | headers | pieces (bodies cut too small); a document keeps its first bytes
        "truncated",  # shorter than the server declared
        "bad-encoding",  # a content encoding that was not asked for and cannot be undone
        "bad-response",  # not HTTP
        "origin-down",  # not asked: the origin failed too often in a row in this run, or wants to be left alone
    }
)
# Outcomes that may be different tomorrow.
TRANSIENT_OUTCOMES = frozenset(
    {"dns", "connect", "reset", "timeout", "truncated", "origin-down", "http-408", "http-425", "http-429"}
    | {f"http-{status}" for status in range(500, 600)}
)

# Failures that may be over in seconds; a timeout by deadline is none, since it has had all the time there is.
_RETRIED_OUTCOMES = frozenset({"dns", "connect", "reset", "truncated"})
_RETRIED_TIMEOUTS = frozenset({"connect", "rate"})
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# "Not so fast": the whole origin is left alone for a while, not this URL only.
_SLOW_DOWN_STATUSES = frozenset({429, 503})
# Between two looks at the network: so many origins are asked that may be new, and so long is spent on starting.
_STARTED_AT_ONCE, _START_S = 8, 0.002
_ASK_AGAIN_S = 0.2  # a source that had nothing to offer
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONDITIONS = frozenset({"if-none-match", "if-modified-since"})


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """How the fetcher presents and bounds itself. Sizes are bytes as decoded, times seconds.

    `allow_addresses`: exact "ip:port" that may be connected to although special-purpose (the demo's and the tests'
    loopback servers). `contact`: the URL or mail address in the user agent, required before anything else is asked.

    `concurrency` counts transfers that bring something; those that wait for a server that is silent for longer than
    usual (0.1 to 0.5 s) count against `max_open` alone, so that no number of slow origins takes the places of the
    others. `per_address_concurrency` counts by "ip:port", whatever names lead there. Bodies in flight take
    `max_buffered_bytes` together, a quarter of a megabyte each beside, and one of them as much as it may; one that
    finds no room waits, which costs nothing of its deadline.

    `retries` attempts follow a first one that failed in passing, each `deadline_s` long at most and `retry_base_s`,
    twice that, four times that … (`retry_max_s` at most, half of it at random) after the one before, or as long after
    it as Retry-After says. Where that is more than `retry_after_max_s` the URL ends and its origin is left alone until
    then. So a URL that is being asked for ends within (retries + 1) * deadline_s
    + retries * max(retry_max_s, retry_after_max_s), its waits for its turn at the origin aside.
    """

    product: str = "custody"
    version: str = "0.1"
    contact: str | None = None
    allow_addresses: tuple[str, ...] = ()
    concurrency: int = 64
    per_origin_concurrency: int = 4
    per_origin_delay_s: float = 0.0
    per_address_concurrency: int = 32
    max_open: int = 4_096
    max_pending: int = 20_000
    retries: int = 2
    retry_base_s: float = 0.5
    retry_max_s: float = 30.0
    retry_after_max_s: float = 60.0
    crawl_delay_max_s: float = 30.0
    connect_timeout_s: float = 10.0
    deadline_s: float = 60.0
    min_rate_bytes_per_s: float = 100.0
    rate_window_s: float = 10.0
    max_redirects: int = 5
    max_header_bytes: int = 64 * 1024
    max_page_bytes: int = 8 * 1024 * 1024
    max_image_bytes: int = 32 * 1024 * 1024
    max_document_bytes: int = 1024 * 1024
    max_buffered_bytes: int = 64 * 1024 * 1024
    origin_failures_max: int = 10
    ca_file: Path | None = None

    @property
    def user_agent(self) -> str:
        """`product/version (+contact)`."""
        agent = f"{self.product}/{self.version}"
        return f"{agent} (+{self.contact})" if self.contact else agent

    def max_bytes(self, kind: Kind) -> int:
        """The cap on a decoded body of this kind."""
        return {"page": self.max_page_bytes, "image": self.max_image_bytes, "document": self.max_document_bytes}[kind]


# What a header's value may hold (RFC 9110, 5.5): no control characters, and nothing that is not one byte.
_ONE_LINE = re.compile(r"[\x20-\x7e\xa0-\xff]{1,1024}")


def validators(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The conditions under which a copy need not be sent again, out of the headers it came with (RFC 9110, 13.1).

    Give the headers of every hop that led to the copy: where there was a redirect (a Location among them) the result is
    (), since what is known is not about the URL that would be asked. A value that no request may carry is left out.
    """
    last = {name.lower(): value for name, value in headers}
    found = (("If-None-Match", last.get("etag")), ("If-Modified-Since", last.get("last-modified")))
    if "location" in last:
        return ()
    return tuple((name, value) for name, value in found if value is not None and _is_validator(name, value))


def _is_validator(name: str, value: str) -> bool:
    if name == "If-None-Match":
        return _ENTITY_TAG.fullmatch(value) is not None
    return _http_date(value) is not None and _ONE_LINE.fullmatch(value) is not None


_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\xa0-\xff]{0,1000}"')


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def retry_after_s(headers: Headers, now: datetime) -> float | None:
    """The seconds that Retry-After asks to wait (RFC 9110, 10.2.3); None without one that can be read."""
    value = next((v.strip() for k, v in reversed(headers) if k.lower() == "retry-after"), "")
    if value.isascii() and value.isdigit():
        return float(value[:12])
    moment = _http_date(value) if value else None
    return max(0.0, (moment - now).total_seconds()) if moment is not None else None


@dataclass(frozen=True, slots=True)
class Request:
    """A URL to be had, as what, and optionally within how many bytes.

    `headers`: conditions, If-None-Match and If-Modified-Since and nothing else (`validators` makes them of stored
    headers). They are about `url` itself and are not sent on to where it redirects. `gated` False: an origin's own
    document, for which the gate is asked neither of it nor of its redirects.

    Raises InputError for a header that is no condition, or whose value could be read as more than one line.
    """

    url: str
    kind: Kind
    max_bytes: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    gated: bool = True

    def __post_init__(self) -> None:
        for name, value in self.headers:
            if name.lower() not in _CONDITIONS or not _ONE_LINE.fullmatch(value):
                raise InputError(
                    f"{name!r}: {value[:80]!r} is no condition of a request",
                    where=self.url[:200],
                    remedy="Only If-None-Match and If-Modified-Since may be given, each on one line",
                )


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of a request.

    `outcome`: "ok" (status 200 or 203 and a complete body), "http-<status>", or one of `OUTCOMES`; `detail` says more.
    `attempts` says how often it was asked from the beginning; all else is of the last attempt alone.
    `url` is the request's; `final_url` the last URL that was asked, canonical; `address` the "ip:port" that answered.
    `hops` holds every response's headers (decoded as Latin-1, in order, duplicates kept), redirects first.
    `refused_url`: the URL the gate or the address check refused; where it is a redirect's target, the caller may
    gather that origin's documents and ask again. `elapsed_s` is spent on the network, not waiting in a queue.
    """

    request: Request
    outcome: str
    status: int | None = None
    hops: tuple[Hop, ...] = ()
    body: bytes = b""
    final_url: str | None = None
    address: str | None = None
    detail: str = ""
    refused_url: str | None = None
    elapsed_s: float = 0.0
    started_at: datetime | None = None
    attempts: int = 1

    @property
    def url(self) -> str:
        return self.request.url

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    def header(self, name: str) -> str | None:
        """The last value of a header in the final response."""
        wanted = name.lower()
        headers = self.hops[-1].headers if self.hops else ()
        return next((v for k, v in reversed(headers) if k.lower() == wanted), None)


class Transport(Protocol):
    """What fetches: `Fetcher`, or a test's fake."""

    def fetch_all(
        self,
        requests: Iterable[Request | None],
        *,
        gate: Gate,
        concurrency: int | None = None,
        delay_s: Callable[[str], float] | None = None,
        wake: int | None = None,
    ) -> Iterator[Fetched]: ...


def open_gate(url: str) -> str | None:
    """The gate that refuses nothing: for documents that must be asked before policy can speak, and for tests."""
    return None


class Fetcher:
    """The real transport. One instance may serve nested and successive `fetch_all` calls of one thread.

    Its calls share what is known of names' addresses, TLS sessions and origins that want to be left alone. It raises
    the process's soft limit of open descriptors where `max_open` needs that.

    Raises ConfigurationError for an allow-list entry that is no exact "ip:port" or a limit that makes no sense.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        resolver: Resolver | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        _check(config)
        self.config = config
        self.resolver = resolver
        self.now = now
        self.rng = rng if rng is not None else random.Random()
        self.allowed = frozenset(parse_endpoint(text) for text in config.allow_addresses)
        self.max_connections = descriptors_for_connections(2 * max(config.max_open, config.concurrency))
        self.left_alone: dict[str, float] = {}  # origin -> until when, in time.monotonic()
        self._caches = Caches()
        self._idle: list[Loop] = []

    def fetch_all(
        self,
        requests: Iterable[Request | None],
        *,
        gate: Gate,
        concurrency: int | None = None,
        delay_s: Callable[[str], float] | None = None,
        wake: int | None = None,
    ) -> Iterator[Fetched]:
        """Fetch, and yield each request's end as it comes: exactly one Fetched a request, in no order.

        `requests` is pulled lazily, never more than `max_pending` ahead; None in it means "nothing at the moment, ask
        me after the next result" (or a fifth of a second later). `gate` is asked before a URL is contacted, redirect
        targets included: None lets it pass, a code refuses it. `delay_s(origin)` is the least time between two starts
        at that origin. `wake`: a descriptor of which the source reads; it is asked again as soon as that is readable.
        Time that the consumer or the source keeps the iterator waiting counts against nobody's deadline.

        Raises RefusedError when something other than the allow-listed addresses is to be asked without a contact.
        """
        loop = self._idle.pop() if self._idle else self._new_loop()
        run = _Run(self, loop, requests, gate, concurrency or self.config.concurrency, delay_s)
        loop.wake_on(wake)
        try:
            yield from run.results()
        finally:
            run.abandon()
            loop.wake_on(None)
            self._idle.append(loop)

    def fetch(self, request: Request, *, gate: Gate = open_gate) -> Fetched:
        """Fetch one."""
        return next(iter(self.fetch_all([request], gate=gate)))

    def close(self) -> None:
        """Close every kept connection."""
        for loop in self._idle:
            loop.close()
        self._idle.clear()

    def _new_loop(self) -> Loop:
        return Loop(self.config, self.verdict_on, self.resolver, self._caches, self.max_connections // 2)

    def verdict_on(self, address: str, port: int) -> str | None:
        """Why an address may not be connected to: None, "no-contact", or the special range it lies in."""
        if (address, port) in self.allowed:
            return None
        why = forbidden_address(address, port)
        return why if why is not None or self.config.contact else "no-contact"

    def require_contact(self, url: str) -> None:
        """Raise RefusedError when this canonical URL may only be asked by somebody who can be reached.

        Without a contact not even a name is looked up, other than localhost's.
        """
        if self.config.contact:
            return
        host = host_of(url)
        try:
            literal = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            if self.resolver is None and host != "localhost" and not host.endswith(".localhost"):
                raise _no_contact(url) from None
            return
        if self.verdict_on(str(literal), port_of(url)) == "no-contact":
            raise _no_contact(url)


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way: where it stands and what it has seen in this attempt."""

    run: _Run
    request: Request
    url: str
    origin: str
    max_bytes: int
    keep_beginning: bool  # of a body that is longer than max_bytes
    hops: list[Hop] = field(default_factory=list)
    spent_s: float = 0.0
    started_at: datetime | None = None
    address: str | None = None  # that answered last
    attempts: int = 0
    failed: Fetched | None = None  # what the last attempt came to, while the next one waits
    place: str | None = None  # the address at which it takes up room
    hopeful: bool = False  # it was sent for a lively origin
    quiet: bool = False

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return self.request.headers if not self.hops else ()

    def may_open(self, endpoint: str) -> bool:
        if self.place == endpoint:
            return True
        if self.run.is_full(endpoint):
            self.run.origins[self.origin].address = endpoint
            return False
        self.run.take_place(self, endpoint)
        return True

    def connected(self, endpoint: str) -> None:
        if self.place != endpoint:
            self.run.take_place(self, endpoint)
        self.run.meet(self.run.origins[self.origin])

    def start_anew(self) -> None:
        """Forget the attempt before."""
        self.hops.clear()
        self.spent_s, self.started_at, self.address = 0.0, None, None

    def done(self, outcome: str, *, detail: str = "", refused_url: str | None = None, body: bytes = b"") -> Fetched:
        asked = self.started_at is not None
        return Fetched(
            request=self.request,
            outcome=outcome,
            status=self.hops[-1].status if self.hops else None,
            hops=tuple(self.hops),
            body=body,
            final_url=self.url if asked and refused_url != self.url else (self.hops[-1].url if self.hops else None),
            address=self.address,
            detail=detail,
            refused_url=refused_url,
            elapsed_s=self.spent_s,
            started_at=self.started_at,
            attempts=self.attempts or 1,
        )


@dataclass(slots=True, eq=False)
class _Origin:
    """An origin's queue, and how it has behaved. `queued` while it waits in a heap, or for room at its address."""

    name: str
    most: int  # transfers at once: halved when it says "not so fast", one more after each that many good answers
    waiting: deque[_Job] = field(default_factory=deque)
    active: int = 0
    next_start: float = 0.0
    queued: bool = False
    turn: int = 0  # its entry in a heap, while it is queued in one
    is_new: bool = True  # nothing has been asked of it yet
    failures: int = 0  # in a row
    slow_downs: int = 0  # in a row
    slowed_at: float = 0.0
    good: int = 0
    quiet: int = 0  # of the active
    lively: bool = False  # it has answered, and not all of its transfers have fallen quiet since
    address: str | None = None
    met: bool = False  # connected to, or failed: over TLS the others wait for that, and may share the connection


@dataclass(slots=True)
class _Address:
    """An "ip:port": how many transfers are there, and the origins that wait for room."""

    active: int = 0
    waiting: deque[_Origin] = field(default_factory=deque)


class _Run:
    """One `fetch_all`: the queues of its origins, and what is in flight.

    Places are given to lively origins and to the others by turns; of the others' transfers only so many may be in
    flight that at least half of all places are left to the lively, while there are any. Of the others the one that
    waits longest and the newest have their turns alternately: behind a thousand that are slow, and take a while to be
    known as that, nobody waits for all of them.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        loop: Loop,
        requests: Iterable[Request | None],
        gate: Gate,
        concurrency: int,
        delay_s: Callable[[str], float] | None,
    ) -> None:
        self.fetcher, self.config, self.loop = fetcher, fetcher.config, loop
        self.requests = iter(requests)
        self.gate, self.concurrency = gate, concurrency
        self.max_open = min(max(self.config.max_open, concurrency), fetcher.max_connections)
        self.most_of_others = self.max_open - min(concurrency, self.max_open // 8)
        self.delay_s = delay_s or (lambda origin: self.config.per_origin_delay_s)
        self.exhausted = False
        self.has_more_to_do = False
        self.ask_source_at = 0.0
        self.origins: dict[str, _Origin] = {}
        self.addresses: dict[str, _Address] = {}
        self.lively: list[tuple[float, int, _Origin]] = []
        self.others: list[tuple[float, int, _Origin]] = []
        self.new: deque[_Origin] = deque(maxlen=self.config.max_pending)
        self.newest_is_next = False
        self.later: list[tuple[float, int, _Job]] = []
        self.turns = 0
        self.busy = self.busy_others = self.busy_lively = 0
        self.pending = 0
        self.ended: deque[Fetched] = deque()
        self.jobs: dict[Transfer, _Job] = {}
        self.clock = ActiveClock()

    def results(self) -> Iterator[Fetched]:
        while True:
            # Results first: what the consumer finds in them may be what the source has to offer next.
            while self.ended:
                held = time.monotonic()
                yield self.ended.popleft()
                self.clock.hold(time.monotonic() - held)
                self.ask_source_at = 0.0
            self._start_what_may_start()
            if self.ended:
                continue
            if self.exhausted and not self.pending and not self.loop.active:
                return
            for transfer in self.loop.wait(self.clock, self._next_wake()):
                self._settle(transfer)
            if self.loop.was_woken:
                self.ask_source_at = 0.0
            for transfer in self.loop.quieted:
                self._fall_quiet(self.jobs[transfer])

    def abandon(self) -> None:
        """Give up what is in flight (the consumer stopped, or something was raised)."""
        self.loop.release_all()

    def _start_what_may_start(self) -> None:
        """Start what there are places for, a few at a time: connecting to thousands must not hold up who answers."""
        if self.later:
            self._take_up_later()
        started, until = 0, time.monotonic() + _START_S
        self.has_more_to_do = False
        while self.busy < self.concurrency and len(self.jobs) < self.max_open and len(self.ended) < self.concurrency:
            # As one starts one is pulled: what has to wait for its turn is known early, and waits meanwhile.
            pulled = self._pull()
            if (origin := self._next_origin()) is not None:
                started += not origin.lively  # a new connection costs ten times what one that stands does
                self._start(origin, origin.waiting.popleft())
            elif not pulled:
                return
            if started >= _STARTED_AT_ONCE or time.monotonic() >= until:
                self.has_more_to_do = True
                return
        if self.busy_others and self.busy >= self.concurrency:
            # Who keeps the places may be slow: who stands behind them in the source is to be known meanwhile.
            while not self.has_more_to_do and self._pull():
                self.has_more_to_do = time.monotonic() >= until

    def _pull(self) -> bool:
        """Take the source's next request; False where it has none for now, or there is no room."""
        if self.exhausted or self.pending >= self.config.max_pending:
            return False
        asked_at = time.monotonic()
        if asked_at < self.ask_source_at:
            return False
        try:
            request = next(self.requests)
        except StopIteration:
            self.exhausted = True
            return False
        finally:
            self.clock.hold(time.monotonic() - asked_at)
        if request is None:
            self.ask_source_at = time.monotonic() + _ASK_AGAIN_S
            return False
        self._admit(request)
        return True

    def _admit(self, request: Request) -> None:
        limit = request.max_bytes if request.max_bytes is not None else self.config.max_bytes(request.kind)
        job = _Job(self, request, request.url, "", limit, keep_beginning=request.kind == "document")
        if (problem := self._aim(job, request.url)) is not None:
            self.ended.append(job.done("bad-url", detail=problem))
            return
        if job.origin not in self.origins:
            self.fetcher.require_contact(job.url)
        self._queue(job)

    def _aim(self, job: _Job, url: str) -> str | None:
        """Point the job at a URL; the reason where that cannot be."""
        try:
            canonical = canonical_url(url)
        except InputError as error:
            return error.what
        if (secret := secret_in_url(canonical)) is not None:
            return secret
        job.url, job.origin = canonical, canonical[: canonical.index("/", 8)]
        return None

    def _queue(self, job: _Job, *, first: bool = False) -> None:
        origin = self.origins.get(job.origin)
        if origin is None:
            if len(self.origins) > 4 * self.config.max_pending:
                self._forget_idle_origins()
            origin = self.origins[job.origin] = _Origin(job.origin, self.config.per_origin_concurrency)
            origin.met = job.origin.startswith("http:")
            self.new.append(origin)
        self.pending += 1
        (origin.waiting.appendleft if first else origin.waiting.append)(job)
        self._make_ready(origin)

    def _make_ready(self, origin: _Origin) -> None:
        # Before all that may be open are, each origin that is not known to be lively has one that is.
        several = origin.met and (origin.lively or len(self.jobs) < self.max_open // 2)
        if origin.waiting and not origin.queued and origin.active < (origin.most if several else 1):
            origin.queued = True
            self.turns += 1
            origin.turn = self.turns
            ready_at = max(origin.next_start, self.clock.now())
            heapq.heappush(self.lively if origin.lively else self.others, (ready_at, self.turns, origin))

    def meet(self, origin: _Origin) -> None:
        """The origin's first connection stands: with HTTP/2 one is enough, and it is there to be shared."""
        if not origin.met:
            origin.met = True
            self._make_ready(origin)

    def _next_origin(self) -> _Origin | None:
        """The origin whose turn it is, if one may be asked now."""
        now = self.clock.now()
        while True:
            lively = bool(self.lively) and self.lively[0][0] <= now
            others = bool(self.others) and self.others[0][0] <= now and self._others_may_start()
            if lively and others:
                lively = self.lively[0][:2] <= self.others[0][:2]
            if not (lively or others):
                return None
            newest = self._newest(now) if not lively and self.newest_is_next else None
            self.newest_is_next ^= not lively
            if newest is not None:
                newest.queued = newest.is_new = False
                return newest
            _, turn, origin = heapq.heappop(self.lively if lively else self.others)
            if not origin.queued or origin.turn != turn:  # it had its turn as the newest
                continue
            origin.is_new = False
            if origin.next_start > now:  # it was pushed back while it waited for its turn
                origin.queued = False
                self._make_ready(origin)
            elif origin.address is not None and self.is_full(origin.address):
                origin.turn = 0
                self.addresses[origin.address].waiting.append(origin)
            else:
                origin.queued = False
                return origin

    def _newest(self, now: float) -> _Origin | None:
        """The origin seen last of which nothing has been asked yet, if it may be."""
        while self.new and not (self.new[-1].is_new and self.new[-1].queued):
            self.new.pop()
        return self.new.pop() if self.new and self.new[-1].next_start <= now else None

    def _next_wake(self) -> float | None:
        """Seconds until an origin's delay or a retry's pause is over; None when only a transfer's end brings more."""
        if self.has_more_to_do:
            return 0.0
        if self.busy >= self.concurrency or len(self.jobs) >= self.max_open:
            return None
        heaps = (self.lively, self.others if self._others_may_start() else [])
        due = [heap[0][0] for heap in heaps if heap] + [self.later[0][0] for _ in self.later[:1]]
        return max(0.0, min(due) - self.clock.now()) if due else None

    def _others_may_start(self) -> bool:
        """Whether an origin that is not known to be lively may have a place: half of them while there are lively."""
        if len(self.jobs) >= self.most_of_others:
            return False
        return not (self.lively or self.busy_lively) or self.busy_others < max(1, self.concurrency // 2)

    def _start(self, origin: _Origin, job: _Job) -> None:
        self.pending -= 1
        if (why := self._given_up(origin)) is not None:
            self.ended.append(job.failed or job.done("origin-down", detail=why))
        elif job.request.gated and (code := self.gate(job.url)) is not None:
            self.ended.append(job.done("refused-by-policy", detail=code, refused_url=job.url))
        else:
            now = self.clock.now()
            if not job.hops:
                job.attempts += 1
            job.started_at = job.started_at or self.fetcher.now()
            origin.active += 1
            origin.next_start = max(origin.next_start, now + self.delay_s(origin.name))
            job.hopeful, job.quiet = origin.lively, False
            self._count(job, 1)
            if origin.address is not None:
                self.take_place(job, origin.address)
            self.jobs[self.loop.start(job, now)] = job
            self._make_ready(origin)
            return
        if origin.address is not None:
            self._offer_place(origin.address)  # this one had its turn and did not use it
        self._make_ready(origin)

    def _given_up(self, origin: _Origin) -> str | None:
        """Why nothing more is asked of an origin, at least for the time being."""
        until = self.fetcher.left_alone.get(origin.name)
        if until is not None:
            if (wait := until - time.monotonic()) > 0:
                return f"it wants to be left alone for {wait:.0f} s"
            del self.fetcher.left_alone[origin.name]
        if origin.failures >= self.config.origin_failures_max:
            return f"{origin.failures} failures in a row"
        if origin.slow_downs >= self.config.origin_failures_max:
            return f"it said {origin.slow_downs} times in a row that it is too much"
        return None

    # ── places: of the whole run, and at an address ──────────────────────────────────────────────────────────────
    def _count(self, job: _Job, step: int) -> None:
        self.busy += step
        if job.hopeful:
            self.busy_lively += step
        else:
            self.busy_others += step

    def _fall_quiet(self, job: _Job) -> None:
        self._count(job, -1)
        job.quiet = True
        origin = self.origins[job.origin]
        origin.quiet += 1
        if origin.quiet == origin.active:
            origin.lively = False

    def is_full(self, endpoint: str) -> bool:
        """Whether as many transfers as may be are at this address."""
        address = self.addresses.get(endpoint)
        return address is not None and address.active >= self.config.per_address_concurrency

    def take_place(self, job: _Job, endpoint: str) -> None:
        self._leave_place(job)
        if (address := self.addresses.get(endpoint)) is None:
            address = self.addresses[endpoint] = _Address()
        address.active += 1
        job.place = endpoint

    def _leave_place(self, job: _Job) -> None:
        if job.place is not None:
            self.addresses[job.place].active -= 1
            self._offer_place(job.place)
            job.place = None

    def _offer_place(self, endpoint: str) -> None:
        """Let the next origin that waits for room at an address have its turn."""
        if (address := self.addresses.get(endpoint)) is None:
            return
        if address.waiting and address.active < self.config.per_address_concurrency:
            origin = address.waiting.popleft()
            origin.queued = False
            self._make_ready(origin)
        elif not address.active and not address.waiting:
            del self.addresses[endpoint]

    # ── what comes of it ─────────────────────────────────────────────────────────────────────────────────────────
    def _settle(self, transfer: Transfer) -> None:
        """A transfer is over: follow its redirect, put it off, try it again, or end its job."""
        job = self.jobs.pop(transfer)
        origin = self.origins[job.origin]
        origin.active -= 1
        if job.quiet:
            origin.quiet -= 1
        else:
            self._count(job, -1)
        self.loop.release(transfer)
        self._leave_place(job)
        if transfer.is_put_off and not transfer.connected:
            # Its address has enough of us: it waits there, and this was no attempt.
            job.attempts -= 0 if job.hops else 1
            self._queue(job, first=True)
            return
        origin.met = True
        origin.address = transfer.address or origin.address
        job.address = transfer.address or job.address
        job.spent_s += self.clock.now() - transfer.started
        outcome, detail = transfer.outcome()
        status = transfer.status
        if status:
            job.hops.append(Hop(job.url, status, transfer.headers()))
        self._judge_origin(origin, outcome, status, transfer)
        if outcome == "ok" and status in _REDIRECTS and (location := transfer.location()):
            self._redirect(job, location)
        elif outcome == "no-contact":
            if not job.hops:
                raise _no_contact(job.url)
            self.ended.append(job.done("refused-by-policy", detail=outcome, refused_url=job.url))
        elif outcome == "ok" and status == 304 and job.request.headers and len(job.hops) == 1:
            self.ended.append(job.done("not-modified"))
        elif outcome == "ok" and status not in COMPLETE:
            self._fail(job, origin, job.done(f"http-{status}"))
        else:
            refused = job.url if outcome == "forbidden-address" else None
            keep = outcome == "ok" or (outcome == "too-large" and job.keep_beginning)
            body = transfer.body if keep else b""
            self._fail(job, origin, job.done(outcome, detail=detail, refused_url=refused, body=body))
        transfer.let_go()
        self._make_ready(origin)

    def _judge_origin(self, origin: _Origin, outcome: str, status: int, transfer: Transfer) -> None:
        """What an origin's answer says of the origin: whether it is there, and how much of us it can bear."""
        failed = outcome in ("connect", "timeout", "reset", "dns", "tls", "bad-response")
        origin.failures = origin.failures + 1 if failed else 0
        if outcome == "ok" and status in _SLOW_DOWN_STATUSES:
            self._slow_down(origin, transfer)
        elif outcome == "ok":
            if not origin.lively:
                origin.lively = True
                origin.queued &= not origin.turn  # it need not go on waiting among those that are not known to be
            self.loop.patience.learn(self.clock.now() - transfer.started)
            origin.slow_downs = 0
            origin.good += 1
            if origin.good >= origin.most < self.config.per_origin_concurrency:
                origin.most, origin.good = origin.most + 1, 0

    def _slow_down(self, origin: _Origin, transfer: Transfer) -> None:
        """The origin as a whole is left alone for a while, and asked less at once from then on."""
        now = self.clock.now()
        if transfer.started >= origin.slowed_at:  # what was in flight already says the same once more
            origin.slow_downs += 1
            origin.most, origin.good = max(1, origin.most // 2), 0
        origin.slowed_at = now
        wait = self._backoff_s(origin.slow_downs)
        asked = retry_after_s(transfer.headers(), self.fetcher.now())
        if asked is not None and asked > self.config.retry_after_max_s:
            self.fetcher.left_alone[origin.name] = time.monotonic() + asked
        elif asked is not None:
            wait = max(wait, asked)
        origin.next_start = max(origin.next_start, now + wait)

    def _backoff_s(self, failures: int) -> float:
        """The pause after so many failures in a row: doubled each time up to a limit, half of it at random."""
        longest = min(self.config.retry_max_s, self.config.retry_base_s * 2.0 ** min(max(failures - 1, 0), 60))
        return longest * (0.5 + 0.5 * self.fetcher.rng.random())

    def _fail(self, job: _Job, origin: _Origin, fetched: Fetched) -> None:
        """End the job, unless it is worth another attempt."""
        if job.attempts > self.config.retries or not _may_pass(fetched):
            self.ended.append(fetched)
            return
        wait = self._backoff_s(job.attempts)
        if fetched.status in _RETRIED_STATUSES and fetched.hops and fetched.outcome.startswith("http-"):
            asked = retry_after_s(fetched.hops[-1].headers, self.fetcher.now())
            if asked is not None and asked > self.config.retry_after_max_s:
                self.fetcher.left_alone[origin.name] = time.monotonic() + asked
                self.ended.append(fetched)
                return
            wait = max(wait, asked or 0.0)
        job.failed = fetched
        self.pending += 1
        self.turns += 1
        heapq.heappush(self.later, (self.clock.now() + wait, self.turns, job))

    def _take_up_later(self) -> None:
        now = self.clock.now()
        while self.later and self.later[0][0] <= now:
            job = heapq.heappop(self.later)[2]
            self.pending -= 1
            job.start_anew()
            self._aim(job, job.request.url)
            self._queue(job, first=True)

    def _redirect(self, job: _Job, location: str) -> None:
        try:
            target = canonical_url(location, job.url)
        except InputError as error:
            self.ended.append(job.done("bad-url", detail=f"redirect: {error.what}"))
            return
        is_loop = any(hop.url == target for hop in job.hops)
        if is_loop or len(job.hops) > self.config.max_redirects:
            detail = "loop" if is_loop else f"more than {self.config.max_redirects}"
            self.ended.append(job.done("too-many-redirects", detail=detail))
            return
        if (problem := self._aim(job, target)) is not None:
            self.ended.append(job.done("bad-url", detail=f"redirect: {problem}"))
            return
        try:
            self.fetcher.require_contact(job.url)
        except RefusedError:
            # A page must not be able to stop the crawl by sending it where it may not go.
            self.ended.append(job.done("refused-by-policy", detail="no-contact", refused_url=job.url))
            return
        self._queue(job, first=True)

    def _forget_idle_origins(self) -> None:
        now = self.clock.now()
        self.origins = {
            name: origin
            for name, origin in self.origins.items()
            if origin.waiting or origin.active or origin.next_start > now or origin.failures or origin.slow_downs
        }


def _may_pass(fetched: Fetched) -> bool:
    """Whether this failure may be over in seconds."""
    if fetched.outcome == "timeout":
        return fetched.detail in _RETRIED_TIMEOUTS
    if fetched.outcome in _RETRIED_OUTCOMES:
        return True
    return fetched.status in _RETRIED_STATUSES and fetched.outcome == f"http-{fetched.status}"


def _no_contact(url: str) -> RefusedError:
    return RefusedError(
        "the crawler has no contact address, and asks nobody but its own test servers without one",
        where=origin_of(url),
        remedy="Set a contact (an URL or a mail address) in custody.toml",
    )


def _check(config: FetchConfig) -> None:
    positive = (
        "concurrency",
        "per_origin_concurrency",
        "per_address_concurrency",
        "max_open",
        "max_pending",
        "max_buffered_bytes",
    )
    for name in (*positive, "connect_timeout_s", "deadline_s", "rate_window_s", "max_header_bytes"):
        if not getattr(config, name) > 0:
            raise ConfigurationError(f"{name} must be more than 0, not {getattr(config, name)}", where="fetch")
    waits = ("per_origin_delay_s", "retry_base_s", "retry_max_s", "retry_after_max_s", "crawl_delay_max_s")
    for name in ("retries", *waits):
        if not 0 <= getattr(config, name) < float("inf"):
            raise ConfigurationError(f"{name} must be 0 or more, not {getattr(config, name)}", where="fetch")
    if config.origin_failures_max <= 0:
        raise ConfigurationError("origin_failures_max must be more than 0", where="fetch")
    for name in ("product", "version", "contact"):
        text = getattr(config, name) or ""
        if not text.isascii() or not text.isprintable() or (name != "contact" and (not text or " " in text)):
            raise ConfigurationError(f"{name} {text!r} cannot stand in a User-Agent header", where="fetch")
