"""trust.txt: datatrainingallowed speaks for the whole site, however it is written; what is unclear keeps out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.trust_txt import judge_trust_txt, parse
from policy.verdict import Judgement, Stance, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCUMENTS = Ruleset.default().robots
IMAGE = "https://b.example/x.jpg"
TRUST = "https://b.example/.well-known/trust.txt"


def trust_txt(origin: str, body: str | bytes | None, status: int | None = 200, **more: object) -> OriginEvidence:
    raw = body.encode() if isinstance(body, str) else body
    values: dict[str, object] = {"body": raw, "body_sha256": "sha", "fetched_at": NOW, **more}
    document = Document(url=f"{origin}/.well-known/trust.txt", status=status, **values)  # type: ignore[arg-type]
    return OriginEvidence(origin, (("trust_txt", document),))


def judged(*origins: OriginEvidence, page: str | None = None) -> Judgement:
    hops = (Hop(IMAGE, 200, ()),)
    return judge_trust_txt(Evidence(page, IMAGE, NOW, "test", "1", origins=origins, hops=hops), DOCUMENTS, 30, NOW)


@pytest.mark.parametrize(
    ("line", "verdict", "code"),
    [
        ("datatrainingallowed=no", Verdict.DENY, "trust-txt-no"),
        ("DataTrainingAllowed=NO", Verdict.DENY, "trust-txt-no"),
        ("  datatrainingallowed = no  ", Verdict.DENY, "trust-txt-no"),
        ("datatrainingallowed=no # not for sale", Verdict.DENY, "trust-txt-no"),
        ("datatrainingallowed: no", Verdict.DENY, "trust-txt-no"),
        ('datatrainingallowed="no"', Verdict.DENY, "trust-txt-no"),
        ("data-training-allowed=no", Verdict.DENY, "trust-txt-no"),
        ("datatrainingallowed no", Verdict.DENY, "trust-txt-no"),
        ("datatrainingallowed=yes", Verdict.ALLOW, "trust-txt-yes"),
        ("datatrainingallowed = Yes # ask us first", Verdict.ALLOW, "trust-txt-yes"),
        ("datatrainingallowed=perhaps", Verdict.DEFER, "trust-txt-unknown"),
        ("datatrainingallowed=", Verdict.DEFER, "trust-txt-unknown"),
        ("datatrainingallowed", Verdict.DEFER, "trust-txt-unknown"),
        ("datatrainingallowed=no, except news", Verdict.DEFER, "trust-txt-unknown"),
        ("# datatrainingallowed=no", None, "trust-txt-silent"),
        ("datatrainingallowedby=no", None, "trust-txt-silent"),
        ("member=https://datatrainingallowed.example/=no", None, "trust-txt-silent"),
        ("", None, "trust-txt-silent"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_the_variable_is_read_however_it_is_written(line: str, verdict: Verdict | None, code: str, end: str) -> None:
    """Case, spaces, quotes, comments, line ends and marks hide no answer; an unknown answer defers."""
    text = end.join(("# trust.txt", "member=https://a.example/", line, "contact=x@a.example", ""))
    for body in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16")):
        said = judged(trust_txt("https://b.example", body))
        assert (said.verdict, said.reason.code) == (verdict, code)
        if verdict is not None:
            assert (said.where, said.reason.detail) == (f"{TRUST}:3", line.strip())


@pytest.mark.parametrize(
    ("body", "verdict", "stances"),
    [
        ("datatrainingallowed=yes\ndatatrainingallowed=no\n", Verdict.DENY, [Stance.ALLOW, Stance.DENY]),
        ("datatrainingallowed=no\ndatatrainingallowed=yes\n", Verdict.DENY, [Stance.DENY, Stance.ALLOW]),
        ("datatrainingallowed=yes\ndatatrainingallowed=so so\n", Verdict.DEFER, [Stance.ALLOW, Stance.ERROR]),
    ],
)
def test_of_contradictions_the_strictest_counts(body: str, verdict: Verdict, stances: list[Stance]) -> None:
    """Repeated variables are all recorded."""
    said = judged(trust_txt("https://b.example", body))
    assert (said.verdict, [s.stance for s in said.signals]) == (verdict, stances)


@pytest.mark.parametrize(
    ("origin", "verdict", "code"),
    [
        (trust_txt("https://b.example", None, 404), None, "trust-txt-absent"),
        (trust_txt("https://b.example", "<html><p>datatrainingallowed=yes"), None, "trust-txt-absent"),
        (trust_txt("https://b.example", None, 403), Verdict.DENY, "trust-txt-forbidden"),
        (trust_txt("https://b.example", None, 500), Verdict.DEFER, "trust-txt-unreachable"),
        (trust_txt("https://b.example", "", truncated=True), Verdict.DEFER, "trust-txt-too-large"),
        (trust_txt("https://b.example", b"datatraining\xffallowed=no\n"), Verdict.DEFER, "trust-txt-bad-encoding"),
        (trust_txt("https://b.example", b"datatrainingallowed=yes\n\xff\n"), Verdict.DEFER, "trust-txt-bad-encoding"),
        (trust_txt("https://b.example", b"datatrainingallowed=n\xffo\n"), Verdict.DEFER, "trust-txt-unknown"),
        (trust_txt("https://b.example", b"\xff\ndatatrainingallowed=no\n"), Verdict.DENY, "trust-txt-no"),
        (trust_txt("https://b.example", b"# caf\xe9\ndatatrainingallowed=yes\n"), Verdict.ALLOW, "trust-txt-yes"),
        (trust_txt("https://b.example", "", fetched_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
        (OriginEvidence("https://b.example"), Verdict.DEFER, "not-observed"),
    ],
)
def test_every_answer_of_the_site_has_its_meaning(origin: OriginEvidence, verdict: Verdict | None, code: str) -> None:
    """Absence, refusal, silence, damage and age are told apart; a no is heard through damage."""
    said = judged(origin)
    assert (said.verdict, said.reason.code) == (verdict, code)


def test_it_speaks_for_the_whole_site_of_page_and_image() -> None:
    """The page's site is asked as well as the image's, whatever the path."""
    no, silent = trust_txt("https://a.example", "datatrainingallowed=no"), trust_txt("https://b.example", "")
    said = judged(no, silent, page="https://a.example/any/where")
    assert (said.verdict, said.where) == (Verdict.DENY, "https://a.example/.well-known/trust.txt:1")
    assert judged(silent, page="https://a.example/any/where").reason.code == "not-observed"


def test_masses_of_statements_hide_no_no() -> None:
    """A no after 100,000 other answers is heard."""
    lines = [*(f"datatrainingallowed=x{n}" for n in range(100_000)), "datatrainingallowed=no"]
    assert judged(trust_txt("https://b.example", "\n".join(lines))).where == f"{TRUST}:100001"


@given(st.binary(max_size=200))
def test_any_bytes_are_some_file(body: bytes) -> None:
    """No body makes the reader fail, and none without the variable permits."""
    assert not parse(body).statements or b"lowed" in body.lower().replace(b"\0", b"")
    judged(trust_txt("https://b.example", body))
