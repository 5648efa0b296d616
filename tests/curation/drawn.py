"""Pictures that tests draw: with the structure of a photograph, and flat ones that differ in a detail."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Rgb = npt.NDArray[np.uint8]


def photo_like(seed: int, width: int, height: int | None = None) -> Rgb:
    """Coloured noise at several scales, uint8 [H, W, 3]: structure everywhere, no two alike."""
    rng, height = np.random.default_rng(seed), height or width
    total = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((3, 1.0), (7, 0.7), (17, 0.45), (40, 0.25)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return (total / 2.4).clip(0, 255).astype(np.uint8)


def face(mouth: str, *, skin: tuple[int, int, int] = (255, 204, 77), size: int = 144) -> Rgb:
    """A drawn face on white; `mouth`: smile | frown | open | line."""
    image = Image.new("RGB", (4 * size, 4 * size), "white")
    draw, s = ImageDraw.Draw(image), 4 * size / 100
    draw.ellipse((8 * s, 8 * s, 92 * s, 92 * s), fill=skin)
    for x in (34, 66):
        draw.ellipse(((x - 5) * s, 34 * s, (x + 5) * s, 50 * s), fill=(102, 69, 0))
    box, brown, thick = (30 * s, 50 * s, 70 * s, 80 * s), (102, 69, 0), round(4 * s)
    match mouth:
        case "smile":
            draw.arc(box, 20, 160, fill=brown, width=thick)
        case "frown":
            draw.arc((30 * s, 62 * s, 70 * s, 92 * s), 200, 340, fill=brown, width=thick)
        case "open":
            draw.ellipse((40 * s, 58 * s, 60 * s, 80 * s), fill=brown)
        case _:
            draw.line((35 * s, 70 * s, 65 * s, 70 * s), fill=brown, width=thick)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
