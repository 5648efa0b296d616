"""Custody's crawl, decide and seal against img2dataset, really run, on the same pictures of one loopback web.

    make bench BENCH=crawl                       all of it: some ten minutes
    python -m tests.benchmarks.crawl --small     a minute, to see that it works; nothing is recorded

Both read the same Parquet list and write WebDataset shards of 256 px (the shorter side) at quality 95 with the sha256
of every original. They take turns, `ROUNDS` times; medians count. CPU is user and system time of all processes of a
command, the server's not among them; memory is the sum of what they hold (PSS), looked at five times a second.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows import settings
from flows.home import Home
from tests.benchmarks.crawl_site import CrawlSite, SiteSpec
from tests.benchmarks.table import Table
from tests.builders import LOOKED, SINGLE_THREAD, policy_without

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".bulk-venv" / "bin" / "python"
ROUNDS = 3
LICENCE = "https://creativecommons.org/licenses/by/4.0/"
STAGES = ("crawl", "decide", "seal")
# Tried for the peer before the rounds; the one that costs it least CPU is taken.
THREADS = (8, 16, 64)
SHORT = 10  # pictures of the list that shows what the starts cost


@dataclass(frozen=True, slots=True)
class Setting:
    """Which pictures from where. `at_least`: times less CPU that Custody is to need."""

    name: str
    spec: SiteSpec
    at_least: float


SETTINGS = (
    Setting("http, 4 hosts, 512 px", SiteSpec("512", 10_000, hosts=4), 2.0),
    Setting("https, 200 hosts, 512 px", SiteSpec("512", 3_000, hosts=200, tls=True), 10.0),
    Setting("http, 4 hosts, 1600 px", SiteSpec("1600", 3_000, hosts=4), 2.0),
)
SMALL = (
    Setting("http, 4 hosts, 512 px", SiteSpec("512", 1_000, hosts=4), 2.0),
    Setting("https, 200 hosts, 512 px", SiteSpec("512", 400, hosts=200, tls=True), 10.0),
    Setting("http, 4 hosts, 1600 px", SiteSpec("1600", 300, hosts=4), 2.0),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took: seconds of CPU and of the clock, bytes held at most by all of its processes together."""

    cpu_s: float
    wall_s: float
    peak_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s, max(self.peak_bytes, other.peak_bytes))


@dataclass(frozen=True, slots=True)
class Run:
    """One whole way from the list to the shards: what each command of it took, and the pictures in the shards."""

    costs: Mapping[str, Cost]
    pictures: int

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), Cost(0.0, 0.0, 0))


@dataclass(frozen=True, slots=True)
class Race:
    """The runs of both. `starts_s`: CPU for a list of `SHORT` pictures, theirs and ours; `threads`: the peer's."""

    theirs: tuple[Run, ...]
    ours: tuple[Run, ...]
    starts_s: tuple[float, float]
    threads: int
    server_s: float


def run() -> Table:
    """The comparison; exits 2 where img2dataset's environment is missing."""
    return compare(SETTINGS, ROUNDS)


def compare(chosen: Sequence[Setting], rounds: int) -> Table:
    """Every setting, so many rounds of both."""
    if not (PEER.parents[1] / ".installed").is_file():
        sys.stderr.write("img2dataset is not installed in .bulk-venv: run `make bulk-env` first\n")
        raise SystemExit(2)
    rows: list[tuple[str, ...]] = []
    conditions = []
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as name:
        folder = Path(name)
        for setting in chosen:
            with CrawlSite(folder, setting.spec) as site:
                race = _race(site, setting.spec.pictures, rounds, folder)
            rows += (told := _rows(setting, race))
            conditions.append(
                f"{setting.name}: {race.threads} threads a process, server {race.server_s:.1f} s of CPU in all"
            )
            sys.stderr.write("\n".join(" | ".join(row) for row in told) + "\n")
    columns = ("what", "measured", "img2dataset", "Custody", "ratio", "wanted at least")
    return Table(
        columns, rows, (_how(rounds), f"img2dataset's best of {THREADS} threads a process. {'; '.join(conditions)}.")
    )


