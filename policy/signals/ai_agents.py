"""robots.txt groups of other AI training crawlers: a reservation against training, though not addressed to us."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from policy.evidence import Evidence
from policy.signals.declared import judge_declared
from policy.signals.robots import RobotsRules
from policy.verdict import Judgement

MECHANISM = "ai_agents"


@dataclass(frozen=True, slots=True)
class AiAgentsRules:
    """`honour`: whether a no to any crawler of the training class counts as a no to us."""

    honour: Literal["any", "none"]


def judge_ai_agents(
    evidence: Evidence, rules: AiAgentsRules, documents: RobotsRules, max_age_days: int, now: datetime
) -> Judgement:
    """Not read yet: what is declared DEFERs."""
    return judge_declared(MECHANISM, evidence, documents, max_age_days, now)
