"""One libcurl loop, and the one response that each of its transfers reads, within bounds.

Deadlines and rates are kept here and not by libcurl, on a clock that stands still while the consumer works.
"""

from __future__ import annotations

import ctypes
import re
import resource
import select
import signal
import socket
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import pycurl  # type: ignore[import-untyped]  # it ships no types

from curation.addresses import endpoint_text
from curation.pair import host_of, port_of
from policy.evidence import Headers

if TYPE_CHECKING:
    from curation.fetch import FetchConfig

Guard = Callable[[str, int], str | None]  # (address, port) -> why it may not be connected to, or None
Resolver = Callable[[str, int], Sequence[str]]

COMPLETE = frozenset({200, 203})  # statuses whose body is what was asked for
_DISCARDED_BODY_BYTES = 64 * 1024  # read of a redirect's or an error's body, to keep its connection usable
_TICK_S = 0.1
# A body for which others wait has to come at this rate, looked at so often.
_HOLD_S, _HOLD_BYTES_PER_S = 3.0, 50_000.0
# A transfer that has brought next to nothing for so long is quiet: it costs a descriptor and a few kilobytes. How long
# exactly, `Patience` says.
_QUIET_S = (0.1, 0.5)
_QUIET_BYTES = 4096
# A name is looked up again for a new connection after so long, and forgotten when so many others came after it.
_NAME_S, _NAMES = 60.0, 1_000
_NOTHING_TO_FORGET = ["-nothing.invalid:1"]  # an empty list would leave the last one
_QUIET_BODY_BYTES = 32 * 1024
# A body in so many pieces of so few bytes each is an attack on our time; so is one of so many gzip members.
_PIECES, _PIECE_BYTES = 20_000, 32
_MEMBERS = 1_000
# What a body may take without a reservation; a transfer that fell quiet has little to come back to.
_BODY_BYTES = 256 * 1024
# Blocks of this size are the system's again as soon as they are free. glibc would learn to keep them from the first
# large body that it sees freed, and bodies that grow leave holes of all sizes: a hundred megabytes were lost to them.
_LARGE_BLOCK_BYTES = 1024 * 1024
_M_MMAP_THRESHOLD = -3
_BUFFER_BYTES = 128 * 1024  # of the loop, not of each transfer: a picture in one or two reads
_HEADERS = ["Accept: */*", "Accept-Encoding: identity"]
_READABLE, _WRITABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR, select.EPOLLOUT | select.EPOLLERR
_PAUSE = int(pycurl.WRITEFUNC_PAUSE)
_CSELECT_IN, _CSELECT_OUT = pycurl.CSELECT_IN, pycurl.CSELECT_OUT
_POLL_IN, _POLL_OUT, _POLL_REMOVE = pycurl.POLL_IN, pycurl.POLL_OUT, pycurl.POLL_REMOVE
# Descriptors that are left for everything but connections: files, claims, pipes to workers.
_OTHER_DESCRIPTORS = 512


class Errand(Protocol):
    """What a transfer is sent for: where, how much of it, how much of its deadline is spent already."""

    url: str
    origin: str
    max_bytes: int
    keep_beginning: bool
    spent_s: float

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What the request says beyond the usual (conditions)."""

    def may_open(self, endpoint: str) -> bool:
        """Asked before a socket to this "ip:port" is opened: False where there are enough of them."""

    def connected(self, endpoint: str) -> None:
        """Told which "ip:port" is about to be asked."""


class ActiveClock:
    """Monotonic seconds without the time that the consumer held the iterator."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = 0.0

    def now(self) -> float:
        return time.monotonic() - self._held

    def hold(self, seconds: float) -> None:
        self._held += seconds


