"""ai.txt of the media host: robots.txt's shape, looser patterns, asked for the media URL and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.ai_txt import judge_ai_txt
from policy.verdict import Judgement, Stance, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCUMENTS = Ruleset.default().robots
IMAGE = "https://b.example/art/x.jpg"


def ai_txt(origin: str, body: str | bytes | None, status: int | None = 200, **more: object) -> OriginEvidence:
    raw = body.encode() if isinstance(body, str) else body
    values: dict[str, object] = {"body": raw, "body_sha256": "sha", "fetched_at": NOW, **more}
    return OriginEvidence(origin, (("ai_txt", Document(url=f"{origin}/ai.txt", status=status, **values)),))  # type: ignore[arg-type]


def evidence(*origins: OriginEvidence, url: str = IMAGE) -> Evidence:
    return Evidence("https://a.example/page", url, NOW, "test", "1", origins=origins, hops=(Hop(url, 200, ()),))


def judged(body: str | bytes, url: str = IMAGE) -> Judgement:
    return judge_ai_txt(evidence(ai_txt("https://b.example", body), url=url), DOCUMENTS, 30, NOW)


# As Spawning's generator writes it.
SPAWNING = """# Spawning AI
# Prevent datasets from using the following file types

User-Agent: *
Disallow: *.txt
Disallow: *.pdf
Disallow: *.jpg
Disallow: *.mp4
Allow: *.css
Disallow: /
Disallow: *
"""


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (SPAWNING, 7),
        ("User-Agent: *\nDisallow: *.jpg\n", 2),
        ("User-Agent: *\nDisallow: .jpg\n", 2),
        ("User-Agent: *\nDisallow: art/\n", 2),
        ("User-Agent: *\nDisallow: /art/*.jpg$\n", 2),
        ("User-Agent: *\nDisallow: *.JPG\n", 2),
        ("User-Agent: *\nDisallow: /\n", 2),
        ("User-Agent: *\nDisallow: *\n", 2),
        ("User-Agent: custody\nDisallow: *.jpg\n", 2),
        ("User-Agent: other\nAllow: /\nUser-Agent: *\nDisallow: *.jpg\n", 4),
        ("Disallow: *.jpg\n", 1),  # for everyone, where nobody is named
        ("User-Agent: *\rDisallow: *.jpg\r", 2),
        ("\ufeffUser-Agent: *\r\nDisallow: *.jpg # pictures\r\n", 2),
    ],
)
def test_a_disallow_for_the_media_url_denies(body: str, line: int) -> None:
    """Extension patterns, patterns without a slash, our group or everyone's, in any line ending and encoding."""
    for coded in (body.encode(), body.encode("utf-16")):
        said = judged(coded)
        assert (said.verdict, said.reason.code) == (Verdict.DENY, "ai-txt-disallow")
        assert said.where == f"https://b.example/ai.txt:{line}"
        assert "isallow" in said.reason.detail


