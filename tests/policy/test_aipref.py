"""AIPREF: the drafts' own examples, then each trap of robots.txt lines and of headers by name."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.evidence import Document, Evidence, Grant, Headers, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.aipref import MAX_CHARS, judge_content_usage, read_preferences
from policy.verdict import Judgement, Stance, Verdict

FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "optout" / "aipref_examples.json"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default().robots
DAYS = 30
A, B = "https://a.example", "https://b.example"
IMAGE = f"{B}/x.jpg"
ALLOW, DEFER, DENY = Verdict.ALLOW, Verdict.DEFER, Verdict.DENY


def origin(name: str, robots: str | bytes | None, at: datetime = NOW) -> OriginEvidence:
    body = robots.encode() if isinstance(robots, str) else robots or b""
    status = 404 if robots is None else 200
    document = Document(f"{name}/robots.txt", status, at, body=body, body_sha256=Document.digest(body))
    return OriginEvidence(name, (("robots", document),))


SILENT = Evidence(
    page_url=f"{A}/",
    image_url=IMAGE,
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(origin(A, None), origin(B, None)),
    page_headers=(),
    page_meta=(),
    hops=(Hop(IMAGE, 200, ()),),
)


def judged(evidence: Evidence, now: datetime = NOW) -> Judgement:
    return judge_content_usage(evidence, RULES, DAYS, now)


def with_robots(*lines: str, path: str = "/x.jpg", agent: str = "*") -> Evidence:
    """The image's robots.txt with these lines in one group."""
    body = "\n".join((f"User-agent: {agent}", *lines, ""))
    url = B + path
    return replace(SILENT, image_url=url, hops=(Hop(url, 200, ()),), origins=(origin(A, None), origin(B, body)))


def header(*values: str) -> Headers:
    return tuple(("Content-Usage", value) for value in values)


def with_header(*values: str) -> Evidence:
    return replace(SILENT, hops=(Hop(IMAGE, 200, header(*values)),))


def examples() -> dict[str, Any]:
    if not FIXTURE.exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    found: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return found


SAYS = {"allowed": ALLOW, "disallowed": DENY, "unknown": None, None: None}


# ── the drafts' examples ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_drafts_field_values() -> None:
    """Each value of the vocabulary draft says of train-ai what is printed beside it; what cannot be parsed waits."""
    for case in examples()["field_values"]:
        verdict = judged(with_header(case["value"])).verdict
        expected = SAYS[case["train-ai"]]
        assert verdict is expected or (expected is None and verdict is DEFER), case


def test_the_drafts_robots_example() -> None:
    """Each agent and path of the attachment draft's example has the preference that is printed beside it."""
    for case in examples()["robots_cases"]:
        rules = replace(RULES, product_tokens=(case["ua"],))
        url = B + case["path"]
        evidence = replace(
            SILENT,
            image_url=url,
            hops=(Hop(url, 200, ()),),
            origins=(origin(A, None), origin(B, examples()["robots_txt"])),
        )
        assert judge_content_usage(evidence, rules, DAYS, NOW).verdict is SAYS[case["train-ai"]], case


def test_the_drafts_combination() -> None:
    """Preferences from several sources combine to the most restrictive, unknown giving way."""
    values = {"allowed": "train-ai=y", "disallowed": "train-ai=n", "unknown": "search=n"}
    for case in examples()["combine"]:
        page, *image = [header(values[word]) for word in case["in"]]
        evidence = replace(SILENT, page_headers=page, hops=tuple(Hop(IMAGE, 200, h) for h in image or [()]))
        assert judged(evidence).verdict is SAYS[case["out"]], case


