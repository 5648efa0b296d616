"""The memory of a crawl over 200,000 URLs: flat means that it holds no more at the end than soon after its start.

    make prove PROOF=crawl_memory

The crawl's own process and its workers are looked at twice a second while it asks for tiny pictures on loopback; a
line is laid through what the process holds against the URLs asked for, the first fifth left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flows.stages.train import code_version
from policy.durable import write_durably
from tests.benchmarks.crawl import descendants, new_home, read_proc, url_list
from tests.benchmarks.crawl_site import CrawlSite, SiteSpec
from tests.builders import ROOT
from tests.proofs.crawl_kills import PIXELS, RESULTS, TITLE, start

FOLDER = ROOT / ".proofs" / "crawl_memory"
URLS, SMALL = 200_000, 5_000
WARM = 0.2  # of the URLs
FLAT_MB = 5.0  # a hundred thousand URLs


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at a moment: pictures asked for, bytes resident of the crawl's process, of its workers together."""

    asked: int
    own_bytes: int
    workers_bytes: int


@dataclass(frozen=True, slots=True)
class Slopes:
    """MB a hundred thousand URLs, over the warm part; the most that was ever held in MB."""

    own: float
    workers: float
    own_peak_mb: float
    all_peak_mb: float
    samples: int

    @property
    def flat(self) -> bool:
        return self.own < FLAT_MB and self.workers < FLAT_MB


def watch(folder: Path, urls: int) -> list[Sample]:
    """Crawl so many URLs; what was held on the way, until the last of them was asked for and at the end."""
    with CrawlSite(folder, SiteSpec("64", urls, hosts=50)) as site:
        pictures = url_list(site, urls, folder / "list.parquet")
        path = folder / "home"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        home = new_home(path, site, {"size": PIXELS})
        process = start(home, "crawl", "--url-list", str(pictures))
        samples = []
        while process.poll() is None:
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                workers = sum(map(_resident_bytes, descendants(process.pid)))
                samples.append(Sample(site.total(), _resident_bytes(process.pid), workers))
    if process.returncode != 0:
        raise RuntimeError(f"the crawl ended with {process.returncode}: see {path}.log")
    return samples


def slopes(samples: list[Sample], urls: int) -> Slopes:
    """Least squares through the samples between the warm-up and the last URL."""
    warm = [s for s in samples if WARM * urls <= s.asked < urls]
    if len(warm) < 3:
        raise RuntimeError(f"{len(warm)} samples are too few for a line: take more URLs")
    asked = np.array([s.asked for s in warm]) / 1e5

    def slope(held: list[int]) -> float:
        return float(np.polyfit(asked, np.array(held) / 1e6, 1)[0])

    return Slopes(
        slope([s.own_bytes for s in warm]),
        slope([s.workers_bytes for s in warm]),
        max(s.own_bytes for s in samples) / 1e6,
        max(s.own_bytes + s.workers_bytes for s in samples) / 1e6,
        len(warm),
    )


def _resident_bytes(pid: int) -> int:
    for line in read_proc(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> int:
    """The proof (with --small, a short one that is not recorded); 0 when memory is flat."""
    small = "--small" in sys.argv[1:]
    urls = SMALL if small else URLS
    folder = FOLDER.with_name("crawl_memory_small") if small else FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    samples = watch(folder, urls)
    found = slopes(samples, urls)
    told = " ".join(f"{s.own_bytes / 1e6:.0f}" for s in samples[:: max(1, len(samples) // 12)])
    text = (
        f"{urls:,} URLs of 64-pixel pictures on 50 loopback hosts, {time.monotonic() - started:.0f} s. Resident memory "
        f"of the crawl's process grew by {found.own:+.2f} MB a 100,000 URLs, that of its workers together by "
        f"{found.workers:+.2f} MB (least squares over {found.samples} samples after the first {WARM:.0%} of the URLs); "
        f"flat is less than {FLAT_MB:g}: {'it is' if found.flat else 'IT IS NOT'}. At most {found.own_peak_mb:.0f} MB, "
        f"with its workers {found.all_peak_mb:.0f} MB. On the way, in MB: {told}."
    )
    sys.stdout.write(text + "\n")
    if not small:
        entry = f"\n## {datetime.now(UTC):%Y-%m-%d} crawl_memory\n{text} Code {code_version()}.\n"
        before = RESULTS.read_text("utf-8") if RESULTS.is_file() else TITLE
        write_durably(RESULTS, (before + entry).encode())
    shutil.rmtree(folder)
    return 0 if found.flat else 1


if __name__ == "__main__":
    sys.exit(main())
