"""Trace: which checkpoints saw a picture, how often, at which steps. Arithmetic on the order, not a search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from flows.home import Home
from flows.stages.lookup import covering, pairs_of, read_query
from flows.stages.schedules import LedgerSchedules
from flows.terminal import answer, counted, escape
from policy.ledger import Ledger
from policy.provenance import TrainingRun

# Of a page or a site there may be thousands.
SHOWN = 20
_KEYS_AT_ONCE = 1000  # bounds the counts of keys x checkpoints
_STRETCHES = 64  # of one count: where there are more, few samples share one

_SLOTS = """
WITH named AS (SELECT unnest($pairs::VARCHAR[]) AS pair_key),
contents AS (
    SELECT content_sha256 FROM evidence WHERE pair_key IN (SELECT pair_key FROM named)
    UNION SELECT content_sha256 FROM slot WHERE sample_key = $key
)
-- Not one condition with OR: each of these is answered from the columns' zone maps where they are sorted.
SELECT dataset, ordinal, sample_key FROM slot WHERE sample_key = $key
UNION SELECT dataset, ordinal, sample_key FROM slot WHERE pair_key IN (SELECT pair_key FROM named)
UNION SELECT dataset, ordinal, sample_key FROM slot WHERE content_sha256 IN (SELECT content_sha256 FROM contents)
ORDER BY dataset, ordinal
"""
_KEYED = """
SELECT sample_key, dataset, ordinal FROM slot WHERE sample_key IN (SELECT unnest($keys::VARCHAR[]))
ORDER BY dataset, ordinal
"""
_CHECKPOINTS = """
SELECT checkpoint, run, segment, step, schedule_json, state FROM checkpoint
QUALIFY row_number() OVER (PARTITION BY checkpoint ORDER BY batch_seq DESC, row_no DESC) = 1
ORDER BY run, step
"""
_CAPTIONED_FROM = """
SELECT DISTINCT s.dataset, s.ordinal, s.sample_key FROM slot s JOIN caption c USING (sample_key)
WHERE list_has_any(string_split(c.source, ','), list_transform($pairs::VARCHAR[], pair -> 'pair:' || pair))
ORDER BY s.dataset, s.ordinal
"""


@dataclass(frozen=True, slots=True)
class TracedSample:
    """A slot that holds (state live) or held (removed) what was asked for."""

    key: str | None
    dataset: str
    ordinal: int
    state: str


@dataclass(frozen=True, slots=True)
class TracedCheckpoint:
    """A checkpoint that was touched. `tier`: direct (it was fed the sample) or indirect (`through` names the path)."""

    id: str
    run: str
    step: int
    tier: str
    count: int
    steps: tuple[int, ...]
    state: str
    through: str = ""


@dataclass(frozen=True, slots=True)
class Traced:
    """The contract of `custody trace --json`."""

    query: str
    samples: tuple[TracedSample, ...]
    checkpoints: tuple[TracedCheckpoint, ...]


def trace(home: Home, query: str) -> Traced:
    """Find every slot of the content that is named, and every checkpoint that saw one, directly or through a model.

    Raises:
        InputError: the query is neither URL, key, sha256 nor file.
    """
    named = read_query(query)
    with home.ledger(readonly=True) as ledger:
        tombstones = home.tombstones(ledger)
        pairs = pairs_of(ledger, named)
        slots = ledger.query(_SLOTS, {"pairs": pairs, "key": named.value if named.kind == "key" else ""})
        lent = ledger.query(_CAPTIONED_FROM, {"pairs": pairs})
        runs = read_runs(ledger)
        checkpoints = ledger.query(_CHECKPOINTS)
    # What was erased is known by its tombstone only: its slots stand there.
    removal = covering(tombstones, named)
    slots += [
        (dataset, ordinal, None)
        for dataset, known in sorted(tombstones.slot_removals.items())
        for ordinal, by in sorted(known.items())
        if by == removal and (dataset, ordinal) not in {(d, o) for d, o, _ in slots}
    ]
    samples = tuple(
        TracedSample(key, dataset, ordinal, "removed" if ordinal in tombstones.slots(dataset) else "live")
        for dataset, ordinal, key in slots
    )
    return Traced(query, samples, _touched(_ordinals(slots), _ordinals(lent), runs, checkpoints))


def exposed_checkpoints(
    ledger: Ledger, slots: Mapping[str, Sequence[int]], lent: Mapping[str, Sequence[int]] | None = None
) -> tuple[TracedCheckpoint, ...]:
    """`Records.exposed` of a ledger that is asked once."""
    return Records.of(ledger).exposed(slots, lent)


@dataclass(frozen=True, slots=True)
class Records:
    """The runs and checkpoints of a ledger, read once for many questions."""

    runs: Mapping[str, TrainingRun]
    checkpoints: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        return cls(read_runs(ledger), tuple(ledger.query(_CHECKPOINTS)))

    def exposed(
        self, slots: Mapping[str, Sequence[int]], lent: Mapping[str, Sequence[int]] | None = None
    ) -> tuple[TracedCheckpoint, ...]:
        """The checkpoints that saw any of these slots (dataset -> ordinals), directly or through a model.

        `lent`: slots whose caption was taken from the text of what is asked about.
        """
        return _touched(slots, lent or {}, self.runs, self.checkpoints)

    def schedule_digest(self, checkpoint: str) -> str:
        """Of the schedule that a checkpoint on record was trained under."""
        found = _Row._make(next(row for row in self.checkpoints if row[0] == checkpoint))
        return LedgerSchedules([found.schedule_json]).digest(found.schedule_json)


@dataclass(frozen=True, slots=True)
class TracedKey:
    """A slot that a sample key names, and what saw it: (checkpoint, how often), fed directly."""

    key: str
    dataset: str
    ordinal: int
    checkpoints: tuple[tuple[str, int], ...]


def trace_keys(ledger: Ledger, keys: Sequence[str]) -> Iterator[TracedKey]:
    """Trace many sample keys at once, directly: one question to the ledger, and the arithmetic for all of a run.

    Keys that name no slot are left out.
    """
    found = ledger.query(_KEYED, {"keys": list(keys)})
    runs, schedules, by_run = read_runs(ledger), *_by_run(ledger.query(_CHECKPOINTS))
    for dataset, group in itertools.groupby(found, key=lambda row: row[1]):
        of_dataset = [rows for run, rows in by_run.items() if run in runs and runs[run].dataset == dataset]
        named = _Counted([row.checkpoint for rows in of_dataset for row in rows])
        slots = [(key, ordinal) for key, _, ordinal in group]
        for start in range(0, len(slots), _KEYS_AT_ONCE):
            some = slots[start : start + _KEYS_AT_ONCE]
            ordinals = np.array([ordinal for _, ordinal in some], dtype=np.int64)
            counts = np.zeros((len(named.names), len(some)), dtype=np.int64)
            seen_by = (e for rows in of_dataset for e in _exposures(runs[rows[0].run], rows, schedules, ordinals))
            for at, (_, which, _) in enumerate(seen_by):
                counts[at] = np.bincount(which, minlength=len(some))
            for (key, ordinal), of_key in zip(some, counts.T.copy(), strict=True):
                yield TracedKey(key, dataset, ordinal, named.pairs(of_key))


class _Counted:
    """Makes (checkpoint, how often) pairs. A sample's count rises a few times a run: the stretches between are slices
    of pairs that all samples share, and what a thousand checkpoints cost is one copy of pointers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._pairs: dict[int, list[tuple[str, int]]] = {}

    def pairs(self, counts: npt.NDArray[np.int64]) -> tuple[tuple[str, int], ...]:
        """Of the checkpoints whose count is not 0, in their order; counts [checkpoints]."""
        rises = np.flatnonzero(counts[1:] != counts[:-1]) + 1
        if len(rises) > _STRETCHES:
            return tuple((name, count) for name, count in zip(self.names, counts.tolist(), strict=True) if count)
        edges = [0, *rises.tolist(), len(counts)]
        found: list[tuple[str, int]] = []
        for start, end in itertools.pairwise(edges):
            if count := int(counts[start]) if end else 0:
                found += self._of(count)[start:end]
        return tuple(found)

    def _of(self, count: int) -> list[tuple[str, int]]:
        """Every checkpoint with this count."""
        if count not in self._pairs:
            self._pairs[count] = [(name, count) for name in self.names]
        return self._pairs[count]


