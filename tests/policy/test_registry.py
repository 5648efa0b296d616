"""The rule over imported lists: a match denies whatever the list's age; not every silence counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.evidence import Evidence, RegistryAnswer
from policy.signals.registry import RegistryRules, judge_registry
from policy.verdict import Stance, Verdict

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
RULES = RegistryRules((), 31)
URLS = RegistryAnswer("optouts", "url", NOW - timedelta(days=3), 30, "ab" * 32)
HASHES = replace(URLS, name="hashes", kind="sha256")
PAIR = Evidence("https://a.example/", "https://a.example/x.jpg", NOW, "test", "1", content_sha256="cd" * 32)


def judged(*answers: RegistryAnswer, rules: RegistryRules = RULES, pair: Evidence = PAIR) -> tuple[object, str, str]:
    said = judge_registry(replace(pair, registry=answers), rules, NOW)
    return said.verdict, said.reason.code, said.reason.detail


def test_lists_that_were_not_asked_defer() -> None:
    """Evidence without their answers was never held against them."""
    said = judge_registry(PAIR, RULES, NOW)
    assert (said.verdict, said.reason.code) == (Verdict.DEFER, "not-observed")


def test_no_list_and_none_that_names_it_is_unset() -> None:
    """Absence from a list permits nothing by itself."""
    assert judged() == (None, "registry-not-listed", "")
    assert judged(URLS, HASHES) == (None, "registry-not-listed", "")


def test_a_match_denies_and_names_list_date_and_what_was_found() -> None:
    """What a person asks first: which list, of when, and what of the picture stands on it."""
    said = judge_registry(
        replace(PAIR, registry=(HASHES, replace(URLS, match="url https://a.example/x.jpg"))), RULES, NOW
    )
    assert (said.verdict, said.reason.code) == (Verdict.DENY, "registry-listed")
    assert said.reason.detail == "optouts of 2026-11-18: url https://a.example/x.jpg"
    assert said.where == "list optouts"
    # The list's digest goes on record with the statement: it is what the decision rests on.
    assert [(s.where, s.stance, s.document_sha256) for s in said.signals] == [
        ("list optouts", Stance.DENY, URLS.sha256)
    ]


@pytest.mark.parametrize(("days", "code"), [(30, "registry-not-listed"), (31, "registry-overdue")])
def test_an_overdue_list_defers_what_it_does_not_name(days: int, code: str) -> None:
    """An old list knows nothing of who has opted out since."""
    old = replace(URLS, dated_at=NOW - timedelta(days=days))
    assert judged(old)[1] == code
    assert judged(HASHES, old)[1] == code


def test_a_match_on_an_overdue_list_still_denies() -> None:
    """A no does not age."""
    old = replace(URLS, dated_at=NOW - timedelta(days=400), match="domain a.example")
    assert judged(old)[:2] == (Verdict.DENY, "registry-listed")


def test_a_required_list_that_was_never_imported_defers_unless_another_denies() -> None:
    """The ruleset names it, so nothing is known without it; a no that is known is one."""
    rules = RegistryRules(("optouts", "spawning"), 31)
    assert judged(URLS, rules=rules) == (Verdict.DEFER, "registry-missing", "spawning")
    assert judged(rules=RegistryRules(("optouts",), 31))[1] == "registry-missing"
    assert judged(RegistryAnswer("spawning", "url", None, 0), URLS, rules=rules)[1] == "registry-missing"
    assert judged(replace(URLS, match="domain a.example"), rules=rules)[0] is Verdict.DENY


@pytest.mark.parametrize("kind", ["sha256", "md5", "pdq"])
def test_a_hash_list_is_not_silent_about_what_it_was_not_asked(kind: str) -> None:
    """Without the digest nobody looked: not observed, or not fetched; an address that is listed denies all the same."""
    bare = replace(PAIR, content_sha256=None)
    answer = replace(HASHES, kind=kind)
    assert judged(answer, pair=bare)[:2] == (Verdict.DEFER, "not-observed")
    assert judged(answer, pair=replace(bare, fetch_error="http-404"))[:2] == (Verdict.DEFER, "fetch-failed")
    assert judged(answer, replace(URLS, match="domain a.example"), pair=bare)[0] is Verdict.DENY


def test_a_distance_beyond_which_everything_resembles_everything_is_refused() -> None:
    """0 to 64 of 256 bits."""
    with pytest.raises(ValueError, match="pdq_max_distance"):
        RegistryRules((), 65)