# ── the dictionary ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("train-ai=n", DENY),
        ("  train-ai=n\t", DENY),
        ("train-ai=n;reason=legal, search=y", DENY),
        ("train-ai=y", ALLOW),
        ("search=n", None),
        ("", None),
        # a duplicate key: the last wins, whatever it says
        ("train-ai=y, train-ai=n", DENY),
        ("train-ai=n, train-ai=y", ALLOW),
        ("train-ai=n, train-ai=?1", None),
        # values that are no token n or y say nothing
        ('train-ai="n"', None),
        ("train-ai=N", None),
        ("train-ai=?0", None),
        ("train-ai=0", None),
        ("train-ai", None),
        ("train-ai=(n)", None),
        ("train-ai=no", None),
        # keys are case-sensitive tokens: another spelling is another key
        ("train_ai=n", None),
        ("trainai=n", None),
    ],
)
def test_a_dictionary_is_read_as_structured_fields(value: str, verdict: Verdict | None) -> None:
    """Keys and values count as RFC 9651 parses them, and nothing is guessed."""
    assert judged(with_header(value)).verdict is verdict
    assert read_preferences(value).verdict is verdict


@pytest.mark.parametrize(
    "value",
    [
        *("Train-AI=n", "train-ai=n,", "train-ai: n", "TRAIN_AI=n", "train ai = n", "!train-ai", "ai-train=no;"),
        *("tr\xe4in=n", "\uff34rain-ai=n", "a=1 trainAI", "tra in-ai=n"),
    ],
)
def test_what_cannot_be_parsed_and_mentions_training_keeps_out(value: str) -> None:
    """Whoever speaks of AI training in a broken field meant something: the sample waits, the error is on record."""
    said = judged(with_header(value))
    assert (said.verdict, said.reason.code) == (DEFER, "content-usage-unreadable")
    assert [s.stance for s in said.signals] == [Stance.ERROR]


@pytest.mark.parametrize("value", ["search=", "search: n", ",", "SEARCH=n", "a=1 b=2"])
def test_what_cannot_be_parsed_and_mentions_nothing_is_recorded_and_unset(value: str) -> None:
    """A broken field that does not speak of training says nothing of it; that it was broken is on record."""
    said = judged(with_header(value))
    assert said.verdict is None
    assert [s.stance for s in said.signals] == [Stance.ERROR]


# ── headers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_header_lines_are_joined_to_one_dictionary() -> None:
    """Several lines of the field are one dictionary, in order: of a key given twice the last counts."""
    assert judged(with_header("train-ai=y", "train-ai=n")).verdict is DENY
    assert judged(with_header("train-ai=n", "train-ai=y")).verdict is ALLOW
    assert judged(with_header("search=y", "train-ai=n")).verdict is DENY


@pytest.mark.parametrize(
    "evidence",
    [
        replace(SILENT, page_headers=header("train-ai=n")),
        replace(SILENT, hops=(Hop(IMAGE, 302, header("train-ai=n")), Hop(f"{B}/y.jpg", 200, ()))),
        replace(SILENT, hops=(Hop(IMAGE, 302, ()), Hop(f"{B}/y.jpg", 200, header("train-ai=n")))),
        replace(SILENT, hops=(Hop(IMAGE, 200, (("cOnTeNt-UsAgE", "train-ai=n"),)),)),
        replace(SILENT, hops=(Hop(IMAGE, 302, header("train-ai=n")), Hop(f"{B}/y.jpg", 200, header("train-ai=y")))),
        replace(SILENT, page_headers=header("train-ai=n"), hops=(Hop(IMAGE, 200, header("train-ai=y")),)),
    ],
    ids=["page", "first-hop", "last-hop", "name-case", "yes-after-no", "page-against-image"],
)
def test_every_response_counts(evidence: Evidence) -> None:
    """A no on the page or on any hop is a no, whatever the others say."""
    assert judged(evidence).verdict is DENY


def test_the_place_and_the_words_are_on_record() -> None:
    """A reader sees which response said what."""
    said = judged(with_header("train-ai=n"))
    assert (said.where, said.reason.detail) == (f"Content-Usage, hop 1, {IMAGE}", "train-ai=n")


@pytest.mark.parametrize("field", ["hops", "page_headers"])
def test_responses_that_were_not_seen_keep_out(field: str) -> None:
    """Headers that nobody observed never count as silent."""
    said = judged(replace(SILENT, **{field: None}))
    assert (said.verdict, said.reason.code) == (DEFER, "not-observed")


