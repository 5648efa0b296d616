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
    """Bounds of what curation.scores measures on the kept pixels.

    `min_entropy`: bits of the histogram of brightness (0: not asked). `min_sharpness`: of the strongest edges (0: not
    asked). `max_flatness`, `max_screenshot`: shares in [0, 1] (1: not asked).
    """

    min_entropy: float
    min_sharpness: float
    max_flatness: float
    max_screenshot: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_entropy <= 8:
            raise ValueError("min_entropy must lie in [0, 8]")
        if not 0 <= self.min_sharpness <= 8:
            raise ValueError("min_sharpness must lie in [0, 8]")
        for name in ("max_flatness", "max_screenshot"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1]")


def judge_quality(evidence: Evidence, rules: QualityRules) -> Judgement:
    """Whether there is something to be seen, and seen sharply, and no screenshot; the first bound that is missed."""
    bounds = (
        ("entropy", rules.min_entropy, rules.min_entropy > 0, "too-plain"),
        ("flatness", rules.max_flatness, rules.max_flatness < 1, "too-flat"),
        ("sharpness", rules.min_sharpness, rules.min_sharpness > 0, "too-blurred"),
        ("screenshot", rules.max_screenshot, rules.max_screenshot < 1, "screenshot"),
    )
    said = []
    for name, bound, asked, code in bounds:
        if not asked:
            continue
        value = evidence.score(name)
        if value is None:
            if evidence.fetch_error:
                return judgement(QUALITY, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
            return not_observed(QUALITY, f"the picture was not measured: {name}")
        least = code in ("too-plain", "too-blurred")
        said.append(f"{name} {value:.2f}, at {'least' if least else 'most'} {bound:g}")
        if not (value >= bound if least else value <= bound):  # NaN is within no bound
            return judgement(QUALITY, Verdict.DENY, code, said[-1])
    return judgement(QUALITY, Verdict.ALLOW, "quality-ok", "; ".join(said))
