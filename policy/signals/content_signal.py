"""Content Signals: the Content-Signal lines of robots.txt, and the header (contentsignals.org)."""

from __future__ import annotations

from datetime import datetime

from policy.evidence import Evidence
from policy.signals.declared import judge_declared
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement

MECHANISM = "content_signal"


def judge_content_signal(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """Not read yet: what is declared DEFERs."""
    return judge_declared(MECHANISM, evidence, documents, max_age_days, now)
