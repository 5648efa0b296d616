"""What was seen: traces and exposures of a small real run, in both directions, and what may not be believed."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.shard_reader import read_commitments, read_manifest
from flows.home import Home
from flows.stages import audits
from flows.stages.schedules import LedgerSchedules, ScheduleWriter
from flows.stages.trace import _Counted, trace, trace_keys
from flows.stages.train import register_run
from flows.stages.verify import verify, verify_runs
from policy.errors import InputError, IntegrityError
from policy.provenance import CheckpointRecord, Phase, ScheduleEntry, TrainingRun, schedule_digest
from tests.flows.trained import DATASET, RUN, SLOTS, STEPS, WITHHELD, trained_home
from tests.training.test_recompute import rewrite, swapped
from training.checkpoint import MANIFEST, PROVENANCE, list_checkpoints, read_record
from training.order import Order
from training.step_log import HEADER, ROW, effective_rows, fed_digest, read_steps

LAST = f"{RUN}-{STEPS:07d}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return trained_home(tmp_path_factory.mktemp("trained") / "home")


@pytest.fixture
def home(trained: Home, tmp_path: Path) -> Home:
    """A copy that may be spoilt."""
    shutil.copytree(trained.path, tmp_path / "home")
    return Home.open(tmp_path / "home")


def exposure_of(home: Home, checkpoint: str) -> dict[str, list[int]]:
    columns, rows = audits.run(home, "exposure", {"checkpoint": checkpoint})
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    assert all(row["count"] == len(row["steps"]) for row in named)
    return {row["sample_key"]: row["steps"] for row in named}


# ── both directions ────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_directions_agree_on_every_pair_and_with_the_log(trained: Home) -> None:
    """Of every checkpoint and sample `trace`, `trace_keys` and `audit exposure` say the same steps, and those steps'
    slots give the digests that the step log holds."""
    run_dir = trained.runs_path / RUN
    checkpoints = [read_record(path) for path in list_checkpoints(run_dir)]
    with trained.ledger(readonly=True) as ledger:
        slots = dict(ledger.query("SELECT sample_key, ordinal FROM slot WHERE dataset = ?", [DATASET]))
        counts = {t.key: dict(t.checkpoints) for t in trace_keys(ledger, [*slots, "0" * 32])}
    assert len(slots) == SLOTS
    traced = {key: {c.id: list(c.steps) for c in trace(trained, key).checkpoints} for key in slots}
    for record in checkpoints:
        exposed = exposure_of(trained, record.checkpoint)
        for key in slots:
            steps = traced[key].get(record.checkpoint, [])
            assert exposed.get(key, []) == steps
            assert counts[key].get(record.checkpoint, 0) == len(steps)
        assert sum(map(len, exposed.values())) == sum(n for _, n in record.tally) == sum(n for _, n in record.origins)

    segment = json_run(run_dir).segments[0]
    assert (segment.order_version, segment.phases[0].window_shards, segment.phases[0].shard_slots) == (2, 2, 5)
    order = Order.of(segment)
    commitments = np.frombuffer(
        read_commitments(trained.dataset(DATASET), read_manifest(trained.dataset(DATASET))), "V32"
    )
    fed = exposure_of(trained, LAST)
    for row in effective_rows(read_steps(run_dir / "steps.log")):
        step = int(row["step"])
        batch = [o for o in order.at_step(step)[0].tolist() if step in fed[key_at(slots, o)]]
        assert bytes(row["fed_sha256"]) == fed_digest((o, commitments[o].tobytes()) for o in batch)
    assert max(fed[key_at(slots, WITHHELD)]) < 6


def key_at(slots: dict[str, int], ordinal: int) -> str:
    return next(key for key, at in slots.items() if at == ordinal)


def json_run(run_dir: Path) -> TrainingRun:
    return TrainingRun.from_json((run_dir / "run.json").read_text())


def test_an_exposure_of_a_thousand_million_slots_is_made_as_it_is_read(home: Home) -> None:
    """The first rows of a checkpoint over 10**9 slots and three epochs come at once, and take little memory."""
    slots = 10**9
    segment = replace(json_run(home.runs_path / RUN).segments[0], slots=slots, phases=(Phase(((0, slots),), 3),))
    big = replace(
        json_run(home.runs_path / RUN), run="big", dataset="big", segments=(replace(segment, batch_size=512),)
    )
    row = {
        "checkpoint": "big-1",
        "run": "big",
        "segment": 0,
        "step": 5_000_000,
        "schedule_json": "[]",
        "state": "exact",
    }
    with home.ledger() as ledger:
        ledger.append("run", [{"run": "big", "record_json": big.to_json()}], key="big")
        ledger.append("checkpoint", [row], key="big-1")
    _, rows = audits.run(home, "exposure", {"checkpoint": "big-1"})
    tracemalloc.start()
    try:
        first = list(islice(rows, 1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row[1] for row in first] == list(range(1000))
    assert {row[3] for row in first} == {2, 3}
    assert peak < 64 << 20


def test_an_unknown_checkpoint_is_refused(trained: Home) -> None:
    """Nothing is what no checkpoint was fed; an unknown one is no such answer."""
    with pytest.raises(InputError, match="no checkpoint 'nobody'"):
        audits.run(trained, "exposure", {"checkpoint": "nobody"})
    with pytest.raises(InputError, match="wrong parameters"):
        audits.run(trained, "exposure", {})
    assert "exposure" in [listed.name for listed in audits.list_audits()]


def test_what_began_from_a_touched_checkpoint_or_model_is_named(home: Home) -> None:
    """A run that began from a checkpoint, and one whose model learnt from that run, are touched through them."""
    run = json_run(home.runs_path / RUN)
    child = replace(run, run="child", dataset="other", parent_checkpoint=LAST)
    model = replace(run.upstream[0], training_data="run:child")
    heir = replace(run, run="heir", dataset="other", upstream=(model,))
    with home.ledger() as ledger:
        key = ledger.query("SELECT sample_key FROM slot WHERE ordinal = 0")[0][0]
        for new in (child, heir):
            ledger.append("run", [{"run": new.run, "record_json": new.to_json()}], key=new.run)
            row = {"checkpoint": f"{new.run}-1", "run": new.run, "segment": 0, "step": 1, "schedule_json": "[]"}
            ledger.append("checkpoint", [row], key=new.run)
    found = {c.id: c for c in trace(home, key).checkpoints if c.tier == "indirect"}
    assert found["child-1"].through == f"the checkpoint {LAST} that it began from"
    assert found["heir-1"].through == f"the checkpoint {LAST} that it began from"
    assert set(found) == {"child-1", "heir-1"}


# ── what the records cost ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_costs_a_thousand_bytes_and_a_step_a_hundred(trained: Home) -> None:
    """Exposure data, hashes, tally and environment aside: in the record, in the ledger's row, in the log."""
    record = json.loads((list_checkpoints(trained.runs_path / RUN)[-1] / PROVENANCE).read_text())
    for aside in ("files", "tally", "origins", "upstream"):
        del record[aside]
    assert len(json.dumps(record)) < 1000
    assert ROW.itemsize <= 100
    with trained.ledger(readonly=True) as ledger:
        rows = ledger.query("SELECT schedule_json FROM checkpoint ORDER BY step")
    assert [len(text) < 300 for (text,) in rows] == [True] * len(rows)


