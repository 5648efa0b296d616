"""Embeddings by which a crop, a collage or a picture with words over it finds the picture that it was made from.

The packaged EfficientNet-Lite0, run at 128 px on a picture without its frame, its means over the picture after the
stages 4 and 6 (80 and 192 channels), each of unit length: what is in a picture and how it is drawn, hardly where.
Stages and size were chosen by who comes among the eight nearest of 13,909 drawings, emoji, photos and screenshots
(docs/benchmarks.md, duplicates).
It only proposes; curation/geometry.py then compares pixels.

Vectors are kept on disk under the digest of what made them, in files of fixed records, so that nothing is embedded
twice; `VectorCache.forget` overwrites those of contents that were removed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.packaged_models import (
    BATCH_ROWS,
    IMAGE_FILES,
    files_digest,
    packaged_image_weights,
    without_first_weights,
)
from policy.durable import write_durably
from policy.errors import IntegrityError

Rgb = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.int8]  # [N, WIDTH]: unit vectors times 300, rounded

WIDTH: Final = 272
SIDE_PX: Final = 128
_STAGES: Final = {3: 80, 5: 192}  # of timm's model, counted from 0, with their channels
_VERSION: Final = "near-embedding/2"
_SCALE: Final = (
    300.0  # of a unit vector of 272 no channel was seen above 0.414, which is 124; what is above 0.423 is cut
)


class Embedder(Protocol):
    """Pictures to vectors; `digest` covers weights, preprocessing and version."""

    @property
    def digest(self) -> str:
        """In hex: a vector of another model counts for nothing."""

    def embed(self, pictures: Sequence[Rgb]) -> Vectors:
        """uint8 [H, W, 3] pictures of any size to int8 [N, WIDTH]; none depends on the others."""


class NearEmbedder:
    """EfficientNet-Lite0 on the CPU. Its weights are loaded with the first picture.

    Raises ConfigurationError where the package is missing, or its file is not the one that was released.
    """

    digest: Final = hashlib.sha256(f"{_VERSION} {SIDE_PX} {files_digest(IMAGE_FILES)}".encode()).hexdigest()

    @cached_property
    def _model(self) -> Any:
        import torch

        from curation.torchvision_cure import cure_torchvision

        cure_torchvision()
        import timm

        with without_first_weights():
            model: Any = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        model.load_state_dict(packaged_image_weights())
        return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def embed(self, pictures: Sequence[Rgb]) -> Vectors:
        parts = [self._batch(pictures[start : start + BATCH_ROWS]) for start in range(0, len(pictures), BATCH_ROWS)]
        return np.concatenate(parts) if parts else np.empty((0, WIDTH), np.int8)

    def _batch(self, pictures: Sequence[Rgb]) -> Vectors:
        import torch

        batch = np.zeros((BATCH_ROWS, SIDE_PX, SIDE_PX, 3), np.uint8)  # always as many: see curation.packaged_models
        for row, picture in enumerate(pictures):
            image = Image.fromarray(np.ascontiguousarray(unframed(picture)))
            square = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
            batch[row] = np.asarray(square)
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        means = []
        with torch.inference_mode():
            x = self._model.bn1(self._model.conv_stem(pixels.contiguous(memory_format=torch.channels_last)))
            for number, stage in enumerate(self._model.blocks[: max(_STAGES) + 1]):
                x = stage(x)
                if number in _STAGES:
                    means.append(torch.nn.functional.normalize(x.mean((2, 3)), dim=1))
            vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(torch.cat(means, 1), dim=1).numpy()
        rounded: Vectors = np.clip(np.rint(vectors[: len(pictures)] * _SCALE), -127, 127).astype(np.int8)
        return rounded


# A frame: rows of one brightness along a side, and within them a picture that differs from it along most of that side.
_FRAME_NOISE: Final = 6.0  # levels
_FRAME_STEP: Final = 16.0
_FRAMED_ALONG: Final = 0.75
_DEEPEST_FRAME: Final = 4  # a side of a frame is at most one part in so many


def unframed(rgb: Rgb) -> Rgb:
    """A picture uint8 [H, W, 3] without the flat frame around it; one that has none as it is.

    The white around a drawing is no frame: the drawing touches it here and there, a picture in a frame all along.
    """
    grey = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    top, bottom = _frame(grey), _frame(grey[::-1])
    columns = grey[top : len(grey) - bottom].T
    left, right = _frame(columns), _frame(columns[::-1])
    return rgb[top : rgb.shape[0] - bottom, left : rgb.shape[1] - right]


def _frame(grey: npt.NDArray[np.float32]) -> int:
    """How many of the first rows are a frame, the one where it ends included."""
    rows = grey[: len(grey) // _DEEPEST_FRAME + 2]
    colour = np.median(rows[0])
    flat = np.abs(rows - colour).mean(axis=1) < _FRAME_NOISE
    depth = len(rows) if flat.all() else int(flat.argmin())
    if not depth or depth + 1 >= len(rows):
        return 0
    differs = np.abs(rows[depth + 1] - colour) > _FRAME_STEP
    return depth + 1 if differs.mean() >= _FRAMED_ALONG else 0


def cosines(one: Vectors, other: Vectors) -> npt.NDArray[np.float32]:
    """Cosine of vectors row by row."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    found: npt.NDArray[np.float32] = (a * b).sum(axis=-1) / np.maximum(lengths, 1e-9)
    return found


