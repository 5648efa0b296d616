"""Evidence of one pair: all that was seen, and None for what was not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from curation.fetch import Fetched, Request
from curation.images import DecodeError, Shaped
from curation.observe import NOWHERE, observe, observe_again, origins_of, quarantined
from curation.pair import ImageTextPair
from policy.evidence import Document, Evidence, Face, Hop, LicenceClaim, OriginEvidence, Score, Shared

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CLAIM = LicenceClaim("https://creativecommons.org/licenses/by/4.0/", "rel-license", "page")
PAIR = ImageTextPair("https://page.org/p", "https://img.org/i.png", "red apple", "alt", "red apple", (CLAIM,))
SHAPED = Shaped("ab" * 32, "image/png", 640, 480, "cd" * 32, 100, b"jpeg", (Face(1, 2, 3, 4, 0.9),), "detector-1")


def fetched(url: str, *hops: Hop, outcome: str = "ok", refused_url: str | None = None) -> Fetched:
    status = hops[-1].status if hops else None
    return Fetched(Request(url, "image"), outcome, status, hops, b"", url, refused_url=refused_url)


PAGE = fetched(
    "https://page.org/old",
    Hop("https://page.org/old", 301, (("X-Robots-Tag", "noimageai"),)),
    Hop("https://page.org/p", 200, (("Content-Type", "text/html"),)),
)
IMAGE = fetched(
    PAIR.image_url,
    Hop("https://img.org/i.png", 302, (("Location", "https://cdn.org/i.png"),)),
    Hop("https://cdn.org/i.png", 200, (("Content-Type", "image/png"),)),
)


def origin(name: str) -> OriginEvidence:
    return OriginEvidence(name, (("robots", Document(f"{name}/robots.txt", 404, NOW)),))


ORIGINS = {name: origin(name) for name in ("https://cdn.org", "https://img.org", "https://page.org", "https://no.org")}


def observed(**changed: object) -> Evidence:
    given: dict[str, object] = {
        "page": PAGE,
        "page_meta": (("robots", "noai"),),
        "image": IMAGE,
        "origins": ORIGINS,
        "facts": SHAPED,
        "tombstoned": "",
        "now": NOW,
    }
    return observe(PAIR, **(given | changed))  # type: ignore[arg-type]


def test_evidence_holds_everything_that_was_seen() -> None:
    """Both origins and the redirect's, headers of all hops, claims, metas, text and measurements."""
    evidence = observed()
    assert [o.origin for o in evidence.origins] == ["https://page.org", "https://img.org", "https://cdn.org"]
    assert evidence.page_headers == (("X-Robots-Tag", "noimageai"), ("Content-Type", "text/html"))
    assert evidence.page_meta == (("robots", "noai"),)
    assert evidence.hops == IMAGE.hops
    assert evidence.licence_claims == (CLAIM,)
    assert (evidence.width, evidence.height, evidence.content_sha256) == (640, 480, "ab" * 32)
    assert (evidence.faces, evidence.face_detector) == ((Face(1, 2, 3, 4, 0.9),), "detector-1")
    assert (evidence.alt, evidence.text_origin, evidence.tombstoned) == ("red apple", "alt", "")
    assert evidence.fetch_error is None
    assert Evidence.from_json(evidence.to_json(), Shared.of(evidence)) == evidence


def test_what_was_not_observed_is_none() -> None:
    """Without page, image and measurements nothing is claimed to have been seen."""
    evidence = observed(page=None, page_meta=None, image=None, facts=None, tombstoned=None, origins={})
    assert evidence.origins == ()
    for name in ("page_headers", "page_meta", "hops", "content_sha256", "width", "faces", "tombstoned", "fetch_error"):
        assert getattr(evidence, name) is None, name


@pytest.mark.parametrize(
    ("image", "facts", "error"),
    [
        (fetched(PAIR.image_url, outcome="timeout"), None, "timeout"),
        (fetched(PAIR.image_url, outcome="refused-by-policy"), None, "refused-by-policy"),
        (IMAGE, DecodeError("truncated"), "decode-truncated"),
    ],
)
def test_an_image_that_cannot_be_had_says_why(image: Fetched, facts: DecodeError | None, error: str) -> None:
    """A failed fetch or decode is named, and leaves no measurement and no empty list of hops."""
    evidence = observed(image=image, facts=facts)
    assert evidence.fetch_error == error
    assert evidence.hops == (image.hops or None)
    assert evidence.faces is None
    assert evidence.content_sha256 is None


def test_hops_of_a_failed_fetch_are_evidence_too() -> None:
    """Where a redirect was refused, its origin and the hops before it are kept."""
    image = replace(IMAGE, outcome="refused-by-policy", hops=IMAGE.hops[:1], refused_url="https://no.org/i.png")
    evidence = observed(image=image, facts=None)
    assert evidence.hops == IMAGE.hops[:1]
    assert [o.origin for o in evidence.origins] == ["https://page.org", "https://img.org", "https://no.org"]


def test_a_pair_without_a_page_has_one_origin() -> None:
    """From a list of URLs only the image's origin has a say."""
    assert origins_of(replace(PAIR, page_url=None)) == ("https://img.org",)
    assert origins_of(PAIR, PAGE, IMAGE) == ("https://page.org", "https://img.org", "https://cdn.org")


BLUR = ("blur-faces/1 n=1 from=0.7",)


@pytest.mark.parametrize(
    ("facts", "stays"),
    [
        (SHAPED, True),
        (replace(SHAPED, faces_blurred=True, transforms=BLUR), False),
        (replace(SHAPED, content_sha256="ef" * 32), False),
        (DecodeError("truncated"), False),
    ],
    ids=["the same", "kept in another way", "other bytes", "no picture"],
)
def test_what_models_said_stays_with_the_pixels_that_they_saw(facts: Shaped | DecodeError, stays: bool) -> None:
    """A picture that is asked again keeps its caption and scores only where what is kept of it is the same."""
    scores = (Score("nsfw", 0.1, "a model"),)
    known = replace(observed(), caption="a red apple", caption_score=0.9, scores=scores)
    again = observe_again(known, image=IMAGE, facts=facts, origins=ORIGINS, now=NOW)
    assert (again.caption, again.caption_score, again.scores) == (
        ("a red apple", 0.9, scores) if stays else (None, None, ())
    )
    assert again.alt == "red apple"


def test_of_what_is_quarantined_hashes_and_times_stay() -> None:
    """No address, header, text, measure or claim; what is left is whole evidence that can be stored and judged."""
    left = quarantined(replace(observed(), content_md5="01" * 16, scores=(Score("nsfw", 0.9, "a model"),)))
    assert left == Evidence(
        page_url=None,
        image_url=NOWHERE,
        observed_at=NOW,
        observer="custody-quarantine/1",
        observer_version="0.1",
        content_sha256="ab" * 32,
        content_md5="01" * 16,
        pdq="cd" * 32,
        tombstoned="",
    )
    assert Evidence.from_json(left.to_json(), Shared.of(left)) == left
    assert all(word not in left.to_json() for word in ("page.org", "img.org", "apple", "noai"))
