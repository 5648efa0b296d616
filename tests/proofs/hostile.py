"""A crawl of a server that means harm in every way that tests/hostile.py knows, an honest origin in its midst.

    make prove PROOF=hostile

The server is a process of its own with an origin a trick, in real sizes: gigabytes in a gzip, pictures of 900
megapixels, floods without end, pages that are gigabytes once parsed. As a crawl does, pages are asked for first and go
through a `PagePool`, then pictures, through a `DecodePool`; each trick several times, between 1,000 URLs of an honest
origin, with the limits that `custody init` sets but a shorter deadline. Every URL has to end once and truthfully, the
honest ones well, all of it within a few deadlines, and the process with its workers within 512 MB: proportional set
sizes and the files in memory that they share, added up, looked at every twentieth of a second.
"""

from __future__ import annotations

import os
import random
import resource
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
from curation.page_pool import FAILED, PageError, PagePool
from tests.builders import ROOT
from tests.hostile import GOOD_PAGE, Elsewhere

RESULTS = ROOT / "docs" / "proofs.md"
TIMES = 3  # each trick is asked for
GOOD_URLS, GOOD_LARGE_URLS = 1_000, 30
DEADLINE_S = 15.0
MOST_DEADLINES = 12  # in which all of a kind have to have ended
MEMORY_MB = 512
KINDS: tuple[Kind, ...] = ("page", "image")
MADE = {"page": "read", "image": "shaped"}


def main() -> int:
    """Crawl, judge, publish; 1 where something was not as it should be."""
    failures: list[str] = []
    lines = []
    with Elsewhere(full=True, costly=True) as server:
        for kind in KINDS:
            crawl = Crawl(server, kind)
            with Watch(exclude={server.pid}) as watch:
                crawl.run()
            failures += crawl.judge()
            if watch.most_mb >= MEMORY_MB:
                failures.append(f"{kind}s: {watch.most_mb} MB of memory")
            lines.append(f"* {crawl.told()}. {watch.told()}.\n")
    text = (
        f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: hostile\n"
        f"{len(server.found)} tricks, deadline {DEADLINE_S:.0f} s, load average {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores. Failures: {len(failures)}.\n"
    )
    text += "".join(lines) + "".join(f"* FAILED: {line[:300]}\n" for line in failures[:40])
    sys.stdout.write(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text)
    return 1 if failures else 0


