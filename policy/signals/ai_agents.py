"""robots.txt groups of other AI training crawlers: a reservation against training, though not addressed to us.

Only a group that names such a crawler counts: what is said to everyone ("*") is said to us, and judged for robots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple

from policy.evidence import Document, Evidence
from policy.judgements import judgement, worst
from policy.origins import path_of
from policy.signals import robots
from policy.signals.places import judge_robots_files
from policy.signals.robots import RobotsAnswer, RobotsFile, RobotsRules
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "ai_agents"


@dataclass(frozen=True, slots=True)
class AiAgentsRules:
    """`honour`: whether a no to any crawler of the training class counts as a no to us."""

    honour: Literal["any", "none"]


class AiAgent(NamedTuple):
    """A crawler: its product token as robots.txt names it, who runs it, and what it fetches for.

    `purpose`: training (models or data sets to train them on) | search (an index that answers rest on) |
    user-fetch (a page that a person asked for).
    """

    token: str
    operator: str
    purpose: Literal["training", "search", "user-fetch"]


AGENTS_DATE = "2026-11-21"
# By the operators' own statements where they make any; what is sold or handed on as training data counts as training,
# and so does a crawler that only others describe, where they call it a scraper for AI. A token ends at the first
# space: "Kangaroo Bot" is asked as "Kangaroo".
AGENTS: tuple[AiAgent, ...] = (
    AiAgent("AI2Bot", "Allen Institute for AI", "training"),
    AiAgent("Ai2Bot-Dolma", "Allen Institute for AI", "training"),
    AiAgent("aiHitBot", "aiHit", "training"),
    AiAgent("Amazonbot", "Amazon", "training"),
    AiAgent("anthropic-ai", "Anthropic", "training"),
    AiAgent("Applebot-Extended", "Apple", "training"),
    AiAgent("Brightbot", "Bright Data", "training"),
    AiAgent("Bytespider", "ByteDance", "training"),
    AiAgent("CCBot", "Common Crawl", "training"),
    AiAgent("ChatGLM-Spider", "Zhipu AI", "training"),
    AiAgent("Claude-Web", "Anthropic", "training"),
    AiAgent("ClaudeBot", "Anthropic", "training"),
    AiAgent("CloudVertexBot", "Google", "training"),
    AiAgent("cohere-ai", "Cohere", "training"),
    AiAgent("cohere-training-data-crawler", "Cohere", "training"),
    AiAgent("Cotoyogi", "ROIS", "training"),
    AiAgent("Crawlspace", "Crawlspace", "training"),
    AiAgent("Datenbank", "Datenbank", "training"),
    AiAgent("DeepSeekBot", "DeepSeek", "training"),
    AiAgent("Diffbot", "Diffbot", "training"),
    AiAgent("FacebookBot", "Meta", "training"),
    AiAgent("Factset_spyderbot", "FactSet", "training"),
    AiAgent("FirecrawlAgent", "Firecrawl", "training"),
    AiAgent("FriendlyCrawler", "not known", "training"),
    AiAgent("Google-CloudVertexBot", "Google", "training"),
    AiAgent("Google-Extended", "Google", "training"),
    AiAgent("GPTBot", "OpenAI", "training"),
    AiAgent("GrokBot", "xAI", "training"),
    AiAgent("ICC-Crawler", "NICT", "training"),
    AiAgent("imageSpider", "not known", "training"),
    AiAgent("ImagesiftBot", "ImageSift", "training"),
    AiAgent("img2dataset", "whoever runs img2dataset", "training"),
    AiAgent("ISSCyberRiskCrawler", "ISS-Corporate", "training"),
    AiAgent("Kangaroo", "Kangaroo LLM", "training"),
    AiAgent("laion-huggingface-processor", "LAION", "training"),
    AiAgent("LAIONDownloader", "LAION", "training"),
    AiAgent("Linguee", "Linguee", "training"),
    AiAgent("meta-externalagent", "Meta", "training"),
    AiAgent("MyCentralAIScraperBot", "not known", "training"),
    AiAgent("omgili", "Webz.io", "training"),
    AiAgent("omgilibot", "Webz.io", "training"),
    AiAgent("PanguBot", "Huawei", "training"),
    AiAgent("SBIntuitionsBot", "SB Intuitions", "training"),
    AiAgent("Sidetrade", "Sidetrade", "training"),
    AiAgent("Spawning-AI", "Spawning", "training"),
    AiAgent("TikTokSpider", "ByteDance", "training"),
    AiAgent("Timpibot", "Timpi", "training"),
    AiAgent("VelenPublicWebCrawler", "Velen (Hunter)", "training"),
    AiAgent("WARDBot", "WEBSPARK", "training"),
    AiAgent("Webzio-Extended", "Webz.io", "training"),
    AiAgent("xAI-Bot", "xAI", "training"),
    AiAgent("Applebot", "Apple", "search"),
    AiAgent("Amzn-SearchBot", "Amazon", "search"),
    AiAgent("AzureAI-SearchBot", "Microsoft", "search"),
    AiAgent("Bravebot", "Brave", "search"),
    AiAgent("Claude-SearchBot", "Anthropic", "search"),
    AiAgent("ExaBot", "Exa", "search"),
    AiAgent("LinkupBot", "Linkup", "search"),
    AiAgent("meta-webindexer", "Meta", "search"),
    AiAgent("OAI-SearchBot", "OpenAI", "search"),
    AiAgent("PerplexityBot", "Perplexity", "search"),
    AiAgent("PetalBot", "Huawei", "search"),
    AiAgent("YouBot", "You.com", "search"),
    AiAgent("Amzn-User", "Amazon", "user-fetch"),
    AiAgent("ChatGPT-User", "OpenAI", "user-fetch"),
    AiAgent("Claude-User", "Anthropic", "user-fetch"),
    AiAgent("DuckAssistBot", "DuckDuckGo", "user-fetch"),
    AiAgent("Gemini-Deep-Research", "Google", "user-fetch"),
    AiAgent("Google-NotebookLM", "Google", "user-fetch"),
    AiAgent("meta-externalfetcher", "Meta", "user-fetch"),
    AiAgent("MistralAI-User", "Mistral", "user-fetch"),
    AiAgent("Perplexity-User", "Perplexity", "user-fetch"),
)
TRAINING: tuple[str, ...] = tuple(agent.token for agent in AGENTS if agent.purpose == "training")


def judge_ai_agents(
    evidence: Evidence, rules: AiAgentsRules, documents: RobotsRules, max_age_days: int, now: datetime
) -> Judgement:
    """What each asked URL's robots.txt says to the crawlers of the training class that it names."""
    judged = worst(judge_robots_files(MECHANISM, evidence, documents, now, max_age_days, _judge_file, _names_none))
    if rules.honour == "none" and judged.verdict is not None:
        what = f"{judged.reason.code}: {judged.reason.detail}"
        return replace(judgement(MECHANISM, None, "ai-agents-not-honoured", what, judged.where), signals=judged.signals)
    return judged


