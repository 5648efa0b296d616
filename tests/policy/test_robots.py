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
from policy.signals import robots
from policy.signals.robots import RobotsFile, RobotsRules, crawl_delay, judge_robots, may_fetch, parse
from policy.verdict import Stance, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default().robots
FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "robots" / "google_cases.json"
ROBOTS = "https://a.example/robots.txt"


def allowed(text: str | bytes, path: str, agent: str = "custody") -> bool:
    body = text.encode() if isinstance(text, str) else text
    return parse(body).judge(agent, path).allowed


def scanned(text: str | bytes) -> RobotsFile:
    """The file read as one is that is too long to make every rule ready."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robots, "_SMALL_CHARS", -1)
        file = parse(text.encode() if isinstance(text, str) else text)
        for agent in ("custody", "foobot", "FooBot", "F", "Foo", "Foo Bar", "foo", "BarBot", "BazBot", ""):
            file.judge(agent, "/")
    return file


def allowed_when_scanned(text: str | bytes, path: str, agent: str = "custody") -> bool:
    return scanned(text).judge(agent, path).allowed


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


# ── the reference parser's own promises, in our words ──────────────────────────────────────────────────────────────

_THREE = (
    "allow: /foo/bar/\n\nuser-agent: FooBot\ndisallow: /\nallow: /x/\nuser-agent: BarBot\ndisallow: /\nallow: /y/\n"
    "\n\nallow: /w/\nuser-agent: BazBot\n\nuser-agent: FooBot\nallow: /z/\ndisallow: /\n"
)
_SPACED = "User-Agent: *\nDisallow: /\nUser-Agent: Foo Bar\nAllow: /x/\nDisallow: /\n"
_WILD = "User-agent: FooBot\nDisallow: /foo/bar/quz\nAllow: /foo/*/qux\n"
_END = "User-agent: FooBot\nDisallow: /foo/bar$\nAllow: /foo/bar/qux\n"
_COMMENT = "User-agent: FooBot\n# Disallow: /\nDisallow: /foo/quz#qux\nAllow: /\n"
_INDEX = "User-Agent: *\nAllow: /allowed-slash/index.html\nDisallow: /\n"
_LONG = "a" * (2083 * 8)


@pytest.mark.parametrize(
    ("text", "agent", "path", "expected"),
    [
        # nobody asks, or nothing is said
        ("", "", "/", True),
        ("user-agent: FooBot\ndisallow: /\n", "", "/", True),
        ("", "FooBot", "/x/y", True),
        ("foo: FooBot\nbar: /\n", "FooBot", "/x/y", True),
        # groups, merged and apart
        (_THREE, "FooBot", "/x/b", True),
        (_THREE, "FooBot", "/z/d", True),
        (_THREE, "FooBot", "/y/c", False),
        (_THREE, "BarBot", "/y/c", True),
        (_THREE, "BarBot", "/w/a", True),
        (_THREE, "BarBot", "/foo/bar/", False),
        (_THREE, "BazBot", "/z/d", True),
        ("User-agent: BarBot\nSitemap: https://foo.bar/s\nUser-agent: *\nDisallow: /\n", "FooBot", "/", False),
        ("User-agent: FooBot\nUnknown: x\nUser-agent: *\nDisallow: /\n", "FooBot", "/", False),
        ("user-agent: *\nallow: /\nuser-agent: FooBot\ndisallow: /\n", "BarBot", "/x/y", True),
        ("user-agent: *\ndisallow: /x/\nuser-agent: FooBot\ndisallow: /y/\n", "FooBot", "/x/page", True),
        # names in any case, up to the first space
        ("USER-AGENT: FooBot\nALLOW: /x/\nDISALLOW: /\n", "FooBot", "/x/y", True),
        ("user-agent: FooBot\nallow: /x/\ndisallow: /\n", "FooBot", "/a/b", False),
        ("uSeR-aGeNt: FooBot\nAlLoW: /x/\ndIsAlLoW: /\n", "FooBot", "/x/y", True),
        ("User-Agent: FOO BAR\nAllow: /x/\nDisallow: /\n", "foo", "/x/y", True),
        ("User-Agent: FoO bAr\nAllow: /x/\nDisallow: /\n", "Foo", "/x/y", True),
        (_SPACED, "Foo", "/x/y", True),
        (_SPACED, "Foo Bar", "/x/y", False),
        # values keep their case
        ("user-agent: FooBot\ndisallow: /x/\n", "FooBot", "/x/y", False),
        # the longest match
        ("user-agent: FooBot\ndisallow: /x/page.html\nallow: /x/\n", "FooBot", "/x/page.html", False),
        ("user-agent: FooBot\nallow: /x/page.html\ndisallow: /x/\n", "FooBot", "/x/", False),
        ("user-agent: FooBot\ndisallow: /\nallow: /\n", "FooBot", "/x/page.html", True),
        ("user-agent: FooBot\ndisallow: /x\nallow: /x/\n", "FooBot", "/x/", True),
        ("user-agent: FooBot\nallow: /page\ndisallow: /*.html\n", "FooBot", "/page.html", False),
        ("user-agent: FooBot\nallow: /x/page.\ndisallow: /*.html\n", "FooBot", "/x/page.html", True),
        # encodings: an Allow means the escapes that it writes
        ("User-agent: F\nDisallow: /\nAllow: /a?q=t&b=http://c?d&e\n", "F", "/a?q=t&b=http://c?d&e", True),
        ("User-agent: F\nDisallow: /\nAllow: /foo/bar/\u30c4\n", "F", "/foo/bar/\u30c4", False),
        ("User-agent: F\nDisallow: /\nAllow: /foo/bar/%E3%83%84\n", "F", "/foo/bar/\u30c4", False),
        ("User-agent: F\nDisallow: /\nAllow: /foo/bar/%62%61%7A\n", "F", "/foo/bar/%62%61%7A", True),
        # wildcards, the end mark, comments
        (_WILD, "FooBot", "/foo/quz", True),
        (_WILD, "FooBot", "/foo/bax/quz", True),
        (_END, "FooBot", "/foo/bar/qux", True),
        (_END, "FooBot", "/foo/bar/baz", True),
        (_COMMENT, "FooBot", "/foo/quz", False),
        # an index page stands for its directory
        (_INDEX, "foobot", "/allowed-slash/index.htm", False),
        (_INDEX, "foobot", "/anyother-url", False),
        # long lines are cut
        (f"user-agent: FooBot\ndisallow: /x/{_LONG}/qux\n", "FooBot", "/fux", True),
        (f"user-agent: FooBot\ndisallow: /x/{_LONG}/qux\n", "FooBot", f"/x/{_LONG}/fux", False),
        (f"user-agent: F\ndisallow: /\nallow: /x/{_LONG}/qux\n", "F", "/", False),
        (f"user-agent: F\ndisallow: /\nallow: /x/{_LONG}/qux\n", "F", f"/x/{_LONG}/fux", True),
        # the precedence of its documentation
        ("user-agent: F\nallow: /p\ndisallow: /\n", "F", "/page", True),
        ("user-agent: F\nallow: /page\ndisallow: /*.htm\n", "F", "/page.htm", False),
        ("user-agent: F\nallow: /$\ndisallow: /\n", "F", "/page.html", False),
    ],
)
def test_the_reference_parsers_promises_hold(text: str, agent: str, path: str, expected: bool) -> None:
    """What the reference parser's documentation and tests promise beyond the fixture is kept, in any size of file."""
    assert allowed(text, path, agent) is expected
    assert allowed_when_scanned(text, path, agent) is expected


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/fish", ["/fish", "/fish/salmon.html", "/fishheads/yummy.html"], ["/Fish.asp", "/?id=fish", "/desert/fish"]),
        ("/fish*", ["/fish", "/fish/salmon.html", "/fishheads/yummy.html"], ["/Fish.asp", "/?id=fish", "/catfish"]),
        ("/fish/", ["/fish/", "/fish/salmon", "/fish/?salmon"], ["/fish", "/fish.html", "/animals/fish/"]),
        ("/*.php", ["/folder/filename.php", "/any.php.file.html", "/index?f=filename.php/"], ["/php/", "/", "/x.PHP"]),
        ("/*.php$", ["/filename.php", "/folder/filename.php"], ["/filename.php/", "/x.php?p", "/x.php5", "/x?php"]),
        ("/fish*.php", ["/fish.php", "/fishheads/catfish.php?parameters"], ["/Fish.PHP", "/fish.html"]),
    ],
)
def test_patterns_match_what_the_documentation_says(pattern: str, matching: list[str], others: list[str]) -> None:
    """Each pattern of the public documentation's table holds for its matches and for nothing else there."""
    text = f"user-agent: FooBot\ndisallow: /\nallow: {pattern}\n"
    for check in (allowed, allowed_when_scanned):
        assert [path for path in (*matching, *others) if check(text, path, "FooBot")] == matching


