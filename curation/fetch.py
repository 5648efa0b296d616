"""URL to bytes, with the headers of every hop, bounded and guarded: one libcurl multi loop.

The caller says what is wanted and, by its gate, what may be contacted; the fetcher sees to it that nothing it meets
can hurt: addresses are checked as they are connected to (so neither a redirect nor a rebinding name reaches inside),
bodies are capped as decoded, a transfer has a total deadline and a minimum rate, origins are queued apart.
It decides nothing and retries nothing.
"""

from __future__ import annotations

import heapq
import ipaddress
import select
import socket
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import pycurl  # type: ignore[import-untyped]  # it ships no types

from curation.addresses import endpoint_text, forbidden_address, parse_endpoint
from curation.pair import canonical_url, host_of, origin_of, secret_in_url
from policy.errors import ConfigurationError, InputError, RefusedError
from policy.evidence import Headers, Hop

Kind = Literal["page", "image", "document"]
Gate = Callable[[str], str | None]
Resolver = Callable[[str, int], Sequence[str]]

# Every outcome but ok and http-<status>.
OUTCOMES = frozenset(
    {
        "bad-url",  # no http(s) URL, or one that carries userinfo or a signature (detail says which)
        "refused-by-policy",  # the gate said no; detail is its code, refused_url what it was asked about
        "forbidden-address",  # the name leads to a special-purpose address
        "too-many-redirects",
        "dns",
        "connect",
        "tls",
        "reset",
        "timeout",  # detail: connect | rate | deadline
        "too-large",  # detail: body | headers; a document keeps its first bytes
        "truncated",  # shorter than the server declared
        "bad-encoding",  # a content encoding that was not asked for and cannot be undone
        "bad-response",  # not HTTP
        "origin-down",  # not asked: the origin failed too often in a row in this run
    }
)
# Outcomes that may be different tomorrow.
TRANSIENT_OUTCOMES = frozenset(
    {"dns", "connect", "reset", "timeout", "truncated", "origin-down", "http-408", "http-425", "http-429"}
    | {f"http-{status}" for status in range(500, 600)}
)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_COMPLETE = frozenset({200, 203})
_DISCARDED_BODY_BYTES = 64 * 1024  # read of a redirect's or an error's body, to keep its connection usable
_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """How the fetcher presents and bounds itself. Sizes are bytes as decoded, times seconds.

    `allow_addresses`: exact "ip:port" that may be connected to although special-purpose (the demo's and the tests'
    loopback servers). `contact`: the URL or mail address in the user agent, required before anything else is asked.
    """

    product: str = "custody"
    version: str = "0.1"
    contact: str | None = None
    allow_addresses: tuple[str, ...] = ()
    concurrency: int = 64
    per_origin_concurrency: int = 4
    per_origin_delay_s: float = 0.0
    max_pending: int = 20_000
    connect_timeout_s: float = 10.0
    deadline_s: float = 60.0
    min_rate_bytes_per_s: float = 100.0
    rate_window_s: float = 10.0
    max_redirects: int = 5
    max_header_bytes: int = 64 * 1024
    max_page_bytes: int = 8 * 1024 * 1024
    max_image_bytes: int = 32 * 1024 * 1024
    max_document_bytes: int = 1024 * 1024
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


@dataclass(frozen=True, slots=True)
class Request:
    """A URL to be had, as what, and optionally within how many bytes."""

    url: str
    kind: Kind
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of a request.

    `outcome`: "ok" (status 200 or 203 and a complete body), "http-<status>", or one of `OUTCOMES`; `detail` says more.
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
    ) -> Iterator[Fetched]: ...


def open_gate(url: str) -> str | None:
    """The gate that refuses nothing: for documents that must be asked before policy can speak, and for tests."""
    return None


