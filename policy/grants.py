"""Grants: consents and agreements on record, what each may cover, and judgements under them."""

from __future__ import annotations

from datetime import datetime

from policy.evidence import Evidence
from policy.verdict import Judgement


def under_grants(judged: Judgement, evidence: Evidence, now: datetime) -> Judgement:
    """The judgement, or ALLOW naming the grant that covers its mechanism for this pair and is valid now."""
    return judged
