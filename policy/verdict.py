"""Verdicts, reasons, judgements and decisions, and how they combine."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


class Verdict(enum.Enum):
    """What may happen with a sample. Only ALLOW reaches a shard."""

    ALLOW = "allow"
    DEFER = "defer"
    DENY = "deny"


class Stance(enum.Enum):
    """What one signal says, before any rule weighs it."""

    ALLOW = "allow"
    DENY = "deny"
    CONSTRAINED = "constrained"
    UNSET = "unset"
    ERROR = "error"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Reason:
    """A code that is counted and queried, and a detail for the reader (personal: it may quote a URL)."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """One statement found in one place.

    `where` names the place for a reader ("https://a.example/robots.txt:12", "X-Robots-Tag, hop 2");
    `document_sha256` is the stored document it was read from, None for headers and observations.
    """

    mechanism: str
    where: str
    stance: Stance
    value: str = ""
    document_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one rule makes of the evidence. `verdict` None: observed, and nothing said ("unset")."""

    mechanism: str
    verdict: Verdict | None
    reason: Reason
    where: str = ""
    signals: tuple[Signal, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """A judgement on record: about whom, on which evidence, under which ruleset, when (UTC)."""

    subject: str
    rule: str
    rule_version: int
    verdict: Verdict | None
    reason: Reason
    where: str
    evidence_id: str
    ruleset_digest: str
    decided_at: datetime


_ORDER = {Verdict.ALLOW: 0, Verdict.DEFER: 1, Verdict.DENY: 2}


def combine(verdicts: Iterable[Verdict | None]) -> Verdict:
    """Combine verdicts: DENY absorbs, DEFER keeps out, None ("unset") is neutral.

    Associative, commutative, idempotent. Nothing judged at all is DEFER; judged and nowhere objected is ALLOW
    (that permission must be given, not just not refused, is the licence rule's business).
    """
    judged = list(verdicts)
    if not judged:
        return Verdict.DEFER
    return max((v for v in judged if v is not None), key=_ORDER.__getitem__, default=Verdict.ALLOW)
