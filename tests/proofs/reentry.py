"""Thirty removed pictures come back again and again, as copies under other addresses: none is let in.

    make prove PROOF=reentry                  20 emoji and 10 photographs, crawled again three times
    REENTRY=5,3,1 make prove PROOF=reentry    fewer

The demo museum is crawled, and beside it a site with twenty emoji and ten photographs. These are removed. Then both are
crawled three times more, and each time the site shows every removed picture under new addresses: the same bytes,
encoded anew, smaller, mirrored, turned, cropped somewhere, framed; and, beyond what is asked, cropped by a quarter and
by two fifths. What became of each address is told by how it was recognised: by its bytes, by its hash (both leave
nothing on record), by its embedding (held for a person), or not at all. What the museum shows must stay as it was; of
pictures that are wrongly held there the number is told. What is under .proofs/reentry can be deleted.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import numpy as np
from PIL import Image, ImageOps

from curation.duplicates import MIN_QUALITY
from curation.fingerprints import pdq
from curation.images import decode
from curation.pixel_store import PixelStore
from flows.museum import Museum, pictures
from flows.stages import crawl
from flows.stages.crawl import CrawlSummary
from flows.stages.decide import decide
from flows.stages.removing import applying, approving, requests
from flows.stages.train import code_version
from policy.durable import write_durably
from tests.benchmarks.recognising import photographs
from tests.builders import ROOT, ask
from tests.flows.comebacks import Change, Comeback, Rgb, cropped, jpeg, open_home, page, png, text_of
from tests.flows.site import Answer, Site

FOLDER = ROOT / ".proofs" / "reentry"
RESULTS = ROOT / "docs" / "proofs.md"
TITLE = "# Proofs\n\nLong proofs (`make prove PROOF=name`) and what they found, newest last.\n"
PORT_BASE = 27531
MUSEUM_PICTURES = 150
EMOJI, PHOTOGRAPHS, CRAWLS = (int(n) for n in os.environ.get("REENTRY", "20,10,3").split(","))
BEYOND = ("crop of 25 %", "crop of 40 %")
HOW = {"nothing on record": "by bytes or hash", "defer near-tombstoned": "held by embedding"}


def main() -> int:
    """0 when nothing came back that must not, and nothing is left of what was recognised."""
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with Museum(PORT_BASE, limit=MUSEUM_PICTURES) as museum, Site({}) as site:
        removed = _removed(frozenset(museum.truth.values()))
        back = Comeback(open_home(FOLDER / "home", *museum.addresses, site.address), site, removed)
        for name, rgb in removed.items():
            site.answers[f"/{name}.png"] = Answer(png(rgb), "image/png")
        site.answers["/robots.txt"] = Answer(b"", "text/plain")
        _crawl(back, museum, {f"/{name}.png": text_of(name) for name in removed})
        stood = _trainable(back)
        asked = [requests.add(back.home, "sha256", back.sha(name)).id for name in removed]
        for removal in asked:
            approving.approve(back.home, removal, by="A. Reviewer")
        applying.apply(back.home, *asked, scan=False, receipts=False)
        # The museum shows some of the photographs itself: copies, which go as well.
        stays = {u for u in stood - {site.url(f"/{name}.png") for name in removed} if "/photo/" not in u}
        told: dict[str, Counter[str]] = {}
        left, summaries = 0, []
        for number in range(CRAWLS):
            shown = _shown(back, number)
            summaries.append(_crawl(back, museum, {path: text_of(name) for path, (name, _) in shown.items()}))
            for path, (_, copy) in shown.items():
                fate = back.fate(path)
                told.setdefault(copy, Counter())[HOW.get(fate, "let in")] += 1
            kept = set(PixelStore(back.home.pixels_path).keys())
            let_in = {path for path in shown if back.fate(path) not in HOW}
            bodies = {path: hashlib.sha256(site.answers[path].body).hexdigest() for path in shown}
            left += sum(sha in kept for path, sha in bodies.items() if path not in let_in)
        wrong = len(stays - _trainable(back))
    came_back = sum(counts["let in"] for copy, counts in told.items() if copy not in BEYOND)
    _publish(told, came_back, left, wrong, len(stays), summaries, time.monotonic() - started)
    return 1 if came_back or left else 0


def _removed(elsewhere: frozenset[str]) -> dict[str, Rgb]:
    """What is removed, by name: emoji that the museum does not show, and photographs."""
    drawn = random.Random(11)
    others = drawn.sample([one for one in pictures() if one.name not in elsewhere], 2 * EMOJI + 10)
    drawings = {f"emoji-{one.code}": decode(one.file.read_bytes()) for one in others}
    # What has hardly any structure is left out: a crop of a green square is any green picture.
    seen = [(name, rgb) for name, rgb in drawings.items() if pdq(rgb)[1] >= MIN_QUALITY]
    emoji = dict(seen[:EMOJI])
    photos = {name.replace("_", "-"): rgb for name, rgb in list(photographs())[:PHOTOGRAPHS]}
    return {**emoji, **photos}


def _crawl(back: Comeback, museum: Museum, shown: Mapping[str, str]) -> CrawlSummary:
    back.site.answers["/"] = page(shown)
    summary = crawl.crawl(back.home, [*museum.seeds, back.site.url("/")])
    decide(back.home)
    return summary


def _trainable(back: Comeback) -> set[str]:
    return {url for (url,) in ask(back.home, "SELECT DISTINCT image_url FROM trainable")}


def _shown(back: Comeback, number: int) -> dict[str, tuple[str, str]]:
    """Lay out the copies of one crawl: address -> (removed picture, copy)."""
    rng, shown = random.Random(number), {}
    for name, rgb in back.pictures.items():
        for place, (copy, body) in enumerate(_copies(rgb, rng)):
            path = f"/{number}/{place}/{name}"
            back.site.answers[path] = Answer(body, "image/png" if body.startswith(b"\x89PNG") else "image/jpeg")
            shown[path] = name, copy
    return shown


def _copies(rgb: Rgb, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    changes: Mapping[str, Change] = {
        "half the size": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
        "mirrored": ImageOps.mirror,
        "turned by a quarter": lambda p: p.transpose(
            rng.choice((Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270))
        ),
        "turned upside down": lambda p: p.transpose(Image.Transpose.ROTATE_180),
        "crop of 10 %": cropped(0.1, rng.random(), rng.random()),
        "frame": lambda p: ImageOps.expand(p, max(2, round(p.width * rng.uniform(0.03, 0.1))), _colour(rng)),
        "crop of 25 %": cropped(0.25, rng.random(), rng.random()),
        "crop of 40 %": cropped(0.4, rng.random(), rng.random()),
    }
    yield "the same bytes", png(rgb)
    yield "JPEG q40", jpeg(rgb, 40 + rng.randint(0, 1))
    for copy, change in changes.items():
        yield copy, png(np.asarray(change(picture)))


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.choice(((0, 0, 0), (255, 255, 255), (30, 30, 30), (128, 128, 128), (180, 40, 40)))


def _publish(
    told: Mapping[str, Counter[str]],
    came_back: int,
    left: int,
    wrong: int,
    stays: int,
    summaries: list[CrawlSummary],
    seconds: float,
) -> None:
    """Append the result, dated, to docs/proofs.md."""
    total = sum(counts.total() for copy, counts in told.items() if copy not in BEYOND)
    found = f"{came_back} of {total} came back" if came_back else f"none of {total} came back"
    hashed = sum(n for s in summaries for (kind, what), n in s.outcomes if kind == "picture" and "tombstoned" in what)
    lines = [
        f"\n## {datetime.now(UTC):%Y-%m-%d} reentry",
        f"{EMOJI} emoji and {PHOTOGRAPHS} photographs were removed (none with hardly any structure in it) and "
        f"shown again in {CRAWLS} crawls as copies under new addresses, beside the demo museum: {found}. "
        f"{hashed} left nothing on record, and {left} pictures of what was recognised were kept. Of {stays} others "
        f"that were trainable {wrong} were held wrongly. Crops of a quarter and more are beyond what is asked, and "
        f"told for what they are. This run took {seconds:.0f} s. Code {code_version()}.\n",
        "| copy | by bytes or hash | held by embedding | let in |",
        "|---|---|---|---|",
    ]
    for copy, counts in told.items():
        numbers = " | ".join(str(counts[how]) for how in (*HOW.values(), "let in"))
        lines.append(f"| {copy} | {numbers} |")
    text = RESULTS.read_text("utf-8") if RESULTS.is_file() else TITLE
    write_durably(RESULTS, (text + "\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
