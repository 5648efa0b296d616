"""Which of many contents a picture in somebody's hand shows: the same bytes, the same picture, or one like it.

A removal request may come with a file. It is whatever somebody sent, so it is read within bounds, decoded by a worker
process as a crawl decodes, and never copied. What it shows is told in three steps, each of which says how sure it is:
equal bytes; candidates by PDQ in all eight orientations and by embedding (curation/near_embedding.py), of which those
whose pixels show the same are verified (curation/geometry.py: a crop, a border, words laid over, a turn or mirror);
and those that are only like it, which somebody has to look at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.decode_pool import DecodePool
from curation.duplicates import MIN_COSINE, MIN_QUALITY
from curation.face_detection import DetectorChoice
from curation.fingerprints import pdq
from curation.geometry import Sketch, oriented, same, sketch
from curation.hash_index import Words, distances, words_of
from curation.images import DecodeError, DecodeLimits, ShapeConfig, decode
from curation.near_embedding import Vectors
from policy.errors import InputError
from policy.evidence import Face

Rgb = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

ASKED_PX: Final = 1024  # of the shorter side: faces in it are matched as well
MAX_FILE_BYTES: Final = 64 << 20
EXACT, PDQ, EMBEDDING, TURNED = "exact", "pdq", "embedding", "-turned"
SIMILAR: Final = 48  # that are only alike: the best are proposed
GIVE_UP: Final = 64  # candidates by embedding in a row that show something else: none behind them was seen to match
_CHANCE_BITS: Final = 128  # by which two hashes differ that have nothing to do with each other
_ROWS_AT_ONCE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Asked:
    """The picture that a request came with.

    `rgb`: uint8 [H, W, 3], its shorter side at most ASKED_PX, encoded anew by a worker on the way. `width`, `height`:
    of the file as displayed. `hashes`: PDQ in the eight orientations, the file's own first. `faces`: boxes in pixels
    of the file, best score first; None where they were not looked for.
    """

    content_sha256: str
    rgb: Rgb
    width: int
    height: int
    hashes: tuple[str, ...]
    pdq_quality: int
    faces: tuple[Face, ...] | None = None
    analyser_error: str | None = None


@dataclass(frozen=True, slots=True)
class PictureMatch:
    """A content that shows what the request's picture shows, or may.

    `method`: exact, pdq or embedding, with "-turned" where its pixels show it in another orientation. `verified`: its
    bytes are equal or its pixels were compared and are the same; anything else is a proposal. `distance`: of the
    pixels, one less the correlation over the overlap; of what is not verified, bits that differ (pdq) or one less the
    cosine (embedding). `score` in [0, 1]: 1 for equal bytes; one less the distance of what is verified; else how much
    nearer than chance, and half of that where the pixels were compared and are not the same. `compared`: whether they
    were: of a content whose pixels are gone nobody can tell.
    """

    content_sha256: str
    method: str
    distance: float
    score: float
    verified: bool
    compared: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of N contents: `words` of their PDQ [N, 4], `told`: which have one of enough quality; `vectors`
    [N, WIDTH] of their embeddings, `there`: which have one.
    """

    contents: Sequence[str]
    words: Words
    told: Flags
    vectors: Vectors
    there: Flags


# ── the file ───────────────────────────────────────────────────────────────────────────────────────────────────────


def asking_pool(limits: DecodeLimits, detector: DetectorChoice | None = None) -> DecodePool:
    """The worker that decodes a request's picture and, with a `detector`, looks for faces in it; nothing is blurred."""
    return DecodePool(
        1,
        config=ShapeConfig(ASKED_PX, 95),
        limits=limits,
        analyser=None if detector is None else detector.factory,
        analyser_arguments=() if detector is None else detector.arguments,
    )


def read_asked(path: Path, pool: DecodePool, *, max_bytes: int = MAX_FILE_BYTES) -> Asked:
    """Read and decode the picture that a request came with. `pool`: of `asking_pool`.

    Raises:
        InputError: there is no such file, it is none that can be read, too large, or no picture that can be decoded
            within the limits; it names the file and what to do.
    """
    body = _read(path, max_bytes)
    ((_, shaped),) = pool.shape_all([(path, body)])
    if isinstance(shaped, DecodeError):
        remedy = _REMEDIES.get(shaped.code, "Open it in a viewer and save it anew as JPEG or PNG")
        raise InputError(shaped.what, where=str(path), remedy=remedy) from shaped
    rgb = decode(shaped.jpeg)
    size = (shaped.width, shaped.height)
    # Of the pixels turned: those that `pdq_orientations` turns within its grid lie up to 22 bits beside them, since its
    # sampling leans to one side (seven photos).
    hashes = (pdq(view, size if o % 2 == 0 else size[::-1])[0] for o, view in enumerate(views(rgb)) if o)
    return Asked(
        shaped.content_sha256,
        rgb,
        *size,
        (shaped.pdq, *hashes),
        shaped.pdq_quality,
        shaped.faces,
        shaped.analyser_error,
    )


_REMEDIES: Final = {
    "unknown-format": "Give the picture itself, as JPEG, PNG, WebP, AVIF or GIF",
    "too-many-pixels": "Make it smaller: a side of 2,000 pixels is plenty",
    "out-of-memory": "Make it smaller: a side of 2,000 pixels is plenty",
    "timeout": "Make it smaller, and save it anew as JPEG or PNG",
    "truncated": "Its end is missing: ask for it again",
}


