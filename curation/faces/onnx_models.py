"""Face detectors of three kinds as their authors publish them in ONNX, recognised by their inputs and outputs.

* YuNet (Wu, Peng and Yu 2023; OpenCV Zoo's face_detection_yunet_2023mar and later): BGR, 0 to 255; for strides 8, 16
  and 32 one prior a cell: `cls`, `obj`, `bbox` as centre and logarithm of size.
* SCRFD (Guo et al. 2021; InsightFace): RGB, (x - 127.5) / 128; for strides 8 to 32 (or 128) one or two anchors a cell:
  scores, then distances to the four edges.
* CenterFace (Xu et al. 2019): RGB, 0 to 255; a heat map at stride 4, the logarithm of the size, an offset.

Landmarks, which all three may give, are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.faces.boxes import NO_BOXES, Boxes, Rgb, checked, faces_of, scaled, suppress
from curation.faces.onnx_graph import with_free_input
from curation.weights import Named, Net, Tensor, read_weights, session
from policy.errors import ConfigurationError, InputError
from policy.evidence import Face

_MULTIPLE_PX = 32  # of which both sides of a net's input are a multiple: the coarsest stride of most
_NAILED_PX = 160  # a fixed input smaller than this is an export's example, not a size to work at
_YUNET_STRIDES = (8, 16, 32)
_CENTERFACE_STRIDE = 4

# Outputs in their order, the side lengths of the input [H, W], the least score -> boxes in pixels of the input.
Decode = Callable[[Sequence[Tensor], tuple[int, int], float], Boxes]


@dataclass(frozen=True, slots=True)
class Kind:
    """A published layout. `bgr`: the order of its channels; pixels are (x - mean) / divisor; `overlap`: see NMS."""

    name: str
    bgr: bool
    mean: float
    divisor: float
    overlap: float
    decode: Decode


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """How a picture is looked at: `max_side_px` bounds it, `close_side_px` is a second, smaller look for faces that
    fill it. A model with an input of one size sees each picture once, fitted into that. Below `min_score` nothing is
    reported."""

    max_side_px: int = 1024
    close_side_px: int = 320
    min_score: float = 0.3


class OnnxDetector:
    """A detector by the path of its file. `sha256`: what the file must be, "" for any.

    Raises ConfigurationError for a file that is missing, is another, is no ONNX, or fits none of the three kinds.
    """

    def __init__(self, path: Path, sha256: str = "", settings: OnnxSettings | None = None) -> None:
        self.settings = settings or OnnxSettings()
        weights = read_weights(
            path, sha256, "Name the file by [images] face_detector, its digest by face_detector_sha256"
        )
        self._digest = hashlib.sha256(weights).hexdigest()
        self._net = session(weights, path)
        self._kind = recognised(self._net.get_inputs(), self._net.get_outputs())
        if self._kind is None:
            raise _misfit(path, self._net, "")
        shape = self._net.get_inputs()[0].shape
        if any(isinstance(side, int) and side < _NAILED_PX for side in shape[2:]):
            name = self._net.get_inputs()[0].name
            self._net = session(with_free_input(weights, name), path)
            shape = self._net.get_inputs()[0].shape
        self._input = self._net.get_inputs()[0].name
        high, wide = shape[2:]
        self._fixed = (high, wide) if isinstance(high, int) and isinstance(wide, int) else None
        try:
            self._boxes(Image.new("RGB", (_NAILED_PX, _NAILED_PX)), _NAILED_PX)
        except Exception as error:  # whatever onnxruntime or numpy find that does not fit
            raise _misfit(path, self._net, f": {str(error).splitlines()[0][:200]}") from error

    @property
    def id(self) -> str:
        s, size = self.settings, "x".join(map(str, self._fixed)) if self._fixed else ""
        said = f"input={size}" if size else f"side={s.max_side_px}/{s.close_side_px}"
        assert self._kind is not None
        return f"onnx-{self._kind.name}({said},score={s.min_score:g}) sha256:{self._digest}"

    @property
    def weights_digest(self) -> str:
        return self._digest

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        """Faces in uint8 [H, W, 3], boxes clipped to the picture, best score first.

        Raises InputError for other arrays, and where the net answers what is no number.
        """
        assert self._kind is not None
        height, width = checked(rgb).shape[:2]
        picture, longer = Image.fromarray(rgb), max(width, height)
        sides = {min(longer, self.settings.max_side_px), min(longer, self.settings.close_side_px)}
        looks = [longer] if self._fixed else sorted(sides)
        boxes = np.concatenate([self._boxes(picture, side) for side in looks])
        return faces_of(boxes[suppress(boxes, self._kind.overlap)], 1, 1, width, height)

    def _boxes(self, picture: Image.Image, side_px: int) -> Boxes:
        """What is found with the longer side at this size (or fitted into the fixed one), in pixels of the picture."""
        kind = self._kind
        assert kind is not None
        scale = side_px / max(picture.size)
        if self._fixed:
            scale = min(self._fixed[0] / picture.height, self._fixed[1] / picture.width)
        small = scaled(picture, scale)
        high, wide = self._fixed or (
            -(-small.height // _MULTIPLE_PX) * _MULTIPLE_PX,
            -(-small.width // _MULTIPLE_PX) * _MULTIPLE_PX,
        )
        canvas = np.zeros((high, wide, 3), dtype=np.float32)  # black to the right and below, as all three are run
        canvas[: small.height, : small.width] = np.asarray(small)[:, :, ::-1] if kind.bgr else np.asarray(small)
        pixels = ((canvas - np.float32(kind.mean)) / np.float32(kind.divisor)).transpose(2, 0, 1)[np.newaxis]
        outputs = self._net.run(None, {self._input: np.ascontiguousarray(pixels)})
        named = {out.name: value for out, value in zip(self._net.get_outputs(), outputs, strict=True)}
        boxes = kind.decode(ordered(kind, named), (high, wide), self.settings.min_score)
        if not np.isfinite(boxes).all():
            raise InputError("the face detector answered with what is no number", where=self.id)
        x_scale, y_scale = picture.width / small.width, picture.height / small.height
        boxes[:, :4] *= [x_scale, y_scale, x_scale, y_scale]
        return boxes


def recognised(inputs: Sequence[Named], outputs: Sequence[Named]) -> Kind | None:
    """The kind that a model's inputs and outputs are those of; None where there is none."""
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        return None
    names = {output.name for output in outputs}
    if {f"{part}_{stride}" for part in ("cls", "obj", "bbox") for stride in _YUNET_STRIDES} <= names:
        return YUNET
    channels = [output.shape[1] if len(output.shape) == 4 else None for output in outputs]
    if channels == [1, 2, 2, 10]:
        return CENTERFACE
    last = [output.shape[-1] if output.shape else None for output in outputs]
    for levels in (3, 5):
        boxes = [1] * levels + [4] * levels
        if last in (boxes, boxes + [10] * levels):
            return SCRFD
    return None


