"""What becomes of models that saw what was removed: planned with its cost, carried out, and written down for receipts.

By policy.toml's [models] a run that was fed it is replayed to the model that never was, or withdrawn, or approximated
until somebody replays; what only stands on the output of such a run is named, rebuilt, or withdrawn. All removals in
force go into one replay. Every step can be killed and the command run again: what is done is seen, not remembered.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from flows.home import Home, utc_now
from flows.stages.removing import approximating, rebuilding, replaying
from flows.stages.removing.exposure import (
    DESCENDS,
    FED,
    PART,
    STANDS_ON,
    Exposures,
    is_unfinished,
    origin_of,
    record_reach,
    standing_name,
)
from flows.stages.removing.withdrawing import Withdrawal, carry_through, read_list, withdraw
from flows.stages.trace import TracedCheckpoint, stands_on
from flows.stages.train import code_version, register_run, run_lock
from flows.stages.verify import verify_run
from flows.terminal import Progress, silent
from policy import removals
from policy.errors import BusyError, InputError, IntegrityError, RefusedError
from policy.ledger import Ledger
from policy.provenance import CheckpointRecord, TrainingRun
from policy.removals import Done, State
from policy.ruleset import ModelRules

if TYPE_CHECKING:
    from training.conditioning import TextEncoder

REPLAY, REBUILD, WITHDRAW, APPROXIMATE = "replay", "rebuild", "withdraw", "approximate"
NAME, SETTLED, BUSY = "name", "settled", "busy"
EXACT, REBUILT, INDIRECT, TAINTED, APPROXIMATED = "exact", "rebuilt", "indirect", "tainted", "approximate"
SERVED = "served"

_TO_DO = (REPLAY, REBUILD, WITHDRAW, APPROXIMATE)
_ORDER = {"clip": 0, "diffusion": 1}  # what others stand on comes first
_SAVED = "SELECT run, segment, step, saved_at FROM checkpoint ORDER BY run, segment, step, batch_seq"
_SERVED = "SELECT DISTINCT removal FROM removal_step WHERE part = 'models' AND action = 'served'"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that saw something, and what becomes of it.

    `action`: replay | rebuild | withdraw | approximate | name | settled (done before). `exposed`: its checkpoints that
    saw it, `going` those of them that are withdrawn; `never`: those that did not. Of a replay, `base` is the checkpoint
    that it starts from (None: from nothing), `steps` how many are trained again, `becomes` the new run, `estimated_s`
    what that takes by the pace at which the run was trained (None: not known). `through`: what stays between the new
    run and an exact one, "" where nothing does. Of a rebuild, `captions`: how many in the old dataset are chosen anew;
    the time that this and sealing take is not in `estimated_s`.
    """

    run: str
    kind: str
    action: str
    exposed: tuple[TracedCheckpoint, ...]
    going: tuple[str, ...]
    never: tuple[str, ...]
    base: str | None = None
    first_step: int = 0
    last_step: int = 0
    steps: int = 0
    becomes: str = ""
    estimated_s: float | None = None
    through: str = ""
    captions: int = 0


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The contract of `custody removal models --json`. `never_seen`: runs of which no checkpoint saw anything."""

    removals: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    never_seen: tuple[str, ...]
    steps: int
    estimated_s: float | None
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServedRun:
    """What became of a run.

    `action`: as planned, or busy: somebody trains it, and it waits. `tier`: of what took its place: exact | rebuilt |
    indirect (by `through`) | tainted | approximate; or "".
    """

    run: str
    kind: str
    action: str
    tier: str
    becomes: str
    through: str
    steps: int
    withdrawn: int


@dataclass(frozen=True, slots=True)
class ModelsServed:
    """The contract of `custody removal replay --json`."""

    removals: tuple[str, ...]
    runs: tuple[ServedRun, ...]
    never_seen: tuple[str, ...]
    withdrawal_list: int
    notices: int


def plan_models(home: Home, *names: str, rebuild: bool = False) -> ModelPlan:
    """What became, or will become, of every run, and what that costs; nothing is changed.

    Also for a request that is not decided yet: then it says what approving it would bring about. `rebuild`: as if
    policy.toml said so of what stands on models.

    Raises:
        InputError: no request is named, or there is none of that id.
    """
    asked = _asked(names)
    with home.ledger(readonly=True) as ledger:
        for name in asked:
            removals.find(ledger, name)
        exposures = Exposures(ledger, home, undecided=True, rules=_rules(home, rebuild=rebuild))
        pace = _pace(ledger)
    runs, never = _planned(home, exposures, asked, pace)
    replays = [run for run in runs if run.action in (REPLAY, REBUILD)]
    known = [run.estimated_s for run in replays if run.estimated_s is not None]
    return ModelPlan(
        asked,
        runs,
        never,
        sum(run.steps for run in replays),
        sum(known) if len(known) == len(replays) else None,
        _advice(asked, runs, all(name in exposures.in_force for name in asked)),
    )


def waiting(home: Home) -> tuple[str, ...]:
    """The removals in force of which models have still to be rid."""
    with home.ledger(readonly=True) as ledger:
        exposures = Exposures(ledger, home)
        served = {name for (name,) in ledger.query(_SERVED)}
        pace = _pace(ledger)
    unserved = {name for name in exposures.in_force if name not in served}
    runs, _ = _planned(home, exposures, exposures.in_force, pace)
    if any(run.action in _TO_DO for run in runs):
        unsettled = {each for run in runs for each in run.going} - exposures.withdrawn.keys()
        unserved |= {n for n in exposures.in_force if any(s.id in unsettled for s in exposures.exposed([n]))}
    return tuple(sorted(unserved))


def to_approximate(home: Home, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Of these removals, those that runs have still to be made to forget, with the runs: while the pictures are there.

    None but by policy.toml's word.
    """
    if not names or home.ruleset.models.on_exposure != APPROXIMATE:
        return {}
    with home.ledger(readonly=True) as ledger:
        exposures = Exposures(ledger, home)
    runs = {one.run for one in _planned(home, exposures, names, {})[0] if one.action == APPROXIMATE}
    found = {name: {seen.run for seen in exposures.exposed([name])} & runs for name in names}
    return {name: tuple(sorted(runs)) for name, runs in found.items() if runs}


