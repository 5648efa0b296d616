"""Pages in worker processes: what comes back is what `read_page` gives, and a hostile page costs itself alone."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from curation.page_pool import PageError, PageLimits, PagePool, ReadPage, Result
from curation.pages import page_json, pair_of_plain, read_page
from curation.warc import ArchivedPage, read_warc
from curation.worker_pool import KILLED, TIMEOUT
from policy.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "warc"
URL = "https://a.example/some/page.html"

RICH = """<html><head><title>Äpfel &amp; Birnen</title><base href="/bilder/"><meta name=robots content="noai, noindex">
<meta name=copyright content="© Ω"><link rel=license href="/l"><link rel=license type=application/rsl+xml href=r.xml>
<script type=application/rsl+xml><rsl xmlns="x">ß</rsl></script>
<script type=application/ld+json>{"@type": "ImageObject", "contentUrl": "b.png", "license": "l\\ud800",
"creator": {"name": "\\ud83c\\udf4e"}}</script></head><body>
<figure><img src=a.png srcset="a2.png 2x, a3.png 3x" alt=" ein  Apfel 🍎"><figcaption>Bild</figcaption></figure>
<picture><source srcset="c.avif 1x"><img src=c.png title=Titel></picture><img src=b.png alt=""><a href=weiter>w</a>
<img src="https://u:p@a.example/geheim.png"></body></html>"""

PAGES: dict[str, tuple[bytes, str, str | None]] = {
    "rich": (RICH.encode(), URL, "text/html; charset=utf-8"),
    "another base": (RICH.encode(), "http://xn--bcher-kva.example:8080/x?y=z", None),
    "latin-1": ("<img src=i.png alt='Ärger über Äpfel'>".encode("latin-1"), URL, "text/html; charset=iso-8859-1"),
    "shift_jis": ("<img src=i.png alt='りんご'>".encode("shift_jis"), URL, "text/html; charset=Shift_JIS"),
    "utf-16": ("\ufeff<img src=i.png alt='яблоко'>".encode("utf-16-le"), URL, None),
    "odd type": (b"<img src=i.png>", URL, 'text/html; charset="\xe4\u20ac'),
    "noise": (bytes(range(256)) * 50, URL, "text/html"),
    "empty": (b"", URL, None),
    "deep": (b"<div>" * 3000 + b"<img src=a alt=b>", URL, None),
    "large": (b"".join(b"<p><a href=%d>x</a><img src=%d.png alt='y %d'>" % (i, i, i) for i in range(9000)), URL, None),
}

# Each takes lexbor gigabytes, or minutes, in the process that calls it.
COSTLY: dict[str, bytes] = {
    "formatting that is made anew in each paragraph": (
        b"<p>" + b"".join(b"<b id=%d>" % i for i in range(1000)) + b"</p>" + b"<p>x</p>" * 20_000
    ),
    "an element of many attributes": b"<div " + b" ".join(b"a%d=1" % i for i in range(400_000)) + b">",
    "a hundred thousand elements deep": b"<div>" * 300_000 + b"<img src=a>",
}
LIMITS = PageLimits(memory_bytes=256 << 20, cpu_s=2)

# Took our own code minutes, and are read now.
QUICK: dict[str, tuple[bytes, int]] = {
    "figures in figures": (b"".join(b"<figure><img src=%d.png>" % i for i in range(3000)), 3000),
    "pictures in pictures": (
        b"<picture>" * 2000 + b"".join(b"<source srcset=%d><img src=%d>" % (i, i) for i in range(2000)),
        2000,
    ),
    "sources and pictures": (b"<picture>" + b"<source srcset=1>" * 1000 + b"<img src=a>" * 1000, 1),
    "a long caption of many pictures": (
        b"<figure>" + b"<img src=a.png>" * 20_000 + b"<figcaption>" + b"w " * 500_000 + b"</figcaption></figure>",
        1,
    ),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[PagePool]:
    with PagePool(2) as pool:
        yield pool


def read_one(pool: PagePool, html: bytes) -> Result:
    ((_, result),) = pool.read_all([("x", html, URL, None)])
    return result


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_page_comes_back_as_it_is_read_here(pool: PagePool) -> None:
    """Pairs, links, metas, claims and RSL are the same, whatever the encoding, the base and the content type."""
    results = dict(pool.read_all((name, *page) for name, page in PAGES.items()))
    assert results.keys() == PAGES.keys()
    for name, result in results.items():
        here = read_page(*PAGES[str(name)])
        assert isinstance(result, ReadPage), name
        assert result.page() == here, name
        assert result.json == page_json(here), name
        assert (result.pairs, result.rsl) == (len(here.pairs), here.rsl), name


def test_pages_of_the_web_come_back_as_they_are_read_here(pool: PagePool) -> None:
    """So do those of a crawl's archives."""
    files = sorted(FIXTURES.glob("*.warc.gz")) if FIXTURES.is_dir() else []
    if not files:
        pytest.skip(f"no archives in {FIXTURES}")
    items = (
        item
        for file in files
        for item in read_warc(str(file), max_page_bytes=5_000_000)
        if isinstance(item, ArchivedPage)
    )
    pages = [(i.fetched.body, i.fetched.url, i.fetched.header("content-type")) for i in items if i.fetched.body]
    results = dict(pool.read_all((number, *page) for number, page in enumerate(pages)))
    assert len(results) == len(pages) > 0
    for number, page in enumerate(pages):
        result = results[number]
        assert isinstance(result, ReadPage)
        assert result.page() == read_page(*page)


