"""The judge: one JSON line in, one answer out, and no line that stops the others."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import InputError
from policy.evidence import C2pa, Embedded, EmbeddedField, LicenceClaim
from policy.judge import MECHANISMS, ImageFacts, PairHints, Readers, judge_line
from policy.ruleset import KNOWN, Ruleset

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULESET = Ruleset.default()
URL = "https://a.example/x.jpg"
DISALLOW = "User-agent: *\nDisallow: /"
UTF_16 = base64.b64encode(DISALLOW.encode("utf-16")).decode()
ABSENT = {"status": 404}
BOTH = {"https://b.example:443": {"robots": ABSENT}}
BY = "https://creativecommons.org/licenses/by/4.0/"


@dataclass(frozen=True)
class Page:
    meta: tuple[tuple[str, str], ...] = ()
    licence_claims: tuple[LicenceClaim, ...] = ()
    pairs: Sequence[PairHints] = ()
    rsl: tuple[tuple[str, str], ...] = ()


def read_page(html: bytes, base_url: str, content_type: str | None) -> Page:
    """A page reader as small as these pages: `meta NAME CONTENT` or `licence VALUE`, a line each."""
    words = [line.split(" ", 2) for line in html.decode().splitlines()]
    return Page(
        tuple((w[1], w[2]) for w in words if w[0] == "meta"),
        tuple(LicenceClaim(w[1], "rel-license", "page") for w in words if w[0] == "licence"),
    )


def read_image(path: str) -> ImageFacts:
    """A file reader that knows three files."""
    match path:
        case "plain.jpg":
            return ImageFacts("ab" * 32, "cd" * 16, Embedded("image/jpeg"), C2pa("absent"), 200, 100)
        case "reserved.jpg":
            field = EmbeddedField("plus:DataMining", "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED", "XMP, APP1")
            return ImageFacts("ab" * 32, "cd" * 16, Embedded("image/jpeg", (field,)), C2pa("absent"), 200, 100)
        case _:
            raise InputError("the file cannot be read (No such file or directory)", where="image.path")


READERS = Readers(read_page, read_image)


def judge(**line: object) -> dict[str, Any]:
    return judge_line(json.dumps({"url": URL, **line}), RULESET, READERS, now=NOW)


def verdicts(answer: dict[str, Any]) -> dict[str, str]:
    return {d["mechanism"]: d["verdict"] for d in answer["decisions"]}


def test_an_answer_has_the_shape_that_was_promised() -> None:
    """url, verdict and decisions with mechanism, verdict, reason, detail and where."""
    robots = {"status": 200, "body": "User-agent: *\nDisallow: /x\n"}
    assert judge(robots=robots) == {
        "url": URL,
        "verdict": "deny",
        "decisions": [
            {
                "mechanism": "robots",
                "verdict": "deny",
                "reason": "robots-disallow",
                "detail": "Disallow: /x",
                "where": "https://a.example/robots.txt:2",
            }
        ],
    }


@pytest.mark.parametrize("mechanism", ["ai_agents", "content_usage", "content_signal"])
def test_a_robots_txt_is_input_for_all_whose_lines_may_stand_in_it(mechanism: str) -> None:
    """Asked by name, a mechanism of which robots.txt holds no line is unset: it was looked for."""
    assert verdicts(judge(robots=ABSENT, mechanisms=[mechanism])) == {mechanism: "unset"}
    assert verdicts(judge(mechanisms=[mechanism])) == {mechanism: "defer"}


def test_all_mechanisms_are_known_to_the_judge() -> None:
    """The order of answers names every mechanism once."""
    assert sorted(MECHANISMS) == sorted(KNOWN)


def test_nothing_given_is_no_permission() -> None:
    """A line that gives nothing to judge is deferred."""
    assert judge() == {"url": URL, "verdict": "defer", "decisions": []}


def test_unset_everywhere_is_allow() -> None:
    """Where all that was judged is unset, nobody objected; the permission itself is the licence rule's business."""
    answer = judge(robots={"status": 404})
    assert (answer["verdict"], verdicts(answer)) == ("allow", {"robots": "unset"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"robots": {"status": 404}, "faces": [], "width": 640, "height": 480}, {"robots", "faces", "size"}),
        ({"image": {"headers": []}}, {"x_robots"}),
        ({"page": {"headers": []}}, {"x_robots"}),
        ({"page": {"headers": [], "html": ""}, "page_url": "https://a.example/"}, {"x_robots", "licence"}),
        ({"licence": BY}, {"licence"}),
        ({"tdmrep": {"status": 404}}, {"tdmrep"}),
        ({"image": {"headers": [["tdm-reservation", "1"]]}, "tdmrep": {"status": 404}}, {"x_robots", "tdmrep"}),
        ({"robots": {"status": 200, "body": "Content-Usage: train-ai=n"}}, {"robots", "content_usage"}),
        ({"alt": "red apple"}, {"text"}),
        ({"nsfw": 0.1}, {"safety"}),
        ({"scores": {"nsfw": 0.1}}, {"safety"}),
        ({"scores": {"entropy": 3.0}}, {"quality"}),
        ({"alt": "red apple", "scores": {"clip-agreement": 0.3}, "language": {"code": "en"}}, {"text"}),
        ({"tombstoned": None}, {"tombstone"}),
    ],
)
def test_judged_is_what_the_line_gives(line: dict[str, Any], expected: set[str]) -> None:
    """Without `mechanisms`, those are judged whose input is there."""
    assert set(verdicts(judge(**line))) == expected


