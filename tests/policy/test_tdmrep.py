"""TDMRep: the specification's examples, its precedence, and what is there but cannot be read."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.evidence import Document, Embedded, EmbeddedField, Evidence, Headers, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.tdmrep import MAX_FILE_BYTES, judge_tdmrep, parse
from policy.verdict import Judgement, Stance, Verdict

FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "optout" / "tdmrep_examples.json"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULESET = Ruleset.default()
DAYS = 30
A, B, C = "https://a.example", "https://b.example", "https://c.example"
IMAGE = f"{B}/x.jpg"
ALLOW, DEFER, DENY = Verdict.ALLOW, Verdict.DEFER, Verdict.DENY
POLICY = "https://provider.com/policies/policy.json"


def file(location: str = "/", reservation: object = 1, **more: object) -> bytes:
    return json.dumps([{"location": location, "tdm-reservation": reservation, **more}]).encode()


def origin(
    name: str, body: bytes | None, status: int | None = 200, at: datetime = NOW, since: datetime | None = None
) -> OriginEvidence:
    status = 404 if body is None and status == 200 else status
    url = f"{name}/.well-known/tdmrep.json"
    sha256 = Document.digest(body or b"")
    return OriginEvidence(name, (("tdmrep", Document(url, status, at, body=body, body_sha256=sha256, since=since)),))


SILENT = Evidence(
    page_url=f"{A}/",
    image_url=IMAGE,
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(origin(A, None), origin(B, None), origin(C, None)),
    page_headers=(),
    page_meta=(),
    hops=(Hop(IMAGE, 200, ()),),
    embedded=Embedded("image/jpeg"),
)


def judged(evidence: Evidence, now: datetime = NOW) -> Judgement:
    return judge_tdmrep(evidence, RULESET.tdmrep, RULESET.robots, DAYS, now)


def with_file(body: bytes, *, url: str = IMAGE, page: bytes | None = None, **more: Any) -> Evidence:
    origins = origin(A, page), origin(B, body, **more), origin(C, None)
    return replace(SILENT, image_url=url, hops=(Hop(url, 200, ()),), origins=origins)


def header(*values: str, policy: str | None = None) -> Headers:
    found = tuple(("TDM-Reservation", value) for value in values)
    return (*found, ("tdm-policy", policy)) if policy else found


def with_header(*values: str, policy: str | None = None) -> Evidence:
    return replace(SILENT, hops=(Hop(IMAGE, 200, header(*values, policy=policy)),))


def xmp(*values: str, name: str = "tdm:reservation", **more: Any) -> Embedded:
    return Embedded("image/jpeg", tuple(EmbeddedField(name, value, "XMP, JPEG APP1") for value in values), **more)


def examples() -> dict[str, Any]:
    if not FIXTURE.exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    found: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return found


SAYS = {1: DENY, 0: ALLOW, None: None}


# ── the specification's examples ───────────────────────────────────────────────────────────────────────────────────


def test_the_specifications_files() -> None:
    """Each example file says of each path what is printed beside it, and its policy is on record."""
    for example in examples()["files"]:
        for case in example["cases"]:
            said = judged(with_file(json.dumps(example["tdmrep"]).encode(), url=B + case["path"]))
            assert said.verdict is SAYS[case["reservation"]], case
            assert case.get("policy", "") in said.reason.detail


def test_the_specifications_headers() -> None:
    """Each example header says what is printed beside it; other values than 0 and 1 say nothing."""
    for case in examples()["headers"]:
        said = judged(with_header(case["tdm-reservation"], policy=case.get("tdm-policy")))
        assert said.verdict is SAYS[case["reservation"]], case
        assert case.get("tdm-policy", "") in said.reason.detail


def test_the_specifications_meta_elements() -> None:
    """The example page reserves, and its policy is on record."""
    example = examples()["html"]
    said = judged(replace(SILENT, page_meta=tuple(example["meta"].items())))
    assert (said.verdict, said.reason.code) == (SAYS[example["reservation"]], "tdmrep-constrained")
    assert example["meta"]["tdm-policy"] in said.reason.detail


# ── the file ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("location", "path", "matches"),
    [
        ("/", "/x.jpg", True),
        ("/a", "/abc/x.jpg", True),
        ("/a/", "/b/x.jpg", False),
        ("/A/", "/a/x.jpg", False),
        ("/a/*.jpg", "/a/b/x.jpg", True),
        ("/*.jpg$", "/x.jpg", True),
        ("/*.jpg$", "/x.jpg?y", False),
        ("*.jpg", "/x.jpg", True),
        ("/x.jpg$", "/x.jpg2", False),
        ("/path/foo-%24", "/path/foo-$", True),
        ("/%7Ea/", "/~a/x.jpg", True),
        ("/b%C3%A4r/", "/b\u00e4r/x.jpg", True),
        ("/b\u00e4r/", "/b%c3%a4r/x.jpg", True),
    ],
)
def test_locations_are_matched_as_robots_patterns(location: str, path: str, matches: bool) -> None:
    """Beginnings, "*", "$" and percent-encoding are those of robots.txt."""
    assert judged(with_file(file(location), url=B + path)).verdict is (DENY if matches else None)


def test_the_first_match_in_file_order_wins() -> None:
    """However long the patterns are, the order of the file decides."""
    free, reserved = {"location": "/a/", "tdm-reservation": 0}, {"location": "/a/x.jpg", "tdm-reservation": 1}
    for entries, verdict in (((free, reserved), ALLOW), ((reserved, free), DENY)):
        said = judged(with_file(json.dumps(entries).encode(), url=f"{B}/a/x.jpg"))
        assert said.verdict is verdict
        assert said.where == f"{B}/.well-known/tdmrep.json, entry 1"


@pytest.mark.parametrize("value", [1, "1", True, 1.0])
def test_one_is_one_however_it_is_written(value: object) -> None:
    """1, "1" and true reserve."""
    assert judged(with_file(file(reservation=value))).verdict is DENY


@pytest.mark.parametrize("value", [0, "0", False])
def test_zero_is_zero_however_it_is_written(value: object) -> None:
    """0, "0" and false do not reserve."""
    assert judged(with_file(file(reservation=value))).verdict is ALLOW


INVALID = {
    "empty": b"",
    "broken": b'[{"location": "/", "tdm-reservation": 1',
    "trailing-comma": b'[{"location": "/", "tdm-reservation": 0},]',
    "no-array": b'{"location": "/", "tdm-reservation": 0}',
    "a-number": b"1",
    "no-object": b"[1]",
    "no-location": b'[{"tdm-reservation": 1}]',
    "location-no-text": b'[{"location": 1, "tdm-reservation": 0}]',
    "location-no-path": b'[{"location": "images/", "tdm-reservation": 0}]',
    "no-reservation": b'[{"location": "/"}]',
    "two": file(reservation=2),
    "null": file(reservation=None),
    "a-word": file(reservation="yes"),
    "a-list": file(reservation=[1]),
    "policy-no-text": file(reservation=0, **{"tdm-policy": 5}),
    "one-bad-entry": b'[{"location": "/", "tdm-reservation": 0}, {"location": "/a"}]',
    "not-a-number": b'[{"location": "/", "tdm-reservation": 0, "x": NaN}]',
    "bad-encoding": b'[{"location": "/", "tdm-reservation": 0, "x": "\xff"}]',
    "surrogate": b'[{"location": "/", "tdm-reservation": 0, "x": "\xed\xa0\x80"}]',
    "utf-16-cut": '[{"location": "/", "tdm-reservation": 0}]'.encode("utf-16")[:-1],
    "deep": b"[" * 100_000,
    "deep-objects": b'{"a":' * 20_000,
    "huge-number": b"[" + b"1" * 100_000 + b"]",
}


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_present_but_invalid_waits_and_then_counts_as_a_no(body: bytes) -> None:
    """A file that cannot be relied on DEFERs; after the ruleset's days, counted from when it became so, it DENYs."""
    said = judged(with_file(body))
    assert (said.verdict, said.reason.code) == (DEFER, "tdmrep-invalid")
    assert Stance.ERROR in {signal.stance for signal in said.signals}
    days = timedelta(days=RULESET.tdmrep.invalid_deny_days)
    assert judged(with_file(body, since=NOW - days)).verdict is DEFER
    long = judged(with_file(body, since=NOW - days - timedelta(hours=1)))
    assert (long.verdict, long.reason.code) == (DENY, "tdmrep-invalid-long")


