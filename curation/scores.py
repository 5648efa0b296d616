"""Measures of a picture's pixels that need no model, and what every scorer promises.

They observe; where the bounds lie is policy.quality's business. All are taken on the kept pixels: what was lost when
the picture was made smaller is lost to training too. There is no test for watermarks: a mark in a corner or a repeated
tile cannot be told from a caption, a signature or a pattern on one picture alone, and a test that cries wolf at every
fourth drawing would only be switched off.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from policy.errors import InputError

Rgb = npt.NDArray[np.uint8]

ENTROPY: Final = "entropy"
SHARPNESS: Final = "sharpness"
FLATNESS: Final = "flatness"
SCREENSHOT: Final = "screenshot"

NOT_TOLD: Final = math.nan


class Scorer(Protocol):
    """Gives pictures numbers. A picture's numbers depend on its pixels and on what `digest` covers, and on nothing
    else: not on the pictures beside it, nor on how many there are.
    """

    @property
    def id(self) -> str:
        """Name and version: it stands in the evidence beside each score."""

    @property
    def digest(self) -> str:
        """Of weights, preprocessing and version, in hex: scores are kept under it, and none of another counts."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the numbers are called, in their order."""

    def score(self, pictures: Sequence[Rgb]) -> list[tuple[float, ...]]:
        """The numbers of uint8 [H, W, 3] pictures of any sizes, a tuple each; NaN: this scorer cannot tell.

        A NaN is no score: the rule that asks for it defers the picture. Raises InputError for other arrays.
        """


def checked(picture: Rgb, where: str) -> Rgb:
    """The picture; raises InputError for what is not uint8 [H, W, 3] with at least one pixel."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise InputError(f"not RGB pixels: {picture.dtype} {picture.shape}", where=where)
    return picture


VERSION: Final = 1
_SMALLEST_PX: Final = 16  # a shorter side leaves nothing to measure
_LONGEST: Final = 16.0  # nor does a longer side of so many shorter ones
_SHARPNESS_AT_PX: Final = 128
_SCREENSHOT_AT_PX: Final = 256
_LEAST_CONTRAST: Final = 8  # of 255: below it there is noise of the JPEG and little else
_ALIKE: Final = 3  # of 255: neighbours that differ by no more are one colour, whatever JPEG made of it
_QUIET: Final = 16  # of 255: a row within this range is one colour between the lines of a text
_EDGE: Final = 12  # of 255


class QualityScorer:
    """Entropy, sharpness, flatness and how much a picture looks like a screenshot. No model; Pillow and numpy.

    * `entropy`: of the histogram of brightness, in bits, 0 (one brightness) to 8.
    * `sharpness`: the strongest edges: the 99.9th percentile of the absolute Laplacian, over the contrast (the range
      between the 1st and the 99th percentile of brightness), at a shorter side of 128 pixels. Variance, the usual
      measure, calls a drawing of few lines blurred and a blurred photo of strong contrast sharp; this one asks whether
      there is any sharp edge at all, which drawings have. Blurred pictures lie below 0.4, others mostly above 1.
    * `flatness`: the share of pixels that are like their neighbours on the right and below, 0 to 1.
    * `screenshot`, 0 to 1: rows that are one colour across the picture take turns with rows that are not, as between
      lines of text, and there is a long edge that is exactly horizontal or vertical.
    """

    id: Final = f"custody-quality/{VERSION}"
    names: Final = (ENTROPY, SHARPNESS, FLATNESS, SCREENSHOT)

    @property
    def digest(self) -> str:
        settings = (_SMALLEST_PX, _LONGEST, _SHARPNESS_AT_PX, _SCREENSHOT_AT_PX)
        return hashlib.sha256(repr((self.id, settings, _LEAST_CONTRAST, _ALIKE, _QUIET, _EDGE)).encode()).hexdigest()

    def score(self, pictures: Sequence[Rgb]) -> list[tuple[float, ...]]:
        """(entropy, sharpness, flatness, screenshot) of each; all NaN under 16 pixels a side, or over 16 to 1."""
        return [self._one(checked(picture, "quality measures")) for picture in pictures]

    def _one(self, picture: Rgb) -> tuple[float, ...]:
        shorter, longer = sorted(picture.shape[:2])
        if shorter < _SMALLEST_PX or longer > shorter * _LONGEST:
            return (NOT_TOLD,) * len(self.names)
        grey = Image.fromarray(picture).convert("L")
        luma = np.asarray(grey)
        wide = np.asarray(_at(grey, _SCREENSHOT_AT_PX), dtype=np.int16)
        across, down = np.diff(wide, axis=1), np.diff(wide, axis=0)
        found = (
            _entropy(luma),
            _sharpness(np.asarray(_at(grey, _SHARPNESS_AT_PX), dtype=np.int16)),
            float(((np.abs(across[:-1]) <= _ALIKE) & (np.abs(down[:, :-1]) <= _ALIKE)).mean()),
            _bands(wide) * math.sqrt(max(_longest_edge(down), _longest_edge(across.T))),
        )
        # Four digits: what lies below differs between processors, and evidence should not.
        return tuple(round(value, 4) for value in found)


def _at(grey: Image.Image, side_px: int) -> Image.Image:
    """The picture with a shorter side of `side_px`; a smaller one as it is."""
    scale = side_px / min(grey.size)
    if scale >= 1:
        return grey
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    return grey.resize(size, Image.Resampling.BOX)


def _entropy(luma: Rgb) -> float:
    """Shannon's entropy of the histogram of uint8 [H, W], in bits."""
    shares = np.bincount(luma.ravel(), minlength=256) / luma.size
    shares = shares[shares > 0]
    return float(np.abs(-(shares * np.log2(shares)).sum()))  # of one brightness it is -0.0


