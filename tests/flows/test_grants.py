"""`custody grant`: what is recorded or refused, and how crawling, deciding, sealing and credits rest on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flows import home as home_module
from flows import settings
from flows.cli import cli
from flows.home import Home
from flows.stages import decide
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.site import Answer, Site, picture

TODAY = datetime.now(UTC).date()
GIVER = "Ada Lovelace of 12 St James's Square"
PAGE = b"""<title>Fruit</title><a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>
<img src="/open.png" alt="a green pear"><img src="/quiet.png" alt="a red apple">
<img src="/hidden/deep.png" alt="a blue plum">"""
BARE = b'<title>Nothing is said</title><img src="/open.png" alt="a green pear">'


@pytest.fixture
def site() -> Iterator[Site]:
    answers = {
        f"/{name}.png": Answer(picture(n), "image/png") for n, name in enumerate(("open", "quiet", "hidden/deep"))
    }
    answers["/quiet.png"].headers.append(("X-Robots-Tag", "noai"))
    answers["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /hidden/\n", "text/plain")
    with Site({"/": Answer(PAGE), "/bare": Answer(BARE), **answers}) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path, site: Site, fresh_home: Callable[..., Home]) -> Home:
    default = Ruleset.default_text()
    mechanisms = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    return fresh_home(
        tmp_path / "home",
        settings_text=replaced(
            settings.DEFAULT_TEXT,
            {
                "allow_addresses = []": f'allow_addresses = ["{site.address}"]',
                "retries = 2 ": "retries = 0 ",
                "decode_workers = 2": "decode_workers = 1",
            },
        ),
        policy_text=replaced(default, {mechanisms: '["robots", "x_robots", "licence", "faces", "tombstone"]'}),
    )


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "agreement.pdf"
    path.write_bytes(b"signed in the presence of")
    return path


def run(home: Home | Path, *arguments: object) -> Result:
    """A command in this process, through the console script's own door."""
    place = home.path if isinstance(home, Home) else home
    return CliRunner().invoke(cli, [*map(str, arguments), "--home", str(place)], prog_name="custody")


