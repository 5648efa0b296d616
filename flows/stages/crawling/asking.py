"""Units are run: pages and pictures asked, read or decoded in worker processes; what came of it is the unit's part.

Picture units overlap. While the last pictures of one wait for a slow origin's turn, those of the next are asked; a
part is written as its rows come and exists when the last one has.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from curation.crawler import Wanted
from curation.fetch import Fetched, Request
from curation.page_pool import PageError, PagePool, ReadPage
from curation.pages import Page, page_json
from curation.pair import origin_of
from curation.pixel_store import PixelStore
from flows.home import Home, utc_now
from flows.stages.crawling import plan
from flows.stages.crawling.decoding import Decoding, shown_pairs
from flows.stages.crawling.known import KnownAnswer, known_pages, known_pictures
from flows.stages.crawling.meter import Meter
from flows.stages.crawling.observer import Observer, observer_at, seen_alone
from flows.stages.crawling.recognising import said_urls
from flows.stages.crawling.rows import (
    NOT_MODIFIED,
    PAGES,
    PICTURES,
    content_type,
    fetch_row,
    is_html,
    outcome_of,
)
from flows.stages.parts import PartWriter, part_groups

PAIRS_NOTE = "pairs"  # of a page part: how many pairs its pages hold
OPEN_UNITS = 4  # picture units that are asked at the same time; what a kill costs, and how far a slow origin may lag


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """What a unit did, in counts by outcome; no URL in it."""

    unit: str
    outcomes: tuple[tuple[str, int], ...]
    seconds: float


# ── pages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_page_unit(home: Home, crawl: str, unit: str, meter: Meter | None = None) -> UnitSummary:
    """Ask a unit's pages and read the pairs on them; the unit's part is the outcome."""
    meter, started = meter or Meter(), utc_now()
    urls = next(u.urls for u in plan.all_page_units(home, crawl) if u.unit == unit)
    with home.ledger(readonly=True) as ledger:
        observer, known = observer_at(home, ledger), known_pages(ledger, urls)
    with PartWriter(plan.part(home, crawl, "pages", unit), PAGES) as part, page_pool() as pool:
        reading = PageReading(part, pool, observer, meter)
        for fetched in observer.ask(reading.requests(urls, known), wake=pool.fileno()):
            reading.take(fetched, known.get(fetched.url))
        reading.finish()
    return summary(unit, reading.counts, started)


class PageReading:
    """Reads pages that were fetched, in worker processes, and writes the row of each into a part.

    Rows are written as they come to be, or, `in_order`, as their pages were taken.
    """

    def __init__(
        self, part: PartWriter, pool: PagePool, observer: Observer, meter: Meter, *, in_order: bool = False
    ) -> None:
        self.part, self.pool, self.observer, self.meter, self.in_order = part, pool, observer, meter, in_order
        self.counts, self.declared, self.pairs, self.taken = Counter[str](), set[str](), 0, 0
        self._asked = 0
        self._held: deque[_TakenPage] = deque()  # in order: from the first that is not read
        self._held_bytes = 0

    def requests(self, urls: Iterable[str], known: Mapping[str, KnownAnswer]) -> Iterator[Request | None]:
        """What is to be asked. What has been read meanwhile is written, however slow the network is."""
        for url in urls:
            while self.pool.is_full:
                yield from self._nothing()
            self._asked += 1
            yield Request(url, "page", headers=_validators(known.get(url)))
        while self.taken < self._asked:
            yield from self._nothing()

    def _nothing(self) -> Iterator[None]:
        self._keep(self.pool.ready())
        yield None

    def take(self, fetched: Fetched, known: KnownAnswer | None = None) -> None:
        """Take a page that was asked; its HTML is read by the workers."""
        row, html = page_row(fetched, known)
        page = self._hold(_TakenPage(row, fetched))
        if html is None:
            self._settle(page)
        else:
            self.pool.submit(page, *html)
        self._keep(self.pool.ready())
        while self._held_bytes > self.pool.max_bytes and self._held:
            self.pool.wait(1.0)
            self._keep(self.pool.ready())

    def take_described(self, fetched: Fetched, described: Page) -> None:
        """Take a page of which an archive holds what its metadata tell, and no HTML."""
        row = fetch_row(fetched) | {"body": None, "body_sha256": None}
        page = self._hold(_TakenPage(row | {"page_json": page_json(described, whole=False, with_links=False)}, fetched))
        self._read(page, described.rsl, len(described.pairs))
        self._settle(page)

    def finish(self, notes: Mapping[str, str] | None = None) -> None:
        """Read what is left, ask for the licence documents that were declared, and make the part whole."""
        self._keep(self.pool.drain())
        self.observer.ask_declared(self.declared)
        self.part.finish({**(notes or {}), PAIRS_NOTE: str(self.pairs)})

    def _keep(self, results: Iterable[tuple[object, ReadPage | PageError]]) -> None:
        for page, result in results:
            assert isinstance(page, _TakenPage)  # the tag is the page that waits for being read
            if isinstance(result, ReadPage):
                page.row["page_json"] = result.json
                self._read(page, result.rsl, result.pairs)
            else:
                page.row |= {"outcome": f"read-{result.code}", "detail": result.detail}
            self._settle(page)

    def _read(self, page: _TakenPage, rsl: tuple[tuple[str, str], ...], pairs: int) -> None:
        self.declared |= self.observer.declared_in(seen_alone(page.fetched, rsl))
        self.pairs += pairs

    def _hold(self, page: _TakenPage) -> _TakenPage:
        self.taken += 1
        if self.in_order:
            self._held.append(page)
            self._held_bytes += len(page.fetched.body)
        return page

    def _settle(self, page: _TakenPage) -> None:
        """The page's row is known: write it, when its turn has come."""
        page.is_settled = True
        if not self.in_order:
            self._write(page)
        while self._held and self._held[0].is_settled:
            self._held_bytes -= len(self._held[0].fetched.body)
            self._write(self._held.popleft())

    def _write(self, page: _TakenPage) -> None:
        self.part.add(page.row)
        self.counts[outcome_of(page.row)] += 1
        self.meter.count(outcome_of(page.row), len(page.fetched.body))


