"""Approximate unlearning: a stopgap until a replay, measured, and never called erased.

From a checkpoint that saw some slots to one that does on them as on pictures it never saw. Each step descends on a
batch of retained slots and pulls the loss of some removed ones towards what the checkpoint itself loses on held-out
pictures at the same timestep, in logs (`loss-matching`). That is NegGrad+ (Kurmanji et al. 2023, "Towards Unbounded
Machine Unlearning") with its ascent bounded: unbounded (`neggrad`, kept for comparison) it drives removed pictures far
above every unknown one, where they stand out again. A removed slot's target is the held-out loss of its own rank, so
that their losses spread as those of the unknown do. Half of the held-out slots set targets, the other half measures.

The result is a run of its own, of kind "unlearning", that begins from the checkpoint: one tainted checkpoint, whose
record says how it was made and what was measured. Order, step log and schedule are those of any run, and are verified
alike: they tell of the retained slots. The removed ones are empty in them from step 0; that they were shown, to be
forgotten, the record says. What the old checkpoint saw, the new one still descends from, and a trace says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError, InputError, IntegrityError
from policy.provenance import (
    CheckpointRecord,
    Forgetting,
    NumericContract,
    Phase,
    ScheduleEntry,
    Segment,
    TrainingRun,
    Unlearning,
    canonical_json,
    config_digest,
    utc_text,
)
from training.batches import Batch, Batcher, EmptySlots, TombstoneWatch
from training.checkpoint import (
    TrainerState,
    load_run,
    load_schedule,
    newest_checkpoint,
    record_at,
    save_checkpoint,
    save_run,
    save_schedule,
    sweep,
)
from training.conditioning import CaptionTokens, TextEncoder
from training.config import TrainingConfig
from training.diffusion import draw_kept_captions, draw_noise, draw_timesteps, flow_errors, flow_loss
from training.membership import (
    DRAWS,
    TINY,
    Losses,
    Samples,
    fixed_draws,
    forgetting,
    log_losses,
    refuse_too_few,
    sample_losses,
    says_anything,
)
from training.numerics import enforce_determinism, observe_contract
from training.order import ORDER_VERSION, Order, order_key, whole_epochs
from training.redo import first_steps
from training.sampling import CONFIG, LoadedDenoiser, load_denoiser
from training.step_log import StepLog, StepRow
from training.tally import Tally

KIND = "unlearning"
METHODS = ("loss-matching", "neggrad")
LEAST_TARGETS = 10  # held-out slots that set targets
MOST_HELD_OUT = 400
RETAINED_MEASURED = 64
_WARMUP_STEPS, _COOLDOWN = 5, 0.5
_NAMED = 5  # ordinals that a message names
_NEW = "Name a new directory"
_KEPT = "Nothing was saved and the old checkpoint is as it was; a lower learning rate may hold"

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Progress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps in all, loss of the retained slots)."""


