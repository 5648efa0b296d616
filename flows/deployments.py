"""Schedules: the flows as Prefect deployments of one home, and the process that serves them.

A deployment names its flow by module path: by file path Prefect would put `flows/` first on sys.path. What runs at
the same time is settled by the home's own lock (`steps.sole_writer`), not by Prefect's limits: a killed run holds
those for minutes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.prefect_server import prefect_server
from flows.terminal import say

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

    from flows.home import Home

# Runs side by side in one serving process; writers wait for each other, so this only has to leave removals a place.
PROCESS_LIMIT = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow and when it runs: a cron line in UTC, an interval, or neither (only by hand, from the UI or the API)."""

    flow: Flow[..., Any]
    cron: str = ""
    interval: timedelta | None = None


def plans(home: Home) -> tuple[Plan, ...]:
    """Every flow that can run unattended, with the home's schedule."""
    from flows.caption_images import caption_images
    from flows.crawl_pages import crawl_pages
    from flows.handle_removals import handle_removals, replay_models
    from flows.look_at_images import look_at_images
    from flows.publish_reports import publish_reports
    from flows.recheck_sources import recheck_sources
    from flows.seal_shards import seal_shards
    from flows.train_model import train_model

    when = home.settings.schedule
    return (
        Plan(crawl_pages, when.crawl),
        Plan(recheck_sources, when.recheck),
        Plan(handle_removals, when.removals),
        Plan(replay_models, when.models),
        Plan(publish_reports, when.reports),
        Plan(look_at_images),
        Plan(caption_images),
        Plan(seal_shards),
        Plan(train_model),
    )


def deployment(plan: Plan, home: Path) -> RunnerDeployment:
    """A plan as Prefect takes it, told which home to work in."""
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    schedule = Cron(plan.cron, timezone="UTC") if plan.cron else Interval(plan.interval) if plan.interval else None
    made: RunnerDeployment = RunnerDeployment.from_flow(
        plan.flow,
        name=deployment_name(home),
        schedule=schedule,
        parameters={"home": str(home)},
        tags=["custody"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return made


def deployment_name(home: Path) -> str:
    """The same for the same home, different for two homes on one server."""
    return f"{home.name}-{hashlib.blake2b(str(home).encode(), digest_size=4).hexdigest()}"


def serve(home: Home, *, once: bool = False) -> None:
    """Register the home's deployments and run what is due until interrupted; `once`: only register them."""
    path = home.path.resolve()
    with prefect_server(path / "prefect") as endpoint:
        chosen = plans(home)
        for plan in chosen:
            say(f"  {plan.flow.name:<18} {plan.cron or 'by hand'}")
        say(f"Prefect: {endpoint.ui_url}" + (f"  (user and password: {endpoint.auth})" if endpoint.auth else ""))
        serve_deployments([deployment(plan, path) for plan in chosen], once=once)


def serve_deployments(deployments: Sequence[RunnerDeployment], *, once: bool = False, poll_s: float = 10.0) -> None:
    """Register deployments with the Prefect server in force and run what is due, each run in a process of its own."""
    import prefect

    _let_children_find_us()
    if once:
        for made in deployments:
            made.apply()
        return
    prefect.serve(*deployments, limit=PROCESS_LIMIT, query_seconds=poll_s, print_starting_message=False)


def _let_children_find_us() -> None:
    """A run's process imports its flow by module path, wherever it starts: our packages must be on its path."""
    ours = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if ours not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ours, *known]))
