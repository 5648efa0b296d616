"""robots.txt is read as its reference parser reads it, never laxer; absence, refusal and damage have a meaning."""

from __future__ import annotations

import importlib
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.origins import path_of
from policy.ruleset import Ruleset
from policy.signals.robots import RobotsRules, judge_robots, may_fetch, parse
from policy.verdict import Stance, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default().robots
FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "robots" / "google_cases.json"
ROBOTS = "https://a.example/robots.txt"


def allowed(text: str | bytes, path: str, agent: str = "custody") -> bool:
    body = text.encode() if isinstance(text, str) else text
    return parse(body).judge(agent, path).allowed


def document(body: bytes | None = b"", status: int | None = 200, **more: object) -> Document:
    values: dict[str, object] = {"body": body, "body_sha256": Document.digest(body or b""), "fetched_at": NOW, **more}
    return Document(url=ROBOTS, status=status, **values)  # type: ignore[arg-type]


def test_googles_assertions_hold() -> None:
    """Every assertion of the reference parser's test that is at hand gives the reference's answer."""
    if not FIXTURE.exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    cases = json.loads(FIXTURE.read_text(encoding="utf-8"))["cases"]
    wrong = [
        case
        for case in cases
        if allowed(case["robots_txt"], path_of(case["url"]), case["user_agent"]) is not case["allowed"]
    ]
    assert wrong == []
    assert len(cases) > 50


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        # groups
        ("User-agent: *\nDisallow: /\n", "/x", False),
        ("User-agent: *\nDisallow: /\nUser-agent: custody\nAllow: /\n", "/x", True),
        ("User-agent: custody\nUser-agent: other\nDisallow: /\n", "/x", False),
        ("User-agent: other\nDisallow: /\n", "/x", True),
        (
            "User-agent: custody\nDisallow: /a\nUser-agent: other\nDisallow: /b\nUser-agent: custody\nDisallow: /c\n",
            "/c",
            False,
        ),
        ("User-agent: custody\n\nUser-agent: *\nDisallow: /\n", "/x", False),
        ("User-agent: custody\nAllow: /a\nUser-agent: *\nDisallow: /\n", "/x", True),
        ("Disallow: /\nUser-agent: *\nAllow: /y\n", "/x", True),
        ("User-agent: CUSTODY/2.0 (+https://a.example)\nDisallow: /\n", "/x", False),
        ("User-agent: custodian\nDisallow: /\n", "/x", True),
        ("User-agent: * and all others\nDisallow: /\n", "/x", False),
        # lines that are no rule never close a group
        ("User-agent: *\nContent-Signal: ai-train=no\nDisallow: /\n", "/x", False),
        (
            "User-agent: *\nCrawl-delay: 3\nUser-agent: other\nLicense: https://a.example/l.xml\nDisallow: /\n",
            "/x",
            False,
        ),
        ("User-agent: *\nSitemap: https://a.example/s.xml\nDisallow: /\n", "/x", False),
        ("User-agent: *\nNonsense\n: empty\nDisallow: /\n", "/x", False),
        # the longest match wins, a tie allows, an empty rule says nothing
        ("User-agent: *\nDisallow: /a\nAllow: /a/b\n", "/a/b/c", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a/b\n", "/a/b/c", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a\n", "/a", True),
        ("User-agent: *\nDisallow:\n", "/x", True),
        ("User-agent: *\nDisallow: /*.jpg$\n", "/x.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$\n", "/x.jpg?y", True),
        ("User-agent: *\nDisallow: /a$b\n", "/a$bc", False),
        ("User-agent: *\nDisallow: /a*b*c$\n", "/aXbYbZc", False),
        ("User-agent: *\nDisallow: /a*bc$\n", "/abc", False),
        ("User-agent: *\nDisallow: /ab*b$\n", "/ab", True),
        # typing errors
        ("user-agent *\ndisallow /\n", "/x", False),
        ("useragent: *\ndissallow: /\n", "/x", False),
        ("User-agent : *\n  Disallow :/ # all\n", "/x", False),
        # line endings and byte order marks
        ("User-agent: *\rDisallow: /\r", "/x", False),
        ("User-agent: *\r\nDisallow: /\r\n", "/x", False),
        ("\ufeffUser-agent: *\nDisallow: /\n", "/x", False),
        ("User-agent: *\nDisallow: /".encode("utf-16"), "/x", False),
        (b"\xfe\xff" + "User-agent: *\nDisallow: /".encode("utf-16-be"), "/x", False),
        ("User-agent: *\nDisallow: /".encode("utf-16-le"), "/x", False),
        # percent-encoding: a Disallow holds in either reading, an Allow in the stricter one
        ("User-agent: *\nDisallow: /\u30c4\n", "/%e3%83%84", False),
        ("User-agent: *\nDisallow: /%62%61%7a\n", "/baz", False),
        ("User-agent: *\nDisallow: /baz\n", "/%62a%7A", False),
        ("User-agent: *\nDisallow: /a b\n", "/a%20b", False),
        ("User-agent: *\nDisallow: /a%2Ab\n", "/a*b", False),
        ("User-agent: *\nDisallow: /a%2Ab\n", "/aXb", True),
        ("User-agent: *\nDisallow: /\nAllow: /%62az\n", "/baz", False),
        ("User-agent: *\nDisallow: /\nAllow: /baz\n", "/%62az", False),
    ],
)
def test_rules_are_read_as_written(text: str | bytes, path: str, expected: bool) -> None:
    """Groups, precedence, tolerance, encodings: each as RFC 9309 and its reference parser have it."""
    assert allowed(text, path) is expected


