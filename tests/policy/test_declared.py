"""A mechanism that is named but not read yet: a declaration keeps out, an observed absence does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.ruleset import BUILT, KNOWN, Ruleset, judge
from policy.verdict import Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULESET = Ruleset.default()
ORIGIN = "https://a.example"
DOCUMENTS = ("robots", "tdmrep", "ai_txt", "trust_txt", "rsl")


def document(name: str, status: int | None = 404, body: bytes = b"") -> tuple[str, Document]:
    return name, Document(f"{ORIGIN}/{name}", status, NOW, body=body, body_sha256=Document.digest(body))


def with_documents(**bodies: tuple[int | None, bytes]) -> Evidence:
    found = tuple(document(name, *bodies.get(name, (404, b""))) for name in DOCUMENTS)
    return replace(SILENT, origins=(OriginEvidence(ORIGIN, found),))


SILENT = Evidence(
    page_url=f"{ORIGIN}/",
    image_url=f"{ORIGIN}/x.jpg",
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(OriginEvidence(ORIGIN, tuple(document(name) for name in DOCUMENTS)),),
    page_headers=(),
    page_meta=(),
    hops=(Hop(f"{ORIGIN}/x.jpg", 200, ()),),
)
SEEN = ("ai_agents", "content_usage", "content_signal", "tdmrep", "ai_txt", "trust_txt")


@pytest.mark.parametrize("mechanism", SEEN)
def test_an_observed_absence_says_nothing(mechanism: str) -> None:
    """Where the site was asked and declares nothing, the mechanism is unset."""
    judged = judge(RULESET, mechanism, SILENT, NOW)
    assert (judged.mechanism, judged.verdict) == (mechanism, None)


@pytest.mark.parametrize("mechanism", sorted(KNOWN - BUILT - set(SEEN)))
def test_what_lies_in_bytes_nobody_looked_at_keeps_out(mechanism: str) -> None:
    """Embedded rights, registries and the like have not been looked for at all."""
    judged = judge(RULESET, mechanism, SILENT, NOW)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "mechanism-not-built")


@pytest.mark.parametrize(
    ("mechanism", "evidence"),
    [
        ("tdmrep", with_documents(tdmrep=(200, b"[]"))),
        ("tdmrep", replace(SILENT, hops=(Hop(f"{ORIGIN}/x.jpg", 200, (("TDM-Reservation", "1"),)),))),
        ("tdmrep", replace(SILENT, page_headers=(("tdm-reservation", "0"),))),
        ("tdmrep", replace(SILENT, page_meta=(("tdm-reservation", "1"),))),
        ("ai_txt", with_documents(ai_txt=(200, b"User-agent: *\nDisallow: *.jpg\n"))),
        ("trust_txt", with_documents(trust_txt=(200, b"datatrainingallowed=no\n"))),
        ("content_usage", with_documents(robots=(200, b"User-agent: *\nContent-Usage: train-ai=y\n"))),
        ("content_usage", replace(SILENT, hops=(Hop(f"{ORIGIN}/x.jpg", 200, (("Content-Usage", "train-ai=n"),)),))),
        ("content_signal", with_documents(robots=(200, b"User-agent: x\nContent-Signal: ai-train=no\n"))),
        ("ai_agents", with_documents(robots=(200, b"User-agent: GPTBot\nDisallow: /\n"))),
    ],
)
def test_a_declaration_that_cannot_be_read_keeps_out(mechanism: str, evidence: Evidence) -> None:
    """Whatever is declared, yes or no, the sample waits for the build that can read it."""
    judged = judge(RULESET, mechanism, evidence, NOW)
    assert (judged.mechanism, judged.verdict) == (mechanism, Verdict.DEFER)
    assert judged.reason.code == "mechanism-not-built"
    assert judged.where


@pytest.mark.parametrize(
    ("mechanism", "evidence", "verdict", "code"),
    [
        ("tdmrep", with_documents(tdmrep=(200, b"<!doctype html>")), None, "tdmrep-absent"),
        ("tdmrep", with_documents(tdmrep=(403, b"")), Verdict.DENY, "tdmrep-forbidden"),
        ("tdmrep", with_documents(tdmrep=(503, b"")), Verdict.DEFER, "tdmrep-unreachable"),
        ("trust_txt", with_documents(trust_txt=(None, b"")), Verdict.DEFER, "trust-txt-unreachable"),
        ("content_usage", with_documents(robots=(503, b"")), Verdict.DEFER, "robots-unreachable"),
        ("content_usage", with_documents(robots=(200, b"Content\xff-Usage: x")), Verdict.DEFER, "robots-bad-encoding"),
        ("tdmrep", replace(SILENT, origins=()), Verdict.DEFER, "not-observed"),
        ("tdmrep", replace(SILENT, hops=None), Verdict.DEFER, "not-observed"),
        ("tdmrep", replace(SILENT, page_meta=None), Verdict.DEFER, "not-observed"),
        ("content_usage", replace(SILENT, origins=()), Verdict.DEFER, "not-observed"),
        ("content_usage", replace(SILENT, page_headers=None), Verdict.DEFER, "not-observed"),
    ],
)
def test_absence_must_have_been_observed(
    mechanism: str, evidence: Evidence, verdict: Verdict | None, code: str
) -> None:
    """A document's status, and what was not asked at all, are read as they are for robots.txt."""
    judged = judge(RULESET, mechanism, evidence, NOW)
    assert (judged.mechanism, judged.verdict, judged.reason.code) == (mechanism, verdict, code)


def test_an_old_absence_must_be_observed_again() -> None:
    """That nothing was declared once says nothing of today."""
    judged = judge(RULESET, "tdmrep", SILENT, NOW + timedelta(days=31))
    assert judged.reason.code == "evidence-stale"
