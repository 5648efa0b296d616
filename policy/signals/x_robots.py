"""X-Robots-Tag headers and their twin, the robots `<meta>`: noai, noimageai, noml and the index family.

The page's headers and meta elements speak for its images; of the image's own answer every redirect hop counts.
Header grammar: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from policy.evidence import Evidence, Headers
from policy.judgements import judgement, not_observed, unless_stale, worst
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "x_robots"

_AGAINST_TRAINING = frozenset({"noai", "noimageai", "noml"})
_AGAINST_INDEXING = frozenset({"none", "noindex", "noimageindex"})
_OTHER_WORDS = frozenset(
    {"all", "index", "follow", "nofollow", "archive", "noarchive", "nocache", "nosnippet", "notranslate", "noodp"}
    | {"indexifembedded", "nositelinkssearchbox", "nopagereadaloud", "noydir", "unavailable_after"}
    | {"max-snippet", "max-image-preview", "max-video-preview"}
)
_WORDS = _AGAINST_TRAINING | _AGAINST_INDEXING | _OTHER_WORDS
_AGENT = re.compile(r"[a-z][a-z0-9_.-]*\Z|\*\Z")


@dataclass(frozen=True, slots=True)
class XRobotsRules:
    """`index_family`: whether none, noindex and noimageindex, which speak of search, count as a no."""

    product_tokens: tuple[str, ...]
    max_age_days: int
    index_family: Literal["deny", "ignore"]


def directives(value: str, agents: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """The words of an X-Robots-Tag value, lower case, each with whether it is addressed to us (or to all).

    "a: x, y, b: z" addresses x and y to a, if x is a word of this language. A directive with a value holds colons
    and commas ("unavailable_after: Monday, 15-Aug-05 15:52:01", "max-snippet: 5") and addresses nobody; nor does
    one that is not known yet.
    """
    ours = True
    for piece in value.lower().split(","):
        name, colon, rest = piece.partition(":")
        name, words = name.strip(_QUOTES), _words(piece)
        if colon and name not in _WORDS and _AGENT.match(name) and not _WORDS.isdisjoint(_words(rest)[:1]):
            ours, words = name == "*" or name in agents, _words(rest)
        for word in words:
            yield word, ours


_QUOTES = " \t\"'"


def _words(text: str) -> list[str]:
    return [word for part in re.split(r"[\s;:]+", text) if (word := part.strip(_QUOTES))]


def judge_x_robots(evidence: Evidence, rules: XRobotsRules, now: datetime) -> Judgement:
    """What the page's headers, its meta elements and every hop of the image's answer say."""
    agents = frozenset(token.lower() for token in rules.product_tokens)
    judged = [*_judge_page(evidence, rules, agents), *_judge_hops(evidence, rules, agents)]
    return unless_stale(worst(judged), evidence.observed_at, now, rules.max_age_days)


def _judge_page(evidence: Evidence, rules: XRobotsRules, agents: frozenset[str]) -> Iterator[Judgement]:
    page = evidence.page_url or "the page"
    if evidence.page_headers is not None:
        yield from _judge_headers(evidence.page_headers, f"X-Robots-Tag, {page}", rules, agents)
    elif evidence.page_url is not None:
        yield not_observed(MECHANISM, "the page's headers", page)
    if evidence.page_meta is not None:
        for name, content in evidence.page_meta:
            if (name := name.strip().lower()) == "robots" or name in agents:
                # An agent's own element needs no prefix; one that is written all the same is honoured.
                yield _judge_value(content, f'meta name="{name}", {page}', rules, agents)
    elif evidence.page_url is not None:
        yield not_observed(MECHANISM, "the page's meta elements", page)


def _judge_hops(evidence: Evidence, rules: XRobotsRules, agents: frozenset[str]) -> Iterator[Judgement]:
    if evidence.hops is None:
        yield not_observed(MECHANISM, "the headers of the image's answer", evidence.image_url)
        return
    yield judgement(MECHANISM, None, "x-robots-absent", where=evidence.image_url)
    for number, hop in enumerate(evidence.hops, 1):
        yield from _judge_headers(hop.headers, f"X-Robots-Tag, hop {number}, {hop.url}", rules, agents)


def _judge_headers(headers: Headers, where: str, rules: XRobotsRules, agents: frozenset[str]) -> Iterator[Judgement]:
    for name, value in headers:
        if name.strip().lower() == "x-robots-tag":
            yield _judge_value(value, where, rules, agents)


def _judge_value(value: str, where: str, rules: XRobotsRules, agents: frozenset[str]) -> Judgement:
    """One header line or meta element: the first word in it that is a no to us decides."""
    denying = _AGAINST_TRAINING | (_AGAINST_INDEXING if rules.index_family == "deny" else frozenset())
    word = next((w for w, ours in directives(value, agents) if ours and w in denying), None)
    shown = value.strip()
    if word is None:
        signal = Signal(MECHANISM, where, Stance.UNSET, shown)
        return judgement(MECHANISM, None, "x-robots-absent", shown, where, (signal,))
    signal = Signal(MECHANISM, where, Stance.DENY, shown)
    return judgement(MECHANISM, Verdict.DENY, f"x-robots-{word}", shown, where, (signal,))
