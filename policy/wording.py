"""What a text is made of: words about the page rather than the picture, keywords for a search engine, a script.

Alt texts are short, of any language, written by anybody or by a machine. Each test here gives the words that show what
it found, so that a person can see why. All of it is linear in the text's length: bounded repetitions, and texts are cut
before they come here.
"""

# ruff: noqa: RUF001 - separators of several scripts

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

from policy.patterns import lazily


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What sites write under pictures whatever they show.
_BOILERPLATE = lazily(
    r"""
    \b(?:click|tap|press)\s+(?:\w{1,20}\s+)?(?:here|to|for|on)\b | \bopens?\s+in\s+(?:a\s+)?new\b
    | \b(?:read|learn|see|show)\s+more\b | \b(?:share|follow|like)\s+(?:\w{1,20}\s+)?(?:on|us)\b
    | \bsubscribe\b | \bsign\s*(?:in|up)\b | \blog\s*(?:in|out|on)\b
    | \bcookies?\s+(?:policy|settings|notice|consent|preferences|banner)\b
    | \b(?:accept|uses?|using)\s+(?:\w{1,20}\s+)?cookies\b | \badvert(?:isement|ising)?\b | \bsponsored\b
    | \b(?:image|picture|photo|content|preview)\s+(?:is\s+)?(?:not\s+(?:available|found)|unavailable|may\s+contain)\b
    | \bno\s+(?:image|picture|photo|preview|description)(?:\s+(?:available|found|yet))?\b | \bcoming\s+soon\b
    | \bplaceholder\b | \bloading\b | \bthumbnail\b | \bavatar\b | \bprofile\s+(?:photo|picture|image)\b
    | \bgo\s+back\b | \bback\s+to\s+top\b | \bskip\s+to\b | \bhome\s*page\b | \b(?:next|previous)\s+(?:page|slide)\b
    | \badd\s+to\s+(?:cart|basket|bag|wishlist)\b | \b(?:zum|zur)\s+(?:warenkorb|startseite|vergrößern)\b
    | \bhier\s+klicken\b | \bklick(?:en)?\s+(?:sie\s+)?hier\b | \bmehr\s+(?:erfahren|lesen|infos?)\b
    | \bcliquez\s+(?:ici|pour)\b | \ben\s+savoir\s+plus\b | \bhaga?\s+clic\b | \bleer\s+más\b | \bclicca\s+qui\b
    """,
    re.VERBOSE,
)
# Who made it, and whose it is; and addresses: nothing of what it shows.
_CREDIT = lazily(
    r"""
    \ball\s+rights\s+reserved\b | \bcopyright\b | (?<!ã)© | \(c\)\s*(?:19|20)\d\d | \balle\s+rechte\s+vorbehalten\b
    | \btous\s+droits\s+réservés\b | \b(?:photo|image|picture|illustration|graphic)\s*(?:credits?|courtesy|source)\b
    | \b(?:photo|photograph|photographed|image|illustration)\s+by\b | \b(?:photo|image)\s+from\b | \bcourtesy\s+of\b
    | \b(?:credits?|source|quelle|bildquelle|fotografie|crédits?(?:\s+photo)?|fuente|fonte)\s*:
    | https?:// | \bwww\. | @ | \.(?:jpe?g|png|gif|webp|svg)\b
    """,
    re.VERBOSE,
)
# Beside boilerplate these say nothing more.
_OF_THE_PAGE = _words(
    "window tab browser user users content navigation newsletter email we us our you your more all use uses now"
    " facebook instagram twitter pinterest linkedin youtube whatsapp tiktok agrandir vergrößern ampliar ingrandire"
)
_CREDITED_WORDS = 3  # a name and a house are no description; a credit behind one is no harm


