"""Where a crawl's pages and pairs come from: seeds and their links, sitemaps, archives, lists, folders, the ledger.

Archives are read into page parts, as if their pages had been asked; folders of img2dataset into picture parts, as if
their pictures had. Lists and the ledger name pairs. When all pages are known the pairs are dealt out to picture units.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from curation.fetch import TRANSIENT_OUTCOMES, Request
from curation.pair import ImageTextPair, canonical_url, origin_of, secret_in_url, url_key
from curation.pixel_store import PixelStore
from curation.storage import open_input
from curation.url_lists import Listed, read_url_list
from flows.home import Home, utc_now
from flows.settings import CrawlSettings
from flows.stages.crawling import plan
from flows.stages.crawling.asking import PAIRS_NOTE, PageReading, page_pool
from flows.stages.crawling.dealing import deal
from flows.stages.crawling.decoding import Decoding
from flows.stages.crawling.meter import Meter
from flows.stages.crawling.observer import observer_at
from flows.stages.crawling.plan import Job, PictureUnit, Source
from flows.stages.crawling.recognising import is_said
from flows.stages.crawling.rows import (
    IMPORT_FAILED,
    IMPORTED,
    PAGES,
    PAIRS,
    PICTURES,
    PageRead,
    fetch_row,
    imported_row,
    links_of,
    outcome_of,
    page_seen_json,
    pair_row,
    prior_row,
)
from flows.stages.parts import PartWriter, count_rows, part_groups, part_notes, unit_id
from policy.durable import write_durably
from policy.errors import InputError
from policy.evidence import LicenceClaim
from policy.origins import host_of, site_of
from policy.people import FACES

# Readers of what few crawls have are imported where they are used.
if TYPE_CHECKING:
    from curation.img2dataset import Imported
    from curation.warc import Place

SITEMAPS_MAX = 1_000  # of one crawl
ARCHIVE_KINDS = ("warc", "wat")

# The newest answer of every URL of a kind: whether it is asked again goes by that.
_NEWEST = """
SELECT url, url_key, outcome, started_at FROM "fetch" WHERE kind = $kind AND url IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY url_key ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_AGAIN_PAGES = f"SELECT url FROM ({_NEWEST}) WHERE {{which}} ORDER BY url"  # noqa: S608  # conditions of ours, below
# Pairs on record whose picture is asked again, but those of pages that are asked again themselves.
_AGAIN_PAIRS = f"""
WITH asked AS (SELECT url_key FROM ({_NEWEST}) WHERE {{which}}),
seen AS (
    SELECT pair_key, page_key, image_url, url_key FROM occurrence WHERE pair_key IS NOT NULL AND image_url IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT pair_key, image_url FROM seen SEMI JOIN asked USING (url_key)
WHERE page_key IS NULL OR page_key NOT IN (SELECT unnest($pages::VARCHAR[]))
ORDER BY pair_key
"""  # noqa: S608  # conditions of ours, below
# Pictures that nothing refuses any more, and that wait for somebody to look for faces: while something refused them
# nobody did, and nothing is kept of them (`decoding`). One denied pair of several would have nobody look once more.
UNSEEN = """
SELECT url_key FROM occurrence JOIN standing USING (pair_key) LEFT JOIN (
    SELECT pair_key AS waiting FROM latest_decision
    WHERE rule = $faces AND verdict = 'defer' AND reason_code = 'not-observed'
) AS unseen ON unseen.waiting = occurrence.pair_key
WHERE url_key IS NOT NULL
GROUP BY url_key HAVING bool_and(standing.verdict <> 'deny') AND count(unseen.waiting) > 0
"""
_WHICH = {
    "transient": "outcome IN (SELECT unnest($outcomes::VARCHAR[]))",
    "unobserved": f"outcome IN (SELECT unnest($outcomes::VARCHAR[])) OR outcome LIKE 'bulk-%' OR url_key IN ({UNSEEN})",
    "stale": "started_at < $before",
}
_ASKED_PAGES = "SELECT url_key FROM \"fetch\" WHERE kind = 'page' AND url_key IN (SELECT unnest(?::VARCHAR[]))"


