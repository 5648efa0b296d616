"""What all detectors do with pixels and boxes: checks, scales, suppression. No model, no decision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from policy.errors import InputError
from policy.evidence import Face

Rgb = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]  # [N, 5]: left, top, right, bottom, score

NO_BOXES: Boxes = np.empty((0, 5))


def checked(rgb: Rgb) -> Rgb:
    """uint8 [H, W, 3] as it is. Raises InputError for other arrays: a grey one is never "a picture without faces"."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise InputError(f"not RGB pixels: {rgb.dtype} {rgb.shape}", where="face detection")
    return rgb


def scaled(picture: Image.Image, scale: float) -> Image.Image:
    """The picture made smaller by averaging, or larger; each side at least a pixel."""
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)


def suppress(boxes: Boxes, overlap: float, *, of_smaller: bool = False) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: places of the boxes that stay, best score first, the first of equals.

    Overlap is intersection over union, or over the smaller of the two areas.
    """
    left, top, right, bottom, scores = boxes[:, :5].T
    areas = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        whole = np.minimum(areas[best], areas[rest]) if of_smaller else areas[best] + areas[rest] - shared
        order = rest[shared <= overlap * whole]
    return np.array(kept, dtype=np.intp)


def faces_of(boxes: Boxes, x_scale: float, y_scale: float, width: int, height: int) -> tuple[Face, ...]:
    """Boxes as faces of a picture of this size, in their order: scaled, clipped, without those that lie off it."""
    faces = []
    for left, top, right, bottom, score in boxes[:, :5].tolist():
        x, y = max(0.0, left * x_scale), max(0.0, top * y_scale)
        w, h = min(float(width), right * x_scale) - x, min(float(height), bottom * y_scale) - y
        # A tenth of a pixel: what lies below differs between processors, and evidence should not.
        x, y, w, h = round(x, 1), round(y, 1), round(w, 1), round(h, 1)
        if w > 0 and h > 0 and x < width and y < height:
            faces.append(Face(x, y, w, h, round(score, 4)))
    return tuple(faces)