@pytest.mark.parametrize(
    "body",
    [
        b'[{"location": "/a"}, {"location": "/", "tdm-reservation": 1}]',
        b'[{"location": "/", "tdm-reservation": 1}, 5]',
        b'{"location": "/", "tdm-reservation": 1}',
        b'[{"location": "/", "tdm-reservation": 1, "tdm-policy": []}]',
        b'[{"location": ["/"], "location": "/", "tdm-reservation": 2, "tdm-reservation": 1}]',
    ],
)
def test_a_reservation_that_can_be_read_in_an_invalid_file_counts(body: bytes) -> None:
    """Whatever else is wrong with the file, an entry that reserves this address is a no."""
    said = judged(with_file(body))
    assert (said.verdict, said.reason.code) == (DENY, "tdmrep-invalid-reservation")


def test_a_member_given_twice_counts_as_the_more_restrictive() -> None:
    """JSON does not say which of two equal names holds."""
    assert judged(with_file(b'[{"location": "/", "tdm-reservation": 1, "tdm-reservation": 0}]')).verdict is DENY
    assert judged(with_file(b'[{"location": "/", "location": "/b", "tdm-reservation": 1}]')).verdict is DENY
    assert judged(with_file(b'[{"location": "/", "location": "/b", "tdm-reservation": 0}]')).verdict is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_any_unicode_encoding_is_read(encoding: str) -> None:
    """A byte order mark, or UTF-16, hides no reservation."""
    assert judged(with_file(file().decode().encode(encoding))).verdict is DENY


