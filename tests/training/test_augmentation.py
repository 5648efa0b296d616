"""Variants of pictures: keyed to the sample alone, within bounds, and never false to what the caption says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augmentation import DRAWS, draw_variants, draw_views, may_be_mirrored, varied

UNIFORM = st.floats(0, 1, exclude_max=True)


def gradient(height: int, width: int) -> np.ndarray:
    """A picture whose every pixel is another colour."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((y * 7 % 256, x * 5 % 256, (x + y) % 256), axis=2).astype(np.uint8)


def test_a_variant_belongs_to_its_sample_alone() -> None:
    """What is drawn for a slot is the same whichever slots are drawn with it; seeds, epochs and slots differ."""
    ordinals, epochs = np.array([3, 8, 5, 1]), np.array([0, 0, 2, 7])
    together = draw_variants(1, epochs, ordinals)
    assert together.shape == (4, DRAWS)
    assert np.array_equal(together[2:3], draw_variants(1, epochs[2:3], ordinals[2:3]))
    assert np.array_equal(draw_views(1, epochs, ordinals, 5)[1:2], draw_views(1, epochs[1:2], ordinals[1:2], 5))
    for other in (draw_variants(2, epochs, ordinals), draw_variants(1, epochs + 1, ordinals)):
        assert not np.isin(other, together).any()
    many = draw_views(1, np.arange(4000) // 100, np.arange(4000) % 100, 4)
    assert np.bincount(many, minlength=4).min() > 900


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 1), st.lists(UNIFORM, min_size=DRAWS, max_size=DRAWS))
def test_a_crop_keeps_the_share_of_the_picture_that_was_asked_for(
    height: int, width: int, crop_area: float, draws: list[float]
) -> None:
    """Up to whole pixels at least `crop_area` is kept, and what is kept is a part of the picture."""
    picture = gradient(height, width)
    crop = varied(picture, np.array(draws), crop_area=crop_area, jitter=0, mirror=False)
    h, w = crop.shape[:2]
    assert 1 <= h <= height
    assert 1 <= w <= width
    assert (h + 1) * (w + 1) >= crop_area * height * width
    found = [
        (y, x)
        for y in range(height - h + 1)
        for x in range(width - w + 1)
        if np.array_equal(picture[y : y + h, x : x + w], crop)
    ]
    assert found


def test_nothing_to_change_leaves_the_picture_as_it_is() -> None:
    """The whole picture, no jitter and no mirror give the picture; a low draw mirrors it where that is allowed."""
    picture, draws = gradient(9, 13), np.full(DRAWS, 0.25)
    assert np.array_equal(varied(picture, draws, crop_area=1, jitter=0, mirror=False), picture)
    assert np.array_equal(varied(picture, draws, crop_area=1, jitter=0, mirror=True), picture[:, ::-1])
    assert np.array_equal(varied(picture, draws + 0.5, crop_area=1, jitter=0, mirror=True), picture)


@given(st.lists(UNIFORM, min_size=DRAWS, max_size=DRAWS))
def test_jitter_changes_no_hue(draws: list[float]) -> None:
    """Grey stays grey, and the order of a colour's channels stays: red does not become green."""
    grey = np.full((5, 5, 3), 128, np.uint8)
    grey[2] = 60
    changed = varied(grey, np.array(draws), crop_area=1, jitter=0.3, mirror=False).astype(int)
    assert np.ptp(changed, axis=2).max() <= 1
    orange = np.full((4, 4, 3), (200, 130, 60), np.uint8)
    red, green, blue = varied(orange, np.array(draws), crop_area=1, jitter=0.3, mirror=False)[0, 0].astype(int)
    assert red > green > blue


@pytest.mark.parametrize(
    ("caption", "allowed"),
    [
        ("A red apple", True),
        ("a bright copper kettle", True),
        ("Left arrow", False),
        ("turn right", False),
        ("counterclockwise symbol", False),
        ("the letter B", False),
        ("Stop sign", False),
        ("flag of Norway", False),
        ('a shirt that says "hello"', False),
        ("west wind", False),
        ("copyright symbol", True),
        ("wordless joy", True),
    ],
)
def test_captions_of_sides_and_writing_forbid_the_mirror(caption: str, allowed: bool) -> None:
    """A mirror image would make the caption false: not drawn."""
    assert may_be_mirrored(caption) is allowed
