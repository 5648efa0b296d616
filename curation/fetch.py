"""URL to bytes, with the headers of every hop, bounded and guarded: one libcurl multi loop.

The caller says what is wanted and, by its gate, what may be contacted; the fetcher sees to it that nothing it meets
can hurt: addresses are checked as they are connected to (so neither a redirect nor a rebinding name reaches inside),
bodies are capped as decoded, a transfer has a total deadline and a minimum rate, origins are queued apart.
It decides nothing and retries nothing.
"""

from __future__ import annotations

import heapq
import ipaddress
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from curation.addresses import forbidden_address, parse_endpoint
from curation.pair import canonical_url, host_of, origin_of, port_of, secret_in_url
from curation.transfer import COMPLETE, ActiveClock, Loop, Resolver, Transfer
from policy.errors import ConfigurationError, InputError, RefusedError
from policy.evidence import Hop

Kind = Literal["page", "image", "document"]
Gate = Callable[[str], str | None]

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
        self._idle: list[Loop] = []

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
        loop = self._idle.pop() if self._idle else Loop(self.config, self.verdict_on, self.resolver)
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
        if self.verdict_on(str(literal), port_of(url)) == "no-contact":
            raise _no_contact(url)


@dataclass(slots=True)
class _Job:
    """A request on its way: where it stands and what it has seen."""

    request: Request
    url: str
    origin: str
    max_bytes: int
    keep_beginning: bool  # of a body that is longer than max_bytes
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
        loop: Loop,
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
        self.jobs: dict[Transfer, _Job] = {}
        self.clock = ActiveClock()

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
        job = _Job(request, request.url, "", limit, keep_beginning=request.kind == "document")
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
            self.jobs[self.loop.start(job, now)] = job
        self._make_ready(origin)

    def _settle(self, transfer: Transfer) -> None:
        """A transfer is over: follow its redirect, or end its job."""
        job = self.jobs.pop(transfer)
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
        elif outcome == "ok" and transfer.status not in COMPLETE:
            self.ended.append(job.done(f"http-{transfer.status}"))
        else:
            refused = job.url if outcome == "forbidden-address" else None
            keep = outcome == "ok" or (outcome == "too-large" and job.keep_beginning)
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
