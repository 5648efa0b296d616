"""Contrastive training with open_clip on the pairs that have alt text: the captioner's CLIP.

The model is open_clip's CustomTextCLIP: all-MiniLM-L6-v2 as text tower, frozen, and one of three image towers
(curation/own_clip.py). Pictures are shown in keyed variants (training/augmentation.py), batches may be larger than
memory holds (training/contrastive.py), and what frozen parts give is computed once (training/clip_inputs.py).

Order, step log, checkpoints and the schedule of emptied slots are those of every run (training/order.py and its
neighbours). The held-out pairs lie outside the segment's ordinal ranges, so that the arithmetic of exposure says of
them what is true: no checkpoint has seen them. They measure retrieval (training/retrieval.py), and later from which
score on captions are kept.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from curation import clip_model
from curation.clip_model import Retrieval
from curation.own_clip import SCRATCH
from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError, IntegrityError
from policy.provenance import (
    CheckpointRecord,
    NumericContract,
    Phase,
    Segment,
    TrainingRun,
    UpstreamModel,
    canonical_json,
    config_digest,
    utc_text,
)
from training.batches import EmptySlots, TombstoneWatch
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
    write_durably,
)
from training.clip_config import OPERATIONAL, ClipConfig
from training.clip_inputs import ClipBatch, ClipInputs, Progress
from training.clip_towers import (
    adamw,
    dropout_mask,
    embed_pictures,
    image_tower,
    learning_rate_factor,
    trained_parameters,
    trained_tensors,
)
from training.contrastive import backward_cached, contrastive_loss
from training.loading import DAY_S, GenerationWatch
from training.numerics import differences, enforce_determinism, observe_contract
from training.order import ORDER_VERSION, Order, is_tainted, open_segment, order_key
from training.retrieval import choose_held_out, measure_retrieval
from training.step_log import StepLog, StepRow, check_prefix, fed_digest
from training.tally import Tally

STEPS_FILE = "steps.log"

OnEvent = Callable[[str, str, str], None]
"""Called with (kind, subject, detail), as in training/loop.py."""

OnSaved = Callable[[Checkpoint], None]
"""Called with every checkpoint, as in training/loop.py."""


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What a call of `train_clip` leaves behind. `retrieval`: None until the last step is done.

    `images_per_s`: pictures fed a second of stepping, reading and measuring apart.
    """

    run: TrainingRun
    steps: int
    checkpoints: tuple[Path, ...]
    last: CheckpointRecord
    model_digest: str
    images_per_s: float = 0.0
    retrieval: Retrieval | None = None

    @property
    def r_at_1(self) -> float | None:
        return self.retrieval.r_at_1 if self.retrieval else None

    @property
    def r_at_5(self) -> float | None:
        return self.retrieval.r_at_5 if self.retrieval else None

    @property
    def n_heldout(self) -> int:
        return self.retrieval.heldout_pairs if self.retrieval else 0


