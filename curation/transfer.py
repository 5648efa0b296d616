"""One libcurl loop, and the one response that each of its transfers reads, within bounds.

Deadlines and rates are kept here and not by libcurl, on a clock that stands still while the consumer works.
"""

from __future__ import annotations

import select
import socket
import time
import zlib
from collections.abc import Callable, Sequence
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
_TICK_S = 0.2


class Errand(Protocol):
    """What a transfer is sent for: where, how much of it, how much of its deadline is spent already."""

    url: str
    max_bytes: int
    keep_beginning: bool
    spent_s: float


class ActiveClock:
    """Monotonic seconds without the time that the consumer held the iterator."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = 0.0

    def now(self) -> float:
        return time.monotonic() - self._held

    def hold(self, seconds: float) -> None:
        self._held += seconds


class Loop:
    """libcurl's multi interface on epoll (no limit on descriptors), with its easy handles kept for reuse."""

    def __init__(self, config: FetchConfig, guard: Guard, resolver: Resolver | None) -> None:
        self.config, self.guard, self.resolver = config, guard, resolver
        self.active: dict[pycurl.Curl, Transfer] = {}
        self._free: list[Transfer] = []
        self._epoll = select.epoll()
        self._timer: float | None = None
        self._next_tick = 0.0
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 4 * self.config.concurrency)

    def start(self, errand: Errand, now: float) -> Transfer:
        transfer = self._free.pop() if self._free else Transfer(self.config, self.guard, self.resolver)
        transfer.begin(errand, now)
        self.active[transfer.easy] = transfer
        self._multi.add_handle(transfer.easy)
        return transfer

    def release(self, transfer: Transfer) -> None:
        """Take a transfer out of the loop; an unfinished one loses its connection."""
        del self.active[transfer.easy]
        self._multi.remove_handle(transfer.easy)
        if len(self._free) < self.config.concurrency:
            self._free.append(transfer)
        else:
            transfer.easy.close()

    def wait(self, clock: ActiveClock, wake_s: float | None) -> list[Transfer]:
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

    def _overdue(self, now: float) -> list[Transfer]:
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


class Transfer:
    """One easy handle and the one response it is reading."""

    def __init__(self, config: FetchConfig, guard: Guard, resolver: Resolver | None) -> None:
        self.config, self.guard, self.resolver = config, guard, resolver
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

    def begin(self, errand: Errand, now: float) -> None:
        self.errand = errand
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
        self.easy.setopt(pycurl.URL, errand.url)
        if self.resolver is not None:
            self._resolve(self.resolver)

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

    def is_overdue(self, now: float) -> bool:
        """Look at the clock; True when this transfer has been stopped for its slowness."""
        elapsed = now - self.started
        if self.errand.spent_s + elapsed > self.config.deadline_s:
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
        why = self.guard(text, port)
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
        if self.status not in COMPLETE:
            return
        if encoding not in (b"", b"identity"):
            self.decoder = _Decoder.of(encoding)
            if self.decoder is None:
                self.stopped = ("bad-encoding", encoding.decode("latin-1")[:40])
            return
        declared = _last(self.raw_headers, b"content-length") or b""
        if declared.isdigit() and int(declared[:20]) > self.errand.max_bytes and not self.errand.keep_beginning:
            self.stopped = ("too-large", "body")

    def _take(self, data: bytes) -> None:
        if self.status not in COMPLETE:
            if self.received > _DISCARDED_BODY_BYTES + self.header_bytes:
                self.stopped = ("discarded", "")
            return
        room = self.errand.max_bytes - len(self.body)
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