# ── robots.txt ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lines", "path", "verdict"),
    [
        (["Content-Usage: train-ai=n"], "/x.jpg", DENY),
        (["Content-Usage: / train-ai=n"], "/x.jpg", DENY),
        (["content-usage:train-ai=n"], "/x.jpg", DENY),
        (["Content-Usage : /a/\t train-ai=n  # why"], "/a/x.jpg", DENY),
        (["Content-Usage: /a/ train-ai=n"], "/x.jpg", None),
        (["Content-Usage: search=n"], "/x.jpg", None),
        # the longest matching path decides, in whatever order
        (["Content-Usage: train-ai=n", "Content-Usage: /ok/ train-ai=y"], "/ok/x.jpg", ALLOW),
        (["Content-Usage: /ok/ train-ai=y", "Content-Usage: train-ai=n"], "/ok/x.jpg", ALLOW),
        (["Content-Usage: /ok/ train-ai=y", "Content-Usage: /ok/not/ train-ai=n"], "/ok/not/x.jpg", DENY),
        (["Content-Usage: train-ai=n", "Content-Usage: /a/ search=n"], "/a/x.jpg", None),
        # identical paths in conflict: the most restrictive
        (["Content-Usage: /a/ train-ai=y", "Content-Usage: /a/ train-ai=n"], "/a/x.jpg", DENY),
        (["Content-Usage: /a/ train-ai=n", "Content-Usage: /a/ train-ai=y"], "/a/x.jpg", DENY),
        (["Content-Usage: /a/ train-ai=n", "Content-Usage: /a/ search=y"], "/a/x.jpg", DENY),
        (["Content-Usage: train-ai=n", "Content-Usage: / train-ai=y"], "/x.jpg", DENY),
        (["Content-Usage: /%7Ea/ train-ai=y", "Content-Usage: /~a/ train-ai=n"], "/%7Ea/x.jpg", DENY),
        # patterns as in robots.txt
        (["Content-Usage: /*.jpg$ train-ai=n"], "/a/x.jpg", DENY),
        (["Content-Usage: /*.jpg$ train-ai=n"], "/a/x.jpg?y", None),
        (["Content-Usage: /b%C3%A4r/ train-ai=n"], "/b\u00e4r/x.jpg", DENY),
        (["Content-Usage: /b\u00e4r/ train-ai=n"], "/b%c3%a4r/x.jpg", DENY),
        # a path is given iff the value begins with "/"
        (["Content-Usage: *.jpg train-ai=n"], "/x.jpg", DEFER),
        (["Content-Usage: /x.jpg"], "/x.jpg", None),
        (["Content-Usage: /train-ai=n"], "/x.jpg", DEFER),
        # not a dictionary
        (["Content-Usage: Train-AI=n"], "/x.jpg", DEFER),
        (["Content-Usage: what ever"], "/x.jpg", None),
        # what robots.txt forbids has no preference: robots.txt says no itself
        (["Disallow: /x", "Content-Usage: train-ai=n"], "/x.jpg", None),
        (["Disallow: /x", "Content-Usage: train-ai=y"], "/x.jpg", None),
    ],
)
def test_lines_of_our_group(lines: list[str], path: str, verdict: Verdict | None) -> None:
    """Paths, precedence and conflicts are those of the attachment draft."""
    assert judged(with_robots(*lines, path=path)).verdict is verdict


def test_the_lines_of_the_page_count_too() -> None:
    """The page's robots.txt is asked about the page, the image's about the image."""
    page = replace(SILENT, origins=(origin(A, "User-agent: *\nContent-Usage: train-ai=n\n"), origin(B, None)))
    assert judged(page).verdict is DENY


def test_only_our_group_counts() -> None:
    """Another agent's lines are not ours; our own group stands before everybody's."""
    assert judged(with_robots("Content-Usage: train-ai=n", agent="otherbot")).verdict is None
    assert judged(with_robots("Content-Usage: train-ai=n", agent="CUSTODY")).verdict is DENY
    ours = ("Allow: /", "", "User-agent: custody", "Content-Usage: train-ai=y")
    both = with_robots("Content-Usage: train-ai=n", *ours)
    assert judged(both).verdict is ALLOW