@pytest.mark.parametrize(
    ("start", "expected"),
    [(b"\xef\xbb\xbf", False), (b"\xef\xbb", False), (b"\xef", False), (b"", False), (b"\xef\x11\xbf", True)],
)
def test_a_byte_order_mark_and_its_beginnings_are_skipped(start: bytes, expected: bool) -> None:
    """A whole or cut mark hides no first line; other bytes make it one that is not known."""
    assert allowed(start + b"User-agent: custody\nDisallow: /\n", "/x") is expected


# ── against other parsers ──────────────────────────────────────────────────────────────────────────────────────────

_PIECES = (
    *("/", "a", "b", "*", "$", "/a", "/b/", "index.html", "index.htm", "=", "%41", "%e3", "%2F", "\u30c4", "\xe9"),
    *(".php", "*a", "//", ";", "&", "~", "|", " ", "i"),
)
_AGENT_KEYS = ("User-agent", "user-agent", "USER AGENT", "useragent", "User-Agent")
_RULE_KEYS = (
    *("Disallow", "Disallow", "Disallow", "Allow", "Allow", "ALLOWED", "disallowed"),
    *("Disalow", "dissallow", "Dissalow", "diasllow", "disallaw"),
)
_OTHER_KEYS = ("Sitemap", "Content-Signal", "Content-Usage", "License", "Crawl-delay", "Host", "Foo", "# Disallow", "")
_AGENTS = (
    "*",
    "custody",
    "Custody",
    "CUSTODY (compatible)",
    "foobot",
    "* x",
    "custody/1.0",
    "foo bar",
    "cust",
    "*x",
    "",
)
_ENDS = ("\n", "\r\n", "\r", "\n\n", " # comment\n", "#\n", "\t\n")


