"""What the words and addresses of a licence claim come to: SPDX ids, conditions, reserved rights.

Creative Commons in all versions and ports, CC0 and the marks of the public domain, the wordings of Wikimedia, Flickr,
rightsstatements.org and stock agencies; any other id that license-expression knows. What is not surely a licence
permits nothing, but a condition that stands in it ("CC BY-NC", without a version) restricts all the same.

Sources: creativecommons.org/licenses/list; spdx.org/licenses; rightsstatements.org/page/1.0; Commons:Copyright tags;
flickr.photos.licenses.getInfo.
"""

# ruff: noqa: RUF001 - words of many languages stand here, in their own letters

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from policy.patterns import lazily

_MAX_CHARS: Final = 2_000
_MAX_MENTIONS: Final = 16
_MAX_ALTERNATIVES: Final = 32

PUBLIC_DOMAIN: Final = "LicenseRef-scancode-public-domain"
US_GOVERNMENT: Final = "LicenseRef-scancode-us-govt-public-domain"
NO_KNOWN_COPYRIGHT: Final = "LicenseRef-no-known-copyright"
FREE_USE: Final = "LicenseRef-copyrighted-free-use"
_ONLY_IN_THE_US: Final = "LicenseRef-rightsstatements-NoC-US"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a claim's words come to.

    `any_of`: the licences to choose from, each the SPDX ids that hold together; () where there is none.
    `elements`: conditions (NC, ND, SA) that stand in words which are no licence. `reserved`: "all" for rights
    that are reserved in so many words, "notice" for a copyright notice.
    """

    any_of: tuple[tuple[str, ...], ...] = ()
    elements: tuple[str, ...] = ()
    reserved: Literal["", "notice", "all"] = ""


NOTHING: Final = Terms()


def spdx_id(value: str) -> str | None:
    """The SPDX id of the one licence that a value names; None: none, or several."""
    match read_terms(value):
        case Terms(any_of=((single,),), reserved=""):
            return single
    return None


@functools.lru_cache(maxsize=65_536)
def read_terms(value: str) -> Terms:
    """Read a claim's value, an address or words. Of a very long one the start counts, and permits nothing."""
    text = _plain(value[:_MAX_CHARS])
    whole = len(value) <= _MAX_CHARS
    if whole and (any_of := _exact(text)) is not None:
        return Terms(any_of)
    if _IS_URL.match(text):
        return _of_address(text)
    reserved: Literal["", "notice", "all"] = ""
    if _RESERVED.search(text):
        reserved = "all"
    elif _NOTICE.match(text):
        reserved = "notice"
    if whole and (any_of := _sentence(text)):
        return Terms(any_of, (), reserved)
    return Terms((), _conditions(text), reserved)


_DASHES = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "_": " ", "\u00a0": " "})


def _plain(value: str) -> str:
    if _IS_URL.match(text := value.strip()):
        return text
    return " ".join(value.translate(_DASHES).split()).strip(" .")


# ── Creative Commons ───────────────────────────────────────────────────────────────────────────────────────────────

# SPDX has ids for these ports only; any other port has the same elements as the unported text.
_PORTED = frozenset(
    {"CC-BY-2.5-AU", "CC-BY-3.0-AT", "CC-BY-3.0-AU", "CC-BY-3.0-DE", "CC-BY-3.0-IGO", "CC-BY-3.0-NL", "CC-BY-3.0-US"}
    | {"CC-BY-NC-3.0-DE", "CC-BY-NC-ND-3.0-DE", "CC-BY-NC-ND-3.0-IGO", "CC-BY-NC-SA-2.0-DE", "CC-BY-NC-SA-2.0-FR"}
    | {"CC-BY-NC-SA-2.0-UK", "CC-BY-NC-SA-3.0-DE", "CC-BY-NC-SA-3.0-IGO", "CC-BY-ND-3.0-DE", "CC-BY-SA-2.0-UK"}
    | {"CC-BY-SA-2.1-JP", "CC-BY-SA-3.0-AT", "CC-BY-SA-3.0-DE", "CC-BY-SA-3.0-IGO"}
)
# Version 2.1 was written for ports alone (AU, ES, CA, JP); SPDX has one of them. The others have 2.0's elements.
_VERSIONS = ("1.0", "2.0", "2.5", "3.0", "4.0")
_ELEMENTS = ("BY", "NC", "ND", "SA")
_LICENCES = frozenset({"BY", "BY-NC", "BY-ND", "BY-SA", "BY-NC-ND", "BY-NC-SA"})
_COUNTRIES: Mapping[str, str] = {
    **dict.fromkeys(("", "int", "int.", "international", "unported", "generic", "universal"), ""),
    **{"argentina": "AR", "australia": "AU", "austria": "AT", "österreich": "AT", "belgium": "BE", "brazil": "BR"},
    **{"brasil": "BR", "bulgaria": "BG", "canada": "CA", "chile": "CL", "china mainland": "CN", "colombia": "CO"},
    **{"costa rica": "CR", "croatia": "HR", "czech republic": "CZ", "denmark": "DK", "ecuador": "EC", "egypt": "EG"},
    **{"england and wales": "UK", "england & wales": "UK", "estonia": "EE", "finland": "FI", "france": "FR"},
    **{"germany": "DE", "deutschland": "DE", "greece": "GR", "guatemala": "GT", "hong kong": "HK", "hungary": "HU"},
    **{"igo": "IGO", "intergovernmental organization": "IGO", "intergovernmental organizations": "IGO", "india": "IN"},
    **{
        "ireland": "IE",
        "israel": "IL",
        "italy": "IT",
        "italia": "IT",
        "japan": "JP",
        "korea": "KR",
        "south korea": "KR",
    },
    **{"luxembourg": "LU", "macedonia": "MK", "malaysia": "MY", "malta": "MT", "mexico": "MX", "netherlands": "NL"},
    **{"nederland": "NL", "new zealand": "NZ", "norway": "NO", "peru": "PE", "philippines": "PH", "poland": "PL"},
    **{"portugal": "PT", "puerto rico": "PR", "romania": "RO", "scotland": "SCOTLAND", "serbia": "RS"},
    **{"singapore": "SG", "slovenia": "SI", "south africa": "ZA", "spain": "ES", "españa": "ES", "sweden": "SE"},
    **{"switzerland": "CH", "schweiz": "CH", "taiwan": "TW", "thailand": "TH", "uganda": "UG", "us": "US", "usa": "US"},
    **{"uk": "UK", "uk: england & wales": "UK", "uk: scotland": "SCOTLAND", "united states": "US", "vietnam": "VN"},
}
_PORTS = frozenset(_COUNTRIES.values()) - {""}

