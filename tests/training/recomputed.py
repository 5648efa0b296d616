"""What a run's own files say of it, recomputed as `custody verify` does, without a ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from curation.shard_reader import DatasetReader
from policy.errors import IntegrityError
from training.checkpoint import Checkpoint, list_checkpoints, load_run, load_schedule, open_checkpoint
from training.order import Order
from training.recompute import Recorded, check_checkpoints, check_run, check_steps
from training.step_log import effective_rows, fed_digest, read_steps


def run_failures(run_dir: Path, reader: DatasetReader) -> list[str]:
    """What does not follow: checkpoints' files, the run's record, records against the log, every row of the log."""
    good, failures = good_checkpoints(run_dir)
    run, rows = load_run(run_dir), read_steps(run_dir / "steps.log")
    if run is None:
        return [*failures, "run.json is missing"]
    standing = [Recorded(c.record, c.state.log_rows, c.state.log_sha256) for c in good]
    settled = max((c.log_rows for c in standing), default=0)
    commitments = np.ascontiguousarray(reader.commitments(np.arange(reader.slots))).view("V32")[:, 0]
    return [
        *failures,
        *check_run(run, dataset_root=reader.root, slots=reader.slots),
        *(f"{name}: {what}" for name, what in check_checkpoints(run, run_dir / "steps.log", rows, standing)),
        *check_steps(run, load_schedule(run_dir), rows, commitments, settled_rows=settled),
    ]


def good_checkpoints(run_dir: Path) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints that verify, by rising step, and what is wrong with the others."""
    good, failures = [], []
    for path in list_checkpoints(run_dir):
        try:
            good.append(open_checkpoint(path))
        except IntegrityError as error:
            failures.append(f"{path.name}: {error}")
    return good, failures


def times_fed(run_dir: Path, reader: DatasetReader) -> tuple[Counter[tuple[int, int]], list[str]]:
    """How often each (epoch, ordinal) was fed by the rows of the step log that count, and rows that do not say so.

    A row names its slots by their digest: they are those of its position in the order, less the empty ones.
    """
    run = load_run(run_dir)
    assert run is not None
    order, counted, failures = Order.of(run.segments[0]), Counter[tuple[int, int]](), []
    empty = {entry.ordinal: entry.first_empty_step for entry in load_schedule(run_dir)}
    for row in effective_rows(read_steps(run_dir / "steps.log")):
        step = int(row["step"])
        ordinals, epochs = order.at_step(step)
        slots = [
            (e, o)
            for e, o in zip(epochs.tolist(), ordinals.tolist(), strict=True)
            if o >= 0 and empty.get(o, step + 1) > step
        ]
        if fed_digest((o, reader.commitment(o)) for _, o in slots) != bytes(row["fed_sha256"]):
            failures.append(f"step {step} fed other slots than the order's")
        counted.update(slots)
    return counted, failures