def told(home: Home, *arguments: object) -> Any:
    """What a command that must succeed prints as JSON."""
    result = run(home, *arguments, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


def refused(result: Result, *said: str) -> None:
    """Exit 2, one line on standard error, nothing on output."""
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    messages = [line for line in result.stderr.splitlines() if line.startswith("custody: ")]
    assert len(messages) == 1, result.stderr
    assert result.stdout == ""
    for text in said:
        assert text in messages[0], messages[0]


def give(home: Home, document: Path, *arguments: object, capacity: str = "rights-holder") -> Any:
    given = ("--giver", GIVER, "--capacity", capacity, "--document", document)
    return told(home, "grant", "add", *given, *arguments)


def standing(home: Home) -> dict[str, tuple[str, str]]:
    """Image path -> verdict and reason."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            "SELECT DISTINCT image_url, s.verdict, s.reason_code FROM standing s JOIN occurrence USING (pair_key)"
        )
    return {"/" + url.partition("//")[2].partition("/")[2]: (verdict, code) for url, verdict, code in rows}


def ruling(home: Home, path: str, rule: str) -> tuple[str, str, str]:
    """Verdict, reason and detail of a rule's latest decision on the picture at a path."""
    with home.ledger(readonly=True) as ledger:
        [found] = ledger.query(
            "SELECT DISTINCT verdict, reason_code, reason_detail FROM latest_decision JOIN occurrence USING (pair_key) "
            "WHERE ends_with(image_url, ?) AND rule = ?",
            [path, rule],
        )
    verdict, code, detail = found
    return verdict, code, detail


# ── recorded, or refused ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_grant_is_recorded_with_its_documents_digest(home: Home, document: Path) -> None:
    """Giver, capacity, scope in canonical form, what it covers, from when to when; the paper itself stays outside."""
    said = give(home, document, "--url", "HTTP://A.example:80/x#y", "--covers", "xmp, licence", "--to", "2999-12-31")
    assert (said["state"], said["scope_kind"], said["scope"]) == ("valid", "url", "http://a.example/x")
    assert (said["mechanisms"], said["valid_to"]) == (["licence", "xmp"], "2999-12-31T23:59:59+00:00")
    assert said["document_sha256"] == hashlib.sha256(document.read_bytes()).hexdigest()
    assert told(home, "grant", "list") == [said]
    assert GIVER in run(home, "grant", "list").stdout
    assert [f for f in home.path.rglob("*") if f.is_file() and b"in the presence of" in f.read_bytes()] == []
    assert told(home, "verify")["ok"]


def test_by_default_it_covers_all_that_its_giver_may_give(home: Home, document: Path) -> None:
    """And lasts from now on, until it is ended."""
    said = give(home, document, "--domain", "B\u00fccher.example", capacity="site-operator")
    covered = {"robots", "ai_agents", "content_usage", "content_signal", "x_robots", "ai_txt", "trust_txt"}
    assert set(said["mechanisms"]) == covered
    assert (said["scope"], said["valid_to"], said["ended_at"]) == ("xn--bcher-kva.example", None, None)


@pytest.mark.parametrize("day", [TODAY + timedelta(days=5), TODAY - timedelta(days=5)])
def test_a_grant_that_is_not_in_force_is_listed_as_what_it_is(home: Home, document: Path, day: Any) -> None:
    """Agreed for later, or over: on record all the same."""
    said = give(home, document, "--sha256", "AB" * 32, "--from", day, "--to", day)
    assert said["state"] == ("future" if day > TODAY else "expired")
    assert said["valid_from"] == f"{day}T00:00:00+00:00"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--covers": "tombstone"}, ("no grant covers 'tombstone'",)),
        ({"--covers": "licence,registry"}, ("no grant covers 'registry'",)),
        ({"--covers": "safety"}, ("no grant covers 'safety'",)),
        ({"--covers": "duplicate"}, ("no grant covers 'duplicate'",)),
        ({"--covers": "size"}, ("no grant covers 'size'",)),
        ({"--covers": "text"}, ("no grant covers 'text'",)),
        ({"--covers": "removal/removal-1"}, ("no grant covers 'removal/removal-1'",)),
        ({"--covers": "license"}, ("no grant covers 'license'", "licence")),
        ({"--covers": " , "}, ("covers nothing",)),
        ({"--covers": "robots"}, ("only a site-operator can give robots",)),
        ({"--covers": "faces"}, ("only a depicted-person can give faces",)),
        ({"--capacity": "depicted-person", "--covers": "licence"}, ("only a rights-holder can give licence",)),
        ({"--capacity": "site-operator", "--covers": "xmp"}, ("only a rights-holder can give xmp",)),
        ({"--capacity": "site-operator", "--domain": None, "--sha256": "ab" * 32}, ("cannot give for a sha256",)),
        ({"--capacity": "site-operator", "--domain": None, "--creator": "Ada"}, ("cannot give for a creator",)),
        ({"--giver": " "}, ("--giver", "somebody")),
        ({"--domain": None}, ("exactly one of", "You gave none")),
        ({"--url": "https://a.example/"}, ("exactly one of", "--url and --domain")),
        ({"--domain": "co.uk"}, ("public suffix",)),
        ({"--domain": "*.a.example"}, ("no host name",)),
        ({"--domain": "a.example/x"}, ("no host name",)),
        ({"--domain": "a.example:80"}, ("no host name",)),
        ({"--domain": ""}, ("no host name",)),
        ({"--domain": None, "--url": "nope"}, ("not an http or https URL",)),
        ({"--domain": None, "--url": "https://me:secret@a.example/"}, ("password or a signature",)),
        ({"--domain": None, "--sha256": "abc"}, ("is not 64 hex digits",)),
        ({"--domain": None, "--creator": " "}, ("nobody's name",)),
        ({"--from": "2026-05-02", "--to": "2026-05-01"}, ("ends 2026-05-01, before it begins 2026-05-02",)),
        ({"--to": "2020-01-01"}, ("before it begins",)),
        ({"--to": "soon"}, ("'soon' is no date",)),
        ({"--document": "no-such.pdf"}, ("the document cannot be read", "no-such.pdf")),
        ({"--document": "."}, ("the document cannot be read",)),
        ({"--document": "/dev/null"}, ("the document is empty",)),
    ],
)
def test_what_nobody_can_give_is_not_recorded(
    home: Home, document: Path, changes: dict[str, str | None], said: tuple[str, ...]
) -> None:
    """Not the giver's to give, no giver, no scope, no paper, no time: one message, exit 2, no row."""
    given: dict[str, str | None] = {
        "--giver": GIVER,
        "--capacity": "rights-holder",
        "--domain": "a.example",
        "--document": str(document),
    }
    arguments = [word for option, value in (given | changes).items() if value is not None for word in (option, value)]
    result = run(home, "grant", "add", *arguments)
    refused(result, *said)
    assert GIVER not in result.stderr
    assert told(home, "grant", "list") == []