def train_clip(
    reader: DatasetReader,
    config: ClipConfig,
    run_dir: Path,
    *,
    now: Callable[[], datetime],
    progress: Progress = lambda what, done, total: None,
    tombstones_dir: Path | None = None,
    withheld: Collection[int] = (),
    reopen_s: float = DAY_S,
    stop_after: int | None = None,
    on_event: OnEvent = lambda kind, subject, detail: None,
    on_saved: OnSaved = lambda checkpoint: None,
    code_version: str = "unknown",
) -> ClipResult:
    """Train to `config.steps`, or to `stop_after` steps, resuming where the run directory has got to.

    At the last step the held-out pairs measure retrieval.
    withheld: ordinals that may not be used any more though they are sealed; they count as empty from here on.
    reopen_s: how long the dataset may be read without knowing that its generation is the current one.

    Raises:
        InputError: the dataset is too small. ConfigurationError: `run_dir` holds another run, or the image tower
        cannot be had. IntegrityError: the run's files are not what was recorded, or a loss is no number (naming step
        and ordinals). StorageError: the disk refuses. Each leaves all complete checkpoints as they were.
    """
    # Numbers first: the contract is observed after it was put in force.
    enforce_determinism(config.threads)
    contract = observe_contract(config.device, config.precision)
    watch = TombstoneWatch(tombstones_dir, reader.manifest.dataset)
    generations = GenerationWatch(reader, max_age_s=reopen_s)
    tombstoned = (watch.look() or frozenset()) | frozenset(withheld)

    # The run's record: made once, then only compared with.
    run_dir.mkdir(parents=True, exist_ok=True)
    sweep(run_dir)
    run = load_run(run_dir)
    if run is None:
        chosen = choose_held_out(reader, config.held_out, tombstoned)
        run = _new_run(reader, config, run_dir.name, chosen, contract, now(), code_version)
    _check_same_run(run, reader, config, run_dir)
    held_out = held_out_of(run)

    # Where to go on: the newest checkpoint that verifies, and the part of the step log that it stands on.
    checkpoint, skipped = newest_checkpoint(run_dir)
    for passed_over in skipped:
        on_event("checkpoint-skipped", passed_over.path.name, passed_over.reason)
    first_step = checkpoint.record.step if checkpoint else 0
    if checkpoint is not None:
        check_prefix(run_dir / STEPS_FILE, checkpoint.state.log_rows, checkpoint.state.log_sha256)

    # The numeric contract: another one than before opens a new segment, and taints what follows.
    before = run.segments[-1].contract
    run, segment = open_segment(run, contract, first_step * config.batch_size)
    order, state = Order.of(segment), "tainted" if is_tainted(run) else "exact"
    if state == "tainted":
        changed = "; ".join(differences(before, contract)) or "an earlier stretch had another contract"
        on_event("numeric-contract-broken", run.run, changed)

    # The schedule: slots that are empty or under a tombstone by now are so from the step we start from.
    empty = EmptySlots.resumed(load_schedule(run_dir), first_step)
    empty.enter(np.flatnonzero(~reader.live()).tolist(), first_step)
    empty.enter(tombstoned, first_step)
    save_schedule(run_dir, empty.entries)
    save_run(run_dir, run)

    # The model. Its initial weights come from the seed alone.
    torch.manual_seed(config.seed)
    model_config = config.model
    frozen = tuple(model_config["frozen"])
    model = clip_model.build_clip(model_config).to(config.device)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(config.initial_scale))
    model.logit_scale.requires_grad_(config.learn_scale)
    trained, tower = trained_parameters(model, frozen), image_tower(model, config)
    optimizer, peak_rates = adamw(trained, config)
    tally = Tally(reader, checkpoint.record if checkpoint else None)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.tensors("model"), strict=False)
        unpack_optimizer(optimizer, trained, checkpoint.tensors("adamw"))
    last_step = min(config.steps, order.steps, stop_after if stop_after is not None else config.steps)
    phase_ends = order.phase_ends()

    def leave_out(undecodable: Iterable[tuple[int, str]], step: int) -> None:
        """Into the schedule, so that it and every trace stay exact."""
        for ordinal, reason in undecodable:
            empty.enter([ordinal], step)
            save_schedule(run_dir, empty.entries)
            on_event("picture-undecodable", f"slot {ordinal}", reason)

    # What the frozen towers give is computed once, if memory may hold it.
    inputs = ClipInputs(reader, model, tower, config)
    if first_step < last_step:
        leave_out(inputs.read({*held_out, *(entry.ordinal for entry in empty.entries)}, progress), first_step)

    started = time.monotonic()
    with StepLog(run_dir / STEPS_FILE) as log:
        for step in range(first_step, last_step):
            # Tombstones that arrived since the last step are in force from this one on.
            arrived = empty.enter(watch.look() or (), step)
            if arrived:
                save_schedule(run_dir, empty.entries)
                inputs.forget(arrived)
                on_event("tombstones-entered", f"step {step}", f"{len(arrived)} slots")

            # So are slots that are not stored any more: the reader stays with the dataset's current generation.
            if (gone := generations.look()) is not None:
                arrived = empty.enter(gone, step)
                save_schedule(run_dir, empty.entries)
                inputs.forget(arrived)
                on_event("generation-reopened", f"step {step}", f"{len(arrived)} slots")

            # The batch: an empty slot keeps its place, with zero input and no weight.
            ordinals, epochs = order.at_step(step)
            wanted = np.array([o >= 0 and not empty.is_empty(o, step) for o in ordinals.tolist()])
            batch = inputs.batch(ordinals, epochs, wanted)
            leave_out(batch.undecodable, step)
            fed = torch.from_numpy(batch.fed).to(config.device)
            keep = dropout_mask(config, epochs, ordinals, tower.dropout_width).to(config.device)

            # Loss and gradient, over more rows than may be in memory at once.
            optimizer.zero_grad(set_to_none=True)
            loss = backward_cached(
                partial(embed_pictures, tower, batch.images, keep, config),
                partial(_loss_of, batch, fed, model.logit_scale),
                config.batch_size,
                config.rows_at_once,
            )
            norm = nn.utils.clip_grad_norm_([p for _, p in trained], config.clip_norm)
            if not math.isfinite(float(loss)) or not math.isfinite(float(norm)):
                raise IntegrityError(
                    f"the loss of step {step} is no number ({float(loss)}, gradient norm {float(norm)}); "
                    f"it fed {', '.join(str(o) for o in ordinals[batch.fed].tolist())}",
                    where=str(run_dir),
                    remedy=f"The last good checkpoint stays; look at these ordinals of {reader.manifest.dataset}",
                )

            # The evidence first, then the step that it stands for.
            factor = learning_rate_factor(config, step)
            log.write(
                StepRow(
                    step=step,
                    first_position=step * config.batch_size,
                    real=int(batch.fed.sum()),
                    segment=segment.segment,
                    learning_rate=config.learning_rate * factor,
                    loss=float(loss),
                    fed_sha256=fed_digest((o, reader.commitment(o)) for o in ordinals[batch.fed].tolist()),
                )
            )
            for group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0.0, math.log(config.max_scale))  # Radford et al. 2021, section 2.5
            tally.add(ordinals[batch.fed])

            done = step + 1
            progress("train", done, config.steps)

            # A checkpoint; only once it is complete do older ones go.
            if done % config.checkpoint_every == 0 or done in phase_ends or done == last_step:
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
                tensors = {"model": trained_tensors(model, frozen), "adamw": pack_optimizer(optimizer, trained)}
                documents = {clip_model.CONFIG_FILE: canonical_json(model_config).encode()}
                checkpoint = save_checkpoint(run_dir, record, tensors, TrainerState(rows, sha256), documents)
                on_saved(checkpoint)
                retire_checkpoints(run_dir, keep_last=config.keep_checkpoints, epochs_done=order.epochs_done)

    if checkpoint is None:
        raise ConfigurationError("there is no step to train", where=str(run_dir), remedy="Ask for at least one step")
    speed = max(0, last_step - first_step) * config.batch_size / max(1e-9, time.monotonic() - started)
    digest = clip_model.clip_digest(checkpoint.record)
    result = ClipResult(run, checkpoint.record.step, list_checkpoints(run_dir), checkpoint.record, digest, speed)
    if checkpoint.record.step < min(config.steps, order.steps):
        return result

    # Measured is what a user will load: the saved files, on raw pictures.
    progress("measure", 0, len(held_out))
    clip = clip_model.load_clip(clip_model.ClipSpec(None, f"trained:{checkpoint.path}"), config.device)
    still_there = [o for o in held_out if reader.is_live(o) and not empty.is_empty(o, checkpoint.record.step)]
    retrieval = measure_retrieval(clip, reader, still_there)
    write_durably(run_dir / clip_model.RETRIEVAL_FILE, _json(asdict(retrieval)))
    progress("measure", len(held_out), len(held_out))
    return replace(result, retrieval=retrieval)