def _generated(rng: random.Random) -> str:
    def line() -> str:
        separator = rng.choice((":", ": ", " : ", "  :\t")) if rng.random() < 0.95 else rng.choice((" ", "\t"))
        start, kind = rng.choice(("", "", "", "", " ", "\t")), rng.random()
        if kind < 0.3:
            return start + rng.choice(_AGENT_KEYS) + separator + rng.choice(_AGENTS)
        key = rng.choice(_RULE_KEYS if kind < 0.9 else _OTHER_KEYS)
        return start + key + separator + ("/" if rng.random() < 0.85 else "") + "".join(_some_pieces(rng))

    usual = rng.choice(_ENDS[:3])
    lines = (line() + (usual if rng.random() < 0.8 else rng.choice(_ENDS)) for _ in range(rng.randrange(1, 14)))
    return rng.choice(("", "", "\ufeff")) + "".join(lines)


def _some_pieces(rng: random.Random) -> list[str]:
    return rng.choices(_PIECES, k=rng.randrange(6))


def _path(rng: random.Random) -> str:
    return "/" + quote("".join(_some_pieces(rng)), safe="/%=&;$*.~")


def test_never_laxer_than_the_reference_parser() -> None:
    """On 20,000 generated files the answer is that of a port of Google's parser; where it differs it is stricter.

    Odd keys, typing errors, marks, line endings, wildcards, escapes. Where it is stricter, a Disallow is matched
    through percent-encoding in both readings, or the port undoes the encoding in an Allow, which Google's does not.
    """
    reference = importlib.import_module("robotstxt").RobotsMatcher()
    rng = random.Random(9309)
    differing = 0
    for _ in range(20_000):
        text, path = _generated(rng), _path(rng)
        theirs = reference.is_allowed(text, "custody", f"https://a.example{path}")
        ours = allowed(text, path)
        assert theirs or not ours, (text, path)
        differing += theirs is not ours
    assert differing < 40


@given(st.randoms(use_true_random=False))
def test_never_laxer_wherever_the_search_leads(rng: random.Random) -> None:
    """The same promise, with every choice of the generator drawn (and shrunk) by Hypothesis."""
    text, path = _generated(rng), _path(rng)
    reference = importlib.import_module("robotstxt").RobotsMatcher()
    assert reference.is_allowed(text, "custody", f"https://a.example{path}") or not allowed(text, path)


def test_encodings_and_line_ends_change_nothing() -> None:
    """A file says the same in UTF-8 and UTF-16, with a mark or (where it can be told) without, whatever ends a line."""
    rng = random.Random(3629)
    for _ in range(1_000):
        text, path = _generated(rng).removeprefix("\ufeff"), _path(rng)
        expected = parse(text.encode()).judge("custody", path)
        lines = text.replace("\r\n", "\n").replace("\r", "\n")
        for end in ("\n", "\r", "\r\n"):
            same = lines.replace("\n", end)
            for body in (
                b"\xef\xbb\xbf" + same.encode(),
                b"\xff\xfe" + same.encode("utf-16-le"),
                b"\xfe\xff" + same.encode("utf-16-be"),
            ):
                assert parse(body).judge("custody", path) == expected, (body, path)


