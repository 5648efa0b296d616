"""Units are run: pages and pictures asked, decoded, measured; what came of it is the unit's part.

Picture units overlap. While the last pictures of one wait for a slow origin's turn, those of the next are asked; a
part is written as its rows come and exists when the last one has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from curation.decode_pool import DecodePool
from curation.fetch import Fetched, Request
from curation.images import DecodeError, DecodeLimits, ShapeConfig, Shaped
from curation.pages import Page, read_page
from curation.pixel_store import PixelStore
from flows.home import Home, utc_now
from flows.stages.crawling import plan
from flows.stages.crawling.known import KnownAnswer, known_pages, known_pictures
from flows.stages.crawling.meter import Meter
from flows.stages.crawling.observer import Observer, observer_at, trust_anchors
from flows.stages.crawling.rows import (
    NOT_MODIFIED,
    PAGES,
    PICTURES,
    content_type,
    fetch_row,
    is_html,
    outcome_of,
    page_json,
    shaped_row,
)
from flows.stages.parts import PartWriter, part_groups
from policy.evidence import Evidence

OBSERVER = "custody-crawl/1"
PAIRS_NOTE = "pairs"  # of a page part: how many pairs its pages hold
OPEN_UNITS = 16  # picture units that are asked at the same time; the first that is done makes room


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """What a unit did, in counts by outcome; no URL in it."""

    unit: str
    outcomes: tuple[tuple[str, int], ...]
    seconds: float


# ── pages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_page_unit(home: Home, crawl: str, unit: str, meter: Meter | None = None) -> UnitSummary:
    """Ask a unit's pages and read the pairs on them; the unit's part is the outcome."""
    meter, started, counts = meter or Meter(), utc_now(), Counter[str]()
    urls = next(u.urls for u in plan.all_page_units(home, crawl) if u.unit == unit)
    observer, known, declared, pairs = observer_at(home), known_pages(home, urls), set[str](), 0
    requests = (Request(url, "page", headers=_validators(known.get(url))) for url in urls)
    with PartWriter(plan.part(home, crawl, "pages", unit), PAGES) as part:
        for fetched in observer.ask(requests):
            row, page = page_row(fetched, known.get(fetched.url))
            if page is not None:
                declared |= observer.declared_in(seen_alone(fetched, page.rsl))
                pairs += len(page.pairs)
            part.add(row)
            counts[outcome_of(row)] += 1
            meter.count(outcome_of(row), len(fetched.body))
        observer.ask_declared(declared)
        part.finish({PAIRS_NOTE: str(pairs)})
    return summary(unit, counts, started)


def page_row(fetched: Fetched, known: KnownAnswer | None = None) -> tuple[dict[str, object], Page | None]:
    """A page's row, and what was read of it where it is HTML."""
    html, confirmed = fetched.body if fetched.ok and is_html(fetched) else None, None
    row = fetch_row(fetched) | {"body": html, "body_sha256": None, "page_json": None}
    if fetched.outcome == NOT_MODIFIED and known is not None:
        confirmed = known.confirmed(fetched)
        html = known.body
        row |= fetch_row(confirmed) | dict(known.row)
    if html is None:
        return row, None
    answer = confirmed or fetched
    page = read_page(html, answer.final_url or answer.url, content_type(answer))
    return row | {"page_json": page_json(page)}, page


def seen_alone(fetched: Fetched, rsl: tuple[tuple[str, str], ...] | None = None) -> Evidence:
    """A page or a picture by itself, as far as it may declare licence documents."""
    return Evidence(
        page_url=None,
        image_url=fetched.url,
        observed_at=fetched.started_at or utc_now(),
        observer=OBSERVER,
        observer_version="",
        page_rsl=rsl,
        hops=fetched.hops,
    )


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _OpenUnit:
    """A picture unit on its way: its part, the URLs that have no row yet, what is known of them."""

    unit: str
    part: PartWriter
    waiting: set[str]
    known: Mapping[str, KnownAnswer]
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

    def run(self, units: Sequence[str]) -> list[UnitSummary]:
        try:
            with decode_pool(self.home) as pool:
                for fetched in self.observer.ask(self._requests(units)):
                    self._take(fetched, pool)
                    self._keep(pool.ready())
                self._keep(pool.drain())
        finally:
            for opened in self._open.values():
                opened.part.discard()
        self.observer.ask_declared(self.declared)
        return self.done

    def _requests(self, units: Sequence[str]) -> Iterator[Request | None]:
        for unit in units:
            while len(self._open) >= OPEN_UNITS:
                yield None  # asked again after the next result
            opened = self._opened(unit)
            for url in sorted(opened.waiting):
                yield Request(url, "image", headers=_validators(opened.known.get(url)))

    def _opened(self, unit: str) -> _OpenUnit:
        # Whatever was asked to go meanwhile is neither fetched nor kept.
        self.observer.renew(self.home)
        urls = unit_urls(self.home, self.crawl, unit)
        part = PartWriter(plan.part(self.home, self.crawl, "pictures", unit), PICTURES)
        opened = _OpenUnit(unit, part, urls, known_pictures(self.home, sorted(urls)), utc_now())
        self._open[unit] = opened
        self.unit_of.update(dict.fromkeys(urls, opened))
        return opened

    def _take(self, fetched: Fetched, pool: DecodePool) -> None:
        row = fetch_row(fetched)
        self.declared |= self.observer.declared_in(seen_alone(fetched))
        if fetched.ok:
            self.meter.count(None, len(fetched.body))
            pool.submit(row | {"size_bytes": len(fetched.body)}, fetched.body)
            return
        known = self.unit_of[fetched.url].known.get(fetched.url)
        if fetched.outcome == NOT_MODIFIED and known is not None:
            row |= fetch_row(known.confirmed(fetched)) | dict(known.row)
        self._add(row)

    def _keep(self, results: Iterable[tuple[object, Shaped | DecodeError]]) -> None:
        for row, result in results:
            assert isinstance(row, dict)  # the tag is the row that waits for its picture
            if isinstance(result, Shaped):
                if not self.observer.keeps_out(result):
                    self.pixels.put(result.content_sha256, result.jpeg)
                row |= shaped_row(result)
            else:
                row |= {"outcome": f"decode-{result.code}", "detail": result.what}
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
    """Ask the pictures of these units; decode, fingerprint, look for faces; keep the pixels that we encoded."""
    return tuple(PictureUnits(home, crawl, observer_at(home), meter or Meter()).run(units))


def unit_urls(home: Home, crawl: str, unit: str) -> set[str]:
    """The pictures that a unit's pairs show."""
    path = plan.pairs_file(home, crawl, unit)
    return {row["image_url"] for rows in part_groups(path, ["image_url"]) for row in rows}


def decode_pool(home: Home) -> DecodePool:
    """Decoding workers as the home sets them up; faces are looked for where the ruleset asks for them."""
    settings = home.settings.images
    return DecodePool(
        settings.decode_workers,
        config=ShapeConfig(settings.size, settings.quality, c2pa_trust_anchors=trust_anchors(home)),
        limits=DecodeLimits(max_pixels=settings.max_pixels),
        analyser="curation.face_detection:default_detector" if "faces" in home.ruleset.mechanisms else None,
    )


def _validators(known: KnownAnswer | None) -> tuple[tuple[str, str], ...]:
    return known.validators if known is not None else ()


def summary(unit: str, counts: Mapping[str, int], started: datetime) -> UnitSummary:
    """What a unit did, from its counts and when it began."""
    return UnitSummary(unit, tuple(sorted(counts.items())), (utc_now() - started).total_seconds())
