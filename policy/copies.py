"""A home against the copy, outside of it, of what may never come back: is the home a restored backup that is behind?

The copy (`removals.suppression_copy`) is begun by the first command that writes into the home, so that there is no
backup from before it that has anything in it, and is told of every approval before that returns. A home that does not
continue it was restored from a backup made before some of them: it still holds what was removed, and nobody may use it
until that has been removed again (`custody restore`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from policy.errors import CustodyError, HomeError
from policy.keys import KeyRing
from policy.suppression import SUPPRESSION_FILE, Suppression
from policy.tombstones import TOMBSTONES_FILE, Tombstones

RESTORING: Final = "restoring"  # a file in a home that is being restored, until all of it is done
_FILES: Final = (TOMBSTONES_FILE, SUPPRESSION_FILE)
_GO_ON: Final = "Run `custody restore` in it: what was removed since is removed again, then it is as before"


def begin_copy(tombstones: Path, copy: Path, keys: KeyRing) -> None:
    """Begin a copy, empty, and the home's own file, which says from now on that there is one. Raises `StorageError`.

    One that is missing later is lost, and whether the home is behind cannot be told then.
    """
    if (tombstones / TOMBSTONES_FILE).exists():
        return
    empty = Tombstones(key_id=keys.key_id("token"), keys=keys)
    if not (copy / TOMBSTONES_FILE).exists():
        empty.store(copy)
    if not Tombstones.load(copy).epoch:
        empty.store(tombstones)


def require_current(home: Path, tombstones: Path, copy: Path) -> None:
    """Raise `HomeError` unless a home continues its copy. Cheap where both are the same, as they nearly always are.

    `tombstones`: the home's own directory of them; `copy`: the other one, outside.
    """
    if (home / RESTORING).exists():
        raise HomeError("is being restored, and that is not finished", where=str(home), remedy=_GO_ON)
    found = [(_bytes_of(tombstones / name), _bytes_of(copy / name)) for name in _FILES]
    if found[0][0] is not None and all(ours == theirs for ours, theirs in found):
        return
    own, outside = load_both(tombstones), load_both(copy)
    if found[0][0] is not None and found[0][1] is None:
        raise HomeError(
            "the copy of what may never come back is missing: whether this home is behind cannot be told",
            where=str(copy),
            remedy="Mount or restore it; if this home is the newest there is: `custody restore --write-copy`",
        )
    if not own[0].epoch and not outside[0].epoch and not own[1].epoch and not outside[1].epoch:
        return  # nothing was ever removed
    if not (outside[0].is_within(own[0]) and outside[1].is_within(own[1])):
        raise HomeError(
            f"is a backup from before some removals: its tombstones are of epoch {own[0].epoch}, "
            f"those of the copy outside of epoch {outside[0].epoch}",
            where=str(home),
            remedy=_GO_ON,
        )


def load_both(directory: Path, keys: KeyRing | None = None) -> tuple[Tombstones, Suppression]:
    """Tombstones and suppression list of a directory; empty where there are none.

    Raises `HomeError` where one is damaged: nothing may be let in by it, and nothing can be restored from it.
    """
    try:
        return Tombstones.load(directory, keys), Suppression.load(directory, keys)
    except CustodyError as error:
        remedy = "Restore it from another copy, or from the newest home there is, before anything else runs"
        raise HomeError(
            f"cannot be relied on: {error.what}", where=error.where or str(directory), remedy=remedy
        ) from error


def united(own: Tombstones, outside: Tombstones) -> Tombstones:
    """What either keeps out; of an epoch that continues both. What both know stays with the home's own removal."""
    if own.is_within(outside):
        return dataclasses.replace(outside, keys=own.keys or outside.keys)
    tokens = {
        kind: {**outside.tokens.get(kind, {}), **own.tokens.get(kind, {})} for kind in {*outside.tokens, *own.tokens}
    }
    slots = {
        name: {**outside.slot_removals.get(name, {}), **own.slot_removals.get(name, {})}
        for name in {*outside.slot_removals, *own.slot_removals}
    }
    return dataclasses.replace(
        own,
        epoch=max(own.epoch, outside.epoch) + (0 if outside.is_within(own) else 1),
        key_id=own.key_id or outside.key_id,
        tokens=tokens,
        slot_removals=slots,
        keys=own.keys or outside.keys,
    )


def united_marks(own: Suppression, outside: Suppression) -> Suppression:
    """What either recognises; of an epoch that continues both."""
    if own.is_within(outside):
        return dataclasses.replace(outside, keys=own.keys or outside.keys)
    return dataclasses.replace(
        own,
        epoch=max(own.epoch, outside.epoch) + (0 if outside.is_within(own) else 1),
        key_id=own.key_id or outside.key_id,
        entries={**outside.entries, **own.entries},
        spared={**outside.spared, **own.spared},
        keys=own.keys or outside.keys,
    )


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
