"""ai.txt of the media host: robots.txt's shape, asked for the media URL (Spawning)."""

from __future__ import annotations

from datetime import datetime

from policy.evidence import Evidence
from policy.signals.declared import judge_declared
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement

MECHANISM = "ai_txt"


def judge_ai_txt(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """Not read yet: what is declared DEFERs."""
    return judge_declared(MECHANISM, evidence, documents, max_age_days, now)