_IS_URL = lazily(r"(?:[a-z][a-z0-9+.-]{1,20}:)?//\S+\Z", re.IGNORECASE)
_CC_URL = lazily(
    r"(?:(?:https?:)?//)?(?:www\.|mirrors\.|i\.)?creativecommons\.org/(?P<area>licen[sc]es|publicdomain|l|p)/"
    r"(?P<name>[a-z+-]+)(?:/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3}|scotland))?)?"
    r"(?:/(?:deed|legalcode|legalcode-plain|rdf|88x31|80x15)?(?:\.[a-z@_-]{2,14})?)?/?(?:[?#].*)?\Z",
    re.IGNORECASE,
)
_SPDX_URL = lazily(r"(?:https?:)?//(?:www\.)?spdx\.org/licenses/(?P<id>[A-Za-z0-9.+-]+?)(?:\.html|\.json)?/?\Z")
_NUMBERS = r"(?P<versions>\d\.\d(?:(?: ?[,/&-] ?| )\d\.\d){0,5}|all)"
_ABBREVIATED = (
    r"(?:\(?cc\)?|creative[ -]commons)[ -]*(?:(?:licen[sc]e)[ -]+)?"
    r"(?P<elements>(?:by|nc|nd|sa)(?:[ /-]*(?:by|nc|nd|sa))*)"
)
# The words of the elements in the languages that the deeds are most linked in.
_WORDS: Mapping[str, str] = {
    "BY": r"attribution|namensnennung|atribuci[oó]n|reconocimiento|attribuzione|atribui[cç][aã]o|naamsvermelding"
    r"|paternit[eé]|uznanie autorstwa",
    "NC": r"non[ -]?commercial(?:es?)?|nicht[ -]?kommerziell|pas d['\u2019]utilisation commerciale|no ?comercial"
    r"|non commerciale|n[aã]o[ -]?comercial|niet[ -]?commercieel|u[zż]ycie niekomercyjne",
    "ND": r"no[ -]?deriv(?:ative)?s?(?: works)?|keine bearbeitungen?|pas de modifications?|sin ?obras? ?derivadas?"
    r"|sin ?derivadas|non opere derivate|sem ?deriva[cç](?:[oõ]es|[aã]o)|geen ?afgeleide ?werken",
    "SA": r"share[ -]?alike|weitergabe unter gleichen bedingungen|partage dans les m[eê]mes conditions"
    r"|partage [aà] l['\u2019]identique|compartir ?igual|condividi allo stesso modo|compartilha ?igual|gelijk ?delen",
}
_ANY_WORD = "|".join(_WORDS.values())
_WRITTEN = (
    rf"(?:creative[ -]commons[ -]+|cc[ -]+)?(?P<words>(?:{_WORDS['BY']})(?:(?: ?[-,] ?| )(?:{_ANY_WORD}))*)"
    r"(?:[ -]+(?:public )?licen[sc]e)?"
)
_TAIL = rf"[ ,-]*(?:v(?:ersion)?[ .]?)?{_NUMBERS}(?P<tail>[ -]+[a-zö][a-zñö .&:-]{{0,40}})?"
_ABBREVIATED_EXACT = lazily(_ABBREVIATED + _TAIL + r"\Z", re.IGNORECASE)
_WRITTEN_EXACT = lazily(_WRITTEN + _TAIL + r"\Z", re.IGNORECASE)
_LICENCE_WORD = lazily(r"[ -]*\b(?:public )?(?:licen[sc]e|deed|lizenz|licencia|licenza|license)\Z", re.IGNORECASE)
_ZERO = lazily(
    r"(?:(?:cc|creative commons)[ -]?(?:cc[ -]?)?(?:0|zero)|cc0)(?:[ -]*(?:v(?:ersion)?[ .]?)?1\.0)?(?: universal)?"
    r"(?:[ -]*\(?(?:cc0 1\.0\)? ?)?public domain dedication\)?)?(?: licen[sc]e)?\Z",
    re.IGNORECASE,
)
_MARK = lazily(
    r"(?:cc[ -]?pdm|pdm|(?:cc[ -])?(?:pd|public domain)[ -]mark)(?:[ -]1\.0)?\Z|creative commons public domain mark"
    r"(?: 1\.0)?\Z",
    re.IGNORECASE,
)


