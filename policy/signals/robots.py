"""robots.txt (RFC 9309): a parser of our own, and what it means for an image and its page.

Line grammar, group merging and rule precedence are those of Google's reference parser, with its tolerance for
typing errors, since that is what sites are tested against. Where the RFC and that parser part ways over
percent-encoding, a Disallow is matched in either reading and an Allow in the stricter one.
Lines that are no rule (Content-Usage, Content-Signal, License, Crawl-delay, anything unknown) never close a group.
"""

from __future__ import annotations

import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

from policy.evidence import Document, Evidence
from policy.judgements import judgement, not_observed, unless_stale, worst
from policy.origins import origin_of, path_of
from policy.signals.origin_document import absent_as_html, read_status, sniffs_as_html
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "robots"

# Google's line buffer: what lies beyond is cut off, so that a rule becomes wider, never narrower.
_MAX_LINE_CHARS = 2083 * 8 - 1


@dataclass(frozen=True, slots=True)
class RobotsRules:
    """The ruleset's word on robots.txt.

    `product_tokens`: the names our crawler answers to; a no to any of them counts.
    `forbidden_status`: what 401, 403 and other 4xx mean (the RFC would allow).
    """

    product_tokens: tuple[str, ...]
    max_age_days: int
    forbidden_status: Literal["deny", "allow"]
    unreachable_deny_days: int
    max_bytes: int


class ExtensionLine(NamedTuple):
    """A line that other mechanisms read: its number, its lower-case name, its value, the line itself."""

    line_no: int
    name: str
    value: str
    line: str


class RobotsAnswer(NamedTuple):
    """Whether a path may be fetched, and the line that says so (0 and "" where none does)."""

    allowed: bool
    line_no: int
    line: str


class _Rule(NamedTuple):
    allow: bool
    pattern: str
    line_no: int
    line: str


class _Pattern:
    """A path pattern cut at its wildcards: matched left to right, each piece looked for once."""

    __slots__ = ("anchored", "head", "middle", "tail")

    def __init__(self, pattern: str) -> None:
        self.anchored = pattern.endswith("$")
        self.head, *rest = pattern.removesuffix("$").split("*")
        self.tail = rest.pop() if rest and self.anchored else None
        self.middle = [piece for piece in rest if piece]

    def matches(self, path: str) -> bool:
        if not path.startswith(self.head):
            return False
        at = len(self.head)
        for piece in self.middle:
            found = path.find(piece, at)
            if found < 0:
                return False
            at = found + len(piece)
        if not self.anchored:
            return True
        if self.tail is None:
            return at == len(path)
        return len(path) - len(self.tail) >= at and path.endswith(self.tail)


class _CompiledRule:
    """A rule with its pattern in the strict form and, for a Disallow that differs in it, in the normal one."""

    __slots__ = ("answer", "normal", "strict")

    def __init__(self, rule: _Rule, pattern: str) -> None:
        self.answer = RobotsAnswer(rule.allow, rule.line_no, rule.line)
        self.strict = _compiled(pattern)
        self.normal: str | _Pattern | None = None
        if not rule.allow:
            normal = pattern if _PLAIN.match(pattern) else _normal_pattern(pattern)
            self.normal = self.strict if normal == pattern else _compiled(normal)

    @property
    def literal(self) -> bool:
        return isinstance(self.strict, str)

    def matches(self, path: str, normal_path: str) -> bool:
        if _matches(self.strict, path):
            return True
        if self.normal is None or (self.normal is self.strict and normal_path is path):
            return False
        return _matches(self.normal, normal_path)


def _compiled(pattern: str) -> str | _Pattern:
    """A pattern without wildcards stays a string: the beginning of the paths it holds for."""
    return _Pattern(pattern) if "*" in pattern or pattern.endswith("$") else pattern


def _matches(pattern: str | _Pattern, path: str) -> bool:
    return path.startswith(pattern) if isinstance(pattern, str) else pattern.matches(path)


class PathPattern:
    """A path pattern of the robots language, for other mechanisms that use it.

    `wide`: percent-encoding is matched in either reading, as for a Disallow; else in the stricter one, as for an Allow.
    """

    __slots__ = ("_rule", "length")

    def __init__(self, pattern: str, *, wide: bool) -> None:
        escaped = _escaped(pattern)
        self.length = len(escaped.rstrip("*"))  # "/a*" says no more than "/a"
        self._rule = _CompiledRule(_Rule(not wide, pattern, 0, ""), escaped)

    def matches(self, path: str) -> bool:
        """Whether the pattern matches `path` (path and query)."""
        path = _escaped(path)
        return self._rule.matches(path, _normal_path(path))


