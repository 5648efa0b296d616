"""The policy alone: robots decisions on a cached file, pairs judged with their documents at hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from policy.evidence import Document, Evidence, LicenceClaim, OriginEvidence
from policy.ruleset import Ruleset
from policy.signals import robots

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
        (f"pairs judged by {len(rules.mechanisms)} rules", _rate(lambda i: rules.decide(evidence[i], now))),
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
