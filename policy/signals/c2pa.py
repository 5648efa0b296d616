"""C2PA / CAWG: training-mining assertions of the manifest store and its ingredients, read offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policy.evidence import C2pa, Evidence
from policy.judgements import judgement, not_observed
from policy.verdict import Judgement, Verdict

MECHANISM = "c2pa"


@dataclass(frozen=True, slots=True)
class C2paRules:
    """`damaged`: what a manifest store means that is there and cannot be read, or is declared to be elsewhere."""

    damaged: Literal["deny", "defer"]


def check_trust_anchors(text: str) -> None:
    """Raise ValueError for what is no list of certificates in PEM: nobody would be trusted, in silence."""
    from cryptography import x509  # here: only who trusts somebody needs it

    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise ValueError("holds no certificate in PEM") from error


def read_c2pa(body: bytes, trust_anchors: str | None = None) -> C2pa:
    """The training-mining entries of an image's manifest store; never raises for what the bytes hold, asks nobody.

    `trust_anchors`: certificates in PEM of those whose signature is trusted.
    """
    return C2pa("unreadable", errors=("not read yet",))


def judge_c2pa(evidence: Evidence, rules: C2paRules) -> Judgement:
    """Not read yet."""
    if evidence.c2pa is None:
        return not_observed(MECHANISM, "the image's manifest store")
    return judgement(MECHANISM, Verdict.DEFER, "mechanism-not-built", "not looked for")
