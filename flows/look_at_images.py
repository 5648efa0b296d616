"""Looking at pictures as a Prefect flow: quality, near duplicates, safety, each in units, then the verdicts."""

from __future__ import annotations

from flows.stages.look import Looking
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer


@custody_flow("look-at-images")
def look_at_images(home: str) -> dict[str, int]:
    """Measure what passes every cheaper rule, models last, and judge it anew."""
    place = home_at(home)
    with sole_writer(place):
        looking = Looking(place, ProgressReport("look"))
        for mechanism in looking.mechanisms:
            for unit in range(looking.begin(mechanism)):
                look_at_unit(looking, unit)
        return write_verdicts(looking)


@custody_task("look-at-unit")
def look_at_unit(looking: Looking, unit: int) -> int:
    """One unit of the mechanism that is being looked at; how many pictures that were."""
    return looking.do(unit)


@custody_task("write-verdicts")
def write_verdicts(looking: Looking) -> dict[str, int]:
    """Evidence written anew and judged, in counts."""
    summary = looking.finish()
    counts = {f"{looked.mechanism} measured": looked.measured for looked in summary.looked}
    return report_counts("look-outcomes", counts | {"pictures": summary.pictures, "duplicates": summary.duplicates})