def serve_models(
    home: Home,
    *names: str,
    exact: bool = False,
    rebuild: bool = False,
    offline: bool = False,
    text_encoder: TextEncoder | None = None,
    progress: Progress = silent,
    outside: bool = True,
) -> ModelsServed:
    """Carry out what policy.toml says of every run that saw what these removals took away, all of them together.

    `exact`: replay where it says approximate; what only approximates goes then. `rebuild`: rebuild what stands on
    models that saw it, where it says something else. `offline`: what may still be used is judged without asking
    anybody. `text_encoder`: of diffusion runs, where it is not the packaged one. `outside`: as `carry_through` has it.
    Requests that were applied get a new receipt.

    Raises:
        InputError: no request is named, or there is none of that id. RefusedError: one is not approved.
        IntegrityError: a replay does not verify; the old model then stays as it was, refused.
        As `custody caption`, `seal` and `train` do, of a rebuild: the old model stays as well, refused.
    """
    asked = _asked(names)
    carry_through(home, outside=outside)
    _register_all(home)
    with home.ledger() as ledger:
        for name in asked:
            _require_in_force(ledger, name)
        record_reach(ledger, home, [n for n in asked if removals.find(ledger, n).state is State.APPROVED])
        exposures = Exposures(ledger, home, rules=_rules(home, exact=exact, rebuild=rebuild))
        # Removals that nobody has served yet go into the same replays.
        served = {name for (name,) in ledger.query(_SERVED)}
        together = sorted({*asked, *(n for n in exposures.in_force if n not in served)})
        pace = _pace(ledger)
    runs, never = _planned(home, exposures, together, pace)
    by_name = {name: exposures.exposed([name]) for name in together}
    done: list[ServedRun] = []
    for planned in runs:
        if planned.action == REBUILD and any(one.action == BUSY for one in done):
            done.append(ServedRun(planned.run, planned.kind, BUSY, "", "", "", 0, 0))  # it waits for the new captioner
            continue
        try:
            with run_lock(home.runs_path / planned.run):
                done.append(_serve(home, exposures, planned, runs, by_name, offline, text_encoder, progress))
        except BusyError:
            # Its old checkpoints are refused meanwhile; the removal is not served before it has been.
            done.append(ServedRun(planned.run, planned.kind, BUSY, "", "", "", 0, 0))
    carry_through(home, outside=outside)
    _write_down(home, together, done)
    with home.ledger(readonly=True) as ledger:
        applied = [name for name in together if removals.find(ledger, name).state is State.APPLIED]
        [(notices,)] = ledger.query(
            "SELECT count(*) FROM notice WHERE list_contains($removals::VARCHAR[], removal)", {"removals": list(asked)}
        )
    if applied:
        from flows.stages.removing.receipts import issue  # it asks what is exposed, and who asks it asks us

        issue(home, applied)
    return ModelsServed(asked, tuple(done), never, read_list(home).number, int(notices))


