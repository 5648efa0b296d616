"""Groups of other training crawlers are a reservation against training: by name only, class by class, and by knob."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Document, Evidence, Hop, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals.ai_agents import AGENTS, AGENTS_DATE, TRAINING, AiAgentsRules, judge_ai_agents
from policy.signals.robots import parse
from policy.verdict import Judgement, Stance, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCUMENTS = Ruleset.default().robots
ANY, NONE = AiAgentsRules("any"), AiAgentsRules("none")
IMAGE = "https://b.example/art/x.jpg"


def robots_txt(origin: str, body: str | bytes | None, status: int | None = 200, **more: object) -> OriginEvidence:
    raw = body.encode() if isinstance(body, str) else body
    values: dict[str, object] = {"body": raw, "body_sha256": f"sha of {origin}", "fetched_at": NOW, **more}
    document = Document(url=f"{origin}/robots.txt", status=status, **values)  # type: ignore[arg-type]
    return OriginEvidence(origin, (("robots", document),))


def evidence(*origins: OriginEvidence, page: str | None = None) -> Evidence:
    return Evidence(page, IMAGE, NOW, "test", "1", origins=origins, hops=(Hop(IMAGE, 200, ()),))


def judged(body: str | bytes, rules: AiAgentsRules = ANY) -> Judgement:
    return judge_ai_agents(evidence(robots_txt("https://b.example", body)), rules, DOCUMENTS, 30, NOW)


@pytest.mark.parametrize(
    "agent",
    [
        *("GPTBot", "CCBot", "ClaudeBot", "Google-Extended", "Applebot-Extended", "img2dataset", "LAIONDownloader"),
        *("meta-externalagent", "Meta-ExternalAgent", "Bytespider", "anthropic-ai", "FacebookBot", "Amazonbot"),
        *("cohere-training-data-crawler", "Diffbot", "omgili", "AI2Bot", "PanguBot", "Timpibot", "Kangaroo Bot"),
        *("ImagesiftBot", "ICC-Crawler", "SBIntuitionsBot", "Webzio-Extended", "VelenPublicWebCrawler"),
        *("gptbot", "GPTBot/1.2 (+https://openai.com/gptbot)", "IMG2DATASET/1.4"),
    ],
)
def test_a_no_to_a_training_crawler_is_a_no_to_us(agent: str) -> None:
    """Each crawler of the training class counts, however its name's case and version are written."""
    said = judged(f"User-agent: {agent}\nDisallow: /\n\nUser-agent: *\nAllow: /\n")
    assert (said.verdict, said.reason.code) == (Verdict.DENY, "ai-agents-disallow")
    assert said.where == "https://b.example/robots.txt:2"
    assert said.reason.detail.startswith("Disallow: / (to ")
    assert (said.signals[0].stance, said.signals[0].document_sha256) == (Stance.DENY, "sha of https://b.example")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "ai-agents-absent"),
        ("User-agent: *\nDisallow: /\n", "ai-agents-absent"),  # said to us too: robots judges it
        ("User-agent: Googlebot\nDisallow: /\n", "ai-agents-absent"),
        ("User-agent: ChatGPT-User\nDisallow: /\n", "ai-agents-absent"),  # a person's own fetch
        ("User-agent: OAI-SearchBot\nUser-agent: PerplexityBot\nDisallow: /\n", "ai-agents-absent"),  # search
        ("User-agent: GPTBotanist\nDisallow: /\n", "ai-agents-absent"),
        ("# User-agent: GPTBot\n# Disallow: /\n", "ai-agents-absent"),
        ("User-agent: GPTBot\nDisallow: /private/\n", "ai-agents-no-objection"),
        ("User-agent: GPTBot\nDisallow:\n", "ai-agents-no-objection"),
        ("User-agent: GPTBot\nDisallow: /\nAllow: /art/\n", "ai-agents-no-objection"),
        ("User-agent: GPTBot\nAllow: /\n", "ai-agents-no-objection"),
    ],
)
def test_what_is_no_objection_leaves_it_unset(body: str, code: str) -> None:
    """Everyone's group, other classes of crawlers and rules for other paths say nothing; a yes to others is none."""
    said = judged(body)
    assert (said.verdict, said.reason.code) == (None, code)


@pytest.mark.parametrize(
    "body",
    [
        "User-agent: Googlebot\nUser-agent: CCBot\nUser-agent: Bingbot\nDisallow: /art\n",
        "User-agent: GPTBot\nCrawl-delay: 3\nContent-Signal: search=yes\nDisallow: /art\n",
        "User-agent: GPTBot\nAllow: /\n\nUser-agent: CCBot\nDisallow: /*.jpg$\n",
        "user-agent gptbot\ndisallow /\n",
        "User-agent: GPTBot\rDisallow: /\r",
        "\ufeffUser-agent: GPTBot\r\nDisallow: /\r\n",
        "User-agent: custody\nAllow: /\n\nUser-agent: GPTBot\nDisallow: /\n",
        "User-agent: GPTBot\nDisallow: /x\n\nUser-agent: GPTBot\nDisallow: /art\n",
    ],
)
def test_a_named_crawler_is_found_wherever_it_stands(body: str) -> None:
    """In shared and repeated groups, below other lines, in any line ending: the rules are read as for ourselves."""
    assert judged(body).verdict is Verdict.DENY
    assert judged(body.encode("utf-16")).verdict is Verdict.DENY


