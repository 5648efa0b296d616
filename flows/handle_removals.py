"""Removal requests as Prefect flows: approvals are carried through, models rid of them, no deadline passes unseen."""

from __future__ import annotations

from collections import Counter

from flows.stages.removing import applying, models, requests
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


@custody_flow("replay-models")
def replay_models(home: str) -> dict[str, int]:
    """Rid models of what was removed since: all of it in one pass, in the order in which they stand on each other."""
    counts: Counter[str] = Counter()
    waiting = models_waiting(home)
    if waiting:
        counts.update(serve_models(home, waiting))
    return report_counts("models", counts)


@custody_task("models-waiting")
def models_waiting(home: str) -> list[str]:
    """The removals in force that models have still to be rid of."""
    return list(models.waiting(home_at(home)))


@custody_task("serve-models")
def serve_models(home: str, removal_ids: list[str]) -> dict[str, int]:
    """Replay or withdraw what saw them; how many runs by what became of them, and of the rest that never saw any."""
    done = models.serve_models(home_at(home), *removal_ids, progress=ProgressReport("models"))
    counts = Counter(f"{run.action} {run.tier}".strip() for run in done.runs)
    return {**counts, "removals": len(done.removals), "never saw them": len(done.never_seen)}