def _race(site: CrawlSite, pictures: int, rounds: int, folder: Path) -> Race:
    """Both in turns, after a short list that shows what their starts cost and which threads suit the peer."""
    short = url_list(site, SHORT, folder / "short.parquet")
    few = url_list(site, max(pictures // 10, SHORT), folder / "few.parquet")
    whole = url_list(site, pictures, folder / "list.parquet")
    tried = {threads: _peer(site, few, threads, folder).total.cpu_s for threads in THREADS}
    threads = min(tried, key=lambda t: tried[t])
    starts = (_peer(site, short, threads, folder).total.cpu_s, _custody(site, short, folder).total.cpu_s)
    before = _cpu_s(site.pid)
    ours: list[Run] = []
    theirs: list[Run] = []
    ways: tuple[Callable[[], None], ...] = (
        lambda: theirs.append(_peer(site, whole, threads, folder)),
        lambda: ours.append(_custody(site, whole, folder)),
    )
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            way()
    for run in (*ours, *theirs):
        if run.pictures != pictures:
            raise RuntimeError(f"{run.pictures} of {pictures} pictures arrived: nothing can be compared")
    return Race(tuple(theirs), tuple(ours), starts, threads, _cpu_s(site.pid) - before)


def url_list(site: CrawlSite, pictures: int, file: Path) -> Path:
    """The URL list that both read; the captions name nobody, so that no rule of the strict ruleset minds them."""
    numbers = range(pictures)
    columns = {
        "url": [site.url(n) for n in numbers],
        "caption": [f"{_PATTERNS[n % 7]} {_THINGS[n % 11]} on a {_PLACES[n % 5]}, view {n}" for n in numbers],
        "license": [LICENCE] * pictures,
    }
    pq.write_table(pa.table(columns), file)
    return file


_PATTERNS = ("a striped", "a dotted", "a plain wooden", "a small green", "an old", "a polished", "a broken")
_THINGS = ("chair", "teapot", "lantern", "basket", "bridge", "ladder", "kettle", "window", "wheel", "bench", "jar")
_PLACES = ("stone floor", "grey table", "mossy wall", "sandy field", "wet street")


# ── the two ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _peer(site: CrawlSite, listed: Path, threads: int, folder: Path) -> Run:
    """img2dataset over a list, from its start to its end."""
    out = folder / "img2dataset"
    shutil.rmtree(out, ignore_errors=True)
    # Two shards a process: they end together, and no process is replaced by a new one (it would after five).
    shard = -(-pq.read_metadata(listed).num_rows // 4)
    script = Path(__file__).with_name("crawl_img2dataset.py")
    command = [str(PEER), "-P", str(script), str(listed), str(out), str(threads), str(shard)]
    environment = {**_environment(site), "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    cost = measured(command, environment, folder)
    return Run({"download": cost}, _pictures_in(sorted(out.glob("*.tar"))))


def _custody(site: CrawlSite, listed: Path, folder: Path) -> Run:
    """crawl, decide and seal in a fresh home: the strict ruleset less faces, which img2dataset does not look for."""
    path = folder / "home"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    home = new_home(path, site)
    costs = {}
    for stage in STAGES:
        more = ("--url-list", str(listed)) if stage == "crawl" else ()
        command = [str(ROOT / ".venv/bin/custody"), stage, *more, "--home", str(path), "--json"]
        costs[stage] = measured(command, _environment(site), folder)
    return Run(costs, _pictures_in(sorted(home.datasets_path.glob("*/generation-*/*.tar"))))


def new_home(path: Path, site: CrawlSite, changes: Mapping[str, int] | None = None) -> Home:
    """A home that may crawl the site and nothing else, whose rules ask for no faces. `changes`: of custody.toml."""
    # The same quality as the peer's: it subsamples colour.
    values: dict[str, object] = {"allow_addresses": list(site.addresses), "full_chroma": False, **(changes or {})}
    if site.spec.tls:
        values["ca_file"] = str(site.ca_file)
    text = settings.DEFAULT_TEXT
    for key, value in values.items():
        text, found = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {json.dumps(value)} ", text)
        if found != 1:
            raise RuntimeError(f"custody.toml has {found} keys {key}")
    return Home.create(path, settings_text=text, policy_text=policy_without("faces", *LOOKED))


def _environment(site: CrawlSite) -> dict[str, str]:
    """One thread a library where a program asks; the site's authority among the system's for both.

    Bytecode is kept, as of anything that is installed: where the environment forbids that, our source would be compiled
    at every start.
    """
    ours = ("PREFECT_", "CUSTODY_", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    if site.spec.tls:
        kept["SSL_CERT_FILE"] = str(site.ca_file)
    return kept | SINGLE_THREAD


def _pictures_in(shards: Iterable[Path]) -> int:
    count = 0
    for shard in shards:
        with tarfile.open(shard) as tar:
            count += sum(member.name.endswith(".jpg") for member in tar)
    return count


# ── measuring ──────────────────────────────────────────────────────────────────────────────────────────────────────

# Runs a command and waits for all of its processes, orphans too (PR_SET_CHILD_SUBREAPER); says what they took.
_WRAPPER = """
import ctypes, json, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
started = time.monotonic()
with open(sys.argv[1] + ".log", "wb") as log:
    status = subprocess.Popen(sys.argv[2:], stdout=log, stderr=log, stdin=subprocess.DEVNULL).wait()
wall_s = time.monotonic() - started
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
used = resource.getrusage(resource.RUSAGE_CHILDREN)
told = {"status": status, "cpu_s": used.ru_utime + used.ru_stime, "wall_s": wall_s}
open(sys.argv[1], "w").write(json.dumps(told))
"""


def measured(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Cost:
    """Run a command; what all of its processes took. Raises RuntimeError, with its last words, where it failed."""
    told = folder / "told.json"
    wrapper = subprocess.Popen([sys.executable, "-c", _WRAPPER, str(told), *command], env=dict(environment), cwd=folder)
    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], sum(map(_pss_bytes, descendants(wrapper.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wrapper.wait()
    finally:
        done.set()
        watcher.join()
    found = json.loads(told.read_text())
    if found["status"] != 0:
        words = Path(f"{told}.log").read_text("utf-8", "replace")[-2_000:]
        raise RuntimeError(f"{' '.join(command)} ended with {found['status']}:\n{words}")
    return Cost(found["cpu_s"], found["wall_s"], peak[0])


def descendants(pid: int) -> list[int]:
    """The processes below this one."""
    below, found = [pid], []
    while below:
        for children in Path("/proc", str(below.pop()), "task").glob("*/children"):
            born = [int(child) for child in read_proc(children).split()]
            found += born
            below += born
    return found


def read_proc(path: Path | str) -> str:
    """A file of /proc; nothing where the process has gone."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _pss_bytes(pid: int) -> int:
    """What a process holds, of shared pages its share."""
    for line in read_proc(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_s(pid: int) -> float:
    fields = read_proc(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── in words ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(setting: Setting, race: Race) -> list[tuple[str, ...]]:
    pictures, ours = setting.spec.pictures, race.ours

    def median(runs: Sequence[Run], of: Callable[[Run], float]) -> float:
        return statistics.median(map(of, runs))

    def row(measure: str, of: Callable[[Run], float], unit: str, wanted: str) -> tuple[str, ...]:
        a, b = median(race.theirs, of), median(ours, of)
        return ("", measure, unit.format(a), unit.format(b), f"{a / b:.1f}", wanted)

    def beyond_start(runs: Sequence[Run], start_s: float) -> float:
        return 1e3 * (median(runs, lambda r: r.total.cpu_s) - start_s) / (pictures - SHORT)

    first = row("CPU a picture", lambda r: 1e3 * r.total.cpu_s / pictures, "{:.2f} ms", f"{setting.at_least:g}")
    theirs_ms, ours_ms = (
        beyond_start(runs, start_s) for runs, start_s in zip((race.theirs, ours), race.starts_s, strict=True)
    )
    parts = ", ".join(
        f"{stage} {median(ours, lambda r, s=stage: 1e3 * r.costs[s].cpu_s / pictures):.2f} ms"  # type: ignore[misc]
        f" in {median(ours, lambda r, s=stage: r.costs[s].wall_s):.1f} s"  # type: ignore[misc]
        for stage in STAGES
    )
    return [
        (f"{setting.name}, {pictures:,} pictures", *first[1:]),
        ("", "starts aside", f"{theirs_ms:.2f} ms", f"{ours_ms:.2f} ms", f"{theirs_ms / ours_ms:.1f}", ""),
        ("", f"CPU for {SHORT} pictures", *(f"{start_s:.1f} s" for start_s in race.starts_s), "", ""),
        row("wall-clock", lambda r: r.total.wall_s, "{:.1f} s", "1"),
        (*row("pictures a second", lambda r: pictures / r.total.wall_s, "{:.0f}", "")[:4], "", ""),
        row("memory at most", lambda r: r.total.peak_bytes / 1e6, "{:.0f} MB", "1"),
        ("", "CPU by command", "", parts, "", ""),
    ]


def _how(rounds: int) -> str:
    version = _version_of_peer()
    return (
        f"img2dataset {version} (2 processes, webdataset, image_size 256 keep_ratio, quality 95, sha256, EXIF, no "
        "retries) against `custody crawl --url-list`, `custody decide` and `custody seal`, a process each, starts "
        "included, in a fresh home with the strict ruleset less faces and what `look` measures: robots.txt, every "
        "origin's documents, headers, "
        "embedded metadata, C2PA and licences are asked and recorded, and sealed is what they allow: every picture. "
        f"Median of {rounds}, taking turns on one machine with the server; CPU of all processes, the server's not "
        "among them. The pictures are crops of photographs, each with bytes of its own; 512 px: 25-75 KB, 1600 px: "
        "190-370 KB. Both trust the same bundle of authorities (the system's and the site's). Both keep "
        "JPEGs at 4:2:0 (`full_chroma = false`; Custody's default is 4:4:4)."
    )


def _version_of_peer() -> str:
    ask = "import importlib.metadata as m; print(m.version('img2dataset'))"
    return subprocess.run([str(PEER), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """The comparison by itself, printed and not recorded."""
    table = compare(SMALL, 1) if "--small" in sys.argv[1:] else run()
    sys.stdout.write("\n".join(table.lines()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