def _sharpness(luma: npt.NDArray[np.int16]) -> float:
    """The 99.9th percentile of |Laplacian| (four neighbours) over the contrast, of int16 [H, W]."""
    centre = luma[1:-1, 1:-1]
    laplacian = luma[1:-1, 2:] + luma[1:-1, :-2] + luma[2:, 1:-1] + luma[:-2, 1:-1] - 4 * centre
    darkest, brightest = _percentile(luma, 0.01), _percentile(luma, 0.99)
    return _percentile(np.abs(laplacian), 0.999) / max(_LEAST_CONTRAST, brightest - darkest)


def _percentile(values: npt.NDArray[np.int16], share: float) -> int:
    """The least value that at least this share of the values, none of them negative, does not exceed."""
    counts = np.cumsum(np.bincount(values.ravel()))
    return int(np.searchsorted(counts, share * counts[-1]))


def _bands(luma: npt.NDArray[np.int16]) -> float:
    """How often rows of one colour and others take turns, of int16 [H, W]: a half at 8 times, towards 1.

    A fiftieth of a row at each end of its range is left out: the edge of a window, or a scroll bar.
    """
    width = luma.shape[1]
    left_out = max(1, width // 50)
    sorted_ = np.partition(luma, (left_out, width - 1 - left_out), axis=1)
    quiet = sorted_[:, width - 1 - left_out] - sorted_[:, left_out] <= _QUIET
    turns = int(np.count_nonzero(quiet[1:] != quiet[:-1]))
    return turns / (turns + 8)


def _longest_edge(steps: npt.NDArray[np.int16]) -> float:
    """The longest run of a row with steps in one direction, as a share of the row, of int16 [rows, length]."""
    rows, length = steps.shape
    longest = 0
    for edge in (steps > _EDGE, steps < -_EDGE):
        fenced = np.zeros((rows, length + 1), np.bool_)
        fenced[:, :length] = edge
        ends = np.flatnonzero(~fenced.ravel())  # at least one a row: no run goes on in the next
        longest = max(longest, int(np.diff(ends, prepend=-1).max()) - 1)
    return float(longest / length)