class _Matcher:
    """The rules that hold for one agent, the most specific first."""

    __slots__ = ("literal_heads", "rules", "wildcards")

    def __init__(self, rules: Iterable[_Rule]) -> None:
        # Longest pattern first; of equals the Allow; of those the first in the file.
        ranked = sorted(
            ((-len(pattern), not rule.allow, rule.line_no), pattern, rule)
            for rule in rules
            for pattern in _patterns(rule)
        )
        self.rules = [_CompiledRule(rule, pattern) for _, pattern, rule in ranked]
        self.wildcards = [rule for rule in self.rules if not rule.literal]
        self.literal_heads = tuple(
            {form for rule in self.rules for form in (rule.strict, rule.normal) if isinstance(form, str)}
        )

    def judge(self, path: str) -> RobotsAnswer:
        path = _escaped(path)
        normal = _normal_path(path)
        # Most paths begin with no rule's literal: one call in C answers for all of those.
        literal = path.startswith(self.literal_heads) or (normal is not path and normal.startswith(self.literal_heads))
        for rule in self.rules if literal else self.wildcards:
            if rule.matches(path, normal):
                return rule.answer
        return _NO_RULE


_NO_RULE = RobotsAnswer(True, 0, "")


class RobotsFile:
    """A robots.txt: the groups of an agent are looked for when it is first asked about.

    `bad_lines`: numbers of lines that hold, outside comments, bytes that are no text: a rule may have been lost there.
    """

    __slots__ = ("_extensions", "_of_agent", "_site_wide", "_text", "bad_lines", "size_bytes")

    def __init__(self, text: str, bad_lines: tuple[int, ...], size_bytes: int) -> None:
        self._text = "\n" + text  # every line follows a line feed
        self.bad_lines, self.size_bytes = bad_lines, size_bytes
        self._of_agent: dict[str, tuple[_Matcher, tuple[ExtensionLine, ...]]] = {}
        self._extensions: tuple[ExtensionLine, ...] | None = None
        self._site_wide: tuple[ExtensionLine, ...] | None = None

    def judge(self, agent: str, path: str) -> RobotsAnswer:
        """Whether `agent` (a product token) may fetch `path` (path and query); no rule allows."""
        return self._for(agent)[0].judge(path)

    def extensions_for(self, agent: str) -> tuple[ExtensionLine, ...]:
        """The extension lines in the groups that hold for `agent`."""
        return self._for(agent)[1]

    @property
    def extensions(self) -> tuple[ExtensionLine, ...]:
        """Every extension line of the file, in a group or not."""
        if self._extensions is None:
            self._extensions = tuple(line for _, line in self._all_extensions())
        return self._extensions

    @property
    def site_wide(self) -> tuple[ExtensionLine, ...]:
        """The extension lines that stand in no group: before the first, or in a paragraph without an agent or a rule.

        An empty line ends no group (RFC 9309), but who sets a line apart from every rule speaks to everybody.
        """
        if self._site_wide is None:
            self._site_wide = tuple(line for at, line in self._all_extensions() if self._stands_alone(at))
        return self._site_wide

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that are named, lower case, "*" among them, in the file's order."""
        statements = (_statement(line) for _, _, line in self._lines_beginning(_AGENT_LINE))
        named = (token for kind, _, value in statements if kind == _USER_AGENT for token in _tokens(value))
        return tuple(dict.fromkeys(named))

    def _for(self, agent: str) -> tuple[_Matcher, tuple[ExtensionLine, ...]]:
        known = self._of_agent.get(agent)
        if known is None:
            statements = self._group_of(agent.lower())
            rules = (
                _Rule(s.kind == _ALLOW, s.value, s.line_no, s.line) for s in statements if s.kind in (_ALLOW, _DISALLOW)
            )
            extensions = tuple(
                ExtensionLine(s.line_no, s.key, _readable(s.value), _readable(s.line))
                for s in statements
                if s.kind == _EXTENSION
            )
            known = _Matcher(rules), extensions
            if len(self._of_agent) < 64:  # the agents asked for are our own few
                self._of_agent[agent] = known
        return known

    def _group_of(self, token: str) -> list[_Statement]:
        """The rules and extension lines of every group that names the agent, else of those for all agents."""
        ours: list[_Statement] = []
        everyones: list[_Statement] = []
        named = False
        text, at, line_no, counted = self._text, 0, 0, 0
        candidates = _agent_lines(token)
        while (candidate := candidates.search(text, at)) is not None:
            at = candidate.start() + 1
            line_no, counted = line_no + text.count("\n", counted, at), at
            group: list[_Statement] = []
            names: set[str] = set()
            ruled = False  # a User-agent line after a rule begins the next group
            while at <= len(text):
                end = text.find("\n", at)
                end = len(text) if end < 0 else end
                line = text[at : min(end, at + _MAX_LINE_CHARS)]
                kind, key, value = _statement(line)
                if kind == _USER_AGENT:
                    if ruled:
                        break
                    names.update(_tokens(value))
                elif kind != _OTHER:
                    group.append(_Statement(line_no, kind, key, value, line))
                    ruled = ruled or kind != _EXTENSION
                at, counted, line_no = end + 1, end + 1, line_no + 1
            if token in names:
                named = True
                ours += group
            if "*" in names:
                everyones += group
            at, counted, line_no = at - 1, at - 1, line_no - 1
        return ours if named else everyones

    def _all_extensions(self) -> Iterator[tuple[int, ExtensionLine]]:
        for at, no, line in self._lines_beginning(_EXTENSION_LINE):
            kind, key, value = _statement(line)
            if kind == _EXTENSION:
                yield at, ExtensionLine(no, key, _readable(value), _readable(line))

    def _stands_alone(self, at: int) -> bool:
        """Whether no agent and no rule stands above the line that begins at `at`, up to an empty line."""
        for _ in range(_PARAGRAPH_LINES):
            if at <= 1:
                return True
            start = self._text.rfind("\n", 0, at - 1) + 1
            line = self._text[start : min(at - 1, start + 200)]
            if not line.strip(_WHITE):
                return True
            if _statement(line)[0] in (_USER_AGENT, _ALLOW, _DISALLOW):
                return False
            at = start
        return False

    def _lines_beginning(self, beginning: re.Pattern[str]) -> Iterator[tuple[int, int, str]]:
        """Where each such line begins, its number, the line."""
        line_no, counted = 0, 0
        for match in beginning.finditer(self._text):
            at = match.start() + 1
            line_no, counted = line_no + self._text.count("\n", counted, at), at
            end = self._text.find("\n", at)
            yield at, line_no, self._text[at : min(len(self._text) if end < 0 else end, at + _MAX_LINE_CHARS)]


