"""2,000 slow origins at once do not reduce a fast origin's rate by more than a fifth; 10,000 transfers are in flight.

    make prove PROOF=slow_origins            5 rounds
    ROUNDS=9 make prove PROOF=slow_origins   more of them

Two server processes on loopback. One is the fast origin (127.4.0.1). The other is 10,000 origins (127.3.x.y), of which
every second says nothing for a minute and the others drip a byte a second, robots.txt included. Per setting and round
the same URLs of the fast origin are asked twice, in turns: alone, and with one URL each of 2,000 slow origins, either
all before the fast ones, or between the first of them, or the fast ones not before all the slow ones are in flight. The
rate counts from the first request that may be made of the fast origin to its last answer, so what it costs to open
2,000 connections meanwhile is in it. The loss is the median of the rounds'. Settings: the fetcher with its own
defaults, and with places for all at once; and the `Crawler`, which asks each origin for its robots.txt first, under a
claim, and judges each URL by it. Last, one fetch of 10,000 slow origins that do answer, after 15 s, with the fast
origin's URLs behind them.
"""

from __future__ import annotations

import heapq
import itertools
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from curation.crawler import Crawler
from curation.fetch import FetchConfig, Fetched, Fetcher, Request, open_gate
from curation.hosts import FileClaims, OriginDocuments
from policy.signals import robots
from tests.builders import ROOT

RESULTS = ROOT / "docs" / "proofs.md"
FAST = "127.4.0.1"
SLOW_ORIGINS = 2_000
MOST_ORIGINS = 10_000
FAST_URLS = 40_000
ALLOWED_LOSS = 0.20
BODY = b"x" * 2_000
DELAY_S = {"hangs": 60.0, "answers": 15.0}
Order = Literal["slow ones first", "slow ones between", "all slow ones in flight"]
ORDERS: tuple[Order, ...] = ("slow ones first", "slow ones between", "all slow ones in flight")
SETTINGS: tuple[tuple[str, dict[str, int]], ...] = (
    ("default places", {}),
    ("places for all", {"concurrency": 12_000, "max_open": 12_000}),
    ("crawler, default places", {}),
)
RULES = robots.RobotsRules(("museumbot",), 7, "deny", 30, 500_000)


def slow_addresses(count: int) -> Iterator[str]:
    """127.3.x.y"""
    return (f"127.3.{i // 250}.{i % 250 + 1}" for i in range(count))


def main() -> int:
    """Measure, and publish; 1 where the fast origin lost more than a fifth."""
    if sys.argv[1:2] == ["--serve"]:
        return serve(fast=sys.argv[2] == "fast")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rounds = int(os.environ.get("ROUNDS", "5"))
    told, worst = [], 0.0
    with Server("fast") as fast, Server("slow") as slow:
        for (name, places), order in itertools.product(SETTINGS, ORDERS):
            config = fetch_config(fast, slow, SLOW_ORIGINS, **places)
            through_crawler = name.startswith("crawler")
            measure(config, fast, slow, 0, order, through_crawler=through_crawler)  # warm
            alone, beside = [], []
            slow.most()  # from here
            for _ in range(rounds):
                alone.append(measure(config, fast, slow, 0, order, through_crawler=through_crawler))
                beside.append(measure(config, fast, slow, SLOW_ORIGINS, order, through_crawler=through_crawler))
            # Each round's two runs stand side by side in time: what else the machine does then befalls both.
            loss = 1 - statistics.median(a.wall_s / b.wall_s for a, b in zip(alone, beside, strict=True))
            worst = max(worst, loss)
            told.append(
                f"{name} (concurrency {config.concurrency:,}, max_open {config.max_open:,}), {order}: alone "
                f"{_rate(alone)}, beside {SLOW_ORIGINS:,} slow origins {_rate(beside)}: {loss:.0%} less; "
                f"CPU a URL {_cpu(alone)} and {_cpu(beside)} ms; in flight at slow origins at most {slow.most():,}; "
                f"the first fast URL took {_first_ms(alone)} and {_first_ms(beside)} ms"
            )
            sys.stderr.write(told[-1] + "\n")
        many, most = ten_thousand(fast, slow)
    told.append(many)
    failed = worst > ALLOWED_LOSS or most < MOST_ORIGINS
    text = (
        f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: slow_origins\n{FAST_URLS:,} URLs of one fast origin, {rounds} "
        f"rounds, medians, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n"
        + "".join(f"* {line}.\n" for line in told)
        + (f"FAILED: more than {ALLOWED_LOSS:.0%} less, or less than {MOST_ORIGINS:,} in flight.\n" if failed else "")
    )
    sys.stdout.write(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text)
    return 1 if failed else 0


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Measured:
    """Of the fast origin's URLs: until the first was there, until all were, and the CPU time of that."""

    first_s: float
    wall_s: float
    cpu_s: float


