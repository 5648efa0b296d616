"""The policy alone: robots decisions on a cached file, hostile files, pairs judged with their documents at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from policy.evidence import Document, Evidence, Hop, LicenceClaim, OriginEvidence
from policy.ruleset import Ruleset, judge
from policy.signals import robots
from policy.signals.ai_agents import TRAINING

SECONDS = 3.0


def run() -> list[tuple[str, str]]:
    """Decisions per second of CPU, one core."""
    rules, now = Ruleset.default(), datetime.now(UTC)
    body = b"User-agent: *\nDisallow: /private/\n" + b"".join(b"Disallow: /x%d/*.png$\n" % n for n in range(50))
    document = Document("https://a.example/robots.txt", 200, now, body=body, body_sha256=Document.digest(body))
    evidence = [_pair(document, n, now) for n in range(1000)]
    urls = [f"https://a.example/gallery/{n}.png" for n in range(1000)]
    return [
        (
            "robots decisions on a cached file of 51 rules",
            _rate(lambda i: robots.may_fetch(document, urls[i], "custody", now, rules.robots)),
        ),
        *_of_lines_for_ai(rules, now),
        (f"pairs judged by {len(rules.mechanisms)} rules", _rate(lambda i: rules.decide(evidence[i], now))),
        *((f"robots.txt, {name}: read and first decision", _slowest(body)) for name, body in HOSTILE.items()),
    ]


# What a site with a grudge could send. Each is read anew and asked for a short and a long path.
HOSTILE: Mapping[str, bytes] = {
    "*a x 3,000": b"User-agent: *\nDisallow: /" + b"*a" * 3_000 + b"b\n",
    "a line of 1 MB": b"User-agent: *\nDisallow: /" + b"a" * 1_000_000,
    "100,000 groups of others": b"".join(b"User-agent: bot%d\nDisallow: /\n" % i for i in range(100_000)) + b"\n",
    "100,000 agents in one group": b"".join(b"User-agent: bot%d\n" % i for i in range(100_000)) + b"Disallow: /\n",
    "100,000 groups for everyone": b"".join(b"User-agent: *\nDisallow: /b%d\n" % i for i in range(100_000)),
    "100,000 equal groups": b"User-agent: *\nDisallow: /\n" * 100_000,
    "100,000 groups of ours": b"".join(b"User-agent: custody\nDisallow: /b%d\n" % i for i in range(100_000)),
    "every second of 100,000 groups ours": b"".join(
        b"User-agent: b%d\nDisallow: /\nUser-agent: custody\nDisallow: /b\n" % i for i in range(50_000)
    ),
    "280,000 rules, 5 MiB": (b"User-agent: *\n" + b"".join(b"Disallow: /b%d\n" % i for i in range(280_000)))[
        :5_242_880
    ],
    "270,000 wildcards, 5 MiB": (b"User-agent: *\n" + b"".join(b"Disallow: /*b%d\n" % i for i in range(270_000)))[
        :5_242_880
    ],
    "270,000 wildcards that each have to be tried, 5 MiB": (
        b"User-agent: *\n" + b"".join(b"Disallow: /*%d.p*x\n" % i for i in range(270_000))
    )[:5_242_880],
    "2,600,000 lines of junk, 5 MiB": b"x\n" * 2_600_000,
    "5 MiB of no text": bytes(range(256)) * 20_000,
}


def _slowest(body: bytes) -> str:
    return f"{max(_milliseconds(body, path) for path in ('/0123456789.pix', '/' + 'a' * 8_000)):.0f} ms"


def _milliseconds(body: bytes, path: str) -> float:
    """The best of five."""
    times = []
    for _ in range(5):
        began = time.process_time()
        robots.parse(body).judge("custody", path)
        times.append(time.process_time() - began)
    return min(times) * 1_000


def _of_lines_for_ai(rules: Ruleset, now: datetime) -> list[tuple[str, str]]:
    """The mechanisms beside robots.txt, on a file as sites have it: thirty crawlers refused, a Content-Signal."""
    agents = b"".join(b"User-agent: %s\n" % name.encode() for name in TRAINING[:30])
    body = agents + b"Disallow: /private/\n\nUser-agent: *\nContent-Signal: search=yes, ai-train=yes\nAllow: /\n"
    texts = {
        "robots": body,
        "ai_txt": b"User-Agent: *\nDisallow: *.mp4\nAllow: *.png\n",
        "trust_txt": b"member=https://a.example/\ndatatrainingallowed=yes\n",
    }
    documents = tuple(
        (name, Document(f"https://a.example/{name}", 200, now, body=text, body_sha256=Document.digest(text)))
        for name, text in texts.items()
    )
    urls = [f"https://a.example/gallery/{number}.png" for number in range(1_000)]
    pairs = [
        Evidence(
            None,
            url,
            now,
            "bench",
            "1",
            origins=(OriginEvidence("https://a.example", documents),),
            hops=(Hop(url, 200, ()),),
        )
        for url in urls
    ]

    def asking(name: str) -> Callable[[int], object]:
        return lambda i: judge(rules, name, pairs[i], now)

    return [
        (f"{name} decisions on cached files", _rate(asking(name)))
        for name in ("robots", "ai_agents", "content_signal", "ai_txt", "trust_txt")
    ]


def _pair(document: Document, number: int, now: datetime) -> Evidence:
    return Evidence(
        page_url="https://a.example/gallery/",
        image_url=f"https://a.example/gallery/{number}.png",
        observed_at=now,
        observer="bench",
        observer_version="1",
        origins=(OriginEvidence("https://a.example", (("robots", document),)),),
        page_headers=(("content-type", "text/html"),),
        page_meta=(),
        hops=(),
        licence_claims=(LicenceClaim("https://creativecommons.org/licenses/by/4.0/", "rel-license", "page"),),
        content_sha256=f"{number:064x}",
        width=512,
        height=512,
        faces=(),
        face_detector="none",
        alt=f"apple number {number}",
        text_origin="alt",
        tombstoned="",
    )


def _rate(work: object) -> str:
    assert callable(work)
    done, began = 0, time.process_time()
    while time.process_time() - began < SECONDS:
        for i in range(1000):
            work(i)
        done += 1000
    return f"{done / (time.process_time() - began):,.0f}/s"
