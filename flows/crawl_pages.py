"""The crawl as a Prefect flow: page units a depth at a time, picture units, the ledger, the verdicts."""

from __future__ import annotations

from collections import Counter

from flows.stages import crawl, decide
from flows.stages.crawling.meter import Meter
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer

# Picture units of one task: they overlap, so that a slow origin in one holds up none of the others.
UNITS_A_TASK = 8


@custody_flow("crawl-pages")
def crawl_pages(home: str, crawl_id: str | None = None) -> dict[str, int]:
    """Go on with a crawl, or with one of the seeds in custody.toml, until every pair stands judged in the ledger."""
    place, outcomes = home_at(home), Counter[str]()
    with sole_writer(place):
        name = crawl_id or crawl.open_crawl(place, crawl.read_seeds(place.settings.crawl.seeds))
        read_sources(home, name)
        while units := crawl.page_units(place, name):
            for unit in units:
                outcomes.update(ask_pages(home, name, unit))
        pictures = crawl.image_units(place, name)
        for start in range(0, len(pictures), UNITS_A_TASK):
            outcomes.update(ask_pictures(home, name, pictures[start : start + UNITS_A_TASK]))
        append_parts(home, name)
        judge(home)
    return report_counts("crawl-outcomes", outcomes)


@custody_task("read-sources")
def read_sources(home: str, crawl_id: str) -> None:
    """Sitemaps, archives and folders, as far as the crawl has any."""
    crawl.read_sources(home_at(home), crawl_id, ProgressReport("crawl"))


@custody_task("ask-pages")
def ask_pages(home: str, crawl_id: str, unit: str) -> dict[str, int]:
    """One page unit, in counts by outcome."""
    summary = crawl.run_page_unit(home_at(home), crawl_id, unit, Meter(ProgressReport("crawl"), "pages"))
    return {f"page {outcome}": count for outcome, count in summary.outcomes}


@custody_task("ask-pictures")
def ask_pictures(home: str, crawl_id: str, units: list[str]) -> dict[str, int]:
    """Some picture units, in counts by outcome."""
    counts: Counter[str] = Counter()
    for summary in crawl.run_image_units(home_at(home), crawl_id, units, ProgressReport("crawl")):
        counts.update({f"picture {outcome}": count for outcome, count in summary.outcomes})
    return dict(counts)


@custody_task("append-parts")
def append_parts(home: str, crawl_id: str) -> int:
    """The ledger takes over what the units found; pairs found."""
    return crawl.append_crawl(home_at(home), crawl_id, ProgressReport("crawl")).pairs


@custody_task("decide")
def judge(home: str) -> int:
    """Every pair judged under the home's ruleset; pairs whose verdicts changed."""
    summary = decide.decide(home_at(home), ProgressReport("decide"))
    standing: Counter[str] = Counter()
    for verdict, rule, reason, pairs in summary.standing:
        standing[f"{verdict} {rule} {reason}"] += pairs
    report_counts("standing-verdicts", standing)
    return summary.changed
