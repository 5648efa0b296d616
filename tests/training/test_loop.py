"""Training: what was seen is known exactly, and a run ends with the same bits whatever happens to it."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import training.loop
from curation.shard_reader import DatasetReader
from curation.shards import drop_generation, reseal
from policy.errors import ConfigurationError, IntegrityError
from policy.provenance import ScheduleEntry
from tests.training.toy_dataset import HashedWords, file_tombstone, flat_picture, noon, seal
from training.checkpoint import list_checkpoints, load_run, load_schedule, newest_checkpoint, open_checkpoint
from training.config import preset
from training.loop import train
from training.order import Order, exposure
from training.step_log import effective_rows, fed_digest, read_steps

ROOT = Path(training.loop.__file__).parents[1]
WEIGHTS = ("adamw.safetensors", "ema.safetensors", "model.safetensors", "muon.safetensors")


def run_to(run_dir, reader, config=None, **arguments):
    arguments = {"upstream": (), "text_encoder": HashedWords(), "progress": lambda *_: None, "now": noon, **arguments}
    return train(reader, config or preset("tiny"), run_dir, **arguments)


def weights(record):
    return {name: sha256 for name, sha256 in record.files if name in WEIGHTS}


@pytest.fixture(scope="module")
def undisturbed(dataset_dir, tmp_path_factory):
    """A run of the tiny preset that nothing happened to."""
    with DatasetReader.open(dataset_dir) as reader:
        return run_to(tmp_path_factory.mktemp("undisturbed") / "run", reader)


def test_a_run_leaves_its_record_its_log_and_checkpoints(undisturbed, reader):
    """Every checkpoint says what it saw; the log's digests follow from order, manifest and schedule."""
    assert undisturbed.steps == 12
    assert [p.name for p in undisturbed.checkpoints] == ["step-0000004", "step-0000008", "step-0000012"]
    assert undisturbed.last.state == "exact"
    assert undisturbed.last.parent == "run-0000008"
    assert undisturbed.run.upstream == (HashedWords.component,)
    assert set(weights(undisturbed.last)) == set(WEIGHTS)
    order = Order.of(undisturbed.run.segments[0])
    seen = Counter(int(o) for step in range(12) for o in order.at_step(step)[0])
    licences = Counter()
    for ordinal, count in seen.items():
        licences[reader.metadata(ordinal)["licence"]] += count
        assert len(exposure(undisturbed.run, (), ordinal, 12)) == count
    assert dict(undisturbed.last.tally) == dict(licences)
    rows = read_steps(undisturbed.checkpoints[0].parent / "steps.log")
    for row in rows:
        ordinals = order.at_step(int(row["step"]))[0].tolist()
        assert bytes(row["fed_sha256"]) == fed_digest([(o, reader.commitment(o)) for o in ordinals])
        assert row["real"] == 4


KILLED = """
import json, os, signal, sys
from pathlib import Path
from toy_dataset import HashedWords, noon
from curation.shard_reader import DatasetReader
from training.checkpoint import list_checkpoints
from training.config import preset
from training.loop import train

def progress(done, loss, rate):
    sys.audit("custody.step", f"step {done} done")

def run(dataset, run_dir, **options):
    with DatasetReader.open(Path(dataset)) as reader:
        train(reader, preset("tiny"), run_dir, upstream=(), text_encoder=HashedWords(), progress=progress, now=noon,
              **options)

dataset, run_dir, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
run(dataset, scratch, stop_after=1)  # all is loaded that a step needs: no child does it anew
for event, part in json.loads(sys.argv[4]):
    if not (child := os.fork()):
        sys.addaudithook(
            lambda name, given: os.kill(os.getpid(), signal.SIGKILL) if name == event and part in str(given) else None
        )
        run(dataset, run_dir)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(json.dumps([path.name for path in list_checkpoints(run_dir)]))
"""