@dataclass(slots=True)
class _TakenPage:
    """A page on its way: its row, which lacks what is read of it until that is settled."""

    row: dict[str, object]
    fetched: Fetched
    is_settled: bool = False


def page_row(
    fetched: Fetched, known: KnownAnswer | None = None
) -> tuple[dict[str, object], tuple[bytes, str, str | None] | None]:
    """A page's row, and where it is HTML what is to be read: the bytes, their URL and their content type."""
    html, confirmed = fetched.body if fetched.ok and is_html(fetched) else None, None
    row = fetch_row(fetched) | {"body": html, "body_sha256": None, "page_json": None}
    if fetched.outcome == NOT_MODIFIED and known is not None:
        confirmed = known.confirmed(fetched)
        html = known.body
        row |= fetch_row(confirmed) | dict(known.row)
    if html is None:
        return row, None
    answer = confirmed or fetched
    return row, (html, answer.final_url or answer.url, content_type(answer))


def page_pool(*, with_links: bool = True) -> PagePool:
    """A worker that reads pages: one does a thousand a second, and two hostile ones would double what they may take."""
    return PagePool(1, with_links=with_links)


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _OpenUnit:
    """A picture unit on its way: its part, the URLs that have no row yet, what is known of them and who shows them."""

    unit: str
    part: PartWriter
    waiting: set[str]
    known: Mapping[str, KnownAnswer]
    pairs: Mapping[str, Sequence[Mapping[str, Any]]]
    started: datetime
    counts: Counter[str] = field(default_factory=Counter)


