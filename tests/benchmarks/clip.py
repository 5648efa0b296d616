"""Our own CLIP on Debian's clip art: held-out retrieval, calibrated captions and speed of each image tower.

Sealed and trained as a home does it. Three parts of the pairs are never fed: two calibrate, and a third, which is not
even in the dataset, says what the kept captions are worth. PAIRS, STEPS and TOWERS (names of `CONFIGS`, with commas)
make it shorter or longer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from curation import clip_model
from curation.clip_model import ClipSpec, Embeddings, Rgb
from curation.images import encode_jpeg, resize
from curation.shard_files import SealedSample
from curation.shard_reader import DatasetReader
from curation.shards import write_dataset
from policy.provenance import DatasetManifest, dataset_root
from tests.benchmarks.clipart import Clipart, openclipart, readable, tuxpaint
from tests.benchmarks.table import Table
from training.clip import ClipResult, train_clip
from training.clip_config import ClipConfig, for_tower

PAIRS = int(os.environ.get("PAIRS", "3000"))
STEPS = int(os.environ.get("STEPS", "200"))
THIRD_PART = PAIRS // 8
HELD_OUT = PAIRS // 6
SIZE = 128

# What each row trains; "head, pictures as they are" is what every home trained until now.
CONFIGS = {
    "head": ("head, pictures as they are", for_tower("head")),
    "views": ("head, 4 variants", for_tower("head", views=4)),
    "finetune": ("finetune from stage 7, 4 variants", for_tower("finetune", unlocked_from=7, views=4)),
    "finetune-bf16": ("the same in bf16", for_tower("finetune", unlocked_from=7, views=4, precision="bf16")),
    "scratch": ("scratch: ViT-tiny at 64 px, new variants", for_tower("scratch", views=0, image_size=64)),
}
TOWERS = tuple(filter(None, os.environ.get("TOWERS", "head,views,finetune,scratch").split(",")))


def run() -> Table:
    """One row a configuration; chance is 1 and 5 in the number of pairs held out."""
    pairs = _pairs()
    fed, third = pairs[:-THIRD_PART], pairs[-THIRD_PART:]
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        _seal(Path(directory) / "clipart", fed)
        for name in TOWERS:
            label, config = CONFIGS[name]
            config = replace(config, steps=STEPS, held_out=HELD_OUT, checkpoint_every=STEPS)
            rows.append(_row(label, config, Path(directory), name, third))
            sys.stderr.write(f"{' | '.join(rows[-1])}\n")
    above = [
        f"{len(fed):,} pairs of openclipart and tuxpaint, {HELD_OUT} of them held out, {len(third)} more as a third "
        f"part; {STEPS} steps of {CONFIGS[TOWERS[0]][1].batch_size} at {SIZE} px, one thread. Right is word for word; "
        "images/s is of the steps alone, reading aside."
    ]
    columns = ("image tower", "R@1", "R@5", "at 9 in 10", "kept of a third part, right", "images/s", "s in all")
    return Table(columns, rows, above)


def _row(
    label: str, config: ClipConfig, place: Path, name: str, third: Sequence[tuple[Clipart, Rgb]]
) -> tuple[str, ...]:
    began = time.monotonic()
    texts = [clipart.text for clipart, _ in third]
    with DatasetReader.open(place / "clipart") as reader:
        result = train_clip(reader, config, place / name, now=lambda: datetime.now(UTC), bank=texts)
    seconds = time.monotonic() - began
    found = result.calibration
    assert found is not None
    proven = f"kept {found.coverage:.0%}" if found.reached else f"not reached ({found.lower_bound:.0%} proven)"
    return (
        label,
        f"{found.r_at_1:.1%}",
        f"{found.r_at_5:.1%}",
        proven,
        _third_part(result, place, name, third, texts),
        f"{result.images_per_s:.0f}",
        f"{seconds:.0f}",
    )


def _third_part(
    result: ClipResult, place: Path, name: str, third: Sequence[tuple[Clipart, Rgb]], texts: Sequence[str]
) -> str:
    """How many captions of the third part reach the threshold, and how many of those are right word for word."""
    clip = clip_model.load_clip(ClipSpec(None, f"trained:{place / name}"))
    wanted = [clip_model.normalised_text(text) for text in texts]
    with DatasetReader.open(place / "clipart") as reader:
        known = {clip_model.normalised_text(reader.caption(o) or "") for o in range(reader.slots)}
    bank = sorted(known | set(wanted))
    if not _BANK:  # the text tower is frozen: the same for every row
        _BANK.append(clip.encode_texts(bank))
    matches = clip_model.best_matches(clip.encode_images([rgb for _, rgb in third]), _BANK[0])
    right = np.array([bank[i] == text for i, text in zip(matches.index, wanted, strict=True)])
    kept = matches.cosine >= (result.threshold or clip_model.NOTHING_KEPT)
    return f"{kept.sum()} of {len(third)}, {right[kept].sum()} right; {right.mean():.1%} of all right"


_BANK: list[Embeddings] = []


def _pairs() -> list[tuple[Clipart, Rgb]]:
    """As many pairs as asked for, spread over both collections by a hash of the name, each text once."""
    everything = sorted([*openclipart(), *tuxpaint()], key=lambda c: hashlib.sha256(c.name.encode()).digest())
    once: dict[str, Clipart] = {}
    for clipart in everything:
        once.setdefault(clip_model.normalised_text(clipart.text), clipart)
    found = []
    for clipart, rgb in readable(list(once.values())):
        found.append((clipart, resize(rgb, 2 * SIZE)))
        if len(found) == PAIRS:
            break
    return found


def _seal(folder: Path, pairs: Sequence[tuple[Clipart, Rgb]]) -> None:
    commitments = [hashlib.sha256(clipart.name.encode()).digest() for clipart, _ in pairs]
    manifest = DatasetManifest(
        "clipart", dataset_root(commitments), len(pairs), 2 * SIZE, "research", "r", "s", None, "2026-01-01T00:00:00Z"
    )
    samples = []
    for ordinal, (clipart, rgb) in enumerate(pairs):
        jpeg = encode_jpeg(rgb)
        key = hashlib.blake2b(jpeg + clipart.text.encode(), digest_size=16).hexdigest()
        metadata = json.dumps({"licence": clipart.licence or "unknown"})
        samples.append(SealedSample(ordinal, key, jpeg, "jpg", clipart.text, metadata))
    write_dataset(folder, manifest, commitments, samples, 1000)
