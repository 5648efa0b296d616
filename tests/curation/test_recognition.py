"""Removed pictures are recognised by the marks of their copies; other pictures, and plain ones, are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageOps

from curation.fingerprints import pdq, pdq_orientations
from curation.near_embedding import WIDTH, Vectors
from curation.recognition import COPIES, Recogniser, marks_of, marks_of_hash, trimmed, views_of
from policy.suppression import Marks
from tests.curation.drawn import face, photo_like

Rgb = np.ndarray
ONE, OTHER = photo_like(1, 120, 90), photo_like(2, 120, 90)


class Colours:
    """An embedder without a model: the colours of nine by nine cells, less their mean."""

    digest = "c0" * 32

    def embed(self, pictures: Sequence[Rgb]) -> Vectors:
        if not pictures:
            return np.empty((0, WIDTH), np.int8)
        cells = [np.asarray(Image.fromarray(p).resize((9, 9), Image.Resampling.BOX), np.float32) for p in pictures]
        flat = np.stack([np.resize(c - c.mean(), WIDTH) for c in cells])
        vectors: Vectors = np.rint(flat / np.maximum(1, np.abs(flat).max(axis=1, keepdims=True)) * 127).astype(np.int8)
        return vectors


def recogniser(*removed: tuple[str, Marks], model: str = Colours.digest) -> Recogniser:
    return Recogniser(removed, max_distance=31, min_cosine=0.95, model=model)


@pytest.fixture(scope="module")
def marks() -> Marks:
    return marks_of(ONE, Colours(), known=pdq(ONE))


def test_a_hash_is_known_in_all_eight_orientations(marks: Marks) -> None:
    """Whichever way a copy is turned or mirrored its hash leads to the removal; no hash and another's lead nowhere."""
    found = recogniser(("r1", marks)).by_hash([*pdq_orientations(ONE), None, pdq(OTHER)[0]])
    assert [one.removal if one is not None else None for one in found] == ["r1"] * 8 + [None] * 2
    assert {one.method for one in found if one is not None} == {"pdq"}
    assert found[0] is not None
    assert found[0].likeness == 1


def test_copies_lead_to_the_nearest_removal_by_their_embeddings(marks: Marks) -> None:
    """Every copy that marks are made of, and a frame around it of any width and colour; not another picture."""
    both = recogniser(("r1", marks), ("r2", marks_of(OTHER, Colours())))
    picture = Image.fromarray(ONE)
    copies = [np.asarray(change(picture)) for change in COPIES.values()]
    framed = [np.asarray(ImageOps.expand(picture, width, (width, 40, 200))) for width in (4, 11, 30)]
    found = both.by_views(views_of([*copies, *framed, OTHER, face("smile")], Colours()))
    assert [one.removal if one is not None else None for one in found] == ["r1"] * (len(copies) + 3) + ["r2", None]


def test_known_embeddings_are_not_made_again(marks: Marks) -> None:
    """Pictures whose embeddings are at hand are asked by these, and embedded without their surround alone."""
    own = Colours().embed([ONE, OTHER])
    views = views_of([ONE, OTHER], Colours(), own=own)
    assert views.own is own
    assert not views.trimmed_of
    assert [one is not None for one in recogniser(("r1", marks)).by_views(views)] == [True, False]


def test_marks_of_another_model_are_counted_and_compared_by_their_hashes_alone(marks: Marks) -> None:
    """A vector that another model made counts for nothing, and the operator can be told of how many there are."""
    found = recogniser(("r1", marks), ("r2", Marks()), model="another")
    assert (found.of_other_models, found.embeds) == (1, False)
    assert found.by_vector(Colours().embed([ONE])) == [None]
    assert found.by_hash([pdq(ONE)[0]])[0] is not None


def test_a_plain_picture_leaves_no_marks() -> None:
    """Whatever is as plain would be taken for it; of one whose pixels are gone its hash is left, if it is one."""
    blank = np.full((80, 80, 3), 200, np.uint8)
    assert marks_of(blank, Colours()) == Marks()
    assert marks_of_hash(*pdq(blank)) == Marks()
    assert marks_of_hash(*pdq(ONE)) == Marks((pdq(ONE)[0],))


def test_a_flat_surround_is_taken_away_to_the_last_row() -> None:
    """A frame, and the white within it; of a picture without one nothing, nor of one that is nothing else."""
    drawing = np.full((70, 60, 3), 255, np.uint8)
    drawing[10:60, 12:50] = ONE[:50, :38]
    framed = np.asarray(ImageOps.expand(Image.fromarray(drawing), 7, (10, 20, 30)))
    assert trimmed(framed).shape == trimmed(drawing).shape == (50, 38, 3)
    assert np.array_equal(trimmed(framed), ONE[:50, :38])
    assert np.array_equal(trimmed(ONE), ONE)
    assert trimmed(np.full((40, 40, 3), 9, np.uint8)).shape == (40, 40, 3)
    assert trimmed(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)