def _register_all(home: Home) -> None:
    """A training that was killed may have left checkpoints that the ledger never heard of: they saw it as well."""
    with home.ledger(readonly=True) as ledger:
        known = dict(ledger.query("SELECT run, count(DISTINCT checkpoint) FROM checkpoint GROUP BY run"))
        saved = {path for (path,) in ledger.query("SELECT path FROM checkpoint")}
    for record in sorted(home.runs_path.glob("*/run.json")):
        run_dir = record.parent
        there = {str(path.relative_to(home.path)) for path in run_dir.glob("step-*")}
        if there - saved and (run_dir.name in known or origin_of(run_dir.name) == run_dir.name):
            register_run(home, run_dir)


# ── planning ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _rules(home: Home, *, exact: bool = False, rebuild: bool = False) -> ModelRules:
    rules = home.ruleset.models
    rules = replace(rules, on_exposure="replay") if exact else rules
    return replace(rules, on_indirect="rebuild") if rebuild else rules


def _asked(names: Iterable[str]) -> tuple[str, ...]:
    asked = tuple(sorted(set(names)))
    if not asked:
        raise InputError("no request is named", where="custody removal", remedy="custody removal list")
    return asked


def _require_in_force(ledger: Ledger, name: str) -> None:
    state = removals.find(ledger, name).state
    if state not in (State.APPROVED, State.APPLIED):
        raise RefusedError(
            f"the request is {state.value}: nothing of it reaches back into models",
            where=name,
            remedy=f"custody removal approve {name} --by NAME" if state.is_undecided else "",
        )


def _planned(
    home: Home, exposures: Exposures, names: Collection[str], pace: Mapping[str, float]
) -> tuple[tuple[PlannedRun, ...], tuple[str, ...]]:
    """The runs that saw something, those that others stand on first; and those that did not."""
    exposed = exposures.exposed(names)
    ids, by_run = {seen.id for seen in exposed}, _by_run(exposed)
    datasets = home.dataset_names()
    runs = []
    for run, seen in by_run.items():
        record = exposures.records.runs[run]
        upstream = sorted(stands_on(record, exposures.records.runs)[0] & by_run.keys())
        action = _action(exposures, record, {exposures.how(each, exposed) for each in seen}, stands=bool(upstream))
        if action in (REPLAY, REBUILD) and is_unfinished(exposures.withdrawn.values(), run):
            action = WITHDRAW  # a replay that was never finished, and that another one overtakes
        if action == REPLAY and not ((home.runs_path / run / "run.json").is_file() and record.dataset in datasets):
            action = WITHDRAW  # nothing is left to go back to, or to train on
        gone_before = exposures.withdrawn.keys()
        going = tuple(
            each.id for each in seen if each.id in gone_before or not exposures.may_stay(each, exposed, names)
        )
        if not going:
            action = NAME
        gone = [exposures.withdrawn[each] for each in going if each in exposures.withdrawn]
        again = action in (REPLAY, REBUILD)
        if going and len(gone) == len(going) and (not again or all(each.replaced_by for each in gone)):
            action = SETTLED
        never = tuple(row[0] for row in exposures.records.checkpoints if row[1] == run and row[0] not in ids)
        through = f"captions of the model {', '.join(upstream)}" if upstream else ""
        last_step = max((each.step for each in seen if each.id in going), default=0)
        one = PlannedRun(run, record.kind, action, seen, going, never, last_step=last_step, through=through)
        if action == REPLAY:
            one = _with_cost(home, exposures, names, one, pace)
        runs.append(one)
    by_name = {one.run: one for one in runs}
    with home.ledger(readonly=True) as ledger:
        runs = [_with_rebuild(ledger, exposures, one, by_name, pace) if one.action == REBUILD else one for one in runs]
    runs.sort(key=lambda one: (_ORDER.get(one.kind, 2), one.run))
    recorded = {row[1] for row in exposures.records.checkpoints}
    return tuple(runs), tuple(sorted(recorded - by_run.keys()))