def _creative_commons(elements: Iterable[str], version: str, port: str = "") -> str | None:
    named = {element.upper() for element in elements}
    # Version 1.0 wrote its elements in another order ("by-nd-nc"); SPDX knows one order.
    name = "-".join(element for element in _ELEMENTS if element in named)
    if name == "SA" and version == "1.0":
        return "CC-SA-1.0"
    if name not in _LICENCES or not named <= set(_ELEMENTS):
        return None
    ported = f"CC-{name}-{version}-{port.upper()}"
    if ported in _PORTED:
        return ported
    if version == "2.1" and port:
        version = "2.0"
    return f"CC-{name}-{version}" if version in _VERSIONS else None


def _versions(numbers: str) -> list[str]:
    return list(reversed(_VERSIONS)) if numbers.lower() == "all" else re.findall(r"\d\.\d", numbers)


def _of_versions(elements: Iterable[str], numbers: str, tail: str | None) -> tuple[tuple[str, ...], ...] | None:
    """A Creative Commons name's licences: each of its versions may be chosen. None: a version or port unknown."""
    said = _LICENCE_WORD.sub("", (tail or "").strip(" -").lower()).strip(" -")
    port = _COUNTRIES.get(said, said.upper() if said.upper() in _PORTS else None)
    if port is None:
        return None
    found = [_creative_commons(elements, version, port) for version in _versions(numbers)]
    ids = [spdx for spdx in found if spdx is not None]
    return tuple((spdx,) for spdx in dict.fromkeys(ids)) if ids and len(ids) == len(found) else None


def _elements_of(words: str) -> list[str]:
    return [short for short, spelt in _WORDS.items() if re.search(spelt, words, re.IGNORECASE)]


def _split(elements: str) -> list[str]:
    return re.findall("by|nc|nd|sa", elements.lower())


def _of_cc_url(url: re.Match[str]) -> str | None:
    name, version, port = url["name"].lower(), url["version"] or "", (url["port"] or "").upper()
    if url["area"].lower() in ("publicdomain", "p"):
        return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0"}.get(name) if version == "1.0" else None
    if name == "publicdomain" and not version:
        return "CC-PDDC"  # the dedication of before CC0
    if name == "zero" and version == "1.0":
        return "CC0-1.0"
    return _creative_commons(name.split("-"), version, port) if version else None


# ── exact values ───────────────────────────────────────────────────────────────────────────────────────────────────

_FLICKR: Mapping[str, str] = {
    **{"1": "CC-BY-NC-SA-2.0", "2": "CC-BY-NC-2.0", "3": "CC-BY-NC-ND-2.0", "4": "CC-BY-2.0", "5": "CC-BY-SA-2.0"},
    **{"6": "CC-BY-ND-2.0", "7": NO_KNOWN_COPYRIGHT, "8": US_GOVERNMENT, "9": "CC0-1.0", "10": "CC-PDM-1.0"},
    **{"11": "CC-BY-4.0", "12": "CC-BY-SA-4.0", "13": "CC-BY-ND-4.0", "14": "CC-BY-NC-4.0", "15": "CC-BY-NC-SA-4.0"},
    **{"16": "CC-BY-NC-ND-4.0"},
}
_FLICKR_NUMBER = lazily(r"flickr(?:[ -]?licen[sc]e)?(?:[ -]?id)?[ :=#-]*(?P<number>\d{1,2})\Z", re.IGNORECASE)

