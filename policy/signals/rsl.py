"""RSL 1.0 licence documents: where they are declared, how they are read, what they mean for training.

https://rslstandard.org/rsl (Recommendation of December 2025, errata to August 2026). A document is declared by a
`License:` line of robots.txt, a `Link` header, a `<link>` of the page, or stands in the page itself. Where the
specification leaves room we read it against ourselves: a licence that is declared and cannot be read gives nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urljoin

from policy.errors import InputError
from policy.evidence import Document, Evidence, Headers, OriginEvidence
from policy.judgements import judgement, not_observed, unless_stale, worst
from policy.origins import origin_of, path_of
from policy.signals import robots
from policy.signals.asked import asked
from policy.signals.origin_document import read_status, sniffs_as_html
from policy.signals.places import Response, are_silent, asked_urls, responses, said_of_all
from policy.signals.robots import ExtensionLine, RobotsFile, RobotsRules
from policy.signals.rsl_document import Content, RslDocument, Term, Unreadable, parsed, parsed_text
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM: Final = "rsl"
MEDIA_TYPE: Final = "application/rsl+xml"

# So many documents one place may declare: each is a request that a stranger makes us send.
MAX_DECLARED = 20
_MAX_URL_CHARS = 2083

# ── where documents are declared ───────────────────────────────────────────────────────────────────────────────────


class Declared(NamedTuple):
    """A declaration: the address of a document ("" where it is none), or the document itself (`inline`).

    `where` names the place, `said` quotes it; `scope` are the asked addresses that it speaks for; `since` is when the
    place was observed. `certain` False: nobody declared it, it was given under the usual name (`inspect judge`).
    """

    where: str
    said: str
    url: str
    origin: str
    scope: tuple[str, ...]
    since: datetime
    sha256: str | None = None
    inline: bytes | None = None
    certain: bool = True


class Absent(NamedTuple):
    """A place that was looked at and declares nothing; `since`: when it was observed."""

    where: str
    since: datetime


_Found: TypeAlias = Declared | Absent | Judgement


def declared_urls(evidence: Evidence, rules: RobotsRules) -> tuple[str, ...]:
    """The addresses of the licence documents that this evidence declares, as `Evidence.declared` is to hold them."""
    if not _speaks_of_licences(evidence):
        return ()
    found = _declarations(evidence, rules, evidence.observed_at)
    return tuple(dict.fromkeys(d.url for d in found if isinstance(d, Declared) and d.url))


def _speaks_of_licences(evidence: Evidence) -> bool:
    """Whether a declaration can stand anywhere in it: most evidence has none, and need not be read for one."""
    if evidence.page_rsl:
        return True
    headers = (*(hop.headers for hop in evidence.hops or ()), evidence.page_headers or ())
    return any(map(link_in, headers)) or any(map(speaks_of_licences, evidence.origins))


def link_in(headers: Headers) -> bool:
    """Whether headers hold a Link, which may declare a licence document."""
    return any(name in ("link", "Link") or name.lower() == "link" for name, _ in headers)


def speaks_of_licences(origin: OriginEvidence) -> bool:
    """Whether an origin's documents may declare a licence document for what it serves."""
    document = origin.get(robots.MECHANISM)
    declares = document is not None and document.body is not None and _names_a_licence(document.body)
    return declares or origin.get(MECHANISM) is not None


@functools.lru_cache(maxsize=4_096)
def _names_a_licence(robots_txt: bytes) -> bool:
    return b"license" in robots_txt.lower()


def _declarations(evidence: Evidence, rules: RobotsRules, now: datetime) -> Iterator[_Found]:
    """Every declaration, each once; the places without one; what could not be looked at, as it is judged."""
    seen: set[tuple[str, tuple[str, ...], bool]] = set()
    for found in _all_declarations(evidence, rules, now):
        if isinstance(found, Declared):
            key = found.url, found.scope, found.certain
            if found.url and key in seen:
                continue
            seen.add(key)
        yield found


