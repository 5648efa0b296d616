"""Training a diffusion model such that what it saw is known exactly.

The result is a pure function of (config, dataset, schedule). Whatever happens in between (a kill at any instant, a
damaged checkpoint, another batch of tombstones) the run goes on from the newest checkpoint that verifies and, for the
same schedule, ends with the same bits.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError, IntegrityError
from policy.provenance import (
    CheckpointRecord,
    NumericContract,
    ScheduleEntry,
    Segment,
    TrainingRun,
    UpstreamModel,
    utc_text,
)
from policy.revocability import classes_of
from training.batches import Batch, Batcher, EmptySlots, TombstoneWatch, fed_sha256
from training.checkpoint import (
    Checkpoint,
    TrainerState,
    list_checkpoints,
    load_run,
    load_schedule,
    newest_checkpoint,
    pack_optimizer,
    record_at,
    retire_checkpoints,
    save_checkpoint,
    save_run,
    save_schedule,
    sweep,
    unpack_optimizer,
)
from training.conditioning import CaptionTokens, TextEncoder
from training.config import TrainingConfig
from training.curriculum import plan
from training.denoiser import Denoiser
from training.diffusion import flow_loss
from training.ema import Ema
from training.loading import DAY_S, GenerationWatch, Loader
from training.numerics import differences, enforce_determinism, observe_contract
from training.order import Order, is_tainted, open_segment, order_key, order_version
from training.ranks import ALONE, Ranks
from training.sampling import CONFIG
from training.step_log import StepLog, StepRow, check_prefix
from training.tally import Tally
from training.token_store import MAX_BYTES, TokenStore

Progress = Callable[[int, float, float], None]
"""Called after every step with (steps done, loss, images a second)."""

OnEvent = Callable[[str, str, str], None]
"""Called with (kind, subject, detail) for what an operator should find later: a skipped checkpoint, a taint, …"""

OnSaved = Callable[[Checkpoint], None]
"""Called with every checkpoint once it is complete, before older ones are retired."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a call of `train` leaves behind. `checkpoints`: those on the disk, by rising step."""

    run: TrainingRun
    steps: int
    checkpoints: tuple[Path, ...]
    last: CheckpointRecord
    images_per_s: float


