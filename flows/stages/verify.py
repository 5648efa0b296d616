"""Verify: the ledger's chain, the tombstones, the lists, every sealed dataset, checkpoint and step log, recomputed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flows.home import Home
from flows.stages.removing.withdrawing import withdrawal_failures
from flows.stages.trace import read_runs
from flows.terminal import Progress, silent
from policy.errors import CustodyError, InputError, IntegrityError, KeyFileError
from policy.ledger import Ledger
from policy.provenance import DatasetManifest, TrainingRun
from policy.revocability import classes_from_json
from policy.verification import Failure

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint


def verify(home: Home, progress: Progress = silent, *, anchors: str = "") -> list[Failure]:
    """Everything that does not hold; empty when all is as it was recorded.

    `anchors`: a place of published heads (flows/stages/anchoring.py) that the chain must go through.
    """
    from curation.shard_reader import verify_dataset

    published = _published(home, anchors) if anchors else []
    failures: list[Failure] = []
    datasets = home.dataset_names()
    runs = _runs(home)
    total = 1 + len(datasets) + len(runs)
    with home.ledger(readonly=True) as ledger:
        failures += ledger.verify(home.keys, published)
        failures += _check_tombstones(home, ledger)
        failures += _check_registries(home, ledger)
        failures += withdrawal_failures(home, ledger)
        fixed = {name: what for name, *what in ledger.query("SELECT dataset, root, classes_json FROM dataset")}
        recorded = _recorded(ledger)
    progress(1, total, "verify: ledger")
    for done, name in enumerate(datasets, 2):
        failures += [Failure(what, home.dataset_where(name)) for what in verify_dataset(home.dataset(name))]
        failures += _check_fixed(home, name, fixed)
        progress(done, total, "verify: datasets")
    for done, directory in enumerate(runs, 2 + len(datasets)):
        failures += _check_run(home, directory, recorded)
        progress(done, total, "verify: runs")
    return failures


def _published(home: Home, place: str) -> list[tuple[int, str]]:
    from flows.stages.anchoring import read_anchors

    endpoint = home.settings.seal.store_endpoint
    return [(a.seq, a.chain) for a in read_anchors(place, public_key=home.keys.public_key, endpoint=endpoint)]


def verify_runs(home: Home) -> list[Failure]:
    """Only the runs: what checkpoints, records and step logs say, against ledger, datasets and order."""
    with home.ledger(readonly=True) as ledger:
        recorded = _recorded(ledger)
    return [failure for directory in _runs(home) for failure in _check_run(home, directory, recorded)]


def verify_run(home: Home, run: str) -> list[Failure]:
    """One run alone, as `verify_runs` does all."""
    with home.ledger(readonly=True) as ledger:
        recorded = _recorded(ledger)
    return _check_run(home, home.runs_path / run, recorded)


def _check_tombstones(home: Home, ledger: Ledger) -> list[Failure]:
    failures = []
    try:
        home.tombstones(ledger)
    except IntegrityError as error:
        failures.append(Failure(error.what, "tombstones"))
    try:
        home.suppression(ledger).marks()
    except (IntegrityError, KeyFileError) as error:
        failures.append(Failure(error.what, "tombstones/suppression.json"))
    return failures


def _check_registries(home: Home, ledger: Ledger) -> list[Failure]:
    """The lists that count, read whole; those that were replaced are gone, and stay on record by their digest."""
    from policy.registries import check_keys, imported_lists

    failures = []
    for row in imported_lists(ledger):
        try:
            check_keys(home.registries_path, row)
        except IntegrityError as error:
            failures.append(Failure(error.what, str(row.path(home.registries_path).relative_to(home.path))))
    return failures


def _check_fixed(home: Home, dataset: str, fixed: Mapping[str, Sequence[str | None]]) -> list[Failure]:
    """A manifest's root and classes of revocability, against those that the ledger fixed when it was sealed."""
    from curation.shard_reader import read_manifest

    try:
        manifest = read_manifest(home.dataset(dataset))
    except IntegrityError:
        return []  # verify_dataset has named it
    if dataset not in fixed:
        return [Failure("a dataset that the ledger does not know", home.dataset_where(dataset))]
    root, classes = fixed[dataset]
    where = f"{home.dataset_where(dataset)}/dataset.json"
    if root != manifest.root:
        return [Failure("its root is not the one in the ledger", where)]
    if classes_from_json(classes) != manifest.classes:
        return [Failure("its classes of revocability are not those in the ledger", where)]
    return []


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the ledger says of runs, by id, and of checkpoints' files, as JSON by id."""

    runs: Mapping[str, TrainingRun]
    files: Mapping[str, str]


def _recorded(ledger: Ledger) -> _Recorded:
    files = ledger.query("SELECT checkpoint, files_json FROM checkpoint ORDER BY batch_seq, row_no")
    return _Recorded(read_runs(ledger), dict(files))


def _runs(home: Home) -> list[Path]:
    """The directories that hold a run's record, or checkpoints that have lost theirs."""
    return sorted({path.parent for name in ("run.json", "step-*") for path in home.runs_path.glob(f"*/{name}")})