def nearest(
    vectors: Vectors, queries: npt.NDArray[np.int64], most: int, *, threads: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Of the vectors in the rows `queries` the `most` others nearest to each: rows [Q, most], -1: none, and cosines.

    Up to 20,000 vectors are compared outright; more by a graph (HNSW, Malkov and Yashunin, TPAMI 2020; usearch) that
    takes about 450 bytes a vector. `threads`: of the graph; 0: as many as there are cores.
    """
    count, most = len(vectors), min(most, max(0, len(vectors) - 1))
    rows, found = np.full((len(queries), most), -1, np.int64), np.zeros((len(queries), most), np.float32)
    if not most or not len(queries):
        return rows, found
    search = _outright(vectors) if count <= _COMPARED_ROWS else _by_graph(vectors, threads)
    for start in range(0, len(queries), _SEARCHED_AT_ONCE):
        asked = queries[start : start + _SEARCHED_AT_ONCE]
        keys, scores = search(asked, most + 1)
        # Itself is among them, unless so many others are as near as it.
        scores = np.where(keys == asked[:, None], -2.0, scores)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
        keys, scores = np.take_along_axis(keys, order, 1), np.take_along_axis(scores, order, 1)
        rows[start : start + len(asked)], found[start : start + len(asked)] = np.where(scores < -1.5, -1, keys), scores
    return rows, found


_Search = Callable[[npt.NDArray[np.int64], int], tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]


def _outright(vectors: Vectors) -> _Search:
    unit = vectors.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)

    def search(asked: npt.NDArray[np.int64], most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        scores = unit[asked] @ unit.T
        keys = np.argpartition(-scores, most - 1, axis=1)[:, :most]
        return keys, np.take_along_axis(scores, keys, 1)

    return search


def _by_graph(vectors: Vectors, threads: int) -> _Search:
    from usearch.index import Index

    graph = Index(
        ndim=vectors.shape[1], metric="cos", dtype="i8", connectivity=16, expansion_add=96, expansion_search=64
    )
    graph.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=threads)

    def search(asked: npt.NDArray[np.int64], most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        matches = graph.search(vectors[asked], most, threads=threads)
        return np.atleast_2d(matches.keys).astype(np.int64), 1 - np.atleast_2d(matches.distances).astype(np.float32)

    return search


_COMPARED_ROWS: Final = 20_000
_SEARCHED_AT_ONCE: Final = 1_000


# ── kept on disk ───────────────────────────────────────────────────────────────────────────────────────────────────

_RECORD = np.dtype([("sha", "u1", (32,)), ("vector", "i1", (WIDTH,))])
_NOBODY = np.zeros(32, np.uint8)


class VectorCache:
    """Vectors by content, in files of records: sha256 (32 bytes), vector. A record of zeros is one that was forgotten.

    One writer at a time; a file is whole or absent, whatever is killed. Not for several threads.
    """

    def __init__(self, directory: Path, digest: str) -> None:
        self.directory = directory / digest[:32]

    def load(self, contents: Sequence[str]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """The vectors of these contents, zeros where there is none, and which of them there are."""
        vectors, there = np.zeros((len(contents), WIDTH), np.int8), np.zeros(len(contents), np.bool_)
        wanted = {bytes.fromhex(sha): row for row, sha in enumerate(contents)}
        for path in self._files():
            records = _records(path)
            for number, sha in enumerate(records["sha"]):
                if (row := wanted.get(sha.tobytes())) is not None:
                    vectors[row], there[row] = records["vector"][number], True
        return vectors, there

    def add(self, contents: Sequence[str], vectors: Vectors) -> None:
        """Keep the vectors of these contents, durably when this returns. Raises OSError."""
        records = np.zeros(len(contents), _RECORD)
        records["sha"] = np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, 32)
        records["vector"] = vectors
        body = records.tobytes()
        name = hashlib.blake2b(body, digest_size=12).hexdigest()
        write_durably(self.directory / f"{name}.vectors", body)

    def forget(self, contents: Iterable[str]) -> int:
        """Overwrite the vectors of these contents where they lie; how many there were. Raises OSError."""
        gone = {bytes.fromhex(sha) for sha in contents}
        return sum(_overwrite(path, gone) for path in self._files())

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.vectors"))


def forget(directory: Path, contents: Iterable[str]) -> int:
    """`VectorCache.forget` whatever model they were made by."""
    gone = {bytes.fromhex(sha) for sha in contents}
    return sum(_overwrite(path, gone) for path in sorted(directory.glob("*/*.vectors")))


def _records(path: Path) -> npt.NDArray[Any]:
    body = path.read_bytes()
    if len(body) % _RECORD.itemsize:
        raise IntegrityError(
            "a file of vectors is cut", where=str(path), remedy="Delete it: what it held is computed again"
        )
    return np.frombuffer(body, _RECORD)


def _overwrite(path: Path, gone: set[bytes]) -> int:
    # Read with what a cut file still has: what is to be forgotten must go from it as well.
    size = path.stat().st_size
    records = np.fromfile(path, _RECORD)
    hits = [number for number, sha in enumerate(records["sha"]) if sha.tobytes() in gone]
    if hits or size % _RECORD.itemsize:
        with path.open("r+b") as file:
            for number in hits:
                file.seek(number * _RECORD.itemsize)
                file.write(bytes(_RECORD.itemsize))
            file.truncate(len(records) * _RECORD.itemsize)
            file.flush()
            os.fsync(file.fileno())
    return len(hits)
