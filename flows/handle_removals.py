"""Removal requests as Prefect flows: approvals are carried through, models rid of them, no deadline passes unseen."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.stages.removing import applying, models, receipts, requests
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts


@custody_flow("handle-removals")
def handle_removals(home: str) -> dict[str, int] | State[Any]:
    """Apply the approved requests in one pass, match open ones anew, count all by state and by deadline.

    A request that was not answered in time is escalated: that is recorded, and the flow ends as failed, so that
    whatever watches flows tells somebody.
    """
    counts: Counter[str] = Counter()
    approved = [request.id for request in requests.list_removals(home_at(home)) if request.state == "approved"]
    if approved and (forgetting := models_to_approximate(home, approved)):
        serve_models(home, forgetting)  # before the bytes go: to forget a picture it must be there
        waiting = models_to_approximate(home, approved)  # somebody trains what has to forget it: the next time
        approved = [name for name in approved if name not in waiting]
        counts["waiting for a model"] = len(waiting)
    if approved:
        counts.update(f"now {state}" for state in apply_removals(home, approved))
    match_anew(home)
    told, overdue = check_deadlines(home)
    counts.update(told)
    reported = report_counts("removals", counts)
    if overdue:
        return Failed(name="NeedsAttention", message=f"{overdue} removal requests are overdue: custody removal list")
    return reported


@custody_task("models-to-approximate")
def models_to_approximate(home: str, removal_ids: list[str]) -> list[str]:
    """Of approved requests, those that models have to forget before their bytes go."""
    return sorted(models.to_approximate(home_at(home), removal_ids))


@custody_task("apply-removals")
def apply_removals(home: str, removal_ids: list[str]) -> list[str]:
    """Carry approved requests through; their new states."""
    told = applying.apply(home_at(home), *removal_ids, progress=ProgressReport("removal"))
    return [removal.state for removal in told]


@custody_task("match-anew")
def match_anew(home: str) -> int:
    """Hold what has come since open requests did, and forget who asked for those that are closed."""
    return requests.look_again(home_at(home))


@custody_task("check-deadlines")
def check_deadlines(home: str) -> tuple[dict[str, int], int]:
    """Requests by state, and how many are due soon, overdue or escalated; and how many are overdue.

    Those that press stand in an artifact: their ids and days, nothing else.
    """
    found = requests.deadlines(home_at(home))
    table = [{"removal": name, "days left": left} for name, left in found.pressing]
    create_table_artifact(key="removals-due", table=table)
    return dict(found.counts), found.overdue


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
    receipts.issue_again(home_at(home), removal_ids)
    counts = Counter(f"{run.action} {run.tier}".strip() for run in done.runs)
    return {**counts, "removals": len(done.removals), "never saw them": len(done.never_seen)}