def killed(dataset_dir, run_dir, scratch, *moments):
    """Train in processes that kill themselves with SIGKILL at audited events (PEP 578), one after the other; the
    checkpoints that each has left."""
    arguments = [sys.executable, "-c", KILLED, str(dataset_dir), str(run_dir), str(scratch), json.dumps(moments)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_run_killed_again_and_again_ends_with_the_same_bits(dataset_dir, reader, undisturbed, tmp_path):
    """SIGKILL between steps, in the middle of a checkpoint's files, and right before its rename: weights, optimizer
    and average end equal bit for bit, no complete checkpoint is lost, and the log's effective rows are the same."""
    run_dir = tmp_path / "run"
    moments = (
        ("custody.step", "step 3 done"),
        ("custody.step", "step 7 done"),
        ("open", "model.safetensors"),  # saving step 8
        ("os.rename", "step-0000012"),
    )
    first, second = "step-0000004", "step-0000008"
    left = killed(dataset_dir, run_dir, tmp_path / "scratch", *moments)
    assert left == [[], [first], [first], [first, second]]
    result = run_to(run_dir, reader)
    assert weights(result.last) == weights(undisturbed.last)
    assert result.last.tally == undisturbed.last.tally
    assert result.last.state == "exact"
    assert [p.name for p in run_dir.glob(".*")] == []
    rows = [effective_rows(read_steps(d / "steps.log")) for d in (run_dir, undisturbed.checkpoints[0].parent)]
    assert np.array_equal(rows[0], rows[1])
    assert len(read_steps(run_dir / "steps.log")) > 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopping_and_going_on_changes_no_bit(reader, tmp_path, precision):
    """A run in three calls equals a run in one, at either precision, whatever the checkpoint interval."""
    config = preset("tiny", precision=precision, steps=6)
    whole = run_to(tmp_path / "whole", reader, config)
    parts = tmp_path / "parts"
    run_to(parts, reader, config, stop_after=1)
    run_to(parts, reader, replace(config, checkpoint_every=3), stop_after=5)
    assert weights(run_to(parts, reader, config).last) == weights(whole.last)
    assert run_to(parts, reader, config).steps == 6  # nothing left to do is no error


def test_a_tombstone_is_out_of_the_next_batch(dataset_dir, reader, tmp_path):
    """Filed while step 5 runs it is in force from step 6: the schedule says so, the log shows the missing slot,
    exposure stops there, and a resumed run keeps it."""
    tombstones = tmp_path / "tombstones"
    order = Order.of(load_order(reader))
    gone = int(order.at_step(6)[0][2])

    def file_it(done, loss, rate):
        if done == 6:
            file_tombstone(tombstones, [gone])

    events = []
    result = run_to(
        tmp_path / "run",
        reader,
        progress=file_it,
        tombstones_dir=tombstones,
        on_event=lambda *event: events.append(event),
        stop_after=9,
    )
    assert load_schedule(tmp_path / "run") == (ScheduleEntry(gone, 6),)
    assert [event[0] for event in events] == ["tombstones-entered"]
    rows = read_steps(tmp_path / "run/steps.log")
    assert rows["real"].tolist() == [4 - (s >= 6 and gone in order.at_step(s)[0]) for s in range(9)]
    assert max(exposure(result.run, result.last.schedule, gone, 9)) < 6
    final = run_to(tmp_path / "run", reader, tombstones_dir=tombstones)
    assert final.last.schedule == (ScheduleEntry(gone, 6),)

    # The same schedule, known from a resealed shard instead of a tombstone, gives the same bits.
    copy = seal(tmp_path / "copy")
    with DatasetReader.open(copy) as whole:
        run_to(tmp_path / "other", whole, stop_after=6)
    reseal(copy, [gone], "rem-1")
    drop_generation(copy, 0)
    with DatasetReader.open(copy) as thinned:
        other = run_to(tmp_path / "other", thinned)
    assert other.last.schedule == final.last.schedule
    assert weights(other.last) == weights(final.last)


def load_order(reader):
    config = preset("tiny")
    return training.loop._new_run(
        reader, config, training.loop.observe_contract("cpu", "bf16"), "r", (), "v", ""
    ).segments[0]


def test_a_damaged_checkpoint_is_passed_over_with_its_reason(reader, undisturbed, tmp_path):
    """The run goes on from the newest checkpoint that verifies, says why, and ends with the same bits."""
    run_dir = tmp_path / "run"
    run_to(run_dir, reader, stop_after=8)
    damaged = run_dir / "step-0000008/model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 1
    damaged.write_bytes(data)
    events = []
    result = run_to(run_dir, reader, on_event=lambda *event: events.append(event))
    assert [(kind, subject) for kind, subject, _ in events] == [("checkpoint-skipped", "step-0000008")]
    assert "sha256" in events[0][2]
    assert weights(result.last) == weights(undisturbed.last)
    assert open_checkpoint(run_dir / "step-0000008").record.step == 8


def test_a_broken_numeric_contract_taints(reader, tmp_path):
    """Another thread count goes on in a new segment, and what follows is tainted for good."""
    run_dir, config = tmp_path / "run", preset("tiny", steps=6, checkpoint_every=2)
    run_to(run_dir, reader, config, stop_after=2)
    events = []
    result = run_to(
        run_dir, reader, replace(config, threads=2), stop_after=4, on_event=lambda *event: events.append(event)
    )
    assert result.last.state == "tainted"
    assert events == [("numeric-contract-broken", "run", "threads: 1, now 2")]
    assert [(s.segment, s.first_position, s.contract.threads) for s in result.run.segments] == [(0, 0, 1), (1, 8, 2)]
    back = run_to(run_dir, reader, config)
    assert back.last.state == "tainted"
    assert open_checkpoint(run_dir / "step-0000002").record.state == "exact"
    assert load_run(run_dir) == back.run


def test_a_loss_that_is_no_number_stops_the_run(reader, tmp_path):
    """The error names step and ordinals, and the last good checkpoint stays."""
    config = preset("tiny", matrix_learning_rate=1e30, learning_rate=1e30, checkpoint_every=1, warmup_steps=1)
    with pytest.raises(IntegrityError, match=r"loss of step \d+ is no number .* it fed \d+, \d+"):
        run_to(tmp_path / "run", reader, config)
    checkpoint, skipped = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert skipped == ()


def test_a_run_goes_on_only_with_what_it_began_with(reader, undisturbed, tmp_path):
    """Another config, dataset or text encoder is refused by name; the run is untouched."""
    run_dir = undisturbed.checkpoints[0].parent
    with pytest.raises(ConfigurationError, match="another config"):
        run_to(run_dir, reader, preset("tiny", seed=1))
    with (
        DatasetReader.open(seal(tmp_path / "other", slots=7)) as other,
        pytest.raises(ConfigurationError, match="root"),
    ):
        run_to(run_dir, other)
    encoder = HashedWords()
    encoder.component = replace(encoder.component, digest="1" * 32)
    with pytest.raises(ConfigurationError, match="upstream"):
        run_to(run_dir, reader, text_encoder=encoder)
    assert newest_checkpoint(run_dir)[0].record == undisturbed.last


def test_a_flipped_byte_in_the_step_log_is_found(reader, tmp_path):
    """A run does not go on over damaged evidence."""
    run_dir = tmp_path / "run"
    run_to(run_dir, reader, stop_after=4)
    path = run_dir / "steps.log"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"steps\.log"):
        run_to(run_dir, reader)


