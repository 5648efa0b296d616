"""A small sealed dataset of flat pictures, and a text encoder that hashes words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from curation.images import Rgb, encode_jpeg
from curation.shard_files import SealedSample
from curation.shards import write_dataset
from policy.keys import KeyRing
from policy.provenance import ClassRange, DatasetManifest, UpstreamModel, dataset_root
from policy.tombstones import Tombstones
from training.batches import Batch

COLOURS = {"red": (220, 30, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (250, 210, 40)}
SHAPES = ("apple", "banana", "plum")
NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)


class HashedWords:
    """A text encoder without weights: a word's embedding is drawn from its hash. 8 tokens of 384 values."""

    component = UpstreamModel("text-encoder", "hashed-words", "0" * 32, "Apache-2.0", "none")

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, mask = torch.zeros(len(texts), 8, 384), torch.zeros(len(texts), 8, dtype=torch.bool)
        for i, text in enumerate(texts):
            for j, word in enumerate(text.split()[:8]):
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
                embeddings[i, j] = torch.from_numpy(np.random.default_rng(seed).normal(size=384).astype(np.float32))
                mask[i, j] = True
        return embeddings, mask


def flat_picture(i: int) -> bytes:
    rgb = np.full((20, 24, 3), 255, dtype=np.uint8)
    rgb[4 : 12 + i % 8, 4:20] = list(COLOURS.values())[i % 4]
    return encode_jpeg(rgb)


def noise(seed: int, height: int, width: int) -> Rgb:
    """A picture unlike any other, [height, width, 3]: coarse spots, so that JPEG keeps them."""
    spots = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(spots, np.ones((4, 4, 1), dtype=np.uint8))[:height, :width])


def assert_same(one: Batch, other: Batch) -> None:
    """Two batches are equal, bit for bit."""
    assert (one.step, one.first_position, one.captions) == (other.step, other.first_position, other.captions)
    assert (one.undecodable, one.fed_sha256) == (other.undecodable, other.fed_sha256)
    for name in ("ordinals", "epochs", "real", "rgb"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def seal(
    directory: Path,
    slots: int = 10,
    image: Callable[[int], bytes] | None = None,
    captions: Sequence[str] = NAMES,
    classes: tuple[ClassRange, ...] | None = None,
) -> Path:
    """Seal `slots` pictures of 20 x 24 pixels; every third has another licence. Captions are used in turn."""
    commitments = [hashlib.sha256(f"commitment {i}".encode()).digest() for i in range(slots)]
    manifest = DatasetManifest(
        *("toys", dataset_root(commitments), slots, 24, "research", "0" * 32, "0" * 32, None, "2026-01-01T00:00:00Z"),
        classes=classes,
    )

    def sample(i: int) -> SealedSample:
        body = (image or flat_picture)(i)
        metadata = {"licence": "CC0-1.0" if i % 3 == 0 else "CC-BY-4.0"}
        key = hashlib.sha256(f"key {i}".encode()).hexdigest()[:32]
        return SealedSample(i, key, body, "jpg", captions[i % len(captions)], json.dumps(metadata))

    write_dataset(directory, manifest, commitments, (sample(i) for i in range(slots)), shard_slots=4)
    return directory


def noon() -> datetime:
    return datetime(2026, 1, 1, 12, tzinfo=UTC)


def file_tombstone(directory: Path, ordinals: Sequence[int]) -> None:
    """Put slots of the toy dataset under a tombstone, as an approved removal does."""
    keys = KeyRing.create(directory / "keys")
    Tombstones().with_added("rem-1", keys=keys, slots={"toys": ordinals}).store(directory)
