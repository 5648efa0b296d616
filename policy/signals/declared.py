"""Mechanisms that are known but not read yet: whether something is declared, which must keep the sample out.

Each goes from here into a file of its own; until then a declaration DEFERs and an observed absence is unset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from policy.evidence import Document, Evidence
from policy.judgements import judgement, not_observed, unless_stale, worst
from policy.origins import origin_of
from policy.signals import robots
from policy.signals.origin_document import absent_as_html, read_status, sniffs_as_html
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement, Signal, Stance, Verdict


class _Asked(NamedTuple):
    """A mechanism that is asked of one evidence, by the rules that robots.txt and its fellows share."""

    mechanism: str
    evidence: Evidence
    rules: RobotsRules
    now: datetime

    def declared(self, where: str, value: str, sha256: str | None = None) -> Judgement:
        signal = Signal(self.mechanism, where, Stance.ERROR, value, sha256)
        return judgement(self.mechanism, Verdict.DEFER, "mechanism-not-built", value, where, (signal,))

    def absent(self, where: str) -> Judgement:
        return judgement(self.mechanism, None, f"{self.mechanism.replace('_', '-')}-absent", where=where)


def judge_declared(
    mechanism: str, evidence: Evidence, rules: RobotsRules, max_age_days: int, now: datetime
) -> Judgement:
    """DEFER where `mechanism` is declared or cannot be told; unset where its absence was observed."""
    asked = _Asked(mechanism, evidence, rules, now)
    looks = _LOOKS.get(mechanism)
    if looks is None:  # it lies in the image's bytes, or in lists that nobody imported: nothing was looked at
        return judgement(mechanism, Verdict.DEFER, "mechanism-not-built", "not looked for")
    judged = [j for look in looks for j in look(asked)]
    return unless_stale(worst(judged), evidence.observed_at, now, max_age_days)


def _origins(asked: _Asked) -> tuple[str, ...]:
    e = asked.evidence
    urls = (e.image_url, *([e.page_url] if e.page_url else []), *(hop.url for hop in e.hops or ()))
    return tuple(dict.fromkeys(origin_of(url) for url in urls))


def _documents(asked: _Asked, name: str) -> Iterator[tuple[str, Document | None]]:
    for origin in _origins(asked):
        evidence = asked.evidence.origin(origin)
        yield origin, evidence.get(name) if evidence is not None else None


def _document(name: str) -> Callable[[_Asked], Iterator[Judgement]]:
    """The origin's document of this name: anything but an absence or an HTML page declares."""

    def look(asked: _Asked) -> Iterator[Judgement]:
        for origin, document in _documents(asked, name):
            if document is None:
                yield not_observed(asked.mechanism, f"{name} of this origin was not asked for", origin)
                continue
            body = read_status(asked.mechanism, document, asked.rules, asked.now)
            if isinstance(body, Judgement):
                yield body
            elif sniffs_as_html(body):
                yield absent_as_html(asked.mechanism, document)
            else:
                yield asked.declared(document.url, "a document", document.body_sha256)

    return look


def _robots_line(*names: str) -> Callable[[_Asked], Iterator[Judgement]]:
    """Lines of these names anywhere in robots.txt: whose group they stand in is not weighed."""

    def look(asked: _Asked) -> Iterator[Judgement]:
        for origin, document in _documents(asked, robots.MECHANISM):
            if document is None:
                yield not_observed(asked.mechanism, "robots.txt of this origin was not asked for", origin)
                continue
            file = robots.read(document, asked.rules, asked.now)
            if isinstance(file, Judgement):
                absent = file.verdict is None
                yield asked.absent(document.url) if absent else replace(file, mechanism=asked.mechanism)
                continue
            yield asked.absent(document.url)
            for line in file.extensions:
                if line.name in names:
                    yield asked.declared(f"{document.url}:{line.line_no}", line.line.strip(), document.body_sha256)
            if file.bad_lines:
                yield replace(robots.damaged(file, document), mechanism=asked.mechanism)

    return look


def _header(*names: str, holding: str = "") -> Callable[[_Asked], Iterator[Judgement]]:
    """Response headers of these names (holding a word) on any hop of the image's answer, or on the page's."""

    def look(asked: _Asked) -> Iterator[Judgement]:
        e = asked.evidence
        if e.hops is None:
            yield not_observed(asked.mechanism, "the headers of the image's answer", e.image_url)
        if e.page_headers is None and e.page_url is not None:
            yield not_observed(asked.mechanism, "the page's headers", e.page_url)
        answers = [(f"hop {i}, {hop.url}", hop.headers) for i, hop in enumerate(e.hops or (), 1)]
        for place, headers in [*answers, (e.page_url or "the page", e.page_headers or ())]:
            for name, value in headers:
                if name.strip().lower() in names and holding in value.lower():
                    yield asked.declared(f"{name}, {place}", value)

    return look


def _meta(*names: str) -> Callable[[_Asked], Iterator[Judgement]]:
    def look(asked: _Asked) -> Iterator[Judgement]:
        e = asked.evidence
        if e.page_meta is None and e.page_url is not None:
            yield not_observed(asked.mechanism, "the page's meta elements", e.page_url)
        for name, content in e.page_meta or ():
            if name.strip().lower() in names:
                yield asked.declared(f'meta name="{name}", {e.page_url or "the page"}', content)

    return look


def _other_agents(asked: _Asked) -> Iterator[Judgement]:
    """Any named group of robots.txt that is not ours: the list of training crawlers is not here yet."""
    ours = {"*", *(token.lower() for token in asked.rules.product_tokens)}
    for origin, document in _documents(asked, robots.MECHANISM):
        if document is None:
            yield not_observed(asked.mechanism, "robots.txt of this origin was not asked for", origin)
            continue
        file = robots.read(document, asked.rules, asked.now)
        if isinstance(file, Judgement):
            yield asked.absent(document.url) if file.verdict is None else replace(file, mechanism=asked.mechanism)
            continue
        named = [agent for agent in file.agents if agent not in ours]
        yield asked.declared(document.url, ", ".join(named[:20])) if named else asked.absent(document.url)


_LOOKS: Mapping[str, tuple[Callable[[_Asked], Iterator[Judgement]], ...]] = {
    "ai_agents": (_other_agents,),
    "content_usage": (_robots_line("content-usage"), _header("content-usage")),
    "content_signal": (_robots_line("content-signal"), _header("content-signal")),
    "rsl": (_document("rsl"), _robots_line("license"), _header("link", holding="rsl+xml")),
    "tdmrep": (_document("tdmrep"), _header("tdm-reservation", "tdm-policy"), _meta("tdm-reservation", "tdm-policy")),
    "ai_txt": (_document("ai_txt"),),
    "trust_txt": (_document("trust_txt"),),
}
NOT_BUILT = frozenset(_LOOKS) | {"xmp", "c2pa", "registry", "safety", "duplicate"}
