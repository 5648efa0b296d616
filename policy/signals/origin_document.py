"""What an origin's answer for one of its policy documents means, before anybody reads the body.

The HTTP semantics of RFC 9309 section 2.3.1, made to fail closed; robots.txt, tdmrep.json, ai.txt and trust.txt
share them.
"""

from __future__ import annotations

import functools
from datetime import datetime, timedelta
from typing import Literal, Protocol

from policy.evidence import Document
from policy.judgements import judgement
from policy.verdict import Judgement, Signal, Stance, Verdict


class DocumentRules(Protocol):
    """What a ruleset says of origin documents."""

    @property
    def forbidden_status(self) -> Literal["deny", "allow"]: ...
    @property
    def unreachable_deny_days(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...


def read_status(mechanism: str, document: Document, rules: DocumentRules, now: datetime) -> bytes | Judgement:
    """The body to be read, or the judgement where the status alone decides.

    404 and 410 are an observed absence (unset); other 4xx a no (`forbidden_status`); 429, 5xx and no answer at all
    DEFER, and DENY after `unreachable_deny_days`. The document's age is the caller's to weigh.
    """
    name = mechanism.replace("_", "-")
    status = document.status
    if status is None or status == 429 or status >= 500:
        return _unreachable(mechanism, document, rules, now)
    if status in (200, 203):
        return _body(mechanism, document, rules)
    absent = status in (204, 404, 410) or (400 <= status < 500 and rules.forbidden_status == "allow")
    if absent:
        return _said(mechanism, None, f"{name}-absent", Stance.UNSET, document)
    if 400 <= status < 500:
        return _said(mechanism, Verdict.DENY, f"{name}-forbidden", Stance.DENY, document)
    return _said(mechanism, Verdict.DEFER, f"{name}-unreadable", Stance.ERROR, document)


def absent_as_html(mechanism: str, document: Document) -> Judgement:
    """An HTML page under a policy document's name: the site answers so for whatever it does not have."""
    return _said(mechanism, None, f"{mechanism.replace('_', '-')}-absent", Stance.UNSET, document, "an HTML page")


def flooded(mechanism: str, document: Document, what: str) -> Judgement:
    """A document that holds more of something than is read: DEFER, as one that is too large."""
    return _said(mechanism, Verdict.DEFER, f"{mechanism.replace('_', '-')}-too-large", Stance.ERROR, document, what)


def sniffs_as_html(body: bytes) -> bool:
    """Whether a body begins as an HTML page does, whatever its headers say."""
    start = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n\f").lower()
    while start.startswith(b"<!--") and b"-->" in start:
        start = start.partition(b"-->")[2].lstrip(b" \t\r\n\f")
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script", b"<meta"))


def _body(mechanism: str, document: Document, rules: DocumentRules) -> bytes | Judgement:
    name = mechanism.replace("_", "-")
    if document.truncated or (document.body is not None and len(document.body) > rules.max_bytes):
        return _said(mechanism, Verdict.DEFER, f"{name}-too-large", Stance.ERROR, document)
    if document.error:
        return _said(mechanism, Verdict.DEFER, f"{name}-unreadable", Stance.ERROR, document, document.error)
    if document.body is None:
        return judgement(mechanism, Verdict.DEFER, "evidence-incomplete", document.body_sha256 or "", document.url)
    return document.body


def _unreachable(mechanism: str, document: Document, rules: DocumentRules, now: datetime) -> Judgement:
    name = mechanism.replace("_", "-")
    # Since the first of the requests in a row that nobody answered: the newest is young for as long as they go on.
    if now - (document.since or document.fetched_at) > timedelta(days=rules.unreachable_deny_days):
        return _said(mechanism, Verdict.DENY, f"{name}-unreachable-long", Stance.UNREACHABLE, document)
    return _said(mechanism, Verdict.DEFER, f"{name}-unreachable", Stance.UNREACHABLE, document)


def _said(
    mechanism: str, verdict: Verdict | None, code: str, stance: Stance, document: Document, detail: str = ""
) -> Judgement:
    detail = detail or (document.error or "no answer" if document.status is None else f"HTTP {document.status}")
    return _judged(mechanism, verdict, code, stance, document.url, detail, document.body_sha256)


@functools.lru_cache(maxsize=8192)  # the pairs of an origin share its absences
def _judged(
    mechanism: str, verdict: Verdict | None, code: str, stance: Stance, url: str, detail: str, sha256: str | None
) -> Judgement:
    signal = Signal(mechanism, url, stance, detail, sha256)
    return judgement(mechanism, verdict, code, detail, url, (signal,))
