"""A home whose ledger holds allowed samples, written as a crawl would have, without a crawl."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from curation.pair import sample_key
from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.evidence import evidence_batches
from policy.evidence import (
    C2pa,
    Document,
    DuplicateOf,
    Embedded,
    Evidence,
    Hop,
    LicenceClaim,
    OriginEvidence,
    Score,
)

SCORES = tuple(
    Score(name, value, "test")
    for name, value in (("entropy", 6.0), ("sharpness", 1.5), ("flatness", 0.5), ("screenshot", 0.1), ("nsfw", 0.01))
)
ORIGINS, PAGE = 50, 25  # origins, and pictures a page
BATCH = 5_000


def text_of(n: int) -> str:
    """A text that no other picture has."""
    return f"a photograph of apple number {n} on a table"


def sealable_home(
    path: Path,
    count: int,
    jpeg: Callable[[int], bytes],
    *,
    alt: Callable[[int], str | None] = text_of,
    settings_text: str | None = None,
    policy_text: str | None = None,
    looked_at: bool = True,
) -> Home:
    """A new home with `count` allowed samples, each a picture of its own at an address, with the text `alt` gives it.

    Where that is None the picture has no text, and waits for a caption. `looked_at`: whether their evidence holds what
    `look` would say of them.
    """
    home = new_home(path, settings_text=settings_text, policy_text=policy_text)
    store, now = PixelStore(home.pixels_path), datetime.now(UTC)
    origins = [_origin(number, now) for number in range(ORIGINS)]
    for start in range(0, count, BATCH):
        rows: dict[str, list[dict[str, object]]] = {"occurrence": [], "content": [], "caption": []}
        evidence = []
        for n in range(start, min(start + BATCH, count)):
            body = jpeg(n)
            sha = hashlib.sha256(n.to_bytes(8, "big")).hexdigest()
            store.put(sha, body)
            pair, observed = f"{n * 2654435761 % (1 << 32):08x}{n:024x}", _evidence(n, sha, origins, now, alt(n))
            evidence.append((pair, observed if looked_at else replace(observed, scores=(), duplicate=None)))
            at = {"unit_id": "sealable"}
            where = {"page_url": observed.page_url, "image_url": observed.image_url, "url_key": f"{n:032x}"}
            rows["occurrence"].append(where | at | {"pair_key": pair, "alt": observed.alt, "text_origin": "alt"})
            measured = {"width": 256, "height": 256, "size_bytes": 40_000, "media_type": "image/jpeg", "face_count": 0}
            rows["content"].append(measured | at | {"content_sha256": sha, "url_key": f"{n:032x}"})
            if observed.alt is None:
                continue
            key = sample_key(sha, observed.alt, "alt")
            text = {"caption": observed.alt, "caption_origin": "alt", "state": "kept"}
            rows["caption"].append(text | {"sample_key": key, "pair_key": pair, "content_sha256": sha})
        store.settle()
        with home.ledger() as ledger:
            ledger.append_many([(table, rows[table], f"sealable/{start}") for table in rows])
            ledger.append_many(evidence_batches(ledger, evidence, "sealable", f"sealable/{start}"))
    return home


def new_home(path: Path, *, settings_text: str | None = None, policy_text: str | None = None) -> Home:
    """What `Home.create` makes, sooner: the files of one that was made once. All of a process have the same keys."""
    home = Home(path)
    for name, (body, mode) in _made_once().items():
        (path / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700 if name.startswith("keys/") else 0o777)
        (path / name).write_bytes(body)
        (path / name).chmod(mode)
    for file, text in ((home.settings_path, settings_text), (home.policy_path, policy_text)):
        if text is not None:
            file.write_text(text, "utf-8")
    return home


@cache
def _made_once() -> Mapping[str, tuple[bytes, int]]:
    """Of a new home each file's name, bytes and mode."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home.create(Path(directory) / "home")
        files = [path for path in home.path.rglob("*") if path.is_file()]
        return {str(p.relative_to(home.path)): (p.read_bytes(), p.stat().st_mode & 0o777) for p in files}


def _origin(number: int, now: datetime) -> OriginEvidence:
    name = f"https://site{number}.example"
    paths = {"robots": "/robots.txt", "tdmrep": "/.well-known/tdmrep.json", "ai_txt": "/ai.txt",
             "trust_txt": "/.well-known/trust.txt"}  # fmt: skip
    return OriginEvidence(name, tuple((what, Document(name + path, 404, now)) for what, path in paths.items()))


def _evidence(n: int, sha: str, origins: list[OriginEvidence], now: datetime, alt: str | None) -> Evidence:
    page, image = origins[n // PAGE % ORIGINS], origins[(n // PAGE + 1) % ORIGINS]
    url = f"{image.origin}/pictures/{n}.jpg"
    return Evidence(
        page_url=f"{page.origin}/page/{n // PAGE}.html",
        image_url=url,
        observed_at=now,
        observer="test",
        observer_version="1",
        origins=(page, image),
        page_headers=(("Content-Type", "text/html"),),
        page_meta=(),
        page_rsl=(),
        hops=(Hop(url, 200, (("Content-Type", "image/jpeg"), ("ETag", f'"{n:x}"'))),),
        embedded=Embedded("image/jpeg"),
        c2pa=C2pa("absent"),
        licence_claims=(
            LicenceClaim(
                f"https://creativecommons.org/{('publicdomain/zero/1.0', 'licenses/by/4.0')[n % 2]}/",
                "rel-license",
                "figure",
                creator=f"Painter {n % 40}",
                title=f"Apple no. {n}",
            ),
        ),
        content_sha256=sha,
        content_md5=f"{n:032x}",
        width=256,
        height=256,
        faces=(),
        face_detector="test",
        alt=alt,
        text_origin="alt" if alt is not None else None,
        tombstoned="",
        scores=SCORES,
        duplicate=DuplicateOf(sha, "none", 0.0),
    )
