"""AIPREF: the Content-Usage lines of robots.txt and the Content-Usage header (draft-ietf-aipref-attach, -vocab).

Both hold a Dictionary of structured fields (RFC 9651), in which `train-ai` is `n` or `y`. What cannot be parsed says
nothing, as the drafts have it, unless it speaks of AI training in whatever spelling: then it keeps out.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import http_sf

from policy.evidence import Document, Evidence
from policy.judgements import is_stale, judgement, unless_stale, worst
from policy.origins import path_of
from policy.signals import robots
from policy.signals.places import Response, are_silent, judge_robots_lines, responses
from policy.signals.robots import ExtensionLine, PathPattern, RobotsFile, RobotsRules
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM: Final = "content_usage"

# So many characters of preferences one place may hold; parsing them takes 50 ms at worst.
MAX_CHARS = 32_768


class Preference(NamedTuple):
    """What a dictionary says of AI training."""

    verdict: Verdict | None
    code: str
    stance: Stance


_DISALLOWED = Preference(Verdict.DENY, "content-usage-disallowed", Stance.DENY)
_ALLOWED = Preference(Verdict.ALLOW, "content-usage-allowed", Stance.ALLOW)
_SILENT = Preference(None, "content-usage-silent", Stance.UNSET)
_NOT_A_DICTIONARY = Preference(None, "content-usage-silent", Stance.ERROR)
_UNREADABLE = Preference(Verdict.DEFER, "content-usage-unreadable", Stance.ERROR)

_BETWEEN_LETTERS = re.compile(r"[\W_]+")
_TRAIN_AI = re.compile("trainai|aitrain", re.IGNORECASE)
_DAMAGED = re.compile("[^\t\x20-\x7e]")


def read_preferences(text: str) -> Preference:
    """What a dictionary says; values other than the tokens `n` and `y` say nothing (vocab, sections 6 and 7)."""
    text = text.strip(" \t")
    if len(text) > MAX_CHARS:
        return _UNREADABLE
    try:
        members = http_sf.parse(text.encode("utf-8", errors="replace"), tltype="dictionary")
    except ValueError:  # StructuredFieldError is one
        return _unparsable(text)
    member = members.get("train-ai") if isinstance(members, dict) else None
    value = member[0] if isinstance(member, tuple) else member
    if isinstance(value, http_sf.Token):
        return {"n": _DISALLOWED, "y": _ALLOWED}.get(str(value), _SILENT)
    return _SILENT


def _unparsable(text: str) -> Preference:
    """A field that is no dictionary. Bytes that no sender writes may have hidden the word that was looked for."""
    letters = _BETWEEN_LETTERS.sub("", unicodedata.normalize("NFKC", text))
    return _UNREADABLE if _TRAIN_AI.search(letters) or _DAMAGED.search(text) else _NOT_A_DICTIONARY


def judge_content_usage(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """What the lines of our groups and the headers say, the page's and the image's: the most restrictive counts."""

    def read(lines: Sequence[ExtensionLine], document: Document, url: str) -> Judgement | None:
        return _judge_lines(lines, document, url, evidence, documents)

    names = ("content-usage",)
    lines = [*judge_robots_lines(MECHANISM, evidence, documents, now, max_age_days, names, read)]
    if lines and are_silent(evidence, *names) and not is_stale(evidence.observed_at, now, max_age_days):
        return worst(lines)  # beside these it decides nothing that no response says anything
    return worst([*lines, *_judge_headers(evidence, max_age_days, now)])


# ── robots.txt ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Usage(NamedTuple):
    """A Content-Usage line: where it holds, what it says; `place` is the same for two spellings of one path."""

    pattern: PathPattern
    place: bytes
    preference: Preference


def _read_usage(value: str) -> _Usage:
    """`[path-pattern SP] dictionary`: a path is given where the value begins with "/" (attach, section 3.2)."""
    path, text = "/", value
    if value.startswith("/"):
        path, *rest = re.split(r"[ \t]+", value, maxsplit=1)
        text = rest[0] if rest else ""
    preference = read_preferences(text)
    if path == value:  # nothing follows it: it says nothing, or its blank was lost
        preference = _unparsable(value)
        path = "/" if preference is _UNREADABLE else path
    pattern = PathPattern(path, wide=preference.verdict in (Verdict.DENY, Verdict.DEFER))
    return _Usage(pattern, unquote_to_bytes(path.encode("utf-8", errors="surrogatepass")), preference)


_remembered_usage = functools.lru_cache(maxsize=4096)(_read_usage)


def _judge_lines(
    lines: Sequence[ExtensionLine], document: Document, url: str, evidence: Evidence, rules: RobotsRules
) -> Judgement | None:
    """The line with the longest path that matches; of lines with one path the most restrictive."""
    first = f"{document.url}:{lines[0].line_no}"
    if sum(len(line.value) for line in lines) > MAX_CHARS:
        return _said(_UNREADABLE, f"more than {MAX_CHARS} characters", first, document.body_sha256)
    path = path_of(url)
    matching: list[tuple[ExtensionLine, _Usage]] = []
    for line in lines:
        usage = _remembered_usage(line.value) if len(line.value) <= 500 else _read_usage(line.value)
        if usage.pattern.matches(path):
            matching.append((line, usage))
    if not matching:
        return None
    file = robots.parsed(document.body or b"")
    may_be_crawled = _may_be_crawled(path, file, evidence, rules)
    # The same lines say the same of every path: remembered with the file.
    key = MECHANISM, document.url, document.body_sha256, may_be_crawled, *(line.line_no for line, _ in matching)
    if (known := file.judgements.get(key)) is None:
        known = file.remember(key, _judge_matching(matching, document, may_be_crawled))
    return known


def _judge_matching(
    matching: Sequence[tuple[ExtensionLine, _Usage]], document: Document, may_be_crawled: bool
) -> Judgement:
    judged = [
        _said(usage.preference, line.line.strip(), f"{document.url}:{line.line_no}", document.body_sha256)
        for line, usage in matching
    ]
    if not may_be_crawled:
        # The drafts attach no preference to what may not be crawled; robots.txt has said no to all of it.
        not_crawled = Preference(None, "content-usage-not-crawled", Stance.UNSET)
        return _said(not_crawled, judged[0].reason.detail, judged[0].where, document.body_sha256)
    longest = max(usage.pattern.length for _, usage in matching)
    places = {usage.place for _, usage in matching if usage.pattern.length == longest}
    deciding = [
        said
        for said, (_, usage) in zip(judged, matching, strict=True)
        if usage.pattern.length == longest or usage.place in places
    ]
    return replace(worst(deciding), signals=tuple(signal for said in judged for signal in said.signals))


def _may_be_crawled(path: str, file: RobotsFile, evidence: Evidence, rules: RobotsRules) -> bool:
    """Whether robots.txt lets all our tokens at a path, or somebody's grant may have done so in its place."""
    if any(robots.MECHANISM in grant.mechanisms for grant in evidence.grants):
        return True
    return all(file.judge(token, path).allowed for token in rules.product_tokens)


# ── headers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _judge_headers(evidence: Evidence, max_age_days: int, now: datetime) -> Iterator[Judgement]:
    for response in responses(MECHANISM, evidence):
        if isinstance(response, Response):
            yield unless_stale(_judge_response(response), evidence.observed_at, now, max_age_days)
        else:
            yield response


def _judge_response(response: Response) -> Judgement:
    """The lines of the field joined to one dictionary (RFC 9651, section 4.2)."""
    where = f"Content-Usage, {response.place}"
    values = response.values("content-usage")
    if not values:
        return judgement(MECHANISM, None, "content-usage-absent", where=where)
    text = ", ".join(value.strip(" \t") for value in values)
    return _said(read_preferences(text), text, where, None)


def _said(preference: Preference, text: str, where: str, sha256: str | None) -> Judgement:
    signal = Signal(MECHANISM, where, preference.stance, text, sha256)
    return judgement(MECHANISM, preference.verdict, preference.code, text, where, (signal,))
