"""The rule over a picture's size and shape."""

from __future__ import annotations

from dataclasses import dataclass

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

SIZE = "size"


@dataclass(frozen=True, slots=True)
class SizeRules:
    """Bounds in pixels of the original picture; `max_aspect`: longer side over shorter side."""

    min_side: int
    max_side: int
    max_pixels: int
    max_aspect: float

    def __post_init__(self) -> None:
        if not 1 <= self.min_side <= self.max_side:
            raise ValueError("min_side must be at least 1 and at most max_side")
        if not self.max_aspect >= 1:
            raise ValueError("max_aspect must be at least 1")


def judge_size(evidence: Evidence, rules: SizeRules) -> Judgement:
    """Whether the picture is neither too small, nor too large, nor too narrow."""
    width, height = evidence.width, evidence.height
    if width is None or height is None:
        if evidence.fetch_error:
            return judgement(SIZE, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        return not_observed(SIZE, "the picture was not decoded")
    size = f"{width} x {height}"
    shorter, longer = sorted((width, height))
    if shorter < rules.min_side:
        return judgement(SIZE, Verdict.DENY, "too-small", f"{size}, at least {rules.min_side} a side")
    if longer > rules.max_side or width * height > rules.max_pixels:
        return judgement(SIZE, Verdict.DENY, "too-large", size)
    if longer > shorter * rules.max_aspect:
        return judgement(SIZE, Verdict.DENY, "too-narrow", f"{size}, at most {rules.max_aspect:g} to 1")
    return judgement(SIZE, Verdict.ALLOW, "size-ok", size)
