"""The rule over near duplicates: one picture among those that are the same to the eye is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.limits import within
from policy.verdict import Judgement, Verdict

DUPLICATE = "duplicate"
TURNED = "-turned"  # how a method ends that matched another orientation


@dataclass(frozen=True, slots=True)
class DuplicateRules:
    """`near`: what becomes of a verified near duplicate of another picture: "leave-out" or "ignore".

    `turned`: whether a mirrored or turned copy is one. `pdq_max_distance`: bits in which the hashes of two pictures may
    differ that are compared by their pixels, or, where those of a reserved picture are gone, taken for the same.
    """

    near: Literal["leave-out", "ignore"]
    turned: bool
    pdq_max_distance: int

    def __post_init__(self) -> None:
        within("pdq_max_distance", self.pdq_max_distance, 0, 47)


def judge_duplicate(evidence: Evidence, rules: DuplicateRules) -> Judgement:
    """Whether the picture stands for itself; what a verified match has reserved counts for this one as well."""
    found = evidence.duplicate
    if found is None:
        if evidence.fetch_error:
            return judgement(DUPLICATE, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        return not_observed(DUPLICATE, "the picture was not compared with the others")
    if found.reserved:
        return judgement(DUPLICATE, Verdict.DENY, "duplicate-reserved", found.reserved, found.representative)
    if found.representative == evidence.content_sha256 or rules.near == "ignore":
        return judgement(DUPLICATE, Verdict.ALLOW, "no-duplicate")
    if found.method.endswith(TURNED) and not rules.turned:
        return judgement(DUPLICATE, Verdict.ALLOW, "no-duplicate", f"{found.method} of another, which may stand too")
    detail = f"{found.method}, distance {found.distance:g}"
    # Deferred, not denied: should the other go, this one takes its place.
    return judgement(DUPLICATE, Verdict.DEFER, "duplicate", detail, found.representative)