def look_into(source: Source) -> None:
    """See that a source is what it is said to be, by the first that it holds. Raises InputError."""
    match source.kind:
        case "url-list":
            next(iter(read_url_list(source.location, columns=dict(source.columns) or None)), None)
        case "img2dataset":
            from curation.img2dataset import read_img2dataset

            next(read_img2dataset(source.location), None)
        case "warc" | "wat":
            with open_input(source.location):
                return


# ── pages: seeds, sitemaps, links ──────────────────────────────────────────────────────────────────────────────────


def page_units(home: Home, crawl: str) -> list[str]:
    """The page units that can be run now, by depth; empty when every page within the limits has been asked.

    Called again after they ran, it lays the next depth's frontier out of the links they found.
    """
    for depth in range(home.settings.crawl.max_depth + 1):
        frontier = plan.frontier(home, crawl, depth)
        if frontier is None:
            frontier = _lay_frontier(home, crawl, depth)
        waiting = [u.unit for u in frontier if not plan.part(home, crawl, "pages", u.unit).exists()]
        if waiting or not frontier:
            return waiting
    return []


def _lay_frontier(home: Home, crawl: str, depth: int) -> list[plan.Unit]:
    """The pages of a depth: the seeds, or the links found one depth above that are new, near and within the limits."""
    settings, job = home.settings.crawl, plan.job_of(home, crawl)
    if depth == 0:
        urls = list(job.seeds) or _again_pages(home, job)
    else:
        asked = {u for unit in plan.all_page_units(home, crawl) for u in unit.urls}
        above = sorted(u.unit for u in plan.frontier(home, crawl, depth - 1) or ())
        parts = [plan.part(home, crawl, "pages", unit) for unit in above]
        if depth == 1 and (sitemaps := _sitemaps_part(home, crawl)).exists():
            parts.append(sitemaps)
        near = _Near.of(settings, job.seeds or tuple(asked))
        found = {
            link
            for part in parts
            for rows in part_groups(part, ["page_json"])
            for row in rows
            for link in links_of(row)
            if link not in asked and near(link)
        }
        if job.again:
            found -= _asked_before(home, found)
        urls = sorted(found)[: max(settings.max_pages - len(asked), 0)]
    units = plan.split(urls, settings.pages_per_unit, f"{crawl}/pages-{depth}")
    plan.store_frontier(home, crawl, depth, units)
    return units


class _Near:
    """Which links are followed: those of the seeds' sites, if that is asked for, whose paths are let in."""

    def __init__(self, sites: frozenset[str] | None, paths: tuple[str, ...], skip_paths: tuple[str, ...]) -> None:
        self._sites, self._paths, self._skip_paths = sites, paths, skip_paths

    @classmethod
    def of(cls, settings: CrawlSettings, seeds: Sequence[str]) -> _Near:
        sites = frozenset(site_of(host_of(s)) for s in seeds) if settings.same_site else None
        return cls(sites, settings.paths, settings.skip_paths)

    def __call__(self, url: str) -> bool:
        if self._sites is not None and site_of(host_of(url)) not in self._sites:
            return False
        if not (self._paths or self._skip_paths):
            return True
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        if self._paths and not any(_matches(path, pattern) for pattern in self._paths):
            return False
        return not any(_matches(path, pattern) for pattern in self._skip_paths)


def _matches(path: str, pattern: str) -> bool:
    """Whether a path begins as a pattern says; `*` in it stands for any characters."""
    return fnmatch.fnmatchcase(path, f"{pattern.replace('[', '[[]').replace('?', '[?]')}*")


def _again_pages(home: Home, job: Job) -> list[str]:
    if job.again in ("", "unobserved"):
        return []
    with home.ledger(readonly=True) as ledger:
        which, given = _which(job)
        return [url for (url,) in ledger.query(_AGAIN_PAGES.format(which=which), given | {"kind": "page"})]


def _which(job: Job) -> tuple[str, dict[str, object]]:
    given: dict[str, object] = {}
    if job.again == "transient":
        given = {"outcomes": sorted(TRANSIENT_OUTCOMES)}
    elif job.again == "unobserved":
        given = {"outcomes": [IMPORTED, IMPORT_FAILED], "faces": FACES}
    elif job.again == "stale":
        given = {"before": (utc_now() - timedelta(days=job.stale_days)).replace(tzinfo=None)}
    return _WHICH[job.again], given


