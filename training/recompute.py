"""The step log recomputed: what every step fed follows from run, schedule and commitments; nothing has to be believed.

A row is *settled* when it counts and the newest good checkpoint has recorded it: then it must say, to the bit, what
order and schedule say. Rows that were superseded, or lie behind the last checkpoint, were written under a schedule
that a resume may have moved since; of the slots that are empty by now, some may still have been fed. Such a row must
be explained by some choice of those slots.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from policy.errors import InputError
from policy.provenance import CheckpointRecord, ScheduleEntry, TrainingRun
from training.order import Ints, Order, effective_segments, is_tainted, order_key
from training.step_log import counting, effective_rows, fed_digest, fed_digests, prefix_digests

_SAMPLES_AT_ONCE = 1 << 16  # bounds the memory; the arrays of one round stay near the cache
_MOST_CHOICES = 4096  # of the slots of one step that is not settled
_NAMED = 5  # failures of a kind that are named one by one


@dataclass(frozen=True, slots=True)
class Recorded:
    """A good checkpoint: its record, and how far it says that the log had got."""

    record: CheckpointRecord
    log_rows: int
    log_sha256: str


def check_run(run: TrainingRun, *, dataset_root: str, slots: int) -> list[str]:
    """What of a run's own record does not follow from its seed and dataset."""
    failures = []
    try:
        keys = {segment.order_key for segment in run.segments}
        if keys != {order_key(run.kind, run.seed)}:
            failures.append(f"its order's key does not follow from seed {run.seed}")
        for segment in run.segments:
            Order.of(segment)
    except InputError as error:
        failures.append(error.what)
    roots = {run.dataset_root, *(segment.dataset_root for segment in run.segments)}
    if roots != {dataset_root} or any(segment.slots != slots for segment in run.segments):
        failures.append(
            f"it was trained on {run.dataset} with root {run.dataset_root[:16]}, and what lies there by that name "
            f"has root {dataset_root[:16]} and {slots} slots"
        )
    return failures


def check_steps(
    run: TrainingRun,
    schedule: Sequence[ScheduleEntry],
    rows: npt.NDArray[np.void],
    commitments: npt.NDArray[np.void],
    *,
    settled_rows: int,
) -> list[str]:
    """Every row of the log that does not follow: step, position, segment, slots fed and their digest.

    rows: all of the log. commitments: V32 [slots]. settled_rows: how many rows the newest good checkpoint recorded.
    """
    failures = list(itertools.islice(_sequence_failures(run, rows), _NAMED))
    counts = counting(rows)
    counts[settled_rows:] = False
    failures += itertools.islice(_segment_failures(run, rows, counts), _NAMED)
    empty = _Emptied(schedule)
    recomputed = _content_failures(run, rows, counts, commitments, empty)
    failures += itertools.islice(recomputed, _NAMED)
    if more := sum(1 for _ in recomputed):
        failures.append(f"and {more} more steps that do not follow from the order")
    return failures


def check_checkpoints(
    run: TrainingRun, path: Path, rows: npt.NDArray[np.void], checkpoints: Sequence[Recorded]
) -> Iterator[tuple[str, str]]:
    """(checkpoint, what is wrong) wherever a record does not follow from run and log."""
    digests = prefix_digests(path, [c.log_rows for c in checkpoints])
    order = Order.of(run.segments[0])
    for checkpoint, digest in zip(checkpoints, digests, strict=True):
        record, name = checkpoint.record, checkpoint.record.checkpoint
        if digest != checkpoint.log_sha256:
            short = len(rows) < checkpoint.log_rows
            there = f"there are {len(rows)}" if short else "they are not what it recorded"
            yield name, f"it stands on the step log's first {checkpoint.log_rows} rows, and {there}"
            continue
        counted = effective_rows(rows[: checkpoint.log_rows])
        real = int(counted["real"].sum())
        segment = int(counted["segment"][-1]) if len(counted) else 0
        so_far = tuple(s for s in run.segments if s.segment <= record.segment)
        for wrong, what in (
            (record.run != run.run, f"it says that it belongs to run {record.run}"),
            (len(counted) != record.step, f"it says step {record.step}, the step log {len(counted)}"),
            (
                record.positions != min(record.step * order.batch_size, order.positions),
                f"{record.positions} positions are not those of {record.step} steps of {order.batch_size}",
            ),
            (record.segment != segment, f"it says segment {record.segment}, the step log {segment}"),
            (
                (record.dataset, record.dataset_root) != (run.dataset, run.dataset_root),
                "it names another dataset than its run",
            ),
            (record.upstream != run.upstream, "it names other models upstream than its run"),
            (
                record.state == "exact" and is_tainted(run, so_far),
                "it calls itself exact, and its segments were trained under different numeric contracts",
            ),
            (
                run.kind == "unlearning" and (record.state == "exact" or record.unlearning is None),
                "it approximates not having seen some slots, and does not say so",
            ),
            (
                _total(record.tally) != real,
                f"its tally counts {_total(record.tally)} exposures, the step log {real}",
            ),
            (
                bool(record.origins) and _total(record.origins) != real,
                f"its origins count {_total(record.origins)} exposures, the step log {real}",
            ),
        ):
            if wrong:
                yield name, what


def _total(counts: Iterable[tuple[str, int]]) -> int:
    return sum(count for _, count in counts)