def ordered(kind: Kind, named: dict[str, Tensor]) -> list[Tensor]:
    """Outputs as the kind's `decode` wants them: YuNet's by name, the others' as the model lists them."""
    if kind.name != "yunet":
        return list(named.values())
    return [named[f"{part}_{stride}"] for part in ("cls", "obj", "bbox") for stride in _YUNET_STRIDES]


def yunet_boxes(outputs: Sequence[Tensor], size: tuple[int, int], min_score: float) -> Boxes:
    """cls and obj [1, N, 1], bbox [1, N, 4] for each stride; N cells row by row (OpenCV's FaceDetectorYN, 2023)."""
    found = []
    for level, stride in enumerate(_YUNET_STRIDES):
        cls, obj, bbox = (outputs[level + 3 * part] for part in range(3))
        rows, columns = size[0] // stride, size[1] // stride
        score = np.sqrt(np.clip(cls.reshape(rows * columns), 0, 1) * np.clip(obj.reshape(rows * columns), 0, 1))
        at = _at_least(score, min_score)
        dx, dy, log_w, log_h = bbox.reshape(rows * columns, 4)[at].T.astype(np.float64)
        wide, high = np.exp(log_w) * stride, np.exp(log_h) * stride
        left, top = (at % columns + dx) * stride - wide / 2, (at // columns + dy) * stride - high / 2
        found.append(np.stack([left, top, left + wide, top + high, score[at]], axis=1))
    return np.concatenate(found)


def scrfd_boxes(outputs: Sequence[Tensor], size: tuple[int, int], min_score: float) -> Boxes:
    """Scores [N, 1] for each stride, then distances to left, top, right and bottom [N, 4] in strides.

    N: anchors within cells, cells row by row; the anchors of a cell share its corner as their centre (InsightFace).
    """
    levels = 5 if len(outputs) in (10, 15) else 3
    found = []
    for level in range(levels):
        stride = 8 << level
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        anchors, rest = divmod(outputs[level].size, rows * columns)
        if rest or not anchors:
            raise ValueError(f"{outputs[level].size} scores for {rows}x{columns} cells of stride {stride}")
        score = outputs[level].reshape(-1)
        at = _at_least(score, min_score)
        left, top, right, bottom = outputs[levels + level].reshape(-1, 4)[at].T.astype(np.float64) * stride
        x, y = at // anchors % columns * stride, at // anchors // columns * stride
        found.append(np.stack([x - left, y - top, x + right, y + bottom, score[at]], axis=1))
    return np.concatenate(found)


def centerface_boxes(outputs: Sequence[Tensor], size: tuple[int, int], min_score: float) -> Boxes:
    """Heat map [1, 1, h, w], logarithms of height and width and offsets of y and x, each [1, 2, h, w], at stride 4."""
    heat, logs, offsets = (output[0].astype(np.float64) for output in outputs[:3])
    if heat.shape[1:] != (size[0] // _CENTERFACE_STRIDE, size[1] // _CENTERFACE_STRIDE):
        raise ValueError(f"a heat map of {heat.shape[1:]} for an input of {size}")
    rows, columns = np.unravel_index(_at_least(heat[0].reshape(-1), min_score), heat.shape[1:])
    if not rows.size:
        return NO_BOXES
    high, wide = np.exp(logs[:, rows, columns]) * _CENTERFACE_STRIDE
    y = (rows + offsets[0, rows, columns] + 0.5) * _CENTERFACE_STRIDE
    x = (columns + offsets[1, rows, columns] + 0.5) * _CENTERFACE_STRIDE
    return np.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2, heat[0, rows, columns]], axis=1)


YUNET = Kind("yunet", bgr=True, mean=0.0, divisor=1.0, overlap=0.3, decode=yunet_boxes)
SCRFD = Kind("scrfd", bgr=False, mean=127.5, divisor=128.0, overlap=0.4, decode=scrfd_boxes)
CENTERFACE = Kind("centerface", bgr=False, mean=0.0, divisor=1.0, overlap=0.3, decode=centerface_boxes)


def _at_least(scores: npt.NDArray[np.floating], min_score: float) -> npt.NDArray[np.intp]:
    """Places of scores that count; one that is no number counts, so that it is noticed."""
    return np.flatnonzero(~(scores < min_score))


def _misfit(path: Path, net: Net, why: str) -> ConfigurationError:
    told = "; ".join(
        f"{word} {', '.join(f'{value.name} {value.type} {list(value.shape)}' for value in values)}"
        for word, values in (("inputs", net.get_inputs()), ("outputs", net.get_outputs()))
    )
    what = f"no face detector of the YuNet, SCRFD or CenterFace kind{why} ({told})"
    return ConfigurationError(what, where=str(path), remedy="Name an ONNX file of one of these kinds")
