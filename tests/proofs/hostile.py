"""A crawl of a server that means harm in every way that tests/hostile.py knows, an honest origin in its midst.

    make prove PROOF=hostile

The server is a process of its own with an origin a trick, in real sizes: gigabytes in a gzip, pictures of 900
megapixels, floods without end. Each trick is asked for several times, between 2,000 URLs of an honest origin, with the
limits that `custody init` sets but a shorter deadline. Pages go through `read_page`, pictures through a `DecodePool`.
Every URL has to end once and truthfully, the honest ones well, all of it within a few deadlines, and the process with
its decode workers within 512 MB (their proportional set sizes, added up, looked at every twentieth of a second).
Pages that cost a reader without limits its memory or minutes are read in processes with limits; their price is told.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from curation.decode_pool import DecodePool
from curation.fetch import FetchConfig, Fetched, Fetcher, Kind, Request, open_gate
from curation.images import DecodeError
from curation.pages import read_page
from tests.builders import ROOT
from tests.hostile import GOOD_PAGE, Elsewhere, Site, Trick, costly_pages

RESULTS = ROOT / "docs" / "proofs.md"
TIMES = 3  # each trick is asked for
GOOD_URLS, GOOD_LARGE_URLS = 2_000, 30
DEADLINE_S = 15.0
MEMORY_MB = 512
PAGE_MB, PAGE_CPU_S = 1_000, 20  # at which the reading of a costly page is stopped


def main() -> int:
    """Crawl, judge, publish; 1 where something was not as it should be."""
    if sys.argv[1:2] == ["--read"]:
        return read_one()
    failures: list[str] = []
    with Elsewhere(full=True, costly=True) as server:
        crawl = Crawl(server)
        with Watch(exclude={server.pid}) as watch:
            crawl.run()
    failures += crawl.judge()
    if watch.most_mb >= MEMORY_MB:
        failures.append(f"memory: {watch.most_mb} MB")
    prices = [price(crawl.bodies[name]) for name in crawl.bodies]
    for name, paid in zip(crawl.bodies, prices, strict=True):
        if paid.stopped or paid.mb > MEMORY_MB:
            failures.append(f"the page {name!r} ({len(crawl.bodies[name]) / 1000:,.0f} KB) costs its reader {paid}")
    ends = ", ".join(f"{outcome} {n}" for outcome, n in Counter(f.outcome for f in crawl.ends).most_common())
    decoded = ", ".join(f"{code} {n}" for code, n in Counter(crawl.decoded.values()).most_common())
    text = (
        f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: hostile\n"
        f"{len(server.found)} tricks, each {TIMES} times, between {GOOD_URLS + GOOD_LARGE_URLS:,} URLs of an honest "
        f"origin; deadline {DEADLINE_S:.0f} s, concurrency {crawl.config.concurrency}: all ended after "
        f"{crawl.seconds:.0f} s ({crawl.seconds / DEADLINE_S:.1f} deadlines), the honest ones after "
        f"{crawl.good_after_s:.0f} s. Memory at most {watch.most_mb} MB in all ({watch.main_mb} MB the process, "
        f"{watch.worker_mb} MB the largest decode worker, by RSS). Outcomes: {ends}. Pictures: {decoded}. "
        f"Longest reading of a page in the process: {crawl.longest_page_s:.1f} s. Failures: {len(failures)}.\n"
    )
    text += "".join(f"* {line[:300]}\n" for line in failures[:40])
    sys.stdout.write(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text)
    return 1 if failures else 0


# ── the crawl ────────────────────────────────────────────────────────────────────────────────────────────────────
class Crawl:
    """One `fetch_all` over every trick and the honest origin, with what became of it."""

    def __init__(self, server: Elsewhere) -> None:
        self.costly = {trick.name for trick in costly_pages(full=True)}
        self.sites: dict[str, Site] = {}
        requests: list[Request] = []
        for number in range(TIMES):
            for site in server.sites:
                url = f"{site.url}?{number}"
                self.sites[url] = site
                requests.append(Request(url, site.trick.kind))
        good = server.honest.endpoint
        step = max(1, len(requests) // GOOD_LARGE_URLS)
        for i in range(GOOD_LARGE_URLS):
            requests.insert(i * (step + 1), Request(f"http://{good}/large-{i}", "image"))
        every = GOOD_URLS // len(requests) + 1
        mixed, number = [], 0
        for request in requests:
            mixed.append(request)
            for _ in range(every):
                if number < GOOD_URLS:
                    kind: Kind = "image" if number % 4 else "page"
                    mixed.append(Request(f"http://{good}/{kind}-{number}", kind))
                    number += 1
        self.requests = mixed
        self.config = FetchConfig(
            allow_addresses=tuple(site.endpoint for site in (*server.sites, server.honest)),
            concurrency=64,
            per_origin_concurrency=6,
            connect_timeout_s=5.0,
            deadline_s=DEADLINE_S,
            min_rate_bytes_per_s=200.0,
            rate_window_s=5.0,
            max_redirects=5,
            max_page_bytes=5_000_000,
            max_image_bytes=20_000_000,
            retries=0,
        )
        self.ends: list[Fetched] = []
        self.good: list[Fetched] = []
        self.decoded: dict[str, str] = {}
        self.bodies: dict[str, bytes] = {}  # of the costly pages
        self.seconds = self.good_after_s = self.longest_page_s = 0.0
        self.wrong: list[str] = []

    def run(self) -> None:
        fetcher = Fetcher(self.config)
        began = time.monotonic()
        with DecodePool(2) as pool:
            for fetched in fetcher.fetch_all(self.requests, gate=open_gate):
                self.take(fetched, pool, time.monotonic() - began)
                self.note(pool.ready())
            self.seconds = time.monotonic() - began
            self.note(pool.drain())
        fetcher.close()

    def take(self, fetched: Fetched, pool: DecodePool, after_s: float) -> None:
        """Keep how it ended, and hand on what came."""
        site = self.sites.get(fetched.url)
        trick = site.trick if site is not None else None
        if trick is None:
            self.good_after_s = after_s
            self.check_good(fetched)
        elif fetched.outcome not in trick.outcomes:
            self.wrong.append(f"{trick.name}: {fetched.outcome} {fetched.detail}")
        if fetched.ok:
            self.hand_on(fetched, trick, pool)
        # What is kept of an end is not its body: that would be our own flood.
        self.ends.append(Fetched(fetched.request, fetched.outcome, fetched.status, detail=fetched.detail))

    def check_good(self, fetched: Fetched) -> None:
        if not fetched.ok:
            self.wrong.append(f"honest {fetched.url}: {fetched.outcome} {fetched.detail}")
        elif fetched.request.kind == "page" and fetched.body != GOOD_PAGE:
            self.wrong.append(f"honest {fetched.url}: another body")

    def hand_on(self, fetched: Fetched, trick: Trick | None, pool: DecodePool) -> None:
        if fetched.request.kind == "image":
            pool.submit(fetched.url, fetched.body)
        elif trick is not None and trick.name in self.costly:
            self.bodies[trick.name] = fetched.body
        else:
            began = time.process_time()
            read_page(fetched.body, fetched.final_url or fetched.url, fetched.header("content-type"))
            self.longest_page_s = max(self.longest_page_s, time.process_time() - began)

    def note(self, results: Iterable[tuple[object, object]]) -> None:
        for tag, result in results:
            self.decoded[str(tag)] = result.code if isinstance(result, DecodeError) else "shaped"

    def judge(self) -> list[str]:
        """What is not as it should be."""
        wrong = self.wrong
        if sorted(f.url for f in self.ends) != sorted(r.url for r in self.requests):
            wrong.append(f"{len(self.requests)} URLs, {len(self.ends)} ends")
        for url, came_to in self.decoded.items():
            if url in self.sites:
                trick = self.sites[url].trick
                if trick.decoded and came_to not in trick.decoded:
                    wrong.append(f"{trick.name}: decoded as {came_to}")
            elif came_to != "shaped":
                wrong.append(f"honest {url}: decoded as {came_to}")
        # All tricks at an origin of their own stand side by side, 64 at a time, of which half wait for a deadline.
        if self.seconds > 20 * DEADLINE_S:
            wrong.append(f"it took {self.seconds:.0f} s")
        return wrong


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(slots=True)
class Watch:
    """The memory of this process and of those it has started."""

    exclude: set[int]
    most_mb: int = 0
    main_mb: int = 0
    worker_mb: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        main = os.getpid()
        while not self._stopping.wait(0.05):
            children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
            workers = [int(child) for child in children if int(child) not in self.exclude]
            self.most_mb = max(self.most_mb, sum(map(_pss_mb, (main, *workers))))
            self.main_mb = max(self.main_mb, _rss_mb(main))
            self.worker_mb = max(self.worker_mb, *(_rss_mb(worker) for worker in workers), 0)


def _rss_mb(pid: int) -> int:
    with suppress(OSError):  # it has ended
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() >> 20
    return 0


def _pss_mb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) >> 10
    return 0


@dataclass(frozen=True, slots=True)
class Price:
    """Of reading one page; `stopped`: it did not come to an end within its limits."""

    cpu_s: float
    mb: int
    stopped: bool

    def __str__(self) -> str:
        return f"{self.cpu_s:.1f} s and {self.mb} MB" + (" and more" if self.stopped else "")


def price(body: bytes) -> Price:
    """Read a page in a process with limits, and tell what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tests.proofs.hostile", "--read"]
    done = subprocess.run(command, input=body, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode == 0:
        told = json.loads(done.stdout)
        return Price(told["cpu_s"], told["mb"], False)
    return Price(cpu_s, PAGE_MB if cpu_s < PAGE_CPU_S else 0, True)


def read_one() -> int:
    """In the child: read the page on stdin within limits, and say what it took."""
    body = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_AS, (PAGE_MB << 20, PAGE_MB << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (PAGE_CPU_S, PAGE_CPU_S))
    began = time.process_time()
    read_page(body, "http://a.example/")
    # Not ru_maxrss, which remembers the process that this one was forked from.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_mb = int(status["VmHWM"].split()[0]) >> 10
    sys.stdout.write(json.dumps({"cpu_s": time.process_time() - began, "mb": peak_mb}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