@pytest.mark.parametrize("body", [b"[]", file("/other/")])
def test_a_file_that_is_not_about_the_address_says_nothing(body: bytes) -> None:
    """No match is unset, never a permission."""
    assert judged(with_file(body)).verdict is None


@pytest.mark.parametrize(
    ("status", "body", "verdict", "code"),
    [
        (404, b"", None, "tdmrep-absent"),
        (200, b"<!DOCTYPE html><p>not found", None, "tdmrep-absent"),
        (403, b"", DENY, "tdmrep-forbidden"),
        (503, b"", DEFER, "tdmrep-unreachable"),
        (None, None, DEFER, "tdmrep-unreachable"),
        (301, b"", DEFER, "tdmrep-unreadable"),
        (200, b" " * (MAX_FILE_BYTES + 1), DEFER, "tdmrep-too-large"),
        (200, b" " * (RULESET.robots.max_bytes + 1), DEFER, "tdmrep-too-large"),
    ],
)
def test_the_status_is_weighed_as_for_robots(
    status: int | None, body: bytes | None, verdict: Verdict | None, code: str
) -> None:
    """Absence, refusal, silence and sheer size mean what they mean for every origin document."""
    said = judged(with_file(body or b"", status=status))
    assert said.verdict is verdict
    if verdict is not None:
        assert said.reason.code == code


# ── headers, meta elements, embedded metadata ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (["1"], DENY),
        ([" 1 "], DENY),
        (['"1"'], DENY),
        (["true"], DENY),
        (["0"], ALLOW),
        (["0, 1"], DENY),
        (["1, 0"], DENY),
        (["0", "1"], DENY),
        (["2, 1"], DENY),
        (["2"], None),
        (["0, 2"], None),
        (["yes"], None),
        ([""], None),
        (["1\xff"], DEFER),
        (["\ufffd"], DEFER),
        (["\uff11"], DEFER),
    ],
)
def test_header_values(values: list[str], verdict: Verdict | None) -> None:
    """Repeated or listed, the most restrictive counts; a protocol error says nothing, damage keeps out."""
    said = judged(with_header(*values))
    assert said.verdict is verdict
    if verdict in (None, DEFER):
        assert Stance.ERROR in {signal.stance for signal in said.signals}


def test_a_reservation_with_a_policy_is_constrained() -> None:
    """A policy names conditions under which a licence may be had; nobody has met them, so it stays a no."""
    said = judged(with_header("1", policy=POLICY))
    assert (said.verdict, said.reason.code) == (DENY, "tdmrep-constrained")
    assert [s.stance for s in said.signals if s.value != "HTTP 404"] == [Stance.CONSTRAINED]
    assert said.reason.detail == f"tdm-reservation: 1, tdm-policy: {POLICY}"


