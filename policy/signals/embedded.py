"""Rights fields in the image's own bytes: XMP (IPTC/PLUS Data Mining, tdm:, cc:, xmpRights:), EXIF and IPTC IIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policy.evidence import Embedded, Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

MECHANISM = "xmp"


@dataclass(frozen=True, slots=True)
class XmpRules:
    """`damaged`: what metadata means that is there and cannot be read."""

    damaged: Literal["deny", "defer"]


def read_embedded(body: bytes) -> Embedded:
    """What an image's original bytes say of rights; never raises for what the bytes hold."""
    return Embedded("", errors=("not read yet",))


def judge_xmp(evidence: Evidence, rules: XmpRules) -> Judgement:
    """Not read yet."""
    if evidence.embedded is None:
        return not_observed(MECHANISM, "the image's own metadata")
    return judgement(MECHANISM, Verdict.DEFER, "mechanism-not-built", "not looked for")
