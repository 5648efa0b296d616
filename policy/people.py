"""The rule over faces: deny, blur, or allow with a consent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from policy.evidence import Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

FACES = "faces"


@dataclass(frozen=True, slots=True)
class FacesRules:
    """`mode`: what a picture with a face needs. `min_score`: a detection below it is none; in [0, 1]."""

    mode: Literal["deny", "blur", "allow"]
    min_score: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError("min_score must lie in [0, 1]")

    @property
    def blur_from(self) -> float | None:
        """The score from which a face has to be blurred in the pixels that are kept; None: none has."""
        return self.min_score if self.mode == "blur" else None


def judge_faces(evidence: Evidence, rules: FacesRules) -> Judgement:
    """No face, or what the mode asks for where there is one."""
    if evidence.faces is None:
        if evidence.fetch_error:
            return judgement(FACES, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        return not_observed(FACES, "no face detector has looked at the picture")
    by = evidence.face_detector or ""
    found = [face.score for face in evidence.faces if not face.score < rules.min_score]  # NaN is a face
    if not found:
        return judgement(FACES, Verdict.ALLOW, "no-face", where=by)
    detail = f"{len(found)} face{'s' if len(found) > 1 else ''}, highest score {max(found):.2f}"
    match rules.mode:
        case "deny":
            return judgement(FACES, Verdict.DENY, "face-found", detail, by)
        case "blur" if evidence.faces_blurred and _blurred_from(evidence) <= rules.min_score:
            return judgement(FACES, Verdict.ALLOW, "face-blur", detail, by)
        case "blur":
            return judgement(FACES, Verdict.DEFER, "face-not-blurred", detail, by)
        case "allow":
            # Consents come with the grants (policy.grants); until one is on record nobody has given theirs.
            return judgement(FACES, Verdict.DEFER, "face-without-consent", detail, by)


_BLUR = re.compile(r"blur-faces/\S+ n=(\d+) from=([\d.e-]+)")


def _blurred_from(evidence: Evidence) -> float:
    """The least score of a face that was blurred, as the transform says: a ruleset of then may have had a higher one.

    0 where no transform says: whoever calls the faces blurred then means all of them.
    """
    said = map(_BLUR.fullmatch, evidence.transforms)
    return max((float(match[2]) for match in said if match is not None), default=0.0)


def changes_of(transforms: Iterable[str]) -> str:
    """In words what was done to a picture beside making it smaller, as a licence asks it to be said; "": nothing.

    A transform that is not known here is said as it stands.
    """
    return "; ".join(_change(transform) for transform in transforms)


def _change(transform: str) -> str:
    blur = _BLUR.fullmatch(transform)
    if blur is None:
        return transform
    return "1 face blurred" if blur[1] == "1" else f"{blur[1]} faces blurred"
