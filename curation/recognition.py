"""A removed picture that comes back as other bytes, recognised: by PDQ hashes, and by embeddings of copies of it.

Of a removed picture no pixel is kept to compare with. So while its pixels are still there, copies are made of it as
they are made on the web (encoded anew, smaller, turned and mirrored, cropped, framed, without its flat surround), and
the hashes and embeddings of them are its marks. A picture that arrives is held against the marks in two ways:

* its PDQ hash in eight orientations, within the ruleset's distance: copies of the whole picture;
* its embedding (curation/near_embedding.py), and that of it without its flat surround, from the ruleset's cosine on:
  crops and frames too. Pictures of one series lie as close, so this one only holds until a person has looked.

Rates of both, on photographs and on drawings, are in docs/benchmarks.md (recognising).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from curation.duplicates import MIN_QUALITY
from curation.fingerprints import pdq
from curation.hash_index import HashIndex, words_of
from curation.near_embedding import WIDTH, Embedder, Vectors
from policy.suppression import Marks

Rgb = npt.NDArray[np.uint8]

LEAST_QUALITY: Final = 10  # of PDQ: below it there is so little to be seen that every plain picture is like it
HASHED: Final = ("as it is", "q40", "half")  # whose hashes are marks; PDQ of the turned ones follows from these


@dataclass(frozen=True, slots=True)
class Recognised:
    """A picture that is like a removed one. `likeness`: one less the share of bits that differ, or the cosine."""

    removal: str
    method: Literal["pdq", "embedding"]
    likeness: float


# ── marks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_Change = Callable[[Image.Image], Image.Image]
_TURNS: Final = tuple(Image.Transpose)


def _encoded(quality: int) -> _Change:
    def encoded(picture: Image.Image) -> Image.Image:
        held = io.BytesIO()
        picture.save(held, "JPEG", quality=quality)
        return Image.open(io.BytesIO(held.getvalue())).convert("RGB")

    return encoded


def _half(picture: Image.Image) -> Image.Image:
    return picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.LANCZOS)


def _cropped(share: float, x: float = 0.5, y: float = 0.5) -> _Change:
    """Width and height each lose `share`; x and y in [0, 1] say on which side."""

    def cropped(picture: Image.Image) -> Image.Image:
        w, h = max(1, round(picture.width * (1 - share))), max(1, round(picture.height * (1 - share)))
        left, top = round((picture.width - w) * x), round((picture.height - h) * y)
        return picture.crop((left, top, left + w, top + h))

    return cropped


def _framed(grey: int) -> _Change:
    return lambda p: ImageOps.expand(p, max(1, round(max(p.size) / 16)), (grey, grey, grey))


def _turned(turn: Image.Transpose) -> _Change:
    return lambda picture: picture.transpose(turn)


def _after(first: _Change, then: _Change) -> _Change:
    return lambda picture: then(first(picture))


def _trimmed(picture: Image.Image) -> Image.Image:
    return Image.fromarray(trimmed(np.asarray(picture)))


# The copies whose embeddings are a picture's marks. Chosen by what they find (docs/benchmarks.md, recognising).
COPIES: Final[Mapping[str, _Change]] = {
    "as it is": lambda picture: picture,
    "q40": _encoded(40),
    "half": _half,
    "half, q60": _after(_half, _encoded(60)),
    **{f"turned {turn.name.lower()}": _turned(turn) for turn in _TURNS},
    **{f"crop at {x:g} {y:g}": _cropped(0.1, x, y) for x, y in ((0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1))},
    "crop, q60": _after(_cropped(0.1), _encoded(60)),
    "crop of a quarter": _cropped(0.25),
    "white frame": _framed(255),
    "black frame": _framed(0),
    "trimmed": _trimmed,
    "trimmed, q40": _after(_encoded(40), _trimmed),
    "trimmed, half": _after(_half, _trimmed),
}


def marks_of(picture: Rgb, embedder: Embedder, *, known: tuple[str, int] | None = None) -> Marks:
    """The marks of a removed picture, uint8 [H, W, 3].

    `known`: PDQ and quality of the original, where they were measured. Of a picture in which there is hardly anything
    to be seen there are none: whatever is as plain would be taken for it.
    """
    original = Image.fromarray(np.ascontiguousarray(picture))
    copies = {name: np.asarray(change(original)) for name, change in COPIES.items()}
    hashed = [known if known is not None else pdq(picture), *(pdq(copies[name]) for name in HASHED)]
    if hashed[0][1] < LEAST_QUALITY:
        return marks_of_hash(*hashed[0])
    hashes = tuple(dict.fromkeys(value for value, quality in hashed if quality >= MIN_QUALITY))
    vectors = embedder.embed(list(copies.values()))
    return Marks(hashes, embedder.digest, tuple(vector.tobytes() for vector in np.unique(vectors, axis=0)))


def marks_of_hash(value: str, quality: int) -> Marks:
    """The marks of a removed picture of which no pixels are left."""
    return Marks((value,)) if quality >= MIN_QUALITY else Marks()


# ── recognising ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Views:
    """Embeddings of pictures: `own`, [N, WIDTH], of each as it is; `trimmed` of those that have a flat surround,
    without it, and `trimmed_of` whose they are.
    """

    own: Vectors
    trimmed: Vectors
    trimmed_of: tuple[int, ...]


def views_of(pictures: Sequence[Rgb], embedder: Embedder, *, own: Vectors | None = None) -> Views:
    """The views of these pictures, uint8 [H, W, 3] each. `own`: their embeddings, where they are known."""
    others = [trimmed(picture) for picture in pictures]
    places = tuple(n for n, (one, other) in enumerate(zip(pictures, others, strict=True)) if _differ(one, other))
    vectors = embedder.embed([*(pictures if own is None else ()), *(others[n] for n in places)])
    if own is not None:
        return Views(own, vectors, places)
    return Views(vectors[: len(pictures)], vectors[len(pictures) :], places)


class Recogniser:
    """Holds pictures against the marks of removed ones: (removal, marks) each. All are compared: 25 KB
    and 10 microseconds a picture each.

    `model`: digest of the embedder whose vectors are asked; marks of another one cannot be compared with them, and
    `of_other_models` counts the pictures that are recognised by their hashes alone for that.
    """

    def __init__(
        self, removed: Iterable[tuple[str, Marks]], *, max_distance: int, min_cosine: float, model: str
    ) -> None:
        self._min_cosine = min_cosine
        hashes: list[tuple[str, str]] = []
        vectors: list[tuple[str, bytes]] = []
        self.of_other_models = 0
        for removal, marks in removed:
            hashes += [(removal, value) for value in marks.hashes]
            if marks.model == model:
                vectors += [(removal, vector) for vector in marks.vectors]
            elif marks.vectors:
                self.of_other_models += 1
        self._hashed_for = [removal for removal, _ in hashes]
        self._index = HashIndex(words_of([value for _, value in hashes]), max_distance)
        self._embedded_for = [removal for removal, _ in vectors]
        raw = np.frombuffer(b"".join(vector for _, vector in vectors), np.int8)
        self._units = _unit(raw.reshape(-1, WIDTH))

    @property
    def embeds(self) -> bool:
        """Whether any embedding can be recognised: else none need be computed."""
        return bool(self._embedded_for)

    def by_hash(self, hashes: Sequence[str | None]) -> list[Recognised | None]:
        """The removed picture that each hash is nearest to, within the distance, in whatever orientation."""
        found: list[Recognised | None] = [None] * len(hashes)
        there = [place for place, value in enumerate(hashes) if value is not None]
        if self._hashed_for and there:
            near = self._index.near(words_of([hashes[place] or "" for place in there]), most=1, threads=1)
            for query, row, bits in zip(near.query.tolist(), near.row.tolist(), near.distance.tolist(), strict=True):
                found[there[query]] = Recognised(self._hashed_for[row], "pdq", 1 - bits / 256)
        return found

    def by_vector(self, vectors: Vectors) -> list[Recognised | None]:
        """The removed picture that each embedding, int8 [N, WIDTH], is nearest to, from the cosine on."""
        if not self.embeds or not len(vectors):
            return [None] * len(vectors)
        cosines = _unit(vectors) @ self._units.T
        nearest = cosines.argmax(axis=1)
        best = cosines[np.arange(len(vectors)), nearest]
        return [
            Recognised(self._embedded_for[place], "embedding", round(float(cosine), 4))
            if cosine >= self._min_cosine
            else None
            for place, cosine in zip(nearest.tolist(), best.tolist(), strict=True)
        ]

    def by_views(self, views: Views) -> list[Recognised | None]:
        """What each of these pictures is recognised as by its embedding, or by that of it without its surround."""
        found = self.by_vector(views.own)
        for place, other in zip(views.trimmed_of, self.by_vector(views.trimmed), strict=True):
            known = found[place]
            if other is not None and (known is None or other.likeness > known.likeness):
                found[place] = other
        return found


def is_plain(quality: int | None) -> bool:
    """Whether there is too little in a picture to recognise it by an embedding."""
    return (quality or 0) < LEAST_QUALITY


def _unit(vectors: Vectors) -> npt.NDArray[np.float32]:
    unit = vectors.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    return unit


# ── a flat surround ────────────────────────────────────────────────────────────────────────────────────────────────

_FLAT_LEVELS: Final = 12  # a surround's pixels differ from its colour by no more, JPEG's noise included
_TRIMMED_LEAST: Final = 0.02  # of a side: a surround that is narrower makes no other picture
_SURROUNDS: Final = 2  # one within the other: a frame around a drawing on white


def trimmed(rgb: Rgb) -> Rgb:
    """A picture, uint8 [H, W, 3], without the flat colour around it; one without any, or of nothing else, as it is.

    Unlike `near_embedding.unframed` it takes away the white about a drawing as well, up to the drawing.
    """
    found = rgb
    for _ in range(_SURROUNDS):
        colour = np.median(np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]]), axis=0)
        inner = (np.abs(found.astype(np.int16) - colour.astype(np.int16)) > _FLAT_LEVELS).any(axis=2)
        rows, columns = np.flatnonzero(inner.any(axis=1)), np.flatnonzero(inner.any(axis=0))
        if not len(rows) or rows[-1] - rows[0] < 8 or columns[-1] - columns[0] < 8:
            break
        found = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(found)


def _differ(picture: Rgb, other: Rgb) -> bool:
    return any(
        whole - left > _TRIMMED_LEAST * whole for whole, left in zip(picture.shape[:2], other.shape[:2], strict=True)
    )