def read_runs(ledger: Ledger) -> dict[str, TrainingRun]:
    """The runs on record, by id; the newest record of each."""
    rows = ledger.query(
        "SELECT run, record_json FROM run QUALIFY row_number() OVER (PARTITION BY run ORDER BY batch_seq DESC) = 1"
    )
    return {run: TrainingRun.from_json(record, where=f"ledger, run {run}") for run, record in rows}


def _ordinals(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[int]]:
    by_dataset: dict[str, list[int]] = {}
    for dataset, ordinal, _ in rows:
        by_dataset.setdefault(dataset, []).append(ordinal)
    return by_dataset


class _Row(NamedTuple):
    """A checkpoint as the ledger has it."""

    checkpoint: str
    run: str
    segment: int
    step: int
    schedule_json: str | None
    state: str


def _by_run(checkpoints: Iterable[tuple[Any, ...]]) -> tuple[LedgerSchedules, dict[str, list[_Row]]]:
    by_run: dict[str, list[_Row]] = {}
    for row in map(_Row._make, checkpoints):
        by_run.setdefault(row.run, []).append(row)
    return LedgerSchedules(r.schedule_json for rows in by_run.values() for r in rows), by_run


def _exposures(
    run: TrainingRun, rows: Sequence[_Row], schedules: LedgerSchedules, ordinals: npt.NDArray[np.int64]
) -> Iterator[tuple[_Row, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each checkpoint of a run: which of the ordinals it was fed, and at which step, rising by step.

    The order is computed once for all checkpoints that have the same segments behind them, and what was emptied is
    taken out once a schedule; a checkpoint is then a cut at its step.
    """
    from training.order import Exposures

    empty = schedules.of(frozenset(ordinals.tolist()))
    last = max(row.step for row in rows)
    ordered: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
    for (segment, schedule), same in itertools.groupby(rows, lambda r: (r.segment, schedules.digest(r.schedule_json))):
        if segment not in ordered:
            which, steps = Exposures(run, segment).steps_of(ordinals, last)
            rising = np.argsort(steps, kind="stable")
            ordered[segment] = which[rising], steps[rising]
        which, steps = ordered[segment]
        if first_empty := empty(schedule):
            never = np.iinfo(np.int64).max
            since = np.array([first_empty.get(ordinal, never) for ordinal in ordinals.tolist()], dtype=np.int64)
            fed = steps < since[which]
            which, steps = which[fed], steps[fed]
        checkpoints = list(same)
        ends = np.searchsorted(steps, [row.step for row in checkpoints])
        for row, end in zip(checkpoints, ends.tolist(), strict=True):
            yield row, which[:end], steps[:end]


def _touched(
    slots: Mapping[str, Sequence[int]],
    lent: Mapping[str, Sequence[int]],
    runs: Mapping[str, TrainingRun],
    checkpoints: Sequence[tuple[Any, ...]],
) -> tuple[TracedCheckpoint, ...]:
    schedules, by_run = _by_run(checkpoints)
    found: dict[str, TracedCheckpoint] = {}
    for run, rows in by_run.items():
        if run not in runs:
            continue
        for tier, of, through in (("direct", slots, ""), ("indirect", lent, "a caption taken from its text")):
            ordinals = np.array(sorted(set(of.get(runs[run].dataset, ()))), dtype=np.int64)
            if not ordinals.size:
                continue
            for row, _, steps in _exposures(runs[run], rows, schedules, ordinals):
                if steps.size and row.checkpoint not in found:
                    at = tuple(steps.tolist())
                    found[row.checkpoint] = TracedCheckpoint(
                        row.checkpoint, run, row.step, tier, len(at), at, row.state, through
                    )
    # Through a model: what stands on a run that was touched, or began from a checkpoint that was.
    touched = {c.run for c in found.values()}
    for run, rows in by_run.items():
        if run not in runs:
            continue
        models, began_from = stands_on(runs[run], runs)
        paths = [f"the model {', '.join(sorted(models & touched))}"] if models & touched else []
        paths += [f"the checkpoint {c} that it began from" for c in sorted(began_from & found.keys())]
        for row in rows if paths else ():
            if row.checkpoint not in found:
                found[row.checkpoint] = TracedCheckpoint(
                    row.checkpoint, run, row.step, "indirect", 0, (), row.state, " and ".join(paths)
                )
    return tuple(sorted(found.values(), key=lambda c: (c.run, c.step)))


def stands_on(record: TrainingRun, runs: Mapping[str, TrainingRun]) -> tuple[set[str], set[str]]:
    """The runs, of any generation, whose models this run stands on; the checkpoints that it and they began from."""
    reached: set[str] = set()
    began_from: set[str] = set()
    waiting, visited = [record], {record.run}
    while waiting:
        current = waiting.pop()
        further = []
        if current.parent_checkpoint is not None:
            began_from.add(current.parent_checkpoint)
            further.append(current.parent_checkpoint.rpartition("-")[0])
        for model in current.upstream:
            run = model.training_data.removeprefix("run:")
            if model.training_data.startswith("run:"):
                reached.add(run)
                further.append(run)
        for run in further:
            if run in runs and run not in visited:
                visited.add(run)
                waiting.append(runs[run])
    return reached, began_from


def tell(found: Traced) -> None:
    """Print a trace for a person."""
    if not found.samples:
        answer(f"No sealed dataset holds {escape(found.query)}.")
        return
    for sample in found.samples[:SHOWN]:
        answer(f"{sample.dataset}, slot {sample.ordinal}: {sample.state}  (sample {sample.key or 'erased'})")
    if len(found.samples) > SHOWN:
        answer(f"… and {counted(len(found.samples) - SHOWN, 'slot')} more (--json lists all)")
    if not found.checkpoints:
        answer("No checkpoint on record saw it.")
    for c in found.checkpoints:
        if c.tier == "direct":
            steps = tuple(dict.fromkeys(c.steps))  # several slots may have been seen in one step
            shown = ", ".join(str(s) for s in steps[:8]) + (", …" if len(steps) > 8 else "")
            word = "step" if len(steps) == 1 else "steps"
            answer(f"  {c.id}  step {c.step:>6}  saw it {counted(c.count, 'time')}: {word} {shown}")
        else:
            answer(f"  {c.id}  step {c.step:>6}  indirectly, through {c.through}")
