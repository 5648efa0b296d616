"""The rules over a picture's size and shape, and over what its pixels are worth."""

from __future__ import annotations

from dataclasses import dataclass

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

SIZE = "size"
QUALITY = "quality"


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


@dataclass(frozen=True, slots=True)
class QualityRules:
    """`min_entropy`: bits of the histogram of brightness."""

    min_entropy: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_entropy <= 8:
            raise ValueError("min_entropy must lie in [0, 8]")


def judge_quality(evidence: Evidence, rules: QualityRules) -> Judgement:
    """Whether there is anything to be seen."""
    entropy = evidence.score("entropy")
    if entropy is None:
        if evidence.fetch_error:
            return judgement(QUALITY, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        return not_observed(QUALITY, "the picture was not measured")
    said = f"{entropy:.2f} bits, at least {rules.min_entropy:g}"
    if not entropy >= rules.min_entropy:
        return judgement(QUALITY, Verdict.DENY, "too-plain", said)
    return judgement(QUALITY, Verdict.ALLOW, "quality-ok", said)