class Patience:
    """How long a silence is usual: the mean time of those who answered and four deviations (RFC 6298, 2), in bounds.

    So TCP tells what is late from what is lost. While nobody has answered it is the least: who is there says so soon.
    """

    __slots__ = ("_deviation", "_mean", "seconds")

    def __init__(self) -> None:
        self.seconds = _QUIET_S[0]
        self._mean: float | None = None
        self._deviation = 0.0

    def learn(self, took_s: float) -> None:
        """Somebody has answered, after so long."""
        if self._mean is None:
            self._mean, self._deviation = took_s, took_s / 2
        else:
            self._deviation += (abs(took_s - self._mean) - self._deviation) / 4
            self._mean += (took_s - self._mean) / 8
        self.seconds = min(max(self._mean + 4 * self._deviation, _QUIET_S[0]), _QUIET_S[1])


def descriptors_for_connections(wanted: int) -> int:
    """How many connections the process may hold open, its soft limit of descriptors raised as far as that needs.

    The soft limit is 1,024 in most places for the sake of programs that use select(2), which cannot count further;
    the hard limit is what the machine's owner allows. Nothing here uses select.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - _OTHER_DESCRIPTORS), soft // 2)


@cache
def give_large_blocks_back() -> None:
    """Have the process's malloc do so, where it is glibc's."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


class Caches:
    """Names' addresses and TLS sessions, shared among the loops of one fetcher (of one thread)."""

    def __init__(self) -> None:
        self.share = pycurl.CurlShare()
        for data in (pycurl.LOCK_DATA_DNS, pycurl.LOCK_DATA_SSL_SESSION):
            self.share.setopt(pycurl.SH_SHARE, data)
        self._looked_up: OrderedDict[str, float] = OrderedDict()  # origin -> when, in monotonic time

    def outdated(self, origin: str) -> list[str]:
        """What has to go before an origin is asked, as "host:port": its own addresses if old, and the oldest of many.

        libcurl would look at every name it knows after every transfer for old ones, so it is told to keep them all.
        """
        now = time.monotonic()
        known = self._looked_up.get(origin)
        if known is not None and now - known <= _NAME_S:
            return []
        gone = [] if known is None else [origin]
        self._looked_up[origin] = now
        self._looked_up.move_to_end(origin)
        if len(self._looked_up) > _NAMES:
            gone.append(self._looked_up.popitem(last=False)[0])
        # An IPv6 address is no name that could move, and could not be named to libcurl.
        return [_host_and_port(name) for name in gone if "[" not in name]

    def distrust(self, origin: str) -> None:
        """Look its name up anew next time: nobody answered at its addresses."""
        if origin in self._looked_up:
            self._looked_up[origin] = -_NAME_S


class UntilReturned:
    """Within it a Ctrl-C waits until libcurl has returned.

    What a callback of ours raises may come out as an error of libcurl's, and leave handles in an unknown state. In
    other threads than the main one, to which signals do not come, it does nothing. It may be entered within itself.
    """

    __slots__ = ("_came", "_depth", "_handler")

    def __init__(self) -> None:
        self._depth = 0
        self._handler: Callable[[int, FrameType | None], object] | None = None
        self._came: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):  # what ignores it, and what is not Python's, raises nothing
                self._handler = handler
                signal.signal(signal.SIGINT, self._keep)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth or self._handler is None:
            return
        handler, self._handler = self._handler, None
        signal.signal(signal.SIGINT, handler)
        came, self._came = self._came, None
        if came is not None:
            handler(*came)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._came = number, frame


