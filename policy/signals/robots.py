"""robots.txt (RFC 9309): a parser of our own, and what it means for an image and its page.

Line grammar, group merging and rule precedence are those of Google's reference parser, with its tolerance for
typing errors, since that is what sites are tested against. Where the RFC and that parser part ways over
percent-encoding, a Disallow is matched in either reading and an Allow in the stricter one.
Lines that are no rule (Content-Usage, Content-Signal, License, Crawl-delay, anything unknown) never close a group.
"""

from __future__ import annotations

import functools
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

from policy.evidence import Document, Evidence
from policy.judgements import judgement, not_observed, unless_stale, worst
from policy.limits import days
from policy.origins import origin_of, path_of
from policy.signals.asked import asked
from policy.signals.origin_document import absent_as_html, flooded, read_status, sniffs_as_html
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

    def __post_init__(self) -> None:
        days("max_age_days", self.max_age_days)
        days("unreachable_deny_days", self.unreachable_deny_days)


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
    def heads(self) -> set[str]:
        """What the paths that it holds for begin with."""
        forms = (self.strict,) if self.normal is None else (self.strict, self.normal)
        return {form if isinstance(form, str) else form.head for form in forms}

    def matches(self, path: str, normal_path: str, raw: str) -> bool:
        """Whether it holds for a path, given in the strict and the normal form, and as it is where it is no URL's."""
        if self.answer.allowed:
            return _matches(self.strict, raw)
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
        return self._rule.matches(path, _normal_path(path), path)


_Rank = tuple[int, bool, int]


def _rank(rule: _Rule, pattern: str) -> _Rank:
    """Longest pattern first; of equals the Allow; of those the first in the file."""
    return -len(pattern), not rule.allow, rule.line_no


class _Matcher:
    """The rules that hold for one agent, the most specific first, and by what their paths begin with."""

    __slots__ = ("by_head", "heads", "lengths", "rules")

    def __init__(self, rules: Iterable[_Rule]) -> None:
        patterns = ((rule, pattern) for rule in rules for pattern in _patterns(rule))
        self.rules = [_CompiledRule(*each) for each in sorted(patterns, key=lambda each: _rank(*each))]
        self.by_head: dict[str, list[int]] = {}
        for rank, rule in enumerate(self.rules):
            for head in rule.heads:
                self.by_head.setdefault(head, []).append(rank)
        self.lengths = sorted({len(head) for head in self.by_head})
        self.heads = tuple(self.by_head) if len(self.by_head) <= _FEW_HEADS else None

    def judge(self, path: str) -> RobotsAnswer:
        path, normal, raw = _forms(path)
        # Most paths begin as no rule does: one call in C answers for all of those.
        if self.heads is not None and not (
            path.startswith(self.heads) or (normal is not path and normal.startswith(self.heads))
        ):
            return _NO_RULE
        for rank in self._candidates(path, normal):
            rule = self.rules[rank]
            if rule.matches(path, normal, raw):
                return rule.answer
        return _NO_RULE

    def _candidates(self, path: str, normal: str) -> Iterable[int]:
        if len(self.rules) <= _FEW_HEADS:
            return range(len(self.rules))
        found: set[int] = set()
        for form in (path,) if normal is path else (path, normal):
            for length in self.lengths:
                if length > len(form):
                    break
                found.update(self.by_head.get(form[:length], ()))
        return sorted(found)


_FEW_HEADS = 64


_NO_RULE = RobotsAnswer(True, 0, "")