def train(
    reader: DatasetReader,
    config: TrainingConfig,
    run_dir: Path,
    *,
    upstream: Sequence[UpstreamModel],
    text_encoder: TextEncoder,
    progress: Progress,
    now: Callable[[], datetime],
    tombstones_dir: Path | None = None,
    withheld: Collection[int] = (),
    reopen_s: float = DAY_S,
    tokens_dir: Path | None = None,
    tokens_bytes: int = MAX_BYTES,
    stop_after: int | None = None,
    on_event: OnEvent = lambda kind, subject, detail: None,
    on_saved: OnSaved = lambda checkpoint: None,
    code_version: str = "unknown",
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Train to `config.steps`, or to `stop_after` steps, resuming where the run directory has got to.

    upstream: models the data went through (captions, filters); the text encoder is added to them.
    withheld: ordinals that may not be used any more though they are sealed; they count as empty from here on.
    reopen_s: how long the dataset may be read without knowing that its generation is the current one.
    tokens_dir: where captions' token embeddings are kept between runs, at most `tokens_bytes` of them.
    ranks: this process's place among those that train together (training/ranks.py); the first one alone writes, and
    calls `progress`, `on_event` and `on_saved`.
    Raises ConfigurationError (the run directory belongs to another config, dataset or encoder), IntegrityError (a
    damaged step log; a loss that is no number, naming step and ordinals), StorageError (disk full); each leaves all
    complete checkpoints as they were.
    """
    # Numbers first: the contract is observed after it was put in force.
    enforce_determinism(config.threads)
    contract = observe_contract(config.device, config.precision, world_size=ranks.size)
    own_part = ranks.part(config.batch_size)
    _check_same_contract(ranks.gathered(contract))

    if not ranks.is_first:
        on_event, progress = lambda kind, subject, detail: None, lambda step, loss, speed: None

    # The run's record: made once, then only compared with. Where to go on: the newest checkpoint that verifies, and
    # the part of the step log that it stands on.
    components = (text_encoder.component, *upstream)

    def begin() -> tuple[TrainingRun, Checkpoint | None]:
        sweep(run_dir)
        run = load_run(run_dir)
        if run is None:
            run = _new_run(reader, config, contract, run_dir.name, components, code_version, utc_text(now()))
        _check_same_run(run, reader, config, components, run_dir)
        checkpoint, skipped = newest_checkpoint(run_dir)
        for passed_over in skipped:
            on_event("checkpoint-skipped", passed_over.path.name, passed_over.reason)
        if checkpoint is not None:
            check_prefix(run_dir / "steps.log", checkpoint.state.log_rows, checkpoint.state.log_sha256)
        return run, checkpoint

    run, checkpoint = ranks.by_first(begin)
    first_step = checkpoint.record.step if checkpoint else 0

    # The numeric contract: another one than before opens a new segment, and taints what follows.
    before = run.segments[-1].contract
    run, segment = open_segment(run, contract, first_step * config.batch_size)
    order, state = Order.of(segment), "tainted" if is_tainted(run) else "exact"
    if state == "tainted":
        changed = "; ".join(differences(before, contract)) or "an earlier stretch had another contract"
        on_event("numeric-contract-broken", run.run, changed)

    # The schedule: known tombstones and slots that are no longer stored enter at the step we start from.
    watch, generations = (
        TombstoneWatch(tombstones_dir, reader.manifest.dataset),
        GenerationWatch(reader, max_age_s=reopen_s),
    )

    def at_first() -> tuple[ScheduleEntry, ...]:
        empty = EmptySlots.resumed(load_schedule(run_dir), first_step)
        empty.enter(np.flatnonzero(~reader.live()).tolist(), first_step)
        empty.enter(watch.look() or (), first_step)
        empty.enter(withheld, first_step)
        save_schedule(run_dir, empty.entries)
        save_run(run_dir, run)
        return empty.entries

    empty = EmptySlots(ranks.by_first(at_first))

    def enter(ordinals: Iterable[int], step: int) -> tuple[int, ...]:
        """Empty slots from a step on, in the stored schedule too, so that it and every trace stay exact."""
        arrived = empty.enter(ordinals, step)
        if arrived and ranks.is_first:
            save_schedule(run_dir, empty.entries)
        return arrived

    # Model, optimizers and average. The initial weights come from the seed alone.
    torch.manual_seed(config.seed)
    model = Denoiser(config.denoiser).to(config.device).train()
    optimizers = _optimizers(model, config)
    ema = Ema(model, config.ema_length)
    tally = Tally(reader, checkpoint.record if checkpoint else None)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.tensors("model"))
        ema.load(checkpoint.tensors("ema"))
        for name, (optimizer, _) in optimizers.items():
            unpack_optimizer(optimizer, model.named_parameters(), checkpoint.tensors(name))

    store = None
    if tokens_dir is not None:
        store = TokenStore(
            tokens_dir, text_encoder.component.digest, contract, config.denoiser.text_tokens, max_bytes=tokens_bytes
        )
    captions = CaptionTokens(text_encoder, config.denoiser.text_tokens, store=store)
    last_step = min(config.steps, order.steps, stop_after if stop_after is not None else config.steps)
    phase_ends = order.phase_ends()
    parameters = list(model.parameters())
    device = torch.device(config.device)
    images_seen, started = 0, time.monotonic()

    def look() -> tuple[frozenset[int] | None, frozenset[int] | None]:
        """What became empty since the last look: by tombstones, and by a newer generation."""
        return watch.look(), generations.look()

    batches = Loader(Batcher(reader, order, config, own_part), workers=config.loader_workers, stop=last_step)
    step_log = StepLog(run_dir / "steps.log") if ranks.is_first else None
    with batches, step_log or nullcontext() as log:
        for step in range(first_step, last_step):
            # Tombstones that arrived since the last step are in force from this one on.
            removed, gone = ranks.by_first(look)
            if arrived := enter(removed or (), step):
                on_event("tombstones-entered", f"step {step}", f"{len(arrived)} slots")
                for ordinal in arrived:
                    captions.forget(reader.caption(ordinal) or "")

            # So are slots that are not stored any more: the reader stays with the dataset's current generation.
            if gone is not None:
                if not ranks.is_first:
                    reader.renew()
                arrived = enter(gone, step)
                on_event("generation-reopened", f"step {step}", f"{len(arrived)} slots")

            # What this step feeds: pixels, captions and every random draw, keyed by (seed, epoch, ordinal, purpose).
            batch, parts = ranks.together(partial(batches.batch, step, empty), _part_of)
            fed = parts[0] if len(parts) == 1 else _joined(parts, reader)
            for ordinal, reason in fed.undecodable:
                enter([ordinal], step)
                on_event("picture-undecodable", f"slot {ordinal}", reason)
            real = torch.from_numpy(batch.real)
            kept = batch.draws.kept_captions(config.caption_dropout).tolist()
            text, mask = captions.batch([c if k else "" for c, k in zip(batch.captions, kept, strict=True)])
            noise = batch.draws.noise(config.denoiser.image_size)
            t = batch.draws.timesteps(config.timestep_mean, config.timestep_std)
            pixels, noise, t = batch.pixels_on(device), noise.to(device), t.to(device)
            text, mask, real = text.to(device), mask.to(device), real.to(device)

            # Loss and gradient.
            for optimizer, _ in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            loss = flow_loss(model, pixels, noise, t, text, mask, real, config)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            ranks.sum_gradients(parameters)
            norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            loss_value = float(ranks.sum(loss.detach()))
            if not math.isfinite(loss_value) or not math.isfinite(float(norm)):
                named = ", ".join(str(o) for o in fed.ordinals.tolist())
                raise IntegrityError(
                    f"the loss of step {step} is no number ({loss_value}, gradient norm {float(norm)}); it fed {named}",
                    where=str(run_dir),
                    remedy=f"The last good checkpoint stays; look at these ordinals of {reader.manifest.dataset}",
                )

            # The evidence first, then the step that it stands for.
            factor = config.learning_rate_factor(step)
            if log is not None:
                log.write(
                    StepRow(
                        step=step,
                        first_position=batch.first_position,
                        real=len(fed.ordinals),
                        segment=segment.segment,
                        learning_rate=config.learning_rate * factor,
                        loss=loss_value,
                        fed_sha256=fed.sha256,
                    )
                )
            for optimizer, base_rate in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = base_rate * factor
                optimizer.step()
            ema.update(step)
            tally.add(fed.ordinals)

            done = step + 1
            images_seen += config.batch_size
            progress(done, loss_value, images_seen / max(1e-9, time.monotonic() - started))

            # A checkpoint; only once it is complete do older ones go.
            if log is not None and (done % config.checkpoint_every == 0 or done in phase_ends or done == last_step):
                rows, sha256 = log.seal()
                record = record_at(
                    done,
                    run,
                    segment,
                    order,
                    schedule=empty.entries,
                    tally=tally,
                    parent=checkpoint.record if checkpoint else None,
                    state=state,
                    saved_at=utc_text(now()),
                )
                tensors = {
                    "model": model.state_dict(),
                    "ema": ema.weights,
                    **{n: pack_optimizer(o, model.named_parameters()) for n, (o, _) in optimizers.items()},
                }
                documents = {CONFIG: config.to_json().encode()}
                checkpoint = save_checkpoint(run_dir, record, tensors, TrainerState(rows, sha256), documents)
                on_saved(checkpoint)
                retire_checkpoints(run_dir, keep_last=config.keep_checkpoints, epochs_done=order.epochs_done)

    def end() -> TrainResult:
        if checkpoint is None:
            raise ConfigurationError(
                "there is no step to train", where=str(run_dir), remedy="Ask for at least one step"
            )
        rate = images_seen / max(1e-9, time.monotonic() - started)
        return TrainResult(run, checkpoint.record.step, list_checkpoints(run_dir), checkpoint.record, rate)

    return ranks.by_first(end)


@dataclass(frozen=True, slots=True)
class _Fed:
    """What a step, or a rank's part of it, really fed: ordinals in batch order, and the log's digest of them."""

    ordinals: npt.NDArray[np.int64]
    undecodable: tuple[tuple[int, str], ...]
    sha256: bytes


def _part_of(batch: Batch) -> _Fed:
    return _Fed(batch.ordinals[batch.real], batch.undecodable, batch.fed_sha256)


def _joined(parts: Sequence[_Fed], reader: DatasetReader) -> _Fed:
    """What all ranks fed: their parts are the batch's, in its order."""
    ordinals = np.concatenate([part.ordinals for part in parts])
    undecodable = tuple(itertools.chain.from_iterable(part.undecodable for part in parts))
    return _Fed(ordinals, undecodable, fed_sha256(ordinals, reader.commitments(ordinals)))


def _check_same_contract(contracts: Sequence[NumericContract]) -> None:
    """Ranks that compute under different contracts would drift apart."""
    for other in contracts[1:]:
        if differs := differences(contracts[0], other):
            raise ConfigurationError(
                f"the processes do not compute alike: {'; '.join(differs)}", where="training", remedy="Use one machine"
            )


def last_checkpoint(run_dir: Path) -> Checkpoint:
    """The newest checkpoint of a run that verifies; IntegrityError says why there is none."""
    checkpoint, skipped = newest_checkpoint(run_dir)
    if checkpoint is None:
        reasons = "; ".join(s.reason for s in skipped) or "none was saved yet"
        raise IntegrityError(f"no checkpoint that verifies: {reasons}", where=str(run_dir))
    return checkpoint


def _new_run(
    reader: DatasetReader,
    config: TrainingConfig,
    contract: NumericContract,
    name: str,
    upstream: tuple[UpstreamModel, ...],
    code_version: str,
    started_at: str,
) -> TrainingRun:
    shard_slots = reader.generation.shards[0].slots
    phases = plan(config, reader.slots, classes_of(reader.manifest), shard_slots=shard_slots).phases
    segment = Segment(
        segment=0,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        slots=reader.slots,
        order_version=order_version(phases),
        order_key=order_key("diffusion", config.seed),
        first_position=0,
        batch_size=config.batch_size,
        phases=phases,
        contract=contract,
    )
    return TrainingRun(
        run=name,
        kind="diffusion",
        config_digest=config.digest,
        config_json=config.to_json(),
        code_version=code_version,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        seed=config.seed,
        upstream=upstream,
        parent_checkpoint=None,
        started_at=started_at,
        segments=(segment,),
    )


def _check_same_run(
    run: TrainingRun,
    reader: DatasetReader,
    config: TrainingConfig,
    upstream: tuple[UpstreamModel, ...],
    run_dir: Path,
) -> None:
    """A resume goes on with what it began with: config, dataset and every model it stands on."""
    different = [
        what
        for what, same in (
            (f"kind {run.kind}", run.kind == "diffusion"),
            (f"config {run.config_digest}, now {config.digest}", run.config_digest == config.digest),
            (f"dataset {run.dataset}, now {reader.manifest.dataset}", run.dataset == reader.manifest.dataset),
            (f"dataset root {run.dataset_root[:16]}, now {reader.root[:16]}", run.dataset_root == reader.root),
            ("models upstream", run.upstream == upstream),
        )
        if not same
    ]
    if different:
        raise ConfigurationError(
            f"the run was begun with another {'; another '.join(different)}",
            where=str(run_dir),
            remedy="Use the settings it was begun with, or train into a new run directory",
        )


def _optimizers(model: Denoiser, config: TrainingConfig) -> dict[str, tuple[torch.optim.Optimizer, float]]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for the rest; name -> (optimizer, peak rate)."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith("blocks.") and parameter.ndim == 2 and "modulation" not in name
        (matrices if is_matrix else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay)
    adamw = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    return {"adamw": (adamw, config.learning_rate), "muon": (muon, config.matrix_learning_rate)}
