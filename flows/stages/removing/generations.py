"""What a reseal changed, told so that it can be proved: the shards before and after, each with its path to a root."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.shard_files import DatasetFiles, generation_name, is_complete
from curation.shard_reader import read_generation
from policy.errors import CustodyError, IntegrityError
from policy.inclusion import MerkleTree
from policy.provenance import Generation, ShardManifest, canonical_json


def generation_before(files: DatasetFiles, after: Generation) -> Generation | None:
    """The newest complete generation older than this one that still lies there; None when it is gone."""
    for number in sorted((n for n in files.generations() if n < after.number), reverse=True):
        if is_complete(files, number):
            try:
                return read_generation(files, number)
            except CustodyError:
                return None
    return None


def changed_shards(
    files: DatasetFiles, before: Generation, after: Generation, emptied: Mapping[int, str]
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Removal -> how the shards stood that its slots (ordinal -> removal) left, before and after.

    Slots that were empty before left no shard; removals whose slots all were are not named.
    """
    trees = [MerkleTree(canonical_json(asdict(s)).encode() for s in g.shards) for g in (before, after)]
    parts: dict[str, list[dict[str, Any]]] = {}
    wanted = np.array(sorted(emptied), np.int64)
    for number, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
        first, last = np.searchsorted(wanted, [old.first_ordinal, old.first_ordinal + old.slots])
        if old == new or first == last:
            continue
        held = _live(files, before, old)
        left: dict[str, list[int]] = {}
        for ordinal in wanted[first:last].tolist():
            if held[ordinal - old.first_ordinal]:
                left.setdefault(emptied[ordinal], []).append(ordinal)
        sides = [{**asdict(s), "audit_path": list(t.path(number))} for s, t in zip((old, new), trees, strict=True)]
        for removal, ordinals in left.items():
            parts.setdefault(removal, []).append({"number": number, "emptied": ordinals, "sides": sides})
    return {removal: (_side(before, some, 0), _side(after, some, 1)) for removal, some in parts.items()}


def _side(generation: Generation, parts: Sequence[Mapping[str, Any]], side: int) -> dict[str, Any]:
    said: dict[str, Any] = {
        "generation": generation.number,
        "root": generation.root,
        "shards": len(generation.shards),
        "parts": [{"number": p["number"], "shard": p["sides"][side]} for p in parts],
    }
    if side == 0:
        said["emptied"] = {str(p["number"]): p["emptied"] for p in parts}
    return said


def _live(files: DatasetFiles, generation: Generation, shard: ShardManifest) -> npt.NDArray[np.bool_]:
    """Which slots of a shard held a sample: bool [slots]. Raises IntegrityError."""
    name = f"{generation_name(generation.number)}/{shard.path.removesuffix('.tar')}.index.npy"
    data = files.read(name)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise IntegrityError("the index is not the one in the manifest", where=files.where(name))
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False)["live"] == 1)
