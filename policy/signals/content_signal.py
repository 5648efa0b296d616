"""Content Signals: the Content-Signal lines of robots.txt, and the header (contentsignals.org).

`ai-train` alone speaks of training; `search` and `ai-input` are recorded and decide nothing. Whoever wrote the
line in another way than the policy text does (spaces, quotes, capitals, a path before it) is understood.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from policy.evidence import Document, Evidence
from policy.judgements import judgement, unless_stale, worst
from policy.origins import path_of
from policy.signals import robots
from policy.signals.places import are_silent, judge_robots_files, responses
from policy.signals.robots import PathPattern, RobotsFile, RobotsRules
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "content_signal"


class _Statement(NamedTuple):
    """A value that was found: where, of which document."""

    where: str
    value: str
    sha256: str | None = None


def judge_content_signal(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """The lines of our groups in each asked URL's robots.txt, and the headers of all responses: the strictest."""
    judged = [*_judge_robots(evidence, documents, max_age_days, now)]
    judged += [unless_stale(j, evidence.observed_at, now, max_age_days) for j in _judge_headers(evidence)]
    return worst(sorted(judged, key=lambda j: j.reason.code == "content-signal-absent"))


def _judge_headers(evidence: Evidence) -> Iterator[Judgement]:
    yield judgement(MECHANISM, None, "content-signal-absent")
    if are_silent(evidence, "content-signal"):
        return
    for response in responses(MECHANISM, evidence):
        if isinstance(response, Judgement):
            yield response
            continue
        for value in response.values("content-signal"):
            yield _judge_value(_Statement(f"Content-Signal, {response.place}", value.strip()), path_of(response.url))


def _judge_robots(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Iterator[Judgement]:
    def read(file: RobotsFile, document: Document, url: str) -> Judgement | None:
        return _judge_file(file, document, documents.product_tokens, url)

    yield from judge_robots_files(MECHANISM, evidence, documents, now, max_age_days, read, _is_about_all)


def _is_about_all(file: RobotsFile) -> bool:
    """Whether no line is about some paths only."""
    return not any(line.name == "content-signal" and line.value.startswith("/") for line in file.extensions)


def _judge_file(file: RobotsFile, document: Document, tokens: tuple[str, ...], url: str) -> Judgement | None:
    """The judgement of a file, which is remembered with it where no line is about some paths only."""
    key = MECHANISM, document.url, document.body_sha256, tokens
    if key in file.judgements:
        return file.judgements[key]
    lines = [line for line in file.extensions if line.name == "content-signal"]
    if not lines and not file.bad_lines:
        return None
    judged = [*_judge_lines(file, document, tokens, path_of(url))]
    if not judged:
        return None
    return file.remember(key, worst(judged)) if _is_about_all(file) else worst(judged)


def _judge_lines(file: RobotsFile, document: Document, tokens: Iterable[str], path: str) -> Iterator[Judgement]:
    """The lines of our groups, and those that stand in none: before the first, or apart from every rule."""
    lines = {line for token in tokens for line in file.extensions_for(token)} | {*file.site_wide}
    for number, line in enumerate(sorted(lines)):
        if line.name != "content-signal":
            continue
        statement = _Statement(f"{document.url}:{line.line_no}", line.value, document.body_sha256)
        judged = _judge_value(statement, path)
        if number < _MAX_SIGNALS or judged.verdict is Verdict.DENY:
            yield judged
        if judged.verdict is Verdict.DENY and number >= _MAX_SIGNALS:
            break  # the verdict stands; masses of lines are not all put on record
    if file.bad_lines:
        yield replace(robots.damaged(file, document), mechanism=MECHANISM)


_MAX_SIGNALS = 100
_NO_TEXT = re.compile(r"[^\t\x20-\x7e]")  # no header has such characters: a word may have lost a letter there


def _judge_value(statement: _Statement, path: str) -> Judgement:
    """One line or header: "yes" alone permits, whatever else is said of training denies."""
    where, value, sha256 = statement
    said = said_of_training(value)
    if said is not None and not _is_about(value, path, wide=said != "yes"):
        said = None
    if said in (None, "yes") and sha256 is None and _NO_TEXT.search(value):
        signals = (Signal(MECHANISM, where, Stance.ERROR, value),)
        return judgement(MECHANISM, Verdict.DEFER, "content-signal-damaged", value, where, signals)
    stance = Stance.UNSET if said is None else Stance.ALLOW if said == "yes" else Stance.DENY
    signals = (Signal(MECHANISM, where, stance, value, sha256),)
    if said is None:
        return judgement(MECHANISM, None, "content-signal-silent", value, where, signals)
    if said == "yes":
        return judgement(MECHANISM, Verdict.ALLOW, "content-signal-yes", value, where, signals)
    code = "content-signal-no" if said == "no" else "content-signal-unknown"
    return judgement(MECHANISM, Verdict.DENY, code, value, where, signals)


@functools.lru_cache(maxsize=4096)
def said_of_training(value: str) -> str | None:
    """What a Content-Signal says of training: "yes", "no", another word, or None where it does not speak of it.

    Of contradictory statements the strictest.
    """
    words = {(m["value"] or "").strip(_QUOTES).lower() for m in _PAIR.finditer(value) if _is_training(m["key"])}
    if not words:
        return None
    return "no" if "no" in words else min(words - {"yes"}, default="yes")


# A key, and its value where it has one: ai-train=no, ai-train = "no", ai-train: no.
_PAIR = re.compile(
    r"""(?P<key>[A-Za-z][A-Za-z0-9_-]*+)[ \t]*+["']?+(?:[=:][ \t]*+(?P<value>"[^"]*+"?+|'[^']*+'?+|[^\s,;]*+))?+"""
)
_QUOTES = " \t\"'"


def _is_training(key: str) -> bool:
    return key.lower().replace("-", "").replace("_", "") in _TRAINING_KEYS


_TRAINING_KEYS = frozenset({"aitrain", "aitraining", "trainai"})


def _is_about(value: str, path: str, *, wide: bool) -> bool:
    """Whether a value that begins with a path pattern is about `path`; one without is about everything."""
    pattern = value.split(None, 1)[0] if value.startswith("/") else ""
    return not pattern or _pattern(pattern, wide).matches(path)


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str, wide: bool) -> PathPattern:
    return PathPattern(pattern, wide=wide)
