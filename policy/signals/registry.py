"""Registries and hash lists that the operator imports: a match is a no; a list that is missing or overdue DEFERs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

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
    """Not read yet."""
    if evidence.registry is None:
        return not_observed(MECHANISM, "the imported lists were not asked")
    return judgement(MECHANISM, Verdict.DEFER, "mechanism-not-built", "not looked for")
