"""Applying: the bytes of what approved requests name leave shards, kept pixels, caches and the ledger.

It can be killed anywhere and run again: which slots are to be emptied stands in the tombstones, and every step looks at
what is left to do. Many requests go in one pass: a shard is copied once, the ledger's file once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from curation.pixel_store import PixelStore
from curation.shard_reader import DatasetReader
from curation.shards import prune, reseal
from flows.home import Home, utc_now
from flows.stages.duplicates import forget_vectors, release
from flows.stages.removing.standing import Removal, shown
from flows.stages.seal import record_generation
from flows.terminal import Progress, silent
from policy import removals
from policy.durable import sweep_unfinished
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.removal_matches import erasure_selections
from policy.removals import State
from policy.snapshot import publish

_CONTENTS = """
SELECT DISTINCT content_sha256 FROM removal_match
WHERE list_contains($removals::VARCHAR[], removal) AND content_sha256 IS NOT NULL ORDER BY content_sha256
"""


def apply(home: Home, *requested: str, progress: Progress = silent) -> tuple[Removal, ...]:
    """Carry approved requests through: shards resealed, kept pixels and caches deleted, the ledger's rows erased.

    Raises:
        InputError: none is named, or there is none of that id. RefusedError: one is not approved.
    """
    if not requested:
        raise InputError("no request is named", where="custody removal apply", remedy="custody removal list")
    names = sorted(set(requested))
    with home.ledger(readonly=True) as ledger:
        for name in names:
            _require_approved(ledger, name)
        contents = [sha for (sha,) in ledger.query(_CONTENTS, {"removals": names})]
    emptied = home.tombstones().slot_removals
    datasets = sorted(d for d, slots in emptied.items() if not set(names).isdisjoint(slots.values()))
    total = len(datasets) + 3
    for done, dataset in enumerate(datasets):
        progress(done, total, "removal: resealing")
        ours = {ordinal: by for ordinal, by in emptied[dataset].items() if by in names}
        _reseal(home, dataset, ours)
    progress(len(datasets), total, "removal: kept pixels and caches")
    PixelStore(home.pixels_path).delete_all(contents)
    # A process that was killed may have left a copy in the middle of a write.
    sweep_unfinished(home.path)
    # What is cached is made anew from what is left; embeddings, of which each takes its time, go one by one.
    shutil.rmtree(home.path / "cache", ignore_errors=True)
    forget_vectors(home, contents)
    progress(len(datasets) + 1, total, "removal: the ledger")
    with home.ledger() as ledger:
        _erase(ledger, names, contents)
        publish(ledger, home.snapshot_path, now=utc_now(), force=True)
        progress(total, total, "removal: done")
        return tuple(shown(ledger, home, name) for name in names)


def _erase(ledger: Ledger, names: Sequence[str], contents: Sequence[str]) -> None:
    """The rows about these removals lose what is personal, and the file the bytes of it."""
    waiting = [name for name in names if removals.find(ledger, name).state is not State.APPLIED]
    if not waiting:
        return
    release(ledger, contents, waiting[0])
    ledger.erase_rows(erasure_selections(), {"removals": waiting})
    ledger.compact()
    for name in waiting:
        removals.advance(ledger, name, State.APPLIED, now=utc_now())


def _require_approved(ledger: Ledger, name: str) -> None:
    request = removals.find(ledger, name)
    if request.state not in (State.APPROVED, State.APPLIED):
        raise RefusedError(
            f"the request is {request.state.value}, not approved",
            where=name,
            remedy=f"custody removal approve {name} --by NAME",
        )


def _reseal(home: Home, dataset: str, emptied: dict[int, str]) -> None:
    """A generation of a dataset without these slots (ordinal -> removal), recorded; the one before it is let go."""
    place = home.dataset(dataset)
    # A reseal checks what it touches; of a bucket all the rest would have to be fetched for it.
    with DatasetReader.open(place, verify=home.remote_datasets is None) as reader:
        live = [ordinal for ordinal in emptied if reader.is_live(ordinal)]
        generation = reader.generation
    if live:
        generation = reseal(place, live, sorted({emptied[ordinal] for ordinal in live}))
    with home.ledger() as ledger:
        record_generation(ledger, generation, ",".join(sorted(set(emptied.values()))))
    prune(place)
