"""Variants of a picture for contrastive training, keyed like every draw: seed, epoch or variant, ordinal, purpose.

A crop, a mirror image and a little colour. Hue is left alone, since captions name colours; so is the mirror where the
caption speaks of sides or of writing, which a mirror makes wrong.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from training.randomness import Ints, sample_keys, uniforms

Rgb = npt.NDArray[np.uint8]
Draws = npt.NDArray[np.float64]

DRAWS = 8
# Of the crop's shape, as in Szegedy et al. 2015.
WIDEST = 4 / 3
_SIDED = re.compile(
    r"""\b(?:left|right|left\w*ward|right\w*ward|east\w*|west\w*|(?:anti|counter)?-?clockwise|clocks?|watch(?:es)?
    |arrows?|letters?|words?|text|writing|numbers?|digits?|numerals?|alphabet|signs?|signpost|logo|label|map|flags?
    |keyboard|calendar|newspaper|mirror\w*)\b|["“”„«»]""",
    re.VERBOSE,
)


def may_be_mirrored(caption: str) -> bool:
    """Whether a caption (English) says as much of the mirror image: it names no side and nothing that is written."""
    return _SIDED.search(caption.casefold()) is None


def draw_views(seed: int, epochs: Ints, ordinals: Ints, views: int) -> Ints:
    """Which of a slot's fixed variants an epoch shows, [N] in 0..views-1."""
    draws = uniforms(sample_keys(seed, epochs, ordinals, "clip-view"), 1)[:, 0]
    return np.asarray(draws * views, dtype=np.int64)


def draw_variants(seed: int, variants: Ints, ordinals: Ints) -> Draws:
    """The draws of each slot's variant, [N, DRAWS]; `variants` are numbers of fixed ones, or epochs."""
    return uniforms(sample_keys(seed, variants, ordinals, "clip-augment"), DRAWS)


def varied(picture: Rgb, draws: Draws, *, crop_area: float, jitter: float, mirror: bool) -> Rgb:
    """A variant of a picture: [H, W, 3] uint8 -> [h, w, 3] uint8, h <= H, w <= W.

    draws: eight uniforms (area, shape, top, left, mirror, brightness, contrast, saturation).
    """
    height, width = picture.shape[:2]
    share = crop_area + (1 - crop_area) * draws[0]
    # How much wider than the picture's own shape, as far as so large a crop can be.
    widest = min(WIDEST, 1 / share)
    shape = widest ** (2 * draws[1] - 1)
    w = min(width, max(1, round(width * (share * shape) ** 0.5)))
    h = min(height, max(1, round(height * (share / shape) ** 0.5)))
    top, left = int(draws[2] * (height - h + 1)), int(draws[3] * (width - w + 1))
    cropped = picture[top : top + h, left : left + w]
    if mirror and draws[4] < 0.5:
        cropped = cropped[:, ::-1]
    if jitter == 0:
        return np.ascontiguousarray(cropped)
    brightness, contrast, saturation = (1 + jitter * (2 * draws[5:8] - 1)).astype(np.float32)
    pixels = cropped.astype(np.float32) * brightness
    mean = pixels.mean(dtype=np.float64).astype(np.float32)
    pixels = (pixels - mean) * contrast + mean
    # ITU-R BT.601 luma, as PIL's enhancers use it.
    red, green, blue = np.moveaxis(pixels, 2, 0)
    grey = (np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue)[:, :, None]
    pixels = (pixels - grey) * saturation + grey
    return np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8)