def test_what_is_missing_at_the_prompt_is_named(home: Home, document: Path) -> None:
    """No giver, no capacity, no document: wrong use."""
    for missing in ("--giver", "--capacity", "--document"):
        given = {"--giver": GIVER, "--capacity": "rights-holder", "--document": str(document), "--domain": "a.example"}
        del given[missing]
        result = run(home, "grant", "add", *(word for pair in given.items() for word in pair))
        assert result.exit_code == 2
        assert missing in result.stderr


def test_a_grant_is_ended_once_and_for_a_reason(home: Home, document: Path) -> None:
    """The end is a row beside the first; ending again changes nothing; of an unknown grant there is no end."""
    grant = give(home, document, "--domain", "a.example")["id"]
    refused(run(home, "grant", "end", grant, "--reason", " "), "--reason")
    refused(run(home, "grant", "end", "grant-0", "--reason", "x"), "no such grant", "custody grant list")
    ended = told(home, "grant", "end", grant, "--reason", "the artist took it back")
    assert (ended["state"], ended["giver"]) == ("ended", GIVER)
    assert told(home, "grant", "end", grant, "--reason", "once more") == ended
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query("SELECT consent, state, giver, scope FROM consent ORDER BY batch_seq")
        assert rows == [(grant, "given", GIVER, "a.example"), (grant, "ended", None, None)]
        assert ledger.query("SELECT subject, detail FROM event WHERE kind = 'grant-ended'") == [
            (grant, "the artist took it back")
        ]
    assert told(home, "verify")["ok"]


