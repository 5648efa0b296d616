"""Evidence survives its journey through the ledger: what was observed, what was absent, and what was not asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Face, Hop, LicenceClaim, OriginEvidence, Shared

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BODY = b"User-agent: *\nDisallow: /private\n"
FULL = Evidence(
    page_url="https://a.example/",
    image_url="https://b.example/x.jpg",
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(
        OriginEvidence(
            "https://a.example",
            (
                (
                    "robots",
                    Document(
                        "https://a.example/robots.txt",
                        200,
                        NOW,
                        headers=(("Content-Type", "text/plain"),),
                        body=BODY,
                        body_sha256=Document.digest(BODY),
                    ),
                ),
                ("tdmrep", Document("https://a.example/.well-known/tdmrep.json", None, NOW, error="timeout")),
            ),
        ),
    ),
    page_headers=(("X-Robots-Tag", "noai"),),
    page_meta=(("robots", "noai"),),
    hops=(Hop("https://b.example/x.jpg", 200, ()),),
    licence_claims=(LicenceClaim("https://creativecommons.org/licenses/by/4.0/", "rel-license", "page"),),
    content_sha256="0" * 64,
    width=640,
    height=480,
    faces=(Face(1, 2, 3, 4, 0.5),),
    face_detector="mtcnn",
    faces_blurred=False,
    alt="rotes Äpfelchen",
    text_origin="alt",
    tombstoned="",
)


def test_evidence_comes_back_as_it_was() -> None:
    """Written and read with its bodies, evidence equals itself, and keeps its id."""
    back = Evidence.from_json(FULL.to_json(), Shared.of(FULL))
    assert back == FULL
    assert back.evidence_id == FULL.evidence_id


def test_bodies_travel_by_digest_only() -> None:
    """The JSON holds no document body; without the stored bodies it comes back as missing, not as empty."""
    assert "Disallow" not in FULL.to_json()
    parts = {name: text for name, (_, text) in FULL.parts().items()}
    robots = Evidence.from_json(FULL.to_json(), Shared(parts)).origins[0].get("robots")
    assert robots is not None
    assert robots.body is None
    assert robots.body_sha256 == Document.digest(BODY)


def test_absence_is_not_silence() -> None:
    """An observed absence (no faces, no claims, no headers) and something not observed stay different."""
    seen = replace(FULL, faces=(), licence_claims=(), page_headers=(), hops=(), page_meta=())
    unseen = replace(FULL, faces=None, licence_claims=None, page_headers=None, hops=None, page_meta=None)
    assert Evidence.from_json(seen.to_json(), Shared.of(seen)) == seen
    assert Evidence.from_json(unseen.to_json(), Shared.of(unseen)) == unseen
    assert seen.evidence_id != unseen.evidence_id


@given(st.text(st.characters()))
def test_any_text_of_the_web_can_be_stored(text: str) -> None:
    """Lone surrogates and other oddities in a text neither fail nor change the id on the way back."""
    evidence = replace(FULL, alt=text)
    back = Evidence.from_json(evidence.to_json(), Shared.of(evidence))
    assert back.evidence_id == evidence.evidence_id
