"""The rule over near duplicates."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from policy.duplicates import DuplicateRules, judge_duplicate
from policy.errors import ConfigurationError
from policy.evidence import DuplicateOf, Evidence, Shared
from policy.ruleset import Ruleset
from policy.verdict import Verdict

MINE, OTHER = "a" * 64, "b" * 64
STRICT = DuplicateRules(near="leave-out", turned=True, pdq_max_distance=31)


def seen(duplicate: DuplicateOf | None, **observed: str) -> Evidence:
    now = datetime(2026, 11, 29, tzinfo=UTC)
    return Evidence(
        None, "https://a.example/a.jpg", now, "test", "1", content_sha256=MINE, duplicate=duplicate, **observed
    )


def test_what_was_not_compared_waits() -> None:
    """A picture that was not compared is no allowed picture."""
    judged = judge_duplicate(seen(None), STRICT)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "not-observed")
    judged = judge_duplicate(seen(None, fetch_error="timeout"), STRICT)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "fetch-failed")


@pytest.mark.parametrize(
    ("found", "rules", "verdict", "code"),
    [
        (DuplicateOf(MINE, "", 0.0), STRICT, Verdict.ALLOW, "no-duplicate"),
        (DuplicateOf(OTHER, "pdq", 0.02), STRICT, Verdict.DEFER, "duplicate"),
        (DuplicateOf(OTHER, "embedding-turned", 0.02), STRICT, Verdict.DEFER, "duplicate"),
        (DuplicateOf(OTHER, "pdq", 0.02), replace(STRICT, near="ignore"), Verdict.ALLOW, "no-duplicate"),
        (DuplicateOf(OTHER, "pdq", 0.02), replace(STRICT, turned=False), Verdict.DEFER, "duplicate"),
        (DuplicateOf(OTHER, "pdq-turned", 0.02), replace(STRICT, turned=False), Verdict.ALLOW, "no-duplicate"),
        (DuplicateOf(OTHER, "pdq", 4, "xmp"), STRICT, Verdict.DENY, "duplicate-reserved"),
        (DuplicateOf(OTHER, "pdq", 4, "c2pa"), replace(STRICT, near="ignore"), Verdict.DENY, "duplicate-reserved"),
        (DuplicateOf(OTHER, "pdq-turned", 4, "xmp"), replace(STRICT, turned=False), Verdict.DENY, "duplicate-reserved"),
    ],
)
def test_one_of_those_that_are_the_same_is_used(
    found: DuplicateOf, rules: DuplicateRules, verdict: Verdict, code: str
) -> None:
    """The representative is used and its copies wait; what is reserved is refused, whatever else the rules say."""
    judged = judge_duplicate(seen(found), rules)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_what_stands_for_it_is_named() -> None:
    """Who asks why a picture is left out is told which one stands for it, and how that was found."""
    judged = judge_duplicate(seen(DuplicateOf(OTHER, "embedding", 0.031)), STRICT)
    assert judged.where == OTHER
    assert judged.reason.detail == "embedding, distance 0.031"


def test_evidence_keeps_what_stands_for_it() -> None:
    """What was found of a picture is read back from the stored evidence as it was."""
    evidence = seen(DuplicateOf(OTHER, "pdq", 4.0, "xmp"))
    assert Evidence.from_json(evidence.to_json(), Shared()).duplicate == evidence.duplicate


def test_a_distance_that_cannot_be_looked_up_refuses_to_start() -> None:
    """A ruleset with a distance beyond what the index finds is refused, and the key is named."""
    text = Ruleset.default_text().replace("pdq_max_distance = 31\n\n\n[text]", "pdq_max_distance = 48\n\n\n[text]")
    assert text != Ruleset.default_text()
    with pytest.raises(ConfigurationError, match="pdq_max_distance"):
        Ruleset.parse(text)
