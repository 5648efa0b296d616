"""The RSL 1.0 licence document as such: XML to what each licence says of training, and of which addresses.

https://rslstandard.org/rsl, sections 3 and appendix A. Nothing here knows who declared the document.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from policy.signals.robots import PathPattern, Remembered
from policy.verdict import Stance

NAMESPACE: Final = "https://rslstandard.org/rsl"
MAX_ELEMENTS = 100_000
MAX_DEPTH = 64
_MAX_TEXT_CHARS = 64 * 1024
_MAX_PATTERN_CHARS = 16 * 1024

# Usages (section 3.4.1.1). `train-ai` is the word of the drafts; their lists have commas.
_TRAINING = frozenset({"all", "ai-all", "ai-train", "train-ai"})
_OTHER_USAGES = frozenset({"ai-input", "ai-index", "search"})
_SEPARATORS = re.compile(r"[\s,;]+")
_CHILDREN: Mapping[str, frozenset[str]] = {
    "rsl": frozenset({"content"}),
    "content": frozenset({"license", "alternate", "schema", "copyright", "terms"}),
    "license": frozenset({"permits", "prohibits", "payment", "legal", "reporting"}),
    "payment": frozenset({"standard", "custom", "amount", "accepts"}),
}


class Term(NamedTuple):
    """What one `<license>` says of training: its stance, the reason's code, its words, its line."""

    stance: Stance
    code: str
    words: str
    line_no: int


@dataclass(frozen=True, slots=True)
class Content:
    """A `<content>`: the addresses it is about, and its licences' terms.

    `host` None: any host that the declaration speaks for. `pattern` None: all that the declaration speaks for.
    """

    url: str
    host: str | None
    pattern: PathPattern | None
    terms: tuple[Term, ...]
    line_no: int

    @property
    def length(self) -> int:
        return self.pattern.length if self.pattern is not None else 0


@dataclass(frozen=True, slots=True)
class RslDocument:
    """A licence document. `max_age_days`: after so many it must be asked for again, if it says so."""

    contents: tuple[Content, ...]
    max_age_days: int | None = None


class Unreadable(NamedTuple):
    """No RSL document: why."""

    why: str


def parse(xml: bytes, *, encoding: str | None = None) -> RslDocument | Unreadable:
    """Read a licence document without building its tree; `encoding` overrides what it declares.

    A DTD, an entity or an external reference, another namespace, more than `MAX_ELEMENTS` elements or `MAX_DEPTH`
    levels are refused. Elements of other namespaces are passed over with all they hold; an unknown one of RSL's own
    makes the licence around it unreadable, since it may be a misspelt prohibition.
    """
    # An element's attributes are handed over all at once, so they are counted before they are read.
    if xml.count(b"=") > MAX_ELEMENTS:
        return Unreadable(f"more than {MAX_ELEMENTS} attributes")
    reader = _Reader()
    try:
        parser = DefusedXMLParser(target=reader, encoding=encoding, forbid_dtd=True)
        reader.expat = parser.parser
        parser.feed(xml.lstrip(b" \t\r\n"))
        parser.close()
    except DefusedXmlException as refused:
        return Unreadable(f"{type(refused).__name__}: no DTD and no entity is read")
    except (ParseError, ValueError, LookupError) as error:
        return Unreadable(str(error)[:200] or type(error).__name__)
    if reader.unknown:
        return Unreadable(f"<{reader.unknown}> is no element of RSL")
    if not reader.contents:
        return Unreadable("it holds no <content>")
    return RslDocument(tuple(reader.contents), reader.max_age_days)


_PARSED = Remembered(parse, max_bytes=8 * 2**20)
_PARSED_TEXTS = Remembered(functools.partial(parse, encoding="utf-8"), max_bytes=8 * 2**20)


def parsed(xml: bytes) -> RslDocument | Unreadable:
    """`parse`, remembered by content."""
    return _PARSED.get(xml)


def parsed_text(xml: bytes) -> RslDocument | Unreadable:
    """`parse` of what stood in a page and is UTF-8 by now, whatever it declares; remembered by content."""
    return _PARSED_TEXTS.get(xml)