@pytest.mark.parametrize("mechanism", sorted(KNOWN))
def test_a_mechanism_that_was_asked_for_needs_its_input(mechanism: str) -> None:
    """Asked for by name and given nothing, every mechanism keeps the sample out."""
    assert verdicts(judge(mechanisms=[mechanism])) in ({mechanism: "defer"}, {mechanism: "deny"})


@pytest.mark.parametrize(
    ("line", "mechanism", "verdict"),
    [
        ({"robots": {"status": 403}}, "robots", "deny"),
        ({"robots": {"status": None}}, "robots", "defer"),
        ({"robots": {"status": 200, "body": DISALLOW, "fetched_at": "2026-11-19T00:00:00Z"}}, "robots", "deny"),
        ({"robots": {"status": 404, "fetched_at": "2026-01-01T00:00:00Z"}}, "robots", "defer"),
        (
            {"robots": {"status": 404, "fetched_at": "2026-01-01T00:00:00Z"}, "now": "2026-01-02T00:00:00Z"},
            "robots",
            "unset",
        ),
        ({"robots": {"status": 200, "body_base64": UTF_16}}, "robots", "deny"),
        (
            {"robots": {"status": 200, "body": "User-agent: otherbot\nDisallow: /"}, "agent": "OtherBot"},
            "robots",
            "deny",
        ),
        ({"robots": {"status": 404}, "page_url": "https://b.example/"}, "robots", "defer"),
        ({"robots": ABSENT, "page_url": "https://b.example/", "origins": BOTH}, "robots", "unset"),
        ({"origins": {"https://A.example": {"robots": {"status": 200, "body": DISALLOW}}}}, "robots", "deny"),
        ({"image": {"headers": [["X-Robots-Tag", "noai"]]}}, "x_robots", "deny"),
        ({"image": {"headers": [["X-Robots-Tag", "otherbot: noai"]]}, "agent": "otherbot"}, "x_robots", "deny"),
        ({"image": {"headers": [["X-Robots-Tag", "max-snippet: 5"]]}}, "x_robots", "unset"),
        ({"image": {"hops": [[["X-Robots-Tag", "noai"], ["Location", "/y.jpg"]], []]}}, "x_robots", "deny"),
        ({"page": {"headers": [], "html": "meta robots noai"}}, "x_robots", "deny"),
        ({"page": {"html": "licence " + BY}, "page_url": "https://www.a.example/"}, "licence", "allow"),
        ({"page": {"html": "licence " + BY}, "page_url": "https://b.example/"}, "licence", "deny"),
        ({"licence": None}, "licence", "deny"),
        ({"licence": "CC BY-NC 4.0"}, "licence", "deny"),
        ({"faces": [[1, 2, 30, 40, 0.99]]}, "faces", "deny"),
        ({"faces": []}, "faces", "allow"),
        ({"width": 32, "height": 32}, "size", "deny"),
        ({"width": 640}, "size", "defer"),
        ({"alt": "DSC_0001.jpg"}, "text", "defer"),
        ({"tombstoned": "R-1"}, "tombstone", "deny"),
        ({"tdmrep": {"status": 404}}, "tdmrep", "unset"),
        ({"tdmrep": {"status": 200, "body": "[]"}}, "tdmrep", "unset"),
        ({"tdmrep": {"status": 200, "body": "["}}, "tdmrep", "defer"),
    ],
)
def test_cases(line: dict[str, Any], mechanism: str, verdict: str) -> None:
    """Each input of a line is read as DESIGN.md section 9 says."""
    assert verdicts(judge(**line))[mechanism] == verdict