class _Group:
    """The rules and extension lines of all groups that hold for one agent: `spans` of the file's text."""

    __slots__ = ("_asked", "_extensions", "_joined", "_loose", "_matcher", "_spans", "_text")

    def __init__(self, text: str, spans: Sequence[tuple[int, int]], *, loose: bool = False) -> None:
        self._text, self._spans, self._loose = text, spans, loose
        self._joined: str | None = None
        self._asked = 0
        self._matcher: _Matcher | None = None
        self._extensions: tuple[ExtensionLine, ...] | None = None
        if sum(end - start for start, end in spans) <= _SMALL_CHARS:
            self._matcher = self._compiled()

    def judge(self, path: str) -> RobotsAnswer:
        if self._matcher is None:
            self._asked += 1
            if self._asked <= _SCANS or len(self._joined or "") > _MAX_COMPILED_CHARS:
                return self._scanned(path)
            self._matcher = self._compiled()
        return self._matcher.judge(path)

    @property
    def extensions(self) -> tuple[ExtensionLine, ...]:
        if self._extensions is None:
            self._extensions = tuple(_extension_lines(self._text, self._spans))
        return self._extensions

    def _compiled(self) -> _Matcher:
        """Every rule made ready: dear for masses of them, and then each path is cheap."""
        return _Matcher(self._rules())

    def _rules(self) -> Iterator[_Rule]:
        for line_no, line in self._lines():
            kind, _, value = _statement(line)
            if kind in (_ALLOW, _DISALLOW):
                yield self._rule(kind == _ALLOW, value, line_no, line)

    def _rule(self, allow: bool, pattern: str, line_no: int, line: str) -> _Rule:
        if self._loose and pattern[:1] not in _PATTERN_BEGINNINGS:
            pattern = ("/" if allow else "*") + pattern
        return _Rule(allow, pattern, line_no, line)

    def _lines(self) -> Iterator[tuple[int, str]]:
        line_no, counted = 0, 0
        for start, end in self._spans:
            line_no, counted = line_no + self._text.count("\n", counted, start), start
            yield from enumerate(self._text[start + 1 : end].split("\n"), line_no + 1)

    def _scanned(self, path: str) -> RobotsAnswer:
        """The answer for one path by one regular expression over the text, which leaves few rules to look at."""
        path, normal, raw = _forms(path)
        if self._joined is None:
            self._joined = "".join(self._text[start:end] for start, end in self._spans)
        best: _Rank | None = None
        found: _Rule | None = None
        about = _perhaps_about(path, normal, anywhere=self._loose)
        for at, line in enumerate(_lines_found(about, self._joined)):
            kind, _, value = _statement(line)
            rule = self._rule(kind == _ALLOW, value, at, line)
            for pattern in _patterns(rule):
                rank = _rank(rule, pattern)
                if (best is None or rank < best) and _CompiledRule(rule, pattern).matches(path, normal, raw):
                    best, found = rank, rule
        return self._found(found) if found is not None else _NO_RULE

    def _found(self, rule: _Rule) -> RobotsAnswer:
        """The rule's first line in the file: its number, and how it stands there."""
        joined = self._joined or ""
        found = re.search(rf"\n{_GAP}{re.escape(rule.line)}{_GAP}(?=[\n#\0]|\Z)", joined)
        at = found.start() if found is not None else 0
        for start, end in self._spans:
            if at < end - start:
                at += start
                break
            at -= end - start
        end = self._text.find("\n", at + 1)
        line = self._text[at + 1 : end if end >= 0 else len(self._text)]
        return RobotsAnswer(rule.allow, self._text.count("\n", 0, at + 1), line)


# A group of so many characters is made ready at once; of a longer one, after so many paths have been looked for.
_SMALL_CHARS = 65_536
_SCANS = 64
_MAX_COMPILED_CHARS = 524_288  # 40,000 rules made ready take 20 MB; beyond, every path is looked for
_MAX_REMEMBERED = 1_024
_PATTERN_BEGINNINGS = ("", "/", "*", "%", "$")


