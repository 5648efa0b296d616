"""trust.txt: datatrainingallowed=no speaks for the whole site (journallist.net)."""

from __future__ import annotations

from datetime import datetime

from policy.evidence import Evidence
from policy.signals.declared import judge_declared
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement

MECHANISM = "trust_txt"


def judge_trust_txt(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """Not read yet: what is declared DEFERs."""
    return judge_declared(MECHANISM, evidence, documents, max_age_days, now)