class _Licence:
    """A `<license>` while it is read."""

    def __init__(self, line_no: int) -> None:
        self.line_no = line_no
        self.permits: dict[str, list[str]] = {}
        self.prohibits: dict[str, list[str]] = {}
        self.conditions: list[str] = []
        self.problem = ""

    def term(self, conditions: Iterable[str]) -> Term:
        """Prohibitions first, then what is permitted, then on which conditions (sections 3.1.1, 3.5, 3.6)."""
        if self.problem:
            return Term(Stance.ERROR, "rsl-unreadable", self.problem, self.line_no)
        prohibited = [word for kind in ("usage", "") for word in self.prohibits.get(kind, ()) if _prohibits(word)]
        if prohibited:
            return Term(Stance.DENY, "rsl-prohibited", f"prohibits usage: {' '.join(prohibited)}", self.line_no)
        permitted = [word for kind in ("usage", "") for word in self.permits.get(kind, ())]
        listed = "usage" in self.permits or "" in self.permits
        training = [word for word in permitted if word in _TRAINING]
        if listed and not training:
            return Term(Stance.DENY, "rsl-not-permitted", f"permits usage: {' '.join(permitted)}", self.line_no)
        conditions = [*conditions, *self.conditions, *self._audiences()]
        words = f"permits usage: {' '.join(training)}" if listed else "permits what it does not list"
        if conditions:
            return Term(Stance.CONSTRAINED, "rsl-constrained", f"{words}; {'; '.join(conditions)}", self.line_no)
        if listed:
            return Term(Stance.ALLOW, "rsl-permitted", words, self.line_no)
        return Term(Stance.UNSET, "rsl-silent", "says nothing of training", self.line_no)

    def _audiences(self) -> Iterator[str]:
        """Users, places and whatever else is told apart: nobody here can show to which we belong."""
        for verb, kinds in (("permits", self.permits), ("prohibits", self.prohibits)):
            for kind, words in kinds.items():
                if kind != "usage":
                    yield f"{verb} {kind or 'without a type'}: {' '.join(words)}"


def _prohibits(word: str) -> bool:
    """Training, or a word that nobody knows and that may mean it; other vocabularies' words ("x:y") are passed over."""
    return word.rpartition(":")[2] in _TRAINING or not (word in _OTHER_USAGES or _FOREIGN.fullmatch(word))


# A prefix and a name, as XML's namespaces have them; ":y" and "x:" are nobody's words, and may mean training.
_FOREIGN = re.compile(r"[A-Za-z_][\w.-]*:[A-Za-z_][\w.-]*")


