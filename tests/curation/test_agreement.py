"""Agreement of pictures and texts: a cosine each way, and a picture of a word told from a picture of the thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.agreement import Agreed, Agreement
from curation.clip_model import Embeddings
from policy.errors import InputError

Rgb = npt.NDArray[np.uint8]


class ReadingClip:
    """A CLIP of three things: red, blue, and a letter that is dark on its left side, off which it reads "red"."""

    name: Final = "reading"
    digest: Final = "f" * 64

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode_images(self, pictures: Sequence[Rgb]) -> Embeddings:
        self.asked.append(len(pictures))
        return np.stack([self._seen(picture.astype(float)) for picture in pictures]).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        assert len(set(texts)) == len(texts)  # each is asked of once
        found = np.array([["red" in text, "blue" in text, 0.5] for text in texts], np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

    def _seen(self, picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        red, _, blue = picture.mean(axis=(0, 1))
        half = picture.shape[1] // 2
        is_letter = picture[:, :half].mean() < 40 < 200 < picture[:, half:].mean()
        found = np.array([255.0, 0, 60]) if is_letter else np.array([red, blue, 60])
        return np.asarray(found / np.linalg.norm(found))


def coloured(red: int, green: int, blue: int, size: int = 32) -> Rgb:
    return np.full((size, size, 3), (red, green, blue), np.uint8)


def letter() -> Rgb:
    picture = np.full((32, 32, 3), 255, np.uint8)
    picture[:, :16] = 0
    return picture


def test_a_thing_agrees_mirrored_and_a_word_does_not() -> None:
    """What shows red agrees with "red" either way round; what only reads so falls apart in the mirror."""
    [[thing], [word]] = Agreement(ReadingClip()).score([coloured(250, 5, 5), letter()], [["red"], ["red"]])
    assert thing.score == pytest.approx(thing.flipped, abs=0.001)
    assert thing.score > 0.9
    assert word.score > 0.9
    assert word.score - word.flipped > 0.2


def test_each_text_of_a_picture_has_its_own_agreement() -> None:
    """A picture may stand under several texts, and without any; pictures are encoded twice, texts once."""
    clip = ReadingClip()
    found = Agreement(clip).score(
        [coloured(250, 0, 0), coloured(0, 0, 250), coloured(9, 9, 9)], [["red", "blue", " red\n"], ["blue"], []]
    )
    assert [len(own) for own in found] == [3, 1, 0]
    red, blue, spaced = found[0]
    assert red.score > 0.9 > blue.score
    assert spaced == red
    assert found[1][0].score > 0.9
    assert clip.asked == [3, 3]


def test_nothing_to_ask_asks_nothing() -> None:
    """Without pictures, or without texts, the CLIP is not asked."""
    clip = ReadingClip()
    assert Agreement(clip).score([], []) == []
    assert Agreement(clip).score([letter()], [[]]) == [()]
    assert clip.asked == []


def test_who_was_asked_is_named() -> None:
    """Name and the beginning of the digest, which covers weights and preprocessing."""
    assert Agreement(ReadingClip()).by == "reading@" + "f" * 16


def test_other_arrays_are_refused() -> None:
    """A grey array is no picture."""
    with pytest.raises(InputError, match="not RGB pixels"):
        Agreement(ReadingClip()).score([np.zeros((8, 8), np.uint8)], [["red"]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.sampled_from(("red", "blue", "red and blue")))))
def test_an_agreement_is_the_same_in_any_company(given_: list[tuple[int, int, str]]) -> None:
    """Neither other pictures nor other texts beside them change a digit."""
    agreement = Agreement(ReadingClip())
    pictures, texts = [coloured(red, 0, blue, 8) for red, blue, _ in given_], [[text] for _, _, text in given_]
    alone: list[tuple[Agreed, ...]] = [
        agreement.score([picture], [own])[0] for picture, own in zip(pictures, texts, strict=True)
    ]
    assert agreement.score(pictures, texts) == alone