@pytest.mark.parametrize("name", ["img2dataset", "archive.org_bot", "GPTBot", "Meta-ExternalAgent"])
def test_names_with_digits_and_dots_are_ours_too(name: str) -> None:
    """A product token that the RFC's alphabet cuts short is still found in its group."""
    assert not allowed(f"User-agent: {name}/1.0\nDisallow: /\n", "/x", name)
    assert not allowed(f"User-agent: {name.upper()}\nDisallow: /\n", "/x", name.lower())


def test_the_answer_names_the_very_line() -> None:
    """Line numbers count CR, LF and CRLF once each, and the line is quoted as it stands."""
    answer = parse(b"# x\r\n\rUser-agent: *\nDisallow: /a # all of a\n").judge("custody", "/a/b")
    assert answer == (False, 4, "Disallow: /a # all of a")


def test_extension_lines_are_kept_with_their_group() -> None:
    """Content-Usage, Content-Signal, License and Crawl-delay are handed to the mechanisms that read them."""
    file = parse(
        b"License: https://a.example/all.xml\nUser-agent: other\nContent-Usage: train-ai=y\nDisallow: /\n\n"
        b"User-agent: *\nContent-Signal: ai-train=no\nAllow: /\nContent-Usage: /p/ train-ai=n\n"
    )
    assert [(e.line_no, e.name, e.value) for e in file.extensions_for("custody")] == [
        (7, "content-signal", "ai-train=no"),
        (9, "content-usage", "/p/ train-ai=n"),
    ]
    assert [(e.line_no, e.name) for e in file.extensions] == [
        (1, "license"),
        (3, "content-usage"),
        (7, "content-signal"),
        (9, "content-usage"),
    ]
    assert file.agents == ("other", "*")


# ── against other parsers ──────────────────────────────────────────────────────────────────────────────────────────

_PIECES = (
    "/",
    "a",
    "b",
    "*",
    "$",
    "/a",
    "/b/",
    "index.html",
    "=",
    "%41",
    "%e3",
    "\u30c4",
    ".php",
    "*a",
    "//",
    ";",
    "&",
)
_KEYS = (
    "User-agent",
    "user-agent",
    "Disallow",
    "Disallow",
    "Allow",
    "Disalow",
    "Sitemap",
    "Content-Signal",
    "useragent",
)
_AGENTS = ("*", "custody", "Custody", "foobot", "* x", "custody/1.0", "foo bar", "cust", "custodybot")
_ENDS = ("\n", "\r\n", "\r", "\n\n", " # comment\n")


