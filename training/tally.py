"""Tally: how often slots were really fed, by licence and by where their captions came from."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from policy.provenance import CheckpointRecord

UNKNOWN = "unknown"

Counts = tuple[tuple[str, int], ...]


class Described(Protocol):
    """A dataset's slots with what is known of each: DatasetReader is one."""

    @property
    def slots(self) -> int: ...

    def metadata(self, ordinal: int) -> object: ...


class Tally:
    """Counts exposures of exactly what had weight; goes on from a checkpoint's record.

    A slot's metadata are read once; what it was counted under stays counted when it is removed.
    """

    def __init__(self, reader: Described, record: CheckpointRecord | None = None) -> None:
        self._reader = reader
        self._kinds: list[tuple[str, str]] = []  # (licence, origin), in the order of their first exposure
        self._kind_of = np.full(reader.slots, -1, dtype=np.int32)  # by ordinal; -1: not asked yet
        self._counts = np.zeros(0, dtype=np.int64)
        self._licences = Counter(dict(record.tally) if record else {})
        self._origins = Counter(dict(record.origins) if record else {})
        # Of what a checkpoint of an older build counted the origins are not known.
        if missing := self._licences.total() - self._origins.total():
            self._origins[UNKNOWN] += missing

    def add(self, ordinals: npt.NDArray[np.int64]) -> None:
        """Count one exposure of each of these live slots, [N]."""
        kinds = self._kind_of[ordinals]
        if (kinds < 0).any():
            for ordinal in ordinals[kinds < 0].tolist():
                self._kind_of[ordinal] = self._kind(ordinal)
            kinds = self._kind_of[ordinals]
            self._counts.resize(len(self._kinds), refcheck=False)
        self._counts += np.bincount(kinds, minlength=len(self._kinds))

    @property
    def licences(self) -> Counts:
        """(licence, exposures), by name."""
        return self._of(0, self._licences)

    @property
    def origins(self) -> Counts:
        """(where the caption came from, exposures), by name."""
        return self._of(1, self._origins)

    def _of(self, part: int, before: Counter[str]) -> Counts:
        counts = Counter(before)
        for kind, count in zip(self._kinds, self._counts.tolist(), strict=True):
            counts[kind[part]] += count
        return tuple(sorted((name, count) for name, count in counts.items() if count))

    def _kind(self, ordinal: int) -> int:
        known = self._reader.metadata(ordinal)
        said = known if isinstance(known, dict) else {}
        kind = str(said.get("licence") or UNKNOWN), str(said.get("caption_origin") or UNKNOWN)
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)
