"""Contrastive training with open_clip on the pairs that have alt text: the captioner's CLIP.

The model is open_clip's CustomTextCLIP over two frozen towers that pip packages carry: timm's EfficientNet-Lite0 and
all-MiniLM-L6-v2. Trained is the projection of the picture into the text's space (timm's two-layer head, 1.5 million
weights) and the temperature. Frozen features are computed once and kept in memory only: on the disk they would be
one more personal thing to erase.

Order, step log, checkpoints and the schedule of emptied slots are those of every run (training/order.py and its
neighbours). The held-out pairs lie outside the segment's ordinal ranges, so that the arithmetic of exposure says of
them what is true: no checkpoint has seen them. They measure retrieval and choose the caption threshold.

The loss is the symmetric InfoNCE of CLIP (Radford et al. 2021) with every equal caption of the batch as a positive.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from curation import clip_model
from curation.clip_model import Calibration, ClipModel, Embeddings
from curation.images import decode
from curation.shards import DatasetReader
from policy.errors import ConfigurationError, InputError, IntegrityError
from policy.provenance import (
    CheckpointRecord,
    NumericContract,
    Phase,
    Segment,
    TrainingRun,
    canonical_json,
    config_digest,
    utc_text,
)
from training.batches import EmptySlots, TombstoneWatch
from training.checkpoint import (
    TrainerState,
    list_checkpoints,
    load_run,
    load_schedule,
    newest_checkpoint,
    pack_optimizer,
    retire_checkpoints,
    save_checkpoint,
    save_run,
    save_schedule,
    sweep,
    unpack_optimizer,
    write_durably,
)
from training.numerics import enforce_determinism, observe_contract
from training.order import ORDER_VERSION, Order, is_tainted, open_segment
from training.randomness import sample_keys, uniforms
from training.step_log import StepLog, StepRow, check_prefix, fed_digest

STEPS_FILE = "steps.log"

Ints = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, of how much)."""

