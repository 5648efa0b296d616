"""Batches: which samples a step feeds, as pixels and captions, and which slots are empty by then.

A batch is a pure function of (dataset, config, schedule, step). A removed slot keeps its place with zero input and no
weight. Tombstones are looked at before every step, so that a removal filed now is out of the next batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from curation.images import DecodeError, decode
from curation.shard_reader import DatasetReader
from policy.provenance import ScheduleEntry
from training.config import TrainingConfig
from training.order import Order
from training.randomness import sample_keys, uniforms
from training.step_log import fed_digest

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input, every array [batch_size]; `pixels` [B, 3, S, S] float32 in [-1, 1], zero where not real.

    `ordinals` is -1 past the end of the order. `undecodable`: ordinals whose picture could not be decoded, with the
    reason; they are fed as empty. `fed_sha256`: digest of the slots really fed, for the step log.
    """

    step: int
    first_position: int
    ordinals: Ints
    epochs: Ints
    real: npt.NDArray[np.bool_]
    pixels: Tensor
    captions: tuple[str, ...]
    undecodable: tuple[tuple[int, str], ...]
    fed_sha256: bytes


class EmptySlots:
    """The schedule of a run: which slot is empty from which step on. Entries are only ever added."""

    def __init__(self, entries: Iterable[ScheduleEntry] = ()) -> None:
        self._first_empty_step = {entry.ordinal: entry.first_empty_step for entry in entries}

    @classmethod
    def resumed(cls, entries: Iterable[ScheduleEntry], step: int) -> EmptySlots:
        """The schedule at a resume: what took force later than the resumed step takes force at it."""
        return cls(ScheduleEntry(e.ordinal, min(e.first_empty_step, step)) for e in entries)

    def enter(self, ordinals: Iterable[int], step: int) -> tuple[int, ...]:
        """Empty slots from `step` on; returns those that were not empty already, rising."""
        new = tuple(sorted(set(ordinals) - self._first_empty_step.keys()))
        self._first_empty_step.update(dict.fromkeys(new, step))
        return new

    def is_empty(self, ordinal: int, step: int) -> bool:
        return self._first_empty_step.get(ordinal, step + 1) <= step

    @property
    def entries(self) -> tuple[ScheduleEntry, ...]:
        pairs = sorted((step, ordinal) for ordinal, step in self._first_empty_step.items())
        return tuple(ScheduleEntry(ordinal, step) for step, ordinal in pairs)


class TombstoneWatch:
    """The slots of a dataset that tombstones name, read anew whenever the file changes.

    One `stat` a look: cheap enough for every step. Needs neither the ledger nor a key.
    """

    def __init__(self, tombstones_dir: Path | None, dataset: str) -> None:
        self._dir, self._dataset = tombstones_dir, dataset
        self._seen: tuple[int, int, int] | None = None

    def look(self) -> frozenset[int] | None:
        """All ordinals under a tombstone if the file changed since the last look, else None."""
        from policy.removals import Tombstones  # not needed by runs without tombstones

        if self._dir is None:
            return None
        try:
            found = os.stat(self._dir / "current.json")
        except FileNotFoundError:
            return None
        state = (found.st_mtime_ns, found.st_ino, found.st_size)
        if state == self._seen:
            return None
        self._seen = state
        return frozenset(Tombstones.load(self._dir).slots(self._dataset))


class Batcher:
    """Makes a step's batch. Reads nothing of slots that are empty at that step."""

    def __init__(self, reader: DatasetReader, order: Order, config: TrainingConfig) -> None:
        self._reader, self._order, self._config = reader, order, config

    def batch(self, step: int, empty: EmptySlots) -> Batch:
        """The batch of `step`, [batch_size] slots."""
        config, size = self._config, self._config.denoiser.image_size
        ordinals, epochs = self._order.at_step(step)
        draws = uniforms(sample_keys(config.seed, epochs, ordinals, "crop"), 4)
        pixels = np.zeros((len(ordinals), size, size, 3), dtype=np.uint8)
        real = np.zeros(len(ordinals), dtype=np.bool_)
        captions, fed, undecodable = [""] * len(ordinals), [], []
        for i, ordinal in enumerate(ordinals.tolist()):
            if ordinal < 0 or empty.is_empty(ordinal, step):
                continue
            image, caption = self._reader.image_bytes(ordinal), self._reader.caption(ordinal)
            if image is None or caption is None:
                # The loop enters every slot that is not live into the schedule before it asks for a batch.
                raise RuntimeError(f"slot {ordinal} is not live and not in the schedule")
            try:
                rgb = decode(image, min_side_px=size)
            except DecodeError as error:
                undecodable.append((ordinal, str(error)))
                continue
            pixels[i] = crop_to_square(rgb, size, draws[i], config.crop, config.flip)
            real[i], captions[i] = True, caption
            fed.append((ordinal, self._reader.commitment(ordinal)))
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        scaled[torch.from_numpy(~real)] = 0
        return Batch(
            step=step,
            first_position=step * config.batch_size,
            ordinals=ordinals,
            epochs=epochs,
            real=real,
            pixels=scaled,
            captions=tuple(captions),
            undecodable=tuple(undecodable),
            fed_sha256=fed_digest(fed),
        )


def crop_to_square(
    rgb: npt.NDArray[np.uint8], size: int, draws: npt.NDArray[np.float64], smallest: float, flip: bool
) -> npt.NDArray[np.uint8]:
    """A square of the picture, [H, W, 3] -> [size, size, 3].

    draws: four uniforms (scale, top, left, flip). The square's side is `smallest`..1 of the shorter side; with
    `smallest` = 1 it is the centre crop.
    """
    height, width = rgb.shape[:2]
    side = min(height, width) * (smallest + (1 - smallest) * float(draws[0]))
    # Centred for a square that is as large as can be, anywhere for a smaller one.
    free_x, free_y = width - side, height - side
    left, top = (free_x * draws[2], free_y * draws[1]) if smallest < 1 else (free_x / 2, free_y / 2)
    box = (float(left), float(top), float(left) + side, float(top) + side)
    result = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.LANCZOS, box=box))
    return result[:, ::-1] if flip and draws[3] < 0.5 else result
