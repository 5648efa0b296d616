"""AIPREF: the Content-Usage lines of robots.txt and the Content-Usage header (draft-ietf-aipref-attach, -vocab)."""

from __future__ import annotations

from datetime import datetime

from policy.evidence import Evidence
from policy.signals.declared import judge_declared
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement

MECHANISM = "content_usage"


def judge_content_usage(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """Not read yet: what is declared DEFERs."""
    return judge_declared(MECHANISM, evidence, documents, max_age_days, now)
