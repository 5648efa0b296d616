"""The rule over near duplicates: one picture among those that are the same to the eye is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class DuplicateRules:
    """`near`: what becomes of a verified near duplicate of another picture: "leave-out" or "ignore"."""

    near: Literal["leave-out", "ignore"]


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
    detail = f"{found.method}, distance {found.distance:g}"
    # Deferred, not denied: should the other go, this one takes its place.
    return judgement(DUPLICATE, Verdict.DEFER, "duplicate", detail, found.representative)