OnEvent = Callable[[str, str, str], None]
"""Called with (kind, subject, detail), as in training/loop.py."""


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """A CLIP run. `image_size`: side in pixels that pictures are padded and scaled to; `held_out`: pairs never fed.

    `unique_captions`: calibrate for a captioner that gives no picture a text which another one carries already.
    """

    image_size: int = 128
    steps: int = 200
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.05
    dropout: float = 0.5
    initial_scale: float = 14.0
    held_out: int = 200
    target_precision: float = 0.9
    unique_captions: bool = False
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    seed: int = 0
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What a call of `train_clip` leaves behind. The measures are None until the last step is done."""

    run: TrainingRun
    steps: int
    checkpoints: tuple[Path, ...]
    last: CheckpointRecord
    model_digest: str
    calibration: Calibration | None = None

    @property
    def r_at_1(self) -> float | None:
        return self.calibration.r_at_1 if self.calibration else None

    @property
    def r_at_5(self) -> float | None:
        return self.calibration.r_at_5 if self.calibration else None

    @property
    def n_heldout(self) -> int:
        return self.calibration.heldout_pairs if self.calibration else 0

    @property
    def threshold(self) -> float | None:
        return self.calibration.threshold if self.calibration else None

    @property
    def precision_at_threshold(self) -> float | None:
        return self.calibration.precision if self.calibration else None

    @property
    def coverage(self) -> float | None:
        return self.calibration.coverage if self.calibration else None


def train_clip(
    reader: DatasetReader,
    config: ClipConfig,
    run_dir: Path,
    *,
    now: Callable[[], datetime],
    bank: Sequence[str] = (),
    progress: Progress = lambda what, done, total: None,
    tombstones_dir: Path | None = None,
    withheld: Collection[int] = (),
    stop_after: int | None = None,
    on_event: OnEvent = lambda kind, subject, detail: None,
    code_version: str = "unknown",
) -> ClipResult:
    """Train to `config.steps`, or to `stop_after` steps, resuming where the run directory has got to.

    At the last step the held-out pairs measure retrieval and choose the caption threshold.
    bank: the texts that captions will be chosen from; the dataset's own captions are added to it.
    withheld: ordinals that may not be used any more though they are sealed; they count as empty from here on.

    Raises:
        InputError: the dataset is too small. ConfigurationError: `run_dir` holds another run.
        IntegrityError: the run's files are not what was recorded. StorageError: the disk refuses.
    """
    # Numbers first: the contract is observed after it was put in force.
    enforce_determinism(config.threads)
    contract = observe_contract(config.device, "fp32")
    model_config = clip_model.own_clip_config(config.image_size)
    watch = TombstoneWatch(tombstones_dir, reader.manifest.dataset)
    tombstoned = (watch.look() or frozenset()) | frozenset(withheld)

    # The run's record: made once, then only compared with.
    run_dir.mkdir(parents=True, exist_ok=True)
    sweep(run_dir)
    run = load_run(run_dir)
    if run is None:
        chosen = choose_held_out(reader, config.held_out, tombstoned)
        run = _new_run(reader, config, model_config, run_dir.name, chosen, contract, now(), code_version)
    _check_same_run(run, reader, config, run_dir)
    held_out = held_out_of(run)

    # Where to go on: the newest checkpoint that verifies, and the part of the step log that it stands on.
    checkpoint, skipped = newest_checkpoint(run_dir)
    for passed_over in skipped:
        on_event("checkpoint-skipped", passed_over.path.name, passed_over.reason)
    first_step = checkpoint.record.step if checkpoint else 0
    if checkpoint is not None:
        check_prefix(run_dir / STEPS_FILE, checkpoint.state.log_rows, checkpoint.state.log_sha256)
    run, segment = open_segment(run, contract, first_step * config.batch_size)
    order = Order.of(segment)

    # The schedule: slots that are empty or under a tombstone by now are so from the step we start from.
    empty = EmptySlots.resumed(load_schedule(run_dir), first_step)
    empty.enter(np.flatnonzero(~reader.live()).tolist(), first_step)
    empty.enter(tombstoned, first_step)
    save_schedule(run_dir, empty.entries)
    save_run(run_dir, run)

    # The model. Its initial weights come from the seed alone; the frozen towers' outputs are computed once.
    torch.manual_seed(config.seed)
    model = clip_model.build_clip(model_config).to(config.device)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(config.initial_scale))
    trained = trained_parameters(model)
    optimizer = _optimizer(trained, config)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.tensors("model"), strict=False)
        unpack_optimizer(optimizer, trained, checkpoint.tensors("adamw"))
    last_step = min(config.steps, order.steps, stop_after if stop_after is not None else config.steps)
    features = _Features(reader, model, model_config, config.device)
    if first_step < last_step:
        features.read({*held_out, *(entry.ordinal for entry in empty.entries)}, progress)

    with StepLog(run_dir / STEPS_FILE) as log:
        for step in range(first_step, last_step):
            # Tombstones that arrived since the last step are in force from this one on.
            arrived = empty.enter(watch.look() or (), step)
            if arrived:
                save_schedule(run_dir, empty.entries)
                features.forget(arrived)
                on_event("tombstones-entered", f"step {step}", f"{len(arrived)} slots")

            # The batch: an empty slot keeps its place, with zero input and no weight.
            ordinals, epochs = order.at_step(step)
            fed = np.array([o >= 0 and not empty.is_empty(o, step) for o in ordinals.tolist()])
            images, texts, captions = features.batch(ordinals, fed)
            kept = _dropout_mask(config, epochs, ordinals, model.visual.head.mlp.fc1.out_features)

            # Loss and gradient.
            optimizer.zero_grad(set_to_none=True)
            loss = contrastive_loss(
                F.normalize(_head(model, images, kept.to(config.device)), dim=-1),
                F.normalize(texts, dim=-1),
                captions,
                torch.from_numpy(fed).to(config.device),
                model.logit_scale.exp(),
            )
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            if not math.isfinite(loss.item()):
                raise IntegrityError(f"the loss of step {step} is no number", where=str(run_dir))

            # The evidence first, then the step that it stands for.
            learning_rate = config.learning_rate * _learning_rate_factor(config, step)
            log.write(
                StepRow(
                    step=step,
                    first_position=step * config.batch_size,
                    real=int(fed.sum()),
                    segment=segment.segment,
                    learning_rate=learning_rate,
                    loss=loss.item(),
                    fed_sha256=fed_digest((o, reader.commitment(o)) for o in ordinals[fed].tolist()),
                )
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0.0, math.log(100.0))  # Radford et al. 2021, section 2.5

            done = step + 1
            progress("train", done, config.steps)

            # A checkpoint; only once it is complete do older ones go.
            if done % config.checkpoint_every == 0 or done == last_step:
                rows, sha256 = log.seal()
                record = CheckpointRecord(
                    checkpoint=f"{run.run}-{done:07d}",
                    run=run.run,
                    segment=segment.segment,
                    step=done,
                    positions=min(done * config.batch_size, order.positions),
                    dataset=run.dataset,
                    dataset_root=run.dataset_root,
                    schedule=empty.entries,
                    tally=_tally(reader, order, empty, done),
                    files=(),
                    parent=checkpoint.record.checkpoint if checkpoint else run.parent_checkpoint,
                    upstream=run.upstream,
                    state="tainted" if is_tainted(run) else "exact",
                    saved_at=utc_text(now()),
                )
                tensors = {"model": dict(trained), "adamw": pack_optimizer(optimizer, trained)}
                documents = {clip_model.CONFIG_FILE: canonical_json(model_config).encode()}
                checkpoint = save_checkpoint(run_dir, record, tensors, TrainerState(rows, sha256), documents)
                retire_checkpoints(run_dir, keep_last=config.keep_checkpoints, epochs_done=lambda steps: 0)

    if checkpoint is None:
        raise ConfigurationError("there is no step to train", where=str(run_dir), remedy="Ask for at least one step")
    digest = clip_model.clip_digest(checkpoint.record)
    result = ClipResult(run, checkpoint.record.step, list_checkpoints(run_dir), checkpoint.record, digest)
    if checkpoint.record.step < min(config.steps, order.steps):
        return result

    # Measured is what a user will load: the saved files, on raw pictures.
    progress("measure", 0, len(held_out))
    clip = clip_model.load_clip(clip_model.ClipSpec(None, f"trained:{checkpoint.path}"), config.device)
    still_there = [o for o in held_out if reader.is_live(o) and not empty.is_empty(o, checkpoint.record.step)]
    taken = set(range(reader.slots)) - set(held_out) if config.unique_captions else set()
    calibration = calibrate(clip, reader, still_there, bank, config.target_precision, taken=taken)
    write_durably(run_dir / clip_model.CALIBRATION_FILE, _json(asdict(calibration)))
    progress("measure", len(held_out), len(held_out))
    return replace(result, calibration=calibration)


# The model and its trained part


def trained_parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The weights that training changes: the picture's projection and the temperature."""
    return [(name, p) for name, p in model.named_parameters() if name.startswith(("visual.head.", "logit_scale"))]


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, caption_ids: torch.Tensor, fed: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE over the fed rows; equal captions are positives of one another.

    images, texts [B, D] normalised, caption_ids [B], fed [B] bool. Rows that were not fed are neither positives nor
    negatives, and the divisor stays B.
    """
    # A large negative number, not -inf: 0 * inf would poison the masked rows' gradients.
    closed = torch.where(fed, 0.0, -1e4)
    logits = scale * images @ texts.T
    same = ((caption_ids[:, None] == caption_ids[None, :]) & fed[:, None] & fed[None, :]).float()
    targets = same / same.sum(1, keepdim=True).clamp(min=1.0)
    to_text = -(targets * F.log_softmax(logits + closed[None, :], dim=1)).sum()
    to_image = -(targets * F.log_softmax(logits.T + closed[None, :], dim=1)).sum()
    return (to_text + to_image) / (2 * len(fed))


def _head(model: Any, features: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """open_clip's picture projection, with the hidden layer's dropout drawn by us: [B, F] -> [B, D]."""
    mlp = model.visual.head.mlp
    hidden = mlp.act(mlp.fc1(features)) * keep
    projected: torch.Tensor = mlp.fc2(hidden)
    return projected


def _optimizer(trained: Sequence[tuple[str, torch.nn.Parameter]], config: ClipConfig) -> torch.optim.Optimizer:
    """AdamW; biases and the temperature do not decay."""
    matrices = [p for _, p in trained if p.ndim > 1]
    others = [p for _, p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _dropout_mask(config: ClipConfig, epochs: Ints, ordinals: Ints, width: int) -> torch.Tensor:
    """[B, width]: 0 or 1 / (1 - p), keyed by (seed, epoch, ordinal), so that no neighbour can change it."""
    if config.dropout == 0.0:
        return torch.ones(len(ordinals), width)
    draws = uniforms(sample_keys(config.seed, epochs, ordinals, "clip-dropout"), width)
    kept = (draws >= config.dropout).astype(np.float32) / np.float32(1.0 - config.dropout)
    return torch.from_numpy(kept)


def _learning_rate_factor(config: ClipConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * 0.5 * (1.0 + float(np.cos(np.pi * step / config.steps)))


class _Features:
    """The frozen towers' outputs of every slot that may be fed, in memory."""

    def __init__(self, reader: DatasetReader, model: Any, model_config: dict[str, Any], device: str) -> None:
        self._reader, self._model, self._device = reader, model, device
        self._preprocess = clip_model.picture_transform(model_config["preprocess_cfg"])

    def read(self, left_out: set[int], progress: Progress) -> None:
        """Run the towers once over all slots but those left out."""
        ordinals = [o for o in range(self._reader.slots) if o not in left_out]
        self._rows = np.full(self._reader.slots, -1, dtype=np.int64)
        self._rows[ordinals] = np.arange(len(ordinals))
        captions = [_caption(self._reader, o) for o in ordinals]
        distinct = sorted(set(captions))
        number = {caption: i for i, caption in enumerate(distinct)}
        self._caption_ids = torch.tensor([number[c] for c in captions], dtype=torch.int64)
        self._texts = _text_features(self._model, distinct, self._device)
        images = []
        for start in range(0, len(ordinals), clip_model.BATCH_ROWS):
            part = ordinals[start : start + clip_model.BATCH_ROWS]
            pixels = clip_model.stack_filled([self._preprocess(picture(self._reader, o)) for o in part])
            with torch.no_grad():
                images.append(self._model.visual.trunk(pixels.to(self._device))[: len(part)].clone())
            progress("read pictures", start + len(part), len(ordinals))
        self._images = torch.cat(images)

    def batch(self, ordinals: Ints, fed: npt.NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Picture features [B, F], text features [B, D] (zero where not fed) and caption numbers [B] (-1 likewise)."""
        rows = torch.from_numpy(np.where(fed, self._rows[np.where(fed, ordinals, 0)], 0))
        weight = torch.from_numpy(fed)
        ids = torch.where(weight, self._caption_ids[rows], -1)
        on_device = weight.to(self._device).unsqueeze(1)
        images = self._images[rows.to(self._device)] * on_device
        texts = self._texts[ids.clamp(min=0).to(self._device)] * on_device
        return images, texts, ids.to(self._device)

    def forget(self, ordinals: Iterable[int]) -> None:
        """Drop what is known of slots that were removed while training."""
        rows = self._rows[sorted(ordinals)]
        self._images[torch.from_numpy(rows[rows >= 0]).to(self._device)] = 0.0


def _text_features(model: Any, texts: Sequence[str], device: str) -> torch.Tensor:
    """The frozen text tower's sentence embeddings [N, 384]."""
    ids = clip_model.text_tokenizer()(texts)
    out = torch.zeros(len(texts), clip_model.TEXT_WIDTH, device=device)
    for rows, batch in clip_model.fixed_text_batches(ids):
        with torch.no_grad():
            out[rows.to(device)] = model.encode_text(batch.to(device))[: len(rows)]
    return out


def picture(reader: DatasetReader, ordinal: int) -> clip_model.Rgb:
    """A live slot's pixels, [H, W, 3] uint8."""
    data = reader.image_bytes(ordinal)
    if data is None:
        raise InputError(f"slot {ordinal} is empty", where=str(reader.directory))
    return decode(data)


def _caption(reader: DatasetReader, ordinal: int) -> str:
    caption = reader.caption(ordinal)
    if caption is None:
        raise InputError(f"slot {ordinal} is empty", where=str(reader.directory))
    return caption


# The run's record


def choose_held_out(reader: DatasetReader, count: int, empty: Iterable[int] = ()) -> tuple[int, ...]:
    """`count` live ordinals that are never fed: those whose sample key hashes lowest, whatever the dataset's order.

    Only pairs whose picture and caption occur once are taken: a twin in training would flatter the measure.
    """
    closed = set(empty)
    live = [int(o) for o in np.flatnonzero(reader.live()) if int(o) not in closed]
    pictures = {o: hashlib.sha256(reader.image_bytes(o) or b"").digest() for o in live}
    captions = {o: clip_model.normalised_text(_caption(reader, o)) for o in live}
    picture_counts, caption_counts = Counter(pictures.values()), Counter(captions.values())
    single = [o for o in live if picture_counts[pictures[o]] == 1 and caption_counts[captions[o]] == 1]
    if len(single) < count or len(live) < 2 * count:
        raise InputError(
            f"{len(live)} samples, {len(single)} of them unlike all others, are too few to hold out {count}",
            where=str(reader.directory),
            remedy="Seal more pairs with alt text, or lower held_out",
        )
    return tuple(sorted(sorted(single, key=lambda o: _held_out_rank(reader.key(o) or ""))[:count]))


def _held_out_rank(sample_key: str) -> bytes:
    return hashlib.blake2b(sample_key.encode(), digest_size=16, person=b"clip-held-out").digest()


def ranges_without(slots: int, left_out: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The ordinal ranges [start, stop) that remain of 0..slots-1."""
    edges = [-1, *sorted(left_out), slots]
    return tuple((a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1)


def _new_run(
    reader: DatasetReader,
    config: ClipConfig,
    model_config: Mapping[str, Any],
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
        order_key=hashlib.sha256(f"custody-clip-order:{config.seed}".encode()).hexdigest(),
        first_position=0,
        batch_size=config.batch_size,
        phases=(Phase(ranges, epochs),),
        contract=contract,
    )
    recorded = {"config": asdict(config), "held_out": list(held_out), "model": model_config}
    return TrainingRun(
        run=name,
        kind="clip",
        config_digest=config_digest(recorded),
        config_json=canonical_json(recorded),
        code_version=code_version,
        dataset=reader.manifest.dataset,
        dataset_root=reader.root,
        seed=config.seed,
        upstream=(clip_model.text_encoder_component(), clip_model.image_encoder_component()),
        parent_checkpoint=None,
        started_at=utc_text(started_at),
        segments=(segment,),
    )


def held_out_of(run: TrainingRun) -> tuple[int, ...]:
    """The ordinals that a CLIP run's record holds out."""
    return tuple(int(o) for o in json.loads(run.config_json)["held_out"])


def _check_same_run(run: TrainingRun, reader: DatasetReader, config: ClipConfig, run_dir: Path) -> None:
    recorded = json.loads(run.config_json).get("config")
    if run.kind != "clip" or recorded != asdict(config):
        raise ConfigurationError(
            "this directory holds a run of another configuration", where=str(run_dir), remedy="Name a new run"
        )
    if run.dataset_root != reader.root:
        raise ConfigurationError(
            f"this run was started on dataset {run.dataset}", where=str(run_dir), remedy="Name a new run"
        )


def _tally(reader: DatasetReader, order: Order, empty: EmptySlots, steps: int) -> tuple[tuple[str, int], ...]:
    """Exposures by licence, of exactly what was fed in the first `steps` steps."""
    ordinals, _ = order.at(np.arange(steps * order.batch_size, dtype=np.int64))
    empty_from = np.full(reader.slots, steps, dtype=np.int64)
    for entry in empty.entries:
        empty_from[entry.ordinal] = min(entry.first_empty_step, steps)
    fed = ordinals[(ordinals >= 0) & (np.arange(len(ordinals)) // order.batch_size < empty_from[ordinals])]
    tally: Counter[str] = Counter()
    for ordinal, exposures in enumerate(np.bincount(fed, minlength=reader.slots).tolist()):
        if exposures:
            tally[str((reader.metadata(ordinal) or {}).get("licence") or "unknown")] += exposures
    return tuple(sorted(tally.items()))


# Measuring on pairs that were never fed


def recall_at(images: Embeddings, texts: Embeddings, k: int) -> float:
    """Image-to-text recall: the share of rows whose own text [N, D] is among the k nearest to their picture [N, D]."""
    scores = images @ texts.T
    better = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    return float((better < k).mean())


def choose_threshold(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], target: float, min_kept: int = 5
) -> tuple[float, bool]:
    """The lowest score from which on at least `target` of the answers are right, and whether there is one.

    Where no cut that keeps `min_kept` answers reaches the target, the cut with the best precision is returned.
    """
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    candidates = np.arange(min(min_kept, len(order)) - 1, len(order))
    reached = candidates[precision[candidates] >= target]
    cut = int(reached.max()) if len(reached) else int(candidates[np.argmax(precision[candidates])])
    return float(scores[order[cut]]), bool(len(reached))


def calibrate(
    clip: ClipModel,
    reader: DatasetReader,
    held_out: Sequence[int],
    bank: Sequence[str],
    target_precision: float,
    *,
    taken: Collection[int] = (),
) -> Calibration:
    """Retrieval among the held-out pairs; then half of them choose the threshold and the other half test it.

    taken: slots whose texts are given to no other picture, and so are no candidates for the held-out ones.
    """
    captions = [_caption(reader, ordinal) for ordinal in held_out]
    images = clip.encode_images([picture(reader, ordinal) for ordinal in held_out])
    own_texts = clip.encode_texts(captions)

    known = {o: clip_model.normalised_text(c) for o in range(reader.slots) if (c := reader.caption(o)) is not None}
    given = {known[ordinal] for ordinal in taken if ordinal in known}
    texts = sorted({*known.values(), *map(clip_model.normalised_text, bank)} - given)
    matches = clip_model.best_matches(images, clip.encode_texts(texts))
    pairs = [(texts[i], clip_model.normalised_text(own)) for i, own in zip(matches.index, captions, strict=True)]
    exact = np.array([found == own for found, own in pairs])
    unqualified = np.array([without_qualifiers(found) == without_qualifiers(own) for found, own in pairs])

    # By rank of the key's hash, so that neither half follows the dataset's order.
    ranks = np.argsort([_held_out_rank(reader.key(ordinal) or "") for ordinal in held_out])
    choosing, testing = ranks[0::2], ranks[1::2]
    criterion = "best"
    for name, right in (("exact", exact), ("unqualified", unqualified)):
        threshold, reached = choose_threshold(matches.cosine[choosing], right[choosing], target_precision)
        if reached:
            criterion = name
            break
    kept = testing[matches.cosine[testing] >= threshold]
    return Calibration(
        model_digest=clip.digest,
        bank_digest=clip_model.texts_digest(texts),
        bank_size=len(texts),
        threshold=threshold,
        criterion=criterion,
        target_precision=target_precision,
        precision=float(exact[kept].mean()) if len(kept) else 0.0,
        precision_unqualified=float(unqualified[kept].mean()) if len(kept) else 0.0,
        coverage=len(kept) / len(testing),
        calibration_pairs=len(choosing),
        measured_pairs=len(testing),
        r_at_1=recall_at(images, own_texts, 1),
        r_at_5=recall_at(images, own_texts, 5),
        heldout_pairs=len(held_out),
    )


_QUALIFIER = re.compile(r"[:,].*|\b(?:man|woman|person|men|women|people|(?:medium-)?(?:light|medium|dark) skin tone)\b")


def without_qualifiers(text: str) -> str:
    """A caption without sex, skin tone and what follows a colon or comma; "person" where nothing else is left."""
    return " ".join(_QUALIFIER.sub(" ", clip_model.normalised_text(text)).split()) or "person"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
