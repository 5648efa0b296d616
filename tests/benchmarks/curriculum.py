"""Revocable data last against a uniform order: what a removal redoes, and what the model is worth.

A fifth of the packaged emoji counts as revocable: either any of them ("of all kinds"), or food, animals and activities,
19 % of them ("kinds of their own": nothing like them is fed before the last part, the worst case for a curriculum). The
same small model is trained for the same number of steps in each order; its loss is then taken of pictures that were
held out, with the averaged weights, over noise and timesteps that are the same for all runs. "never fed": the order of
a uniform run with every revocable slot empty, which says what the revocable data is worth at all.

STEPS and SEEDS (with commas) make it shorter or longer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from curation.clip_model import PackagedTextEncoder
from curation.images import Rgb, decode, encode_jpeg, resize
from curation.shard_files import SealedSample
from curation.shard_reader import DatasetReader
from curation.shards import write_dataset
from flows.museum import Picture, pictures
from flows.stages.redo import foretold
from policy.provenance import DatasetManifest, dataset_root
from policy.revocability import Revocability, class_ranges
from tests.benchmarks.table import Table
from training.conditioning import CaptionTokens
from training.config import preset
from training.denoiser import Denoiser, DenoiserConfig
from training.diffusion import draw_noise, draw_timesteps, flow_loss
from training.loop import train
from training.sampling import load_denoiser

STEPS = int(os.environ.get("STEPS", "1000"))
SEEDS = tuple(map(int, os.environ.get("SEEDS", "1").split(",")))
SHARE = 0.2  # of the pictures, revocable
HELD_OUT = 0.2  # of each part of them
DRAWS, DRAWS_SEED = 8, 20_261_129  # of noise and timestep, for each picture held out
SIZE = 16
THEMES = ("food", "animals", "activities")
CONFIG = replace(
    preset("demo"),
    denoiser=DenoiserConfig(SIZE, 4, 96, 3, 2, text_tokens=8),
    steps=STEPS,
    threads=1,
    checkpoint_every=max(1, STEPS // 6),
)
NEVER_FED = "never fed"
ORDERS = {"uniform": CONFIG, "revocable last": replace(CONFIG, curriculum="revocable-last"), NEVER_FED: CONFIG}
Losses = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """Pictures of one class, in a fixed order: those that are fed and those that are held out."""

    fed: Sequence[Picture]
    held_out: Sequence[Picture]


def run() -> Table:
    """One row a layout and order."""
    rows, notes = [], []
    encoder = PackagedTextEncoder()
    tokens = CaptionTokens(encoder, CONFIG.denoiser.text_tokens)
    with tempfile.TemporaryDirectory() as directory:
        for number, (layout, parts) in enumerate(_layouts().items()):
            with DatasetReader.open(_seal(Path(directory) / f"emoji-{number}", parts)) as reader:
                rows += _rows(layout, parts, reader, Path(directory), encoder, tokens)
            fed, held_out = [len(part.fed) for part in parts], [len(part.held_out) for part in parts]
            notes.append(f"{layout}, {fed[0]:,} and {fed[1]:,} fed, {held_out[0]:,} and {held_out[1]:,} held out")
    seeds = ", ".join(map(str, SEEDS))
    above = [
        f"{STEPS} steps of {CONFIG.batch_size} at {SIZE} px, one thread, seed {seeds}. Emoji, permanent and revocable: "
        f"{'; '.join(notes)}. Redo: mean and worst of removing a revocable slot; the same of any slot. Loss: of "
        "held-out pictures, averaged weights; the difference to the uniform order, and twice its standard error over "
        "the pictures."
    ]
    columns = ("revocable are", "order", "redo", "loss, permanent", "loss, revocable", "s")
    return Table(columns, rows, above)


def _rows(
    layout: str,
    parts: tuple[Part, Part],
    reader: DatasetReader,
    place: Path,
    encoder: PackagedTextEncoder,
    tokens: CaptionTokens,
) -> list[tuple[str, ...]]:
    losses: dict[str, list[tuple[Losses, Losses]]] = {order: [] for order in ORDERS}
    redo, seconds = dict.fromkeys(ORDERS, "-"), dict.fromkeys(ORDERS, 0.0)
    for seed, order in itertools.product(SEEDS, ORDERS):
        config, began = replace(ORDERS[order], seed=seed), time.monotonic()
        withheld = range(len(parts[0].fed), reader.slots) if order == NEVER_FED else ()
        result = train(
            reader,
            config,
            place / f"{layout}-{order}-{seed}",
            upstream=(),
            text_encoder=encoder,
            progress=lambda step, loss, speed: None,
            now=lambda: datetime.now(UTC),
            withheld=withheld,
            tokens_dir=place / "tokens",
        )
        model = load_denoiser(result.checkpoints[-1]).model
        # A picture is known by its place among all those held out, so that every run meets the same noise.
        permanent = _losses(model, parts[0].held_out, 0, tokens)
        losses[order].append((permanent, _losses(model, parts[1].held_out, len(permanent), tokens)))
        if order != NEVER_FED:
            told, note = foretold(reader, config)
            assert not note, note
            assert told.of_revocable is not None
            redo[order] = "; ".join(f"{each.mean:.1%}, {each.worst:.1%}" for each in (told.of_revocable, told.of_any))
        seconds[order] += time.monotonic() - began
        sys.stderr.write(f"{layout}, {order}, seed {seed}: {time.monotonic() - began:.0f} s\n")
    return [
        (
            *(layout, order, redo[order]),
            *(_compared(losses[order], losses["uniform"], part) for part in (0, 1)),
            f"{seconds[order]:.0f}",
        )
        for order in ORDERS
    ]


def _compared(runs: Sequence[tuple[Losses, Losses]], uniform: Sequence[tuple[Losses, Losses]], part: int) -> str:
    """The mean loss over pictures and seeds, and how it differs from the uniform order's, picture by picture."""
    own, theirs = (np.mean([each[part] for each in many], axis=0) for many in (runs, uniform))
    if runs is uniform:
        return f"{own.mean():.4f}"
    difference = own - theirs
    error = 2 * difference.std(ddof=1) / len(difference) ** 0.5
    relative = difference.mean() / theirs.mean()
    return f"{own.mean():.4f} ({relative:+.1%} ± {error / theirs.mean():.1%})"


