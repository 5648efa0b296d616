"""Boxes made unrecognisable for good: what is painted there is made of a few averages, and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageFilter

from policy.evidence import Face

BLUR_ID = "blur-faces/1"
# One round after the other, until a new look finds no face: what is blurred beyond each side of a box, as a share of
# it, and of how many averages a side it is made.
BLUR_ROUNDS = ((0.25, 4), (0.4, 3), (0.6, 2), (0.9, 1))


def blur_boxes(
    picture: Image.Image, boxes: Iterable[Face], *, scale: float = 1.0, margin: float = 0.25, cells: int = 4
) -> Image.Image:
    """A copy of an RGB picture with the boxes blurred, in their order.

    Each is averaged to `cells` x `cells` colours, and the smooth patch that they make covers it: two boxes with equal
    averages come out equal, so nothing finer can be had back. Boxes are in pixels of the original; `scale` is this
    picture's width over the original's, `margin` what is blurred beyond each side, as a share of the box.
    """
    blurred = picture.copy()
    for box in boxes:
        left = max(0, math.floor((box.x - margin * box.w) * scale))
        top = max(0, math.floor((box.y - margin * box.h) * scale))
        right = min(picture.width, math.ceil((box.x + (1 + margin) * box.w) * scale))
        bottom = min(picture.height, math.ceil((box.y + (1 + margin) * box.h) * scale))
        if right <= left or bottom <= top:
            continue
        area = blurred.crop((left, top, right, bottom))
        patch = _averages(area, cells).resize(area.size, Image.Resampling.BICUBIC)
        blurred.paste(patch.filter(ImageFilter.GaussianBlur(max(1.0, min(area.size) / 8))), (left, top))
    return blurred


def _averages(area: Image.Image, cells: int) -> Image.Image:
    """The rounded mean colour of each of `cells` x `cells` parts, fewer where it has fewer pixels.

    Exact sums: Pillow's own averaging rounds between rows and columns, and what depends on that is more than averages.
    """
    down, across = (np.arange(n := min(cells, side)) * side // n for side in (area.height, area.width))
    sums = np.add.reduceat(np.add.reduceat(np.asarray(area, dtype=np.int64), down, axis=0), across, axis=1)
    rows, columns = np.diff(down, append=area.height), np.diff(across, append=area.width)
    counts = (rows[:, np.newaxis] * columns)[..., np.newaxis]
    return Image.fromarray(((2 * sums + counts) // (2 * counts)).astype(np.uint8))
