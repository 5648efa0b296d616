"""Removal requests as a Prefect flow: what was approved is carried through, and no deadline passes unseen."""

from __future__ import annotations

from collections import Counter

from flows.stages import removal
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts


@custody_flow("handle-removals")
def handle_removals(home: str) -> dict[str, int]:
    """Apply every approved request, then count the requests by state and those due within a week or overdue."""
    counts: Counter[str] = Counter()
    for request in removal.list_removals(home_at(home)):
        if request.state == "approved":
            counts[f"now {apply_removal(home, request.id)}"] += 1
    counts.update(check_deadlines(home))
    return report_counts("removals", counts)


@custody_task("apply-removal")
def apply_removal(home: str, removal_id: str) -> str:
    """Carry one approved request through; its new state."""
    return str(removal.apply(home_at(home), removal_id, ProgressReport("removal")).state)


@custody_task("check-deadlines")
def check_deadlines(home: str) -> dict[str, int]:
    """Requests by state, and how many are due soon or overdue."""
    return dict(removal.check_deadlines(home_at(home)))
