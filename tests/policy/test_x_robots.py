"""X-Robots-Tag and the robots meta: every place counts, every agent prefix scopes, every odd value fails closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.evidence import Evidence, Headers, Hop
from policy.ruleset import Ruleset
from policy.signals.x_robots import judge_x_robots
from policy.verdict import Stance, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default().x_robots
IMAGE = "https://b.example/x.jpg"
SILENT = Evidence(
    page_url="https://a.example/",
    image_url=IMAGE,
    observed_at=NOW,
    observer="test",
    observer_version="1",
    page_headers=(),
    page_meta=(),
    hops=(Hop(IMAGE, 200, ()),),
)


def header(*values: str) -> Headers:
    return tuple(("X-Robots-Tag", value) for value in values)


def with_header(*values: str) -> Evidence:
    return replace(SILENT, hops=(Hop(IMAGE, 200, header(*values)),))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("noai", "x-robots-noai"),
        ("NoAI", "x-robots-noai"),
        ("noimageai", "x-robots-noimageai"),
        ("noml", "x-robots-noml"),
        ("all, noai", "x-robots-noai"),
        ("none", "x-robots-none"),
        ("noindex", "x-robots-noindex"),
        ("noimageindex", "x-robots-noimageindex"),
        # agents
        ("custody: noai", "x-robots-noai"),
        ("CUSTODY: noai", "x-robots-noai"),
        ("*: noai", "x-robots-noai"),
        ("otherbot: nofollow, custody: noai", "x-robots-noai"),
        ("custody: nofollow, noai", "x-robots-noai"),
        ("noai, otherbot: all", "x-robots-noai"),
        # directives with a value hold colons and commas, and are no agent
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", "x-robots-noai"),
        ("unavailable_after: Monday, 15-Aug-05 15:52:01 UTC, noai", "x-robots-noai"),
        ("unavailable_after: 2030-01-01T00:00:00Z, noai", "x-robots-noai"),
        ("max-snippet: 5, noai", "x-robots-noai"),
        ("max-image-preview:large, noimageai", "x-robots-noimageai"),
        ("max-something-new: 5, noai", "x-robots-noai"),
        # other ways to write a list
        ("noindex;noai", "x-robots-noindex"),
        ("noarchive noai", "x-robots-noai"),
        ('"noai"', "x-robots-noai"),
        ("noai: true", "x-robots-noai"),
    ],
)
def test_a_no_is_heard_however_it_is_written(value: str, code: str) -> None:
    """Case, agent prefixes, directives with values and loose lists do not hide a no to us."""
    judged = judge_x_robots(with_header(value), RULES, NOW)
    assert (judged.verdict, judged.reason.code) == (Verdict.DENY, code)
    assert judged.reason.detail == value
    assert judged.where == f"X-Robots-Tag, hop 1, {IMAGE}"


@pytest.mark.parametrize(
    "value",
    [
        "all",
        "nofollow, noarchive",
        "max-snippet: 5",
        "unavailable_after: 25 Jun 2030 15:00:00 PST",
        "otherbot: noai",
        "otherbot: nofollow, noai",
        "otherbot: unavailable_after: 25 Jun 2030 15:00:00 PST, noai",
        "nothing-known",
        "",
    ],
)
def test_what_is_not_addressed_to_us_says_nothing(value: str) -> None:
    """Other agents' directives and harmless ones leave the mechanism unset, and are still recorded."""
    judged = judge_x_robots(with_header(value), RULES, NOW)
    assert judged.verdict is None
    assert [(s.stance, s.value) for s in judged.signals] == [(Stance.UNSET, value)]


@pytest.mark.parametrize("word", ["noai", "noimageai", "noml"])
@pytest.mark.parametrize("index_family", ["deny", "ignore"])
def test_the_training_words_always_count(word: str, index_family: str) -> None:
    """noai, noimageai and noml are a no, whatever the ruleset makes of the index family."""
    rules = replace(RULES, index_family=index_family)
    assert judge_x_robots(with_header(word), rules, NOW).verdict is Verdict.DENY


@pytest.mark.parametrize(("name", "value"), [("X-ROBOTS-TAG", "NOAI"), ("x-robots-tag", "NoImageAI")])
def test_names_and_values_are_case_insensitive(name: str, value: str) -> None:
    """Neither the header's name nor its words have a case."""
    assert judge_x_robots(replace(SILENT, page_headers=((name, value),)), RULES, NOW).verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("otherbot: nofollow, noai", None),
        ("otherbot: noai, custody: nofollow", None),
        ("otherbot: noai, custody: nofollow, noai", Verdict.DENY),
        ("otherbot: noai, *: noai", Verdict.DENY),
        ("noai, otherbot: all", Verdict.DENY),
        ("custody: all, otherbot: noai", None),
    ],
)
def test_an_agent_prefix_scopes_what_follows_until_the_next(value: str, verdict: Verdict | None) -> None:
    """What stands behind another agent's name is addressed to it, up to the next name."""
    assert judge_x_robots(with_header(value), RULES, NOW).verdict is verdict