def _names_none(file: RobotsFile) -> bool:
    return not file.named(TRAINING)


def _judge_file(file: RobotsFile, document: Document, url: str) -> Judgement:
    """The judgement of one path: the same lines have the same, which is remembered with the file."""
    path = path_of(url)
    answers = tuple((agents, group.judge(path)) for agents, group in file.named(TRAINING))
    key = MECHANISM, document.url, document.body_sha256, *(answer.line_no for _, answer in answers)
    if (known := file.judgements.get(key)) is None:
        known = file.remember(key, _judge_answers(file, document, answers))
    return known


def _judge_answers(
    file: RobotsFile, document: Document, answers: tuple[tuple[tuple[str, ...], RobotsAnswer], ...]
) -> Judgement:
    judged = [_judge_answer(document, agents, answer) for agents, answer in answers]
    if file.bad_lines:
        judged.append(replace(robots.damaged(file, document), mechanism=MECHANISM))
    return worst(judged or [judgement(MECHANISM, None, "ai-agents-absent", where=document.url)])


def _judge_answer(document: Document, agents: tuple[str, ...], answer: RobotsAnswer) -> Judgement:
    """What the groups of some crawlers say to them: a yes to others is none to us."""
    where = f"{document.url}:{answer.line_no}" if answer.line_no else document.url
    line = robots.readable(answer.line).strip()
    named = ", ".join(agents)
    detail = f"{line} (to {named})" if line else f"nothing of this path (to {named})"
    stance = Stance.DENY if not answer.allowed else Stance.ALLOW if answer.line_no else Stance.UNSET
    signal = Signal(MECHANISM, where, stance, detail, document.body_sha256)
    if not answer.allowed:
        return judgement(MECHANISM, Verdict.DENY, "ai-agents-disallow", detail, where, (signal,))
    return judgement(MECHANISM, None, "ai-agents-no-objection", detail, where, (signal,))