def _action(exposures: Exposures, record: TrainingRun, hows: set[str], *, stands: bool) -> str:
    """`stands`: on a model that saw it, whether it was fed it as well or not."""
    rules = exposures.rules
    if FED in hows and record.kind in _ORDER:
        action = rules.on_exposure_clip if record.kind == "clip" else rules.on_exposure
        return REBUILD if action == REPLAY and stands and _may_rebuild(rules, record) else action
    # What began from a model that was fed it has its weights; only what stands on captions may stay.
    if hows & {FED, DESCENDS}:
        return WITHDRAW
    return WITHDRAW if rules.on_indirect == REBUILD and not _may_rebuild(rules, record) else rules.on_indirect


def _may_rebuild(rules: ModelRules, record: TrainingRun) -> bool:
    return rules.on_indirect == REBUILD and rebuilding.can_rebuild(record)


def _with_cost(
    home: Home, exposures: Exposures, names: Collection[str], one: PlannedRun, pace: Mapping[str, float]
) -> PlannedRun:
    dataset = exposures.records.runs[one.run].dataset
    asked = exposures.reach(names)
    removed = {*_to_empty(home, exposures, dataset), *asked.slots.get(dataset, ()), *asked.lent.get(dataset, ())}
    planned = replaying.plan(home, one.run, removed=removed, last_step=one.last_step)
    seconds = pace.get(one.run)
    return replace(
        one,
        base=planned.base,
        first_step=planned.first_step,
        steps=planned.steps,
        becomes=planned.name,
        estimated_s=None if seconds is None else round(seconds * planned.steps, 1),
    )


def _with_rebuild(
    ledger: Ledger, exposures: Exposures, one: PlannedRun, others: Mapping[str, PlannedRun], pace: Mapping[str, float]
) -> PlannedRun:
    planned = _rebuild_of(ledger, exposures, one, others)
    seconds = pace.get(one.run)
    return replace(
        one,
        steps=planned.last_step,
        becomes=planned.run,
        estimated_s=None if seconds is None else round(seconds * planned.last_step, 1),
        captions=planned.captions,
    )


def _rebuild_of(
    ledger: Ledger, exposures: Exposures, one: PlannedRun, others: Mapping[str, PlannedRun]
) -> rebuilding.Planned:
    record = exposures.records.runs[one.run]
    captioners = sorted(stands_on(record, exposures.records.runs)[0] & others.keys())
    successors = [standing_name(exposures.withdrawn.values(), others[run].becomes or run) for run in captioners]
    return rebuilding.plan(ledger, record, captioners, successors[-1], last_step=one.last_step)


def _to_empty(home: Home, exposures: Exposures, dataset: str) -> frozenset[int]:
    """What is empty from step 0 in every replay on a dataset: all that was removed, and all that is stored no more."""
    return exposures.emptied(dataset) | replaying.not_stored(home, dataset)


def _by_run(exposed: Iterable[TracedCheckpoint]) -> dict[str, tuple[TracedCheckpoint, ...]]:
    by_run: dict[str, list[TracedCheckpoint]] = {}
    for seen in exposed:
        by_run.setdefault(seen.run, []).append(seen)
    return {run: tuple(sorted(seen, key=lambda each: each.step)) for run, seen in by_run.items()}