# Words and addresses, in small letters -> ids. Whole values only.
_NAMED: tuple[tuple[str, str], ...] = (
    (r"cc-?pddc|pddc|cc[ -]pd|copyright-only dedication.{0,60}", "CC-PDDC"),
    (
        r"(?:(?:this|the) (?:work|image|file|photo(?:graph)?|picture) is )?(?:in (?:the )?)?public[ -]domain"
        r"(?: work| image| photo)?|pd|pd[ -](?!us\b|usgov\b)[a-z0-9 /()|-]{2,40}|gemeinfrei(?:heit)?|domaine public"
        r"|dominio p[uú]blico|pubblico dominio|dom[ií]nio p[uú]blico|publiek domein|domena publiczna"
        r"|общественное достояние|パブリックドメイン|公有领域|公有領域|copyright expired|out of copyright",
        PUBLIC_DOMAIN,
    ),
    (
        r"pd[ -]us[ -]?gov[a-z0-9 /-]{0,40}|(?:this is an? )?(?:united states|u\.?s\.?) gov(?:ernment|t) work"
        r"|public domain (?:u\.?s\.? government|usgov)"
        r"|(?:https?:)?//(?:www\.)?usa\.gov/(?:copyright|government-works)\S{0,40}",
        US_GOVERNMENT,
    ),
    (
        r"pd[ -]us(?:[ -](?!gov)[a-z0-9 /-]{1,40})?|public domain in the (?:united states|us|usa|u\.s\.)"
        r"|no copyright - united states",
        _ONLY_IN_THE_US,
    ),
    (
        r"no known (?:copyright )?(?:restrictions?|copyright)|no known copyright restrictions? exists?"
        r"|(?:https?:)?//(?:www\.)?flickr\.com/commons/usage/?",
        NO_KNOWN_COPYRIGHT,
    ),
    (r"copyrighted free use(?:[ -]provided that)?(?<!that)|(?:the )?copyright holder allows any use", FREE_USE),
    (
        r"(?:https?:)?//(?:www\.)?unsplash\.com/licen[sc]e\S{0,40}|(?:the )?unsplash licen[sc]e",
        "LicenseRef-scancode-unsplash",
    ),
    (
        r"(?:https?:)?//(?:www\.)?pexels\.com/(?:[a-z-]{2,6}/)?(?:photo-)?licen[sc]es?\S{0,40}"
        r"|(?:the )?pexels licen[sc]e",
        "LicenseRef-pexels",
    ),
    (
        r"(?:https?:)?//(?:www\.)?pixabay\.com/(?:[a-z-]{2,6}/)?service/(?:licen[sc]e|terms)\S{0,40}"
        r"|(?:the )?(?:simplified )?pixabay (?:content )?licen[sc]e",
        "LicenseRef-scancode-pixabay-content",
    ),
    (
        r"gfdl(?:[ -]self|[ -]user)?|gnu (?:free documentation licen[sc]e|fdl)|gfdl[ -]?1\.1(?:\+|[ -]or[ -]later)"
        r"|(?:https?:)?//(?:www\.)?gnu\.org/(?:copyleft|licenses)/fdl(?:\.[a-z.-]+)?",
        "GFDL-1.1-or-later",  # without a version any that was ever published may be chosen (GFDL, section 10)
    ),
    (
        r"(?:https?:)?//(?:www\.)?gnu\.org/licenses/(?:old-licenses/)?fdl-1\.(?P<gfdl>[123])(?:\.[a-z.-]+)?",
        "GFDL-1.{0}-only",
    ),
    (
        r"(?:gfdl|gnu free documentation licen[sc]e|gnu fdl),?[ -]*(?:v(?:ersion)?[ .]?)?1\.(?P<gfdl>[123])"
        r"(?:\+| ?or (?:any )?later(?: versions?)?|[ -]or[ -]later)",
        "GFDL-1.{0}-or-later",
    ),
    (
        r"(?:gfdl|gnu free documentation licen[sc]e|gnu fdl),?[ -]*(?:v(?:ersion)?[ .]?)?1\.(?P<gfdl>[123])"
        r"(?:[ -]only)?",
        "GFDL-1.{0}-only",
    ),
    (
        r"(?:lal|fal|free ?art(?: licen[sc]e)?|licence art libre)[ -]*(?:v(?:ersion)?[ .]?)?1\.(?P<lal>[23])",
        "LAL-1.{0}",
    ),
    (r"(?:https?:)?//(?:www\.)?artlibre\.org/licence/lal/(?:en|de|es|pt|it)?/?", "LAL-1.3"),
    (
        r"(?:https?:)?//(?:www\.)?nationalarchives\.gov\.uk/doc/open-government-licen[sc]e/version/(?P<ogl>[123])/?"
        r"|(?:uk )?open government licen[sc]e,?[ -]*(?:v(?:ersion)?[ .]?)?(?P<ogl2>[123])(?:\.0)?",
        "OGL-UK-{0}.0",
    ),
    (r"(?:https?:)?//rightsstatements\.org/(?:vocab|page)/nkc/1\.0/?\S{0,20}", NO_KNOWN_COPYRIGHT),
    (r"(?:https?:)?//rightsstatements\.org/(?:vocab|page)/noc-us/1\.0/?\S{0,20}", _ONLY_IN_THE_US),
    (
        r"(?:https?:)?//rightsstatements\.org/(?:vocab|page)/noc-nc/1\.0/?\S{0,20}"
        r"|no copyright - non-commercial use only",
        "LicenseRef-rightsstatements-NoC-NC",
    ),
    (
        r"(?:https?:)?//rightsstatements\.org/(?:vocab|page)/noc-(?:cr|oklr)/1\.0/?\S{0,20}"
        r"|no copyright - (?:contractual restrictions|other known legal restrictions)",
        "LicenseRef-rightsstatements-NoC-restricted",
    ),
)
_NAMES = tuple((lazily(rf"(?:{pattern})\Z", re.IGNORECASE), spdx) for pattern, spdx in _NAMED)


def _exact(text: str) -> tuple[tuple[str, ...], ...] | None:
    """The licences that a whole value names, to choose from; None where it names none."""
    if url := _CC_URL.match(text):
        return _one(_of_cc_url(url))
    if listed := _SPDX_URL.match(text):
        return _exact(listed["id"])
    if short := _ABBREVIATED_EXACT.match(text):
        return _of_versions(_split(short["elements"]), short["versions"], short["tail"])
    if written := _WRITTEN_EXACT.match(text):
        return _of_versions(_elements_of(written["words"]), written["versions"], written["tail"])
    if _ZERO.match(text):
        return (("CC0-1.0",),)
    if _MARK.match(text):
        return (("CC-PDM-1.0",),)
    if flickr := _FLICKR_NUMBER.match(text):
        return _one(_FLICKR.get(str(int(flickr["number"]))))
    for pattern, spdx in _NAMES:
        if found := pattern.match(text):
            return ((spdx.format(next((g for g in found.groups() if g), "")),),)
    return _of_spdx(text)


