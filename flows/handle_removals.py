"""Removal requests as a Prefect flow: what was approved is carried through, and no deadline passes unseen."""

from __future__ import annotations

from collections import Counter

from flows.stages.removing import applying, requests
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts


@custody_flow("handle-removals")
def handle_removals(home: str) -> dict[str, int]:
    """Apply the approved requests in one pass, then count all by state and those due within a week or overdue."""
    counts: Counter[str] = Counter()
    approved = [request.id for request in requests.list_removals(home_at(home)) if request.state == "approved"]
    if approved:
        counts.update(f"now {state}" for state in apply_removals(home, approved))
    counts.update(check_deadlines(home))
    return report_counts("removals", counts)


@custody_task("apply-removals")
def apply_removals(home: str, removal_ids: list[str]) -> list[str]:
    """Carry approved requests through; their new states."""
    told = applying.apply(home_at(home), *removal_ids, progress=ProgressReport("removal"))
    return [removal.state for removal in told]


@custody_task("check-deadlines")
def check_deadlines(home: str) -> dict[str, int]:
    """Requests by state, and how many are due soon or overdue."""
    return dict(requests.check_deadlines(home_at(home)))
