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
import weakref
from collections import deque
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

    def among(self, ordinals: Ints, step: int) -> npt.NDArray[np.bool_]:
        """Which of the ordinals [N] are empty at a step: bool [N]."""
        first_empty, later = self._first_empty_step.get, step + 1
        if not self._first_empty_step:
            return np.zeros(len(ordinals), dtype=np.bool_)
        return np.array([first_empty(ordinal, later) <= step for ordinal in ordinals.tolist()], dtype=np.bool_)

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
        self._memory = _Memory()
        self._places = len(range(config.batch_size)[part])
        self._steps_at_once = max(1, _NOISE_BYTES // (12 * self._places * config.denoiser.image_size**2))
        # (which steps, their ordinals, epochs, draws); replaced as a whole, so that threads may share it.
        self._at_once: tuple[int, Ints, Ints, Draws] | None = None

    def batch(self, step: int, empty: EmptySlots) -> Batch:
        """The batch of `step`, [batch_size] slots, or this rank's part of it."""
        return self.finished(self.draft(step, empty), empty)

    def draft(self, step: int, empty: EmptySlots) -> Draft:
        """What the step feeds as far as is known now. Safe in any thread, also while `empty` grows.

        Raises IntegrityError or StorageError where a shard cannot be had.
        """
        config, size = self.config, self.config.denoiser.image_size
        ordinals, epochs, draws = self.drawn(step)
        rgb = self._memory.of(len(ordinals), size)
        decoded = (ordinals >= 0) & ~empty.among(ordinals, step)
        captions, undecodable, gone = [""] * len(ordinals), [], []
        pairs = self.reader.pairs(ordinals[decoded].tolist())
        for i, pair in zip(np.flatnonzero(decoded).tolist(), pairs, strict=True):
            try:
                if pair is not None:
                    _draw(rgb[i], pair[0], draws.crop[i], config.crop, config.flip)
                    captions[i] = pair[1]
                    continue
                gone.append(int(ordinals[i]))
            except DecodeError as error:
                undecodable.append((int(ordinals[i]), str(error)))
            decoded[i] = False
        rgb[~decoded] = 0
        return Draft(step, ordinals, epochs, decoded, rgb, tuple(captions), tuple(undecodable), tuple(gone), draws)

    def drawn(self, step: int) -> tuple[Ints, Ints, Draws]:
        """Ordinals, epochs and draws of a step, or of this rank's part of it.

        Of a small batch calls are what draws cost: those of some steps that follow each other are made at once.
        """
        chunk, row = divmod(step, self._steps_at_once)
        held = self._at_once
        if held is None or held[0] != chunk:
            steps = [self.order.at_step(chunk * self._steps_at_once + i) for i in range(self._steps_at_once)]
            ordinals = np.concatenate([of_step[self._part] for of_step, _ in steps])
            epochs = np.concatenate([of_step[self._part] for _, of_step in steps])
            held = chunk, ordinals, epochs, Draws.of(self.config.seed, epochs, ordinals)
            self._at_once = held
        if self._steps_at_once == 1:
            return held[1:]
        rows = slice(row * self._places, (row + 1) * self._places)
        return held[1][rows].copy(), held[2][rows].copy(), held[3].some(rows)

    def finished(self, draft: Draft, empty: EmptySlots) -> Batch:
        """The batch that a draft is by now: the same, bit for bit, whenever it was drafted.

        Raises IntegrityError for a slot that is stored no longer though nothing says so: the reader went on with a
        newer generation, and whoever made it do so has not entered what is empty there.
        """
        closed = empty.among(draft.ordinals, draft.step)
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


_NOISE_BYTES = 1 << 18  # of the steps whose draws are made at once
_SPARE = 4  # batches


class _Memory:
    """Where batches lie: used again once nothing refers to the batch that lay there. Safe in any thread.

    The kernel zeroes fresh memory before it is written: a tenth of what a picture of 256 px costs. And a batch begins
    16 bytes behind a multiple of 32: rows that begin at one libjpeg-turbo's AVX2 code writes past the caches, which
    makes decoding pictures of 64 px a quarter slower.
    """

    def __init__(self) -> None:
        self._spare: deque[Rgb] = deque(maxlen=_SPARE)

    def of(self, count: int, size: int) -> Rgb:
        """[count, size, size, 3] uint8, holding anything."""
        length = 3 * count * size**2
        try:
            held = self._spare.pop()
        except IndexError:
            held = np.empty(length + 64, dtype=np.uint8)
        # All views of an array over a buffer refer to that array: with it the last of them is gone.
        whole = np.frombuffer(held.data, dtype=np.uint8)
        weakref.finalize(whole, self._spare.append, held).atexit = False
        start = (16 - held.ctypes.data) % 32
        return whole[start : start + length].reshape(count, size, size, 3)


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
    if smallest == 1:
        rgb = decode(body, min_side_px=size, into=out)
    else:
        rgb = decode(body, min_side_px=math.ceil(size / _share(draws, smallest)))
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
