"""The step log recomputed: whatever kills and resumes made of it is accepted, whatever else happened to it is named."""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from policy.provenance import CheckpointRecord, NumericContract, Phase, ScheduleEntry, Segment, TrainingRun
from training.batches import EmptySlots
from training.order import Order, is_tainted, open_segment, order_key, order_version
from training.recompute import Recorded, check_checkpoints, check_run, check_steps
from training.step_log import HEADER, ROW, StepLog, StepRow, fed_digest, fed_digests, read_steps

SLOTS, BATCH, STEPS, EVERY = 17, 4, 12, 3
CONTRACT = NumericContract(1, 1, "cpu", "fp32", True, ())
COMMITMENTS = np.array([bytes([i]) * 32 for i in range(SLOTS)], dtype="V32")


@dataclass(frozen=True)
class History:
    """What a run left behind: its record, schedule, log and checkpoints."""

    run: TrainingRun
    schedule: tuple[ScheduleEntry, ...]
    log: Path
    checkpoints: tuple[Recorded, ...]

    @property
    def settled(self) -> int:
        return max((c.log_rows for c in self.checkpoints), default=0)

    def failures(self) -> list[str]:
        rows = read_steps(self.log)
        return [
            *check_run(self.run, dataset_root="root", slots=SLOTS),
            *check_steps(self.run, self.schedule, rows, COMMITMENTS, settled_rows=self.settled),
            *(f"{name}: {what}" for name, what in check_checkpoints(self.run, self.log, rows, self.checkpoints)),
        ]


def train(path: Path, seed: int, *, kills: float = 0.25) -> History:
    """As the loops train: write ahead, a checkpoint every third step; killed anywhere, tombstones at any step."""
    rng = random.Random(seed)
    windows = (3, 2) if seed % 2 else (0, 0)
    phases = (Phase(((0, 5), (6, SLOTS)), 2, *windows), Phase(((2, 12),), 3))
    first = Segment(0, "d", "root", SLOTS, order_version(phases), order_key("clip", seed), 0, BATCH, phases, CONTRACT)
    run = TrainingRun("r", "clip", "c", "{}", "v", "d", "root", seed, (), None, "2026-01-01T00:00:00Z", (first,))
    schedule: tuple[ScheduleEntry, ...] = ()
    checkpoints: list[Recorded] = []
    real_at: dict[int, int] = {}
    done = 0
    while done < STEPS:
        done = checkpoints[-1].record.step if checkpoints else 0
        contract = replace(CONTRACT, threads=rng.choice((1, 1, 1, 2)))
        run, segment = open_segment(run, contract, done * BATCH)
        empty = EmptySlots.resumed(schedule, done)
        empty.enter([o for o in range(SLOTS) if rng.random() < 0.03], done)
        schedule = empty.entries
        with StepLog(path) as log:
            while done < STEPS:
                empty.enter([o for o in range(SLOTS) if rng.random() < 0.02], done)
                schedule = empty.entries
                if rng.random() < kills:
                    break
                ordinals = [o for o in Order.of(segment).at_step(done)[0].tolist() if o >= 0]
                fed = [o for o in ordinals if not empty.is_empty(o, done)]
                digest = fed_digest((o, COMMITMENTS[o].tobytes()) for o in fed)
                log.write(StepRow(done, done * BATCH, len(fed), segment.segment, 1e-3, 0.5, digest))
                real_at[done] = len(fed)
                done += 1
                if done % EVERY == 0 and rng.random() > kills:
                    real = sum(count for step, count in real_at.items() if step < done)
                    checkpoints.append(Recorded(record_of(run, segment, done, schedule, real), *log.seal()))
    return History(run, schedule, path, tuple(checkpoints))


def record_of(
    run: TrainingRun, segment: Segment, step: int, schedule: tuple[ScheduleEntry, ...], real: int
) -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint=f"r-{step:07d}",
        run="r",
        segment=segment.segment,
        step=step,
        positions=min(step * BATCH, Order.of(segment).positions),
        dataset="d",
        dataset_root="root",
        schedule=schedule,
        tally=(("CC0-1.0", real),),
        files=(),
        parent=None,
        upstream=(),
        state="tainted" if is_tainted(run) else "exact",
        saved_at="2026-01-01T00:00:00Z",
        origins=(("alt", real),),
    )


@pytest.mark.parametrize("seed", range(30))
def test_whatever_kills_and_resumes_leave_behind_follows_from_the_order(tmp_path, seed):
    """Kills anywhere, tombstones at any step, other contracts, rows superseded, a tail behind the last checkpoint."""
    assert train(tmp_path / "steps.log", seed).failures() == []


