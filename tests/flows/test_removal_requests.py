"""Removal requests at the prompt: filed by what they name, alone and by the hundred, kept apart from who asked."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from curation.picture_search import PictureMatch
from flows.home import Home
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.removing import applying, approving, intake_csv, pictures, requests
from flows.stages.seal import select
from policy import removals
from policy.errors import InputError
from tests.flows.removable import (
    COUNT,
    DATASET,
    ask,
    copied,
    image_url,
    made_once,
    page_url,
    refused,
    run,
    said,
    verdicts,
)

REQUESTER = "Jo Quixote-Ramirez <jo@quixote.example>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return made_once(tmp_path_factory)


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return copied(made, tmp_path / "home")


def trainable(home: Home) -> int:
    with home.ledger(readonly=True) as ledger:
        return len(select(ledger, home, "true"))


# ── what is named ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_named_exactly_is_held_and_the_rest_proposed(home: Home) -> None:
    """A creator's pictures are held; a text that only contains what was named is shown with its share, and is not."""
    creator = said(home, "add", "--creator", "  painter  7 ", "--kind", "erasure", "--by", "mail desk")
    assert [(m["method"], m["state"]) for m in creator["matches"]] == [("creator", "matched")] * 2
    assert verdicts(home, creator["id"]) == {"defer removal-held": 2}
    text = said(home, "add", "--text", "A portrait of ANN\u00a0BEE")
    assert [(m["method"], m["state"], m["score"]) for m in text["matches"]] == [
        ("text", "matched", 1.0),
        ("text-contains", "proposed", 0.6176),
    ]
    assert verdicts(home, text["id"]) == {"defer removal-held": 1}


def test_a_request_that_matches_nothing_waits_for_what_comes(home: Home) -> None:
    """It is recorded and answered; what a later crawl brings under the name is held at the next decide."""
    url = "https://site9.example/new.jpg"
    request = said(home, "add", "--url", url)
    assert (request["state"], request["matches"]) == ("held", [])
    told = said(home, "show", request["id"], "--for-requester")
    assert told["held"] == []
    assert "Nothing is held of it" in told["text"]
    with home.ledger() as ledger:
        [(pair, sha)] = ledger.query("SELECT pair_key, content_sha256 FROM evidence ORDER BY pair_key LIMIT 1")
        row = {"pair_key": "f" * 32, "image_url": url, "page_url": page_url(0), "url_key": "e" * 32}
        evidence = [("f" * 32, newest_evidence(ledger, [pair])[pair])]
        ledger.append_many([("occurrence", [row], "late"), *evidence_batches(ledger, evidence, "late", "late")])
    before = trainable(home)
    decide(home)
    assert verdicts(home, request["id"]) == {"defer removal-held": 2}  # the new place, and where else these bytes hang
    assert trainable(home) < before
    with home.ledger() as ledger:
        requests.hold_anew(ledger, home)
    assert ask(home, "SELECT count(*) FROM decision WHERE decide_id = ?", request["id"]) == [(2,)]
    assert ask(home, "SELECT DISTINCT content_sha256 FROM removal_match ORDER BY 1") == [(sha,), (None,)]


