"""WAT files to pairs: records read, JSON parsed, URLs made canonical, pages and claims built; CPU of one core."""

from __future__ import annotations

import io
import random
import time
from collections import Counter
from pathlib import Path

from curation.warc import ArchivedPage, read_warc
from curation.wat import read_wat
from tests.benchmarks.table import Table
from tests.curation.archives import compressed, described, record, wat_record

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "warc"
PAGES, ROUNDS = 600, 5
REQUEST = (
    b'{"Container":{"Filename":"CC-MAIN-20240517233122-20240518023122-00000.warc.gz","Compressed":true},"Envelope":'
    b'{"Payload-Metadata":{"Actual-Content-Type":"application/http; msgtype=request","HTTP-Request-Metadata":'
    b'{"Request-Message":{"Method":"GET","Path":"/wiki/Escopete","Version":"HTTP/1.1"},"Headers-Length":"263",'
    b'"Headers":{"User-Agent":"CCBot/2.0 (https://commoncrawl.org/faq/)","Accept-Language":"en-US,en;q=0.5"}}},'
    b'"Format":"WARC/1.0","WARC-Header-Length":"357"}}'
)
WORDS = ("red", "garden", "old", "harbour", "pear", "bicycle", "winter", "street", "museum", "blue", "on", "a", "the")


def run() -> Table:
    """Pairs per second of one core, by the shape of the pages."""
    rng = random.Random(4)
    shapes = {
        f"{PAGES} pages of 20 images, 80 links": [_page(rng, 20, 80) for _ in range(PAGES)],
        f"{PAGES} pages of 60 images, 120 links": [_page(rng, 60, 120) for _ in range(PAGES)],
        f"{PAGES} pages of 10 images, 80 links": [_page(rng, 10, 80) for _ in range(PAGES)],
    }
    rows = [
        _row(name, [(f"https://www.site{n}.example/shop/p{n}.html", html) for n, html in enumerate(pages)])
        for name, pages in shapes.items()
    ]
    if FIXTURES.is_dir():
        found = [
            one
            for name in ("commoncrawl-16", "one-page")
            for one in read_warc(str(FIXTURES / f"{name}.warc.gz"), max_page_bytes=5_000_000)
        ]
        real = [(one.fetched.url, one.fetched.body) for one in found if isinstance(one, ArchivedPage)]
        rows.append(_row("the 17 pages of shared/fixtures/warc, x 20", real * 20))
    above = (
        "Each page is three gzip members (request, response, metadata) as in Common Crawl's files, made by a copy of "
        "its extractor's rules; best of five, CPU time.",
    )
    return Table(
        ("pages", "MB of .wat.gz", "pairs", "links", "pages/s", "pairs/s", "pairs/s, links left out"), rows, above
    )


def _row(name: str, pages: list[tuple[str, bytes]]) -> tuple[str, ...]:
    archive = b"".join(
        compressed(
            record("metadata", url, REQUEST, Content_Type="application/json"),
            wat_record(url, described(html), headers=HEADERS),
            record("metadata", url, b'{"Envelope":{"WARC-Header-Metadata":{"WARC-Type":"metadata"}}}'),
        )
        for url, html in pages
    )
    said, with_links_s = _best(archive, with_links=True)
    _, without_s = _best(archive, with_links=False)
    return (
        name,
        f"{len(archive) / 1e6:.1f}",
        *(f"{said[what]:,}" for what in ("pairs", "links")),
        f"{said['pages'] / with_links_s:,.0f}",
        *(f"{said['pairs'] / seconds:,.0f}" for seconds in (with_links_s, without_s)),
    )


def _best(archive: bytes, *, with_links: bool) -> tuple[Counter[str], float]:
    best, said = float("inf"), Counter[str]()
    for _ in range(ROUNDS):
        said = Counter[str]()
        began = time.process_time()
        for found in read_wat(io.BytesIO(archive), with_links=with_links):
            if isinstance(found, ArchivedPage) and found.page is not None:
                said["pages"] += 1
                said["pairs"] += len(found.page.pairs)
                said["links"] += len(found.page.links)
        best = min(best, time.process_time() - began)
    return said, best


HEADERS: dict[str, object] = {
    "Date": "Sat, 18 May 2024 01:58:10 GMT",
    "Server": "nginx",
    "Content-Type": "text/html; charset=UTF-8",
    "Vary": "Accept-Encoding,Cookie",
    "Last-Modified": "Sat, 04 May 2024 01:58:10 GMT",
    "Cache-Control": "max-age=600",
    "X-Crawler-content-encoding": "gzip",
    "Set-Cookie": ["a=b; Path=/", "c=d; Path=/"],
    "Content-Length": "74000",
}


def _page(rng: random.Random, images: int, links: int) -> bytes:
    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))

    def address(kind: str) -> str:
        prefix = rng.choice(("/", "", "https://cdn.example.org/", "//static.example.net/"))
        query = f"?v={rng.randint(1, 99)}&w=640" if rng.random() < 0.3 else ""
        return f"{prefix}{kind}/2024/{rng.randint(1, 12):02}/{words(3).replace(' ', '-')}-{rng.randint(1, 9999)}{query}"

    parts = [
        "<title>",
        words(8),
        "</title><meta charset=utf-8><meta name=description content='",
        words(20),
        "'>",
        "<meta name=viewport content='width=device-width'><meta property='og:title' content='",
        words(6),
        "'>",
        "<meta name=robots content='index, follow'><link rel=canonical href=/x><link rel=stylesheet href=/s.css>",
        *(f"<a href='{address('story')}' title='{words(3)}'>{words(6)}</a>" for _ in range(links)),
        *(
            f"<a href='{address('big')}'><img src='{address('images')}.jpg' alt='{words(8)}'></a>"
            for _ in range(images)
        ),
    ]
    return "".join(parts).encode()
