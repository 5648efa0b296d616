"""The rule over what a picture shows: a score of how likely it is not safe for work."""

from __future__ import annotations

from dataclasses import dataclass

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

SAFETY = "safety"
NSFW = "nsfw"


@dataclass(frozen=True, slots=True)
class SafetyRules:
    """`defer_nsfw`, `max_nsfw`: scores in [0, 1] above which a picture waits until somebody has looked at it, and above
    which it is refused. Equal: nothing waits.
    """

    defer_nsfw: float
    max_nsfw: float

    def __post_init__(self) -> None:
        if not 0 <= self.defer_nsfw <= self.max_nsfw <= 1:
            raise ValueError("defer_nsfw and max_nsfw must lie in [0, 1], and defer_nsfw be at most max_nsfw")


def judge_safety(evidence: Evidence, rules: SafetyRules) -> Judgement:
    """Whether the score was measured and is low enough."""
    score = evidence.score(NSFW)
    if score is None:
        if evidence.fetch_error:
            return judgement(SAFETY, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        return not_observed(SAFETY, "no model has looked at the picture")
    if not score <= rules.max_nsfw:  # NaN is no low score
        return judgement(SAFETY, Verdict.DENY, "nsfw", f"score {score:.3f}, at most {rules.max_nsfw:g}")
    said = f"score {score:.3f}, at most {rules.defer_nsfw:g}"
    if score > rules.defer_nsfw:
        return judgement(SAFETY, Verdict.DEFER, "nsfw-unsure", said)
    return judgement(SAFETY, Verdict.ALLOW, "safe", said)