class Loop:
    """libcurl's multi interface on epoll (no limit on descriptors), with its easy handles kept for reuse."""

    def __init__(
        self, config: FetchConfig, guard: Guard, resolver: Resolver | None, caches: Caches, max_connections: int
    ) -> None:
        give_large_blocks_back()
        self.until_returned = UntilReturned()
        self.config, self.guard, self.resolver, self.caches = config, guard, resolver, caches
        self.active: dict[pycurl.Curl, Transfer] = {}
        self.quieted: list[Transfer] = []  # those that fell quiet in the last `wait`
        self.reserved_bytes = 0
        self.patience = Patience()
        self._paused: deque[Transfer] = deque()  # they wait for a reservation
        self._holders: set[Transfer] = set()  # they have one, and do not wait for more
        self._clock = ActiveClock()
        self._free: list[Transfer] = []
        self._epoll = select.epoll()
        self._waker: int | None = None
        self.was_woken = False  # by what `wake_on` named, in the last `wait`
        self._timer: float | None = None
        self._next_tick = 0.0
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        # Those in use count too: with fewer, thousands of quiet ones would make every other transfer connect anew.
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)

    def start(self, errand: Errand, now: float) -> Transfer:
        transfer = self._free.pop() if self._free else Transfer(self)
        transfer.begin(errand, now)
        self.active[transfer.easy] = transfer
        with self.until_returned:
            self._multi.add_handle(transfer.easy)
        return transfer

    def release(self, transfer: Transfer) -> None:
        """Take a transfer out of the loop; an unfinished one loses its connection."""
        del self.active[transfer.easy]
        with self.until_returned:
            self._multi.remove_handle(transfer.easy)
        if not transfer.connected:
            self.caches.distrust(transfer.errand.origin)
        if transfer.paused_at is not None and transfer in self._paused:
            self._paused.remove(transfer)
        self.reserved_bytes -= transfer.reserved
        self._holders.discard(transfer)
        if self._paused:
            self._resume()
        if len(self._free) < self.config.concurrency:
            self._free.append(transfer)
        else:
            transfer.easy.close()

    def release_all(self) -> None:
        """Take every transfer out of the loop; none of those that wait goes on in another's place."""
        self._paused.clear()
        for transfer in list(self.active.values()):
            self.release(transfer)

    def wake_on(self, descriptor: int | None) -> None:
        """Have `wait` end early when something becomes readable here: once each time, and it is left to others."""
        if self._waker is not None:
            self._epoll.unregister(self._waker)
        if descriptor is not None:
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._waker = descriptor

    def wait(self, clock: ActiveClock, wake_s: float | None) -> list[Transfer]:
        """Let the network work until a transfer ends, `wake_s` is over or a tick has passed; those that ended."""
        self._clock = clock
        timeout = _TICK_S if wake_s is None else min(_TICK_S, wake_s)
        if self._timer is not None:
            timeout = min(timeout, max(0.0, self._timer - time.monotonic()))
        self.was_woken = False
        ready = self._epoll.poll(timeout)
        with self.until_returned:
            for descriptor, events in ready:
                if descriptor == self._waker:
                    self.was_woken = True
                    continue
                readable = _CSELECT_IN if events & _READABLE else 0
                writable = _CSELECT_OUT if events & _WRITABLE else 0
                self._multi.socket_action(descriptor, readable | writable)
            if self._timer is not None and time.monotonic() >= self._timer:
                self._timer = None
                self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return self._collect() + self._looked_at(clock.now())

    def reserve(self, transfer: Transfer, size: int) -> bool:
        """Set memory aside for a body of so many bytes; False where it has to wait until others are done: it is paused.

        All bodies of a loop together take `max_buffered_bytes` and `_BODY_BYTES` a transfer; beyond that one body may
        always go on, however large, so that those that hold some do not wait for each other.
        """
        if size <= transfer.reserved:
            return True
        if self._holders <= {transfer} or (not self._paused and self._fits(transfer, size)):
            self._give(transfer, size)
            return True
        self._holders.discard(transfer)
        self._paused.append(transfer)
        transfer.paused_at, transfer.wanted = self._clock.now(), size
        return False

    def _fits(self, transfer: Transfer, size: int) -> bool:
        return self.reserved_bytes + size - transfer.reserved <= self.config.max_buffered_bytes

    def _give(self, transfer: Transfer, size: int) -> None:
        self.reserved_bytes += size - transfer.reserved
        transfer.reserved = size
        transfer.held_since, transfer.held_from = self._clock.now(), transfer.received
        self._holders.add(transfer)

    def _resume(self) -> None:
        while self._paused:
            transfer = self._paused[0]
            if self._holders and not self._fits(transfer, transfer.wanted):
                return
            self._paused.popleft()
            self._give(transfer, transfer.wanted)
            transfer.resume(self._clock.now())

    def close(self) -> None:
        for transfer in self._free:
            transfer.easy.close()
        self._free.clear()
        with self.until_returned:
            self._multi.close()
        self._epoll.close()

    def _collect(self) -> list[Transfer]:
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

    def _looked_at(self, now: float) -> list[Transfer]:
        """Once a tick, those transfers that have been stopped for their slowness; the quiet ones go to `quieted`."""
        self.quieted.clear()
        if now < self._next_tick and self._next_tick - now <= _TICK_S:
            return []
        self._next_tick = now + _TICK_S
        due = [t for t in self.active.values() if t.look_at <= now and not t.ended]  # few of many thousands
        overdue = [t for t in due if t.is_overdue(now)]
        if self._paused:
            # Who holds memory that others wait for has to make use of it.
            overdue += [t for t in self.active.values() if t.reserved and not t.ended and t.hoards(now)]
        self.quieted += [t for t in due if not t.ended and not t.quiet and t.falls_quiet(now)]
        return overdue

    def _watch(self, what: int, descriptor: int, multi: object, data: object) -> None:
        if what == _POLL_REMOVE:
            try:
                self._epoll.unregister(descriptor)
            except OSError:  # libcurl closed it first, and epoll forgot it by itself
                return
            return
        mask = (select.EPOLLIN if what & _POLL_IN else 0) | (select.EPOLLOUT if what & _POLL_OUT else 0)
        try:
            self._epoll.register(descriptor, mask)
        except FileExistsError:
            self._epoll.modify(descriptor, mask)

    def _set_timer(self, timeout_ms: int) -> None:
        self._timer = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000


