"""Train: a run on a sealed dataset, resumable, and its records in the ledger."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.settings import Settings
from flows.stages.decide import decide
from flows.stages.recheck import recheck
from flows.stages.redo import foretold, in_words
from flows.stages.removing.exposure import captioned_with_removed, instead, is_unfinished, standing_name, withdrawals
from flows.stages.schedules import LedgerSchedules, ScheduleWriter
from flows.terminal import Progress, silent
from policy.errors import CustodyError, InputError, IntegrityError, RefusedError
from policy.ledger import Ledger
from policy.lock import FileLock
from policy.provenance import (
    CheckpointRecord,
    ScheduleEntry,
    TrainingRun,
    UpstreamModel,
    config_digest,
    schedule_digest,
)
from policy.snapshot import publish

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.clip import ClipResult
    from training.clip_config import ClipConfig
    from training.config import TrainingConfig
    from training.ranks import Ranks
    from training.redo import ExpectedRedo


PROVENANCE = "provenance.json"
REPLACED = "dataset-replaced"  # an event: subject the dataset, detail the one that took its place

# Sealed when it was allowed, and not allowed now: by a new no, by a grant that ended, by evidence that grew too old.
_WITHHELD = """
SELECT ordinal FROM slot
WHERE dataset = ? AND sample_key IS NOT NULL AND sample_key NOT IN (SELECT sample_key FROM trainable)
"""

_REPLACED = "SELECT detail FROM event WHERE kind = ? AND subject = ? ORDER BY batch_seq DESC, row_no DESC LIMIT 1"
# Two models may say the same of a picture, which then is one sample: it was sealed with the word of the last of them.
_CAPTION_MODELS = """
WITH said AS (
    SELECT c.model_name, c.model_digest, c.model_run FROM slot s JOIN caption c USING (sample_key)
    WHERE s.dataset = ? AND c.batch_seq < s.batch_seq
    QUALIFY row_number() OVER (PARTITION BY s.ordinal ORDER BY c.batch_seq DESC, c.row_no DESC) = 1
)
SELECT DISTINCT * FROM said WHERE model_digest IS NOT NULL ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class TrainedCheckpoint:
    """A checkpoint as `custody train --json` says it."""

    id: str
    path: str
    step: int


@dataclass(frozen=True, slots=True)
class Trained:
    """The contract of `custody train --json`.

    `expected_redo`: what a later removal of one slot redoes, known beforehand (training/redo.py); None: of a CLIP.
    `order_note`: what of the curriculum that was asked for could not be had, "" mostly.
    """

    run: str
    steps: int
    checkpoints: tuple[TrainedCheckpoint, ...]
    images_per_s: float
    expected_redo: ExpectedRedo | None = None
    order_note: str = ""


