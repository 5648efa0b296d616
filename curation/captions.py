"""Captions for pictures without a text that fits: what a captioner proposes, and what of it is given.

A `RetrievalCaptioner` asks CLIP which text of a bank (curation/caption_bank.py) fits a picture best: a text that is
known, never words made up. A `CocaCaptioner` (curation/coca.py) makes its words up. Either proposes a few texts, the
likeliest first, each with where it comes from and a score that says how sure it is; `chosen` takes the first that may
still be given. Every answer says where its text came from and which model gave it which score.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from curation.caption_bank import BankEntry, BankText, CaptionBank, is_boilerplate
from curation.caption_index import BankIndex, Told, bank_embeddings
from curation.clip_model import Embeddings, Rgb, normalised_text
from policy.errors import ConfigurationError
from policy.provenance import canonical_json

__all__ = [
    "CAPTION_ORIGIN",
    "BankEntry",
    "BankText",
    "CaptionBank",
    "CaptionResult",
    "Captioner",
    "Encoder",
    "Proposal",
    "RetrievalCaptioner",
    "Standing",
    "chosen",
    "is_boilerplate",
    "shows_something",
    "unqualified",
]

CAPTION_ORIGIN: Final = "clip-retrieval"
# So many texts are proposed for a picture: if a removal takes one away, the next best is at hand.
PROPOSED: Final = 8


# A model sees a square of some hundred pixels: these would be a blot or a smear in it, and still get a score.
SMALLEST_PX: Final = 16
LONGEST: Final = 16


def shows_something(picture: Rgb) -> bool:
    """Whether a picture, [H, W, 3], has enough pixels for a caption: 16 a side, and no side longer than 16 others."""
    shorter, longer = sorted(picture.shape[:2])
    return bool(shorter >= SMALLEST_PX and longer <= LONGEST * shorter)


_PERSON = r"\b(?:man|woman|person|men|women|people)\b"
_QUALIFIER = re.compile(rf"[:,].*|{_PERSON}|\b(?:medium-)?(?:light|medium|dark) skin tone\b")


def unqualified(text: str) -> str:
    """A caption without sex, skin tone and what follows a colon or comma; "person" where only that is left of it."""
    plain = normalised_text(text)
    left = " ".join(_QUALIFIER.sub(" ", plain).split())
    return left or ("person" if re.search(_PERSON, plain) else plain)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A text for a picture. `cosine`: of both, in the model's space.

    `mean_log_probability`: of a text that was made up, a token's mean (natural logarithm); None of one that was found.
    """

    text: BankText
    cosine: float
    mean_log_probability: float | None = None


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """The text given to one picture. `score`: how sure the captioner is (`Captioner.sureness`); `cosine`: of both.

    `kept`: whether the score reaches the threshold. `sources`: everyone the text comes from, for the day one of them
    is removed.
    """

    text: str
    sources: tuple[str, ...]
    source_kind: str
    score: float
    cosine: float
    kept: bool
    model_digest: str
    bank_digest: str
    origin: str = CAPTION_ORIGIN

    @property
    def source(self) -> str:
        """The sources as one line."""
        return ",".join(self.sources)


Standing = Callable[[Sequence[BankText]], Sequence[BankText | None]]
"""What of some texts may still be given: as they are, with fewer sources, or None."""


class Captioner(Protocol):
    """Anything that proposes texts for pictures and says how sure it is.

    `origin`: what a caption of it is called. `digest`: of the model and of what else decides its words. `threshold`:
    from which score on its answer is kept. `without_qualifiers`: it is sure of no more than the unqualified text.
    """

    threshold: float
    origin: str
    without_qualifiers: bool

    @property
    def digest(self) -> str: ...

    @property
    def bank_digest(self) -> str: ...

    def propose(self, pictures: Sequence[Rgb], top: int = PROPOSED) -> list[tuple[Proposal, ...]]:
        """[H, W, 3] uint8 pictures -> the texts for each, the likeliest first, at most `top`."""

    def sureness(self, proposals: Sequence[Proposal]) -> float:
        """How sure it is of the first of some proposals for one picture: at most 1, and what `threshold` is of."""


class Encoder(Protocol):
    """What the captioner needs of a CLIP; `curation.clip_model.ClipModel` is one."""

    digest: str

    @property
    def scale(self) -> float: ...

    def encode_images(self, pictures: Sequence[Rgb]) -> Embeddings: ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings: ...