def test_a_redirect_is_followed_to_its_origin() -> None:
    """A hop's Location names the origin that is asked next."""
    hops = [[["Location", "//b.example/x.jpg"]], []]
    answer = judge(robots={"status": 404}, image={"hops": hops})
    decision = next(d for d in answer["decisions"] if d["mechanism"] == "robots")
    assert (decision["verdict"], decision["where"]) == ("defer", "https://b.example")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"url": 3}',
        '{"url": "not a url"}',
        '{"url": "ftp://a.example/x"}',
        '{"url": "https://a.example/", "page_url": "x"}',
        '{"url": "https://a.example/", "robots": []}',
        '{"url": "https://a.example/", "robots": {"status": "200"}}',
        '{"url": "https://a.example/", "robots": {"status": true}}',
        '{"url": "https://a.example/", "robots": {"status": 200, "body_base64": "%"}}',
        '{"url": "https://a.example/", "robots": {"status": 200, "fetched_at": "yesterday"}}',
        '{"url": "https://a.example/", "origins": {"x": {}}}',
        '{"url": "https://a.example/", "image": {"headers": {"a": "b"}}}',
        '{"url": "https://a.example/", "image": {"hops": [[["a"]]]}}',
        '{"url": "https://a.example/", "faces": [[1, 2, 3]]}',
        '{"url": "https://a.example/", "faces": [[1, 2, 3, 4, "x"]]}',
        '{"url": "https://a.example/", "width": -1}',
        '{"url": "https://a.example/", "mechanisms": ["robotz"]}',
        '{"url": "https://a.example/", "mechanisms": [["robots"]]}',
        '{"url": "https://a.example/", "mechanisms": "robots"}',
        '{"url": "https://a.example/", "faces": [[1, 2, 3, 4, 1e999]], "width": 1' + "0" * 5000 + "}",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_case_says_so(line: str) -> None:
    """Whatever stands on a line, the answer is one error for that line."""
    answer = judge_line(line, RULESET, READERS, now=NOW)
    assert list(answer) == ["error"]
    assert answer["error"]


def test_keys_that_nobody_reads_are_named() -> None:
    """A misspelt key is not silently left out of the judgement."""
    assert judge(robot={"status": 404})["ignored"] == ["robot"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = (
    "page_url",
    "agent",
    "now",
    "origins",
    "page",
    "image",
    "licence",
    "faces",
    "width",
    "mechanisms",
    "robots",
    "tdmrep",
)


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4))
def test_any_json_gets_an_answer(values: dict[str, Any]) -> None:
    """No combination of values stops the judge, and each answer can be written as JSON."""
    answer = judge(**values)
    assert "error" in answer or answer["verdict"] in ("allow", "deny", "defer")
    json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"robots": {"status": 200, "Body": DISALLOW}}, "unknown key 'Body'; did you mean 'body'?"),
        ({"robots": {"status": 200}}, "a document with status 200 needs body or body_base64"),
        ({"robots": {"status": 200, "body": None}}, "a document with status 200 needs body or body_base64"),
        ({"robots": {"status": 200, "body": "", "body_base64": UTF_16}}, "give body or body_base64, not both"),
        ({"robots": {"body": DISALLOW}}, "robots.status"),
        ({"image": {"hops": [[]], "headers": []}}, "give hops or headers, not both"),
        ({"image": {"header": []}}, "unknown key 'header'; did you mean 'headers'?"),
        ({"page": {"Html": ""}}, "unknown key 'Html'; did you mean 'html'?"),
        ({"origins": {"https://a.example": {"robot": ABSENT}}}, "unknown key 'robot'; did you mean 'robots'?"),
        ({"robots": ABSENT, "origins": {"https://a.example": {"robots": ABSENT}}}, "is given twice"),
    ],
)
def test_what_is_mistyped_below_the_top_is_refused(line: dict[str, Any], message: str) -> None:
    """A misspelt or contradictory key is an error: it must not read as silence, which permits."""
    answer = judge(**line)
    assert list(answer) == ["error"]
    assert message in answer["error"]


def test_an_explicitly_empty_file_stays_a_file() -> None:
    """A body of no bytes is an observed, empty robots.txt."""
    assert judge(robots={"status": 200, "body": ""})["verdict"] == "allow"


def test_a_number_too_long_is_said_plainly() -> None:
    """Python's own words on long numbers help nobody."""
    line = '{"url": "https://a.example/x.jpg", "width": ' + "9" * 5000 + "}"
    assert judge_line(line, RULESET, READERS, now=NOW) == {"error": "a number has too many digits"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["status", "body", "Body", "hops", "headers", "robots"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["robots", "tdmrep", "origins", "page", "image", "now", "faces", "width"]), JSON)
def test_no_json_value_stops_the_judge(key: str, value: object) -> None:
    """Whatever stands under a key, there is an answer or an error."""
    assert {"error", "verdict"} & set(judge(**{key: value}))


@given(st.text(min_size=1, max_size=9).filter(lambda k: k not in {"body", "body_base64"}))
def test_a_mistyped_only_document_never_permits(key: str) -> None:
    """A 200 whose body stands under another name is no empty file."""
    assert "error" in judge(robots={"status": 200, key: DISALLOW})