def _asked_before(home: Home, urls: Iterable[str]) -> set[str]:
    keys = {url_key(url): url for url in urls}
    with home.ledger(readonly=True) as ledger:
        return {keys[key] for (key,) in ledger.query(_ASKED_PAGES, [list(keys)])}


def _sitemaps_part(home: Home, crawl: str) -> Path:
    return plan.part(home, crawl, "pages", unit_id(crawl, "sitemaps"))


def ask_sitemaps(home: Home, crawl: str, meter: Meter | None = None) -> None:
    """Ask the sitemaps that the seeds' robots.txt files name; what they list counts as links of the seeds.

    They are asked as pages are, behind the same gate; of an index its sitemaps, on the same sites, up to a limit.
    """
    job, part = plan.job_of(home, crawl), _sitemaps_part(home, crawl)
    if not (job.seeds and home.settings.crawl.sitemaps) or part.exists():
        return
    from curation.sitemaps import read_sitemap, sitemap_urls

    observer, near = observer_at(home), _Near.of(home.settings.crawl, job.seeds)
    meter = meter or Meter()
    origins = sorted({origin_of(seed) for seed in job.seeds if observer.kept_out(seed) is None})
    known = observer.documents(origins)
    bodies = [d.body for o in origins if o in known and (d := known[o].get("robots")) and d.body is not None]
    waiting = [url for body in bodies for url in _usable(sitemap_urls(body), near)]
    asked: set[str] = set()
    with PartWriter(part, PAGES) as writer:
        while waiting and len(asked) < SITEMAPS_MAX:
            now, waiting = list(dict.fromkeys(waiting))[: SITEMAPS_MAX - len(asked)], []
            asked.update(now)
            for fetched in observer.ask(Request(url, "page") for url in now):
                row = fetch_row(fetched) | {"body": None, "body_sha256": None, "page_json": None}
                if fetched.ok:
                    read = read_sitemap(fetched.body, fetched.final_url or fetched.url)
                    waiting += [url for url in _usable(read.sitemaps, near) if url not in asked]
                    row["page_json"] = _links_json(read.urls)
                writer.add(row)
                meter.count(outcome_of(row), len(fetched.body))
        writer.finish()


def _usable(urls: Iterable[str], near: _Near) -> Iterator[str]:
    for url in urls:
        try:
            canonical = canonical_url(url)
        except InputError:
            continue
        if secret_in_url(canonical) is None and near(canonical):
            yield canonical


def _links_json(urls: Iterable[str]) -> str:
    return json.dumps({"pairs": [], "links": list(urls), "meta": [], "rsl": [], "whole": True}, ensure_ascii=False)


# ── archives ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_archives(home: Home, crawl: str, meter: Meter | None = None) -> None:
    """Read the WARC and WAT files of the job into page parts, from where it was left.

    A part holds `pages_per_unit` pages and notes where the next one begins. Damage is named and counted; reading goes
    on behind it.
    """
    counts: Counter[str] = Counter()
    for number, source in enumerate(plan.job_of(home, crawl).sources):
        if source.kind in ARCHIVE_KINDS:
            counts += _read_archive(home, crawl, number, source, meter or Meter())
    _tell(home, crawl, "archive", counts)


def _read_archive(home: Home, crawl: str, number: int, source: Source, meter: Meter) -> Counter[str]:
    from curation.warc import Place

    place: Place | None = Place(0)
    step, told = 0, Counter[str]()
    while place is not None:
        part = plan.part(home, crawl, "pages", unit_id(crawl, "archive", str(number), str(step)))
        if not part.exists():
            _cut_part(home, source, part, place, meter)
        notes = part_notes(part)
        told.update(json.loads(notes["counts"]))
        place = Place(*json.loads(notes["next"])) if notes["next"] else None
        step += 1
    return told


def _cut_part(home: Home, source: Source, part: Path, place: Place, meter: Meter) -> None:
    """Read the next pages of an archive into one part, and the origins of those pages for their documents.

    In the order of the archive, and without their links, which nobody follows.
    """
    from curation.warc import ArchivedPage, read_warc
    from curation.wat import read_wat

    settings, counts = home.settings.crawl, Counter[str]()
    if source.kind == "warc":
        items = read_warc(source.location, max_page_bytes=settings.max_page_bytes, start_offset=place, counts=counts)
    else:
        items = read_wat(source.location, start_offset=place, counts=counts)
    following = ""
    with PartWriter(part, PAGES) as writer, page_pool(with_links=False) as pool:
        reading = PageReading(writer, pool, observer_at(home), meter, in_order=True)
        for item in items:
            if isinstance(item, ArchivedPage):
                if item.page is not None:
                    reading.take_described(item.fetched, item.page)
                else:
                    reading.take(item.fetched)
                if reading.taken >= settings.pages_per_unit:
                    following = json.dumps(item.end_offset)
                    break
            else:
                counts[f"damage: {item.what}"] += 1
        reading.finish({"next": following, "counts": json.dumps(counts)})