def test_a_policy_alone_says_nothing_and_is_recorded() -> None:
    """tdm-policy without tdm-reservation neither reserves nor permits."""
    said = judged(with_header(policy=POLICY))
    assert said.verdict is None
    assert (Stance.UNSET, f"tdm-policy: {POLICY}") in [(signal.stance, signal.value) for signal in said.signals]


ONE, ZERO = header("1"), header("0")


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        # file < header < meta < embedded
        (replace(with_file(file()), hops=(Hop(IMAGE, 200, ZERO),)), ALLOW),
        (replace(with_file(file(reservation=0)), hops=(Hop(IMAGE, 200, ONE),)), DENY),
        (replace(SILENT, page_headers=ONE, page_meta=(("tdm-reservation", "0"),)), ALLOW),
        (replace(SILENT, page_headers=ZERO, page_meta=(("tdm-reservation", "1"),)), DENY),
        (replace(with_header("1"), embedded=xmp("0")), ALLOW),
        (replace(with_header("0"), embedded=xmp("1")), DENY),
        (replace(with_file(file()), embedded=xmp("0")), ALLOW),
        (replace(with_file(b"[]", page=file()), page_meta=(("tdm-reservation", "0"),)), ALLOW),
        # absence never resets
        (replace(with_file(file()), hops=(Hop(IMAGE, 200, ()),), embedded=Embedded("image/jpeg")), DENY),
        (replace(SILENT, page_headers=ONE, page_meta=(("robots", "all"),)), DENY),
        (replace(with_file(file()), hops=(Hop(IMAGE, 200, header("2")),)), DENY),
        (replace(with_file(file()), hops=(Hop(IMAGE, 200, header(policy=POLICY)),)), DENY),
        # one resource's yes is not another's: page, image and every hop
        (replace(SILENT, page_headers=ONE, hops=(Hop(IMAGE, 200, ZERO),), embedded=xmp("0")), DENY),
        (replace(SILENT, page_headers=ZERO, hops=(Hop(IMAGE, 200, ONE),)), DENY),
        (replace(SILENT, page_meta=(("TDM-Reservation", "1"),), embedded=xmp("0")), DENY),
        (replace(with_file(b"[]", page=file()), embedded=xmp("0")), DENY),
        (replace(SILENT, hops=(Hop(IMAGE, 302, ONE), Hop(f"{C}/x.jpg", 200, ZERO))), DENY),
        (replace(with_file(file()), hops=(Hop(IMAGE, 302, ()), Hop(f"{C}/x.jpg", 200, ZERO)), embedded=xmp("0")), DENY),
        # what could not be had or read is not overridden
        (replace(with_file(b"{"), hops=(Hop(IMAGE, 200, ZERO),)), DEFER),
        (replace(with_file(b"", status=503), hops=(Hop(IMAGE, 200, ZERO),)), DEFER),
        (replace(with_file(b"", status=403), hops=(Hop(IMAGE, 200, ZERO),)), DENY),
        (replace(with_file(b'{"location":"/","tdm-reservation":1}'), hops=(Hop(IMAGE, 200, ZERO),)), DENY),
        (replace(with_header("1\xff"), embedded=xmp("0")), DEFER),
    ],
)
def test_precedence(evidence: Evidence, verdict: Verdict) -> None:
    """For one resource the later place overrides the earlier; silence, errors and other resources override nothing."""
    assert judged(evidence).verdict is verdict


@pytest.mark.parametrize(
    ("embedded", "verdict", "code"),
    [
        (xmp("1"), DENY, "tdmrep-reserved"),
        (xmp("0", "1"), DENY, "tdmrep-reserved"),
        (xmp("0"), ALLOW, "tdmrep-not-reserved"),
        (xmp("7"), None, ""),
        (xmp("1", name="nested/tdm:reservation"), DENY, "tdmrep-reserved"),
        (xmp("0", name="nested/tdm:reservation"), None, ""),
        (xmp(errors=("XMP: unclosed",), needles=("tdm:reservation",)), DENY, "tdmrep-damaged-reservation"),
        (xmp(errors=("XMP: unclosed",)), DEFER, "tdmrep-damaged"),
        (xmp("0", errors=("XMP: unclosed",)), DEFER, "tdmrep-damaged"),
        (None, DEFER, "not-observed"),
    ],
)
def test_embedded_metadata(embedded: Embedded | None, verdict: Verdict | None, code: str) -> None:
    """tdm: properties of the image count for it; damaged metadata that names them reserves, other damage waits."""
    said = judged(replace(SILENT, embedded=embedded))
    assert said.verdict is verdict
    assert not code or said.reason.code == code


