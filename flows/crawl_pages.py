"""The crawl as a Prefect flow: page units a depth at a time, picture units, the ledger, the verdicts."""

from __future__ import annotations

from collections import Counter

from flows.stages import crawl, decide
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer


@custody_flow("crawl-pages")
def crawl_pages(home: str, crawl_id: str | None = None) -> dict[str, int]:
    """Go on with a crawl, or with one of the seeds in custody.toml, until every pair stands judged in the ledger."""
    place, told, outcomes = home_at(home), ProgressReport("crawl"), Counter[str]()
    with sole_writer(place):
        name = crawl_id or crawl.open_crawl(place, crawl.read_seeds(place.settings.crawl.seeds))
        while units := crawl.page_units(place, name):
            for done, unit in enumerate(units, 1):
                outcomes.update(ask_pages(home, name, unit))
                told(done, len(units), "pages: ")
        pictures = crawl.image_units(place, name)
        for done, unit in enumerate(pictures):
            outcomes.update(ask_pictures(home, name, unit, done, len(pictures)))
        append_parts(home, name)
        judge(home)
    return report_counts("crawl-outcomes", outcomes)


@custody_task("ask-pages")
def ask_pages(home: str, crawl_id: str, unit: str) -> dict[str, int]:
    """One page unit, in counts by outcome."""
    summary = crawl.run_page_unit(home_at(home), crawl_id, unit)
    return {f"page {outcome}": count for outcome, count in summary.outcomes}


@custody_task("ask-pictures")
def ask_pictures(home: str, crawl_id: str, unit: str, done_units: int, units: int) -> dict[str, int]:
    """One picture unit, in counts by outcome."""
    within = ProgressReport("crawl").within(done_units, units, "pictures")
    summary = crawl.run_image_unit(home_at(home), crawl_id, unit, within)
    return {f"picture {outcome}": count for outcome, count in summary.outcomes}


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