def _one(spdx: str | None) -> tuple[tuple[str, ...], ...] | None:
    return None if spdx is None else ((spdx,),)


# ── SPDX's own ids and expressions ─────────────────────────────────────────────────────────────────────────────────

_ID = lazily(r"[A-Za-z0-9][A-Za-z0-9.+-]{1,63}\Z")
_EXPRESSION = lazily(r"[A-Za-z0-9.+() -]{3,300}\Z")


def _of_spdx(text: str) -> tuple[tuple[str, ...], ...] | None:
    if _ID.match(text):
        return _one(_spdx_ids().get(text.lower()))
    if not _EXPRESSION.match(text) or not (" OR " in text or " AND " in text):
        return None
    if text.count("(") > 16:
        return None
    if "(" in text:
        return _parsed(text)
    alternatives = []
    for one in text.split(" OR "):
        parts = [_exact(part.strip()) for part in one.split(" AND ")]
        if not all(part is not None and len(part) == 1 for part in parts):
            return None
        alternatives.append(tuple(dict.fromkeys(spdx for part in parts if part for spdx in part[0])))
    return tuple(dict.fromkeys(alternatives))[:_MAX_ALTERNATIVES]


@functools.cache
def _licensing() -> Any:
    # 50 ms: not for those who meet Creative Commons only.
    import license_expression  # type: ignore[import-untyped]

    return license_expression.get_spdx_licensing()


@functools.cache
def _spdx_ids() -> Mapping[str, str]:
    """Every id and alias of license-expression in small letters -> the id that SPDX uses today."""
    ids: dict[str, str] = {}
    symbols = _licensing().known_symbols
    for key, symbol in symbols.items():
        if not symbol.is_exception:
            for alias in (key, *symbol.aliases):
                if not (" " in alias or _AN_ENGLISH_WORD.match(alias)):
                    ids.setdefault(alias.lower(), key)
    return ids | {key.lower(): key for key, symbol in symbols.items() if not symbol.is_exception}


# "commercial", "proprietary", "free": what is a word first is no licence's id.
_AN_ENGLISH_WORD = lazily(r"[a-z]{3,}\Z")


def _parsed(text: str) -> tuple[tuple[str, ...], ...] | None:
    """The disjunctive form of an expression with parentheses."""
    import license_expression

    try:
        tree = _licensing().parse(text, validate=True)
    except (license_expression.ExpressionError, RecursionError):
        return None
    return _disjunction(tree)


def _disjunction(node: Any) -> tuple[tuple[str, ...], ...] | None:
    operator = getattr(node, "operator", "").strip()
    if operator not in ("OR", "AND"):
        key = getattr(node, "key", None)
        return ((key,),) if isinstance(key, str) else None
    parts = [_disjunction(argument) for argument in node.args]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if operator == "OR":
        return tuple(dict.fromkeys(one for part in known for one in part))[:_MAX_ALTERNATIVES]
    product: tuple[tuple[str, ...], ...] = ((),)
    for part in known:
        product = tuple(tuple(dict.fromkeys((*a, *b))) for a in product for b in part)
        if len(product) > _MAX_ALTERNATIVES:
            return None
    return product


# ── sentences ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Mention(NamedTuple):
    start: int
    end: int
    any_of: tuple[tuple[str, ...], ...]


_ADDRESS = lazily(r"(?:https?:)?//[^\s<>\"'()\[\],;]{4,300}", re.IGNORECASE)
_NUMBER_IN_TEXT = _TAIL.replace("?P<versions>", "?:").partition("(?P<tail>")[0]
_NAME_IN_TEXT = lazily(
    rf"(?<![\w-])(?:{_ABBREVIATED.replace('?P<elements>', '?:')}{_NUMBER_IN_TEXT}"
    rf"|{_WRITTEN.replace('?P<words>', '?:')}{_NUMBER_IN_TEXT}"
    r"|cc[ -]?0(?: 1\.0)?(?: universal)?|creative commons zero(?: 1\.0)?|public domain(?: mark(?: 1\.0)?)?"
    r"|gfdl(?:[ -]1\.[123])?\+?|gnu free documentation license|no known copyright restrictions)(?![\w+])",
    re.IGNORECASE,
)
_CHOICE = lazily(r"\b(?:or|oder|ou|OR|either|choice|multi-?licen[sc]e[d]?|dual-?licen[sc]ed)\b", re.IGNORECASE)
# Words that say nothing of which part of what is licensed, or how.
_HARMLESS = frozenset(
    """
    a an the this these that our my your all image images photo photos photograph photographs picture pictures
    work works file media is are it has have been be was were license licence licensed licenced licenses licences
    licensing released published made available shared distributed use used to public under terms of by via from
    on in with wikimedia commons flickr verify at see some rights reserved creative cc and or either choice for
    details more information please read here international unported generic deed version v credit credits source
    author photographer title c r copyright attribution lizenz lizenziert lizenzvertrag unter der die das dieses
    werk bild steht ist einer einem von durch und oder sous licence licences est cette cet oeuvre mise disposition
    selon les termes la le les un une de du et ou bajo licencia esta obra está una bajo los términos y o con
    licenza distribuito sotto opera multi-license multi int us uk de fr at au nl jp igo united states
    """.split()  # noqa: SIM905 - a list of words is read as one
)
_LIMITING = frozenset(
    """
    not no non none except exception excluding exclude unless only other others otherwise but without text texts
    texte code data dataset metadata website site article articles blog post posts logo logos software
    documentation ohne nicht kein keine nur außer ausser sauf hors pas salvo solo sólo excepto eccetto tranne
    behalve formerly previously was if where when editorial commercial personal
    """.split()  # noqa: SIM905 - a list of words is read as one
)
_FRAGMENTS = lazily(r"[\x00,;:/|()<>\[\]·•\n\"]+|\. |\.\Z| - ")


