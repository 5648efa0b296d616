"""The rules over what is seen in a picture: quality, safety, and whether its alt text is what is seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import ConfigurationError
from policy.evidence import Evidence, Language, Score
from policy.quality import QualityRules, judge_quality
from policy.ruleset import Ruleset
from policy.safety import SafetyRules, judge_safety
from policy.text import CAPTION_WANTED, judge_text
from policy.verdict import Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULESET = Ruleset.default()
BARE = Evidence(None, "https://a.example/x.jpg", NOW, "test", "1")
NAN = float("nan")
GOOD = {"entropy": 4.0, "sharpness": 1.5, "flatness": 0.9, "screenshot": 0.2}
QUALITY = QualityRules(min_entropy=0.2, min_sharpness=0.25, max_flatness=0.99, max_screenshot=0.6)


def seen(**scores: float) -> Evidence:
    """Evidence with these scores and no other."""
    return replace(BARE, scores=tuple(Score(name.replace("_", "-"), value, "test") for name, value in scores.items()))


@pytest.mark.parametrize(
    ("name", "value", "verdict", "code"),
    [
        ("entropy", 0.2, Verdict.ALLOW, "quality-ok"),
        ("entropy", 0.19, Verdict.DENY, "too-plain"),
        ("entropy", NAN, Verdict.DENY, "too-plain"),
        ("sharpness", 0.25, Verdict.ALLOW, "quality-ok"),
        ("sharpness", 0.24, Verdict.DENY, "too-blurred"),
        ("sharpness", NAN, Verdict.DENY, "too-blurred"),
        ("flatness", 0.99, Verdict.ALLOW, "quality-ok"),
        ("flatness", 0.995, Verdict.DENY, "too-flat"),
        ("flatness", NAN, Verdict.DENY, "too-flat"),
        ("screenshot", 0.6, Verdict.ALLOW, "quality-ok"),
        ("screenshot", 0.61, Verdict.DENY, "screenshot"),
        ("screenshot", NAN, Verdict.DENY, "screenshot"),
    ],
)
def test_each_measure_has_its_bound(name: str, value: float, verdict: Verdict, code: str) -> None:
    """A picture that misses one bound is refused for that, and what is no number is within none."""
    judged = judge_quality(seen(**GOOD | {name: value}), QUALITY)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_measure_that_is_asked_for_and_missing_defers(name: str) -> None:
    """Whatever the others say, one that was not taken is no permission; a bound that asks nothing needs none."""
    without = seen(**{known: value for known, value in GOOD.items() if known != name})
    judged = judge_quality(without, QUALITY)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "not-observed")
    assert name in judged.reason.detail
    bound = ("max_" if name in ("flatness", "screenshot") else "min_") + name
    unasked = replace(QUALITY, **{bound: 1.0 if bound.startswith("max_") else 0.0})
    assert judge_quality(without, unasked).verdict is Verdict.ALLOW


def test_what_could_not_be_fetched_is_called_that() -> None:
    """A picture that was never there is not one that nobody looked at."""
    gone = replace(BARE, fetch_error="timeout")
    assert judge_quality(gone, QUALITY).reason.code == judge_safety(gone, RULESET.safety).reason.code == "fetch-failed"


@pytest.mark.parametrize(
    ("score", "verdict", "code"),
    [
        (0.0, Verdict.ALLOW, "safe"),
        (0.3, Verdict.ALLOW, "safe"),
        (0.301, Verdict.DEFER, "nsfw-unsure"),
        (0.8, Verdict.DEFER, "nsfw-unsure"),
        (0.801, Verdict.DENY, "nsfw"),
        (1.0, Verdict.DENY, "nsfw"),
        (NAN, Verdict.DENY, "nsfw"),
    ],
)
def test_doubt_waits_and_certainty_refuses(score: float, verdict: Verdict, code: str) -> None:
    """Below the lower bound a picture is used, between the two somebody has to look, above it is refused."""
    judged = judge_safety(seen(nsfw=score), SafetyRules(defer_nsfw=0.3, max_nsfw=0.8))
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_no_score_is_no_safety() -> None:
    """A picture that no model has looked at waits."""
    judged = judge_safety(BARE, RULESET.safety)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "not-observed")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_score_is_never_better(low: float, high: float, one: float, other: float) -> None:
    """Of two pictures the one with the higher score is never the one that gets further."""
    rules = SafetyRules(*sorted((one, other)))
    order = (Verdict.ALLOW, Verdict.DEFER, Verdict.DENY)
    low, high = sorted((low, high))
    found = [judge_safety(seen(nsfw=score), rules).verdict for score in (low, high)]
    assert order.index(found[0]) <= order.index(found[1])  # type: ignore[arg-type]  # neither is unset


# ── alt texts ──────────────────────────────────────────────────────────────────────────────────────────────────────

TEXT = replace(RULESET.text, languages=("en", "de"), min_agreement=0.2, max_flip_drop=0.1)
ENGLISH = Language("en", 0.9)


def texted(alt: str, language: Language | None = ENGLISH, **scores: float) -> Evidence:
    agreeing = {"clip_agreement": 0.3, "clip_agreement_flipped": 0.29}
    return replace(seen(**agreeing | scores), alt=alt, text_origin="alt", text_language=language)


@pytest.mark.parametrize(
    ("evidence", "verdict", "code"),
    [
        (texted("A red apple on a table"), Verdict.ALLOW, "alt-text"),
        (texted("IMG_2034.jpg"), Verdict.DEFER, "text-file-name"),
        (texted("https://a.example/apple"), Verdict.DEFER, "text-file-name"),
        (texted("Click here to enlarge"), Verdict.DEFER, "text-boilerplate"),
        (texted("apple, red, fruit, fresh, garden, healthy"), Verdict.DEFER, "text-keywords"),
        (texted("x" * 1_001), Verdict.DEFER, "text-too-long"),
        (texted("Ein roter Apfel", Language("de", 0.99)), Verdict.ALLOW, "alt-text"),
        (texted("Une pomme rouge", Language("fr", 0.8)), Verdict.DEFER, "text-language"),
        (texted("Une pomme rouge", Language("fr", 0.79)), Verdict.ALLOW, "alt-text"),
        (texted("Une pomme rouge", Language("fr", NAN)), Verdict.DEFER, "text-language"),
        (texted("Красное яблоко", Language("en", 0.99)), Verdict.DEFER, "text-language"),
        (texted("Красное яблоко", None), Verdict.DEFER, "text-language"),
        (texted("A red apple", None), Verdict.DEFER, "not-observed"),
        (texted("A red apple", clip_agreement=0.19), Verdict.DEFER, "text-disagrees"),
        (texted("A red apple", clip_agreement=NAN), Verdict.DEFER, "text-disagrees"),
        (texted("A red apple", clip_agreement=0.3, clip_agreement_flipped=0.19), Verdict.DEFER, "text-read-off"),
        (texted("A red apple", clip_agreement=0.3, clip_agreement_flipped=0.21), Verdict.ALLOW, "alt-text"),
        (texted("A red apple", clip_agreement=0.3, clip_agreement_flipped=0.5), Verdict.ALLOW, "alt-text"),
        (texted("A red apple", clip_agreement_flipped=NAN), Verdict.DEFER, "text-read-off"),
        (replace(texted("A red apple"), scores=()), Verdict.DEFER, "not-observed"),
        (replace(texted("A red apple"), scores=(Score("clip-agreement", 0.3, "c"),)), Verdict.DEFER, "not-observed"),
        (replace(texted("Call 030 1234567 or write to jane@example.org")), Verdict.DENY, "text-contact-data"),
    ],
)
def test_an_alt_text_is_judged_by_what_it_says(evidence: Evidence, verdict: Verdict, code: str) -> None:
    """Each fault has its own reason; what cannot be told of a short text is no fault, what was not asked is."""
    judged = judge_text(evidence, TEXT)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_a_bound_that_asks_nothing_needs_no_score() -> None:
    """The strict ruleset asks neither for a language nor for CLIP, so that a text passes without either."""
    assert judge_text(replace(BARE, alt="Une pomme rouge"), RULESET.text).verdict is Verdict.ALLOW
    lax = replace(RULESET.text, boilerplate="ignore", keywords="ignore")
    for alt in ("Click here to enlarge", "apple, red, fruit, fresh, garden, healthy"):
        assert judge_text(replace(BARE, alt=alt), lax).verdict is Verdict.ALLOW


WANTING = (
    texted("IMG_2034.jpg"),
    texted("Click here to enlarge"),
    texted("apple, red, fruit, fresh, garden, healthy"),
    texted("x" * 1_001),
    texted("Une pomme rouge", Language("fr", 0.9)),
    texted("A red apple", clip_agreement=0.1),
    texted("A red apple", clip_agreement_flipped=0.1),
    replace(BARE, alt=None),
    replace(texted("logo"), caption_score=0.1),
)


@pytest.mark.parametrize("evidence", WANTING)
def test_a_caption_takes_the_place_of_a_text_that_is_none(evidence: Evidence) -> None:
    """What a caption may put right waits for one; once there, it is judged instead, and the text stays beside it."""
    assert judge_text(evidence, TEXT).reason.code in CAPTION_WANTED
    captioned = replace(evidence, caption="a red apple", caption_score=0.31)
    judged = judge_text(captioned, TEXT)
    assert (judged.verdict, judged.reason.code) == (Verdict.ALLOW, "caption")
    assert captioned.alt == evidence.alt


def test_a_text_that_only_a_person_may_settle_waits_for_no_caption() -> None:
    """A name in a text is somebody's: no caption makes the picture another one."""
    named = judge_text(texted("Jane Doe at her desk"), TEXT)
    assert named.reason.code == "text-person-name"
    assert not {"text-person-name", "text-contact-data", "not-observed"}.intersection(CAPTION_WANTED)