class _Statement(NamedTuple):
    line_no: int
    kind: int
    key: str
    value: str
    line: str


_DISALLOW, _ALLOW, _USER_AGENT, _EXTENSION, _OTHER = range(5)
# By their beginning, as the reference parser does: "Disallowed:" is a Disallow.
_KEYS = (
    *((start, _USER_AGENT) for start in ("user-agent", "useragent", "user agent")),
    *((start, _DISALLOW) for start in ("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw")),
    ("allow", _ALLOW),
)
_PARAGRAPH_LINES = 50
_EXTENSION_NAMES = frozenset({"content-usage", "content-signal", "license", "crawl-delay"})
_WHITE = " \t\n\v\f\r"
_RFC_TOKEN = re.compile(r"[A-Za-z_-]*")
_WIDE_TOKEN = re.compile(r"[A-Za-z0-9_.-]*")  # "img2dataset", "archive.org_bot": names the RFC's token cuts short
_AGENT_LINE = re.compile(r"\n[ \t\v\f]*user[- ]?agent", re.IGNORECASE)
_EXTENSION_LINE = re.compile(rf"\n[ \t\v\f]*(?:{'|'.join(sorted(_EXTENSION_NAMES))})", re.IGNORECASE)


@functools.lru_cache(maxsize=256)
def _agent_lines(token: str) -> re.Pattern[str]:
    """Beginnings of the User-agent lines that could name the agent or everyone: the line itself is read with care."""
    return re.compile(rf"{_AGENT_LINE.pattern}[^\n]*?(?:\*|{re.escape(token)})", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def _kind_of(key: str) -> tuple[int, str]:
    name = key.strip(_WHITE).lower()
    if name in _EXTENSION_NAMES:
        return _EXTENSION, name
    return next((kind for start, kind in _KEYS if name.startswith(start)), _OTHER), name


def _statement(line: str) -> tuple[int, str, str]:
    """What a line is, its key in lower case and its value. Where the colon was forgotten, of its only two words."""
    if "#" in line:
        line = line.partition("#")[0]
    if "\0" in line:  # ends a line in the reference parser
        line = line.partition("\0")[0]
    key, colon, value = line.partition(":")
    if not colon:
        words = re.split(r"[ \t]+", line.strip(_WHITE))
        if len(words) != 2:
            return _OTHER, "", ""
        key, value = words
    kind, name = _kind_of(key) if len(key) < 100 else (_OTHER, "")
    return kind, name, value.strip(_WHITE)


def parse(body: bytes) -> RobotsFile:
    """Read a robots.txt of any size; whatever it holds, it is a file with some rules or none."""
    text, damaged = _decoded(body)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    bad_lines = _bad_lines(text) if damaged else ()
    return RobotsFile(text, bad_lines, len(body))


def _bad_lines(text: str) -> tuple[int, ...]:
    lines = enumerate(text.split("\n"), 1)
    return tuple(no for no, line in lines if _DAMAGE.search(line[:_MAX_LINE_CHARS].partition("#")[0]))


_DAMAGE = re.compile("[\0\udc80-\udcff\ufffd]")


def _decoded(body: bytes) -> tuple[str, bool]:
    """The text, and whether some of it is damaged. Undecodable bytes survive as lone surrogates."""
    for bom, encoding in _BOMS:
        if body.startswith(bom):
            text = body[len(bom) :].decode(encoding, errors="replace")
            return text, "\ufffd" in text or "\0" in text
    if wide := _wide_encoding(body):
        text = body.decode(wide, errors="replace")
        return text, "\ufffd" in text or "\0" in text
    # A beginning of the UTF-8 mark is skipped too, as the reference parser does.
    for mark in (b"\xef\xbb\xbf", b"\xef\xbb", b"\xef"):
        if body.startswith(mark):
            body = body[len(mark) :]
            break
    text = body.decode("utf-8", errors="surrogateescape")
    return text, "\0" in text or not _is_utf8(body)


_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


def _wide_encoding(body: bytes) -> str | None:
    """UTF-16 without its mark, told by a zero in every other byte."""
    start = body[:256]
    if len(start) < 8 or b"\0" not in start:
        return None
    if start[1::2].count(0) > len(start) * 0.4 and not start[0::2].count(0):
        return "utf-16-le"
    if start[0::2].count(0) > len(start) * 0.4 and not start[1::2].count(0):
        return "utf-16-be"
    return None


def _readable(line: str) -> str:
    """The line for a reader, lone surrogates replaced."""
    return line.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _tokens(value: str) -> tuple[str, ...]:
    if value.startswith("*") and (len(value) == 1 or value[1] in _WHITE):
        return ("*",)
    strict, wide = _RFC_TOKEN.match(value), _WIDE_TOKEN.match(value)
    names = {m.group().lower() for m in (strict, wide) if m is not None and m.group()}
    return tuple(names)


def _patterns(rule: _Rule) -> tuple[str, ...]:
    """The pattern as it is compared; an allowed index page allows its directory too, as the reference parser has it."""
    pattern = _escaped(rule.pattern)
    if not pattern:
        return ()
    if rule.allow and (slash := pattern.rfind("/")) >= 0 and pattern.startswith("/index.htm", slash):
        return pattern, pattern[: slash + 1] + "$"
    return (pattern,)


# Percent-encoding. The strict form escapes what is not ASCII and writes the hex digits in capitals (Google). The
# normal form also undoes the escapes of what may stand in a path as it is (more than RFC 9309, section 2.2.2, which
# undoes those of unreserved characters only: servers often make no difference) and escapes everything else.
_TO_ESCAPE = re.compile(r"[^\x00-\x7f]|%[0-9a-fA-F]{2}")
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!&'()+,;=]*\Z")
_TO_NORMALISE = re.compile(r"%[0-9A-F]{2}|[^A-Za-z0-9\-._~:/?#\[\]@!&'()+,;=]")
_IN_A_PATH = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/[]@!&'()+,;=")


def _percent(char: str) -> str:
    return "".join(f"%{b:02X}" for b in char.encode("utf-8", errors="surrogateescape"))


def _escape_one(match: re.Match[str]) -> str:
    found = match.group()
    return found.upper() if found[0] == "%" else _percent(found)


def _escaped(text: str) -> str:
    if text.isascii() and "%" not in text:
        return text
    # A surrogate that no byte stands behind can only come from a caller's string.
    text = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="surrogateescape")
    return _TO_ESCAPE.sub(_escape_one, text)


