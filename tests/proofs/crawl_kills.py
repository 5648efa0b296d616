"""Kill -9 of a crawl with all of its processes at random moments, again and again: neither ledger nor shards show it.

    make prove PROOF=crawl_kills             50,000 URLs, 20 kills: some minutes
    KILLS=40 make prove PROOF=crawl_kills    more of them

One home crawls a URL list undisturbed, another one is killed with its workers and started again until it is done; both
decide and seal. The site is on loopback: 64-pixel pictures on fifty hosts, some of which are missing, moved, late, cut
off, damaged or none at all. At the end every URL has one terminal state, and the right one; what a killed crawl had
taken over for good was not asked for again; the ledger's content and the shards of both homes are the same; no file
is there that the ledger does not know.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq

from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.train import code_version
from policy.durable import write_durably
from tests.benchmarks.crawl import new_home, url_list
from tests.benchmarks.crawl_site import CrawlSite, SiteSpec
from tests.builders import ROOT, SINGLE_THREAD, Done, ask, differences, ledger_content, leftovers, shard_content

FOLDER = ROOT / ".proofs" / "crawl_kills"
RESULTS = ROOT / "docs" / "proofs.md"
TITLE = "# Proofs\n\nLong proofs (`make prove PROOF=name`) and what they found, newest last.\n"
DATASET = "killed"
PIXELS = 64
# What becomes of each fault of the site; None: of a picture without one.
EXPECTED: Mapping[str | None, str] = {
    None: "ok",
    "slow": "ok",
    "moved": "ok",
    "missing": "http-404",
    "broken-server": "http-500",
    "cut-off": "truncated",
    "no-picture": "decode-unknown-format",
    "damaged": "decode-truncated",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """How large the proof is. `unit`: pictures a unit of work. `seed`: of the moments."""

    urls: int
    kills: int
    hosts: int
    unit: int
    seed: str


@dataclass(slots=True)
class Found:
    """What came of it; no failures: it holds. `moments`: seconds after a start, and the pictures asked for by then."""

    seconds_undisturbed: float = 0.0
    kills: int = 0
    moments: list[tuple[float, int]] = field(default_factory=list)
    asked: int = 0  # requests for pictures, undisturbed
    asked_again: int = 0  # requests beyond those, killed
    # By path, how often each picture of a unit that was done when a kill came had been asked for by then.
    settled: dict[str, int] = field(default_factory=dict)
    sealed: int = 0
    failures: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.failures.append(what)


class Commands(Protocol):
    """What runs `custody`: `Groups`, or the tests' `Custody`, whose warm process starts it in no time."""

    def run(self, home: Home, *arguments: str, kill_after_s: float | None = None) -> Done: ...


class Groups:
    """`custody` in a session of its own: what is killed is its process group, workers and all."""

    def run(self, home: Home, *arguments: str, kill_after_s: float | None = None) -> Done:
        process = start(home, *arguments)
        try:
            process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Done(process.returncode, "", _log(home))


def prove(folder: Path, scenario: Scenario, commands: Commands) -> Found:
    """Crawl the same site undisturbed and killed, and compare."""
    found = Found()
    spec = SiteSpec("64", scenario.urls, hosts=scenario.hosts, faults=True)

    def do(home: Home, *arguments: str) -> None:
        done = commands.run(home, *arguments)
        if done.status != 0:
            raise RuntimeError(f"custody {' '.join(arguments)} ended with {done.status}: {done.err}")

    with CrawlSite(folder, spec) as site:
        pictures = url_list(site, scenario.urls, folder / "list.parquet")
        changes = {"images_per_unit": scenario.unit, "size": PIXELS, "shard_slots": scenario.unit}
        reference, home = (_home(folder / name, site, changes) for name in ("undisturbed", "killed"))
        crawl = ("crawl", "--url-list", str(pictures))

        started = time.monotonic()
        do(reference, *crawl)
        found.seconds_undisturbed = time.monotonic() - started
        once = site.counts()
        site.forget()

        if not _crawl_killed(commands, home, site, crawl, scenario, found):
            do(home, *crawl)
        twice = site.counts()
        for stage in (("decide",), ("seal", "--name", DATASET)):
            do(reference, *stage)
            do(home, *stage)
    do(home, "verify")

    found.asked, found.asked_again = _pictures(once), _pictures(twice) - _pictures(once)
    _check_requests(once, twice, site, scenario, found)
    for place in (reference, home):
        _check_states(place, site, scenario, found)
        _check_files(place, found)
    for told in differences(ledger_content(reference), ledger_content(home)):
        found.check(False, told)
    expected, got = shard_content(reference, DATASET), shard_content(home, DATASET)
    found.sealed = sum(extension == "jpg" for _, extension, _, _ in got)
    found.check(expected == got, f"the shards differ: {len(expected)} members, then {len(got)}")
    usable = sum(EXPECTED[spec.fault(n)] == "ok" for n in range(scenario.urls))
    found.check(found.sealed == usable, f"{found.sealed} sealed, not the {usable} that the site has")
    return found


# ── the crawl that is killed ───────────────────────────────────────────────────────────────────────────────────────


