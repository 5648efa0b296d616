"""The places where a mechanism is asked: origin documents, lines of robots.txt, headers and meta elements.

What all mechanisms share stands here once: whose origins have a say, what a status means, what was not observed, how
old an answer may be. A mechanism's own file reads what is left: a body, some lines, a header's value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from policy.evidence import Document, Evidence, Headers
from policy.judgements import judgement, not_observed, unless_stale
from policy.origins import origin_of
from policy.signals import robots
from policy.signals.origin_document import absent_as_html, read_status, sniffs_as_html
from policy.signals.robots import ExtensionLine, RobotsFile, RobotsRules
from policy.verdict import Judgement


class Response(NamedTuple):
    """A response that was seen: the URL asked, a name for the reader ("hop 2, https://…"), its headers in order."""

    url: str
    place: str
    headers: Headers

    def values(self, *names: str) -> list[str]:
        """The values of the headers of these names (lower case), in order."""
        named = _lower_case_names(self.headers)
        if named.isdisjoint(names):  # as nearly always, for each of five mechanisms
            return []
        return [value for name, value in self.headers if name.strip().lower() in names]


@functools.lru_cache(maxsize=1024)
def _lower_case_names(headers: Headers) -> frozenset[str]:
    return frozenset(name.strip().lower() for name, _ in headers)


def asked_urls(evidence: Evidence) -> tuple[str, ...]:
    """Every URL whose origin has a say: the image's, the page's, each redirect's, and a refused one if it was asked."""
    global _asked_last
    known, urls = _asked_last
    if known is not evidence:  # every mechanism asks it of the same evidence, one after the other
        urls = _asked_urls(evidence)
        _asked_last = evidence, urls
    return urls


_asked_last: tuple[Evidence | None, tuple[str, ...]] = None, ()


def _asked_urls(evidence: Evidence) -> tuple[str, ...]:
    urls = [evidence.image_url, *([evidence.page_url] if evidence.page_url else [])]
    urls += [hop.url for hop in evidence.hops or ()]
    if evidence.refused_url is not None and evidence.origin(origin_of(evidence.refused_url)) is not None:
        urls.append(evidence.refused_url)
    return tuple(dict.fromkeys(urls))


def judge_documents(
    mechanism: str,
    evidence: Evidence,
    rules: RobotsRules,
    now: datetime,
    max_age_days: int,
    read: Callable[[bytes, Document, str], Judgement],
    *,
    urls: tuple[str, ...] | None = None,
) -> Iterator[Judgement]:
    """What each asked URL's origin says in its document `mechanism`: `read(body, document, url)` where there is one.

    An HTML page under that name is an absence; so is 404. Staleness goes by the document's own age.
    """
    for url in urls if urls is not None else asked_urls(evidence):
        origin = evidence.origin(origin_of(url))
        document = origin.get(mechanism) if origin is not None else None
        if document is None:
            yield not_observed(mechanism, f"{mechanism} of this origin was not asked for", origin_of(url))
            continue
        body = read_status(mechanism, document, rules, now)
        if isinstance(body, Judgement):
            judged = body
        elif sniffs_as_html(body):
            judged = absent_as_html(mechanism, document)
        else:
            judged = read(body, document, url)
        yield unless_stale(judged, document.fetched_at, now, max_age_days)


def judge_robots_files(
    mechanism: str,
    evidence: Evidence,
    rules: RobotsRules,
    now: datetime,
    max_age_days: int,
    read: Callable[[RobotsFile, Document, str], Judgement | None],
) -> Iterator[Judgement]:
    """What each asked URL's robots.txt says: `read(file, document, url)`; None where nothing.

    A file that is absent says nothing; one that is refused or silent judges as it does for robots.
    """
    for url in asked_urls(evidence):
        origin = evidence.origin(origin_of(url))
        document = origin.get(robots.MECHANISM) if origin is not None else None
        if document is None:
            yield not_observed(mechanism, "robots.txt of this origin was not asked for", origin_of(url))
            continue
        file = robots.read(document, rules, now)
        judged: Judgement | None
        if isinstance(file, RobotsFile):
            judged = read(file, document, url)
        else:
            judged = None if file.verdict is None else replace(file, mechanism=mechanism)
        absent = judgement(mechanism, None, f"{mechanism.replace('_', '-')}-absent", where=document.url)
        yield unless_stale(judged or absent, document.fetched_at, now, max_age_days)


def judge_robots_lines(
    mechanism: str,
    evidence: Evidence,
    rules: RobotsRules,
    now: datetime,
    max_age_days: int,
    names: tuple[str, ...],
    read: Callable[[tuple[ExtensionLine, ...], Document, str], Judgement | None],
) -> Iterator[Judgement]:
    """What the lines of these names say to our tokens' groups: `read(lines, document, url)`; None where nothing.

    Where a group of ours has none, those count that stand in no group: who wrote them spoke to everybody.
    A robots.txt that is absent says nothing; one that is refused, silent or damaged judges as it does for robots.
    """
    for url in asked_urls(evidence):
        origin = evidence.origin(origin_of(url))
        document = origin.get(robots.MECHANISM) if origin is not None else None
        if document is None:
            yield not_observed(mechanism, "robots.txt of this origin was not asked for", origin_of(url))
            continue
        file = robots.read(document, rules, now)
        judged: list[Judgement | None] = []
        if isinstance(file, Judgement):
            judged.append(None if file.verdict is None else replace(file, mechanism=mechanism))
        else:
            for token in rules.product_tokens:
                lines = tuple(line for line in file.extensions_for(token) if line.name in names)
                lines = lines or tuple(line for line in file.site_wide if line.name in names)
                judged.append(read(lines, document, url) if lines else None)
            if file.bad_lines:
                judged.append(replace(robots.damaged(file, document), mechanism=mechanism))
        absent = judgement(mechanism, None, f"{mechanism.replace('_', '-')}-absent", where=document.url)
        for said in judged:
            yield unless_stale(said or absent, document.fetched_at, now, max_age_days)


def responses(mechanism: str, evidence: Evidence) -> Iterator[Response | Judgement]:
    """Every response that was seen, the page's and each hop's of the image's; `not-observed` for those that were not.

    The page's headers are those of all its hops, in order.
    """
    if evidence.hops is None:
        yield not_observed(mechanism, "the headers of the image's answer", evidence.image_url)
    for number, hop in enumerate(evidence.hops or (), 1):
        yield Response(hop.url, f"hop {number}, {hop.url}", hop.headers)
    if evidence.page_headers is not None:
        page = evidence.page_url or evidence.image_url
        yield Response(page, evidence.page_url or "the page", evidence.page_headers)
    elif evidence.page_url is not None:
        yield not_observed(mechanism, "the page's headers", evidence.page_url)


def metas(mechanism: str, evidence: Evidence, *names: str) -> Iterator[tuple[str, str] | Judgement]:
    """(where, content) of the page's meta elements of these names (lower case); `not-observed` where none was read."""
    if evidence.page_meta is None:
        if evidence.page_url is not None:
            yield not_observed(mechanism, "the page's meta elements", evidence.page_url)
        return
    for name, content in evidence.page_meta:
        if (named := name.strip().lower()) in names:
            yield f'meta name="{named}", {evidence.page_url or "the page"}', content
