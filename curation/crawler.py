"""One stream of pages or pictures and of what their origins say: an origin that is slow delays its own URLs alone.

Before a URL is contacted its origin's documents are known. They are asked for in the same loop as everything else, and
so are those of an origin that a redirect leads to: the URL stops before the contact and is asked again from its
beginning once they are there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime

from curation.fetch import Fetched, Gate, Request, Transport
from curation.hosts import Inquiry, OriginDocuments
from curation.pair import canonical_url, origin_of, secret_in_url
from policy.errors import InputError
from policy.evidence import Document, OriginEvidence

# A URL whose redirect leads to an origin that nobody has asked is asked again, at most so often in all.
REDIRECT_ROUNDS = 4
ORIGIN_NOT_ASKED = "origin-not-asked"

_CLAIM_POLL_S = 0.1
_CLAIM_WAIT_S = 600.0  # whoever asks hangs: two requests are better than none
_ADMIT_S = 0.02  # between two looks at the network


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an origin says of itself is wanted, and nothing else of it: a page stands there that was not asked."""

    origin: str


class Crawler:
    """The transport behind the gate of the origins' documents.

    `kept_out(url)`: a code for what is out whatever its origin says; of that not even robots.txt is asked for.
    `gate(url)`: a code for what may not be contacted, asked when the documents of the URL's origin stand in `known`;
    both get canonical URLs. `known` may be given, and shared with who judges: origin -> what it says of itself.
    `crawl_delay(robots)`: the seconds its robots.txt asks for between two requests, or None. An origin is not asked
    faster than that (`crawl_delay_max_s` at most) and `delay_s`. `max_pending`: requests pulled from the source and not
    answered. `max_inquiries`: origins asked for their documents at once, each an open lock file meanwhile.
    """

    def __init__(
        self,
        transport: Transport,
        origins: OriginDocuments,
        *,
        gate: Gate,
        kept_out: Gate,
        now: Callable[[], datetime],
        known: MutableMapping[str, OriginEvidence] | None = None,
        crawl_delay: Callable[[Document], float | None] | None = None,
        delay_s: float = 0.0,
        crawl_delay_max_s: float = 30.0,
        max_pending: int = 20_000,
        max_inquiries: int = 2_048,
    ) -> None:
        self.transport, self.origins = transport, origins
        self.known: MutableMapping[str, OriginEvidence] = known if known is not None else {}
        self.max_pending, self.max_inquiries = max_pending, max_inquiries
        self.kept_out, self.now = kept_out, now
        self._gate = gate
        self._crawl_delay = crawl_delay
        self._delay_s, self._crawl_delay_max_s = delay_s, crawl_delay_max_s
        self._delays: dict[str, float] = {}

    def fetch_all(self, requests: Iterable[Request | Wanted | None], *, wake: int | None = None) -> Iterator[Fetched]:
        """Fetch, and yield each request's end as it comes: exactly one Fetched a request, in no order.

        Of what is `Wanted` nothing is yielded; when all is over it stands in `known`.
        `requests` is pulled lazily; None in it means "nothing at the moment, ask me again later", or as soon as `wake`,
        a descriptor, is readable. What was fetched of the origins' documents is found with `origins.take_fetched()`.
        Within the loop others may be fetched.

        Raises what the transport raises, and what `gate` and `kept_out` raise.
        """
        run = _Run(self, iter(requests))
        try:
            for fetched in self.transport.fetch_all(run.source(), gate=self.gate, delay_s=self.delay_s, wake=wake):
                if (end := run.settle(fetched)) is not None:
                    yield end
        finally:
            run.release()

    def gate(self, url: str) -> str | None:
        """Why a canonical URL may not be contacted now, or None."""
        if (code := self.kept_out(url)) is not None:
            return code
        if origin_of(url) not in self.known:
            return ORIGIN_NOT_ASKED
        return self._gate(url)

    def delay_s(self, origin: str) -> float:
        """The least time between two requests at this origin."""
        return self._delays.get(origin, self._delay_s)

    def learn(self, origin: str, evidence: OriginEvidence | None) -> None:
        """Take over what is known of an origin."""
        self.known[origin] = evidence if evidence is not None else OriginEvidence(origin)
        self.heed(origin, self.known[origin].get("robots"))

    def heed(self, origin: str, robots: Document | None) -> None:
        """Keep to the pace that an origin's robots.txt asks for."""
        asked = self._crawl_delay(robots) if self._crawl_delay is not None and robots is not None else None
        if asked is not None:
            self._delays[origin] = max(self._delay_s, min(asked, self._crawl_delay_max_s))
        else:
            self._delays.pop(origin, None)


@dataclass(slots=True, eq=False)
class _Host:
    """An origin whose documents are being asked for, and the requests that wait for them."""

    origin: str
    waiting: list[Request] = field(default_factory=list)
    release: Callable[[], None] | None = None
    claim_at: float = 0.0  # somebody else asks: when to look again
    claim_until: float = 0.0


