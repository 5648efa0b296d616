"""Review: each match is accepted or rejected by somebody, and only what was accepted is taken out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.home import Home
from flows.removal_prompt import ask_each, described
from flows.stages.removing import approving, requests, reviewing
from flows.stages.removing.pictures import Occurrence
from policy.errors import InputError, RefusedError
from policy.removal_matches import Answer, reviews
from tests.flows.removable import ask, copied, image_url, made_once, page_url, refused, run, said, verdicts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return made_once(tmp_path_factory)


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return copied(made, tmp_path / "home")


def content(n: int) -> str:
    return hashlib.sha256(n.to_bytes(8, "big")).hexdigest()


def test_only_what_is_accepted_is_taken(home: Home) -> None:
    """Two of three are hers: they get tombstones and leave their slots; the third is released with the reason, and
    what was only proposed and accepted goes as well. Who said so, when and why is on record.
    """
    request = said(home, "add", "--text", "a portrait of Ann Bee")
    other = said(home, "add", "--creator", "Painter 7")
    listed = said(home, "review", request["id"])
    assert [(item["group"], item["state"], item["has_pixels"]) for item in listed] == [
        (content(7), "matched", True),
        (content(8), "proposed", True),
    ]
    assert listed[1]["occurrences"][0]["alt"] == "a portrait of Ann Bee, by a friend"
    reviewed = said(home, "review", request["id"], "--by", "Ann", "--accept", content(8), "--reason", "hers, too")
    assert verdicts(home, request["id"]) == {"defer removal-held": 2}
    assert "1 of its matches have not been reviewed" in refused(home, "approve", request["id"], "--by", "Ann", code=1)
    pair = next(m["pair_key"] for m in reviewed["matches"] if m["content_sha256"] == content(7))
    assert "a rejection carries a reason" in refused(home, "review", request["id"], "--by", "Ann", "--reject", pair)
    said(home, "review", request["id"], "--by", "Bob", "--reject", pair, "--reason", "another Ann Bee")
    assert verdicts(home, request["id"]) == {"defer removal-held": 1, "unset removal-rejected": 1}
    done = said(home, "approve", request["id"], "--by", "Ann")
    covers = home.tombstones().covers_content
    assert (covers(content(8)), covers(content(7))) == (request["id"], None)
    assert [slot["ordinal"] for slot in done["slots"]] == [
        ordinal for (ordinal,) in ask(home, "SELECT ordinal FROM slot WHERE content_sha256 = ?", content(8))
    ]
    assert verdicts(home, other["id"]) == {"defer removal-held": 2}  # another's hold is another's
    with home.ledger(readonly=True) as ledger:
        told = [(r.verdict, r.matches, r.by_whom, r.reason) for r in reviews(ledger, request["id"])]
    assert told == [("approve", 1, "Ann", "hers, too"), ("reject", 1, "Bob", "another Ann Bee")]
    assert "approved: there is nothing to review" in refused(
        home, "review", request["id"], "--by", "Ann", "--accept-all", code=1
    )


def test_a_review_after_the_first_approval_asks_for_both_again(home: Home) -> None:
    """What the first approved is not what the second would: neither name counts any more."""
    policy = home.policy_path.read_text("utf-8").replace("four_eyes_over = 100", "four_eyes_over = 1")
    home.policy_path.write_text(policy, "utf-8")
    home = Home.open(home.path)
    request = requests.add(home, "url", page_url(0))
    from flows.stages.removing import proving

    proving.vouch(home, request.id, by="Op", reason="it is hers")
    assert approving.approve(home, request.id, by="Ann").state == "awaiting-second"
    groups = [item.group for item in reviewing.items(home, request.id)]
    answers: dict[str, tuple[Answer, str]] = dict.fromkeys(groups, ("approve", ""))
    answers[content(0)] = ("reject", "not hers")
    back = reviewing.review(home, request.id, answers, by="Cy")
    assert (back.state, back.first_approver) == ("held", "")
    assert approving.approve(home, request.id, by="Ann").state == "awaiting-second"
    assert approving.approve(home, request.id, by="Bob").state == "approved"
    assert verdicts(home, request.id) == {"deny tombstoned": 24, "unset removal-rejected": 1}
    assert home.tombstones().covers_content(content(0)) is None


def test_a_refused_approval_takes_nothing_in(home: Home) -> None:
    """What an approver wanted to take in beside is not taken by the next one who does not say so."""
    policy = home.policy_path.read_text("utf-8").replace("four_eyes_over = 100", "four_eyes_over = 1")
    home.policy_path.write_text(policy, "utf-8")
    home = Home.open(home.path)
    request = requests.add(home, "text", "a portrait of Ann Bee")
    with pytest.raises(RefusedError, match="2 samples: whoever asks must prove"):
        approving.approve(home, request.id, by="Ann", near=[content(8)])
    assert approving.approve(home, request.id, by="Ann").state == "approved"
    assert home.tombstones().covers_content(content(8)) is None


def test_nothing_that_was_rejected_altogether_is_approved(home: Home) -> None:
    """Then the request is rejected, and the words say so."""
    request = requests.add(home, "url", image_url(1))
    reviewing.review(home, request.id, {content(1): ("reject", "not theirs")}, by="Ann")
    with pytest.raises(RefusedError, match="every match was rejected") as refusal:
        approving.approve(home, request.id, by="Ann")
    assert "custody removal reject" in refusal.value.remedy


def test_the_prompt_needs_somebody_to_ask(home: Home, tmp_path: Path) -> None:
    """Without a terminal it names the options; nobody's name, strangers' keys and contradictions are refused; a sheet
    lies outside the home.
    """
    removal = requests.add(home, "url", image_url(1)).id
    assert "--accept-all" in refused(home, "review", removal, "--by", "Ann")
    assert "nobody's name" in refused(home, "review", removal, "--accept", content(1))
    assert "no matches of the request" in refused(home, "review", removal, "--by", "Ann", "--accept", content(9))
    twice = refused(home, "review", removal, "--by", "Ann", "--accept", content(1), "--reject", content(1))
    assert "accepted and rejected at once" in twice
    assert "no such removal" in refused(home, "review", "removal-x", "--by", "Ann", "--accept-all")
    assert "may not lie in the home" in refused(home, "review", removal, "--sheet", str(home.path / "a.html"))
    assert run(home, "review", removal, "--sheet", str(tmp_path / "a.html")).exit_code == 0
    assert (tmp_path / "a.html").stat().st_mode & 0o077 == 0
    with home.ledger(readonly=True) as ledger:
        assert reviews(ledger, removal) == ()


def test_each_is_shown_and_answered_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Yes with or without a reason, no with one, not now, and an end at which what was said counts; texts of others
    cannot steer the terminal.
    """
    place = Occurrence("g1", "p1", "https://a.example/", "https://a.example/1.jpg", "a\x1b[31mred")
    items = [reviewing.Item(f"g{n}", "content", 1.0, "matched", (place,), 1, has_pixels=True) for n in range(1, 6)]
    answered = reviewing.Item("g0", "content", 1.0, "rejected", (), 1)
    lines: Iterator[str] = iter(["maybe", "Y", "hers", "n", " ", "not hers", "s", "y", "", "q"])
    answers = ask_each([answered, *items], lambda question: next(lines), sheet="custody removal review X --sheet F")
    assert answers == {"g1": ("approve", "hers"), "g2": ("reject", "not hers"), "g4": ("approve", "")}
    shown = capsys.readouterr().out
    assert "1 of 5" in shown
    assert "\x1b" not in shown
    assert "\\u001b[31mred" in shown
    assert any("custody removal review X" in line for line in described(items[0], sheet="custody removal review X"))

    def gone(question: str) -> str:
        raise EOFError

    assert ask_each(items, gone, sheet="") == {}


def test_contradictory_answers_for_the_same_bytes(home: Home) -> None:
    """A picture and one place of it are the same match: they cannot be accepted and rejected."""
    request = requests.add(home, "url", image_url(1))
    [match] = request.matches
    assert match.pair_key is not None
    answers: dict[str, tuple[Answer, str]] = {
        content(1): ("approve", ""),
        match.pair_key: ("reject", "not this one"),
    }
    with pytest.raises(InputError, match="accepted and rejected at once"):
        reviewing.review(home, request.id, answers, by="Ann")
