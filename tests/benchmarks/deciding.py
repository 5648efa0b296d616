"""Deciding at size: a million pairs judged from stored evidence, and judged again after the ruleset was edited."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.home import Home
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches
from policy.evidence import C2pa, Document, Embedded, Evidence, Face, Hop, LicenceClaim, OriginEvidence

PAIRS = int(os.environ.get("PAIRS", "1000000"))
ORIGINS, PAGE = 2_000, 25  # origins, and pictures a page
BATCH = 20_000
ROBOTS = b"User-agent: *\nDisallow: /private/\nAllow: /\n\nUser-agent: GPTBot\nDisallow: /members/\n"
LICENCES = ("by/4.0", "by-sa/4.0", "by-nc/4.0", "zero/1.0")


def run() -> list[tuple[str, str]]:
    """Wall seconds of `custody decide` over PAIRS pairs, with every rule of the packaged ruleset."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home.create(Path(directory) / "home")
        _fill(home)
        rules = len(home.ruleset.mechanisms)
        title = f"{PAIRS:,} pairs x {rules} rules"
        rows = [(f"first decide, {title}: every decision is new", _timed(lambda: decide(home)))]
        for what, old, new in (
            ("again, nothing edited", "", ""),
            ("again, size.min_side raised: few change", "min_side = 64", "min_side = 300"),
            (
                "again, purpose = research: a quarter of the licences change",
                'purpose = "commercial"',
                'purpose = "research"',
            ),
            ("again, product_tokens: all origin rules are other rules", '["custody"]', '["custody", "gptbot"]'),
        ):
            text = home.policy_path.read_text()
            assert old in text
            home.policy_path.write_text(text.replace(old, new, 1))
            edited = Home.open(home.path)
            rows.append((f"{what}; {title}", _timed(lambda edited=edited: decide(edited))))
        return rows


def _fill(home: Home) -> None:
    """Occurrences are left out: deciding reads evidence alone."""
    now = datetime.now(UTC)
    origins = [_origin(number, now) for number in range(ORIGINS)]
    with home.ledger() as ledger:
        body = {"body_sha256": Document.digest(ROBOTS), "body": ROBOTS, "size_bytes": len(ROBOTS)}
        fetch = {"url": "https://bench.example/robots.txt", "kind": "origin-robots", "body_sha256": body["body_sha256"]}
        ledger.append_many([("document", [body], "bench"), ("fetch", [fetch], "bench")])
        for start in range(0, PAIRS, BATCH):
            pairs = _pairs(range(start, min(start + BATCH, PAIRS)), origins, now)
            ledger.append_many(evidence_batches(ledger, pairs, "bench", f"bench/{start}"))


def _origin(number: int, now: datetime) -> OriginEvidence:
    name = f"https://site{number}.example"
    there = Document(f"{name}/robots.txt", 200, now, body=ROBOTS, body_sha256=Document.digest(ROBOTS))
    paths = {"tdmrep": "/.well-known/tdmrep.json", "ai_txt": "/ai.txt", "trust_txt": "/.well-known/trust.txt"}
    absent = tuple((what, Document(name + path, 404, now)) for what, path in paths.items())
    return OriginEvidence(name, (("robots", there), *absent))


def _pairs(numbers: range, origins: list[OriginEvidence], now: datetime) -> Iterator[tuple[str, Evidence]]:
    for n in numbers:
        page, image = origins[n // PAGE % ORIGINS], origins[(n // PAGE + 1) % ORIGINS]
        folder = "private" if n % 40 == 0 else "pictures"
        url = f"{image.origin}/{folder}/{n}.jpg"
        headers = (("Content-Type", "image/jpeg"), ("ETag", f'"{n:x}"'), ("Content-Length", str(40_000 + n % 9_999)))
        headers += (("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT"), ("Server", "bench"))
        yield (
            f"{n * 2654435761 % (1 << 32):08x}{n:024x}",
            Evidence(
                page_url=f"{page.origin}/page/{n // PAGE}.html",
                image_url=url,
                observed_at=now,
                observer="bench",
                observer_version="1",
                origins=(page, image),
                page_headers=(("Content-Type", "text/html"), ("Server", "bench"), ("X-Page", str(n // PAGE))),
                page_meta=(),
                page_rsl=(),
                hops=(Hop(url, 200, headers),),
                embedded=Embedded("image/jpeg"),
                c2pa=C2pa("absent"),
                licence_claims=(
                    LicenceClaim(f"https://creativecommons.org/licenses/{LICENCES[n % 4]}/", "rel-license", "figure"),
                ),
                content_sha256=f"{n:064x}",
                width=256 + n % 512,
                height=256 + n % 300,
                faces=(Face(1.0, 1.0, 9.0, 9.0, 0.9),) if n % 50 == 0 else (),
                face_detector="bench",
                alt=f"a photograph of apple number {n}",
                text_origin="alt",
                tombstoned="",
            ),
        )


def _timed(work: Callable[[], Any]) -> str:
    began = time.perf_counter()
    done = work()
    return f"{time.perf_counter() - began:.1f} s, {done.changed:,} pairs changed"
