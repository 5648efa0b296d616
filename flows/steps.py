"""Prefect as our flows use it: one task a work unit, nothing stored, nothing told but ids, codes and counts.

Units are resumable by themselves, so Prefect neither retries nor caches them, and it keeps no results (they would be
plain files that nobody cleans). What goes wrong in a step reaches Prefect as the kind of error and the place in our
code; the message itself, which may hold a URL, stays in this process as `StepFailedError.cause`.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import UUID

# Prefect counts its first import on its makers' server unless this is set by then.
os.environ.setdefault("DO_NOT_TRACK", "1")
# Read by OpenMP when torch is imported: how long a waiting thread spins before it sleeps (docs/decisions.md).
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from prefect import Flow, Task, flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from flows.terminal import Progress, silent
from policy.errors import BusyError, is_interrupt

if TYPE_CHECKING:
    from flows.home import Home

P = ParamSpec("P")
R = TypeVar("R")

_OUR_PACKAGES = ("flows", "training", "curation", "policy")
_SECONDS_BETWEEN_UPDATES = 2.0
_at_the_prompt: ContextVar[Progress] = ContextVar("at_the_prompt", default=silent)


class StepFailedError(Exception):
    """A step failed: the kind of error and where in our code. `cause` is the error itself, for this process only."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(f"{type(cause).__name__} at {_place(cause.__traceback__)}")

    def __reduce__(self) -> tuple[type[Exception], tuple[str]]:
        # Should Prefect ever pickle it, the cause does not travel along.
        return Exception, (str(self),)


def custody_flow(name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """A flow of ours: its parameters are ids, codes and the home's path."""

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        return flow(name=name, retries=0, persist_result=False, log_prints=False)(_discreet(function))

    return decorate


def custody_task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task of ours: one work unit of seconds to minutes."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return task(name=name, retries=0, persist_result=False, cache_policy=NO_CACHE, log_prints=False)(
            _discreet(function)
        )

    return decorate


def run(our_flow: Flow[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow in this process; what went wrong in it is raised as it was, not as Prefect was told."""
    try:
        with _no_second_traceback():
            return our_flow(*args, **kwargs)
    except StepFailedError as failure:
        raise failure.cause from None


@contextmanager
def _no_second_traceback() -> Iterator[None]:
    """The caller explains the error; Prefect's account of it goes to its server, not to the prompt as well."""
    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    for logger in loggers:
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.propagate = True


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Flows run within this block also tell their progress to `progress`, at the prompt."""
    token = _at_the_prompt.set(progress)
    try:
        yield
    finally:
        _at_the_prompt.reset(token)


class ProgressReport:
    """A stage's progress, told at the prompt and as Prefect progress artifacts, one for each name before a colon."""

    def __init__(self, flow_key: str) -> None:
        self._flow_key = flow_key
        self._artifacts: dict[str, UUID] = {}
        self._told_at: dict[str, float] = {}

    def __call__(self, done: int, total: int, note: str = "") -> None:
        _at_the_prompt.get()(done, total, note)
        name = note.partition(":")[0].strip() or "progress"
        now = time.monotonic()
        if done < total and now - self._told_at.get(name, 0.0) < _SECONDS_BETWEEN_UPDATES:
            return
        self._told_at[name] = now
        percent = 100.0 * done / max(total, 1)
        # What stands at the prompt stands in the artifact: counts, rates and outcomes, no URL.
        said = f"{self._flow_key}: {note.strip().rstrip(':') or name}, {done:,} of {total:,}"
        if artifact := self._artifacts.get(name):
            update_progress_artifact(artifact, progress=percent, description=said)
            return
        # Prefect refuses whatever else is in a key; names of runs come from the operator's own.
        key = re.sub(r"[^a-z0-9]+", "-", f"{self._flow_key}-{name}".lower()).strip("-")
        made = create_progress_artifact(progress=percent, key=key, description=said)
        if isinstance(made, UUID):
            self._artifacts[name] = made


@contextmanager
def sole_writer(home: Home, *, wait_s: float = 6 * 3600) -> Iterator[None]:
    """Hold the home for one writing flow at a time; a killed holder lets go by dying.

    Raises BusyError when another flow still holds it after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with (home.path / "flows.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BusyError("another flow is writing", where=str(home.path), remedy="Let it end") from error
                time.sleep(0.5)
        yield


def report_counts(key: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by outcome as a table artifact; returned as a plain dict, a flow's result."""
    table = [{"outcome": outcome, "count": count} for outcome, count in sorted(counts.items())]
    create_table_artifact(key=key, table=table)
    return dict(sorted(counts.items()))


def report_line(key: str, line: str) -> None:
    """A sentence as an artifact: counts and shares, nothing of a page or a person. (Logs below warnings go nowhere.)"""
    create_markdown_artifact(line, key=key)


def home_at(path: str) -> Home:
    """The home a flow was told to work in."""
    from flows.home import Home

    return Home.open(Path(path))


def _discreet(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StepFailedError:
            raise
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            raise StepFailedError(error) from None

    return wrapper


def _place(trace: TracebackType | None) -> str:
    """The innermost line of our own code in a traceback, as module:line."""
    place = "unknown"
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _OUR_PACKAGES and module != __name__:
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