class _Run:
    """One `fetch_all`: what waits for the documents of which origin, and what the transport has been given."""

    def __init__(self, crawler: Crawler, requests: Iterator[Request | Wanted | None]) -> None:
        self.crawler, self.origins, self.requests = crawler, crawler.origins, requests
        self.exhausted = False
        self.pending = 0  # requests pulled and not answered
        self.ready: deque[Request] = deque()
        self.hosts: dict[str, _Host] = {}  # those whose documents are not known yet
        self.queued: deque[_Host] = deque()  # of them, those whose turn to be asked has not come
        self.claimed_elsewhere: deque[_Host] = deque()
        self.inquiries = 0
        self.asking: dict[int, tuple[_Host, Inquiry]] = {}  # by id of the request for a document
        self.rounds: dict[int, int] = {}  # by id of a request that is asked again

    def source(self) -> Iterator[Request | None]:
        """What the transport is to ask: documents first, then what waited for them, then what is new."""
        until = time.monotonic() + _ADMIT_S
        while True:
            self._look_at_claims()
            self._begin_queued()
            if self.ready:
                yield self.ready.popleft()
                until = time.monotonic() + _ADMIT_S
            elif not self.exhausted and self.pending < self.crawler.max_pending and time.monotonic() < until:
                try:
                    request = next(self.requests)
                except StopIteration:
                    self.exhausted = True
                    continue
                if request is None:
                    yield None
                    until = time.monotonic() + _ADMIT_S
                elif isinstance(request, Wanted):
                    self._want(request.origin)
                else:
                    self._admit(request)
            elif self.exhausted and not self.pending and not self.hosts:
                return
            else:
                yield None
                until = time.monotonic() + _ADMIT_S

    def settle(self, fetched: Fetched) -> Fetched | None:
        """What a request came to; None where that was a document, or is to be asked again."""
        key = id(fetched.request)
        if (asked_of := self.asking.pop(key, None)) is not None:
            self._document(*asked_of, fetched)
            return None
        target = fetched.refused_url
        if fetched.detail == ORIGIN_NOT_ASKED and target is not None and fetched.outcome == "refused-by-policy":
            asked = self.rounds.get(key, 0) + 1
            if asked < REDIRECT_ROUNDS:
                self.rounds[key] = asked
                self._wait_for(origin_of(target), fetched.request)
                return None
        self.rounds.pop(key, None)
        self.pending -= 1
        return fetched

    def release(self) -> None:
        """Give every claim back."""
        for host in self.hosts.values():
            if host.release is not None:
                host.release()
                host.release = None

    def _admit(self, request: Request) -> None:
        self.pending += 1
        try:
            url = canonical_url(request.url)
        except InputError:
            self.ready.append(request)  # the transport says what is wrong with it
            return
        if secret_in_url(url) is not None or self.crawler.kept_out(url) is not None:
            self.ready.append(request)  # nothing is contacted for it, and the transport says so
        else:
            self._wait_for(origin_of(url), request)

    def _wait_for(self, origin: str, request: Request) -> None:
        if origin in self.crawler.known:
            self.ready.append(request)
            return
        self._want(origin)
        self.hosts[origin].waiting.append(request)

    def _want(self, origin: str) -> None:
        if origin not in self.crawler.known and origin not in self.hosts:
            host = self.hosts[origin] = _Host(origin)
            self.queued.append(host)

    def _begin_queued(self) -> None:
        while self.queued and self.inquiries < self.crawler.max_inquiries:
            host = self.queued.popleft()
            host.claim_until = time.monotonic() + _CLAIM_WAIT_S
            if not self._begin(host):
                self.claimed_elsewhere.append(host)

    def _look_at_claims(self) -> None:
        """Of those that somebody else is asking: whether that is over."""
        now = time.monotonic()
        while self.claimed_elsewhere and self.claimed_elsewhere[0].claim_at <= now:
            host = self.claimed_elsewhere.popleft()
            if not self._begin(host):
                self.claimed_elsewhere.append(host)

    def _begin(self, host: _Host) -> bool:
        """Ask an origin for what is due of its documents; False while somebody else does."""
        now = self.crawler.now()
        if not self.origins.is_due(host.origin, now):
            self._know(host)
            return True
        host.release = self.origins.claims.take(host.origin, wait_s=0)
        if host.release is None and time.monotonic() < host.claim_until:
            host.claim_at = time.monotonic() + _CLAIM_POLL_S
            return False
        # Asked anew when it is claimed: somebody may have been quicker, and have gone since.
        inquiry = self.origins.inquiry(host.origin, now)
        self.inquiries += 1
        self._ask(host, inquiry, inquiry.first())
        return True

    def _document(self, host: _Host, inquiry: Inquiry, fetched: Fetched) -> None:
        following = inquiry.answered(fetched)
        self.crawler.heed(host.origin, inquiry.robots())
        self._ask(host, inquiry, following)

    def _ask(self, host: _Host, inquiry: Inquiry, requests: list[Request]) -> None:
        """Go on with an inquiry, or end it."""
        for request in requests:
            self.asking[id(request)] = host, inquiry
        self.ready.extendleft(reversed(requests))
        if inquiry.done:
            self._end_inquiry(host)

    def _end_inquiry(self, host: _Host) -> None:
        self.inquiries -= 1
        if host.release is not None:
            host.release()
            host.release = None
        self._know(host)

    def _know(self, host: _Host) -> None:
        del self.hosts[host.origin]
        self.crawler.learn(host.origin, self.origins.cache.get(host.origin))
        self.ready.extend(host.waiting)
