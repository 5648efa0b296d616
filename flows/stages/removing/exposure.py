"""What removals reach of models: which slots they empty, whose captions stood on their text, which checkpoints saw it.

Slots and captions are written down while the ledger still knows them, as ordinals, which say nothing of anybody; from
then on, and after the rows were erased, which checkpoint saw what is arithmetic on the orders of the runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curation.caption_bank import BankText
from flows.home import Home, utc_now
from flows.stages.captioning.bank import StandingTexts
from flows.stages.trace import Records, TracedCheckpoint
from policy import removals
from policy.errors import RefusedError
from policy.ledger import Ledger
from policy.provenance import utc_text
from policy.removals import Done, State
from policy.ruleset import ModelRules
from policy.tombstones import Tombstones

PART = "models"
REACH, NAMED = "reach", "named"  # actions of removal_step

_SLOTS_OF = """
WITH taken AS (SELECT * FROM removal_taken WHERE list_contains($removals::VARCHAR[], removal))
-- Not one condition with OR: each of these is a join of its own.
SELECT removal, dataset, ordinal FROM slot JOIN taken USING (content_sha256)
UNION SELECT removal, dataset, ordinal FROM slot JOIN taken USING (sample_key)
UNION SELECT removal, dataset, ordinal FROM slot JOIN taken USING (pair_key)
"""
_LENT = """
WITH given AS (
    SELECT DISTINCT removal, 'pair:' || pair_key AS source FROM removal_taken
    WHERE list_contains($removals::VARCHAR[], removal) AND pair_key IS NOT NULL
), said AS (
    SELECT sample_key, caption, source, source_kind, unnest(string_split(source, ',')) AS one
    FROM caption WHERE source IS NOT NULL
)
SELECT DISTINCT given.removal, s.dataset, s.ordinal, said.caption, said.source, said.source_kind
FROM said JOIN given ON said.one = given.source JOIN slot s USING (sample_key)
ORDER BY ALL
"""
_RECORDED = """
SELECT removal, subject, after_json FROM removal_step WHERE part = 'models' AND action = 'reach'
ORDER BY batch_seq, row_no
"""
_NAMED = "SELECT DISTINCT removal, subject FROM removal_step WHERE part = 'models' AND action = 'named'"
_WITHDRAWN = """
SELECT checkpoint, run, removal, tier, action, replaced_by, withdrawn_at FROM withdrawal
QUALIFY row_number() OVER (PARTITION BY checkpoint ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY checkpoint
"""

_REPLAYED = re.compile(r"-without-[0-9a-f]{8}$")

Places = Mapping[str, Sequence[int]]
"""Dataset -> ordinals, rising."""
_Sets = dict[str, set[int]]

# How a checkpoint was touched.
FED, DESCENDS, STANDS_ON = "fed", "descends", "stands-on"


@dataclass(frozen=True, slots=True)
class Reach:
    """What of sealed datasets a removal takes away. `slots`: the samples it concerns. `lent`: other samples, whose
    caption was its text and is nobody else's."""

    slots: Places
    lent: Places


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A checkpoint that may be used no more; `replaced_by`: the one that took its place, if any."""

    checkpoint: str
    run: str
    removal: str
    tier: str
    action: str
    replaced_by: str | None
    withdrawn_at: str


@dataclass(frozen=True, slots=True)
class Unserved:
    """A removal that a checkpoint has seen something of, and that nothing has been done about yet.

    `may_stay`: what is to be done is to name it.
    """

    removal: str
    state: str
    seen: TracedCheckpoint
    may_stay: bool


def record_reach(ledger: Ledger, home: Home, names: Iterable[str]) -> None:
    """Write down which slots these removals empty and which captions were theirs alone; their tombstones are in force.

    To be called while the ledger still has their rows: on approval, and before they are erased. Again is harmless.
    """
    done = []
    for name, (found, shared) in _live_reach(ledger, home, list(names), home.tombstones(ledger)).items():
        for dataset in sorted({*found.slots, *found.lent}):
            after = {
                "slots": list(found.slots.get(dataset, ())),
                "captions_lent": list(found.lent.get(dataset, ())),
                "captions_shared": shared.get(dataset, 0),
            }
            done.append(Done(name, PART, REACH, dataset, after=after))
    removals.record_steps(ledger, done, now=utc_now())


class Exposures:
    """What removals reach and what saw it, read once; the ledger may be closed afterwards.

    `undecided`: also what requests would reach that nobody has decided yet. `rules`: None: the ruleset's.
    """

    def __init__(self, ledger: Ledger, home: Home, *, undecided: bool = False, rules: ModelRules | None = None) -> None:
        self.records = Records.of(ledger)
        self.tombstones = home.tombstones(ledger)
        # Objections, access and credit lines take nothing out of models: of what is undecided, only erasures may.
        self.states = {
            r.removal: r.state
            for r in removals.requests(ledger)
            if r.kind == "erasure" or r.state in (State.APPROVED, State.APPLIED)
        }
        self.withdrawn = {gone.checkpoint: gone for gone in map(_withdrawn, ledger.query(_WITHDRAWN))}
        self.rules = rules or home.ruleset.models
        self._named = frozenset(ledger.query(_NAMED))
        slots: dict[str, _Sets] = {}
        lent: dict[str, _Sets] = {}
        for name, dataset, text in ledger.query(_RECORDED):
            after = json.loads(text)
            slots.setdefault(name, {}).setdefault(dataset, set()).update(after["slots"])
            lent.setdefault(name, {}).setdefault(dataset, set()).update(after["captions_lent"])
        recorded = set(slots)
        for dataset, known in self.tombstones.slot_removals.items():
            for ordinal, name in known.items():
                slots.setdefault(name, {}).setdefault(dataset, set()).add(ordinal)
        # What is still in the ledger's rows alone: requests that are held, and approvals of an older build.
        for name, state in self.states.items():
            if name not in recorded and (state is State.APPROVED or (undecided and state.is_undecided)):
                live, _ = _live_reach(ledger, home, [name], self.tombstones)[name]
                for places, known_places in ((slots, live.slots), (lent, live.lent)):
                    for dataset, ordinals in known_places.items():
                        places.setdefault(name, {}).setdefault(dataset, set()).update(ordinals)
        self._slots, self._lent = slots, lent

    @cached_property
    def in_force(self) -> tuple[str, ...]:
        """Removals that are approved or applied, sorted."""
        return tuple(sorted(n for n, state in self.states.items() if state in (State.APPROVED, State.APPLIED)))

    def reach(self, names: Iterable[str]) -> Reach:
        """What any of these removals takes away."""
        listed = list(names)
        return Reach(_united(self._slots.get(n, {}) for n in listed), _united(self._lent.get(n, {}) for n in listed))

    def exposed(self, names: Iterable[str]) -> tuple[TracedCheckpoint, ...]:
        """The checkpoints that saw what these removals take away, withdrawn ones included."""
        reach = self.reach(names)
        return self.records.exposed(reach.slots, reach.lent) if reach.slots or reach.lent else ()

    def emptied(self, dataset: str) -> frozenset[int]:
        """The slots of a dataset that no training may be fed any more: what was removed, and what has its text."""
        return self.tombstones.slots(dataset) | frozenset(self.reach(self.in_force).lent.get(dataset, ()))

    def how(self, seen: TracedCheckpoint, exposed: Iterable[TracedCheckpoint]) -> str:
        """How one of the `exposed` was touched: FED it, DESCENDS from one that was, or only STANDS_ON a model."""
        if _was_fed(seen):
            return FED
        fed = {each.id for each in exposed if _was_fed(each)}
        parent, visited = self._parent(seen.run), {seen.run}
        while parent is not None:
            run = parent.rpartition("-")[0]
            if parent in fed:
                return DESCENDS
            if run in visited:
                break
            visited.add(run)
            parent = self._parent(run)
        return STANDS_ON

    def may_stay(self, seen: TracedCheckpoint, exposed: Iterable[TracedCheckpoint], names: Iterable[str]) -> bool:
        """Whether one that is `exposed` to these removals is only named, as the ruleset has it.

        It stands on a model that saw it; or was made to forget just that, and stands in until somebody replays.
        """
        how = self.how(seen, exposed)
        if how == DESCENDS and self.rules.on_exposure == "approximate" and seen.run in self._forgetting:
            touching = [n for n in names if any(each.id == seen.id for each in self.exposed([n]))]
            return self._forgetting[seen.run].issuperset(touching)
        return how == STANDS_ON and self.rules.on_indirect == "name"

    def unserved(self, checkpoint: str, *, undecided: bool = False) -> tuple[Unserved, ...]:
        """The removals in force (`undecided`: or held) that a checkpoint has seen something of, not dealt with yet.

        One is dealt with that is named in receipts as standing on a model that saw it, if the ruleset has it so.
        """
        names = [n for n, state in self.states.items() if n in self.in_force or (undecided and state.is_undecided)]
        if checkpoint not in {seen.id for seen in self.exposed(names)}:
            return ()
        found = []
        for name in sorted(names):
            exposed = self.exposed([name])
            for seen in exposed:
                if seen.id == checkpoint:
                    may_stay = self.may_stay(seen, exposed, [name])
                    if not (may_stay and (name, checkpoint) in self._named):
                        found.append(Unserved(name, self.states[name].value, seen, may_stay))
        return tuple(found)

    def require_standing(self, checkpoint: str) -> None:
        """RefusedError unless a checkpoint may be used: it is not withdrawn, and was fed nothing that was removed."""
        if (gone := self.withdrawn.get(checkpoint)) is not None:
            raise RefusedError("this checkpoint was withdrawn", where=checkpoint, remedy=instead(gone))
        seen = [each for each in self.unserved(checkpoint) if not each.may_stay]
        if seen:
            names = " ".join(each.removal for each in seen)
            raise RefusedError(
                f"this checkpoint saw what {names} took away, and that is in force",
                where=checkpoint,
                remedy=f"custody removal replay {names}",
            )

    @cached_property
    def _forgetting(self) -> Mapping[str, frozenset[str]]:
        """Of the runs that were made to forget something (training/unlearning.py), the removals it was for."""
        runs = self.records.runs.items()
        return {run: frozenset(json.loads(r.config_json)["removed"]) for run, r in runs if r.kind == "unlearning"}

    def _parent(self, run: str) -> str | None:
        return self.records.runs[run].parent_checkpoint if run in self.records.runs else None


def _was_fed(seen: TracedCheckpoint) -> bool:
    """With the sample, or with a caption that was its text."""
    return seen.tier == "direct" or seen.count > 0


def require_standing(home: Home, checkpoint: str) -> None:
    """RefusedError unless a checkpoint may be used now (`Exposures.require_standing`)."""
    with home.ledger(readonly=True) as ledger:
        exposures = Exposures(ledger, home)
    exposures.require_standing(checkpoint)


def captioned_with_removed(ledger: Ledger, home: Home, dataset: str) -> frozenset[int]:
    """The slots of a dataset whose caption was a text that was removed since, and is nobody else's."""
    lent = Exposures(ledger, home)
    return frozenset(lent.reach(lent.in_force).lent.get(dataset, ()))


def withdrawals(home: Home) -> tuple[Withdrawn, ...]:
    """Every checkpoint that was withdrawn, as it stands now."""
    with home.ledger(readonly=True) as ledger:
        return tuple(map(_withdrawn, ledger.query(_WITHDRAWN)))


def standing_name(gone: Iterable[Withdrawn], asked: str) -> str:
    """The run that goes on for a run of this name: itself, or what took its place once it was withdrawn."""
    of_run: dict[str, Withdrawn] = {}
    for each in sorted(gone, key=lambda each: each.replaced_by is not None):
        of_run[each.run] = each
    name, again = asked, 1
    while (gone_of := of_run.get(name)) is not None:
        if gone_of.replaced_by is not None:
            name = gone_of.replaced_by.rpartition("-")[0]
        else:
            again += 1
            name = f"{asked}-{again}"
    return name


def origin_of(run: str) -> str:
    """The run that a replay, or a replay of one, goes back to."""
    return _REPLAYED.sub("", run)


def is_unfinished(gone: Iterable[Withdrawn], run: str) -> bool:
    """Whether a run is a replay that has taken nothing's place yet."""
    return origin_of(run) != run and not any((g.replaced_by or "").rpartition("-")[0] == run for g in gone)


def instead(gone: Withdrawn) -> str:
    """What to use in place of a withdrawn checkpoint, for messages."""
    if gone.replaced_by is None:
        return f"Nothing took its place: train anew, or replay it (custody removal replay {gone.removal})"
    return f"{gone.replaced_by} took its place"


def _withdrawn(row: Sequence[Any]) -> Withdrawn:
    checkpoint, run, removal, tier, action, replaced_by, at = row
    return Withdrawn(checkpoint, run, removal, tier, action, replaced_by, utc_text(at))


def _live_reach(
    ledger: Ledger, home: Home, names: Sequence[str], tombstones: Tombstones
) -> dict[str, tuple[Reach, dict[str, int]]]:
    """What the ledger's rows say each removal reaches, and how many captions a dataset others have said, too."""
    slots: dict[str, dict[str, set[int]]] = {name: {} for name in names}
    for name, dataset, ordinal in ledger.query(_SLOTS_OF, {"removals": list(names)}) if names else ():
        slots[name].setdefault(dataset, set()).add(ordinal)
    rows = ledger.query(_LENT, {"removals": list(names)}) if names else []
    texts = [BankText(text, tuple(source.split(",")), kind, ()) for *_, text, source, kind in rows]
    # A text that enough others have said would be in the bank without it: the caption would be the same.
    left = StandingTexts(ledger, tombstones, home.ruleset.bank_min_origins)(texts) if texts else []
    lent: dict[str, dict[str, set[int]]] = {name: {} for name in names}
    shared: dict[str, dict[str, int]] = {name: {} for name in names}
    for (name, dataset, ordinal, *_), stands in zip(rows, left, strict=True):
        if ordinal in slots[name].get(dataset, ()):
            continue
        if stands is None:
            lent[name].setdefault(dataset, set()).add(ordinal)
        else:
            shared[name][dataset] = shared[name].get(dataset, 0) + 1
    return {name: (Reach(_sorted(slots[name]), _sorted(lent[name])), shared[name]) for name in names}


def _sorted(places: Mapping[str, Iterable[int]]) -> Places:
    return {dataset: tuple(sorted(ordinals)) for dataset, ordinals in places.items()}


def _united(many: Iterable[_Sets]) -> Places:
    total: _Sets = {}
    for places in many:
        for dataset, ordinals in places.items():
            total.setdefault(dataset, set()).update(ordinals)
    return _sorted({dataset: ordinals for dataset, ordinals in total.items() if ordinals})
