"""Batches: which samples a step feeds, as pixels and captions, and which slots are empty by then.

A batch is a pure function of (dataset, config, schedule, step). A removed slot keeps its place with zero input and no
weight. Tombstones are looked at before every step, so that a removal filed now is out of the next batch.

It is made in two parts, so that training/loading.py can make the first ahead of time and in any thread: a draft reads
and decodes; to finish it is to take out what has become empty by then.
"""

from __future__ import annotations

import hashlib
import math
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
from policy.errors import IntegrityError
from policy.provenance import ScheduleEntry
from training.config import TrainingConfig
from training.diffusion import Draws
from training.order import Order

Ints = npt.NDArray[np.int64]
Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input, every array [batch_size]; `rgb` [B, S, S, 3] uint8, zero where not real.

    `ordinals` is -1 past the end of the order. `undecodable`: ordinals whose picture could not be decoded, with the
    reason; they are fed as empty. `fed_sha256`: digest of the slots really fed, for the step log.
    """

    step: int
    first_position: int
    ordinals: Ints
    epochs: Ints
    real: npt.NDArray[np.bool_]
    rgb: Rgb
    captions: tuple[str, ...]
    undecodable: tuple[tuple[int, str], ...]
    fed_sha256: bytes
    draws: Draws

    @property
    def pixels(self) -> Tensor:
        """The pictures, [B, 3, S, S] float32 in [-1, 1], zero where not real; made when it is asked for."""
        return self.pixels_on("cpu")

    def pixels_on(self, device: str | torch.device) -> Tensor:
        """The same on a device, which is sent a byte a value."""
        scaled = torch.from_numpy(self.rgb).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        if not self.real.all():
            scaled[torch.from_numpy(~self.real).to(device)] = 0
        return scaled


@dataclass(frozen=True, slots=True)
class Draft:
    """A step's slots as they were read and decoded, while some of them may become empty until the step is due.

    `decoded` [B]: what `rgb` and `captions` hold; zero and "" elsewhere. `gone`: ordinals that are not stored.
    """

    step: int
    ordinals: Ints
    epochs: Ints
    decoded: npt.NDArray[np.bool_]
    rgb: Rgb
    captions: tuple[str, ...]
    undecodable: tuple[tuple[int, str], ...]
    gone: tuple[int, ...]
    draws: Draws


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
        self._path: Path | None = None
        if tombstones_dir is not None:
            from policy.tombstones import TOMBSTONES_FILE  # not needed by runs without tombstones

            self._path = tombstones_dir / TOMBSTONES_FILE
        self._dataset = dataset
        self._seen: tuple[int, int, int] | None = None

    def look(self) -> frozenset[int] | None:
        """All ordinals under a tombstone if the file changed since the last look, else None.

        Raises IntegrityError for a file that is damaged, or gone; StorageError.
        """
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except FileNotFoundError as error:
            if self._seen is None:
                return None
            # Never taken for "nothing is removed": what would be filed from now on would be lost.
            remedy = "Restore it from its copy and go on from the last checkpoint"
            raise IntegrityError(
                "the tombstones were there, and are gone", where=str(self._path), remedy=remedy
            ) from error
        state = (found.st_mtime_ns, found.st_ino, found.st_size)
        if state == self._seen:
            return None
        from policy.tombstones import Tombstones

        ordinals = Tombstones.load(self._path.parent).slots(self._dataset)
        self._seen = state
        return ordinals


class Batcher:
    """Makes a step's batch, or the places `part` of it. Reads nothing of slots that are empty at that step."""

    def __init__(self, reader: DatasetReader, order: Order, config: TrainingConfig, part: slice = slice(None)) -> None:
        self.reader, self.order, self.config, self._part = reader, order, config, part

    def batch(self, step: int, empty: EmptySlots) -> Batch:
        """The batch of `step`, [batch_size] slots, or this rank's part of it."""
        return self.finished(self.draft(step, empty), empty)

    def draft(self, step: int, empty: EmptySlots) -> Draft:
        """What the step feeds as far as is known now. Safe in any thread, also while `empty` grows.

        Raises IntegrityError or StorageError where a shard cannot be had.
        """
        config, size = self.config, self.config.denoiser.image_size
        ordinals, epochs = self.order.at_step(step)
        ordinals, epochs = ordinals[self._part], epochs[self._part]
        draws = Draws.of(config.seed, epochs, ordinals)
        rgb = np.empty((len(ordinals), size, size, 3), dtype=np.uint8)
        decoded = np.zeros(len(ordinals), dtype=np.bool_)
        captions, undecodable, gone = [""] * len(ordinals), [], []
        for i, ordinal in enumerate(ordinals.tolist()):
            if ordinal < 0 or empty.is_empty(ordinal, step):
                continue
            pair = self.reader.pair(ordinal)
            if pair is None:
                gone.append(ordinal)
                continue
            try:
                _draw(rgb[i], pair[0], draws.crop[i], config.crop, config.flip)
            except DecodeError as error:
                undecodable.append((ordinal, str(error)))
                continue
            decoded[i], captions[i] = True, pair[1]
        rgb[~decoded] = 0
        return Draft(step, ordinals, epochs, decoded, rgb, tuple(captions), tuple(undecodable), tuple(gone), draws)

    def finished(self, draft: Draft, empty: EmptySlots) -> Batch:
        """The batch that a draft is by now: the same, bit for bit, whenever it was drafted.

        Raises IntegrityError for a slot that is stored no longer though nothing says so: the reader went on with a
        newer generation, and whoever made it do so has not entered what is empty there.
        """
        closed = np.array([empty.is_empty(o, draft.step) for o in draft.ordinals.tolist()], dtype=np.bool_)
        if lost := [o for o in draft.gone if not empty.is_empty(o, draft.step)]:
            raise IntegrityError(
                f"slot {lost[0]} is stored no longer, and no removal is known that took it",
                where=str(self.reader.directory),
                remedy="Is the tombstone file the dataset's own? Restore it and go on from the last checkpoint",
            )
        real, late = draft.decoded & ~closed, draft.decoded & closed
        if late.any():
            draft.rgb[late] = 0
        fed = draft.ordinals[real]
        return Batch(
            step=draft.step,
            first_position=draft.step * self.config.batch_size,
            ordinals=draft.ordinals,
            epochs=draft.epochs,
            real=real,
            rgb=draft.rgb,
            captions=tuple(c if is_real else "" for c, is_real in zip(draft.captions, real.tolist(), strict=True)),
            undecodable=tuple((o, why) for o, why in draft.undecodable if not empty.is_empty(o, draft.step)),
            fed_sha256=fed_sha256(fed, self.reader.commitments(fed)),
            draws=draft.draws,
        )