def _pace(ledger: Ledger) -> dict[str, float]:
    """Seconds a step of each run, by the times of its checkpoints; the median, so that a night between is not counted.

    Times are recorded to the second: of what takes less, half a second is taken.
    """
    gaps: dict[str, list[float]] = {}
    before: tuple[str, int, int, datetime] | None = None
    for row in ledger.query(_SAVED):
        run, segment, step, saved_at = row
        if before is not None and before[:2] == (run, segment) and step > before[2] and saved_at and before[3]:
            gaps.setdefault(run, []).append(max(0.5, (saved_at - before[3]).total_seconds()) / (step - before[2]))
        before = (run, segment, step, saved_at)
    return {run: statistics.median(each) for run, each in gaps.items()}


def _advice(asked: Sequence[str], runs: Sequence[PlannedRun], in_force: bool) -> tuple[str, ...]:
    advice = []
    if any(run.action in _TO_DO for run in runs):
        advice.append(f"{'next' if in_force else 'once approved'}: custody removal replay {' '.join(asked)}")
    if any(run.through and run.action in (REPLAY, NAME) for run in runs):
        advice.append(
            "captions stay that a model chose which saw it: new ones, a new dataset and a new training are made by "
            f"custody removal replay {' '.join(asked)} --rebuild (what that costs: custody removal models --rebuild)"
        )
    return tuple(advice)


# ── carrying out ───────────────────────────────────────────────────────────────────────────────────────────────────


def _serve(
    home: Home,
    exposures: Exposures,
    planned: PlannedRun,
    others: Sequence[PlannedRun],
    by_name: Mapping[str, Sequence[TracedCheckpoint]],
    offline: bool,
    text_encoder: TextEncoder | None,
    progress: Progress,
) -> ServedRun:
    """One run: what takes its place is there and verified before anything of it goes."""
    action, tier, becomes, through = planned.action, "", "", ""
    took_place: dict[int, str] = {}
    concerned = [name for name, seen in by_name.items() if any(each.run == planned.run for each in seen)]
    steps = [
        Done(name, PART, "named", each.id, after={"tier": INDIRECT, "through": each.through})
        for name in concerned
        for each in by_name[name]
        if each.run == planned.run
        and each.id not in exposures.withdrawn
        and exposures.may_stay(each, by_name[name], [name])
    ]
    if action == REPLAY:
        dataset = exposures.records.runs[planned.run].dataset
        removed = _to_empty(home, exposures, dataset)
        work = replaying.plan(home, planned.run, removed=removed, last_step=planned.last_step)
        last = replaying.replay(home, work, offline=offline, text_encoder=text_encoder, progress=progress)
        becomes = work.name
        tier, through = _tier(home, last, concerned)
        took_place = _checkpoints_of(home, becomes)
        steps += _replayed(planned, work, last, tier, through, concerned)
        if tier == INDIRECT:
            after = {"tier": INDIRECT, "through": through}
            steps += [Done(n, PART, "named", new, after=after) for n in concerned for new in took_place.values()]
    elif action == REBUILD:
        with home.ledger(readonly=True) as ledger:
            rebuild = _rebuild_of(ledger, exposures, planned, {one.run: one for one in others})
        built = rebuilding.rebuild(home, rebuild, offline=offline, text_encoder=text_encoder, progress=progress)
        becomes = built.run
        tier, through = _tier(home, built.last, concerned)
        if tier == EXACT:  # it never saw it; which is not to say that another one has its bits
            tier, through = REBUILT, f"captions of {built.captioner} in the dataset {built.dataset}"
        took_place = _checkpoints_of(home, becomes)
        steps += _rebuilt(planned, built, tier, through, concerned)
    elif action == APPROXIMATE:
        made, through = approximating.approximate(
            home, exposures, planned.run, concerned, text_encoder=text_encoder, progress=progress
        )
        if made is None:
            action = WITHDRAW
        else:
            becomes, tier = made.run, APPROXIMATED
            steps += _approximated(planned, made, concerned)
    elif action == NAME:
        tier, through = INDIRECT, planned.exposed[-1].through
    elif action == SETTLED:
        instead = [by for each in planned.going if (by := exposures.withdrawn[each].replaced_by)]
        if instead:
            becomes = instead[-1].rpartition("-")[0]
            tier, through = _called(exposures, becomes, concerned)
            if tier == EXACT and any(exposures.withdrawn[each].action == REBUILT for each in planned.going):
                tier, through = REBUILT, f"the dataset {exposures.records.runs[becomes].dataset}"
    rows = _withdrawals(exposures, replace(planned, action=action), by_name, took_place)
    with home.ledger() as ledger:
        removals.record_steps(ledger, steps, now=utc_now())
        if rows:
            withdraw(ledger, rows)
    withdrawn = len({row.checkpoint for row in rows})
    return ServedRun(planned.run, planned.kind, action, tier, becomes, through, planned.steps, withdrawn)


