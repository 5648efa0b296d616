"""Audits: named questions and free SQL, read-only on the published snapshot.

One question is not SQL but arithmetic: `exposure` lists what a checkpoint was fed, from the order of its run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from flows.home import Home, utc_now
from flows.stages.schedules import LedgerSchedules
from policy import audit
from policy.audit import Audit
from policy.errors import InputError
from policy.provenance import TrainingRun
from policy.snapshot import publish

EXPOSURE = Audit(
    "exposure", "Which samples was a checkpoint fed, how often, and at which steps ($checkpoint)?", ("checkpoint",)
)
_COLUMNS = ("dataset", "ordinal", "sample_key", "count", "steps")
_EXPOSURES_AT_ONCE = 1 << 17  # bounds the memory, whatever the dataset's size and the number of epochs

_CHECKPOINT = """
SELECT run, segment, step, schedule_json FROM checkpoint WHERE checkpoint = $checkpoint
ORDER BY batch_seq DESC, row_no DESC LIMIT 1
"""
_SCHEDULES = "SELECT DISTINCT schedule_json FROM checkpoint WHERE run = $run"
_RUN = "SELECT record_json FROM run WHERE run = $run ORDER BY batch_seq DESC, row_no DESC LIMIT 1"
_KEYS = "SELECT ordinal, sample_key FROM slot WHERE dataset = $dataset AND ordinal >= $start AND ordinal < $stop"


def list_audits() -> Sequence[Audit]:
    """The named audits, each with the question it answers and its parameters."""
    return sorted((*audit.list_audits(), EXPOSURE))


def read_parameters(arguments: Sequence[str]) -> dict[str, str]:
    """key=value arguments.

    Raises:
        InputError: one is not of that form.
    """
    parameters = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(
                f"{argument!r} is not key=value", where="custody audit", remedy="`custody audit` lists what each takes"
            )
        parameters[key] = value
    return parameters


def run(home: Home, name: str, parameters: dict[str, str]) -> tuple[tuple[str, ...], Iterable[tuple[object, ...]]]:
    """Run a named audit on a snapshot of the ledger as it is now."""
    _publish(home)
    if name == EXPOSURE.name:
        if parameters.keys() != set(EXPOSURE.parameters):
            raise InputError("wrong parameters", where=f"audit {name}", remedy="It takes: checkpoint=…")
        return _exposure(home, parameters["checkpoint"])
    return audit.run(home.snapshot_path, name, parameters)


def _exposure(home: Home, checkpoint: str) -> tuple[tuple[str, ...], Iterator[tuple[object, ...]]]:
    """Every slot that a checkpoint was fed directly, by ordinal; made as it is read, in constant memory."""
    from training.order import Exposures

    with audit.reading(home.snapshot_path) as ask:
        known = ask(_CHECKPOINT, {"checkpoint": checkpoint})
        if not known:
            raise InputError(
                f"no checkpoint {checkpoint!r} is on record",
                where="audit exposure",
                remedy="`custody audit checkpoints` lists them",
            )
        ((run_name, segment, step, schedule_json),) = known
        ((record,),) = ask(_RUN, {"run": run_name})
        schedules = LedgerSchedules(text for (text,) in ask(_SCHEDULES, {"run": run_name}))
    run = TrainingRun.from_json(record, where=f"ledger, run {run_name}")
    exposures = Exposures(run, segment)
    emptied = np.array(sorted(schedules.entries(schedule_json).items()), dtype=np.int64).reshape(-1, 2)

    def rows() -> Iterator[tuple[object, ...]]:
        at_once = max(1, _EXPOSURES_AT_ONCE // exposures.epochs_begun(step))
        with audit.reading(home.snapshot_path) as ask:
            for first, last in exposures.ranges():
                for start in range(first, last, at_once):
                    stop = min(start + at_once, last)
                    which, steps = exposures.steps_of(np.arange(start, stop), step)
                    if len(emptied):
                        near = np.minimum(np.searchsorted(emptied[:, 0], start + which), len(emptied) - 1)
                        fed = (emptied[near, 0] != start + which) | (steps < emptied[near, 1])
                        which, steps = which[fed], steps[fed]
                    keys = dict(ask(_KEYS, {"dataset": run.dataset, "start": start, "stop": stop}))
                    seen, ends = np.unique(which, return_index=True)
                    bounds = [*ends.tolist(), len(which)]
                    at = steps.tolist()
                    for i, slot in enumerate(seen.tolist()):
                        fed_at = at[bounds[i] : bounds[i + 1]]
                        yield run.dataset, start + slot, keys.get(start + slot), len(fed_at), fed_at

    return _COLUMNS, rows()


def sql(home: Home, statement: str) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Free SQL on a snapshot of the ledger as it is now; it can neither write nor reach files."""
    _publish(home)
    return audit.sql(home.snapshot_path, statement)


def _publish(home: Home) -> None:
    with home.ledger(readonly=True) as ledger:
        publish(ledger, home.snapshot_path, now=utc_now())