def _all_declarations(evidence: Evidence, rules: RobotsRules, now: datetime) -> Iterator[_Found]:
    asked = asked_urls(evidence)
    for origin in dict.fromkeys(origin_of(url) for url in asked):
        yield from _of_robots(evidence, origin, asked, rules, now)
    for response in responses(MECHANISM, evidence):
        if isinstance(response, Response):
            yield from _at_most(_of_headers(response, asked, evidence.observed_at), response.place)
        else:
            yield response
    yield from _at_most(_of_page(evidence, asked), evidence.page_url or "the page")


def _of_robots(
    evidence: Evidence, origin: str, asked: tuple[str, ...], rules: RobotsRules, now: datetime
) -> Iterator[_Found]:
    known = evidence.origin(origin)
    document, given = (known.get(robots.MECHANISM), known.get(MECHANISM)) if known is not None else (None, None)
    scope = _of_origin(origin, asked)
    declared: list[_Found] = []
    if document is not None:
        file = robots.read(document, rules, now)
        if isinstance(file, RobotsFile):
            declared = list(_at_most(_of_lines(file, document, origin, scope, rules), document.url))
            if file.bad_lines:
                declared.append(replace(robots.damaged(file, document), mechanism=MECHANISM))
        elif file.verdict is not None:
            declared = [replace(file, mechanism=MECHANISM)]
        declared = declared or [Absent(document.url, document.fetched_at)]
    if given is not None and not any(isinstance(d, Declared) for d in declared):
        # It was given without anybody's having declared it: then it counts as declared where it was found.
        yield Declared(given.url, "", given.url, origin, scope, given.fetched_at, certain=False)
    elif document is None:
        yield not_observed(MECHANISM, "robots.txt of this origin was not asked for", origin)
    yield from declared


def _of_lines(
    file: RobotsFile, document: Document, origin: str, scope: tuple[str, ...], rules: RobotsRules
) -> Iterator[Declared]:
    """The `License:` lines of our groups, or, where a group has none, those of the whole site (section 4.4)."""
    lines: dict[int, ExtensionLine] = {}
    for token in rules.product_tokens:
        ours = _licences(file.extensions_for(token)) or _licences(file.site_wide)
        lines |= {line.line_no: line for line in ours}
    for line in sorted(lines.values()):
        where, said = f"{document.url}:{line.line_no}", line.line.strip()
        url = _address(line.value, document.url)
        yield Declared(where, said, url, origin, scope, document.fetched_at, document.body_sha256)


def _licences(lines: Iterable[ExtensionLine]) -> list[ExtensionLine]:
    return list(islice((line for line in lines if line.name == "license"), MAX_DECLARED + 1))


def _of_headers(response: Response, asked: tuple[str, ...], now: datetime) -> Iterator[Declared]:
    origin = origin_of(response.url)
    scope = tuple(dict.fromkeys((response.url, *_of_origin(origin, asked))))
    for value in response.values("link"):
        links, damaged = read_links(value)
        if (damaged and MEDIA_TYPE in value.lower()) or _may_have_declared(value):
            yield Declared(f"Link, {response.place}", value.strip(), "", origin, scope, now)
        for link in links:
            if link.declares_rsl:
                url = _address(link.target, response.url)
                yield Declared(f"Link, {response.place}", value.strip(), url, origin, scope, now)


def _of_page(evidence: Evidence, asked: tuple[str, ...]) -> Iterator[_Found]:
    page = evidence.page_url
    if evidence.page_rsl is None:
        if page is not None:
            yield not_observed(MECHANISM, "the page's licence elements", page)
        return
    base = page or evidence.image_url
    origin = origin_of(base)
    # What a page declares for itself covers the images on it (section 4.6).
    scope = tuple(dict.fromkeys((base, *_of_origin(origin, asked), evidence.image_url)))
    for kind, value in evidence.page_rsl:
        if kind == "link":
            where, said = f"<link>, {base}", f'<link rel="license" type="{MEDIA_TYPE}" href="{value}">'
            yield Declared(where, said, _address(value, base), origin, scope, evidence.observed_at)
        else:
            text = value.encode("utf-8", errors="replace")
            yield Declared(f"<script>, {base}", "", "", origin, scope, evidence.observed_at, inline=text)