def _tier(home: Home, last: CheckpointRecord, names: Sequence[str]) -> tuple[str, str]:
    """What a replayed run may be called, by what the ledger says of it now; and by what it is not exact.

    Raises:
        IntegrityError: it does not verify, or was fed what it should not have been.
    """
    if failures := verify_run(home, last.run):
        raise IntegrityError(
            f"the replay does not verify: {failures[0].what}",
            where=failures[0].where,
            remedy="The old model stays refused; delete the new run's directory and run the same command again",
        )
    with home.ledger(readonly=True) as ledger:
        exposures = Exposures(ledger, home)
    exposed = exposures.exposed(names)
    if fed := [s.id for s in exposed if s.run == last.run and exposures.how(s, exposed) != STANDS_ON]:
        raise IntegrityError("the replay was fed what was removed", where=fed[0])
    return _called(exposures, last.run, names)


def _called(exposures: Exposures, run: str, names: Iterable[str]) -> tuple[str, str]:
    """The tier of a run that took another one's place, for these removals, and by what it is not exact."""
    states = {row[5] for row in exposures.records.checkpoints if row[1] == run}
    if states != {"exact"}:
        return TAINTED, "another numeric contract than the run began under"
    seen = [each for each in exposures.exposed(names) if each.run == run]
    return (INDIRECT, seen[-1].through) if seen else (EXACT, "")


def _checkpoints_of(home: Home, run: str) -> dict[int, str]:
    with home.ledger(readonly=True) as ledger:
        return {step: c for c, step in ledger.query("SELECT checkpoint, step FROM checkpoint WHERE run = ?", [run])}


def _replayed(
    planned: PlannedRun,
    work: replaying.Planned,
    last: CheckpointRecord,
    tier: str,
    through: str,
    names: Sequence[str],
) -> list[Done]:
    """What a receipt tells of a replay. Bits are claimed of a whole run of one code: where it changed, that is said."""
    before = {"base": work.base, "first_step": work.first_step, "code_version": work.old_run.code_version}
    after = {
        "run": work.name,
        "checkpoint": last.checkpoint,
        "steps": work.steps,
        "tier": tier,
        "through": through,
        "weights": {name: sha for name, sha in last.files if name.endswith(".safetensors")},
        "record_sha256": last.digest,
        "dataset_root": last.dataset_root,
        "emptied_from_step_0": len(work.ordinals),
        "code_version": code_version(),
        "contract": asdict(work.old_run.segments[-1].contract),
    }
    return [Done(name, PART, "replayed", planned.run, before=before, after=after) for name in names]


def _rebuilt(
    planned: PlannedRun, built: rebuilding.Rebuilt, tier: str, through: str, names: Sequence[str]
) -> list[Done]:
    """What a receipt tells of a rebuild: from what it was made, and that none of that saw what was removed."""
    after = {
        "run": built.run,
        "checkpoint": built.last.checkpoint,
        "steps": planned.steps,
        "tier": tier,
        "through": through,
        "captioner": built.captioner,
        "dataset": built.dataset,
        "dataset_root": built.last.dataset_root,
        "weights": {name: sha for name, sha in built.last.files if name.endswith(".safetensors")},
        "record_sha256": built.last.digest,
        "code_version": code_version(),
    }
    return [Done(name, PART, REBUILT, planned.run, after=after) for name in names]