class Transfer:
    """One easy handle and the one response it is reading."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.config, self.guard, self.resolver = loop, loop.config, loop.guard, loop.resolver
        self.easy = pycurl.Curl()
        self.head = bytearray()  # status lines and headers as they came, interim responses and trailers included
        self._asks_more = self._forgets = False
        self._set_up(self.easy, loop.caches)

    def _set_up(self, easy: pycurl.Curl, caches: Caches) -> None:
        set_ = easy.setopt
        set_(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        set_(pycurl.FOLLOWLOCATION, 0)
        set_(pycurl.PROXY, "")  # the environment's proxy variables are not asked
        set_(pycurl.NOPROXY, "*")
        set_(pycurl.NETRC, pycurl.NETRC_IGNORED)
        set_(pycurl.HTTP09_ALLOWED, 0)
        # HTTP/2 where TLS agrees on it. Cookies, Alt-Svc (and with it HTTP/3) and HSTS are off unless asked for.
        set_(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        set_(pycurl.PATH_AS_IS, 1)
        set_(pycurl.NOSIGNAL, 1)
        set_(pycurl.USERAGENT, self.config.user_agent)
        set_(pycurl.HTTPHEADER, _HEADERS)
        set_(pycurl.HTTP_CONTENT_DECODING, 0)  # undone here, where the decoded bytes are counted
        set_(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        set_(pycurl.DNS_CACHE_TIMEOUT, -1)  # `Caches` sees to it
        set_(pycurl.SHARE, caches.share)
        if self.config.ca_file is not None:
            set_(pycurl.CAINFO, str(self.config.ca_file))
        set_(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        set_(pycurl.PREREQFUNCTION, self._before_request)
        # Ten lines a response: collected without a line of Python. libcurl stops at 300 KB, we look each tick.
        set_(pycurl.HEADERFUNCTION, self.head.extend)
        set_(pycurl.WRITEFUNCTION, self._on_body)

    def begin(self, errand: Errand, now: float) -> None:
        self.errand = errand
        self.started = self.window_start = now
        self.window_bytes = self.seen_bytes = self.dropped_bytes = 0
        self.connected = self.ended = self.quiet = False
        self.address: str | None = None
        self.refused: str | None = None
        self.is_put_off = False  # its address has enough of us already
        self.stopped: tuple[str, str] | None = None  # why we stopped it: outcome and detail
        self.code, self.message = 0, ""
        self.head.clear()
        self.head_bytes = 0  # of `head`, what came before the body; 0: no body yet
        self._headers: Headers = ()
        self._status = self._headers_of = 0
        self._body = bytearray()
        self._pieces = 0
        self._room = errand.max_bytes  # of the body, until it has to be looked at again
        self._beyond = 0  # more room, once it is reserved
        self._declared: int | None = None
        self.reserved = self.wanted = 0
        self.held_since, self.held_from = 0.0, 0  # since when it holds what it reserved, and what it had brought then
        self.paused_at: float | None = None
        self._plain = False  # the body is kept as it comes
        self.decoder: _Decoder | None = None
        self.look_at = now + min(self.loop.patience.seconds, self.config.deadline_s - errand.spent_s)
        self.easy.setopt(pycurl.URL, errand.url)
        if errand.headers or self._asks_more:
            lines = [f"{name}: {value}".encode("latin-1") for name, value in errand.headers]
            self.easy.setopt(pycurl.HTTPHEADER, [*_HEADERS, *lines])
            self._asks_more = bool(lines)
        if self.resolver is not None:
            self._resolve(self.resolver)
        else:
            self._forget_outdated()

    def _forget_outdated(self) -> None:
        outdated = self.loop.caches.outdated(self.errand.origin)
        if outdated or self._forgets:
            self.easy.setopt(pycurl.RESOLVE, [f"-{name}" for name in outdated] or _NOTHING_TO_FORGET)
            self._forgets = bool(outdated)

    def _resolve(self, resolver: Resolver) -> None:
        host, port = host_of(self.errand.url), port_of(self.errand.url)
        addresses = tuple(resolver(host, port))
        if not addresses:
            self.stopped = ("dns", "the resolver knows no address")
        # 0.0.0.0 is never connected to: without an address libcurl would ask the system's resolver after all.
        entry = f"+{host}:{port}:{','.join(addresses) or '0.0.0.0'}"
        self.easy.setopt(pycurl.RESOLVE, [f"-{host}:{port}", entry])
        self.easy.setopt(pycurl.FRESH_CONNECT, 1)  # a name that moved is asked at its new place

    def end(self, code: int, message: str) -> None:
        self.ended, self.code, self.message = True, code, message

    @property
    def received(self) -> int:
        """Bytes so far, headers included, as they came over the wire."""
        return len(self.head) + self.dropped_bytes + (self._taken if self._plain else 0)

    @property
    def _taken(self) -> int:
        return self.errand.max_bytes - self._room - self._beyond

    def _make_room(self, size: int) -> bool:
        """Reserve memory for that many bytes more, and for as many as there are already; False: it is paused."""
        most = self.errand.max_bytes
        if self.decoder is not None:  # what becomes of them is not known
            size = most
        elif self._declared is not None:
            most = min(most, self._declared)
        wanted = min(most, max(2 * (self._taken + size), 2 * _BODY_BYTES))
        if not self.loop.reserve(self, wanted):
            return False
        room = self._room + self._beyond
        self._room = room if wanted == most else wanted - self._taken
        self._beyond = room - self._room
        return True

    def resume(self, now: float) -> None:
        """Go on after a pause, which cost nothing of the deadline."""
        if self.paused_at is not None:
            waited, self.paused_at = now - self.paused_at, None
            self.started, self.window_start = self.started + waited, self.window_start + waited
            try:
                with self.loop.until_returned:
                    self.easy.pause(pycurl.PAUSE_CONT)
            except pycurl.error:
                # Our own write callback refused what libcurl had held back, and has said why; the next look ends it.
                self.stopped = self.stopped or ("reset", "it could not be gone on with")
                self.quiet, self.look_at = False, 0.0

    def hoards(self, now: float) -> bool:
        """Whether it has brought too little of late for what it holds; True when it has been stopped for that."""
        held_s = now - self.held_since
        if self.paused_at is not None or held_s < _HOLD_S:
            return False
        if self.received - self.held_from < _HOLD_BYTES_PER_S * held_s:
            self.stopped, self.ended = ("timeout", "rate"), True
        self.held_since, self.held_from = now, self.received
        return self.ended

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    def let_go(self) -> None:
        """Drop the body."""
        self._body = bytearray()

    def is_overdue(self, now: float) -> bool:
        """Look at the clock; True when this transfer has been stopped for its slowness, or its flood of headers."""
        if self.paused_at is not None:
            return False  # it waits for us
        elapsed = now - self.started
        if self.errand.spent_s + elapsed > self.config.deadline_s:
            self.stopped = ("timeout", "deadline")
        elif not self.connected and elapsed > self.config.connect_timeout_s:
            self.stopped = ("timeout", "connect")
        elif len(self.head) > self.config.max_header_bytes:
            self.stopped = ("too-large", "headers")
        elif self._is_in_pieces():
            self.stopped = ("too-large", "pieces")
        elif now - self.window_start >= self.config.rate_window_s:
            arrived, seconds = self.received - self.window_bytes, now - self.window_start
            if self.connected and arrived < self.config.min_rate_bytes_per_s * seconds:
                self.stopped = ("timeout", "rate")
            self.window_start, self.window_bytes = now, self.received
        self.ended = self.stopped is not None
        if self.quiet:
            ends = self.started + self.config.deadline_s - self.errand.spent_s
            if not self.connected:
                ends = min(ends, self.started + self.config.connect_timeout_s)
            self.look_at = min(ends, self.window_start + self.config.rate_window_s, now + 1.0)
        return self.ended

    def falls_quiet(self, now: float) -> bool:
        """Whether it has brought next to nothing since it was last looked at, and holds next to nothing."""
        received = self.received
        arrived, self.seen_bytes = received - self.seen_bytes, received
        self.quiet = arrived < _QUIET_BYTES and received < _QUIET_BODY_BYTES
        if self.quiet:
            self._limit_to(_QUIET_BODY_BYTES)
        return self.quiet

    def _limit_to(self, size: int) -> None:
        """Let the body take so much without a reservation."""
        if not self.reserved:
            room = self._room + self._beyond
            self._room = min(room, max(0, size - self._taken))
            self._beyond = room - self._room

    def outcome(self) -> tuple[str, str]:
        """What the transfer came to ("ok": a complete response of any status), and a detail."""
        if self.stopped is not None:
            return self.stopped if self.stopped[0] != "discarded" else ("ok", "")
        if self.refused is not None and not self.connected:
            return ("no-contact", "") if self.refused == "no-contact" else ("forbidden-address", self.refused)
        if len(self.head) > self.config.max_header_bytes or "Too large response headers" in self.message:
            return "too-large", "headers"
        if self.code == _TOO_LARGE:  # a header longer, or more headers, than libcurl takes
            return "too-large", "headers"
        if self.code:
            return _CURL_OUTCOMES.get(self.code, "connect"), f"curl {self.code}: {self.message}"
        if not _HEAD_END.search(self.head, 0, self.head_bytes or len(self.head)):
            return "truncated", "headers end early"
        if self.status < 100:
            return "bad-response", f"status {self.status}"
        if self.decoder is not None and self.decoder.members > _MEMBERS:
            return "too-large", "body"
        if self.decoder is not None and not self.decoder.complete:
            return "truncated", "encoded body ends early"
        return "ok", ""

    @property
    def status(self) -> int:
        """The last response's status; 0 before there is one."""
        self._read_head()
        return self._status

    def headers(self) -> Headers:
        """The last response's headers, trailers at their end: decoded as Latin-1, in order, duplicates kept."""
        self._read_head()
        return self._headers

    def _read_head(self) -> None:
        if self._headers_of == len(self.head):
            return
        self._headers_of = len(self.head)
        text = self.head.decode("latin-1")
        plain = _PLAIN_LINE.findall(text)
        odd = len(plain) != text.count("\n") - 2 or " \r" in text or "\t\r" in text
        if not odd and (status := _STATUS.match(text)):  # as nearly all responses are
            self._status, self._headers = int(status[1]), tuple(plain)
        else:
            self._read_lines(text)

    def _read_lines(self, text: str) -> None:
        pairs: list[tuple[str, str]] = []
        at = 0
        for line in text.split("\n"):
            # An interim response (1xx) came before; a trailer may be called what it likes.
            if line.startswith("HTTP/") and (status := _STATUS.match(line)) and not 0 < self.head_bytes <= at:
                pairs.clear()
                self._status = int(status[1])
            elif line[:1] in (" ", "\t") and pairs:  # a folded line (RFC 9112, 5.2)
                pairs[-1] = pairs[-1][0], f"{pairs[-1][1]} {line.strip()}".strip()
            else:
                name, colon, value = line.partition(":")
                if colon:
                    pairs.append((name.strip(), value.strip()))
            at += len(line) + 1
        self._headers = tuple(pairs)

    def location(self) -> str | None:
        found = _LOCATION.findall(self.head)
        if not found or not any(name.lower() == "location" for name, _ in self.headers()):
            return None
        try:
            return str(found[-1].strip(), "utf-8")
        except UnicodeDecodeError:
            return str(found[-1].strip(), "latin-1")

    # ── libcurl's callbacks: an exception in one is an aborted transfer, never a passed check ────────────────────
    def _open_socket(self, purpose: int, address: tuple[int, int, int, tuple[str, int]]) -> object:
        family, kind, protocol, endpoint = address
        if self._refuses(endpoint[0], endpoint[1]):
            return pycurl.SOCKET_BAD
        if not self.errand.may_open(endpoint_text(_text(endpoint[0]), endpoint[1])):
            self.is_put_off = True
            return pycurl.SOCKET_BAD
        return _Socket(family, kind, protocol)

    def _before_request(self, ip: str, local_ip: str, port: int, local_port: int) -> int:
        # Also called on a reused connection, a multiplexed one included: what was checked at its opening is checked
        # again.
        if self._refuses(ip, port):
            return int(pycurl.PREREQFUNC_ABORT)
        self.connected = True
        self.address = endpoint_text(ip, port)
        self.errand.connected(self.address)
        return int(pycurl.PREREQFUNC_OK)

    def _refuses(self, ip: str | bytes, port: int) -> bool:
        why = self.guard(_text(ip), port)
        if why is not None:
            self.refused = why
        return why is not None

    def _on_body(self, data: bytes) -> int | None:
        size = len(data)
        self._pieces += 1
        if self._pieces == _PIECES and self._is_in_pieces():
            self.stopped = ("too-large", "pieces")
            return -1
        if self._plain and size <= self._room:
            self._room -= size
            self._body += data
            return None
        if not self.head_bytes:
            self._begin_body()
        needs_room = self.stopped is None and self._beyond and (size > self._room or self.decoder is not None)
        if needs_room and not self._make_room(size):
            return _PAUSE  # libcurl will hand over the same bytes again
        if self.stopped is None:
            self._take(data)
        return None if self.stopped is None else -1

    def _is_in_pieces(self) -> bool:
        """Whether it is too much not in bytes, but in the work of taking them one by one."""
        return self._pieces >= _PIECES and self.received < _PIECE_BYTES * self._pieces

    def _begin_body(self) -> None:
        self.head_bytes = len(self.head)
        if self.status not in COMPLETE:
            return
        if self.head_bytes > self.config.max_header_bytes:
            self.stopped = ("too-large", "headers")
            return
        self._limit_to(_QUIET_BODY_BYTES if self.quiet else _BODY_BYTES)
        encoding = length = ""
        for name, value in self._headers:
            key = name.lower()
            if key == "content-length":
                length = value
            elif key == "content-encoding":
                encoding = value.strip().lower()
        if encoding not in ("", "identity"):
            self.decoder = _Decoder.of(encoding.encode("latin-1"))
            if self.decoder is None:
                self.stopped = ("bad-encoding", encoding[:40])
            return
        self._declared = int(length[:20]) if length.isascii() and length.isdigit() else None
        if self._declared is not None and self._declared > self.errand.max_bytes and not self.errand.keep_beginning:
            self.stopped = ("too-large", "body")
        self._plain = self.stopped is None

    def _take(self, data: bytes) -> None:
        if self.status not in COMPLETE:
            self.dropped_bytes += len(data)
            if self.dropped_bytes > _DISCARDED_BODY_BYTES:
                self.stopped = ("discarded", "")
            return
        if self.decoder is not None:
            self.dropped_bytes += len(data)
            if self.dropped_bytes > self.errand.max_bytes or self.decoder.members > _MEMBERS:
                self.stopped = ("too-large", "body")  # encoded to more than it decodes to, or of nothing but beginnings
                return
            try:
                data = self.decoder.decode(data, self._room + 1)
            except zlib.error as error:
                self.stopped = ("bad-encoding", str(error)[:80])
                return
        if len(data) > self._room:
            self.stopped = ("too-large", "body")
        data = data[: self._room]
        self._body += data
        self._room -= len(data)