def test_schedules_stand_once_in_the_ledger_however_they_grow() -> None:
    """A thousand checkpoints under a schedule that grows by one entry each cost its entries once, and read back whole,
    beside rows of older builds; a schedule that nobody holds is refused, not taken for empty."""
    writer = ScheduleWriter(())
    grown = [tuple(ScheduleEntry(o, o // 2) for o in range(n)) for n in (0, 0, 3, 3, 40, 41, 600)]
    moved = tuple(replace(e, first_empty_step=min(e.first_empty_step, 7)) for e in grown[-1])
    other = (ScheduleEntry(9999, 1),)
    schedules = [*grown, moved, grown[4], other]
    texts = [writer.text(schedule) for schedule in schedules]
    assert sum(map(len, texts)) < 25_000
    older = json.dumps([asdict(e) for e in grown[4]])
    held = LedgerSchedules([*texts, older, None])
    for schedule, text in zip([*schedules, grown[4], ()], [*texts, older, None], strict=True):
        assert held.entries(text) == {e.ordinal: e.first_empty_step for e in schedule}
        assert held.digest(text) == schedule_digest(schedule)
        some = {e.ordinal: e.first_empty_step for e in schedule if e.ordinal in (2, 39, 9999)}
        assert held.of((2, 39, 9999))(held.digest(text)) == some
    assert ScheduleWriter(held.digests).text(grown[-1]) == json.dumps({"sha256": schedule_digest(grown[-1])})
    lone = LedgerSchedules([json.dumps({"sha256": "f" * 64})])
    with pytest.raises(IntegrityError, match="no checkpoint row holds the schedule ffffffffffffffff"):
        lone.entries(json.dumps({"sha256": "f" * 64}))


# ── attacks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_dir(home: Home) -> Path:
    return home.runs_path / RUN


def edit_json(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data, indent=1, sort_keys=True))


def remake_manifest(directory: Path) -> None:
    """As somebody would who knows the format: the MANIFEST fits what was changed."""
    import hashlib

    def change(manifest: dict[str, object]) -> None:
        for name in manifest["files"]:  # type: ignore[attr-defined]
            body = (directory / name).read_bytes()
            manifest["files"][name] = {  # type: ignore[index]
                "sha256": hashlib.sha256(body).hexdigest(),
                "size_bytes": len(body),
            }

    edit_json(directory / MANIFEST, change)


def record_edited(home: Home) -> None:
    edit_json(list_checkpoints(run_dir(home))[-1] / PROVENANCE, lambda r: r.update(saved_at="2026-01-01T00:00:00Z"))


def record_and_manifest_edited(home: Home) -> None:
    record_edited(home)
    remake_manifest(list_checkpoints(run_dir(home))[-1])


def record_manifest_and_ledger_edited(home: Home) -> None:
    """All but the log: the ledger takes the new record in as if it had been saved anew."""
    path = list_checkpoints(run_dir(home))[-1]
    edit_json(path / PROVENANCE, lambda r: r.update(tally=[["CC0-1.0", 45]], origins=[["alt", 46]]))
    remake_manifest(path)
    record = CheckpointRecord.from_json((path / PROVENANCE).read_text())
    files = dict(record.files) | {PROVENANCE: record.digest}
    with home.ledger() as ledger:
        ledger.append("checkpoint", [{"checkpoint": LAST, "files_json": json.dumps(files)}], key="forged")


def rows_swapped(home: Home) -> None:
    rewrite(run_dir(home) / "steps.log", swapped)


def byte_flipped(home: Home) -> None:
    path = run_dir(home) / "steps.log"
    body = bytearray(path.read_bytes())
    body[len(HEADER) + 7 * ROW.itemsize + 41] ^= 1
    path.write_bytes(body)


def step_missing(home: Home) -> None:
    rewrite(run_dir(home) / "steps.log", lambda rows: np.delete(rows, 9))


def log_cut_short(home: Home) -> None:
    rewrite(run_dir(home) / "steps.log", lambda rows: rows[:11])


def parent_exchanged(home: Home) -> None:
    """The record of a parent is another than the one that its child stands on."""
    path = list_checkpoints(run_dir(home))[-2]
    edit_json(path / PROVENANCE, lambda r: r.update(saved_at="2026-01-01T00:00:00Z"))
    remake_manifest(path)


def another_dataset(home: Home) -> None:
    """The files of another dataset, whole in themselves, lie under the name of the one that was trained on."""
    from tests.training.toy_dataset import seal

    shutil.rmtree(home.datasets_path / DATASET)
    seal(home.datasets_path / DATASET, SLOTS)


def schedule_emptied(home: Home) -> None:
    edit_json(run_dir(home) / "schedule.json", lambda s: s.update(entries=[]))


def seed_edited(home: Home) -> None:
    edit_json(run_dir(home) / "run.json", lambda r: r.update(seed=99))


def run_lost(home: Home) -> None:
    (run_dir(home) / "run.json").unlink()


def log_lost(home: Home) -> None:
    (run_dir(home) / "steps.log").unlink()


@pytest.mark.parametrize(
    ("attack", "where", "what"),
    [
        (record_edited, f"step-{STEPS:07d}", "its sha256 is not the one that was recorded"),
        (record_and_manifest_edited, f"step-{STEPS:07d}", "its record (provenance.json) is not the one in the ledger"),
        (record_manifest_and_ledger_edited, f"checkpoint {LAST}", "its tally counts 45 exposures, the step log 46"),
        (rows_swapped, "steps.log", "step 4 is missing: row 4 is step 5"),
        (byte_flipped, "steps.log", "row 7 (after step 6) is damaged: its checksum does not fit"),
        (step_missing, "steps.log", "step 9 is missing: row 9 is step 10"),
        (log_cut_short, f"checkpoint {LAST}", "it stands on the step log's first 12 rows, and there are 11"),
        (
            parent_exchanged,
            f"step-{STEPS:07d}",
            f"the record of its parent {RUN}-0000010 is not the one that it stands",
        ),
        (another_dataset, "run.json", "it was trained on apples with root"),
        (schedule_emptied, f"step-{STEPS:07d}", "the schedule below step 12 is not the one that"),
        (seed_edited, "run.json", "its order's key does not follow from seed 99"),
        (seed_edited, "run.json", "the run's record is not the one in the ledger"),
        (run_lost, RUN, "run.json is missing"),
        (log_lost, "steps.log", "the step log is unreadable"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_attack_is_found_and_named(home: Home, attack: Callable[[Home], None], where: str, what: str) -> None:
    """Whatever was changed, with or without what vouches for it, `verify` names the place and what does not hold."""
    attack(home)
    failures = verify_runs(home)
    assert [f for f in failures if RUN in f.where and where in f.where and what in f.what], failures


def test_what_was_trained_verifies_also_when_it_was_registered_again(home: Home) -> None:
    """A run with a withheld slot and a resume holds to the last row, and taking it up again changes nothing."""
    assert verify(home) == []
    register_run(home, run_dir(home))
    assert verify_runs(home) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=100))
def test_counts_of_many_checkpoints_are_named_as_one_by_one(stretches: list[tuple[int, int]]) -> None:
    """However often a count changes, each checkpoint that saw a sample is named with its own count, in order."""
    counts = [count for count, length in stretches for _ in range(length)]
    names = [f"c{number}" for number in range(len(counts))]
    expected = tuple((name, count) for name, count in zip(names, counts, strict=True) if count)
    named = _Counted(names)
    assert named.pairs(np.array(counts, dtype=np.int64)) == expected
    assert named.pairs(np.array(counts[::-1], dtype=np.int64)) == tuple(
        (name, count) for name, count in zip(names, counts[::-1], strict=True) if count
    )
