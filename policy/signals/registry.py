"""Registries and hash lists that the operator imports: a match is a no; a list that is missing or overdue DEFERs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from policy.evidence import Evidence, RegistryAnswer
from policy.judgements import judgement, not_observed, worst
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "registry"


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """`required`: lists that must have been imported and be young enough. `pdq_max_distance`: of 256 bits."""

    required: tuple[str, ...]
    pdq_max_distance: int

    def __post_init__(self) -> None:
        if not 0 <= self.pdq_max_distance <= 64:
            raise ValueError("pdq_max_distance must lie in 0 to 64: beyond that everything resembles everything")


def judge_registry(evidence: Evidence, rules: RegistryRules, now: datetime) -> Judgement:
    """A match denies, on a list of whatever age; a list that cannot be relied on to be silent defers."""
    if evidence.registry is None:
        return not_observed(MECHANISM, "the imported lists were not asked")
    judged = [j for answer in evidence.registry for j in _judge_answer(answer, evidence, now)]
    known = {answer.name for answer in evidence.registry}
    judged += [_missing(name) for name in rules.required if name not in known]
    return worst(judged) if judged else judgement(MECHANISM, None, "registry-not-listed")


def _judge_answer(answer: RegistryAnswer, evidence: Evidence, now: datetime) -> Iterator[Judgement]:
    where = f"list {answer.name}"
    if answer.dated_at is None:
        yield _missing(answer.name)
        return
    dated = f"{answer.name} of {answer.dated_at:%Y-%m-%d}"
    if answer.match:
        signal = Signal(MECHANISM, where, Stance.DENY, answer.match, answer.sha256)
        yield judgement(MECHANISM, Verdict.DENY, "registry-listed", f"{dated}: {answer.match}", where, (signal,))
        return
    if now - answer.dated_at > timedelta(days=answer.max_age_days):
        signal = Signal(MECHANISM, where, Stance.ERROR, f"overdue, of {answer.dated_at:%Y-%m-%d}", answer.sha256)
        detail = f"{dated}, at most {answer.max_age_days} days count"
        yield judgement(MECHANISM, Verdict.DEFER, "registry-overdue", detail, where, (signal,))
    elif answer.kind in _DIGESTS and not _digest(answer.kind, evidence):
        # The list was asked for nothing: its silence says nothing.
        if evidence.fetch_error:
            yield judgement(MECHANISM, Verdict.DEFER, "fetch-failed", evidence.fetch_error, where)
        else:
            yield not_observed(MECHANISM, f"the picture's {answer.kind}, which {answer.name} is asked for", where)


_DIGESTS = frozenset({"sha256", "md5", "pdq"})


def _digest(kind: str, evidence: Evidence) -> str | None:
    return {"sha256": evidence.content_sha256, "md5": evidence.content_md5, "pdq": evidence.pdq}[kind]


def _missing(name: str) -> Judgement:
    signal = Signal(MECHANISM, f"list {name}", Stance.ERROR, "never imported")
    return judgement(MECHANISM, Verdict.DEFER, "registry-missing", name, f"list {name}", (signal,))
