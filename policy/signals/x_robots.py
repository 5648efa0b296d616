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

from policy.evidence import Evidence
from policy.judgements import judgement, unless_stale, worst
from policy.signals.places import Response, are_silent, metas, responses
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
# The language is ASCII; a word in which something else stands has lost a letter.
_DAMAGED = re.compile(r"[^\t\n\f\r\x20-\x7e\xa0]")


@dataclass(frozen=True, slots=True)
class XRobotsRules:
    """`index_family`: whether none, noindex and noimageindex, which speak of search, count as a no."""

    product_tokens: tuple[str, ...]
    max_age_days: int
    index_family: Literal["deny", "ignore"]

    @property
    def agents(self) -> frozenset[str]:
        """Our names, lower case, as an agent prefix and a meta element's name are compared."""
        return frozenset(token.lower() for token in self.product_tokens)


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
_WORD = re.compile(r"[\w-]+")  # whatever the list is separated by


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def judge_x_robots(evidence: Evidence, rules: XRobotsRules, now: datetime) -> Judgement:
    """What the page's headers, its meta elements and every hop of the image's answer say."""
    absent = judgement(MECHANISM, None, "x-robots-absent", where=evidence.image_url)
    judged = worst([absent, *_judge_headers(evidence, rules), *_judge_metas(evidence, rules)])
    return unless_stale(judged, evidence.observed_at, now, rules.max_age_days)


def _judge_headers(evidence: Evidence, rules: XRobotsRules) -> Iterator[Judgement]:
    if are_silent(evidence, "x-robots-tag"):
        return
    for response in responses(MECHANISM, evidence):
        if isinstance(response, Response):
            for value in response.values("x-robots-tag"):
                yield _judge_value(value, f"X-Robots-Tag, {response.place}", rules)
        else:
            yield response


def _judge_metas(evidence: Evidence, rules: XRobotsRules) -> Iterator[Judgement]:
    """An agent's own element needs no prefix; one that is written all the same is honoured."""
    for meta in metas(MECHANISM, evidence, "robots", *rules.agents):
        yield meta if isinstance(meta, Judgement) else _judge_value(meta[1], meta[0], rules)


def _judge_value(value: str, where: str, rules: XRobotsRules) -> Judgement:
    """One header line or meta element: the first word in it that is a no to us decides."""
    denying = _AGAINST_TRAINING | (_AGAINST_INDEXING if rules.index_family == "deny" else frozenset())
    word = next((w for w, ours in directives(value, rules.agents) if ours and w in denying), None)
    shown = value.strip()
    if word is None and _DAMAGED.search(value):
        signal = Signal(MECHANISM, where, Stance.ERROR, shown)
        return judgement(MECHANISM, Verdict.DEFER, "x-robots-damaged", shown, where, (signal,))
    if word is None:
        signal = Signal(MECHANISM, where, Stance.UNSET, shown)
        return judgement(MECHANISM, None, "x-robots-absent", shown, where, (signal,))
    signal = Signal(MECHANISM, where, Stance.DENY, shown)
    return judgement(MECHANISM, Verdict.DENY, f"x-robots-{word}", shown, where, (signal,))