def _normalise_one(match: re.Match[str]) -> str:
    found = match.group()
    if len(found) == 1:
        return _percent(found)
    char = chr(int(found[1:], 16))
    return char if char in _IN_A_PATH else found


def _normal_path(path: str) -> str:
    return path if _PLAIN.match(path) else _TO_NORMALISE.sub(_normalise_one, path)


def _normal_pattern(pattern: str) -> str:
    """The normal form of a pattern: "*", and "$" at its end, stay wildcards."""
    body, end = (pattern[:-1], "$") if pattern.endswith("$") else (pattern, "")
    return "*".join(_normal_path(piece) for piece in body.split("*")) + end


T = TypeVar("T")


class Remembered(Generic[T]):
    """What the most recently used bodies parsed to, within a budget of source bytes."""

    def __init__(self, parse: Callable[[bytes], T], max_bytes: int) -> None:
        self._parse, self._max_bytes, self._bytes = parse, max_bytes, 0
        self._known: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, body: bytes) -> T:
        with self._lock:
            if (known := self._known.get(body)) is not None:
                self._known.move_to_end(body)
                return known
        parsed = self._parse(body)
        with self._lock:
            if body not in self._known:
                self._known[body] = parsed
                self._bytes += len(body)
            while self._bytes > self._max_bytes and self._known:
                self._bytes -= len(self._known.popitem(last=False)[0])
        return parsed