def train(
    home: Home,
    *,
    dataset: str,
    kind: str = "diffusion",
    preset: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    offline: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train a diffusion model or a CLIP; a run of the same configuration that was interrupted goes on.

    What its samples rest on is asked again first where it is due, and judged; `offline` asks nobody. A sample that is
    not allowed any more is not shown. `tell` is called before the first step, with what a removal will cost.

    Raises:
        InputError: no such dataset or preset, or none of its samples may be used any more.
        IntegrityError: the dataset's files are not what was sealed.
        RefusedError: another dataset took its place.
    """
    _require_not_replaced(home, dataset)
    if kind == "clip":
        clip = train_clip(home, dataset, seed=seed, steps=steps, offline=offline, progress=progress)
        return _as_trained(home, clip)
    return train_diffusion(
        home, dataset, preset=preset, steps=steps, seed=seed, offline=offline, progress=progress, tell=tell
    )


def train_diffusion(
    home: Home,
    dataset: str,
    *,
    preset: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    offline: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train the text-conditional diffusion model on a dataset."""
    from curation.clip_model import PackagedTextEncoder
    from training.config import preset as preset_named
    from training.loop import train as train_loop
    from training.ranks import train_together

    settings = home.settings.training
    config = preset_named(
        preset or settings.preset,
        seed=settings.seed if seed is None else seed,
        threads=settings.threads,
        window_shards=settings.window_shards,
        curriculum=settings.curriculum,
        revocable_steps=settings.revocable_steps,
        loader_workers=settings.loader_workers,
    )
    if steps or settings.steps:
        config = replace(config, steps=steps or settings.steps)
    home.tombstones()  # training reads the file alone: it must be the one that the ledger knows
    with open_dataset(home, dataset) as reader:
        withheld = clear(home, dataset, offline=offline, progress=progress)
        redo, note = foretold(reader, config)
        for line in filter(None, (note, in_words(redo))):
            tell(line)
        run_dir = _standing_dir(home, run_name("diffusion", dataset, config.digest))
        with run_lock(run_dir), _Recording(home, run_dir) as recording:
            result = train_together(
                lambda ranks: train_loop(
                    reader,
                    config,
                    run_dir,
                    upstream=caption_models(home, dataset),
                    reopen_s=settings.reopen_hours * 3600,
                    tokens_dir=home.tokens_path if settings.token_cache_bytes else None,
                    tokens_bytes=settings.token_cache_bytes,
                    text_encoder=PackagedTextEncoder(),
                    progress=lambda step, loss, speed: progress(
                        step, config.steps, f"train: loss {loss:.3f}, {speed:.0f} images/s"
                    ),
                    now=utc_now,
                    tombstones_dir=home.tombstones_path,
                    withheld=withheld,
                    on_event=recording.event,
                    on_saved=recording.saved,
                    code_version=code_version(),
                    ranks=ranks,
                ),
                settings.ranks,
                others=functools.partial(train_beside, home.path, dataset, config, run_dir, None),
                device=config.device,
            )
    trained = _trained(home, run_dir)
    return replace(trained, images_per_s=result.images_per_s, expected_redo=redo, order_note=note)


def train_beside(
    home_path: Path, dataset: str, config: TrainingConfig, run_dir: Path, stop_after: int | None, ranks: Ranks
) -> None:
    """What another process than the first does of a run: it reads its part of the batches, and writes nothing."""
    from curation.clip_model import PackagedTextEncoder
    from training.loop import train as train_loop

    with open_dataset(Home.open(home_path), dataset) as reader:
        train_loop(
            reader,
            config,
            run_dir,
            upstream=(),
            text_encoder=PackagedTextEncoder(),
            progress=lambda step, loss, speed: None,
            now=utc_now,
            stop_after=stop_after,
            ranks=ranks,
        )


def train_clip(
    home: Home,
    dataset: str,
    *,
    seed: int | None = None,
    steps: int | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> ClipResult:
    """Train a CLIP on a dataset of pairs that have alt text."""
    from training.clip import train_clip as train_loop

    config = clip_config(home.settings, seed=seed, steps=steps)
    home.tombstones()
    with open_dataset(home, dataset) as reader:
        withheld = clear(home, dataset, offline=offline, progress=progress)
        run_dir = _standing_dir(home, run_name("clip", dataset, config.digest))
        with run_lock(run_dir), _Recording(home, run_dir) as recording:
            result = train_loop(
                reader,
                config,
                run_dir,
                now=utc_now,
                tombstones_dir=home.tombstones_path,
                withheld=withheld,
                reopen_s=home.settings.training.reopen_hours * 3600,
                on_event=recording.event,
                on_saved=recording.saved,
                progress=lambda what, done, total: progress(done, total, f"clip {what}: "),
                code_version=code_version(),
            )
    return result


def clip_config(settings: Settings, *, seed: int | None = None, steps: int | None = None) -> ClipConfig:
    """What [clip] and its neighbours ask of a CLIP run; `seed` and `steps` go before.

    Raises:
        ConfigurationError: a value that no run can have.
    """
    from training.clip_config import for_tower

    asked = asdict(settings.clip)
    for about_captions in ("target_precision", "confidence"):
        del asked[about_captions]
    config = for_tower(
        asked.pop("image_tower"),
        **{name: value for name, value in asked.items() if (name, value) != ("learning_rate", 0.0)},
        threads=settings.training.threads,
    )
    return replace(config, steps=steps or config.steps, seed=config.seed if seed is None else seed)


def clear(home: Home, dataset: str, *, offline: bool = False, progress: Progress = silent) -> frozenset[int]:
    """Ask again what a dataset's samples rest on, judge them, and return the ordinals that may not be used now.

    Among them are those that were captioned with a text that was removed, and that nobody else has said.

    Raises:
        InputError: that is all of them.
    """
    decide(home, progress) if offline else recheck(home, progress, dataset=dataset)
    with home.ledger(readonly=True) as ledger:
        slots = ledger.query("SELECT count(*) FROM slot WHERE dataset = ? AND sample_key IS NOT NULL", [dataset])
        withheld = frozenset(o for (o,) in ledger.query(_WITHHELD, [dataset]))
        withheld |= captioned_with_removed(ledger, home, dataset)
    if withheld and len(withheld) == slots[0][0]:
        raise InputError(
            f"none of the {len(withheld)} samples of {dataset!r} may be used any more",
            where="custody train",
            remedy="`custody decide` shows why; `custody why` tells of one picture",
        )
    return withheld


def _require_not_replaced(home: Home, dataset: str) -> None:
    with home.ledger(readonly=True) as ledger:
        newer = ledger.query(_REPLACED, [REPLACED, dataset])
    if newer:
        raise RefusedError(
            "its captions were chosen by a model that saw what was removed since, and another dataset took its place",
            where=dataset,
            remedy=f"custody train --dataset {newer[0][0]}",
        )


@functools.cache
def code_version() -> str:
    """The installed version and a digest of the code that runs, so that a record names exactly what made it."""
    root = Path(__file__).resolve().parent.parent.parent
    digest = hashlib.blake2b(digest_size=6)
    for package in ("policy", "curation", "training", "flows"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{importlib.metadata.version('image-custody')}+{digest.hexdigest()}"


def open_dataset(home: Home, dataset: str) -> DatasetReader:
    """Open a sealed dataset through the strict reader. Shards of a bucket are checked when they are fetched.

    Raises:
        InputError: there is none of this name, or its sealing was not finished.
    """
    there = home.dataset_names()
    if dataset not in there:
        raise InputError(
            f"no dataset {dataset!r}",
            where=home.datasets_where,
            remedy=f"There are: {', '.join(there)}" if there else "Seal one: custody seal",
        )
    return DatasetReader.open(home.dataset(dataset), verify=home.remote_datasets is None)


def run_name(kind: str, dataset: str, digest: str) -> str:
    """A run is known by what it was asked to do, so that asking again goes on with it."""
    return f"{kind}-{dataset}-{digest[:8]}"


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """One process at a time trains in a run's directory, or takes it apart.

    Raises:
        BusyError: another one does.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / ".training.lock", exclusive=True, wait_s=0.0)
    try:
        yield
    finally:
        lock.release()


class _Recording:
    """However training ends, the ledger hears of it; and of each checkpoint when it is saved.

    A checkpoint may be retired soon, and the next one's record names its digest: only the ledger can say then that it
    was so. At a save nobody is waited for: while another process holds the ledger, training goes on, and a later save
    or the end catches up.
    """

    def __init__(self, home: Home, run_dir: Path) -> None:
        self._home, self._run_dir = home, run_dir
        self._events: list[tuple[str, str, str]] = []
        self._saved: list[Checkpoint] = []
        self._before: tuple[ScheduleEntry, ...] = ()

    def event(self, kind: str, subject: str, detail: str) -> None:
        """Of what an operator should find later."""
        self._events.append((kind, subject, detail))

    def saved(self, checkpoint: Checkpoint) -> None:
        """On record now, or as soon as the ledger is free."""
        self._saved.append(checkpoint)
        try:
            with self._home.ledger(wait_s=0.0) as ledger:
                run = _load_run(self._run_dir)
                saved = [(c.path, c.record) for c in self._saved]
                _record(ledger, self._home, run, self._events, saved, before=self._before)
        except CustodyError:
            return  # what else is wrong with it is said at the end: hours of training are not lost for it
        self._saved.clear()
        self._before = checkpoint.record.schedule

    def __enter__(self) -> Self:
        if any(self._run_dir.glob("step-*")):
            register_run(self._home, self._run_dir)  # what a killed one saved last, before it is retired
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        register_run(self._home, self._run_dir, self._events, [(c.path, c.record) for c in self._saved])


def _standing_dir(home: Home, name: str) -> Path:
    """Where a run goes on: what was withdrawn does not, its replay does, or training begins anew under another name."""
    return home.runs_path / standing_name(withdrawals(home), name)


def newest_run(home: Home, kind: str, run: str | None = None, *, step: int | None = None) -> Path:
    """The directory of a run by name, or of the newest run of a kind that has a checkpoint.

    A run that had to be withdrawn is passed over, and so is a replay that is not finished; by name a withdrawn one is
    given with a `step` alone, for what is left of it.

    Raises:
        InputError: there is none. RefusedError: it was withdrawn.
    """
    candidates = [
        p.parent
        for p in home.runs_path.glob("*/run.json")
        if run in (None, p.parent.name) and any(p.parent.glob("step-*"))
    ]
    known = sorted(withdrawals(home), key=lambda each: each.replaced_by is not None)
    gone = {each.run: each for each in known}
    if run in gone and (step is None or not candidates):
        raise RefusedError("this run was withdrawn", where=run or "", remedy=instead(gone[run]))
    if run is None:
        candidates = [d for d in candidates if d.name not in gone and not is_unfinished(known, d.name)]
    named = [(d, TrainingRun.from_json((d / "run.json").read_text("utf-8"), where=str(d))) for d in candidates]
    kinds = (kind, "unlearning") if run is not None and kind == "diffusion" else (kind,)
    of_kind = [(r.started_at, d) for d, r in named if r.kind in kinds]
    if not of_kind:
        wanted = f"{kind} run {run!r}" if run else f"{kind} run with a checkpoint"
        there = sorted(p.parent.name for p in home.runs_path.glob(f"{kind}-*/run.json"))
        there = [name for name in there if name not in gone]
        remedy = f"There are: {', '.join(there)}" if there else "Train one: custody train"
        raise InputError(f"no {wanted}", where=str(home.runs_path), remedy=remedy)
    return max(of_kind)[1]


def caption_models(home: Home, dataset: str) -> tuple[UpstreamModel, ...]:
    """The models whose captions stand in a dataset: what they learnt from counts as seen, too.

    Raises:
        IntegrityError: one that was trained here is gone: nobody could say any more what it learnt from, or train it
            anew without somebody.
    """
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            _CAPTION_MODELS,
            [dataset],
        )
    for name, digest, run in rows:
        if run and not _is_there(home.runs_path / run, digest):
            raise IntegrityError(
                f"captions of {dataset} come from the model {name} of the run {run}, and that model is gone",
                where=str(home.runs_path / run),
                remedy="Restore the run's directory, or caption and seal anew with a model that is there",
            )
    return tuple(
        UpstreamModel("captioner", name, digest, "see its run", f"run:{run}" if run else "not known")
        for name, digest, run in rows
    )


def _is_there(run_dir: Path, digest: str) -> bool:
    """Whether a CLIP's run still has the checkpoint with this digest, or the record of one that was withdrawn."""
    from curation.clip_model import trained_identity

    for folder in (*run_dir.glob("step-*"), *run_dir.glob("withdrawn/step-*")):
        try:
            if trained_identity(folder)[1] == digest:
                return True
        except CustodyError:
            continue
    return False


# ── records ────────────────────────────────────────────────────────────────────────────────────────────────────────


def register_run(
    home: Home,
    run_dir: Path,
    events: Sequence[tuple[str, str, str]] = (),
    retired: Sequence[tuple[Path, CheckpointRecord]] = (),
) -> None:
    """Bring the ledger up to what a run's directory records; safe to call at any time, any number of times.

    events: (kind, subject, detail) of what an operator should find later: a skipped checkpoint, a taint, …
    retired: checkpoints that it may not hold any more, each with the directory that it had.
    """
    if not (run_dir / "run.json").is_file():
        return
    run, records = _load_run(run_dir), _records(run_dir)
    there = {record.checkpoint for _, record in records}
    with home.ledger() as ledger:
        _record(ledger, home, run, events, [*(each for each in retired if each[1].checkpoint not in there), *records])
        publish(ledger, home.snapshot_path, now=utc_now())


def _load_run(run_dir: Path) -> TrainingRun:
    return TrainingRun.from_json((run_dir / "run.json").read_text("utf-8"), where=str(run_dir / "run.json"))


def _record(
    ledger: Ledger,
    home: Home,
    run: TrainingRun,
    events: Sequence[tuple[str, str, str]],
    records: Sequence[tuple[Path, CheckpointRecord]],
    *,
    before: Sequence[ScheduleEntry] = (),
) -> None:
    """`before`: the schedule of a checkpoint on record, of which the first of these may say what it adds."""
    _record_run(ledger, run)
    for kind, subject, detail in dict.fromkeys(events):
        row = {"kind": kind, "subject": subject, "detail": detail, "happened_at": utc_now().replace(tzinfo=None)}
        ledger.append("event", [row], key=f"event/{run.run}/{config_digest([kind, subject, detail])}")
    held = ledger.query("SELECT DISTINCT schedule_json FROM checkpoint WHERE run = ?", [run.run])
    known = LedgerSchedules(text for (text,) in held).digests
    schedules = ScheduleWriter(known)
    if schedule_digest(before) in known:
        schedules.text(before)
    for directory, record in records:
        row = {
            "checkpoint": record.checkpoint,
            "run": record.run,
            "segment": record.segment,
            "step": record.step,
            "positions": record.positions,
            "dataset_root": record.dataset_root,
            "schedule_json": schedules.text(record.schedule),
            "tally_json": json.dumps(dict(record.tally)),
            "files_json": json.dumps(dict(record.files) | {PROVENANCE: record.digest}),
            "parent": record.parent,
            "upstream_json": json.dumps([asdict(u) for u in record.upstream]),
            "state": record.state,
            "path": str(directory.relative_to(home.path)),
            "saved_at": _naive(record.saved_at),
        }
        ledger.append("checkpoint", [row], key=f"checkpoint/{record.checkpoint}/{config_digest(dict(record.files))}")


def _record_run(ledger: Ledger, run: TrainingRun) -> None:
    row = {
        "run": run.run,
        "kind": run.kind,
        "config_digest": run.config_digest,
        "config_json": run.config_json,
        "code_version": run.code_version,
        "dataset": run.dataset,
        "dataset_root": run.dataset_root,
        "seed": run.seed,
        "upstream_json": json.dumps([asdict(u) for u in run.upstream]),
        "record_json": run.to_json(),
        "parent_checkpoint": run.parent_checkpoint,
        "started_at": _naive(run.started_at),
    }
    ledger.append("run", [row], key=f"run/{run.run}/{len(run.segments)}")
    for s in run.segments:
        segment = {
            "run": run.run,
            "segment": s.segment,
            "dataset": s.dataset,
            "dataset_root": s.dataset_root,
            "slots": s.slots,
            "order_version": s.order_version,
            "order_key": s.order_key,
            "first_position": s.first_position,
            "batch_size": s.batch_size,
            "phases_json": json.dumps([asdict(p) for p in s.phases]),
            "contract_json": json.dumps(asdict(s.contract)),
        }
        ledger.append("segment", [segment], key=f"run/{run.run}/segment-{s.segment}")


def _trained(home: Home, run_dir: Path) -> Trained:
    checkpoints = tuple(
        TrainedCheckpoint(r.checkpoint, str(d.relative_to(home.path)), r.step) for d, r in _records(run_dir)
    )
    return Trained(run_dir.name, max((c.step for c in checkpoints), default=0), checkpoints, 0.0)


def _records(run_dir: Path) -> list[tuple[Path, CheckpointRecord]]:
    """The checkpoints on the disk with their records, by rising step."""
    from training.checkpoint import list_checkpoints, read_record

    return [(path, read_record(path)) for path in list_checkpoints(run_dir) if (path / PROVENANCE).is_file()]


def _as_trained(home: Home, result: ClipResult) -> Trained:
    return replace(_trained(home, home.runs_path / result.run.run), images_per_s=result.images_per_s)


def _naive(text: str) -> object:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=None)
