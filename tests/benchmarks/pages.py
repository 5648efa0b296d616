"""HTML to pairs, links, metas and claims, beside BeautifulSoup (on lxml) finding the same; CPU of one core.

Needs Debian's gimp-help-en, which it has apt-get download into .bench/, shared/fixtures/warc, and, for the comparison,
.peers-venv (make peers-env). What is not there is left out and named.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser

from curation.pages import Page, read_page
from curation.warc import ArchivedPage, read_warc
from curation.worker_pool import worker_environment
from tests.benchmarks.table import Table

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "warc"
CACHE = ROOT / ".bench" / "gimp-help-en"
PEER = ROOT / ".peers-venv" / "bin" / "python"
URL = "https://www.site.example/docs/page.html"
ROUNDS = 7
LARGE = range(100_000, 200_001)
_BODY = re.compile(rb"<body[^>]*>(.*)</body>", re.DOTALL | re.IGNORECASE)


def run() -> Table:
    """Pages per second of one core, by the kind of pages."""
    _allocate_as_workers_do()
    gimp, crawled, missing = _gimp_help(), _crawled(), []
    if not gimp:
        missing.append("gimp-help-en could not be downloaded")
    if not crawled:
        missing.append("shared/fixtures/warc is not beside this checkout")
    if not PEER.exists():
        missing.append("no BeautifulSoup without .peers-venv (make peers-env)")
    kinds = {
        "100-200 KB as they are (both)": [page for page in (*gimp, *crawled) if len(page) in LARGE],
        "gimp-help-en, joined to 150 KB": _joined(gimp),
        "shared/fixtures/warc, joined to 150 KB": [page for one in crawled for page in _joined([one] * 40)[:1]],
        "gimp-help-en as it is": gimp,
        "shared/fixtures/warc as it is": crawled,
    }
    above = [
        "Joined: bodies of pages one after another, of a crawled page its own again and again; denser than pages of "
        "that size are. `parse`: the parser alone, which builds the tree. `without links`: as pages of archives are "
        "read, whose links nobody asks for. Best of several, CPU time."
    ]
    if missing:
        above.append("Left out: " + "; ".join(missing) + ".")
    columns = (
        "pages",
        "number",
        "KB",
        "tags",
        "images",
        "links",
        "parse/s",
        "read_page/s",
        "MB/s",
        "without links/s",
        "BeautifulSoup/s",
        "x",
    )
    return Table(columns, [_row(name, pages) for name, pages in kinds.items() if pages], above)


def _row(name: str, pages: Sequence[bytes]) -> tuple[str, ...]:
    count = len(pages)
    found: list[Page] = []

    def read() -> None:
        found[:] = [read_page(page, URL) for page in pages]

    def read_without_links() -> None:
        for page in pages:
            read_page(page, URL, with_links=False)

    def parse() -> None:
        for page in pages:
            LexborHTMLParser(page)

    parsed, ours, without = (count / _best(work) for work in (parse, read, read_without_links))
    theirs = _beautiful_soup(pages)
    return (
        name,
        str(count),
        f"{sum(map(len, pages)) / count / 1e3:.0f}",
        f"{sum(page.count(b'<') for page in pages) / count:,.0f}",
        f"{sum(len(page.pairs) for page in found) / count:.0f}",
        f"{sum(len(page.links) for page in found) / count:.0f}",
        f"{parsed:,.0f}",
        f"{ours:,.0f}",
        f"{ours * sum(map(len, pages)) / count / 1e6:.0f}",
        f"{without:,.0f}",
        "-" if theirs is None else f"{theirs:,.1f}",
        "-" if theirs is None else f"{ours / theirs:.0f}",
    )


def _allocate_as_workers_do() -> None:
    """Have malloc keep what it has as in a worker, where pages are read (`worker_environment`); else nothing."""
    names = {"MMAP_THRESHOLD_": -3, "TRIM_THRESHOLD_": -1, "TOP_PAD_": -2}  # <malloc.h>
    environment = worker_environment()
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for name, number in names.items():
            mallopt(number, int(environment[f"MALLOC_{name}"]))


def _best(work: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def _beautiful_soup(pages: Sequence[bytes]) -> float | None:
    """Pages per second of at most 60 of these; None without the environment."""
    if not PEER.exists():
        return None
    some = pages[:: max(1, len(pages) // 60)]
    with tempfile.TemporaryDirectory() as folder:
        for number, page in enumerate(some):
            (Path(folder) / f"{number:04}.html").write_bytes(page)
        script = Path(__file__).with_name("pages_bs4.py")
        done = subprocess.run([PEER, script, folder], capture_output=True, check=True, text=True)
    measured = json.loads(done.stdout)
    return len(some) / float(measured["seconds"])


def _gimp_help() -> list[bytes]:
    """The pages of Debian's gimp-help-en; none where the package cannot be had."""
    if not CACHE.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            try:
                subprocess.run(
                    ["apt-get", "-qq", "download", "gimp-help-en"], cwd=folder, check=True, capture_output=True
                )
                package = next(Path(folder).glob("gimp-help-en*.deb"))
                CACHE.parent.mkdir(exist_ok=True)
                subprocess.run(["dpkg-deb", "-x", package, Path(folder) / "x"], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError, StopIteration):
                return []
            # Kept when it is complete; the pictures are not needed.
            html = Path(folder) / "x" / "usr/share/gimp/2.0/help/en"
            CACHE.mkdir()
            for path in html.glob("*.html"):
                (CACHE / path.name).write_bytes(path.read_bytes())
    return [path.read_bytes() for path in sorted(CACHE.glob("*.html"))]


def _crawled() -> list[bytes]:
    if not FIXTURES.is_dir():
        return []
    files = [str(FIXTURES / f"{name}.warc.gz") for name in ("commoncrawl-16", "one-page")]
    found = [one for file in files for one in read_warc(file, max_page_bytes=5_000_000)]
    return [one.fetched.body for one in found if isinstance(one, ArchivedPage)]


def _joined(pages: Sequence[bytes]) -> list[bytes]:
    """Pages of about 150 KB, each the head of its first page and the bodies of several."""
    made: list[bytes] = []
    parts: list[bytes] = []
    for page in pages:
        if (match := _BODY.search(page)) is None:
            continue
        if not parts:
            parts = [page[: match.start(1)]]
        parts.append(match[1])
        if sum(map(len, parts)) >= 130_000:
            whole = b"".join([*parts, b"</body></html>"])
            made += [whole] if len(whole) in LARGE else []
            parts = []
    return made