def _approximated(planned: PlannedRun, made: CheckpointRecord, names: Sequence[str]) -> list[Done]:
    """What a receipt tells of a stopgap: how it was made, and what of it was measured; it is owed a replay."""
    unlearning = made.unlearning
    if unlearning is None:
        raise IntegrityError("its record does not say how it was made to forget", where=made.checkpoint)
    after = {
        "run": made.run,
        "checkpoint": made.checkpoint,
        "tier": APPROXIMATED,
        "method": unlearning.method,
        "steps": unlearning.steps,
        "weights": {name: sha for name, sha in made.files if name.endswith(".safetensors")},
        "record_sha256": made.digest,
        "forgetting": None if unlearning.forgetting is None else asdict(unlearning.forgetting),
    }
    named = {"tier": APPROXIMATED, "through": f"the checkpoint {made.parent} that it began from"}
    return [
        *(Done(name, PART, "approximated", planned.run, after=after) for name in names),
        *(Done(name, PART, "named", made.checkpoint, after=named) for name in names),
    ]


def _withdrawals(
    exposures: Exposures,
    planned: PlannedRun,
    by_name: Mapping[str, Sequence[TracedCheckpoint]],
    took_place: Mapping[int, str],
) -> list[Withdrawal]:
    rows = []
    for name, exposed in by_name.items():
        for each in exposed:
            if each.run != planned.run or exposures.may_stay(each, exposed, [name]):
                continue
            gone = exposures.withdrawn.get(each.id)
            if planned.action in (REPLAY, REBUILD):
                action = "replayed" if planned.action == REPLAY else REBUILT
                instead = took_place.get(each.step) or took_place[max(took_place)]
            elif gone is not None:  # for another removal, before this one
                action, instead = gone.action, gone.replaced_by or ""
            else:
                action, instead = ("approximated" if planned.action == APPROXIMATE else "withdrawn"), ""
            rows.append(Withdrawal(each.id, each.run, name, each.tier, action, instead or None, each.through))
    return rows


# ── writing down ───────────────────────────────────────────────────────────────────────────────────────────────────


def _write_down(home: Home, together: Sequence[str], done: Sequence[ServedRun]) -> None:
    """For each removal: which checkpoints saw it and how, which did not and by what that can be recomputed."""
    with home.ledger() as ledger:
        exposures = Exposures(ledger, home)
        ids = {name: exposures.exposed([name]) for name in together}
        served = {name for (name,) in ledger.query(_SERVED)}
        steps = []
        for name, seen in ids.items():
            steps += [
                Done(
                    name,
                    PART,
                    "exposed",
                    each.id,
                    after={
                        "tier": each.tier,
                        "how": exposures.how(each, seen),
                        "count": each.count,
                        "steps": list(each.steps[:100]),
                        "through": each.through,
                        "state": each.state,
                    },
                )
                for each in seen
            ]
            steps += _never_seen(exposures, name, {each.id for each in seen})
            became = [
                {"run": one.run, "action": one.action, "tier": one.tier, "becomes": one.becomes, "through": one.through}
                for one in done
                if any(each.run == one.run for each in seen)
            ]
            if any(one["action"] == BUSY for one in became):
                continue
            if name not in served or any(one["action"] != SETTLED for one in became):
                steps.append(Done(name, PART, SERVED, "models", after={"runs": became}))
        removals.record_steps(ledger, steps, now=utc_now())


def _never_seen(exposures: Exposures, name: str, exposed: Collection[str]) -> list[Done]:
    """Of every run the checkpoints that never saw it, with what a verifier recomputes that from.

    Which slots; the dataset's root, which names their commitments; the order, whose inverse gives their positions; the
    schedule, by its digest, in which they are empty, if they are. All of it stands in run.json and provenance.json.
    """
    reach = exposures.reach([name])
    done = []
    by_run: dict[str, list[str]] = {}
    for row in exposures.records.checkpoints:
        if row[0] not in exposed:
            by_run.setdefault(row[1], []).append(row[0])
    for run, checkpoints in sorted(by_run.items()):
        record = exposures.records.runs.get(run)
        if record is None:
            continue
        slots = sorted({*reach.slots.get(record.dataset, ()), *reach.lent.get(record.dataset, ())})
        segment = record.segments[-1]
        after = {
            "checkpoints": checkpoints,
            "dataset": record.dataset,
            "dataset_root": record.dataset_root,
            "slots": slots,
            "order_version": segment.order_version,
            "order_key": segment.order_key,
            "batch_size": segment.batch_size,
            "schedule_sha256": exposures.records.schedule_digest(checkpoints[-1]),
        }
        done.append(Done(name, PART, "never-seen", run, after=after))
    return done
