"""Checkpoints and the other files of a run directory, for every kind of run.

::

    runs/<run>/run.json                 TrainingRun: config, seed, upstream models, segments
               schedule.json            which slot is empty from which step on
               steps.log                training/step_log.py
               step-0000500/<name>.safetensors   model, ema, one an optimizer, …
                            config.json, …       whatever the kind of run needs to load it again
                            state.json           rows and sha256 of the step log at this step
                            provenance.json      CheckpointRecord
                            MANIFEST.json        size and sha256 of every other file, written last

A checkpoint is written under a temporary name, every file and the directory flushed to the disk, then renamed; older
ones go only afterwards. So a directory named step-* is complete unless the disk lost something later, and that the
MANIFEST shows. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from policy import durable
from policy.errors import IntegrityError, StorageError
from policy.provenance import CheckpointRecord, ScheduleEntry, Segment, TrainingRun, Unlearning

if TYPE_CHECKING:
    from training.order import Order
    from training.tally import Tally

MANIFEST = "MANIFEST.json"
PROVENANCE = "provenance.json"
STATE = "state.json"
FORMAT_VERSION = 1

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a resume needs beside tensors: how far the step log had got."""

    log_rows: int
    log_sha256: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on the disk whose MANIFEST was verified when it was opened."""

    path: Path
    record: CheckpointRecord
    state: TrainerState

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of `<name>.safetensors`, freshly read on every call: optimizers may alias what they are given."""
        path = self.path / f"{name}.safetensors"
        try:
            return safetensors.torch.load(path.read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            raise IntegrityError(f"cannot be read ({error})", where=str(path)) from error


@dataclass(frozen=True, slots=True)
class Skipped:
    """A checkpoint that was passed over, and why."""

    path: Path
    reason: str


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    return run_dir / f"step-{step:07d}"


def record_at(
    step: int,
    run: TrainingRun,
    segment: Segment,
    order: Order,
    *,
    schedule: tuple[ScheduleEntry, ...],
    tally: Tally,
    parent: CheckpointRecord | None,
    state: str,
    saved_at: str,
    unlearning: Unlearning | None = None,
) -> CheckpointRecord:
    """What a checkpoint of a run says of itself after so many steps; its files are added when it is saved.

    `parent`: the checkpoint before it; None: that which the run began from, if any.
    """
    return CheckpointRecord(
        checkpoint=f"{run.run}-{step:07d}",
        run=run.run,
        segment=segment.segment,
        step=step,
        positions=min(step * segment.batch_size, order.positions),
        dataset=run.dataset,
        dataset_root=run.dataset_root,
        schedule=schedule,
        tally=tally.licences,
        origins=tally.origins,
        files=(),
        parent=parent.checkpoint if parent else run.parent_checkpoint,
        parent_sha256=parent.digest if parent else None,
        upstream=run.upstream,
        state=state,
        saved_at=saved_at,
        unlearning=unlearning,
    )


def save_checkpoint(
    run_dir: Path,
    record: CheckpointRecord,
    tensors: Mapping[str, Tensors],
    state: TrainerState,
    documents: Mapping[str, bytes] | None = None,
) -> Checkpoint:
    """Write a checkpoint durably; `record.files` is filled in here. StorageError leaves all earlier ones as they were.

    tensors: file stem ("model", "ema", "adamw") -> named tensors. documents: other files beside them, by name.
    """
    final = checkpoint_dir(run_dir, record.step)
    temporary = run_dir / f".writing-{final.name}"
    try:
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        digests = {}
        for name, named in sorted(tensors.items()):
            # In memory first: writing through a mapping would meet a full disk as SIGBUS.
            data = safetensors.torch.save({key: t.detach().cpu().contiguous() for key, t in sorted(named.items())})
            digests[f"{name}.safetensors"] = _write(temporary / f"{name}.safetensors", data)
        for name, data in sorted((documents or {}).items()):
            digests[name] = _write(temporary / name, data)
        digests[STATE] = _write(temporary / STATE, _json({"version": FORMAT_VERSION, **asdict(state)}))
        record = replace(record, files=tuple(sorted(digests.items())))
        digests[PROVENANCE] = _write(temporary / PROVENANCE, record.to_json().encode())
        sizes = {name: (temporary / name).stat().st_size for name in digests}
        files = {name: {"sha256": digests[name], "size_bytes": sizes[name]} for name in sorted(digests)}
        _write(temporary / MANIFEST, _json({"version": FORMAT_VERSION, "files": files}))
        durable.sync_directory(temporary)
        if final.exists():  # a damaged one, or one that a resume from before it has superseded
            shutil.rmtree(final)
        os.rename(temporary, final)
        durable.sync_directory(run_dir)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(error, final) from error
    return Checkpoint(final, record, state)


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify every file against the MANIFEST and read the record; IntegrityError says what does not fit."""
    manifest = _read_json(path / MANIFEST)
    try:
        listed = {str(n): (str(f["sha256"]), int(f["size_bytes"])) for n, f in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(f"not a checkpoint manifest ({error})", where=str(path / MANIFEST)) from error
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    if present != listed.keys():
        odd = ", ".join(sorted(present ^ listed.keys()))
        raise IntegrityError(f"the files are not those of the manifest: {odd}", where=str(path))
    for name, (sha256, size_bytes) in listed.items():
        file = path / name
        if file.stat().st_size != size_bytes:
            raise IntegrityError(f"{file.stat().st_size} bytes instead of {size_bytes}", where=str(file))
        if _digest(file) != sha256:
            raise IntegrityError("its sha256 is not the one that was recorded", where=str(file))
    record = read_record(path)
    if any(listed.get(name, ("", 0))[0] != sha256 for name, sha256 in record.files):
        raise IntegrityError("the record names other files than the manifest", where=str(path / PROVENANCE))
    state = _read_json(path / STATE)
    try:
        return Checkpoint(path, record, TrainerState(int(state["log_rows"]), str(state["log_sha256"])))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"not a trainer state ({error})", where=str(path / STATE)) from error


def read_record(path: Path) -> CheckpointRecord:
    """A checkpoint's record with its schedule, which stands in the run's schedule.json; its files are not looked at.

    IntegrityError: it is no record, or the run's schedule is not what it recorded.
    """
    try:
        text = (path / PROVENANCE).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise IntegrityError(f"is unreadable ({error})", where=str(path / PROVENANCE)) from error
    record = CheckpointRecord.from_json(text, where=str(path / PROVENANCE))
    if record.schedule_sha256:
        record = record.with_schedule(load_schedule(path.parent), where=str(path.parent / "schedule.json"))
    return record


def list_checkpoints(run_dir: Path) -> tuple[Path, ...]:
    """Checkpoint directories by rising step, unverified."""
    if not run_dir.is_dir():
        return ()
    found = [entry for entry in run_dir.iterdir() if re.fullmatch(r"step-\d{7,}", entry.name) and entry.is_dir()]
    return tuple(sorted(found, key=_step_of))


def newest_checkpoint(
    run_dir: Path, *, before_step: int | None = None
) -> tuple[Checkpoint | None, tuple[Skipped, ...]]:
    """The newest checkpoint that verifies (of at most `before_step` steps), and those passed over with the reason."""
    skipped: list[Skipped] = []
    for path in reversed(list_checkpoints(run_dir)):
        if before_step is not None and _step_of(path) > before_step:
            continue
        try:
            return open_checkpoint(path), tuple(skipped)
        except IntegrityError as error:
            skipped.append(Skipped(path, str(error)))
    return None, tuple(skipped)


def retire_checkpoints(run_dir: Path, *, keep_last: int, epochs_done: Callable[[int], int]) -> tuple[Path, ...]:
    """Delete what neither resume nor replay needs: the last `keep_last` stay, and the first of every epoch.

    The first checkpoint at or after an epoch's end is the base of replays, so it stays for good.
    """
    paths = list_checkpoints(run_dir)
    bases: dict[int, Path] = {}
    for path in paths:
        bases.setdefault(epochs_done(_step_of(path)), path)
    kept = {*paths[max(0, len(paths) - keep_last) :], *bases.values()}
    retired = tuple(path for path in paths if path not in kept)
    for path in retired:
        # Renamed first: a kill in the middle must not leave half a directory under a checkpoint's name.
        doomed = run_dir / f".retired-{path.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed)
    return retired


def sweep(run_dir: Path) -> None:
    """Remove what a killed run left half written or half deleted."""
    for leftover in (*run_dir.glob(".writing-*"), *run_dir.glob(".retired-*"), *run_dir.glob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


# ── optimizers ───────────────────────────────────────────────────────────────────────────────────────────────────


def pack_optimizer(optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, torch.Tensor]]) -> Tensors:
    """The optimizer's state as tensors named "<parameter>/<state>"; its hyperparameters come from the config."""
    names = {id(parameter): name for name, parameter in parameters}
    packed = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{type(optimizer).__name__} keeps {key} outside tensors; it cannot be resumed exactly")
            packed[f"{names[id(parameter)]}/{key}"] = value
    return packed


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, torch.Tensor]], tensors: Tensors
) -> None:
    """Put packed state back into an optimizer built from the same config. IntegrityError: state of another model."""
    names = {id(parameter): name for name, parameter in parameters}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    index = {name: i for i, name in enumerate(order)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for packed, tensor in tensors.items():
        name, _, key = packed.rpartition("/")
        if name not in index:
            raise IntegrityError(f"optimizer state for {name}, which the model does not have", where="optimizer")
        state.setdefault(index[name], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# ── the run's own files ──────────────────────────────────────────────────────────────────────────────────────────


def save_run(run_dir: Path, run: TrainingRun) -> None:
    write_durably(run_dir / "run.json", run.to_json().encode())


def load_run(run_dir: Path) -> TrainingRun | None:
    """The run's record, None where no run was started yet."""
    path = run_dir / "run.json"
    return TrainingRun.from_json(path.read_text(), where=str(path)) if path.exists() else None


def save_schedule(run_dir: Path, schedule: Iterable[ScheduleEntry]) -> None:
    entries = [asdict(entry) for entry in sorted(schedule, key=lambda e: (e.first_empty_step, e.ordinal))]
    write_durably(run_dir / "schedule.json", _json({"version": FORMAT_VERSION, "entries": entries}))


def load_schedule(run_dir: Path) -> tuple[ScheduleEntry, ...]:
    """The slots that are empty and from which step on; empty where no schedule was stored."""
    path = run_dir / "schedule.json"
    if not path.exists():
        return ()
    try:
        return tuple(ScheduleEntry(int(e["ordinal"]), int(e["first_empty_step"])) for e in _read_json(path)["entries"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"not a schedule ({error})", where=str(path)) from error


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file: temporary name beside it, flush, rename, flush the directory. StorageError keeps the old one."""
    try:
        durable.write_durably(path, data)
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """An OSError in the words of the user: what, where, what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Free some space and start again; what was complete before is untouched" if full else ""
    what = "the disk is full" if full else f"cannot write ({error.strerror})"
    return StorageError(what, where=str(path), remedy=remedy)


def _write(path: Path, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is unreadable ({error})"
        raise IntegrityError(reason, where=str(path)) from error
    if not isinstance(data, dict):
        raise IntegrityError("is not a JSON object", where=str(path))
    return data


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
