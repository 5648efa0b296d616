"""The rule over the text a sample is trained with, and what counts as a description at all."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.personal_data import contact_data, person_name
from policy.verdict import Judgement, Verdict
from policy.wording import boilerplate, is_written_in, keywords, script

TEXT = "text"
# The reasons for which a pair waits for a caption: it has no text, or one that is no description of its picture. A
# caption that is sure enough is then judged in its place; the text stays in the evidence beside it.
CAPTION_WANTED = (
    *("caption-missing", "caption-uncertain", "text-file-name", "text-boilerplate", "text-keywords", "text-too-long"),
    *("text-language", "text-disagrees", "text-read-off"),
)
# Cosines that CLIP gave a picture and its alt text: as it is, and mirrored left to right.
AGREEMENT, AGREEMENT_FLIPPED = "clip-agreement", "clip-agreement-flipped"


@dataclass(frozen=True, slots=True)
class TextRules:
    """What a text must be.

    `min_letters`: fewer letters are no description (an ideograph counts as a word). `max_chars`: a longer text is
    no caption. `min_caption_score`: the least CLIP score (cosine) of a caption that was found, below which it is not
    used, whatever its captioner says. `contact_data`: e-mail and postal addresses and telephone numbers in a text.
    `person_names`: what is likely somebody's name. `boilerplate`: words about the page or its maker and none about the
    picture. `keywords`: words for a search engine. `languages`: ISO 639-1 codes of those that a text may be in, none:
    any; one in another with at least `language_certainty` is deferred. `min_agreement`: the least cosine that CLIP
    gives the picture and its alt text; `max_flip_drop`: by how much it may fall when the picture is mirrored, which
    takes from it what was read off rather than seen. 0: not asked. `generic_words`: words that name no content, alone
    or in a row.
    """

    min_letters: int
    max_chars: int
    min_caption_score: float
    contact_data: Literal["deny", "ignore"]
    person_names: Literal["defer", "ignore"]
    boilerplate: Literal["defer", "ignore"]
    keywords: Literal["defer", "ignore"]
    languages: tuple[str, ...]
    language_certainty: float
    min_agreement: float
    max_flip_drop: float
    generic_words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.min_letters <= self.max_chars:
            raise ValueError("min_letters must be at least 1 and at most max_chars")
        for code in self.languages:
            if not _LANGUAGE.match(code):
                raise ValueError(f"languages: {code!r} is no ISO 639 code of two or three letters, as 'en'")
        if not 0.5 <= self.language_certainty <= 1:
            raise ValueError("language_certainty must lie in [0.5, 1]")
        if not 0 <= self.min_agreement <= 1:
            raise ValueError("min_agreement must lie in [0, 1]")
        if not 0 <= self.max_flip_drop <= 2:
            raise ValueError("max_flip_drop must lie in [0, 2]")


_LANGUAGE = re.compile(r"[a-z]{2,3}\Z")


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
    return _no_description(text, rules) is None


def _no_description(text: str | None, rules: TextRules) -> str | None:
    """The reason why a text describes no picture, None where it may: nothing is said of its wording yet."""
    plain = " ".join(unicodedata.normalize("NFKC", text or "").split()).casefold()
    letters = sum(map(str.isalpha, plain)) + (rules.min_letters - 1) * bool(_IDEOGRAPHS.search(plain))
    if letters < rules.min_letters:
        return "caption-missing"
    if _FILE_NAME.match(plain) or _ADDRESS.match(plain) or _MACHINE_NAME.match(plain):
        return "text-file-name"
    generic = _casefolded(rules.generic_words)
    if plain.strip(_EDGES) in generic:
        return "caption-missing"
    words = [w for w in re.findall(r"[^\W\d_]+", plain) if w not in _FILLERS]
    return None if any(word not in generic for word in words) else "caption-missing"


@functools.lru_cache(maxsize=16)
def _casefolded(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.casefold() for word in words)


def judge_text(evidence: Evidence, rules: TextRules) -> Judgement:
    """A caption that was found and is sure enough, else an alt text that describes; neither: DEFER, to be captioned.

    Whichever of them is used must hold no personal data. What CAPTION_WANTED names a caption may put right.
    """
    if evidence.caption is not None:
        return _judge_caption(evidence.caption, evidence.caption_score, rules)
    where, alt = evidence.text_origin or "", evidence.alt
    if alt is None:
        return judgement(TEXT, Verdict.DEFER, "caption-missing", "no alt text", where)
    if (personal := _contact_data(alt, where, rules)) is not None:
        return personal
    if (why := _no_description(alt, rules)) is not None:
        return judgement(TEXT, Verdict.DEFER, why, f"alt text {alt!r}", where)
    if len(alt) > rules.max_chars:
        return judgement(TEXT, Verdict.DEFER, "text-too-long", f"{len(alt)} characters", where)
    if (worded := _wording(alt, where, rules)) is not None:
        return worded
    if rules.languages and (foreign := _language(evidence, alt, where, rules)) is not None:
        return foreign
    if (personal := _person_name(alt, where, rules)) is not None:
        return personal
    if (apart := _agreement(evidence, where, rules)) is not None:
        return apart
    return judgement(TEXT, Verdict.ALLOW, "alt-text", alt, where)


def _wording(alt: str, where: str, rules: TextRules) -> Judgement | None:
    """DEFER for a text that is about the page or its maker, or written for a search engine."""
    if rules.boilerplate == "defer" and (found := boilerplate(alt, _casefolded(rules.generic_words))):
        return judgement(TEXT, Verdict.DEFER, "text-boilerplate", repr(found), where)
    if rules.keywords == "defer" and (found := keywords(alt)):
        return judgement(TEXT, Verdict.DEFER, "text-keywords", found, where)
    return None


def _language(evidence: Evidence, alt: str, where: str, rules: TextRules) -> Judgement | None:
    """DEFER for a text in another script or, as far as that can be told, in another language than those wanted.

    Two words are mostly too little to tell by: a text whose language is uncertain passes.
    """
    if not any(is_written_in(alt, language) for language in rules.languages):
        return judgement(TEXT, Verdict.DEFER, "text-language", f"in {script(alt)} letters", where)
    found = evidence.text_language
    if found is None:
        return not_observed(TEXT, "the language of the alt text", where)
    if found.code not in rules.languages and not found.probability < rules.language_certainty:
        return judgement(TEXT, Verdict.DEFER, "text-language", f"{found.code} ({found.probability:.2f})", where)
    return None


def _agreement(evidence: Evidence, where: str, rules: TextRules) -> Judgement | None:
    """DEFER for a text that CLIP does not find in the picture, or finds there only as letters."""
    if not (rules.min_agreement or rules.max_flip_drop):
        return None
    score, flipped = evidence.score(AGREEMENT), evidence.score(AGREEMENT_FLIPPED)
    if score is None or (rules.max_flip_drop and flipped is None):
        return not_observed(TEXT, "the agreement of picture and alt text", where)
    if rules.min_agreement and not score >= rules.min_agreement:
        detail = f"score {score:.3f}, at least {rules.min_agreement:g}"
        return judgement(TEXT, Verdict.DEFER, "text-disagrees", detail, where)
    if rules.max_flip_drop and flipped is not None and not score - flipped <= rules.max_flip_drop:
        detail = f"score {score:.3f}, mirrored {flipped:.3f}: at most {rules.max_flip_drop:g} lower"
        return judgement(TEXT, Verdict.DEFER, "text-read-off", detail, where)
    return None


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
