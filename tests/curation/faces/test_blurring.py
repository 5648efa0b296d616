"""Blurred boxes: nothing finer than a few averages is left in them, and outside not a pixel changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.faces.blurring import BLUR_ROUNDS, blur_boxes
from policy.evidence import Face


def noise(seed: int, side: int = 200) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def test_a_blurred_box_keeps_nothing_of_what_was_in_it() -> None:
    """Inside a box fine detail is gone; far outside not a pixel changed; a box off the picture does nothing."""
    rgb = noise(1)
    boxes = [Face(100, 100, 80, 80, 0.9), Face(-50, -50, 10, 10, 0.9), Face(900, 900, 10, 10, 0.9)]
    blurred = np.asarray(blur_boxes(Image.fromarray(rgb), boxes, scale=0.5))
    assert blurred[50:90, 50:90].std() < 0.2 * rgb[50:90, 50:90].std()
    changed = (blurred != rgb).any(axis=2)
    assert changed[40:100, 40:100].all()
    changed[40:100, 40:100] = False
    assert not changed.any()


@pytest.mark.parametrize("cells", [cells for _, cells in BLUR_ROUNDS])
@given(seed=st.integers(0, 1 << 30))
def test_what_has_the_same_averages_cannot_be_told_apart(cells: int, seed: int) -> None:
    """Shuffling the pixels within each averaged cell leaves the outcome as it was: it cannot be turned back."""
    rgb = noise(seed, 120)
    side = 100 // cells * cells
    box = Face(10, 10, side, side, 0.9)
    shuffled = rgb.copy()
    rng = np.random.default_rng(seed)
    cell = side // cells
    for top in range(10, 10 + side, cell):
        for left in range(10, 10 + side, cell):
            patch = shuffled[top : top + cell, left : left + cell].reshape(-1, 3)
            shuffled[top : top + cell, left : left + cell] = rng.permutation(patch).reshape(cell, cell, 3)
    assert (shuffled != rgb).any()
    first, second = (
        np.asarray(blur_boxes(Image.fromarray(pixels), [box], margin=0.0, cells=cells)) for pixels in (rgb, shuffled)
    )
    assert (first == second).all()


def test_each_round_blurs_more_than_the_one_before() -> None:
    """Margins grow and the averages become fewer."""
    margins, cells = zip(*BLUR_ROUNDS, strict=True)
    assert list(margins) == sorted(set(margins))
    assert list(cells) == sorted(set(cells), reverse=True)