def plain(text: str) -> str:
    """A text as it is compared: compatibility forms folded, white space single, case folded."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split()).casefold()


def mentions_boilerplate(text: str) -> bool:
    """Whether any of a text is about the page, its maker or its address: such a text describes no other picture."""
    said = plain(text)
    return _BOILERPLATE.search(said) is not None or _CREDIT.search(said) is not None


def boilerplate(text: str, empty_words: frozenset[str]) -> str:
    """The words of a text that are about the page or its maker, where next to nothing is said beside them; "" else.

    "A stop sign in the snow" and "Cookies on a plate" describe something. `empty_words`: words (case folded) that name
    no content.
    """
    said = plain(text)
    for pattern, spared in ((_BOILERPLATE, 0), (_CREDIT, _CREDITED_WORDS)):
        found = pattern.search(said)
        if found is not None:
            rest = _CREDIT.sub(" ", _BOILERPLATE.sub(" ", said))
            words = {word for word in _WORD.findall(rest) if len(word) > 1}
            if len(words - empty_words - FUNCTION_WORDS - _OF_THE_PAGE) <= spared:
                return found.group()
    return ""


_WORD = lazily(r"[^\W\d_]+")

# Words that make sentences, in the languages most alt texts are in: a list of keywords has none.
FUNCTION_WORDS = _words(
    """
    a an the of in on at to by as is are was were be with without and or from into over under behind near his her its
    their for that this which who while not no it he she they has have between beside
    ein eine einer eines einem einen der die das des dem den und oder mit ohne auf im am an aus von vom zu zum zur
    bei ist sind für nicht sich als über unter
    le la les un une des du de et ou à au aux avec sans sur dans par pour est sont qui que en ne pas son sa ses
    el los las una unos unas y o con sin sobre por para es son del al su sus no se
    il lo gli uno di e ed da dal dalla nel nella sul sulla per è sono che
    o os as um uma uns dos das na nas ao com sem em ou é são
    het een van op met zonder uit te bij voor niet zijn
    i w z na do od po ze nie się jest v s se je
    и в на с со не по к у за из от до для
    og på av til med er som ett och att
    """
)

# What shops say, and hardly anybody of what a picture shows.
_SHOP = lazily(
    r"""
    \b(?:buy|order|shop|purchase)\s+(?:\w{1,20}\s+){0,3}(?:now|online|here|today)\b | \bfree\s+(?:shipping|delivery)\b
    | \b(?:best|lowest|low|cheap|great)\s+prices?\b | \bon\s+sale\b | \bin\s+stock\b | \bfor\s+sale\b | \bwholesale\b
    | \b\d{1,2}\s?%\s+off\b | \b(?:big|special|best)\s+(?:discount|offer|deal)s?\b | \bdiscount(?:s|ed)?\b | \bcheap\b
    | \b(?:sku|asin|ean|gtin|upc|mpn|art\.?-?\s?nr|item\s+(?:no|number)|model\s+(?:no|number)|ref)\b\s*[.:\#]
    | (?:[$€£¥]\s?\d{1,6}(?:[.,]\d{2})?|\b\d{1,6}(?:[.,]\d{2})?\s?(?:[$€£¥]|eur|usd|gbp|chf)(?!\w))
    | \b(?:günstig|kaufen|bestellen|versandkostenfrei|angebot|acheter|livraison\s+gratuite|pas\s+cher|comprar|barato
        |envío\s+gratis|acquista|spedizione\s+gratuita|kup\s+teraz|купить|недорого)\b
    """,
    re.VERBOSE,
)
_SEPARATOR = lazily(r"\s*(?:(?<!\d)[,/]|[,/](?!\d)|[;|•·、，；｜])+\s*|\s+[-–—]\s+")  # not within a number
_LIST_FROM = 6  # segments: up to five things may stand in a picture
_SEGMENT_WORDS = 3.0
_REPEATED_FROM_WORDS = 6
_REPEATED_TIMES = 4
_REPEATED_SHARE = 0.4
_REPEATED_LETTERS = 3  # what stands between combining marks is no word
_SHOP_LIST_FROM = 4


def keywords(text: str) -> str:
    """What shows that a text was written for a search engine, in words; "" where nothing does.

    * A word that is no function word stands there four times and is two in five of at least six words.
    * Six or more short pieces, divided by commas, bars, slashes or dashes, without one function word.
    * Two different marks of a shop: a price, an article number, "buy … online", "free shipping"; or one in a list of
      at least four pieces without a function word.
    """
    said = plain(text)
    words = _WORD.findall(said)
    if len(words) >= _REPEATED_FROM_WORDS:
        counts = Counter(w for w in words if len(w) >= _REPEATED_LETTERS and w not in FUNCTION_WORDS)
        for word, times in counts.most_common(1):
            if times >= _REPEATED_TIMES and times >= _REPEATED_SHARE * len(words):
                return f"{word!r} {times} times"
    pieces = [piece for piece in _SEPARATOR.split(said) if piece]
    is_list = len(words) <= _SEGMENT_WORDS * len(pieces) and not FUNCTION_WORDS.intersection(words)
    if len(pieces) >= _LIST_FROM and is_list and len(words) >= _LIST_FROM:
        return f"a list of {len(pieces)}"
    marks = list(dict.fromkeys(m.group().strip() for m in _SHOP.finditer(said)))
    if len(marks) >= 2 or (marks and len(pieces) >= _SHOP_LIST_FROM and is_list):
        return ", ".join(repr(mark) for mark in marks[:3])
    return ""


# ── scripts ────────────────────────────────────────────────────────────────────────────────────────────────────────

_RANGES = (
    ("Cyrillic", 0x0400, 0x052F),
    ("Greek", 0x0370, 0x03FF),
    ("Greek", 0x1F00, 0x1FFF),
    ("Armenian", 0x0530, 0x058F),
    ("Hebrew", 0x0590, 0x05FF),
    ("Arabic", 0x0600, 0x077F),
    ("Arabic", 0x08A0, 0x08FF),
    ("Arabic", 0xFB50, 0xFDFF),
    ("Arabic", 0xFE70, 0xFEFF),
    ("Devanagari", 0x0900, 0x097F),
    ("Bengali", 0x0980, 0x09FF),
    ("Gurmukhi", 0x0A00, 0x0A7F),
    ("Gujarati", 0x0A80, 0x0AFF),
    ("Tamil", 0x0B80, 0x0BFF),
    ("Telugu", 0x0C00, 0x0C7F),
    ("Kannada", 0x0C80, 0x0CFF),
    ("Malayalam", 0x0D00, 0x0D7F),
    ("Thai", 0x0E00, 0x0E7F),
    ("Georgian", 0x10A0, 0x10FF),
    ("Ethiopic", 0x1200, 0x137F),
    ("Kana", 0x3040, 0x30FF),
    ("Hangul", 0x1100, 0x11FF),
    ("Hangul", 0xAC00, 0xD7AF),
    ("Han", 0x3400, 0x9FFF),
    ("Han", 0xF900, 0xFAFF),
    ("Han", 0x20000, 0x3FFFF),
    ("Latin", 0x0041, 0x024F),
    ("Latin", 0x1E00, 0x1EFF),
)
# Languages that are written in another script than Latin; those that are not named are taken to be written in Latin.
_SCRIPTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("ru", "uk", "bg", "be", "mk", "kk", "ky", "mn", "tg"), frozenset({"Cyrillic"})),
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ckb", "ug"), frozenset({"Arabic"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"Devanagari"})),
    **dict.fromkeys(("he", "yi"), frozenset({"Hebrew"})),
    **dict.fromkeys(("bn", "as"), frozenset({"Bengali"})),
    **dict.fromkeys(("sr", "az", "uz"), frozenset({"Cyrillic", "Latin"})),
    "el": frozenset({"Greek"}),
    "hy": frozenset({"Armenian"}),
    "ka": frozenset({"Georgian"}),
    "am": frozenset({"Ethiopic"}),
    "pa": frozenset({"Gurmukhi", "Arabic"}),
    "gu": frozenset({"Gujarati"}),
    "ta": frozenset({"Tamil"}),
    "te": frozenset({"Telugu"}),
    "kn": frozenset({"Kannada"}),
    "ml": frozenset({"Malayalam"}),
    "th": frozenset({"Thai"}),
    "zh": frozenset({"Han"}),
    "ja": frozenset({"Kana", "Han"}),
    "ko": frozenset({"Hangul", "Han"}),
}
_LATIN = frozenset({"Latin"})


def script(text: str) -> str:
    """The script that most letters of a text belong to; "" for no letters, or letters of no script known here."""
    counts: Counter[str] = Counter()
    for character in text:
        if character.isalpha():
            point = ord(character)
            counts[next((name for name, first, last in _RANGES if first <= point <= last), "")] += 1
    if not counts:
        return ""
    most = max(counts.values())
    return min(name for name, times in counts.items() if times == most)


def is_written_in(text: str, language: str) -> bool:
    """Whether a text's script is one that the language (ISO 639-1) is written in; a script that is not known may be."""
    found = script(text)
    return not found or found in _SCRIPTS.get(language, _LATIN)