def test_an_embedded_policy_is_recorded() -> None:
    """tdm:policy stands beside the reservation it belongs to."""
    fields = (EmbeddedField("tdm:reservation", "1", "XMP"), EmbeddedField("tdm:policy", POLICY, "XMP"))
    said = judged(replace(SILENT, embedded=Embedded("image/png", fields)))
    assert (said.reason.code, said.reason.detail) == (
        "tdmrep-constrained",
        f"tdm:reservation: 1, tdm:policy: {POLICY}",
    )


def test_an_image_that_was_not_had_keeps_out() -> None:
    """Where the image could not be fetched its metadata is not known."""
    assert judged(replace(SILENT, embedded=None, fetch_error="timeout")).reason.code == "fetch-failed"


@pytest.mark.parametrize("field", ["hops", "page_headers", "page_meta", "embedded"])
def test_what_was_not_observed_keeps_out(field: str) -> None:
    """A place that nobody looked at is never read as silent, whatever the others say."""
    said = judged(replace(with_header("0"), **{field: None}))
    assert (said.verdict, said.reason.code) == (DEFER, "not-observed")


def test_every_asked_origin_has_a_file() -> None:
    """An origin that nobody asked keeps out; a redirect that was refused counts if it was asked."""
    assert judged(replace(SILENT, origins=(origin(A, None),))).reason.code == "not-observed"
    reserved = (origin(A, None), origin(B, None), origin(C, file()))
    assert judged(replace(SILENT, origins=reserved, refused_url=f"{C}/x.jpg")).verdict is DENY
    assert judged(replace(SILENT, origins=reserved)).verdict is None


def test_a_url_without_a_page_needs_no_page() -> None:
    """From a URL list there is no page to be asked."""
    alone = replace(with_header("0"), page_url=None, page_headers=None, page_meta=None)
    assert judged(alone).verdict is ALLOW


# ── age and bounds ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_age_by_themselves_and_headers_with_the_observation() -> None:
    """A permission rests on what is recent enough; a no does not age, and what lies in the bytes neither."""
    old = NOW - timedelta(days=DAYS + 1)
    assert judged(with_file(file(reservation=0), at=old)).reason.code == "evidence-stale"
    assert judged(with_file(file(), at=old)).verdict is DENY
    assert judged(replace(with_header("0"), observed_at=old)).reason.code == "evidence-stale"
    assert judged(replace(with_header("1"), observed_at=old)).verdict is DENY
    assert judged(replace(SILENT, observed_at=old)).verdict is DEFER
    assert judged(replace(SILENT, observed_at=old, embedded=xmp("1"))).verdict is DENY


HOSTILE = {
    "entries": json.dumps([{"location": f"/{n}*a", "tdm-reservation": 1} for n in range(2_700)]).encode(),
    "lists": b"[" + b"[]," * (MAX_FILE_BYTES // 3 - 2) + b"1]",
    "objects": b"[" + b'{"":0},' * (MAX_FILE_BYTES // 7 - 2) + b"1]",
    "members": b"[{" + b'"location":"/*",' * (MAX_FILE_BYTES // 16 - 2) + b'"tdm-reservation":1}]',
    "stars": b'[{"location":"/' + b"*a" * (MAX_FILE_BYTES // 2 - 40) + b'","tdm-reservation":0}]',
    "deep": b"[" * MAX_FILE_BYTES,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_cost_little(body: bytes) -> None:
    """No file of the size that is read takes more than a few megabytes, or permits anything."""
    assert len(body) <= MAX_FILE_BYTES
    assert judged(with_file(body, url=f"{B}/{'a' * 2_000}")).verdict is not ALLOW
    tracemalloc.start()
    try:
        parse(body)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
