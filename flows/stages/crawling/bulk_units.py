"""Picture units whose pictures img2dataset downloads: what may be asked is handed over, what comes back is imported.

Our own fetcher asks each origin for its documents first, and policy says of each URL whether it may be asked at all;
only that list goes out. Of what comes back nothing was observed on the way: every pair waits until our fetcher has
asked for its picture itself (`custody crawl --retry unobserved`, or a recheck) and found the same bytes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.pair import origin_of
from curation.pixel_store import PixelStore
from flows.home import Home, utc_now
from flows.stages import bulk
from flows.stages.bulk import BulkOutcome, BulkSettings
from flows.stages.crawling import plan
from flows.stages.crawling.asking import UnitSummary, summary, unit_urls
from flows.stages.crawling.decoding import Decoding, shown_pairs
from flows.stages.crawling.meter import Meter
from flows.stages.crawling.observer import Observer, fetch_config, observer_at
from flows.stages.crawling.recognising import said_urls
from flows.stages.crawling.rows import IMPORTED, PICTURES, imported_row, outcome_of
from flows.stages.parts import PartWriter, read_part, unit_id, write_part
from policy.errors import CustodyError

_APPROVED = pa.schema({"url": pa.string(), "unit": pa.string(), "refused": pa.string()})


def settings_of(home: Home) -> BulkSettings:
    """[bulk] of custody.toml; a relative interpreter is the home's."""
    given = {f.name: getattr(home.settings.bulk, f.name) for f in dataclasses.fields(BulkSettings)}
    if given["python"]:
        given["python"] = str(home.path / given["python"])
    return BulkSettings(**given)


def require_ready(home: Home) -> None:
    """Refuse before anything is read: no declared guard, one that does not hold, no environment."""
    bulk.require_guard(settings_of(home))
    bulk.check_environment(settings_of(home))


def run(home: Home, crawl: str, units: Sequence[str], meter: Meter) -> tuple[UnitSummary, ...]:
    """Run picture units, some of them at a time as one job of img2dataset; their parts are the outcome."""
    urls_per_unit = max(home.settings.crawl.images_per_unit, 1)
    step = max(home.settings.bulk.urls_per_job // urls_per_unit, 1)
    done: list[UnitSummary] = []
    for start in range(0, len(units), step):
        done += _run_job(home, crawl, units[start : start + step], meter)
    return tuple(done)


def _run_job(home: Home, crawl: str, units: Sequence[str], meter: Meter) -> list[UnitSummary]:
    started, observer = utc_now(), observer_at(home)
    job = plan.directory(home, crawl) / "bulk" / unit_id(*units)[:16]
    approved = job / "approved.parquet"
    if not approved.exists():
        # Fixed once: a run that was killed is gone on with, whatever the origins say by now.
        write_part(approved, list(_approved(home, crawl, units, observer)), _APPROVED)
    rows = read_part(approved)
    handed_over = job / "urls.parquet"
    if not handed_over.exists():
        write_part(handed_over, [row for row in rows if row["refused"] is None], _APPROVED)
    done = bulk.run(handed_over, job / "unit", settings_of(home), fetch_config(home))
    if not done.complete:
        raise CustodyError(
            f"img2dataset left {done.shards - done.shards_done} of {done.shards} shards undone",
            where=str(done.unit / "bulk.log"),
            remedy="Run the command again: what is done stays",
        )
    with home.ledger(readonly=True) as ledger:
        observer.renew(home, ledger)
        shown = [shown_pairs(home, ledger, observer, plan.pairs_file(home, crawl, unit)) for unit in units]
    pairs = {url: found for unit in shown for url, found in unit.items()}
    summaries = _import_job(home, crawl, job, rows, pairs, observer, meter, started)
    shutil.rmtree(job)
    return summaries


def _approved(home: Home, crawl: str, units: Sequence[str], observer: Observer) -> Iterator[Mapping[str, object]]:
    """Every URL of these units, and why it is not handed over, where it is not."""
    urls = {url: unit for unit in units for url in unit_urls(home, crawl, unit)}
    for unit in units:
        observer.keep_out(said_urls(observer.in_force.tombstones, plan.pairs_file(home, crawl, unit)))
    observer.documents({origin_of(url) for url in urls if observer.kept_out(url) is None})
    for url, unit in sorted(urls.items()):
        yield {"url": url, "unit": unit, "refused": observer.kept_out(url) or observer.gate(url)}


def _import_job(
    home: Home,
    crawl: str,
    job: Path,
    rows: Sequence[Mapping[str, str]],
    pairs: Mapping[str, Sequence[Mapping[str, Any]]],
    observer: Observer,
    meter: Meter,
    started: datetime,
) -> list[UnitSummary]:
    pixels, unit_of = PixelStore(home.pixels_path), {row["url"]: row["unit"] for row in rows}
    parts = {unit: PartWriter(plan.part(home, crawl, "pictures", unit), PICTURES) for unit in set(unit_of.values())}
    counts: dict[str, Counter[str]] = {unit: Counter() for unit in parts}

    def add(row: Mapping[str, object]) -> None:
        unit = unit_of[str(row["url"])]
        parts[unit].add(row)
        counts[unit][outcome_of(row)] += 1
        meter.count(outcome_of(row), int(str(row.get("size_bytes") or 0)))

    try:
        for row in rows:
            if row["refused"] is not None:
                add(imported_row(row["url"], "refused-by-policy", row["refused"]) | {"refused_url": row["url"]})
        with Decoding(home, observer, pixels) as decoding:
            outcomes = bulk.reconcile(job / "urls.parquet", job / "unit", max_bytes=home.settings.crawl.max_image_bytes)
            for item in outcomes:
                if not isinstance(item, BulkOutcome):
                    continue  # of its folder; each row has its outcome all the same
                stored = item.imported.stored if item.imported is not None else None
                if stored is None:
                    add(imported_row(item.url, item.outcome, item.detail))
                elif (code := observer.kept_out(item.url)) is not None:  # asked to go while it was downloaded
                    add(imported_row(item.url, "refused-by-policy", code) | {"refused_url": item.url})
                else:
                    decoding.submit(imported_row(item.url, IMPORTED), stored, pairs.get(item.url, ()))
                    for measured in decoding.ready():
                        add(measured)
            for measured in decoding.drain():
                add(measured)
        pixels.settle()
        for part in parts.values():
            part.finish()
    finally:
        pixels.discard()
        for part in parts.values():
            part.discard()
    return [summary(unit, counts[unit], started) for unit in sorted(parts)]
