"""How schedules of emptied slots stand in the ledger: each once, named by its digest.

A checkpoint row's `schedule_json` is `{"sha256": D}`, and the first row of a run that names D holds its entries, too:
`"entries": [[ordinal, first empty step], …]`, all of them or, with `"base": B`, those in which D differs from B. So a
schedule of any length costs a run its length, not its length a checkpoint. Rows of older builds hold a plain list of
all entries.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from policy.errors import IntegrityError
from policy.provenance import ScheduleEntry, schedule_digest


class LedgerSchedules:
    """The schedules that `schedule_json` texts hold, or refer to."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        self._digests: dict[str, str] = {}  # by text
        self._parts: dict[str, tuple[str | None, dict[int, int]]] = {schedule_digest(()): (None, {})}
        for text in dict.fromkeys(text or "[]" for text in texts):
            self._digests[text] = self._take(json.loads(text))

    @property
    def digests(self) -> Collection[str]:
        """Those whose entries are held."""
        return self._parts.keys()

    def first_empty(self, text: str | None, ordinals: Collection[int]) -> dict[int, int]:
        """Of the schedule that a row names: the first empty steps of those of the ordinals that are empty at all.

        IntegrityError: no row holds its entries.
        """
        digest: str | None = self._digests[text or "[]"]
        found: dict[int, int] = {}
        while digest is not None:
            if digest not in self._parts:
                raise IntegrityError(f"no checkpoint row holds the schedule {digest[:16]}", where="ledger")
            base, entries = self._parts[digest]
            few, many = (ordinals, entries) if len(ordinals) < len(entries) else (entries, ordinals)
            for ordinal in few:
                if ordinal in many:
                    found.setdefault(ordinal, entries[ordinal])  # what is nearer overrules its base
            digest = base
        return found

    def _take(self, said: object) -> str:
        if isinstance(said, list):
            entries = {int(e["ordinal"]): int(e["first_empty_step"]) for e in said}
            digest = schedule_digest(ScheduleEntry(o, s) for o, s in entries.items())
            self._parts[digest] = (None, entries)
            return digest
        if not isinstance(said, dict):
            raise IntegrityError("schedule_json is neither a list nor an object", where="ledger, table checkpoint")
        digest = str(said["sha256"])
        if "entries" in said:
            self._parts[digest] = (said.get("base"), {int(o): int(s) for o, s in said["entries"]})
        return digest


class ScheduleWriter:
    """Makes the `schedule_json` of one run's checkpoints. known: digests whose entries the ledger holds already."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {*known, schedule_digest(())}
        self._base: tuple[str, Mapping[int, int]] = (schedule_digest(()), {})

    def text(self, schedule: Sequence[ScheduleEntry]) -> str:
        digest, entries = schedule_digest(schedule), {e.ordinal: e.first_empty_step for e in schedule}
        said: dict[str, object] = {"sha256": digest}
        if digest not in self._known:
            of, before = self._base
            if before.keys() <= entries.keys():
                said |= {"base": of, "entries": sorted([o, s] for o, s in entries.items() if before.get(o) != s)}
            else:
                said |= {"base": None, "entries": sorted([o, s] for o, s in entries.items())}
        self._known.add(digest)
        self._base = (digest, entries)
        return json.dumps(said)