def chosen(
    captioner: Captioner, proposed: Sequence[Sequence[Proposal]], standing: Standing = lambda texts: texts
) -> list[CaptionResult | None]:
    """For each picture the first of its proposals that may still be given; None where none of them may.

    standing: asked of the first proposals of all pictures at once, then of the second ones of those left, and so on.
    """
    results: list[CaptionResult | None] = [None] * len(proposed)
    waiting = list(range(len(proposed)))
    rank = 0
    while waiting := [number for number in waiting if rank < len(proposed[number])]:
        left = standing([proposed[number][rank].text for number in waiting])
        for number, text in zip(waiting, left, strict=True):
            if text is not None:
                results[number] = _result(captioner, text, proposed[number][rank:])
        waiting = [number for number in waiting if results[number] is None]
        rank += 1
    return results


def _result(captioner: Captioner, text: BankText, proposals: Sequence[Proposal]) -> CaptionResult:
    score = captioner.sureness(proposals)
    said = unqualified(text.text) if captioner.without_qualifiers else text.text
    return CaptionResult(
        text=said,
        sources=text.sources,
        source_kind=text.source_kind,
        score=score,
        cosine=proposals[0].cosine,
        kept=score >= captioner.threshold,
        model_digest=captioner.digest,
        bank_digest=captioner.bank_digest,
        origin=captioner.origin,
    )


class RetrievalCaptioner:
    """The text of the bank that CLIP finds nearest, kept from `threshold` (of `sureness`) on.

    templates: a text is embedded as the mean over them ("{}" stands for it), which helps CLIPs that learnt from
    sentences. cache_dir: where the embeddings are kept between processes, in a folder for each model and set of
    templates (curation/caption_index.py). expected: how many pictures will come; with many, and a large bank, the
    search is approximate. without_qualifiers: a text is given without what qualifies it. told: called while texts are
    embedded.
    """

    origin = CAPTION_ORIGIN

    def __init__(
        self,
        clip: Encoder,
        bank: CaptionBank,
        *,
        threshold: float | None,
        cache_dir: Path | None = None,
        templates: tuple[str, ...] = ("{}",),
        expected: int = 0,
        without_qualifiers: bool = False,
        told: Told = lambda done, total: None,
    ) -> None:
        if threshold is None:
            raise ConfigurationError(
                "there is no score from which on a caption of this CLIP is kept",
                where="[captions]",
                remedy="Set threshold (custody inspect caption shows scores), or crawl enough pairs to measure it on",
            )
        if not len(bank):
            raise ConfigurationError("the caption bank is empty", where="[captions]", remedy="Name a phrase list")
        if not templates or any("{}" not in template for template in templates):
            raise ConfigurationError('a template without "{}"', where="[captions]")
        self.clip, self.bank, self.threshold, self.templates = clip, bank, threshold, templates
        self.without_qualifiers = without_qualifiers
        folder = None if cache_dir is None else captioner_folder(cache_dir, clip.digest, templates)
        embeddings = bank_embeddings(clip, bank, templates, folder, told)
        self.index = BankIndex(embeddings, bank.ids, folder=folder, name=bank.digest, expected=expected, told=told)

    @property
    def digest(self) -> str:
        return self.clip.digest

    @property
    def bank_digest(self) -> str:
        return self.bank.digest

    def propose(self, pictures: Sequence[Rgb], top: int = PROPOSED) -> list[tuple[Proposal, ...]]:
        """The `top` texts of the bank for each picture, nearest first, with their cosines."""
        if not len(pictures):
            return []
        rows, cosines = self.index.search(self.clip.encode_images(pictures), top)
        return [
            tuple(Proposal(self.bank[int(row)], float(cosine)) for row, cosine in zip(found, near, strict=True))
            for found, near in zip(rows, cosines, strict=True)
        ]

    def sureness(self, proposals: Sequence[Proposal]) -> float:
        """The first one's cosine, times its share among the first eight at the model's own temperature.

        A near text says little where others are as near: by this the surest tenth of captions is right twice as often
        as by the cosine alone (docs/benchmarks.md). The share is that of Radford et al. 2021, section 3.1.2, of eight.
        """
        cosines = np.array([proposal.cosine for proposal in proposals[:PROPOSED]])
        share = 1.0 / np.exp(self.clip.scale * (cosines - cosines[0])).sum()
        return float(cosines[0] * share)

    def caption_images(self, pictures: Sequence[Rgb]) -> list[CaptionResult]:
        """[H, W, 3] uint8 pictures -> one result each, in their order; nobody is asked whether a text still stands."""
        return [result for result in chosen(self, self.propose(pictures)) if result is not None]


def captioner_folder(cache_dir: Path, model_digest: str, templates: Sequence[str]) -> Path:
    """Where what is known of a model's texts is kept."""
    inputs = canonical_json([model_digest, list(templates)])
    return cache_dir / "captions" / hashlib.sha256(inputs.encode()).hexdigest()[:32]
