"""The places where a mechanism is asked: origin documents, lines of robots.txt, headers and meta elements.

What all mechanisms share stands here once: whose origins have a say, what a status means, what was not observed, how
old an answer may be. A mechanism's own file reads what is left: a body, some lines, a header's value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from policy.evidence import Document, Evidence, Headers, OriginEvidence
from policy.judgements import judgement, not_observed, unless_stale
from policy.origins import origin_of
from policy.signals import robots
from policy.signals.asked import asked
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
    return tuple(asked(evidence).origins)


def are_silent(evidence: Evidence, *names: str) -> bool:
    """Whether every response was seen, the page's and each hop's, and none has a header of these names (lower case)."""
    seen = asked(evidence)
    return seen.all_seen and seen.header_names.isdisjoint(names)


class SaidOfAll:
    """What a document was found to say of every path: the pairs of its origin share it, and the very document.

    Asked by the document itself, since comparing two is slower than judging one; long ones are not kept alive for it.
    Two URLs then get the very same judgement, whose signals `worst` counts once: only what is so anyway is kept here.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[Document, RobotsRules, datetime, int, tuple[Judgement, ...]]] = {}

    def get(
        self, mechanism: str, document: Document, rules: RobotsRules, now: datetime, max_age_days: int
    ) -> tuple[Judgement, ...] | None:
        known = self._known.get((mechanism, id(document)))
        if known is None or known[0] is not document or known[1] is not rules or known[2] is not now:
            return None
        return known[4] if known[3] == max_age_days else None

    def keep(
        self,
        mechanism: str,
        document: Document,
        rules: RobotsRules,
        now: datetime,
        max_age_days: int,
        judged: tuple[Judgement, ...],
    ) -> None:
        if document.body is not None and len(document.body) > _MAX_KEPT_BYTES:
            return
        if len(self._known) >= _MAX_KEPT:
            self._known.clear()
        self._known[mechanism, id(document)] = document, rules, now, max_age_days, judged


_MAX_KEPT = 8_192
_MAX_KEPT_BYTES = 4_096
said_of_all = SaidOfAll()


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
    for url, origin in _origins(evidence, urls).items():
        document = origin.get(mechanism) if origin is not None else None
        if document is None:
            yield not_observed(mechanism, f"{mechanism} of this origin was not asked for", origin_of(url))
            continue
        if (known := said_of_all.get(mechanism, document, rules, now, max_age_days)) is not None:
            yield from known
            continue
        body = read_status(mechanism, document, rules, now)
        if not isinstance(body, Judgement) and sniffs_as_html(body):
            body = absent_as_html(mechanism, document)
        said = body if isinstance(body, Judgement) else read(body, document, url)
        judged = unless_stale(said, document.fetched_at, now, max_age_days)
        if judged is body:
            said_of_all.keep(mechanism, document, rules, now, max_age_days, (judged,))
        yield judged


def _origins(evidence: Evidence, urls: tuple[str, ...] | None) -> Mapping[str, OriginEvidence | None]:
    known = asked(evidence).origins
    if urls is None:
        return known
    return {url: known[url] if url in known else evidence.origin(origin_of(url)) for url in urls}


def judge_robots_files(
    mechanism: str,
    evidence: Evidence,
    rules: RobotsRules,
    now: datetime,
    max_age_days: int,
    read: Callable[[RobotsFile, Document, str], Judgement | None],
    is_about_all: Callable[[RobotsFile], bool],
) -> Iterator[Judgement]:
    """What each asked URL's robots.txt says: `read(file, document, url)`; None where nothing.

    A file that is absent says nothing; one that is refused or silent judges as it does for robots.
    `is_about_all`: whether what `read` says of a file is the same for every URL.
    """
    for url, origin in asked(evidence).origins.items():
        document = origin.get(robots.MECHANISM) if origin is not None else None
        if document is None:
            yield not_observed(mechanism, "robots.txt of this origin was not asked for", origin_of(url))
            continue
        if (known := said_of_all.get(mechanism, document, rules, now, max_age_days)) is not None:
            yield from known
            continue
        file = robots.read(document, rules, now)
        judged: Judgement | None
        if isinstance(file, RobotsFile):
            judged = read(file, document, url)
        else:
            judged = None if file.verdict is None else replace(file, mechanism=mechanism)
        absent = judgement(mechanism, None, f"{mechanism.replace('_', '-')}-absent", where=document.url)
        said = unless_stale(judged or absent, document.fetched_at, now, max_age_days)
        if not said.signals and (not isinstance(file, RobotsFile) or is_about_all(file)):
            said_of_all.keep(mechanism, document, rules, now, max_age_days, (said,))
        yield said


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
    for url, origin in asked(evidence).origins.items():
        document = origin.get(robots.MECHANISM) if origin is not None else None
        if document is None:
            yield not_observed(mechanism, "robots.txt of this origin was not asked for", origin_of(url))
            continue
        if (known := said_of_all.get(mechanism, document, rules, now, max_age_days)) is not None:
            yield from known
            continue
        file = robots.read(document, rules, now)
        judged: list[Judgement | None] = []
        is_about_all = True
        if isinstance(file, Judgement):
            judged.append(None if file.verdict is None else replace(file, mechanism=mechanism))
        else:
            for token in rules.product_tokens:
                lines = tuple(line for line in file.extensions_for(token) if line.name in names)
                lines = lines or tuple(line for line in file.site_wide if line.name in names)
                judged.append(read(lines, document, url) if lines else None)
                is_about_all = is_about_all and not lines
            if file.bad_lines:
                judged.append(replace(robots.damaged(file, document), mechanism=mechanism))
        absent = judgement(mechanism, None, f"{mechanism.replace('_', '-')}-absent", where=document.url)
        all_said = tuple(unless_stale(said or absent, document.fetched_at, now, max_age_days) for said in judged)
        if is_about_all and not any(said.signals for said in all_said):
            said_of_all.keep(mechanism, document, rules, now, max_age_days, all_said)
        yield from all_said


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