class RobotsFile:
    """A robots.txt: the groups of an agent are looked for when it is first asked about.

    `bad_lines`: numbers of lines that hold, outside comments, bytes that are no text: a rule may have been lost there.
    `is_page`: it is an HTML page and no robots.txt. `judgements`: what was said of it before, for who asks often.
    """

    __slots__ = (
        "_extensions",
        "_loose",
        "_of_agent",
        "_of_class",
        "_site_wide",
        "_text",
        "bad_lines",
        "is_flooded",
        "is_page",
        "judgements",
        "size_bytes",
    )

    def __init__(self, text: str, bad_lines: tuple[int, ...], size_bytes: int, *, loose: bool = False) -> None:
        text = "\n" + text  # every line follows a line feed
        if _may_have_a_long_line(text):
            text = _LONG_LINE.sub(r"\1", text)
        self._text, self._loose = text, loose
        self.bad_lines, self.size_bytes = bad_lines, size_bytes
        self._of_agent: dict[str, _Group] = {}
        self._of_class: dict[tuple[str, ...], tuple[tuple[tuple[str, ...], _Group], ...]] = {}
        self._extensions: tuple[ExtensionLine, ...] | None = None
        self._site_wide: tuple[ExtensionLine, ...] | None = None
        self.is_page = self.is_flooded = False
        self.judgements: dict[tuple[object, ...], Judgement] = {}

    def judge(self, agent: str, path: str) -> RobotsAnswer:
        """Whether `agent` (a product token) may fetch `path` (path and query); no rule allows."""
        return self._for(agent).judge(path)

    def remember(self, key: tuple[object, ...], judged: Judgement) -> Judgement:
        """Keep a judgement in `judgements`, within bounds."""
        if len(self.judgements) < _MAX_REMEMBERED:
            self.judgements[key] = judged
        return judged

    def has_more_extensions_than(self, count: int) -> bool:
        """Whether the file holds more extension lines than that, copies included."""
        if len(self._text) <= count * len("license:"):
            return False
        return next(itertools.islice(_EXTENSION_LINE.finditer(self._text), count, None), None) is not None

    def extensions_for(self, agent: str) -> tuple[ExtensionLine, ...]:
        """The extension lines in the groups that hold for `agent`."""
        return self._for(agent).extensions

    def named(self, agents: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], _Group], ...]:
        """Which of `agents` (product tokens) have groups of their own: those that share all of theirs come together.

        Of each: `judge(path)` and `extensions`.
        """
        if (known := self._of_class.get(agents)) is None:
            present = self._present(agents)
            groups: dict[tuple[tuple[int, int], ...], list[str]] = {}
            for agent in agents:
                if agent.lower() in present and (spans := self._spans_naming(agent.lower())):
                    groups.setdefault(_rule_spans(self._text, spans), []).append(agent)
            known = tuple((tuple(names), _Group(self._text, spans)) for spans, names in groups.items())
            self._of_class = {agents: known}
        return known

    def _present(self, agents: tuple[str, ...]) -> set[str]:
        """Those of the agents (in lower case) that some User-agent line names."""
        present = {name.lower() for name in set(_RFC_NAMES.findall(self._text))}
        others = tuple(agent for agent in agents if not _RFC_TOKEN.fullmatch(agent))
        return present | {_token_in(m.group(1)) for m in _any_of(others).finditer(self._text) if others}

    @property
    def extensions(self) -> tuple[ExtensionLine, ...]:
        """Every extension line of the file, in a group or not."""
        if self._extensions is None:
            self._extensions = tuple(_extension_lines(self._text, ((0, len(self._text)),)))
        return self._extensions

    @property
    def site_wide(self) -> tuple[ExtensionLine, ...]:
        """The extension lines that stand in no group: before the first, or in a paragraph without an agent or a rule.

        An empty line ends no group (RFC 9309), but who sets a line apart from every rule speaks to everybody.
        """
        if self._site_wide is None:
            apart = [m.span(1) for m in _APART.finditer(self._text)] if self.extensions else []
            self._site_wide = tuple(_extension_lines(self._text, apart))
        return self._site_wide

    @property
    def names_agents(self) -> bool:
        """Whether there is a User-agent line."""
        return _NAMING_LINE.search(self._text) is not None

    @property
    def has_rules(self) -> bool:
        """Whether there is an Allow or a Disallow, in a group or not."""
        return _RULE_LINE.search(self._text) is not None

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that are named, lower case, "*" among them, in the file's order."""
        values = dict.fromkeys(_NAMING_LINE.findall(self._text))
        return tuple(dict.fromkeys(token for value in values for token in _tokens(value.strip(_WHITE))))

    def _for(self, agent: str) -> _Group:
        known = self._of_agent.get(agent)
        if known is None:
            token = agent.lower()
            spans = self._spans_naming(token) or [m.span() for m in _EVERYONES.finditer(self._text)]
            if self._loose and not self.names_agents:
                spans = [(0, len(self._text))]
            known = _Group(self._text, spans, loose=self._loose)
            if len(self._of_agent) < 64:  # the agents asked for are our own few
                self._of_agent[agent] = known
        return known

    def _spans_naming(self, token: str) -> list[tuple[int, int]]:
        """Where the groups lie that name the agent (in lower case)."""
        if not _WIDE_TOKEN.fullmatch(token) or (self._text.isascii() and token not in self._text.lower()):
            return []
        return [m.span() for m in _groups_of(token).finditer(self._text) if m.lastindex is not None]