def test_copies_of_a_picture_are_held_and_taken_only_if_that_is_said(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a search verified is held, what is only alike is not; neither is taken without a word. (The search itself
    has tests of its own: tests/curation/test_picture_search.py.)
    """
    copy, other, alike = (hashlib.sha256(n.to_bytes(8, "big")).hexdigest() for n in (3, 4, 5))
    found = (
        PictureMatch(copy, "pdq", 0.02, 0.98, verified=True, compared=True),
        PictureMatch(other, "embedding-turned", 0.03, 0.97, verified=True, compared=True),
        PictureMatch(alike, "embedding", 0.2, 0.4, verified=False, compared=True),
    )
    monkeypatch.setattr(pictures, "find_by_picture", lambda home, ledger, path: found)
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(b"a picture")
    request = said(home, "add", "--picture", str(mine))
    states = {m["content_sha256"]: (m["method"], m["state"]) for m in request["matches"]}
    assert states[copy] == ("picture-pdq", "likely")
    assert states[other] == ("picture-embedding-turned", "likely")
    assert states[alike] == ("picture-embedding", "proposed")
    assert verdicts(home, request["id"]) == {"defer removal-held": 2}
    said(home, "approve", request["id"], "--by", "Ann", "--near", copy)
    covers = home.tombstones().covers_content
    assert [covers(sha) for sha in (copy, other, alike)] == [request["id"], None, None]
    assert covers(hashlib.sha256(b"a picture").hexdigest()) == request["id"]
    assert verdicts(home, request["id"]) == {"deny tombstoned": 1, "unset removal-rejected": 1}


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (("--kind", "access"), "exactly one of"),
        (("--url", "https://a.example/", "--text", "x"), "You gave --url and --text"),
        (("--csv", "x.csv", "--text", "x"), "You gave --text and --csv"),
        (("--text", "\u200b "), "names nothing"),
        (("--picture", "nowhere.jpg"), "nowhere.jpg"),
        (("--url", "https://a.example/", "--regime", "gdpr", "--due", "2027-01-01"), "the law sets the deadline"),
        (("--url", "https://a.example/", "--regime", "own", "--due", "2020-01-01"), "before it was received"),
        (("--text", "x", "--requester", " "), "nobody"),
    ],
)
def test_bad_requests_are_refused(made: Home, arguments: tuple[str, ...], needle: str) -> None:
    """One message, and nothing filed."""
    assert needle in refused(made, "add", *arguments)
    assert ask(made, "SELECT count(*) FROM removal") == [(0,)]


# ── who asked ──────────────────────────────────────────────────────────────────────────────────────────────────────


def files_with(home: Home, *needles: str) -> list[str]:
    """The files under a home in which one of these stands, as text."""
    wanted = [needle.encode() for needle in needles]
    return [
        str(path.relative_to(home.path))
        for path in sorted(home.path.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in wanted)
    ]


def test_who_asked_is_in_no_file_and_can_be_forgotten(home: Home) -> None:
    """The name is read where nobody sees it, lies encrypted, is never said, and is gone after `forget`: its ciphertext
    from the ledger and the snapshot, too. Everything verifies, and the request goes on.
    """
    done = run(home, "add", "--url", image_url(1), "--requester", "-", "--json", given=f"{REQUESTER}\n")
    assert done.exit_code == 0
    assert "quixote" not in done.output.lower()
    removal = removals_of(home)[0]
    assert files_with(home, "Quixote", "quixote.example") == []
    with home.ledger(readonly=True) as ledger:
        assert removals.requester_of(ledger, removal, home.keys) == REQUESTER
        [(sealed,)] = ledger.query("SELECT identity FROM requester")
    assert any(sealed in path.read_bytes() for path in (home.ledger_path, home.snapshot_path))
    assert said(home, "forget", removal, "--by", "Ann", "--reason", "asked for")["requester"] is False
    assert not [p for p in home.path.rglob("*") if p.is_file() and sealed in p.read_bytes()]
    with home.ledger(readonly=True) as ledger:
        assert ledger.verify(home.keys) == ()
        assert removals.find(ledger, removal).state is removals.State.HELD
    assert "nobody's name" in refused(home, "forget", removal, "--by", " ")


def removals_of(home: Home) -> list[str]:
    return [name for (name,) in ask(home, "SELECT removal FROM removal ORDER BY received_at, removal")]


def test_who_asked_is_forgotten_when_the_request_is_closed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where nothing is kept, and a kill between the erasure and the compaction leaves nothing behind."""
    request = requests.add(home, "url", image_url(1), requester=REQUESTER)
    [(sealed,)] = ask(home, "SELECT identity FROM requester")
    with monkeypatch.context() as dying:
        dying.setattr("policy.ledger.Ledger.compact", lambda ledger: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            requests.reject(home, request.id, by="Ann", reason="not theirs")
    assert sealed in home.ledger_path.read_bytes()
    requests.look_again(home)
    assert sealed not in home.ledger_path.read_bytes() + home.snapshot_path.read_bytes()
    assert verdicts(home, request.id) == {"unset removal-rejected": 1}


def test_who_asked_is_forgotten_with_what_was_asked(home: Home) -> None:
    """Applying a request takes both out in one go: afterwards neither the ciphertext nor anything to read is left."""
    request = requests.add(home, "url", image_url(1), requester=REQUESTER)
    [(sealed,)] = ask(home, "SELECT identity FROM requester")
    approving.approve(home, request.id, by="Ann")
    [applied] = applying.apply(home, request.id, scan=False, receipts=False)
    assert (applied.state, requests.show(home, request.id).requester) == ("applied", False)
    assert not [p for p in home.path.rglob("*") if p.is_file() and sealed in p.read_bytes()]
    with home.ledger(readonly=True) as ledger:
        assert ledger.verify(home.keys) == ()


# ── kinds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_granted_objection_ends_new_use_and_erases_nothing(home: Home) -> None:
    """No tombstone and nothing to apply: the pairs are reserved, other bytes stay, and it can be taken back."""
    before = trainable(home)
    request = said(home, "add", "--url", page_url(0), "--kind", "objection")
    granted = said(home, "approve", request["id"], "--by", "Ann")
    assert (granted["state"], granted["days_left"]) == ("reserved", None)
    assert verdicts(home, request["id"]) == {"deny objected": 25}
    assert trainable(home) == before - 25
    assert home.tombstones().removals == ()
    assert ask(home, "SELECT count(*) FROM reserved WHERE mechanism = ?", f"removal/{request['id']}") == [(25,)]
    assert ask(home, "SELECT count(*) FROM erasure") == [(0,)]
    refused(home, "apply", request["id"], code=1)
    decide(home)
    assert trainable(home) == before - 25
    lifted = said(home, "lift", request["id"], "--by", "Ann", "--reason", "she wrote again")
    assert lifted["state"] == "lifted"
    assert trainable(home) == before
    assert ask(home, "SELECT count(*) FROM reserved") == [(0,)]


def test_a_credit_line_is_set_right(home: Home) -> None:
    """An attribution is added for each slot that is concerned, the newest counts, and nothing is held or taken out."""
    request = said(home, "add", "--url", image_url(1), "--kind", "attribution")
    assert verdicts(home, request["id"]) == {}
    assert "--credit-line" in refused(home, "approve", request["id"], "--by", "Ann")
    done = said(home, "approve", request["id"], "--by", "Ann", "--credit-line", "Jo Doe")
    assert said(home, "approve", request["id"], "--by", "Ann") == done
    assert (done["state"], len(done["slots"])) == ("credited", 1)
    ordinal = done["slots"][0]["ordinal"]
    sql = "SELECT creator, licence FROM attribution WHERE dataset = ? AND ordinal = ? ORDER BY batch_seq DESC"
    [(creator, licence), (before, same)] = ask(home, sql, DATASET, ordinal)
    assert (creator, before, licence) == ("Jo Doe", "Painter 1", same)
    assert home.tombstones().removals == ()


# ── deadlines ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_begins_with_what_is_due_and_marks_what_is_late(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the day it is due, extensions counted; what was not answered in time is escalated, once, and says so."""
    for n, day in enumerate(("2026-12-24", "2026-12-10")):
        filed = removals.RemovalRequest.receive(
            "image_url", image_url(n), now=datetime(2026, 11, 20, tzinfo=UTC), regime="own",
            due_on=datetime.fromisoformat(day).date(), removal=f"removal-{n}",
        )  # fmt: skip
        with home.ledger() as ledger:
            removals.record(ledger, filed)
    ccpa = said(home, "add", "--url", image_url(3), "--regime", "ccpa")
    later = said(home, "extend", ccpa["id"], "--by", "Ann", "--reason", "there are many of them")
    received = datetime.fromisoformat(later["received_at"])
    assert datetime.fromisoformat(later["due_at"]).date() == (received + timedelta(days=90)).date()
    assert "later than usual: there are many of them" in said(home, "show", ccpa["id"], "--for-requester")["text"]
    assert "extended before" in refused(home, "extend", ccpa["id"], "--by", "Ann", "--reason", "more", code=1)
    assert [r.id for r in requests.list_removals(home)] == ["removal-1", "removal-0", ccpa["id"]]
    now = datetime(2026, 12, 20, 6, tzinfo=UTC)
    for module in ("requests", "standing"):
        monkeypatch.setattr(f"flows.stages.removing.{module}.utc_now", lambda: now)
    found = requests.deadlines(home)
    assert found.pressing == (("removal-1", -10), ("removal-0", 4))
    assert {k: found.counts[k] for k in ("overdue", "due soon", "escalated")} == {
        "overdue": 1, "due soon": 1, "escalated": 1,
    }  # fmt: skip
    assert requests.deadlines(home) == found
    assert ask(home, "SELECT count(*) FROM removal_step WHERE action = 'escalated'") == [(1,)]
    assert requests.show(home, "removal-1").escalated


# ── many at once ───────────────────────────────────────────────────────────────────────────────────────────────────

BAD_ROWS = """url,domain,sha256,key,text,picture,kind,regime,due,received,requester
nope,,,,,,,,,,
https://a.example/,a.example,,,,,,,,,
,,,,,,,,,,
,a b,,,,,,,,,
,,abc,,,,,,,,
,,,xyz,,,,,,,
,,,,x,,revenge,,,,
,,,,x,,,dsgvo,,,
,,,,x,,,own,31.12.2026,,
,,,,x,,,gdpr,2026-12-31,,
,,,,x,,,,,2099-01-01,
,,,,,nowhere.jpg,,,,,
,,,,y,,,,,,
,,,,Y,,access,,,,
,,,,y,,,,,,
,,,,a\x07b,,,,,,
,,,,z
"""


def test_every_wrong_cell_of_a_csv_is_named_and_nothing_is_filed(made: Home, tmp_path: Path) -> None:
    """Row and column of each; good rows among them wait for the rest."""
    path = tmp_path / "requests.csv"
    path.write_text("".join(BAD_ROWS.splitlines(keepends=True)[:-1]), "utf-8")
    with pytest.raises(InputError) as wrong:
        intake_csv.file_csv(made, path)
    named = [one.partition(":")[0].strip() for one in wrong.value.what.split(";")]
    assert named == [
        *("row 2, column url", "row 3, column domain", "row 5, column domain", "row 6, column sha256"),
        *("row 7, column key", "row 8, column kind", "row 9, column regime", "row 10, column due"),
        *("row 11, column due", "row 12, column received", "row 13, column picture", "row 16, column text"),
        "row 17, column text",
    ]
    path.write_text(BAD_ROWS, "utf-8")
    with pytest.raises(InputError, match="row 18: 5 cells where the header has 11"):
        intake_csv.file_csv(made, path)
    assert ask(made, "SELECT count(*) FROM removal") == [(0,)]


@pytest.mark.parametrize(
    ("body", "needle"),
    [
        (b"", "no header"),
        (b"https://a.example/1.jpg\n", "unknown column"),
        (b"urll,kind\nhttps://a.example/,erasure\n", "Did you mean url"),
        (b"kind,regime\nerasure,gdpr\n", "no column names anything"),
        (b"url,url\na,b\n", "twice"),
        (b"url\n\n", "no row"),
        (b"url;kind\nx;y\n", "semicolons stand between the columns"),
        (b"url\n\xff\xfe\n", "not UTF-8"),
        (b'url\n"open\n', "not CSV"),
        (b"text,url\n,\n  ,\n", "no row"),
    ],
)
def test_what_is_no_csv_of_requests(made: Home, tmp_path: Path, body: bytes, needle: str) -> None:
    """A header that is missing or unknown, no rows, no text: one message that says what is expected."""
    path = tmp_path / "requests.csv"
    path.write_bytes(body)
    assert needle in refused(made, "add", "--csv", str(path))


def test_a_csv_is_filed_once_however_often_it_is_given(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the requests were recorded and before anything was held, it is given again, and again."""
    path = tmp_path / "requests.csv"
    lines = ["\ufeffURL , kind,received,requester", *(f"{image_url(n)},,2026-11-02,Jo Quixote {n}" for n in range(40))]
    path.write_text("\r\n".join([*lines, "https://nowhere.example/x.jpg,access,,"]), "utf-8")
    with monkeypatch.context() as dying:
        dying.setattr(requests, "record_matches_of", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            intake_csv.file_csv(home, path)
    assert ask(home, "SELECT count(*) FROM removal") == [(41,)]
    filed = said(home, "add", "--csv", str(path))
    assert [(f["row"], f["state"], f["held"]) for f in filed] == [
        *((n, "held", 1) for n in range(2, 42)),
        (42, "received", 0),
    ]
    assert filed[0]["due_at"].startswith("2026-12-02")
    assert [f.id for f in intake_csv.file_csv(home, path)] == [f["id"] for f in filed]
    assert ask(home, "SELECT count(*), count(DISTINCT removal) FROM removal") == [(41, 41)]
    assert ask(home, "SELECT count(*) FROM decision WHERE reason_code = 'removal-held'") == [(40,)]
    assert files_with(home, "Quixote") == []
    assert trainable(home) == COUNT - 40


def test_whom_a_search_for_a_person_could_not_tell_of_is_said(home: Home) -> None:
    """Pictures without pixels and faces too small are no "not found": reviewers read how many, the record keeps it."""
    counts = {"pictures": 9, "faces": 4, "too_small": 2, "without_pixels": 3, "failed": 0}
    asked = requests.Ask("person", "photo.jpg")
    [request] = requests.file(home, [(asked, requests.Found(None, (), counts))])
    told = " ".join(requests.show(home, request.removal).advice)
    assert "3 pictures with a face have no pixels left, 2 faces are too small to tell" in told
    assert "could not be looked at" not in told
    with home.ledger(readonly=True) as ledger:
        [step] = removals.steps(ledger, request.removal)
    assert (step.part, step.after) == ("search", json.dumps(counts, sort_keys=True, separators=(",", ":")))


def test_many_are_approved_in_one_pass(home: Home, made: Home, tmp_path: Path) -> None:
    """Approved together they empty the slots that each would alone; once more changes nothing; where one of them was
    decided otherwise it is named, and none is approved."""
    names = [requests.add(home, "url", image_url(n)).id for n in (3, 30)]
    told = said(home, "approve", *names, "--by", "Ann")
    assert [one["state"] for one in told] == ["approved"] * 2
    alone = copied(made, tmp_path / "alone")
    for one, n in zip(told, (3, 30), strict=True):
        [slot] = approving.approve(alone, requests.add(alone, "url", image_url(n)).id, by="Ann").slots
        assert one["slots"] == [{"dataset": slot.dataset, "ordinal": slot.ordinal}]
    epoch = home.tombstones().epoch
    assert approving.approve_all(home, *names, by="Ann")[0].slots
    assert home.tombstones().epoch == epoch
    assert "one request" in refused(home, "approve", *names, "--by", "Ann", "--with-near")
    last, looked = requests.add(home, "url", image_url(40)).id, requests.add(home, "url", image_url(41)).id
    requests.reject(home, looked, by="Ann", reason="not theirs")
    assert looked in refused(home, "approve", last, looked, "--by", "Ann", code=1)
    assert requests.show(home, last).state == "held"


def test_an_access_request_is_not_approved(home: Home) -> None:
    """It is answered; the words say how."""
    request = requests.add(home, "url", image_url(0), kind="access")
    with pytest.raises(InputError, match="answered, not approved") as wrong:
        approving.approve(home, request.id, by="Ann")
    assert "custody removal answer" in wrong.value.remedy