# ── folders of img2dataset ─────────────────────────────────────────────────────────────────────────────────────────


def import_folders(home: Home, crawl: str, meter: Meter | None = None) -> None:
    """Read the img2dataset folders of the job into picture units that are done.

    Headers, redirects and robots.txt were not observed by whoever made them; neither is, of bytes that were encoded
    anew, what the original said of rights. The pictures wait for our own fetcher.
    """
    counts: Counter[str] = Counter()
    for number, source in enumerate(plan.job_of(home, crawl).sources):
        if source.kind == "img2dataset":
            counts += _import_folder(home, crawl, number, source, meter or Meter())
    _tell(home, crawl, "folder", counts)


def _import_folder(home: Home, crawl: str, number: int, source: Source, meter: Meter) -> Counter[str]:
    told: Counter[str] = Counter()
    items = _imported(source, told)
    for step in itertools.count():
        unit = _folder_unit(crawl, number, step)
        part = plan.part(home, crawl, "pictures", unit)
        some = itertools.islice(items, home.settings.crawl.images_per_unit)
        if part.exists():
            deque(some, maxlen=0)  # taken over before
        else:
            _import_some(home, part, plan.pairs_file(home, crawl, unit), some, meter)
        if count_rows(part) < home.settings.crawl.images_per_unit:
            return told
    raise AssertionError("a folder ends")


def _imported(source: Source, told: Counter[str]) -> Iterator[Imported]:
    from curation.img2dataset import Imported, read_img2dataset

    for item in read_img2dataset(source.location, keep=_KEPT_COLUMNS):
        if isinstance(item, Imported):
            yield item
        else:
            told[item.code] += item.count


_LICENCE_COLUMNS = ("license", "licence", "license_url", "licence_url")
_KEPT_COLUMNS = (*_LICENCE_COLUMNS, "page_url", "title", "creator", "author")


def _import_some(home: Home, part: Path, pairs: Path, items: Iterable[Imported], meter: Meter) -> None:
    """Decode the pictures of some rows of a folder; keep pixels and facts, and that nobody has observed the rest."""
    observer, pixels = observer_at(home), PixelStore(home.pixels_path)
    with ExitStack() as stack:
        stack.callback(pixels.discard)  # what was not settled
        pictures, waiting = (
            stack.enter_context(PartWriter(part, PICTURES)),
            stack.enter_context(PartWriter(pairs, PAIRS)),
        )
        decoding = stack.enter_context(Decoding(home, observer, pixels))

        def add(rows: Iterable[Mapping[str, object]]) -> None:
            for row in rows:
                pictures.add(row)
                meter.count(outcome_of(row))

        for item in items:
            pair = pair_row(_imported_pair(item))
            waiting.add(pair)
            if is_said(observer.in_force.tombstones, pair):
                observer.keep_out((item.url,))
            row = imported_row(item.url, IMPORTED if item.stored is not None else IMPORT_FAILED)
            if (code := observer.kept_out(item.url)) is not None:
                row |= {"outcome": "refused-by-policy", "detail": code, "refused_url": item.url}
            elif item.stored is not None:
                decoding.submit(row, item.stored, (pair,), is_original=item.is_original is True)
                add(decoding.ready())
                continue
            add((row,))
        add(decoding.drain())
        pixels.settle()
        waiting.finish()
        pictures.finish()


def _imported_pair(item: Imported) -> ImageTextPair:
    kept = dict(item.kept)
    claims = tuple(
        LicenceClaim(
            kept[name], "given", "image", kept.get("title"), kept.get("creator") or kept.get("author"), where=name
        )
        for name in _LICENCE_COLUMNS
        if kept.get(name)
    )
    text = " ".join((item.caption or "").split()) or None
    return ImageTextPair(
        kept.get("page_url") or None, item.url, text, None if text is None else "given", licence_claims=claims
    )


