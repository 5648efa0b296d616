"""A face that is searched for: chosen from a photo, held against others by workers, and gone afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation import person_search
from curation.images import encode_jpeg, resize
from curation.person_search import (
    MIN_FACE_PX,
    Box,
    Descriptor,
    FaceSeen,
    PersonLimits,
    PersonMatch,
    PersonPool,
    chosen_face,
    nearest,
    require_extra,
)
from curation.picture_search import Asked
from curation.worker_pool import NotDone
from policy.errors import ConfigurationError, InputError
from policy.evidence import Face
from tests.curation.photos import package_dir, photo

Rgb = np.ndarray

WITHOUT_EXTRA = find_spec("dlib") is None or find_spec(person_search.MODULE) is None
needs_extra = pytest.mark.skipif(
    WITHOUT_EXTRA, reason='the extra is not installed: pip install "image-custody[person-search]"'
)
RED, GREEN, ORANGE = (220, 30, 30), (30, 200, 40), (225, 60, 20)


class MeanColour:
    """A matcher without a model: a face is the mean colour of the middle of its box."""

    def describe(self, rgb: Rgb, box: Box) -> Descriptor:
        height, width = rgb.shape[:2]
        x, y, w, h = box
        middle = rgb[
            round((y + 0.25 * h) * height) : round((y + 0.75 * h) * height),
            round((x + 0.25 * w) * width) : round((x + 0.75 * w) * width),
        ]
        colour: Descriptor = middle.reshape(-1, 3).mean(axis=0) / 255
        return colour

    def forget(self) -> None:
        """It keeps nothing."""


def squares(*placed: tuple[tuple[int, int, int], float, float], side: float = 0.25, size: int = 256) -> Rgb:
    """Squares of these colours on grey, each at (left, top) in shares."""
    rgb = np.full((size, size, 3), 128, np.uint8)
    for colour, x, y in placed:
        rgb[round(y * size) : round((y + side) * size), round(x * size) : round((x + side) * size)] = colour
    return rgb


def asked_of(rgb: Rgb, *faces: Face, width: int | None = None) -> Asked:
    """A photo as it was read, with these faces in pixels of the file, which may be wider than what is held."""
    scale = (width or rgb.shape[1]) / rgb.shape[1]
    return Asked("a" * 64, rgb, round(rgb.shape[1] * scale), round(rgb.shape[0] * scale), ("0" * 64,), 100, faces)


# ── which face ─────────────────────────────────────────────────────────────────────────────────────────────────────

THREE = (Face(300, 20, 90, 110, 0.99), Face(10, 30, 80, 100, 0.8), Face(150, 25, 85, 100, 0.9))


def test_the_only_face_needs_no_number() -> None:
    """One face is the one; what the ruleset calls no face does not count."""
    one, doubtful = Face(10, 10, 90, 90, 0.9), Face(200, 10, 90, 90, 0.3)
    asked = asked_of(np.zeros((400, 400, 3), np.uint8), one, doubtful)
    assert chosen_face(asked, min_score=0.7, number=None, where="photo.jpg") == one
    assert chosen_face(asked, min_score=0.7, number=1, where="photo.jpg") == one


def test_of_several_faces_one_is_named_by_its_place() -> None:
    """They are counted from the left, whichever of them the detector is surest of."""
    asked = asked_of(np.zeros((200, 400, 3), np.uint8), *THREE)
    chosen = [chosen_face(asked, min_score=0.5, number=n, where="photo.jpg").x for n in (1, 2, 3)]
    assert chosen == [10, 150, 300]


@pytest.mark.parametrize(
    ("faces", "number", "words"),
    [
        ((), None, "0 faces were found"),
        ((), 1, "0 faces were found"),
        (THREE, None, "3 faces were found"),
        (THREE, 0, "3 faces were found"),
        (THREE, 4, "3 faces were found"),
        (THREE[:1], 2, "1 face was found"),
        ((Face(10, 10, 90, 30, 0.9),), None, "too small"),
    ],
)
def test_a_photo_without_its_one_face_is_refused(faces: tuple[Face, ...], number: int | None, words: str) -> None:
    """No face, several and none named, a number that none has, or a face too small: it says how many there are."""
    asked = asked_of(np.zeros((200, 400, 3), np.uint8), *faces)
    with pytest.raises(InputError, match=words) as raised:
        chosen_face(asked, min_score=0.5, number=number, where="photo.jpg")
    assert raised.value.where == "photo.jpg"
    assert raised.value.remedy


def test_a_photo_that_nobody_looked_at_has_no_faces_to_choose() -> None:
    """Where the detector failed it is said so: not observed is not "no face"."""
    asked = Asked("a" * 64, np.zeros((90, 90, 3), np.uint8), 90, 90, (), 0, None, "it broke")
    with pytest.raises(ConfigurationError, match="it broke"):
        chosen_face(asked, min_score=0.5, number=None, where="photo.jpg")


# ── the workers ────────────────────────────────────────────────────────────────────────────────────────────────────


def searched(
    asked: Asked, face: Face, candidates: Mapping[str, tuple[bytes, Sequence[Box] | None]], matcher: str | None = None
) -> dict[object, tuple[FaceSeen, ...] | NotDone]:
    """What workers say of each candidate."""
    matcher = matcher or "tests.curation.test_person_search:MeanColour"
    with PersonPool(asked, face, matcher=matcher, limits=PersonLimits(wall_s=60.0)) as pool:
        for name, (jpeg, boxes) in candidates.items():
            pool.submit_candidate(name, jpeg, boxes)
        return dict(pool.drain())


def test_every_face_of_a_candidate_has_its_distance() -> None:
    """Workers say of each face how far it lies from the asked one, to hundredths; of one too small, that nobody can
    tell; where nobody looked for faces they do; and a picture that cannot be decoded is no "no".
    """
    photo = squares((RED, 0.5, 0.25), size=512)
    face = Face(0.5 * 1024, 0.25 * 1024, 0.25 * 1024, 0.25 * 1024, 0.9)
    red, green = (0.1, 0.1, 0.25, 0.25), (0.6, 0.6, 0.25, 0.25)
    tiny = (0.1, 0.1, (MIN_FACE_PX - 1) / 256, 0.25)
    both = encode_jpeg(squares((RED, 0.1, 0.1), (GREEN, 0.6, 0.6)))
    seen = searched(
        asked_of(photo, face, width=1024),
        face,
        {
            "both": (both, [red, green]),
            "tiny": (both, [tiny]),
            "not looked at": (both, None),
            "no picture": (b"\xff\xd8\xff none", [red]),
        },
    )
    (one, other) = seen["both"]
    assert (one.box, other.box) == (red, green)
    assert one.distance is not None
    assert one.distance <= 0.02
    assert other.distance is not None
    assert other.distance > 0.8
    assert one.distance == round(one.distance, 2)
    assert seen["tiny"] == (FaceSeen(tiny, None),)
    assert seen["not looked at"] == ()
    assert isinstance(seen["no picture"], NotDone)


def test_the_nearest_face_within_the_threshold_is_the_match() -> None:
    """A picture is proposed by its nearest face, if that is near enough; what was too small proposes nothing."""
    box, other = (0.1, 0.1, 0.2, 0.2), (0.5, 0.5, 0.2, 0.2)
    seen = (FaceSeen(other, 0.5), FaceSeen(box, 0.31), FaceSeen(other, None))
    assert nearest("c", seen, 0.55) == PersonMatch("c", box, 0.31, 0.69)
    assert nearest("c", seen, 0.3) is None
    assert nearest("c", (FaceSeen(box, None),), 0.9) is None
    assert nearest("c", (), 0.9) is None


def test_a_descriptor_is_overwritten_after_its_comparison() -> None:
    """What was reckoned of a candidate's face is zeros once its distance is known, and when comparing fails too."""
    made: list[Descriptor] = []

    class Held(MeanColour):
        def describe(self, rgb: Rgb, box: Box) -> Descriptor:
            made.append(super().describe(rgb, box))
            return made[-1]

    asking = person_search._Asking(Held(), squares((RED, 0.4, 0.4)), (0.4, 0.4, 0.25, 0.25))
    assert asking.distance(squares((ORANGE, 0.1, 0.1)), (0.1, 0.1, 0.25, 0.25)) == pytest.approx(0.13, abs=0.03)
    *mine, theirs = made
    assert all(one.any() for one in mine)
    assert not theirs.any()

    class Odd(Held):
        def describe(self, rgb: Rgb, box: Box) -> Descriptor:
            made.append(np.ones(5))  # of another length: it cannot be compared
            return made[-1]

    asking._matcher = Odd()
    with pytest.raises(ValueError, match="shape"):
        asking.distance(squares((ORANGE, 0.1, 0.1)), (0.1, 0.1, 0.25, 0.25))
    assert not made[-1].any()


