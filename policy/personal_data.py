"""Personal data in a text: e-mail and postal addresses, telephone numbers; and what is likely a person's name.

The texts are captions and alt texts: short, of any language, written by anybody. What reaches a person (contact data)
is looked for with precision enough to refuse on; a name is only ever likely. Everything here is linear in the text's
length: bounded repetitions, each looked for from fixed marks.
"""

# ruff: noqa: RUF001 - addresses and marks of several scripts

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from policy.name_lists import (
    AMBIGUOUS_NAMES,
    GIVEN_NAMES,
    KNOWN_THINGS,
    PARTICLES,
    PLACES_BEFORE,
    RANKS,
    SURNAMES,
    THINGS,
    TITLES,
)
from policy.patterns import lazily


@dataclass(frozen=True, slots=True)
class Found:
    """Something personal: what it is, and the words that show it."""

    kind: Literal["e-mail address", "telephone number", "postal address", "name"]
    text: str


def _plain(text: str) -> str:
    """A text as it is read: entities undone, compatibility forms folded, characters that nobody sees left out."""
    if "&" in text:
        text = html.unescape(text)
    if text.isascii():
        return text
    return _UNSEEN.sub("", unicodedata.normalize("NFKC", text))


# Soft hyphens, joiners, direction marks, variation selectors, tags.
_UNSEEN = lazily(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def contact_data(text: str) -> Found | None:
    """The first e-mail address, telephone number or postal address in a text."""
    plain = _plain(text)
    if (found := _e_mail(plain)) is not None:
        return Found("e-mail address", found)
    digits = _DIGIT.findall(plain)
    if not digits:
        return None
    if len(digits) >= 5 and (found := _telephone(plain)) is not None:
        return Found("telephone number", found)
    if (found := _address(plain)) is not None:
        return Found("postal address", found)
    return None


_DIGIT = lazily(r"\d")

# ── e-mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_LOCAL_END = lazily(r"[\w.!#$%&'*+/=?^`{|}~-]{0,64}[\w+-]\Z")
_DOMAIN = lazily(r"(?:[^\W_](?:[\w-]{0,62})\.){1,6}([^\W\d_]{2,24}|xn--[a-z0-9-]{2,60})\b")
_FILES = frozenset(
    {"png", "jpg", "jpeg", "gif", "webp", "svg", "avif", "bmp", "tif", "tiff", "ico", "js", "css", "html"}
)
_TOP = (
    "com|org|net|info|biz|edu|gov|int|eu|de|at|ch|fr|it|es|pt|nl|be|lu|uk|ie|se|no|dk|fi|is|pl|cz|sk|hu|ro|bg|gr|hr|si|rs"
    "|ru|ua|tr|il|in|cn|jp|kr|tw|hk|sg|au|nz|us|ca|mx|br|ar|cl|za|io|me|app|dev|example|test|invalid"
)
_AT = r"\s{0,2}[(\[{<]\s?(?:at|ät|@|arroba|chez|собака)\s?[)\]}>]\s{0,2}"
_DOT = r"(?:\s{0,2}[(\[{<]\s?(?:dot|punkt|punto|point|ponto|\.)\s?[)\]}>]\s{0,2}|\s(?:dot|punkt|punto)\s|\.)"
_HIDDEN = lazily(
    rf"""\b[\w.+-]{{1,64}}(?:
        {_AT}[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}}){{0,3}}{_DOT}(?:{_TOP})\b   # name (at) example (dot) org
        |\s(?:at|ät|@)\s[\w-]{{1,63}}(?:\s(?:dot|punkt|punto)\s[\w-]{{1,63}}){{0,3}}\s(?:dot|punkt|punto)\s(?:{_TOP})\b
        |\s?@\s?[\w-]{{1,63}}(?:\s?\.\s?[\w-]{{1,63}}){{0,3}}\s?\.\s?(?:{_TOP})\b                # name @ example . org
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_HIDES = lazily(r"@|[(\[{<]\s?(?:at|ät|arroba|chez|собака)\s?[)\]}>]|\s(?:dot|punkt|punto)\s", re.IGNORECASE)


def _e_mail(text: str) -> str | None:
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain is not None and domain[1].lower() not in _FILES:
            local = _LOCAL_END.search(text, max(0, at - 65), at)
            if local is not None:
                return text[local.start() : domain.end()]
        at = text.find("@", at + 1)
    for mark in itertools.islice(_HIDES.finditer(text), 50):
        start = max(0, mark.start() - 90)
        if (found := _HIDDEN.search(text, start, mark.end() + 160)) is not None:
            return found[0]
    return None


# ── telephone ──────────────────────────────────────────────────────────────────────────────────────────────────────

_DATES = lazily(
    r"(?<![\d.])(?:(?:0?[1-9]|[12]\d|3[01])[./-](?:0?[1-9]|[12]\d|3[01])[./-](?:\d{4}|\d\d)(?![./-]?\d)"
    r"|(?:1[5-9]|20)\d\d[./-](?:0?[1-9]|1[0-2])[./-]\d{1,2}(?!\d)"
    r"|(?:1\d|20)\d\d\s?[-\u2013/]\s?(?:1\d|20)\d\d(?!\d))"
)
_RUN = lazily(r"(?<![\w.,+])(?:\+\s?)?\(?\d(?:[ ().\-/\u2010-\u2013\u00a0]{0,3}\d){5,18}(?![\w])")
_LABEL = lazily(
    r"(?:\b(?:tel|tél|telefon|telefono|teléfono|téléphone|telephone|phone|fon|fone|tfno|tlf|tfn|mob|mobil|mobile|móvil|cell"
    r"|handy|fax|whatsapp|signal|call|hotline|puhelin|telefoon|тел|телефон|moby)\b|[☎☏📞📱✆]|電話|电话|전화)"
    r"(?:\s?(?:number|nr|no|nummer|us|me|now|at|\(\w{1,10}\))){0,2}[\s.:;#°º]{0,4}\Z",
    re.IGNORECASE,
)
_NO_PHONE_BEFORE = lazily(
    r"(?:\b(?:isbn|issn|ean|upc|gtin|sku|doi|asin|oclc|pmid|hs|no|nr|nº|n°|num|number|nummer|inv|inventory|ref|part|item"
    r"|model|modell|article|artikel|art|serial|code|id|order|lot|cat|catalog|catalogue|accession|version|patent|vol|page"
    r"|seite|coordinates|lat|lon|gps|ip|serie|código|référence|réf|plate)\b[\s.:#\-№]{0,6}|[#№$€£¥]\s?)\Z",
    re.IGNORECASE,
)
_UNIT_AFTER = lazily(
    r"\s?(?:[x×*]\s?\d|(?:mm|cm|dm|m|km|px|kg|g|lb|lbs|oz|ml|l|inch|in|ft|usd|eur|gbp|chf|dollars?|euros?|hz|mhz|pieces|pcs"
    r"|years|people|views)\b|[%€$£¥°\"″'′])",
    re.IGNORECASE,
)
_INTERNATIONAL = lazily(r"\+|00[1-9]")
_NATIONAL = lazily(
    r"""
    (?:1[ .\-]?)?(?:\([1-9]\d\d\)\ ?|[2-9]\d\d[ .\-]|1\d\d-)\d{3}[ .\-]\d{4}      # (202) 555-0143
    |555-\d{4}
    |(?:8[ \-]?)?\(\d{3,5}\)\ ?\d{1,3}-\d\d-\d\d|8[ \-]\d{3}[ \-]\d{3}-\d\d-\d\d   # 8 (495) 123-45-67
    |[6-9]\d\d\ \d\d\ \d\d\ \d\d|9\d\ \d{3}\ \d\d\ \d\d                  # 612 34 56 78
    |\d\d\ 9\d{4}-\d{4}                                                 # 11 91234-5678
    """,
    re.VERBOSE,
)
_AREA = lazily(r"\((?!(?:1[5-9]|20)\d\d\))\d{2,5}\)[ \-]?\d[\d \-/]{4,}")
_UPC = lazily(r"\d \d{5} \d{5} \d\Z")


def _telephone(text: str) -> str | None:
    undated = _DATES.sub("|", text)
    for run in _RUN.finditer(undated):
        written = run[0].strip()
        digits = _DIGIT.findall(written)
        before = undated[max(0, run.start() - 32) : run.start()]
        labelled = _LABEL.search(before) is not None
        if len(digits) > 15 or (not labelled and len(digits) < 7):
            continue
        if labelled:
            return written
        if _NO_PHONE_BEFORE.search(before) or _UNIT_AFTER.match(undated, run.end()):
            continue
        if _is_telephone(written, "".join(digits)):
            return written
    return None


def _is_telephone(written: str, digits: str) -> bool:
    """Whether a run of digits and separators is written as telephone numbers are, somewhere in the world."""
    if _INTERNATIONAL.match(written):
        return len(digits) >= (8 if written[0] == "+" else 10)
    if _NATIONAL.fullmatch(written):
        return True
    if _AREA.fullmatch(written):
        return 8 <= len(digits) <= 13
    grouped = len(digits) < len(written)
    if not grouped or not written.lstrip("(").startswith("0") or not 9 <= len(digits) <= 12:
        return False  # a trunk prefix and groups: 030 12345-67, 01 99 00 12 34
    return not (_is_isbn(written, digits) or _UPC.match(written) or re.match(r"0[.]\d", written))


def _is_isbn(written: str, digits: str) -> bool:
    """Whether ten digits in four groups have an ISBN's check digit."""
    if len(digits) != 10 or len(re.findall(r"[ \-]", written)) != 3:
        return False
    return sum((10 - i) * int(d) for i, d in enumerate(digits)) % 11 == 0


# ── postal address ─────────────────────────────────────────────────────────────────────────────────────────────────

_UP = "A-ZÀ-ÖØ-ÞŁŚŻŹĆČŠŽŘĐİ"
_NUMBER = r"\d{1,4}\s?[a-zA-Z]?(?:\s?[-/]\s?\d{1,4}[a-z]?)?\b"
_CITY = rf"[{_UP}][^\W\d_]+"
_POSTCODE = (
    r"(?:[A-Z]{1,2}-)?\d{5}(?:-\d{3,4})?|\d{3}\s\d{2}|\d{2}-\d{3}|\d{4}-\d{3}|\d{4}\s?[A-Z]{2}\b|\d{4}"
    r"|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"
)
# After the street: a postcode with a city, or a city, or a state with its code.
_AFTER = lazily(
    rf"[\s,;|·–-]{{1,4}}(?:(?:{_POSTCODE})\s{{1,2}}{_CITY}|(?:{_CITY}[\s,.]{{1,3}}){{1,4}}(?:[A-Z]{{2}}\s)?(?:{_POSTCODE})\b"
    rf"|(?:{_POSTCODE})\s*\Z)"
)
_CITY_AFTER = lazily(rf"\s?[,;|·\n]\s?(?:{_CITY})")
_GERMANIC = (
    "straße|strasse|str\\.|weg|platz|gasse|allee|ring|ufer|damm|chaussee|steig|straat|laan|plein|gracht|kade|singel|dijk"
    "|gatan|gata|gaten|gate|gade|vägen|vej|veien|vei|katu|tie"
)
_ENGLISH = (
    "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Sq|Terrace|Way|Place|Pl|Close"
    "|Crescent|Highway|Hwy|Parkway|Pkwy|Row|Mews|Gardens|Grove|Walk"
)
_SUFFIX = r"(?:\s(?:NW|NE|SW|SE|[NSEW])\b)?(?:,?\s(?:Apt|Suite|Ste|Unit|Flat)\.?\s?\w{1,6}\b|,?\s?\#\s?\w{1,6}\b)?"
_STREETS = lazily(
    rf"""
    (?P<a>\b[{_UP}][\w.-]{{0,40}}(?:{_GERMANIC})\s{_NUMBER})                     # Musterstraße 12
    |(?P<b>\b[{_UP}][\w-]{{1,30}}\s(?:Straße|Strasse|Str\.|Weg|Platz|Allee|Ring|Ufer|Damm|Gasse)\s{_NUMBER})
    |(?P<c>\b\d{{1,5}}[A-Za-z]?\s(?:[NSEW]\.?\s)?(?:(?:[{_UP}][\w'’.-]{{0,30}}|\d{{1,3}}(?:st|nd|rd|th))\s){{1,4}}(?:{_ENGLISH})\b\.?{_SUFFIX})
    |(?P<d>\b\d{{1,4}}(?:\s?(?:bis|ter))?,?\s(?i:rue|avenue|av\.|boulevard|bd\.?|place|chemin|allée|impasse|quai|route|cours)
        \s[\w'’ .-]{{2,50}}?(?=\s?[,;\n]|\s\d{{5}}\b|\Z))
    |(?P<e>\b(?:Calle|C/|Avenida|Avda\.?|Av\.|Paseo|Plaza|Carrer|Rua|Travessa|Praça|Via|Viale|Piazza|Corso|Largo|Vicolo|ul\.
        |aleja|al\.|[Уу]л\.|улица|проспект|Rruga|Strada|Str\.)\s?[^\W\d_][^\d\n]{{1,40}}?,?\s(?:n[º°.o]{{0,2}}\s?|д\.\s?)?{_NUMBER})
    |(?P<f>\b[{_UP}][\w.'’-]{{1,30}}\s{_NUMBER},\s(?:D-|DE-|F-|I-|E-)?\d{{5}}\s{_CITY})      # Am Markt 5, 12345 Stadt
    """,
    re.VERBOSE,
)
_COMPLETE = lazily(
    r"""
    〒\s?\d{3}-?\d{4}
    |[都道府県市区町村][^\s、。]{0,12}\d{1,3}(?:丁目|番地|番|[-−]\d{1,3}[-−]\d{1,3})
    |[省市区县][^\s，。]{0,12}[路街道巷]\d{1,4}号
    |\bP\.?\s?O\.?\s?Box\s\d{2,6}\b|\bPostfach\s\d[\d ]{1,7}\b|\bApartado\s(?:de\s)?(?:[Cc]orreos\s)?\d{2,6}\b
    |\b[А-ЯЁ][а-яё-]{2,20},\s(?:ул\.|улица|пр\.|проспект)\s?[А-ЯЁа-яё .-]{2,40},?\s(?:д\.\s?)?\d{1,4}
    """,
    re.VERBOSE,
)
_YEAR = lazily(r"(?:1[5-9]|20)\d\d\s")


def _address(text: str) -> str | None:
    """A street with its number and a postcode or a city. A street alone is a place, and a year before it no number."""
    if (found := _COMPLETE.search(text)) is not None:
        return found[0]
    for street in _STREETS.finditer(text):
        if street["f"]:
            return street[0]
        after = _AFTER.match(text, street.end())
        if after is None and not _YEAR.match(street[0]):
            after = _CITY_AFTER.match(text, street.end())
        if after is not None:
            return text[street.start() : after.end()]
    return None


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_WORDS = lazily(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*\.?|[^\w\s]|\d+")
_GIVEN = GIVEN_NAMES | AMBIGUOUS_NAMES
_CUE = lazily(
    r"\b(?:portrait|headshot|self-portrait|mugshot|selfie|bust|obituary|biography|interview|photographer|porträt|porträtt|bildnis|retrato|ritratto"
    r"|portret|портрет|(?:photo|photograph|painting|drawing|illustration|image|picture|foto|credit)(?=\s?:|\sby\b|\svon\b))"
    r"(?:\s(?:photo|photograph|painting|picture|drawing))?(?:\s(?:of|by|with|von|de|di|du|do|da|av|van|des|der)\s|\s?[:,]\s)",
    re.IGNORECASE,
)
_HAN_TITLE = lazily(r"[\u4e00-\u9fff]{1,3}(?:先生|女士|小姐|さん|氏)(?![\u4e00-\u9fff])")
_HAN_NOBODY = ("皆", "客", "父", "母", "兄", "姉", "爷", "妻", "娘", "奥", "神", "王子", "医者", "本屋", "花屋")


def person_name(text: str) -> str | None:
    """What is likely a person's name in a text."""
    plain = _plain(text)
    words = _WORDS.findall(plain)
    lower = plain.islower()
    if not lower and plain.isupper():
        words = [word.title() for word in words]
    if (found := next(_by_words(words, lower), None)) is not None:
        return found
    if (cue := _CUE.search(plain)) is not None and (found := _after_cue(plain[cue.end() :], lower)) is not None:
        return found
    for han in _HAN_TITLE.finditer(plain) if not plain.isascii() else ():
        if not han[0].startswith(_HAN_NOBODY):
            return han[0]
    return None


def _by_words(words: list[str], lower: bool) -> Iterator[str]:
    """Names by their given name or title, from the left."""
    for i, word in enumerate(words[:-1]):
        bare = word.rstrip(".").casefold()
        if bare in TITLES:
            if (name := _titled(words, i, lower)) is not None:
                yield name
        elif bare in RANKS and not lower:
            if (name := _titled(words, i, lower)) is not None and _is_name_word(words[i + 1]):
                yield name
        elif (bare in _GIVEN or bare.partition("-")[0] in GIVEN_NAMES) and (lower or word[0].isupper()):
            before = words[i - 1].rstrip(".").casefold() if i else ""
            if before not in PLACES_BEFORE and (name := _full_name(words, i, lower)) is not None:
                yield name
        elif len(bare) == 1 and word.endswith(".") and word[0].isupper():  # J. Smith, J. K. Smith
            at = i + 1
            while at < min(i + 4, len(words) - 1) and len(words[at]) == 2 and words[at].endswith("."):
                at += 1
            after = (word.rstrip(".").casefold() for word in _capitalised(words, at + 1))
            known = words[at].casefold().rstrip(".") in SURNAMES and words[at][0].isupper()
            if known and not any(word in THINGS and word not in SURNAMES for word in after):
                yield " ".join(words[i : at + 1])
        elif bare in SURNAMES and words[i + 1] == "," and i + 2 < len(words):  # Schmidt, Maria
            given = words[i + 2]
            if given[0].isupper() and given.casefold() in GIVEN_NAMES - AMBIGUOUS_NAMES and i + 3 >= len(words):
                yield " ".join(words[i : i + 3])


def _is_name_word(word: str) -> bool:
    bare = word.rstrip(".").casefold()
    return bare in SURNAMES or (bare in GIVEN_NAMES and bare not in AMBIGUOUS_NAMES)


def _titled(words: list[str], i: int, lower: bool) -> str | None:
    """A title and the capitalised words after it, unless they are nobody's."""
    if not words[i][0].isupper() and not lower and words[i][0] != "г":
        return None
    run = _capitalised(words, i + 1)
    if not run or (lower and not _is_name_word(words[i + 1])):
        return None
    title = words[i].rstrip(".")
    if f"{title} {run[0].rstrip('.')}".casefold() in KNOWN_THINGS or run[0].rstrip(".").casefold() in THINGS - SURNAMES:
        return None
    return " ".join([words[i], *run])


def _capitalised(words: list[str], start: int) -> list[str]:
    """The capitalised words from a place on, particles between them included, five at most."""
    run: list[str] = []
    for word in words[start : start + 5]:
        if word[0].isupper() or (word.casefold() in PARTICLES and not word.endswith(".")):
            run.append(word)
            if word.endswith(".") and len(word) > 3:  # the sentence ends
                break
        else:
            break
    while run and run[-1].casefold() in PARTICLES and not run[-1][0].isupper():
        run.pop()
    return run


def _full_name(words: list[str], i: int, lower: bool) -> str | None:
    """A given name with what looks like its surname."""
    given = words[i].rstrip(".").casefold()
    if words[i].endswith(".") and len(given) > 2:
        return None
    if lower:
        last = words[i + 1]
        known = last in SURNAMES and given not in AMBIGUOUS_NAMES and f"{given} {last}" not in KNOWN_THINGS
        return f"{words[i]} {last}" if known and last not in THINGS else None
    run = _capitalised(words, i + 1)
    if not run:
        return None
    initial = len(run) > 1 and len(run[0].rstrip(".")) == 1
    bare = [word.rstrip(".").casefold() for word in run]
    # "John F. Kennedy Airport", "Maria Schmidt Street": what comes last says what it is.
    if any(word in THINGS and word not in SURNAMES for word in bare):
        return None
    surname = next((word for word in bare if word not in PARTICLES and len(word) > 1), "")
    if not surname or _is_known(given, bare) or (surname.endswith("ing") and surname not in SURNAMES):
        return None
    if surname.endswith(("'s", "’s")) and len(bare) == 1 and surname[:-2] not in SURNAMES:
        return None
    if given in AMBIGUOUS_NAMES and not initial and not any(word in SURNAMES for word in bare):
        return None
    if given in AMBIGUOUS_NAMES and surname in THINGS:
        return None
    return " ".join([words[i], *run])


def _is_known(given: str, rest: list[str]) -> bool:
    two = f"{given} {rest[0]}"
    return (
        two in KNOWN_THINGS or f"{two} {' '.join(rest[1:3])}" in KNOWN_THINGS or two.removesuffix("'s") in KNOWN_THINGS
    )


def _after_cue(text: str, lower: bool) -> str | None:
    """After "portrait of" and its like: two capitalised words that name no thing, or one and a given name."""
    words = _WORDS.findall(text[:120])
    if lower:
        known = len(words) > 1 and words[0] in GIVEN_NAMES - AMBIGUOUS_NAMES and words[1] not in THINGS
        return " ".join(words[:2]) if known and f"{words[0]} {words[1]}" not in KNOWN_THINGS else None
    run = _capitalised(words, 0)
    bare = [word.rstrip(".").casefold() for word in run]
    if len([word for word in bare if len(word) > 1 and word not in PARTICLES]) < 2 or bare[0] in PLACES_BEFORE:
        return None
    if any(word in THINGS and word not in SURNAMES for word in bare) or _is_known(bare[0], bare[1:]):
        return None
    return " ".join(run)