def test_agrees_with_protego_on_plain_files() -> None:
    """Where no line but the RFC's own occurs, protego, an independent reading, gives the same answer."""
    protego = importlib.import_module("protego").Protego
    rng = random.Random(3986)
    for _ in range(5_000):
        lines = [f"User-agent: {rng.choice(('*', 'custody', 'other'))}"]
        for _ in range(rng.randrange(1, 8)):
            pattern = "".join(rng.choices(("a", "b", "/", "ab/", "*"), k=3))
            agent = rng.choice(("*", "custody", "other"))
            lines.append(rng.choice((f"Allow: /{pattern}", f"Disallow: /{pattern}", f"User-agent: {agent}")))
        text = "\n".join(lines)
        path = "/" + "".join(rng.choices("ab/", k=5))
        theirs = protego.parse(text).can_fetch(f"https://a.example{path}", "custody")
        assert allowed(text, path) is theirs, (text, path)


def test_protego_lets_an_unknown_line_close_a_group_and_we_do_not() -> None:
    """The known mistake of protego, kept here so that nobody takes its answer for the right one."""
    text = "User-agent: custody\nContent-Signal: ai-train=no\nDisallow: /\n"
    assert not allowed(text, "/x")


def test_a_long_file_is_read_as_a_short_one() -> None:
    """The regular expression that looks through long files finds the very line that reading each rule finds."""
    rng = random.Random(5234)
    for _ in range(2_000):
        text, path = _generated(rng), _path(rng)
        for agent in ("custody", "foobot"):
            assert scanned(text).judge(agent, path) == parse(text.encode()).judge(agent, path), (text, agent, path)


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
        (b"".join(b"User-agent: *\nDisallow: /b%d\n" % i for i in range(100_000)), True),
        (b"User-agent: *\nDisallow: /\n" * 100_000, False),
        (b"".join(b"User-agent: custody\r\nDisallow: /b%d\r\n" % i for i in range(100_000)) + b"Disallow: /aa", False),
        (b"User-agent: *\n" + b"".join(b"Disallow: /*b%d$\n" % i for i in range(200_000)), True),
        (b"x\n" * 300_000 + b"User-agent: *\nDisallow: /\n", False),
        (b"x\n" * 300_000 + b"\xff\n" * 300_000 + b"User-agent: *\nDisallow: /\n", False),
        (b"user-agent" * 100_000 + b"\nUser-agent: *\nDisallow: /\n", False),
        (bytes(range(256)) * 4_000, True),
    ],
    ids=[
        *("wildcards", "stars", "long-line", "long-comment", "groups", "agents", "everyones-groups", "equal-groups"),
        *("own-groups", "many-wildcards", "junk-lines", "damaged-lines", "endless-key", "bytes"),
    ],
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
    known: dict[str, str | None] = {"https://a.example": "", "https://b.example": ""}
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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("User-agent: *\nCrawl-delay: 3\n", 3.0),
        ("User-agent: *\nCrawl-delay: 3\nUser-agent: museumbot\nCrawl-delay: 0.5\nDisallow:\n", 3.0),
        ("User-agent: *\nCrawl-delay: 3\nDisallow:\n\nUser-agent: MuseumBot\nCrawl-delay: 0.5\n", 0.5),
        ("User-agent: museumbot\nDisallow: /a\n\nUser-agent: *\nCrawl-delay: 3\nDisallow:\n", None),
        ("User-agent: other\nCrawl-delay: 3\n", None),
        ("Crawl-delay: 3\n", None),
        ("User-agent: *\nCRAWL-DELAY : 10 # please\n", 10.0),
        ("User-agent: *\nCrawl-delay: 1\nCrawl-delay: 7\nCrawl-delay: soon\n", 7.0),
        *((f"User-agent: *\nCrawl-delay: {value}\n", None) for value in ("", "-1", "inf", "nan", "1e3", "1_0", "٣")),
        ("<!doctype html>\n<p>Not found\n", None),
    ],
)
def test_crawl_delay_is_read_in_the_groups_that_hold_for_us(text: str, seconds: float | None) -> None:
    """Our group's, else everybody's; the longest of several; what is no finite number of 0 or more says nothing."""
    body = text.encode()
    document = Document("https://a.example/robots.txt", 200, NOW, body=body, body_sha256=Document.digest(body))
    assert crawl_delay(document, "museumbot", RULES) == seconds


def test_an_origin_without_a_robots_txt_asks_for_no_pace() -> None:
    """An absence, a silence and a document nobody asked for wish nothing."""
    for document in (None, Document("u", 404, NOW, body=b"User-agent: *\nCrawl-delay: 3\n"), Document("u", None, NOW)):
        assert crawl_delay(document, "museumbot", RULES) is None