class Fetcher:
    """The real transport. One instance may serve nested and successive `fetch_all` calls of one thread.

    Raises ConfigurationError for an allow-list entry that is no exact "ip:port" or a limit that makes no sense.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        resolver: Resolver | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        _check(config)
        self.config = config
        self.resolver = resolver
        self.now = now
        self.allowed = frozenset(parse_endpoint(text) for text in config.allow_addresses)
        self._idle: list[_Loop] = []

    def fetch_all(
        self,
        requests: Iterable[Request | None],
        *,
        gate: Gate,
        concurrency: int | None = None,
        delay_s: Callable[[str], float] | None = None,
    ) -> Iterator[Fetched]:
        """Fetch, and yield each request's end as it comes: exactly one Fetched a request, in no order.

        `requests` is pulled lazily, never more than `max_pending` ahead; None in it means "nothing at the moment, ask
        me after the next result". `gate` is asked before a URL is contacted, redirect targets included: None lets it
        pass, a code refuses it. `delay_s(origin)` is the least time between two starts at that origin.
        Time that the consumer keeps the iterator waiting counts against nobody's deadline.

        Raises RefusedError when something other than the allow-listed addresses is to be asked without a contact.
        """
        loop = self._idle.pop() if self._idle else _Loop(self)
        run = _Run(self, loop, requests, gate, concurrency or self.config.concurrency, delay_s)
        try:
            yield from run.results()
        finally:
            run.abandon()
            self._idle.append(loop)

    def fetch(self, request: Request, *, gate: Gate = open_gate) -> Fetched:
        """Fetch one."""
        return next(iter(self.fetch_all([request], gate=gate)))

    def close(self) -> None:
        """Close every kept connection."""
        for loop in self._idle:
            loop.close()
        self._idle.clear()

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
        if self.verdict_on(str(literal), _port_of(url)) == "no-contact":
            raise _no_contact(url)


@dataclass(slots=True)
class _Job:
    """A request on its way: where it stands and what it has seen."""

    request: Request
    url: str
    origin: str
    max_bytes: int
    hops: list[Hop] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    spent_s: float = 0.0
    started_at: datetime | None = None
    address: str | None = None

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
        )


@dataclass(slots=True)
class _Origin:
    """An origin's queue. `queued` while it waits in the heap of ready origins."""

    name: str
    waiting: deque[_Job] = field(default_factory=deque)
    active: int = 0
    next_start: float = 0.0
    queued: bool = False
    failures: int = 0