def _sentence(text: str) -> tuple[tuple[str, ...], ...]:
    """The licence of a sentence ("© 2020 Jane Doe, licensed under CC BY 4.0"); () unless nothing else limits it."""
    mentions = _mentions(text)
    if not mentions or len(mentions) > _MAX_MENTIONS:
        return ()
    rest, at = [], 0
    for mention in mentions:
        rest.append(text[at : mention.start])
        at = mention.end
    rest.append(text[at:])
    named = {e for m in mentions for one in m.any_of for spdx in one for e in elements(spdx)}
    before, *after = (_FRAGMENTS.split(_ADDRESS.sub(" ", piece)) for piece in rest)
    if not all(_is_harmless(fragment, named, credited=True) for fragment in before):
        return ()
    if not all(_is_harmless(fragment, named, credited=False) for piece in after for fragment in piece):
        return ()
    if len({m.any_of for m in mentions}) == 1:
        return mentions[0].any_of
    if _CHOICE.search(" ".join(rest)):
        return tuple(dict.fromkeys(one for m in mentions for one in m.any_of))[:_MAX_ALTERNATIVES]
    # Named side by side, all of them hold.
    return (tuple(dict.fromkeys(spdx for m in mentions for spdx in m.any_of[0])),)


def _mentions(text: str) -> list[_Mention]:
    found = []
    for address in _ADDRESS.finditer(text):
        any_of = _exact(address[0].rstrip("."))
        if any_of is not None:
            found.append(_Mention(address.start(), address.end(), any_of))
    spans = [(m.start(), m.end()) for m in _ADDRESS.finditer(text)]
    for name in _NAME_IN_TEXT.finditer(text):
        if any(start < name.end() and name.start() < end for start, end in spans):
            continue
        any_of = _exact(name[0].strip(" ,-"))
        if any_of is not None:
            found.append(_Mention(name.start(), name.end(), any_of))
    return sorted(found)


def _is_harmless(fragment: str, named: set[str], *, credited: bool) -> bool:
    """Whether a part of a sentence can be left aside: words of licensing, a copyright notice, a name, an address.

    A name is taken for one after a word that names do follow (by, ©, photo), or, of two words and more, in the place
    where a credit stands, before the licence (`credited`): a lone word after it may be anything.
    """
    fragment = fragment.strip(" .-*'\u201c\u201d")
    words = fragment.lower().replace("©", " ").split()
    if "reserved" in words and "some" not in words:  # "some rights reserved" goes with a licence, nothing else does
        return False
    if not words or all(word in _HARMLESS or word.isdigit() for word in words):
        return True
    if unversioned := _UNVERSIONED.fullmatch(fragment):
        return {e.upper() for e in _split(unversioned["elements"])} <= named
    restraining = (match["element"] for match in _RESTRAINING.finditer(fragment))
    if any(element is None or element.upper() not in named for element in restraining):
        return False
    if len(words) > 8 or not _LIMITING.isdisjoint(words) or _CONDITIONS.search(fragment):
        return False
    if not _CREDIT.search(fragment) and not (credited and len(words) > 1):
        return False
    # Names are written with capitals, or in a script that has none.
    return all(w in _HARMLESS or not w.isalpha() or t[:1] == t[:1].upper() for w, t in _pairs(fragment))


_CREDIT = lazily(
    r"©|\(c\)|(?<![^\W\d_])(?:by|von|par|por|di|af|av|door|photo|photograph|photographer|photography|image|picture|foto|credits?"
    r"|courtesy|author|artist|creator|copyright|source|via|autor|auteur|user)(?![^\W\d_])",
    re.IGNORECASE,
)
# Words that a name is not made of, in any case and wherever they stand: an element, a no, a reservation, a doubt.
_RESTRAINING = lazily(
    r"(?<![a-z])(?P<element>nc|nd|sa)(?![a-z])|(?<![a-z])(?:ai|ml|tdm|llms?|gen-?ai)(?![a-z])|(?:no|non)-?(?:ai|ml|tdm)\b"
    r"|(?<![a-z])(?:no|non|not|never|except|only|unless|without|but|opt|until|pending)(?![a-z])"
    r"|disallow|denied|banned|exclu|except|embargo|terminat|invalid|disput|disclaim|draft|proposed|proprietary"
    r"|confidential|verboten|interdit|scrap|crawl|dataset|train(?![a-z])|editorial|educational|subscri|paid|nonprofit"
    r"|artificial|machine|mining|training|prohibit|forbid|forbidden|reserv|restrict|revok|withdraw|expire|cancel|void|dmi-"
    r"|[?!]",
    re.IGNORECASE,
)


