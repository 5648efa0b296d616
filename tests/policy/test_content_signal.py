"""Content Signals: ai-train alone decides, the strictest statement counts, loose writing hides nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.content_signal import judge_content_signal, said_of_training
from policy.verdict import Judgement, Stance, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCUMENTS = Ruleset.default().robots
IMAGE = "https://b.example/art/x.jpg"


def evidence(body: str | bytes, status: int = 200, **more: object) -> Evidence:
    raw = body.encode() if isinstance(body, str) else body
    values: dict[str, object] = {"body": raw, "body_sha256": "sha", "fetched_at": NOW, **more}
    document = Document(url="https://b.example/robots.txt", status=status, **values)  # type: ignore[arg-type]
    origins = (OriginEvidence("https://b.example", (("robots", document),)),)
    return Evidence(None, IMAGE, NOW, "test", "1", origins=origins, hops=(Hop(IMAGE, 200, ()),))


def with_header(*values: str) -> Evidence:
    return replace(evidence(""), hops=(Hop(IMAGE, 200, tuple(("Content-Signal", value) for value in values)),))


def judged(of: Evidence) -> Judgement:
    return judge_content_signal(of, DOCUMENTS, 30, NOW)


@pytest.mark.parametrize(
    ("value", "verdict", "code"),
    [
        ("ai-train=no", Verdict.DENY, "content-signal-no"),
        ("search=yes, ai-input=no, ai-train=no", Verdict.DENY, "content-signal-no"),
        ("search=yes,ai-train=no", Verdict.DENY, "content-signal-no"),
        ("AI-Train=NO", Verdict.DENY, "content-signal-no"),
        ("ai-train = no", Verdict.DENY, "content-signal-no"),
        ('ai-train="no"', Verdict.DENY, "content-signal-no"),
        ('"ai-train"="no"', Verdict.DENY, "content-signal-no"),
        ("ai-train: no", Verdict.DENY, "content-signal-no"),
        ("search=yes; ai-train=no", Verdict.DENY, "content-signal-no"),
        ("search=yes ai-train=no", Verdict.DENY, "content-signal-no"),
        ("ai_train=no", Verdict.DENY, "content-signal-no"),
        ("ai-train=yes, ai-train=no", Verdict.DENY, "content-signal-no"),
        ("ai-train=no, ai-train=yes", Verdict.DENY, "content-signal-no"),
        ("ai-train=maybe", Verdict.DENY, "content-signal-unknown"),
        ("ai-train=yes, ai-train=maybe", Verdict.DENY, "content-signal-unknown"),
        ("ai-train=", Verdict.DENY, "content-signal-unknown"),
        ("ai-train", Verdict.DENY, "content-signal-unknown"),
        ("ai-train=yes!", Verdict.DENY, "content-signal-unknown"),
        ("ai-train=yes", Verdict.ALLOW, "content-signal-yes"),
        ("search=no, AI-TRAIN = Yes", Verdict.ALLOW, "content-signal-yes"),
        ("search=no", None, "content-signal-silent"),
        ("search=no, ai-input=no", None, "content-signal-silent"),
        ("", None, "content-signal-silent"),
        ("x-ai-train=no", None, "content-signal-silent"),
    ],
)
def test_ai_train_decides_and_nothing_else(value: str, verdict: Verdict | None, code: str) -> None:
    """In robots.txt and in a header alike: no and what is unknown deny, yes permits, other signals decide nothing."""
    line = judged(evidence(f"User-agent: *\nContent-Signal: {value}\nAllow: /\n"))
    header = judged(with_header(value))
    assert (line.verdict, line.reason.code) == (header.verdict, header.reason.code) == (verdict, code)
    assert (line.where, line.reason.detail) == ("https://b.example/robots.txt:2", value)
    assert (header.where, header.reason.detail) == (f"Content-Signal, hop 1, {IMAGE}", value)
    assert [s.value for s in line.signals] == [s.value for s in header.signals] == [value]


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        # the group that holds for us
        ("User-agent: other\nContent-Signal: ai-train=no\nAllow: /\n\nUser-agent: *\nAllow: /\n", None),
        ("User-agent: other\nUser-agent: *\nContent-Signal: ai-train=no\n", Verdict.DENY),
        ("User-agent: *\nContent-Signal: ai-train=no\nUser-agent: other\nDisallow: /\n", Verdict.DENY),
        ("User-agent: custody\nAllow: /\n\nUser-agent: *\nContent-Signal: ai-train=no\nAllow: /\n", None),
        ("User-agent: custody\nContent-Signal: ai-train=no\nUser-agent: *\nAllow: /\n", Verdict.DENY),
        ("User-agent: custody\nAllow: /\nUser-agent: custody\nContent-Signal: ai-train=no\n", Verdict.DENY),
        ("User-agent: *\nDisallow: /y\nSitemap: x\nContent-Signal: ai-train=no\n", Verdict.DENY),
        # before every group, or apart from every rule: said to everybody
        ("Content-Signal: ai-train=no\nUser-agent: *\nAllow: /\n", Verdict.DENY),
        ("Content-Signal: ai-train=no\n", Verdict.DENY),
        ("User-agent: custody\nAllow: /\n\nContent-Signal: ai-train=no\n", Verdict.DENY),
        # several lines
        ("User-agent: *\nContent-Signal: ai-train=yes\nContent-Signal: ai-train=no\n", Verdict.DENY),
        ("User-agent: *\nContent-Signal: ai-train=no\nContent-Signal: ai-train=yes\n", Verdict.DENY),
        ("User-agent: *\nContent-Signal: ai-train=yes\nContent-Signal: search=no\n", Verdict.ALLOW),
        # a path before the signals
        ("User-agent: *\nContent-Signal: /art/ ai-train=no\n", Verdict.DENY),
        ("User-agent: *\nContent-Signal: /*.jpg$ ai-train=no\n", Verdict.DENY),
        ("User-agent: *\nContent-Signal: /news/ ai-train=no\n", None),
        ("User-agent: *\nContent-Signal: /news/ ai-train=yes\n", None),
        # other forms of the file
        ("user-agent: *\rcontent-signal: ai-train=no\r", Verdict.DENY),
        ("\ufeffUser-Agent: *\r\nCONTENT-SIGNAL : ai-train=no # no training\r\n", Verdict.DENY),
        ("# Content-Signal: ai-train=no\nUser-agent: *\nAllow: /\n", None),
        ("User-agent: *\nContent-Signals: ai-train=no\n", None),
    ],
)
def test_the_lines_of_our_group_count(body: str, verdict: Verdict | None) -> None:
    """Group-scoped, the strictest of several lines; what stands before or apart from all groups speaks to everybody."""
    assert judged(evidence(body)).verdict is verdict
    assert judged(evidence(body.encode("utf-16"))).verdict is verdict


def test_absence_neither_grants_nor_reserves() -> None:
    """Nothing declared, in robots.txt or a header, leaves it unset without a signal."""
    for of in (evidence(""), evidence("User-agent: *\nAllow: /\n"), evidence("", 404)):
        said = judged(of)
        assert (said.verdict, said.reason.code, said.signals) == (None, "content-signal-absent", ())


def test_every_statement_is_recorded() -> None:
    """Lines and headers that did not win are on record too."""
    of = replace(evidence("User-agent: *\nContent-Signal: ai-train=yes\n"), hops=with_header("ai-train=no").hops)
    said = judged(of)
    assert said.verdict is Verdict.DENY
    assert [(s.stance, s.value) for s in said.signals] == [
        (Stance.ALLOW, "ai-train=yes"),
        (Stance.DENY, "ai-train=no"),
    ]


@pytest.mark.parametrize(
    ("of", "verdict", "code"),
    [
        (evidence("", 403), Verdict.DENY, "robots-forbidden"),
        (evidence("", 503), Verdict.DEFER, "robots-unreachable"),
        (evidence("", truncated=True), Verdict.DEFER, "robots-too-large"),
        (evidence(b"User-agent: *\nContent-Sign\xffal: ai-train=no\n"), Verdict.DEFER, "robots-bad-encoding"),
        (evidence(b"User-agent: *\nContent-Signal: ai-train=n\xffo\n"), Verdict.DENY, "content-signal-unknown"),
        (evidence(b"\xff\nUser-agent: *\nContent-Signal: ai-train=no\n"), Verdict.DENY, "content-signal-no"),
        (evidence(b"\xff\nUser-agent: *\nContent-Signal: ai-train=yes\n"), Verdict.DEFER, "robots-bad-encoding"),
        (evidence("", fetched_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
        (replace(evidence(""), origins=()), Verdict.DEFER, "not-observed"),
        (replace(evidence(""), hops=None), Verdict.DEFER, "not-observed"),
        (replace(evidence(""), observed_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
    ],
)
def test_what_cannot_be_read_keeps_out(of: Evidence, verdict: Verdict, code: str) -> None:
    """Refusal, silence, damage and age never permit; a no is heard through damage."""
    said = judged(of)
    assert (said.mechanism, said.verdict, said.reason.code) == ("content_signal", verdict, code)


def test_masses_of_lines_hide_no_no() -> None:
    """The last of 20,000 lines counts, and not all of them are put on record."""
    lines = [*(f"Content-Signal: search=yes, x={n}" for n in range(20_000)), "Content-Signal: ai-train=no"]
    said = judged(evidence("\n".join(("User-agent: *", *lines))))
    assert (said.verdict, said.where) == (Verdict.DENY, "https://b.example/robots.txt:20002")
    assert len(said.signals) < 200


@given(
    st.lists(st.sampled_from(["search", "ai-input", "AI-train", "ai-train"]), max_size=4),
    st.lists(st.sampled_from(["yes", "no", "NO", "Yes", "", "x"]), min_size=4, max_size=4),
    st.sampled_from([", ", ",", "; ", " , "]),
    st.sampled_from(["=", " = ", "= "]),
)
def test_the_strictest_of_all_pairs_counts(keys: list[str], values: list[str], between: str, equals: str) -> None:
    """Whatever the order, spacing and case of the pairs."""
    pairs = list(zip(keys, values, strict=False))
    said = {value.lower() for key, value in pairs if key.lower() == "ai-train"}
    expected = None if not said else "no" if "no" in said else "yes" if said == {"yes"} else "unknown"
    found = said_of_training(between.join(f"{key}{equals}{value}" for key, value in pairs))
    assert (found if found in (None, "no", "yes") else "unknown") == expected


@given(st.text(max_size=200))
def test_any_header_is_some_value(value: str) -> None:
    """No header makes the reader fail, and no header but one that says yes permits."""
    assert (judged(with_header(value)).verdict is Verdict.ALLOW) <= ("yes" in value.lower())