# A header without surprises: a token, a colon, printable ASCII. Nothing in it can match in two ways.
_PLAIN_LINE = re.compile(r"\n([!-9;-~]++):[ \t]*+([\t -~]*+)\r")
_HEAD_END = re.compile(rb"\n\r?\n\Z")
_TOO_LARGE = 100  # CURLE_TOO_LARGE
_STATUS = re.compile(r"HTTP/[0-9.]+ +([0-9]{3})(?![0-9])")
_LOCATION = re.compile(rb"^[Ll][Oo][Cc][Aa][Tt][Ii][Oo][Nn][ \t]*:([^\r\n]*)", re.MULTILINE)


def _host_and_port(origin: str) -> str:
    scheme, _, host = origin.partition("://")
    return host if ":" in host else f"{host}:{443 if scheme == 'https' else 80}"


def _text(ip: str | bytes) -> str:
    return ip if isinstance(ip, str) else ip.decode("latin-1")


class _Socket(socket.socket):
    """A socket of which libcurl takes a duplicate: this one closes as soon as it is let go."""

    def __del__(self) -> None:
        self.close()


class _Decoder:
    """gzip and deflate, with no more output than is asked for."""

    def __init__(self, encoding: bytes) -> None:
        self._encoding = encoding
        self._inflate: zlib._Decompress | None = None
        self.members = 0

    @classmethod
    def of(cls, encoding: bytes) -> _Decoder | None:
        return cls(encoding) if encoding in (b"gzip", b"x-gzip", b"deflate") else None

    @property
    def complete(self) -> bool:
        return self._inflate is not None and self._inflate.eof

    def decode(self, data: bytes, limit: int) -> bytes:
        """The next bytes, at most `limit` of them: a caller that gets so many has had enough."""
        out = bytearray()
        while data and len(out) < limit and self.members <= _MEMBERS:
            if self._inflate is None:
                # "deflate" is zlib's format by the standard and raw in some servers; the first byte tells.
                raw = self._encoding == b"deflate" and data[0] & 0x0F != 8
                self._inflate = zlib.decompressobj(-15 if raw else 47)
            elif self._inflate.eof:
                if self._encoding == b"deflate" or data[:1] != b"\x1f":
                    break  # rubbish after the end: what counts is there
                self._inflate = zlib.decompressobj(47)  # the next member of a gzip file
                self.members += 1
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
}