def _at_most(found: Iterable[_Found], where: str) -> Iterator[_Found]:
    """The first so many declarations of a place; more are a no, and are not asked for."""
    for number, one in enumerate(found):
        if number >= MAX_DECLARED:
            detail = f"more than {MAX_DECLARED} licence documents are declared"
            yield _said(Verdict.DENY, "rsl-unreadable", Stance.ERROR, detail, where)
            return
        yield one


def _of_origin(origin: str, asked: Iterable[str]) -> tuple[str, ...]:
    return tuple(url for url in asked if origin_of(url) == origin)


def _address(written: str, base: str) -> str:
    """The canonical address of a document, "" where nothing on the web can be meant."""
    try:
        url = urljoin(base, written.strip().strip("<>"))
        found = origin_of(url) + path_of(url)
    except (InputError, ValueError):
        return ""
    return found if found != base and len(found) <= _MAX_URL_CHARS else ""


_NO_TEXT = re.compile(r"[^\t\x20-\x7e]")


def _may_have_declared(value: str) -> bool:
    """Whether a header holds characters that no header has, and half of what declares an RSL document beside them."""
    return _NO_TEXT.search(value) is not None and any(word in value.lower() for word in ("license", "rsl+xml"))


class Link(NamedTuple):
    """A link of a `Link` header: its target and its parameters, names in lower case, in order."""

    target: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def declares_rsl(self) -> bool:
        relations = {r for name, value in self.parameters if name == "rel" for r in value.lower().split()}
        types = {value.partition(";")[0].strip().lower() for name, value in self.parameters if name == "type"}
        return "license" in relations and MEDIA_TYPE in types


_TARGET = re.compile(r"[\s,]*<([^>]*)>")
_PARAMETER = re.compile(r"""\s*;\s*(?:([^\s=;,"<>]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*))?)?""", re.DOTALL)
_NEXT = re.compile(r"\s*(?:,|\Z)")
_NOTHING_LEFT = re.compile(r"[\s,]*\Z")


def read_links(value: str) -> tuple[tuple[Link, ...], bool]:
    """The links of a `Link` header (RFC 8288, appendix B.2), and whether some of it could not be read."""
    links: list[Link] = []
    at, damaged = 0, False
    while _NOTHING_LEFT.match(value, at) is None:
        target = _TARGET.match(value, at)
        if target is None:
            damaged = True
            break
        at = target.end()
        parameters: list[tuple[str, str]] = []
        while (parameter := _PARAMETER.match(value, at)) is not None:
            at = parameter.end()
            if parameter[1] is not None:
                parameters.append((parameter[1].lower(), _unquoted(parameter[2] or "")))
        links.append(Link(target[1].strip(), tuple(parameters)))
        end = _NEXT.match(value, at)
        if end is None:
            damaged = True
            break
        at = end.end()
    return tuple(links), damaged


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL) if text.startswith('"') else text


# ── judging ────────────────────────────────────────────────────────────────────────────────────────────────────────