def _generated(rng: random.Random) -> str:
    def line() -> str:
        key = rng.choice(_KEYS)
        pattern = ("/" if rng.random() < 0.9 else "") + "".join(rng.choices(_PIECES, k=rng.randrange(5)))
        return key + rng.choice((":", ": ", " : ")) + (rng.choice(_AGENTS) if "gent" in key else pattern)

    return "".join(line() + rng.choice(_ENDS) for _ in range(rng.randrange(1, 12)))


def test_never_laxer_than_the_reference_parser() -> None:
    """On generated files the answer is that of a port of Google's parser; where it differs it is the stricter one.

    Where it is stricter, the port undoes percent-encoding in an Allow, which Google's own tests do not.
    """
    reference = importlib.import_module("robotstxt").RobotsMatcher()
    rng = random.Random(9309)
    differing = 0
    for _ in range(3_000):
        text = _generated(rng)
        path = "/" + quote("".join(rng.choices(_PIECES, k=rng.randrange(5))), safe="/%=&;$*.")
        theirs = reference.is_allowed(text, "custody", f"https://a.example{path}")
        ours = allowed(text, path)
        assert theirs or not ours, (text, path)
        differing += theirs is not ours
    assert differing < 10


def test_agrees_with_protego_on_plain_files() -> None:
    """Where no line but the RFC's own occurs, protego, an independent reading, gives the same answer."""
    protego = importlib.import_module("protego").Protego
    rng = random.Random(3986)
    for _ in range(500):
        rules = [
            f"{rng.choice(('Allow', 'Disallow'))}: /{''.join(rng.choices(('a', 'b', '/', 'ab/', '*'), k=3))}"
            for _ in range(rng.randrange(1, 6))
        ]
        text = "\n".join((f"User-agent: {rng.choice(('*', 'custody', 'other'))}", *rules))
        path = "/" + "".join(rng.choices("ab/", k=5))
        theirs = protego.parse(text).can_fetch(f"https://a.example{path}", "custody")
        assert allowed(text, path) is theirs, (text, path)


@given(st.binary(max_size=300), st.text(max_size=20))
def test_any_bytes_are_some_file(body: bytes, path: str) -> None:
    """No body and no path makes the parser fail, and its evidence can be stored as text."""
    judged = may_fetch(document(body), "https://a.example/" + quote(path), "custody", NOW, RULES)
    (judged.reason.detail + judged.where).encode()


# ── hostile files ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"User-agent: *\nDisallow: /" + b"*a" * 3_000 + b"b\n", True),
        (b"User-agent: *\nDisallow: /" + b"*" * 16_000 + b"b\n", True),
        (b"User-agent: *\nDisallow: /" + b"a" * 1_000_000, True),
        (b"User-agent: *\nDisallow: /\n" + b"#" * 1_000_000, False),
        (
            b"".join(b"User-agent: bot%d\nDisallow: /\n" % i for i in range(100_000)) + b"User-agent: *\nDisallow: /\n",
            False,
        ),
        (b"".join(b"User-agent: bot%d\n" % i for i in range(50_000)) + b"User-agent: *\nDisallow: /\n", False),
        (b"".join(b"User-agent: *\nDisallow: /b%d\n" % i for i in range(20_000)), True),
        (b"x\n" * 300_000 + b"User-agent: *\nDisallow: /\n", False),
    ],
    ids=["wildcards", "stars", "long-line", "long-comment", "groups", "agents", "own-groups", "junk-lines"],
)
def test_hostile_files_are_read_in_linear_time(body: bytes, expected: bool) -> None:
    """Backtracking patterns, endless lines and masses of groups are judged like any other file.

    Each takes milliseconds; a parser that is not linear would run into the test's time limit.
    """
    assert parse(body).judge("custody", "/" + "a" * 8_000).allowed is expected


def test_a_line_beyond_the_limit_is_cut_so_that_a_disallow_grows() -> None:
    """Of a 1 MB Disallow its beginning holds: the rule becomes wider, never lost."""
    body = b"User-agent: *\nDisallow: /x/" + b"a" * 1_000_000
    assert not allowed(body, "/x/" + "a" * 17_000)