def _pairs(fragment: str) -> list[tuple[str, str]]:
    return [(word.lower(), word) for word in fragment.replace("©", " ").split()]


# ── what restricts ─────────────────────────────────────────────────────────────────────────────────────────────────

_UNVERSIONED = lazily(_ABBREVIATED + r"(?: licen[sc]e)?", re.IGNORECASE)
_MENTIONED = lazily(rf"(?<![\w-])(?:{_ABBREVIATED}|(?P<bare>by(?:-(?:nc|nd|sa))+))(?![\w])", re.IGNORECASE)
_CONDITIONS = lazily(
    rf"(?P<NC>{_WORDS['NC']}|not for commercial|no commercial use|commercial use (?:is )?(?:prohibited|not))"
    rf"|(?P<ND>{_WORDS['ND']}|no modifications?\b)"
    rf"|(?P<SA>{_WORDS['SA']}|free art licen[sc]e|licence art libre|\bfal\b|\blal\b)",
    re.IGNORECASE,
)


def _conditions(text: str) -> tuple[str, ...]:
    """NC, ND and SA as far as words that are no licence speak of them."""
    found = {element.upper() for mention in _MENTIONED.finditer(text) for element in _split(mention[0])}
    found |= {str(match.lastgroup) for match in _CONDITIONS.finditer(text)}
    return tuple(element for element in ("NC", "ND", "SA") if element in found)


_RESERVED = lazily(
    r"all rights? reserved|tous droits r[ée]serv[ée]s|alle rechte (?:liegen|vorbehalten)|todos los derechos reservados"
    r"|tutti i diritti (?:sono )?riservati|riproduzione riservata"
    r"|todos os direitos reservados|alle rechten voorbehouden"
    r"|alla r[äa]ttigheter f[öo]rbeh[åa]llna|alle rettigheter (?:reservert|forbeholdt)|kaikki oikeudet pid[äa]tet"
    r"|wszelkie prawa zastrze[żz]one|v[šs]echna pr[áa]va vyhrazena|minden jog fenntartva"
    r"|t[üu]m haklar[ıi] sakl[ıi]d[ıi]r"
    r"|все права защищены|усі права захищені|版权所有|版權所有|保留所有权利|無断転載|不許複製|全著作権所有"
    r"|모든 권리 보유|無断使用"
    r"|rights[ -]managed|royalty[ -]free|editorial (?:use )?only|personal use only|private use only"
    r"|(?:do not|don't) (?:copy|use|reproduce|repost|redistribute|download)"
    r"|may not be (?:re)?(?:produced|used|copied|published|distributed)"
    r"|not (?:to )?be (?:reproduced|used|copied|published|distributed)"
    r"|not for (?:re)?(?:production|use|publication|distribution)"
    r"|no (?:unauthori[sz]ed|reproduction|re-?use|copying|use without)|unauthori[sz]ed (?:use|copying|reproduction)"
    r"|without (?:(?:the|prior|written|express|explicit|my|our|their) )*(?:permission|consent|authori[sz]ation)"
    r"|permission (?:is )?required|nachdruck verboten|reproduction interdite|prohibida (?:su|la) reproducci[óo]n"
    r"|\Ain copyright\b|\Aflickr(?:[ -]?licen[sc]e)?(?:[ -]?id)?[ :=#-]*0\Z"
    r"|(?:used|use) (?:with|by) permission|for licen[sc]ing|licen[sc]e (?:is )?required|\ball rights\b",
    re.IGNORECASE,
)
_NOTICE = lazily(
    r"(?!.*\b(?:no copyright|copyright[ -]free|copyright not evaluated|copyright undetermined|not copyrighted)\b)"
    r".*(?:©|\(c\) ?\S|&copy;|\u2117|\bcopyright(?:ed)?\b|\bcopr\.|\burheberrecht|\bdroits? d['\u2019]auteur\b"
    r"|著作権|版权|版權|저작권)",
    re.IGNORECASE | re.DOTALL,
)

# Agencies that sell licences: what they serve is reserved, whatever its address is called.
_AGENCIES = lazily(
    r"(?:https?:)?//(?:[\w-]+\.)*(?:gettyimages\.[a-z.]{2,6}|shutterstock\.com|stock\.adobe\.com|istockphoto\.com"
    r"|alamy\.(?:com|de|es|fr|it)|dreamstime\.com|depositphotos\.com|123rf\.com|bigstockphoto\.com|stocksy\.com"
    r"|magnumphotos\.com|corbisimages\.com|fotolia\.com|pond5\.com|agefotostock\.com|masterfile\.com|superstock\.com"
    r"|apimages\.com|reutersconnect\.com|picture-alliance\.com|imago-images\.(?:com|de)|bridgemanimages\.com)(?:[/?#:]|\Z)",
    re.IGNORECASE,
)
_STATEMENTS = lazily(
    r"(?:https?:)?//(?:rightsstatements\.org/(?:vocab|page)/inc(?:-[a-z-]+)?/|(?:www\.)?europeana\.eu/rights/rr-[fpr])",
    re.IGNORECASE,
)


def _of_address(url: str) -> Terms:
    """What an address says that names no known licence."""
    if _AGENCIES.match(url) or _STATEMENTS.match(url):
        return Terms(reserved="all")
    if (cc := _CC_URL.match(url)) and cc["area"].lower() not in ("publicdomain", "p"):
        return Terms(elements=tuple(e for e in ("NC", "ND", "SA") if e.lower() in re.split("[-+]", cc["name"].lower())))
    return NOTHING