def test_the_json_of_a_page_holds_its_pairs() -> None:
    """Pairs go into JSON field by field, and come out of it as they went in."""
    page = read_page(*PAGES["rich"])
    plain = json.loads(page_json(page))["pairs"]
    assert plain == json.loads(json.dumps([asdict(pair) for pair in page.pairs]))
    assert tuple(map(pair_of_plain, plain)) == page.pairs
    assert any(pair.licence_claims for pair in page.pairs)
    page_json(page).encode()  # no half characters in it, though the page had one


def test_links_can_be_left_out() -> None:
    """Who follows no links need not be sent any; all else is there."""
    with PagePool(1, with_links=False) as pool:
        result = read_one(pool, RICH.encode())
    here = read_page(RICH.encode(), URL)
    assert here.links
    assert isinstance(result, ReadPage)
    assert (result.page().links, result.page().pairs) == ((), here.pairs)


# ── what takes too much ──────────────────────────────────────────────────────────────────────────────────────────
def test_a_costly_page_costs_itself_alone() -> None:
    """Hostile pages end within their limits, the good ones before, between and behind them are read, and the parent
    holds none of what they took."""
    good = PAGES["rich"][0]
    stream = [("good 0", good)]
    for name, html in COSTLY.items():
        stream += [(name, html), (f"good behind {name}", good)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with PagePool(2, limits=LIMITS) as pool:
        results = dict(pool.read_all((name, html, URL, None) for name, html in stream))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    assert len(results) == len(stream)
    for tag, result in results.items():
        if tag in COSTLY:
            assert isinstance(result, PageError), tag
            assert result.code == "too-costly", tag
        else:
            assert isinstance(result, ReadPage), tag
            assert result.page() == read_page(good, URL), tag


@pytest.mark.parametrize("name", QUICK)
def test_what_our_own_code_was_slow_with_is_read(name: str) -> None:
    """Captions and sources are looked for once, not once for each picture beside them."""
    html, pairs = QUICK[name]
    with PagePool(1, limits=PageLimits(cpu_s=8)) as pool:
        result = read_one(pool, html)
    assert isinstance(result, ReadPage), result
    assert result.pairs == pairs


@pytest.mark.parametrize(
    ("limits", "detail"),
    [
        (PageLimits(json_bytes=100_000), "too-much"),
        (PageLimits(memory_bytes=12 << 20), "out-of-memory"),
        (PageLimits(wall_s=0.05), TIMEOUT),
    ],
    ids=["what was found", "memory", "time"],
)
def test_what_went_over_its_limit_is_said(limits: PageLimits, detail: str) -> None:
    """The code is one; the detail tells which limit it was."""
    html = b"".join(b"<img src=%d.png alt='picture %d'>" % (i, i) for i in range(60_000))
    with PagePool(1, limits=limits) as pool:
        result = read_one(pool, html)
    assert isinstance(result, PageError)
    assert result.code == "too-costly"
    assert result.detail.startswith((detail, KILLED) if detail == "out-of-memory" else detail)


def test_a_page_without_a_url_fails_by_itself(pool: PagePool) -> None:
    """An error of the reader's is the page's result, named by its type, and the next page is read."""
    results = dict(pool.read_all([("bad", b"<img src=a>", "nowhere", None), ("good", b"<img src=a>", URL, None)]))
    bad, good = results["bad"], results["good"]
    assert isinstance(bad, PageError)
    assert (bad.code, bad.detail) == ("failed", "InputError")
    assert isinstance(good, ReadPage)


def test_a_pool_without_workers_is_refused() -> None:
    """No workers are a wrong setting, and the message says whose."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        PagePool(0)


def test_reading_pages_loads_no_pictures() -> None:
    """A page's worker starts without the picture libraries: it is started for every unit of pages."""
    code = "import sys, curation.page_pool; print([m for m in ('numpy', 'PIL', 'cv2', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