def _layouts() -> dict[str, tuple[Part, Part]]:
    """(permanent, revocable) for each way of being revocable."""
    once = {picture.name: picture for picture in pictures()}
    by_hash = sorted(once.values(), key=lambda p: hashlib.sha256(p.code.encode()).digest())
    count = int(SHARE * len(by_hash))
    of_themes = [p for p in by_hash if p.theme in THEMES][:count]
    return {
        "of all kinds": (_part(by_hash[count:]), _part(by_hash[:count])),
        "kinds of their own": (_part([p for p in by_hash if p.theme not in THEMES]), _part(of_themes)),
    }


def _part(some: Sequence[Picture]) -> Part:
    held_out = int(HELD_OUT * len(some))
    return Part(some[held_out:], some[:held_out])


def _pixels(picture: Picture) -> Rgb:
    return decode(picture.file.read_bytes())


def _seal(folder: Path, parts: tuple[Part, Part]) -> Path:
    """What is fed, permanent slots first; within a class by key, as `custody seal` lays them out."""
    classes = (Revocability.LICENSED, Revocability.UNRESERVED)
    rows = []
    for each, part in zip(classes, parts, strict=True):
        for picture in part.fed:
            key = hashlib.blake2b(picture.code.encode(), digest_size=16).hexdigest()
            rows.append((each, key, picture))
    rows.sort(key=lambda row: row[:2])
    commitments = [hashlib.sha256(key.encode()).digest() for _, key, _ in rows]
    manifest = DatasetManifest(
        *("emoji", dataset_root(commitments), len(rows), 72, "training", "r", "s", None, "2026-11-29T00:00:00Z"),
        classes=class_ranges(each for each, _, _ in rows),
    )
    metadata = json.dumps({"licence": "CC-BY-4.0"})
    samples = (
        SealedSample(ordinal, key, encode_jpeg(_pixels(picture)), "jpg", picture.name, metadata)
        for ordinal, (_, key, picture) in enumerate(rows)
    )
    write_dataset(folder, manifest, commitments, samples, 1000)
    return folder


@torch.no_grad()
def _losses(model: Denoiser, held_out: Sequence[Picture], first: int, tokens: CaptionTokens) -> Losses:
    """The velocity's loss of each picture, the mean over its draws, [N]."""
    found = []
    one = replace(CONFIG, batch_size=1)
    for number, picture in enumerate(held_out, first):
        rgb = np.array(resize(_pixels(picture), SIZE)[:SIZE, :SIZE])
        pixels = torch.from_numpy(rgb).permute(2, 0, 1).float().div(127.5).sub(1).expand(DRAWS, 3, SIZE, SIZE)
        epochs, ordinals = np.arange(DRAWS), np.full(DRAWS, number)
        noise = draw_noise(DRAWS_SEED, epochs, ordinals, SIZE)
        t = draw_timesteps(DRAWS_SEED, epochs, ordinals, CONFIG.timestep_mean, CONFIG.timestep_std)
        text, mask = tokens.batch([picture.name] * DRAWS)
        loss = flow_loss(model, pixels, noise, t, text, mask, torch.ones(DRAWS, dtype=torch.bool), one)
        found.append(float(loss) / DRAWS)
    return np.array(found)
