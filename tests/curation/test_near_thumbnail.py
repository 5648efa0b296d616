"""Thumbnails: what is left of a copy, however small and spoilt, is its picture's."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance

from curation.near_embedding import WIDTH, cosines
from curation.near_thumbnail import Thumbnails
from tests.curation.drawn import face, photo_like


def spoilt(picture: np.ndarray) -> np.ndarray:
    """A quarter of the size, at JPEG quality 10."""
    image, held = Image.fromarray(picture), io.BytesIO()
    image.resize((image.width // 4, image.height // 4)).save(held, "JPEG", quality=10)
    return np.asarray(Image.open(held))


def test_what_is_left_of_a_small_drawing_is_nearest_to_it() -> None:
    """Spoilt and made smaller or brighter, a face is nearer to itself than to the same face with another mouth."""
    smile, frown = (face(mouth, size=144) for mouth in ("smile", "frown"))
    bright = np.asarray(ImageEnhance.Brightness(Image.fromarray(smile // 2)).enhance(1.5))
    found = Thumbnails().embed([smile, frown, spoilt(smile), bright, photo_like(1, 90, 200)])
    assert found.shape == (5, WIDTH)
    for copy in (2, 3):
        own, variant, another = (cosines(found[[other]], found[[copy]])[0] for other in (0, 1, 4))
        assert own > max(0.93, variant)
        assert variant > another


def test_what_shows_nothing_has_no_thumbnail_and_every_size_is_taken() -> None:
    """A blank picture is zeros, whatever its shape; a picture of one row is one as others are."""
    row = photo_like(2, 64)[:1]
    found = Thumbnails().embed([np.full((1, 1, 3), 128, np.uint8), np.full((40, 9, 3), 128, np.uint8), row])
    assert not found[:2].any()
    assert found[2].any()
    assert Thumbnails().embed([]).shape == (0, WIDTH)


def test_no_part_of_a_thumbnail_is_that_of_a_picture_with_the_same_corner() -> None:
    """A picture that differs elsewhere shares no run of 16 numbers: a removed one's are not taken for its own."""
    smile, frown = Thumbnails().embed([face("open", size=144), face("line", size=144)])
    windows = [{vector[at : at + 16].tobytes() for at in range(WIDTH - 15)} for vector in (smile, frown)]
    assert not windows[0] & windows[1]
