"""How well a picture and its text agree, as CLIP sees it, and whether it saw the thing or read its name.

CLIP reads: a photo of a label "apple" agrees with "an apple" (Goh et al. 2021, "Multimodal Neurons in Artificial Neural
Networks"). Letters do not survive a mirror, things do: a score that falls when the picture is mirrored was read off it.
A CLIP that learnt with mirrored pictures has learnt to look past that, and tells less by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from curation.clip_model import Embeddings, Rgb
from curation.scores import checked


class Encoder(Protocol):
    """What is needed of a CLIP; `curation.clip_model.ClipModel` is one. Embeddings are normalised."""

    name: str
    digest: str

    def encode_images(self, pictures: Sequence[Rgb]) -> Embeddings: ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings: ...


@dataclass(frozen=True, slots=True)
class Agreed:
    """Cosines of a picture and a text: as the picture is, and mirrored left to right."""

    score: float
    flipped: float


class Agreement:
    """Asks a CLIP of pictures and the texts beside them, in batches."""

    def __init__(self, clip: Encoder) -> None:
        self._clip = clip

    @property
    def by(self) -> str:
        """The CLIP as evidence names it."""
        return f"{self._clip.name}@{self._clip.digest[:16]}"

    def score(self, pictures: Sequence[Rgb], texts: Sequence[Sequence[str]]) -> list[tuple[Agreed, ...]]:
        """For each uint8 [H, W, 3] picture the agreement with each of its texts, in their order.

        White space counts as single. What the CLIP's tokenizer cuts off is not asked of. Raises InputError for other
        arrays.
        """
        if not pictures:
            return []
        pictures = [checked(picture, "agreement of picture and text") for picture in pictures]
        plain = [[" ".join(text.split()) for text in own] for own in texts]
        places = {text: place for place, text in enumerate(dict.fromkeys(text for own in plain for text in own))}
        if not places:
            return [() for _ in pictures]
        said = self._clip.encode_texts(list(places))
        seen = self._clip.encode_images(pictures)
        mirrored = self._clip.encode_images([np.ascontiguousarray(picture[:, ::-1]) for picture in pictures])
        return [
            tuple(
                Agreed(_cosine(seen[number], said[places[text]]), _cosine(mirrored[number], said[places[text]]))
                for text in own
            )
            for number, own in enumerate(plain)
        ]


def _cosine(one: Embeddings, other: Embeddings) -> float:
    """Of two normalised embeddings [D], one product at a time: a matrix's would depend on what is in it beside.

    Four digits: what lies below differs between processors.
    """
    return round(float(np.dot(one, other)), 4)