_PARSED = Remembered(parse, max_bytes=16 * 2**20)


def parsed(body: bytes) -> RobotsFile:
    """`parse`, remembered by content."""
    return _PARSED.get(body)


def read(document: Document, rules: RobotsRules, now: datetime) -> RobotsFile | Judgement:
    """The file an origin answered with, or the judgement where its status already decides."""
    body = read_status(MECHANISM, document, rules, now)
    if isinstance(body, Judgement):
        return body
    file = parsed(body)
    if sniffs_as_html(body) and not file.agents:
        return absent_as_html(MECHANISM, document)
    return file


def may_fetch(document: Document | None, url: str, agent: str, now: datetime, rules: RobotsRules) -> Judgement:
    """Whether robots.txt lets `agent` fetch `url`: asked before a URL is contacted, and again when deciding."""
    if document is None:
        return not_observed(MECHANISM, "robots.txt of this origin was not asked for", origin_of(url))
    file = read(document, rules, now)
    judged = file if isinstance(file, Judgement) else _judge_file(file, document, url, agent)
    return unless_stale(judged, document.fetched_at, now, rules.max_age_days)


def _judge_file(file: RobotsFile, document: Document, url: str, agent: str) -> Judgement:
    answer = file.judge(agent, path_of(url))
    where = f"{document.url}:{answer.line_no}" if answer.line_no else document.url
    line = _readable(answer.line).strip()

    def said(verdict: Verdict | None, code: str, stance: Stance, detail: str) -> Judgement:
        signal = Signal(MECHANISM, where, stance, detail, document.body_sha256)
        return judgement(MECHANISM, verdict, code, detail, where, (signal,))

    if not answer.allowed:
        return said(Verdict.DENY, "robots-disallow", Stance.DENY, line)
    if file.bad_lines:
        return damaged(file, document)
    if answer.line_no:
        return said(Verdict.ALLOW, "robots-allow", Stance.ALLOW, line)
    return said(None, "robots-no-rule", Stance.UNSET, "")


def damaged(file: RobotsFile, document: Document) -> Judgement:
    """DEFER: some lines hold bytes that are no text, and might have been a no."""
    where, detail = f"{document.url}:{file.bad_lines[0]}", f"{len(file.bad_lines)} damaged lines"
    signal = Signal(MECHANISM, where, Stance.ERROR, detail, document.body_sha256)
    return judgement(MECHANISM, Verdict.DEFER, "robots-bad-encoding", detail, where, (signal,))


def judge_robots(evidence: Evidence, rules: RobotsRules, now: datetime) -> Judgement:
    """robots.txt of the image's origin, the page's, and every redirect's: each must let each of our tokens pass."""
    urls = [evidence.image_url, *([evidence.page_url] if evidence.page_url else [])]
    urls += [hop.url for hop in evidence.hops or ()]
    if evidence.refused_url is not None and evidence.origin(origin_of(evidence.refused_url)) is not None:
        urls.append(evidence.refused_url)
    judged: list[Judgement] = []
    for url in dict.fromkeys(urls):
        origin = evidence.origin(origin_of(url))
        document = origin.get(MECHANISM) if origin is not None else None
        judged += [may_fetch(document, url, token, now, rules) for token in rules.product_tokens]
    return worst(judged)