def test_retention_keeps_one_checkpoint_an_epoch(reader, tmp_path):
    """Ten slots in batches of four: the first checkpoint of every epoch stays, and the newest one."""
    run_to(tmp_path / "run", reader, preset("tiny", checkpoint_every=1, keep_checkpoints=1))
    kept = [int(p.name.removeprefix("step-")) for p in list_checkpoints(tmp_path / "run")]
    assert kept == [1, 3, 5, 8, 10, 12]


def test_a_picture_that_cannot_be_decoded_is_an_event(tmp_path, encoder):
    """It is fed as an empty slot from then on, the schedule says so, and nothing else stops."""
    dataset = seal(tmp_path / "toys", image=lambda i: b"no picture" if i == 4 else flat_picture(i))
    events = []
    with DatasetReader.open(dataset) as reader:
        result = run_to(tmp_path / "run", reader, on_event=lambda *event: events.append(event))
    assert [(kind, subject) for kind, subject, _ in events] == [("picture-undecodable", "slot 4")]
    (entry,) = result.last.schedule
    assert entry.ordinal == 4
    assert exposure(result.run, result.last.schedule, 4, 12) == ()
    stored = json.loads((tmp_path / "run/schedule.json").read_text())["entries"]
    assert stored == [{"first_empty_step": entry.first_empty_step, "ordinal": 4}]
