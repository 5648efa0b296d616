"""What a decide run rests on, and so what the next one has to judge anew.

A judgement is a function of a pair's evidence, of the sections of the ruleset that its rule reads, of the rule's
version, of what is asked anew (tombstones, lists, grants), and of the time, by which observations grow too old. Where
none of these has changed since the last complete run, it has said what it would say: only the rest is judged. When in
doubt everything is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.stages.judging import Asked
from policy.errors import ConfigurationError
from policy.ledger import Ledger
from policy.ruleset import RULES, Ruleset

_LAST = """
SELECT c.batch_seq, c.basis_json, r.body
FROM confirmation c JOIN ruleset r ON r.digest = c.ruleset_digest
ORDER BY c.batch_seq DESC, c.row_no DESC LIMIT 1
"""
_TIMES = re.compile(r'"(?:fetched_at|since)":"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Basis:
    """What one run rests on. `asked`: a digest of tombstones, lists and grants."""

    ruleset: Ruleset
    versions: Mapping[str, int]
    asked: str
    now: datetime

    @classmethod
    def of(cls, ruleset: Ruleset, asked: Asked, now: datetime) -> Basis:
        """A run's that begins now."""
        versions = {name: ruleset.rule_version(name) for name in ruleset.mechanisms}
        return cls(ruleset, versions, _digest(asked), now)

    def to_json(self) -> str:
        """As `confirmation` keeps it; the ruleset stands there by its digest."""
        return json.dumps({"versions": dict(self.versions), "asked": self.asked, "now": self.now.isoformat()})


@dataclass(frozen=True, slots=True)
class Anew:
    """What has to be judged: `mechanisms` of every pair; all of them of a pair whose evidence came after batch
    `after`, or was observed within one of `observed` [from, to].

    `dropped`: rules that the ruleset names no more.
    """

    mechanisms: tuple[str, ...]
    dropped: tuple[str, ...]
    after: int
    observed: tuple[tuple[datetime, datetime], ...] = ()


def to_judge(ledger: Ledger, basis: Basis, asked: Asked, parts: Iterable[str], known: Collection[str]) -> Anew:
    """What may have changed since the last complete run. `known`: all mechanisms there are; `parts`: JSON texts."""
    named = basis.ruleset.mechanisms
    everything = Anew(named, tuple(sorted(set(known) - set(named))), after=-1)
    last = _last(ledger)
    if last is None:
        return everything
    seq, before = last
    if before.asked != basis.asked or before.now > basis.now:
        return everything
    crossed = [(before.now - lasts, basis.now - lasts) for lasts in _durations(basis.ruleset)]
    if any(_within(moment, crossed) for moment in _moments(parts)):
        return everything
    if any(before.now <= moment <= basis.now for moment in asked.boundaries()):
        return everything
    # A licence document may say itself for how many days it counts, which is not read here.
    unsure = {"rsl"} if ledger.query("SELECT 1 FROM evidence_part WHERE kind = 'declared' LIMIT 1") else set()
    changed = tuple(name for name in named if name in unsure or not _same(name, before, basis))
    dropped = tuple(sorted(set(before.ruleset.mechanisms) - set(named)))
    return Anew(changed, dropped, seq, tuple(crossed))


def _same(name: str, before: Basis, basis: Basis) -> bool:
    """Whether a mechanism was judged by the very same rule."""
    if name not in before.ruleset.mechanisms or before.versions.get(name) != basis.versions[name]:
        return False
    if name not in RULES:
        return True
    return all(_section(before.ruleset, path) == _section(basis.ruleset, path) for path in RULES[name].reads)


def _section(ruleset: Ruleset, path: str) -> object:
    found: object = ruleset
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _last(ledger: Ledger) -> tuple[int, Basis] | None:
    """The newest complete run; None where it cannot be told what it rested on."""
    for seq, text, body in ledger.query(_LAST):
        if text is None:
            return None
        try:
            said, ruleset = json.loads(text), Ruleset.parse(body)
        except (ConfigurationError, ValueError):
            return None  # a ruleset of a version with other keys
        return seq, Basis(ruleset, said["versions"], said["asked"], datetime.fromisoformat(said["now"]))
    return None


def _digest(asked: Asked) -> str:
    return hashlib.blake2b(repr(asked.facts()).encode(), digest_size=16).hexdigest()


# ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _durations(ruleset: Ruleset) -> Iterator[timedelta]:
    """Every time after which an observation may count otherwise; from a day ahead of us it does not count yet."""
    days = {getattr(ruleset.ages, name) for name in type(ruleset.ages).__slots__}
    days |= {ruleset.robots.unreachable_deny_days, ruleset.tdmrep.invalid_deny_days, -1}
    return (timedelta(days=number) for number in sorted(days))


def _moments(parts: Iterable[str]) -> Iterator[datetime]:
    for text in parts:
        for moment in _TIMES.findall(text):
            at = datetime.fromisoformat(moment)
            yield at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _within(moment: datetime, ranges: Iterable[tuple[datetime, datetime]]) -> bool:
    # Some bounds are meant with and some without their own moment: both ends count as crossed.
    return any(since <= moment <= until for since, until in ranges)