class PictureUnits:
    """Runs picture units, overlapped. What it has open when it ends early is thrown away, and run again."""

    def __init__(self, home: Home, crawl: str, observer: Observer, meter: Meter) -> None:
        self.home, self.crawl, self.observer, self.meter = home, crawl, observer, meter
        self.pixels = PixelStore(home.pixels_path)
        self.unit_of: dict[str, _OpenUnit] = {}
        self.declared: set[str] = set()
        self.done: list[UnitSummary] = []
        self._open: dict[str, _OpenUnit] = {}
        self._asked = 0  # URLs that were asked and not answered

    def run(self, units: Sequence[str]) -> list[UnitSummary]:
        try:
            with Decoding(self.home, self.observer, self.pixels) as decoding:
                decoding.start()  # they load while the origins are asked for their documents
                for fetched in self.observer.ask(self._requests(units, decoding), wake=decoding.fileno()):
                    self._take(fetched, decoding)
                    self._keep(decoding.ready())
                self._keep(decoding.drain())
        finally:
            self.pixels.discard()
            for opened in self._open.values():
                opened.part.discard()
        self.observer.ask_declared(self.declared)
        return self.done

    def _requests(self, units: Sequence[str], decoding: Decoding) -> Iterator[Request | Wanted | None]:
        for unit in units:
            while len(self._open) >= OPEN_UNITS:
                yield from self._nothing(decoding)
            opened = self._opened(unit)
            yield from (Wanted(origin) for origin in self._page_origins(unit))
            for url in sorted(opened.waiting):
                yield Request(url, "image", headers=_validators(opened.known.get(url)))
        while self._asked:
            yield from self._nothing(decoding)

    def _nothing(self, decoding: Decoding) -> Iterator[None]:
        """Nothing to ask at the moment: what the workers have done meanwhile is kept, however slow the network is."""
        self._keep(decoding.ready())
        yield None

    def _page_origins(self, unit: str) -> list[str]:
        """The origins of pages that were not asked in this crawl (of archives and lists): they have a say as well."""
        path = plan.pairs_file(self.home, self.crawl, unit)
        pages = {row["page_url"] for rows in part_groups(path, ["page_url"]) for row in rows}
        known = self.observer.known()
        wanted = (url for url in pages if url is not None and self.observer.kept_out(url) is None)
        return sorted({origin_of(url) for url in wanted} - known.keys())

    def _opened(self, unit: str) -> _OpenUnit:
        urls = unit_urls(self.home, self.crawl, unit)
        with self.home.ledger(readonly=True) as ledger:
            # Whatever was asked to go meanwhile is neither fetched nor kept.
            self.observer.renew(self.home, ledger)
            known = known_pictures(self.home, ledger, sorted(urls))
            self.observer.keep_out(
                said_urls(self.observer.in_force.tombstones, plan.pairs_file(self.home, self.crawl, unit))
            )
            pairs = shown_pairs(self.home, ledger, self.observer, plan.pairs_file(self.home, self.crawl, unit))
        part = PartWriter(plan.part(self.home, self.crawl, "pictures", unit), PICTURES)
        opened = _OpenUnit(unit, part, urls, known, pairs, utc_now())
        self._open[unit] = opened
        self.unit_of.update(dict.fromkeys(urls, opened))
        self._asked += len(urls)
        return opened

    def _take(self, fetched: Fetched, decoding: Decoding) -> None:
        self._asked -= 1
        row = fetch_row(fetched)
        self.declared |= self.observer.declared_by(fetched)
        if fetched.ok:
            self.meter.count(None, len(fetched.body))
            decoding.submit(row, fetched.body, self.unit_of[fetched.url].pairs.get(fetched.url, ()))
            return
        known = self.unit_of[fetched.url].known.get(fetched.url)
        if fetched.outcome == NOT_MODIFIED and known is not None:
            row |= fetch_row(known.confirmed(fetched)) | dict(known.row)
        self._add(row)

    def _keep(self, rows: Iterable[Mapping[str, object]]) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: Mapping[str, object]) -> None:
        opened = self.unit_of.pop(str(row["url"]))
        opened.part.add(row)
        opened.waiting.discard(str(row["url"]))
        opened.counts[outcome_of(row)] += 1
        self.meter.count(outcome_of(row))
        if not opened.waiting:
            self.pixels.settle()  # a part that exists says that its pixels do
            opened.part.finish()
            del self._open[opened.unit]
            self.done.append(summary(opened.unit, opened.counts, opened.started))


def run_picture_units(
    home: Home, crawl: str, units: Sequence[str], meter: Meter | None = None
) -> tuple[UnitSummary, ...]:
    """Ask the pictures of these units; decode and measure them; keep the pixels that we encoded."""
    return tuple(PictureUnits(home, crawl, observer_at(home), meter or Meter()).run(units))


def unit_urls(home: Home, crawl: str, unit: str) -> set[str]:
    """The pictures that a unit's pairs show; a pair that was taken out shows none."""
    path = plan.pairs_file(home, crawl, unit)
    return {row["image_url"] for rows in part_groups(path, ["image_url"]) for row in rows if row["image_url"]}


def _validators(known: KnownAnswer | None) -> tuple[tuple[str, str], ...]:
    return known.validators if known is not None else ()


def summary(unit: str, counts: Mapping[str, int], started: datetime) -> UnitSummary:
    """What a unit did, from its counts and when it began."""
    return UnitSummary(unit, tuple(sorted(counts.items())), (utc_now() - started).total_seconds())
