"""Verify: the ledger's chain, the tombstones, the lists, every sealed dataset and every checkpoint, recomputed."""

from __future__ import annotations

from flows.home import Home
from flows.terminal import Progress, silent
from policy.errors import IntegrityError
from policy.ledger import Ledger
from policy.verification import Failure


def verify(home: Home, progress: Progress = silent) -> list[Failure]:
    """Everything that does not hold; empty when all is as it was recorded."""
    from curation.shard_reader import verify_dataset

    failures: list[Failure] = []
    datasets = home.dataset_names()
    checkpoints = sorted(home.runs_path.glob("*/step-*"))
    total = 1 + len(datasets) + len(checkpoints)
    with home.ledger(readonly=True) as ledger:
        failures += ledger.verify(home.keys)
        failures += _check_tombstones(home, ledger)
        failures += _check_registries(home, ledger)
        roots = dict(ledger.query("SELECT dataset, root FROM dataset"))
        recorded = dict(ledger.query("SELECT checkpoint, files_json FROM checkpoint ORDER BY batch_seq, row_no"))
    progress(1, total, "verify: ledger")
    for done, name in enumerate(datasets, 2):
        failures += [Failure(what, home.dataset_where(name)) for what in verify_dataset(home.dataset(name))]
        failures += _check_root(home, name, roots)
        progress(done, total, "verify: datasets")
    for done, directory in enumerate(checkpoints, 2 + len(datasets)):
        failures += _check_checkpoint(home, directory, recorded)
        progress(done, total, "verify: checkpoints")
    return failures


def _check_tombstones(home: Home, ledger: Ledger) -> list[Failure]:
    try:
        home.tombstones(ledger)
    except IntegrityError as error:
        return [Failure(error.what, "tombstones")]
    return []


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


def _check_root(home: Home, dataset: str, roots: dict[str, str]) -> list[Failure]:
    from curation.shard_reader import read_manifest

    try:
        root = read_manifest(home.dataset(dataset)).root
    except IntegrityError:
        return []  # verify_dataset has named it
    if dataset not in roots:
        return [Failure("a dataset that the ledger does not know", home.dataset_where(dataset))]
    if roots[dataset] != root:
        return [Failure("its root is not the one in the ledger", f"{home.dataset_where(dataset)}/dataset.json")]
    return []


def _check_checkpoint(home: Home, directory: object, recorded: dict[str, str]) -> list[Failure]:
    import json
    from pathlib import Path

    from training.checkpoint import open_checkpoint

    path = Path(str(directory))
    where = str(path.relative_to(home.path))
    try:
        record = open_checkpoint(path).record
    except IntegrityError as error:
        return [Failure(error.what, where)]
    if record.checkpoint not in recorded:
        return [Failure("a checkpoint that the ledger does not know", where)]
    known = json.loads(recorded[record.checkpoint])
    if known.pop("provenance.json", record.digest) != record.digest:
        return [Failure("its record (provenance.json) is not the one in the ledger", where)]
    if known != dict(record.files):
        return [Failure("its files are not those in the ledger", where)]
    return []
