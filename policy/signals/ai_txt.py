"""ai.txt of the media host: robots.txt's shape, asked for the media URL (Spawning).

It speaks of the files that its own host serves, whatever page shows them. Other documents go by the same name
(prose, Markdown, JSON): those are recorded as seen and not understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from policy.evidence import Document, Evidence
from policy.judgements import judgement, worst
from policy.origins import path_of
from policy.signals import robots
from policy.signals.places import asked_urls, judge_documents
from policy.signals.robots import Remembered, RobotsAnswer, RobotsFile, RobotsRules
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "ai_txt"

_PARSED = Remembered(lambda body: robots.parse(body, loose=True), max_bytes=8 * 2**20)


def judge_ai_txt(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """What the image's host, and that of each redirect, says of the image's address."""

    def read(body: bytes, document: Document, url: str) -> Judgement:
        return worst(_judge_file(_PARSED.get(body), document, path_of(url), documents.product_tokens))

    page = evidence.page_url
    urls = tuple(url for url in asked_urls(evidence) if url != page or url == evidence.image_url)
    return worst(judge_documents(MECHANISM, evidence, documents, now, max_age_days, read, urls=urls))


def _judge_file(file: RobotsFile, document: Document, path: str, tokens: tuple[str, ...]) -> Iterator[Judgement]:
    for answer in {_answer(file, token, path) for token in tokens}:
        key = MECHANISM, document.url, document.body_sha256, answer.line_no
        if (known := file.judgements.get(key)) is None:
            known = file.remember(key, _judge_answer(file, document, answer))
        yield known


def _answer(file: RobotsFile, token: str, path: str) -> RobotsAnswer:
    """The answer for a path; a no to ".jpg" holds for ".JPG" too, unless a rule allows the very path."""
    answer = file.judge(token, path)
    name, dot, ending = path.partition("?")[0].rpartition(".")
    if not answer.allowed or answer.line_no or not dot or "/" in ending:
        return answer
    others = (name + dot + spelt + path[len(name + dot + ending) :] for spelt in (ending.lower(), ending.upper()))
    denying = (other for spelt in others if spelt != path and not (other := file.judge(token, spelt)).allowed)
    return next(denying, answer)


def _judge_answer(file: RobotsFile, document: Document, answer: RobotsAnswer) -> Judgement:
    where = f"{document.url}:{answer.line_no}" if answer.line_no else document.url
    line = robots.readable(answer.line).strip()

    def said(verdict: Verdict | None, code: str, stance: Stance, detail: str, at: str = where) -> Judgement:
        signal = Signal(MECHANISM, at, stance, detail, document.body_sha256)
        return judgement(MECHANISM, verdict, code, detail, at, (signal,))

    if not answer.allowed:
        return said(Verdict.DENY, "ai-txt-disallow", Stance.DENY, line)
    if file.bad_lines:
        at = f"{document.url}:{file.bad_lines[0]}"
        return said(Verdict.DEFER, "ai-txt-bad-encoding", Stance.ERROR, "bytes that are no text", at)
    if answer.line_no:
        return said(Verdict.ALLOW, "ai-txt-allow", Stance.ALLOW, line)
    if not (file.names_agents or file.has_rules):
        return said(None, "ai-txt-not-understood", Stance.UNSET, "neither User-agent nor Disallow")
    return said(None, "ai-txt-no-rule", Stance.UNSET, "")
