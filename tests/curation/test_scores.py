"""Measures of a picture's pixels: what they are of, and that a picture's are its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw, ImageFilter

from curation.images import decode, encode_jpeg
from curation.scores import QualityScorer
from policy.errors import InputError
from tests.curation.photos import photo

Rgb = npt.NDArray[np.uint8]
SCORER = QualityScorer()


def measured(picture: Rgb) -> dict[str, float]:
    """The picture's scores by their names."""
    return dict(zip(SCORER.names, SCORER.score([picture])[0], strict=True))


def plain(value: int = 128, size: tuple[int, int] = (128, 128)) -> Rgb:
    return np.full((*size, 3), value, np.uint8)


def drawing() -> Rgb:
    """Few shapes of few colours on white: what a drawing of a house may be."""
    picture = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(picture)
    pen.polygon([(40, 120), (128, 40), (216, 120)], fill=(190, 60, 40))
    pen.rectangle([60, 120, 196, 220], fill=(240, 210, 150))
    pen.ellipse([180, 20, 230, 70], fill=(255, 220, 60))
    return np.asarray(picture)


def page(lines: int = 14) -> Rgb:
    """A window with a title bar and lines of words, at the size it would be kept."""
    picture = Image.new("RGB", (1280, 1280), "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle([0, 0, 1280, 70], fill=(60, 90, 160))
    rng = np.random.default_rng(3)
    for line in range(lines):
        x = 60
        while x < 1100:
            width = int(rng.integers(20, 110))
            pen.rectangle([x, 120 + 80 * line, x + width, 150 + 80 * line], fill=(40, 40, 40))
            x += width + 18
    return np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS))


def kept(picture: Rgb) -> Rgb:
    """As it comes back from the store: through JPEG."""
    return decode(encode_jpeg(picture))


def blurred(picture: Rgb, radius_px: float) -> Rgb:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius_px)))


def test_entropy_is_that_of_the_histogram() -> None:
    """No bits for one brightness, one for two equally frequent, eight for all of them."""
    assert measured(plain())["entropy"] == 0.0
    halves = plain(0)
    halves[:64] = 255
    assert measured(halves)["entropy"] == 1.0
    every = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None], 3, axis=2)
    assert measured(every)["entropy"] == 8.0


def test_a_blank_picture_has_defined_scores() -> None:
    """Nothing is to be seen in it, sharply or not, and no number is missing or minus zero."""
    for picture in (plain(0), plain(255), kept(plain(77))):
        assert measured(picture) == {"entropy": 0.0, "sharpness": 0.0, "flatness": 1.0, "screenshot": 0.0}
        assert all(math.copysign(1, value) > 0 for value in SCORER.score([picture])[0])


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg"])
def test_blur_is_told_from_a_photo_that_is_sharp(name: str) -> None:
    """Thoroughly blurred, each photo falls below the ruleset's bound, from far above it."""
    picture = Image.fromarray(photo(name))
    picture.thumbnail((384, 384))
    small = np.asarray(picture)
    assert measured(kept(small))["sharpness"] > 0.6
    assert measured(kept(blurred(small, 12)))["sharpness"] < 0.25


def test_a_drawing_of_few_lines_is_sharp_and_no_screenshot() -> None:
    """Variance of the Laplacian calls it blurred; its strongest edges do not."""
    scores = measured(kept(drawing()))
    assert scores["sharpness"] > 1
    assert scores["flatness"] > 0.9
    assert scores["screenshot"] < 0.4
    assert measured(kept(blurred(drawing(), 14)))["sharpness"] < scores["sharpness"] / 4


def test_sharpness_does_not_hang_on_the_size() -> None:
    """The same picture at half and at three times its size is about as sharp."""
    picture = Image.fromarray(photo("astronaut.png"))
    found = [
        measured(np.asarray(picture.resize((side, side), Image.Resampling.BOX)))["sharpness"]
        for side in (170, 256, 340, 512)
    ]
    assert max(found) < 1.35 * min(found)


def test_lines_of_text_under_a_bar_look_like_a_screenshot() -> None:
    """A page of words does; its bar alone and a photo do not."""
    assert measured(kept(page()))["screenshot"] > 0.6
    assert measured(kept(page(lines=0)))["screenshot"] < 0.3
    assert measured(kept(photo("astronaut.png")))["screenshot"] < 0.3


@pytest.mark.parametrize("shape", [(1, 1), (15, 400), (10, 20_000), (16, 257), (2, 2)])
def test_what_cannot_be_measured_is_not_scored(shape: tuple[int, int]) -> None:
    """A picture that is too small or too long for a measure has none of them, rather than a number by accident."""
    assert all(math.isnan(value) for value in SCORER.score([plain(size=shape)])[0])
    assert not any(math.isnan(value) for value in SCORER.score([plain(size=(16, 256))])[0])


@pytest.mark.parametrize(
    "wrong", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3)), plain(size=(0, 9))]
)
def test_other_arrays_are_refused(wrong: Rgb) -> None:
    """Grey, transparent and floating-point arrays are a mistake of the caller, and said to be one."""
    with pytest.raises(InputError, match="not RGB pixels"):
        SCORER.score([wrong])


PICTURES = arrays.arrays(
    np.uint8, st.tuples(st.integers(14, 40), st.integers(14, 60), st.just(3)), elements=st.integers(0, 255)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PICTURES, min_size=1, max_size=4))
def test_a_picture_has_the_same_scores_in_any_company(pictures: list[Rgb]) -> None:
    """Neither neighbours nor their order change a bit of a picture's scores."""
    alone = [SCORER.score([picture])[0] for picture in pictures]
    together = SCORER.score(pictures)
    backwards = SCORER.score(pictures[::-1])[::-1]
    assert repr(alone) == repr(together) == repr(backwards)


@settings(max_examples=60, deadline=None)
@given(PICTURES)
def test_scores_lie_in_their_ranges(picture: Rgb) -> None:
    """Whatever the pixels, each score that is told lies where the page on policy says it does."""
    scores = measured(picture)
    if not math.isnan(scores["entropy"]):
        assert 0 <= scores["entropy"] <= 8
        assert 0 <= scores["sharpness"] <= 1020 / 8
        assert 0 <= scores["flatness"] <= 1
        assert 0 <= scores["screenshot"] < 1


@settings(max_examples=40, deadline=None)
@given(PICTURES)
def test_mirrors_change_no_score(picture: Rgb) -> None:
    """Left and right, and above and below, are the same to every measure but flatness at the last row and column."""
    scores, mirrored, upended = measured(picture), measured(picture[:, ::-1]), measured(picture[::-1])
    for name in ("entropy", "sharpness"):
        assert scores[name] == mirrored[name] == upended[name] or math.isnan(scores[name])
    assert scores["screenshot"] == mirrored["screenshot"] == upended["screenshot"] or math.isnan(scores["screenshot"])


def test_the_digest_names_version_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer that measures otherwise has another digest, so that no score of the old one counts as its own."""
    before = SCORER.digest
    assert before == QualityScorer().digest
    monkeypatch.setattr("curation.scores._SHARPNESS_AT_PX", 64)
    assert SCORER.digest != before