def test_nothing_that_names_a_face_is_shown_by_accident() -> None:
    """Neither a match nor what holds the asked face prints descriptors."""
    asking = person_search._Asking(MeanColour(), squares((RED, 0.4, 0.4)), (0.4, 0.4, 0.25, 0.25))
    assert "0.8" not in repr(asking)
    assert not hasattr(asking, "__dict__")


@pytest.mark.skipif(not WITHOUT_EXTRA, reason="the extra is installed")
def test_without_the_extra_it_says_how_to_install_it() -> None:
    """Nobody is searched for without the extra, and the command that brings it is named."""
    with pytest.raises(ConfigurationError) as raised:
        require_extra()
    assert raised.value.remedy == 'pip install "image-custody[person-search]"'


# ── the real thing ─────────────────────────────────────────────────────────────────────────────────────────────────

ASTRONAUT = Face(0.350 * 512, 0.122 * 512, 0.172 * 512, 0.212 * 512, 0.9)


@needs_extra
def test_the_real_matcher_knows_a_face_again() -> None:
    """dlib finds a face in mirrored, darker, recompressed and smaller copies of its photo, and in no stranger's.

    Strangers: twenty faces of LFW, 25 px wide as scikit-image carries them, enlarged.
    """
    require_extra()
    whole = photo("astronaut.png")
    box = (0.350, 0.122, 0.172, 0.212)
    mirrored = (1 - box[0] - box[2], *box[1:])
    candidates: dict[str, tuple[bytes, Sequence[Box] | None]] = {
        "mirrored": (encode_jpeg(resize(np.ascontiguousarray(whole[:, ::-1]), 256)), [mirrored]),
        "darker": (encode_jpeg((whole * 0.6).astype(np.uint8)), [box]),
        "recompressed": (encode_jpeg(whole, 30), [box]),
        "not looked at": (encode_jpeg(resize(whole, 256)), None),
    }
    strangers = (np.load(package_dir("skimage") / "data" / "lfw_subset.npy")[:20] * 255).astype(np.uint8)
    for number, grey in enumerate(strangers):
        large = Image.fromarray(grey).convert("RGB").resize((100, 100), Image.Resampling.BICUBIC)
        candidates[f"stranger {number}"] = encode_jpeg(np.asarray(large)), [(0.0, 0.0, 1.0, 1.0)]
    seen = searched(asked_of(whole, ASTRONAUT), ASTRONAUT, candidates, person_search.DLIB)
    assert not any(isinstance(one, NotDone) for one in seen.values())
    matched = {name for name, one in seen.items() if nearest("c", one, person_search.THRESHOLD)}  # type: ignore[arg-type]
    assert matched == {"mirrored", "darker", "recompressed", "not looked at"}


@needs_extra
def test_altered_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model file that is another than the one that was measured is not loaded."""
    altered = tmp_path / person_search.LANDMARKS[0]
    altered.parent.mkdir()
    altered.write_bytes(b"another")
    monkeypatch.setattr(person_search, "_path", lambda name: tmp_path / name)
    with pytest.raises(ConfigurationError, match="not the weights that are expected"):
        person_search.DlibMatcher()