@pytest.mark.parametrize("command", [("grant", "list"), ("grant", "end", "x", "--reason", "y"), ("policy", "lists")])
def test_without_a_home_there_are_no_grants_and_no_lists(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A folder that is no home is left alone."""
    (tmp_path / "folder").mkdir()
    refused(run(tmp_path / "folder", *command), "is not a home")
    assert list((tmp_path / "folder").iterdir()) == []


# ── rested on ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_decision_rests_on_a_grant_and_falls_with_it(home: Home, site: Site, document: Path) -> None:
    """Granted at the next decide, named in reason and audit; ended, the no stands again, and nobody sees the giver."""
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    assert standing(home)["/quiet.png"] == ("deny", "x-robots-noai")
    grant = give(home, document, "--url", site.url("/quiet.png"), "--covers", "x_robots")["id"]
    assert told(home, "decide")["changed"] == 1
    assert standing(home)["/quiet.png"] == ("defer", "not-observed")  # nobody looked for faces in what was denied
    told(home, "crawl", "--retry", "unobserved")
    told(home, "decide")
    assert standing(home)["/quiet.png"][0] == "allow"
    assert ruling(home, "/quiet.png", "x_robots") == (
        *("allow", "granted"),
        f"{grant} (rights-holder, without an end): x-robots-noai",
    )
    [audited] = told(home, "audit", "grants")
    assert (audited["grant_id"], audited["state"], audited["rule"], audited["pairs"]) == (grant, "valid", "x_robots", 1)
    assert GIVER not in run(home, "why", site.url("/quiet.png")).stdout
    assert told(home, "seal", "--name", "with")["slots"] == 2
    told(home, "grant", "end", grant, "--reason", "taken back")
    assert told(home, "seal", "--name", "without")["slots"] == 1
    assert standing(home)["/quiet.png"] == ("deny", "x-robots-noai")
    [audited] = told(home, "audit", "grants")
    assert (audited["state"], audited["rule"], audited["pairs"]) == ("ended", None, 0)


def test_a_grant_that_ran_out_covers_nothing_at_the_next_decide(
    home: Home, site: Site, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to end it: its last day does."""
    last = TODAY + timedelta(days=2)
    give(home, document, "--url", site.url("/quiet.png"), "--covers", "x_robots", "--to", last)
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    assert standing(home)["/quiet.png"][0] == "allow"
    later = datetime.now(UTC) + timedelta(days=3)
    monkeypatch.setattr(home_module, "utc_now", lambda: later)
    monkeypatch.setattr(decide, "utc_now", lambda: later)
    decide.decide(home)
    assert standing(home)["/quiet.png"] == ("deny", "x-robots-noai")


def test_a_site_operator_lets_the_crawler_in(home: Home, site: Site, document: Path) -> None:
    """What robots.txt disallows is fetched and sealed under the operator's grant, and asked no more when it ends."""
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    assert "/hidden/deep.png" not in site.requests
    assert standing(home)["/hidden/deep.png"][0] == "deny"
    grant = give(home, document, "--domain", "127.0.0.1", "--covers", "robots", capacity="site-operator")["id"]
    told(home, "crawl", site.url("/"))
    assert site.requests["/hidden/deep.png"] == 1
    told(home, "decide")
    assert standing(home)["/hidden/deep.png"][0] == "allow"
    assert ruling(home, "/hidden/deep.png", "robots")[2].endswith(": robots-disallow")
    told(home, "grant", "end", grant, "--reason", "taken back")
    told(home, "decide")
    assert standing(home)["/hidden/deep.png"] == ("deny", "robots-disallow")
    told(home, "crawl", site.url("/"))
    assert site.requests["/hidden/deep.png"] == 1


def test_a_site_that_does_not_answer_has_not_agreed(home: Home, site: Site, document: Path) -> None:
    """The operator's grant answers robots.txt's no, not its silence: nothing of the site is asked for."""
    site.answers["/robots.txt"] = Answer(b"", "text/plain", 503)
    give(home, document, "--domain", "127.0.0.1", "--covers", "robots", capacity="site-operator")
    refused(run(home, "crawl", site.url("/")), "robots-unreachable")
    assert not site.requests["/"]


def test_an_agreement_is_the_samples_licence(home: Home, site: Site, document: Path) -> None:
    """Where no licence is stated it is LicenseRef-<grant>: in the view, in the slot, in the attribution, no link."""
    told(home, "crawl", site.url("/bare"))
    told(home, "decide")
    assert set(standing(home).values()) == {("deny", "licence-unknown")}
    grant = give(home, document, "--domain", "127.0.0.1", "--covers", "licence")["id"]
    licence = f"LicenseRef-{grant}"
    told(home, "crawl", site.url("/bare"))  # the pixels of what was denied are not kept
    told(home, "seal", "--name", "agreed")
    assert told(home, "sql", "SELECT DISTINCT licence FROM trainable") == [{"licence": licence}]
    credits = """SELECT DISTINCT s.licence, a.licence AS credited, a.licence_url
        FROM slot s JOIN attribution a USING (dataset, ordinal)"""
    assert told(home, "sql", credits) == [{"licence": licence, "credited": licence, "licence_url": ""}]
    assert [(r["licence"], r["samples"]) for r in told(home, "audit", "licences")] == [(licence, 1)]


def test_no_grant_opens_what_was_removed(home: Home, site: Site, document: Path) -> None:
    """The person's no outlives every yes: a tombstone stands whatever is granted."""
    told(home, "crawl", site.url("/"))
    removal = told(home, "removal", "add", "--url", site.url("/open.png"))["id"]
    told(home, "removal", "approve", removal, "--by", "a test")
    for capacity in ("rights-holder", "site-operator", "depicted-person"):
        give(home, document, "--domain", "127.0.0.1", capacity=capacity)
    told(home, "decide")
    assert standing(home)["/open.png"] == ("deny", "tombstoned")
