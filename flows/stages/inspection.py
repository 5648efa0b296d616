"""One observer alone, on files or a URL that a person names: `custody inspect …`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.home import Home
from policy.errors import CustodyError, InputError


def page(file: Path, base: str) -> dict[str, Any]:
    """What is read out of an HTML file found under `base`.

    Raises:
        InputError: no such file, the base is no URL, or the page takes more memory or time than a crawl would give it.
    """
    from curation.page_pool import PageError, PagePool
    from curation.pair import canonical_url

    with PagePool(1) as pool:
        [(_, result)] = pool.read_all([(file, _bytes(file), canonical_url(base), None)])
    if isinstance(result, PageError):
        raise InputError(result.what, where=str(file))
    read = result.page()
    return {
        "url": read.url,
        "title": read.title,
        "pairs": [asdict(p) for p in read.pairs],
        "links": list(read.links),
        "meta": [list(m) for m in read.meta],
        "licence_claims": [asdict(c) for c in read.licence_claims],
    }


def fetch(home: Home, url: str) -> dict[str, Any]:
    """Fetch one URL as a crawl would, robots.txt and tombstones included."""
    from curation.pair import canonical_url
    from flows.stages.crawling.observer import observer_at

    (fetched,) = observer_at(home).fetch([canonical_url(url)], "image")
    return {
        "url": fetched.url,
        "outcome": fetched.outcome,
        "detail": fetched.detail,
        "status": fetched.status,
        "final_url": fetched.final_url,
        "address": fetched.address,
        "hops": [asdict(h) for h in fetched.hops],
        "bytes": len(fetched.body),
        "sha256": hashlib.sha256(fetched.body).hexdigest() if fetched.outcome == "ok" else None,
        "user_agent_product": home.product,
    }


def faces(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Faces in each picture, one line a file; an unreadable one gives {"path", "error"}."""
    from curation.face_detection import default_detector

    detector = default_detector()
    for file in files:
        try:
            rgb = _decode(file)
        except CustodyError as error:
            yield {"path": str(file), "error": error.what}
            continue
        height, width = rgb.shape[:2]
        found = [{"box": [f.x, f.y, f.w, f.h], "score": f.score} for f in detector.detect(rgb)]
        yield {"path": str(file), "width": width, "height": height, "faces": found, "detector": detector.id}


def captions(home: Home, files: Sequence[Path], top: int) -> Iterator[dict[str, Any]]:
    """The captioner's best candidates for each picture, and whether the first is sure enough to be kept."""
    from flows.stages.caption import build_captioner, load_captioner_model

    clip, run, threshold = load_captioner_model(home)
    captioner, _ = build_captioner(home, clip, threshold)
    for file in files:
        try:
            rgb = _decode(file)
        except CustodyError as error:
            yield {"path": str(file), "error": error.what}
            continue
        (ranked,) = captioner.rank([rgb], top)
        (result,) = captioner.caption_images([rgb])
        yield {
            "path": str(file),
            "kept": result.kept,
            "threshold": captioner.threshold,
            "model": clip.name,
            "model_digest": clip.digest,
            "run": run,
            "candidates": [{"text": t.text, "score": score, "sources": list(t.sources)} for t, score in ranked],
        }


def _decode(file: Path) -> Any:
    from curation.images import decode

    return decode(_bytes(file))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(file)) from error