# ── what is known of an id ─────────────────────────────────────────────────────────────────────────────────────────


class CreativeCommons(NamedTuple):
    """The parts of a Creative Commons licence's id."""

    name: str
    version: str
    port: str


_CC_ID = lazily(r"CC-(?P<name>(?:BY|NC|ND|SA)(?:-(?:NC|ND|SA))*)-(?P<version>\d\.\d)(?:-(?P<port>[A-Z]+))?\Z")


def creative_commons(spdx: str) -> CreativeCommons | None:
    """The parts of an id, None for a licence that is not one of Creative Commons' six kinds."""
    match = _CC_ID.match(spdx)
    return None if match is None else CreativeCommons(match["name"], match["version"], match["port"] or "")


def elements(spdx: str) -> tuple[str, ...]:
    """The conditions of a licence, BY, NC, ND and SA, as far as its id tells."""
    if parts := creative_commons(spdx):
        return tuple(parts.name.split("-"))
    if spdx.startswith(("GFDL-", "LAL-", "GPL-", "AGPL-", "ODbL-")):
        return ("BY", "SA")
    return () if spdx in _NO_CONDITIONS or spdx.startswith("CC0-") else ("BY",)


_NO_CONDITIONS = frozenset({"CC-PDM-1.0", "CC-PDDC", PUBLIC_DOMAIN, US_GOVERNMENT, NO_KNOWN_COPYRIGHT, FREE_USE})


def unported(spdx: str) -> str:
    """A ported Creative Commons licence's id without its port, any other id as it is."""
    parts = creative_commons(spdx)
    return f"CC-{parts.name}-{parts.version}" if parts else spdx


def licence_url(spdx: str) -> str:
    """Where a licence's text is: the deed of a Creative Commons licence, else SPDX's page; of several, each."""
    if " AND " in spdx:
        return " ".join(url for part in spdx.split(" AND ") if (url := licence_url(part)))
    if known := _TEXTS.get(spdx):
        return known
    if parts := creative_commons(spdx):
        name = "by-nd-nc" if parts[:2] == ("BY-NC-ND", "1.0") else parts.name.lower()
        port = f"{parts.port.lower()}/" if parts.port else ""
        return f"https://creativecommons.org/licenses/{name}/{parts.version}/{port}"
    if spdx.startswith("LicenseRef-"):
        return ""  # an agreement with its giver, which the ledger knows by its id, and no public text
    return f"https://spdx.org/licenses/{spdx}.html"


_TEXTS: Mapping[str, str] = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-PDM-1.0": "https://creativecommons.org/publicdomain/mark/1.0/",
    "CC-PDDC": "https://creativecommons.org/licenses/publicdomain/",
    NO_KNOWN_COPYRIGHT: "https://rightsstatements.org/vocab/NKC/1.0/",
    _ONLY_IN_THE_US: "https://rightsstatements.org/vocab/NoC-US/1.0/",
    "LicenseRef-scancode-unsplash": "https://unsplash.com/license",
    "LicenseRef-pexels": "https://www.pexels.com/license/",
    "LicenseRef-scancode-pixabay-content": "https://pixabay.com/service/license-summary/",
}


# ── share-alike ────────────────────────────────────────────────────────────────────────────────────────────────────

# Licences that Creative Commons has named compatible with BY-SA 4.0, each way on its own
# (creativecommons.org/share-your-work/licensing-considerations/compatible-licenses).
_NAMED_COMPATIBLE: Mapping[str, frozenset[str]] = {
    "CC-BY-SA-4.0": frozenset({"LAL-1.3", "GPL-3.0-only"}),
    "LAL-1.3": frozenset({"CC-BY-SA-4.0"}),
    "LAL-1.2": frozenset({"LAL-1.3"}),
}
_GFDL = lazily(r"GFDL-1\.(?P<minor>[123])-(?:(?:no-)?invariants-)?(?P<later>only|or-later)\Z")


def share_alike_compatible(sample_spdx: str, export_spdx: str) -> bool:
    """Whether what is made of a sample may be shared under a licence, as far as the sample's share-alike goes.

    A licence without share-alike asks for none. From 2.0 on a Creative Commons licence may be followed by the same
    elements in that or a later version, any port; 1.0 by itself alone. One step only: what BY-SA 3.0 may become
    (BY-SA 4.0) may become other licences, but not the 3.0 sample itself.
    """
    if "SA" not in elements(sample_spdx) or sample_spdx == export_spdx:
        return True
    if export_spdx in _NAMED_COMPATIBLE.get(sample_spdx, ()):
        return True
    sample, export = creative_commons(sample_spdx), creative_commons(export_spdx)
    if sample is not None and export is not None:
        later = sample.version != "1.0" and export.version >= sample.version
        return sample.name == export.name and (later or sample.version == export.version)
    ours, theirs = _GFDL.match(sample_spdx), _GFDL.match(export_spdx)
    if ours is None or theirs is None:
        return False
    later = ours["later"] == "or-later" and theirs["minor"] >= ours["minor"]
    return later or (ours["minor"] == theirs["minor"] and theirs["later"] == "only")