def fetch_config(fast: Server, slow: Server, origins: int, **places: int) -> FetchConfig:
    endpoints = (f"{FAST}:{fast.port}", *(f"{address}:{slow.port}" for address in slow_addresses(origins)))
    return FetchConfig(
        allow_addresses=endpoints,
        per_origin_concurrency=6,
        connect_timeout_s=30.0,
        deadline_s=60.0,
        rate_window_s=60.0,  # so that the drips stay
        retries=0,
        max_pending=40_000,
        **places,  # type: ignore[arg-type]  # they are counts
    )


def measure(
    config: FetchConfig, fast: Server, slow: Server, origins: int, order: Order, *, through_crawler: bool
) -> Measured:
    """How long the fast origin's URLs take with so many slow origins."""
    began = cpu = 0.0

    def requests() -> Iterator[Request | None]:
        nonlocal began, cpu
        slow_ones = [Request(f"http://{address}:{slow.port}/mixed", "image") for address in slow_addresses(origins)]
        fast_ones = [Request(f"http://{FAST}:{fast.port}/{i}", "image") for i in range(FAST_URLS)]
        began, cpu = time.monotonic(), time.process_time()
        if order == "slow ones between":
            yield from itertools.chain.from_iterable(zip(slow_ones, fast_ones, strict=False))  # as many of each
            yield from fast_ones[len(slow_ones) :]
            return
        yield from slow_ones
        while order == "all slow ones in flight" and slow.open_now() < origins:
            yield None
        began, cpu = (began, cpu) if order == "slow ones first" else (time.monotonic(), time.process_time())
        yield from fast_ones

    fetcher = Fetcher(config)
    done, first_s = 0, 0.0
    with tempfile.TemporaryDirectory() as claims:
        stream = (
            crawler(fetcher, Path(claims)).fetch_all(requests())
            if through_crawler
            else fetcher.fetch_all(requests(), gate=open_gate)
        )
        for fetched in stream:
            done += _is_fast(fetched)
            first_s = first_s or time.monotonic() - began
            if done == FAST_URLS:
                break
        measured = Measured(first_s, time.monotonic() - began, time.process_time() - cpu)
        stream.close()  # type: ignore[attr-defined]  # it is a generator
    fetcher.close()
    while slow.open_now():
        time.sleep(0.01)
    return measured


def _is_fast(fetched: Fetched) -> bool:
    if f"//{FAST}" not in fetched.url:
        return False
    if not fetched.ok:
        raise AssertionError(f"the fast origin failed: {fetched.outcome} {fetched.detail}")
    return True


def crawler(fetcher: Fetcher, claims: Path) -> Crawler:
    """The gate of the origins' robots.txt before the fetcher, as a crawl has it."""

    def gate(url: str) -> str | None:
        document = stream.known[url[: url.index("/", 8)]].get("robots")
        judged = robots.may_fetch(document, url, "museumbot", datetime.now(UTC), RULES)
        return judged.reason.code if judged.verdict is not None and judged.verdict.name != "ALLOW" else None

    origins = OriginDocuments(fetcher, claims=FileClaims(claims))
    stream = Crawler(fetcher, origins, gate=gate, kept_out=open_gate, now=lambda: datetime.now(UTC), max_pending=40_000)
    return stream


def ten_thousand(fast: Server, slow: Server) -> tuple[str, int]:
    """10,000 origins that answer after a while, all at once, and the fast one behind them."""
    slow.most()  # from here
    config = fetch_config(fast, slow, MOST_ORIGINS, concurrency=12_000, max_open=12_000)
    fetcher = Fetcher(config)
    requests = itertools.chain(
        (Request(f"http://{address}:{slow.port}/answers", "image") for address in slow_addresses(MOST_ORIGINS)),
        (Request(f"http://{FAST}:{fast.port}/{i}", "image") for i in range(FAST_URLS)),
    )
    before, began, cpu = _rss_mb(), time.monotonic(), time.process_time()
    ok, fast_left, fast_s = 0, FAST_URLS, 0.0
    for fetched in fetcher.fetch_all(requests, gate=open_gate):
        ok += fetched.ok
        fast_left -= f"//{FAST}" in fetched.url
        if not fast_left and not fast_s:
            fast_s = time.monotonic() - began
    took, spent = time.monotonic() - began, time.process_time() - cpu
    fetcher.close()
    most = slow.most()
    if ok != MOST_ORIGINS + FAST_URLS:
        raise AssertionError(f"{MOST_ORIGINS + FAST_URLS - ok} URLs failed")
    return (
        f"10,000 origins that answer after {DELAY_S['answers']:.0f} s: {most:,} in flight at once, all ok after "
        f"{took:.1f} s ({spent:.1f} s CPU), the {FAST_URLS:,} of the fast origin after {fast_s:.1f} s, memory of the "
        f"process {before} to {_rss_mb()} MB",
        most,
    )


