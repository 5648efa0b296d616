"""Trace: which checkpoints saw a picture, how often, at which steps. Arithmetic on the order, not a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.home import Home
from flows.stages.lookup import covering, pairs_of, read_query
from flows.stages.schedules import LedgerSchedules
from flows.terminal import answer, counted, escape
from policy.ledger import Ledger
from policy.provenance import ScheduleEntry, TrainingRun

# Of a page or a site there may be thousands.
SHOWN = 20

_SLOTS = """
SELECT DISTINCT dataset, ordinal, sample_key FROM slot
WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[]))
   OR content_sha256 IN (SELECT content_sha256 FROM evidence WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[])))
   OR sample_key = $key
ORDER BY dataset, ordinal
"""
_CHECKPOINTS = """
SELECT checkpoint, run, step, schedule_json, state, path FROM checkpoint
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
    """The checkpoints that saw any of these slots (dataset -> ordinals), directly or through a model."""
    return _touched(slots, lent or {}, read_runs(ledger), ledger.query(_CHECKPOINTS))


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


def _touched(
    slots: Mapping[str, Sequence[int]],
    lent: Mapping[str, Sequence[int]],
    runs: Mapping[str, TrainingRun],
    checkpoints: Sequence[tuple[Any, ...]],
) -> tuple[TracedCheckpoint, ...]:
    from training.order import exposure

    schedules = LedgerSchedules(row[3] for row in checkpoints)
    found: list[TracedCheckpoint] = []
    direct_runs: set[str] = set()
    for checkpoint, run, step, schedule_json, state, _ in checkpoints:
        record = runs.get(run)
        if record is None:
            continue
        empty = schedules.first_empty(schedule_json, {*slots.get(record.dataset, ()), *lent.get(record.dataset, ())})
        schedule = tuple(ScheduleEntry(ordinal, since) for ordinal, since in empty.items())
        steps = sorted(
            s for ordinal in slots.get(record.dataset, ()) for s in exposure(record, schedule, ordinal, step)
        )
        if steps:
            direct_runs.add(run)
            found.append(TracedCheckpoint(checkpoint, run, step, "direct", len(steps), tuple(steps), state))
            continue
        captions = sorted(
            s for ordinal in lent.get(record.dataset, ()) for s in exposure(record, schedule, ordinal, step)
        )
        if captions:
            found.append(
                TracedCheckpoint(
                    checkpoint,
                    run,
                    step,
                    "indirect",
                    len(captions),
                    tuple(captions),
                    state,
                    "a caption taken from its text",
                )
            )
    named = {c.id for c in found}
    for checkpoint, run, step, _, state, _ in checkpoints:
        record = runs.get(run)
        upstream = _upstream_runs(record, runs) & direct_runs if record is not None else set()
        if checkpoint not in named and upstream:
            path = "the model " + ", ".join(sorted(upstream))
            found.append(TracedCheckpoint(checkpoint, run, step, "indirect", 0, (), state, path))
    return tuple(sorted(found, key=lambda c: (c.run, c.step)))


def _upstream_runs(record: TrainingRun, runs: Mapping[str, TrainingRun]) -> set[str]:
    """The runs, of any generation, whose models this run stands on."""
    reached: set[str] = set()
    waiting = [record]
    while waiting:
        for model in waiting.pop().upstream:
            run = model.training_data.removeprefix("run:")
            if model.training_data.startswith("run:") and run not in reached:
                reached.add(run)
                if run in runs:
                    waiting.append(runs[run])
    return reached


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