def test_every_crawlers_answer_is_recorded() -> None:
    """Not only the no that won: each group of a training crawler leaves its signal."""
    said = judged("User-agent: GPTBot\nAllow: /\n\nUser-agent: CCBot\nUser-agent: img2dataset\nDisallow: /\n")
    assert [(s.stance, s.value) for s in said.signals] == [
        (Stance.DENY, "Disallow: / (to CCBot, img2dataset)"),
        (Stance.ALLOW, "Allow: / (to GPTBot)"),
    ]


def test_the_knob_makes_it_none_of_our_business() -> None:
    """With honour = "none" nothing is decided by it, and what was said is recorded all the same."""
    said = judged("User-agent: GPTBot\nDisallow: /\n", NONE)
    assert (said.verdict, said.reason.code) == (None, "ai-agents-not-honoured")
    assert [s.stance for s in said.signals] == [Stance.DENY]
    assert judged("", NONE).reason.code == "ai-agents-absent"


@pytest.mark.parametrize(
    ("origin", "verdict", "code"),
    [
        (robots_txt("https://b.example", None, 404), None, "ai-agents-absent"),
        (robots_txt("https://b.example", "<!doctype html><p>Not here"), None, "ai-agents-absent"),
        (robots_txt("https://b.example", None, 403), Verdict.DENY, "robots-forbidden"),
        (robots_txt("https://b.example", None, 503), Verdict.DEFER, "robots-unreachable"),
        (robots_txt("https://b.example", "", truncated=True), Verdict.DEFER, "robots-too-large"),
        (robots_txt("https://b.example", b"User-\xffagent: GPTBot\nDisallow: /"), Verdict.DEFER, "robots-bad-encoding"),
        (robots_txt("https://b.example", b"x\xff\nUser-agent: CCBot\nDisallow: /"), Verdict.DENY, "ai-agents-disallow"),
        (OriginEvidence("https://b.example"), Verdict.DEFER, "not-observed"),
        (robots_txt("https://b.example", "", fetched_at=NOW - timedelta(days=31)), Verdict.DEFER, "evidence-stale"),
        (
            robots_txt("https://b.example", "User-agent: CCBot\nDisallow: /", fetched_at=NOW - timedelta(days=99)),
            Verdict.DENY,
            "ai-agents-disallow",
        ),
    ],
)
def test_every_answer_of_the_origin_has_its_meaning(origin: OriginEvidence, verdict: Verdict | None, code: str) -> None:
    """Absence, refusal, silence, damage and age mean what they mean for robots.txt; a no is heard through damage."""
    said = judge_ai_agents(evidence(origin), ANY, DOCUMENTS, 30, NOW)
    assert (said.mechanism, said.verdict, said.reason.code) == ("ai_agents", verdict, code)


def test_the_pages_origin_is_asked_too() -> None:
    """A reservation of the page's site counts for the images that it shows from elsewhere."""
    page = "https://a.example/art/"
    both = robots_txt("https://a.example", "User-agent: CCBot\nDisallow: /art\n"), robots_txt("https://b.example", "")
    said = judge_ai_agents(evidence(*both, page=page), ANY, DOCUMENTS, 30, NOW)
    assert (said.verdict, said.where) == (Verdict.DENY, "https://a.example/robots.txt:2")
    alone = replace(evidence(both[1]), page_url=page)
    assert judge_ai_agents(alone, ANY, DOCUMENTS, 30, NOW).reason.code == "not-observed"


def test_the_list_is_data_with_its_date() -> None:
    """Each agent has an operator and a class, no token stands twice, and the list says from when it is."""
    tokens = [agent.token.lower() for agent in AGENTS]
    assert len(set(tokens)) == len(tokens)
    assert all(agent.operator for agent in AGENTS)
    assert {agent.purpose for agent in AGENTS} == {"training", "search", "user-fetch"}
    assert datetime.fromisoformat(AGENTS_DATE)
    assert len(TRAINING) > 40


_LINE = st.one_of(
    st.sampled_from(
        ["User-agent: GPTBot", "User-agent: CCBot", "User-agent: *", "User-agent: img2dataset/2", "Foo: x"]
    ),
    st.sampled_from(["Disallow: /", "Disallow: /art", "Allow: /art/x", "Allow: /", "Disallow: /y", ""]),
)


@given(st.lists(_LINE, max_size=12))
def test_it_denies_iff_robots_would_deny_a_named_crawler(lines: list[str]) -> None:
    """The groups that agents share are judged as if each agent were asked by itself."""
    body = "\n".join(lines)
    file = parse(body.encode())
    named = [token for token in TRAINING if token.lower() in file.agents]
    expected = any(not file.judge(token, "/art/x.jpg").allowed for token in named)
    assert (judged(body).verdict is Verdict.DENY) is expected