def _first_ms(found: list[Measured]) -> str:
    return f"{1000 * statistics.median(one.first_s for one in found):,.0f}"


def _rate(found: list[Measured]) -> str:
    rates = sorted(FAST_URLS / one.wall_s for one in found)
    return f"{statistics.median(rates):,.0f} URLs/s ({rates[0]:,.0f} to {rates[-1]:,.0f})"


def _cpu(found: list[Measured]) -> str:
    return f"{1000 * statistics.median(one.cpu_s / FAST_URLS for one in found):.3f}"


def _rss_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


# ── the servers ──────────────────────────────────────────────────────────────────────────────────────────────────
class Server:
    """A server process; `most` says how many connections it held at once since that was asked last."""

    def __init__(self, kind: Literal["fast", "slow"]) -> None:
        command = [sys.executable, "-m", "tests.proofs.slow_origins", "--serve", kind]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, bufsize=1
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def most(self) -> int:
        return self._told("most")

    def open_now(self) -> int:
        return self._told("now")

    def _told(self, what: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        return int(self._line())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def serve(*, fast: bool) -> int:
    """Answer at every address of 127/8 until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
    listener.setblocking(False)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    (_Fast if fast else _Slow)(listener).run()
    return 0


class _Fast:
    """Answers each request at once, on connections that stay."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.epoll = select.epoll()
        self.epoll.register(listener, select.EPOLLIN)
        self.epoll.register(sys.stdin, select.EPOLLIN)
        self.open: dict[int, socket.socket] = {}
        self.most = 0
        self.due: list[tuple[float, int, socket.socket, bool]] = []
        self.turns = 0

    def run(self) -> None:
        while True:
            wait = max(0.0, self.due[0][0] - time.monotonic()) if self.due else 1.0
            for descriptor, _ in self.epoll.poll(wait):
                if descriptor == self.listener.fileno():
                    self.accept()
                elif descriptor == sys.stdin.fileno():
                    if not (asked := sys.stdin.readline()):
                        return
                    now = len(self.open)
                    if asked == "most\n":
                        now, self.most = self.most, now
                    sys.stdout.write(f"{now}\n")
                    sys.stdout.flush()
                else:
                    self.read(self.open[descriptor])
            while self.due and self.due[0][0] <= time.monotonic():
                self.act(*heapq.heappop(self.due)[2:])

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open[connection.fileno()] = connection
            self.most = max(self.most, len(self.open))
            self.epoll.register(connection, select.EPOLLIN)

    def read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.close(connection)
        else:
            self.answer(connection, data)

    def close(self, connection: socket.socket) -> None:
        del self.open[connection.fileno()]
        connection.close()

    def answer(self, connection: socket.socket, data: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + BODY)

    def put_off(self, connection: socket.socket, seconds: float, drips: bool) -> None:
        self.turns += 1
        heapq.heappush(self.due, (time.monotonic() + seconds, self.turns, connection, drips))

    def act(self, connection: socket.socket, drips: bool) -> None:
        """Do what was put off until now."""


class _Slow(_Fast):
    """Answers late, or a byte a second."""

    def answer(self, connection: socket.socket, data: bytes) -> None:
        drips = not data.startswith(b"GET /answers") and int(connection.getsockname()[0].rpartition(".")[2]) % 2 == 0
        if drips:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        wait = 1.0 if drips else DELAY_S["answers" if data.startswith(b"GET /answers") else "hangs"]
        self.put_off(connection, wait, drips)

    def act(self, connection: socket.socket, drips: bool) -> None:
        if connection.fileno() < 0:
            return
        try:
            if drips:
                connection.sendall(b"x")
                self.put_off(connection, 1.0, drips)
            else:
                super().answer(connection, b"")
        except OSError:  # the client has gone; its connection is closed when that is read
            return


if __name__ == "__main__":
    sys.exit(main())
