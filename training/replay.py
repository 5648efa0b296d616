"""Replay: what the model would be, had it never seen some samples.

Go back to the last checkpoint that had seen none of them, put them at step 0 of the schedule, and train the rest
again: bit for bit the model trained from scratch with those slots empty, under the same numeric contract.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from policy.errors import ConfigurationError, InputError
from policy.provenance import ScheduleEntry, TrainingRun
from training.checkpoint import (
    STATE,
    Checkpoint,
    TrainerState,
    load_run,
    load_schedule,
    newest_checkpoint,
    save_checkpoint,
    save_run,
    save_schedule,
)
from training.order import exposure
from training.step_log import StepLog, effective_rows, read_steps, steps_of


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Where a replay starts. `base`: the last checkpoint that had seen none of the slots; None: from scratch."""

    run: TrainingRun
    schedule: tuple[ScheduleEntry, ...]
    base: Checkpoint | None

    @property
    def first_step(self) -> int:
        return self.base.record.step if self.base else 0


def plan_replay(run_dir: Path, removed: Iterable[int]) -> ReplayPlan:
    """Find the base for removing slots; whatever the run's schedule had emptied later goes to step 0 with them."""
    run = load_run(run_dir)
    if run is None:
        raise InputError("not a run's directory", where=str(run_dir))
    if run.kind == "unlearning":
        raise InputError(
            f"{run.run} only approximates not having seen some slots: there is nothing exact to go back to",
            where=str(run_dir),
            remedy=f"Replay the run that it began from ({run.parent_checkpoint}), or train anew",
        )
    before = load_schedule(run_dir)
    ordinals = sorted({*removed, *(entry.ordinal for entry in before)})
    last, _ = newest_checkpoint(run_dir)
    if last is None or not ordinals:
        return ReplayPlan(run, tuple(ScheduleEntry(ordinal, 0) for ordinal in ordinals), last)
    base, _ = newest_checkpoint(run_dir, before_step=_first_seen(run, before, ordinals, last.record.step))
    return ReplayPlan(run, tuple(ScheduleEntry(ordinal, 0) for ordinal in ordinals), base)


def begin_replay(plan: ReplayPlan, run_dir: Path, new_run_dir: Path) -> TrainingRun:
    """Lay out the directory of the replayed run; its trainer, with the run's config, then carries it to the end.

    After a kill it is done again. ConfigurationError if the directory already holds something else.
    """
    parent = plan.base.record.checkpoint if plan.base else None
    run = replace(plan.run, run=new_run_dir.name, parent_checkpoint=parent)
    existing = load_run(new_run_dir)
    if existing is not None:
        begun = {entry for entry in load_schedule(new_run_dir) if entry.first_empty_step == 0}
        if (existing.config_digest, existing.parent_checkpoint) != (run.config_digest, parent) or not begun >= {
            *plan.schedule
        }:
            raise ConfigurationError("the directory holds another run", where=str(new_run_dir))
        return existing

    save_schedule(new_run_dir, plan.schedule)
    (new_run_dir / "steps.log").unlink(missing_ok=True)
    if plan.base is not None:
        # The steps up to the base are the old run's: its rows of the log come along.
        with StepLog(new_run_dir / "steps.log") as log:
            rows = effective_rows(read_steps(run_dir / "steps.log"))
            for row in steps_of(rows[rows["step"] < plan.first_step]):
                log.write(row)
            state = TrainerState(*log.seal())
        record = replace(
            plan.base.record,
            checkpoint=f"{run.run}-{plan.first_step:07d}",
            run=run.run,
            parent=parent,
            parent_sha256=plan.base.record.digest,
            schedule=plan.schedule,
        )
        names = [name for name, _ in plan.base.record.files if name != STATE]
        stems = [Path(name).stem for name in names if name.endswith(".safetensors")]
        tensors = {stem: plan.base.tensors(stem) for stem in stems}
        documents = {n: (plan.base.path / n).read_bytes() for n in names if not n.endswith(".safetensors")}
        save_checkpoint(new_run_dir, record, tensors, state, documents)
    save_run(new_run_dir, run)  # last: its presence says that the rest is complete
    return run


def _first_seen(run: TrainingRun, schedule: tuple[ScheduleEntry, ...], ordinals: list[int], upto_step: int) -> int:
    """The first step at which any of the ordinals was fed; `upto_step` if none was."""
    return min((exposure(run, schedule, o, upto_step)[:1] or (upto_step,))[0] for o in ordinals)
