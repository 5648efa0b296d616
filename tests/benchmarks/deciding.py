"""Deciding at size: a million pairs judged from stored evidence, and judged again after the ruleset was edited."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.home import Home
from flows.stages.decide import decide
from policy.evidence import C2pa, Document, Embedded, Evidence, Hop, LicenceClaim, OriginEvidence, canonical_json

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
    """Occurrences are left out: deciding reads evidence alone. Each row is written as one real one was, by its text."""
    now = datetime.now(UTC)
    origins = [_origin(number, now) for number in range(ORIGINS)]
    parts = [_origin_part(origin, now) for origin in origins]
    names = [name for name, _, _ in parts]
    with home.ledger() as ledger:
        body = {"body_sha256": Document.digest(ROBOTS), "body": ROBOTS, "size_bytes": len(ROBOTS)}
        fetch = {"url": "https://bench.example/robots.txt", "kind": "origin-robots", "body_sha256": body["body_sha256"]}
        shared = [{"part_id": name, "kind": kind, "body_json": text} for name, kind, text in parts]
        ledger.append_many([("document", [body], "bench"), ("fetch", [fetch], "bench"), ("evidence_part", shared, "o")])
        for start in range(0, PAIRS, BATCH):
            numbers = range(start, min(start + BATCH, PAIRS))
            rows, pages = _rows(numbers, names, now)
            ledger.append_many([("evidence_part", pages, f"p{start}"), ("evidence", rows, f"e{start}")])


def _origin_part(origin: OriginEvidence, now: datetime) -> tuple[str, str, str]:
    parts = _evidence((origin,), now).parts()
    return next((name, kind, text) for name, (kind, text) in parts.items() if kind == "origin")


def _rows(numbers: range, names: list[str], now: datetime) -> tuple[pa.Table, pa.Table]:
    """Evidence rows, and the parts of their pages: each as one real evidence is written, with its own numbers."""
    plain: dict[str, Any] = json.loads(_evidence((_origin(0, now), _origin(1, now)), now).to_json())
    bodies, pages = [], {}
    for n in numbers:
        page, image = n // PAGE % ORIGINS, (n // PAGE + 1) % ORIGINS
        part = f"{n // PAGE:032x}"
        headers = [["Content-Type", "text/html"], ["Server", "bench"], ["X-Page", str(n // PAGE)]]
        pages[part] = canonical_json({"page_headers": headers, "page_meta": [], "page_rsl": []})
        url = f"https://site{image}.example/{'private' if n % 40 == 0 else 'pictures'}/{n}.jpg"
        answer = [["Content-Type", "image/jpeg"], ["ETag", f'"{n:x}"'], ["Content-Length", str(40_000 + n % 9_999)]]
        answer += [["Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT"], ["Server", "bench"]]
        licence = f"https://creativecommons.org/licenses/{LICENCES[n % 4]}/"
        own = {
            "page_url": f"https://site{page}.example/page/{n // PAGE}.html",
            "image_url": url,
            "page": part,
            "origins": [names[page], names[image]],
            "hops": [{"url": url, "status": 200, "headers": answer}],
            "licence_claims": [plain["licence_claims"][0] | {"value": licence}],
            "content_sha256": f"{n:064x}",
            "width": 256 + n % 512,
            "height": 256 + n % 300,
            "faces": [{"h": 9.0, "score": 0.9, "w": 9.0, "x": 1.0, "y": 1.0}] if n % 50 == 0 else [],
            "alt": f"a photograph of apple number {n}",
        }
        bodies.append(canonical_json(plain | own))
    keys = [f"{n * 2654435761 % (1 << 32):08x}{n:024x}" for n in numbers]
    contents = [f"{n:064x}" for n in numbers]
    rows = {"pair_key": keys, "evidence_id": keys, "body_json": bodies, "content_sha256": contents}
    same = {"observer": "bench", "unit_id": "bench", "observed_at": now.replace(tzinfo=None)}
    kept = {"part_id": list(pages), "kind": ["page"] * len(pages), "body_json": list(pages.values())}
    return pa.table(rows | {name: [value] * len(keys) for name, value in same.items()}), pa.table(kept)


def _origin(number: int, now: datetime) -> OriginEvidence:
    name = f"https://site{number}.example"
    there = Document(f"{name}/robots.txt", 200, now, body=ROBOTS, body_sha256=Document.digest(ROBOTS))
    paths = {"tdmrep": "/.well-known/tdmrep.json", "ai_txt": "/ai.txt", "trust_txt": "/.well-known/trust.txt"}
    absent = tuple((what, Document(name + path, 404, now)) for what, path in paths.items())
    return OriginEvidence(name, (("robots", there), *absent))


def _evidence(origins: tuple[OriginEvidence, ...], now: datetime) -> Evidence:
    """One pair's evidence, in which everything is observed and nothing objects."""
    url = f"{origins[-1].origin}/pictures/0.jpg"
    return Evidence(
        page_url=f"{origins[0].origin}/page/0.html",
        image_url=url,
        observed_at=now,
        observer="bench",
        observer_version="1",
        origins=origins,
        page_headers=(("Content-Type", "text/html"),),
        page_meta=(),
        page_rsl=(),
        hops=(Hop(url, 200, (("Content-Type", "image/jpeg"),)),),
        embedded=Embedded("image/jpeg"),
        c2pa=C2pa("absent"),
        licence_claims=(LicenceClaim("CC0-1.0", "rel-license", "figure"),),
        content_sha256="0" * 64,
        width=256,
        height=256,
        faces=(),
        face_detector="bench",
        alt="a photograph of an apple",
        text_origin="alt",
        tombstoned="",
    )


def _timed(work: Callable[[], Any]) -> str:
    began = time.perf_counter()
    done = work()
    return f"{time.perf_counter() - began:.1f} s, {done.changed:,} pairs changed"
