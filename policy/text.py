"""The rule over the text a sample is trained with, and what counts as a description at all."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from policy.evidence import Evidence
from policy.judgements import judgement
from policy.personal_data import contact_data, person_name
from policy.verdict import Judgement, Verdict

TEXT = "text"
# The reasons for which a pair waits for a caption: it has no text, or one that does not fit its picture.
CAPTION_WANTED = ("caption-missing", "caption-uncertain")


@dataclass(frozen=True, slots=True)
class TextRules:
    """What a text must be.

    `min_letters`: fewer letters are no description (an ideograph counts as a word). `max_chars`: a longer text is
    no caption. `min_caption_score`: the least CLIP score (cosine) of a caption that was found, below which it is not
    used, whatever its captioner says. `contact_data`: e-mail and postal addresses and telephone numbers in a text.
    `person_names`: what is likely somebody's name. `generic_words`: words that name no content, alone or in a row.
    """

    min_letters: int
    max_chars: int
    min_caption_score: float
    contact_data: Literal["deny", "ignore"]
    person_names: Literal["defer", "ignore"]
    generic_words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.min_letters <= self.max_chars:
            raise ValueError("min_letters must be at least 1 and at most max_chars")


_FILE_NAME = re.compile(
    r"(?:\S+|.{0,200}?)\.(?:jpe?g|jfif|png|gif|webp|avif|svg|bmp|tiff?|heic|ico|psd|raw|cr2|nef)(?:[?#]\S*)?\Z"
)
_ADDRESS = re.compile(r"(?:https?://|www\.|data:|/)\S*\Z")
_MACHINE_NAME = re.compile(r"(?=\S*[\d_])[\w.\-+=()@%&]+\Z|[0-9a-f-]{16,}\Z")  # one word holding digits or underscores
_FILLERS = frozenset(
    {"a", "an", "the", "of", "no", "nr", "number", "for", "this", "and", "de", "la", "le", "der", "das"}
)
_EDGES = " .,:;!?()[]<>-\u2013\u2014_'\"*|/"
_IDEOGRAPHS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def is_description(text: str | None, rules: TextRules) -> bool:
    """Whether an alt text describes a picture: no file name, address, bare number, nor words like "image" alone."""
    plain = " ".join(unicodedata.normalize("NFKC", text or "").split()).casefold()
    letters = sum(map(str.isalpha, plain)) + (rules.min_letters - 1) * bool(_IDEOGRAPHS.search(plain))
    if letters < rules.min_letters:
        return False
    if _FILE_NAME.match(plain) or _ADDRESS.match(plain) or _MACHINE_NAME.match(plain):
        return False
    generic = _casefolded(rules.generic_words)
    if plain.strip(_EDGES) in generic:
        return False
    words = [w for w in re.findall(r"[^\W\d_]+", plain) if w not in _FILLERS]
    return any(word not in generic for word in words)


@functools.lru_cache(maxsize=16)
def _casefolded(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.casefold() for word in words)


def judge_text(evidence: Evidence, rules: TextRules) -> Judgement:
    """A caption that was found and is sure enough, else an alt text that describes; neither: DEFER, to be captioned.

    Whichever of them is used must hold no personal data.
    """
    if evidence.caption is not None:
        return _judge_caption(evidence.caption, evidence.caption_score, rules)
    where = evidence.text_origin or ""
    if evidence.alt is not None and (personal := _contact_data(evidence.alt, where, rules)) is not None:
        return personal
    if not is_description(evidence.alt, rules):
        said = "no alt text" if evidence.alt is None else f"alt text {evidence.alt!r}"
        return judgement(TEXT, Verdict.DEFER, "caption-missing", said, where)
    if evidence.alt is not None and len(evidence.alt) > rules.max_chars:
        return judgement(TEXT, Verdict.DEFER, "text-too-long", f"{len(evidence.alt)} characters", where)
    if evidence.alt is not None and (personal := _person_name(evidence.alt, where, rules)) is not None:
        return personal
    return judgement(TEXT, Verdict.ALLOW, "alt-text", evidence.alt or "", where)


def _judge_caption(caption: str, score: float | None, rules: TextRules) -> Judgement:
    if (personal := _contact_data(caption, "caption", rules)) is not None:
        return personal
    if not caption.strip():
        return judgement(TEXT, Verdict.DEFER, "caption-missing", "the caption is empty", "caption")
    if len(caption) > rules.max_chars:
        return judgement(TEXT, Verdict.DEFER, "text-too-long", f"{len(caption)} characters", "caption")
    if score is None or not score >= rules.min_caption_score:
        shown = "no score" if score is None else f"score {score:.3f}, at least {rules.min_caption_score:.3f}"
        return judgement(TEXT, Verdict.DEFER, "caption-uncertain", shown, "caption")
    if (personal := _person_name(caption, "caption", rules)) is not None:
        return personal
    return judgement(TEXT, Verdict.ALLOW, "caption", f"{caption} ({score:.3f})", "caption")


def _contact_data(text: str, where: str, rules: TextRules) -> Judgement | None:
    """DENY for a text by which somebody can be reached, however long it is."""
    if rules.contact_data == "ignore" or (found := contact_data(text[:_MAX_SEARCHED])) is None:
        return None
    return judgement(TEXT, Verdict.DENY, "text-contact-data", f"{found.kind}: {found.text!r}", where)


def _person_name(text: str, where: str, rules: TextRules) -> Judgement | None:
    """DEFER for a text that likely names somebody."""
    if rules.person_names == "ignore" or (found := person_name(text)) is None:
        return None
    return judgement(TEXT, Verdict.DEFER, "text-person-name", repr(found), where)


_MAX_SEARCHED = 20_000  # characters; a longer text is too long to be used anyway