def _folder_unit(crawl: str, number: int, step: int) -> str:
    return unit_id(crawl, "folder", str(number), str(step))


def _folder_units(home: Home, crawl: str) -> Iterator[PictureUnit]:
    """The units that folders were imported into."""
    for number, source in enumerate(plan.job_of(home, crawl).sources):
        for step in itertools.count() if source.kind == "img2dataset" else ():
            unit = _folder_unit(crawl, number, step)
            if not plan.part(home, crawl, "pictures", unit).exists():
                break
            yield PictureUnit(unit, count_rows(plan.pairs_file(home, crawl, unit)))


# ── pairs, dealt out ───────────────────────────────────────────────────────────────────────────────────────────────


def deal_pictures(home: Home, crawl: str) -> list[PictureUnit]:
    """The picture units; the first time, when all pages are known, all pairs are dealt out to them."""
    units = plan.picture_units(home, crawl)
    if units is None:
        job = plan.job_of(home, crawl)
        pages = plan.parts(home, crawl, "pages")
        total = sum(int(part_notes(part).get(PAIRS_NOTE, 0)) for part in pages)
        lists = [source for source in job.sources if source.kind == "url-list"]
        total += sum(_length(source) for source in lists)
        again = _again_pairs(home, crawl, job)
        total += len(again)
        count = max(1, -(-total // home.settings.crawl.images_per_unit))
        names = [unit_id(crawl, "pictures", str(count), str(number)) for number in range(count)]
        told: Counter[str] = Counter()
        pairs = itertools.chain(_page_pairs(pages), *(_listed(source, told) for source in lists), again)
        dealt = deal(
            pairs,
            count,
            lambda number: plan.pairs_file(home, crawl, names[number]),
            plan.directory(home, crawl) / "dealing",
        )
        units = [PictureUnit(names[number], dealt[number]) for number in sorted(dealt)]
        units += _folder_units(home, crawl)
        _tell(home, crawl, "list", told)
        plan.store_picture_units(home, crawl, units)
    return units


def told(home: Home, crawl: str) -> Counter[str]:
    """What was counted in the job's archives, and what could not be used of its lists and folders, by reason."""
    return sum((Counter(json.loads(p.read_text("utf-8"))) for p in _told_paths(home, crawl)), Counter())


def _tell(home: Home, crawl: str, kind: str, counts: Mapping[str, int]) -> None:
    if counts:
        path = plan.directory(home, crawl) / f"told-{kind}.json"
        write_durably(path, json.dumps({f"{kind}: {what}": n for what, n in counts.items()}).encode())


def _told_paths(home: Home, crawl: str) -> list[Path]:
    return sorted(plan.directory(home, crawl).glob("told-*.json"))


def _page_pairs(parts: Iterable[Path]) -> Iterator[dict[str, object]]:
    columns = ["url", "final_url", "hops_json", "started_at", "page_json"]
    for part in parts:
        for rows in part_groups(part, columns):
            for row in rows:
                read = PageRead.of(row)
                if read.pairs:
                    seen = page_seen_json(row, read)
                    yield from (pair_row(pair, seen) for pair in read.pairs)


def _length(source: Source) -> int:
    """About how many rows a list has: what decides on the number of units need not be exact."""
    if source.location.lower().endswith(".parquet"):
        with open_input(source.location) as file:
            try:
                return int(pq.read_metadata(file).num_rows)
            except pa.ArrowException:
                return 0  # reading it will say what is wrong
    return sum(1 for _ in _listed(source, Counter()))


def _listed(source: Source, told: Counter[str]) -> Iterator[dict[str, object]]:
    for item in read_url_list(source.location, columns=dict(source.columns) or None):
        if isinstance(item, Listed):
            yield pair_row(item.pair, expected_sha256=item.sha256)
        else:
            told[item.code] += 1


def _again_pairs(home: Home, crawl: str, job: Job) -> list[dict[str, object]]:
    if not job.again:
        return []
    pages = [url_key(url) for unit in plan.all_page_units(home, crawl) for url in unit.urls]
    which, given = _which(job)
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(_AGAIN_PAIRS.format(which=which), given | {"kind": "image", "pages": pages})
    return [prior_row(pair_key, image_url) for pair_key, image_url in rows]
