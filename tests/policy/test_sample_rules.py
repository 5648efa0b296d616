"""The rules over the picture itself and its text: faces, size, descriptions, captions, tombstones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import pytest

from policy.evidence import Evidence, Face
from policy.people import FacesRules, changes_of, judge_faces
from policy.quality import judge_size
from policy.ruleset import Ruleset, judge
from policy.text import is_description, judge_text
from policy.verdict import Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULESET = Ruleset.default()
BARE = Evidence(None, "https://a.example/x.jpg", NOW, "test", "1")
FACE = Face(10, 10, 50, 50, 0.98)


@pytest.mark.parametrize(
    ("mode", "faces", "blurred", "verdict", "code"),
    [
        ("deny", None, None, Verdict.DEFER, "not-observed"),
        ("deny", (), None, Verdict.ALLOW, "no-face"),
        ("deny", (FACE,), None, Verdict.DENY, "face-found"),
        ("deny", (FACE,), True, Verdict.DENY, "face-found"),
        ("deny", (replace(FACE, score=0.1),), None, Verdict.ALLOW, "no-face"),
        ("deny", (replace(FACE, score=0.5),), None, Verdict.DENY, "face-found"),
        ("deny", (replace(FACE, score=float("nan")),), None, Verdict.DENY, "face-found"),
        ("blur", (), None, Verdict.ALLOW, "no-face"),
        ("blur", (FACE,), None, Verdict.DEFER, "face-not-blurred"),
        ("blur", (FACE,), False, Verdict.DEFER, "face-not-blurred"),
        ("blur", (FACE,), True, Verdict.ALLOW, "face-blur"),
        ("blur", None, True, Verdict.DEFER, "not-observed"),
        ("allow", (), None, Verdict.ALLOW, "no-face"),
        ("allow", (FACE,), None, Verdict.DEFER, "face-without-consent"),
        ("allow", None, None, Verdict.DEFER, "not-observed"),
    ],
)
def test_faces(
    mode: Literal["deny", "blur", "allow"],
    faces: tuple[Face, ...] | None,
    blurred: bool | None,
    verdict: Verdict,
    code: str,
) -> None:
    """No picture with a face passes without what the mode asks for, nor one that no detector has seen."""
    judged = judge_faces(replace(BARE, faces=faces, faces_blurred=blurred), FacesRules(mode, 0.5))
    assert (judged.verdict, judged.reason.code) == (verdict, code)


@pytest.mark.parametrize(
    ("transforms", "verdict"),
    [
        (("blur-faces/1 n=1 from=0.5",), Verdict.ALLOW),
        (("blur-faces/1 n=1 from=0.3",), Verdict.ALLOW),
        (("blur-faces/1 n=1 from=0.65",), Verdict.DEFER),
        (("crop/1", "blur-faces/1 n=1 from=0.65"), Verdict.DEFER),
        (("crop/1",), Verdict.ALLOW),
    ],
)
def test_a_blur_of_surer_faces_only_is_not_enough(transforms: tuple[str, ...], verdict: Verdict) -> None:
    """A ruleset with a lower least score than that of the crawl does not take unblurred faces for blurred ones."""
    evidence = replace(BARE, faces=(FACE, replace(FACE, score=0.55)), faces_blurred=True, transforms=transforms)
    assert judge_faces(evidence, FacesRules("blur", 0.5)).verdict is verdict


@pytest.mark.parametrize(
    ("width", "height", "verdict", "code"),
    [
        (64, 64, Verdict.ALLOW, "size-ok"),
        (63, 640, Verdict.DENY, "too-small"),
        (640, 480, Verdict.ALLOW, "size-ok"),
        (400, 100, Verdict.ALLOW, "size-ok"),
        (401, 100, Verdict.DENY, "too-narrow"),
        (100, 401, Verdict.DENY, "too-narrow"),
        (20_001, 10_000, Verdict.DENY, "too-large"),
        (15_000, 15_000, Verdict.DENY, "too-large"),
        (0, 0, Verdict.DENY, "too-small"),
        (None, 640, Verdict.DEFER, "not-observed"),
        (640, None, Verdict.DEFER, "not-observed"),
    ],
)
def test_size(width: int | None, height: int | None, verdict: Verdict, code: str) -> None:
    """Sides, pixels and shape are bounded, and an undecoded picture keeps out."""
    judged = judge_size(replace(BARE, width=width, height=height), RULESET.size)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_a_picture_that_could_not_be_fetched_says_why() -> None:
    """What could not be looked at is deferred with the fetcher's own code."""
    gone = replace(BARE, fetch_error="http-404")
    for judged in (judge_size(gone, RULESET.size), judge_faces(gone, RULESET.faces)):
        assert (judged.verdict, judged.reason.code, judged.reason.detail) == (Verdict.DEFER, "fetch-failed", "http-404")