def _read(path: Path, max_bytes: int) -> bytes:
    """A file's bytes, never more than the bound; a pipe or device is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        what = f"the picture cannot be read ({getattr(error, 'strerror', None) or error})"
        raise InputError(what, where=str(path), remedy="Name a picture file") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError("is no file", where=str(path), remedy="Name a picture file")
        with open(descriptor, "rb", closefd=False) as file:
            body = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"the picture cannot be read ({error.strerror})", where=str(path)) from error
    finally:
        os.close(descriptor)
    if len(body) > max_bytes:
        what = f"the file is larger than {max_bytes >> 20} MiB"
        raise InputError(what, where=str(path), remedy=_REMEDIES["too-many-pixels"])
    return body


# ── the search ─────────────────────────────────────────────────────────────────────────────────────────────────────


def views(rgb: Rgb) -> tuple[Rgb, ...]:
    """A picture in its eight orientations, as they are numbered everywhere: they are hashed, and embedded."""
    return tuple(np.asarray(oriented(rgb, o), np.uint8) for o in range(8))


def known_words(hashes: Sequence[str | None]) -> tuple[Words, Flags]:
    """Hashes as they are compared, [N, 4], and which there are; zeros where there is none."""
    told = np.fromiter((one is not None for one in hashes), np.bool_, len(hashes))
    words = np.zeros((len(hashes), 4), np.uint64)
    words[told] = words_of([one for one in hashes if one is not None])
    return words, told


def search(
    asked: Asked,
    asked_vectors: Vectors,
    known: Known,
    pictures: Callable[[str], Rgb | None],
    *,
    max_distance: int,
    similar: int = SIMILAR,
) -> tuple[PictureMatch, ...]:
    """What the contents show of the asked picture: equal bytes first, then what is verified, then what is only like it,
    each by its score; of the last the best `similar`.

    `asked_vectors`: of its `views`, [8, WIDTH]; none, [0, WIDTH]: only hashes propose. `pictures`: the pixels of a
    content, None where there are none. `max_distance`: bits of PDQ. Every content within it is compared; by embedding
    the nearest are, until GIVE_UP of them in a row show something else: what is less like it is not named.
    """
    bits, cosine = _bits(asked, known), _cosines(asked_vectors, known)
    # A crop is looked for as it is and mirrored (curation/geometry.py): of these four, that is all eight.
    mine = [drawn for view in views(asked.rgb)[:4] if (drawn := sketch(view)) is not None]
    found: list[PictureMatch] = []
    by_hash = np.flatnonzero(bits <= max_distance)
    by_hash = by_hash[np.argsort(bits[by_hash], kind="stable")]
    by_look = np.flatnonzero((cosine >= MIN_COSINE) & (bits > max_distance))
    by_look = by_look[np.argsort(-cosine[by_look], kind="stable")]
    missed = 0
    for place, method in [(p, PDQ) for p in by_hash.tolist()] + [(p, EMBEDDING) for p in by_look.tolist()]:
        content = known.contents[place]
        if missed >= GIVE_UP:
            break
        if content == asked.content_sha256:
            continue  # said below, whatever its hash
        distance = float(bits[place]) if method == PDQ else round(1 - float(cosine[place]), 4)
        likeness = 1 - distance / _CHANCE_BITS if method == PDQ else float(cosine[place])
        rgb = pictures(content)
        theirs = None if rgb is None else sketch(rgb)
        one = _compared(content, method, distance, likeness, mine, theirs)
        if method == EMBEDDING and one.compared:
            missed = 0 if one.verified else missed + 1
        found.append(one)
    exact = [PictureMatch(c, EXACT, 0.0, 1.0, True, True) for c in known.contents if c == asked.content_sha256][:1]
    sure, unsure = (
        sorted((m for m in found if m.verified is sort), key=lambda m: (-m.score, m.content_sha256))
        for sort in (True, False)
    )
    return (*exact, *sure, *unsure[:similar])


def _compared(
    content: str, method: str, distance: float, likeness: float, mine: Sequence[Sketch], theirs: Sketch | None
) -> PictureMatch:
    if not mine or theirs is None:
        return PictureMatch(content, method, distance, round(likeness, 4), False, False)
    found = ((turn, copy) for turn, one in enumerate(mine) if (copy := same(theirs, one)) is not None)
    turn, copy = next(found, (0, None))
    if copy is None:
        return PictureMatch(content, method, distance, round(likeness / 2, 4), False, True)
    method += TURNED if turn or copy.orientation else ""
    correlation = min(1.0, copy.correlation)
    return PictureMatch(content, method, round(1 - correlation, 4), round(correlation, 4), True, True)


def _bits(asked: Asked, known: Known) -> npt.NDArray[np.int16]:
    """Bits by which each content's hash differs from the asked one's in its nearest orientation; 256: nobody knows."""
    nearest = np.full(len(known.contents), 256, np.int16)
    if asked.pdq_quality < MIN_QUALITY:
        return nearest
    told = np.flatnonzero(known.told)
    for start in range(0, len(told), _ROWS_AT_ONCE):
        rows = told[start : start + _ROWS_AT_ONCE]
        words = known.words[rows]
        turns = [distances(words, words_of([one]), turned=False)[0] for one in asked.hashes]
        nearest[rows] = np.minimum.reduce(turns)
    return nearest


def _cosines(asked: Vectors, known: Known) -> npt.NDArray[np.float32]:
    """Of each content's embedding with the nearest of the asked picture's; -1: there is none."""
    nearest = np.full(len(known.contents), -1.0, np.float32)
    if not len(asked):
        return nearest
    mine, there = _unit(asked), np.flatnonzero(known.there)
    for start in range(0, len(there), _ROWS_AT_ONCE):
        rows = there[start : start + _ROWS_AT_ONCE]
        nearest[rows] = (_unit(known.vectors[rows]) @ mine.T).max(axis=1)
    return nearest


def _unit(vectors: Vectors) -> npt.NDArray[np.float32]:
    floats = vectors.astype(np.float32)
    unit: npt.NDArray[np.float32] = floats / np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-9)
    return unit