class _Reader:
    """The target of the XML parser: keeps what was said, not the tree."""

    def __init__(self) -> None:
        self.contents: list[Content] = []
        self.max_age_days: int | None = None
        self.unknown = ""
        self.expat: object = None
        self._path: list[str] = []  # RSL's own elements that are open
        self._passed = 0  # levels inside an element that is passed over
        self._elements = 0
        self._content: dict[str, str] = {}
        self._content_problem = ""
        self._content_line = 0
        self._licences: list[_Licence] = []
        self._licence: _Licence | None = None
        self._payment: dict[str, str] = {}
        self._kind = ""
        self._text: list[str] | None = None
        self._chars = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS} elements")
        if len(self._path) + self._passed >= MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        namespace, _, name = tag.rpartition("}")
        ours = namespace == f"{{{NAMESPACE}"
        if not self._path:
            if not ours or name != "rsl":
                raise ValueError(f"the root is <{tag[:200]}>, not <rsl> in {NAMESPACE}")
        elif self._passed or not ours:
            self._passed += 1
            return
        elif name not in _CHILDREN.get(self._path[-1], ()):
            self._problem(name)
            self._passed += 1
            return
        self._path.append(name)
        self._open(name, {key.rpartition("}")[2]: value for key, value in attributes.items()})

    def _open(self, name: str, attributes: Mapping[str, str]) -> None:
        match name:
            case "rsl":
                self.max_age_days = _days(attributes.get("max-age", ""))
            case "content":
                self._content, self._content_problem, self._licences = dict(attributes), "", []
                self._content_line = self._line()
            case "license":
                self._licence = _Licence(self._line())
            case "permits" | "prohibits":
                self._kind, self._text, self._chars = attributes.get("type", "").strip().lower(), [], 0
            case "payment":
                self._payment = {"type": attributes.get("type", "")}
            case "amount":
                self._text, self._chars = [], 0
            case "custom" | "accepts":
                self._payment[name] = "given"
            case "reporting" if self._licence is not None:
                self._licence.conditions.append(f"reporting {attributes.get('profile', '')}".strip())

    def data(self, text: str) -> None:
        if self._text is not None and not self._passed:
            self._chars += len(text)
            if self._chars > _MAX_TEXT_CHARS:
                raise ValueError(f"a list of more than {_MAX_TEXT_CHARS} characters")
            self._text.append(text)

    def end(self, tag: str) -> None:
        if self._passed:
            self._passed -= 1
            return
        name = self._path.pop()
        text, licence = "".join(self._text or ()), self._licence
        match name:
            case "permits" | "prohibits" if licence is not None:
                said = licence.permits if name == "permits" else licence.prohibits
                said.setdefault(self._kind, []).extend(w for w in _SEPARATORS.split(text.lower()) if w)
                self._text = None
            case "amount":
                self._payment["amount"] = text.strip()
                self._text = None
            case "payment" if licence is not None:
                licence.conditions.extend(_price(self._payment))
            case "license" if licence is not None:
                self._licences.append(licence)
                self._licence = None
            case "content":
                self.contents.append(self._finished())

    def close(self) -> None:
        """Nothing is built."""

    def _finished(self) -> Content:
        conditions = []
        if "server" in self._content:
            conditions.append(f"a licence of the server {self._content['server']}")
        if self._content.get("encrypted", "false").strip().lower() != "false":
            conditions.append("a key: it is encrypted")
        terms = tuple(licence.term(conditions) for licence in self._licences)
        url, problem = self._content.get("url"), self._content_problem
        if url is None:
            url, problem = "", problem or "<content> without url"
        elif not terms:
            problem = problem or "<content> without <license>"
        url = url.strip()
        place = _place(url, wide=not any(term.stance is Stance.ALLOW for term in terms))
        if isinstance(place, Unreadable):
            problem, place = problem or place.why, (None, None)
        if problem:
            terms = (Term(Stance.ERROR, "rsl-unreadable", problem, self._content_line), *terms)
        return Content(url, *place, terms, self._content_line)

    def _problem(self, name: str) -> None:
        """An unknown element of RSL's own: the nearest licence, content or document around it cannot be relied on."""
        what = f"<{name[:100]}> is no element of RSL here"
        if self._licence is not None:
            self._licence.problem = self._licence.problem or what
        elif "content" in self._path:
            self._content_problem = self._content_problem or what
        else:
            self.unknown = self.unknown or name[:100]

    def _line(self) -> int:
        return int(getattr(self.expat, "CurrentLineNumber", 0))


def _days(text: str) -> int | None:
    return max(int(text), 1) if re.fullmatch(r"[0-9]{1,6}", text.strip()) else None


def _price(payment: Mapping[str, str]) -> Iterator[str]:
    """What a `<payment>` asks for; nothing where it says free and means it."""
    kind, amount = payment["type"], payment.get("amount", "")
    asks = [name for name in ("custom", "accepts") if name in payment]
    if kind != "free" or asks or (amount and re.fullmatch(r"0+(?:\.0+)?", amount) is None):
        shown = [kind or "without a type", *([amount] if amount else []), *asks]
        yield f"payment {' '.join(shown)}"


def _place(url: str, *, wide: bool) -> tuple[str | None, PathPattern | None] | Unreadable:
    """Host and path pattern of a content's `url`: a path, a whole URL, or "" for all that it is declared for."""
    if not url:
        return None, None
    if len(url) > _MAX_PATTERN_CHARS:
        return Unreadable("the url of a <content> is longer than any address")
    if url.startswith("/") and not url.startswith("//"):
        return None, PathPattern(url, wide=wide)
    if url.startswith("*"):
        return None, PathPattern(url, wide=wide)
    scheme, separator, rest = url.partition("//")
    if not separator or scheme.lower() not in ("", "http:", "https:"):
        return Unreadable(f"the url {url[:200]!r} of a <content> is neither a path nor a web address")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2].lower()
    host = re.sub(r":(?:80|443)?\Z", "", host)
    if not host:
        return Unreadable(f"the url {url[:200]!r} of a <content> names no host")
    path = rest[len(authority) :].partition("#")[0]
    return host, PathPattern(path if path.startswith("/") else "/" + path, wide=wide)
