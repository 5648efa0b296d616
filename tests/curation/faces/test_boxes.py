"""What all detectors share: suppression, and boxes that lie within their picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curation.faces.boxes import faces_of, suppress

BOX = st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(1, 50)] * 2, st.floats(0, 1)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3], b[4])
)


@given(st.lists(BOX, max_size=12), st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_keeps_the_best_and_nothing_that_overlaps_it(
    boxes: list[tuple[float, ...]], overlap: float
) -> None:
    """What stays overlaps no better one; what goes overlaps a better one that stays; the order is by score."""
    array = np.array(boxes).reshape(-1, 5)
    kept = suppress(array, overlap).tolist()

    def shared(a: int, b: int) -> float:
        left, top = np.maximum(array[a, :2], array[b, :2])
        right, bottom = np.minimum(array[a, 2:4], array[b, 2:4])
        inner = max(0.0, right - left) * max(0.0, bottom - top)
        areas = [(array[i, 2] - array[i, 0]) * (array[i, 3] - array[i, 1]) for i in (a, b)]
        return float(inner / (sum(areas) - inner))

    margin = 1e-9
    assert [array[i, 4] for i in kept] == sorted((array[i, 4] for i in kept), reverse=True)
    assert all(shared(a, b) <= overlap + margin for at, a in enumerate(kept) for b in kept[:at])
    for gone in set(range(len(array))) - set(kept):
        assert any(array[k, 4] >= array[gone, 4] and shared(k, gone) > overlap - margin for k in kept)


@given(st.lists(BOX, max_size=12), st.sampled_from([0.25, 1.0, 3.0]), st.integers(1, 200), st.integers(1, 200))
def test_faces_lie_within_their_picture(boxes: list[tuple[float, ...]], scale: float, width: int, height: int) -> None:
    """Boxes are scaled and clipped; one that lies off the picture is none; the order stays."""
    faces = faces_of(np.array(boxes).reshape(-1, 5), scale, scale, width, height)
    assert all(0 <= f.x < width and 0 <= f.y < height and f.w > 0 and f.h > 0 for f in faces)
    assert all(f.x + f.w <= width + 0.1 and f.y + f.h <= height + 0.1 for f in faces)
    left = iter([round(b[4], 4) for b in boxes])
    assert all(any(score == face.score for score in left) for face in faces)

    def on_it(margin: float) -> int:
        """How many boxes reach at least so far into the picture."""
        return sum(b[0] * scale < width - margin and b[1] * scale < height - margin for b in boxes)

    assert on_it(0.1) <= len(faces) <= on_it(0.0)  # a sliver of less than a tenth of a pixel is none