@pytest.mark.parametrize(
    ("line", "wrong", "said"),
    [
        ("min_entropy = 0.2", "min_entropy = 9.0", r"min_entropy must lie in \[0, 8\]"),
        ("min_sharpness = 0.25", "min_sharpness = -1.0", r"min_sharpness must lie in \[0, 8\]"),
        ("max_screenshot = 0.6", "max_screenshot = 2", r"max_screenshot must lie in \[0, 1\]"),
        ("max_flatness = 1.0", "max_flatness = nan", r"max_flatness must lie in \[0, 1\]"),
        ("defer_nsfw = 0.3", "defer_nsfw = 0.9", "defer_nsfw be at most max_nsfw"),
        ("languages = []", 'languages = ["english"]', "'english' is no ISO 639 code"),
        ("language_certainty = 0.8", "language_certainty = 0.3", r"language_certainty must lie in \[0.5, 1\]"),
        ("min_agreement = 0.0", "min_agreement = 1.5", r"min_agreement must lie in \[0, 1\]"),
        ("max_flip_drop = 0.0", "max_flip_drop = 3.0", r"max_flip_drop must lie in \[0, 2\]"),
        ('keywords = "defer"', 'keywords = "deny"', "'text.keywords' must be 'defer' or 'ignore'"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(line: str, wrong: str, said: str) -> None:
    """A ruleset that asks for what cannot be says which key, and does not start."""
    text = Ruleset.default_text()
    assert text.count(f"\n{line}\n") == 1
    with pytest.raises(ConfigurationError, match=said):
        Ruleset.parse(text.replace(f"\n{line}\n", f"\n{wrong}\n"))
