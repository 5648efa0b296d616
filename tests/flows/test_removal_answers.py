"""Answers: whoever asked learns of what they named or proved, and of nobody else's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from flows.home import Home, utc_now
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.removing import answering, proving, requests
from policy.errors import InputError, RefusedError
from policy.removal_proofs import PROVEN, WELL_KNOWN, record_proof
from tests.flows.removable import DATASET, ask, copied, image_url, made_once, page_url, refused, run, said

SECRET = "https://secret.example/album/copy.jpg"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The bytes of picture 3 hang on somebody else's page as well, under another address, with other words."""
    home = copied(made_once(tmp_path_factory), tmp_path_factory.mktemp("copied") / "home")
    with home.ledger() as ledger:
        [(pair,)] = ledger.query("SELECT pair_key FROM occurrence WHERE image_url = ?", [image_url(3)])
        row = {"pair_key": "f" * 32, "image_url": SECRET, "page_url": "https://secret.example/album", "alt": "our Jo"}
        evidence = [("f" * 32, newest_evidence(ledger, [pair])[pair])]
        measured = {"content_sha256": content(3), "url_key": "e" * 32, "width": 256, "height": 256}
        ledger.append_many(
            [
                ("occurrence", [row | {"url_key": "e" * 32}], "copy"),
                ("content", [measured], "copy"),
                *evidence_batches(ledger, evidence, "copy", "copy"),
            ]
        )
    return home


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return copied(made, tmp_path / "home")


def content(n: int) -> str:
    return hashlib.sha256(n.to_bytes(8, "big")).hexdigest()


def test_what_is_told_of_a_picture(home: Home) -> None:
    """Its address, its bytes, what was made of it and where it was used; not whose page it is on, nor its words, nor
    where else it hangs, in no form, for requester and prompt alike.
    """
    request = said(home, "add", "--url", image_url(3), "--kind", "access")
    assert len(request["matches"]) == 2
    told = said(home, "answer", request["id"])
    assert told["about"] == [image_url(3)]
    [held] = told["held"]
    assert (held["image_url"], held["page_url"], held["content_sha256"]) == (image_url(3), None, content(3))
    assert (held["texts"], held["width"], held["faces"]) == ([], 256, 0)
    [(ordinal,)] = ask(home, "SELECT ordinal FROM slot WHERE content_sha256 = ?", content(3))
    assert held["uses"] == [{"dataset": DATASET, "ordinal": ordinal, "is_live": True, "checkpoints": []}]
    everything = json.dumps(told) + run(home, "show", request["id"], "--for-requester").output
    for others in ("secret.example", "our Jo", page_url(3), "apple number 3", "f" * 32):
        assert others not in everything
    assert told["text"] in run(home, "answer", request["id"]).stdout
    closed = said(home, "answer", request["id"], "--by", "Ann")
    assert closed["state"] == "answered"
    assert said(home, "show", request["id"])["days_left"] is None


def test_what_is_told_of_a_page_and_a_domain(home: Home) -> None:
    """A page's own words are told to who names it; a domain is told of once it is proven, and only what lies there."""
    page = answering.answer(home, requests.add(home, "url", page_url(3), kind="access").id)
    assert len(page.held) == 25
    assert {one.page_url for one in page.held} == {page_url(3)}
    assert {one.image_url for one in page.held} == {None}
    assert ("apple number 3 on a table", "alt") in {text for one in page.held for text in one.texts}
    domain = requests.add(home, "domain", "secret.example", kind="access").id
    before = answering.answer(home, domain)
    assert (before.about, before.held) == ((), ())
    assert "Nothing can be told" in before.text
    with pytest.raises(RefusedError, match="not proven"):
        answering.answer(home, domain, by="Ann")
    with home.ledger() as ledger:
        record_proof(ledger, domain, WELL_KNOWN, "secret.example", PROVEN, now=utc_now())
    after = answering.answer(home, domain, by="Ann")
    assert [(one.image_url, one.page_url) for one in after.held] == [(SECRET, "https://secret.example/album")]
    assert "site1.example" not in after.text
    assert after.state == "answered"


@pytest.mark.parametrize(("named", "value"), [("creator", "Painter 3"), ("text", "our Jo")])
def test_a_name_or_a_text_tells_nothing(home: Home, named: str, value: str) -> None:
    """Who says a name has proved nothing: no address, no count, no text of those that match, vouched for or not."""
    request = requests.add(home, named, value, kind="access")
    told = answering.for_requester(home, request.id)
    assert (told.about, told.held) == ((), ())
    proving.vouch(home, request.id, by="Op", reason="knows her")
    vouched = answering.answer(home, request.id, by="Ann")
    assert vouched.held == ()
    assert "example" not in told.text + vouched.text


def test_bytes_are_told_of_without_their_places(home: Home) -> None:
    """A digest names bytes: their size and their use, and no address."""
    request = requests.add(home, "sha256", content(3), kind="access")
    told = answering.answer(home, request.id)
    [held] = told.held
    assert (held.content_sha256, held.image_url, held.page_url, held.texts) == (content(3), None, None, ())
    assert len(held.uses) == 1
    assert "example" not in told.text


def test_a_decision_is_told_with_its_reason(home: Home, tmp_path: Path) -> None:
    """A refusal says why (GDPR Art. 12(4)); an answer may be written for its owner alone; other kinds are not closed
    by one.
    """
    removal = requests.add(home, "url", image_url(1)).id
    with pytest.raises(InputError, match="not closed by an answer"):
        answering.answer(home, removal, by="Ann")
    requests.reject(home, removal, by="Ann", reason="the licence cannot be revoked")
    letter = tmp_path / "letter.txt"
    assert run(home, "answer", removal, "--out", str(letter)).exit_code == 0
    assert "It was refused.\nWhy: the licence cannot be revoked" in letter.read_text("utf-8")
    assert letter.stat().st_mode & 0o077 == 0
    assert "no such removal" in refused(home, "answer", "removal-x")
