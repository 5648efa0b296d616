"""The auditors' snapshot as a Prefect flow: published when something changed, and asked what must have no answer."""

from __future__ import annotations

from flows.home import utc_now
from flows.stages import audits
from flows.steps import custody_flow, custody_task, home_at, report_counts
from policy.errors import IntegrityError
from policy.snapshot import publish

# Audits that must come back empty: (name, what a row would mean).
MUST_BE_EMPTY = ("denied_or_deferred_in_shard", "decisions_without_evidence")


@custody_flow("publish-reports")
def publish_reports(home: str) -> dict[str, int]:
    """Publish audit.duckdb and run the audits that must be empty; a row in one of them fails the flow."""
    publish_snapshot(home)
    rows = {name: count_rows(home, name) for name in MUST_BE_EMPTY}
    report_counts("must-be-empty", rows)
    if found := [name for name, count in rows.items() if count]:
        raise IntegrityError(f"audits that must be empty are not: {', '.join(found)}", where="audit.duckdb")
    return rows


@custody_task("publish-snapshot")
def publish_snapshot(home: str) -> None:
    """A copy of the ledger that any DuckDB client may open while writers work."""
    place = home_at(home)
    with place.ledger() as ledger:
        publish(ledger, place.snapshot_path, now=utc_now())


@custody_task("count-rows")
def count_rows(home: str, audit: str) -> int:
    """The number of rows an audit finds."""
    _, rows = audits.run(home_at(home), audit, {})
    return sum(1 for _ in rows)