def _sequence_failures(run: TrainingRun, rows: npt.NDArray[np.void]) -> Iterator[str]:
    """Steps that are missing or out of place: a row follows its predecessor, or is one that a resume went back to."""
    steps = rows["step"].astype(np.int64)
    before = np.concatenate([[-1], steps[:-1]])
    for row in np.flatnonzero(steps > before + 1).tolist():
        missing = (
            f"step {before[row] + 1} is"
            if steps[row] == before[row] + 2
            else (f"steps {before[row] + 1} to {steps[row] - 1} are")
        )
        yield f"{missing} missing: row {row} is step {steps[row]}"
    batch = np.zeros(len(rows), dtype=np.int64)
    for segment in run.segments:
        batch[rows["segment"] == segment.segment] = segment.batch_size
    for row in np.flatnonzero(batch == 0).tolist():
        yield f"step {steps[row]} (row {row}) names segment {int(rows['segment'][row])}, which the run does not have"
    said = rows["first_position"].astype(np.int64)
    for row in np.flatnonzero((batch > 0) & (said != steps * batch)).tolist():
        yield f"step {steps[row]} (row {row}) says position {said[row]}, not {steps[row] * batch[row]}"


def _segment_failures(run: TrainingRun, rows: npt.NDArray[np.void], counts: npt.NDArray[np.bool_]) -> Iterator[str]:
    """Settled rows that name another segment than the one that held their position."""
    stretches = effective_segments(run)
    firsts = np.array([segment.first_position for segment, _ in stretches], dtype=np.int64)
    numbers = np.array([segment.segment for segment, _ in stretches], dtype=np.int64)
    right = numbers[np.searchsorted(firsts, rows["first_position"].astype(np.int64), side="right") - 1]
    for row in np.flatnonzero(counts & (rows["segment"] != right)).tolist():
        yield f"step {int(rows['step'][row])} (row {row}) names segment {int(rows['segment'][row])}, not {right[row]}"


def _content_failures(
    run: TrainingRun,
    rows: npt.NDArray[np.void],
    settled: npt.NDArray[np.bool_],
    commitments: npt.NDArray[np.void],
    empty: _Emptied,
) -> Iterator[str]:
    """Rows whose slots do not digest to what they say."""
    for segment in run.segments:
        order = Order.of(segment)
        at_once = max(1, _SAMPLES_AT_ONCE // order.batch_size)
        own = np.flatnonzero(rows["segment"] == segment.segment)
        for start in range(0, len(own), at_once):
            chunk = own[start : start + at_once]
            steps = rows["step"][chunk].astype(np.int64)
            ordinals, _ = order.at(steps[:, None] * order.batch_size + np.arange(order.batch_size))
            there = (ordinals >= 0) & (ordinals < len(commitments))
            is_empty = empty.at(ordinals, steps)
            fed = there & ~is_empty
            digests = fed_digests(ordinals, fed, commitments)
            said = rows["fed_sha256"][chunk].tolist()
            real = fed.sum(axis=1)
            differs = np.array([ours != logged for ours, logged in zip(digests, said, strict=True)], dtype=np.bool_)
            for i in np.flatnonzero(differs | (real != rows["real"][chunk])).tolist():
                row = int(chunk[i])
                if settled[row] or not _explained(
                    ordinals[i], there[i], is_empty[i], int(rows["real"][row]), said[i], commitments
                ):
                    yield (
                        f"step {steps[i]} (row {row}) does not follow from order and schedule: they feed {real[i]} "
                        f"slots with digest {digests[i].hex()[:16]}, the log says {int(rows['real'][row])} with "
                        f"{said[i].hex()[:16]}"
                    )


def _explained(
    ordinals: Ints,
    there: npt.NDArray[np.bool_],
    is_empty: npt.NDArray[np.bool_],
    real: int,
    said: bytes,
    commitments: npt.NDArray[np.void],
) -> bool:
    """Whether some of the slots that are empty by now, fed at that time, give the digest."""
    unsure = np.flatnonzero(there & is_empty)
    needed = real - int((there & ~is_empty).sum())
    if not 0 <= needed <= len(unsure):
        return False
    if math.comb(len(unsure), needed) > _MOST_CHOICES:
        return True  # cannot be told; no model that is left stands on it
    for choice in itertools.combinations(unsure.tolist(), needed):
        fed = there & ~is_empty
        fed[list(choice)] = True
        if fed_digest((o, commitments[o].tobytes()) for o in ordinals[fed].tolist()) == said:
            return True
    return False


class _Emptied:
    """Which slots are empty at which step, for many at once."""

    def __init__(self, schedule: Sequence[ScheduleEntry]) -> None:
        entries = np.array(sorted((e.ordinal, e.first_empty_step) for e in schedule), dtype=np.int64).reshape(-1, 2)
        self._ordinals, self._since = entries[:, 0], entries[:, 1]

    def at(self, ordinals: Ints, steps: Ints) -> npt.NDArray[np.bool_]:
        """Whether ordinals [N, B] are empty at steps [N]."""
        if not len(self._ordinals):
            return np.zeros(ordinals.shape, dtype=np.bool_)
        near = np.minimum(np.searchsorted(self._ordinals, ordinals), len(self._ordinals) - 1)
        return np.asarray((self._ordinals[near] == ordinals) & (self._since[near] <= steps[:, None]))