def _lines_found(wanted: re.Pattern[str], text: str) -> Iterable[str]:
    """The different lines that match, in order. Copies of the first, which may come by the thousands, are cut out."""
    if (first := wanted.search(text)) is None:
        return ()
    line: str = first[1]
    return dict.fromkeys((line, *wanted.findall(text.replace(f"\n{line}\n", "\n"))))


def _may_have_a_long_line(text: str) -> bool:
    """Whether some stretch of half the limit holds no line feed, as every longer line does."""
    step = _MAX_LINE_CHARS // 2
    return any(text.find("\n", at, at + step) < 0 for at in range(0, len(text) - step, step))


def _extension_lines(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[ExtensionLine]:
    line_no, counted = 0, 0
    for start, end in spans:
        for match in _EXTENSION_LINE.finditer(text, start, end):
            at = match.start() + 1
            line_no, counted = line_no + text.count("\n", counted, at), at
            stop = text.find("\n", at, end)
            line = text[at : end if stop < 0 else stop]
            kind, key, value = _statement(line)
            if kind == _EXTENSION:
                yield ExtensionLine(line_no, key, readable(value), readable(line))


def _rule_spans(text: str, spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The groups without the lines above their first rule or extension: equal for all the agents that share them."""
    return tuple((first.start(), end) for start, end in spans if (first := _SAYING_LINE.search(text, start, end)))


_DISALLOW, _ALLOW, _USER_AGENT, _EXTENSION, _OTHER = range(5)
# By their beginning, as the reference parser does: "Disallowed:" is a Disallow.
_KEYS = (
    *((start, _USER_AGENT) for start in ("user-agent", "useragent", "user agent")),
    *((start, _DISALLOW) for start in ("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw")),
    ("allow", _ALLOW),
)
_KEY_CHARS = 40
_EXTENSION_NAMES = frozenset({"content-usage", "content-signal", "license", "crawl-delay"})
_WHITE = " \t\n\v\f\r"
_RFC_TOKEN = re.compile(r"[A-Za-z_-]*")
_WIDE_TOKEN = re.compile(r"[A-Za-z0-9_.-]*")  # "img2dataset", "archive.org_bot": names the RFC's token cuts short

# The same grammar in regular expressions, for files of any size: each looks at a line once and never goes back.
_GAP = r"[ \t\v\f]*+"
_WORD, _NO_WHITE = r"[^ \t\n:#\0]", r"[^ \t\v\f\n:#\0]"
# A key's end: the colon or, where it was forgotten, the gap between the line's only two words.
_COLON = rf"(?:[^\n:#\0]*+:|{_WORD}*+[ \t]++(?=[\v\f]*+{_NO_WHITE}{_WORD}*+{_GAP}(?:[\n#\0]|\Z)))"
_AGENT_KEY = rf"{_GAP}(?ai:user)(?:-?(?ai:agent){_COLON}|[ ](?ai:agent)[^\n:#\0]*+:)"
# What nearly every line begins with first: twice as fast.
_RULE_KEY = rf"(?>Disallow:|Allow:|{_GAP}(?ai:allow|di(?:s(?:al(?:l[ao]|o)w|sall?ow)|asllow)){_COLON})"
_LONG_LINE = re.compile(rf"(\n[^\n]{{{_MAX_LINE_CHARS}}})[^\n]++")
_NAMING_LINE = re.compile(rf"\n{_AGENT_KEY}{_GAP}([*A-Za-z0-9_.-][^\n#\0]*+)")
_RFC_NAMES = re.compile(rf"\n(?>User-agent:|{_AGENT_KEY}){_GAP}([A-Za-z_-]*+)")
# Each becomes an object, and no site has a use for so many: a file with more is not judged.
_MAX_EXTENSION_LINES = 50_000
_EXTENSION_LINE = re.compile(rf"\n{_GAP}(?ai:{'|'.join(sorted(_EXTENSION_NAMES))})")
_RULE_LINE = re.compile(rf"\n{_RULE_KEY}")
_SAYING_LINE = re.compile(rf"\n(?:{_RULE_KEY}|{_GAP}(?ai:{'|'.join(sorted(_EXTENSION_NAMES))})[^\n]*+)")
# Lines at the beginning, or after an empty one, up to an empty one, a User-agent or a rule.
_APART = re.compile(rf"(?:\A|\n{_GAP}(?=\n))((?:\n(?!{_GAP}(?:\n|\Z)|{_AGENT_KEY}|{_RULE_KEY})[^\n]*+)++)")
_EVERYONE = rf"(?>User-agent:|{_AGENT_KEY}){_GAP}\*(?=[ \t\v\f\n#\0]|\Z)"
# A group: its User-agent lines and whatever else stands before the first rule, then all up to a User-agent line.
_HEADER = rf"(?:\n(?!{_RULE_KEY})[^\n]*+)*+"
_BODY = rf"(?:\n(?!{_AGENT_KEY})[^\n]*+)*+"
_EVERYONES = re.compile(rf"\n{_EVERYONE}[^\n]*+{_HEADER}{_BODY}(?:\n{_EVERYONE}[^\n]*+{_HEADER}{_BODY})*+")


def _names(tokens: Iterable[str]) -> str:
    """A User-agent line that names one of the tokens, as `_tokens` reads it."""
    strict = "|".join(re.escape(t) for t in tokens if _RFC_TOKEN.fullmatch(t))
    wide = "|".join(re.escape(t) for t in tokens)
    either = rf"(?:{strict})(?![A-Za-z_-])|(?:{wide})(?![A-Za-z0-9_.-])" if strict else rf"(?:{wide})(?![A-Za-z0-9_.-])"
    return rf"(?>User-agent:|{_AGENT_KEY}){_GAP}(?ai:{either})"


@functools.lru_cache(maxsize=256)
def _groups_of(token: str) -> re.Pattern[str]:
    """The groups that name the agent: the first capture says so where one begins by naming everyone."""
    named = _names((token,))
    return re.compile(
        rf"\n(?:({named})[^\n]*+{_HEADER}{_BODY}(?:\n{named}[^\n]*+{_HEADER}{_BODY})*+"
        rf"|{_EVERYONE}[^\n]*+(?:\n(?!{_RULE_KEY}|{named})[^\n]*+)*+(?:\n({named})[^\n]*+{_HEADER})?{_BODY})"
    )


@functools.lru_cache(maxsize=8)
def _any_of(agents: tuple[str, ...]) -> re.Pattern[str]:
    """A User-agent line that names one of the agents."""
    return re.compile(rf"\n({_names(agents)})")


def _token_in(line: str) -> str:
    """The name at the end of what `_any_of` found."""
    return line[len(line.rstrip(_NAME_CHARS)) :].lower()


_NAME_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


def _perhaps_about(path: str, normal: str, *, anywhere: bool) -> re.Pattern[str]:
    """The rules that could hold for a path: they begin as it does, and have no plain character that it has not.

    Both are told of the text as it stands; wildcards, escapes and whatever else is not plain pass for anything.
    """
    others = re.escape("".join(sorted(_PLAIN_CHARS - set(path) - set(normal) - {"/"})))
    index = r"index\.htm[^\n#\0]*+"  # an Allow of it may stand for its directory
    known = rf"(?:[^{others}\n#\0/%]++|%(?:[0-9A-Fa-f]{{2}})?+|/(?:{index})?+)*+"
    begins = ""
    if len(path) < _BEGINNING and not anywhere:
        begins = _NO_PLAIN_CHAR + (rf"|{index}" if path.endswith("/") else "")
    for char in reversed("" if anywhere else path[:_BEGINNING]):
        begins = rf"{_NO_PLAIN_CHAR}|{re.escape(char)}(?:{begins})" if char in _PLAIN_CHARS else ""
    return re.compile(rf"\n{_GAP}({_RULE_KEY}{_GAP}(?={begins}){known}){_GAP}(?=[\n#\0]|\Z)")


_BEGINNING = 12
_PLAIN_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!&'()+,;=")
_NO_PLAIN_CHAR = rf"[^{re.escape(''.join(sorted(_PLAIN_CHARS)))}]|\Z"


@functools.lru_cache(maxsize=4096)
def _kind_of(key: str) -> tuple[int, str]:
    name = key.lower()
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
    kind, name = _kind_of(key.strip(_WHITE)[:_KEY_CHARS])
    return kind, name, value.strip(_WHITE)


def parse(body: bytes, *, loose: bool = False) -> RobotsFile:
    """Read a robots.txt of any size; whatever it holds, it is a file with some rules or none.

    `loose`: for a file that borrows this shape (ai.txt). A pattern may then lack its slash, as in "Disallow: .jpg",
    which holds anywhere in a path; and rules without any User-agent line are for everyone.
    """
    file = RobotsFile(*text_of(body), len(body), loose=loose)
    file.is_page = sniffs_as_html(body) and not file.names_agents
    file.is_flooded = file.has_more_extensions_than(_MAX_EXTENSION_LINES)
    return file


def text_of(body: bytes) -> tuple[str, tuple[int, ...]]:
    """A body of lines as text, each ended by a line feed; and the numbers of lines that hold, outside comments ("#"),
    what is no text: undecodable bytes stand there as lone surrogates.
    """
    text, damaged = _decoded(body)
    text = text.lstrip("\ufeff")  # a second mark, where a file that has one was pasted below another's
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, _bad_lines(text) if damaged else ()


def _bad_lines(text: str) -> tuple[int, ...]:
    """The first lines with damage outside comments, as many as a reader may want to see."""
    numbers: list[int] = []
    line_no, counted, text = 0, 0, "\n" + text
    for match in itertools.islice(_DAMAGED_LINE.finditer(text), _MAX_BAD_LINES):
        line_no, counted = line_no + text.count("\n", counted, match.start() + 1), match.start() + 1
        numbers.append(line_no)
    return tuple(numbers)


_MAX_BAD_LINES = 100
_DAMAGED_LINE = re.compile(r"\n[^\n#\0\udc80-\udcff\ufffd]*+[\0\udc80-\udcff\ufffd]")


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
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("utf-8", errors="surrogateescape"), True
    return text, "\0" in text


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


def readable(line: str) -> str:
    """The line for a reader, lone surrogates replaced."""
    if line.isascii():
        return line
    return line.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


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


def _forms(path: str) -> tuple[str, str, str]:
    """A path in the strict form, in the normal one, and as an Allow must match it.

    Characters that no URL holds should have been escaped before: as in the reference parser, no escape in an Allow
    is meant by them.
    """
    strict = _escaped(path)
    return strict, _normal_path(strict), strict if path.isascii() else path


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
    # Asked by the document itself, for each of five mechanisms of every pair: comparing two takes longer than this.
    known = _READ.get(id(document))
    if known is not None and known[0] is document and known[1] is rules and known[2] is now:
        return known[3]
    found = _read(document, rules, now)
    if document.body is None or len(document.body) <= _MAX_KEPT_BYTES:
        if len(_READ) >= _MAX_KEPT:
            _READ.clear()
        _READ[id(document)] = document, rules, now, found
    return found


_READ: dict[int, tuple[Document, RobotsRules, datetime, RobotsFile | Judgement]] = {}
_MAX_KEPT = 1_024
_MAX_KEPT_BYTES = 4_096


def _read(document: Document, rules: RobotsRules, now: datetime) -> RobotsFile | Judgement:
    body = read_status(MECHANISM, document, rules, now)
    if isinstance(body, Judgement):
        return body
    file = parsed(body)
    if file.is_page:
        return absent_as_html(MECHANISM, document)
    if file.is_flooded:
        return flooded(MECHANISM, document, f"more than {_MAX_EXTENSION_LINES:,} lines that other mechanisms read")
    return file


def may_fetch(document: Document | None, url: str, agent: str, now: datetime, rules: RobotsRules) -> Judgement:
    """Whether robots.txt lets `agent` fetch `url`: asked before a URL is contacted, and again when deciding."""
    if document is None:
        return not_observed(MECHANISM, "robots.txt of this origin was not asked for", origin_of(url))
    file = read(document, rules, now)
    judged = file if isinstance(file, Judgement) else _judge_file(file, document, url, agent)
    return unless_stale(judged, document.fetched_at, now, rules.max_age_days)


def crawl_delay(document: Document | None, agent: str, rules: RobotsRules) -> float | None:
    """The seconds that robots.txt asks `agent` to leave between two requests; None where it does not say.

    Crawl-delay stands in no standard: it is a wish that politeness follows, never a decision. It is read in the groups
    that hold for the agent (else those of "*"); of several the longest counts, and what is no finite number of 0 or
    more is passed over.
    """
    if document is None or document.body is None or document.status not in (200, 203):
        return None
    file = parsed(document.body[: rules.max_bytes])
    if file.is_page or file.is_flooded:
        return None
    asked = (_seconds(line.value) for line in file.extensions_for(agent) if line.name == "crawl-delay")
    return max((seconds for seconds in asked if seconds is not None), default=None)


def _seconds(value: str) -> float | None:
    return float(value) if _SECONDS.fullmatch(value) else None


_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")


def _judge_file(file: RobotsFile, document: Document, url: str, agent: str) -> Judgement:
    answer = file.judge(agent, path_of(url))
    key = MECHANISM, document.url, document.body_sha256, answer.line_no
    if (known := file.judgements.get(key)) is None:
        known = file.remember(key, _judge_answer(file, document, answer))
    return known


def _judge_answer(file: RobotsFile, document: Document, answer: RobotsAnswer) -> Judgement:
    where = f"{document.url}:{answer.line_no}" if answer.line_no else document.url
    line = readable(answer.line).strip()

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
    where, count = f"{document.url}:{file.bad_lines[0]}", len(file.bad_lines)
    detail = f"{count} damaged line{'s' if count > 1 else ''}{' or more' if count >= _MAX_BAD_LINES else ''}"
    signal = Signal(MECHANISM, where, Stance.ERROR, detail, document.body_sha256)
    return judgement(MECHANISM, Verdict.DEFER, "robots-bad-encoding", detail, where, (signal,))


def judge_robots(evidence: Evidence, rules: RobotsRules, now: datetime) -> Judgement:
    """robots.txt of the image's origin, the page's, and every redirect's: each must let each of our tokens pass."""
    judged: list[Judgement] = []
    for url, origin in asked(evidence).origins.items():
        document = origin.get(MECHANISM) if origin is not None else None
        judged += [may_fetch(document, url, token, now, rules) for token in rules.product_tokens]
    return worst(judged)
