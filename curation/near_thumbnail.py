"""Thumbnails by which a copy that was recompressed or made smaller finds its picture, however little is left of it.

Of a drawing of 72 pixels at JPEG quality 10, or of its quarter, PDQ's bits flip and the embedding is as near to
hundreds of others; the means of a dozen rows and columns stay what they were, since a coder keeps the mean of each of
its blocks. Brightness in 12 by 12 cells less its mean and colour in 8 by 8, as one vector of unit length: brighter and
darker copies have the same. Recompressed and rescaled copies of 129 pictures came first among 2,533, above a cosine of
0.94 (docs/benchmarks.md, duplicates). It knows no crop and no turn: those are proposed by hash and embedding, and what
decides is the comparison of pixels (curation/geometry.py).

What is kept is the vector mixed, so that each number depends on all cells: no part of it shows a part of the picture,
and none is equal to that of a picture that shares a corner, which a search for what was removed would take for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.near_embedding import WIDTH, Rgb, Vectors

_BRIGHTNESS_CELLS: Final = 12
_COLOUR_CELLS: Final = 8
_VERSION: Final = "near-thumbnail/1"
_SCALE: Final = 300.0  # of a unit vector; mixed, its numbers lie about 0.06
_SHOWS_NOTHING: Final = 20.0  # levels of length: below that it is the coder's noise


class Thumbnails:
    """Pictures to thumbnails; an `Embedder` of `curation.near_embedding`, whose cache, search and cosines it shares."""

    digest: Final = hashlib.sha256(_VERSION.encode()).hexdigest()

    def embed(self, pictures: Sequence[Rgb]) -> Vectors:
        """uint8 [H, W, 3] pictures of any size to int8 [N, WIDTH]; zeros for one that shows nothing."""
        vectors = np.zeros((len(pictures), WIDTH), np.int8)
        for row, picture in enumerate(pictures):
            cells = _cells(picture)
            if (length := float(np.linalg.norm(cells))) >= _SHOWS_NOTHING:
                vectors[row] = np.clip(np.rint(_MIXED @ (cells / length) * _SCALE), -127, 127)
        return vectors


def _cells(picture: Rgb) -> npt.NDArray[np.float64]:
    """Brightness about its mean, and both colours, in levels, [WIDTH]."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("YCbCr")
    bright, coloured = (
        np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float64)
        for side in (2 * _BRIGHTNESS_CELLS, _COLOUR_CELLS)
    )
    # From twice as many, since Pillow rounds what it shrinks.
    luma = bright[..., 0].reshape(_BRIGHTNESS_CELLS, 2, _BRIGHTNESS_CELLS, 2).mean(axis=(1, 3))
    return np.concatenate([(luma - luma.mean()).ravel(), (coloured[..., 1:] - 128).ravel()])


def _mixing() -> npt.NDArray[np.float64]:
    """A cosine transform of numbers whose signs were changed at random: orthonormal, [WIDTH, WIDTH]."""
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(_VERSION.encode()).digest(WIDTH // 8), np.uint8))
    rows, columns = np.arange(WIDTH)[:, None], np.arange(WIDTH)
    waves = np.sqrt(2 / WIDTH) * np.cos(np.pi / WIDTH * (columns + 0.5) * rows)
    waves[0] /= np.sqrt(2)
    mixed: npt.NDArray[np.float64] = waves * (1.0 - 2.0 * bits)
    return mixed


_MIXED: Final = _mixing()