def judge_rsl(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """What every declared licence says of the image, of its page, and of the redirects between.

    The most restrictive counts (section 4.9). Declared and not to be had, or not to be read: DENY; an address that
    does not answer: DEFER, as for robots.txt; nothing declared anywhere: unset.
    """
    judged: list[Judgement] = []
    absent = [judgement(MECHANISM, None, "rsl-absent", where=evidence.image_url)]
    if _is_silent(evidence, documents, max_age_days, now):
        return unless_stale(absent[0], evidence.observed_at, now, max_age_days)
    for found in _declarations(evidence, documents, now):
        match found:
            case Declared():
                one = _judge_declared(found, evidence, documents, max_age_days, now)
                judged.append(unless_stale(one, found.since, now, max_age_days))
            case Absent():
                nothing = judgement(MECHANISM, None, "rsl-absent", where=found.where)
                absent.append(unless_stale(nothing, found.since, now, max_age_days))
            case Judgement():
                judged.append(found)
    said = worst((*judged, *absent))  # of equals the first: what was declared tells more than what was not
    said = replace(said, signals=tuple(dict.fromkeys(said.signals)))
    return unless_stale(said, evidence.observed_at, now, max_age_days)


def _is_silent(evidence: Evidence, rules: RobotsRules, max_age_days: int, now: datetime) -> bool:
    """Whether all places were seen where a declaration can stand, and none does, as of most evidence."""
    if not are_silent(evidence, "link") or evidence.page_rsl:
        return False
    if evidence.page_rsl is None and evidence.page_url is not None:
        return False
    return all(
        origin is not None
        and origin.get(MECHANISM) is None
        and (document := origin.get(robots.MECHANISM)) is not None
        and _has_no_licence(document, rules, max_age_days, now)
        for origin in asked(evidence).origins.values()
    )


def _has_no_licence(document: Document, rules: RobotsRules, max_age_days: int, now: datetime) -> bool:
    """Whether a robots.txt that is young enough has no `License:` line, and nothing else to be judged here."""
    known = said_of_all.get(MECHANISM, document, rules, now, max_age_days)
    if known is None:
        file = robots.read(document, rules, now)
        if isinstance(file, RobotsFile):
            is_silent = not file.bad_lines and not _licences(file.extensions)
        else:
            is_silent = file.verdict is None
        absent = judgement(MECHANISM, None, "rsl-absent", where=document.url)
        known = (unless_stale(absent, document.fetched_at, now, max_age_days),) if is_silent else ()
        said_of_all.keep(MECHANISM, document, rules, now, max_age_days, known)
    return bool(known) and known[0].verdict is None


def _judge_declared(
    declared: Declared, evidence: Evidence, rules: RobotsRules, max_age_days: int, now: datetime
) -> Judgement:
    if declared.inline is not None:
        if len(declared.inline) > rules.max_bytes:
            return _unread(declared, f"it is longer than {rules.max_bytes} bytes", declared.where)
        return _judge_text(parsed_text(declared.inline), declared, evidence, declared.where, None)
    if not declared.url:
        return _unread(declared, "the address cannot be asked", declared.where)
    document = _document(declared, evidence)
    if document is None:
        return not_observed(MECHANISM, f"{declared.said}: {declared.url} was not asked for", declared.where)
    body = read_status(MECHANISM, document, rules, now)
    if isinstance(body, Judgement):
        judged = _judge_status(body, document, declared)
    elif sniffs_as_html(body):
        judged = _unread(declared, "an HTML page", document.url, document.body_sha256)
    else:
        text = parsed(body)
        judged = _judge_text(text, declared, evidence, document.url, document.body_sha256)
        if isinstance(text, RslDocument) and text.max_age_days is not None:
            max_age_days = min(max_age_days, text.max_age_days)
    return unless_stale(judged, document.fetched_at, now, max_age_days)


def _document(declared: Declared, evidence: Evidence) -> Document | None:
    """The document at a declared address; else the one that was given for its origin, or for who declared it."""
    for document in evidence.declared:
        if document.url == declared.url:
            return document
    for origin in (origin_of(declared.url), declared.origin):
        known = evidence.origin(origin)
        if known is not None and (given := known.get(MECHANISM)) is not None:
            return replace(given, url=declared.url)
    return None


def _judge_status(judged: Judgement, document: Document, declared: Declared) -> Judgement:
    """A status that decides. Absence is absence only where nobody declared it."""
    if not declared.certain or judged.reason.code in ("rsl-too-large", "evidence-incomplete"):
        return judged
    if document.status in (204, 404, 410):
        detail = f"{declared.said}: HTTP {document.status}"
        return _said(Verdict.DENY, "rsl-missing", Stance.ERROR, detail, document.url, document.body_sha256)
    if judged.verdict is None or judged.reason.code == "rsl-unreadable":
        return _unread(declared, judged.reason.detail, document.url, document.body_sha256)
    return judged


def _judge_text(
    text: RslDocument | Unreadable, declared: Declared, evidence: Evidence, where: str, sha256: str | None
) -> Judgement:
    if isinstance(text, Unreadable):
        return _unread(declared, text.why, where, sha256)
    urls = dict.fromkeys((*declared.scope, *asked_urls(evidence)))
    return worst(_judge_url(text, url, declared, where, sha256) for url in urls)


def _judge_url(text: RslDocument, url: str, declared: Declared, where: str, sha256: str | None) -> Judgement:
    """What a document says of one address: the longest pattern that says anything of training decides.

    Of equals all count, as do all that could not be read. Licences of one content are alternatives, but what one of
    them prohibits, no other permits (section 3.1.1).
    """
    about = [content for content in text.contents if _is_about(content, url, declared)]
    if not about:
        return judgement(MECHANISM, None, "rsl-no-match", where=where)
    about.sort(key=lambda content: -content.length)
    signals = tuple(
        Signal(MECHANISM, f"{where}:{t.line_no}", t.stance, t.words, sha256) for c in about for t in c.terms
    )
    unread = next((t for content in about for t in content.terms if t.stance is Stance.ERROR), None)
    chosen = unread or next((t for terms in _by_length(about) if (t := _decisive(terms)) is not None), None)
    if chosen is None:
        return judgement(MECHANISM, None, "rsl-silent", about[0].url, f"{where}:{about[0].line_no}", signals)
    verdict = Verdict.ALLOW if chosen.stance is Stance.ALLOW else Verdict.DENY
    return judgement(MECHANISM, verdict, chosen.code, chosen.words, f"{where}:{chosen.line_no}", signals)


def _is_about(content: Content, url: str, declared: Declared) -> bool:
    """A path is one of the declaring origin's; a whole URL is what it says; "" is all that the declaration is for."""
    if content.pattern is None:
        return url in declared.scope
    is_there = origin_of(url) == declared.origin if content.host is None else _is_host(content.host, url)
    return is_there and content.pattern.matches(path_of(url))


def _is_host(pattern: str, url: str) -> bool:
    """Whether a URL lies on a host, whatever its scheme; "*.a.example" is a.example and all below."""
    host = origin_of(url).partition("//")[2]
    if pattern.startswith("*."):
        return host == pattern[2:] or host.endswith(pattern[1:])
    return host == pattern


def _by_length(contents: Iterable[Content]) -> Iterator[tuple[Term, ...]]:
    """The terms of the contents with the longest pattern, then of those with the next."""
    groups: dict[int, list[Term]] = {}
    for content in contents:
        groups.setdefault(content.length, []).extend(content.terms)
    for length in sorted(groups, reverse=True):
        yield tuple(groups[length])


def _decisive(terms: tuple[Term, ...]) -> Term | None:
    """The term that decides among alternatives; None where none says anything of training."""
    for code in ("rsl-prohibited", "rsl-permitted", "rsl-constrained", "rsl-not-permitted"):
        if (found := next((term for term in terms if term.code == code), None)) is not None:
            return found
    return None


def _unread(declared: Declared, why: str, where: str, sha256: str | None = None) -> Judgement:
    detail = f"{declared.said}: {why}" if declared.said else why
    return _said(Verdict.DENY, "rsl-unreadable", Stance.ERROR, detail, where, sha256 or declared.sha256)


def _said(
    verdict: Verdict | None, code: str, stance: Stance, detail: str, where: str, sha256: str | None = None
) -> Judgement:
    return judgement(MECHANISM, verdict, code, detail, where, (Signal(MECHANISM, where, stance, detail, sha256),))