class _Run:
    """One `fetch_all`: the queues of its origins, and what is in flight."""

    def __init__(
        self,
        fetcher: Fetcher,
        loop: _Loop,
        requests: Iterable[Request | None],
        gate: Gate,
        concurrency: int,
        delay_s: Callable[[str], float] | None,
    ) -> None:
        self.fetcher, self.config, self.loop = fetcher, fetcher.config, loop
        self.requests = iter(requests)
        self.gate, self.concurrency = gate, concurrency
        self.delay_s = delay_s or (lambda origin: self.config.per_origin_delay_s)
        self.exhausted = False
        self.origins: dict[str, _Origin] = {}
        self.ready: list[tuple[float, int, _Origin]] = []
        self.turns = 0
        self.pending = 0
        self.ended: deque[Fetched] = deque()
        self.clock = _ActiveClock()

    def results(self) -> Iterator[Fetched]:
        while True:
            # Results first: what the consumer finds in them may be what the source has to offer next.
            while self.ended:
                held = time.monotonic()
                yield self.ended.popleft()
                self.clock.hold(time.monotonic() - held)
            self._start_what_may_start()
            if self.ended:
                continue
            if self.exhausted and not self.pending and not self.loop.active:
                return
            for transfer in self.loop.wait(self.clock, self._next_wake()):
                self._settle(transfer)

    def abandon(self) -> None:
        """Give up what is in flight (the consumer stopped, or something was raised)."""
        for transfer in list(self.loop.active.values()):
            self.loop.release(transfer)

    def _start_what_may_start(self) -> None:
        asked = False  # a source that said "nothing at the moment" is asked again after the next result
        while len(self.loop.active) < self.concurrency:
            if len(self.ended) >= self.concurrency:
                return
            if (origin := self._next_origin()) is not None:
                self._start(origin, origin.waiting.popleft())
                continue
            if self.exhausted or asked or self.pending >= self.config.max_pending:
                return
            try:
                request = next(self.requests)
            except StopIteration:
                self.exhausted = True
                return
            if request is None:
                asked = True
            else:
                self._admit(request)

    def _admit(self, request: Request) -> None:
        limit = request.max_bytes if request.max_bytes is not None else self.config.max_bytes(request.kind)
        job = _Job(request, request.url, "", limit)
        if (problem := self._aim(job, request.url)) is not None:
            self.ended.append(job.done("bad-url", detail=problem))
            return
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
        job.url, job.origin = canonical, origin_of(canonical)
        job.seen.add(canonical)
        return None

    def _queue(self, job: _Job, *, first: bool = False) -> None:
        origin = self.origins.get(job.origin)
        if origin is None:
            if len(self.origins) > 4 * self.config.max_pending:
                self._forget_idle_origins()
            origin = self.origins[job.origin] = _Origin(job.origin)
        self.pending += 1
        (origin.waiting.appendleft if first else origin.waiting.append)(job)
        self._make_ready(origin)

    def _make_ready(self, origin: _Origin) -> None:
        if origin.waiting and not origin.queued and origin.active < self.config.per_origin_concurrency:
            origin.queued = True
            self.turns += 1
            heapq.heappush(self.ready, (origin.next_start, self.turns, origin))

    def _next_origin(self) -> _Origin | None:
        """The origin whose turn it is, if one may be asked now."""
        if not self.ready or self.ready[0][0] > self.clock.now():
            return None
        origin = heapq.heappop(self.ready)[2]
        origin.queued = False
        return origin

    def _next_wake(self) -> float | None:
        """Seconds until an origin's delay is over; None when nothing waits for one."""
        if not self.ready or len(self.loop.active) >= self.concurrency:
            return None
        return max(0.0, self.ready[0][0] - self.clock.now())

    def _start(self, origin: _Origin, job: _Job) -> None:
        self.pending -= 1
        if origin.failures >= self.config.origin_failures_max:
            self.ended.append(job.done("origin-down", detail=f"{origin.failures} failures in a row"))
        elif (code := self.gate(job.url)) is not None:
            self.ended.append(job.done("refused-by-policy", detail=code, refused_url=job.url))
        else:
            now = self.clock.now()
            job.started_at = job.started_at or self.fetcher.now()
            origin.active += 1
            origin.next_start = now + self.delay_s(origin.name)
            self.loop.start(job, now)
        self._make_ready(origin)

    def _settle(self, transfer: _Transfer) -> None:
        """A transfer is over: follow its redirect, or end its job."""
        job = transfer.job
        origin = self.origins[job.origin]
        origin.active -= 1
        job.spent_s += self.clock.now() - transfer.started
        job.address = transfer.address or job.address
        outcome, detail = transfer.outcome()
        if transfer.status:
            job.hops.append(Hop(job.url, transfer.status, transfer.headers()))
        self.loop.release(transfer)
        failed = outcome in ("connect", "timeout", "reset", "dns", "tls", "bad-response")
        origin.failures = origin.failures + 1 if failed else 0
        if outcome == "ok" and transfer.status in _REDIRECTS and (location := transfer.location()):
            self._redirect(job, location)
        elif outcome == "no-contact":
            if not job.hops:
                raise _no_contact(job.url)
            self.ended.append(job.done("refused-by-policy", detail=outcome, refused_url=job.url))
        elif outcome == "ok" and transfer.status not in _COMPLETE:
            self.ended.append(job.done(f"http-{transfer.status}"))
        else:
            refused = job.url if outcome == "forbidden-address" else None
            keep = outcome == "ok" or (outcome == "too-large" and job.request.kind == "document")
            body = bytes(transfer.body) if keep else b""
            self.ended.append(job.done(outcome, detail=detail, refused_url=refused, body=body))
        transfer.body = bytearray()
        self._make_ready(origin)

    def _redirect(self, job: _Job, location: str) -> None:
        try:
            target = canonical_url(location, job.url)
        except InputError as error:
            self.ended.append(job.done("bad-url", detail=f"redirect: {error.what}"))
            return
        if target in job.seen or len(job.hops) > self.config.max_redirects:
            detail = "loop" if target in job.seen else f"more than {self.config.max_redirects}"
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
            if origin.waiting or origin.active or origin.next_start > now or origin.failures
        }