@pytest.mark.parametrize(
    "text",
    [
        "red apple",
        "banana",
        "Ein roter Apfel auf einem Tisch",
        "Красное яблоко",
        "猫",
        "りんご",
        "Photo of a red apple",
        "Image: two cats",
        "Figure 3: a cat",
        "portrait of Figaro, the cat",
        "Airbus A380 landing",
        "keycap: 1",
        "ox",
    ],
)
def test_a_description_is_kept(text: str) -> None:
    """A text that names what is seen counts, short or long, in any script."""
    rules = replace(RULESET.text, min_letters=2)
    assert is_description(text, rules)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "   ",
        "\u00a0",
        "-",
        "1",
        "12 / 30",
        "ab",
        "image",
        "Image",
        "IMAGE 12",
        "image of",
        "photo",
        "Photo 3 of 10",
        "logo",
        "the logo",
        "Bild",
        "图片",
        "画像",
        "alt text",
        "placeholder image",
        "DSC_0001",
        "IMG_20200101_123456",
        "IMG-1234.JPG",
        "photo.png",
        "my holiday picture.jpeg",
        "apple.webp?width=300",
        "https://a.example/apple",
        "www.a.example/apple",
        "/uploads/apple",
        "data:image/png;base64,AAAA",
        "hero_banner_v2_final",
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "\uff49\uff4d\uff41\uff47\uff45",
    ],
)
def test_what_is_no_description_counts_as_missing(text: str | None) -> None:
    """File names, addresses, numbers and words that name no content are no alt text."""
    assert not is_description(text, RULESET.text)


@pytest.mark.parametrize(
    ("evidence", "verdict", "code"),
    [
        (replace(BARE, alt="red apple", text_origin="alt"), Verdict.ALLOW, "alt-text"),
        (replace(BARE, alt="logo"), Verdict.DEFER, "caption-missing"),
        (BARE, Verdict.DEFER, "caption-missing"),
        (replace(BARE, alt="apple " * 400), Verdict.DEFER, "text-too-long"),
        (replace(BARE, caption="red apple", caption_score=0.3), Verdict.ALLOW, "caption"),
        (replace(BARE, caption="red apple", caption_score=0.1), Verdict.DEFER, "caption-uncertain"),
        (replace(BARE, caption="red apple", caption_score=float("nan")), Verdict.DEFER, "caption-uncertain"),
        (replace(BARE, caption="red apple"), Verdict.DEFER, "caption-uncertain"),
        (replace(BARE, caption=" ", caption_score=0.9), Verdict.DEFER, "caption-missing"),
        (replace(BARE, alt="red apple", caption="x" * 2000, caption_score=0.9), Verdict.DEFER, "text-too-long"),
    ],
)
def test_a_sample_needs_a_text_that_describes(evidence: Evidence, verdict: Verdict, code: str) -> None:
    """Alt text that describes, or a caption that is sure enough; else the sample waits for one."""
    judged = judge_text(evidence, replace(RULESET.text, min_caption_score=0.2))
    assert (judged.verdict, judged.reason.code) == (verdict, code)


@pytest.mark.parametrize(
    ("tombstoned", "verdict", "code"),
    [
        (None, Verdict.DEFER, "not-observed"),
        ("", None, "not-tombstoned"),
        ("R-0001", Verdict.DENY, "tombstoned"),
    ],
)
def test_a_tombstone_denies(tombstoned: str | None, verdict: Verdict | None, code: str) -> None:
    """What an approved removal covers is denied, and not having asked is no answer."""
    judged = judge(RULESET, "tombstone", replace(BARE, tombstoned=tombstoned), NOW)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_what_was_changed_is_said_in_words() -> None:
    """As a licence that asks for changes to be indicated wants it; what is not known here is said as it stands."""
    assert changes_of(()) == ""
    assert changes_of(("blur-faces/1 n=1 from=0.7",)) == "1 face blurred"
    assert changes_of(("blur-faces/1 n=12 from=0.35", "turn/2")) == "12 faces blurred; turn/2"
