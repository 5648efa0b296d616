"""Face detectors by path: three published layouts, on models that take a block of one colour for a face."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from curation.faces.onnx_graph import with_free_input
from curation.faces.onnx_models import OnnxDetector, OnnxSettings, scrfd_boxes
from policy.errors import ConfigurationError, InputError
from policy.evidence import Face
from tests.curation import tiny_onnx

Rgb = npt.NDArray[np.uint8]

RED, BLUE = (255, 0, 0), (0, 0, 255)
FREE: tuple[int | str, ...] = (1, 3, "H", "W")
ONE_LOOK = OnnxSettings(close_side_px=4096)


def block(x: int, y: int, side: int, colour: tuple[int, int, int], size: tuple[int, int] = (320, 256)) -> Rgb:
    """A black picture of width and height `size` with one square in it."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[y : y + side, x : x + side] = colour
    return picture


def written(tmp_path: Path, model: bytes) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(model)
    return file


def test_centerface_gives_the_point_the_size_and_the_offset(tmp_path: Path) -> None:
    """Height and width by exp() times 4, the centre half a cell in and moved by the offset; red comes first."""
    model = tiny_onnx.centerface(FREE, (math.log(10), math.log(8)), (0.25, 0.5))
    detector = OnnxDetector(written(tmp_path, model), settings=ONE_LOOK)
    (face,) = detector.detect(block(80, 120, 4, RED))
    # The cell is column 20, row 30: (20 + 0.5 + 0.5) * 4 = 84 and (30 + 0.25 + 0.5) * 4 = 123; 32 wide, 40 high.
    assert face == Face(84 - 16, 123 - 20, 32, 40, 1.0)
    assert detector.detect(block(80, 120, 4, BLUE)) == ()
    assert detector.id.startswith("onnx-centerface(")


def test_yunet_gives_a_centre_in_cells_and_the_logarithm_of_the_size(tmp_path: Path) -> None:
    """Centre (column + dx, row + dy) and exp(size), all times the stride; blue comes first; sqrt(cls * obj)."""
    model = tiny_onnx.yunet(FREE, (0.5, 0.25, math.log(3), math.log(4)))
    detector = OnnxDetector(written(tmp_path, model), settings=ONE_LOOK)
    picture = block(80, 120, 8, BLUE)
    picture[120:124, 80:88] = 0  # half of the cell: cls 0.5
    (face,) = detector.detect(picture)
    assert face == Face(10.5 * 8 - 12, 15.25 * 8 - 16, 24, 32, round(math.sqrt(0.5), 4))
    assert detector.detect(block(80, 120, 8, RED)) == ()


@pytest.mark.parametrize("anchors", [1, 2])
def test_scrfd_gives_distances_to_the_edges(tmp_path: Path, anchors: int) -> None:
    """Distances from the cell's corner times the stride; pixels are (x - 127.5) / 128; anchors of a cell agree."""
    model = tiny_onnx.scrfd(FREE, (1.0, 2.0, 3.0, 4.0), anchors)
    detector = OnnxDetector(written(tmp_path, model), settings=ONE_LOOK)
    (face,) = detector.detect(block(80, 120, 8, RED))
    assert face == Face(80 - 8, 120 - 16, 32, 48, round(127.5 / 128, 4))
    assert detector.detect(block(80, 120, 8, BLUE)) == ()