# ── the crawl ────────────────────────────────────────────────────────────────────────────────────────────────────
class Crawl:
    """One `fetch_all` over all tricks of a kind and the honest origin, with what became of it."""

    def __init__(self, server: Elsewhere, kind: Kind) -> None:
        self.kind = kind
        self.sites = {
            f"{site.url}?{number}": site for number in range(TIMES) for site in server.sites if site.trick.kind == kind
        }
        good = server.honest.endpoint
        honest = [f"http://{good}/{kind}-{i}" for i in range(GOOD_URLS)]
        if kind == "image":
            honest += [f"http://{good}/large-{i}" for i in range(GOOD_LARGE_URLS)]
        # The honest ones stand evenly between the others.
        rng = random.Random(4)
        self.urls = [*self.sites, *honest]
        rng.shuffle(self.urls)
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
        self.ends: dict[str, list[str]] = {}
        self.made: dict[str, str] = {}
        self.wrong: list[str] = []
        self.seconds = self.good_after_s = self.made_after_s = 0.0

    def run(self) -> None:
        fetcher = Fetcher(self.config)
        began = time.monotonic()
        with PagePool(1) if self.kind == "page" else DecodePool(2) as pool:
            for fetched in fetcher.fetch_all((Request(url, self.kind) for url in self.urls), gate=open_gate):
                self.take(fetched, time.monotonic() - began)
                if not fetched.ok:
                    continue
                if isinstance(pool, PagePool):
                    pool.submit(fetched.url, fetched.body, fetched.url, fetched.header("content-type"))
                else:
                    pool.submit(fetched.url, fetched.body)
                self.note(pool.ready())
            self.seconds = time.monotonic() - began
            self.note(pool.drain())
            self.made_after_s = time.monotonic() - began
        fetcher.close()

    def take(self, fetched: Fetched, after_s: float) -> None:
        """Keep how it ended; not its body: that would be a flood of our own."""
        self.ends.setdefault(fetched.url, []).append(fetched.outcome)
        site = self.sites.get(fetched.url)
        if site is None:
            self.good_after_s = after_s
            if not fetched.ok or (self.kind == "page" and fetched.body != GOOD_PAGE):
                self.wrong.append(f"honest {fetched.url}: {fetched.outcome} {fetched.detail}")
        elif fetched.outcome not in site.trick.outcomes:
            self.wrong.append(f"{site.trick.name}: {fetched.outcome} {fetched.detail}")

    def note(self, results: Iterable[tuple[object, object]]) -> None:
        for tag, result in results:
            self.made[str(tag)] = result.code if isinstance(result, DecodeError | PageError) else MADE[self.kind]

    def judge(self) -> list[str]:
        """What is not as it should be."""
        wrong = self.wrong
        if Counter({url: len(ends) for url, ends in self.ends.items()}) != Counter(self.urls):
            wrong.append(f"{len(self.urls)} URLs, {sum(map(len, self.ends.values()))} ends")
        if (lost := {url for url, ends in self.ends.items() if ends == ["ok"]} - set(self.made)) != set():
            wrong.append(f"never came back: {sorted(lost)[:5]}")
        for url, came_to in self.made.items():
            if url not in self.sites:
                if came_to != MADE[self.kind]:
                    wrong.append(f"honest {url}: {came_to}")
            elif (trick := self.sites[url].trick).decoded and came_to not in trick.decoded:
                wrong.append(f"{trick.name}: {came_to}")
            elif came_to == FAILED:
                wrong.append(f"{trick.name}: failed")
        if self.seconds > MOST_DEADLINES * DEADLINE_S:
            wrong.append(f"{self.kind}s took {self.seconds:.0f} s")
        return wrong

    def told(self) -> str:
        ends = Counter(outcome for found in self.ends.values() for outcome in found)
        return (
            f"{self.kind}s: {len(self.sites):,} URLs of tricks between {len(self.urls) - len(self.sites):,} "
            f"honest ones (those had after {self.good_after_s:.0f} s), all ended after {self.seconds:.0f} s "
            f"({self.seconds / DEADLINE_S:.1f} deadlines), {_told(ends)}; what came was worked on until "
            f"{self.made_after_s:.0f} s, {_told(Counter(self.made.values()))}"
        )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.most_common())


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

    def told(self) -> str:
        return (
            f"Memory at most {self.most_mb} MB in all ({self.main_mb} MB the process, {self.worker_mb} MB the largest "
            f"worker, by RSS)"
        )

    def _watch(self) -> None:
        main = os.getpid()
        while not self._stopping.wait(0.05):
            children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
            workers = [int(child) for child in children if int(child) not in self.exclude]
            self.most_mb = max(self.most_mb, sum(map(_pss_mb, (main, *workers))) + _in_files_mb())
            self.main_mb = max(self.main_mb, _rss_mb(main))
            self.worker_mb = max(self.worker_mb, *(_rss_mb(worker) for worker in workers), 0)


def _rss_mb(pid: int) -> int:
    with suppress(OSError):  # it has ended
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() >> 20
    return 0


def _in_files_mb() -> int:
    """What lies in this process's anonymous files: bodies on their way to workers, in nobody's set size."""
    size = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if str(descriptor.readlink()).startswith("/memfd:"):
                size += descriptor.stat().st_blocks * 512
    return size >> 20


def _pss_mb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) >> 10
    return 0


if __name__ == "__main__":
    sys.exit(main())