# ── what the HTTP answer means ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "verdict", "code"),
    [
        (document(b"User-agent: *\nAllow: /\n"), Verdict.ALLOW, "robots-allow"),
        (document(b"User-agent: *\nDisallow: /y\n"), None, "robots-no-rule"),
        (document(b""), None, "robots-no-rule"),
        (document(b"User-agent: *\nDisallow: /\n"), Verdict.DENY, "robots-disallow"),
        (document(status=404), None, "robots-absent"),
        (document(status=410), None, "robots-absent"),
        (document(status=401), Verdict.DENY, "robots-forbidden"),
        (document(status=403), Verdict.DENY, "robots-forbidden"),
        (document(status=418), Verdict.DENY, "robots-forbidden"),
        (document(status=429), Verdict.DEFER, "robots-unreachable"),
        (document(status=500), Verdict.DEFER, "robots-unreachable"),
        (document(status=503), Verdict.DEFER, "robots-unreachable"),
        (document(status=None, error="timeout"), Verdict.DEFER, "robots-unreachable"),
        (document(status=503, fetched_at=NOW - timedelta(days=31)), Verdict.DENY, "robots-unreachable-long"),
        (document(status=302), Verdict.DEFER, "robots-unreadable"),
        (document(status=206), Verdict.DEFER, "robots-unreadable"),
        (document(b"User-agent: *\nAllow: /", error="reset"), Verdict.DEFER, "robots-unreadable"),
        (document(b"User-agent: *\nAllow: /", truncated=True), Verdict.DEFER, "robots-too-large"),
        (document(b"#" * (RULES.max_bytes + 1)), Verdict.DEFER, "robots-too-large"),
        (document(body=None), Verdict.DEFER, "evidence-incomplete"),
        (document(b"<!DOCTYPE html><p>Not found"), None, "robots-absent"),
        (document(b"<html>\nUser-agent: *\nDisallow: /\n"), Verdict.DENY, "robots-disallow"),
        (document(b"User-\xffagent: *\nDisallow: /\n"), Verdict.DEFER, "robots-bad-encoding"),
        (document(b"User-agent: *\nDisallow: /z\0\n"), Verdict.DEFER, "robots-bad-encoding"),
        (document(b"# Stra\xdfe\nUser-agent: *\nDisallow: /y\n"), None, "robots-no-rule"),
        (document(b"User-\xffagent: x\nUser-agent: *\nDisallow: /\n"), Verdict.DENY, "robots-disallow"),
        (document(b"", fetched_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
        (document(status=404, fetched_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
        (document(b"User-agent: *\nDisallow: /", fetched_at=NOW - timedelta(days=90)), Verdict.DENY, "robots-disallow"),
        (document(b"", fetched_at=NOW + timedelta(days=2)), Verdict.DEFER, "evidence-stale"),
        (None, Verdict.DEFER, "not-observed"),
    ],
)
def test_every_answer_of_the_origin_has_its_meaning(
    answer: Document | None, verdict: Verdict | None, code: str
) -> None:
    """Absence, refusal, silence, damage and age are told apart, and only a clear answer lets pass."""
    judged = may_fetch(answer, "https://a.example/x.jpg", "custody", NOW, RULES)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_the_rfcs_reading_of_a_refusal_is_a_knob() -> None:
    """With forbidden_status = "allow" a 403 means that there are no rules, as RFC 9309 has it."""
    lax = RobotsRules(("custody",), 30, "allow", 30, 1_000)
    assert may_fetch(document(status=403), "https://a.example/x", "custody", NOW, lax).verdict is None


# ── both origins ───────────────────────────────────────────────────────────────────────────────────────────────────


def evidence(origins: dict[str, str | None], **more: object) -> Evidence:
    found = tuple(
        OriginEvidence(
            origin,
            ()
            if text is None
            else (
                (
                    "robots",
                    Document(f"{origin}/robots.txt", 200, NOW, body=text.encode(), body_sha256=f"sha of {text}"),
                ),
            ),
        )
        for origin, text in origins.items()
    )
    values: dict[str, object] = {"page_url": "https://a.example/gallery", **more}
    return Evidence(
        image_url="https://b.example/x.jpg",
        observed_at=NOW,
        observer="test",
        observer_version="1",
        origins=found,
        **values,  # type: ignore[arg-type]
    )


DISALLOW = "User-agent: *\nDisallow: /\n"


@pytest.mark.parametrize(
    ("origins", "verdict", "where"),
    [
        ({"https://a.example": "", "https://b.example": ""}, None, "https://b.example/robots.txt"),
        ({"https://a.example": DISALLOW, "https://b.example": ""}, Verdict.DENY, "https://a.example/robots.txt:2"),
        ({"https://a.example": "", "https://b.example": DISALLOW}, Verdict.DENY, "https://b.example/robots.txt:2"),
        ({"https://b.example": ""}, Verdict.DEFER, "https://a.example"),
        ({"https://a.example": ""}, Verdict.DEFER, "https://b.example"),
        ({"https://a.example": "", "https://b.example": None}, Verdict.DEFER, "https://b.example"),
        ({"https://a.example": DISALLOW}, Verdict.DENY, "https://a.example/robots.txt:2"),
    ],
)
def test_the_pages_and_the_images_origin_are_both_asked(
    origins: dict[str, str | None], verdict: Verdict | None, where: str
) -> None:
    """A no of either origin counts, and one that was not asked keeps the sample out."""
    judged = judge_robots(evidence(origins), RULES, NOW)
    assert (judged.verdict, judged.where) == (verdict, where)


def test_a_url_without_a_page_asks_the_image_only() -> None:
    """From a URL list there is no page to ask."""
    assert judge_robots(evidence({"https://b.example": ""}, page_url=None), RULES, NOW).verdict is None


def test_a_redirects_target_is_asked_too() -> None:
    """Every hop's origin must let us pass, for the path it was asked."""
    hops = (Hop("https://b.example/x.jpg", 302, ()), Hop("https://c.example/deep/x.jpg", 200, ()))
    known = {"https://a.example": "", "https://b.example": ""}
    assert judge_robots(evidence(known, hops=hops), RULES, NOW).verdict is Verdict.DEFER
    judged = judge_robots(evidence({**known, "https://c.example": DISALLOW}, hops=hops), RULES, NOW)
    assert (judged.verdict, judged.where) == (Verdict.DENY, "https://c.example/robots.txt:2")


def test_every_origin_leaves_a_signal() -> None:
    """Not only the statement that won is recorded, but each with its place, line and document."""
    origins: dict[str, str | None] = {"https://a.example": "User-agent: *\nAllow: /g\n", "https://b.example": DISALLOW}
    judged = judge_robots(evidence(origins), RULES, NOW)
    assert [(s.where, s.stance, s.value) for s in judged.signals] == [
        ("https://b.example/robots.txt:2", Stance.DENY, "Disallow: /"),
        ("https://a.example/robots.txt:2", Stance.ALLOW, "Allow: /g"),
    ]
    assert judged.signals[0].document_sha256 == f"sha of {DISALLOW}"
    assert judged.reason.detail == "Disallow: /"


def test_a_no_to_any_of_our_names_counts() -> None:
    """With several product tokens each is asked, and one refusal is enough."""
    rules = RobotsRules(("custody", "custody-images"), 30, "deny", 30, 10_000)
    text = "User-agent: custody-images\nDisallow: /\n"
    assert may_fetch(document(text.encode()), "https://a.example/x", "custody", NOW, rules).verdict is None
    judged = judge_robots(evidence({"https://b.example": text}, page_url=None), rules, NOW)
    assert judged.verdict is Verdict.DENY


def test_dot_segments_do_not_slip_past_a_rule() -> None:
    """The path is resolved as a browser does before it is matched."""
    body = document(b"User-agent: *\nDisallow: /private/\n")
    for url in (
        "https://a.example/p/../private/x",
        "https://a.example/p/%2e%2E/private/x",
        "https://a.example\\private\\x",
    ):
        assert may_fetch(body, url, "custody", NOW, RULES).verdict is Verdict.DENY, url
