"""How schedules of emptied slots stand in the ledger: each once, named by its digest.

A checkpoint row's `schedule_json` is `{"sha256": D}`, and the first row of a run that names D holds its entries, too:
`"entries": [[ordinal, first empty step], …]`, all of them or, with `"base": B`, those in which D differs from B. So a
schedule of any length costs a run its length, not its length a checkpoint. Rows of older builds hold a plain list of
all entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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

    def digest(self, text: str | None) -> str:
        """Of the schedule that one of the texts names."""
        return self._digests[text or "[]"]

    def entries(self, text: str | None) -> dict[int, int]:
        """The whole of a schedule: ordinal -> first empty step. Raises as `of`."""
        every: set[int] = set()
        at: str | None = self.digest(text)
        while at in self._parts:
            base, entries = self._parts[at]
            every |= entries.keys()
            at = base
        return dict(self.of(every)(self.digest(text)))

    def of(self, ordinals: Collection[int]) -> Callable[[str], Mapping[int, int]]:
        """Digest of a schedule -> the first empty steps of those of the ordinals that it empties at all.

        The function raises IntegrityError where no text holds the schedule's entries.
        """
        known: dict[str, dict[int, int]] = {}

        def first_empty(digest: str) -> Mapping[int, int]:
            waiting: dict[str, None] = {}
            at: str | None = digest
            while at is not None and at not in known:
                if at not in self._parts or at in waiting:
                    raise IntegrityError(f"no checkpoint row holds the schedule {at[:16]}", where="ledger")
                waiting[at] = None
                at = self._parts[at][0]
            for each in reversed(waiting):
                base, entries = self._parts[each]
                few, many = (ordinals, entries) if len(ordinals) < len(entries) else (entries, ordinals)
                known[each] = (known[base] if base is not None else {}) | {o: entries[o] for o in few if o in many}
            return known[digest]

        return first_empty

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