@pytest.mark.parametrize("kind", ["yunet", "scrfd", "centerface"])
@pytest.mark.parametrize("size", [(640, 512), (200, 640), (77, 90)])
def test_boxes_are_in_pixels_of_the_picture_whatever_the_model_takes(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    """A model with an input of one size sees the whole picture in it; boxes come back to the picture's own pixels."""
    shape = (1, 3, 320, 320)
    model = {
        "yunet": tiny_onnx.yunet(shape, (0.5, 0.5, 0.0, 0.0)),
        "scrfd": tiny_onnx.scrfd(shape, (0.0, 0.0, 1.0, 1.0)),
        "centerface": tiny_onnx.centerface(shape, (math.log(2), math.log(2)), (0.0, 0.0)),
    }[kind]
    detector = OnnxDetector(written(tmp_path, model))
    assert "input=320x320" in detector.id
    side = min(size) // 4
    x, y = size[0] // 2, size[1] // 2
    faces = detector.detect(block(x, y, side, BLUE if kind == "yunet" else RED, size))
    assert faces
    middles = np.array([(face.x + face.w / 2, face.y + face.h / 2) for face in faces])
    slack = max(size) / 320 * 8
    assert (abs(middles.mean(axis=0) - (x + side / 2, y + side / 2)) < slack).all()
    assert all(f.x >= 0 and f.y >= 0 and f.x + f.w <= size[0] and f.y + f.h <= size[1] for f in faces)


def test_a_face_that_fills_the_picture_is_seen_by_the_second_look(tmp_path: Path) -> None:
    """What is too large for the net at full size is looked for in a smaller picture as well; both scales are merged."""
    model = tiny_onnx.centerface(FREE, (math.log(16), math.log(16)), (0.0, 0.0))
    detector = OnnxDetector(written(tmp_path, model), settings=OnnxSettings(close_side_px=160))
    widths = {face.w for face in detector.detect(block(300, 220, 32, RED, (640, 512)))}
    assert widths == {64.0, 256.0}


def test_an_input_that_an_export_nailed_down_is_freed(tmp_path: Path) -> None:
    """CenterFace's own file declares 10 x 3 x 32 x 32: it is run at the picture's size all the same."""
    model = tiny_onnx.centerface((10, 3, 32, 32), (math.log(8), math.log(8)), (0.0, 0.0))
    (face,) = OnnxDetector(written(tmp_path, model), settings=ONE_LOOK).detect(block(80, 120, 4, RED))
    assert (face.w, face.h) == (32, 32)
    freed = with_free_input(model, "x")
    assert with_free_input(freed, "x") == freed
    assert with_free_input(model, "another") != freed
    with pytest.raises(ValueError, match="no protocol buffer"):
        with_free_input(b"\x0f\x00 nothing of the kind", "x")


def test_the_identity_names_the_kind_the_settings_and_the_weights(tmp_path: Path) -> None:
    """Two files of one kind, or two settings of one file, are two detectors."""
    first = written(tmp_path, tiny_onnx.yunet(FREE, (0.0, 0.0, 0.0, 0.0)))
    second = tmp_path / "second.onnx"
    second.write_bytes(tiny_onnx.yunet(FREE, (0.0, 0.0, 0.0, 0.5)))
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    detectors = [OnnxDetector(first), OnnxDetector(second), OnnxDetector(first, settings=OnnxSettings(min_score=0.5))]
    assert len({detector.id for detector in detectors}) == 3
    assert detectors[0].weights_digest == digest
    assert detectors[0].id.endswith(f"sha256:{digest}")


def test_a_file_that_is_missing_or_another_is_named_with_the_digest_that_was_expected(tmp_path: Path) -> None:
    """Which file, which digest was expected, which was found, what to do."""
    file = written(tmp_path, tiny_onnx.yunet(FREE, (0.0, 0.0, 0.0, 0.0)))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    assert OnnxDetector(file, found).weights_digest == found
    with pytest.raises(ConfigurationError, match="not the weights that are expected") as other:
        OnnxDetector(file, "0" * 64)
    assert all(word in str(other.value) for word in (str(file), found, "0" * 64, "face_detector_sha256"))
    with pytest.raises(ConfigurationError, match=r"gone\.onnx.*cannot be read \(No such file") as missing:
        OnnxDetector(tmp_path / "gone.onnx", "0" * 64)
    assert "0" * 64 in str(missing.value)
    with pytest.raises(ConfigurationError, match="no ONNX model that onnxruntime can run"):
        OnnxDetector(written(tmp_path, b"weights"))


def test_a_model_that_fits_no_kind_is_told_by_its_inputs_and_outputs(tmp_path: Path) -> None:
    """One message with the names and shapes, for a model of another kind and for one whose cells do not add up."""
    with pytest.raises(ConfigurationError, match="no face detector of the YuNet, SCRFD or CenterFace kind") as error:
        OnnxDetector(written(tmp_path, tiny_onnx.no_detector((1, 3, "H", "W"))))
    assert "inputs x tensor(float) [1, 3, 'H', 'W']; outputs y tensor(float) [1, 3, 'H', 'W']" in str(error.value)
    channels_last = tiny_onnx.no_detector((1, "H", "W", 3))
    with pytest.raises(ConfigurationError, match="kind"):
        OnnxDetector(written(tmp_path, channels_last))
    with pytest.raises(ValueError, match="7 scores for 4x4 cells of stride 8"):
        scrfd_boxes([np.zeros((7, 1), np.float32)] * 6, (32, 32), 0.3)


def test_an_answer_that_is_no_number_is_no_picture_without_faces(tmp_path: Path) -> None:
    """Weights that overflow do not make every picture free of faces: the model is refused when it is loaded."""
    with pytest.raises(ConfigurationError, match="no number"):
        OnnxDetector(written(tmp_path, tiny_onnx.without_numbers()))


@pytest.mark.parametrize("shape", [(1, 1, 3), (10, 20_000, 3), (3000, 2, 3)])
def test_odd_shapes_are_looked_at(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """A pixel, a ribbon and a rope are pictures like others."""
    detector = OnnxDetector(written(tmp_path, tiny_onnx.scrfd(FREE, (1.0, 1.0, 1.0, 1.0))))
    assert detector.detect(np.zeros(shape, np.uint8)) == ()
    with pytest.raises(InputError, match="not RGB pixels"):
        detector.detect(np.zeros((8, 8), np.uint8))