def test_lines_in_no_group_speak_to_everybody_whom_no_group_tells_otherwise() -> None:
    """Who forgot the User-agent line, or set the line apart from all groups, still said it."""
    for body, verdict in (
        ("Content-Usage: train-ai=n\n", DENY),
        ("User-agent: otherbot\nDisallow: /\n\nContent-Usage: train-ai=n\n", DENY),
        ("User-agent: otherbot\nContent-Usage: train-ai=n\n", None),
        ("Content-Usage: train-ai=n\n\nUser-agent: custody\nContent-Usage: train-ai=y\n", ALLOW),
    ):
        assert judged(replace(SILENT, origins=(origin(A, None), origin(B, body)))).verdict is verdict, body


def test_every_statement_found_is_a_signal() -> None:
    """The line that lost to a longer path is on record beside the one that won, with its number."""
    said = judged(with_robots("Content-Usage: train-ai=n", "Content-Usage: /x train-ai=y"))
    assert [(s.where, s.stance) for s in said.signals] == [
        (f"{B}/robots.txt:2", Stance.DENY),
        (f"{B}/robots.txt:3", Stance.ALLOW),
    ]
    assert (said.where, said.reason.detail) == (f"{B}/robots.txt:3", "Content-Usage: /x train-ai=y")


def test_a_grant_of_access_leaves_the_preference_in_force() -> None:
    """Who is let in past a Disallow is still told what the content may be used for."""
    grant = Grant("g", "who", "site-operator", "domain", "b.example", ("robots",), NOW, None, "0" * 64)
    evidence = with_robots("Disallow: /", "Content-Usage: train-ai=n")
    assert judged(replace(evidence, grants=(grant,))).verdict is DENY


@pytest.mark.parametrize(("status", "verdict"), [(404, None), (410, None), (403, DENY), (503, DEFER), (None, DEFER)])
def test_robots_txt_that_is_not_there_is_weighed_as_for_robots(status: int | None, verdict: Verdict | None) -> None:
    """Absent says nothing; refused is a no; silent waits."""
    document = Document(f"{B}/robots.txt", status, NOW)
    evidence = replace(SILENT, origins=(origin(A, None), OriginEvidence(B, (("robots", document),))))
    assert judged(evidence).verdict is verdict


def test_a_damaged_robots_txt_keeps_out() -> None:
    """Where bytes are no text a preference may have been lost."""
    body = b"User-agent: *\nContent-Us\xffge: train-ai=n\n"
    assert judged(replace(SILENT, origins=(origin(A, None), origin(B, body)))).verdict is DEFER


# ── age and bounds ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_age_with_their_document_and_headers_with_the_observation() -> None:
    """A permission rests on what is recent enough, each by its own time; a no does not age."""
    old = NOW - timedelta(days=DAYS + 1)
    yes, no = "User-agent: *\nContent-Usage: train-ai=y\n", "User-agent: *\nContent-Usage: train-ai=n\n"
    assert judged(replace(SILENT, origins=(origin(A, None), origin(B, yes, old)))).reason.code == "evidence-stale"
    assert judged(replace(SILENT, origins=(origin(A, None), origin(B, no, old)))).verdict is DENY
    assert judged(replace(SILENT, observed_at=old)).reason.code == "evidence-stale"
    assert judged(replace(with_header("train-ai=y"), observed_at=old)).verdict is DEFER
    assert judged(replace(with_header("train-ai=n"), observed_at=old)).verdict is DENY


@pytest.mark.parametrize(
    "value",
    [
        "a=(" + "a " * 16_000 + ")",
        "train-ai=n, " * 2_700 + "!",
        "a" + ";b=1" * 8_000,
        "train" + "-" * 32_000,
        "x" * 10**6,
    ],
    ids=["inner-list", "repeated", "parameters", "hyphens", "long"],
)
def test_hostile_fields_permit_nothing(value: str) -> None:
    """Whatever a field holds, it is read to its end and gives no permission."""
    for evidence in (with_header(value), with_robots(f"Content-Usage: {value}")):
        assert judged(evidence).verdict is not ALLOW


def test_more_lines_than_are_read_keep_out() -> None:
    """Megabytes of preferences are not weighed, and so permit nothing."""
    lines = [f"Content-Usage: /{number} train-ai=y" for number in range(MAX_CHARS // 10)]
    said = judged(with_robots(*lines))
    assert (said.verdict, said.reason.code) == (DEFER, "content-usage-unreadable")
