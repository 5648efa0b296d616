"""The recheck as a Prefect flow: are the sources' reservations and licences still what they were?"""

from __future__ import annotations

from dataclasses import asdict

from flows.stages import recheck
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer


@custody_flow("recheck-sources")
def recheck_sources(home: str) -> dict[str, int]:
    """Ask the origins' documents and the pages' headers again; an observed "no" ends new use from now on."""
    with sole_writer(home_at(home)):
        return report_counts("recheck-outcomes", ask_again(home))


@custody_task("ask-again")
def ask_again(home: str) -> dict[str, int]:
    """Origins asked and silent, pairs looked at, pairs with new evidence and with changed decisions."""
    return asdict(recheck.recheck(home_at(home), ProgressReport("recheck")))