def test_histories_hold_what_they_are_to_try(tmp_path):
    """The thirty histories have superseded rows, tails, entries that a resume moved, and several segments."""
    histories = [train(tmp_path / f"{seed}.log", seed) for seed in range(30)]
    rows = [read_steps(h.log) for h in histories]
    assert sum((np.diff(r["step"].astype(int)) < 0).any() for r in rows) > 10
    assert sum(len(h.run.segments) > 1 for h in histories) > 5
    assert sum(bool(h.schedule) for h in histories) > 20


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change rows, and give each the checksum that fits: as somebody would who knows the format."""
    rows = change(read_steps(path).copy())
    body = bytearray(rows.tobytes())
    for start in range(0, len(body), ROW.itemsize):
        body[start + 76 : start + 80] = zlib.crc32(body[start : start + 76]).to_bytes(4, "little")
    path.write_bytes(HEADER + body)


def set_field(name: str, value: object, row: int = 5) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[name][row] = value
        return rows

    return change


def swapped(rows: np.ndarray) -> np.ndarray:
    rows[[4, 5]] = rows[[5, 4]]
    return rows


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (set_field("fed_sha256", bytes(32)), "step 5 (row 5) does not follow from order and schedule"),
        (set_field("real", 1), "step 5 (row 5) does not follow from order and schedule"),
        (set_field("first_position", 21), "step 5 (row 5) says position 21, not 20"),
        (set_field("segment", 7), "step 5 (row 5) names segment 7, which the run does not have"),
        (set_field("loss", 0.1), "r-0000006: it stands on the step log's first 6 rows, and they are not what"),
        (swapped, "step 4 is missing: row 4 is step 5"),
        (lambda rows: np.delete(rows, 5), "step 5 is missing: row 5 is step 6"),
        (lambda rows: np.delete(rows, [5, 6]), "steps 5 to 6 are missing: row 5 is step 7"),
        (lambda rows: rows[:8], "r-0000009: it stands on the step log's first 9 rows, and there are 8"),
        (lambda rows: np.concatenate([rows[:6], rows[4:]]), "r-0000009: it stands on the step log's first 9 rows"),
    ],
)
def test_a_row_that_was_changed_with_a_checksum_that_fits_is_named(tmp_path, change, named):
    """No checksum and no checkpoint's digest is needed to find out: the order says what was fed."""
    history = train(tmp_path / "steps.log", 4, kills=0)
    assert history.failures() == []
    rewrite(history.log, change)
    assert any(named in failure for failure in history.failures()), history.failures()


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"tally": (("CC0-1.0", 1),)}, "its tally counts 1 exposures"),
        ({"origins": (("alt", 2),)}, "its origins count 2 exposures"),
        ({"step": 5}, "it says step 5, the step log 6"),
        ({"positions": 23}, "23 positions are not those of 6 steps"),
        ({"segment": 3}, "it says segment 3, the step log 0"),
        ({"dataset": "other"}, "another dataset than its run"),
        ({"run": "other"}, "belongs to run other"),
    ],
)
def test_a_record_that_says_something_else_than_the_log_is_named(tmp_path, edit, named):
    """A checkpoint's step, positions, segment, dataset and tallies follow from the run and its log."""
    history = train(tmp_path / "steps.log", 4, kills=0)
    found = next(c for c in history.checkpoints if c.record.step == 6)
    edited = replace(history, checkpoints=(replace(found, record=replace(found.record, **edit)),))
    assert any(named in failure for failure in edited.failures()), edited.failures()


def test_a_run_that_does_not_follow_from_its_seed_and_dataset_is_named(tmp_path):
    """Another seed, another dataset of the same name, and an order that this build does not know."""
    run = train(tmp_path / "steps.log", 4, kills=0).run
    assert check_run(run, dataset_root="root", slots=SLOTS) == []
    assert check_run(replace(run, seed=5), dataset_root="root", slots=SLOTS) == [
        "its order's key does not follow from seed 5"
    ]
    (told,) = check_run(run, dataset_root="f" * 64, slots=9)
    assert (
        told
        == "it was trained on d with root root, and what lies there by that name has root ffffffffffffffff and 9 slots"
    )
    later = replace(run, segments=(replace(run.segments[0], order_version=9),))
    assert check_run(later, dataset_root="root", slots=SLOTS) == ["order version 9 is not known here"]
    assert check_run(replace(run, kind="gan"), dataset_root="root", slots=SLOTS)[0].startswith(
        "how a run of kind 'gan'"
    )


def test_a_checkpoint_that_calls_itself_exact_over_two_contracts_is_named(tmp_path):
    """The state follows from the segments that a checkpoint had behind it."""
    for seed in range(30):
        history = train(tmp_path / f"{seed}.log", seed)
        if tainted := [c for c in history.checkpoints if c.record.state == "tainted"]:
            break
    lying = replace(history, checkpoints=(replace(tainted[-1], record=replace(tainted[-1].record, state="exact")),))
    assert any("calls itself exact" in failure for failure in lying.failures())


def test_many_wrong_steps_are_counted_not_listed(tmp_path):
    """Another dataset's commitments make every step wrong; five are named."""
    history = train(tmp_path / "steps.log", 4, kills=0)
    others = np.array([bytes([i + 1]) * 32 for i in range(SLOTS)], dtype="V32")
    told = check_steps(history.run, (), read_steps(history.log), others, settled_rows=history.settled)
    assert len(told) == 6
    assert told[-1] == "and 7 more steps that do not follow from the order"


def test_digests_of_many_steps_are_those_of_each():
    """Made from one buffer or slot by slot, a step's digest is the same; a step that fed nothing has one, too."""
    rng = np.random.default_rng(0)
    ordinals = rng.integers(0, SLOTS, (9, 5))
    fed = rng.random((9, 5)) < 0.6
    fed[3] = False
    single = [
        fed_digest((int(o), COMMITMENTS[o].tobytes()) for o in row[mask])
        for row, mask in zip(ordinals, fed, strict=True)
    ]
    assert fed_digests(ordinals, fed, COMMITMENTS) == single