def _check_run(home: Home, run_dir: Path, recorded: _Recorded) -> list[Failure]:
    """A run's checkpoints against MANIFEST, ledger and parents; its log against order, schedule and commitments."""
    from training.checkpoint import list_checkpoints, load_run, load_schedule
    from training.recompute import Recorded, check_checkpoints, check_run, check_steps
    from training.step_log import read_steps

    where = str(run_dir.relative_to(home.path))
    # A run that is being trained goes on meanwhile: what is written first is read last.
    failures, good = [], []
    for path in list_checkpoints(run_dir):
        checkpoint, what = _check_checkpoint(path, recorded)
        if what and path.exists():  # one that was retired meanwhile is no failure
            failures.append(Failure(what, str(path.relative_to(home.path))))
        if checkpoint is not None:
            good.append(checkpoint)
    log = run_dir / "steps.log"
    try:
        rows = read_steps(log) if log.exists() or good else None
        schedule, run = load_schedule(run_dir), load_run(run_dir)
        if run is None:
            return [*failures, Failure("run.json is missing", where)]
        failures += [Failure(what, f"{where}/run.json") for what in _check_record(run, recorded)]
        failures += _check_parents(home, run_dir, good, recorded)
        if rows is None:
            return failures
        manifest, commitments = _commitments(home, run.dataset)
        wrong = check_run(run, dataset_root=manifest.root, slots=manifest.slots)
        failures += [Failure(what, f"{where}/run.json") for what in wrong]
        standing = [Recorded(c.record, c.state.log_rows, c.state.log_sha256) for c in good]
        for name, what in check_checkpoints(run, log, rows, standing) if not wrong else ():
            failures.append(Failure(what, f"{where}, checkpoint {name}"))
        if not wrong:
            settled = max((c.log_rows for c in standing), default=0)
            found = check_steps(run, schedule, rows, commitments, settled_rows=settled)
            failures += [Failure(what, f"{where}/steps.log") for what in found]
    except CustodyError as error:
        failures.append(Failure(error.what, _within(home, error.where) or where))
    return failures


def _check_checkpoint(path: Path, recorded: _Recorded) -> tuple[Checkpoint | None, str]:
    """The checkpoint, if its files are whole, and what is wrong with it."""
    from training.checkpoint import PROVENANCE, open_checkpoint

    try:
        checkpoint = open_checkpoint(path)
    except (IntegrityError, OSError) as error:
        return None, error.what if isinstance(error, IntegrityError) else f"is unreadable ({error.strerror})"
    record = checkpoint.record
    if record.checkpoint not in recorded.files:
        return checkpoint, "a checkpoint that the ledger does not know"
    known = json.loads(recorded.files[record.checkpoint])
    # Rows of older builds do not name the record.
    if known.pop(PROVENANCE, record.digest) != record.digest:
        return checkpoint, "its record (provenance.json) is not the one in the ledger"
    if known != dict(record.files):
        return checkpoint, "its files are not those in the ledger"
    return checkpoint, ""


def _check_record(run: TrainingRun, recorded: _Recorded) -> list[str]:
    """run.json is what the ledger holds; segments that a killed trainer opened may not stand there yet."""
    known = recorded.runs.get(run.run)
    if known is None:
        return []  # its checkpoints were named; without any, nothing stands on it
    if replace(run, segments=()) != replace(known, segments=()):
        return ["the run's record is not the one in the ledger"]
    if run.segments[: len(known.segments)] != known.segments:
        return ["the run's segments are not those in the ledger"]
    return []


def _check_parents(
    home: Home, run_dir: Path, checkpoints: Sequence[Checkpoint], recorded: _Recorded
) -> Iterator[Failure]:
    """Records form a chain: each names its parent's digest. A parent may be gone; what the ledger says of it counts."""
    from training.checkpoint import PROVENANCE

    here = {c.record.checkpoint: c.record.digest for c in checkpoints}
    for checkpoint in checkpoints:
        parent, said = checkpoint.record.parent, checkpoint.record.parent_sha256
        if parent is None or said is None:
            continue
        there = here.get(parent) or json.loads(recorded.files.get(parent, "{}")).get(PROVENANCE)
        if there not in (None, said):
            yield Failure(
                f"the record of its parent {parent} is not the one that it stands on",
                str(checkpoint.path.relative_to(home.path)),
            )


def _commitments(home: Home, dataset: str) -> tuple[DatasetManifest, npt.NDArray[np.void]]:
    """A dataset's manifest and its slots' commitments, V32 [slots], checked against its root."""
    from curation.shard_reader import read_commitments, read_manifest

    try:
        manifest = read_manifest(home.dataset(dataset))
    except InputError as error:
        raise IntegrityError(f"the dataset {dataset} that it was trained on is gone", where=error.where) from error
    return manifest, np.frombuffer(read_commitments(home.dataset(dataset), manifest), dtype="V32")


def _within(home: Home, where: str) -> str:
    return where.removeprefix(f"{home.path}/")