class _ActiveClock:
    """Monotonic seconds without the time that the consumer held the iterator."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = 0.0

    def now(self) -> float:
        return time.monotonic() - self._held

    def hold(self, seconds: float) -> None:
        self._held += seconds


class _Loop:
    """libcurl's multi interface on epoll (no limit on descriptors), with its easy handles kept for reuse."""

    def __init__(self, fetcher: Fetcher) -> None:
        self.fetcher, self.config = fetcher, fetcher.config
        self.active: dict[pycurl.Curl, _Transfer] = {}
        self._free: list[_Transfer] = []
        self._epoll = select.epoll()
        self._timer: float | None = None
        self._next_tick = 0.0
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 4 * self.config.concurrency)

    def start(self, job: _Job, now: float) -> None:
        transfer = self._free.pop() if self._free else _Transfer(self.fetcher)
        transfer.begin(job, now)
        self.active[transfer.easy] = transfer
        self._multi.add_handle(transfer.easy)

    def release(self, transfer: _Transfer) -> None:
        """Take a transfer out of the loop; an unfinished one loses its connection."""
        del self.active[transfer.easy]
        self._multi.remove_handle(transfer.easy)
        if len(self._free) < self.config.concurrency:
            self._free.append(transfer)
        else:
            transfer.easy.close()

    def wait(self, clock: _ActiveClock, wake_s: float | None) -> list[_Transfer]:
        """Let the network work until a transfer ends, `wake_s` is over or a tick has passed; those that ended."""
        timeout = _TICK_S if wake_s is None else min(_TICK_S, wake_s)
        if self._timer is not None:
            timeout = min(timeout, max(0.0, self._timer - time.monotonic()))
        for descriptor, events in self._epoll.poll(timeout):
            readable = pycurl.CSELECT_IN if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) else 0
            writable = pycurl.CSELECT_OUT if events & (select.EPOLLOUT | select.EPOLLERR) else 0
            self._multi.socket_action(descriptor, readable | writable)
        if self._timer is not None and time.monotonic() >= self._timer:
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return self._collect() + self._overdue(clock.now())

    def close(self) -> None:
        for transfer in self._free:
            transfer.easy.close()
        self._multi.close()
        self._epoll.close()

    def _collect(self) -> list[_Transfer]:
        ended = []
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            for easy in succeeded:
                self.active[easy].end(0, "")
                ended.append(self.active[easy])
            for easy, code, message in failed:
                self.active[easy].end(code, message)
                ended.append(self.active[easy])
        return ended

    def _overdue(self, now: float) -> list[_Transfer]:
        if now < self._next_tick and self._next_tick - now <= _TICK_S:
            return []
        self._next_tick = now + _TICK_S
        return [t for t in self.active.values() if not t.ended and t.is_overdue(now)]

    def _watch(self, what: int, descriptor: int, multi: object, data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            try:
                self._epoll.unregister(descriptor)
            except OSError:  # libcurl closed it first, and epoll forgot it by itself
                return
            return
        mask = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            self._epoll.register(descriptor, mask)
        except FileExistsError:
            self._epoll.modify(descriptor, mask)

    def _set_timer(self, timeout_ms: int) -> None:
        self._timer = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000


class _Transfer:
    """One easy handle and the one response it is reading."""

    def __init__(self, fetcher: Fetcher) -> None:
        self.fetcher, self.config = fetcher, fetcher.config
        self.easy = pycurl.Curl()
        self._set_up(self.easy)
        self.body = bytearray()

    def _set_up(self, easy: pycurl.Curl) -> None:
        set_ = easy.setopt
        set_(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        set_(pycurl.FOLLOWLOCATION, 0)
        set_(pycurl.PROXY, "")  # the environment's proxy variables are not asked
        set_(pycurl.NOPROXY, "*")
        set_(pycurl.NETRC, pycurl.NETRC_IGNORED)
        set_(pycurl.HTTP09_ALLOWED, 0)
        set_(pycurl.PATH_AS_IS, 1)
        set_(pycurl.NOSIGNAL, 1)
        set_(pycurl.USERAGENT, self.config.user_agent)
        set_(pycurl.HTTPHEADER, ["Accept: */*", "Accept-Encoding: identity"])
        set_(pycurl.HTTP_CONTENT_DECODING, 0)  # undone here, where the decoded bytes are counted
        set_(pycurl.DNS_CACHE_TIMEOUT, 60)
        if self.config.ca_file is not None:
            set_(pycurl.CAINFO, str(self.config.ca_file))
        set_(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        set_(pycurl.PREREQFUNCTION, self._before_request)
        set_(pycurl.HEADERFUNCTION, self._on_header)
        set_(pycurl.WRITEFUNCTION, self._on_body)

    def begin(self, job: _Job, now: float) -> None:
        self.job = job
        self.started = self.window_start = now
        self.window_bytes = self.received = self.header_bytes = 0
        self.connected = self.ended = False
        self.address: str | None = None
        self.refused: str | None = None
        self.stopped: tuple[str, str] | None = None  # why we stopped it: outcome and detail
        self.code, self.message = 0, ""
        self.status = 0
        self.raw_headers: list[bytes] = []
        self.body = bytearray()
        self.decoder: _Decoder | None = None
        self.body_begun = False
        self.easy.setopt(pycurl.URL, job.url)
        if (resolver := self.fetcher.resolver) is not None:
            self._resolve(resolver)

    def _resolve(self, resolver: Resolver) -> None:
        host, port = host_of(self.job.url), _port_of(self.job.url)
        addresses = tuple(resolver(host, port))
        if not addresses:
            self.stopped = ("dns", "the resolver knows no address")
        # 0.0.0.0 is never connected to: without an address libcurl would ask the system's resolver after all.
        entry = f"+{host}:{port}:{','.join(addresses) or '0.0.0.0'}"
        self.easy.setopt(pycurl.RESOLVE, [f"-{host}:{port}", entry])
        self.easy.setopt(pycurl.FRESH_CONNECT, 1)  # a name that moved is asked at its new place

    def end(self, code: int, message: str) -> None:
        self.ended, self.code, self.message = True, code, message

    def is_overdue(self, now: float) -> bool:
        """Look at the clock; True when this transfer has been stopped for its slowness."""
        elapsed = now - self.started
        if self.job.spent_s + elapsed > self.config.deadline_s:
            self.stopped = ("timeout", "deadline")
        elif not self.connected and elapsed > self.config.connect_timeout_s:
            self.stopped = ("timeout", "connect")
        elif now - self.window_start >= self.config.rate_window_s:
            arrived, seconds = self.received - self.window_bytes, now - self.window_start
            if self.connected and arrived < self.config.min_rate_bytes_per_s * seconds:
                self.stopped = ("timeout", "rate")
            self.window_start, self.window_bytes = now, self.received
        self.ended = self.stopped is not None
        return self.ended

    def outcome(self) -> tuple[str, str]:
        """What the transfer came to ("ok": a complete response of any status), and a detail."""
        if self.stopped is not None:
            return self.stopped if self.stopped[0] != "discarded" else ("ok", "")
        if self.refused is not None and not self.connected:
            return ("no-contact", "") if self.refused == "no-contact" else ("forbidden-address", self.refused)
        if self.code:
            return _CURL_OUTCOMES.get(self.code, "connect"), f"curl {self.code}: {self.message}"
        if self.decoder is not None and not self.decoder.complete:
            return "truncated", "encoded body ends early"
        return "ok", ""

    def headers(self) -> Headers:
        pairs = []
        for line in self.raw_headers:
            name, _, value = line.decode("latin-1").partition(":")
            pairs.append((name.strip(), value.strip()))
        return tuple(pairs)

    def location(self) -> str | None:
        value = _last(self.raw_headers, b"location")
        if value is None:
            return None
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")

    # ── libcurl's callbacks: an exception in one is an aborted transfer, never a passed check ────────────────────
    def _open_socket(self, purpose: int, address: tuple[int, int, int, tuple[str, int]]) -> object:
        family, kind, protocol, endpoint = address
        if self._refuses(endpoint[0], endpoint[1]):
            return pycurl.SOCKET_BAD
        return _Socket(family, kind, protocol)

    def _before_request(self, ip: str, local_ip: str, port: int, local_port: int) -> int:
        # Also called on a reused connection: what was checked at its opening is checked again.
        if self._refuses(ip, port):
            return int(pycurl.PREREQFUNC_ABORT)
        self.connected = True
        self.address = endpoint_text(ip, port)
        return int(pycurl.PREREQFUNC_OK)

    def _refuses(self, ip: str | bytes, port: int) -> bool:
        text = ip if isinstance(ip, str) else ip.decode("latin-1")
        why = self.fetcher.verdict_on(text, port)
        if why is not None:
            self.refused = why
        return why is not None

    def _on_header(self, line: bytes) -> int | None:
        self.received += len(line)
        self.header_bytes += len(line)
        if self.header_bytes > self.config.max_header_bytes:
            self.stopped = ("too-large", "headers")
            return -1
        if line.startswith(b"HTTP/") and not self.body_begun:
            self.raw_headers = []  # an interim response (1xx) came before
            self.status = int(line.split(None, 2)[1])
        elif line[:1] in (b" ", b"\t") and self.raw_headers:
            self.raw_headers[-1] += b" " + line.strip()  # a folded line (RFC 9112, 5.2)
        elif b":" in line:
            self.raw_headers.append(line.rstrip(b"\r\n"))
        return None

    def _on_body(self, data: bytes) -> int | None:
        if not self.body_begun:
            self.body_begun = True
            self._begin_body()
        self.received += len(data)
        if self.stopped is None:
            self._take(data)
        return None if self.stopped is None else -1

    def _begin_body(self) -> None:
        encoding = (_last(self.raw_headers, b"content-encoding") or b"").strip().lower()
        if self.status not in _COMPLETE:
            return
        if encoding not in (b"", b"identity"):
            self.decoder = _Decoder.of(encoding)
            if self.decoder is None:
                self.stopped = ("bad-encoding", encoding.decode("latin-1")[:40])
            return
        declared = _last(self.raw_headers, b"content-length") or b""
        if declared.isdigit() and int(declared[:20]) > self.job.max_bytes and self.job.request.kind != "document":
            self.stopped = ("too-large", "body")

    def _take(self, data: bytes) -> None:
        if self.status not in _COMPLETE:
            if self.received > _DISCARDED_BODY_BYTES + self.header_bytes:
                self.stopped = ("discarded", "")
            return
        room = self.job.max_bytes - len(self.body)
        if self.decoder is not None:
            try:
                data = self.decoder.decode(data, room + 1)
            except zlib.error as error:
                self.stopped = ("bad-encoding", str(error)[:80])
                return
        if len(data) > room:
            self.stopped = ("too-large", "body")
        self.body += data[:room]


class _Socket(socket.socket):
    """A socket of which libcurl takes a duplicate: this one closes as soon as it is let go."""

    def __del__(self) -> None:
        self.close()


class _Decoder:
    """gzip and deflate, with no more output than is asked for."""

    def __init__(self, encoding: bytes) -> None:
        self._encoding = encoding
        self._inflate: zlib._Decompress | None = None

    @classmethod
    def of(cls, encoding: bytes) -> _Decoder | None:
        return cls(encoding) if encoding in (b"gzip", b"x-gzip", b"deflate") else None

    @property
    def complete(self) -> bool:
        return self._inflate is not None and self._inflate.eof

    def decode(self, data: bytes, limit: int) -> bytes:
        """The next bytes, at most `limit` of them: a caller that gets so many has had enough."""
        out = bytearray()
        while data and len(out) < limit:
            if self._inflate is None:
                # "deflate" is zlib's format by the standard and raw in some servers; the first byte tells.
                raw = self._encoding == b"deflate" and data[0] & 0x0F != 8
                self._inflate = zlib.decompressobj(-15 if raw else 47)
            elif self._inflate.eof:
                if self._encoding == b"deflate" or data[:1] != b"\x1f":
                    break  # rubbish after the end: what counts is there
                self._inflate = zlib.decompressobj(47)  # the next member of a gzip file
            out += self._inflate.decompress(data, limit - len(out))
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        return bytes(out)


_CURL_OUTCOMES = {
    1: "bad-response",  # HTTP/0.9
    3: "bad-url",
    6: "dns",
    7: "connect",
    8: "bad-response",
    16: "reset",
    18: "truncated",
    28: "timeout",
    35: "tls",
    42: "forbidden-address",
    52: "reset",
    55: "reset",
    56: "reset",
    58: "tls",
    60: "tls",
    61: "bad-encoding",
    77: "tls",
    83: "tls",
    90: "tls",
    91: "tls",
    92: "reset",
    100: "too-large",  # more headers than libcurl takes
}


def _last(raw_headers: list[bytes], name: bytes) -> bytes | None:
    for line in reversed(raw_headers):
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _port_of(url: str) -> int:
    origin = origin_of(url)
    scheme, _, rest = origin.partition("://")
    port = rest.rpartition("]")[2].rpartition(":")[2] if ":" in rest.rpartition("]")[2] else ""
    return int(port) if port else {"http": 80, "https": 443}[scheme]


def _no_contact(url: str) -> RefusedError:
    return RefusedError(
        "the crawler has no contact address, and asks nobody but its own test servers without one",
        where=origin_of(url),
        remedy="Set a contact (an URL or a mail address) in custody.toml",
    )


def _check(config: FetchConfig) -> None:
    positive = ("concurrency", "per_origin_concurrency", "max_pending", "connect_timeout_s", "deadline_s")
    for name in (*positive, "rate_window_s", "max_header_bytes", "origin_failures_max"):
        if getattr(config, name) <= 0:
            raise ConfigurationError(f"{name} must be more than 0, not {getattr(config, name)}", where="fetch")
    for name in ("product", "version", "contact"):
        text = getattr(config, name) or ""
        if not text.isascii() or not text.isprintable() or (name != "contact" and (not text or " " in text)):
            raise ConfigurationError(f"{name} {text!r} cannot stand in a User-Agent header", where="fetch")