def _loss_of(batch: ClipBatch, fed: torch.Tensor, logit_scale: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The batch's loss at its pictures' embeddings [B, D]."""
    return contrastive_loss(images, batch.texts, batch.caption_ids, fed, logit_scale.exp())


# The run's record


def ranges_without(slots: int, left_out: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The ordinal ranges [start, stop) that remain of 0..slots-1."""
    edges = [-1, *sorted(left_out), slots]
    return tuple((a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1)


def _new_run(
    reader: DatasetReader,
    config: ClipConfig,
    name: str,
    held_out: Sequence[int],
    contract: NumericContract,
    started_at: datetime,
    code_version: str,
) -> TrainingRun:
    ranges = ranges_without(reader.slots, held_out)
    fed_slots = sum(stop - start for start, stop in ranges)
    epochs = -(-config.steps * config.batch_size // fed_slots)
    segment = Segment(
        segment=0,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        slots=reader.slots,
        order_version=ORDER_VERSION,
        order_key=order_key("clip", config.seed),
        first_position=0,
        batch_size=config.batch_size,
        phases=(Phase(ranges, epochs),),
        contract=contract,
    )
    recorded = {"config": asdict(config), "held_out": list(held_out), "model": config.model}
    return TrainingRun(
        run=name,
        kind="clip",
        config_digest=config_digest(recorded),
        config_json=canonical_json(recorded),
        code_version=code_version,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        seed=config.seed,
        upstream=_upstream(config),
        parent_checkpoint=None,
        started_at=utc_text(started_at),
        segments=(segment,),
    )


def held_out_of(run: TrainingRun) -> tuple[int, ...]:
    """The ordinals that a CLIP run's record holds out."""
    return tuple(int(o) for o in json.loads(run.config_json)["held_out"])


def _upstream(config: ClipConfig) -> tuple[UpstreamModel, ...]:
    """The packaged models that a run starts from."""
    text = clip_model.text_encoder_component()
    return (text,) if config.image_tower == SCRATCH else (text, clip_model.image_encoder_component())


def _check_same_run(run: TrainingRun, reader: DatasetReader, config: ClipConfig, run_dir: Path) -> None:
    """A resume goes on with what it began with: config, dataset and every model it stands on."""
    recorded: dict[str, Any] = json.loads(run.config_json).get("config") or {}
    learnt = {name: value for name, value in recorded.items() if name not in OPERATIONAL}
    changed = [n for n in learnt.keys() | config.learnt.keys() if learnt.get(n) != config.learnt.get(n)]
    different = [
        what
        for what, same in (
            (f"kind, {run.kind}", run.kind == "clip"),
            (f"configuration ({', '.join(sorted(changed))})", not changed),
            (f"dataset, {run.dataset}", run.dataset == reader.manifest.dataset),
            (f"dataset root, {run.dataset_root[:16]}", run.dataset_root == reader.root),
            ("set of models upstream", run.upstream == _upstream(config)),
        )
        if not same
    ]
    if different:
        raise ConfigurationError(
            f"this directory holds a run of another {'; another '.join(different)}",
            where=str(run_dir),
            remedy="Use what it was begun with, or name a new run",
        )


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
