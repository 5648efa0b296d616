"""One judge's work in a decide run: stored evidence in, the decisions that differ from what stands out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.home import Home
from policy.evidence import Evidence, Shared
from policy.grants import Grants
from policy.judgements import judgement
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.registries import Registries
from policy.removals import Tombstones
from policy.ruleset import KNOWN, Ruleset
from policy.signals import registry
from policy.verdict import Judgement

DECISION_COLUMNS = (
    *("pair_key", "evidence_id", "rule", "rule_version", "verdict", "reason_code", "reason_detail", "where_found"),
)
SIGNAL_COLUMNS = ("pair_key", "evidence_id", "mechanism", "stance", "where_found", "value", "document_sha256")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked anew at every decide, whatever was answered when the evidence was gathered.

    It goes to worker processes: files are named, not held.
    """

    tombstones_path: Path
    keys_path: Path
    epoch: int
    registries: Registries | None  # None: the ruleset does not ask them
    grants: Grants

    @classmethod
    def at(cls, home: Home, ledger: Ledger) -> Asked:
        """As they are now, held against the ledger; raises IntegrityError where a file is not the one it knows."""
        registries = home.registries(ledger) if registry.MECHANISM in home.ruleset.mechanisms else None
        epoch = home.tombstones(ledger).epoch
        return cls(home.tombstones_path, home.keys_path, epoch, registries, home.grants(ledger))

    def tombstones(self) -> Tombstones:
        return Tombstones.load(self.tombstones_path, keys=KeyRing.load(self.keys_path))


@dataclass(frozen=True, slots=True)
class Changes:
    """Columns of rows, in the order of DECISION_COLUMNS and SIGNAL_COLUMNS."""

    decisions: tuple[list[object], ...]
    signals: tuple[list[object], ...]


class Judging:
    """Judges stored evidence under one ruleset at one time."""

    def __init__(
        self,
        ruleset: Ruleset,
        now: datetime,
        asked: Asked,
        parts: Mapping[str, str],
        bodies: Mapping[str, bytes],
    ) -> None:
        self._ruleset, self._now = ruleset, now
        self._tombstones, self._registries, self._grants = asked.tombstones(), asked.registries, asked.grants
        self._shared = Shared(parts, bodies)
        self._dropped = {rule: judgement(rule, None, "not-asked") for rule in KNOWN - set(ruleset.mechanisms)}
        self._versions = {rule: ruleset.rule_version(rule) for rule in KNOWN}

    def chunk(self, columns: Mapping[str, list[Any]]) -> Changes:
        """Judge the pairs of a chunk: columns pair_key, evidence_id, body_json, rules, said (digests of last words)."""
        decisions: list[tuple[object, ...]] = []
        signals: list[tuple[object, ...]] = []
        for pair, evidence_id, body, rules, said in zip(*(columns[name] for name in _CHUNK), strict=True):
            stood = dict(zip(rules, said, strict=True))
            for judged in self._judge(body, stood):
                version = self._versions[judged.mechanism]
                verdict = judged.verdict.value if judged.verdict is not None else "unset"
                last = (version, verdict, judged.reason.code, judged.reason.detail, judged.where)
                if stood.get(judged.mechanism) == _digest(last):
                    continue
                decisions.append((pair, evidence_id, judged.mechanism, *last))
                signals += (
                    (pair, evidence_id, s.mechanism, s.stance.value, s.where, s.value, s.document_sha256)
                    for s in judged.signals
                )
        return Changes(_columns(decisions, len(DECISION_COLUMNS)), _columns(signals, len(SIGNAL_COLUMNS)))

    def _judge(self, body: str, stood: Mapping[str, int]) -> Iterator[Judgement]:
        evidence = self._asked_anew(Evidence.from_json(body, self._shared))
        yield from self._ruleset.decide(evidence, self._now)
        # An end to what stands of mechanisms that the ruleset names no more; a removal's hold is none of those.
        yield from (self._dropped[rule] for rule in stood if rule in self._dropped)

    def _asked_anew(self, evidence: Evidence) -> Evidence:
        tombstones = self._tombstones
        removal = (
            tombstones.covers_url(evidence.image_url)
            or (evidence.page_url and tombstones.covers_url(evidence.page_url))
            or (evidence.content_sha256 and tombstones.covers_content(evidence.content_sha256))
        )
        return replace(
            evidence,
            tombstoned=removal or "",
            registry=None if self._registries is None else self._registries.answers_for(evidence),
            grants=self._grants.grants_for(evidence),
        )


_CHUNK = ("pair_key", "evidence_id", "body_json", "rules", "said")


def _digest(last_words: tuple[object, ...]) -> int:
    """As DuckDB's md5_number_lower over the same columns: 64 bits, to be compared, not to be trusted by anybody.

    Not the evidence id or the ruleset's digest: the same answer on newer evidence is confirmed, not repeated.
    """
    text = "\x1f".join(map(str, last_words)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[8:], "little")


def _columns(rows: list[tuple[object, ...]], count: int) -> tuple[list[object], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True)) or tuple([] for _ in range(count))
