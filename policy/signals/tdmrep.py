"""TDMRep: tdmrep.json, headers, meta elements and embedded tdm: properties (W3C TDM Reservation Protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from policy.evidence import Evidence
from policy.signals.declared import judge_declared
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement

MECHANISM = "tdmrep"


@dataclass(frozen=True, slots=True)
class TdmrepRules:
    """`invalid_deny_days`: after so many days an invalid tdmrep.json counts as a no; until then it DEFERs."""

    invalid_deny_days: int


def judge_tdmrep(
    evidence: Evidence, rules: TdmrepRules, documents: RobotsRules, max_age_days: int, now: datetime
) -> Judgement:
    """Not read yet: what is declared DEFERs."""
    return judge_declared(MECHANISM, evidence, documents, max_age_days, now)
