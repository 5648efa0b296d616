"""Checkpoints: whole or not there, verified when opened, old ones gone only when they are not needed."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from policy.errors import IntegrityError, StorageError
from policy.provenance import CheckpointRecord, ScheduleEntry
from training.checkpoint import (
    TrainerState,
    list_checkpoints,
    load_schedule,
    newest_checkpoint,
    open_checkpoint,
    pack_optimizer,
    retire_checkpoints,
    save_checkpoint,
    save_schedule,
    sweep,
    unpack_optimizer,
    write_durably,
)


def a_record(step: int) -> CheckpointRecord:
    schedule, tally = (ScheduleEntry(3, 0),), (("CC-BY-4.0", 8),)
    return CheckpointRecord(
        f"r-{step:07d}",
        "r",
        0,
        step,
        step * 4,
        "d",
        "root",
        schedule,
        tally,
        (),
        None,
        (),
        "exact",
        "2026-01-01T00:00:00Z",
    )


def save(run_dir: Path, step: int, value: float = 1.0) -> Path:
    tensors = {"model": {"w": torch.full((3, 2), value)}, "ema": {"w": torch.zeros(3, 2)}}
    save_schedule(run_dir, a_record(step).schedule)
    return save_checkpoint(run_dir, a_record(step), tensors, TrainerState(step, "00")).path


def test_what_was_saved_is_what_is_opened(tmp_path):
    """Tensors, state and record come back; the record names every data file by its digest."""
    save(tmp_path, 5, value=0.5)
    checkpoint = open_checkpoint(tmp_path / "step-0000005")
    assert checkpoint.tensors("model")["w"].tolist() == [[0.5] * 2] * 3
    assert checkpoint.state == TrainerState(5, "00")
    assert [name for name, _ in checkpoint.record.files] == ["ema.safetensors", "model.safetensors", "state.json"]
    assert checkpoint.record.schedule == (ScheduleEntry(3, 0),)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "provenance.json", "MANIFEST.json"])
def test_a_flipped_byte_is_passed_over_and_said(tmp_path, name):
    """The newest checkpoint that verifies is taken; the damaged one is named with its reason."""
    save(tmp_path, 5)
    damaged = save(tmp_path, 9) / name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    checkpoint, skipped = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.record.step == 5
    assert [s.path.name for s in skipped] == ["step-0000009"]
    assert name in skipped[0].reason or "sha256" in skipped[0].reason or "manifest" in skipped[0].reason


def test_a_missing_or_extra_file_is_damage(tmp_path):
    """A checkpoint holds exactly what its manifest lists."""
    path = save(tmp_path, 5)
    (path / "extra.bin").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"extra\.bin"):
        open_checkpoint(path)
    (path / "extra.bin").unlink()
    (path / "ema.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"ema\.safetensors"):
        open_checkpoint(path)


def test_a_half_written_checkpoint_is_none(tmp_path):
    """What a killed save left behind is no checkpoint, and is swept away."""
    save(tmp_path, 5)
    os.rename(save(tmp_path, 9), tmp_path / ".writing-step-0000009")
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-0000005"]
    sweep(tmp_path)
    assert not (tmp_path / ".writing-step-0000009").exists()
    assert newest_checkpoint(tmp_path, before_step=4) == (None, ())


def test_retention_keeps_the_newest_and_the_first_of_every_epoch(tmp_path):
    """The bases of replays stay for good; what lies between them goes once it is not among the newest."""
    for step in (2, 4, 6, 8, 10, 12, 14):
        save(tmp_path, step)
    retired = retire_checkpoints(tmp_path, keep_last=2, epochs_done=lambda step: step // 5)
    assert [p.name[-2:] for p in retired] == ["04", "08"]
    assert [p.name[-2:] for p in list_checkpoints(tmp_path)] == ["02", "06", "10", "12", "14"]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_optimizer_goes_on_bit_for_bit(kind):
    """Packed and unpacked state gives the same next step as the undisturbed optimizer."""
    make = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
        "muon": lambda p: torch.optim.Muon(p, lr=0.1),
    }[kind]

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (model.weight.square() * 3).sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    straight = torch.nn.Linear(4, 3, bias=False)
    optimizer = make(straight.parameters())
    step(straight, optimizer)
    resumed = torch.nn.Linear(4, 3, bias=False)
    resumed.load_state_dict(straight.state_dict())
    other = make(resumed.parameters())
    packed = {k: v.clone() for k, v in pack_optimizer(optimizer, straight.named_parameters()).items()}
    unpack_optimizer(other, resumed.named_parameters(), packed)
    step(straight, optimizer)
    step(resumed, other)
    assert torch.equal(straight.weight, resumed.weight)
    with pytest.raises(IntegrityError, match="does not have"):
        unpack_optimizer(other, resumed.named_parameters(), {"bias/momentum_buffer": torch.zeros(3)})


def test_a_record_takes_a_thousand_bytes_however_long_the_schedule_is(tmp_path):
    """A record holds its schedule's digest; the entries come back from the run's file, those below its step alone."""
    entries = [ScheduleEntry(ordinal, ordinal // 10) for ordinal in range(5000)]
    save_schedule(tmp_path, entries)
    record = replace(a_record(300), schedule=tuple(entries[:3000]), origins=(("alt", 8),), parent_sha256="0" * 64)
    path = save_checkpoint(tmp_path, record, {"model": {"w": torch.zeros(1)}}, TrainerState(300, "00")).path
    assert (path / "provenance.json").stat().st_size < 1000
    opened = open_checkpoint(path).record
    assert opened.schedule == record.schedule
    assert opened == replace(record, files=opened.files)
    save_schedule(tmp_path, [*entries[1:], ScheduleEntry(0, 299)])
    with pytest.raises(IntegrityError, match="not the one that r-0000300 recorded"):
        open_checkpoint(path)


def test_records_of_older_builds_stay_readable():
    """A record that holds its entries itself is read as it was; its digest does not depend on how it was stored."""
    record = a_record(5)
    data = json.loads(record.to_json())
    del data["schedule_sha256"]
    data["schedule"] = [{"ordinal": 3, "first_empty_step": 0}]
    older = CheckpointRecord.from_json(json.dumps(data))
    assert older == record
    assert older.digest == record.digest == CheckpointRecord.from_json(record.to_json()).digest
    assert CheckpointRecord.from_json(record.to_json()).with_schedule([*record.schedule, ScheduleEntry(8, 5)]) == record


def test_the_schedule_is_kept_in_the_order_it_took_force(tmp_path):
    """Schedule entries come back sorted by step; none stored means none."""
    assert load_schedule(tmp_path) == ()
    save_schedule(tmp_path, [ScheduleEntry(2, 7), ScheduleEntry(9, 0)])
    assert load_schedule(tmp_path) == (ScheduleEntry(9, 0), ScheduleEntry(2, 7))
    (tmp_path / "schedule.json").write_text(json.dumps({"entries": [{"ordinal": 1}]}))
    with pytest.raises(IntegrityError, match="not a schedule"):
        load_schedule(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path):
    """A save that does not fit raises StorageError, leaves no debris, and the earlier checkpoint still verifies."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        save(disk, 5)
        big = {"model": {"w": torch.zeros(100_000)}}
        with pytest.raises(StorageError, match="disk is full"):
            save_checkpoint(disk, a_record(9), big, TrainerState(9, "00"))
        with pytest.raises(StorageError, match="disk is full"):
            write_durably(disk / "run.json", bytes(400_000))
        assert sorted(p.name for p in disk.iterdir()) == ["schedule.json", "step-0000005"]
        assert newest_checkpoint(disk)[0] is not None
    finally:
        subprocess.run(["umount", str(disk)], check=True)