_FED = np.dtype([("ordinal", ">u8"), ("commitment", "V32")])


def fed_sha256(ordinals: Ints, commitments: npt.NDArray[np.uint8]) -> bytes:
    """training.step_log.fed_digest, of all at once: ordinals [N], commitments [N, 32]."""
    rows = np.empty(len(ordinals), dtype=_FED)
    rows["ordinal"], rows["commitment"] = ordinals, np.ascontiguousarray(commitments).view("V32")[:, 0]
    return hashlib.sha256(rows.tobytes()).digest()


def _draw(out: Rgb, body: bytes, draws: npt.NDArray[np.float64], smallest: float, flip: bool) -> None:
    """A picture's square into `out`, [size, size, 3]. What is not needed is not decoded: a JPEG comes out scaled in the
    DCT domain, as far down as the square still has its pixels. Raises DecodeError.
    """
    size, is_mirrored = len(out), flip and draws[3] < 0.5
    least_px = size if smallest == 1 else math.ceil(size / _share(draws, smallest))
    rgb = decode(body, min_side_px=least_px, into=out)
    if rgb is not out:
        square = crop_to_square(rgb, size, draws, smallest)
    elif is_mirrored:
        square = rgb.copy()
    else:
        return
    if is_mirrored:
        for channel in range(3):  # numpy is four times as fast with single bytes as with runs of three
            out[:, :, channel] = square[:, ::-1, channel]
    else:
        out[...] = square


def _share(draws: npt.NDArray[np.float64], smallest: float) -> float:
    """The square's side as a share of the shorter side."""
    return smallest + (1 - smallest) * float(draws[0])


def crop_to_square(rgb: Rgb, size: int, draws: npt.NDArray[np.float64], smallest: float) -> Rgb:
    """A square of the picture, [H, W, 3] -> [size, size, 3].

    draws: three uniforms (scale, top, left), and more. The square's side is `smallest`..1 of the shorter side; with
    `smallest` = 1 it is the centre crop. Where the picture is as large as it has to be nothing is resampled.
    """
    height, width = rgb.shape[:2]
    if smallest == 1 and min(height, width) == size:
        top, left = (height - size) // 2, (width - size) // 2
        return rgb[top : top + size, left : left + size]
    side = min(height, width) * _share(draws, smallest)
    # Centred for a square that is as large as can be, anywhere for a smaller one.
    free_x, free_y = width - side, height - side
    x, y = (free_x * draws[2], free_y * draws[1]) if smallest < 1 else (free_x / 2, free_y / 2)
    box = (float(x), float(y), float(x) + side, float(y) + side)
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.LANCZOS, box=box))