@pytest.mark.parametrize("url", ["https://b.example/X.JPG", "https://b.example/x.jpg?w=3", "https://b.example/x.Jpg#f"])
def test_an_extension_holds_in_any_case(url: str) -> None:
    """Who reserves *.jpg has his .JPG files reserved too, with or without a query."""
    assert judged("User-Agent: *\nDisallow: *.jpg\n", url).verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("body", "verdict", "code"),
    [
        ("User-Agent: *\nDisallow: *.mp4\nDisallow: *.txt\n", None, "ai-txt-no-rule"),
        ("User-Agent: *\nDisallow:\n", None, "ai-txt-no-rule"),
        ("User-Agent: other\nDisallow: /\n", None, "ai-txt-no-rule"),
        ("User-Agent: custody\nAllow: /\nUser-Agent: *\nDisallow: /\n", Verdict.ALLOW, "ai-txt-allow"),
        ("User-Agent: *\nAllow: *.jpg\nDisallow: /\n", Verdict.ALLOW, "ai-txt-allow"),
        ("User-Agent: *\nAllow: jpg\nDisallow: /y\n", None, "ai-txt-no-rule"),  # an Allow is not read loosely
        ("", None, "ai-txt-not-understood"),
        ("This site welcomes agents.\n", None, "ai-txt-not-understood"),
        ("---\nname: Museum\n---\n# About us\nTraining: none\n", None, "ai-txt-not-understood"),
        ('{"training": "no"}', None, "ai-txt-not-understood"),
        ("<!doctype html><title>404</title>", None, "ai-txt-absent"),
    ],
)
def test_other_answers_and_other_shapes_are_recorded(body: str, verdict: Verdict | None, code: str) -> None:
    """What says nothing of the file is unset with its signal; another shape is seen, and not understood."""
    said = judged(body)
    assert (said.verdict, said.reason.code) == (verdict, code)
    assert [s.stance for s in said.signals] == [Stance.ALLOW if verdict else Stance.UNSET]


@pytest.mark.parametrize(
    ("origin", "verdict", "code"),
    [
        (ai_txt("https://b.example", None, 404), None, "ai-txt-absent"),
        (ai_txt("https://b.example", None, 403), Verdict.DENY, "ai-txt-forbidden"),
        (ai_txt("https://b.example", None, 500), Verdict.DEFER, "ai-txt-unreachable"),
        (ai_txt("https://b.example", "", truncated=True), Verdict.DEFER, "ai-txt-too-large"),
        (ai_txt("https://b.example", b"User-Agent: *\nDis\xffallow: *.jpg"), Verdict.DEFER, "ai-txt-bad-encoding"),
        (ai_txt("https://b.example", b"User-Agent: *\nAllow: /\n\xff"), Verdict.DEFER, "ai-txt-bad-encoding"),
        (ai_txt("https://b.example", b"\xff\nUser-Agent: *\nDisallow: *.jpg"), Verdict.DENY, "ai-txt-disallow"),
        (ai_txt("https://b.example", b"Wir f\xf6rdern nichts"), Verdict.DEFER, "ai-txt-bad-encoding"),
        (ai_txt("https://b.example", "", fetched_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
        (OriginEvidence("https://b.example"), Verdict.DEFER, "not-observed"),
    ],
)
def test_every_answer_of_the_host_has_its_meaning(origin: OriginEvidence, verdict: Verdict | None, code: str) -> None:
    """Absence, refusal, silence, damage and age are told apart; a no is heard through damage."""
    said = judge_ai_txt(evidence(origin), DOCUMENTS, 30, NOW)
    assert (said.verdict, said.reason.code) == (verdict, code)


def test_only_the_hosts_of_the_media_are_asked() -> None:
    """The page's ai.txt speaks of the page's own files, not of the images it shows from elsewhere; redirects count."""
    no = "User-Agent: *\nDisallow: /\n"
    of = evidence(ai_txt("https://b.example", ""), ai_txt("https://a.example", no))
    assert judge_ai_txt(of, DOCUMENTS, 30, NOW).verdict is None
    hops = (Hop(IMAGE, 302, ()), Hop("https://c.example/x.jpg", 200, ()))
    assert judge_ai_txt(replace(of, hops=hops), DOCUMENTS, 30, NOW).reason.code == "not-observed"
    with_target = replace(of, hops=hops, origins=(*of.origins, ai_txt("https://c.example", no)))
    assert judge_ai_txt(with_target, DOCUMENTS, 30, NOW).where == "https://c.example/ai.txt:2"


@given(st.binary(max_size=200))
def test_any_bytes_are_some_file(body: bytes) -> None:
    """No body makes the reader fail, and none without an Allow permits."""
    said = judged(body)
    (said.reason.detail + said.where).encode()
    assert (said.verdict is Verdict.ALLOW) <= (b"llow" in body.lower().replace(b"\0", b""))