@pytest.mark.parametrize(
    "directive",
    [
        "unavailable_after: 25 Jun 2030 15:00:00 PST",
        "unavailable_after: Monday, 15-Aug-05 15:52:01 UTC",
        "unavailable_after:2030-01-01T00:00:00+01:00",
        "max-snippet: 5",
        "max-snippet:-1",
        "max-image-preview: large",
        "max-video-preview: 0",
    ],
)
def test_valued_directives_hold_a_colon_and_are_no_agent_prefix(directive: str) -> None:
    """A directive with a value takes nothing that follows it away from us, nor from the agent it stands behind."""
    assert judge_x_robots(with_header(f"{directive}, noai"), RULES, NOW).verdict is Verdict.DENY
    assert judge_x_robots(with_header(f"otherbot: {directive}, noai"), RULES, NOW).verdict is None
    assert judge_x_robots(with_header(f"custody: {directive}, noai"), RULES, NOW).verdict is Verdict.DENY


@pytest.mark.parametrize("at", range(3))
def test_every_hop_of_a_redirect_counts(at: int) -> None:
    """A no on any response on the way to the image is a no."""
    hops = tuple(Hop(f"https://{n}.example/x.jpg", 302, header("noai") if n == at else ()) for n in range(3))
    said = judge_x_robots(replace(SILENT, hops=hops), RULES, NOW)
    assert (said.verdict, said.where) == (Verdict.DENY, f"X-Robots-Tag, hop {at + 1}, https://{at}.example/x.jpg")


@pytest.mark.parametrize("value", ["no\xe4ai", "no\ufffdai", "no\0ai", "\udcff, all", "all\x1c"])
def test_what_is_no_text_may_have_hidden_a_word(value: str) -> None:
    """Characters that the language does not have keep the sample out, in a header and in a meta element."""
    for evidence in (with_header(value), replace(SILENT, page_meta=(("robots", value),))):
        said = judge_x_robots(evidence, RULES, NOW)
        assert (said.verdict, said.reason.code) == (Verdict.DEFER, "x-robots-damaged")
        assert Stance.ERROR in {signal.stance for signal in said.signals}
    assert judge_x_robots(with_header(f"{value}, noai"), RULES, NOW).verdict is Verdict.DENY


@pytest.mark.parametrize("value", ["noai|noml", "noai/noindex", "(noai)", "noai.", "all\nnoai", "{noai}"])
def test_any_separator_parts_words(value: str) -> None:
    """Who writes the list in a way of their own is heard."""
    assert judge_x_robots(with_header(value), RULES, NOW).verdict is Verdict.DENY


def test_each_header_line_begins_unaddressed() -> None:
    """An agent prefix ends with its header line."""
    assert judge_x_robots(with_header("otherbot: nofollow", "noai"), RULES, NOW).verdict is Verdict.DENY


@pytest.mark.parametrize(
    "evidence",
    [
        replace(SILENT, page_headers=header("noimageai")),
        replace(SILENT, page_meta=(("robots", "noai"),)),
        replace(SILENT, page_meta=(("ROBOTS", "index, NOAI"),)),
        replace(SILENT, page_meta=(("custody", "noai"),)),
        replace(SILENT, hops=(Hop(IMAGE, 302, header("noai")), Hop("https://c.example/x.jpg", 200, ()))),
        replace(SILENT, hops=(Hop(IMAGE, 302, ()), Hop("https://c.example/x.jpg", 200, header("noai")))),
        replace(SILENT, hops=(Hop(IMAGE, 200, (("x-rObots-tag", "noai"),)),)),
        replace(SILENT, page_meta=(("robots", "noai"),), hops=None),
    ],
    ids=["page-header", "meta", "meta-case", "own-meta", "first-hop", "last-hop", "name-case", "no-image-yet"],
)
def test_every_place_counts(evidence: Evidence) -> None:
    """The page's headers, its meta elements and every hop of the image's answer speak for the image."""
    assert judge_x_robots(evidence, RULES, NOW).verdict is Verdict.DENY


def test_another_agents_meta_element_is_not_ours() -> None:
    """A meta element in another crawler's name does not bind us."""
    assert judge_x_robots(replace(SILENT, page_meta=(("otherbot", "noai"),)), RULES, NOW).verdict is None


@pytest.mark.parametrize("field", ["hops", "page_headers", "page_meta"])
def test_what_was_not_observed_keeps_out(field: str) -> None:
    """An answer that was not seen is never read as one that did not object."""
    judged = judge_x_robots(replace(SILENT, **{field: None}), RULES, NOW)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "not-observed")


def test_a_url_without_a_page_needs_no_page() -> None:
    """From a URL list there is no page whose headers could be missing."""
    alone = replace(SILENT, page_url=None, page_headers=None, page_meta=None)
    assert judge_x_robots(alone, RULES, NOW).verdict is None


def test_the_index_family_is_a_knob() -> None:
    """noindex speaks of search: it counts only where the ruleset says so; noai always does."""
    lax = replace(RULES, index_family="ignore")
    assert judge_x_robots(with_header("none, noindex, noimageindex"), lax, NOW).verdict is None
    assert judge_x_robots(with_header("noindex, noai"), lax, NOW).reason.code == "x-robots-noai"


def test_silence_ages_and_a_no_does_not() -> None:
    """Headers seen too long ago permit nothing; a no stays a no."""
    later = NOW + timedelta(days=RULES.max_age_days + 1)
    assert judge_x_robots(SILENT, RULES, later).reason.code == "evidence-stale"
    assert judge_x_robots(with_header("noai"), RULES, later).verdict is Verdict.DENY