@dataclass(frozen=True, slots=True)
class UnlearningConfig:
    """How to forget. As many steps as show every removed slot `passes` times, `least_steps` at least.

    `forget_weight`: of the removed slots' term beside the retained loss; 0 leaves plain fine-tuning on what stays.
    `forget_batch`: removed slots a step; retained ones: the run's batch size. `learning_rate`: AdamW's.
    `draws`: of timestep and noise, a slot, for targets and measurements.
    """

    method: str = "loss-matching"
    least_steps: int = 60
    passes: int = 48
    learning_rate: float = 1e-3
    forget_weight: float = 0.1
    forget_batch: int = 16
    draws: int = DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good in (
            (f"method (of {', '.join(METHODS)})", self.method in METHODS),
            ("least_steps", self.least_steps >= 1),
            ("passes", self.passes >= 1),
            ("learning_rate", 0 < self.learning_rate < math.inf),
            ("forget_weight", 0 <= self.forget_weight < math.inf),
            ("forget_batch", self.forget_batch >= 1),
            ("draws", self.draws >= 1),
        ):
            if not good:
                raise ConfigurationError(f"{name} has an impossible value", where="unlearning config")

    def steps(self, removed: int) -> int:
        """How many steps forgetting so many slots takes."""
        return max(self.least_steps, -(-self.passes * removed // self.forget_batch))


@dataclass(frozen=True, slots=True)
class Unlearned:
    """What `unlearn` leaves behind. `seconds`: 0 where it was there already."""

    path: Path
    run: TrainingRun
    checkpoint: CheckpointRecord
    method: str
    steps: int
    seconds: float
    forgetting: Forgetting | None


def unlearn(
    run_dir: Path,
    checkpoint: Path,
    removed: Mapping[str, Collection[int]],
    reader: DatasetReader,
    *,
    held_out: Samples,
    out_run_dir: Path,
    text_encoder: TextEncoder,
    now: Callable[[], datetime],
    config: UnlearningConfig | None = None,
    reference: Path | None = None,
    withheld: Collection[int] = (),
    tombstones_dir: Path | None = None,
    unmeasured: bool = False,
    on_progress: Progress = lambda done, steps, loss: None,
    code_version: str = "unknown",
) -> Unlearned:
    """Make a checkpoint, in a run directory of its own, that approximates not having seen the removed slots.

    removed: slots by the id of their removal; each was seen by the checkpoint, and is still stored: this comes before
    the reseal. held_out: slots that the checkpoint never saw, of this dataset (`never_fed`) or of a sibling.
    reference: an exact replay's checkpoint to measure against. withheld: slots that may not be used any more; those
    under a tombstone and those that the run had emptied are not either. unmeasured: go on where too few slots were
    removed to measure forgetting; the record then says that it was not measured.

    The same arguments give the same weights, under the same numeric contract. After a kill it is done again from the
    start; what is complete is returned as it is. The old run is only read.

    Raises:
        InputError: no such checkpoint; slots that were never seen, are stored no more, or were not held out; too few.
        ConfigurationError: `out_run_dir` holds something else. IntegrityError: damaged files; a loss that is no
        number. StorageError: the disk refuses.
    """
    config = config or UnlearningConfig()
    ordinals = tuple(sorted({int(o) for each in removed.values() for o in each}))

    # Whose checkpoint it is, and whether there is something to forget.
    old_run = load_run(run_dir)
    if old_run is None:
        raise InputError("not a run's directory", where=str(run_dir))
    old = load_denoiser(checkpoint)
    if old.record.run != old_run.run:
        raise InputError(f"a checkpoint of {old.record.run}, not of {old_run.run}", where=str(checkpoint))
    if out_run_dir.name == old_run.run:
        raise ConfigurationError(f"{old_run.run} cannot begin from itself", where=str(out_run_dir), remedy=_NEW)
    if old_run.kind not in ("diffusion", KIND):
        raise InputError(f"how a run of kind {old_run.kind!r} forgets is not known here", where=str(run_dir))
    if (old_run.dataset, old_run.dataset_root) != (reader.manifest.dataset, reader.root):
        raise InputError(f"{old_run.run} was trained on {old_run.dataset}, not on this dataset", where=reader.directory)
    seen = seen_by(run_dir, old.record)
    _refuse_unseen(ordinals, seen, old.record)
    _refuse_seen(held_out, seen, reader, old.record)
    stones = TombstoneWatch(tombstones_dir, held_out.reader.manifest.dataset).look() or frozenset()
    if gone := sorted(stones & set(held_out.ordinals)):
        raise InputError(f"{_told(gone)} is under a tombstone: nothing is measured with it", where="held out")
    if reference is not None:
        _refuse_reference(reference, ordinals, held_out, reader)
    targets_of, measured_on = _halves(held_out)
    if len(targets_of.ordinals) < LEAST_TARGETS:
        raise InputError(
            f"{len(held_out.ordinals)} held-out slots, and {2 * LEAST_TARGETS} at least say what a loss should be",
            where="unlearning",
            remedy="Hold out more: slots that the run never fed, or a sibling dataset",
        )
    if not unmeasured:
        refuse_too_few(len(ordinals), len(measured_on.ordinals))

    # Numbers first: the contract is observed after it was put in force.
    training = old.config
    enforce_determinism(training.threads)
    contract = observe_contract(training.device, training.precision)

    # The run's record: what was asked, so that asking again finds it.
    steps = config.steps(len(ordinals))
    asked = {
        "config": asdict(training),
        "unlearning": asdict(config),
        "removed": {name: sorted({int(o) for o in each}) for name, each in removed.items()},
        "held_out": {"root": held_out.reader.root, "ordinals": sorted(held_out.ordinals)},
    }
    run = TrainingRun(
        run=out_run_dir.name,
        kind=KIND,
        config_digest=config_digest({**asked, "config": training.digest}),
        config_json=canonical_json(asked),
        code_version=code_version,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        seed=config.seed,
        upstream=old_run.upstream,
        parent_checkpoint=old.record.checkpoint,
        started_at=utc_text(now()),
        segments=(_segment(reader, training, config, contract, steps),),
    )
    if (done := _already(out_run_dir, run)) is not None:
        return done

    # The schedule: fed, to be kept, is what the checkpoint saw and may still be used. All else is empty from the start.
    watch = TombstoneWatch(tombstones_dir, reader.manifest.dataset)
    emptied = (entry.ordinal for entry in load_schedule(run_dir))
    empty = EmptySlots()
    for unusable in (np.flatnonzero(~(seen & reader.live())).tolist(), ordinals, emptied, withheld, watch.look() or ()):
        empty.enter(unusable, 0)
    stays = seen.copy()
    stays[[entry.ordinal for entry in empty.entries]] = False
    retained = _spread(np.flatnonzero(stays).tolist(), RETAINED_MEASURED)
    if not retained:
        raise InputError("nothing that the checkpoint saw is left to be kept", where=reader.directory)
    sweep(out_run_dir)
    (out_run_dir / "steps.log").unlink(missing_ok=True)
    out_run_dir.mkdir(parents=True, exist_ok=True)
    save_schedule(out_run_dir, empty.entries)
    save_run(out_run_dir, run)

    # What a removed slot should lose, by the checkpoint's own losses before anything was changed.
    started = time.monotonic()
    captions = CaptionTokens(text_encoder, training.denoiser.text_tokens)

    def losses_of(model: LoadedDenoiser, samples: Samples) -> Losses:
        return sample_losses(model, samples.reader, samples.ordinals, captions=captions, draws=config.draws)

    old = replace(old, model=old.model.to(training.device))
    of_removed = losses_of(old, Samples(reader, ordinals))
    targets = _Targets.of(of_removed, losses_of(old, targets_of), ordinals)
    retained_before = float(losses_of(old, Samples(reader, retained)).mean())

    # The averaged weights are the ones that samples are drawn from: they are where it starts, and no others stay.
    model = load_denoiser(checkpoint, device=training.device).model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    segment, tally = run.segments[0], Tally(reader)
    order = Order.of(segment)
    kept_batches = Batcher(reader, order, replace(training, seed=config.seed))
    forget_batches = _forget_batches(reader, ordinals, training, config, steps)
    with StepLog(out_run_dir / "steps.log") as log:
        for step in range(steps):
            # Tombstones that arrived since the last step are in force from this one on.
            if arrived := empty.enter(watch.look() or (), step):
                save_schedule(out_run_dir, empty.entries)
                for ordinal in arrived:
                    captions.forget(reader.caption(ordinal) or "")

            # What stays: as in any run. What goes: each removed slot in turn, under draws of its own.
            batch = kept_batches.batch(step, empty)
            if batch.undecodable:
                empty.enter((ordinal for ordinal, _ in batch.undecodable), step)
                save_schedule(out_run_dir, empty.entries)
            shown = _Shown.of(batch, kept_batches.config, captions)
            loss = flow_loss(model, *shown.arguments, kept_batches.config)
            term = torch.zeros((), device=loss.device)
            if config.forget_weight:
                forget = forget_batches.batch(step, EmptySlots())
                shown = _Shown.of(forget, forget_batches.config, captions)
                errors = flow_errors(model, *shown.arguments, forget_batches.config)[shown.real]
                term = _forget_term(
                    config.method, errors, targets.at(forget.ordinals[forget.real], shown.t[shown.real])
                )

            optimizer.zero_grad(set_to_none=True)
            total = loss + config.forget_weight * term
            total.backward()  # type: ignore[no-untyped-call]  # torch's stub
            norm = float(nn.utils.clip_grad_norm_(parameters, training.clip_norm))
            kept_loss, pull = float(loss.detach()), float(term.detach())
            if not all(map(math.isfinite, (kept_loss, pull, norm))):
                raise IntegrityError(
                    f"the loss of step {step} is no number (retained {kept_loss}, removed {pull}, gradient {norm})",
                    where=str(out_run_dir),
                    remedy=_KEPT,
                )

            # The evidence first, then the step that it stands for.
            rate = config.learning_rate * _rate_factor(step, steps)
            fed = batch.ordinals[batch.real]
            log.write(StepRow(step, batch.first_position, len(fed), segment.segment, rate, kept_loss, batch.fed_sha256))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            tally.add(fed)
            on_progress(step + 1, steps, kept_loss)
        rows, digest = log.seal()

    # What came of it, with the weights that are saved.
    new = LoadedDenoiser(model.eval(), training, old.record)
    retained_after = float(losses_of(new, Samples(reader, retained)).mean())
    if not math.isfinite(retained_after):
        raise IntegrityError("what stays has a loss that is no number", where=str(out_run_dir), remedy=_KEPT)
    measured = None
    if says_anything(len(ordinals), len(measured_on.ordinals)):
        measured = forgetting(
            old,
            new,
            reference,
            Samples(reader, ordinals),
            measured_on,
            captions=captions,
            draws=config.draws,
        )
    unlearning = Unlearning(
        method=config.method,
        config_json=canonical_json(asdict(config)),
        steps=steps,
        ordinals=ordinals,
        removals=tuple(sorted(removed)),
        retained_before=retained_before,
        retained_after=retained_after,
        forgetting=measured,
    )
    record = record_at(
        steps,
        run,
        segment,
        order,
        schedule=empty.entries,
        tally=tally,
        parent=old.record,
        state="tainted",
        saved_at=utc_text(now()),
        unlearning=unlearning,
    )
    weights = model.state_dict()
    saved = save_checkpoint(
        out_run_dir,
        record,
        {"model": weights, "ema": weights},
        TrainerState(rows, digest),
        {CONFIG: training.to_json().encode()},
    )
    seconds = time.monotonic() - started
    return Unlearned(saved.path, run, saved.record, config.method, steps, seconds, measured)


# ── what was seen ──────────────────────────────────────────────────────────────────────────────────────────────────


def seen_by(run_dir: Path, record: CheckpointRecord) -> Mask:
    """Which slots a checkpoint, or one that it was unlearnt from, was ever fed: bool [slots]. Arithmetic on the order.

    Raises IntegrityError where the record of a run it descends from is gone: nobody could say what it saw.
    """
    run = load_run(run_dir)
    if run is None:
        raise IntegrityError("the record of the run is gone: what it saw cannot be told", where=str(run_dir))
    seen, told = _fed(run, record.schedule, record.step), {run.run}
    while run.kind == KIND:
        # An unlearning run's own order tells only of what it kept: the rest was seen by what it began from.
        parent, _, step = (run.parent_checkpoint or "").rpartition("-")
        earlier = load_run(run_dir.parent / parent) if parent not in ("", *told) else None
        if earlier is None or not step.isdecimal():
            raise IntegrityError(
                f"the record of {run.parent_checkpoint}, where {run.run} began, is gone: what it saw cannot be told",
                where=str(run_dir.parent / parent),
                remedy="Restore the directory's run.json and schedule.json",
            )
        run = earlier
        told.add(parent)
        seen |= _fed(run, load_schedule(run_dir.parent / parent), int(step))
    return seen


def never_fed(
    run_dir: Path,
    checkpoint: Path,
    reader: DatasetReader,
    *,
    among: DatasetReader | None = None,
    withheld: Collection[int] = (),
    most: int = MOST_HELD_OUT,
) -> Samples:
    """What may be held out: stored slots whose picture the checkpoint never saw, up to `most` of them, evenly.

    reader: the dataset that it was trained on; among: the one to choose from, that one by default. Of its own dataset
    there are mostly none after the first epoch. withheld: slots of that dataset which may not be used.
    """
    seen = seen_by(run_dir, load_denoiser(checkpoint).record)
    chosen = reader if among is None else among
    there = chosen.live().copy()
    there[list(withheld)] = False
    if _is_same(reader, chosen):
        there &= ~seen
    # Some of them may be fed pictures under another name; more are not asked for than are needed.
    asked = Samples(chosen, _spread(np.flatnonzero(there).tolist(), most))
    known = set(_same_pictures(asked, reader, seen))
    return Samples(chosen, tuple(o for o in asked.ordinals if o not in known))


def _fed(run: TrainingRun, schedule: Sequence[ScheduleEntry], upto_step: int) -> Mask:
    """Which slots a run's order fed below a step: those that came up before that, and before they were emptied."""
    slots = run.segments[0].slots
    # Segments differ in their numeric contract alone; one inverse a slot says when it came up first.
    first = first_steps(Order.of(run.segments[0]), np.arange(slots))
    until = np.full(slots, upto_step, dtype=np.int64)
    for entry in schedule:
        until[entry.ordinal] = min(upto_step, entry.first_empty_step)
    return np.asarray(first < until)


def _refuse_unseen(ordinals: Sequence[int], seen: Mask, record: CheckpointRecord) -> None:
    if not ordinals:
        raise InputError("no slots were named", where="unlearning")
    if never := [o for o in ordinals if not 0 <= o < len(seen) or not seen[o]]:
        raise InputError(
            f"{record.checkpoint} never saw {_told(never)}: there is nothing to forget",
            where="unlearning",
            remedy="Name the slots that `custody trace` says it saw",
        )


def _refuse_seen(held_out: Samples, seen: Mask, reader: DatasetReader, record: CheckpointRecord) -> None:
    """Held out is what the checkpoint cannot know: neither the slot nor, anywhere else, the same picture."""
    ordinals = held_out.ordinals
    if len(set(ordinals)) != len(ordinals):
        raise InputError("a held-out slot is named twice", where=held_out.reader.directory)
    if absent := [o for o in ordinals if not 0 <= o < held_out.reader.slots or not held_out.reader.is_live(o)]:
        raise InputError(f"{_told(absent)} holds no sample to measure with", where=held_out.reader.directory)
    known = [o for o in ordinals if seen[o]] if _is_same(reader, held_out.reader) else []
    known = known or _same_pictures(held_out, reader, seen)
    if known:
        raise InputError(
            f"{record.checkpoint} was trained on the picture of {_told(known)}: it cannot be held out",
            where=held_out.reader.directory,
            remedy="Hold out slots that it never fed, or a dataset that shares no picture with its own",
        )


def _refuse_reference(reference: Path, ordinals: Sequence[int], held_out: Samples, reader: DatasetReader) -> None:
    """A reference saw neither what was removed nor what is held out."""
    record = load_denoiser(reference).record
    if (record.dataset, record.dataset_root) != (reader.manifest.dataset, reader.root):
        raise InputError(f"{record.checkpoint} was trained on another dataset: no reference", where=str(reference))
    seen = seen_by(reference.parent, record)
    if saw := [o for o in ordinals if seen[o]]:
        raise InputError(f"{record.checkpoint} saw {_told(saw)}: it is no reference", where=str(reference))
    _refuse_seen(held_out, seen, reader, record)


def _same_pictures(held_out: Samples, reader: DatasetReader, seen: Mask) -> list[int]:
    """The held-out slots whose encoded picture is, byte for byte, that of a slot that was seen and is still stored."""
    lengths = np.concatenate([reader.rows(shard)["image_length"] for shard in range(len(reader.generation.shards))])
    same = []
    for ordinal in held_out.ordinals:
        body = held_out.reader.image_bytes(ordinal)
        assert body is not None  # asked before
        others = np.flatnonzero((lengths == len(body)) & seen).tolist()
        if any(reader.image_bytes(other) == body for other in others):
            same.append(ordinal)
    return same


def _is_same(reader: DatasetReader, other: DatasetReader) -> bool:
    return (reader.manifest.dataset, reader.root) == (other.manifest.dataset, other.root)


def _halves(held_out: Samples) -> tuple[Samples, Samples]:
    """Every second slot sets targets, the others measure: what was aimed at must not be what it is measured by."""
    ordinals = tuple(sorted(held_out.ordinals))
    return Samples(held_out.reader, ordinals[0::2]), Samples(held_out.reader, ordinals[1::2])


def _told(ordinals: Sequence[int]) -> str:
    more = f" and {len(ordinals) - _NAMED} more" if len(ordinals) > _NAMED else ""
    return f"slot {', '.join(map(str, ordinals[:_NAMED]))}{more}"


def _spread(ordinals: Sequence[int], most: int) -> tuple[int, ...]:
    """Up to so many of them, evenly."""
    count = min(most, len(ordinals))
    return tuple(ordinals[i * len(ordinals) // count] for i in range(count))


# ── what a removed slot should lose ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Targets:
    """log loss by timestep of what was held out, and how far each removed slot lies from it.

    `ordinals` [R], rising; `offset` [R]; `curve` [draws] at the timesteps `t` [draws], rising.
    """

    ordinals: Ints
    offset: Losses
    t: Losses
    curve: Losses

    @classmethod
    def of(cls, removed: Losses, held_out: Losses, ordinals: Sequence[int]) -> _Targets:
        """From losses before, [R, draws] and [H, draws], at `fixed_draws`."""
        logs = np.log(np.maximum(held_out, TINY))
        curve = logs.mean(axis=0)
        spread = np.sort((logs - curve).mean(axis=1))
        # What is easy stays easy: a removed slot takes the offset of the held-out one of its own rank.
        rank = np.argsort(np.argsort(log_losses(removed), kind="stable"), kind="stable")
        places = (np.arange(len(spread)) + 0.5) / len(spread)
        offset = np.interp((rank + 0.5) / len(rank), places, spread)
        t, _ = fixed_draws(0, held_out.shape[1], 1)
        return cls(np.asarray(ordinals, dtype=np.int64), offset, t.double().numpy(), curve)

    def at(self, ordinals: Ints, t: Tensor) -> Tensor:
        """The target log loss of each of the ordinals [B] at its timestep [B]."""
        offset = self.offset[np.searchsorted(self.ordinals, ordinals)]
        return torch.from_numpy(np.interp(t.double().cpu().numpy(), self.t, self.curve) + offset).float().to(t.device)


def _forget_term(method: str, errors: Tensor, targets: Tensor) -> Tensor:
    """What is descended on for the removed slots shown, from their losses [B]; nothing where none was shown."""
    if not len(errors):
        return torch.zeros((), device=errors.device)
    if method == "neggrad":
        return -errors.mean()
    return (errors.clamp(min=TINY).log() - targets).square().mean()


# ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Shown:
    """A batch with its draws, as the loss takes it."""

    pixels: Tensor
    noise: Tensor
    t: Tensor
    text: Tensor
    mask: Tensor
    real: Tensor

    @classmethod
    def of(cls, batch: Batch, config: TrainingConfig, captions: CaptionTokens) -> _Shown:
        device, seed, of = torch.device(config.device), config.seed, (batch.epochs, batch.ordinals)
        kept = draw_kept_captions(seed, *of, config.caption_dropout).tolist()
        text, mask = captions.batch([c if k else "" for c, k in zip(batch.captions, kept, strict=True)])
        noise = draw_noise(seed, *of, config.denoiser.image_size)
        t = draw_timesteps(seed, *of, config.timestep_mean, config.timestep_std)
        rest = (tensor.to(device) for tensor in (noise, t, text, mask, torch.from_numpy(batch.real)))
        return cls(batch.pixels_on(device), *rest)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.pixels, self.noise, self.t, self.text, self.mask, self.real


def _forget_batches(
    reader: DatasetReader, ordinals: Sequence[int], training: TrainingConfig, config: UnlearningConfig, steps: int
) -> Batcher:
    """The removed slots in an order of their own, as often as the steps need them."""
    ranges = tuple((o, o + 1) for o in ordinals)
    size = config.forget_batch
    phases = (Phase(ranges, -(-steps * size // len(ranges))),)
    order = Order(order_key(KIND, config.seed), phases, size)
    return Batcher(reader, order, replace(training, seed=config.seed, batch_size=size))


def _rate_factor(step: int, steps: int) -> float:
    """Warm-up, plateau, linear fall: a factor in (0, 1]."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * min(1.0, (steps - step) / max(1.0, _COOLDOWN * steps))


# ── the run's record ───────────────────────────────────────────────────────────────────────────────────────────────


def _segment(
    reader: DatasetReader, training: TrainingConfig, config: UnlearningConfig, contract: NumericContract, steps: int
) -> Segment:
    return Segment(
        segment=0,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        slots=reader.slots,
        order_version=ORDER_VERSION,
        order_key=order_key(KIND, config.seed),
        first_position=0,
        batch_size=training.batch_size,
        phases=whole_epochs(reader.slots, steps, training.batch_size),
        contract=contract,
    )


def _already(out_run_dir: Path, run: TrainingRun) -> Unlearned | None:
    """What an earlier call has left there, complete; ConfigurationError: something else is there."""
    there, is_done = load_run(out_run_dir), any(out_run_dir.glob("step-*"))
    if (there is None and is_done) or (there is not None and there.kind != KIND):
        raise ConfigurationError("the directory holds another run", where=str(out_run_dir), remedy=_NEW)
    if there is None or not is_done:
        return None  # one that was stopped is begun anew, with whatever settings
    asked = (run.config_digest, run.parent_checkpoint, run.dataset_root)
    if (there.config_digest, there.parent_checkpoint, there.dataset_root) != asked:
        raise ConfigurationError(
            f"{there.run} was unlearnt otherwise: by other settings, or other slots",
            where=str(out_run_dir),
            remedy=_NEW,
        )
    found, skipped = newest_checkpoint(out_run_dir)
    if found is None or found.record.unlearning is None:
        why = "; ".join(each.reason for each in skipped) or "it does not say how it was made"
        raise IntegrityError(f"what was unlearnt there does not verify: {why}", where=str(out_run_dir), remedy=_NEW)
    made = found.record.unlearning
    return Unlearned(found.path, there, found.record, made.method, made.steps, 0.0, made.forgetting)