def _crawl_killed(
    commands: Commands, home: Home, site: CrawlSite, crawl: Sequence[str], scenario: Scenario, found: Found
) -> bool:
    """Kill and start again so many times; True where it was done before the last kill came."""
    drawn = random.Random(scenario.seed)
    units_seen: set[str] = set()
    left_s = found.seconds_undisturbed
    while found.kills < scenario.kills:
        after_s = drawn.uniform(0.0, 2 * left_s / (scenario.kills - found.kills + 1))
        done = commands.run(home, *crawl, kill_after_s=after_s)
        if not done.was_killed:
            found.check(done.status == 0, f"a crawl ended with {done.status}: {done.err}")
            return done.status == 0
        found.kills += 1
        asked = site.counts()
        found.moments.append((round(after_s, 2), _pictures(asked)))
        for part in sorted(home.crawls_path.glob("*/parts/pictures/*.parquet")):
            if part.name not in units_seen:
                units_seen.add(part.name)
                paths = (_path(url) for url in pq.read_table(part, columns=["url"]).column("url").to_pylist())
                found.settled |= {path: asked[path] for path in paths}
        left_s = max(found.seconds_undisturbed * (1 - len(found.settled) / scenario.urls), 1.0)
    return False


def _home(path: Path, site: CrawlSite, changes: Mapping[str, int]) -> Home:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return new_home(path, site, changes)


def start(home: Home, *arguments: str) -> subprocess.Popen[bytes]:
    """A command in a session of its own: its group is all of its processes."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CUSTODY_"))}
    with (home.path.parent / f"{home.path.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments, "--home", str(home.path), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=environment | SINGLE_THREAD,
            start_new_session=True,
        )


def _log(home: Home) -> str:
    return (home.path.parent / f"{home.path.name}.log").read_text("utf-8", "replace")[-2_000:]


# ── what must hold ─────────────────────────────────────────────────────────────────────────────────────────────────


def _check_requests(once: Counter[str], twice: Counter[str], site: CrawlSite, scenario: Scenario, found: Found) -> None:
    """Undisturbed, a picture is asked for once; killed, no more of those that were done at a kill."""
    paths = {n: f"/p/{n}.jpg" for n in range(scenario.urls)}
    usable = [path for n, path in paths.items() if EXPECTED[site.spec.fault(n)] == "ok"]
    found.check(
        all(once[p] == 1 for p in usable), f"undisturbed, not all of {len(usable)} pictures were asked for once"
    )
    found.check(all(twice[p] for p in paths.values()), "killed, not every picture was asked for")
    again = [path for path, asked in found.settled.items() if twice[path] != asked]
    found.check(not again, f"{len(again)} pictures of finished units were asked for again, such as {again[:3]}")


def _check_states(home: Home, site: CrawlSite, scenario: Scenario, found: Found) -> None:
    """Every URL of the list stands in the ledger once, with what the site did to it."""
    rows = ask(home, "SELECT url, outcome FROM \"fetch\" WHERE kind = 'image'")
    times = Counter(url for url, _ in rows)
    found.check(max(times.values(), default=0) == 1, f"{home.path.name}: {len(rows)} rows for {len(times)} URLs")
    expected = {site.url(n): EXPECTED[site.spec.fault(n)] for n in range(scenario.urls)}
    wrong = sorted(set(expected.items()) ^ set(rows))
    found.check(not wrong, f"{home.path.name}: {len(wrong)} states are not what they should be, such as {wrong[:4]}")


def _check_files(home: Home, found: Found) -> None:
    """No file is left of what was killed, and no pixels that the ledger does not know."""
    found.check(not leftovers(home), f"{home.path.name}: left behind: {leftovers(home)[:5]}")
    known = {sha for (sha,) in ask(home, "SELECT DISTINCT content_sha256 FROM content")}
    orphans = sorted(set(PixelStore(home.pixels_path).keys()) - known)
    found.check(not orphans, f"{home.path.name}: {len(orphans)} pictures that the ledger does not know")
    files = [p for p in home.crawls_path.rglob("*") if p.is_file() and p.name != "plan.json"]
    found.check(not files, f"{home.path.name}: a finished crawl left {len(files)} files, such as {files[:3]}")


def _pictures(asked: Counter[str]) -> int:
    return sum(times for path, times in asked.items() if path.startswith("/p/"))


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


# ── by itself ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """The proof at its full size (or, with --small, a small one that is not recorded); 0 when it holds."""
    small = "--small" in sys.argv[1:]
    code, kills = code_version(), int(os.environ.get("KILLS", "20"))
    scenario = Scenario(600, 3, 20, 50, code) if small else Scenario(50_000, kills, 50, 500, code)
    folder = FOLDER.with_name("crawl_kills_small") if small else FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    found = prove(folder, scenario, Groups())
    text = _said(scenario, found, time.monotonic() - started)
    sys.stdout.write(text + "\n")
    if not small:
        entry = f"\n## {datetime.now(UTC):%Y-%m-%d} crawl_kills\n{text} Code {code}.\n"
        before = RESULTS.read_text("utf-8") if RESULTS.is_file() else TITLE
        write_durably(RESULTS, (before + entry).encode())
    return 1 if found.failures else 0


def _said(scenario: Scenario, found: Found, seconds: float) -> str:
    verdict = (
        "no difference" if not found.failures else "DIFFERENCES: " + "; ".join(f[:300] for f in found.failures[:9])
    )
    moments = json.dumps([asked for _, asked in found.moments])
    return (
        f"{scenario.urls:,} URLs on {scenario.hosts} loopback hosts in units of {scenario.unit}, the crawl's whole "
        f"process group killed {found.kills} times with -9 at random moments (pictures asked for by then: {moments}). "
        f"Against a home that was never disturbed (crawled in {found.seconds_undisturbed:.0f} s): {verdict} in the one "
        "terminal state of every URL, the ledger's content, and the samples, bytes and order of the shards "
        f"({found.sealed:,} pictures); no file that the ledger does not know. {found.asked:,} requests for pictures "
        f"undisturbed; the kills cost {found.asked_again:,} more, none of them for the {len(found.settled):,} pictures "
        f"whose units were done when a kill came. This run took {seconds:.0f} s."
    )


if __name__ == "__main__":
    sys.exit(main())
